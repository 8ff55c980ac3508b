//! What a cursor is made of: a Postgres snapshot, and the history that it belongs to.
#![allow(unsafe_code)]

use crate::error::spi;
use crate::query::Kept;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde::{Deserialize, Serialize};
use sync_shared::message::BatchRandom;

extern "C-unwind" {
    // access/timeline.h, which pgrx does not bind.
    fn readTimeLineHistory(timeline: pg_sys::TimeLineID) -> *mut pg_sys::List;
}

/// access/timeline.h: `TimeLineHistoryEntry`.
#[repr(C)]
struct TimelineHistoryEntry {
    timeline: pg_sys::TimeLineID,
    begin: pg_sys::XLogRecPtr,
    end: pg_sys::XLogRecPtr,
}

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

/// Where in which history a snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// `system_identifier` of the cluster.
    pub system: u64,
    pub timeline: u32,
    /// Everything that the snapshot includes is before it, and flushed.
    pub lsn: u64,
    /// The last mark that the snapshot includes.
    pub mark: Option<(i64, BatchRandom)>,
    /// The database: one cluster's databases share transaction ids.
    pub database: u32,
}

/// How a cursor relates to this server.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can be continued here.
    Valid,
    /// This server has not replayed as far yet.
    Behind,
    /// It belongs to a history that this server has lost or never had.
    Other(&'static str),
}

impl Lineage {
    /// The running server's, for the active snapshot. On a primary, everything the snapshot includes is flushed first: a crash
    /// could otherwise give its transaction ids to others.
    pub fn current() -> Self {
        // SAFETY: reads of shared state; XLogFlush needs no transaction id.
        let (timeline, lsn) = unsafe {
            if pg_sys::RecoveryInProgress() {
                let mut timeline = 0;
                let lsn = pg_sys::GetXLogReplayRecPtr(&mut timeline);
                (timeline, lsn)
            } else {
                let lsn = flush_log();
                (pg_sys::GetWALInsertionTimeLine(), lsn)
            }
        };
        let mark = Spi::connect(|c| {
            let row = c.select(Kept("SELECT id, random FROM sync.mark ORDER BY id DESC LIMIT 1"), Some(1), &[])?.first();
            if row.is_empty() {
                return Ok(None);
            }
            Ok(row.get_two::<i64, pgrx::Uuid>()?.0.zip(row.get_two::<i64, pgrx::Uuid>()?.1))
        });
        let mark = spi("reading sync.mark", mark).map(|(id, random)| (id, BatchRandom::new(*random.as_bytes())));
        // SAFETY: plain reads.
        let (system, database) = unsafe { (pg_sys::GetSystemIdentifier(), pg_sys::MyDatabaseId.to_u32()) };
        Lineage { system, timeline, lsn, mark, database }
    }

    /// How a cursor with lineage `theirs` relates to `self`, the running server's.
    pub fn standing_of(&self, theirs: &Lineage) -> Standing {
        // SAFETY: plain read.
        let standby = unsafe { pg_sys::RecoveryInProgress() };
        if theirs.system != self.system || theirs.database != self.database {
            return Standing::Other("it comes from another database");
        }
        let too_far = if standby { Standing::Behind } else { Standing::Other("this server's log ends before it") };
        if theirs.timeline == self.timeline {
            if theirs.lsn > self.lsn {
                return too_far;
            }
        } else {
            match fork_point(self.timeline, theirs.timeline) {
                Some(fork) if theirs.lsn <= fork => {}
                Some(_) => return Standing::Other("it saw what was lost in a failover"),
                None if theirs.timeline > self.timeline && standby => return Standing::Behind,
                None => return Standing::Other("its timeline is not part of this server's history"),
            }
        }
        if let Some((id, random)) = &theirs.mark {
            let found = Spi::connect(|c| {
                let rows = c.select(Kept("SELECT random FROM sync.mark WHERE id = $1"), Some(1), &[(*id).into()])?;
                if rows.is_empty() {
                    Ok(None)
                } else {
                    rows.first().get_one::<pgrx::Uuid>()
                }
            });
            match spi("reading sync.mark", found) {
                Some(found) if found.as_bytes() == &random.into_array() => {}
                _ if standby => return Standing::Behind,
                _ => return Standing::Other("it saw writes that this server does not have: was a backup put back?"),
            }
        }
        Standing::Valid
    }
}

/// Where `ancestor` ends in the history of `timeline`.
fn fork_point(timeline: u32, ancestor: u32) -> Option<u64> {
    // SAFETY: a list of palloc'ed entries of the declared shape, newest first.
    unsafe {
        let history = readTimeLineHistory(timeline);
        let length = if history.is_null() { 0 } else { (*history).length };
        (0..length)
            .map(|i| &*pg_sys::list_nth(history, i).cast::<TimelineHistoryEntry>())
            .find(|entry| entry.timeline == ancestor && entry.end != 0)
            .map(|entry| entry.end)
    }
}

/// Names this database of this cluster.
pub fn home() -> String {
    // SAFETY: plain reads.
    unsafe { format!("{}/{}", pg_sys::GetSystemIdentifier(), pg_sys::MyDatabaseId.to_u32()) }
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

/// Brings everything that was logged so far to disk, and answers up to where.
pub fn flush_log() -> u64 {
    // SAFETY: reads of shared state; XLogFlush needs no transaction id. Not to be called during recovery.
    unsafe {
        let mut lsn = pg_sys::GetXLogInsertRecPtr();
        // Right after a page was filled the position is behind the next page's header, which is not written yet.
        let within = lsn % u64::from(pg_sys::XLOG_BLCKSZ);
        if within <= 40 {
            lsn -= within;
        }
        pg_sys::XLogFlush(lsn);
        lsn
    }
}

/// Locks relations against being rewritten or dropped while they are read.
pub fn lock_shared(relations: &[pg_sys::Oid]) {
    for &relation in relations {
        // SAFETY: a heavyweight lock, released with the transaction.
        unsafe { pg_sys::LockRelationOid(relation, pg_sys::AccessShareLock as i32) };
    }
}

/// Microseconds since 1970.
pub fn now_micros() -> i64 {
    // SAFETY: reads the clock; Postgres counts from 2000.
    unsafe { pg_sys::GetCurrentTimestamp() + 946_684_800_000_000 }
}
