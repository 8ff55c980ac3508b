//! One random script, step by step. Everything random comes from the seed.

use crate::peer::Peer;
use crate::world::{self, LEDGER, LISTS, USERS};
use fastrand::Rng;
use postgres::Client;
use sync_tests::{Cluster, Database};

struct Script<'a> {
    rng: Rng,
    db: Database<'a>,
    server: Client,
    /// Transactions that were left open, to commit late.
    slow: Vec<Client>,
    peers: Vec<Peer>,
    verbose: bool,
}

/// Runs the script of a seed; panics with what is wrong.
pub fn run(cluster: &Cluster, seed: u64, verbose: bool) {
    let mut rng = Rng::with_seed(seed);
    let db = cluster.database();
    world::install(&db, &mut rng);
    let server = patient(&db);
    let count = rng.usize(2..=5);
    let peers = (0..count).map(|i| Peer::new(USERS[i % USERS.len()], &mut rng)).collect();
    let mut script = Script { rng, db, server, slow: Vec::new(), peers, verbose };
    for step in 0..script.rng.usize(20..120) {
        script.step(step);
    }
    script.finish();
    let Script { db, server, peers, .. } = script;
    drop((server, peers));
    cluster.connect("postgres", "postgres").batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", db.name())).expect("a drop");
}

/// A connection that gives up on a lock soon: the script is one thread, nobody else would release it.
fn patient(db: &Database<'_>) -> Client {
    let mut client = db.connect();
    client.batch_execute("SET lock_timeout = '30ms'; SET deadlock_timeout = '10ms'").expect("settings");
    client
}

impl Script<'_> {
    fn step(&mut self, step: usize) {
        let peer = self.rng.usize(..self.peers.len());
        match self.rng.u8(..100) {
            0..20 => {
                let sql = self.server_transaction();
                self.say(step, "server", &sql);
                self.on_server(&sql);
            }
            20..26 => {
                let sql = self.ledger_transaction();
                self.say(step, "server", &sql);
                self.on_server(&sql);
            }
            26..30 => {
                let sql = self.membership();
                self.say(step, "server", &sql);
                self.on_server(&sql);
            }
            30..33 => self.begin_slow(step),
            33..36 => self.end_slow(step),
            36..38 => {
                self.say(step, "server", "maintain");
                self.on_server("SELECT sync.maintain()");
            }
            38..66 => {
                let sql = self.device_transaction();
                self.say(step, &format!("device {peer}"), &sql);
                self.on_device(peer, &sql);
            }
            66..70 => {
                let sql = self.device_transaction();
                self.say(step, &format!("device {peer} without the extension"), &sql);
                let _may_fail = self.peers[peer].device.plain_connection().execute_batch(&sql);
            }
            70..74 => {
                self.say(step, &format!("device {peer}"), "restart");
                self.peers[peer].device.restart();
            }
            74..77 => {
                self.say(step, &format!("device {peer}"), "an old push again");
                self.peers[peer].repeat_push(&mut self.server, &mut self.rng);
            }
            77..79 => {
                self.say(step, &format!("device {peer}"), "an old reply again");
                self.peers[peer].repeat_reply(&mut self.rng);
            }
            79..92 => {
                self.say(step, &format!("device {peer}"), "sync over a bad network");
                self.peers[peer].sync(&mut self.server, &mut self.rng, true);
            }
            92..95 => {
                self.say(step, &format!("device {peer}"), "push only");
                self.peers[peer].push_once(&mut self.server, &mut self.rng, true);
            }
            95..97 => {
                self.say(step, &format!("device {peer}"), "one page");
                self.peers[peer].pull_once(&mut self.server, &mut self.rng, true);
            }
            _ => {
                self.say(step, &format!("device {peer}"), "sync");
                self.peers[peer].sync(&mut self.server, &mut self.rng, false);
            }
        }
        world::check_snapshot(&self.peers[peer].device);
    }

    /// Ends what is open, brings everybody up to date, and compares.
    fn finish(&mut self) {
        while !self.slow.is_empty() {
            self.end_slow(0);
        }
        // A batch that was answered `later` waits for the next round; when nobody waits any more, the last round brings the rest.
        let mut last = false;
        for round in 0.. {
            assert!(round < 5, "batches still wait after {round} rounds with a good network");
            for peer in &mut self.peers {
                peer.sync(&mut self.server, &mut self.rng, false);
            }
            if last {
                break;
            }
            last = self.peers.iter().all(|peer| !peer.waits());
        }
        for (i, peer) in self.peers.iter().enumerate() {
            self.say(0, &format!("device {i}"), "check");
            world::check(&peer.device, &mut self.server);
        }
    }

    fn say(&self, step: usize, who: &str, what: &str) {
        if self.verbose {
            println!("{step:>4} {who}: {what}");
        }
    }

    /// A transaction that may fail as a whole: on a constraint, or on a lock that an open transaction holds.
    fn on_server(&mut self, sql: &str) {
        if let Err(e) = self.server.batch_execute(sql) {
            if self.verbose {
                println!("        failed: {}", sync_tests::cluster::describe(&e));
            }
            self.server.batch_execute("ROLLBACK").expect("a rollback");
        }
    }

    fn on_device(&mut self, peer: usize, sql: &str) {
        let device = &self.peers[peer].device;
        if let Err(e) = device.try_run(sql) {
            if self.verbose {
                println!("        failed: {e}");
            }
            if !device.connection().is_autocommit() {
                device.run("ROLLBACK");
            }
        }
    }

    fn begin_slow(&mut self, step: usize) {
        let sql = format!("BEGIN; {}", self.server_statements().join("; "));
        self.say(step, "slow transaction", &sql);
        let mut client = patient(&self.db);
        if self.slow.len() < 3 && client.batch_execute(&sql).is_ok() {
            self.slow.push(client);
        }
    }

    fn end_slow(&mut self, step: usize) {
        if self.slow.is_empty() {
            return;
        }
        let mut client = self.slow.swap_remove(self.rng.usize(..self.slow.len()));
        let end = if self.rng.u8(..5) == 0 { "ROLLBACK" } else { "COMMIT" };
        self.say(step, "slow transaction", end);
        client.batch_execute(end).expect("an end");
    }

    fn server_transaction(&mut self) -> String {
        let mut statements = self.server_statements();
        if self.rng.u8(..4) == 0 {
            let at = self.rng.usize(..statements.len());
            statements.insert(at, "SAVEPOINT s".into());
            statements.push(if self.rng.bool() { "ROLLBACK TO s" } else { "RELEASE s" }.into());
        }
        format!("BEGIN; {}; COMMIT", statements.join("; "))
    }

    fn server_statements(&mut self) -> Vec<String> {
        (0..self.rng.usize(1..4)).map(|_| self.server_statement()).collect()
    }

    fn server_statement(&mut self) -> String {
        let (id, from) = (self.rng.i64(1..40), self.rng.i64(1..40));
        let (list, word) = (self.list(), self.word());
        let owner = USERS[self.rng.usize(..USERS.len())];
        match self.rng.u8(..16) {
            0 => format!("INSERT INTO task SELECT i, i % {LISTS} + 1, '{owner}', '{word}', i FROM generate_series({from}, {from} + 15) i ON CONFLICT DO NOTHING"),
            1 => format!("INSERT INTO task VALUES ({id}, {list}, '{owner}', '{word}', 1) ON CONFLICT (id) DO UPDATE SET body = '{word}', list = {list}"),
            2 => format!("UPDATE task SET id = {id} WHERE id = {from}"),
            3 => format!("DELETE FROM task WHERE id BETWEEN {from} AND {from} + 4"),
            4 => format!("UPDATE task SET hidden = NOT hidden WHERE id % 5 = {}", id % 5),
            5 => format!("UPDATE task SET list = {list}, owner = '{owner}' WHERE id BETWEEN {from} AND {from} + 6"),
            6 => format!("UPDATE label SET color = '{word}' WHERE list = {list}"),
            7 => format!("INSERT INTO label VALUES ({list}, '{word}', 'new') ON CONFLICT DO NOTHING"),
            8 => format!("UPDATE label SET list = {list} WHERE name = '{word}' AND list = {}", self.list()),
            9 => format!("DELETE FROM label WHERE list = {list}"),
            10 => format!("INSERT INTO news VALUES ({id}, '{word}') ON CONFLICT (id) DO UPDATE SET body = excluded.body"),
            11 => format!("UPDATE news SET id = {id} WHERE id = {from} AND NOT EXISTS (SELECT FROM news WHERE id = {id})"),
            12 if self.rng.u8(..6) == 0 => "TRUNCATE news".into(),
            12 => format!("DELETE FROM news WHERE id = {id}"),
            13 => format!("UPDATE task SET n = n + 1 WHERE list = {list}"),
            _ => format!("UPDATE task SET body = '{word}' WHERE id = {id}"),
        }
    }

    fn ledger_transaction(&mut self) -> String {
        let (from, to, amount) = (self.rng.i64(1..=LEDGER), self.rng.i64(1..=LEDGER), self.rng.i64(1..100));
        format!(
            "BEGIN; UPDATE ledger SET amount = amount - {amount} WHERE id = {from};
             UPDATE ledger SET amount = amount + {amount} WHERE id = {to}; COMMIT"
        )
    }

    fn membership(&mut self) -> String {
        let user = USERS[self.rng.usize(..USERS.len())];
        let list = self.list();
        match self.rng.u8(..5) {
            0 => format!("DELETE FROM reader WHERE name = '{user}'"),
            1 | 2 => format!("DELETE FROM reader WHERE name = '{user}' AND list = {list}"),
            _ => format!("INSERT INTO reader VALUES ('{user}', {list}) ON CONFLICT DO NOTHING"),
        }
    }

    fn device_transaction(&mut self) -> String {
        let statements: Vec<_> = (0..self.rng.usize(1..4)).map(|_| self.device_statement()).collect();
        match self.rng.u8(..8) {
            0 => format!("BEGIN; {}; ROLLBACK", statements.join("; ")),
            1 => format!("BEGIN; {}; SAVEPOINT s; {}; ROLLBACK TO s; COMMIT", statements.join("; "), self.device_statement()),
            _ => format!("BEGIN; {}; COMMIT", statements.join("; ")),
        }
    }

    fn device_statement(&mut self) -> String {
        let (id, from) = (self.rng.i64(1..60), self.rng.i64(1..60));
        let (list, word) = (self.list(), self.word());
        let owner = USERS[self.rng.usize(..USERS.len())];
        match self.rng.u8(..14) {
            0 => format!("INSERT OR IGNORE INTO task VALUES ({id}, {list}, '{owner}', '{word}', 1, 0)"),
            1 => format!("INSERT OR REPLACE INTO task VALUES ({id}, {list}, '{owner}', '{word}', {}, 0)", self.rng.i64(-1..5)),
            2 => format!("UPDATE OR IGNORE task SET id = {id} WHERE id = {from}"),
            3 => format!("DELETE FROM task WHERE id = {id}"),
            4 => format!("UPDATE task SET list = {list} WHERE id = {id}"),
            // Refused by the server where it makes n negative.
            5 => format!("UPDATE task SET n = n - 3 WHERE id BETWEEN {from} AND {from} + 3"),
            6 => format!("UPDATE task SET hidden = 1 - hidden WHERE id = {id}"),
            7 => format!("UPDATE OR IGNORE label SET color = '{word}' WHERE list = {list}"),
            8 => format!("INSERT OR IGNORE INTO label VALUES ({list}, '{word}', 'device')"),
            9 => format!("DELETE FROM label WHERE list = {list} AND name = '{word}'"),
            10 => format!("INSERT INTO news VALUES ({id}, '{word}') ON CONFLICT (id) DO UPDATE SET body = excluded.body"),
            11 => format!("DELETE FROM news WHERE id = {id}"),
            _ => format!("UPDATE task SET body = '{word}' WHERE id BETWEEN {from} AND {from} + 5"),
        }
    }

    fn list(&mut self) -> i64 {
        self.rng.i64(1..=LISTS)
    }

    fn word(&mut self) -> &'static str {
        ["a", "b", "c", "d", "e", "f", "it''s", "é"][self.rng.usize(..8)]
    }
}
