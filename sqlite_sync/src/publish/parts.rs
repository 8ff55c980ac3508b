//! The parts that a publish touches: found or made, emptied, dropped; and the rows that leave them.

use super::Publish;
use crate::error::Result;
use crate::host::{Db, Row};
use crate::json;
use crate::store::Place;
use crate::table::Key;
use std::collections::{BTreeSet, HashMap, HashSet};
use sync_shared::hash::{BucketId, ContentSum, RowHash};
use sync_shared::message::{Bucket, Delta, EntryId};
use sync_shared::ranges::Ranges;
use sync_shared::{row, ValueRef};

pub(super) struct Part {
    pub(super) id: i64,
    pub(super) table: i64,
    pub(super) sum: ContentSum,
    pub(super) dirty: bool,
    /// It had rows before this publish, so most rows that come are known.
    pub(super) held: bool,
    /// It had none, and no row that came was known.
    pub(super) new: bool,
}

impl Publish<'_, '_> {
    pub(super) fn drop_parts(&mut self, gone: &[(i64, EntryId)]) -> Result<()> {
        self.with_rows(&gone.iter().map(|part| (*part, None)).collect::<Vec<_>>())?;
        for part in gone.iter().copied() {
            let places = self.old.remove(&part).unwrap_or_default();
            self.leave_all(part, places, false)?;
        }
        for (bucket, entry) in gone {
            self.parts.remove(&(*bucket, *entry));
            self.db.run(
                "DELETE FROM main.sync_part WHERE bucket = ?1 AND entry = ?2",
                &[ValueRef::Integer(*bucket), ValueRef::Integer(i64::from(*entry))],
            )?;
        }
        Ok(())
    }

    /// Parts that no page spoke of although their bucket came whole: of entries whose numbers mean others since the server went back.
    pub(super) fn drop_unnamed(&mut self) -> Result<()> {
        let sql = "SELECT p.bucket, p.entry FROM main.sync_part p JOIN main.sync_bucket b ON b.id = p.bucket WHERE b.staged = 1";
        let mut unnamed = self.db.all(sql, &[], |r| Ok((r.integer(0), r.integer(1) as EntryId)))?;
        unnamed.retain(|part| !self.named.contains(part));
        self.drop_parts(&unnamed)
    }

    pub(super) fn gone_parts(&mut self, delta: &Delta) -> Result<Vec<(i64, EntryId)>> {
        let read = |r: &Row<'_>| Ok((r.integer(0), r.integer(1) as EntryId));
        let mut gone = Vec::new();
        for id in &delta.gone_buckets {
            let sql =
                "SELECT p.bucket, p.entry FROM main.sync_part p JOIN main.sync_bucket b ON b.id = p.bucket WHERE b.bucket = ?1";
            gone.extend(self.db.all(sql, &[ValueRef::Blob(&id.0)], read)?);
        }
        for entry in &delta.gone_entries {
            gone.extend(self.db.all(
                "SELECT bucket, entry FROM main.sync_part WHERE entry = ?1",
                &[ValueRef::Integer(i64::from(*entry))],
                read,
            )?);
        }
        Ok(gone)
    }

    /// Collects the rows of the given parts, or of ranges of them, into `old`, in one walk however many parts there are.
    pub(super) fn with_rows(&mut self, names: &[((i64, EntryId), Option<&Ranges>)]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let mut wanted = HashMap::new();
        let mut tables = BTreeSet::new();
        let mut find = self.db.prepare("SELECT id, tbl FROM main.sync_part WHERE bucket = ?1 AND entry = ?2")?;
        for ((bucket, entry), ranges) in names {
            if let Some((id, table)) = find.first(&[ValueRef::Integer(*bucket), ValueRef::Integer(i64::from(*entry))], |r| {
                Ok((r.integer(0), r.integer(1)))
            })? {
                wanted.insert(id, ((*bucket, *entry), *ranges));
                tables.insert(table);
            }
        }
        let mut scan = self.db.prepare("SELECT part, key FROM main.sync_row WHERE tbl = ?1")?;
        for table in tables {
            let Some(at) = self.store.by_id(table) else { continue };
            let keys = self.store.infos[at].keys.len();
            let old = &mut self.old;
            scan.each(&[ValueRef::Integer(table)], |row| {
                if let Some((name, ranges)) = wanted.get(&row.integer(0)) {
                    let key = Key::from_stored(row.value(1), keys)?.bytes();
                    if ranges.is_none_or(|ranges| ranges.contain(&key)) {
                        old.entry(*name).or_default().insert((at, key));
                    }
                }
                Ok(true)
            })?;
        }
        Ok(())
    }

    pub(super) fn leave_all(&mut self, part: (i64, EntryId), places: HashSet<Place>, bucket_stays: bool) -> Result<()> {
        for (at, key) in places {
            let key = Key(row::decode(&key)?);
            self.leave(part, at, &key, bucket_stays)?;
        }
        Ok(())
    }

    fn bucket(&mut self, bucket: &Bucket) -> Result<i64> {
        if let Some(id) = self.buckets.get(&bucket.id) {
            return Ok(*id);
        }
        let id = register_bucket(self.db, bucket)?;
        self.buckets.insert(bucket.id, id);
        Ok(id)
    }

    pub(super) fn part(&mut self, bucket: &Bucket, entry: EntryId, at: usize) -> Result<(i64, EntryId)> {
        let (name, table) = ((self.bucket(bucket)?, entry), self.store.infos[at].id);
        self.load_part(name)?;
        // The number was another table's entry before the server went back.
        if self.parts.get(&name).is_some_and(|p| p.table != table) {
            self.drop_parts(&[name])?;
        }
        if !self.parts.contains_key(&name) {
            let binds = [ValueRef::Integer(name.0), ValueRef::Integer(i64::from(entry)), ValueRef::Integer(table)];
            let id = self.db.number("INSERT INTO main.sync_part(bucket, entry, tbl) VALUES (?1, ?2, ?3) RETURNING id", &binds)?;
            self.parts.insert(name, Part { id, table, sum: ContentSum::default(), dirty: false, held: false, new: true });
        }
        Ok(name)
    }

    fn load_part(&mut self, name: (i64, EntryId)) -> Result<()> {
        if self.parts.contains_key(&name) {
            return Ok(());
        }
        let found = self.db.first(
            "SELECT id, tbl, sum, count FROM main.sync_part WHERE bucket = ?1 AND entry = ?2",
            &[ValueRef::Integer(name.0), ValueRef::Integer(i64::from(name.1))],
            |r| {
                let sum = ContentSum { sum: r.integer(2), count: r.integer(3) };
                Ok(Part { id: r.integer(0), table: r.integer(1), sum, dirty: false, held: sum.count > 0, new: sum.count == 0 })
            },
        )?;
        if let Some(part) = found {
            self.parts.insert(name, part);
        }
        Ok(())
    }

    pub(super) fn leave(&mut self, part: (i64, EntryId), at: usize, key: &Key, bucket_stays: bool) -> Result<()> {
        self.load_part(part)?;
        let Some(known) = self.parts.get_mut(&part) else { return Ok(()) };
        let mut stored = Vec::new();
        let binds = [ValueRef::Integer(self.store.infos[at].id), key.stored(&mut stored), ValueRef::Integer(known.id)];
        let mut hash = None;
        // To the end: a RETURNING statement that is reset early would still delete, but only by grace.
        self.leave.each(&binds, |r| {
            hash = Some(r.integer(0));
            Ok(true)
        })?;
        if let Some(hash) = hash {
            known.sum.remove(RowHash(hash));
            known.dirty = true;
            *self.leaving.entry((at, key.bytes())).or_default() |= bucket_stays;
            self.tables.insert(at);
        }
        if let Some(old) = self.old.get_mut(&part) {
            old.remove(&(at, key.bytes()));
        }
        Ok(())
    }

    /// Buckets that are not this device's any more although no page said so, since the server did not know of them: one that left
    /// while it was being read, and so is not whole when its priority is published; one that was to be fetched again and did not
    /// come in a complete pass.
    pub(super) fn drop_unclaimed(&mut self, delta: &Delta) -> Result<()> {
        let upto = delta.publish.unwrap_or(0);
        let unclaimed = self.db.all(
            "SELECT bucket FROM main.sync_bucket WHERE staged <> 1 \
             AND (refetch = 2 AND ?1 OR NOT published AND priority <= ?2)",
            &[ValueRef::Integer(i64::from(delta.complete)), ValueRef::Integer(i64::from(upto))],
            |r| Ok(r.blob(0)),
        )?;
        let gone_buckets: Vec<_> = unclaimed.iter().filter_map(|id| <[u8; 16]>::try_from(&id[..]).ok().map(BucketId)).collect();
        if gone_buckets.is_empty() {
            return Ok(());
        }
        self.page(&Delta { gone_buckets, gone_entries: Vec::new(), changes: Vec::new(), ..delta.clone() })
    }
}

/// The local number of a bucket, which is made known if need be.
pub fn register_bucket(db: Db<'_>, bucket: &Bucket) -> Result<i64> {
    let key = serde_json::Value::from(bucket.key.iter().map(json::of_value).collect::<Vec<_>>()).to_string();
    db.number(
        "INSERT INTO main.sync_bucket(bucket, rule, key_json, priority) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT(bucket) DO UPDATE SET priority = excluded.priority RETURNING id",
        &[
            ValueRef::Blob(&bucket.id.0),
            ValueRef::Text(&bucket.rule),
            ValueRef::Text(&key),
            ValueRef::Integer(i64::from(bucket.priority)),
        ],
    )
}
