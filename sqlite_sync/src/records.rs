//! Records of what did not go as written: rejected batches and conflicts. They are retried, discarded, or expire.

use crate::batch::changes_of;
use crate::capture;
use crate::error::{Error, Result};
use crate::file;
use crate::host::{Answer, Db};
use crate::json;
use crate::meta;
use crate::store::{pack_change, rest_of, unpack_change, MaybeRow, Store};
use crate::table::{quote, Key, TableInfo};
use crate::transaction::transaction;
use serde_json::json;
use std::collections::BTreeMap;
use sync_shared::message::{Change, ChangeKind, ColumnDefault};
use sync_shared::{Value, ValueRef};

/// One change of a rejected batch, to be written again.
struct Plan {
    at: usize,
    kind: ChangeKind,
    key: Key,
    /// What it started from, by the columns' positions.
    old: Vec<(usize, Value)>,
    /// What it writes.
    new: Vec<(usize, Value)>,
    /// What else its row had when it went; None: that is not known.
    rest: Option<Vec<(usize, Value)>>,
}

/// What writing a change again means for the row as it is now.
#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Written,
    Already,
    Changed,
    Exists,
    Made,
    Gone,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Written => "written",
            Outcome::Already => "already",
            Outcome::Changed => "changed",
            Outcome::Exists => "exists",
            Outcome::Made => "made",
            Outcome::Gone => "gone",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Outcome::Written => "",
            Outcome::Already => "the row is so already: nothing was written",
            Outcome::Changed => "the row had changed meanwhile, and was written over",
            Outcome::Exists => "a row with this key exists meanwhile: its columns were written over",
            Outcome::Made => "the row was gone: it was made again, as it was last and with what this change writes",
            Outcome::Gone => "the row is gone, and what else it had is not known: nothing of the batch was written; say all other columns with {\"new\": {...}} to make the row again, leave this change out with {\"skip\": true}, or discard the batch",
        }
    }
}

/// Writes the changes of a rejected batch again, onto the rows as they are now, as an ordinary local write; the record goes.
///
/// Whole or not at all: where an update finds its row gone and it is not known what else the row had, nothing is written and the record
/// stays.
pub fn retry(db: Db<'_>, id: i64, edits: Option<&str>) -> Result<Answer> {
    if !db.triggers(-1) {
        return Err(Error::plain(
            "triggers are switched off on this connection, so the write would not be captured: switch them on",
        ));
    }
    file::ready(db)?;
    let own = db.autocommit();
    transaction(db, || {
        let note = rejected(db, id)?;
        let mut store = Store::open(db)?;
        let mut plans = changes_of(db, id)?.iter().map(|c| plan(&store, c)).collect::<Result<Vec<_>>>()?;
        if let Some(edits) = edits {
            edit(&store, &mut plans, edits)?;
        }
        let mut outcomes = Vec::with_capacity(plans.len());
        for plan in &mut plans {
            look_behind(&mut store, plan)?;
            let row = store.visible(plan.at, &plan.key)?;
            outcomes.push(outcome(&store, plan, &row));
        }
        let retried = !outcomes.contains(&Outcome::Gone);
        if retried {
            if own && !note.is_empty() {
                capture::say(db, capture::NOTE, ValueRef::Text(&note))?;
            }
            plans.iter().zip(&outcomes).try_for_each(|(plan, outcome)| write(&store, plan, *outcome))?;
            forget(db, id)?;
        }
        let changes: Vec<_> = plans.iter().zip(&outcomes).map(|(plan, outcome)| said(&store, plan, *outcome)).collect();
        Answer::text(&json!({ "retried": retried, "changes": changes }).to_string())
    })
}

fn said(store: &Store<'_>, plan: &Plan, outcome: Outcome) -> serde_json::Value {
    json!({
        "table": store.infos[plan.at].table.name, "key": json::of_key(&plan.key.0), "kind": json::kind_name(plan.kind),
        "outcome": outcome.name(), "message": outcome.message(),
    })
}

/// The note of a rejected batch, which must be there.
fn rejected(db: Db<'_>, id: i64) -> Result<String> {
    let note = db.first("SELECT note FROM main.sync_rejected WHERE id = ?1", &[ValueRef::Integer(id)], |r| Ok(r.text(0)))?;
    note.ok_or_else(|| Error::plain(format!("there is no rejected batch {id}: take an id from sync_rejected")))
}

fn plan(store: &Store<'_>, change: &Change) -> Result<Plan> {
    let at = store.infos.iter().position(|t| t.table.tag == change.table && !t.retired);
    let at = at.ok_or_else(|| Error::plain("a table of this batch is no longer synced: discard the batch"))?;
    let info = &store.infos[at];
    // A column that went meanwhile has nothing to say any more.
    let placed = |values: &[Value]| {
        let pairs = change.columns.iter().zip(values);
        pairs.filter_map(|(tag, value)| info.position(*tag).map(|p| (p, value.clone()))).collect()
    };
    let rest = change.rest.as_ref().map(|rest| {
        let pairs = rest.iter().map(|(tag, value)| (info.position(*tag), value.clone()));
        pairs.filter_map(|(at, value)| Some((at?, value))).collect()
    });
    Ok(Plan { at, kind: change.kind, key: Key(change.key.clone()), old: placed(&change.old), new: placed(&change.new), rest })
}

/// A row that is deleted here, and that the server has not deleted yet, is known from its shadow.
fn look_behind(store: &mut Store<'_>, plan: &mut Plan) -> Result<()> {
    if plan.kind == ChangeKind::Update {
        if let Some(row) = store.shadow(plan.at, &plan.key)?.and_then(|shadow| shadow.row) {
            plan.rest = Some(row.into_iter().enumerate().filter(|(_, value)| !value.is_null()).collect());
        }
    }
    Ok(())
}

/// Whether a row can be made from an update: what else it had is known, and no column that needs a value is without one.
fn is_whole(store: &Store<'_>, plan: &Plan) -> bool {
    let info = &store.infos[plan.at];
    let says = |values: &[(usize, Value)], at: usize| values.iter().any(|(known, value)| *known == at && !value.is_null());
    let named = |at: usize| plan.new.iter().any(|(known, _)| *known == at);
    (0..info.tags.len()).filter(|at| !info.keys.contains(at) && !info.table.columns[*at].generated).all(|at| {
        let column = &info.table.columns[at];
        let filled = named(at) || plan.rest.as_ref().is_some_and(|rest| says(rest, at));
        match plan.rest {
            None => filled,
            Some(_) => filled || !column.not_null || column.default != ColumnDefault::Nothing,
        }
    })
}

fn outcome(store: &Store<'_>, plan: &Plan, row: &MaybeRow) -> Outcome {
    let is = |row: &[Value], values: &[(usize, Value)]| values.iter().all(|(at, value)| row[*at] == *value);
    match (plan.kind, row) {
        (ChangeKind::Insert, None) => Outcome::Written,
        (ChangeKind::Update, None) if is_whole(store, plan) => Outcome::Made,
        (ChangeKind::Update, None) => Outcome::Gone,
        (ChangeKind::Delete, None) => Outcome::Already,
        (ChangeKind::Insert | ChangeKind::Update, Some(row)) if is(row, &plan.new) => Outcome::Already,
        (ChangeKind::Insert, Some(_)) => Outcome::Exists,
        (_, Some(row)) if is(row, &plan.old) => Outcome::Written,
        (_, Some(_)) => Outcome::Changed,
    }
}

fn write(store: &Store<'_>, plan: &Plan, outcome: Outcome) -> Result<()> {
    let info = &store.infos[plan.at];
    let named = |at: &usize| quote(&info.table.columns[*at].name);
    match (plan.kind, outcome) {
        (_, Outcome::Already | Outcome::Gone) => Ok(()),
        (ChangeKind::Delete, _) => store.db.run(&info.delete(), &plan.key.refs()),
        (ChangeKind::Insert, Outcome::Written) | (_, Outcome::Made) => {
            let row = whole_row(info, plan);
            let columns: Vec<_> = row.keys().map(named).collect();
            let holes: Vec<_> = (1..=columns.len()).map(|n| format!("?{n}")).collect();
            let sql = format!("INSERT INTO {}({}) VALUES ({})", info.name(), columns.join(", "), holes.join(", "));
            store.db.run(&sql, &row.values().map(|v| v.as_ref()).collect::<Vec<_>>())
        }
        _ => {
            let set: Vec<_> = plan.new.iter().filter(|(at, _)| !info.keys.contains(at)).collect();
            if set.is_empty() {
                return Ok(());
            }
            let keys = plan.key.0.len();
            let list: Vec<_> = set.iter().enumerate().map(|(i, (at, _))| format!("{} = ?{}", named(at), keys + i + 1)).collect();
            let mut binds = plan.key.refs();
            binds.extend(set.iter().map(|(_, v)| v.as_ref()));
            store.db.run(&format!("UPDATE {} SET {} WHERE {}", info.name(), list.join(", "), info.by_key()), &binds)
        }
    }
}

/// The row that an insert writes, or that an update makes again: what else it had, its key, and what the change writes.
fn whole_row<'p>(info: &TableInfo, plan: &'p Plan) -> BTreeMap<usize, &'p Value> {
    let rest = plan.rest.iter().flatten().filter(|(at, _)| !info.table.columns[*at].generated).map(|(at, value)| (*at, value));
    let key = info.keys.iter().copied().zip(&plan.key.0);
    rest.chain(key).chain(plan.new.iter().map(|(at, value)| (*at, value))).collect()
}

/// A row goes because the server deleted it: rejected updates of it keep what else it had, so that they can make it again.
pub fn keep_rest(store: &Store<'_>, at: usize, key: &Key, row: &[Value]) -> Result<()> {
    let (db, info, mut scratch) = (store.db, &store.infos[at], Vec::new());
    let rejected = db.all(
        "SELECT c.id, c.body FROM main.sync_change c JOIN main.sync_batch b ON b.id = c.batch \
         WHERE c.tbl = ?1 AND c.key = ?2 AND b.id IN (SELECT id FROM main.sync_rejected)",
        &[ValueRef::Integer(info.id), key.stored(&mut scratch)],
        |row| Ok((row.integer(0), unpack_change(&row.blob(1))?)),
    )?;
    for (id, mut change) in rejected.into_iter().filter(|(_, change)| change.kind == ChangeKind::Update) {
        change.rest = rest_of(info, row, &change);
        let binds = [ValueRef::Integer(id), ValueRef::Blob(&pack_change(&change)?)];
        db.run("UPDATE main.sync_change SET body = ?2 WHERE id = ?1", &binds)?;
    }
    Ok(())
}

/// Whether there are rejected batches.
pub fn any_rejected(db: Db<'_>) -> Result<bool> {
    Ok(db.number("SELECT EXISTS (SELECT 1 FROM main.sync_rejected)", &[])? != 0)
}

/// Applies the application's edits: `[{"table": "t", "key": [1], "new": {"title": "x"}}]`, or `"skip": true` to leave a change out.
fn edit(store: &Store<'_>, plans: &mut Vec<Plan>, edits: &str) -> Result<()> {
    let form = "the edits must be JSON such as '[{\"table\":\"t\",\"key\":[1],\"new\":{\"title\":\"x\"}}]', or with \"skip\":true to leave a change out";
    let edits: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(edits).map_err(|_| Error::plain(form))?;
    for edit in edits {
        if edit.keys().any(|name| !["table", "key", "new", "skip"].contains(&name.as_str())) {
            return Err(Error::plain(form));
        }
        let (Some(serde_json::Value::String(table)), Some(serde_json::Value::Array(key))) = (edit.get("table"), edit.get("key"))
        else {
            return Err(Error::plain(form));
        };
        let values: Vec<Value> = key.iter().map(json::to_value).collect();
        let meant = |p: &Plan| store.infos[p.at].table.name.eq_ignore_ascii_case(table) && p.key.0 == values;
        let Some(found) = plans.iter().position(meant) else {
            return Err(Error::plain(format!(
                "the batch does not change {table} {}: take table and key from sync_rejected.batch",
                serde_json::Value::from(key.clone())
            )));
        };
        match (edit.get("new"), edit.get("skip")) {
            (None, Some(serde_json::Value::Bool(skip))) => {
                if *skip {
                    plans.remove(found);
                }
            }
            (Some(serde_json::Value::Object(new)), None | Some(serde_json::Value::Bool(false))) => {
                for (name, value) in new {
                    set(store, &mut plans[found], name, json::to_value(value))?;
                }
            }
            _ => return Err(Error::plain(form)),
        }
    }
    Ok(())
}

fn set(store: &Store<'_>, plan: &mut Plan, name: &str, value: Value) -> Result<()> {
    let info = &store.infos[plan.at];
    let table = &info.table;
    let at = table.columns.iter().position(|c| c.name.eq_ignore_ascii_case(name));
    let at = at.ok_or_else(|| Error::plain(format!("table {} has no column {name}", table.name)))?;
    if plan.kind == ChangeKind::Delete {
        return Err(Error::plain(format!("a delete from {} has no new values: leave it out with \"skip\":true", table.name)));
    }
    if let Some(part) = info.keys.iter().position(|k| *k == at) {
        if plan.kind == ChangeKind::Update {
            return Err(Error::plain(format!("the key column {name} of {} cannot change in an update", table.name)));
        }
        plan.key.0[part] = value.clone();
    }
    match plan.new.iter_mut().find(|(known, _)| *known == at) {
        Some((_, known)) => *known = value,
        None => plan.new.push((at, value)),
    }
    Ok(())
}

/// Lets go of a rejected batch.
pub fn discard(db: Db<'_>, id: i64) -> Result<()> {
    file::ready(db)?;
    transaction(db, || {
        rejected(db, id)?;
        forget(db, id)
    })
}

/// What deleting from sync_rejected does, also while triggers are switched off.
fn forget(db: Db<'_>, id: i64) -> Result<()> {
    let id = [ValueRef::Integer(id)];
    db.run("DELETE FROM main.sync_change WHERE batch = ?1", &id)?;
    db.run("DELETE FROM main.sync_conflict WHERE batch = ?1", &id)?;
    db.run("DELETE FROM main.sync_batch WHERE id = ?1", &id)
}

/// Lets go of one conflict.
pub fn discard_conflict(db: Db<'_>, id: i64) -> Result<()> {
    file::ready(db)?;
    transaction(db, || {
        let id_bind = [ValueRef::Integer(id)];
        if db.number("SELECT count(*) FROM main.sync_conflicts WHERE id = ?1", &id_bind)? == 0 {
            return Err(Error::plain(format!("there is no conflict {id}: take an id from sync_conflicts")));
        }
        db.run("DELETE FROM main.sync_conflict WHERE id = ?1", &id_bind)
    })
}

/// Lets go of records whose time is over.
pub fn expire(db: Db<'_>) -> Result<()> {
    let days = meta::setting(db, "keep_records_days", 90)?;
    let before = [ValueRef::Integer(meta::now().saturating_sub(days.saturating_mul(86_400_000_000)))];
    for id in db.all("SELECT id FROM main.sync_batch WHERE state = 3 AND at < ?1", &before, |r| Ok(r.integer(0)))? {
        forget(db, id)?;
    }
    db.run("DELETE FROM main.sync_lost_row WHERE at < ?1", &before)?;
    db.run("DELETE FROM main.sync_conflict WHERE at < ?1", &before)
}
