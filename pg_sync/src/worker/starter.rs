//! Right after a start of the server: a mark in each database, so that what was seen before the start is known to be here.
//!
//! A mark of the run before, at the place in the log where this one began, says what no log can say any more once it is recycled: all
//! that the run before had logged is part of this history. It is left only where that is sure:
//! - the last mark is of the run before: `postmaster.opts`, which every start writes, is not younger than that run, and not much older;
//! - the last checkpoint is the one that this run began with, on a timeline that did not change.
//!
//! A disk that is put back ends where the copy was taken, so its mark is from there, and devices that saw more are none the wiser by it.

use super::launcher::visit;
use super::wakers::Wakers;
use super::{is_listed, process, WORKER};
use crate::error::spi;
use crate::identity::as_owner;
use crate::wal;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::prelude::*;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::UNIX_EPOCH;

/// When the server was started before this time, in microseconds since 1970; 0: not known. Set before there are other processes.
static STARTED_BEFORE: AtomicI64 = AtomicI64::new(0);

/// The last checkpoint, where the log went on from it on the same timeline.
const CHECKPOINT: &str = "SELECT (SELECT (checkpoint_lsn - '0/0')::bigint FROM pg_catalog.pg_control_checkpoint()
    WHERE timeline_id = prev_timeline_id)";

/// Called as the server starts, before it writes that file anew.
pub fn look_back() {
    let written = std::fs::metadata("postmaster.opts").and_then(|file| file.modified()).ok();
    let since = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let micros = since.and_then(|since| i64::try_from(since.as_micros()).ok());
    STARTED_BEFORE.store(micros.unwrap_or(0), Ordering::Relaxed);
}

/// Of a process that the postmaster starts once only, and not again after a crash of another process: the run goes on then.
pub fn run() {
    if !WORKER.get() {
        return;
    }
    let databases = BackgroundWorker::transaction(process::databases);
    databases
        .into_iter()
        .filter(|(_, name)| is_listed(name))
        .all(|(database, _)| visit(database, "sync_greeter", &mut Wakers::default()));
}

/// In a database. An ERROR ends the process, which logs it.
pub fn greet() {
    let Some(owner) = BackgroundWorker::transaction(super::visitor::begin) else { return };
    BackgroundWorker::transaction(|| {
        let began = spi("reading the last checkpoint", Spi::get_one::<i64>(CHECKPOINT));
        let began = began.and_then(|lsn| u64::try_from(lsn).ok()).filter(|lsn| wal::is_shutdown_checkpoint(*lsn));
        let began = began.map_or("NULL".to_owned(), |lsn| format!("'{:X}/{:X}'", lsn >> 32, lsn & 0xffff_ffff));
        let before = STARTED_BEFORE.load(Ordering::Relaxed);
        as_owner(owner, || spi("leaving a mark", Spi::run(&format!("SELECT sync.begin_run({began}, {before})"))));
    });
}
