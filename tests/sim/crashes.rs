//! The server is cut off at a chosen point: in a call that has not committed, or right after one, with nothing flushed but what the
//! call itself flushed.

use crate::peer::Peer;
use crate::server::Server;
use crate::world::Facts;
use crate::{changes, statements};
use fastrand::Rng;
use sync_tests::device::{server_pull, server_push};

#[derive(Debug, Clone, Copy)]
pub enum Point {
    /// The push is done and not committed.
    InPush,
    /// It is committed, and the device gets no answer.
    AfterPush,
    /// The device has the answer.
    AfterPushReply,
    /// The page is read, and reaches the device while the server is away.
    AfterPull,
    InWrite,
    InMaintenance,
    AfterMaintenance,
    InChangeOfRules,
}

use Point::*;

impl Point {
    pub fn random(rng: &mut Rng) -> Point {
        let all = [InPush, AfterPush, AfterPushReply, AfterPull, InWrite, InMaintenance, AfterMaintenance, InChangeOfRules];
        all[rng.usize(..all.len())]
    }
}

/// Cuts the server off there. What comes before may fail, on a lock for instance: that is a point too.
pub fn crash(at: Point, server: &mut Server<'_>, peer: &mut Peer, facts: &Facts, rng: &mut Rng) {
    match at {
        InPush => {
            if let Some(batches) = peer.sealed() {
                let client = server.client();
                client.batch_execute("BEGIN").expect("a transaction");
                let claims = peer.device.user.claims();
                client.execute("SELECT set_config('request.jwt.claims', $1, true)", &[&claims]).expect("claims");
                let _may_wait_for_a_lock = client.query("SELECT sync.push($1)", &[&batches]);
            }
            server.crash();
        }
        AfterPush | AfterPushReply => {
            let batches = peer.sealed();
            let reply = batches.and_then(|batches| server_push(server.client(), &peer.device.user, &batches).ok());
            if let (AfterPushReply, Some(reply)) = (at, &reply) {
                peer.device.apply(reply).expect("a push reply is applied");
            }
            server.crash();
        }
        AfterPull => {
            let page = server_pull(server.client(), &peer.device.user, &peer.device.pull_request());
            server.crash();
            if let Ok(page) = page {
                peer.device.apply(&page).expect("a page is applied");
            }
        }
        AfterMaintenance => {
            let _may_wait_for_a_lock = server.run("SELECT sync.maintain()");
            server.crash();
        }
        InWrite => open_and_crash(server, &statements::server_statements(rng, facts).join("; ")),
        InMaintenance => open_and_crash(server, "SELECT sync.maintain()"),
        InChangeOfRules => open_and_crash(server, &changes::of_rules(rng, facts)),
    }
}

fn open_and_crash(server: &mut Server<'_>, sql: &str) {
    let _may_wait_for_a_lock = server.client().batch_execute(&format!("BEGIN; {sql}"));
    server.crash();
}
