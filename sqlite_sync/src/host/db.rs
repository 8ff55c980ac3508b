//! A connection, for the duration of one call.
//!
//! Statements live within one call: one left open would make `sqlite3_close` fail. Within it what ran once is kept, since preparing
//! is most of what a small call costs.

use super::statement::{Later, Row, Statement};
use super::{OK, ROW};
use crate::error::{Error, Result};
use crate::keyring::Keyring;
use sqlite_loadable::ext::{sqlite3, sqlite3_stmt};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_uint, CStr};
use std::ptr;
use std::sync::Arc;
use sync_shared::ValueRef;

const DBCONFIG_ENABLE_FKEY: c_int = 1002;
const DBCONFIG_ENABLE_TRIGGER: c_int = 1003;
const FCNTL_DATA_VERSION: c_int = 35;
const CHECKPOINT_TRUNCATE: c_int = 3;

/// A connection, for the duration of one call into this library.
#[derive(Clone, Copy)]
pub struct Db<'c> {
    pub(super) ptr: *mut sqlite3,
    call: &'c Call,
}

/// Statements kept within a call; what is beyond is prepared anew, so that the search among them stays short.
const KEPT: usize = 64;

/// What lasts as long as one call into this library.
pub(super) struct Call {
    /// The statement of the call's [`Guard`], if there is one.
    guard: Cell<*mut sqlite3_stmt>,
    /// Statements that ran and may run again, with their text.
    kept: RefCell<Vec<(String, *mut sqlite3_stmt)>>,
    /// The connection's.
    keys: Arc<Keyring>,
}

impl Call {
    pub(super) fn new(keys: Arc<Keyring>) -> Self {
        Call { guard: Cell::new(ptr::null_mut()), kept: RefCell::new(Vec::new()), keys }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        for (_, statement) in self.kept.get_mut() {
            // SAFETY: the statement is live, and nobody else has it.
            unsafe { api!(finalize(*statement)) };
        }
    }
}

impl<'c> Db<'c> {
    /// A live connection, and what the call keeps.
    pub(super) fn of(ptr: *mut sqlite3, call: &'c Call) -> Self {
        Db { ptr, call }
    }

    /// The connection's keys.
    pub fn keys(&self) -> &'c Keyring {
        &self.call.keys
    }

    /// The same, for the connection's functions to share.
    pub(super) fn shared_keys(&self) -> Arc<Keyring> {
        self.call.keys.clone()
    }

    pub(super) fn error(&self) -> Error {
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

    /// One statement, prepared when it is first used.
    pub fn later(&self, sql: impl Into<Cow<'static, str>>) -> Later<'c> {
        Later::new(*self, sql.into())
    }

    /// Works with a statement that the call keeps.
    fn with<T>(&self, sql: &str, work: impl FnOnce(&mut Statement<'c>) -> Result<T>) -> Result<T> {
        let known = self.call.kept.borrow().iter().position(|(text, _)| text == sql);
        // Taken out while it works: what it calls may want the same.
        let (text, ptr) = known.map(|at| self.call.kept.borrow_mut().swap_remove(at)).unzip();
        let mut statement = match ptr {
            Some(ptr) => Statement { ptr, db: *self },
            None => self.prepare(sql)?,
        };
        let value = work(&mut statement)?;
        let mut kept = self.call.kept.borrow_mut();
        let lasts = ["SELECT", "INSERT", "UPDATE", "DELETE"].iter().any(|verb| sql.starts_with(verb));
        if lasts && kept.len() < KEPT {
            kept.push((text.unwrap_or_else(|| sql.to_owned()), statement.keep()));
        }
        Ok(value)
    }

    /// Runs one statement; its rows are thrown away.
    pub fn run(&self, sql: &str, values: &[ValueRef<'_>]) -> Result<()> {
        let guard = self.call.guard.get();
        if guard.is_null() || !sql.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("DROP TABLE")) {
            return self.with(sql, |statement| statement.run(values));
        }
        let mut statement = self.prepare(sql)?;
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
        if !self.call.guard.get().is_null() {
            return Ok(Guard(None));
        }
        // Its second row needs memory.
        let statement = self.prepare("SELECT NULL UNION ALL SELECT count(*) FROM main.sqlite_schema")?;
        self.advance(statement.ptr)?;
        self.call.guard.set(statement.ptr);
        Ok(Guard(Some(statement)))
    }

    /// Undoes the whole open transaction where SQLite had no memory. It then refuses everything until the application's statement
    /// that called this library ends, a ROLLBACK too; but a statement that was reading and finds no memory undoes all.
    pub fn give_up(&self) {
        let guard = self.call.guard.get();
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
        self.with(sql, |statement| statement.first(values, read))
    }

    /// All rows, read by `read`.
    pub fn all<T>(&self, sql: &str, values: &[ValueRef<'_>], read: impl FnMut(&Row<'_>) -> Result<T>) -> Result<Vec<T>> {
        self.with(sql, |statement| statement.all(values, read))
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
            statement.db.call.guard.set(ptr::null_mut());
        }
    }
}
