//! Appends to `sync.op` without SQL: multi-insert and direct index insertion.
//!
//! Changes of one statement in the same bucket share a row of the log, up to [`KEYS_BYTES`] of keys: the sums telescope, so only
//! the keys need to be told apart.
#![allow(unsafe_code)]

use pgrx::pg_sys;
use std::cell::Cell;
use std::collections::HashMap;
use sync_shared::hash::BucketId;
use sync_shared::keys;
use sync_shared::message::EntryId;

/// Tuples handed to the heap at once.
const BATCH: usize = 128;
/// Groups that wait for more keys; a statement may touch any number of buckets.
const GROUPS: usize = 2_048;
/// Keys of one tuple, in bytes: four tuples fill a page, and none is toasted.
const KEYS_BYTES: usize = 1_900;
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

/// Collects ops of one statement.
pub struct Writer {
    log: pg_sys::Relation,
    indexes: Vec<(pg_sys::Relation, *mut pg_sys::IndexInfo)>,
    groups: Vec<Group>,
    /// Where the group of (bucket, entry, changed) is.
    places: HashMap<(BucketId, EntryId, i64), usize>,
    /// The group of the last op: neighbours are often in the same bucket.
    recent: usize,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    filled: usize,
    /// The buckets of the filled slots.
    buckets: Vec<BucketId>,
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
            let schema = pg_sys::get_namespace_oid(c"sync".as_ptr(), false);
            let oid = pg_sys::get_relname_relid(c"op".as_ptr(), schema);
            let lock = pg_sys::RowExclusiveLock as i32;
            let log = pg_sys::table_open(oid, lock);
            let list = pg_sys::RelationGetIndexList(log);
            let count = if list.is_null() { 0 } else { (*list).length };
            let open = |i| {
                let index = pg_sys::index_open(pg_sys::list_nth_oid(list, i), lock);
                (index, pg_sys::BuildIndexInfo(index))
            };
            let memory =
                pg_sys::AllocSetContextCreateExtended(pg_sys::CurrentMemoryContext, c"sync ops".as_ptr(), 0, 8192, 8 << 20);
            Writer {
                log,
                indexes: (0..count).map(open).collect(),
                groups: Vec::new(),
                places: HashMap::new(),
                recent: 0,
                slots: Vec::new(),
                filled: 0,
                buckets: Vec::new(),
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
        self.recent = match self.places.get(&name) {
            Some(&place) => place,
            None => {
                if self.groups.len() == GROUPS {
                    self.emit_all();
                }
                self.groups.push(Group { bucket: op.bucket, entry: op.entry, changed: op.changed, ..Group::default() });
                self.places.insert(name, self.groups.len() - 1);
                self.groups.len() - 1
            }
        };
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
        if self.filled == BATCH {
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
            if self.filled == self.slots.len() {
                self.slots.push(pg_sys::MakeSingleTupleTableSlot((*self.log).rd_att, &pg_sys::TTSOpsHeapTuple));
            }
            let outer = pg_sys::MemoryContextSwitchTo(self.memory);
            self.buckets.push(group.bucket);
            let mut bucket = group.bucket.0;
            let keys: *mut pg_sys::varlena = pg_sys::palloc(pg_sys::VARHDRSZ + group.keys.len()).cast();
            pgrx::set_varsize_4b(keys, (pg_sys::VARHDRSZ + group.keys.len()) as i32);
            std::ptr::copy_nonoverlapping(group.keys.as_ptr(), keys.cast::<u8>().add(pg_sys::VARHDRSZ), group.keys.len());
            let mut values: [pg_sys::Datum; COLUMNS] = [
                pg_sys::Datum::from(bucket.as_mut_ptr()),
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
            let tuple = pg_sys::heap_form_tuple((*self.log).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::ExecForceStoreHeapTuple(tuple, self.slots[self.filled], false);
            pg_sys::MemoryContextSwitchTo(outer);
        }
        self.filled += 1;
    }

    fn flush(&mut self) {
        // SAFETY: the first `filled` slots hold tuples of the log; its indexes have no expressions, so no executor is needed.
        unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            match self.filled {
                0 => return,
                1 => {
                    let slot = self.slots[0];
                    let mut should_free = false;
                    let tuple = pg_sys::ExecFetchSlotHeapTuple(slot, true, &mut should_free);
                    pg_sys::heap_insert(self.log, tuple, command, 0, self.bulk);
                    (*slot).tts_tid = (*tuple).t_self;
                    (*slot).tts_tableOid = (*self.log).rd_id;
                }
                n => pg_sys::heap_multi_insert(self.log, self.slots.as_mut_ptr(), n as i32, command, 0, self.bulk),
            }
            // In the index's order, so that one bucket's entries go to one page after the other: owners arrive interleaved.
            let mut order: Vec<usize> = (0..self.filled).collect();
            order.sort_by_key(|&i| self.buckets[i]);
            for slot in order.into_iter().map(|i| self.slots[i]) {
                for &(index, info) in &self.indexes {
                    let mut values = [pg_sys::Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
                    let mut nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
                    pg_sys::FormIndexDatum(info, slot, std::ptr::null_mut(), values.as_mut_ptr(), nulls.as_mut_ptr());
                    pg_sys::index_insert(
                        index,
                        values.as_mut_ptr(),
                        nulls.as_mut_ptr(),
                        &mut (*slot).tts_tid,
                        self.log,
                        pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
                        false,
                        info,
                    );
                }
                pg_sys::ExecClearTuple(slot);
            }
            pg_sys::MemoryContextReset(self.memory);
        }
        self.filled = 0;
        self.buckets.clear();
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
            for (index, info) in self.indexes {
                pg_sys::pfree(info.cast());
                pg_sys::index_close(index, pg_sys::NoLock as i32);
            }
            for slot in self.slots {
                pg_sys::ExecDropSingleTupleTableSlot(slot);
            }
            pg_sys::MemoryContextDelete(self.memory);
            pg_sys::table_close(self.log, pg_sys::NoLock as i32);
        }
    }
}
