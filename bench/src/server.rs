//! The server under measurement: its settings, its tables, and the time that its backends take.

use crate::stats::Took;
use postgres::Client;
use sync_tests::cluster::describe;
use sync_tests::Cluster;

/// Settings of the throwaway server: what a commit costs is part of what is measured; vacuum at random times is not.
pub const SETTINGS: &str = "
fsync = on
autovacuum = off
shared_buffers = 1GB
max_wal_size = 16GB
checkpoint_timeout = 1h
max_connections = 120
";

/// The columns of the table that all measurements use: a uuid key and five more, 117 bytes of values a row on average.
pub const COLUMNS: &str = "
    id         uuid PRIMARY KEY,
    owner_id   uuid NOT NULL,
    title      text NOT NULL,
    body       text NOT NULL,
    rank       integer NOT NULL,
    updated_at timestamptz NOT NULL";

/// The n-th owner.
pub fn owner(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012x}")
}

/// Rows for the columns above: `rows` of them, spread over `owners` owners from number `first` on.
pub fn rows(rows: usize, first: usize, owners: usize) -> String {
    format!(
        "SELECT md5('{first} ' || n)::uuid AS id,
                ('00000000-0000-4000-8000-' || lpad(to_hex({first} + n % {owners}), 12, '0'))::uuid AS owner_id,
                'note ' || lpad(n::text, 7, '0') || ' of a list' AS title,
                'what it says:' || substr(md5(n::text), 1, 20) || ' and a little more' AS body,
                n AS rank,
                timestamptz '2026-01-01 00:00+00' + n * interval '1 second' AS updated_at
         FROM generate_series(1, {rows}) n"
    )
}

/// A connection whose backend's processor time can be read.
pub struct Session {
    /// The connection.
    pub client: Client,
    schedstat: String,
}

impl Session {
    /// Asks the backend who it is.
    pub fn new(mut client: Client) -> Session {
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).expect("a backend has a number").get(0);
        Session { client, schedstat: format!("/proc/{pid}/schedstat") }
    }

    /// Runs statements.
    pub fn run(&mut self, sql: &str) {
        self.client.batch_execute(sql).unwrap_or_else(|e| panic!("{}\nin: {sql:.600}", describe(&e)));
    }

    /// A number.
    pub fn number(&mut self, sql: &str) -> f64 {
        let row = self.client.query_one(&format!("SELECT ({sql})::float8"), &[]);
        row.unwrap_or_else(|e| panic!("{}\nin: {sql}", describe(&e))).get(0)
    }

    /// Runs statements and says what they took: time by the clock here, processor time in the backend.
    pub fn time(&mut self, sql: &str) -> Took {
        let schedstat = self.schedstat.clone();
        Took::of(&schedstat, || self.run(sql)).0
    }

    /// Measures anything done through the connection.
    pub fn measure<T>(&mut self, work: impl FnOnce(&mut Client) -> T) -> (Took, T) {
        let schedstat = self.schedstat.clone();
        Took::of(&schedstat, || work(&mut self.client))
    }

    /// Bytes of WAL written so far.
    pub fn wal(&mut self) -> f64 {
        self.number("pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    }
}

/// Starts the throwaway server.
pub fn start() -> Cluster {
    Cluster::start(SETTINGS)
}
