//! The order in which waiting batches are sent: the more urgent ones first, but none before one that it depends on.
//!
//! What must stay true: `place` is a batch's priority or that of a more urgent one behind it that depends on it, so sorting by
//! (place, id) never lets a batch pass one that touches a row it touches or that it refers to; a batch that has a number never
//! moves. Values that must be unique are the server's to judge, and are not looked at.

use crate::error::Result;
use crate::host::Db;
use crate::store::{unpack_change, Store};
use crate::table::Key;
use std::collections::{BTreeSet, HashSet};
use sync_shared::message::{Change, ChangeKind, Reference};
use sync_shared::{row, Value, ValueRef};

/// Batches of the signed-in user that are still to be sent and have no number.
const UNNUMBERED: &str = "b.state IN (0, 4) AND b.replay < 2 AND b.number IS NULL";
/// Batches that may still move: nor did they have a number under another device id.
const MOVABLE: &str = "b.state IN (0, 4) AND b.replay < 2 AND b.number IS NULL AND b.former IS NULL";

/// What the batches that wait have in common, so that nothing is looked up where all are alike.
pub struct Order {
    /// The largest place of those that may move.
    largest: i64,
    /// Whether one waits for a number of the server's.
    pub keyless: bool,
}

impl Order {
    pub fn read(db: Db<'_>) -> Result<Order> {
        let sql = format!("SELECT coalesce(max(b.place), 0), coalesce(max(b.keyless), 0) FROM main.sync_batch b WHERE {MOVABLE}");
        let found = db.first(&sql, &[], |r| Ok(Order { largest: r.integer(0), keyless: r.integer(1) != 0 }))?;
        Ok(found.unwrap_or(Order { largest: 0, keyless: false }))
    }

    /// Places a batch that was just kept behind those it depends on. `keyless`: it waits for a number of its own.
    pub fn place(&mut self, store: &mut Store<'_>, id: i64, priority: i64, keyless: bool) -> Result<()> {
        let mut waits = i64::from(keyless);
        if priority < self.largest {
            lift(store, id, priority)?;
        }
        if self.keyless && !keyless && depends_on_keyless(store, id)? {
            waits = 2;
        }
        if waits > 0 {
            set_keyless(store.db, id, waits)?;
        }
        self.keyless |= waits > 0;
        self.largest = self.largest.max(priority);
        Ok(())
    }
}

pub fn set_keyless(db: Db<'_>, id: i64, waits: i64) -> Result<()> {
    db.run("UPDATE main.sync_batch SET keyless = ?2 WHERE id = ?1", &[ValueRef::Integer(id), ValueRef::Integer(waits)])
}

/// Whether a batch has to follow one that waits for a number of the server's.
pub fn depends_on_keyless(store: &mut Store<'_>, id: i64) -> Result<bool> {
    Ok(!dependencies(store, id, &format!("{UNNUMBERED} AND b.keyless > 0"))?.is_empty())
}

/// Looks at every batch without a number: those that depend on one that waits for a number of the server's wait too.
pub fn hold_dependents(store: &mut Store<'_>) -> Result<()> {
    let sql = format!("SELECT b.id FROM main.sync_batch b WHERE {UNNUMBERED} AND b.keyless = 0 ORDER BY b.id");
    for id in store.db.all(&sql, &[], |r| Ok(r.integer(0)))? {
        if depends_on_keyless(store, id)? {
            set_keyless(store.db, id, 2)?;
        }
    }
    Ok(())
}

/// Moves what `id` depends on to its place, and what these depend on.
fn lift(store: &mut Store<'_>, id: i64, place: i64) -> Result<()> {
    let behind = format!("{MOVABLE} AND b.place > {place}");
    let mut open = vec![id];
    while let Some(id) = open.pop() {
        for before in dependencies(store, id, &behind)? {
            let binds = [ValueRef::Integer(before), ValueRef::Integer(place)];
            store.db.run("UPDATE main.sync_batch SET place = ?2 WHERE id = ?1", &binds)?;
            open.push(before);
        }
    }
    Ok(())
}

/// The earlier batches, among those that `which` says, that `id` must not pass.
fn dependencies(store: &mut Store<'_>, id: i64, which: &str) -> Result<BTreeSet<i64>> {
    let db = store.db;
    let mut found = BTreeSet::new();
    let same_row = format!(
        "SELECT DISTINCT o.batch FROM main.sync_change c JOIN main.sync_change o ON o.tbl = c.tbl AND o.key = c.key \
         JOIN main.sync_batch b ON b.id = o.batch WHERE c.batch = ?1 AND o.batch < ?1 AND {which}"
    );
    found.extend(db.all(&same_row, &[ValueRef::Integer(id)], |r| Ok(r.integer(0)))?);
    let touching = format!(
        "SELECT DISTINCT o.batch FROM main.sync_change o JOIN main.sync_batch b ON b.id = o.batch \
         WHERE o.tbl = ?2 AND o.key = ?3 AND o.batch < ?1 AND {which}"
    );
    let mut touching = db.prepare(&touching)?;
    let mut scratch = Vec::new();
    let changes = crate::batch::changes_of(db, id)?;
    for change in &changes {
        for (at, key) in refers_to(store, change)? {
            let binds = [ValueRef::Integer(id), ValueRef::Integer(store.infos[at].id), key.stored(&mut scratch)];
            found.extend(touching.all(&binds, |r| Ok(r.integer(0)))?);
        }
    }
    let gone = changes.iter().filter(|c| c.kind == ChangeKind::Delete);
    leavers(store, id, &gone.collect::<Vec<_>>(), which, &mut found)?;
    Ok(found)
}

/// The rows that a change refers to from now on.
fn refers_to(store: &mut Store<'_>, change: &Change) -> Result<Vec<(usize, Key)>> {
    let Ok(at) = store.by_tag(change.table) else { return Ok(Vec::new()) };
    let references = store.infos[at].table.references.clone();
    let mut found = Vec::new();
    for reference in references.iter().filter(|_| change.kind != ChangeKind::Delete) {
        let touched = |c: &u16| store.infos[at].tags.get(usize::from(*c)).is_some_and(|tag| change.columns.contains(tag));
        if !reference.columns.iter().any(touched) {
            continue;
        }
        let Ok(parent) = store.by_tag(reference.table) else { continue };
        let mut key = values_of(store, at, reference, change, &change.new);
        if key.iter().any(Option::is_none) {
            // Of a reference over several columns only some changed: the others are as the row shows them.
            let row = store.visible(at, &Key(change.key.clone()))?.unwrap_or_default();
            for (value, column) in key.iter_mut().zip(&reference.columns) {
                *value = value.take().or_else(|| row.get(usize::from(*column)).cloned());
            }
        }
        let key: Vec<Value> = key.into_iter().map(Option::unwrap_or_default).collect();
        if !key.iter().any(Value::is_null) {
            found.push((parent, Key(key)));
        }
    }
    Ok(found)
}

/// A reference's values in a change, as far as it speaks of them.
fn values_of(store: &Store<'_>, at: usize, reference: &Reference, change: &Change, values: &[Value]) -> Vec<Option<Value>> {
    let info = &store.infos[at];
    let value = |column: &u16| {
        let tag = info.tags.get(usize::from(*column))?;
        values.get(change.columns.iter().position(|t| t == tag)?).cloned()
    };
    reference.columns.iter().map(value).collect()
}

/// Earlier batches in which rows left, or came to, rows that now go: a child is deleted before its parent.
fn leavers(store: &mut Store<'_>, id: i64, gone: &[&Change], which: &str, found: &mut BTreeSet<i64>) -> Result<()> {
    let sql = format!(
        "SELECT o.batch, o.body FROM main.sync_change o JOIN main.sync_batch b ON b.id = o.batch WHERE o.tbl = ?2 AND o.batch < ?1 AND {which}"
    );
    for at in 0..store.infos.len() {
        for reference in &store.infos[at].table.references {
            let parents: HashSet<_> = gone.iter().filter(|c| c.table == reference.table).map(|c| row::encode(&c.key)).collect();
            if parents.is_empty() {
                continue;
            }
            let binds = [ValueRef::Integer(id), ValueRef::Integer(store.infos[at].id)];
            store.db.prepare(&sql)?.each(&binds, |found_row| {
                let change = unpack_change(&found_row.blob(1))?;
                let named = |values: &[Value]| {
                    let key: Option<Vec<Value>> = values_of(store, at, reference, &change, values).into_iter().collect();
                    key.is_some_and(|key| parents.contains(&row::encode(&key)))
                };
                if named(&change.old) || named(&change.new) {
                    found.insert(found_row.integer(0));
                }
                Ok(true)
            })?;
        }
    }
    Ok(())
}
