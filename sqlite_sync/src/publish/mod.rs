//! A publish: staged pages and the last one become visible, in the order received, with membership and sums kept.
//!
//! What must stay true: a row is in the table exactly while at least one part has it (or a pending change shows it); a part's sum
//! is the sum of the hashes of the values *as stored here*; rows go only at the end, so that one that changes parts never vanishes.
//!
//! - [`parts`]: the parts that a publish touches, and the rows that leave them; [`compare`]: their sums against the server's
//! - [`bulk`]: rows that are new here, many to a statement; [`short`]: rows without what has not changed

mod bulk;
mod compare;
mod parts;
mod short;

pub use compare::{compare, MISSES};
pub use parts::register_bucket;
pub use short::{are_columns, ask_again};

use crate::answer;
use crate::batch;
use crate::encrypted;
use crate::error::{Error, Result};
use crate::host::{Db, Later};
use crate::lost::{self, Keeper, Why};
use crate::records;
use crate::store::{MaybeRow, Place, Store, MANY};
use crate::table::Key;
use parts::Part;
use std::collections::{BTreeSet, HashMap, HashSet};
use sync_shared::hash::{self, BucketId, RowHash};
use sync_shared::message::{BatchId, Bucket, Delta, EntryId, PartChanges};
use sync_shared::{row, Value, ValueRef};

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
    /// Rows that came without columns, and could not be completed then.
    incomplete: HashSet<((i64, EntryId), Place)>,
    /// After the server went back in time: keeps what it has lost.
    lost: Option<Keeper<'c>>,
    shadows: bool,
    /// There are rejected batches.
    refused: bool,
    enter: Later<'c>,
    enter_many: Later<'c>,
    rehash: Later<'c>,
    old_hash: Later<'c>,
    leave: Later<'c>,
    member: Later<'c>,
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
            refused: records::any_rejected(db)?,
            enter: db.later("INSERT INTO main.sync_row VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING"),
            enter_many: db.later(bulk::enter()),
            rehash: db.later("UPDATE main.sync_row SET hash = ?4 WHERE tbl = ?1 AND key = ?2 AND part = ?3"),
            old_hash: db.later("SELECT hash FROM main.sync_row WHERE tbl = ?1 AND key = ?2 AND part = ?3"),
            leave: db.later("DELETE FROM main.sync_row WHERE tbl = ?1 AND key = ?2 AND part = ?3 RETURNING hash"),
            member: db.later("SELECT 1 FROM main.sync_row WHERE tbl = ?1 AND key = ?2 LIMIT 1"),
            lost: if lost::is_restored(db)? { Some(Keeper::new(db)?) } else { None },
            db,
            store,
            buckets: HashMap::new(),
            parts: HashMap::new(),
            old: HashMap::new(),
            leaving: HashMap::new(),
            dirty: HashSet::new(),
            named: HashSet::new(),
            incomplete: HashSet::new(),
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

    fn changes(&mut self, delta: &Delta, changes: &PartChanges) -> Result<()> {
        let at = self.store.by_tag(changes.table)?;
        let part = self.part(named(delta, changes.bucket)?, changes.entry, at)?;
        let (columns, keys) = (self.store.infos[at].tags.len(), self.store.infos[at].keys.len());
        let mut values = Vec::with_capacity(columns);
        let mut reader = row::Reader::new(&changes.rows);
        let mut scratch = Scratch::default();
        let mut left = changes.row_count as usize;
        if let Some(columns) = &changes.columns {
            self.short_rows(part, at, changes, columns)?;
            left = 0;
        }
        while left > 0 {
            let count = left.min(MANY);
            reader.row(count * columns, &mut values)?;
            self.rows(part, at, &values, &mut scratch)?;
            left -= count;
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

    fn row(&mut self, part: (i64, EntryId), at: usize, theirs: &[ValueRef<'_>], scratch: &mut Scratch) -> Result<()> {
        let info = &self.store.infos[at];
        if info.encrypted.is_empty() {
            return self.stored_row(part, at, theirs, theirs, scratch);
        }
        let key = Key(info.keys.iter().map(|k| theirs[*k].to_owned()).collect());
        let before = self.store.server_version(at, &key)?;
        let row = encrypted::received(self.db, &self.store.infos[at], theirs, before.as_deref())?;
        if let (Some(keeper), Some(before)) = (&mut self.lost, before.filter(|before| *before != row)) {
            keeper.keep(&self.store.infos[at], &before, Why::Server(Some(&row)))?;
        }
        self.stored_row(part, at, theirs, &row.iter().map(Value::as_ref).collect::<Vec<_>>(), scratch)
    }

    /// A row of the server's, and how it is stored here.
    fn stored_row(
        &mut self,
        part: (i64, EntryId),
        at: usize,
        theirs: &[ValueRef<'_>],
        values: &[ValueRef<'_>],
        scratch: &mut Scratch,
    ) -> Result<()> {
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
        let before = if info.encrypted.is_empty() { self.before(at, values)? } else { None };
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
            Some(row) => encrypted::hash_of(self.db, info, row, &mut scratch.hash)?,
            None => hash::row_hash_of(info.table.tag, &info.tags, theirs.iter().copied(), &mut scratch.hash),
        };
        if let (Some(keeper), Some(before)) = (&mut self.lost, &before) {
            let tags = &info.tags;
            if hash::row_hash_of(info.table.tag, tags, before.iter().map(Value::as_ref), &mut scratch.hash) != hash {
                let now = stored.unwrap_or_else(|| values.iter().map(|v| (*v).to_owned()).collect());
                keeper.keep(info, before, Why::Server(Some(&now)))?;
            }
        }
        let key = single.unwrap_or(ValueRef::Blob(&scratch.key));
        let known = self.parts.get_mut(&part).ok_or_else(|| Error::plain("a part is missing"))?;
        known.dirty = true;
        let binds = [table, key, ValueRef::Integer(known.id), ValueRef::Integer(hash.0)];
        let mut before = if known.held { self.old_hash.first(&binds[..3], |r| Ok(r.integer(0)))? } else { None };
        if before.is_none() {
            self.enter.run(&binds)?;
            if self.db.changes() == 0 {
                before = Some(self.old_hash.first(&binds[..3], |r| Ok(r.integer(0)))?.unwrap_or(0));
            }
        }
        if let Some(before) = before {
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
            if bucket_stays && (self.refused || self.lost.is_some()) {
                self.keep_leaving(at, &key)?;
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
            } else {
                self.store.infos[at].forget_ciphertext(self.db, &key)?;
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
        encrypted::count(self.db, &self.store.infos)
    }

    /// A row is about to go because the server has it no longer: what may need it later keeps it.
    fn keep_leaving(&mut self, at: usize, key: &Key) -> Result<()> {
        let Some(row) = self.store.server_version(at, key)? else { return Ok(()) };
        if let Some(keeper) = &mut self.lost {
            keeper.keep(&self.store.infos[at], &row, Why::Server(None))?;
        }
        if self.refused {
            records::keep_rest(self.store, at, key, &row)?;
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
