//! Devices say where the server's sums seem to be wrong; maintenance then compares those tables with their rows.

use super::subtransaction;
use crate::catalog;
use crate::error::spi;
use crate::pull::{members, sums};
use crate::query::Kept;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use std::collections::{HashMap, HashSet};
use sync_shared::hash::BucketId;
use sync_shared::message::Differ;

/// Believes a device only so far: tables of buckets that its user may hold, whose sums are known here and others than the device's. Each is
/// compared once a day at most for whatever devices say (`sync.doubt_of_devices`). What fails here is no fault of the push.
pub fn note(differ: &Differ, user: &str) {
    if differ.parts.is_empty() {
        return;
    }
    let noted = subtransaction::run(|| {
        for relation in tables(differ, user) {
            let sql = Kept("SELECT sync.doubt_of_devices($1::oid::regclass)");
            spi("having a table compared", Spi::connect_mut(|c| c.update(sql, None, &[relation.into()]).map(|_| ())));
        }
        Ok(())
    });
    if let Err(refusal) = noted {
        log!("pg_sync: what a device of {user} says about sums was passed over: {}", refusal.message);
    }
}

fn tables(differ: &Differ, user: &str) -> HashSet<Oid> {
    let rules = catalog::rules();
    let members = members::of(user, &rules, &differ.subscriptions);
    let rule_of: HashMap<BucketId, usize> = members.iter().map(|m| (m.id, m.rule)).collect();
    let held: Vec<_> = differ.parts.iter().filter_map(|part| Some((part, &rules[*rule_of.get(&part.bucket)?]))).collect();
    let ours = sums::of(&held.iter().map(|(part, _)| part.bucket).collect::<Vec<_>>());
    let differs = held.into_iter().filter_map(|(part, rule)| {
        let entry = rule.entries.iter().find(|e| e.id == part.entry && e.ready)?;
        (ours.get(&(part.bucket, part.entry)).copied().unwrap_or_default() != part.content).then_some(entry.relation)
    });
    differs.collect()
}
