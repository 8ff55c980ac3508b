//! A device with a bad network: requests and replies get lost, come twice, or come late.

use crate::world;
use fastrand::Rng;
use postgres::Client;
use sync_shared::envelope::{decode, encode};
use sync_shared::message::{Notice, NoticeKind, PullRequest};
use sync_tests::device::{server_pull, server_push};
use sync_tests::Device;

/// One device of the simulation.
pub struct Peer {
    /// Its file.
    pub device: Device,
    /// Pages are this small, so that a few rows make many.
    page_bytes: u32,
    /// Pushes that were sent: they may be sent again at any time.
    sent: Vec<Vec<u8>>,
    /// Replies that were received: they may come again at any time.
    replies: Vec<Vec<u8>>,
}

impl Peer {
    /// A new device for a user.
    pub fn new(user: &str, rng: &mut Rng) -> Peer {
        let page_bytes = [200, 1_000, 5_000, 1 << 20][rng.usize(..4)];
        Peer { device: Device::new(user), page_bytes, sent: Vec::new(), replies: Vec::new() }
    }

    /// One push, of which the request, or the reply, may be lost.
    pub fn push_once(&mut self, server: &mut Client, rng: &mut Rng, lossy: bool) -> bool {
        let Some(batches) = self.device.pending_ops() else { return false };
        self.sent.push(batches.clone());
        if lossy && rng.u8(..4) == 0 {
            return true;
        }
        let Some(reply) = answered(server_push(server, &self.device.user, &batches)) else { return false };
        self.replies.push(reply.clone());
        if !(lossy && rng.u8(..4) == 0) {
            self.device.apply(&reply).expect("a push reply is applied");
        }
        true
    }

    /// One page, which may be lost. Returns whether there is more.
    pub fn pull_once(&mut self, server: &mut Client, rng: &mut Rng, lossy: bool) -> bool {
        let mut request: PullRequest = decode(&self.device.pull_request()).expect("a request can be read");
        request.page_bytes = self.page_bytes;
        let request = encode(&request).expect("a request can be written");
        let Some(reply) = answered(server_pull(server, &self.device.user, &request)) else { return false };
        if lossy && rng.u8(..6) == 0 {
            return true;
        }
        if lossy && rng.u8(..8) == 0 {
            self.apply_interrupted(&reply, rng);
        }
        if let Ok(notice) = decode::<Notice>(&reply) {
            assert!(
                notice.kind != NoticeKind::Resync,
                "the server says that history has changed, or that the cursor is too old: {}",
                notice.message
            );
        }
        let more = self.device.apply(&reply).expect("a delta is applied").more();
        world::check_snapshot(&self.device);
        world::check_sums(&self.device);
        more
    }

    /// An apply that is stopped in its middle, and a restart.
    fn apply_interrupted(&mut self, reply: &[u8], rng: &mut Rng) {
        let (mut calls, stop) = (0, rng.u32(1..60));
        let handler = move || {
            calls += 1;
            calls > stop
        };
        self.device.connection().progress_handler(50, Some(handler)).expect("a handler");
        let _stopped_or_done = self.device.apply(reply);
        self.device.connection().progress_handler(0, None::<fn() -> bool>).expect("no handler");
        self.device.restart();
        world::check_snapshot(&self.device);
    }

    /// Sends an old push again; its reply may be applied or lost.
    pub fn repeat_push(&mut self, server: &mut Client, rng: &mut Rng) {
        let Some(batches) = rng.choice(&self.sent) else { return };
        if let Some(reply) = answered(server_push(server, &self.device.user, batches)) {
            if rng.bool() {
                self.device.apply(&reply).expect("a repeated push reply is applied");
            }
        }
    }

    /// Receives an old push reply again.
    pub fn repeat_reply(&mut self, rng: &mut Rng) {
        if let Some(reply) = rng.choice(&self.replies) {
            self.device.apply(reply).expect("a repeated push reply is applied");
        }
    }

    /// Whether local writes were not sent yet.
    pub fn waits(&self) -> bool {
        self.device.value("SELECT count(*) FROM sync_pending WHERE state = 'waiting'") != "0"
    }

    /// The whole loop; with a bad network it may end early.
    pub fn sync(&mut self, server: &mut Client, rng: &mut Rng, lossy: bool) {
        for _ in 0..200 {
            if !self.push_once(server, rng, lossy) || lossy && rng.u8(..5) == 0 {
                break;
            }
        }
        for page in 0.. {
            if !self.pull_once(server, rng, lossy) || lossy && rng.u8(..8) == 0 {
                return;
            }
            assert!(page < 5_000, "the pull does not end");
        }
    }
}

/// The answer, unless the server was held up by a lock: that is as if the network had failed.
fn answered(result: Result<Vec<u8>, String>) -> Option<Vec<u8>> {
    match result {
        Ok(reply) => Some(reply),
        Err(e) if ["55P03", "40P01", "40001"].iter().any(|code| e.starts_with(code)) => None,
        Err(e) => panic!("the server failed: {e}"),
    }
}
