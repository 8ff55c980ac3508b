//! The server of one script: its connections, and how it is cut off and put back.

use postgres::Client;
use std::process::{Command, Stdio};
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database};

/// Lines for the configuration: what is not flushed by somebody stays in memory until a crash takes it. The log of one script is kept, so
/// that a restart alone never makes a device compare its sums: nothing leaves a mark at a start, which would be at another moment each time.
pub const SETTINGS: &str = "
autovacuum = off
bgwriter_lru_maxpages = 0
synchronous_commit = off
wal_writer_delay = 10s
checkpoint_timeout = 1h
max_wal_size = 512MB
min_wal_size = 64MB
wal_keep_size = 512MB
";
const COPY: &str = "copy";

/// One database on a cluster that only this script uses: transaction ids depend on nobody else.
pub struct Server<'a> {
    cluster: &'a Cluster,
    db: Database<'a>,
    client: Option<Client>,
    /// Transactions that were left open, to commit late.
    pub slow: Vec<Client>,
    saved: bool,
    /// How often it may have lost something.
    pub losses: usize,
    wal_writer: Option<Frozen>,
}

impl<'a> Server<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
        let db = cluster.database_at_checkpoint();
        Server { cluster, db, client: None, slow: Vec::new(), saved: false, losses: 0, wal_writer: Some(Frozen::of(cluster)) }
    }

    /// The connection that most things happen on. It gives up on a lock soon: the script is one thread, nobody else would
    /// release it.
    pub fn client(&mut self) -> &mut Client {
        let db = &self.db;
        self.client.get_or_insert_with(|| patient(db))
    }

    /// Statements that may fail as a whole: on a constraint, or on a lock that an open transaction holds.
    pub fn run(&mut self, sql: &str) -> Result<(), String> {
        let client = self.client();
        client.batch_execute(sql).map_err(|e| {
            client.batch_execute("ROLLBACK").expect("a rollback");
            sync_tests::cluster::describe(&e)
        })
    }

    pub fn rows(&mut self, sql: &str) -> Vec<Vec<String>> {
        server_rows(self.client(), sql)
    }

    pub fn value(&mut self, sql: &str) -> String {
        server_value(self.client(), sql)
    }

    /// Changes that have been logged, as long as none were dropped.
    pub fn ops(&mut self) -> u64 {
        self.value("SELECT coalesce(sum(changes), 0) FROM (SELECT max(op_id) + 1 AS changes FROM sync.op GROUP BY xid) t")
            .parse()
            .expect("a number")
    }

    pub fn begin_slow(&mut self, sql: &str) -> Result<(), String> {
        if self.slow.len() >= 3 {
            return Err("enough are open".into());
        }
        let mut client = patient(&self.db);
        client.batch_execute(sql).map_err(|e| sync_tests::cluster::describe(&e))?;
        self.slow.push(client);
        Ok(())
    }

    /// Cuts everything off and starts again: what was not flushed is gone.
    pub fn crash(&mut self) {
        self.hang_up();
        if let Some(frozen) = self.wal_writer.take() {
            // A frozen process would keep the server from ending.
            frozen.end();
        }
        self.cluster.crash();
        self.losses += 1;
        self.launch();
    }

    fn stop(&mut self) {
        self.hang_up();
        self.wal_writer = None;
        self.cluster.stop();
    }

    fn launch(&mut self) {
        self.cluster.launch();
        self.wal_writer = Some(Frozen::of(self.cluster));
    }

    /// Takes a copy of the disk.
    pub fn save(&mut self) {
        self.stop();
        self.cluster.save(COPY);
        self.launch();
        self.saved = true;
    }

    /// Puts the copy back, if there is one.
    pub fn put_back(&mut self) -> bool {
        if self.saved {
            self.stop();
            self.cluster.put_back(COPY);
            self.losses += 1;
            self.launch();
        }
        self.saved
    }

    fn hang_up(&mut self) {
        self.client = None;
        self.slow.clear();
    }

    /// Removes the database.
    pub fn end(mut self) {
        self.hang_up();
        self.wal_writer = None;
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.db.name());
        self.cluster.connect("postgres", "postgres").batch_execute(&drop).expect("a drop");
    }
}

/// The process that flushes the log by the clock, stopped: what a crash takes then depends on the script alone, and a seed does the
/// same again. It goes on when this is dropped.
struct Frozen(String);

impl Frozen {
    fn of(cluster: &Cluster) -> Frozen {
        let mut client = cluster.connect("postgres", "postgres");
        let pid: String = loop {
            let row = client.query_opt("SELECT pid::text FROM pg_stat_activity WHERE backend_type = 'walwriter'", &[]);
            if let Some(row) = row.expect("the processes are listed") {
                break row.get(0);
            }
        };
        signal("-STOP", &pid);
        Frozen(pid)
    }

    fn end(self) {
        signal("-KILL", &self.0);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        signal("-CONT", &self.0);
    }
}

/// It may be gone, with a server that has ended.
fn signal(which: &str, pid: &str) {
    let _gone = Command::new("kill").args([which, pid]).stderr(Stdio::null()).status();
}

fn patient(db: &Database<'_>) -> Client {
    let mut client = db.connect();
    client.batch_execute("SET lock_timeout = '30ms'; SET deadlock_timeout = '10ms'").expect("settings");
    client
}
