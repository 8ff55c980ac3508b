//! The schema of a delta becomes tables: created, widened, or rebuilt keeping what can be kept.
//!
//! No SQL text comes from the server: names are quoted, types and defaults are made here.

use crate::capture;
use crate::encrypted;
use crate::error::{Error, Result};
use crate::host::Db;
use crate::meta;
use crate::table::{self, quote, TableInfo};
use std::collections::{BTreeSet, HashSet};
use sync_shared::hash::Tag;
use sync_shared::limits;
use sync_shared::message::{Affinity, Column, ColumnDefault, Schema, Table};
use sync_shared::{Value, ValueRef};

/// Makes the tables follow `schema`.
///
/// Foreign keys rest meanwhile: dropping a table to build it anew would otherwise cascade into the application's own tables.
pub fn apply(db: Db<'_>, schema: &Schema) -> Result<()> {
    check(schema)?;
    let enforced = db.foreign_keys(-1);
    db.foreign_keys(0);
    let outcome = follow(db, schema);
    db.foreign_keys(i32::from(enforced));
    outcome
}

fn follow(db: Db<'_>, schema: &Schema) -> Result<()> {
    let known = table::load(db)?;
    for old in &known {
        if !schema.tables.iter().any(|t| t.tag == old.table.tag) {
            db.run("UPDATE main.sync_table SET retired = 1 WHERE id = ?1", &[ValueRef::Integer(old.id)])?;
        }
    }
    drop_retired(db)?;
    // One that was retired before may have gone just now, and be in the schema again.
    let known = table::load(db)?;
    refuse_plain(db, &known, schema)?;
    // Names first, so that two tables may have swapped theirs.
    for table in &schema.tables {
        if let Some(old) = known.iter().find(|k| k.table.tag == table.tag && k.table.name != table.name) {
            move_away(db, old)?;
        }
    }
    for table in &schema.tables {
        match known.iter().find(|k| k.table.tag == table.tag) {
            None => create(db, table)?,
            Some(old) if old.table == *table && !old.retired => {}
            Some(old) => change(db, old, table)?,
        }
    }
    capture::widen(db, schema.tables.iter().map(|t| t.columns.len()).max().unwrap_or(0))?;
    for info in table::load(db)? {
        capture::install(db, &info)?;
    }
    meta::set_number(db, "generation", schema.generation)
}

/// Whoever has the server does not have what devices encrypt, so its word is not enough to have it sent as it is: neither for a column
/// by another name, nor for another one by its name. The names stay known when their table goes.
fn refuse_plain(db: Db<'_>, known: &[TableInfo], schema: &Schema) -> Result<()> {
    let name = |table: &Table, column: &Column| format!("{:?}.{:?}", table.name, column.name).to_lowercase();
    let before = meta::text(db, "encrypted")?;
    let mut names: BTreeSet<String> = before.lines().map(str::to_owned).collect();
    let mut tags = HashSet::new();
    for old in known {
        tags.extend(old.encrypted.iter().map(|column| (old.table.tag, old.tags[*column])));
    }
    if names.is_empty() && tags.is_empty() && schema.tables.iter().all(|table| table.encrypted.is_empty()) {
        return Ok(());
    }
    for table in &schema.tables {
        for (column, at) in table.columns.iter().zip(0..) {
            if table.encrypted.contains(&at) {
                names.insert(name(table, column));
            } else if tags.contains(&(table.tag, column.tag)) || names.contains(&name(table, column)) {
                return Err(Error::plain(format!(
                    "the server no longer has column {:?} of table {:?} encrypted, and this device would send it as it is: nothing was changed. \
                     Whoever means it starts over with sync_sign_out('wipe')",
                    column.name, table.name
                )));
            }
        }
    }
    let names: Vec<String> = names.into_iter().collect();
    meta::set(db, "encrypted", ValueRef::Text(&names.join("\n")))?;
    encrypted::prepare(db)
}

/// Drops retired tables that no unsent write refers to.
pub fn drop_retired(db: Db<'_>) -> Result<()> {
    for info in table::load(db)?.iter().filter(|t| t.retired) {
        let id = [ValueRef::Integer(info.id)];
        if db.number("SELECT EXISTS (SELECT 1 FROM main.sync_change c JOIN main.sync_batch b ON b.id = c.batch WHERE c.tbl = ?1 AND b.state IN (0, 1, 4))", &id)? != 0 {
            continue;
        }
        capture::remove(db, info)?;
        db.run(&format!("DROP TABLE IF EXISTS {}", info.name()), &[])?;
        forget_rows(db, info)?;
        db.run("DELETE FROM main.sync_shadow WHERE tbl = ?1", &id)?;
        db.run("DELETE FROM main.sync_part WHERE tbl = ?1", &id)?;
        db.run("DELETE FROM main.sync_lease WHERE tbl = ?1", &id)?;
        db.run("DELETE FROM main.sync_table WHERE id = ?1", &id)?;
    }
    Ok(())
}

fn forget_rows(db: Db<'_>, info: &TableInfo) -> Result<()> {
    encrypted::forget_table(db, info)?;
    db.run("DELETE FROM main.sync_row WHERE tbl = ?1", &[ValueRef::Integer(info.id)])?;
    db.run("UPDATE main.sync_part SET sum = 0, count = 0 WHERE tbl = ?1", &[ValueRef::Integer(info.id)])
}

fn check(schema: &Schema) -> Result<()> {
    let mut names = HashSet::new();
    let mut tags = HashSet::new();
    for table in &schema.tables {
        let name = table.name.to_ascii_lowercase();
        if name.is_empty() || name.contains('\0') || name.starts_with("sqlite_") || name.starts_with("sync_") {
            return Err(Error::plain(format!(
                "the server's table {:?} cannot be made here: names beginning with sqlite_ and sync_ are reserved; rename it or leave it out of the rule",
                table.name
            )));
        }
        if !names.insert(name) || !tags.insert(table.tag) {
            return Err(Error::damaged(format_args!("the schema names table {:?} twice", table.name)));
        }
        check_columns(table)?;
    }
    Ok(())
}

fn check_columns(table: &Table) -> Result<()> {
    let columns = &table.columns;
    if columns.is_empty() || columns.len() > limits::COLUMNS {
        return Err(Error::plain(format!(
            "the server's table {:?} has {} columns, at most {} are possible",
            table.name,
            columns.len(),
            limits::COLUMNS
        )));
    }
    if columns.windows(2).any(|pair| pair[0].tag >= pair[1].tag) {
        return Err(Error::damaged(format_args!("the columns of {:?} are not in the order of their tags", table.name)));
    }
    let mut names = HashSet::new();
    if columns.iter().any(|c| c.name.is_empty() || c.name.contains('\0') || !names.insert(c.name.to_ascii_lowercase())) {
        return Err(Error::damaged(format_args!("a column of {:?} has no name or one that is taken", table.name)));
    }
    let mut keys: Vec<_> = columns.iter().map(|c| c.key).filter(|k| *k > 0).collect();
    keys.sort_unstable();
    if keys.is_empty() || keys.iter().enumerate().any(|(i, k)| usize::from(*k) != i + 1) {
        return Err(Error::damaged(format_args!("the key of {:?} is incomplete", table.name)));
    }
    if table.indexes.len() > 64
        || table.indexes.iter().any(|i| i.is_empty() || i.iter().any(|c| usize::from(*c) >= columns.len()))
    {
        return Err(Error::damaged(format_args!("an index of {:?} names a column that is not there", table.name)));
    }
    if !table::is_sound(table) {
        return Err(Error::damaged(format_args!(
            "a reference of {:?} names a column that is not there, or one is encrypted that cannot be",
            table.name
        )));
    }
    Ok(())
}

fn create(db: Db<'_>, table: &Table) -> Result<()> {
    refuse_taken(db, &table.name)?;
    let id = db.number("SELECT coalesce(max(id), 0) + 1 FROM main.sync_table", &[])?;
    register(db, id, table)?;
    build(db, &TableInfo::new(id, table.clone(), false))
}

fn refuse_taken(db: Db<'_>, name: &str) -> Result<()> {
    let taken = db.number("SELECT count(*) FROM main.sqlite_schema WHERE name = ?1 COLLATE NOCASE", &[ValueRef::Text(name)])?;
    if taken != 0 {
        return Err(Error::plain(format!(
            "the server sends a table {name:?}, but this database already has one that was not made by sqlite_sync: rename or drop it, then sync again"
        )));
    }
    Ok(())
}

fn register(db: Db<'_>, id: i64, table: &Table) -> Result<()> {
    let body = rmp_serde::to_vec(table).map_err(|e| Error::plain(e.to_string()))?;
    db.run(
        "INSERT OR REPLACE INTO main.sync_table VALUES (?1, ?2, ?3, ?4, 0)",
        &[ValueRef::Integer(id), ValueRef::Text(&table.name), ValueRef::Integer(i64::from(table.tag)), ValueRef::Blob(&body)],
    )
}

fn build(db: Db<'_>, info: &TableInfo) -> Result<()> {
    let mut columns: Vec<&Column> = info.table.columns.iter().collect();
    columns.sort_by_key(|c| c.position);
    let mut parts: Vec<String> = columns.iter().map(|c| definition(c, info.is_rowid() && c.key > 0)).collect();
    if !info.is_rowid() {
        parts.push(format!("PRIMARY KEY ({})", info.key_list(", ", |c, _| c.into())));
    }
    db.run(&format!("CREATE TABLE {} ({})", info.name(), parts.join(", ")), &[])?;
    for (number, index) in info.table.indexes.iter().enumerate() {
        let on: Vec<_> = index.iter().map(|c| quote(&info.table.columns[usize::from(*c)].name)).collect();
        db.run(
            &format!("CREATE INDEX main.sync_index_{}_{number} ON {} ({})", info.id, quote(&info.table.name), on.join(", ")),
            &[],
        )?;
    }
    Ok(())
}

fn definition(column: &Column, rowid: bool) -> String {
    let kind = match column.affinity {
        Affinity::Integer => "INTEGER",
        Affinity::Real => "REAL",
        Affinity::Text => "TEXT",
        Affinity::Blob => "BLOB",
    };
    if rowid {
        return format!("{} INTEGER PRIMARY KEY", quote(&column.name));
    }
    let not_null = if column.not_null || column.key > 0 { " NOT NULL" } else { "" };
    let default = default(column).map_or(String::new(), |d| format!(" DEFAULT ({d})"));
    format!("{} {kind}{not_null}{default}", quote(&column.name))
}

/// A default as a pure SQL expression, so that it works on connections without the extension.
fn default(column: &Column) -> Option<String> {
    match column.default {
        ColumnDefault::Nothing => None,
        ColumnDefault::Uuid => Some(
            "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-' || \
             substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))"
                .into(),
        ),
        ColumnDefault::Now => Some(match column.pg_type.as_str() {
            t if t.starts_with("timestamp") && t.contains("with time zone") || t == "timestamptz" => {
                "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')".into()
            }
            "date" => "strftime('%Y-%m-%d', 'now')".into(),
            t if t.starts_with("time") && !t.starts_with("timestamp") => "strftime('%H:%M:%f000', 'now')".into(),
            _ => "strftime('%Y-%m-%dT%H:%M:%f000', 'now')".into(),
        }),
        ColumnDefault::Literal => literal(&column.literal),
    }
}

fn literal(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Integer(i64::MIN) => None,
        Value::Integer(i) => Some(i.to_string()),
        Value::Real(r) if r.is_finite() => Some(format!("{r:?}")),
        Value::Real(_) => None,
        Value::Text(t) if t.contains('\0') => None,
        Value::Text(t) => Some(format!("'{}'", t.replace('\'', "''"))),
        Value::Blob(b) => Some(format!("x'{}'", b.iter().map(|b| format!("{b:02x}")).collect::<String>())),
    }
}

/// Gives a table that is to be renamed a name of its own until it is built anew.
fn move_away(db: Db<'_>, old: &TableInfo) -> Result<()> {
    capture::remove(db, old)?;
    db.run(&format!("CREATE TABLE main.sync_moved_{} AS SELECT * FROM {}", old.id, old.name()), &[])?;
    db.run(&format!("DROP TABLE {}", old.name()), &[])
}

fn change(db: Db<'_>, old: &TableInfo, new: &Table) -> Result<()> {
    let info = TableInfo::new(old.id, new.clone(), false);
    if old.table.name != new.name {
        refuse_taken(db, &new.name)?;
    }
    capture::remove(db, old)?;
    register(db, old.id, new)?;
    let same_key = old.keys.iter().map(|k| old.tags[*k]).eq(info.keys.iter().map(|k| info.tags[*k]));
    if old.table.name == new.name && same_key && widens(&old.table, new) {
        for column in new.columns.iter().filter(|c| old.position(c.tag).is_none()) {
            db.run(&format!("ALTER TABLE {} ADD COLUMN {}", info.name(), definition(column, false)), &[])?;
        }
        return Ok(());
    }
    rebuild(db, old, &info, same_key)
}

/// Whether `new` is `old` with nullable columns behind the others, so that ALTER TABLE will do.
fn widens(old: &Table, new: &Table) -> bool {
    let last = old.columns.iter().map(|c| c.position).max().unwrap_or(0);
    let kept = new.columns.iter().filter(|c| old.columns.iter().any(|o| o == *c)).count() == old.columns.len();
    kept && indexed(old) == indexed(new)
        && new
            .columns
            .iter()
            .filter(|c| !old.columns.iter().any(|o| o.tag == c.tag))
            .all(|c| c.position > last && !c.not_null && matches!(c.default, ColumnDefault::Nothing))
}

/// The indexes, by the tags of their columns: positions move when a column comes between.
fn indexed(table: &Table) -> Vec<Vec<Tag>> {
    table.indexes.iter().map(|i| i.iter().map(|c| table.columns[usize::from(*c)].tag).collect()).collect()
}

/// Builds the table anew. The application's own indexes and triggers come back where they still fit.
fn rebuild(db: Db<'_>, old: &TableInfo, new: &TableInfo, same_key: bool) -> Result<()> {
    let moved = format!("main.sync_moved_{}", old.id);
    let own = db.all(
        "SELECT sql FROM main.sqlite_schema WHERE tbl_name = ?1 COLLATE NOCASE AND type IN ('index', 'trigger') AND sql IS NOT NULL AND name NOT LIKE 'sync\\_%' ESCAPE '\\'",
        &[ValueRef::Text(&old.table.name)],
        |row| Ok(row.text(0)),
    )?;
    if old.table.name == new.table.name {
        move_away(db, old)?;
    }
    build(db, new)?;
    if same_key {
        let kept: Vec<(&Column, &Column)> =
            new.table.columns.iter().filter_map(|c| old.position(c.tag).map(|p| (c, &old.table.columns[p]))).collect();
        let into: Vec<_> = kept.iter().map(|(c, _)| quote(&c.name)).collect();
        let from: Vec<_> = kept.iter().map(|(c, o)| filled(c, &quote(&o.name))).collect();
        let fresh: Vec<&Column> = new.table.columns.iter().filter(|c| c.not_null && old.position(c.tag).is_none()).collect();
        let into: Vec<_> = into.into_iter().chain(fresh.iter().map(|c| quote(&c.name))).collect();
        let from: Vec<_> = from.into_iter().chain(fresh.iter().map(|c| filled(c, "NULL"))).collect();
        // What cannot be kept comes again from the server.
        db.run(
            &format!("INSERT OR IGNORE INTO {} ({}) SELECT {} FROM {moved}", new.name(), into.join(", "), from.join(", ")),
            &[],
        )?;
    } else {
        // Another key: nothing here can be told apart by it, so all of the table's buckets come again.
        forget_rows(db, new)?;
        db.run(
            "UPDATE main.sync_bucket SET refetch = 1 WHERE id IN (SELECT bucket FROM main.sync_part WHERE tbl = ?1)",
            &[ValueRef::Integer(new.id)],
        )?;
        db.run("DELETE FROM main.sync_shadow WHERE tbl = ?1", &[ValueRef::Integer(new.id)])?;
    }
    db.run(&format!("DROP TABLE {moved}"), &[])?;
    for sql in own {
        if db.run(&sql, &[]).is_err() {
            meta::set(db, "trigger_problem", ValueRef::Text(&format!("no longer fits the changed table: {sql}")))?;
        }
    }
    Ok(())
}

/// A NOT NULL column needs a value until the server's arrives.
fn filled(column: &Column, from: &str) -> String {
    if !column.not_null {
        return from.into();
    }
    let filler = default(column).unwrap_or_else(|| if column.affinity == Affinity::Text { "''".into() } else { "0".into() });
    format!("coalesce({from}, {filler})")
}
