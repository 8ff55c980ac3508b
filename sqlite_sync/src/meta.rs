//! The library's own tables, and the single values it remembers.

use crate::error::{Error, Result};
use crate::host::Db;
use std::time::{SystemTime, UNIX_EPOCH};
use sync_shared::{Value, ValueRef};
use uuid::Uuid;

/// Format of the library's tables. A file with a higher one was written by a newer library and is refused untouched.
pub const FORMAT: i64 = 1;

/// Whether the library's tables are there; refuses those of a newer library.
pub fn present(db: Db<'_>) -> Result<bool> {
    if db.number("SELECT count(*) FROM main.sqlite_schema WHERE name = 'sync_meta'", &[])? == 0 {
        return Ok(false);
    }
    let format = db.number("SELECT value FROM main.sync_meta WHERE name = 'format'", &[])?;
    if format > FORMAT {
        return Err(Error::plain(format!(
            "this database was written by a newer sqlite_sync (format {format}, this library knows {FORMAT}): update the library; nothing was changed"
        )));
    }
    if format < 1 {
        return Err(Error::plain(
            "a table sync_meta exists that is not sqlite_sync's: rename it, names beginning with sync_ are reserved",
        ));
    }
    Ok(true)
}

/// Creates the library's tables in a database that has none. Inside a transaction.
pub fn create(db: Db<'_>) -> Result<()> {
    let taken = db.first("SELECT name FROM main.sqlite_schema WHERE name LIKE 'sync\\_%' ESCAPE '\\' LIMIT 1", &[], |row| {
        Ok(row.text(0))
    })?;
    if let Some(name) = taken {
        return Err(Error::plain(format!("{name} exists already: names beginning with sync_ are reserved, rename it first")));
    }
    db.script(include_str!("sql/tables.sql"))?;
    set(db, "format", ValueRef::Integer(FORMAT))?;
    set(db, "device", ValueRef::Text(&Uuid::new_v4().to_string()))
}

/// A remembered value; NULL when there is none.
pub fn get(db: Db<'_>, name: &str) -> Result<Value> {
    let value =
        db.first("SELECT value FROM main.sync_meta WHERE name = ?1", &[ValueRef::Text(name)], |row| Ok(row.value(0).to_owned()))?;
    Ok(value.unwrap_or_default())
}

/// A remembered number; 0 when there is none.
pub fn number(db: Db<'_>, name: &str) -> Result<i64> {
    Ok(if let Value::Integer(i) = get(db, name)? { i } else { 0 })
}

/// A remembered text; empty when there is none.
pub fn text(db: Db<'_>, name: &str) -> Result<String> {
    Ok(if let Value::Text(t) = get(db, name)? { t } else { String::new() })
}

/// Remembered bytes; empty when there are none.
pub fn blob(db: Db<'_>, name: &str) -> Result<Vec<u8>> {
    Ok(if let Value::Blob(b) = get(db, name)? { b } else { Vec::new() })
}

/// Remembers a value.
pub fn set(db: Db<'_>, name: &str, value: ValueRef<'_>) -> Result<()> {
    db.run("INSERT OR REPLACE INTO main.sync_meta VALUES (?1, ?2)", &[ValueRef::Text(name), value])
}

/// Remembers a number.
pub fn set_number(db: Db<'_>, name: &str, value: i64) -> Result<()> {
    set(db, name, ValueRef::Integer(value))
}

/// A setting that the application may change; the default where it is missing or no number.
pub fn setting(db: Db<'_>, name: &str, default: i64) -> Result<i64> {
    let value =
        db.first("SELECT value FROM main.sync_setting WHERE name = ?1", &[ValueRef::Text(name)], |row| Ok(row.integer(0)))?;
    Ok(value.filter(|v| *v > 0).unwrap_or(default))
}

/// This file's device id.
pub fn device(db: Db<'_>) -> Result<Uuid> {
    Uuid::parse_str(&text(db, "device")?)
        .map_err(|_| Error::plain("sync_meta has no device id: this database is damaged, restore it or start from an empty one"))
}

/// Microseconds since 1970 UTC.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}
