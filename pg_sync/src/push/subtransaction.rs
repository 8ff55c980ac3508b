//! One batch, one subtransaction: applied whole, or undone whole with the reason.
#![allow(unsafe_code)]

use super::refusal::{passes, sqlstate, sqlstate_of, Refusal};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::ffi::{c_char, c_void, CStr};
use std::panic::AssertUnwindSafe;

thread_local! {
    /// The last ERROR reported inside the current subtransaction.
    static REPORTED: RefCell<Option<Reported>> = const { RefCell::new(None) };
    static PLACE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// What is being written, for errors that do not name it.
pub struct Place {
    /// Qualified.
    pub table: String,
    pub device_name: String,
    /// While its value is being read.
    pub column: Option<String>,
    /// While it decides.
    pub handler: Option<String>,
}

/// What pgrx's form of an error leaves out: foreign SQLSTATEs, and the names of objects.
struct Reported {
    code: String,
    message: String,
    /// Before translation.
    message_id: String,
    detail: String,
    subject: String,
}

/// Says what is being written; None: nothing in particular.
pub fn set_place(place: Option<Place>) {
    PLACE.with(|p| *p.borrow_mut() = place);
}

/// Says which column's value is being read.
pub fn set_column(column: Option<&str>) {
    PLACE.with(|p| {
        if let Some(place) = p.borrow_mut().as_mut() {
            place.column = column.map(str::to_owned);
        }
    });
}

/// Says which function is deciding a conflict.
pub fn set_handler(handler: Option<&str>) {
    PLACE.with(|p| {
        if let Some(place) = p.borrow_mut().as_mut() {
            place.handler = handler.map(str::to_owned);
        }
    });
}

/// Runs `f` in a subtransaction, released if it succeeds and rolled back if it refuses or an ERROR is raised. A cancel request
/// is no verdict on the batch: it goes on up.
pub fn run<T>(f: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    // SAFETY: the protocol of PL/pgSQL's EXCEPTION blocks: memory context and resource owner are put back after either end of
    // the subtransaction, which itself restores the user, the settings and the SPI stack.
    unsafe {
        let memory = pg_sys::CurrentMemoryContext;
        let resources = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(memory);
        REPORTED.with(|r| r.borrow_mut().take());
        set_place(None);
        let frame = Frame::push();
        let f = AssertUnwindSafe(|| f().map_err(Ok));
        let result = PgTryBuilder::new(f).catch_others(|error| Err(refusal(error))).execute();
        drop(frame);
        match &result {
            Ok(_) => pg_sys::ReleaseCurrentSubTransaction(),
            Err(_) => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::MemoryContextSwitchTo(memory);
        pg_sys::CurrentResourceOwner = resources;
        result.map_err(|reason| reason.unwrap_or_else(|error| error.rethrow()))
    }
}

/// Runs `f` in a subtransaction where no lock is waited for longer than `patience_ms`: shorter than the deadlock detector waits, so
/// that nobody else is sacrificed for this transaction. None: a lock was not to be had, and `f` was undone.
pub fn unless_locked<T>(patience_ms: i32, f: impl FnOnce() -> T) -> Option<T> {
    let result = caught(|| {
        // SAFETY: reads of settings; a change of one ends with the subtransaction, and so does whatever an ERROR leaves behind before
        // it goes on.
        unsafe {
            let patience = patience_ms.min(pg_sys::DeadlockTimeout / 2).max(1);
            if pg_sys::LockTimeout == 0 || pg_sys::LockTimeout > patience {
                set_lock_timeout(patience);
            }
        }
        f()
    });
    let error = match result {
        Ok(value) => return Some(value),
        Err(error) => *error,
    };
    let passing = [PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED];
    match &error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) if passing.contains(&report.sql_error_code()) => {
            None
        }
        _ => error.rethrow(),
    }
}

/// Runs `f` in a subtransaction that can write nothing, whatever functions are called in it.
pub fn read_only<T>(f: impl FnOnce() -> T) -> T {
    caught(|| {
        only_reads();
        f()
    })
    .unwrap_or_else(|error| error.rethrow())
}

/// Nothing can be written until the current subtransaction ends.
pub fn only_reads() {
    // SAFETY: Postgres puts back what the transaction above may do when a subtransaction ends, either way.
    unsafe { pg_sys::XactReadOnly = true }
}

/// Runs `f` in a subtransaction, released if it succeeds and rolled back if an ERROR is raised.
fn caught<T>(f: impl FnOnce() -> T) -> Result<T, Box<CaughtError>> {
    // SAFETY: as in `run`.
    unsafe {
        let memory = pg_sys::CurrentMemoryContext;
        let resources = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(memory);
        let result = PgTryBuilder::new(AssertUnwindSafe(|| Ok(f()))).catch_others(|error| Err(Box::new(error))).execute();
        match &result {
            Ok(_) => pg_sys::ReleaseCurrentSubTransaction(),
            Err(_) => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::MemoryContextSwitchTo(memory);
        pg_sys::CurrentResourceOwner = resources;
        result
    }
}

fn set_lock_timeout(milliseconds: i32) {
    let Ok(text) = std::ffi::CString::new(milliseconds.to_string()) else { return };
    // SAFETY: a change of a setting that any user may change, undone with the subtransaction.
    unsafe {
        pg_sys::set_config_option(
            c"lock_timeout".as_ptr(),
            text.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

/// Our entry in Postgres's stack of error callbacks; taken out also when a panic passes.
struct Frame(Box<pg_sys::ErrorContextCallback>);

impl Frame {
    fn push() -> Self {
        // SAFETY: the entry is boxed, so it stays where it is until it is taken out in `drop`.
        unsafe {
            let mut entry = Box::new(pg_sys::ErrorContextCallback {
                previous: pg_sys::error_context_stack,
                callback: Some(remember),
                arg: std::ptr::null_mut(),
            });
            pg_sys::error_context_stack = &mut *entry;
            Frame(entry)
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: entries above ours belong to frames that are gone.
        unsafe { pg_sys::error_context_stack = self.0.previous }
    }
}

/// Called by Postgres for every report made while the frame is there.
///
/// # Safety
/// Called by Postgres while a report is being made.
#[pg_guard]
unsafe extern "C-unwind" fn remember(_argument: *mut c_void) {
    // SAFETY: the report is complete when callbacks run; the copy is made outside of ErrorContext, which is about to be reset.
    unsafe {
        let outer = pg_sys::MemoryContextSwitchTo(pg_sys::CurTransactionContext);
        let error = pg_sys::CopyErrorData();
        if (*error).elevel >= PgLogLevel::ERROR as i32 {
            let names = [(*error).constraint_name, (*error).column_name, (*error).table_name];
            let reported = Reported {
                code: sqlstate((*error).sqlerrcode),
                message: text((*error).message),
                message_id: text((*error).message_id),
                detail: text((*error).detail),
                subject: names.into_iter().map(|n| text(n)).find(|n| !n.is_empty()).unwrap_or_default(),
            };
            REPORTED.with(|r| *r.borrow_mut() = Some(reported));
        }
        pg_sys::FreeErrorData(error);
        pg_sys::MemoryContextSwitchTo(outer);
    }
}

unsafe fn text(text: *const c_char) -> String {
    // SAFETY: the caller passes NULL or a C string.
    unsafe {
        if text.is_null() {
            String::new()
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }
}

/// The reason in a caught error, or the error itself where it is none.
fn refusal(error: CaughtError) -> Result<Refusal, Box<CaughtError>> {
    let report = match &error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
        CaughtError::RustPanic { ereport, .. } => ereport,
    };
    // The last report is not the error when a trigger has caught and raised another one again.
    let reported = REPORTED.with(|r| r.borrow_mut().take()).filter(|r| r.message == report.message());
    let reported = reported.unwrap_or_else(|| Reported {
        code: sqlstate_of(report.sql_error_code()),
        message: report.message().to_owned(),
        message_id: report.message().to_owned(),
        detail: report.detail().unwrap_or_default().to_owned(),
        subject: String::new(),
    });
    if reported.code == "57014" && !reported.message_id.contains("statement timeout") {
        return Err(Box::new(error));
    }
    let mut message = reported.message;
    if !reported.detail.is_empty() {
        message = format!("{message}: {}", reported.detail);
    }
    let mut subject = reported.subject;
    if let Some(Place { table, device_name, column, handler }) = PLACE.with(|p| p.borrow_mut().take()) {
        if let Some(column) = &column {
            message = format!("table {table}, column \"{column}\": {message}");
        } else if let Some(handler) = &handler {
            message = format!("table {table}: the handler {handler} failed: {message}");
        }
        if subject.is_empty() {
            subject = column.unwrap_or(device_name);
        }
    }
    Ok(Refusal { passing: passes(&reported.code), ..Refusal::new(&reported.code, message, subject) })
}
