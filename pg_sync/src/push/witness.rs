//! The row that was in the way: where a UNIQUE, primary key or exclusion constraint rejects a batch, both rows to look at.
//!
//! The row on the server is looked for with the user's own rights, after the batch was undone: what the user may not see is not told.

use super::conflict::as_json;
use super::refusal::Refusal;
use super::statements::Statements;
use super::target::Target;
use super::{role, subtransaction};
use crate::error::spi;
use crate::identity;
use crate::render::{pinned, Renderer};
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use serde_json::{Map, Value as Json};
use std::cell::Cell;
use std::collections::HashMap;
use sync_shared::hash::Tag;
use sync_shared::message::{Batch, Change, ChangeKind, Conflict};
use sync_shared::Value;

thread_local! {
    /// The change that is being applied; None while deferred constraints are checked.
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Says which change of the batch is being applied.
pub fn set_change(position: Option<usize>) {
    CURRENT.with(|c| c.set(position));
}

/// The change that was being applied; None: deferred constraints were being checked.
pub fn current() -> Option<usize> {
    CURRENT.with(Cell::get)
}

/// The two rows, for a refusal that names such a constraint of a table of the batch.
pub fn of(batch: &Batch, refusal: &Refusal, targets: &mut HashMap<Tag, Target>, writer: Oid, owner: Oid) -> Option<Conflict> {
    if !matches!(refusal.code.as_str(), "23505" | "23P01") {
        return None;
    }
    let current = current();
    let suspects =
        batch.changes.iter().enumerate().filter(|(i, c)| current.is_none_or(|n| n == *i) && c.kind != ChangeKind::Delete);
    for (_, change) in suspects {
        let Some(target) = targets.get_mut(&change.table) else { continue };
        let Some(test) = identity::as_owner(owner, || pinned(|| test(target, &refusal.subject, writer))) else { continue };
        let found = subtransaction::run(|| role::as_writer(writer, || theirs(target, change, &test)));
        let theirs = found.unwrap_or(None);
        if theirs.is_some() || current.is_some() {
            return Some(conflict(target, change, &refusal.subject, theirs));
        }
    }
    None
}

fn conflict(target: &Target, change: &Change, constraint: &str, theirs: Option<Json>) -> Conflict {
    let name = &target.table.name;
    let reason = match &theirs {
        Some(_) => format!("table {name}: constraint \"{constraint}\" keeps both rows from being there at once"),
        None => format!("table {name}: constraint \"{constraint}\" kept the row out; the other row is gone, or not yours to see"),
    };
    let as_text = |object: Json| Value::Text(object.to_string());
    Conflict {
        table: change.table,
        key: change.key.clone(),
        column: None,
        base: Value::Null,
        theirs: theirs.map_or(Value::Null, as_text),
        mine: as_text(Json::Object(wanted(target, change, |_, value| as_json(value)))),
        result: Value::Null,
        reason,
        policy: "constraint".into(),
    }
}

/// What the change wants the row to be: its key, and the columns that it sets.
fn wanted(target: &Target, change: &Change, json: impl Fn(&Renderer, &Value) -> Json) -> Map<String, Json> {
    let key = target.table.key.iter().copied().zip(&change.key);
    let set = change.columns.iter().zip(&change.new).filter_map(|(&tag, value)| Some((target.position(tag).ok()?, value)));
    let pair = |(i, value): (usize, &Value)| (target.table.columns[i].name.clone(), json(&target.renderers[i], value));
    key.chain(set).map(pair).collect()
}

/// How to find the other row.
struct Test {
    /// Expressions over the row with their operators.
    parts: Vec<(String, String)>,
    /// Rows for which this is not true do not count.
    predicate: Option<String>,
    /// Numbers of the columns that the user may read.
    readable: Vec<i16>,
}

fn test(target: &Target, constraint: &str, writer: Oid) -> Option<Test> {
    let read = Spi::connect(|c| {
        let arguments = [target.table.relation.into(), constraint.into(), writer.into()];
        let sql = "SELECT expressions, operators, predicate, readable FROM sync.constraint_test($1::oid::regclass, $2, $3)";
        let mut rows = c.select(sql, Some(1), &arguments)?;
        let Some(row) = rows.next() else { return Ok(None) };
        let expressions = row.get::<Vec<String>>(1)?.unwrap_or_default();
        let operators = row.get::<Vec<String>>(2)?.unwrap_or_default();
        Ok::<_, spi::Error>(Some(Test {
            parts: expressions.into_iter().zip(operators).collect(),
            predicate: row.get(3)?,
            readable: row.get::<Vec<i16>>(4)?.unwrap_or_default(),
        }))
    });
    spi("reading a constraint", read).filter(|test| !test.parts.is_empty())
}

/// The row on the server, as far as the user may read it.
fn theirs(target: &mut Target, change: &Change, test: &Test) -> Result<Option<Json>, Refusal> {
    let columns: Vec<usize> =
        (0..target.table.columns.len()).filter(|&i| test.readable.contains(&(target.table.columns[i].position as i16))).collect();
    if columns.is_empty() {
        return Ok(None);
    }
    let mut statements = Statements::connect();
    let key = target.read_key(&mut statements, &change.key)?;
    let table = &target.table.name;
    // Names in the constraint's expressions mean the nearest row: the other one outside, the wanted one inside.
    let before = match change.kind {
        ChangeKind::Insert => format!("NULL::{table}"),
        _ => format!("(SELECT sync_before FROM {table} AS sync_before {})", target.where_key(1)),
    };
    let place = key.len() + 1;
    let wanted_row = format!("pg_catalog.jsonb_populate_record({before}, ${place}::pg_catalog.jsonb)");
    let mut conditions: Vec<String> = test
        .parts
        .iter()
        .map(|(e, operator)| format!("({e}) {operator} (SELECT ({e}) FROM {wanted_row} AS sync_mine)"))
        .collect();
    conditions.extend(test.predicate.as_ref().map(|p| format!("({p})")));
    let list = target.names(&columns);
    let sql = format!("SELECT {list} FROM {table} WHERE NOT ({}) AND {} LIMIT 1", target.is_key(1), conditions.join(" AND "));
    let json = Json::Object(wanted(target, change, populating)).to_string();
    let mut parameters = key;
    parameters.push(statements.text(&json)?);
    let mut by_column: Vec<Option<&mut Renderer>> = target.renderers.iter_mut().map(Some).collect();
    let mut renderers: Vec<&mut Renderer> = columns.iter().filter_map(|&i| by_column[i].take()).collect();
    let found = statements.run(&sql, &parameters, &mut renderers)?.row;
    statements.finish();
    let names = columns.iter().map(|&i| target.table.columns[i].name.clone());
    Ok(found.map(|row| Json::Object(names.zip(row.iter().map(as_json)).collect())))
}

/// A wire value as `jsonb_populate_record` reads it.
fn populating(renderer: &Renderer, value: &Value) -> Json {
    match value {
        Value::Text(text) if renderer.is_json() => serde_json::from_str(text).unwrap_or(Json::Null),
        value => renderer.parameter(value).ok().flatten().map_or(Json::Null, Json::String),
    }
}
