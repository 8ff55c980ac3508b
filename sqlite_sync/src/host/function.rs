//! SQL functions: registered, called with checked arguments, answered in SQLite's own memory.

use super::db::{Call, Db};
use super::statement::{blob, bytes, text_or_blob};
use super::{API, BLOB, INTEGER, TEXT};
use crate::error::{Error, Result};
use sqlite_loadable::ext::{sqlite3_context, sqlite3_value};
use sqlite_loadable::{define_scalar_function, FunctionFlags};
use std::ffi::{c_int, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::Ordering;
use sync_shared::ValueRef;

/// What a SQL function answers. It is made before the commit, in memory of SQLite's own: behind a commit nothing may fail, or the
/// application would be told of an error although all was done.
pub enum Answer {
    Null,
    Integer(i64),
    Text(Bytes),
    Blob(Bytes),
}

impl Answer {
    /// A text, without NUL in it.
    pub fn text(text: &str) -> Result<Self> {
        Bytes::new(text.as_bytes()).map(Answer::Text)
    }

    /// Bytes.
    pub fn blob(bytes: &[u8]) -> Result<Self> {
        Bytes::new(bytes).map(Answer::Blob)
    }
}

/// Bytes in SQLite's memory, with a NUL behind them.
pub struct Bytes {
    ptr: *mut u8,
    length: usize,
}

impl Bytes {
    fn new(bytes: &[u8]) -> Result<Self> {
        // SAFETY: the buffer has room for the bytes and their NUL.
        unsafe {
            let ptr = api!(malloc64(bytes.len() as u64 + 1)).cast::<u8>();
            if ptr.is_null() {
                return Err(Error::no_memory());
            }
            ptr::copy_nonoverlapping(bytes.as_ptr(), ptr, bytes.len());
            *ptr.add(bytes.len()) = 0;
            Ok(Bytes { ptr, length: bytes.len() })
        }
    }

    /// Gives the buffer away, with what frees it.
    fn give(self) -> (*mut c_void, usize, Option<unsafe extern "C" fn(*mut c_void)>) {
        let given = std::mem::ManuallyDrop::new(self);
        // SAFETY: the table lives as long as the process.
        (given.ptr.cast(), given.length, unsafe { (*API.load(Ordering::Relaxed)).free })
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: the buffer came from SQLite, and nobody else has it.
        unsafe { api!(free(self.ptr.cast())) };
    }
}

/// Registers a SQL function. Errors and panics become SQL errors; a panic would otherwise end the host application.
pub fn define(
    db: Db<'_>,
    name: &str,
    args: c_int,
    flags: FunctionFlags,
    body: impl Fn(Db<'_>, &[ValueRef<'_>]) -> Result<Answer> + 'static,
) -> Result<()> {
    define_one(db, name, args, flags, Box::new(body))
}

type Body = Box<dyn Fn(Db<'_>, &[ValueRef<'_>]) -> Result<Answer>>;

/// One kind of body, so that what surrounds it is in the library once and not for each function.
fn define_one(db: Db<'_>, name: &str, args: c_int, flags: FunctionFlags, body: Body) -> Result<()> {
    let keys = db.shared_keys();
    let call = move |context: *mut sqlite3_context, values: &[*mut sqlite3_value]| {
        let own = Call::new(keys.clone());
        // SAFETY: SQLite passes a live context; its connection outlives the call.
        let ptr = unsafe { api!(context_db_handle(context)) };
        let db = Db::of(ptr, &own);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let values = values.iter().map(|v| argument(*v)).collect::<Result<Vec<_>>>()?;
            body(db, &values)
        }));
        answer(context, outcome.unwrap_or_else(|_| Err(Error::panicked())));
        Ok(())
    };
    define_scalar_function(db.ptr, name, args, call, FunctionFlags::UTF8 | flags)
        .map_err(|_| Error::plain(format!("the SQL function {name} could not be registered on this connection")))
}

/// An argument as it came. A text or blob that SQLite cannot make for want of memory is an error, not NULL.
fn argument<'a>(value: *mut sqlite3_value) -> Result<ValueRef<'a>> {
    // SAFETY: SQLite passes live values; text and blob stay until the function returns, and no conversion happens meanwhile
    // since each is only read as what it is.
    unsafe {
        let value = match api!(value_type(value)) {
            INTEGER => Some(ValueRef::Integer(api!(value_int64(value)))),
            TEXT => {
                let start = api!(value_text(value));
                bytes(start, api!(value_bytes(value))).map(text_or_blob)
            }
            BLOB => {
                let start = api!(value_blob(value)).cast();
                blob(start, api!(value_bytes(value)))
            }
            // Reals are no argument of any function here.
            _ => Some(ValueRef::Null),
        };
        value.ok_or_else(Error::no_memory)
    }
}

fn answer(context: *mut sqlite3_context, outcome: Result<Answer>) {
    // SAFETY: the context is live; SQLite frees what it is given, and copies the error.
    unsafe {
        match outcome {
            Ok(Answer::Null) => api!(result_null(context)),
            Ok(Answer::Integer(i)) => api!(result_int64(context, i)),
            Ok(Answer::Text(text)) => {
                let (start, _, free) = text.give();
                // Without a length SQLite knows that it ends with NUL, and does not copy it to add one.
                api!(result_text(context, start.cast(), -1, free));
            }
            Ok(Answer::Blob(blob)) => {
                let (start, length, free) = blob.give();
                api!(result_blob64(context, start, length as u64, free));
            }
            Err(error) => {
                let text = error.to_string();
                api!(result_error(context, text.as_ptr().cast(), c_int::try_from(text.len()).unwrap_or(0)));
                // The message stays; the code tells the application whether to try again (busy, interrupted, full).
                api!(result_error_code(context, error.sqlite_code()));
            }
        }
    }
}
