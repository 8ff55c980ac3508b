//! The background worker, which calls `sync.maintain()` by itself and, where it is asked to, wakes those who listen.
//!
//! # Layout
//! - [`launcher`]: watches the clock; connected to no database, so that it is in nobody's way
//! - [`visitor`]: a short process for each visit to a database, which ends with it
//! - [`starter`]: leaves a mark in each database as soon as the server has started
//! - [`waker`]: stays in a database and notifies; [`wakers`]: all of them, as the launcher keeps them
//! - [`process`]: what they need of the server's own functions
//!
//! Nothing that an ordinary user can write is executed: a visitor calls functions that belong to the extension, with the rights of the
//! extension's owner. What a caller of `sync.start_worker` can choose is only that his own database is visited.

mod launcher;
mod process;
mod starter;
mod visitor;
mod waker;
mod wakers;

use crate::error::{raise, spi};
use pgrx::bgworkers::BackgroundWorkerBuilder;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whether the worker works.
static WORKER: GucSetting<bool> = GucSetting::<bool>::new(true);
/// Seconds between two visits to a database.
static INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(60);
/// Databases that are visited, separated by commas; empty: all.
static DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Whether the server loaded the library as it started. Set before there are other processes.
static STARTS: AtomicBool = AtomicBool::new(false);
/// Milliseconds between two looks of a waker; 0: there is none.
static WAKE: GucSetting<i32> = GucSetting::<i32>::new(0);

/// After a crash the launcher is started again this much later.
const RESTART: Duration = Duration::from_secs(5);

/// Defines the settings; where the server loads the library as it starts, a launcher is registered for all databases.
pub fn init() {
    GucRegistry::define_bool_guc(
        c"sync.worker",
        c"Whether the background worker calls sync.maintain().",
        c"It runs where pg_sync is in shared_preload_libraries, or after sync.start_worker().",
        &WORKER,
        GucContext::Sighup,
        GucFlags::empty(),
    );
    GucRegistry::define_int_guc(
        c"sync.worker_interval",
        c"Time between two visits of the background worker to a database.",
        c"",
        &INTERVAL,
        1,
        24 * 3600,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_string_guc(
        c"sync.worker_databases",
        c"Databases that the background worker visits, separated by commas.",
        c"Empty: all that have the extension.",
        &DATABASES,
        GucContext::Sighup,
        GucFlags::empty(),
    );
    GucRegistry::define_int_guc(
        c"sync.wake_interval",
        c"How often the background worker looks whether there is something to notify.",
        c"0: it notifies nobody. One process more for each database.",
        &WAKE,
        0,
        10_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    if process::is_preloading() {
        STARTS.store(true, Ordering::Relaxed);
        starter::look_back();
        builder("pg_sync starter", "sync_starter").load();
        builder("pg_sync launcher", "sync_launcher").set_restart_time(Some(RESTART)).load();
    }
}

/// Whether a mark is left in a database right after a start.
pub fn greets(database: &str) -> bool {
    STARTS.load(Ordering::Relaxed) && WORKER.get() && is_listed(database)
}

/// A worker that begins once the server is not, or no longer, a standby.
fn builder(name: &str, function: &str) -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new(name).set_library("pg_sync").set_function(function).enable_spi_access()
}

/// Names as in `sync.worker_databases`: unquoted, spaces around them do not count.
fn is_listed(database: &str) -> bool {
    let list = DATABASES.get().map(|list| list.to_string_lossy().into_owned()).unwrap_or_default();
    list.trim().is_empty() || list.split(',').any(|name| name.trim() == database)
}

/// `classid` of the lock that a launcher holds, as `pg_locks` shows it: no SQL can take one that belongs to no database.
#[pg_extern(immutable, parallel_safe)]
fn worker_lock() -> Oid {
    Oid::from(process::PLACE)
}

#[pg_extern]
fn start_worker() -> bool {
    if crate::wal::is_standby() {
        raise(
            PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            "this server is a standby: call sync.start_worker() on the primary, or load pg_sync with shared_preload_libraries",
        );
    }
    let runs = spi("looking for the worker", Spi::get_one::<bool>("SELECT sync.worker_pid() IS NOT NULL"));
    if runs == Some(true) {
        return false;
    }
    let database = process::own_database();
    let worker = builder("pg_sync launcher", "sync_launcher").set_restart_time(Some(RESTART));
    if worker.set_argument(database.into_datum()).load_dynamic().is_err() {
        raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
            "no background worker can be started: raise max_worker_processes, which needs a restart",
        );
    }
    true
}
