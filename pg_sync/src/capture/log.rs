//! Appends to `sync.op` without SQL: multi-insert and direct index insertion.
#![allow(unsafe_code)]

use pgrx::pg_sys;
use std::cell::Cell;
use sync_shared::hash::BucketId;
use sync_shared::message::EntryId;

/// Rows handed to the heap at once.
const BATCH: usize = 512;
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

/// One row of the op log.
pub struct Op<'a> {
    pub bucket: BucketId,
    pub entry: EntryId,
    /// New hash minus old hash.
    pub hash: i64,
    /// 1, 0 or -1.
    pub n: i16,
    pub changed: i64,
    pub key: &'a [u8],
}

/// Collects ops of one statement.
pub struct Writer {
    log: pg_sys::Relation,
    target: *mut pg_sys::ResultRelInfo,
    estate: *mut pg_sys::EState,
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
        // SAFETY: plain use of the executor's interface; everything is released in `close`, or by the transaction's abort.
        unsafe {
            let schema = pg_sys::get_namespace_oid(c"sync".as_ptr(), false);
            let oid = pg_sys::get_relname_relid(c"op".as_ptr(), schema);
            let log = pg_sys::table_open(oid, pg_sys::RowExclusiveLock as i32);
            let estate = pg_sys::CreateExecutorState();
            let target: *mut pg_sys::ResultRelInfo = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast();
            pg_sys::InitResultRelInfo(target, log, 1, std::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(target, false);
            let memory =
                pg_sys::AllocSetContextCreateExtended(pg_sys::CurrentMemoryContext, c"sync ops".as_ptr(), 0, 8192, 8 << 20);
            Writer {
                log,
                target,
                estate,
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
        if self.filled == BATCH {
            self.flush();
        }
        let op_id = COUNTER.with(|c| {
            let (xid, last) = c.get();
            let next = if xid == self.xid { last.checked_add(1) } else { Some(1) };
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
            self.buckets.push(op.bucket);
            let mut bucket = op.bucket.0;
            let key: *mut pg_sys::varlena = pg_sys::palloc(pg_sys::VARHDRSZ + op.key.len()).cast();
            pgrx::set_varsize_4b(key, (pg_sys::VARHDRSZ + op.key.len()) as i32);
            std::ptr::copy_nonoverlapping(op.key.as_ptr(), key.cast::<u8>().add(pg_sys::VARHDRSZ), op.key.len());
            let mut values: [pg_sys::Datum; COLUMNS] = [
                pg_sys::Datum::from(bucket.as_mut_ptr()),
                pg_sys::Datum::from(self.xid),
                pg_sys::Datum::from(op.hash),
                pg_sys::Datum::from(self.at),
                pg_sys::Datum::from(op.changed),
                pg_sys::Datum::from(op_id),
                pg_sys::Datum::from(op.entry),
                pg_sys::Datum::from(op.n),
                pg_sys::Datum::from(key),
            ];
            let mut nulls = [false; COLUMNS];
            let tuple = pg_sys::heap_form_tuple((*self.log).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::ExecForceStoreHeapTuple(tuple, self.slots[self.filled], false);
            pg_sys::MemoryContextSwitchTo(outer);
        }
        self.filled += 1;
    }

    fn flush(&mut self) {
        // SAFETY: the first `filled` slots hold tuples of the log.
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
                pg_sys::ExecInsertIndexTuples(
                    self.target,
                    slot,
                    self.estate,
                    false,
                    false,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                );
                pg_sys::ExecClearTuple(slot);
            }
            pg_sys::MemoryContextReset(self.memory);
        }
        self.filled = 0;
        self.buckets.clear();
    }

    /// Writes what is left and releases everything.
    pub fn close(mut self) {
        self.flush();
        // SAFETY: releases what `open` and `append` acquired; the lock stays until the transaction ends.
        unsafe {
            if !self.bulk.is_null() {
                pg_sys::FreeBulkInsertState(self.bulk);
            }
            pg_sys::ExecCloseIndices(self.target);
            for slot in self.slots {
                pg_sys::ExecDropSingleTupleTableSlot(slot);
            }
            pg_sys::FreeExecutorState(self.estate);
            pg_sys::MemoryContextDelete(self.memory);
            pg_sys::table_close(self.log, pg_sys::NoLock as i32);
        }
    }
}
