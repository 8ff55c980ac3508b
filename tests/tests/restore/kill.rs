//! Postgres is killed again and again, while clients write, devices push and pull, and maintenance builds the sums of a large table.
//!
//! `KILLS=300 ./dev test killed` for longer.

use crate::leaked;
use fastrand::Rng;
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use sync_shared::envelope::{self, Kind};
use sync_shared::message::{Delta, Notice, PartChanges};
use sync_tests::compare::{assert_same, assert_verified, server_rows, server_value};
use sync_tests::device::{server_pull, server_push};
use sync_tests::{Cluster, Database, Device};

const TABLES: &str = "
    CREATE TABLE item (id bigint PRIMARY KEY, body text);
    CREATE TABLE tally (id int PRIMARY KEY, n bigint NOT NULL);
    CREATE TABLE big (id int PRIMARY KEY, k int NOT NULL, body text);
    CREATE INDEX ON big (k, id);
    SELECT sync.create_bucket('all');
    SELECT sync.add_table('all', 'item');
    SELECT sync.add_table('all', 'tally');
    SELECT sync.set_policy('tally', 'counter', 'n');
    SELECT sync.create_bucket('nobody', members => 'SELECT 1 WHERE false');
";
/// Most of them nobody changes.
const ROWS: &str = "
    INSERT INTO item SELECT i, repeat('x', 100) FROM generate_series(1, 5000) i;
    INSERT INTO tally SELECT i, 0 FROM generate_series(0, 9) i;
    INSERT INTO big SELECT i, i % 50, md5(i::text) FROM generate_series(1, 20000) i;
";
/// Rows of `item` and `tally` that were changed since the beginning, of all transactions that the log has.
const CHANGES: &str = "
    SELECT sum(changes) FROM (SELECT max(o.op_id) + 1 AS changes FROM sync.op o JOIN sync.entry e ON e.entry_id = o.entry
    WHERE e.relid IN ('item'::regclass, 'tally'::regclass) GROUP BY o.xid) t";
/// Each start leaves a mark; where a server is killed again before it could, the log of the last seconds is there, so that nobody has to
/// compare sums (docs/operations.md).
const SETTINGS: &str = "
shared_preload_libraries = 'pg_sync'
sync.worker_interval = 5
wal_keep_size = 256MB
max_wal_size = 1GB
min_wal_size = 512MB
";
const WRITERS: usize = 3;
const DEVICES: usize = 2;

/// A server that is killed under those who use it.
pub struct World {
    pub cluster: &'static Cluster,
    pub db: Database<'static>,
    pub ended: AtomicBool,
}

impl World {
    /// Whether to use it any longer.
    pub fn goes_on(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    /// A connection as soon as there is one; None when all is over.
    pub fn connect(&self) -> Option<Client> {
        while self.goes_on() {
            if let Ok(client) = self.cluster.try_connect(self.db.name(), "postgres") {
                return Some(client);
            }
            thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Counts in a row of its own, in one transaction with a row that comes or goes. Returns how many were acknowledged.
    fn write(&self, writer: usize) -> i64 {
        let mut acknowledged = 0;
        while let Some(mut client) = self.connect() {
            for n in 0.. {
                let id = 10_000 + 10_000 * writer + n % 500;
                let sql = format!(
                    "BEGIN; UPDATE tally SET n = n + 1 WHERE id = {writer};
                     WITH gone AS (DELETE FROM item WHERE id = {id} RETURNING 1)
                     INSERT INTO item SELECT {id}, 'of a writer' WHERE NOT EXISTS (SELECT FROM gone) ON CONFLICT DO NOTHING; COMMIT"
                );
                if !self.goes_on() || client.batch_execute(&sql).is_err() {
                    break;
                }
                acknowledged += 1;
                thread::sleep(Duration::from_millis(3));
            }
        }
        acknowledged
    }

    /// Writes on a device, and syncs whenever the server is there.
    fn live(&self, device: &Device, number: usize) -> Lived {
        let (mut written, mut rows) = (0, 0);
        while let Some(mut client) = self.connect() {
            while self.goes_on() {
                written += 1;
                let id = 1_000_000 * (number as i64 + 1) + written;
                device.run(&format!(
                    "BEGIN; INSERT INTO item VALUES ({id}, 'of a device'); UPDATE tally SET n = n + 1 WHERE id = {}; COMMIT",
                    WRITERS + number
                ));
                if sync(device, &mut client, &mut rows).is_none() {
                    break;
                }
            }
        }
        Lived { written, rows }
    }

    /// Maintenance, and a large table that leaves its rule and comes back, to be built anew.
    fn maintain(&self) {
        while let Some(mut client) = self.connect() {
            let add = "SELECT sync.add_table('nobody', 'big', key => 'k') WHERE NOT EXISTS (SELECT FROM sync.rules WHERE \"table\" = 'big'::regclass)";
            let drop = "SELECT sync.drop_table('nobody', 'big')";
            for sql in
                [add, "SELECT sync.maintain()", "UPDATE big SET body = body || '.' WHERE id % 100 = 0", drop].into_iter().cycle()
            {
                if !self.goes_on() || client.batch_execute(sql).is_err() {
                    break;
                }
            }
        }
    }
}

/// What came of a device's life.
struct Lived {
    /// Transactions that it has committed.
    written: i64,
    /// Rows that pages have brought, also those that were lost with the server.
    rows: i64,
}

/// One round, which adds the rows that come. None where the server went away.
pub fn sync(device: &Device, client: &mut Client, rows: &mut i64) -> Option<()> {
    while let Some(batches) = device.pending_ops() {
        let answer = device.apply(&server_push(client, &device.user, &batches).ok()?).expect("a push reply is applied");
        assert_eq!(answer.verdicts("rejected"), 0, "{answer:?}");
    }
    loop {
        let reply = server_pull(client, &device.user, &device.pull_request()).ok()?;
        *rows += assert_nothing_again(&reply);
        let answer = device.apply(&reply).expect("a delta is applied");
        if !answer.more() {
            return Some(());
        }
    }
}

/// No bucket comes a second time, whole or in part, and no history is taken for another one. Returns how many rows a page brings.
fn assert_nothing_again(reply: &[u8]) -> i64 {
    match envelope::kind(reply).expect("a message") {
        Kind::Delta => {
            let delta: Delta = envelope::decode(reply).expect("a delta");
            let again = |c: &PartChanges| c.from_empty || c.ranges.as_ref().is_some_and(|ranges| !ranges.is_empty());
            assert!(!delta.changes.iter().any(again), "a bucket came again, whole or in part");
            delta.changes.iter().map(|c| i64::from(c.row_count) + i64::from(c.gone_count)).sum()
        }
        _ => {
            let notice: Notice = envelope::decode(reply).expect("a notice");
            let passing = ["being changed", "being rewritten", "not visible here yet", "just been started"];
            assert!(passing.iter().any(|p| notice.message.contains(p)), "{}", notice.message);
            0
        }
    }
}

#[test]
fn a_server_that_is_killed_again_and_again_loses_nothing() {
    let kills = std::env::var("KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let mut rng = Rng::with_seed(std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1));
    let cluster = leaked(Cluster::start(SETTINGS));
    let db = cluster.database();
    [TABLES, ROWS, "SELECT sync.maintain()"].iter().for_each(|sql| db.run(sql));
    let devices: Vec<Device> = (0..DEVICES).map(|_| Device::new("ann")).collect();
    devices.iter().for_each(|device| device.sync(&mut db.connect()));
    let world = World { cluster, db, ended: AtomicBool::new(false) };
    let (acknowledged, mut lives) = thread::scope(|scope| {
        let world = &world;
        let writers: Vec<_> = (0..WRITERS).map(|n| scope.spawn(move || world.write(n))).collect();
        let living: Vec<_> = devices.into_iter().enumerate().map(|(n, d)| scope.spawn(move || (world.live(&d, n), d))).collect();
        scope.spawn(|| world.maintain());
        for _ in 0..kills {
            // Sometimes while it still recovers.
            if rng.u8(..5) > 0 {
                drop(world.connect());
            }
            thread::sleep(Duration::from_millis(rng.u64(20..400)));
            if rng.u8(..3) == 0 && cluster.kill_backend(rng.usize(..)) {
                continue;
            }
            cluster.kill();
            cluster.launch();
        }
        world.ended.store(true, Ordering::Relaxed);
        let acknowledged: Vec<_> = writers.into_iter().map(|w| w.join().expect("a writer ends well")).collect();
        (acknowledged, living.into_iter().map(|l| l.join().expect("a device ends well")).collect::<Vec<_>>())
    });
    check(&world, &acknowledged, &mut lives);
}

fn check(world: &World, acknowledged: &[i64], lives: &mut [(Lived, Device)]) {
    let mut server = world.db.connect();
    for _ in 0..2 {
        for (life, device) in &mut *lives {
            while sync(device, &mut server, &mut life.rows).is_none() {}
        }
    }
    let counted = |server: &mut Client, id: usize| -> i64 {
        server_value(server, &format!("SELECT n FROM tally WHERE id = {id}")).parse().expect("a number")
    };
    for (writer, &acknowledged) in acknowledged.iter().enumerate() {
        let n = counted(&mut server, writer);
        assert!(n >= acknowledged && acknowledged > 0, "writer {writer}: {acknowledged} acknowledged, {n} there");
    }
    let changes: i64 = server_value(&mut server, CHANGES).parse().expect("a number");
    for (number, (life, device)) in lives.iter().enumerate() {
        // Each batch adds one to a counter: neither twice nor never.
        assert_eq!(counted(&mut server, WRITERS + number), life.written, "device {number}");
        // What rests comes never; a change comes twice where the first answer was lost with the server.
        assert!(life.rows <= 2 * changes, "{} rows came to device {number}, and {changes} were changed", life.rows);
        assert_same(device, &mut server, "SELECT id, body FROM item");
        assert_same(device, &mut server, "SELECT id, n FROM tally");
        assert_verified(device);
        assert_eq!(device.rows("SELECT count(*) FROM sync_pending UNION ALL SELECT count(*) FROM sync_lost"), [["0"], ["0"]]);
    }
    let counted_twice = "SELECT device, number FROM sync.batch WHERE repeats";
    let seen: Vec<_> = server_rows(&mut server, counted_twice);
    assert!(seen.is_empty(), "batches under two names: {seen:?}");
    server.batch_execute("SELECT sync.maintain()").expect("maintenance");
    // What the log and the bases add up to is what the tables hold, also for the one that was being built.
    let wrong = "SELECT t.\"table\", v.* FROM sync.tables t, sync.verify_table(t.\"table\") v";
    assert_eq!(server_rows(&mut server, wrong), Vec::<Vec<String>>::new());
    let (written, rows): (Vec<_>, Vec<_>) = lives.iter().map(|(life, _)| (life.written, life.rows)).unzip();
    eprintln!(
        "{acknowledged:?} transactions of writers, {written:?} of devices, to which {rows:?} rows came of {changes} changes"
    );
}
