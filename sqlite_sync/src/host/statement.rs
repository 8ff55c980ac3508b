//! Prepared statements, and the rows they stand on.

use super::db::Db;
use super::{BLOB, FLOAT, INTEGER, OK, ROW, TEXT};
use crate::error::{Error, Result};
use sqlite_loadable::ext::sqlite3_stmt;
use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::c_int;
use std::marker::PhantomData;
use sync_shared::ValueRef;

const DONE: c_int = 101;
const UTF8: u8 = 1;

/// A prepared statement; finalised when dropped.
pub struct Statement<'c> {
    pub(super) ptr: *mut sqlite3_stmt,
    pub(super) db: Db<'c>,
}

impl Drop for Statement<'_> {
    fn drop(&mut self) {
        // SAFETY: the statement is live and not used afterwards.
        unsafe { api!(finalize(self.ptr)) };
    }
}

impl<'c> Statement<'c> {
    /// Leaves it to the caller to finalise it.
    pub(super) fn keep(self) -> *mut sqlite3_stmt {
        std::mem::ManuallyDrop::new(self).ptr
    }

    /// Binds, steps through all rows with `each` (false stops), and lets go of the values before it returns.
    pub fn each(&mut self, values: &[ValueRef<'_>], mut each: impl FnMut(&Row<'_>) -> Result<bool>) -> Result<()> {
        self.step(values, &mut each)
    }

    /// For any `each`, so that the library has it once.
    fn step(&mut self, values: &[ValueRef<'_>], each: &mut dyn FnMut(&Row<'_>) -> Result<bool>) -> Result<()> {
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

/// A statement that is prepared when it is first used: most calls need few of those that they might.
pub struct Later<'c> {
    db: Db<'c>,
    sql: Cow<'static, str>,
    made: Option<Statement<'c>>,
}

impl<'c> Later<'c> {
    pub(super) fn new(db: Db<'c>, sql: Cow<'static, str>) -> Self {
        Later { db, sql, made: None }
    }

    fn made(&mut self) -> Result<&mut Statement<'c>> {
        Ok(match &mut self.made {
            Some(statement) => statement,
            none => none.insert(self.db.prepare(&self.sql)?),
        })
    }

    /// As [`Statement::each`].
    pub fn each(&mut self, values: &[ValueRef<'_>], each: impl FnMut(&Row<'_>) -> Result<bool>) -> Result<()> {
        self.made()?.each(values, each)
    }

    /// As [`Statement::run`].
    pub fn run(&mut self, values: &[ValueRef<'_>]) -> Result<()> {
        self.made()?.run(values)
    }

    /// As [`Statement::first`].
    pub fn first<T>(&mut self, values: &[ValueRef<'_>], read: impl FnMut(&Row<'_>) -> Result<T>) -> Result<Option<T>> {
        self.made()?.first(values, read)
    }

    /// As [`Statement::all`].
    pub fn all<T>(&mut self, values: &[ValueRef<'_>], read: impl FnMut(&Row<'_>) -> Result<T>) -> Result<Vec<T>> {
        self.made()?.all(values, read)
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

/// SAFETY: `start` is NULL or points to `length` bytes that live for `'a`.
pub(super) unsafe fn bytes<'a>(start: *const u8, length: c_int) -> Option<&'a [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { std::slice::from_raw_parts(start, usize::try_from(length).unwrap_or(0)) })
}

/// An empty blob has no address; another without one could not be made for want of memory.
///
/// SAFETY: as [`bytes`].
pub(super) unsafe fn blob<'a>(start: *const u8, length: c_int) -> Option<ValueRef<'a>> {
    // SAFETY: the caller's promise.
    match unsafe { bytes(start, length) } {
        None if length > 0 => None,
        found => Some(ValueRef::Blob(found.unwrap_or_default())),
    }
}

/// Text that is not UTF-8 counts as bytes: the server then refuses it and names the column.
pub(super) fn text_or_blob(bytes: &[u8]) -> ValueRef<'_> {
    std::str::from_utf8(bytes).map_or(ValueRef::Blob(bytes), ValueRef::Text)
}
