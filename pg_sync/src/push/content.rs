//! Batches that were kept: what they do, as people read it, and edits to it.

use super::conflict::as_json;
use crate::catalog::{self, SyncedTable};
use crate::error::raise;
use crate::identity;
use crate::render::pinned;
use pgrx::prelude::*;
use pgrx::JsonB;
use serde_json::{json, Value as Json};
use sync_shared::hash::Tag;
use sync_shared::message::{Batch, Change, ChangeKind, PushRequest};
use sync_shared::{envelope, Value};

/// A kept batch; None if the bytes are none.
pub fn decode(content: &[u8]) -> Option<Batch> {
    envelope::decode::<PushRequest>(content).ok()?.batches.pop()
}

/// The tables that a batch names.
pub fn tables(batch: &Batch) -> Vec<SyncedTable> {
    let mut tags: Vec<i64> = batch.changes.iter().map(|c| i64::from(c.table)).collect();
    tags.sort_unstable();
    tags.dedup();
    catalog::tables_tagged(Some(tags))
}

fn kind(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Insert => "insert",
        ChangeKind::Update => "update",
        ChangeKind::Delete => "delete",
    }
}

/// `[{"table": ..., "kind": ..., "key": [...], "old": {...}, "new": {...}}]`; what is gone is named by its tag.
#[pg_extern(stable, strict)]
fn batch_json(content: &[u8]) -> Option<JsonB> {
    let batch = decode(content)?;
    let tables = identity::as_owner(identity::owner(), || pinned(|| tables(&batch)));
    let one = |change: &Change| {
        let table = tables.iter().find(|t| t.tag == change.table);
        let name = |tag: &Tag| {
            let column = table.and_then(|t| t.columns.iter().find(|c| c.tag == *tag));
            column.map_or_else(|| tag.to_string(), |c| c.name.clone())
        };
        let row = |values: &[Value]| {
            Json::Object(change.columns.iter().zip(values).map(|(tag, value)| (name(tag), as_json(value))).collect())
        };
        json!({
            "table": table.map_or_else(|| change.table.to_string(), |t| t.device_name.clone()),
            "kind": kind(change.kind),
            "key": change.key.iter().map(as_json).collect::<Vec<_>>(),
            "old": row(&change.old),
            "new": row(&change.new),
        })
    };
    Some(JsonB(batch.changes.iter().map(one).collect()))
}

fn refuse(why: &str) -> ! {
    const SHAPE: &str = "edits look like [{\"table\": \"task\", \"key\": [1], \"set\": {\"title\": \"new\"}}, {\"table\": \"task\", \"key\": [2], \"skip\": true}]";
    raise(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("{why}; {SHAPE}"))
}

/// Applies edits: other values for columns that the batch sets, and changes to be left out.
pub fn edit(batch: &mut Batch, edits: &Json) {
    let tables = tables(batch);
    let Json::Array(edits) = edits else { refuse("the edits are not a list") };
    for edit in edits {
        let (Some(name), Some(Json::Array(key))) = (edit["table"].as_str(), edit.get("key")) else {
            refuse(&format!("an edit names no table or no key: {edit}"))
        };
        let table = tables.iter().find(|t| t.device_name == name || t.name == name);
        let is_named = |c: &Change| Some(c.table) == table.map(|t| t.tag) && c.key.iter().map(as_json).eq(key.iter().cloned());
        let Some(position) = batch.changes.iter().position(is_named) else {
            refuse(&format!("the batch changes no row of table {name} with the key {}", Json::from(key.clone())))
        };
        if edit["skip"] == Json::Bool(true) {
            batch.changes.remove(position);
            continue;
        }
        let (Some(Json::Object(set)), Some(table)) = (edit.get("set"), table) else {
            refuse(&format!("an edit has neither set nor skip: {edit}"))
        };
        for (column, value) in set {
            set_column(&mut batch.changes[position], table, column, value);
        }
    }
}

fn set_column(change: &mut Change, table: &SyncedTable, column: &str, value: &Json) {
    let tag = table.columns.iter().find(|c| c.name == column && c.key == 0).map(|c| c.tag);
    let place = tag.and_then(|tag| change.columns.iter().position(|&c| c == tag)).filter(|&p| p < change.new.len());
    match (place, tag, change.kind) {
        (Some(place), ..) => change.new[place] = as_value(value),
        (None, Some(tag), ChangeKind::Insert) => {
            change.columns.push(tag);
            change.new.push(as_value(value));
        }
        _ => refuse(&format!("the batch does not set \"{column}\" of that row of table {}", table.device_name)),
    }
}

/// JSON as a device would have sent it.
fn as_value(json: &Json) -> Value {
    let hex = |digits: &str| {
        let pair = |i: usize| u8::from_str_radix(digits.get(i..i + 2)?, 16).ok();
        (0..digits.len()).step_by(2).map(pair).collect::<Option<Vec<u8>>>()
    };
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Integer(i64::from(*b)),
        Json::Number(n) => n.as_i64().map_or_else(|| Value::Real(n.as_f64().unwrap_or_default()), Value::Integer),
        Json::String(s) => Value::Text(s.clone()),
        other => match other.get("hex").and_then(Json::as_str).and_then(hex) {
            Some(bytes) if other.as_object().is_some_and(|o| o.len() == 1) => Value::Blob(bytes),
            _ => Value::Text(other.to_string()),
        },
    }
}
