//! What a run was made of: steps, messages and verdicts by kind, with their shares.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

/// How often each kind of a group happened.
#[derive(Debug, Default, Clone)]
pub struct Counts(RefCell<BTreeMap<&'static str, BTreeMap<String, u64>>>);

impl Counts {
    /// One more of a kind.
    pub fn add(&self, group: &'static str, kind: impl Into<String>) {
        self.more(group, kind.into(), 1);
    }

    /// So many more of a kind.
    pub fn more(&self, group: &'static str, kind: String, n: u64) {
        *self.0.borrow_mut().entry(group).or_default().entry(kind).or_default() += n;
    }

    /// Those of another run too.
    pub fn join(&self, other: &Counts) {
        for (group, kinds) in other.0.borrow().iter() {
            kinds.iter().for_each(|(kind, n)| self.more(group, kind.clone(), *n));
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (group, kinds) in self.0.borrow().iter() {
            let all: u64 = kinds.values().sum();
            let mut kinds: Vec<_> = kinds.iter().collect();
            kinds.sort_by_key(|(kind, n)| (u64::MAX - **n, *kind));
            let share = |n: u64| n as f64 * 100.0 / all as f64;
            let shares: Vec<_> = kinds.iter().map(|(kind, n)| format!("{kind} {:.1} %", share(**n))).collect();
            writeln!(f, "{all} {group}: {}", shares.join(", "))?;
        }
        Ok(())
    }
}
