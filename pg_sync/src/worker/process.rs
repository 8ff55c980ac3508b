//! What a background process needs of the server's own functions.
#![allow(unsafe_code)]

use super::{launcher, starter, visitor, waker};
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, DynamicBackgroundWorker, SignalWakeFlags};
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use pgrx::PgMemoryContexts;
use std::ffi::CStr;

extern "C-unwind" {
    // tcop/tcopprot.h; as pgrx binds it, it is not the server's own function any more.
    fn die(signal: i32);
}

/// Of the lock that a launcher holds for as long as it lives; `PgSy`.
pub const PLACE: u32 = 0x5067_5379;

/// Entry point of a launcher. `only`: the one database that it is for; 0: all.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn sync_launcher(only: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    BackgroundWorker::connect_worker_to_spi(None, None);
    // SAFETY: of this process, which is connected.
    unsafe { pg_sys::pgstat_report_appname(c"pg_sync".as_ptr()) };
    let goes_on = launcher::run(oid(only));
    // The server starts one again that ends with 1, unless it is stopping itself.
    // SAFETY: ends this process as the server wants it.
    unsafe { pg_sys::proc_exit(i32::from(goes_on)) }
}

/// Entry point of the starter.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn sync_starter(_nothing: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    BackgroundWorker::connect_worker_to_spi(None, None);
    starter::run();
}

/// Entry point of a visitor.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn sync_visitor(database: pg_sys::Datum) {
    enter(database);
    visitor::run();
}

/// Entry point of a visitor whom the starter sends.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn sync_greeter(database: pg_sys::Datum) {
    enter(database);
    starter::greet();
}

/// Entry point of a waker.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn sync_waker(database: pg_sys::Datum) {
    enter(database);
    waker::run();
}

/// Makes this process one of a database, that ends when it is told to.
fn enter(database: pg_sys::Datum) {
    // SAFETY: as every backend does it: a query ends at its next check for interrupts, and the process with it.
    unsafe {
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(pg_sys::SIGTERM as i32, Some(die));
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(die));
    }
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
    BackgroundWorker::connect_worker_to_spi_by_oid(oid(database), None);
}

fn oid(argument: pg_sys::Datum) -> Option<Oid> {
    Some(Oid::from(argument.value() as u32)).filter(|oid| *oid != Oid::INVALID)
}

/// Whether the server is starting and loads its libraries.
pub fn is_preloading() -> bool {
    // SAFETY: a plain read of a variable that only the postmaster sets.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// The database of this backend.
pub fn own_database() -> Oid {
    // SAFETY: set when a backend starts, and never again.
    unsafe { pg_sys::MyDatabaseId }
}

/// This process's number.
pub fn own_pid() -> i32 {
    // SAFETY: set when a process starts, and never again.
    unsafe { pg_sys::MyProcPid }
}

/// Starts a process; what the server allocates for its handle goes with `memory`.
pub fn start(worker: BackgroundWorkerBuilder, memory: &mut PgMemoryContexts) -> Option<DynamicBackgroundWorker> {
    // SAFETY: whoever has the handle keeps the memory for as long.
    unsafe { memory.switch_to(|_| worker.load_dynamic().ok()) }
}

/// Reads the settings' files again.
pub fn reload() {
    // SAFETY: outside of any transaction, as it must be.
    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) }
}

/// Databases that may be connected to and are no templates, with their names. Within a transaction, which needs no database: their
/// catalog is shared.
pub fn databases() -> Vec<(Oid, String)> {
    let mut found = Vec::new();
    // SAFETY: a scan of a shared catalog under a lock; each tuple is read before the next one.
    unsafe {
        let mode = pg_sys::AccessShareLock as i32;
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, mode);
        let scan = pg_sys::systable_beginscan(relation, Oid::INVALID, false, std::ptr::null_mut(), 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            // A limit of -2 marks what a DROP DATABASE has left half done.
            if row.datallowconn && !row.datistemplate && row.datconnlimit >= -1 {
                found.push((row.oid, CStr::from_ptr(row.datname.data.as_ptr()).to_string_lossy().into_owned()));
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, mode);
    }
    found
}

/// Takes the place of the launcher for one database, or for all, until this process ends. False if another has it. Within a
/// transaction.
pub fn take_place(only: Option<Oid>) -> bool {
    let tag = pg_sys::LOCKTAG {
        locktag_field1: 0,
        locktag_field2: PLACE,
        locktag_field3: only.map_or(0, Oid::to_u32),
        locktag_field4: 1,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    };
    // SAFETY: a lock of this session, not waited for.
    unsafe {
        pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as i32, true, true) != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

/// Whether somebody drops, renames or copies a database, or waits for it. Within a transaction.
pub fn is_wanted(database: Oid) -> bool {
    let tag = pg_sys::LOCKTAG {
        locktag_field1: 0,
        locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
        locktag_field3: database.to_u32(),
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    // SAFETY: the lock that connecting takes for a moment, not waited for; it goes with the transaction.
    unsafe {
        pg_sys::LockAcquire(&tag, pg_sys::RowExclusiveLock as i32, false, true)
            == pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}
