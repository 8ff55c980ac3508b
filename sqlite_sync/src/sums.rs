//! Sums of what is really stored: every row read again and hashed.

use crate::encrypted;
use crate::error::Result;
use crate::host::Db;
use crate::lost::{Keeper, Why};
use crate::meta;
use crate::publish::MISSES;
use crate::pull::subscriptions;
use crate::seal;
use crate::staged::Parts;
use crate::store::{while_applying, Store};
use crate::table::{values, Key};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use sync_shared::hash::{BucketId, ContentSum, RowHash};
use sync_shared::limits;
use sync_shared::message::{Differ, EntryId, PartRanges, PartSum};
use sync_shared::ranges::RangeSums;
use sync_shared::ValueRef;

/// A row of a part: the part's local number, the row's key, its hash as it was received, and as it is stored (None: there is no row).
struct Stored<'k> {
    table: i64,
    part: i64,
    key: &'k Key,
    received: i64,
    hash: Option<RowHash>,
}

/// Hands over every row of the parts that `wanted` names, read and hashed again: the shadow's values where a row has one, and what it
/// was before a write that only the log knows of.
fn each(store: &mut Store<'_>, wanted: impl Fn(i64) -> bool, mut f: impl FnMut(Stored<'_>)) -> Result<()> {
    let db = store.db;
    let shadows = db.number("SELECT EXISTS (SELECT 1 FROM main.sync_shadow)", &[])? != 0;
    let before = seal::before(store)?;
    let mut logged = seal::Rows::new(store);
    let mut scratch = Vec::new();
    for at in 0..store.infos.len() {
        let (table, keys) = (store.infos[at].id, store.infos[at].keys.len());
        let mut last: Option<(Key, Option<RowHash>)> = None;
        let sql = "SELECT key, part, hash FROM main.sync_row WHERE tbl = ?1 ORDER BY key";
        db.prepare(sql)?.each(&[ValueRef::Integer(table)], |row| {
            let part = row.integer(1);
            if !wanted(part) {
                return Ok(true);
            }
            let key = Key::from_stored(row.value(0), keys)?;
            let hash = match last.take() {
                Some((known, hash)) if known == key => hash,
                _ => {
                    let shadow = if shadows { store.shadow(at, &key)? } else { None };
                    let written = if before.is_empty() { None } else { before.get(&(at, key.bytes())) };
                    let stored = match (shadow, written) {
                        (Some(shadow), _) => shadow.row,
                        (None, Some(entry)) => logged.row(store, at, *entry)?,
                        (None, None) => store.visible(at, &key)?,
                    };
                    stored.map(|r| encrypted::hash_of(db, &store.infos[at], &r, &mut scratch)).transpose()?
                }
            };
            f(Stored { table, part, key: &key, received: row.integer(2), hash });
            last = Some((key, hash));
            Ok(true)
        })?;
    }
    Ok(())
}

/// The sums of all parts, by their local numbers, from the stored values.
pub fn recompute(store: &mut Store<'_>) -> Result<HashMap<i64, ContentSum>> {
    let mut sums: HashMap<i64, ContentSum> = HashMap::new();
    each(
        store,
        |_| true,
        |row| {
            if let Some(hash) = row.hash {
                sums.entry(row.part).or_default().add(hash);
            }
        },
    )?;
    Ok(sums)
}

/// For the server: the parts of buckets that are asked for again, in ranges. What was remembered of their rows gives way to what is
/// stored, so that a publish takes away and adds what is really there. Likewise the parts that an earlier pass has left staged.
pub fn ranges(store: &mut Store<'_>, staged: &Parts) -> Result<Vec<PartRanges>> {
    let db = store.db;
    let own = parts(db, "WHERE b.refetch = 2")?;
    if own.is_empty() && staged.is_empty() {
        return Ok(Vec::new());
    }
    let counts = || own.iter().map(|(_, part)| part.content.count).chain(staged.values().map(|rows| rows.len() as i64));
    let fits = |cap: &u8| counts().map(|rows| 1 << RangeSums::bits_for(rows).min(*cap)).sum::<usize>() <= limits::RANGES;
    let cap = (0..=limits::RANGE_BITS).rev().find(fits).unwrap_or(0);
    let empty = |rows: i64| RangeSums::new(RangeSums::bits_for(rows).min(cap));
    let mut found: Vec<PartRanges> = Vec::with_capacity(own.len() + staged.len());
    for ((bucket, entry), rows) in staged {
        let mut sums = empty(rows.len() as i64);
        rows.iter().for_each(|(key, hash)| sums.add(key, *hash));
        found.push(PartRanges { bucket: *bucket, entry: *entry, sums });
    }
    let mut sums: HashMap<i64, RangeSums> = own.iter().map(|(id, part)| (*id, empty(part.content.count))).collect();
    let wanted: HashSet<i64> = sums.keys().copied().collect();
    let mut wrong = Vec::new();
    each(
        store,
        |part| wanted.contains(&part),
        |row| {
            if let (Some(hash), Some(sums)) = (row.hash, sums.get_mut(&row.part)) {
                sums.add(&row.key.bytes(), hash);
            }
            if row.hash != Some(RowHash(row.received)) {
                wrong.push((row.table, row.key.clone(), row.part, row.hash));
            }
        },
    )?;
    for (table, key, part, hash) in wrong {
        let mut scratch = Vec::new();
        let row = [ValueRef::Integer(table), key.stored(&mut scratch), ValueRef::Integer(part)];
        match hash {
            Some(RowHash(hash)) => {
                let binds = [row[0], row[1], row[2], ValueRef::Integer(hash)];
                db.run("UPDATE main.sync_row SET hash = ?4 WHERE tbl = ?1 AND key = ?2 AND part = ?3", &binds)?;
            }
            None => db.run("DELETE FROM main.sync_row WHERE tbl = ?1 AND key = ?2 AND part = ?3", &row)?,
        }
    }
    let mut save = db.prepare("UPDATE main.sync_part SET sum = ?2, count = ?3 WHERE id = ?1 AND (sum <> ?2 OR count <> ?3)")?;
    for (id, part) in own {
        if let Some(sums) = sums.remove(&id) {
            let total = sums.total();
            save.run(&[ValueRef::Integer(id), ValueRef::Integer(total.sum), ValueRef::Integer(total.count)])?;
            found.push(PartRanges { bucket: part.bucket, entry: part.entry, sums });
        }
    }
    Ok(found)
}

/// Parts with their local numbers, names and remembered sums.
fn parts(db: Db<'_>, condition: &str) -> Result<Vec<(i64, PartSum)>> {
    let sql = "SELECT p.id, b.bucket, p.entry, p.sum, p.count FROM main.sync_part p JOIN main.sync_bucket b ON b.id = p.bucket";
    db.all(&format!("{sql} {condition}"), &[], |r| {
        let bucket = BucketId(r.blob(1).try_into().unwrap_or_default());
        Ok((
            r.integer(0),
            PartSum { bucket, entry: r.integer(2) as EntryId, content: ContentSum { sum: r.integer(3), count: r.integer(4) } },
        ))
    })
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

/// For the server: the device's own sums of all its parts. Those that are only staged are named, so that it says which are no more.
pub fn for_server(store: &mut Store<'_>, staged: &Parts) -> Result<Vec<PartSum>> {
    let sums = recompute(store)?;
    let own = parts(store.db, "")?;
    let own = own.into_iter().map(|(id, part)| PartSum { content: sums.get(&id).copied().unwrap_or_default(), ..part });
    let named = staged.keys().map(|(bucket, entry)| PartSum { bucket: *bucket, entry: *entry, content: ContentSum::default() });
    Ok(own.chain(named).collect())
}

/// After this long the server is told again of parts that differ, in microseconds.
const TELL_AGAIN: i64 = 24 * 3600 * 1_000_000;

/// For the server: parts of buckets that have been fetched again, and still differ from its sums. None where it was told lately.
pub fn differ(db: Db<'_>) -> Result<Option<Differ>> {
    if db.number("SELECT EXISTS (SELECT 1 FROM main.sync_bucket WHERE misses >= ?1)", &[ValueRef::Integer(MISSES)])? == 0
        || (0..TELL_AGAIN).contains(&meta::now().saturating_sub(meta::number(db, "differ_told_at")?))
    {
        return Ok(None);
    }
    meta::set_number(db, "differ_told_at", meta::now())?;
    let found = parts(db, &format!("WHERE b.misses >= {MISSES} ORDER BY p.id LIMIT {}", limits::DIFFER))?;
    Ok(Some(Differ { parts: found.into_iter().map(|(_, part)| part).collect(), subscriptions: subscriptions(db)? }))
}

/// Reads everything again; buckets that are not what was received are marked, to come again with the next pull.
pub fn verify(store: &mut Store<'_>) -> Result<serde_json::Value> {
    let sums = recompute(store)?;
    let own = parts(store.db, "")?;
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
    let strays = remove_strays(store)?;
    let mut report = json!({ "parts": own.len(), "rows": rows, "different": different, "strays": strays });
    if encrypted::any(&store.infos) {
        encrypted::count(store.db, &store.infos)?;
        report["unverified"] = meta::number(store.db, "unreadable")?.into();
    }
    Ok(report)
}

/// Removes rows that are in no bucket and that no unsent write explains: something wrote them past the capture triggers, or took them
/// out of `sync_row`. The server sends those that belong here again; all are kept in `sync_lost` first, until they are back as they were.
fn remove_strays(store: &mut Store<'_>) -> Result<i64> {
    // Rows of an open transaction, or of one that was not looked at yet, are in the log alone.
    if store.db.number("SELECT EXISTS (SELECT 1 FROM main.sync_log)", &[])? != 0 {
        return Ok(0);
    }
    let mut found = Vec::new();
    let mut known = store.db.prepare(
        "SELECT 1 FROM main.sync_row WHERE tbl = ?1 AND key = ?2 UNION ALL SELECT 1 FROM main.sync_shadow WHERE tbl = ?1 AND key = ?2",
    )?;
    for (at, info) in store.infos.iter().enumerate().filter(|(_, info)| !info.retired) {
        let sql = format!("SELECT {} FROM {}", info.key_list(", ", |c, _| c.into()), info.name());
        store.db.prepare(&sql)?.each(&[], |row| {
            let key = Key(values(row, 0, info.keys.len()));
            let mut scratch = Vec::new();
            if known.first(&[ValueRef::Integer(info.id), key.stored(&mut scratch)], |_| Ok(()))?.is_none() {
                found.push((at, key));
            }
            Ok(true)
        })?;
    }
    if !found.is_empty() {
        let mut keeper = Keeper::new(store.db)?;
        while_applying(store, |store| {
            found.iter().try_for_each(|(at, key)| {
                if let Some(row) = store.visible(*at, key)? {
                    keeper.keep(&store.infos[*at], &row, Why::Stray)?;
                }
                store.remove(*at, key)
            })
        })?;
    }
    Ok(found.len() as i64)
}
