//! Local transactions on their way to the server: kept, numbered, sent, answered, confirmed.
//!
//! What must stay true: a number is given when a batch is first sent, and never to two batches of one device id; the random
//! bytes stay with a batch for ever, so that the server recognises one that it has under whatever number.

use crate::error::{Error, Result};
use crate::host::Db;
use crate::meta;
use crate::store::{pack_change, unpack_change, Store};
use crate::table::{Key, TableInfo};
use serde_bytes::ByteArray;
use serde_json::json;
use sync_shared::message::{Batch, BatchId, BatchResult, Change, ChangeKind, PushReply, PushRequest, PushState, Verdict};
use sync_shared::{envelope, limits, Value, ValueRef};
use uuid::Uuid;

// States of a batch, as sql/tables.sql lists them. 2 is confirmed, 3 rejected.
pub const WAITING: i64 = 0;
pub const ANSWERED: i64 = 1;
pub const HELD: i64 = 4;

/// Bytes of a batch on the wire beside its changes, at most.
const BATCH_FRAME: usize = 512;
/// Answers without progress in a row, after which the device waits for the next pull.
const STALLS: i64 = 3;
/// After this long without a push an empty one renews the lease, in microseconds.
const RENEW_MICROS: i64 = 24 * 3600 * 1_000_000;

/// Keeps a sealed transaction. False: it is too large to be sent, and was rejected.
pub fn keep(db: Db<'_>, infos: &[TableInfo], changes: Vec<(i64, Change)>, edited: i64, user: &str) -> Result<bool> {
    let random = Uuid::new_v4().into_bytes();
    let id = db.number(
        "INSERT INTO main.sync_batch(random, edited, user, bytes) VALUES (?1, ?2, ?3, 0) RETURNING id",
        &[ValueRef::Blob(&random), ValueRef::Integer(edited), ValueRef::Text(user)],
    )?;
    let mut bytes = BATCH_FRAME;
    let mut insert = db.prepare("INSERT INTO main.sync_change(batch, tbl, key, body) VALUES (?1, ?2, ?3, ?4)")?;
    let mut scratch = Vec::new();
    for (table, change) in changes {
        let body = pack_change(&change)?;
        bytes += body.len();
        let key = Key(change.key);
        insert.run(&[ValueRef::Integer(id), ValueRef::Integer(table), key.stored(&mut scratch), ValueRef::Blob(&body)])?;
    }
    db.run("UPDATE main.sync_batch SET bytes = ?2 WHERE id = ?1", &[ValueRef::Integer(id), ValueRef::Integer(bytes as i64)])?;
    let limit = meta::setting(db, "batch_bytes", limits::BATCH_BYTES as i64)?.min(limits::BATCH_BYTES as i64);
    if bytes as i64 <= limit {
        return Ok(true);
    }
    let message = format!(
        "this transaction has {bytes} bytes, more than the {limit} that the setting batch_bytes (in sync_setting, at most {}) allows: write the rows again in smaller transactions",
        limits::BATCH_BYTES
    );
    reject(db, infos, id, "too_large", &message, "")?;
    Ok(false)
}

fn reject(db: Db<'_>, infos: &[TableInfo], id: i64, code: &str, message: &str, subject: &str) -> Result<()> {
    let json = as_json(infos, &changes_of(db, id)?).to_string();
    db.run(
        "UPDATE main.sync_batch SET state = 3, replay = 0, verdict = 'rejected', code = ?2, message = ?3, subject = ?4, at = ?5, json = ?6 WHERE id = ?1",
        &[
            ValueRef::Integer(id),
            ValueRef::Text(code),
            ValueRef::Text(message),
            ValueRef::Text(subject),
            ValueRef::Integer(meta::now()),
            ValueRef::Text(&json),
        ],
    )
}

fn changes_of(db: Db<'_>, id: i64) -> Result<Vec<Change>> {
    db.all("SELECT body FROM main.sync_change WHERE batch = ?1 ORDER BY id", &[ValueRef::Integer(id)], |row| {
        unpack_change(&row.blob(0))
    })
}

/// A value as people read it; bytes in hexadecimal.
pub fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(i) => json!(i),
        Value::Real(r) => json!(r),
        Value::Text(t) => json!(t),
        Value::Blob(b) => json!({ "hex": b.iter().map(|b| format!("{b:02x}")).collect::<String>() }),
    }
}

fn as_json(infos: &[TableInfo], changes: &[Change]) -> serde_json::Value {
    let one = |change: &Change| {
        let info = infos.iter().find(|t| t.table.tag == change.table);
        let name = |tag: &u32| {
            let column = info.and_then(|t| t.position(*tag).map(|p| t.table.columns[p].name.clone()));
            column.unwrap_or_else(|| tag.to_string())
        };
        let row = |values: &[Value]| {
            let pairs = change.columns.iter().zip(values).map(|(tag, value)| (name(tag), json_value(value)));
            pairs.collect::<serde_json::Map<_, _>>()
        };
        json!({
            "table": info.map_or_else(|| change.table.to_string(), |t| t.table.name.clone()),
            "kind": match change.kind { ChangeKind::Insert => "insert", ChangeKind::Update => "update", ChangeKind::Delete => "delete" },
            "key": change.key.iter().map(json_value).collect::<Vec<_>>(),
            "old": row(&change.old),
            "new": row(&change.new),
        })
    };
    changes.iter().map(one).collect()
}

/// The next push, or None when nothing may be sent now.
pub fn next_push(db: Db<'_>) -> Result<Option<Vec<u8>>> {
    if meta::number(db, "deferred")? != 0 {
        return Ok(None);
    }
    let user = meta::text(db, "user")?;
    // A batch of another user that has a number but was never taken gives it back, with those behind it.
    let foreign = db.number(
        "SELECT coalesce(min(number), 0) FROM main.sync_batch WHERE state = 0 AND number IS NOT NULL AND user <> ?1 AND user <> '' AND ?1 <> ''",
        &[ValueRef::Text(&user)],
    )?;
    if foreign > 0 {
        take_back(db, foreign - 1)?;
    }
    let mut found = db.all(
        "SELECT id, number, random, edited, user, bytes FROM main.sync_batch WHERE state = 0 AND (user = ?1 OR user = '' OR ?1 = '') \
         ORDER BY coalesce(number, 9223372036854775807), id LIMIT ?2",
        &[ValueRef::Text(&user), ValueRef::Integer(limits::BATCHES_PER_PUSH as i64)],
        |row| {
            let random: [u8; 16] = row.blob(2).try_into().map_err(|_| Error::plain("sync_batch is damaged: a batch has no random bytes"))?;
            let number = if let ValueRef::Integer(n) = row.value(1) { Some(n) } else { None };
            Ok((row.integer(0), number, random, row.integer(3), row.text(4), row.integer(5) as usize))
        },
    )?;
    let mut total = 0;
    let fits = found
        .iter()
        .take_while(|b| {
            total += b.5;
            total <= limits::PUSH_BYTES
        })
        .count();
    found.truncate(fits.max(1));
    if found.is_empty() && !registers(db)? {
        return Ok(None);
    }
    let mut batches = Vec::with_capacity(found.len());
    for (id, number, random, edited, user, _) in found {
        let number = match number {
            Some(number) => number,
            None => {
                let next = meta::number(db, "last_number")? + 1;
                meta::set_number(db, "last_number", next)?;
                db.run(
                    "UPDATE main.sync_batch SET number = ?2 WHERE id = ?1",
                    &[ValueRef::Integer(id), ValueRef::Integer(next)],
                )?;
                next
            }
        };
        batches.push(Batch {
            id: BatchId { number, random: ByteArray::new(random) },
            edited,
            user,
            changes: changes_of(db, id)?,
            note: String::new(),
        });
    }
    Ok(Some(envelope::encode(&PushRequest { device: meta::device(db)?, batches, wants: Vec::new() })?))
}

/// Whether an empty push is due: once for a device that has published but is not known to the server, and once a day.
fn registers(db: Db<'_>) -> Result<bool> {
    let last = meta::number(db, "pushed_at")?;
    let due = meta::number(db, "published_at")? > 0
        && meta::now().saturating_sub(last) > RENEW_MICROS
        && meta::number(db, "asked")? == 0;
    if due {
        meta::set_number(db, "asked", 1)?;
    }
    Ok(due)
}

/// Numbers above `last` that the server does not have are free again.
fn take_back(db: Db<'_>, last: i64) -> Result<()> {
    db.run("UPDATE main.sync_batch SET number = NULL WHERE state IN (0, 4) AND number > ?1", &[ValueRef::Integer(last)])?;
    let highest = db.number("SELECT coalesce(max(number), 0) FROM main.sync_batch", &[])?;
    meta::set_number(db, "last_number", last.max(highest))
}

/// The server's answer to a push.
pub fn answered(store: &mut Store<'_>, reply: &PushReply, verdicts: &mut [i64; 5]) -> Result<()> {
    let db = store.db;
    signed_in(db, &reply.user)?;
    let mut progress = false;
    // Also beside a gap or a refusal: what was looked at before has its verdict.
    for result in &reply.results {
        progress |= one_answer(store, reply, result, verdicts)?;
    }
    match reply.state {
        // With a message all is not well: a server that only reads has registered nobody.
        PushState::Taken if reply.message.is_empty() => meta::set_number(db, "pushed_at", meta::now())?,
        PushState::Taken => {}
        PushState::Fork => renumber(db)?,
        PushState::Gap => gap(db, reply.last.map_or(0, |l| l.number))?,
        PushState::Refused | PushState::Revoked => meta::set_number(db, "deferred", 1)?,
    }
    progress |= db.number("SELECT count(*) FROM main.sync_batch WHERE state = 0 AND number IS NOT NULL", &[])? == 0;
    let stalls = if progress { 0 } else { meta::number(db, "stalls")? + 1 };
    meta::set_number(db, "stalls", stalls)?;
    if stalls >= STALLS || (reply.state == PushState::Taken && !progress) {
        meta::set_number(db, "deferred", 1)?;
    }
    Ok(())
}

fn one_answer(store: &mut Store<'_>, reply: &PushReply, result: &BatchResult, verdicts: &mut [i64; 5]) -> Result<bool> {
    let db = store.db;
    verdicts[usize::from(u8::from(result.verdict)) - 1] += 1;
    let random = result.id.random.into_array();
    let Some(id) =
        db.first("SELECT id FROM main.sync_batch WHERE random = ?1 AND state = 0", &[ValueRef::Blob(&random)], |r| {
            Ok(r.integer(0))
        })?
    else {
        return Ok(false);
    };
    let note = |state: i64, verdict: &str| {
        db.run(
            "UPDATE main.sync_batch SET state = ?2, verdict = ?3, code = ?4, message = ?5, subject = ?6, at = ?7 WHERE id = ?1",
            &[
                ValueRef::Integer(id),
                ValueRef::Integer(state),
                ValueRef::Text(verdict),
                ValueRef::Text(&result.code),
                ValueRef::Text(&result.message),
                ValueRef::Text(&result.subject),
                ValueRef::Integer(meta::now()),
            ],
        )
    };
    match result.verdict {
        Verdict::Accepted => note(ANSWERED, "accepted")?,
        Verdict::Merged => note(ANSWERED, "merged")?,
        Verdict::Rejected => {
            reject(db, &store.infos, id, &result.code, &result.message, &result.subject)?;
            store.settle_batch(id)?;
        }
        Verdict::Later => {
            note(WAITING, "later")?;
            meta::set_number(db, "deferred", 1)?;
        }
        Verdict::Held => {
            note(HELD, "held")?;
            let last = reply.last.map_or(0, |l| l.number);
            if last < result.id.number {
                take_back(db, last)?;
            }
        }
    }
    keep_conflicts(store, id, result)?;
    Ok(result.verdict != Verdict::Later)
}

fn keep_conflicts(store: &Store<'_>, batch: i64, result: &BatchResult) -> Result<()> {
    for conflict in &result.conflicts {
        let info = store.infos.iter().find(|t| t.table.tag == conflict.table);
        let table = info.map_or_else(|| conflict.table.to_string(), |t| t.table.name.clone());
        let column = conflict.column.map(|tag| {
            let known = info.and_then(|t| t.position(tag).map(|p| t.table.columns[p].name.clone()));
            known.unwrap_or_else(|| tag.to_string())
        });
        let key = serde_json::Value::from(conflict.key.iter().map(json_value).collect::<Vec<_>>()).to_string();
        store.db.run(
            "INSERT INTO main.sync_conflicts(batch, at, table_name, key, column_name, base, theirs, mine, result, reason) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            &[
                ValueRef::Integer(batch),
                ValueRef::Integer(meta::now()),
                ValueRef::Text(&table),
                ValueRef::Text(&key),
                column.as_deref().map_or(ValueRef::Null, ValueRef::Text),
                conflict.base.as_ref(),
                conflict.theirs.as_ref(),
                conflict.mine.as_ref(),
                conflict.result.as_ref(),
                ValueRef::Text(&conflict.reason),
            ],
        )?;
    }
    Ok(())
}

/// The user that the server takes this device for; batches held for that user wait again.
///
/// The server ties a device id to one user, so another user on the same file is another device.
pub fn signed_in(db: Db<'_>, user: &str) -> Result<()> {
    if user.is_empty() || meta::text(db, "user")? == user {
        return Ok(());
    }
    let before = meta::text(db, "device_user")?;
    if !before.is_empty() && before != user {
        renumber(db)?;
    }
    meta::set(db, "device_user", ValueRef::Text(user))?;
    meta::set(db, "user", ValueRef::Text(user))?;
    db.run("UPDATE main.sync_batch SET state = 0 WHERE state = 4 AND (user = ?1 OR user = '')", &[ValueRef::Text(user)])
}

/// A new identity: every batch that is still kept and may have to be sent again is numbered from 1, in its old order.
fn renumber(db: Db<'_>) -> Result<()> {
    meta::set(db, "device", ValueRef::Text(&Uuid::new_v4().to_string()))?;
    db.run("UPDATE main.sync_batch SET number = NULL", &[])?;
    db.run("UPDATE main.sync_batch SET state = 0 WHERE state = 1", &[])?;
    meta::set_number(db, "last_number", 0)?;
    meta::set_number(db, "pushed_at", 0)
}

/// The server has only the batches up to `last`: those behind it are sent again, or all under a new identity where one is gone.
fn gap(db: Db<'_>, last: i64) -> Result<()> {
    db.run("UPDATE main.sync_batch SET state = 0 WHERE state IN (1, 2) AND number > ?1", &[ValueRef::Integer(last)])?;
    unbroken_or_renumber(db, last)
}

fn unbroken_or_renumber(db: Db<'_>, last: i64) -> Result<()> {
    let numbers =
        db.all("SELECT number FROM main.sync_batch WHERE state = 0 AND number IS NOT NULL ORDER BY number", &[], |r| {
            Ok(r.integer(0))
        })?;
    let start = if last >= 0 { Some(last + 1) } else { numbers.first().copied() };
    let broken = numbers.iter().enumerate().any(|(i, n)| start.map(|s| s + i as i64) != Some(*n));
    let unreachable = numbers.is_empty() && last >= 0 && meta::number(db, "last_number")? != last;
    if broken || unreachable {
        return renumber(db);
    }
    Ok(())
}

/// The server may have lost history: everything that was ever sent and is still kept waits again. Confirmed batches are not shown
/// again on top of the server's rows, since what came after them is more recent.
pub fn requeue(db: Db<'_>) -> Result<()> {
    let unnumbered = db.number("SELECT count(*) FROM main.sync_batch WHERE state = 2 AND number IS NULL", &[])?;
    db.run("UPDATE main.sync_batch SET state = 0 WHERE state IN (1, 2)", &[])?;
    meta::set_number(db, "deferred", 0)?;
    if unnumbered > 0 {
        return renumber(db);
    }
    unbroken_or_renumber(db, -1)
}

/// A complete snapshot includes everything up to this batch. Answers which batches it confirms.
pub fn confirmed(db: Db<'_>, last: &BatchId) -> Result<Vec<i64>> {
    let random = last.random.into_array();
    let known = db.number(
        "SELECT count(*) FROM main.sync_batch WHERE number = ?1 AND random = ?2",
        &[ValueRef::Integer(last.number), ValueRef::Blob(&random)],
    )?;
    if known == 0 {
        return Ok(Vec::new());
    }
    // One that still waits for its verdict is asked about again; the server knows it by its random bytes.
    let ids =
        db.all("SELECT id FROM main.sync_batch WHERE state = 1 AND number <= ?1", &[ValueRef::Integer(last.number)], |r| {
            Ok(r.integer(0))
        })?;
    for id in &ids {
        db.run(
            "UPDATE main.sync_batch SET state = 2, replay = 0, at = ?2 WHERE id = ?1",
            &[ValueRef::Integer(*id), ValueRef::Integer(meta::now())],
        )?;
    }
    Ok(ids)
}

/// Lets go of confirmed batches whose time is over.
pub fn expire(db: Db<'_>) -> Result<()> {
    let days = meta::setting(db, "keep_days", 7)?;
    let before = meta::now().saturating_sub(days.saturating_mul(86_400_000_000));
    let before = [ValueRef::Integer(before)];
    db.run("DELETE FROM main.sync_change WHERE batch IN (SELECT id FROM main.sync_batch WHERE state = 2 AND at < ?1)", &before)?;
    db.run("DELETE FROM main.sync_batch WHERE state = 2 AND at < ?1", &before)
}
