//! Connections with the extension loaded.

use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, Params};
use std::path::Path;
use std::time::Duration;

/// Opens the file, which is made where there is none.
pub fn open(file: &Path, library: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(file)?;
    db.busy_timeout(Duration::from_secs(30))?;
    // SAFETY: the library is this project's; nothing else was loaded or prepared on the connection before.
    unsafe {
        db.load_extension_enable()?;
        db.load_extension(library, None::<&str>)?;
    }
    db.load_extension_disable()?;
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")?;
    Ok(db)
}

/// The only value of a query; none where it answers nothing or NULL.
pub fn value<T: FromSql>(db: &Connection, sql: &str, parameters: impl Params) -> rusqlite::Result<Option<T>> {
    db.query_row(sql, parameters, |row| row.get(0)).optional().map(Option::flatten)
}

/// Before the first sync the tables are not there, and there is nothing to show.
pub fn nothing_yet<T: Default>(error: rusqlite::Error) -> rusqlite::Result<T> {
    if error.to_string().contains("no such table") {
        return Ok(T::default());
    }
    Err(error)
}
