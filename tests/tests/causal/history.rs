//! What clients saw and wrote, and what the server made of it: all that the checks look at.

use std::collections::{HashMap, HashSet};

/// A register: one column of one row.
pub type Key = usize;
/// What a register holds. Each write of a history has a value of its own; 0 is what all registers begin with.
pub type Value = i64;

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Committed,
    RolledBack,
    /// The connection was lost on the way.
    Unknown,
}

/// One transaction of one client: it reads all registers, writes some, and reads all again.
#[derive(Debug, Clone)]
pub struct Transaction {
    pub before: Vec<Value>,
    pub writes: Vec<(Key, Value)>,
    pub after: Vec<Value>,
    pub end: End,
}

/// One client's transactions, in order.
#[derive(Debug, Clone, Default)]
pub struct Session {
    pub name: String,
    pub transactions: Vec<Transaction>,
}

/// A value that the server wrote into a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub value: Value,
    /// Of the server's transaction.
    pub xid: i64,
}

/// A recorded conflict that the writer lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Loss {
    pub key: Key,
    pub value: Value,
    /// What stayed in its place; None: what the writer had started from, since only another column of the row was in conflict.
    pub to: Option<Value>,
}

/// A whole run.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub keys: usize,
    pub sessions: Vec<Session>,
    /// For each register, what the server wrote, in order.
    pub versions: Vec<Vec<Version>>,
    /// How many conflicts the server recorded, whoever won.
    pub conflicts: u64,
    /// Writes that lost one as the server recorded it, and as devices did.
    pub lost: Vec<Loss>,
    pub lost_on_devices: Vec<Loss>,
    /// What rejected transactions wrote.
    pub rejected: HashSet<Value>,
    /// What the server's tables, and what each device, hold at the end.
    pub server: Vec<Value>,
    pub devices: Vec<(String, Vec<Value>)>,
}

/// Where a write stands among all versions of its register. One that lost stands right before the one that it lost to, and among
/// such in the order of their session; nobody but that session sees them.
pub type Place = (i64, i64);

/// Where a write stands that was rejected, or lost with the rest of its row: its own session may see it while it waits, and need not
/// see anything because of it.
pub const NOWHERE: Place = (i64::MAX - 1, 0);

/// A transaction by its session and its number there.
pub type Name = (usize, usize);

/// A history's writes, each with its place.
pub struct Places<'h> {
    pub history: &'h History,
    places: Vec<HashMap<Value, Place>>,
    /// Values that the server never wrote.
    private: HashSet<Value>,
    writers: HashMap<Value, Name>,
}

impl<'h> Places<'h> {
    /// Fails where a write was lost without a record, was taken twice, or comes from nowhere.
    pub fn new(history: &'h History) -> Result<Self, String> {
        let mut writers = HashMap::new();
        for (session, transactions) in history.sessions.iter().map(|s| &s.transactions).enumerate() {
            for (number, transaction) in transactions.iter().enumerate() {
                for (_, value) in &transaction.writes {
                    if writers.insert(*value, (session, number)).is_some() {
                        return Err(format!("{value} was written twice: the test itself is wrong"));
                    }
                }
            }
        }
        let mut places =
            Places { history, places: vec![HashMap::from([(0, (0, 0))]); history.keys], private: HashSet::new(), writers };
        places.place_versions()?;
        places.place_losses()?;
        places.place_rejected()?;
        Ok(places)
    }

    fn place_versions(&mut self) -> Result<(), String> {
        for (key, versions) in self.history.versions.iter().enumerate() {
            for (i, version) in versions.iter().enumerate() {
                if self.places[key].insert(version.value, (2 * (i as i64 + 1), 0)).is_some() {
                    return Err(format!("register {key}: the server took {} twice", version.value));
                }
            }
        }
        Ok(())
    }

    fn place_losses(&mut self) -> Result<(), String> {
        for loss in &self.history.lost {
            let order = self.writers.get(&loss.value).map_or(0, |(_, number)| *number as i64 + 1);
            let place = match loss.to {
                None => NOWHERE,
                Some(to) => match self.places[loss.key].get(&to).copied() {
                    Some((at, 0)) => (at - 1, order),
                    _ => return Err(format!("register {}: {} lost to {to}, which was never there", loss.key, loss.value)),
                },
            };
            if self.places[loss.key].insert(loss.value, place).is_some() {
                return Err(format!("register {}: {} has lost, and was taken or recorded as well", loss.key, loss.value));
            }
            self.private.insert(loss.value);
        }
        Ok(())
    }

    fn place_rejected(&mut self) -> Result<(), String> {
        for (name, transaction) in self.history.sessions.iter().flat_map(|s| s.transactions.iter().map(move |t| (&s.name, t))) {
            for (key, value) in transaction.writes.iter().filter(|(_, value)| self.history.rejected.contains(value)) {
                if self.places[*key].insert(*value, NOWHERE).is_some() {
                    return Err(format!("register {key}: {value} of {name} was rejected, and was taken or lost as well"));
                }
                self.private.insert(*value);
            }
            let rejected = transaction.writes.iter().filter(|(_, value)| self.history.rejected.contains(value)).count();
            if rejected != 0 && rejected != transaction.writes.len() {
                return Err(format!(
                    "of a transaction of {name} {rejected} writes of {} were rejected",
                    transaction.writes.len()
                ));
            }
        }
        Ok(())
    }

    /// Where a value of a register stands; None for one that was never taken nor lost.
    pub fn of(&self, key: Key, value: Value) -> Option<Place> {
        self.places[key].get(&value).copied()
    }

    /// Who wrote a value; None for the first ones.
    pub fn writer(&self, value: Value) -> Option<Name> {
        self.writers.get(&value).copied()
    }

    /// Whether only the session that wrote it may see it.
    pub fn is_private(&self, value: Value) -> bool {
        self.private.contains(&value)
    }

    pub fn transaction(&self, (session, number): Name) -> &'h Transaction {
        &self.history.sessions[session].transactions[number]
    }

    /// Committed transactions, or those that may have, with their names.
    pub fn transactions(&self) -> impl Iterator<Item = (Name, &'h Transaction)> {
        let sessions = self.history.sessions.iter().enumerate();
        sessions.flat_map(|(s, session)| session.transactions.iter().enumerate().map(move |(n, t)| ((s, n), t)))
    }

    /// The places of everything that a transaction saw first; a value without a place counts as the beginning.
    pub fn seen(&self, transaction: &Transaction) -> Vec<Place> {
        transaction.before.iter().enumerate().map(|(key, value)| self.of(key, *value).unwrap_or_default()).collect()
    }

    /// The same where it is about what others did: over those the reader's own writes may stand that have not met them yet, so one
    /// that lost counts as what it lost to.
    pub fn shown(&self, transaction: &Transaction) -> Vec<Place> {
        let place = |(at, _): Place| (at + at.rem_euclid(2), 0);
        self.seen(transaction).into_iter().map(place).collect()
    }

    /// Transactions of which somebody sees at least one value, apart from the reader's own session.
    pub fn seen_from_others(&self, reader: usize, transaction: &Transaction) -> HashSet<Name> {
        let names = transaction.before.iter().filter_map(|value| self.writer(*value));
        names.filter(|(session, _)| *session != reader).collect()
    }

    /// A transaction for messages.
    pub fn describe(&self, (session, number): Name) -> String {
        format!("transaction {number} of {}", self.history.sessions[session].name)
    }
}
