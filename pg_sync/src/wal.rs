//! The write-ahead log: where it stands, on which timeline, and what stands in it in front of a position.
#![allow(unsafe_code)]

use crate::snapshot;
use pgrx::pg_sys;
use std::fs::File;
use std::os::unix::fs::FileExt;

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

/// Bytes of the log that a fingerprint is taken of, at most and at least.
const TAIL: (u64, u64) = (4096, 128);
/// More zeros than this at the end say nothing: the rest of a segment that was left early.
const ZEROS: usize = 64;
/// access/xlog_internal.h: where a page's header has the page's own position.
const PAGE_ADDRESS: usize = 8;
/// access/xlogrecord.h: where a record's header has what the record is.
const RECORD_INFO: usize = 16;
const RECORD_RMID: usize = 17;
const PAGE: u64 = pg_sys::XLOG_BLCKSZ as u64;

/// Whether this is a standby, or a server that is still recovering.
pub fn is_standby() -> bool {
    // SAFETY: a plain read of shared state.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Timeline and position of what is visible by now. On a primary everything is flushed up to there: a crash could otherwise give its
/// transaction ids to others.
pub fn position() -> (u32, u64) {
    // SAFETY: reads of shared state; XLogFlush needs no transaction id.
    unsafe {
        if is_standby() {
            let mut timeline = 0;
            let lsn = pg_sys::GetXLogReplayRecPtr(&mut timeline);
            (timeline, lsn)
        } else {
            let lsn = flush();
            (pg_sys::GetWALInsertionTimeLine(), lsn)
        }
    }
}

/// The timeline of what is visible by now.
pub fn timeline() -> u32 {
    // SAFETY: reads of shared state.
    unsafe {
        if is_standby() {
            let mut timeline = 0;
            pg_sys::GetXLogReplayRecPtr(&mut timeline);
            timeline
        } else {
            pg_sys::GetWALInsertionTimeLine()
        }
    }
}

/// Brings everything that was logged so far to disk, and answers up to where.
pub fn flush() -> u64 {
    // SAFETY: reads of shared state; XLogFlush needs no transaction id. Not to be called during recovery.
    unsafe {
        let mut lsn = pg_sys::GetXLogInsertRecPtr();
        // Right after a page was filled the position is behind the next page's header, which is not written yet.
        let within = lsn % PAGE;
        if within <= 40 {
            lsn -= within;
        }
        pg_sys::XLogFlush(lsn);
        lsn
    }
}

/// When the running server was started, in microseconds since 1970: within one run nothing that was flushed is ever lost.
pub fn started() -> i64 {
    // SAFETY: set before the first backend, and never again.
    snapshot::since_1970(unsafe { pg_sys::PgStartTime })
}

/// Where `ancestor` ends in the history of `timeline`.
pub fn fork_point(timeline: u32, ancestor: u32) -> Option<u64> {
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

/// A fingerprint of what the log says right in front of a position that it has passed: two histories never say the same there, since
/// commits bear their times and each record the checksum of itself and the place of the one before.
///
/// None where it cannot be read: the segment was recycled, has only begun, or ends in nothing but zeros.
pub fn tail(timeline: u32, lsn: u64) -> Option<u64> {
    // SAFETY: set when the server starts, and never again.
    let segment_size = unsafe { pg_sys::wal_segment_size } as u64;
    let segment = lsn.checked_sub(1)? / segment_size;
    let begin = segment * segment_size;
    let from = lsn.saturating_sub(TAIL.0).max(begin);
    if lsn - from < TAIL.1 {
        return None;
    }
    let page = (lsn - 1) / PAGE * PAGE;
    let first = from.min(page);
    let mut bytes = vec![0; usize::try_from(lsn - first).ok()?];
    File::open(segment_name(timeline, segment, segment_size)).ok()?.read_exact_at(&mut bytes, first - begin).ok()?;
    // A recycled segment still has its old content, with its old positions.
    let header = usize::try_from(page - first).ok()? + PAGE_ADDRESS;
    let address = bytes.get(header..header + 8)?;
    let said = &bytes[usize::try_from(from - first).ok()?..];
    let speaks = said[said.len() - ZEROS..].iter().any(|&byte| byte != 0);
    (address == page.to_ne_bytes() && speaks).then(|| fingerprint(said))
}

/// Whether the record at a position of this timeline is a checkpoint that nothing was logged beside: the end of a run, or of recovery.
pub fn is_shutdown_checkpoint(lsn: u64) -> bool {
    // SAFETY: set when the server starts, and never again; a plain read of shared state.
    let (segment_size, timeline) = unsafe { (pg_sys::wal_segment_size as u64, pg_sys::GetWALInsertionTimeLine()) };
    let mut header = [0; RECORD_RMID + 1];
    // One that goes on on the next page is not put together here.
    if PAGE - lsn % PAGE < header.len() as u64 {
        return false;
    }
    let read = File::open(segment_name(timeline, lsn / segment_size, segment_size));
    let read = read.and_then(|file| file.read_exact_at(&mut header, lsn % segment_size));
    read.is_ok()
        && u32::from(header[RECORD_RMID]) == pg_sys::RmgrIds::RM_XLOG_ID
        && u32::from(header[RECORD_INFO]) & !pg_sys::XLR_INFO_MASK == pg_sys::XLOG_CHECKPOINT_SHUTDOWN
}

/// The file of a segment. The working directory of a backend is its data folder.
fn segment_name(timeline: u32, segment: u64, segment_size: u64) -> String {
    let per_id = (1 << 32) / segment_size;
    format!("pg_wal/{timeline:08X}{:08X}{:08X}", segment / per_id, segment % per_id)
}

/// FNV-1a, and never 0.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)).max(1)
}
