//! A primary, two standbys with any lag, and devices that ask one after the other.

use crate::leaked;
use crate::lists::Lists;
use fastrand::Rng;
use postgres::Client;
use std::collections::HashMap;
use sync_tests::cluster::describe;
use sync_tests::device::server_pull;
use sync_tests::{Answer, Cluster, Device};

const SETTINGS: &str = "max_prepared_transactions = 10\nautovacuum = off\n";
/// Counters in pairs that only change together, some of them for transactions that stay open.
const TICKS: &str = "
    CREATE TABLE tick (id int PRIMARY KEY, list int NOT NULL, n int NOT NULL, filler text);
    CREATE INDEX ON tick (list, id);
    SELECT sync.add_table('list', 'tick', key => 'list');
    INSERT INTO tick SELECT i, 2, 0 FROM generate_series(0, 199) i;
";
const PATIENCE: &str = "SET lock_timeout = '20ms'";
/// The first counter of those that transactions hold that stay open.
const SLOW: usize = 50;

/// How many pulls were answered by whom.
#[derive(Debug, Clone, Copy, Default)]
pub struct Served {
    pub primary: usize,
    pub standbys: usize,
    pub behind: usize,
}

/// A device, and what it has shown.
struct Seen {
    counters: HashMap<String, i64>,
    written: usize,
}

pub struct World {
    lists: Lists,
    primary: &'static Cluster,
    standbys: Vec<&'static Cluster>,
    /// Transactions that are open, by the counter that they hold.
    slow: HashMap<usize, Client>,
    prepared: Vec<usize>,
    seen: [Seen; 2],
    rng: Rng,
    pub served: Served,
}

impl World {
    pub fn new() -> World {
        let primary = leaked(Cluster::start(SETTINGS));
        let mut lists = Lists::on(primary);
        lists.run(TICKS);
        lists.run(PATIENCE);
        lists.run("SELECT sync.maintain()");
        // Pages are small, so that passes go over several, and over several servers.
        for device in [&lists.ann, &lists.bob] {
            device.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
        }
        let standbys = ["recovery_min_apply_delay = '60ms'\n", ""].map(|lag| leaked(primary.standby(lag))).to_vec();
        standbys.iter().for_each(|standby| primary.wait_for(standby));
        let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
        let seen = || Seen { counters: HashMap::new(), written: 0 };
        let (slow, prepared) = Default::default();
        World {
            lists,
            primary,
            standbys,
            slow,
            prepared,
            seen: [seen(), seen()],
            rng: Rng::with_seed(seed),
            served: Served::default(),
        }
    }

    /// Writes, pushes and pulls in any order.
    pub fn wander(&mut self, rounds: usize) {
        for round in 0..rounds {
            for _ in 0..self.rng.usize(1..4) {
                self.write();
            }
            let who = self.rng.usize(..2);
            if self.rng.u8(..3) == 0 {
                self.seen[who].written += 1;
                let id = 100_000 * (who + 1) + self.seen[who].written;
                self.device(who).run(&format!("INSERT INTO item VALUES ({id}, 2, 'of device {who}', 0)"));
            }
            if self.rng.u8(..3) == 0 {
                let device = if who == 0 { &self.lists.ann } else { &self.lists.bob };
                device.push(&mut self.lists.server);
            }
            if round % 4 == 0 {
                self.pause_or_resume();
            }
            self.pull_a_little(who);
        }
    }

    fn device(&self, who: usize) -> &Device {
        [&self.lists.ann, &self.lists.bob][who]
    }

    /// A transaction on the primary, or the end of one that has been open.
    fn write(&mut self) {
        let counter = self.rng.usize(..SLOW);
        let slot = SLOW + self.rng.usize(..6);
        match self.rng.u8(..12) {
            0..=4 => self.run(&both(counter)),
            // Some subtransactions come to nothing.
            5 => self.run(&format!("BEGIN; SAVEPOINT a; {}; ROLLBACK TO a; {}; COMMIT", both(counter), both(counter))),
            6 => self.run("UPDATE tick SET filler = repeat(md5(random()::text), 8)"),
            7 | 8 => self.begin(slot),
            9 => {
                if let Some(mut client) = self.slow.remove(&slot) {
                    client.batch_execute(if self.rng.bool() { "COMMIT" } else { "ROLLBACK" }).expect("it ends");
                }
            }
            10 => {
                if let Some(mut client) = self.slow.remove(&slot) {
                    client.batch_execute(&format!("PREPARE TRANSACTION 'slot {slot}'")).expect("it is prepared");
                    self.prepared.push(slot);
                }
            }
            _ => self.end_prepared(),
        }
    }

    fn run(&mut self, sql: &str) {
        let done = self.lists.server.batch_execute(sql);
        if let Err(e) = done {
            // Beside an open transaction that holds a row.
            assert_eq!(e.code().map(|c| c.code()), Some("55P03"), "{}", describe(&e));
            self.lists.server.batch_execute("ROLLBACK").expect("a rollback");
        }
    }

    /// A transaction that stays open, with more subtransactions than a backend's cache holds.
    fn begin(&mut self, slot: usize) {
        if self.slow.contains_key(&slot) || self.prepared.contains(&slot) {
            return;
        }
        let mut client = self.lists.db.connect();
        let subtransactions = if self.rng.bool() { 100 } else { 3 };
        let sql = format!(
            "BEGIN; DO $$ BEGIN FOR i IN 1 .. {subtransactions} LOOP BEGIN {}; EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$",
            both(slot)
        );
        client.batch_execute(&format!("SET lock_timeout = '1s'; {sql}")).expect("a transaction is opened");
        self.slow.insert(slot, client);
    }

    fn end_prepared(&mut self) {
        if let Some(slot) = self.prepared.pop() {
            self.run(&format!("COMMIT PREPARED 'slot {slot}'"));
        }
    }

    fn pause_or_resume(&mut self) {
        if let Some(standby) = self.standbys.last() {
            let verb = if self.rng.bool() { "pause" } else { "resume" };
            let sql = format!("SELECT pg_wal_replay_{verb}()");
            standby.connect("postgres", "postgres").batch_execute(&sql).expect("replay pauses or goes on");
        }
    }

    /// A few pages, each from another server.
    fn pull_a_little(&mut self, who: usize) {
        for _ in 0..self.rng.usize(1..6) {
            let at = self.rng.usize(..=self.standbys.len());
            let answer = self.pull_once(who, at);
            if answer.kind() == "notice" {
                let message = answer.0["message"].as_str().unwrap_or("").to_owned();
                let behind = message.contains("not caught up") || message.contains("not visible here yet");
                assert!(behind || message.contains("send the list"), "without a cause: {message}");
                self.served.behind += usize::from(behind);
            } else if at == 0 {
                self.served.primary += 1;
            } else {
                self.served.standbys += 1;
            }
            if !answer.more() && self.rng.bool() {
                return;
            }
        }
    }

    fn pull_once(&mut self, who: usize, at: usize) -> Answer {
        let device = [&self.lists.ann, &self.lists.bob][who];
        let request = device.pull_request();
        let reply = match at {
            0 => server_pull(&mut self.lists.server, &device.user, &request),
            n => server_pull(&mut self.standbys[n - 1].same(&self.lists.db).connect(), &device.user, &request),
        };
        let answer = device.apply(&reply.expect("sync.pull answers")).expect("it is applied");
        self.look(who);
        answer
    }

    /// Whole transactions, no step back, and the device's own writes.
    fn look(&mut self, who: usize) {
        let device = [&self.lists.ann, &self.lists.bob][who];
        let notice = device.rows("SELECT value FROM sync_status WHERE name = 'notice' AND value LIKE '%differed%'");
        assert!(notice.is_empty(), "what was published was not what the server had: {notice:?}");
        let torn =
            device.rows("SELECT a.id, a.n, b.n FROM tick a JOIN tick b ON b.id = a.id + 100 WHERE a.id < 100 AND a.n <> b.n");
        assert!(torn.is_empty(), "half of a transaction is shown: {torn:?}");
        let seen = &mut self.seen[who];
        for row in device.rows("SELECT id, n FROM tick WHERE id < 100") {
            let n = row[1].parse().expect("a number");
            let before = seen.counters.insert(row[0].clone(), n).unwrap_or(0);
            assert!(n >= before, "counter {} went back from {before} to {n}", row[0]);
        }
        let own = device.value(&format!("SELECT count(*) FROM item WHERE body = 'of device {who}'"));
        assert_eq!(own, seen.written.to_string(), "the device does not show its own writes");
    }

    /// Everything ends and catches up: each device equals each server.
    pub fn finish(&mut self) {
        for mut client in std::mem::take(&mut self.slow).into_values() {
            client.batch_execute("COMMIT").expect("it ends");
        }
        while !self.prepared.is_empty() {
            self.end_prepared();
        }
        self.lists.sync();
        if let Some(standby) = self.standbys.last() {
            standby.connect("postgres", "postgres").batch_execute("SELECT pg_wal_replay_resume()").expect("replay goes on");
        }
        for at in (0..=self.standbys.len()).rev() {
            self.run(&both(at));
            // A mark, so that no standby waits for one to know where it is.
            self.run("SELECT sync.maintain()");
            self.standbys.iter().for_each(|standby| self.primary.wait_for(standby));
            for who in 0..2 {
                while self.pull_once(who, at).more() {}
            }
            self.lists.check_as_it_is();
            for device in [&self.lists.ann, &self.lists.bob] {
                sync_tests::compare::assert_same(device, &mut self.lists.server, "SELECT id, list, n, filler FROM tick");
                assert_eq!(device.value("SELECT count(*) FROM sync_lost"), "0");
            }
        }
    }

    /// The primary dies; a standby that has everything takes its place, and the other follows.
    pub fn promote(&mut self) {
        self.primary.kill();
        let promoted = self.standbys.remove(0);
        promoted.promote();
        promoted.lead(self.standbys[0]);
        self.lists.db = promoted.same(&self.lists.db);
        self.lists.server = self.lists.db.connect();
        self.primary = promoted;
        self.lists.run(PATIENCE);
    }
}

/// Both counters of a pair go up in one transaction.
fn both(counter: usize) -> String {
    format!("UPDATE tick SET n = n + 1 WHERE id IN ({counter}, {})", counter + 100)
}
