//! One local transaction, one batch: a connection with the extension records which rows of the log it wrote together.
//!
//! A TEMP trigger on the log has the first row of each transaction written to a temporary virtual table; its xSync runs before
//! the commit and may still write. Commit hooks would do, but there is one per connection, and it belongs to the application.
//! After ROLLBACK TO the log continues from the same number, so the first row noted stays right.

use crate::error::Result;
use crate::host::{self, Answer, Db};
use sqlite_loadable::ext::{sqlite3, sqlite3_context, sqlite3_value, sqlite3_vtab};
use sqlite_loadable::table::{
    define_virtual_table_writeable_with_transactions, IndexInfo, UpdateOperation, VTab, VTabArguments, VTabCursor, VTabWriteable,
    VTabWriteableWithTransactions,
};
use sqlite_loadable::{BestIndexError, Error, FunctionFlags};
use std::cell::Cell;
use std::rc::Rc;
use sync_shared::ValueRef;

/// First row of the log that this connection wrote in its open transaction.
type First = Rc<Cell<Option<i64>>>;

/// Registers the virtual table and the function that its trigger asks.
pub fn register(db: Db<'_>) -> Result<()> {
    let first: First = Rc::default();
    let seen = first.clone();
    // It only notes a number for this connection, so it may run in a trigger under trusted_schema=OFF. The write is made here and
    // not in the trigger's body: a statement that may write to a virtual table keeps a statement journal, for every row's sake.
    host::define(db, "sync_first", 1, FunctionFlags::INNOCUOUS, move |db, args| {
        if let (None, [seq @ ValueRef::Integer(_)]) = (seen.get(), args) {
            db.run("INSERT INTO temp.sync_opened VALUES (?1)", &[*seq])?;
        }
        Ok(Answer::Integer(0))
    })?;
    define_virtual_table_writeable_with_transactions::<Boundary>(host::raw(db), "sync_boundary", Some(first))
        .map_err(|_| crate::error::Error::plain("the virtual table sync_boundary could not be registered on this connection"))
}

/// Makes this connection record its transactions, as soon as there is a log.
pub fn ensure(db: Db<'_>) -> Result<()> {
    let sql = "SELECT (SELECT count(*) FROM temp.sqlite_schema WHERE name = 'sync_open' AND type = 'trigger') = 0 \
               AND (SELECT count(*) FROM main.sqlite_schema WHERE name = 'sync_boundary') = 1";
    if db.number(sql, &[])? == 0 {
        return Ok(());
    }
    db.run("CREATE VIRTUAL TABLE IF NOT EXISTS temp.sync_opened USING sync_boundary", &[])?;
    db.run("CREATE TEMP TRIGGER sync_open AFTER INSERT ON main.sync_log WHEN sync_first(new.seq) BEGIN SELECT 1; END", &[])
}

#[repr(C)]
struct Boundary {
    /// SQLite's own part; must stay first.
    base: sqlite3_vtab,
    db: *mut sqlite3,
    first: First,
}

impl Boundary {
    fn record(&self) -> Result<()> {
        let Some(first) = self.first.take() else { return Ok(()) };
        host::vtab_db(self.db).run(
            "INSERT OR REPLACE INTO main.sync_boundary SELECT ?1, max(seq) FROM main.sync_log WHERE seq >= ?1 HAVING max(seq) IS NOT NULL",
            &[ValueRef::Integer(first)],
        )
    }
}

impl<'v> VTab<'v> for Boundary {
    type Aux = First;
    type Cursor = Nothing;

    fn connect(db: *mut sqlite3, aux: Option<&First>, _: VTabArguments) -> sqlite_loadable::Result<(String, Self)> {
        host::vtab_innocuous(db);
        let first = aux.cloned().unwrap_or_default();
        Ok(("CREATE TABLE x(seq)".into(), Boundary { base: host::vtab_base(), db, first }))
    }

    fn best_index(&self, _: IndexInfo) -> std::result::Result<(), BestIndexError> {
        Ok(())
    }

    fn open(&'v mut self) -> sqlite_loadable::Result<Nothing> {
        Err(Error::new_message("sync_opened cannot be read"))
    }
}

impl<'v> VTabWriteable<'v> for Boundary {
    fn update(&'v mut self, operation: UpdateOperation<'_>, _: *mut i64) -> sqlite_loadable::Result<()> {
        if let UpdateOperation::Insert { values, .. } = operation {
            if let (None, Some(ValueRef::Integer(seq))) = (self.first.get(), values.first().map(|v| host::argument(*v))) {
                self.first.set(Some(seq));
            }
        }
        Ok(())
    }
}

impl<'v> VTabWriteableWithTransactions<'v> for Boundary {
    fn begin(&'v mut self) -> sqlite_loadable::Result<()> {
        Ok(())
    }

    fn sync(&'v mut self) -> sqlite_loadable::Result<()> {
        let recorded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.record()));
        match recorded {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::new_message(error.to_string())),
            Err(_) => Err(Error::new_message("sqlite_sync met a bug at commit")),
        }
    }

    fn commit(&'v mut self) -> sqlite_loadable::Result<()> {
        self.first.set(None);
        Ok(())
    }

    fn rollback(&'v mut self) -> sqlite_loadable::Result<()> {
        self.first.set(None);
        Ok(())
    }
}

/// The cursor of a table that is never read.
struct Nothing;

impl VTabCursor for Nothing {
    fn filter(&mut self, _: i32, _: Option<&str>, _: &[*mut sqlite3_value]) -> sqlite_loadable::Result<()> {
        Ok(())
    }

    fn next(&mut self) -> sqlite_loadable::Result<()> {
        Ok(())
    }

    fn eof(&self) -> bool {
        true
    }

    fn column(&self, _: *mut sqlite3_context, _: i32) -> sqlite_loadable::Result<()> {
        Ok(())
    }

    fn rowid(&self) -> sqlite_loadable::Result<i64> {
        Ok(0)
    }
}
