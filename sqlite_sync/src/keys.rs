//! Keys that the server takes from a sequence: leased numbers, and rows whose key SQLite chose.
//!
//! What must stay true: a row whose key SQLite chose is not sent before it has a leased number, nor is a batch that depends on it;
//! a leased number is given once.

use crate::error::{Error, Result};
use crate::file;
use crate::host::Db;
use crate::meta;
use crate::order;
use crate::rekey::{self, Move};
use crate::store::{unpack_change, Store};
use crate::table::{self, Key, TableInfo};
use serde_bytes::ByteArray;
use std::collections::HashMap;
use sync_shared::limits;
use sync_shared::message::{ChangeKind, KeyLease, KeyWant, TableMode};
use sync_shared::{Value, ValueRef};

/// Pushes in a row that asked for numbers and got none, after which they are asked for only where a row waits, or once a day.
const REFUSALS: i64 = 3;

/// Whether the keys of a table come from leases on this device.
pub fn leases(info: &TableInfo) -> bool {
    info.table.key_from_sequence && info.is_rowid() && info.table.mode != TableMode::ReadOnly && !info.retired
}

/// What the next push asks for. Once per round, unless what was asked for came.
pub fn wants(db: Db<'_>) -> Result<Vec<KeyWant>> {
    if meta::number(db, "keys_asked")? != 0 {
        return Ok(Vec::new());
    }
    let refused = meta::number(db, "keys_refused")? >= REFUSALS;
    let usual = meta::setting(db, "keys_per_table", 1000)?;
    let mut wants = Vec::new();
    for info in table::load(db)?.iter().filter(|t| leases(t)) {
        let id = [ValueRef::Integer(info.id)];
        let stock = db.number("SELECT coalesce(sum(remaining), 0) FROM main.sync_lease WHERE tbl = ?1", &id)?;
        let needed = db.number("SELECT count(*) FROM main.sync_change c JOIN main.sync_batch b ON b.id = c.batch WHERE c.chosen AND c.tbl = ?1 AND b.replay < 2", &id)?;
        if stock < needed || (stock < usual / 2 && !refused) {
            let count = usual.saturating_add(needed).saturating_sub(stock).clamp(1, i64::from(limits::KEYS_PER_LEASE));
            wants.push(KeyWant { table: info.table.tag, count: u32::try_from(count).unwrap_or(limits::KEYS_PER_LEASE) });
        }
    }
    Ok(wants)
}

/// Takes what the server leased, and gives it to the rows that wait for it. While a publish writes.
pub fn receive(store: &mut Store<'_>, given: &[KeyLease]) -> Result<()> {
    let db = store.db;
    let mut fresh = 0;
    for lease in given {
        let damaged = || Error::damaged(format_args!("a lease of {} numbers from {} cannot be", lease.count, lease.first));
        let length = i64::from(lease.count).checked_sub(1).and_then(|n| n.checked_mul(lease.step));
        let fits = length.and_then(|length| lease.first.checked_add(length)).is_some();
        if !fits || lease.step == 0 || lease.count == 0 || lease.count > limits::KEYS_PER_LEASE {
            return Err(damaged());
        }
        let Some(info) = store.infos.iter().find(|t| t.table.tag == lease.table && leases(t)) else { continue };
        db.run(
            "INSERT OR IGNORE INTO main.sync_lease VALUES (?1, ?2, ?3, ?2, ?4, ?4, ?5, 0)",
            &[
                ValueRef::Integer(info.id),
                ValueRef::Integer(lease.first),
                ValueRef::Integer(lease.step),
                ValueRef::Integer(i64::from(lease.count)),
                ValueRef::Blob(lease.proof.as_slice()),
            ],
        )?;
        fresh += db.changes();
    }
    if fresh > 0 {
        db.run("DELETE FROM main.sync_meta WHERE name IN ('keys_asked', 'keys_refused')", &[])?;
        return provide(store);
    }
    if meta::number(db, "keys_asked")? != 0 {
        meta::set_number(db, "keys_refused", meta::number(db, "keys_refused")?.saturating_add(1))?;
    }
    Ok(())
}

/// The server went back in time: it may not know what it leased, and is told. What remains of it is not used.
pub fn hold(db: Db<'_>) -> Result<()> {
    db.run("UPDATE main.sync_lease SET remaining = 0, held = 1", &[])
}

/// What the next push tells of leases that the server may have forgotten.
pub fn held(db: Db<'_>) -> Result<Vec<KeyLease>> {
    let which = "held > 0 ORDER BY tbl, first LIMIT ?1";
    let most = [ValueRef::Integer(limits::HELD_LEASES as i64)];
    // One that was counted down to 0 has all its numbers behind it.
    let sql = format!("SELECT t.tag, l.first, l.step, l.size, l.proof FROM main.sync_lease l JOIN main.sync_table t ON t.id = l.tbl WHERE {which}");
    let held = db.all(&sql, &most, |row| {
        let proof = row.blob(4).try_into().unwrap_or_default();
        let (count, table) = (u32::try_from(row.integer(3)).unwrap_or(0), u32::try_from(row.integer(0)).unwrap_or(0));
        Ok(KeyLease { table, first: row.integer(1), step: row.integer(2), count, proof: ByteArray::new(proof) })
    })?;
    if !held.is_empty() {
        let sql = format!(
            "UPDATE main.sync_lease SET held = 2 WHERE (tbl, first) IN (SELECT tbl, first FROM main.sync_lease WHERE {which})"
        );
        db.run(&sql, &most)?;
    }
    Ok(held)
}

/// The server has heard of them.
pub fn told(db: Db<'_>) -> Result<()> {
    db.run("DELETE FROM main.sync_lease WHERE held = 2", &[])
}

/// Takes one number, in one statement: two connections never get the same one.
const TAKE: &str = "UPDATE main.sync_lease SET remaining = remaining - 1, next = iif(remaining > 1, next + step, next)
    WHERE tbl = ?1 AND first = (SELECT first FROM main.sync_lease WHERE tbl = ?1 AND remaining > 0 ORDER BY first LIMIT 1)
    RETURNING iif(remaining > 0, next - step, next)";

/// The next leased number of a table, which is not given again; `own` is what the row has that it is for. None: there is none.
fn take(store: &mut Store<'_>, at: usize, own: Option<i64>) -> Result<Option<i64>> {
    let db = store.db;
    let id = store.infos[at].id;
    let sql = "SELECT EXISTS (SELECT 1 FROM main.sync_change c JOIN main.sync_batch b ON b.id = c.batch \
               WHERE c.tbl = ?1 AND c.key = ?2 AND b.state IN (0, 1, 4))";
    loop {
        let Some(next) = db.first(TAKE, &[ValueRef::Integer(id)], |r| Ok(r.integer(0)))? else { return Ok(None) };
        // Another row may have it, or have had it: the application took it unasked, or SQLite chose it.
        let used = || db.number(sql, &[ValueRef::Integer(id), ValueRef::Integer(next)]);
        if own == Some(next) || (store.visible(at, &Key(vec![Value::Integer(next)]))?.is_none() && used()? == 0) {
            return Ok(Some(next));
        }
    }
}

/// `sync_next_id`: a number for a row that the application inserts. It may be asked for inside the insert itself.
pub fn next_id(db: Db<'_>, name: &str) -> Result<i64> {
    file::ready(db)?;
    let mut store = Store::open(db)?;
    let at = store.infos.iter().position(|t| t.table.name.eq_ignore_ascii_case(name) && !t.retired);
    let at = at.ok_or_else(|| Error::plain(format!("there is no synced table {name}")))?;
    if !store.infos[at].table.key_from_sequence {
        return Err(Error::plain(format!("the key of {name} does not come from a sequence on the server: choose one yourself")));
    }
    take(&mut store, at, None)?.ok_or_else(|| {
        Error::plain(format!(
            "no numbers are left for {name}: sync once while online, or raise the setting keys_per_table before"
        ))
    })
}

/// Gives leased numbers to rows that wait for them, the oldest first; batches that wait for none may be sent. While a publish writes.
pub fn provide(store: &mut Store<'_>) -> Result<()> {
    let db = store.db;
    let waiting = db.all(
        "SELECT c.id, c.batch, c.tbl, c.key FROM main.sync_change c JOIN main.sync_batch b ON b.id = c.batch \
         WHERE c.chosen AND b.replay < 2 ORDER BY c.id",
        &[],
        |r| Ok((r.integer(0), r.integer(1), r.integer(2), r.integer(3))),
    )?;
    let mut moves: HashMap<usize, Vec<Move>> = HashMap::new();
    let mut settled = db.prepare("UPDATE main.sync_change SET chosen = 0 WHERE id = ?1")?;
    for (change, batch, table, old) in waiting {
        let Some(at) = store.by_id(table) else { continue };
        // A table whose key comes from no sequence any more keeps the keys that it has.
        let new = if leases(&store.infos[at]) { fitting(store, at, old)? } else { Some(old) };
        let Some(new) = new else { continue };
        settled.run(&[ValueRef::Integer(change)])?;
        if new != old {
            moves.entry(at).or_default().push(Move { batch, old, new });
        }
    }
    for (at, moves) in moves {
        rekey::apply(store, at, &moves)?;
    }
    release(store)
}

/// A leased number for a row: its own, where that happens to be the next.
fn fitting(store: &mut Store<'_>, at: usize, old: i64) -> Result<Option<i64>> {
    let db = store.db;
    let binds = [ValueRef::Integer(store.infos[at].id), ValueRef::Integer(old)];
    let sql = "UPDATE main.sync_lease SET remaining = remaining - 1, next = iif(remaining > 1, next + step, next) \
               WHERE tbl = ?1 AND next = ?2 AND remaining > 0";
    db.run(sql, &binds)?;
    if db.changes() > 0 {
        return Ok(Some(old));
    }
    take(store, at, Some(old))
}

/// Says anew which batches wait for a number: for one of their own, or for one of a batch that they depend on.
fn release(store: &mut Store<'_>) -> Result<()> {
    let db = store.db;
    for id in db.all("SELECT id FROM main.sync_batch WHERE keyless > 0 ORDER BY id", &[], |r| Ok(r.integer(0)))? {
        let own =
            db.number("SELECT EXISTS (SELECT 1 FROM main.sync_change WHERE chosen AND batch = ?1)", &[ValueRef::Integer(id)])?;
        let waits = if own != 0 { 1 } else { 2 * i64::from(order::depends_on_keyless(store, id)?) };
        order::set_keyless(db, id, waits)?;
    }
    Ok(())
}

/// This file is a copy, and the other one may use the same numbers: new rows that have not been answered for get others.
pub fn forked(db: Db<'_>) -> Result<()> {
    let used = db.all("SELECT tbl, first, step, next, remaining FROM main.sync_lease", &[], |r| {
        Ok((r.integer(0), r.integer(1), r.integer(2), r.integer(3), r.integer(4)))
    })?;
    for (table, first, step, next, remaining) in used {
        let last = if remaining > 0 { next.saturating_sub(step) } else { next };
        let binds = [ValueRef::Integer(table), ValueRef::Integer(first.min(last)), ValueRef::Integer(first.max(last))];
        let written = db.all(
            "SELECT c.id, c.batch, c.body FROM main.sync_change c JOIN main.sync_batch b ON b.id = c.batch \
             WHERE b.state = 0 AND b.replay AND c.tbl = ?1 AND c.key BETWEEN ?2 AND ?3",
            &binds,
            |r| Ok((r.integer(0), r.integer(1), r.blob(2))),
        )?;
        for (change, batch, body) in written {
            if unpack_change(&body)?.kind == ChangeKind::Insert {
                db.run("UPDATE main.sync_change SET chosen = 1 WHERE id = ?1", &[ValueRef::Integer(change)])?;
                order::set_keyless(db, batch, 1)?;
            }
        }
    }
    db.run("DELETE FROM main.sync_lease", &[])
}
