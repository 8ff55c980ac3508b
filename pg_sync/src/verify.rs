//! Reads whole tables and hashes their rows, by the same code as capture: what sums are built from and checked against.

use crate::catalog;
use crate::error::raise;
use crate::expr::quote;
use crate::identity::as_table_owner;
use crate::query::Query;
use crate::render::pinned;
use pgrx::prelude::*;
use std::collections::BTreeMap;
use sync_shared::hash::{bucket_id, row_hash, BucketId, ContentSum, Tag};
use sync_shared::{row, Value};

/// Sum and count of every part of an entry, from its table's rows in the active snapshot.
fn scan(entry: i32) -> BTreeMap<BucketId, ContentSum> {
    let rules = catalog::rules();
    let tables = catalog::tables();
    let found = rules.iter().find_map(|r| r.entries.iter().find(|e| e.id == entry).map(|e| (r, e)));
    let Some((rule, entry)) = found else {
        raise(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("there is no entry {entry}: see sync.entry"))
    };
    let Some(table) = tables.iter().find(|t| t.relation == entry.relation) else { return BTreeMap::new() };
    let keys = entry.key.iter().map(|k| format!("({k})"));
    let list: Vec<String> = keys.chain(table.columns.iter().map(|c| quote(&c.name))).collect();
    let filter = entry.filter.as_ref().map_or(String::new(), |f| format!(" WHERE ({f})"));
    let sql = format!("SELECT {} FROM {} AS sync_row{filter}", list.join(", "), table.name);
    let tags: Vec<Tag> = table.columns.iter().map(|c| c.tag).collect();
    let mut sums: BTreeMap<BucketId, ContentSum> = BTreeMap::new();
    let (mut key, mut values, mut scratch) = (Vec::new(), Vec::new(), Vec::new());
    let (mut recent, mut recent_key) = (None, Vec::new());
    as_table_owner(table.owner, || {
        Spi::connect(|_| {
            let mut query = Query::prepare(&format!("rule \"{}\", table {}", rule.name, table.name), &sql, &[]);
            query.each(&[], |mut found| {
                if (0..entry.key.len()).any(|i| found.is_null(i)) {
                    return true;
                }
                key.clear();
                values.clear();
                (0..entry.key.len()).for_each(|i| found.put(i, &mut key));
                (0..tags.len()).for_each(|i| found.put(entry.key.len() + i, &mut values));
                if row::is_too_large(&values) {
                    let name = |i: &usize| row::decode(&values).unwrap_or_default().swap_remove(*i);
                    too_large(&table.name, values.len(), &table.key.iter().map(name).collect::<Vec<_>>());
                    return true;
                }
                let bucket = match recent {
                    Some(id) if key == recent_key => id,
                    _ => bucket_id(&rule.name, &key),
                };
                recent = Some(bucket);
                recent_key.clone_from(&key);
                if let Ok(hash) = row_hash(table.tag, &tags, &mut row::Reader::new(&values), &mut scratch) {
                    sums.entry(bucket).or_default().add(hash);
                }
                true
            })
        })
    });
    sums
}

/// Says that a row is in no bucket.
pub fn too_large(table: &str, bytes: usize, key: &[Value]) {
    let limit = sync_shared::limits::ROW_BYTES >> 20;
    let text = |value: &Value| match value {
        Value::Integer(i) => i.to_string(),
        Value::Text(t) => t.clone(),
        other => format!("{other:?}"),
    };
    let key = key.iter().map(text).collect::<Vec<_>>().join(", ");
    warning!(
        "table {table}: the row with the key {key} has {bytes} bytes and no device gets it, since a row may have {limit} MiB"
    );
}

#[pg_extern(stable, strict)]
fn scan_entry(entry: i32) -> TableIterator<'static, (name!(bucket, pgrx::Uuid), name!(sum, i64), name!(count, i64))> {
    let sums = pinned(|| scan(entry));
    TableIterator::new(sums.into_iter().map(|(bucket, c)| (pgrx::Uuid::from_bytes(bucket.0), c.sum, c.count)))
}
