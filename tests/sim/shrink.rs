//! The shortest part of a failing script that still fails in the same way.

use crate::plan::{Plan, Step};

/// Leaves out steps, first many at once and then one by one, as long as `fails` says that the rest fails like the whole.
pub fn shortest(plan: &Plan, fails: impl Fn(&Plan) -> bool) -> Plan {
    let mut best = plan.clone();
    let mut size = best.steps.len().div_ceil(2);
    loop {
        let mut at = 0;
        let mut shorter = false;
        while at < best.steps.len() {
            let rest: Vec<Step> =
                best.steps.iter().enumerate().filter(|(i, _)| !(at..at + size).contains(i)).map(|(_, s)| *s).collect();
            let candidate = Plan { steps: rest, ..best.clone() };
            if fails(&candidate) {
                best = candidate;
                shorter = true;
            } else {
                at += size;
            }
        }
        if size == 1 && !shorter {
            return best;
        }
        size = (size / 2).max(1);
    }
}

/// What a failure is about, without the values: two runs fail alike when this is the same.
pub fn kind_of(failure: &str) -> String {
    failure.lines().next().unwrap_or("").chars().filter(|c| c.is_alphabetic() || *c == ' ').take(60).collect()
}
