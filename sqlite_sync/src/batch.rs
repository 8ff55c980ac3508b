//! Local transactions on their way to the server: kept, numbered, sent, answered, confirmed.
//!
//! What must stay true: a number is given when a batch is first sent, and never to two batches of one device id; the random
//! bytes stay with a batch for ever, so that the server recognises one that it has under whatever number.

use crate::damage;
use crate::encrypted;
use crate::error::{Error, Result};
use crate::host::{Db, Statement};
use crate::json;
use crate::keys;
use crate::meta;
use crate::order;
use crate::store::{pack_change, unpack_change, Store};
use crate::sums;
use crate::table::{Key, TableInfo};
use crate::trust;
use serde_bytes::ByteArray;
use sync_shared::hash::BatchName;
use sync_shared::message::{Batch, BatchId, Change, PushRequest};
use sync_shared::{count, envelope, limits, Value, ValueRef};
use uuid::Uuid;

// States of a batch, as sql/tables.sql lists them. 2 is confirmed, 3 rejected.
pub const WAITING: i64 = 0;
pub const ANSWERED: i64 = 1;
pub const HELD: i64 = 4;

/// Complete snapshots without an answered batch, after which it is sent again: a standby may be a little late.
const MISSED: i64 = 3;
/// Bytes of a batch on the wire beside its changes, at most.
const BATCH_FRAME: usize = 512;
/// After this long without a push an empty one renews the lease, in microseconds.
const RENEW_MICROS: i64 = 24 * 3600 * 1_000_000;

/// What is said of a batch as a whole.
pub struct Head<'h> {
    pub edited: i64,
    /// JSON of the application's, or empty.
    pub note: &'h str,
    pub priority: i64,
}

/// Keeps sealed transactions, change by change.
pub struct Writer<'c> {
    db: Db<'c>,
    device: Uuid,
    user: String,
    /// Size of the largest batch that is sent.
    limit: i64,
    head: Statement<'c>,
    change: Statement<'c>,
    foot: Statement<'c>,
    /// The batch that is being written: its id, name and size so far.
    open: Option<(i64, BatchName, usize)>,
}

impl<'c> Writer<'c> {
    pub fn new(db: Db<'c>) -> Result<Self> {
        Ok(Writer {
            db,
            device: meta::device(db)?,
            user: meta::text(db, "user")?,
            limit: meta::setting(db, "batch_bytes", limits::BATCH_BYTES as i64)?.min(limits::BATCH_BYTES as i64),
            head: db.prepare("INSERT INTO main.sync_batch(random, edited, user, bytes, note, priority, place) VALUES (x'', ?1, ?2, 0, ?3, ?4, ?4) RETURNING id")?,
            change: db.prepare("INSERT INTO main.sync_change(batch, tbl, key, body, chosen) VALUES (?1, ?2, ?3, ?4, ?5)")?,
            foot: db.prepare("UPDATE main.sync_batch SET bytes = ?2, random = ?3 WHERE id = ?1")?,
            open: None,
        })
    }

    /// Begins a batch under a new id.
    pub fn begin(&mut self, head: Head<'_>) -> Result<i64> {
        let mut name = BatchName::new(self.device, head.edited);
        name.add(head.note.as_bytes());
        let binds = [
            ValueRef::Integer(head.edited),
            ValueRef::Text(&self.user),
            ValueRef::Text(head.note),
            ValueRef::Integer(head.priority),
        ];
        let id = self.head.first(&binds, |row| Ok(row.integer(0)))?.unwrap_or_default();
        self.open = Some((id, name, BATCH_FRAME + head.note.len()));
        Ok(id)
    }

    /// Adds a change of a table to it. `chosen`: the key is to give way to one that the server leased.
    pub fn add(&mut self, table: i64, change: Change, chosen: bool) -> Result<()> {
        let Some((id, name, bytes)) = &mut self.open else { return Err(Error::plain("no batch was begun")) };
        let body = pack_change(&change)?;
        *bytes += body.len();
        name.add(&body);
        let (key, mut scratch) = (Key(change.key), Vec::new());
        let (id, chosen) = (ValueRef::Integer(*id), ValueRef::Integer(i64::from(chosen)));
        self.change.run(&[id, ValueRef::Integer(table), key.stored(&mut scratch), ValueRef::Blob(&body), chosen])
    }

    /// It will be larger by so many bytes when it is sent.
    pub fn grow(&mut self, by: usize) {
        if let Some((.., bytes)) = &mut self.open {
            *bytes += by;
        }
    }

    /// Ends it. False: it is too large to be sent, and was rejected.
    pub fn end(&mut self, infos: &[TableInfo]) -> Result<bool> {
        let Some((id, name, bytes)) = self.open.take() else { return Ok(true) };
        self.foot.run(&[ValueRef::Integer(id), ValueRef::Integer(bytes as i64), ValueRef::Blob(&name.finish())])?;
        let message = if bytes as i64 > self.limit {
            format!(
                "this transaction has {bytes} bytes, more than the {} that the setting batch_bytes (in sync_setting, at most {}) allows: write the rows again in smaller transactions",
                self.limit,
                limits::BATCH_BYTES
            )
        } else {
            // Each value has a byte at least.
            let values = if bytes > limits::BATCH_VALUES { self.values(id)? } else { 0 };
            if values <= limits::BATCH_VALUES {
                return Ok(true);
            }
            format!(
                "this transaction has {values} values, with the names of columns, more than the {} that a server takes at once: write the rows again in smaller transactions",
                limits::BATCH_VALUES
            )
        };
        reject(self.db, infos, id, "too_large", &message, "")?;
        Ok(false)
    }
}

impl Writer<'_> {
    /// How many values the changes of a batch have on the wire.
    fn values(&self, id: i64) -> Result<usize> {
        let mut values = 0;
        self.db.prepare("SELECT body FROM main.sync_change WHERE batch = ?1")?.each(&[ValueRef::Integer(id)], |row| {
            values += count::values(&row.blob(0));
            Ok(true)
        })?;
        Ok(values)
    }
}

/// Keeps a batch as a record: it will not be sent, and what it did is no longer shown.
pub fn reject(db: Db<'_>, infos: &[TableInfo], id: i64, code: &str, message: &str, subject: &str) -> Result<()> {
    db.run("UPDATE main.sync_change SET chosen = 0 WHERE chosen AND batch = ?1", &[ValueRef::Integer(id)])?;
    let json = text_of(db, infos, id)?;
    db.run(
        "UPDATE main.sync_batch SET state = 3, replay = 0, verdict = 'rejected', code = ?2, message = ?3, subject = ?4, at = ?5, json = ?6, \
         user = iif(user = '', (SELECT max(user) FROM main.sync_user), user) WHERE id = ?1",
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

/// What a batch does, as JSON for people; one change after the other, so that no more than the text is held.
fn text_of(db: Db<'_>, infos: &[TableInfo], id: i64) -> Result<String> {
    let mut text = String::from("[");
    db.prepare("SELECT body FROM main.sync_change WHERE batch = ?1 ORDER BY id")?.each(&[ValueRef::Integer(id)], |row| {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&json::of_change(infos, &unpack_change(&row.blob(0))?).to_string());
        Ok(true)
    })?;
    text.push(']');
    Ok(text)
}

/// What a batch does, in the order in which its rows were first touched.
pub fn changes_of(db: Db<'_>, id: i64) -> Result<Vec<Change>> {
    db.all("SELECT body FROM main.sync_change WHERE batch = ?1 ORDER BY id", &[ValueRef::Integer(id)], |row| {
        unpack_change(&row.blob(0))
    })
}

/// The next push, or None when nothing may be sent now.
pub fn next_push(store: &Store<'_>) -> Result<Option<Vec<u8>>> {
    let db = store.db;
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
    let found = next_batches(db, &user)?;
    let registers = found.is_empty() && registers(db)?;
    let (wants, held, differ) = (keys::wants(db)?, keys::held(db)?, sums::differ(db)?);
    if found.is_empty() && wants.is_empty() && held.is_empty() && differ.is_none() && !registers {
        return Ok(None);
    }
    if !wants.is_empty() {
        meta::set_number(db, "keys_asked", 1)?;
    }
    let mut batches = Vec::with_capacity(found.len());
    let mut waits = false;
    for next in found {
        let Some(changes) = encrypted::to_be_sent(db, &store.infos, changes_of(db, next.id)?)? else {
            waits = true;
            break;
        };
        let number = match next.number {
            Some(number) => number,
            None => {
                let number = meta::number(db, "last_number")?.saturating_add(1);
                meta::set_number(db, "last_number", number)?;
                let binds = [ValueRef::Integer(next.id), ValueRef::Integer(number)];
                db.run("UPDATE main.sync_batch SET number = ?2, former = NULL WHERE id = ?1", &binds)?;
                number
            }
        };
        batches.push(Batch {
            id: BatchId { number, random: ByteArray::new(next.random) },
            edited: next.edited,
            user: next.user,
            changes,
            note: next.note,
            whole: next.whole,
        });
    }
    encrypted::note_waiting(db, &store.infos, waits)?;
    if waits && batches.is_empty() && wants.is_empty() && held.is_empty() && differ.is_none() {
        return Ok(None);
    }
    let bytes = envelope::encode(&PushRequest { device: meta::device(db)?, batches, wants, held, differ })?;
    trust::pushes(db, &bytes)?;
    Ok(Some(bytes))
}

/// A batch that is to be sent.
struct Next {
    id: i64,
    number: Option<i64>,
    /// It had a number under another device id, and keeps its place.
    numbered_before: bool,
    place: i64,
    random: [u8; 16],
    edited: i64,
    user: String,
    bytes: usize,
    note: String,
    whole: bool,
}

/// The batches of the next push, in their order. The more urgent ones travel alone: what waits behind them is not waited for.
fn next_batches(db: Db<'_>, user: &str) -> Result<Vec<Next>> {
    let mut found = db.all(
        "SELECT id, number, former IS NOT NULL, place, random, edited, user, bytes, note, whole FROM main.sync_batch \
         WHERE state = 0 AND keyless = 0 AND (user = ?1 OR user = '' OR ?1 = '') \
         ORDER BY number NULLS LAST, former NULLS LAST, place, id LIMIT ?2",
        &[ValueRef::Text(user), ValueRef::Integer(limits::BATCHES_PER_PUSH as i64)],
        |row| {
            Ok(Next {
                id: row.integer(0),
                number: if let ValueRef::Integer(n) = row.value(1) { Some(n) } else { None },
                numbered_before: row.integer(2) != 0,
                place: row.integer(3),
                random: row.blob(4).try_into().map_err(|_| damage::of("a batch of sync_batch has no random bytes"))?,
                edited: row.integer(5),
                user: row.text(6),
                bytes: usize::try_from(row.integer(7)).unwrap_or(0),
                note: row.text(8),
                whole: row.integer(9) != 0,
            })
        },
    )?;
    let first = found.first().map_or(0, |b| b.place);
    let (mut total, mut count) = (0, 0);
    for next in &found {
        total = usize::saturating_add(total, next.bytes);
        let less_urgent = next.number.is_none() && !next.numbered_before && next.place > first;
        if count > 0 && (total > limits::PUSH_BYTES || less_urgent) {
            break;
        }
        count += 1;
    }
    found.truncate(count);
    Ok(found)
}

/// Whether an empty push is due: once for a device that has published but is not known to the server, and once a day.
fn registers(db: Db<'_>) -> Result<bool> {
    let last = meta::number(db, "pushed_at")?;
    let due = meta::number(db, "published_at")? > 0
        && meta::now().saturating_sub(last) > RENEW_MICROS
        && meta::number(db, "asked")? == 0;
    if due {
        meta::set_number(db, "asked", 1)?;
        meta::set_number(db, "keys_refused", 0)?;
    }
    Ok(due)
}

/// Numbers above `last` that the server does not have are free again.
pub fn take_back(db: Db<'_>, last: i64) -> Result<()> {
    let sql = "UPDATE main.sync_batch SET former = number, number = NULL WHERE state IN (0, 4) AND number > ?1";
    db.run(sql, &[ValueRef::Integer(last)])?;
    let highest = db.number("SELECT coalesce(max(number), 0) FROM main.sync_batch", &[])?;
    meta::set_number(db, "last_number", last.max(highest))
}

/// Whether a reply is to somebody who is not signed in yet.
pub fn is_new_user(db: Db<'_>, user: &str) -> Result<bool> {
    Ok(!user.is_empty() && meta::text(db, "user")? != user)
}

/// The user that the server takes this device for; batches held for that user wait again, and are shown again. While a publish writes.
///
/// The server ties a device id to one user, so another user on the same file is another device.
pub fn signed_in(store: &mut Store<'_>, user: &str) -> Result<()> {
    let db = store.db;
    if !is_new_user(db, user)? {
        return Ok(());
    }
    let before = meta::text(db, "device_user")?;
    if !before.is_empty() && before != user {
        renumber(db)?;
        db.run("DELETE FROM main.sync_meta WHERE name IN ('notice', 'trigger_problem')", &[])?;
    }
    meta::set(db, "device_user", ValueRef::Text(user))?;
    meta::set(db, "user", ValueRef::Text(user))?;
    db.run("UPDATE main.sync_batch SET state = 0 WHERE state = 4 AND (user = ?1 OR user = '')", &[ValueRef::Text(user)])?;
    show_only(store, user)
}

/// What others have not sent yet gives way to the server's rows, and what this user has not sent is shown on top of them again.
fn show_only(store: &mut Store<'_>, user: &str) -> Result<()> {
    const TOUCHED: &str = "SELECT DISTINCT c.tbl, c.key FROM main.sync_change c JOIN main.sync_batch b ON b.id = c.batch WHERE";
    let (db, user) = (store.db, [ValueRef::Text(user)]);
    let others = store.keys_of(&format!("{TOUCHED} b.replay = 1 AND b.user NOT IN ('', ?1)"), &user)?;
    db.run("UPDATE main.sync_batch SET replay = 2 WHERE replay = 1 AND user NOT IN ('', ?1)", &user)?;
    others.iter().try_for_each(|(at, key)| store.settle(*at, key))?;
    let own = store.keys_of(&format!("{TOUCHED} b.replay = 2 AND b.user = ?1"), &user)?;
    if own.is_empty() {
        return Ok(());
    }
    for (at, key) in &own {
        if store.shadow(*at, key)?.is_none() {
            let row = store.visible(*at, key)?;
            let row: Option<Vec<_>> = row.as_ref().map(|row| row.iter().map(Value::as_ref).collect());
            store.set_shadow(*at, key, row.as_deref(), None)?;
        }
    }
    db.run("UPDATE main.sync_batch SET replay = 1 WHERE replay = 2 AND user = ?1", &user)?;
    own.iter().try_for_each(|(at, key)| store.settle(*at, key))?;
    order::hold_dependents(store)?;
    keys::provide(store)
}

/// A new identity: every batch that is still kept and may have to be sent again is numbered from 1, in its old order.
pub fn renumber(db: Db<'_>) -> Result<()> {
    meta::set(db, "device", ValueRef::Text(&Uuid::new_v4().to_string()))?;
    db.run("UPDATE main.sync_batch SET former = coalesce(number, former), number = NULL", &[])?;
    db.run("UPDATE main.sync_batch SET state = 0 WHERE state = 1", &[])?;
    meta::set_number(db, "last_number", 0)?;
    // A pull that is under way asked about the old identity.
    meta::next_turn(db)?;
    meta::set_number(db, "pushed_at", 0)
}

/// The server has only the batches up to `last`: those behind it are sent again, or all under a new identity where one is gone.
pub fn gap(db: Db<'_>, last: i64) -> Result<()> {
    db.run("UPDATE main.sync_batch SET state = 0 WHERE state IN (1, 2) AND number > ?1", &[ValueRef::Integer(last)])?;
    let numbers =
        db.all("SELECT number FROM main.sync_batch WHERE state = 0 AND number IS NOT NULL ORDER BY number", &[], |r| {
            Ok(r.integer(0))
        })?;
    let broken = numbers.iter().zip(1..).any(|(number, further)| *number != last.saturating_add(further));
    let unreachable = numbers.is_empty() && meta::number(db, "last_number")? != last;
    if broken || unreachable {
        return renumber(db);
    }
    Ok(())
}

/// The server may have lost history: everything that was ever sent and is still kept waits again. Confirmed batches are not shown
/// again on top of the server's rows, since what came after them is more recent.
///
/// Numbers and identity stay, with what the server has recorded under them. That some numbers are not kept any more (rejected,
/// discarded, expired) only matters to a server that has lost them; it answers with a [`gap`]. Batches of an earlier identity have no
/// number, and come before those that have one: with them all is numbered anew.
pub fn requeue(db: Db<'_>) -> Result<()> {
    let unnumbered = db.number("SELECT count(*) FROM main.sync_batch WHERE state = 2 AND number IS NULL", &[])?;
    db.run("UPDATE main.sync_batch SET state = 0 WHERE state IN (1, 2)", &[])?;
    meta::set_number(db, "deferred", 0)?;
    if unnumbered > 0 {
        return renumber(db);
    }
    Ok(())
}

/// The batches that a complete snapshot includes, and whose rows look different once they are confirmed.
pub fn included(db: Db<'_>, last: &BatchId) -> Result<Vec<i64>> {
    db.all(
        "SELECT id FROM main.sync_batch WHERE (state = 1 OR (state = 0 AND replay = 1)) AND number <= ?1",
        &[ValueRef::Integer(last.number)],
        |r| Ok(r.integer(0)),
    )
}

/// Batches are in the snapshot that is shown.
///
/// One that still waits for its verdict is asked about again, and the server knows it by its random bytes; but it is in the
/// snapshot, with whatever came after it, so it is no longer shown on top.
pub fn confirm(db: Db<'_>, ids: &[i64]) -> Result<()> {
    for id in ids {
        db.run(
            "UPDATE main.sync_batch SET state = CASE state WHEN 1 THEN 2 ELSE state END, replay = 0, at = ?2 WHERE id = ?1",
            &[ValueRef::Integer(*id), ValueRef::Integer(meta::now())],
        )?;
    }
    Ok(())
}

/// Whether the last batch that the server has of this device came from this file. Otherwise another copy of it sends under the same
/// identity: what this one sent would be known to the server, but never be the last, and so never be confirmed.
pub fn is_own(db: Db<'_>, last: &BatchId) -> Result<bool> {
    let number = [ValueRef::Integer(last.number)];
    let random = db.first("SELECT random FROM main.sync_batch WHERE number = ?1", &number, |r| Ok(r.blob(0)))?;
    match random {
        Some(random) => Ok(random == last.random.as_slice()),
        // Discarded or expired, if this file gave the number at all.
        None => Ok(last.number <= meta::number(db, "last_number")?),
    }
}

/// Answered batches that complete snapshots do not include, several times in a row: the server lost them in a crash, or the answer
/// was an old one, about a history that is gone. They are sent again; if the server has them after all it knows their random bytes.
pub fn ask_again(db: Db<'_>, last: i64) -> Result<()> {
    let missing = "state = 1 AND (number IS NULL OR number > ?1)";
    let last = [ValueRef::Integer(last)];
    let any = db.number(&format!("SELECT EXISTS (SELECT 1 FROM main.sync_batch WHERE {missing})"), &last)? != 0;
    let times = if any { meta::number(db, "missed")?.saturating_add(1) } else { 0 };
    if times >= MISSED {
        db.run(&format!("UPDATE main.sync_batch SET state = 0 WHERE {missing}"), &last)?;
    }
    meta::set_number(db, "missed", times % MISSED)
}

/// Lets go of confirmed batches whose time is over.
pub fn expire(db: Db<'_>) -> Result<()> {
    let days = meta::setting(db, "keep_days", 7)?;
    let before = meta::now().saturating_sub(days.saturating_mul(86_400_000_000));
    let before = [ValueRef::Integer(before)];
    db.run("DELETE FROM main.sync_change WHERE batch IN (SELECT id FROM main.sync_batch WHERE state = 2 AND at < ?1)", &before)?;
    db.run("DELETE FROM main.sync_moved_key WHERE at < ?1", &before)?;
    db.run("DELETE FROM main.sync_batch WHERE state = 2 AND at < ?1", &before)
}
