//! The server's answer to a push: verdicts, conflicts, and what a refusal asks for.

use crate::batch::{changes_of, gap, reject, renumber, signed_in, take_back, ANSWERED, HELD, WAITING};
use crate::encrypted;
use crate::error::Result;
use crate::host::Db;
use crate::json;
use crate::keys;
use crate::meta;
use crate::order;
use crate::store::{pack_change, unpack_change, Store};
use sync_shared::message::{BatchResult, PushReply, PushState, Verdict};
use sync_shared::undone::Undone;
use sync_shared::ValueRef;

/// Answers without progress in a row, after which the device waits for the next pull.
const STALLS: i64 = 3;

// Why nothing is pushed, in sync_meta's `deferred`: until the next round asks, or until the server answers a pull again.
pub const DEFERRED: i64 = 1;
pub const REVOKED: i64 = 2;

/// The server's answer to a push.
pub fn answered(store: &mut Store<'_>, reply: &PushReply, verdicts: &mut [i64; 5]) -> Result<()> {
    let db = store.db;
    signed_in(store, &reply.user)?;
    let (mut progress, mut waits, mut completed) = (false, false, false);
    // Also beside a gap or a refusal: what was looked at before has its verdict.
    for result in &reply.results {
        match one_answer(store, reply, result, verdicts)? {
            Answer::Verdict => progress = true,
            Answer::Waits => waits = true,
            Answer::Completed => completed = true,
            Answer::Unknown => {}
        }
    }
    // Where whole rows were asked for it is sent again at once, and those behind it with it.
    if waits && !completed {
        meta::set_number(db, "deferred", DEFERRED)?;
    }
    progress |= completed;
    if reply.state == PushState::Taken {
        keys::told(db)?;
        keys::receive(store, &reply.leases)?;
    }
    match reply.state {
        PushState::Taken => meta::set_number(db, "pushed_at", meta::now())?,
        PushState::Fork => forked(store)?,
        PushState::Gap => gap(db, reply.last.map_or(0, |l| l.number))?,
        PushState::Refused | PushState::NotNow => meta::set_number(db, "deferred", DEFERRED)?,
        PushState::Revoked => {}
    }
    progress |= db.number("SELECT count(*) FROM main.sync_batch WHERE state = 0 AND number IS NOT NULL", &[])? == 0;
    match progress {
        true => meta::set_number(db, "stalls", 0)?,
        false => stalled(db)?,
    }
    if reply.state == PushState::Taken && !progress {
        meta::set_number(db, "deferred", DEFERRED)?;
    }
    if reply.state == PushState::Revoked {
        revoked(db)?;
    }
    Ok(())
}

/// An answer without progress.
pub fn stalled(db: Db<'_>) -> Result<()> {
    let stalls = meta::number(db, "stalls")?.saturating_add(1);
    meta::set_number(db, "stalls", stalls)?;
    if stalls >= STALLS {
        meta::set_number(db, "deferred", DEFERRED)?;
    }
    Ok(())
}

/// Another copy of this file sends under the same identity: this one takes a new one.
pub fn forked(store: &mut Store<'_>) -> Result<()> {
    keys::forked(store.db)?;
    renumber(store.db)?;
    order::hold_dependents(store)
}

/// What an answer means for the batch.
enum Answer {
    /// It has its verdict.
    Verdict,
    /// It waits for a server that takes it.
    Waits,
    /// It can now be sent as the server wants it.
    Completed,
    /// There is no such batch that waits.
    Unknown,
}

fn one_answer(store: &mut Store<'_>, reply: &PushReply, result: &BatchResult, verdicts: &mut [i64; 5]) -> Result<Answer> {
    let db = store.db;
    verdicts[usize::from(u8::from(result.verdict)) - 1] += 1;
    let random = result.id.random.into_array();
    let Some(id) =
        db.first("SELECT id FROM main.sync_batch WHERE random = ?1 AND state = 0", &[ValueRef::Blob(&random)], |r| {
            Ok(r.integer(0))
        })?
    else {
        return Ok(Answer::Unknown);
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
            rebase_followers(db, id)?;
            store.settle_batch(id)?;
        }
        Verdict::Later => {
            note(WAITING, "later")?;
            let asked = !result.whole.is_empty();
            return Ok(if asked && complete(store, id, &result.whole)? { Answer::Completed } else { Answer::Waits });
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
    Ok(Answer::Verdict)
}

/// Says in a batch what the rows that the server asks for were. False: it was asked before, and there is nothing to add.
fn complete(store: &mut Store<'_>, id: i64, positions: &[u32]) -> Result<bool> {
    let db = store.db;
    let batch = [ValueRef::Integer(id)];
    db.run("UPDATE main.sync_batch SET whole = 1 WHERE id = ?1 AND NOT whole", &batch)?;
    if db.changes() == 0 {
        return Ok(false);
    }
    let rows = store.keys_of("SELECT tbl, key FROM main.sync_change WHERE batch = ?1 ORDER BY id", &batch)?;
    for (at, key) in positions.iter().filter_map(|position| rows.get(*position as usize)) {
        store.keep_rest(*at, key, 0)?;
    }
    Ok(true)
}

/// Batches that wait behind a rejected one were made on top of values that never were the server's.
pub fn rebase_followers(db: Db<'_>, rejected: i64) -> Result<()> {
    let followers = db.all(
        "SELECT c.id, c.body FROM main.sync_change c JOIN main.sync_batch b ON b.id = c.batch \
         WHERE b.state IN (0, 4) AND b.replay < 2 AND b.id > ?1 AND EXISTS (SELECT 1 FROM main.sync_change r WHERE r.batch = ?1 AND r.tbl = c.tbl AND r.key = c.key) \
         ORDER BY c.id",
        &[ValueRef::Integer(rejected)],
        |row| Ok((row.integer(0), unpack_change(&row.blob(1))?)),
    )?;
    if followers.is_empty() {
        return Ok(());
    }
    let mut undone = Undone::default();
    changes_of(db, rejected)?.iter().for_each(|change| undone.add(change));
    for (id, change) in followers {
        if let Some(rebased) = undone.rebase(&change) {
            let body = pack_change(&rebased)?;
            db.run("UPDATE main.sync_change SET body = ?2 WHERE id = ?1", &[ValueRef::Integer(id), ValueRef::Blob(&body)])?;
        }
        // What comes next stands on this one.
        undone.forget(&change);
    }
    Ok(())
}

fn keep_conflicts(store: &Store<'_>, batch: i64, result: &BatchResult) -> Result<()> {
    if result.conflicts.is_empty() {
        return Ok(());
    }
    // A batch that was sent once more is answered as the first time.
    store.db.run("DELETE FROM main.sync_conflict WHERE batch = ?1", &[ValueRef::Integer(batch)])?;
    let user = meta::text(store.db, "user")?;
    for conflict in &result.conflicts {
        let info = store.infos.iter().find(|t| t.table.tag == conflict.table);
        let table = info.map_or_else(|| conflict.table.to_string(), |t| t.table.name.clone());
        let column = conflict.column.map(|tag| {
            let known = info.and_then(|t| t.position(tag).map(|p| t.table.columns[p].name.clone()));
            known.unwrap_or_else(|| tag.to_string())
        });
        let key = json::of_key(&conflict.key).to_string();
        let versions = [&conflict.base, &conflict.theirs, &conflict.mine, &conflict.result];
        let [base, theirs, mine, result] =
            versions.map(|value| encrypted::readable(store.db, info, &conflict.key, conflict.column, value));
        store.db.run(
            "INSERT INTO main.sync_conflict(batch, at, table_name, key, column_name, base, theirs, mine, result, reason, policy, user) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            &[
                ValueRef::Integer(batch),
                ValueRef::Integer(meta::now()),
                ValueRef::Text(&table),
                ValueRef::Text(&key),
                column.as_deref().map_or(ValueRef::Null, ValueRef::Text),
                base.as_ref(),
                theirs.as_ref(),
                mine.as_ref(),
                result.as_ref(),
                ValueRef::Text(&conflict.reason),
                ValueRef::Text(&conflict.policy),
                ValueRef::Text(&user),
            ],
        )?;
    }
    Ok(())
}

/// Nothing is sent until a pull succeeds again.
pub fn revoked(db: Db<'_>) -> Result<()> {
    meta::set_number(db, "deferred", REVOKED)
}

/// The server answered a pull: a device that was revoked is one no longer.
pub fn pulled(db: Db<'_>) -> Result<()> {
    if meta::number(db, "deferred")? == REVOKED {
        db.run("DELETE FROM main.sync_meta WHERE name IN ('deferred', 'notice')", &[])?;
    }
    Ok(())
}
