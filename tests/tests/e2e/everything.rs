//! Tables that everybody has in full, and what must be true of them whatever was done on the server.

use postgres::Client;
use sync_tests::compare::{assert_alike, assert_verified, server_rows};
use sync_tests::{Cluster, Database, Device};

/// Plain and partitioned tables.
pub const TASKS: &str = "
    CREATE TABLE task (id int PRIMARY KEY, body text);
    INSERT INTO task SELECT i, 'task' FROM generate_series(1, 10) i;
    CREATE TABLE event (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
    CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);
    INSERT INTO event VALUES (1, 1)";

/// A server with tables that everybody has in full, and a device that holds them.
pub struct Everything {
    pub db: Database<'static>,
    pub server: Client,
    pub device: Device,
}

impl Everything {
    #[track_caller]
    pub fn new(sql: &str, tables: &[&str]) -> Everything {
        let db = Cluster::shared().database();
        db.run(sql);
        db.run("SELECT sync.create_bucket('all')");
        for table in tables {
            db.run(&format!("SELECT sync.add_table('all', '{table}')"));
        }
        db.run("SELECT sync.maintain()");
        let (server, device) = (db.connect(), Device::new("ann"));
        let mut everything = Everything { db, server, device };
        for table in tables {
            everything.check("SELECT 1", &format!("SELECT count(*) FROM {table}"));
        }
        everything
    }

    /// Runs statements in one transaction, syncs, and fails unless the query gives the same on both sides with the right sums.
    #[track_caller]
    pub fn check(&mut self, change: &str, query: &str) {
        self.check_alike(change, query, query);
    }

    /// The same where a value looks different on the device.
    #[track_caller]
    pub fn check_alike(&mut self, change: &str, on_device: &str, on_server: &str) {
        self.db.run(change);
        self.device.sync(&mut self.server);
        assert_alike(&self.device, on_device, &mut self.server, on_server);
        assert_verified(&self.device);
        assert_sums(&mut self.server);
    }

    /// `state problem` of a table's entries.
    pub fn states(&mut self, table: &str) -> Vec<Vec<String>> {
        server_rows(&mut self.server, &format!("SELECT state, problem FROM sync.entry WHERE relid = '{table}'::regclass"))
    }

    pub fn entries(&mut self) -> Vec<Vec<String>> {
        server_rows(&mut self.server, "SELECT entry_id FROM sync.entry ORDER BY 1")
    }
}

/// Fails unless base and log of every part add up to what the tables hold.
#[track_caller]
pub fn assert_sums(server: &mut Client) {
    server.batch_execute("SELECT sync.maintain()").expect("maintenance");
    let wrong = "
        SELECT e.entry_id, e.relid, x.* FROM sync.entry e, LATERAL (
            SELECT bucket, s.sum AS scanned, l.sum AS known, s.count AS rows, l.count AS rows_known
            FROM sync.scan_entry(e.entry_id) s FULL JOIN (
                SELECT bucket, sync.wrap(sum(h)) AS sum, sum(n)::bigint AS count FROM (
                    SELECT bucket, sum::numeric AS h, count AS n FROM sync.base WHERE entry = e.entry_id
                    UNION ALL SELECT bucket, hash, n FROM sync.op WHERE entry = e.entry_id) a
                GROUP BY bucket) l USING (bucket)
            WHERE coalesce(s.sum, 0) <> coalesce(l.sum, 0) OR coalesce(s.count, 0) <> coalesce(l.count, 0)) x
        WHERE e.state <> 'broken'";
    assert_eq!(server_rows(server, wrong), Vec::<Vec<String>>::new(), "sums are wrong");
}

/// Fails unless a relation has the four capture triggers, once each and always on.
#[track_caller]
pub fn assert_captured(server: &mut Client, relation: &str) {
    let sql = format!(
        "SELECT tgname, tgenabled FROM pg_trigger
         WHERE tgrelid = '{relation}'::regclass AND tgfoid = 'sync.capture'::regproc ORDER BY 1"
    );
    let names = ["delete", "insert", "truncate", "update"];
    let wanted: Vec<_> = names.iter().map(|n| vec![format!("sync_capture_{n}"), "A".to_owned()]).collect();
    assert_eq!(server_rows(server, &sql), wanted, "the capture triggers of {relation}");
}
