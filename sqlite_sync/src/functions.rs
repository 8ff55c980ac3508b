//! The SQL functions. All have side effects, so none may be used in a trigger, a view or a schema (DIRECTONLY).

use crate::apply;
use crate::error::{Error, Result};
use crate::host::{self, Answer, Db};
use crate::store::Store;
use crate::transaction::transaction;
use crate::{batch, capture, damage, encrypted, file, json, keys, lost, pull, records, seal, sums, trust, wipe};
use sqlite_loadable::FunctionFlags;
use std::collections::BTreeMap;
use sync_shared::{limits, ValueRef};

/// Registers one, whose errors say so where something has changed the library's own tables.
fn define(
    db: Db<'_>,
    name: &str,
    args: i32,
    flags: FunctionFlags,
    body: impl Fn(Db<'_>, &[ValueRef<'_>]) -> Result<Answer> + 'static,
) -> Result<()> {
    host::define(db, name, args, flags, move |db, values| body(db, values).map_err(|error| damage::explain(db, error)))
}

/// Registers every function on a connection.
pub fn register(db: Db<'_>) -> Result<()> {
    let flags = FunctionFlags::DIRECTONLY;
    define(db, "pull_request", 0, flags, |db, _| pull::pull_request(db))?;
    define(db, "apply_delta", 1, flags, |db, args| match args {
        [ValueRef::Blob(bytes)] => apply::apply_delta(db, bytes),
        _ => Err(Error::plain("apply_delta(blob) takes the bytes that the server answered, unchanged")),
    })?;
    define(db, "pending_ops", 0, flags, |db, _| pending_ops(db))?;
    define(db, "sync_subscribe", 2, flags, |db, args| match args {
        [ValueRef::Text(rule), ValueRef::Text(params)] => subscribe(db, rule, params),
        _ => Err(Error::plain("sync_subscribe(rule, params) takes two texts; params is JSON such as '{\"name\":\"value\"}'")),
    })?;
    for count in [1, 2] {
        define(db, "sync_unsubscribe", count, flags, |db, args| match args {
            [ValueRef::Text(rule)] => unsubscribe(db, rule, None),
            [ValueRef::Text(rule), ValueRef::Text(params)] => unsubscribe(db, rule, Some(params)),
            _ => Err(Error::plain("sync_unsubscribe(rule[, params]) takes texts; without params all of the rule's go")),
        })?;
    }
    for count in [0, 1] {
        define(db, "sync_verify", count, flags, |db, args| match args {
            [] => verify(db, false),
            [ValueRef::Text("server")] => verify(db, true),
            _ => Err(Error::plain(
                "sync_verify takes nothing, or 'server': the next pull then compares all rows with the server's",
            )),
        })?;
    }
    define(db, "sync_sign_out", 1, flags, |db, args| match args {
        [ValueRef::Text("keep")] => wipe::keep(db),
        [ValueRef::Text("wipe")] => wipe::wipe(db),
        _ => Err(Error::plain("sync_sign_out takes 'keep' (rows and unsent writes stay) or 'wipe' (everything synced goes)")),
    })?;
    for count in [1, 2] {
        define(db, "sync_trust", count, flags, trust::trust)?;
    }
    define(db, "sync_set_key", -1, flags, encrypted::set_keys)?;
    register_records(db, flags)?;
    register_sayings(db, flags)?;
    define(db, "sync_next_id", 1, flags, |db, args| match args {
        [ValueRef::Text(table)] => Ok(Answer::Integer(keys::next_id(db, table)?)),
        _ => Err(Error::plain("sync_next_id(table) takes a table's name")),
    })?;
    define(db, "sync_version", 0, flags, |_, _| Answer::text(env!("CARGO_PKG_VERSION")))
}

fn verify(db: Db<'_>, with_server: bool) -> Result<Answer> {
    transaction(db, || {
        file::ready(db)?;
        file::make_views(db)?;
        let mut store = Store::open(db)?;
        let report = sums::verify(&mut store)?;
        if with_server {
            db.run("UPDATE main.sync_bucket SET refetch = 1 WHERE published AND refetch = 0", &[])?;
        }
        Answer::text(&report.to_string())
    })
}

/// What the application says about its open transaction.
fn register_sayings(db: Db<'_>, flags: FunctionFlags) -> Result<()> {
    define(db, "sync_note", 1, flags, |db, args| match args {
        [ValueRef::Text(note)] if note.len() > limits::NOTE_BYTES => {
            Err(Error::plain(format!("a note has at most {} bytes, this one has {}", limits::NOTE_BYTES, note.len())))
        }
        [note @ ValueRef::Text(text)] if json::is_json(text) => say(db, "sync_note", capture::NOTE, *note),
        _ => Err(Error::plain("sync_note(json) takes JSON as a text, such as '{\"why\":\"import\"}'")),
    })?;
    define(db, "sync_priority", 1, flags, |db, args| match args {
        [priority @ ValueRef::Integer(_)] => say(db, "sync_priority", capture::PRIORITY, *priority),
        _ => Err(Error::plain("sync_priority(n) takes a whole number: 0 is usual, -1 is sooner, 1 is later")),
    })
}

fn say(db: Db<'_>, function: &str, kind: &str, value: ValueRef<'_>) -> Result<Answer> {
    if db.autocommit() {
        return Err(Error::plain(format!("{function} is about the open transaction: BEGIN one, call it there, then COMMIT")));
    }
    file::ready(db)?;
    capture::say(db, kind, value)?;
    Ok(Answer::Null)
}

fn register_records(db: Db<'_>, flags: FunctionFlags) -> Result<()> {
    for count in [1, 2] {
        define(db, "sync_retry", count, flags, |db, args| match args {
            [ValueRef::Integer(id)] => records::retry(db, *id, None),
            [ValueRef::Integer(id), ValueRef::Text(edits)] => records::retry(db, *id, Some(edits)),
            _ => Err(Error::plain("sync_retry(batch[, edits]) takes an id of sync_rejected, and edits as JSON")),
        })?;
    }
    define(db, "sync_discard", 1, flags, |db, args| match args {
        [ValueRef::Integer(id)] => records::discard(db, *id).map(|()| Answer::Null),
        _ => Err(Error::plain("sync_discard(batch) takes an id of sync_rejected")),
    })?;
    define(db, "sync_restore_lost", 1, flags, |db, args| match args {
        [ValueRef::Integer(id)] => lost::restore(db, *id),
        _ => Err(Error::plain("sync_restore_lost(id) takes an id of sync_lost")),
    })?;
    define(db, "sync_discard_lost", 1, flags, |db, args| match args {
        [ValueRef::Integer(id)] => lost::discard(db, *id).map(|()| Answer::Null),
        _ => Err(Error::plain("sync_discard_lost(id) takes an id of sync_lost")),
    })?;
    define(db, "sync_discard_conflict", 1, flags, |db, args| match args {
        [ValueRef::Integer(id)] => records::discard_conflict(db, *id).map(|()| Answer::Null),
        _ => Err(Error::plain("sync_discard_conflict(conflict) takes an id of sync_conflicts")),
    })
}

fn pending_ops(db: Db<'_>) -> Result<Answer> {
    if !db.autocommit() {
        return Err(Error::plain(
            "pending_ops cannot work inside an open transaction, whose rows may still be rolled back: COMMIT first",
        ));
    }
    if !file::present(db)? {
        return Ok(Answer::Null);
    }
    transaction(db, || {
        wipe::refuse_wiped(db)?;
        let mut store = Store::open(db)?;
        seal::seal(&mut store)?;
        batch::next_push(&store)?.map_or(Ok(Answer::Null), |bytes| Answer::blob(&bytes))
    })
}

/// Parameters as JSON with sorted names, so that the same ones are the same text.
fn normal(params: &str) -> Result<String> {
    let wrong = || Error::plain("the parameters must be a JSON object of texts, such as '{\"name\":\"value\"}'");
    let read: BTreeMap<String, serde_json::Value> = serde_json::from_str(params).map_err(|_| wrong())?;
    let texts: BTreeMap<String, String> = read
        .into_iter()
        .map(|(name, value)| match value {
            serde_json::Value::String(text) => Ok((name, text)),
            serde_json::Value::Number(number) => Ok((name, number.to_string())),
            serde_json::Value::Bool(yes) => Ok((name, yes.to_string())),
            _ => Err(wrong()),
        })
        .collect::<Result<_>>()?;
    serde_json::to_string(&texts).map_err(|_| wrong())
}

fn subscribe(db: Db<'_>, rule: &str, params: &str) -> Result<Answer> {
    let params = normal(params)?;
    transaction(db, || {
        if !file::present(db)? {
            file::create(db)?;
        }
        db.run("INSERT OR IGNORE INTO main.sync_subscription VALUES (?1, ?2)", &[ValueRef::Text(rule), ValueRef::Text(&params)])
    })?;
    Ok(Answer::Null)
}

fn unsubscribe(db: Db<'_>, rule: &str, params: Option<&str>) -> Result<Answer> {
    let params = params.map(normal).transpose()?;
    let gone = transaction(db, || {
        file::ready(db)?;
        let binds = [ValueRef::Text(rule), params.as_deref().map_or(ValueRef::Null, ValueRef::Text)];
        db.run("DELETE FROM main.sync_subscription WHERE rule = ?1 AND (?2 IS NULL OR params = ?2)", &binds)?;
        Ok(db.changes())
    })?;
    Ok(Answer::Integer(gone))
}
