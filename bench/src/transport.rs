//! Buckets with rows on the server, and a transport as a careful one is written: prepared statements, the claims set in the
//! transaction of the call, which can only read.

use crate::server::{self, Session};
use crate::stats::Took;
use postgres::{Client, Statement};
use sync_tests::cluster::describe;
use sync_tests::{Cluster, Database, Device};

/// Makes a database with rows for each of some owners, a rule with a bucket for each owner, and users who hold them:
/// (user, first owner, owners, rows in all of them). The index that makes one bucket's rows quick to find also comes to the device.
pub fn world<'a>(cluster: &'a Cluster, holdings: &[(&str, usize, usize, usize)], index: bool) -> (Database<'a>, Session) {
    let database = cluster.database();
    let mut session = Session::new(database.connect());
    // One transaction: where nothing needs the log of it, Postgres writes none.
    let mut sql = format!(
        "CREATE TABLE item ({});
         CREATE TABLE holder (user_id text, owner_id uuid, PRIMARY KEY (user_id, owner_id));",
        server::COLUMNS
    );
    for (user, first, owners, rows) in holdings {
        sql += &format!(
            "INSERT INTO item {} ORDER BY id;
             INSERT INTO holder SELECT '{user}', ('00000000-0000-4000-8000-' || lpad(to_hex({first} + n), 12, '0'))::uuid
             FROM generate_series(0, {owners} - 1) n;",
            server::rows(*rows, *first, *owners)
        );
    }
    if index {
        sql += "CREATE INDEX ON item (owner_id, id);";
    }
    session.run(&sql);
    session.run(
        "SELECT sync.create_bucket('owner', members => 'SELECT owner_id FROM holder WHERE user_id = sync.user_id()');
         SELECT sync.add_table('owner', 'item', key => 'owner_id')",
    );
    session.run("SELECT sync.maintain()");
    session.run("VACUUM ANALYZE");
    session.run("CHECKPOINT");
    (database, session)
}

/// A connection between devices and the server.
pub struct Transport {
    session: Session,
    claims: Statement,
    pull: Statement,
    push: Statement,
}

impl Transport {
    /// Connects.
    pub fn new(database: &Database<'_>) -> Transport {
        let mut session = Session::new(database.connect());
        let mut prepare = |sql| session.client.prepare(sql).unwrap_or_else(|e| panic!("{}", describe(&e)));
        let claims = prepare("SELECT set_config('request.jwt.claims', $1, true)");
        let pull = prepare("SELECT sync.pull($1)");
        let push = prepare("SELECT sync.push($1)");
        Transport { session, claims, pull, push }
    }

    /// `sync.pull`, and what that statement took.
    pub fn pull(&mut self, user: &str, request: &[u8]) -> (Took, Vec<u8>) {
        self.call(user, request, true)
    }

    /// `sync.push`, and what that statement took.
    pub fn push(&mut self, user: &str, batches: &[u8]) -> (Took, Vec<u8>) {
        self.call(user, batches, false)
    }

    fn call(&mut self, user: &str, bytes: &[u8], pull: bool) -> (Took, Vec<u8>) {
        let begin = if pull { "BEGIN READ ONLY" } else { "BEGIN" };
        let claims = format!("{{\"sub\": \"{user}\"}}");
        self.session.run(begin);
        self.session.client.query_one(&self.claims, &[&claims]).unwrap_or_else(|e| panic!("{}", describe(&e)));
        let statement = if pull { self.pull.clone() } else { self.push.clone() };
        let ask = |client: &mut Client| client.query_one(&statement, &[&bytes]).unwrap_or_else(|e| panic!("{}", describe(&e)));
        let (took, row) = self.session.measure(ask);
        self.session.run("COMMIT");
        (took, row.get(0))
    }

    /// The device's whole loop for downloading, and what it took.
    pub fn sync(&mut self, device: &Device) -> Synced {
        let mut out = Synced::default();
        for _ in 0..100_000 {
            let (took, request) = Took::here(|| device.pull_request());
            out.device.add(took);
            let (took, reply) = self.pull(&device.user.id, &request);
            out.server.add(took);
            out.sent += request.len();
            out.received += reply.len();
            out.pages += 1;
            let (took, answer) = Took::here(|| device.apply(&reply).unwrap_or_else(|e| panic!("apply_delta: {e}")));
            out.device.add(took);
            if !answer.more() {
                return out;
            }
        }
        panic!("the pull does not end");
    }

    /// Downloads until the device has seen everything and knows it.
    pub fn settle(&mut self, device: &Device) {
        self.sync(device);
        self.sync(device);
    }

    /// The device's whole loop for sending.
    pub fn send(&mut self, device: &Device) {
        while let Some(batches) = device.pending_ops() {
            let (_, reply) = self.push(&device.user.id, &batches);
            device.apply(&reply).unwrap_or_else(|e| panic!("apply_delta: {e}"));
        }
    }
}

/// What a download took on both sides.
#[derive(Debug, Clone, Copy, Default)]
pub struct Synced {
    /// `sync.pull`: by the clock as the transport sees it, and processor time of the backend.
    pub server: Took,
    /// `pull_request` and `apply_delta`.
    pub device: Took,
    /// Bytes of the requests.
    pub sent: usize,
    /// Bytes of the answers.
    pub received: usize,
    /// Answers.
    pub pages: usize,
}
