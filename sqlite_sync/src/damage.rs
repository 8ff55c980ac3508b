//! What somebody has changed in the library's own tables: found when a call fails, and said in place of SQLite's words.

use crate::error::Error;
use crate::host::Db;
use sync_shared::ValueRef;

const TABLES: &str = include_str!("sql/tables.sql");
const VIEWS: &str = include_str!("sql/views.sql");

/// What helps in every case.
const START_OVER: &str =
    "restore this database from a backup, or start over with sync_sign_out('wipe'), which loses what was not sent";
/// What helps where only views and triggers are missing.
const MAKE_AGAIN: &str = "sync_verify() makes it again";

/// Something that the library keeps cannot be used as it is.
pub fn of(what: impl std::fmt::Display) -> Error {
    Error::plain(format!("{what}, since something has changed the library's own tables: {START_OVER}"))
}

/// The error of a call, with what is wrong with the library's tables where that explains it.
pub fn explain(db: Db<'_>, error: Error) -> Error {
    if !error.is_unexpected() || !is_ours(db) {
        return error;
    }
    match find(db) {
        Some((what, help)) => Error::plain(format!("{what}: {help} ({error})")),
        None => error,
    }
}

/// Whether most of the library's tables are there: what is missing was taken away.
pub fn is_ours(db: Db<'_>) -> bool {
    let there = tables().filter(|(name, _)| kind(db, name).as_deref() == Some("table")).count();
    there * 2 > tables().count()
}

/// The first thing that is missing, and what helps.
fn find(db: Db<'_>) -> Option<(String, &'static str)> {
    for (name, columns) in tables() {
        if kind(db, name).as_deref() != Some("table") {
            return Some((format!("the library's table {name} is missing"), START_OVER));
        }
        let sql = "SELECT count(*) FROM pragma_table_info(?1, 'main') WHERE name = ?2";
        let has = |column: &str| db.number(sql, &[ValueRef::Text(name), ValueRef::Text(column)]).unwrap_or(0) > 0;
        if let Some(column) = columns.iter().find(|column| !has(column)) {
            return Some((format!("the library's table {name} has no column {column}"), START_OVER));
        }
    }
    let missing = views().find(|name| kind(db, name).as_deref() != Some("view"));
    missing.map(|name| (format!("the library's view {name} is missing"), MAKE_AGAIN))
}

/// The names of the library's views.
pub fn views() -> impl Iterator<Item = &'static str> {
    VIEWS.split("\n\n").filter_map(|s| s.split_once("CREATE VIEW ")).filter_map(|(_, s)| s.split(' ').next())
}

fn kind(db: Db<'_>, name: &str) -> Option<String> {
    let sql = "SELECT type FROM main.sqlite_schema WHERE name = ?1 AND type IN ('table', 'view')";
    db.first(sql, &[ValueRef::Text(name)], |row| Ok(row.text(0))).ok().flatten()
}

/// The library's tables with their columns, as tables.sql makes them.
fn tables() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    TABLES.split("\n\n").filter_map(|statement| {
        let (name, inside) = statement.split_once("CREATE TABLE ")?.1.split_once('(')?;
        let mut depth = 0;
        let parts = inside.split(move |c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            c == ',' && depth == 0
        });
        let columns = parts.filter_map(|part| part.trim().split([' ', '(', ')']).next());
        Some((name, columns.filter(|c| !["PRIMARY", "UNIQUE", ""].contains(c)).collect()))
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn tables_and_columns_are_read_from_the_script() {
        let found: Vec<_> = super::tables().collect();
        let of = |name: &str| found.iter().find(|(n, _)| *n == name).map(|(_, columns)| columns.join(" ")).unwrap_or_default();
        assert_eq!(found.len(), super::TABLES.matches("CREATE TABLE ").count());
        assert_eq!(of("sync_meta"), "name value");
        assert_eq!(of("sync_part"), "id bucket entry tbl sum count");
        assert_eq!(of("sync_row"), "tbl key part hash");
        assert_eq!(of("sync_log"), "seq tbl kind at txn c1");
        assert_eq!(of("sync_subscription"), "rule params");
    }
}
