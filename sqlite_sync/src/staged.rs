//! Pages of a download that took too long: what they brought need not come again.
//!
//! Where the server's log no longer reaches back to where a download began, it says so when the tables are read, and another one begins. What was staged for buckets that are not
//! shown yet stays in front of its pages, and they bring only the ranges that differ from it. Buckets that are shown are compared as
//! they are shown, so pages are forgotten as far as they speak of those.

use crate::error::{Error, Result};
use crate::host::Db;
use crate::meta;
use crate::store::Store;
use std::collections::{HashMap, HashSet};
use sync_shared::hash::{self, BucketId, RowHash};
use sync_shared::message::{Delta, EntryId, PartChanges};
use sync_shared::{envelope, row, ValueRef};

/// Rows of parts by their keys' bytes, as a publish of all staged pages would leave them.
pub type Parts = HashMap<(BucketId, EntryId), HashMap<Vec<u8>, RowHash>>;

/// Forgets the unfinished pass, except what it brought of buckets that are not shown.
pub fn keep(db: Db<'_>) -> Result<()> {
    let shown = buckets(db, "published")?;
    db.run("UPDATE main.sync_bucket SET staged = 0", &[])?;
    db.run("DELETE FROM main.sync_bucket WHERE NOT published AND NOT EXISTS (SELECT 1 FROM main.sync_part p WHERE p.bucket = sync_bucket.id)", &[])?;
    meta::set(db, "pass", ValueRef::Blob(&[]))?;
    let mut rows = 0;
    for seq in numbers(db)? {
        let mut page = read(db, seq)?;
        retain(&mut page, |bucket, _| !shown.contains(bucket));
        page.gone_buckets.retain(|bucket| !shown.contains(bucket));
        rows += page.changes.iter().map(|c| i64::from(c.row_count)).sum::<i64>();
        write(db, seq, &page)?;
    }
    meta::set_number(db, "staged_rows", rows)
}

/// What of a page is to be published now; the rest stays staged: of buckets behind the priority that is published, of which nothing is
/// shown and not everything is staged.
pub fn due(db: Db<'_>, seq: i64, publish: &Delta) -> Result<Delta> {
    let mut page = read(db, seq)?;
    let upto = publish.publish.unwrap_or(0);
    if publish.complete || page.buckets.iter().all(|b| b.priority <= upto) {
        db.run("DELETE FROM main.sync_stage WHERE seq = ?1", &[ValueRef::Integer(seq)])?;
        return Ok(page);
    }
    let ready = buckets(db, "published OR staged = 1")?;
    let is_due = |bucket: &BucketId, priority: u8| priority <= upto || ready.contains(bucket);
    let mut rest = page.clone();
    retain(&mut rest, |bucket, priority| !is_due(bucket, priority));
    retain(&mut page, is_due);
    rest.gone_buckets.clear();
    write(db, seq, &rest)?;
    Ok(page)
}

/// The rows that are staged.
pub fn parts(store: &Store<'_>) -> Result<Parts> {
    let mut parts = Parts::new();
    for seq in numbers(store.db)? {
        let page = read(store.db, seq)?;
        parts.retain(|(bucket, entry), _| !page.gone_buckets.contains(bucket) && !page.gone_entries.contains(entry));
        for changes in &page.changes {
            let Some(bucket) = page.buckets.get(changes.bucket as usize) else { continue };
            collect(store, changes, parts.entry((bucket.id, changes.entry)).or_default())?;
        }
    }
    Ok(parts)
}

fn collect(store: &Store<'_>, changes: &PartChanges, rows: &mut HashMap<Vec<u8>, RowHash>) -> Result<()> {
    // A table that is gone has no rows.
    let Ok(at) = store.by_tag(changes.table) else { return Ok(()) };
    let info = &store.infos[at];
    if changes.from_empty {
        rows.clear();
    } else if let Some(ranges) = &changes.ranges {
        rows.retain(|key, _| !ranges.contain(key));
    }
    let (mut values, mut scratch) = (Vec::new(), Vec::new());
    let mut reader = row::Reader::new(&changes.rows);
    for _ in 0..changes.row_count {
        reader.row(changes.width(info.tags.len()), &mut values)?;
        let place = |k: &usize| match &changes.columns {
            Some(columns) => columns.iter().position(|column| usize::from(*column) == *k),
            None => Some(*k),
        };
        let mut key = Vec::new();
        row::put_all(&mut key, info.keys.iter().map(|k| place(k).map_or(ValueRef::Null, |at| values[at])));
        match changes.columns {
            None => {
                rows.insert(key, hash::row_hash_of(info.table.tag, &info.tags, values.iter().copied(), &mut scratch));
            }
            // What it will be completed to is not worked out here: its range counts as another one, and comes again.
            Some(_) => {
                rows.entry(key).and_modify(|hash| *hash = RowHash::default());
            }
        }
    }
    let mut reader = row::Reader::new(&changes.gone);
    for _ in 0..changes.gone_count {
        reader.row(info.keys.len(), &mut values)?;
        let mut key = Vec::new();
        row::put_all(&mut key, values.iter().copied());
        rows.remove(&key);
    }
    Ok(())
}

fn retain(page: &mut Delta, wanted: impl Fn(&BucketId, u8) -> bool) {
    let Delta { changes, buckets, .. } = page;
    changes.retain(|c| buckets.get(c.bucket as usize).is_some_and(|b| wanted(&b.id, b.priority)));
}

fn numbers(db: Db<'_>) -> Result<Vec<i64>> {
    db.all("SELECT seq FROM main.sync_stage ORDER BY seq", &[], |r| Ok(r.integer(0)))
}

pub fn read(db: Db<'_>, seq: i64) -> Result<Delta> {
    let page = db.first("SELECT page FROM main.sync_stage WHERE seq = ?1", &[ValueRef::Integer(seq)], |r| Ok(r.blob(0)))?;
    envelope::decode(&page.unwrap_or_default()).map_err(|_| {
        Error::plain("a page of sync_stage cannot be read, since something has changed it: sync_sign_out('keep') forgets the download that it belongs to")
    })
}

/// A page of which nothing is left goes.
fn write(db: Db<'_>, seq: i64, page: &Delta) -> Result<()> {
    let number = ValueRef::Integer(seq);
    if page.changes.is_empty() && page.gone_buckets.is_empty() && page.gone_entries.is_empty() {
        return db.run("DELETE FROM main.sync_stage WHERE seq = ?1", &[number]);
    }
    db.run("UPDATE main.sync_stage SET page = ?2 WHERE seq = ?1", &[number, ValueRef::Blob(&envelope::encode(page)?)])
}

fn buckets(db: Db<'_>, condition: &str) -> Result<HashSet<BucketId>> {
    let sql = format!("SELECT bucket FROM main.sync_bucket WHERE {condition}");
    db.all(&sql, &[], |r| Ok(BucketId(r.blob(0).try_into().unwrap_or_default()))).map(|found| found.into_iter().collect())
}
