//! Appends to `sync.op` without SQL: multi-insert and direct index insertion.
//!
//! Changes of one statement in the same bucket share a row of the log, up to [`KEYS_BYTES`] of keys: the sums telescope, so only
//! the keys need to be told apart.
#![allow(unsafe_code)]

use super::place::{self, Log};
use crate::quick::QuickMap;
use pgrx::pg_sys;
use std::cell::Cell;
use sync_shared::hash::BucketId;
use sync_shared::keys;
use sync_shared::message::EntryId;

/// Tuples handed to the heap at once.
const BATCH: usize = 128;
/// Groups that wait for more keys; a statement may touch any number of buckets.
const GROUPS: usize = 2_048;
/// Keys of one tuple, in bytes: four tuples fill a page, and none is toasted.
const KEYS_BYTES: usize = 1_900;
/// So few groups are looked through one by one.
const FEW: usize = 4;
const COLUMNS: usize = 9;
/// Microseconds from 1970 to 2000, where Postgres's clock starts.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

thread_local! {
    /// The transaction that `op_id`s are being counted for, and the last one given.
    static COUNTER: Cell<(u64, i32)> = const { Cell::new((0, 0)) };
    /// While push applies a batch: when its edits were made on the device.
    static EDITED: Cell<Option<i64>> = const { Cell::new(None) };
}

/// Says when the following changes were made (microseconds since 1970); None: now.
pub fn set_edited(at: Option<i64>) {
    EDITED.with(|e| e.set(at));
}

/// One change of one row in one bucket.
pub struct Op<'a> {
    pub bucket: BucketId,
    pub entry: EntryId,
    /// New hash minus old hash.
    pub hash: i64,
    /// 1, 0 or -1.
    pub n: i32,
    pub changed: i64,
    pub key: &'a [u8],
}

/// Ops that share a row of the log.
#[derive(Default)]
struct Group {
    bucket: BucketId,
    entry: EntryId,
    changed: i64,
    hash: i64,
    n: i32,
    rows: i32,
    keys: Vec<u8>,
}

/// A row of the log that waits to be written.
struct Row {
    bucket: BucketId,
    /// In memory that lives until the flush, all but the bucket.
    values: [pg_sys::Datum; COLUMNS],
    tuple: pg_sys::HeapTuple,
}

/// Collects ops of one statement.
pub struct Writer {
    log: Log,
    groups: Vec<Group>,
    /// Where the group of (bucket, entry, changed) is, where there are more than a few.
    places: QuickMap<(BucketId, EntryId, i64), usize>,
    /// The group of the last op: neighbours are often in the same bucket.
    recent: usize,
    rows: Vec<Row>,
    /// For several tuples at once.
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    bulk: pg_sys::BulkInsertState,
    memory: pg_sys::MemoryContext,
    xid: u64,
    at: i64,
}

impl Writer {
    /// Opens the log for a statement that changed about `rows` rows.
    pub fn open(rows: usize) -> Self {
        // SAFETY: plain use of the table and index access methods; everything is released in `close`, or by the transaction's abort.
        unsafe {
            let memory =
                pg_sys::AllocSetContextCreateExtended(pg_sys::CurrentMemoryContext, c"sync ops".as_ptr(), 0, 8192, 8 << 20);
            Writer {
                log: place::open(),
                groups: Vec::new(),
                places: QuickMap::default(),
                recent: 0,
                rows: Vec::new(),
                slots: Vec::new(),
                bulk: if rows > 1 { pg_sys::GetBulkInsertState() } else { std::ptr::null_mut() },
                memory,
                // The top-level id: a subtransaction's would read as visible in a snapshot that lists only top ids: a hole.
                xid: pg_sys::GetTopFullTransactionId().value,
                at: EDITED.with(Cell::get).unwrap_or_else(|| pg_sys::GetCurrentStatementStartTimestamp() + EPOCH_MICROS),
            }
        }
    }

    /// Adds an op.
    pub fn append(&mut self, op: Op<'_>) {
        let place = self.place(&op);
        let group = &mut self.groups[place];
        if group.rows > 0 && group.keys.len() + keys::room(op.key) > KEYS_BYTES {
            let full =
                std::mem::replace(group, Group { bucket: op.bucket, entry: op.entry, changed: op.changed, ..Group::default() });
            self.emit(full);
        }
        let group = &mut self.groups[place];
        keys::put(&mut group.keys, op.key);
        group.hash = group.hash.wrapping_add(op.hash);
        group.n += op.n;
        group.rows += 1;
    }

    /// Where the op's group is, made if there is none.
    fn place(&mut self, op: &Op<'_>) -> usize {
        let fits = |g: &Group| g.bucket == op.bucket && g.entry == op.entry && g.changed == op.changed;
        if self.groups.get(self.recent).is_some_and(fits) {
            return self.recent;
        }
        let name = (op.bucket, op.entry, op.changed);
        let known = match self.groups.len() {
            0..=FEW => self.groups.iter().position(fits),
            _ => self.places.get(&name).copied(),
        };
        self.recent = known.unwrap_or_else(|| {
            if self.groups.len() == GROUPS {
                self.emit_all();
            }
            self.groups.push(Group { bucket: op.bucket, entry: op.entry, changed: op.changed, ..Group::default() });
            let group = |(place, g): (usize, &Group)| ((g.bucket, g.entry, g.changed), place);
            match self.groups.len() {
                0..=FEW => {}
                n if n == FEW + 1 => self.places.extend(self.groups.iter().enumerate().map(group)),
                n => drop(self.places.insert(name, n - 1)),
            }
            self.groups.len() - 1
        });
        self.recent
    }

    fn emit_all(&mut self) {
        self.places.clear();
        for group in std::mem::take(&mut self.groups) {
            self.emit(group);
        }
    }

    /// Makes a group the next tuple. Its rows are numbered in the transaction; `op_id` is the last one's number.
    fn emit(&mut self, group: Group) {
        if self.rows.len() == BATCH {
            self.flush();
        }
        let op_id = COUNTER.with(|c| {
            let (xid, last) = c.get();
            let next = if xid == self.xid { last.checked_add(group.rows) } else { Some(group.rows) };
            let Some(next) = next else { pgrx::error!("a transaction may change at most 2147483647 rows of synced tables") };
            c.set((self.xid, next));
            next
        });
        // SAFETY: nine datums of the types of sync.op's columns, in their order; the tuple lives in `memory` until the flush.
        unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(self.memory);
            let bucket = group.bucket;
            let keys: *mut pg_sys::varlena = pg_sys::palloc(pg_sys::VARHDRSZ + group.keys.len()).cast();
            pgrx::set_varsize_4b(keys, (pg_sys::VARHDRSZ + group.keys.len()) as i32);
            std::ptr::copy_nonoverlapping(group.keys.as_ptr(), keys.cast::<u8>().add(pg_sys::VARHDRSZ), group.keys.len());
            let mut values: [pg_sys::Datum; COLUMNS] = [
                pg_sys::Datum::from(bucket.0.as_ptr()),
                pg_sys::Datum::from(self.xid),
                pg_sys::Datum::from(group.hash),
                pg_sys::Datum::from(self.at),
                pg_sys::Datum::from(group.changed),
                pg_sys::Datum::from(op_id),
                pg_sys::Datum::from(group.entry),
                pg_sys::Datum::from(group.n),
                pg_sys::Datum::from(keys),
            ];
            let mut nulls = [false; COLUMNS];
            let tuple = pg_sys::heap_form_tuple((*self.log.relation).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::MemoryContextSwitchTo(outer);
            self.rows.push(Row { bucket, values, tuple });
        }
    }

    fn flush(&mut self) {
        // SAFETY: the tuples are of the log, and live until its memory is reset.
        unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            match self.rows.as_slice() {
                [] => return,
                [row] => {
                    pg_sys::heap_insert(self.log.relation, row.tuple, command, 0, self.bulk);
                    self.index(row, (*row.tuple).t_self);
                }
                _ => self.insert_all(command),
            }
            pg_sys::MemoryContextReset(self.memory);
        }
        self.rows.clear();
    }

    /// # Safety
    /// The rows' tuples must be of the log.
    unsafe fn insert_all(&mut self, command: pg_sys::CommandId) {
        // SAFETY: as many slots as rows, each with a tuple; the heap says in each where it put it.
        unsafe {
            while self.slots.len() < self.rows.len() {
                self.slots.push(pg_sys::MakeSingleTupleTableSlot((*self.log.relation).rd_att, &pg_sys::TTSOpsHeapTuple));
            }
            for (row, &slot) in self.rows.iter().zip(&self.slots) {
                pg_sys::ExecForceStoreHeapTuple(row.tuple, slot, false);
            }
            pg_sys::heap_multi_insert(self.log.relation, self.slots.as_mut_ptr(), self.rows.len() as i32, command, 0, self.bulk);
            // In the index's order, so that one bucket's entries go to one page after the other: owners arrive interleaved.
            let mut order: Vec<usize> = (0..self.rows.len()).collect();
            order.sort_by_key(|&i| self.rows[i].bucket);
            for i in order {
                self.index(&self.rows[i], (*self.slots[i]).tts_tid);
                pg_sys::ExecClearTuple(self.slots[i]);
            }
        }
    }

    /// Adds a row that the heap has put at `place` to the indexes.
    ///
    /// # Safety
    /// The row's values must still be there.
    unsafe fn index(&self, row: &Row, mut place: pg_sys::ItemPointerData) {
        let mut row_values = row.values;
        row_values[0] = pg_sys::Datum::from(row.bucket.0.as_ptr());
        for &(index, info) in &self.log.indexes {
            // SAFETY: the indexes are over columns, none of which is NULL; an index has at most as many as the arrays.
            unsafe {
                let mut values = [pg_sys::Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
                let mut nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
                let columns = (*info).ii_NumIndexAttrs as usize;
                let info_columns = &(*info).ii_IndexAttrNumbers;
                for (value, &column) in values.iter_mut().zip(&info_columns[..columns]) {
                    *value = row_values[column as usize - 1];
                }
                let (values, nulls) = (values.as_mut_ptr(), nulls.as_mut_ptr());
                let unique = pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO;
                pg_sys::index_insert(index, values, nulls, &mut place, self.log.relation, unique, false, info);
            }
        }
    }

    /// Writes what is left and releases everything.
    pub fn close(mut self) {
        self.emit_all();
        self.flush();
        // SAFETY: releases what `open` and `emit` acquired; the locks stay until the transaction ends.
        unsafe {
            if !self.bulk.is_null() {
                pg_sys::FreeBulkInsertState(self.bulk);
            }
            for slot in self.slots {
                pg_sys::ExecDropSingleTupleTableSlot(slot);
            }
            pg_sys::MemoryContextDelete(self.memory);
        }
        self.log.close();
    }
}
