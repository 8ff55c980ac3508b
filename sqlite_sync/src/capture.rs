//! Capture of local writes by triggers in plain SQL: they work on connections that never loaded the extension and under
//! trusted_schema=OFF.
//!
//! What must stay true: the log has no constraint that can fail (an outer OR IGNORE would swallow the failure, an outer OR
//! REPLACE overrides a trigger's own clause); every row is logged *before* it changes, since AFTER triggers fire newest first and
//! the application's may write in between; a row that OR REPLACE removes is logged by the statement that removes it, since it
//! fires no delete trigger. The first entry of a key in a transaction then is what the row was before it (see `seal`).

use crate::error::Result;
use crate::host::Db;
use crate::table::{quote, TableInfo};
use std::collections::HashSet;
use sync_shared::message::{ColumnDefault, TableMode};
use sync_shared::ValueRef;

/// What an entry of the log says. `Was*` carry the whole row, the others only the key.
pub const WAS_UPDATED: &str = "u";
pub const WAS_DELETED: &str = "d";
pub const WAS_REPLACED: &str = "r";
/// An insert of this key begins; the key is -1 or NULL when SQLite has yet to choose it.
pub const BEGINS: &str = "b";
/// A row of this key was inserted.
pub const INSERTED: &str = "i";
// And "k": a row is about to get this key.

/// An entry of table 0, about the transaction: its note.
pub const NOTE: &str = "n";
/// An entry of table 0, about the transaction: its priority.
pub const PRIORITY: &str = "p";

/// Appends an entry about the open transaction; it goes where the transaction or a savepoint is rolled back.
pub fn say(db: Db<'_>, kind: &str, value: ValueRef<'_>) -> Result<()> {
    let sql = "INSERT INTO main.sync_log(tbl, kind, at, txn, c1) VALUES (0, ?1, julianday('now'), char(), ?2)";
    db.run(sql, &[ValueRef::Text(kind), value])
}

const TEMPLATE: &str = include_str!("sql/capture.sql");
const REFUSE: &str = include_str!("sql/refuse.sql");
const NAMES: [&str; 9] =
    ["insert", "inserted", "update", "rekey", "delete", "refuse_insert", "refuse_replace", "refuse_update", "refuse_delete"];

/// Gives the log room for `columns` columns.
pub fn widen(db: Db<'_>, columns: usize) -> Result<()> {
    let have: HashSet<String> =
        db.all("SELECT name FROM pragma_table_info('sync_log')", &[], |row| Ok(row.text(0)))?.into_iter().collect();
    for name in (1..=columns).map(|number| format!("c{number}")).filter(|name| !have.contains(name)) {
        db.run(&format!("ALTER TABLE main.sync_log ADD COLUMN {name}"), &[])?;
    }
    Ok(())
}

/// Creates a table's triggers, or replaces them.
pub fn install(db: Db<'_>, info: &TableInfo) -> Result<()> {
    // A key that is no rowid and has no default is always known before the insert.
    let may_choose = info.is_rowid() || info.keys.iter().any(|k| info.table.columns[*k].default != ColumnDefault::Nothing);
    let (refused, message): (&[&str], _) = match info.table.mode {
        TableMode::ReadWrite => (&[], ""),
        TableMode::ReadOnly => (
            &["refuse_insert", "refuse_update", "refuse_delete"],
            "is read only here: the server takes no changes of it from devices",
        ),
        TableMode::InsertOnly => (
            &["refuse_replace", "refuse_update", "refuse_delete"],
            "is insert only here: its rows are neither changed nor deleted on devices",
        ),
    };
    let value = |name: &str| match name {
        "id" => info.id.to_string(),
        "table" => quote(&info.table.name),
        "log_all" => info.list(|_, i| format!("c{}", i + 1)),
        "log_key" => joined(info, ", ", |_, at| format!("c{}", at + 1)),
        "old_all" => info.list(|c, _| format!("old.{c}")),
        "all" => info.list(|c, _| c.into()),
        "new_key" => joined(info, ", ", |c, _| format!("new.{c}")),
        "key" => joined(info, ", ", |c, _| c.into()),
        "is_new" => joined(info, " AND ", |c, _| format!("{c} = new.{c}")),
        "moved" => joined(info, " OR ", |c, _| format!("new.{c} IS NOT old.{c}")),
        "logged" => joined(info, " AND ", |c, at| format!("c{} IS new.{c}", at + 1)),
        "message" => format!("'{}'", format!("table {} {message}", quote(&info.table.name)).replace('\'', "''")),
        other => format!("{{{other}}}"),
    };
    let wanted = |name: &str| match name {
        "inserted" => may_choose,
        _ => !name.starts_with("refuse_") || refused.contains(&name),
    };
    remove(db, info)?;
    // Triggers fire newest first, so what is refused is not logged before.
    for statement in TEMPLATE.split("\n\n").chain(REFUSE.split("\n\n")).filter(|s| wanted(trigger_name(s))) {
        db.run(&fill(statement, value), &[])?;
    }
    Ok(())
}

/// The name of the trigger that a template makes, without table and number.
fn trigger_name(statement: &str) -> &str {
    let behind = statement.split_once("TRIGGER main.sync_{id}_").map_or("", |(_, behind)| behind);
    behind.split(' ').next().unwrap_or("")
}

/// Fills in a template in one walk, so that a name with braces in it is never looked at again.
fn fill(template: &str, value: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let Some((name, behind)) = after.split_once('}') else { break };
        out.push_str(&value(name));
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// Drops a table's triggers.
pub fn remove(db: Db<'_>, info: &TableInfo) -> Result<()> {
    for name in NAMES {
        db.run(&format!("DROP TRIGGER IF EXISTS main.sync_{}_{name}", info.id), &[])?;
    }
    Ok(())
}

fn joined(info: &TableInfo, separator: &str, with: impl Fn(&str, usize) -> String) -> String {
    let parts: Vec<_> = info.keys.iter().map(|k| with(&quote(&info.table.columns[*k].name), *k)).collect();
    parts.join(separator)
}
