//! `apply_delta`: whatever the server answered, in one transaction.

use crate::answer;
use crate::batch;
use crate::error::{Error, Result};
use crate::file;
use crate::host::{Answer, Db};
use crate::keys;
use crate::lost;
use crate::meta;
use crate::publish::{self, Publish};
use crate::records;
use crate::restage;
use crate::schema;
use crate::seal;
use crate::staged;
use crate::store::{while_applying, Store};
use crate::sums;
use crate::transaction::transaction;
use crate::trust;
use crate::wipe;
use serde_json::json;
use sync_shared::envelope::{self, Kind};
use sync_shared::message::{Delta, Notice, NoticeKind, PushReply, PushState};
use sync_shared::ranges::Ranges;
use sync_shared::signed::{self, Signed};
use sync_shared::{row, ValueRef};

/// After so many answers in a row that a table cannot be read now, the device stops asking until the next round.
const RETRIES: i64 = 3;

/// What `apply_delta` was given.
struct Received<'a> {
    /// What the message is.
    kind: Kind,
    /// All of it.
    bytes: &'a [u8],
    signed: Option<Signed<'a>>,
}

impl Received<'_> {
    /// The message without signatures.
    fn message(&self) -> &[u8] {
        self.signed.as_ref().map_or(self.bytes, |signed| signed.message)
    }
}

/// What `apply_delta` answers.
struct Report {
    more: bool,
    tables: Vec<String>,
    rows: i64,
    verdicts: [i64; 5],
    message: String,
}

/// Applies a message from the server. Whatever goes wrong, the database is as it was.
pub fn apply_delta(db: Db<'_>, bytes: &[u8]) -> Result<Answer> {
    if !db.autocommit() {
        return Err(Error::plain("apply_delta cannot work inside an open transaction: COMMIT first, then call it on its own"));
    }
    let signed = signed::split(bytes)?;
    let kind = envelope::kind(signed.as_ref().map_or(bytes, |signed| signed.message))?;
    let answer = &Received { kind, bytes, signed };
    if let Some(order) = order_to_wipe(db, answer)? {
        return wipe::ordered(db, &order);
    }
    match transaction(db, || message(db, answer)?.answer(kind)) {
        // A deferred foreign key of the application's own tables shows only at commit, and would block every publish from now on.
        Err(error) if error.is_constraint() && db.foreign_keys(-1) => {
            db.foreign_keys(0);
            let again = transaction(db, || {
                let report = message(db, answer)?;
                let note = format!("foreign keys of the application's tables were not enforced during a publish ({error})");
                meta::set(db, "trigger_problem", ValueRef::Text(&note))?;
                report.answer(kind)
            });
            db.foreign_keys(1);
            again
        }
        outcome => outcome,
    }
}

impl Report {
    fn answer(&self, kind: Kind) -> Result<Answer> {
        let [accepted, merged, rejected, later, held] = self.verdicts;
        let report = json!({
            "more": self.more, "kind": kind.name(), "tables": self.tables, "rows": self.rows, "message": self.message,
            "verdicts": { "accepted": accepted, "merged": merged, "rejected": rejected, "later": later, "held": held },
        });
        Answer::text(&report.to_string())
    }
}

fn message(db: Db<'_>, answer: &Received<'_>) -> Result<Report> {
    if !file::present(db)? {
        file::create(db)?;
    }
    wipe::refuse_wiped(db)?;
    if !trust::check(db, answer.signed.as_ref())? {
        return other(db, answer.kind);
    }
    let bytes = answer.message();
    let mut store = Store::open(db)?;
    seal::seal(&mut store)?;
    match answer.kind {
        Kind::Delta => delta(store, bytes),
        Kind::PushReply => push_reply(store, &envelope::decode(bytes)?),
        Kind::Notice => notice(db, &envelope::decode(bytes)?),
        other => Err(Error::plain(format!("apply_delta takes what the server answered, not a {}", other.name()))),
    }
}

/// The server's order to remove everything, if the message is one that answers the last question.
fn order_to_wipe(db: Db<'_>, answer: &Received<'_>) -> Result<Option<String>> {
    if answer.kind != Kind::Notice || !file::present(db)? || !trust::check(db, answer.signed.as_ref())? {
        return Ok(None);
    }
    let notice: Notice = envelope::decode(answer.message())?;
    Ok((notice.kind == NoticeKind::Wipe && notice.turn != 0 && !is_late(db, notice.turn)?).then_some(notice.message))
}

fn delta(store: Store<'_>, bytes: &[u8]) -> Result<Report> {
    let db = store.db;
    let delta: Delta = envelope::decode(bytes)?;
    if is_late(db, delta.turn)? {
        return Ok(late());
    }
    let mut store = store;
    if batch::is_new_user(db, &delta.user)? {
        while_applying(&mut store, |store| batch::signed_in(store, &delta.user))?;
    }
    answer::pulled(db)?;
    meta::set_number(db, "need_held", 0)?;
    if meta::number(db, "retries")? != 0 {
        meta::set_number(db, "retries", 0)?;
    }
    if delta.publish.is_some() {
        db.run("DELETE FROM main.sync_meta WHERE name = 'trigger_problem'", &[])?;
    }
    if let Some(new) = &delta.schema {
        schema::apply(db, new)?;
        let before = std::mem::take(&mut store.infos);
        store = Store::open(db)?;
        restage::follow(db, &before, &store.infos)?;
    }
    check(&store, &delta)?;
    if let Some(expected) = delta.expected_rows {
        meta::set_number(db, "expected", i64::try_from(expected).unwrap_or(i64::MAX))?;
    }
    meta::set_number(db, "server_time", delta.server_time)?;
    let (tables, rows, refetch) = match delta.publish {
        None => (Vec::new(), stage(db, &delta, bytes)?, false),
        Some(_) => while_applying(&mut store, |store| publish_all(store, &delta))?,
    };
    let mut tables = tables;
    tables.sort();
    Ok(Report { more: delta.more || refetch, tables, rows, verdicts: [0; 5], message: String::new() })
}

/// Whether a reply answers an earlier request than the last: it came late, or twice. What it says was said about a place where
/// this device no longer is. Otherwise the turn is over.
fn is_late(db: Db<'_>, turn: i64) -> Result<bool> {
    if turn != 0 && turn != meta::number(db, "turn")? {
        return Ok(true);
    }
    meta::next_turn(db)?;
    Ok(false)
}

/// Nothing was done: ask again.
fn late() -> Report {
    let message = "the reply to an earlier pull came late and was left".into();
    Report { more: true, tables: Vec::new(), rows: 0, verdicts: [0; 5], message }
}

/// The server's word, but to another question than this file's last: it came late, or is somebody else's. Nothing was done.
fn other(db: Db<'_>, kind: Kind) -> Result<Report> {
    let message = "the answer is to another question than this file's last, and was left".into();
    let more = kind != Kind::PushReply && retries(db)?;
    if kind == Kind::PushReply {
        answer::stalled(db)?;
    }
    Ok(Report { more, tables: Vec::new(), rows: 0, verdicts: [0; 5], message })
}

/// Whether to ask again at once. A table that stays locked is left for the next round, or the loop would not end before the lock.
fn retries(db: Db<'_>) -> Result<bool> {
    let tried = meta::number(db, "retries")?.saturating_add(1);
    meta::set_number(db, "retries", tried % RETRIES)?;
    Ok(tried < RETRIES)
}

/// Walks a page before anything of it is kept: a page that cannot be applied must not block those behind it.
fn check(store: &Store<'_>, delta: &Delta) -> Result<()> {
    for changes in &delta.changes {
        publish::named(delta, changes.bucket)?;
        changes.ranges.iter().try_for_each(Ranges::check)?;
        let at = store.by_tag(changes.table)?;
        let info = &store.infos[at];
        let walk = |bytes: &[u8], rows: u32, columns: usize, what: &str| {
            let mut reader = row::Reader::new(bytes);
            for _ in 0..rows {
                for _ in 0..columns {
                    reader.value()?;
                }
            }
            if reader.is_empty() {
                return Ok(());
            }
            Err(Error::damaged(format_args!("{what} of {:?} do not fit its columns", info.table.name)))
        };
        if let Some(columns) = &changes.columns {
            if changes.from_empty || changes.ranges.is_some() || !publish::are_columns(info, columns) {
                return Err(Error::damaged(format_args!("rows of {:?} do not have its columns", info.table.name)));
            }
        }
        walk(&changes.rows, changes.row_count, changes.width(info.tags.len()), "rows")?;
        walk(&changes.gone, changes.gone_count, info.keys.len(), "keys")?;
    }
    delta.whole.iter().try_for_each(|position| publish::named(delta, *position).map(|_| ()))
}

fn stage(db: Db<'_>, delta: &Delta, bytes: &[u8]) -> Result<i64> {
    let brings = !delta.changes.is_empty() || !delta.gone_buckets.is_empty() || !delta.gone_entries.is_empty();
    if brings {
        db.run("INSERT INTO main.sync_stage(page) VALUES (?1)", &[ValueRef::Blob(bytes)])?;
    }
    mark_gone(db, delta)?;
    mark_whole(db, delta)?;
    meta::set(db, "pass", ValueRef::Blob(&delta.pass))?;
    let rows: i64 = delta.changes.iter().map(|c| i64::from(c.row_count)).sum();
    meta::set_number(db, "staged_rows", meta::number(db, "staged_rows")? + rows)?;
    Ok(rows)
}

fn mark_gone(db: Db<'_>, delta: &Delta) -> Result<()> {
    for gone in &delta.gone_buckets {
        db.run("UPDATE main.sync_bucket SET staged = -1 WHERE bucket = ?1", &[ValueRef::Blob(&gone.0)])?;
    }
    Ok(())
}

fn mark_whole(db: Db<'_>, delta: &Delta) -> Result<()> {
    for position in &delta.whole {
        let id = publish::register_bucket(db, publish::named(delta, *position)?)?;
        db.run("UPDATE main.sync_bucket SET staged = 1 WHERE id = ?1", &[ValueRef::Integer(id)])?;
    }
    Ok(())
}

fn publish_all(store: &mut Store<'_>, delta: &Delta) -> Result<(Vec<String>, i64, bool)> {
    let db = store.db;
    // What became of each bucket in the end, before the pages that say so one after the other.
    mark_gone(db, delta)?;
    mark_whole(db, delta)?;
    let mut publish = Publish::new(store)?;
    let staged = db.all("SELECT seq FROM main.sync_stage ORDER BY seq", &[], |r| Ok(r.integer(0)))?;
    for seq in staged {
        publish.page(&staged::due(db, seq, delta)?)?;
    }
    publish.page(delta)?;
    publish.finish(delta)?;
    let (rows, tables, incomplete) = (publish.rows, std::mem::take(&mut publish.tables), publish.incomplete()?);
    drop(publish);
    if delta.complete {
        db.run("DELETE FROM main.sync_meta WHERE name = 'restored'", &[])?;
    }
    lost::settle(store, &tables)?;
    let tables = tables.into_iter().map(|at| store.infos[at].table.name.clone()).collect();
    db.run("DELETE FROM main.sync_bucket WHERE staged = -1", &[])?;
    db.run("UPDATE main.sync_bucket SET published = 1, staged = 0, refetch = 0 WHERE staged = 1", &[])?;
    meta::set(db, "cursor", ValueRef::Blob(&delta.cursor))?;
    meta::set(db, "pass", ValueRef::Blob(&delta.pass))?;
    meta::set_number(db, "staged_rows", 0)?;
    meta::set_number(db, "complete", i64::from(delta.complete))?;
    meta::set_number(db, "published_at", meta::now())?;
    publish::ask_again(db, &incomplete)?;
    let refetch = publish::compare(db, &delta.sums)?;
    if delta.complete && meta::number(db, "verified_at")? == 0 {
        meta::set_number(db, "verified_at", meta::now())?;
    }
    batch::expire(db)?;
    records::expire(db)?;
    schema::drop_retired(db)?;
    Ok((tables, rows, refetch || sums::due(db)?))
}

fn push_reply(mut store: Store<'_>, reply: &PushReply) -> Result<Report> {
    let mut verdicts = [0; 5];
    while_applying(&mut store, |store| answer::answered(store, reply, &mut verdicts))?;
    let note =
        if reply.state == PushState::Taken && reply.message.is_empty() { ValueRef::Null } else { ValueRef::Text(&reply.message) };
    meta::set(store.db, "notice", note)?;
    Ok(Report { more: false, tables: Vec::new(), rows: 0, verdicts, message: reply.message.clone() })
}

/// Forgets the unfinished pass: its pages, and what they said of buckets.
pub fn forget_pass(db: Db<'_>) -> Result<()> {
    db.run("DELETE FROM main.sync_stage", &[])?;
    db.run("UPDATE main.sync_bucket SET staged = 0", &[])?;
    db.run("DELETE FROM main.sync_bucket WHERE NOT published AND NOT EXISTS (SELECT 1 FROM main.sync_part p WHERE p.bucket = sync_bucket.id)", &[])?;
    meta::set_number(db, "staged_rows", 0)?;
    meta::set(db, "pass", ValueRef::Blob(&[]))
}

fn notice(db: Db<'_>, notice: &Notice) -> Result<Report> {
    if is_late(db, notice.turn)? {
        return Ok(late());
    }
    let more = match notice.kind {
        NoticeKind::Behind | NoticeKind::Revoked | NoticeKind::Wipe => false,
        NoticeKind::Retry => retries(db)?,
        _ => true,
    };
    match notice.kind {
        NoticeKind::NeedHeld => meta::set_number(db, "need_held", 1)?,
        NoticeKind::Resync | NoticeKind::Restored => {
            if notice.kind == NoticeKind::Restored {
                forget_pass(db)?;
                meta::set_number(db, "restored", 1)?;
            } else {
                staged::keep(db)?;
            }
            meta::set(db, "cursor", ValueRef::Blob(&[]))?;
            meta::set_number(db, "resync", 1)?;
            batch::requeue(db)?;
            // A server that lost its latest transactions may give the same numbers again.
            keys::hold(db)?;
        }
        NoticeKind::Verified => {
            staged::keep(db)?;
            meta::set(db, "cursor", ValueRef::Blob(&notice.cursor))?;
            meta::set_number(db, "resync", 0)?;
            meta::set_number(db, "verified_at", meta::now())?;
            db.run("UPDATE main.sync_bucket SET refetch = 1, misses = 0", &[])?;
            for bucket in &notice.keep {
                db.run("UPDATE main.sync_bucket SET refetch = 0 WHERE bucket = ?1 AND published", &[ValueRef::Blob(&bucket.0)])?;
            }
        }
        NoticeKind::Revoked => answer::revoked(db)?,
        // An order to wipe was carried out before.
        NoticeKind::Behind | NoticeKind::Retry | NoticeKind::Wipe => {}
    }
    meta::set(db, "notice", ValueRef::Text(&notice.message))?;
    Ok(Report { more, tables: Vec::new(), rows: 0, verdicts: [0; 5], message: notice.message.clone() })
}
