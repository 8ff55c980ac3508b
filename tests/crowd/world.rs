//! Two tables alike, one of them synced; a transaction that stays open for minutes; a device that must have all.

use crate::load::{Done, Writer, FIRST_SHARED, OWN, SHARED, TWIN};
use fastrand::Rng;
use postgres::Client;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::Instant;
use sync_tests::compare::{assert_same, assert_verified, server_rows, server_value};
use sync_tests::{Cluster, Database, Device};

/// Their names, by what is done with a change: nothing, capture, triggers that get it and do nothing.
pub const TABLES: &[&str] = &["plain", "synced", "triggered"];
const SCHEMA: &str = "
    CREATE TABLE plain (id int PRIMARY KEY, n bigint NOT NULL) WITH (fillfactor = 50);
    CREATE TABLE synced (LIKE plain INCLUDING ALL) WITH (fillfactor = 50);
    CREATE TABLE triggered (LIKE plain INCLUDING ALL) WITH (fillfactor = 50);
    CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER nothing AFTER UPDATE ON triggered REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
        FOR EACH STATEMENT EXECUTE FUNCTION nothing();
    SELECT sync.create_bucket('all');
    SELECT sync.add_table('all', 'synced');
";
/// Rows of transactions that stayed open.
const FIRST_HELD: u64 = 800_000;
/// Rows that change together and do not show the same.
const TORN: &str = "SELECT a.id, a.n, b.n FROM synced a JOIN synced b ON b.id = a.id + 1000000 WHERE a.n <> b.n";

/// What was done in one turn.
#[derive(Default)]
pub struct Turn {
    pub transactions: u64,
    pub changes: u64,
    pub seconds: f64,
    pub deadlocks: u64,
    pub gave_way: u64,
}

impl Turn {
    pub fn speed(&self) -> f64 {
        self.changes as f64 / self.seconds
    }

    pub fn add(&mut self, other: &Turn) {
        self.transactions += other.transactions;
        self.changes += other.changes;
        self.seconds += other.seconds;
        self.deadlocks += other.deadlocks;
        self.gave_way += other.gave_way;
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Turn { transactions, changes, seconds, deadlocks, gave_way } = self;
        write!(f, "{changes} changes in {transactions} transactions, {:.0} a second, ", self.speed())?;
        write!(f, "{deadlocks} deadlocks, {gave_way} gave way to serializable ones ({seconds:.1} s)")
    }
}

pub struct World {
    db: Database<'static>,
    server: Client,
    device: Option<Device>,
    writers: usize,
    /// How often each writer's rows of the synced table were counted up.
    own: Vec<u64>,
    /// The transaction that stays open, and how many there were before it.
    held: Client,
    number: u64,
}

impl World {
    pub fn new(writers: usize) -> World {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        // A deadlock stops its transactions for so long, and those behind them: with the second that Postgres waits by itself a turn
        // would tell how many deadlocks chance has brought.
        let settings = "max_connections = 120\nmax_prepared_transactions = 100\ndeadlock_timeout = 20ms\n";
        let cluster = CLUSTER.get_or_init(|| Cluster::start(settings));
        let db = cluster.database();
        db.run(SCHEMA);
        for table in TABLES {
            let (own, last) = (OWN - 1, FIRST_SHARED + SHARED - 1);
            db.run(&format!(
                "INSERT INTO {table} SELECT id + twin, 0 FROM (VALUES (0), ({TWIN})) t (twin), (
                     SELECT 1000 * w + i AS id FROM generate_series(0, {writers} - 1) w, generate_series(0, {own}) i
                     UNION ALL SELECT generate_series({FIRST_SHARED}, {last})) i"
            ));
        }
        db.run("SELECT sync.maintain()");
        let device = Device::new("ann");
        device.sync(&mut db.connect());
        let (server, held) = (db.connect(), db.connect());
        let mut world = World { db, server, device: Some(device), writers, own: vec![0; writers], held, number: 0 };
        world.hold();
        world
    }

    /// Opens the transaction that stays open: what it wrote comes late.
    fn hold(&mut self) {
        let id = FIRST_HELD + self.number;
        let sql = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO synced VALUES ({id}, 1), ({}, 1)", id + TWIN);
        self.held.batch_execute(&sql).expect("a transaction begins");
    }

    /// Commits it, and opens the next.
    pub fn let_go(&mut self) {
        self.held.batch_execute("COMMIT").expect("a commit");
        self.number += 1;
        self.hold();
    }

    /// All writers at once, until so many rows of the table have changed.
    pub fn turn(&mut self, table: &'static str, changes: u64, chunk: u64, watched: bool) -> Turn {
        self.server.batch_execute(&format!("VACUUM {table}")).expect("a vacuum");
        let (left, over, start) = (AtomicU64::new(changes), AtomicBool::new(false), Barrier::new(self.writers + 1));
        let (db, device) = (&self.db, self.device.take().expect("the device is here"));
        let (done, seconds, device) = thread::scope(|scope| {
            let (left, over, start) = (&left, &over, &start);
            let writers: Vec<_> = (0..self.writers as u64)
                .map(|number| scope.spawn(move || write(db, table, number, chunk, left, start)))
                .collect();
            let watcher = scope.spawn(move || {
                if watched && table == "synced" {
                    watch(&device, &mut db.connect(), over);
                }
                device
            });
            start.wait();
            let begin = Instant::now();
            let done: Vec<Done> = writers.into_iter().map(|w| w.join().expect("a writer ends well")).collect();
            let seconds = begin.elapsed().as_secs_f64();
            over.store(true, Ordering::Relaxed);
            (done, seconds, watcher.join().expect("a device ends well"))
        });
        self.device = Some(device);
        if table == "synced" {
            self.own.iter_mut().zip(&done).for_each(|(own, done)| *own += done.own);
        }
        let sum = |figure: fn(&Done) -> u64| done.iter().map(figure).sum();
        Turn {
            transactions: sum(|d| d.transactions),
            changes: sum(|d| d.changes),
            seconds,
            deadlocks: sum(|d| d.deadlocks),
            gave_way: sum(|d| d.gave_way),
        }
    }

    /// Fails unless everything that was acknowledged is on the server, and everything on the server is on the device.
    pub fn check(&mut self) {
        self.server.batch_execute("SELECT sync.maintain()").expect("maintenance");
        let device = self.device.as_ref().expect("the device is here");
        device.sync(&mut self.server);
        assert_same(device, &mut self.server, "SELECT id, n FROM synced");
        assert_eq!(device.rows(TORN), Vec::<Vec<String>>::new());
        let held = format!("SELECT count(*) FROM synced WHERE id BETWEEN {FIRST_HELD} AND {FIRST_SHARED} - 1");
        assert_eq!(device.value(&held), self.number.to_string(), "transactions that committed late");
        let sql = format!("SELECT id / 1000, min(n), max(n) FROM synced WHERE id < {FIRST_HELD} GROUP BY 1 ORDER BY 1");
        for (row, own) in server_rows(&mut self.server, &sql).into_iter().zip(&self.own) {
            assert_eq!(row[1..], [own.to_string(), own.to_string()], "rows of writer {}", row[0]);
        }
    }

    /// What the log and the bases add up to is what the table holds.
    pub fn end(mut self) {
        self.held.batch_execute("ROLLBACK").expect("a rollback");
        assert_verified(self.device.as_ref().expect("the device is here"));
        assert_eq!(server_value(&mut self.server, "SELECT count(*) FROM sync.verify_table('synced')"), "0");
    }
}

fn write(db: &Database<'_>, table: &'static str, number: u64, chunk: u64, left: &AtomicU64, start: &Barrier) -> Done {
    let mut client = db.connect();
    client.batch_execute("SET deadlock_timeout = '50ms'").expect("a setting");
    let mut writer = Writer { client, table, number, rng: Rng::with_seed(chunk * 1000 + number) };
    let mut done = Done::default();
    start.wait();
    let mut before = 0;
    // Whoever finds nothing left ends; the last ones do a little more.
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(done.changes - before)).is_ok() {
        before = done.changes;
        writer.write(&mut done);
    }
    done
}

/// Downloads all the while: no half of a transaction is ever shown.
fn watch(device: &Device, client: &mut Client, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        device.pull(client);
        assert_eq!(device.rows(TORN), Vec::<Vec<String>>::new(), "half of a transaction is shown");
    }
}
