//! Postgres snapshots: which transactions are included, and in which transactions they may be taken.
#![allow(unsafe_code)]

use pgrx::pg_sys;
use pgrx::prelude::*;
use serde::{Deserialize, Serialize};

/// Exactly which transactions are included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// All before it are finished.
    pub xmin: u64,
    /// It and all after it are not included.
    pub xmax: u64,
    /// In between, those not included.
    pub running: Vec<u64>,
}

impl Snapshot {
    /// The snapshot that this function's queries see.
    pub fn active() -> Self {
        // SAFETY: a function always runs under an active snapshot; its arrays have the lengths it says.
        unsafe {
            let snapshot = &*pg_sys::GetActiveSnapshot();
            let next = pg_sys::ReadNextFullTransactionId().value;
            // On a standby the running transactions are in subxip.
            let (list, length) = if snapshot.takenDuringRecovery {
                (snapshot.subxip, snapshot.subxcnt as usize)
            } else {
                (snapshot.xip, snapshot.xcnt as usize)
            };
            let list = if length == 0 { &[] } else { std::slice::from_raw_parts(list, length) };
            let mut running: Vec<u64> = list.iter().map(|&xid| widen(xid.into_inner(), next)).collect();
            running.sort_unstable();
            Snapshot { xmin: widen(snapshot.xmin.into_inner(), next), xmax: widen(snapshot.xmax.into_inner(), next), running }
        }
    }

    /// Whether a transaction is included.
    pub fn includes(&self, xid: u64) -> bool {
        xid < self.xmax && (xid < self.xmin || self.running.binary_search(&xid).is_err())
    }

    /// Whether another snapshot includes a transaction that this one does not.
    pub fn misses_some_of(&self, other: &Snapshot) -> bool {
        let beyond = other.xmax.saturating_sub(self.xmax);
        let running = other.running.iter().filter(|&&xid| xid >= self.xmax).count() as u64;
        beyond > running || self.running.iter().any(|&xid| other.includes(xid))
    }

    /// The transactions that are included here and not in an earlier snapshot, also those that wrote nothing or were undone. None: more
    /// than `most` numbers would have to be looked at.
    pub fn since(&self, before: &Snapshot, most: u64) -> Option<Vec<u64>> {
        if self.xmax.saturating_sub(before.xmax) > most {
            return None;
        }
        let old = before.running.iter().copied();
        Some(old.chain(before.xmax..self.xmax).filter(|&xid| self.includes(xid)).collect())
    }

    /// The transactions that could be visible now but are not included here, as texts: all from an xid8 on, and an array of xid8.
    pub fn missing(&self) -> (String, String) {
        let running: Vec<String> = self.running.iter().map(u64::to_string).collect();
        (self.xmax.to_string(), format!("{{{}}}", running.join(",")))
    }
}

/// Whether a snapshot was taken when more transaction ids had been given than a primary has now: it has lost history. A standby may
/// only not have caught up yet.
pub fn is_ahead(snapshot: &Snapshot) -> bool {
    // SAFETY: plain reads of shared state.
    unsafe { !pg_sys::RecoveryInProgress() && snapshot.xmax > pg_sys::ReadNextFullTransactionId().value }
}

/// A 32-bit transaction id of the recent past in 64 bits.
fn widen(xid: u32, next: u64) -> u64 {
    let wide = next & !0xffff_ffff | u64::from(xid);
    if wide > next {
        wide.wrapping_sub(1 << 32)
    } else {
        wide
    }
}

/// `system_identifier` of the cluster, and the number of this database in it.
pub fn system_and_database() -> (u64, u32) {
    // SAFETY: plain reads.
    unsafe { (pg_sys::GetSystemIdentifier(), pg_sys::MyDatabaseId.to_u32()) }
}

/// Names this database of this cluster.
pub fn home() -> String {
    let (system, database) = system_and_database();
    format!("{system}/{database}")
}

/// Whether this transaction may be served: its own writes would count as seen, and a serializable one could fail later.
pub fn refuse_unfit_transaction() {
    use crate::error::raise;
    // SAFETY: plain reads of the transaction's state.
    unsafe {
        if pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId {
            raise(
                PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_STATE,
                "sync.pull() must run in a transaction that has not written anything: call it in a transaction of its own",
            );
        }
        if pg_sys::XactIsoLevel == pg_sys::XACT_SERIALIZABLE as i32 && !(pg_sys::XactReadOnly && pg_sys::XactDeferrable) {
            raise(
                PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_STATE,
                "sync.pull() cannot run in a SERIALIZABLE transaction: use READ COMMITTED, or READ ONLY DEFERRABLE",
            );
        }
    }
}

/// Runs `f` so that its queries see what is committed by now, whatever the transaction's own snapshot.
pub fn with_latest<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: pushed and popped in pairs; an ERROR pops all snapshots of the (sub)transaction.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let result = f();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// Lets this backend wait, until it is told to end or to stop its query.
pub fn sleep(pause: std::time::Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: waits for this backend's own latch, as pg_sleep() does.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, pause.as_millis() as std::ffi::c_long, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}

/// Locks relations against being rewritten or dropped while they are read.
pub fn lock_shared(relations: &[pg_sys::Oid]) {
    for &relation in relations {
        // SAFETY: a heavyweight lock, released with the transaction.
        unsafe { pg_sys::LockRelationOid(relation, pg_sys::AccessShareLock as i32) };
    }
}

/// Whether the file that a relation's rows are in is the same in the active snapshot as it is now. True also for what has no file.
pub fn has_same_file(relation: pg_sys::Oid) -> bool {
    // SAFETY: an ordinary look-up in pg_class by its index, as the active snapshot sees it; the tuple is read before the scan ends.
    unsafe {
        let mut key: pg_sys::ScanKeyData = std::mem::zeroed();
        let (column, equal) = (pg_sys::Anum_pg_class_oid as i16, pg_sys::BTEqualStrategyNumber as u16);
        pg_sys::ScanKeyInit(&mut key, column, equal, pg_sys::Oid::from(pg_sys::F_OIDEQ), relation.into());
        let classes = pg_sys::table_open(pg_sys::RelationRelationId, pg_sys::AccessShareLock as i32);
        let snapshot = pg_sys::GetActiveSnapshot();
        let scan = pg_sys::systable_beginscan(classes, pg_sys::Oid::from(pg_sys::ClassOidIndexId), true, snapshot, 1, &mut key);
        let tuple = pg_sys::systable_getnext(scan);
        let seen = (!tuple.is_null()).then(|| {
            let row: *const pg_sys::FormData_pg_class = pg_sys::GETSTRUCT(tuple).cast();
            ((*row).relkind, (*row).relfilenode)
        });
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(classes, pg_sys::AccessShareLock as i32);
        match seen {
            // It came after the snapshot: what captures it does not see it either.
            None => true,
            Some((kind, _)) if kind != pg_sys::RELKIND_RELATION as std::ffi::c_char => true,
            Some((_, file)) => now_in_class(relation, |row| row.relfilenode) == Some(file),
        }
    }
}

/// The owner of a relation, if there is one.
pub fn owner_of(relation: pg_sys::Oid) -> Option<pg_sys::Oid> {
    now_in_class(relation, |row| row.relowner)
}

/// Reads a relation's row in pg_class as it is now.
fn now_in_class<T>(relation: pg_sys::Oid, read: impl FnOnce(&pg_sys::FormData_pg_class) -> T) -> Option<T> {
    // SAFETY: the cached tuple is read before it is released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, relation.into());
        if tuple.is_null() {
            return None;
        }
        let row: *const pg_sys::FormData_pg_class = pg_sys::GETSTRUCT(tuple).cast();
        let value = read(&*row);
        pg_sys::ReleaseSysCache(tuple);
        Some(value)
    }
}

/// Microseconds since 1970.
pub fn now_micros() -> i64 {
    // SAFETY: reads the clock.
    since_1970(unsafe { pg_sys::GetCurrentTimestamp() })
}

/// Postgres counts from 2000.
pub fn since_1970(time: pg_sys::TimestampTz) -> i64 {
    time + 946_684_800_000_000
}
