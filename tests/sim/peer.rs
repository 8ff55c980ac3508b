//! A device with a bad network and a clock that may be wrong.

use crate::counts::Counts;
use crate::network::{damaged, Cut, Fate};
use crate::server::Server;
use crate::traffic::Traffic;
use crate::world;
use fastrand::Rng;
use postgres::Client;
use std::collections::HashMap;
use sync_shared::envelope::{decode, encode};
use sync_shared::message::{Delta, Notice, NoticeKind, PullRequest, PushRequest};
use sync_tests::device::{server_pull, server_push, User};
use sync_tests::Device;

/// Old messages that are kept to come again.
const KEPT: usize = 12;

/// One device of the simulation.
pub struct Peer {
    /// Its file.
    pub device: Device,
    /// An earlier state of the file, if one was kept.
    saved: Option<Device>,
    pub cut: Cut,
    /// How far its clock is off, in microseconds.
    pub clock: i64,
    /// Pages are this small, so that a few rows make many.
    page_bytes: u32,
    pushes: Vec<Vec<u8>>,
    /// With how often the server had lost something before it answered so.
    replies: Vec<(usize, Vec<u8>)>,
    pages: Vec<Vec<u8>>,
    /// When its batches say that they were made, by their random bytes.
    edited: HashMap<[u8; 16], i64>,
    traffic: Traffic,
}

/// What a device talks through in one step.
pub struct Link<'l, 'a> {
    pub server: &'l mut Server<'a>,
    pub rng: &'l mut Rng,
    /// Messages get lost, damaged, and come twice.
    pub lossy: bool,
    /// A device may be told to start over: there is a cause.
    pub resync: bool,
    /// Nothing happens in this script that could make a device fetch again what it has.
    pub calm: bool,
    pub counts: &'l Counts,
}

type Call = fn(&mut Client, &User, &[u8]) -> Result<Vec<u8>, String>;

impl Peer {
    /// A new device for a user.
    pub fn new(user: &str, rng: &mut Rng) -> Peer {
        Peer::of(Device::new(user), [200, 20_000, 50_000, 1 << 20][rng.usize(..4)])
    }

    fn of(device: Device, page_bytes: u32) -> Peer {
        Peer {
            device,
            saved: None,
            cut: Cut::No,
            clock: 0,
            page_bytes,
            pushes: Vec::new(),
            replies: Vec::new(),
            pages: Vec::new(),
            edited: HashMap::new(),
            traffic: Traffic::default(),
        }
    }

    /// Another device with a copy of this one's file.
    pub fn cloned(&self) -> Peer {
        Peer { clock: self.clock, edited: self.edited.clone(), ..Peer::of(self.device.copy(), self.page_bytes) }
    }

    /// Keeps a copy of the file.
    pub fn save(&mut self) {
        self.saved = Some(self.device.copy());
    }

    /// Puts the copy in place of the file, and keeps it for another time; without one the application is installed anew.
    pub fn restore(&mut self) {
        match &self.saved {
            Some(saved) => self.device = saved.copy(),
            None => {
                *self = Peer {
                    clock: self.clock,
                    cut: self.cut,
                    ..Peer::of(Device::for_user(self.device.user.clone()), self.page_bytes)
                }
            }
        }
    }

    /// What waits to be sent, as a device with this clock says it.
    pub fn sealed(&mut self) -> Option<Vec<u8>> {
        let batches = self.device.pending_ops()?;
        Some(self.with_clock(&batches))
    }

    /// One push. Returns whether there may be more to send: not if a server without faults gave no answer.
    pub fn push_once(&mut self, link: &mut Link<'_, '_>) -> bool {
        if link.lossy && link.rng.u8(..12) == 0 {
            link.counts.add("stops of devices", "sealing");
            self.stop(link.rng, |device| drop(device.connection().query_row("SELECT pending_ops()", [], |_| Ok(()))));
        }
        let Some(batches) = self.sealed() else { return false };
        keep(&mut self.pushes, batches.clone());
        let Some(reply) = self.ask(link, server_push, &batches) else { return link.lossy };
        keep(&mut self.replies, (link.server.losses, reply.clone()));
        self.receive(link, &reply, |_, _, _| ());
        true
    }

    /// One page. Returns whether there is more.
    pub fn pull_once(&mut self, link: &mut Link<'_, '_>) -> bool {
        let mut request: PullRequest = decode(&self.device.pull_request()).expect("a request can be read");
        request.page_bytes = self.page_bytes;
        let request = encode(&request).expect("a request can be written");
        let Some(reply) = self.ask(link, server_pull, &request) else { return false };
        keep(&mut self.pages, reply.clone());
        if let (false, Ok(Notice { kind: NoticeKind::Resync | NoticeKind::Restored, message, .. })) =
            (link.resync, decode(&reply))
        {
            panic!("the server says without a cause that history has changed, or that the cursor is too old: {message}");
        }
        let calm = link.calm;
        let more = self.receive(link, &reply, |peer, link, reply| {
            let Ok(delta) = decode::<Delta>(reply) else { return };
            for changes in &delta.changes {
                let kind = if changes.columns.is_some() { "without what has not changed" } else { "whole" };
                link.counts.more("rows pulled", kind.into(), changes.row_count.into());
            }
            if calm {
                peer.traffic.count(&peer.device, &delta, link.server.ops());
            }
        });
        world::check_snapshot(&self.device);
        world::check_sums(&self.device);
        more.unwrap_or(true)
    }

    /// Sends a request, and brings what the server answers; None if nothing comes back.
    fn ask(&mut self, link: &mut Link<'_, '_>, call: Call, request: &[u8]) -> Option<Vec<u8>> {
        let fate = Fate::random(link.rng, link.lossy);
        link.counts.add("requests", if self.cut.is_up() { "cut off" } else { fate.name() });
        if self.cut.is_up() {
            return None;
        }
        if fate.is_damaged() {
            let refused = call(link.server.client(), &self.device.user, &damaged(request, link.rng));
            let error = refused.expect_err("the server took a damaged message");
            assert!(error.starts_with("22P03"), "a damaged message: {error}");
        }
        let mut reply = None;
        for _ in 0..fate.times() {
            reply = answered(call(link.server.client(), &self.device.user, request));
        }
        if self.cut == Cut::Down && reply.is_some() {
            link.counts.add("replies", "cut off");
            return None;
        }
        reply
    }

    /// Applies a reply as often as it arrives. Returns whether there is more to ask for; None if it did not arrive.
    fn receive(
        &mut self,
        link: &mut Link<'_, '_>,
        reply: &[u8],
        first: impl FnOnce(&mut Peer, &mut Link<'_, '_>, &[u8]),
    ) -> Option<bool> {
        let fate = Fate::random(link.rng, link.lossy);
        link.counts.add("replies", fate.name());
        if fate.is_damaged() {
            let before = dump(&self.device);
            self.device.apply(&damaged(reply, link.rng)).expect_err("the device took a damaged message");
            assert!(before == dump(&self.device), "a damaged message changed something");
        }
        // Before a stop, which may come too late to keep the reply from being applied.
        if fate.times() > 0 {
            first(self, link, reply);
        }
        if link.lossy && link.rng.u8(..12) == 0 {
            link.counts.add("stops of devices", "applying");
            self.stop(link.rng, |device| drop(device.apply(reply)));
        }
        let mut more = None;
        for _ in 0..fate.times() {
            more = Some(self.device.apply(reply).expect("a reply is applied").more());
        }
        more
    }

    /// Something that is stopped in its middle, or done before that, and a restart.
    fn stop(&mut self, rng: &mut Rng, work: impl FnOnce(&Device)) {
        stopped(&self.device, rng, work);
        self.device.restart();
        world::check_snapshot(&self.device);
    }

    /// Sends an old push again; its reply may be applied or lost.
    pub fn repeat_push(&mut self, link: &mut Link<'_, '_>) {
        let Some(batches) = link.rng.choice(&self.pushes).cloned() else { return };
        if let Some(reply) = self.ask(link, server_push, &batches) {
            self.receive(link, &reply, |_, _, _| ());
        }
    }

    /// Receives an old push reply again, or late. Returns how often the server had lost something when it answered so.
    pub fn repeat_reply(&mut self, rng: &mut Rng) -> Option<usize> {
        let (losses, reply) = rng.choice(&self.replies)?;
        self.device.apply(reply).expect("a repeated push reply is applied");
        Some(*losses)
    }

    /// Receives an old page or notice late, or again.
    pub fn late_page(&mut self, rng: &mut Rng) {
        if let Some(page) = rng.choice(&self.pages) {
            self.device.apply(page).expect("a late page is left or applied");
            world::check_sums(&self.device);
        }
    }

    /// Messages as a device with such a clock would have made them.
    fn with_clock(&mut self, batches: &[u8]) -> Vec<u8> {
        let mut push: PushRequest = decode(batches).expect("a push can be read");
        for batch in &mut push.batches {
            batch.edited = *self.edited.entry(batch.id.random.into_array()).or_insert(batch.edited + self.clock);
        }
        encode(&push).expect("a push can be written")
    }

    /// Whether local writes are not confirmed yet.
    pub fn waits(&self) -> bool {
        self.device.value("SELECT count(*) FROM sync_pending") != "0"
    }

    /// The whole loop; with a bad network it may end early.
    pub fn sync(&mut self, link: &mut Link<'_, '_>) {
        for round in 0.. {
            if !self.push_once(link) || link.lossy && link.rng.u8(..5) == 0 {
                break;
            }
            assert!(round < 200 || self.cut != Cut::No, "pending_ops() does not end");
            if round == 200 {
                break;
            }
        }
        for page in 0.. {
            if !self.pull_once(link) || self.cut != Cut::No || link.lossy && link.rng.u8(..8) == 0 {
                return;
            }
            assert!(page < 2_000, "the pull does not end");
        }
    }
}

/// Interrupts SQLite after a random number of steps of its machine.
pub fn stopped(device: &Device, rng: &mut Rng, work: impl FnOnce(&Device)) {
    let (mut calls, stop) = (0, rng.u32(1..60));
    let handler = move || {
        calls += 1;
        calls > stop
    };
    device.connection().progress_handler(50, Some(handler)).expect("a handler");
    work(device);
    device.connection().progress_handler(0, None::<fn() -> bool>).expect("no handler");
}

fn keep<T>(messages: &mut Vec<T>, message: T) {
    if messages.len() == KEPT {
        messages.remove(0);
    }
    messages.push(message);
}

/// Everything in the file.
fn dump(device: &Device) -> Vec<Vec<Vec<String>>> {
    let tables = device.rows("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name");
    tables.iter().map(|t| device.rows(&format!("SELECT * FROM \"{}\"", t[0]))).collect()
}

/// The answer, unless the server was held up by a lock: that is as if the network had failed.
fn answered(result: Result<Vec<u8>, String>) -> Option<Vec<u8>> {
    match result {
        Ok(reply) => Some(reply),
        Err(e) if ["55P03", "40P01", "40001"].iter().any(|code| e.starts_with(code)) => None,
        Err(e) => panic!("the server failed: {e}"),
    }
}
