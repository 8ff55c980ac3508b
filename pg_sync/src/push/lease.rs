//! Numbers for the keys of rows that a device will insert offline, from the same sequence that the server's own inserts use.
//!
//! A sequence never goes back, so a number is given once, also if the push or its reply is lost: then it is only lost too.

use super::registry::{self, Device};
use super::role;
use super::subtransaction;
use crate::catalog::{self, KeySequence, SyncedTable};
use crate::error::spi;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use sync_shared::limits;
use sync_shared::message::{KeyLease, PushRequest, TableMode};
use uuid::Uuid;

/// What a device may be given in a day, in leases.
const LEASES_PER_DAY: i64 = 10;

/// Gives what the request wants, as far as the writing role may insert, and says why not otherwise.
pub fn give(request: &PushRequest, device: &Device, writer: Oid) -> (Vec<KeyLease>, String) {
    let mut wants = request.wants.clone();
    wants.sort_unstable_by_key(|want| want.table);
    wants.dedup_by_key(|want| want.table);
    let tables = match wants.is_empty() {
        true => Vec::new(),
        false => catalog::tables_tagged(Some(wants.iter().map(|want| i64::from(want.table)).collect())),
    };
    let (mut leases, mut refused) = (Vec::new(), Vec::new());
    for want in &wants {
        pgrx::check_for_interrupts!();
        let Some(table) = tables.iter().find(|t| t.tag == want.table) else {
            refused.push(format!("no table with the tag {} is synced (any longer)", want.table));
            continue;
        };
        match lease(table, want.count.min(limits::KEYS_PER_LEASE), device, writer) {
            Ok(found) => leases.extend(found),
            Err(why) => refused.push(format!("table {}: {why}", table.name)),
        }
    }
    if !leases.is_empty() {
        // The reply may be read before this transaction is on disk; after a crash the numbers must not be given again.
        crate::wal::flush();
    }
    if refused.is_empty() {
        return (leases, String::new());
    }
    (leases, format!("no numbers for keys: {}", refused.join("; ")))
}

fn lease(table: &SyncedTable, wanted: u32, device: &Device, writer: Oid) -> Result<Vec<KeyLease>, String> {
    let Some(sequence) = catalog::key_sequence(table.relation) else {
        return Err("its key is not a single integer from a sequence that does not cycle".into());
    };
    if table.mode == TableMode::ReadOnly {
        return Err("it is read_only for devices".into());
    }
    if !role::may_insert(table.relation, writer) {
        return Err("the user may not insert into it".into());
    }
    let (most, today) = spi("reading leases", allowance(device.id, table.relation));
    let left = (most.saturating_mul(LEASES_PER_DAY) - today).clamp(0, most);
    let count = i64::from(wanted).min(left);
    if count == 0 && wanted > 0 {
        return Err(format!("this device got {today} in a day, see the setting sync.keys_per_lease"));
    }
    let keys = subtransaction::run(|| Ok(spi("taking numbers from a sequence", take(&sequence, count))));
    let keys = keys.map_err(|refusal| refusal.message)?;
    if keys.is_empty() && count > 0 {
        return Err("its sequence has no numbers left that fit in the key".into());
    }
    let leases: Vec<KeyLease> = runs(&keys, sequence.step)
        .map(|(first, count)| KeyLease { table: table.tag, first, step: sequence.step, count })
        .collect();
    spi("recording leases", record(device.id, table.relation, &leases));
    Ok(leases)
}

/// How many numbers a lease may have, and how many of this table the device got within a day.
fn allowance(device: Uuid, relation: Oid) -> spi::Result<(i64, i64)> {
    let sql = "SELECT greatest(sync.keys_per_lease(), 0)::bigint,
                   (SELECT coalesce(sum(l.count), 0)::bigint FROM sync.key_lease l
                    WHERE l.device = $1 AND l.relid = $2 AND l.at > now() - interval '1 day')";
    let found =
        Spi::connect(|c| c.select(sql, Some(1), &[registry::pg(device).into(), relation.into()])?.first().get_two::<i64, i64>())?;
    Ok((found.0.unwrap_or_default(), found.1.unwrap_or_default()))
}

fn take(sequence: &KeySequence, count: i64) -> spi::Result<Vec<i64>> {
    let arguments =
        [sequence.sequence.into(), (count as i32).into(), (*sequence.fits.start()).into(), (*sequence.fits.end()).into()];
    let sql = "SELECT sync.take_keys($1::oid::regclass, $2, $3, $4)";
    Ok(Spi::get_one_with_args::<Vec<i64>>(sql, &arguments)?.unwrap_or_default())
}

/// Numbers that follow each other, as first and count.
fn runs(keys: &[i64], step: i64) -> impl Iterator<Item = (i64, u32)> + '_ {
    keys.chunk_by(move |a, b| a.checked_add(step) == Some(*b)).map(|run| (run[0], run.len() as u32))
}

fn record(device: Uuid, relation: Oid, leases: &[KeyLease]) -> spi::Result<()> {
    let column = |of: fn(&KeyLease) -> i64| leases.iter().map(of).collect::<Vec<i64>>();
    Spi::run_with_args(
        "INSERT INTO sync.key_lease (device, relid, first, step, count)
         SELECT $1, $2, l.* FROM unnest($3::bigint[], $4::bigint[], $5::bigint[]::integer[]) AS l",
        &[
            registry::pg(device).into(),
            relation.into(),
            column(|l| l.first).into(),
            column(|l| l.step).into(),
            column(|l| i64::from(l.count)).into(),
        ],
    )
}

/// Whether a number was leased to a device, or to another one of its user.
pub fn is_leased(device: Uuid, relation: Oid, key: i64) -> bool {
    let sql = "SELECT EXISTS (
                   SELECT FROM sync.device d JOIN sync.device o ON o.user_id = d.user_id JOIN sync.key_lease l ON l.device = o.device
                   WHERE d.device = $1 AND l.relid = $2
                       AND ($3::numeric - l.first) / l.step BETWEEN 0 AND l.count - 1 AND mod($3::numeric - l.first, l.step) = 0)";
    let arguments = [registry::pg(device).into(), relation.into(), key.into()];
    let found = Spi::connect(|c| c.select(sql, Some(1), &arguments)?.first().get_one::<bool>());
    spi("looking for a lease", found).unwrap_or(false)
}
