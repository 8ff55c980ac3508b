//! Every unsafe call into SQLite, behind safe types. Nothing else in this crate may be unsafe.
//!
//! All calls go through the table that the host passed to the entry point: linking SQLite's own symbols would reach a second
//! copy of SQLite. Statements live within one call: one left open would make `sqlite3_close` fail.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use sqlite_loadable::ext::{sqlite3, sqlite3_api_routines, sqlite3_context, sqlite3_stmt, sqlite3_value};
use sqlite_loadable::{define_scalar_function, FunctionFlags};
use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint, c_void, CStr};
use std::marker::PhantomData;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use sync_shared::ValueRef;

static API: AtomicPtr<sqlite3_api_routines> = AtomicPtr::new(ptr::null_mut());

pub const OK: c_int = 0;
pub const ERROR: c_int = 1;
pub const NOMEM: c_int = 7;
pub const CONSTRAINT: c_int = 19;
const ROW: c_int = 100;
const DONE: c_int = 101;
const UTF8: u8 = 1;
const INTEGER: c_int = 1;
const FLOAT: c_int = 2;
const TEXT: c_int = 3;
const BLOB: c_int = 4;
const DBCONFIG_ENABLE_FKEY: c_int = 1002;
const DBCONFIG_ENABLE_TRIGGER: c_int = 1003;
const FCNTL_DATA_VERSION: c_int = 35;
const CHECKPOINT_TRUNCATE: c_int = 3;
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
    column_int64 column_text column_type context_db_handle db_config errmsg extended_errcode file_control finalize free
    get_autocommit libversion_number malloc64 prepare_v3 reset result_blob64 result_error result_error_code result_int64 result_null
    result_text step value_blob value_bytes value_int64 value_text value_type
    wal_checkpoint_v2
}

/// Calls a routine of the host's table. Only inside `unsafe`, with a SAFETY reason for the call itself.
macro_rules! api {
    ($name:ident($($arg:expr),*)) => {
        // The table was checked by `missing` before any function of this crate was registered.
        ((*API.load(Ordering::Relaxed)).$name.unwrap_unchecked())($($arg),*)
    };
}

/// A connection, for the duration of one call into this library.
#[derive(Clone, Copy)]
pub struct Db<'c> {
    ptr: *mut sqlite3,
    /// The statement of the call's [`Guard`], if there is one.
    guard: &'c Cell<*mut sqlite3_stmt>,
}

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
                let guard = Cell::new(ptr::null_mut());
                let db = Db { ptr: db, guard: &guard };
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
    let call = move |context: *mut sqlite3_context, values: &[*mut sqlite3_value]| {
        let guard = Cell::new(ptr::null_mut());
        // SAFETY: SQLite passes a live context; its connection outlives the call.
        let ptr = unsafe { api!(context_db_handle(context)) };
        let db = Db { ptr, guard: &guard };
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
pub fn argument<'a>(value: *mut sqlite3_value) -> Result<ValueRef<'a>> {
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

/// SAFETY: `start` is NULL or points to `length` bytes that live for `'a`.
unsafe fn bytes<'a>(start: *const u8, length: c_int) -> Option<&'a [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { std::slice::from_raw_parts(start, usize::try_from(length).unwrap_or(0)) })
}

/// An empty blob has no address; another without one could not be made for want of memory.
///
/// SAFETY: as [`bytes`].
unsafe fn blob<'a>(start: *const u8, length: c_int) -> Option<ValueRef<'a>> {
    // SAFETY: the caller's promise.
    match unsafe { bytes(start, length) } {
        None if length > 0 => None,
        found => Some(ValueRef::Blob(found.unwrap_or_default())),
    }
}

/// Text that is not UTF-8 counts as bytes: the server then refuses it and names the column.
fn text_or_blob(bytes: &[u8]) -> ValueRef<'_> {
    std::str::from_utf8(bytes).map_or(ValueRef::Blob(bytes), ValueRef::Text)
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

impl<'c> Db<'c> {
    fn error(&self) -> Error {
        // SAFETY: the connection is live; the message is copied at once.
        let (code, message) = unsafe {
            let message = api!(errmsg(self.ptr));
            let text = if message.is_null() { String::new() } else { CStr::from_ptr(message).to_string_lossy().into_owned() };
            (api!(extended_errcode(self.ptr)), text)
        };
        Error::Sqlite { code, message }
    }

    /// Prepares one statement.
    pub fn prepare(&self, sql: &str) -> Result<Statement<'c>> {
        let length = c_int::try_from(sql.len()).map_err(|_| Error::plain("a statement is too long"))?;
        let mut statement = ptr::null_mut();
        // SAFETY: the length is given, so no NUL is needed; the statement is finalised when dropped.
        let code = unsafe { api!(prepare_v3(self.ptr, sql.as_ptr().cast(), length, 0, &mut statement, ptr::null_mut())) };
        if code != OK {
            return Err(self.error());
        }
        if statement.is_null() {
            return Err(Error::plain("a statement is empty"));
        }
        Ok(Statement { ptr: statement, db: *self })
    }

    /// Runs one statement; its rows are thrown away.
    pub fn run(&self, sql: &str, values: &[ValueRef<'_>]) -> Result<()> {
        let mut statement = self.prepare(sql)?;
        let guard = self.guard.get();
        if guard.is_null() || !sql.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("DROP TABLE")) {
            return statement.run(values);
        }
        // SQLite drops no table while another statement reads. So meanwhile a statement is the guard that cannot become outdated.
        let mut undo = self.prepare("ROLLBACK")?;
        // SAFETY: the guard is live as long as it is known.
        unsafe { api!(reset(guard)) };
        let outcome = statement.run(values).and_then(|()| self.advance(guard));
        if outcome.as_ref().is_err_and(Error::is_no_memory) {
            let _ = undo.run(&[]);
        }
        outcome
    }

    /// From now on [`Db::give_up`] works. One that is there already goes on.
    pub fn guard(&self) -> Result<Guard<'c>> {
        if !self.guard.get().is_null() {
            return Ok(Guard(None));
        }
        // Its second row needs memory.
        let statement = self.prepare("SELECT NULL UNION ALL SELECT count(*) FROM main.sqlite_schema")?;
        self.advance(statement.ptr)?;
        self.guard.set(statement.ptr);
        Ok(Guard(Some(statement)))
    }

    /// Undoes the whole open transaction where SQLite had no memory. It then refuses everything until the application's statement
    /// that called this library ends, a ROLLBACK too; but a statement that was reading and finds no memory undoes all.
    pub fn give_up(&self) {
        let guard = self.guard.get();
        if !guard.is_null() {
            let _ = self.advance(guard);
        }
    }

    fn advance(&self, guard: *mut sqlite3_stmt) -> Result<()> {
        // SAFETY: the guard is live as long as it is known.
        if unsafe { api!(step(guard)) } == ROW {
            return Ok(());
        }
        Err(self.error())
    }

    /// Runs the statements of a script of this library, separated by blank lines.
    pub fn script(&self, sql: &str) -> Result<()> {
        for statement in sql.split("\n\n").map(str::trim).filter(|s| !s.is_empty()) {
            self.run(statement, &[])?;
        }
        Ok(())
    }

    /// The first row's columns, read by `read`.
    pub fn first<T>(&self, sql: &str, values: &[ValueRef<'_>], read: impl FnMut(&Row<'_>) -> Result<T>) -> Result<Option<T>> {
        self.prepare(sql)?.first(values, read)
    }

    /// All rows, read by `read`.
    pub fn all<T>(&self, sql: &str, values: &[ValueRef<'_>], read: impl FnMut(&Row<'_>) -> Result<T>) -> Result<Vec<T>> {
        self.prepare(sql)?.all(values, read)
    }

    /// The first row's first column as an integer; 0 without a row.
    pub fn number(&self, sql: &str, values: &[ValueRef<'_>]) -> Result<i64> {
        Ok(self.first(sql, values, |row| Ok(row.integer(0)))?.unwrap_or(0))
    }

    /// Whether no transaction is open.
    pub fn autocommit(&self) -> bool {
        // SAFETY: the connection is live.
        unsafe { api!(get_autocommit(self.ptr)) != 0 }
    }

    /// Rows changed by the last statement.
    pub fn changes(&self) -> i64 {
        // SAFETY: the connection is live.
        i64::from(unsafe { api!(changes(self.ptr)) })
    }

    /// A number that every commit to the database file changes, whoever made it.
    pub fn data_version(&self) -> Result<u32> {
        let mut version: c_uint = 0;
        // SAFETY: the connection is live, the name ends with NUL, and this request writes one unsigned int.
        let code = unsafe { api!(file_control(self.ptr, c"main".as_ptr(), FCNTL_DATA_VERSION, (&raw mut version).cast())) };
        if code == OK {
            Ok(version)
        } else {
            Err(Error::plain("this build of SQLite does not say which version of its data it sees"))
        }
    }

    /// Empties the write-ahead log, if nobody is reading it. Answers whether it was: an error here is none of the call that is done.
    pub fn empty_log(&self) -> bool {
        let none = ptr::null_mut();
        // SAFETY: the connection is live, the name ends with NUL, and both counts may be left out.
        let code = unsafe { api!(wal_checkpoint_v2(self.ptr, c"main".as_ptr(), CHECKPOINT_TRUNCATE, none, none)) };
        code == OK
    }

    /// Switches this connection's triggers on (1) or off (0); -1 only asks. Answers how they are now.
    pub fn triggers(&self, set: c_int) -> bool {
        self.switch(DBCONFIG_ENABLE_TRIGGER, set)
    }

    /// The same for the enforcement of foreign keys, also inside a transaction, where the pragma does nothing.
    pub fn foreign_keys(&self, set: c_int) -> bool {
        self.switch(DBCONFIG_ENABLE_FKEY, set)
    }

    fn switch(&self, which: c_int, set: c_int) -> bool {
        let mut now: c_int = 0;
        // SAFETY: both switches take an int and an int pointer.
        unsafe { api!(db_config(self.ptr, which, set, &mut now as *mut c_int)) };
        now != 0
    }
}

/// What can undo the open transaction whatever happens: a statement in the middle of its rows.
pub struct Guard<'c>(Option<Statement<'c>>);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(statement) = &self.0 {
            statement.db.guard.set(ptr::null_mut());
        }
    }
}

/// A prepared statement; finalised when dropped.
pub struct Statement<'c> {
    ptr: *mut sqlite3_stmt,
    db: Db<'c>,
}

impl Drop for Statement<'_> {
    fn drop(&mut self) {
        // SAFETY: the statement is live and not used afterwards.
        unsafe { api!(finalize(self.ptr)) };
    }
}

impl<'c> Statement<'c> {
    /// Binds, steps through all rows with `each` (false stops), and lets go of the values before it returns.
    pub fn each(&mut self, values: &[ValueRef<'_>], mut each: impl FnMut(&Row<'_>) -> Result<bool>) -> Result<()> {
        let outcome = self.bind(values).and_then(|()| loop {
            // SAFETY: the statement is live, and what is bound outlives this function.
            match unsafe { api!(step(self.ptr)) } {
                ROW => {
                    let row = Row { ptr: self.ptr, lost: Cell::new(false), step: PhantomData };
                    let outcome = each(&row);
                    // Whatever came of values that were not there.
                    if row.lost.get() {
                        break Err(Error::no_memory());
                    }
                    match outcome {
                        Ok(true) => {}
                        Ok(false) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                }
                DONE => break Ok(()),
                _ => break Err(self.db.error()),
            }
        });
        // SAFETY: after this nothing refers to the borrowed values any more.
        unsafe {
            api!(reset(self.ptr));
            api!(clear_bindings(self.ptr));
        }
        outcome
    }

    /// Runs the statement; its rows are thrown away.
    pub fn run(&mut self, values: &[ValueRef<'_>]) -> Result<()> {
        self.each(values, |_| Ok(true))
    }

    /// The first row.
    pub fn first<T>(&mut self, values: &[ValueRef<'_>], mut read: impl FnMut(&Row<'_>) -> Result<T>) -> Result<Option<T>> {
        let mut found = None;
        self.each(values, |row| {
            // To the end, so that a statement with RETURNING is always complete.
            if found.is_none() {
                found = Some(read(row)?);
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// All rows.
    pub fn all<T>(&mut self, values: &[ValueRef<'_>], mut read: impl FnMut(&Row<'_>) -> Result<T>) -> Result<Vec<T>> {
        let mut found = Vec::new();
        self.each(values, |row| {
            found.push(read(row)?);
            Ok(true)
        })?;
        Ok(found)
    }

    fn bind(&mut self, values: &[ValueRef<'_>]) -> Result<()> {
        for (index, value) in values.iter().enumerate() {
            let at = c_int::try_from(index + 1).map_err(|_| Error::plain("too many values"))?;
            // SAFETY: text and blobs are not copied (no destructor = SQLITE_STATIC); `each` clears them before they can go.
            // An empty slice's dangling pointer is never read, and is not NULL, which would bind NULL.
            let code = unsafe {
                match *value {
                    ValueRef::Null => api!(bind_null(self.ptr, at)),
                    ValueRef::Integer(i) => api!(bind_int64(self.ptr, at, i)),
                    ValueRef::Real(r) => api!(bind_double(self.ptr, at, r)),
                    ValueRef::Text(t) => api!(bind_text64(self.ptr, at, t.as_ptr().cast(), t.len() as u64, None, UTF8)),
                    ValueRef::Blob(b) => api!(bind_blob64(self.ptr, at, b.as_ptr().cast(), b.len() as u64, None)),
                }
            };
            if code != OK {
                return Err(self.db.error());
            }
        }
        Ok(())
    }
}

/// The row that a statement stands on.
pub struct Row<'s> {
    ptr: *mut sqlite3_stmt,
    /// A value could not be read for want of memory.
    lost: Cell<bool>,
    step: PhantomData<&'s ()>,
}

impl<'s> Row<'s> {
    /// One column as it is stored. A column must not be read as two types.
    pub fn value(&self, at: usize) -> ValueRef<'s> {
        let at = at as c_int;
        // SAFETY: SQLite answers NULL for a column out of range; text and blob stay until the next step, and the row's
        // lifetime ends before it.
        unsafe {
            let value = match api!(column_type(self.ptr, at)) {
                INTEGER => Some(ValueRef::Integer(api!(column_int64(self.ptr, at)))),
                FLOAT => Some(ValueRef::Real(api!(column_double(self.ptr, at)))),
                TEXT => {
                    let start = api!(column_text(self.ptr, at));
                    bytes(start, api!(column_bytes(self.ptr, at))).map(text_or_blob)
                }
                BLOB => {
                    let start = api!(column_blob(self.ptr, at)).cast();
                    blob(start, api!(column_bytes(self.ptr, at)))
                }
                _ => Some(ValueRef::Null),
            };
            value.unwrap_or_else(|| {
                self.lost.set(true);
                ValueRef::Null
            })
        }
    }

    /// An integer; 0 for anything else.
    pub fn integer(&self, at: usize) -> i64 {
        match self.value(at) {
            ValueRef::Integer(i) => i,
            _ => 0,
        }
    }

    /// A text; empty for anything else.
    pub fn text(&self, at: usize) -> String {
        match self.value(at) {
            ValueRef::Text(t) => t.to_owned(),
            _ => String::new(),
        }
    }

    /// A blob; empty for anything else.
    pub fn blob(&self, at: usize) -> Vec<u8> {
        match self.value(at) {
            ValueRef::Blob(b) => b.to_owned(),
            _ => Vec::new(),
        }
    }
}
