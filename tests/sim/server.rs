//! The server of one script: its connections, and how it is cut off and put back.

use postgres::Client;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database};

/// Lines for the configuration: what is not flushed by somebody stays in memory until a crash takes it.
pub const SETTINGS: &str = "
autovacuum = off
synchronous_commit = off
wal_writer_delay = 10s
checkpoint_timeout = 1h
max_wal_size = 512MB
min_wal_size = 64MB
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
}

impl<'a> Server<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
        Server { cluster, db: cluster.database(), client: None, slow: Vec::new(), saved: false }
    }

    pub fn database(&self) -> &Database<'a> {
        &self.db
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
        self.cluster.crash();
        self.cluster.launch();
    }

    /// Takes a copy of the disk.
    pub fn save(&mut self) {
        self.hang_up();
        self.cluster.stop();
        self.cluster.save(COPY);
        self.cluster.launch();
        self.saved = true;
    }

    /// Puts the copy back, if there is one.
    pub fn put_back(&mut self) -> bool {
        if self.saved {
            self.hang_up();
            self.cluster.stop();
            self.cluster.put_back(COPY);
            self.cluster.launch();
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
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.db.name());
        self.cluster.connect("postgres", "postgres").batch_execute(&drop).expect("a drop");
    }
}

fn patient(db: &Database<'_>) -> Client {
    let mut client = db.connect();
    client.batch_execute("SET lock_timeout = '30ms'; SET deadlock_timeout = '10ms'").expect("settings");
    client
}
