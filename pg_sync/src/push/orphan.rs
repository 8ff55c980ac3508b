//! A row that was put back, and whose parent is gone as well: the constraint's own words do not say how it came to that.

use super::refusal::Refusal;
use super::target::Target;
use super::witness;
use crate::error::spi;
use crate::expr::quote;
use crate::query::Kept;
use pgrx::prelude::*;
use serde_json::{Map, Value as Json};
use std::collections::HashMap;
use sync_shared::hash::Tag;
use sync_shared::message::Conflict;
use sync_shared::Value;

/// A row that a batch puts back: the change's place in the batch, and what is recorded if the row stays deleted after all.
pub type PutBack = (u32, Conflict);

/// A foreign key's refusal of such a row in plain words, with what the row was and what the device made of it; others as they are.
pub fn explain(refusal: Refusal, put_back: Vec<PutBack>, targets: &HashMap<Tag, Target>) -> Refusal {
    if refusal.code != "23503" {
        return refusal;
    }
    let current = witness::current();
    let rows = put_back.into_iter().filter(|(position, _)| current.is_none_or(|n| n == *position as usize));
    let orphan = |(_, conflict): PutBack| {
        let target = targets.get(&conflict.table)?;
        Some((target.table.name.clone(), parent(target, &refusal.subject, &conflict)?, conflict))
    };
    let orphans: Vec<(String, String, Conflict)> = rows.filter_map(orphan).collect();
    let constraint = &refusal.subject;
    let message = match &orphans[..] {
        [] => return refusal,
        [(table, parent, _)] => format!(
            "table {table}: a row that was deleted on the server was to be put back, but the row that it refers to is not there: {parent} (constraint \"{constraint}\")"
        ),
        [(table, ..), ..] => format!(
            "table {table}: rows that were deleted on the server were to be put back, but a row that they refer to is not there: {}",
            refusal.message
        ),
    };
    let message = format!("{message}. Insert that row again first, or change what refers to it, then retry this batch");
    let reason = |(_, parent, conflict): (String, String, Conflict)| Conflict {
        reason: format!("{}, but the row that it refers to is not there: {parent}", conflict.reason),
        ..conflict
    };
    let conflicts = orphans.into_iter().map(reason).collect();
    Refusal { message, conflicts, ..refusal }
}

/// Table and key that a foreign key of the row's table refers to: `public.list (id = 1)`.
fn parent(target: &Target, constraint: &str, row: &Conflict) -> Option<String> {
    let read = Spi::connect(|c| {
        let sql = Kept(
            "SELECT k.confrelid::regclass::text, array_agg(a.attname::text ORDER BY c.n), array_agg(p.attname::text ORDER BY c.n)
             FROM pg_constraint k
             CROSS JOIN unnest(k.conkey, k.confkey) WITH ORDINALITY AS c (child, parent, n)
             JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.child
             JOIN pg_attribute p ON p.attrelid = k.confrelid AND p.attnum = c.parent
             WHERE k.contype = 'f' AND k.conname = $2::text
                 AND (k.conrelid = $1 OR k.conrelid IN (SELECT t.relid FROM pg_partition_tree($1) t))
             GROUP BY k.oid, k.confrelid LIMIT 1",
        );
        let mut rows = c.select(sql, Some(1), &[target.table.relation.into(), constraint.into()])?;
        let Some(row) = rows.next() else { return Ok(None) };
        let names = (row.get::<Vec<String>>(2)?.unwrap_or_default(), row.get::<Vec<String>>(3)?.unwrap_or_default());
        Ok::<_, spi::Error>(row.get::<String>(1)?.map(|table| (table, names)))
    });
    let (table, (own, theirs)) = spi("reading a foreign key", read)?;
    let values = values(target, row);
    let is_sent = |name: &String| target.table.columns.iter().any(|c| c.name == *name);
    if own.iter().any(|name| is_sent(name) && values.get(name).is_none_or(Json::is_null)) {
        // It refers to nothing.
        return None;
    }
    let part = |(own, theirs): (&String, &String)| Some(format!("{} = {}", quote(theirs), values.get(own)?));
    let key: Option<Vec<String>> = own.iter().zip(&theirs).map(part).collect();
    // Columns that devices do not get are not told.
    Some(key.map_or(table.clone(), |key| format!("{table} ({})", key.join(", "))))
}

/// The row as the device wants it.
fn values(target: &Target, row: &Conflict) -> Map<String, Json> {
    let key = target.table.key.iter().zip(&row.key);
    let mut values: Map<String, Json> =
        key.map(|(&i, value)| (target.table.columns[i].name.clone(), super::conflict::as_json(value))).collect();
    if let Value::Text(mine) = &row.mine {
        let mine: Json = serde_json::from_str(mine).unwrap_or_default();
        values.extend(mine.as_object().cloned().unwrap_or_default());
    }
    values
}
