//! Every unsafe call into SQLite, behind safe types. Nothing else in this crate may be unsafe.
//!
//! All calls go through the table that the host passed to the entry point: linking SQLite's own symbols would reach a second
//! copy of SQLite.
//!
//! - [`db`]: a connection, within one call; [`statement`]: its statements, and the rows they stand on
//! - [`function`]: SQL functions, their arguments and answers
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use sqlite_loadable::ext::{sqlite3, sqlite3_api_routines};
use std::ffi::{c_char, c_int, c_uint};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

static API: AtomicPtr<sqlite3_api_routines> = AtomicPtr::new(ptr::null_mut());

pub const OK: c_int = 0;
pub const ERROR: c_int = 1;
pub const NOMEM: c_int = 7;
pub const TOO_BIG: c_int = 18;
pub const CONSTRAINT: c_int = 19;
pub const MISMATCH: c_int = 20;
const ROW: c_int = 100;
const INTEGER: c_int = 1;
const FLOAT: c_int = 2;
const TEXT: c_int = 3;
const BLOB: c_int = 4;
const MINIMUM_VERSION: c_int = 3_040_000;

/// Lists the functions used, once: the entry point refuses a host that lacks one, so a call never meets an absent one.
macro_rules! routines {
    ($($name:ident)*) => {
        fn missing(api: &sqlite3_api_routines) -> Option<&'static str> {
            $(if api.$name.is_none() { return Some(stringify!($name)); })*
            None
        }
    };
}

routines! {
    bind_blob64 bind_double bind_int64 bind_null bind_text64 changes clear_bindings column_blob column_bytes column_double
    column_int64 column_text column_type context_db_handle create_function_v2 db_config errmsg extended_errcode file_control finalize free
    get_autocommit libversion_number malloc64 prepare_v3 reset result_blob64 result_error result_error_code result_int64 result_null
    result_text step user_data value_blob value_bytes value_int64 value_text value_type
    wal_checkpoint_v2
}

/// Calls a routine of the host's table. Only inside `unsafe`, with a SAFETY reason for the call itself.
macro_rules! api {
    ($name:ident($($arg:expr),*)) => {
        // The table was checked by `missing` before any function of this crate was registered.
        ((*$crate::host::API.load(std::sync::atomic::Ordering::Relaxed)).$name.unwrap_unchecked())($($arg),*)
    };
}

// Behind the macro, which they use.
mod db;
mod function;
mod statement;

pub use db::Db;
pub use function::{define, Answer};
pub use statement::{Later, Row, Statement};

/// Makes the connection's entry point: checks the host, then registers everything through `register`.
///
/// # Safety
/// To be called by SQLite alone, as a loadable extension's entry point.
pub unsafe fn enter(
    db: *mut sqlite3,
    message: *mut *mut c_char,
    api: *mut sqlite3_api_routines,
    register: impl Fn(Db<'_>) -> Result<()>,
) -> c_uint {
    // SAFETY: SQLite passes a table that lives as long as the process, or NULL when built without extensions.
    let Some(table) = (unsafe { api.as_ref() }) else { return ERROR as c_uint };
    // Fields behind what this host knows must not be looked at, so the version comes first; it is in every table.
    // SAFETY: libversion_number takes no arguments.
    let version = table.libversion_number.map_or(0, |version| unsafe { version() });
    let refused = if version < MINIMUM_VERSION {
        Some(format!("sqlite_sync needs SQLite 3.40 or later, this is {}.{}", version / 1_000_000, version / 1000 % 1000))
    } else {
        missing(table).map(|name| format!("sqlite_sync needs sqlite3_{name}, which this build of SQLite leaves out"))
    };
    let outcome = match refused {
        Some(refused) => Err(Error::plain(refused)),
        None => {
            API.store(api, Ordering::Relaxed);
            let mut outcome = Ok(());
            let code = sqlite_loadable::entrypoints::register_entrypoint(db, message, api, |_| Ok(()));
            if code == OK as c_uint {
                let call = db::Call::new(Default::default());
                let db = Db::of(db, &call);
                outcome = catch_unwind(AssertUnwindSafe(|| register(db))).unwrap_or_else(|_| Err(Error::panicked()));
            }
            outcome
        }
    };
    let Err(error) = outcome else { return OK as c_uint };
    let text = error.to_string();
    if let (Some(malloc), false) = (table.malloc64, message.is_null()) {
        // SAFETY: the buffer has room for the text and its NUL; SQLite frees it.
        unsafe {
            let buffer = malloc(text.len() as u64 + 1).cast::<u8>();
            if !buffer.is_null() {
                ptr::copy_nonoverlapping(text.as_ptr(), buffer, text.len());
                *buffer.add(text.len()) = 0;
                *message = buffer.cast();
            }
        }
    }
    ERROR as c_uint
}
