//! Sums of what is really stored: every row read again and hashed.

use crate::error::Result;
use crate::host::Db;
use crate::meta;
use crate::store::Store;
use crate::table::Key;
use serde_json::json;
use std::collections::HashMap;
use sync_shared::hash::{self, BucketId, ContentSum};
use sync_shared::message::{EntryId, PartSum};
use sync_shared::{Value, ValueRef};

/// The sums of all parts, by their local numbers, from the stored values: the shadow's where a row has one.
pub fn recompute(store: &mut Store<'_>) -> Result<HashMap<i64, ContentSum>> {
    let db = store.db;
    let mut sums: HashMap<i64, ContentSum> = HashMap::new();
    let shadows = db.number("SELECT EXISTS (SELECT 1 FROM main.sync_shadow)", &[])? != 0;
    let mut scratch = Vec::new();
    for at in 0..store.infos.len() {
        let (id, keys) = (store.infos[at].id, store.infos[at].keys.len());
        let mut last: Option<(Key, Option<hash::RowHash>)> = None;
        db.prepare("SELECT key, part FROM main.sync_row WHERE tbl = ?1 ORDER BY key")?.each(&[ValueRef::Integer(id)], |row| {
            let key = Key::from_stored(row.value(0), keys)?;
            let hash = match &last {
                Some((known, hash)) if *known == key => *hash,
                _ => {
                    let stored = if shadows { store.server_version(at, &key)? } else { store.visible(at, &key)? };
                    let info = &store.infos[at];
                    stored.map(|r| hash::row_hash_of(info.table.tag, &info.tags, r.iter().map(Value::as_ref), &mut scratch))
                }
            };
            if let Some(hash) = hash {
                sums.entry(row.integer(1)).or_default().add(hash);
            }
            last = Some((key, hash));
            Ok(true)
        })?;
    }
    Ok(sums)
}

/// Every part with its local number, name and remembered sum.
fn parts(db: Db<'_>) -> Result<Vec<(i64, PartSum)>> {
    db.all(
        "SELECT p.id, b.bucket, p.entry, p.sum, p.count FROM main.sync_part p JOIN main.sync_bucket b ON b.id = p.bucket",
        &[],
        |r| {
            let bucket = BucketId(r.blob(1).try_into().unwrap_or_default());
            Ok((
                r.integer(0),
                PartSum {
                    bucket,
                    entry: r.integer(2) as EntryId,
                    content: ContentSum { sum: r.integer(3), count: r.integer(4) },
                },
            ))
        },
    )
}

/// Seconds after a complete publish in which the device's sums are still worth comparing: later much has changed on the server,
/// and every bucket with a change would be fetched again.
const FRESH: i64 = 60;

/// Whether all sums are to be compared with the server's: right after a complete publish, if the last time was long ago.
pub fn due(db: Db<'_>) -> Result<bool> {
    let passed = |since: i64, seconds: i64| !(0..seconds.saturating_mul(1_000_000)).contains(&meta::now().saturating_sub(since));
    let last = meta::number(db, "verified_at")?;
    let hours = meta::setting(db, "verify_hours", 24)?;
    Ok(last != 0
        && passed(last, hours.saturating_mul(3600))
        && !passed(meta::number(db, "published_at")?, FRESH)
        && meta::number(db, "complete")? != 0
        && !meta::blob(db, "cursor")?.is_empty()
        && meta::blob(db, "pass")?.is_empty()
        // What is to be fetched again comes first.
        && db.number("SELECT EXISTS (SELECT 1 FROM main.sync_bucket WHERE refetch > 0)", &[])? == 0)
}

/// For the server: the device's own sums of all its parts.
pub fn for_server(store: &mut Store<'_>) -> Result<Vec<PartSum>> {
    let sums = recompute(store)?;
    let own = parts(store.db)?;
    Ok(own.into_iter().map(|(id, part)| PartSum { content: sums.get(&id).copied().unwrap_or_default(), ..part }).collect())
}

/// Reads everything again; buckets that are not what was received are marked, to come again with the next pull.
pub fn verify(store: &mut Store<'_>) -> Result<serde_json::Value> {
    let sums = recompute(store)?;
    let own = parts(store.db)?;
    let mut different = Vec::new();
    for (id, part) in &own {
        let stored = sums.get(id).copied().unwrap_or_default();
        if stored == part.content {
            continue;
        }
        let bucket = [ValueRef::Blob(&part.bucket.0)];
        store.db.run("UPDATE main.sync_bucket SET refetch = 1 WHERE bucket = ?1", &bucket)?;
        let (rule, key) = store
            .db
            .first("SELECT rule, key_json FROM main.sync_bucket WHERE bucket = ?1", &bucket, |r| Ok((r.text(0), r.text(1))))?
            .unwrap_or_default();
        different.push(json!({
            "rule": rule, "key": key, "entry": part.entry,
            "rows": part.content.count, "rows_stored": stored.count,
        }));
    }
    let rows: i64 = sums.values().map(|s| s.count).sum();
    Ok(json!({ "parts": own.len(), "rows": rows, "different": different }))
}
