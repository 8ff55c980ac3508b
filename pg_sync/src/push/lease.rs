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
use serde_bytes::ByteArray;
use sync_shared::message::{KeyLease, PushRequest, TableMode};
use sync_shared::{hash, limits};
use uuid::Uuid;

/// What the devices of a user may be given in a day, in leases.
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

/// Leases that this server has forgotten in a restore are remembered, and their numbers never given again. What it did not give
/// itself, to this user, is passed over: anybody may say anything.
pub fn recall(request: &PushRequest, device: &Device) {
    if request.held.is_empty() {
        return;
    }
    let tables = catalog::tables_tagged(Some(request.held.iter().map(|held| i64::from(held.table)).collect()));
    let secrets = secrets();
    for held in &request.held {
        pgrx::check_for_interrupts!();
        let said = said(held, &device.user);
        let proves = |secret: &[u8; 32]| {
            let made = hash::proof(secret, &said);
            made.iter().zip(held.proof.iter()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
        };
        let table = tables.iter().find(|t| t.tag == held.table);
        let Some((table, sequence)) = table.and_then(|t| Some((t, catalog::key_sequence(t.relation)?))) else { continue };
        if secrets.iter().any(proves) {
            let last = held.first.saturating_add(held.step.saturating_mul(i64::from(held.count) - 1));
            spi("passing numbers", remember(device.id, table.relation, held, sequence.sequence, last));
        }
    }
    crate::wal::flush();
}

/// A lease as it is signed.
fn said(lease: &KeyLease, user: &str) -> Vec<u8> {
    let KeyLease { table, first, step, count, .. } = lease;
    format!("{table} {first} {step} {count} {user}").into_bytes()
}

/// The first one signs.
fn secrets() -> Vec<[u8; 32]> {
    let read = Spi::connect(|c| {
        let rows = c.select("SELECT secret FROM sync.secret ORDER BY made, secret", None, &[])?;
        rows.map(|row| row.get::<Vec<u8>>(1)).collect::<spi::Result<Vec<_>>>()
    });
    spi("reading sync.secret", read).into_iter().flatten().filter_map(|secret| secret.try_into().ok()).collect()
}

/// Not counted as given today.
fn remember(device: Uuid, relation: Oid, held: &KeyLease, sequence: Oid, last: i64) -> spi::Result<()> {
    Spi::run_with_args(
        "INSERT INTO sync.key_lease (device, relid, first, step, count, at)
         SELECT $1, $2, $3, $4, $5, now() - interval '1 day' WHERE NOT EXISTS (
             SELECT FROM sync.key_lease l WHERE l.relid = $2 AND l.first = $3 AND l.step = $4 AND l.count = $5
                 AND l.device IN (SELECT o.device FROM sync.device d JOIN sync.device o USING (user_id) WHERE d.device = $1))",
        &[registry::pg(device).into(), relation.into(), held.first.into(), held.step.into(), i64::from(held.count).into()],
    )?;
    Spi::run_with_args("SELECT sync.pass_key($1::oid::regclass, $2)", &[sequence.into(), last.into()])
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
    let (most, today) = spi("reading leases", allowance(&device.user, table.relation));
    let left = (most.saturating_mul(LEASES_PER_DAY) - today).clamp(0, most);
    let count = i64::from(wanted).min(left);
    if count == 0 && wanted > 0 {
        return Err(format!("this user's devices got {today} in a day, see the setting sync.keys_per_lease"));
    }
    let keys = subtransaction::run(|| Ok(spi("taking numbers from a sequence", take(&sequence, count))));
    let keys = keys.map_err(|refusal| refusal.message)?;
    if keys.is_empty() && count > 0 {
        return Err("its sequence has no numbers left that fit in the key".into());
    }
    let Some(secret) = secrets().into_iter().next() else { return Err("sync.secret is empty: insert 32 random bytes".into()) };
    let signed = |(first, count)| {
        let lease = KeyLease { table: table.tag, first, step: sequence.step, count, proof: Default::default() };
        KeyLease { proof: ByteArray::new(hash::proof(&secret, &said(&lease, &device.user))), ..lease }
    };
    let leases: Vec<KeyLease> = runs(&keys, sequence.step).map(signed).collect();
    spi("recording leases", record(device.id, table.relation, &leases));
    Ok(leases)
}

/// How many numbers a lease may have, and how many of this table the user's devices got within a day.
fn allowance(user: &str, relation: Oid) -> spi::Result<(i64, i64)> {
    let sql = "SELECT greatest(sync.keys_per_lease(), 0)::bigint,
                   (SELECT coalesce(sum(l.count), 0)::bigint FROM sync.device d JOIN sync.key_lease l USING (device)
                    WHERE d.user_id = $1 AND l.relid = $2 AND l.at > now() - interval '1 day')";
    let found = Spi::connect(|c| c.select(sql, Some(1), &[user.into(), relation.into()])?.first().get_two::<i64, i64>())?;
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
