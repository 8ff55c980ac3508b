//! A publish: staged pages and the last one become visible, in the order received, with membership and sums kept.
//!
//! What must stay true: a row is in the table exactly while at least one part has it (or a pending change shows it); a part's sum
//! is the sum of the hashes of the values *as stored here*; rows go only at the end, so that one that changes parts never vanishes.

use crate::answer;
use crate::batch;
use crate::error::{Error, Result};
use crate::host::{Db, Row, Statement};
use crate::json;
use crate::lost::{self, Keeper};
use crate::meta;
use crate::store::{MaybeRow, Place, Store};
use crate::table::Key;
use std::collections::{BTreeSet, HashMap, HashSet};
use sync_shared::hash::{self, BucketId, ContentSum, RowHash};
use sync_shared::message::{BatchId, Bucket, Delta, EntryId, PartChanges, PartSum};
use sync_shared::ranges::Ranges;
use sync_shared::{row, Value, ValueRef};

/// A bucket is no longer fetched again after this many wrong sums in a row.
pub const MISSES: i64 = 3;

struct Part {
    id: i64,
    table: i64,
    sum: ContentSum,
    dirty: bool,
}

/// One publish.
pub struct Publish<'s, 'c> {
    db: Db<'c>,
    store: &'s mut Store<'c>,
    buckets: HashMap<BucketId, i64>,
    parts: HashMap<(i64, EntryId), Part>,
    /// Rows of parts, or of ranges of them, that started from empty and were not sent again yet.
    old: HashMap<(i64, EntryId), HashSet<Place>>,
    /// Rows that lost a membership: gone at the end if it was the last. True: the bucket stayed, so the row was deleted or moved;
    /// false: the user may not hold it any longer, and nothing of it is kept.
    leaving: HashMap<Place, bool>,
    /// Rows whose visible version is to be made anew.
    dirty: HashSet<Place>,
    /// Parts that the pages spoke of.
    named: HashSet<(i64, EntryId)>,
    /// After the server went back in time: keeps what it has lost.
    lost: Option<Keeper<'c>>,
    shadows: bool,
    enter: Statement<'c>,
    rehash: Statement<'c>,
    old_hash: Statement<'c>,
    leave: Statement<'c>,
    member: Statement<'c>,
    /// Rows that the pages brought or took.
    pub rows: i64,
    /// Tables that changed.
    pub tables: BTreeSet<usize>,
}

impl<'s, 'c> Publish<'s, 'c> {
    pub fn new(store: &'s mut Store<'c>) -> Result<Self> {
        let db = store.db;
        Ok(Publish {
            shadows: db.number("SELECT EXISTS (SELECT 1 FROM main.sync_shadow)", &[])? != 0,
            enter: db.prepare("INSERT INTO main.sync_row VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?,
            rehash: db.prepare("UPDATE main.sync_row SET hash = ?4 WHERE tbl = ?1 AND key = ?2 AND part = ?3")?,
            old_hash: db.prepare("SELECT hash FROM main.sync_row WHERE tbl = ?1 AND key = ?2 AND part = ?3")?,
            leave: db.prepare("DELETE FROM main.sync_row WHERE tbl = ?1 AND key = ?2 AND part = ?3 RETURNING hash")?,
            member: db.prepare("SELECT 1 FROM main.sync_row WHERE tbl = ?1 AND key = ?2 LIMIT 1")?,
            lost: if lost::is_restored(db)? { Some(Keeper::new(db)?) } else { None },
            db,
            store,
            buckets: HashMap::new(),
            parts: HashMap::new(),
            old: HashMap::new(),
            leaving: HashMap::new(),
            dirty: HashSet::new(),
            named: HashSet::new(),
            rows: 0,
            tables: BTreeSet::new(),
        })
    }

    /// Applies one page.
    pub fn page(&mut self, delta: &Delta) -> Result<()> {
        let gone = self.gone_parts(delta)?;
        self.drop_parts(&gone)?;
        for id in &delta.gone_buckets {
            self.buckets.remove(id);
            // One that a later page brings back whole stays known; its rows come with that page.
            self.db.run("DELETE FROM main.sync_bucket WHERE bucket = ?1 AND staged <> 1", &[ValueRef::Blob(&id.0)])?;
        }
        let mut fresh = Vec::new();
        // A table that a later page's schema no longer has is gone, with its rows: what an earlier page says of it is void.
        let there: Vec<_> = delta.changes.iter().filter(|c| self.store.by_tag(c.table).is_ok()).collect();
        for changes in &there {
            let at = self.store.by_tag(changes.table)?;
            let name = self.part(named(delta, changes.bucket)?, changes.entry, at)?;
            self.named.insert(name);
            let starts = changes.from_empty || changes.ranges.as_ref().is_some_and(|ranges| !ranges.is_empty());
            if starts && self.parts.get(&name).is_some_and(|p| p.sum.count > 0) {
                fresh.push((name, changes.ranges.as_ref()));
            }
        }
        self.with_rows(&fresh)?;
        for changes in there {
            self.changes(delta, changes)?;
        }
        Ok(())
    }

    fn drop_parts(&mut self, gone: &[(i64, EntryId)]) -> Result<()> {
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
    fn drop_unnamed(&mut self) -> Result<()> {
        let sql = "SELECT p.bucket, p.entry FROM main.sync_part p JOIN main.sync_bucket b ON b.id = p.bucket WHERE b.staged = 1";
        let mut unnamed = self.db.all(sql, &[], |r| Ok((r.integer(0), r.integer(1) as EntryId)))?;
        unnamed.retain(|part| !self.named.contains(part));
        self.drop_parts(&unnamed)
    }

    fn gone_parts(&mut self, delta: &Delta) -> Result<Vec<(i64, EntryId)>> {
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
    fn with_rows(&mut self, names: &[((i64, EntryId), Option<&Ranges>)]) -> Result<()> {
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

    fn leave_all(&mut self, part: (i64, EntryId), places: HashSet<Place>, bucket_stays: bool) -> Result<()> {
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

    fn part(&mut self, bucket: &Bucket, entry: EntryId, at: usize) -> Result<(i64, EntryId)> {
        let (name, table) = ((self.bucket(bucket)?, entry), self.store.infos[at].id);
        self.load_part(name)?;
        // The number was another table's entry before the server went back.
        if self.parts.get(&name).is_some_and(|p| p.table != table) {
            self.drop_parts(&[name])?;
        }
        if !self.parts.contains_key(&name) {
            let binds = [ValueRef::Integer(name.0), ValueRef::Integer(i64::from(entry)), ValueRef::Integer(table)];
            let id = self.db.number("INSERT INTO main.sync_part(bucket, entry, tbl) VALUES (?1, ?2, ?3) RETURNING id", &binds)?;
            self.parts.insert(name, Part { id, table, sum: ContentSum::default(), dirty: false });
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
                Ok(Part { id: r.integer(0), table: r.integer(1), sum, dirty: false })
            },
        )?;
        if let Some(part) = found {
            self.parts.insert(name, part);
        }
        Ok(())
    }

    fn changes(&mut self, delta: &Delta, changes: &PartChanges) -> Result<()> {
        let at = self.store.by_tag(changes.table)?;
        let part = self.part(named(delta, changes.bucket)?, changes.entry, at)?;
        let (columns, keys) = (self.store.infos[at].tags.len(), self.store.infos[at].keys.len());
        let mut values = Vec::with_capacity(columns);
        let mut reader = row::Reader::new(&changes.rows);
        let mut scratch = Scratch::default();
        for _ in 0..changes.row_count {
            reader.row(columns, &mut values)?;
            self.row(part, at, &values, &mut scratch)?;
        }
        let mut reader = row::Reader::new(&changes.gone);
        for _ in 0..changes.gone_count {
            reader.row(keys, &mut values)?;
            let key = Key(values.iter().map(|v| (*v).to_owned()).collect());
            self.leave(part, at, &key, true)?;
        }
        if changes.row_count + changes.gone_count > 0 {
            self.tables.insert(at);
        }
        self.rows += i64::from(changes.row_count) + i64::from(changes.gone_count);
        Ok(())
    }

    fn row(&mut self, part: (i64, EntryId), at: usize, values: &[ValueRef<'_>], scratch: &mut Scratch) -> Result<()> {
        let info = &self.store.infos[at];
        let exact = values.iter().enumerate().all(|(i, v)| info.is_exact(i, *v));
        // The key as `sync_row` holds it, without a copy where it is one column.
        let (table, single) = (ValueRef::Integer(info.id), if let [one] = info.keys[..] { Some(values[one]) } else { None });
        if single.is_none() || self.shadows || !self.old.is_empty() {
            scratch.key.clear();
            row::put_all(&mut scratch.key, info.keys.iter().map(|k| values[*k]));
        }
        if info.keys.iter().any(|k| values[*k] == ValueRef::Null || !info.is_exact(*k, values[*k])) {
            return Err(Error::damaged(format_args!("a row of {:?} has a key that its columns cannot hold", info.table.name)));
        }
        let before = self.before(at, values)?;
        let mut stored = None;
        let mut shadowed = None;
        if self.shadows {
            let key = Key(row::decode(&scratch.key)?);
            shadowed = self.store.shadow(at, &key)?.map(|_| key);
        }
        if let Some(key) = shadowed {
            self.store.set_shadow(at, &key, Some(values), None)?;
            self.dirty.insert((at, key.bytes()));
        } else if let Err(error) = self.store.write(at, values) {
            let reason = self.store.set_aside(error)?;
            let key = Key(self.store.infos[at].keys.iter().map(|k| values[*k].to_owned()).collect());
            self.store.set_shadow(at, &key, Some(values), Some(&reason))?;
            self.shadows = true;
        } else if !exact {
            // The column's type may have turned the value into another one: sum what is stored.
            let key = Key(self.store.infos[at].keys.iter().map(|k| values[*k].to_owned()).collect());
            stored = self.store.visible(at, &key)?;
        }
        let info = &self.store.infos[at];
        let hash = match &stored {
            Some(row) => hash::row_hash_of(info.table.tag, &info.tags, row.iter().map(Value::as_ref), &mut scratch.hash),
            None => hash::row_hash_of(info.table.tag, &info.tags, values.iter().copied(), &mut scratch.hash),
        };
        if let (Some(keeper), Some(before)) = (&mut self.lost, &before) {
            let tags = &info.tags;
            if hash::row_hash_of(info.table.tag, tags, before.iter().map(Value::as_ref), &mut scratch.hash) != hash {
                let now = stored.unwrap_or_else(|| values.iter().map(|v| (*v).to_owned()).collect());
                keeper.keep(info, before, Some(&now))?;
            }
        }
        let key = single.unwrap_or(ValueRef::Blob(&scratch.key));
        let known = self.parts.get_mut(&part).ok_or_else(|| Error::plain("a part is missing"))?;
        known.dirty = true;
        let binds = [table, key, ValueRef::Integer(known.id), ValueRef::Integer(hash.0)];
        self.enter.run(&binds)?;
        if self.db.changes() == 0 {
            let before = self.old_hash.first(&binds[..3], |r| Ok(r.integer(0)))?.unwrap_or(0);
            known.sum.remove(RowHash(before));
            if before != hash.0 {
                self.rehash.run(&binds)?;
            }
        }
        known.sum.add(hash);
        if let Some(old) = self.old.get_mut(&part) {
            old.remove(&(at, std::mem::take(&mut scratch.key)));
        }
        Ok(())
    }

    /// The server's version of a row as it was here, where it may have to be kept.
    fn before(&mut self, at: usize, values: &[ValueRef<'_>]) -> Result<MaybeRow> {
        if self.lost.is_none() {
            return Ok(None);
        }
        let key = Key(self.store.infos[at].keys.iter().map(|k| values[*k].to_owned()).collect());
        self.store.server_version(at, &key)
    }

    fn leave(&mut self, part: (i64, EntryId), at: usize, key: &Key, bucket_stays: bool) -> Result<()> {
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

    /// What remains when all pages are applied: rows that left, confirmed batches, rows that could not be written before.
    pub fn finish(&mut self, delta: &Delta) -> Result<()> {
        self.drop_unclaimed(delta)?;
        self.drop_unnamed()?;
        for (part, places) in std::mem::take(&mut self.old) {
            self.leave_all(part, places, true)?;
        }
        for ((at, key), bucket_stays) in std::mem::take(&mut self.leaving) {
            let key = Key(row::decode(&key)?);
            let mut stored = Vec::new();
            let binds = [ValueRef::Integer(self.store.infos[at].id), key.stored(&mut stored)];
            if self.member.first(&binds, |_| Ok(()))?.is_some() {
                continue;
            }
            if self.lost.is_some() && bucket_stays {
                let before = self.store.server_version(at, &key)?;
                if let (Some(keeper), Some(before)) = (&mut self.lost, before) {
                    keeper.keep(&self.store.infos[at], &before, None)?;
                }
            }
            if self.shadows && self.store.shadow(at, &key)?.is_some() {
                // What is written to a row that goes can bring it back, except where the user may no longer hold it.
                if bucket_stays {
                    self.store.keep_rest(at, &key, 0)?;
                }
                self.store.set_shadow(at, &key, None, None)?;
                self.dirty.insert((at, key.bytes()));
            } else if let Err(error) = self.store.remove(at, &key) {
                let reason = self.store.set_aside(error)?;
                self.store.set_shadow(at, &key, None, Some(&reason))?;
            }
        }
        if delta.complete {
            self.confirm(delta.last_batch.as_ref())?;
        }
        for (at, key) in std::mem::take(&mut self.dirty) {
            self.store.settle(at, &Key(row::decode(&key)?))?;
        }
        for (at, key) in self.store.keys_of("SELECT tbl, key FROM main.sync_shadow WHERE error IS NOT NULL", &[])? {
            self.store.settle(at, &key)?;
        }
        let mut save = self.db.prepare("UPDATE main.sync_part SET sum = ?2, count = ?3 WHERE id = ?1")?;
        for part in self.parts.values().filter(|p| p.dirty) {
            save.run(&[ValueRef::Integer(part.id), ValueRef::Integer(part.sum.sum), ValueRef::Integer(part.sum.count)])?;
        }
        Ok(())
    }

    /// A complete snapshot says how far it includes this device's own batches.
    fn confirm(&mut self, last: Option<&BatchId>) -> Result<()> {
        if let Some(last) = last {
            if !batch::is_own(self.db, last)? {
                return answer::forked(self.store);
            }
            let confirmed = batch::included(self.db, last)?;
            for id in &confirmed {
                self.store.keep_rest_behind(*id, last.number)?;
            }
            batch::confirm(self.db, &confirmed)?;
            for id in confirmed {
                self.store.settle_batch(id)?;
            }
        }
        batch::ask_again(self.db, last.map_or(0, |l| l.number))
    }

    /// Buckets that are not this device's any more although no page said so, since the server did not know of them: one that left
    /// while it was being read, and so is not whole when its priority is published; one that was to be fetched again and did not
    /// come in a complete pass.
    fn drop_unclaimed(&mut self, delta: &Delta) -> Result<()> {
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

#[derive(Default)]
struct Scratch {
    hash: Vec<u8>,
    key: Vec<u8>,
}

/// The bucket at a position of a page.
pub fn named(delta: &Delta, position: u32) -> Result<&Bucket> {
    delta.buckets.get(position as usize).ok_or_else(|| Error::damaged(format_args!("the page has no bucket {position}")))
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

/// Compares the sums. Answers whether a bucket is to be fetched again at once.
pub fn compare(db: Db<'_>, sums: &[PartSum]) -> Result<bool> {
    let mut wrong: HashMap<BucketId, bool> = HashMap::new();
    let mut find = db.prepare("SELECT p.sum, p.count FROM main.sync_part p JOIN main.sync_bucket b ON b.id = p.bucket WHERE b.bucket = ?1 AND p.entry = ?2")?;
    for sum in sums {
        let mine = find.first(&[ValueRef::Blob(&sum.bucket.0), ValueRef::Integer(i64::from(sum.entry))], |r| {
            Ok(ContentSum { sum: r.integer(0), count: r.integer(1) })
        })?;
        *wrong.entry(sum.bucket).or_default() |= mine.unwrap_or_default() != sum.content;
    }
    for (bucket, wrong) in wrong {
        let id = [ValueRef::Blob(&bucket.0), ValueRef::Integer(MISSES)];
        if wrong {
            db.run("UPDATE main.sync_bucket SET misses = misses + 1, refetch = misses + 1 < ?2 WHERE bucket = ?1", &id)?;
        } else {
            db.run("UPDATE main.sync_bucket SET misses = 0 WHERE bucket = ?1 AND misses > 0", &id[..1])?;
        }
    }
    let again = db.number("SELECT EXISTS (SELECT 1 FROM main.sync_bucket WHERE refetch > 0 AND published)", &[])? != 0;
    if again {
        meta::set(db, "notice", ValueRef::Text("a bucket's content differed from the server's: what differs is fetched again"))?;
    }
    Ok(again)
}
