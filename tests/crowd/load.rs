//! What one writer does: transactions of every kind, most of them on rows of his own.

use fastrand::Rng;
use postgres::error::SqlState;
use postgres::Client;
use sync_tests::cluster::describe;

/// Rows of one writer; each has a twin that changes with it.
pub const OWN: u64 = 10;
/// Rows of everybody.
pub const SHARED: u64 = 20;
/// The first of them.
pub const FIRST_SHARED: u64 = 900_000;
/// How far a row's twin is.
pub const TWIN: u64 = 1_000_000;

/// One writer of one turn.
pub struct Writer {
    pub client: Client,
    pub table: &'static str,
    pub number: u64,
    pub rng: Rng,
}

/// What a writer has done.
#[derive(Default)]
pub struct Done {
    pub transactions: u64,
    /// Rows that committed transactions have changed.
    pub changes: u64,
    /// How often his own rows were counted up.
    pub own: u64,
    pub deadlocks: u64,
    /// Gave way for another reason.
    pub gave_way: u64,
}

impl Writer {
    /// His own rows and their twins, all at once.
    fn own(&self) -> String {
        let from = self.number * 1000;
        let (to, twin) = (from + OWN - 1, from + TWIN);
        format!(
            "UPDATE {} SET n = n + 1 WHERE id BETWEEN {from} AND {to} OR id BETWEEN {twin} AND {}",
            self.table,
            twin + OWN - 1
        )
    }

    /// A row of everybody's with its twin.
    fn shared(&mut self) -> String {
        let id = FIRST_SHARED + self.rng.u64(..SHARED);
        format!("UPDATE {} SET n = n + 1 WHERE id IN ({id}, {})", self.table, id + TWIN)
    }

    /// One transaction.
    pub fn write(&mut self, done: &mut Done) {
        let own = self.own();
        let kind = self.rng.u8(..16);
        // Statements, and how often they count up the own rows and shared ones.
        let (sql, owns, shared) = match kind {
            0..4 => (own, 1, 0),
            4..7 => (format!("BEGIN; {own}; SAVEPOINT a; {own}; ROLLBACK TO a; SAVEPOINT b; {own}; RELEASE b; COMMIT"), 2, 0),
            7..9 => (format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {own}; {own}; COMMIT"), 2, 0),
            9 => (format!("BEGIN; {own}; ROLLBACK"), 0, 0),
            10 | 11 => {
                let read = format!("SELECT sum(n) FROM {} WHERE id < {TWIN}", self.table);
                (format!("BEGIN ISOLATION LEVEL SERIALIZABLE; {read}; {own}; COMMIT"), 1, 0)
            }
            12 | 13 => return self.prepare(&own, done),
            _ => {
                let (one, other) = (self.shared(), self.shared());
                (format!("BEGIN; {one}; {own}; {other}; COMMIT"), 1, 2)
            }
        };
        match self.client.batch_execute(&sql) {
            Ok(()) => done.add(owns, shared),
            Err(error) => self.give_way(&error, kind >= 10, done),
        }
    }

    /// A transaction in two phases; some do not come to the second.
    fn prepare(&mut self, own: &str, done: &mut Done) {
        let name = format!("{}{}", self.table, self.number);
        let commits = self.rng.u8(..8) > 0;
        let prepare = format!("BEGIN; {own}; PREPARE TRANSACTION '{name}'");
        self.client.batch_execute(&prepare).unwrap_or_else(|e| panic!("{}", describe(&e)));
        let end = format!("{} PREPARED '{name}'", if commits { "COMMIT" } else { "ROLLBACK" });
        self.client.batch_execute(&end).unwrap_or_else(|e| panic!("{}", describe(&e)));
        done.add(u64::from(commits), 0);
    }

    /// Only who reads or changes what is everybody's may be stopped, and never by a lock of capture.
    fn give_way(&mut self, error: &postgres::Error, may: bool, done: &mut Done) {
        let told = describe(error);
        assert!(may, "a writer of rows of his own was stopped: {told}");
        match error.code() {
            Some(&SqlState::T_R_DEADLOCK_DETECTED) => {
                let waits = told.lines().filter(|line| line.contains(" waits for "));
                waits.for_each(|line| assert!(line.contains(" on transaction ") || line.contains(" on tuple "), "{told}"));
                done.deadlocks += 1;
            }
            Some(&SqlState::T_R_SERIALIZATION_FAILURE) => done.gave_way += 1,
            _ => panic!("{told}"),
        }
        self.client.batch_execute("ROLLBACK").expect("a rollback");
    }
}

impl Done {
    fn add(&mut self, owns: u64, shared: u64) {
        self.transactions += 1;
        self.own += owns;
        self.changes += owns * 2 * OWN + shared * 2;
    }
}
