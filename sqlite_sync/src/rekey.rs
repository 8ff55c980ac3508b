//! A row that was inserted here gets another key, with everything written here that refers to it.
//!
//! What must stay true: only what this device wrote since the row came is moved, never a row of the server's that happens to have
//! or to name the same number; changes already numbered are not touched, since the server may have them.

use crate::error::Result;
use crate::host::Db;
use crate::meta;
use crate::store::{pack_change, unpack_change, Store};
use crate::table::{quote, Key, TableInfo};
use std::collections::{BTreeSet, HashMap, HashSet};
use sync_shared::hash::Tag;
use sync_shared::message::{Change, ChangeKind};
use sync_shared::{Value, ValueRef};

/// One row's key.
pub struct Move {
    /// The batch that inserted it.
    pub batch: i64,
    pub old: i64,
    pub new: i64,
}

/// Columns that hold keys of the table: its own, those that refer to it, and those that refer to these, by table.
type Columns = HashMap<Tag, BTreeSet<usize>>;

fn columns(infos: &[TableInfo], of: &TableInfo) -> Columns {
    let mut found = Columns::from([(of.table.tag, of.keys.iter().copied().collect())]);
    loop {
        let before: usize = found.values().map(BTreeSet::len).sum();
        for info in infos {
            for reference in &info.table.references {
                let Some(parent) = infos.iter().find(|t| t.table.tag == reference.table) else { continue };
                for (column, key) in reference.columns.iter().zip(&parent.keys) {
                    if found.get(&reference.table).is_some_and(|known| known.contains(key)) {
                        found.entry(info.table.tag).or_default().insert(usize::from(*column));
                    }
                }
            }
        }
        if found.values().map(BTreeSet::len).sum::<usize>() == before {
            return found;
        }
    }
}

/// Moves rows of one table, in the batches that still wait and in what is visible. While a publish writes.
pub fn apply(store: &mut Store<'_>, at: usize, moves: &[Move]) -> Result<()> {
    let Some(first) = moves.iter().map(|m| m.batch).min() else { return Ok(()) };
    let columns = columns(&store.infos, &store.infos[at]);
    let mut walk = Walk { infos: &store.infos, columns, own: store.infos[at].table.tag, ..Walk::default() };
    for one in moves {
        walk.births.entry(one.batch).or_default().push((one.old, one.new));
    }
    let mut changed = Vec::new();
    store
        .db
        .prepare(
            "SELECT c.id, c.batch, c.body FROM main.sync_change c JOIN main.sync_batch b ON b.id = c.batch \
             WHERE c.batch >= ?1 AND b.state IN (0, 4) AND b.replay < 2 AND b.number IS NULL ORDER BY c.id",
        )?
        .each(&[ValueRef::Integer(first)], |row| {
            let mut change = unpack_change(&row.blob(2))?;
            let key = Key(change.key.clone());
            if walk.change(row.integer(1), &mut change) {
                changed.push((row.integer(0), key, change));
            }
            Ok(true)
        })?;
    rewrite(store, changed)?;
    follow(store, at, moves)?;
    let table = store.infos[at].table.name.clone();
    let mut say =
        store.db.prepare("INSERT INTO main.sync_moved_key(table_name, old_key, new_key, at) VALUES (?1, ?2, ?3, ?4)")?;
    for one in moves {
        say.run(&[
            ValueRef::Text(&table),
            ValueRef::Integer(one.old),
            ValueRef::Integer(one.new),
            ValueRef::Integer(meta::now()),
        ])?;
    }
    Ok(())
}

/// Writes changed changes back, and shows the rows as they are now.
fn rewrite(store: &mut Store<'_>, changed: Vec<(i64, Key, Change)>) -> Result<()> {
    let mut write = store.db.prepare("UPDATE main.sync_change SET key = ?2, body = ?3 WHERE id = ?1")?;
    let (mut left, mut shown) = (Vec::new(), Vec::new());
    let mut scratch = Vec::new();
    for (id, before, change) in changed {
        let now = Key(change.key.clone());
        write.run(&[ValueRef::Integer(id), now.stored(&mut scratch), ValueRef::Blob(&pack_change(&change)?)])?;
        let at = store.by_tag(change.table)?;
        if now != before {
            left.push((at, before));
        }
        shown.push((at, now));
    }
    // Without enforcement: rows of the application that refer to one that moves follow it, and are not taken along.
    unenforced(store.db, || {
        left.iter().try_for_each(|(at, key)| store.settle(*at, key))?;
        shown.iter().try_for_each(|(at, key)| {
            if store.shadow(*at, key)?.is_none() {
                store.set_shadow(*at, key, None, None)?;
            }
            store.settle(*at, key)
        })
    })
}

/// Rows of the application's own tables that refer to a moved row with a foreign key of SQLite's follow it.
fn follow(store: &Store<'_>, at: usize, moves: &[Move]) -> Result<()> {
    let db = store.db;
    let info = &store.infos[at];
    let key = &info.table.columns[info.keys[0]].name;
    let own = db.all(
        "SELECT s.name, f.\"from\" FROM main.sqlite_schema s, pragma_foreign_key_list(s.name) f WHERE s.type = 'table' \
         AND f.\"table\" = ?1 COLLATE NOCASE AND coalesce(f.\"to\", ?2) = ?2 COLLATE NOCASE \
         AND NOT EXISTS (SELECT 1 FROM main.sync_table t WHERE t.name = s.name COLLATE NOCASE)",
        &[ValueRef::Text(&info.table.name), ValueRef::Text(key)],
        |r| Ok((r.text(0), r.text(1))),
    )?;
    for (table, column) in own {
        let sql = format!("UPDATE main.{} SET {1} = ?2 WHERE {1} = ?1", quote(&table), quote(&column));
        unenforced(db, || {
            let mut update = db.prepare(&sql)?;
            moves.iter().try_for_each(|one| update.run(&[ValueRef::Integer(one.old), ValueRef::Integer(one.new)]))
        })?;
    }
    Ok(())
}

fn unenforced<T>(db: Db<'_>, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let enforced = db.foreign_keys(-1);
    db.foreign_keys(0);
    let outcome = body();
    db.foreign_keys(i32::from(enforced));
    outcome
}

/// A walk over the changes that wait, in their order.
#[derive(Default)]
struct Walk<'s> {
    infos: &'s [TableInfo],
    columns: Columns,
    /// The table whose rows move.
    own: Tag,
    /// By batch: the rows that it inserts, old and new key.
    births: HashMap<i64, Vec<(i64, i64)>>,
    batch: i64,
    /// Rows that live now.
    moved: HashMap<i64, i64>,
    /// Rows that the batch at hand deletes: their number may be born again in a later one.
    dead: Vec<i64>,
    /// Rows of other tables that were inserted here with a moved number in their key, by their old keys.
    rows: HashSet<(Tag, Vec<u8>)>,
    /// Columns that this device filled with a moved number, by new keys: what they said, and what they say now.
    cells: HashMap<(Tag, Vec<u8>, usize), (Value, Value)>,
}

impl Walk<'_> {
    /// Moves what a change says. Answers whether anything did.
    fn change(&mut self, batch: i64, change: &mut Change) -> bool {
        if batch != self.batch {
            self.batch = batch;
            for old in std::mem::take(&mut self.dead) {
                self.moved.remove(&old);
            }
            self.moved.extend(self.births.remove(&batch).unwrap_or_default());
        }
        let Some(info) = self.infos.iter().find(|t| t.table.tag == change.table) else { return false };
        let Some(columns) = self.columns.get(&change.table).cloned() else { return false };
        let before = change.clone();
        let moves_key = self.moves_key(info, &columns, change);
        if moves_key {
            for (part, _) in change.key.iter_mut().zip(&info.keys).filter(|(_, column)| columns.contains(column)) {
                *part = self.new_of(part).unwrap_or_else(|| part.clone());
            }
        }
        let key = Key(change.key.clone()).bytes();
        for (tag, value) in change.rest.iter_mut().flatten() {
            let cell = info.position(*tag).and_then(|column| self.cells.get(&(change.table, key.clone(), column)));
            if let Some((_, now)) = cell.filter(|(before, _)| before == value) {
                *value = now.clone();
            }
        }
        for column in columns {
            let Some(place) = info.tags.get(column).and_then(|tag| change.columns.iter().position(|t| t == tag)) else {
                continue;
            };
            let in_key = info.keys.contains(&column);
            let cell = (change.table, key.clone(), column);
            if let Some(old) = change.old.get_mut(place) {
                if in_key && moves_key {
                    *old = self.new_of(old).unwrap_or_else(|| old.clone());
                } else if let Some((_, now)) = self.cells.get(&cell).filter(|(before, _)| !in_key && before == old) {
                    *old = now.clone();
                }
            }
            let Some(new) = change.new.get_mut(place) else { continue };
            let moved = if moves_key || !in_key { self.new_of(new) } else { None };
            match moved {
                Some(now) => self.cells.insert(cell, (std::mem::replace(new, now.clone()), now)),
                None => self.cells.remove(&cell),
            };
        }
        *change != before
    }

    /// Whether the row of a change was inserted here with a moved number in its key.
    fn moves_key(&mut self, info: &TableInfo, columns: &BTreeSet<usize>, change: &Change) -> bool {
        let number = |key: &Value| matches!(key, Value::Integer(i) if self.moved.contains_key(i));
        if !info.keys.iter().zip(&change.key).any(|(column, key)| columns.contains(column) && number(key)) {
            return false;
        }
        if change.table == self.own {
            if let (ChangeKind::Delete, [Value::Integer(old)]) = (change.kind, &change.key[..]) {
                self.dead.push(*old);
            }
            return true;
        }
        let row = (change.table, Key(change.key.clone()).bytes());
        match change.kind {
            ChangeKind::Insert => {
                self.rows.insert(row);
                true
            }
            ChangeKind::Update => self.rows.contains(&row),
            ChangeKind::Delete => self.rows.remove(&row),
        }
    }

    fn new_of(&self, value: &Value) -> Option<Value> {
        match value {
            Value::Integer(old) => self.moved.get(old).map(|new| Value::Integer(*new)),
            _ => None,
        }
    }
}
