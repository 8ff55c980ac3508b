//! The library's own tables in the database file: recognised, made, brought up to date.

use crate::capture;
use crate::damage;
use crate::error::{Error, Result};
use crate::host::Db;
use crate::meta;
use crate::table;
use crate::transaction::transaction;
use sync_shared::ValueRef;
use uuid::Uuid;

/// Format of the library's tables. A file with a higher one was written by a newer library and is refused untouched; one with a
/// lower one is brought up to date by the first call that works with it.
pub const FORMAT: i64 = 3;

const VIEWS: &str = include_str!("sql/views.sql");

/// What a database file is to this library.
pub enum State {
    /// Nothing of the library's is there.
    Empty,
    /// The library's tables are there, in this format.
    Format(i64),
    /// Something else's table is in the way.
    Taken,
    /// The library's tables were there, and somebody has changed them.
    Damaged,
}

/// Looks at the file.
pub fn state(db: Db<'_>) -> Result<State> {
    if db.number("SELECT count(*) FROM main.sqlite_schema WHERE name = 'sync_meta'", &[])? == 0 {
        return Ok(if damage::is_ours(db) { State::Damaged } else { State::Empty });
    }
    match db.number("SELECT value FROM main.sync_meta WHERE name = 'format'", &[]) {
        Ok(format) if format >= 1 => Ok(State::Format(format)),
        Err(error) if !error.is_unexpected() => Err(error),
        _ if damage::is_ours(db) => Ok(State::Damaged),
        _ => Ok(State::Taken),
    }
}

/// The format of the library's tables, 0 where there are none; refuses those of a newer library.
pub fn format(db: Db<'_>) -> Result<i64> {
    match state(db)? {
        State::Empty => Ok(0),
        State::Format(format) if format <= FORMAT => Ok(format),
        State::Format(format) => Err(Error::plain(format!(
            "this database was written by a newer sqlite_sync (format {format}, this library knows {FORMAT}): update the library; nothing was changed"
        ))),
        State::Taken => Err(Error::plain(
            "a table sync_meta exists that is not sqlite_sync's: rename it, names beginning with sync_ are reserved",
        )),
        State::Damaged => Err(damage::of("sync_meta is missing or says no format")),
    }
}

/// Whether the library's tables are there; those of an older library are brought up to date first.
pub fn present(db: Db<'_>) -> Result<bool> {
    match format(db)? {
        0 => Ok(false),
        FORMAT => Ok(true),
        _ => transaction(db, || {
            // Somebody else may have been first.
            if format(db)? < FORMAT {
                upgrade(db)?;
            }
            Ok(true)
        }),
    }
}

/// Refuses where nothing was ever synced.
pub fn ready(db: Db<'_>) -> Result<()> {
    if present(db)? {
        return Ok(());
    }
    Err(Error::plain("this database has not synced yet: call pull_request() first"))
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
    db.script(VIEWS)?;
    meta::set(db, "format", ValueRef::Integer(FORMAT))?;
    meta::set(db, "device", ValueRef::Text(&Uuid::new_v4().to_string()))
}

/// From any older format, step by step.
fn upgrade(db: Db<'_>) -> Result<()> {
    drop_views(db)?;
    if format(db)? < 2 {
        db.script(include_str!("sql/from_1.sql"))?;
    }
    db.script(include_str!("sql/from_2.sql"))?;
    make_views(db)
}

/// Makes the views and all triggers anew: who changed them may not have meant to.
pub fn make_views(db: Db<'_>) -> Result<()> {
    drop_views(db)?;
    db.script(VIEWS)?;
    let infos = table::load(db)?;
    capture::widen(db, infos.iter().map(|info| info.tags.len()).max().unwrap_or(0))?;
    infos.iter().try_for_each(|info| capture::install(db, info))
}

fn drop_views(db: Db<'_>) -> Result<()> {
    let views = "SELECT name FROM main.sqlite_schema WHERE type = 'view' AND name LIKE 'sync\\_%' ESCAPE '\\'";
    let there = db.all(views, &[], |row| Ok(row.text(0)))?;
    for name in there.iter().filter(|name| damage::views().any(|own| own == *name)) {
        db.run(&format!("DROP VIEW main.{}", table::quote(name)), &[])?;
    }
    db.run("DROP TRIGGER IF EXISTS main.sync_marker_seq", &[])
}
