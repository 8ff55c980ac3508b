//! Rows that are new here, many to a statement.
//!
//! SQLite stays where it wrote last as long as a statement runs, so rows that come in the order of their keys, as those of a first
//! sync do, go to the end of each tree without a search: half of the instructions of a statement a row.
//!
//! What must stay true: whatever keeps one of many rows out, all of them are then tried one by one, and treated as ever. OR FAIL
//! leaves what came before a refused row, which does not matter to an upsert, and needs no journal for the statement.

use super::{Publish, Scratch};
use crate::error::{Error, Result};
use crate::store::MANY;
use crate::table::TableInfo;
use sync_shared::hash::{self, RowHash};
use sync_shared::message::EntryId;
use sync_shared::{row, ValueRef};

/// Into `sync_row`: the table, the part, then a key and a hash for each row.
pub(super) fn enter() -> String {
    let row = |n: usize| format!("(?1, ?{}, ?2, ?{})", 2 * n + 3, 2 * n + 4);
    format!("INSERT OR FAIL INTO main.sync_row VALUES {}", (0..MANY).map(row).collect::<Vec<_>>().join(", "))
}

impl Publish<'_, '_> {
    /// Writes rows of a part, one after the other in `values`.
    pub(super) fn rows(&mut self, part: (i64, EntryId), at: usize, values: &[ValueRef<'_>], scratch: &mut Scratch) -> Result<()> {
        let columns = self.store.infos[at].tags.len();
        let plain = self.store.infos[at].encrypted.is_empty();
        let done =
            if plain && values.len() == MANY * columns && self.are_new(part) { self.many(part, at, values, scratch)? } else { 0 };
        values.chunks(columns).skip(done).try_for_each(|values| self.row(part, at, values, scratch))
    }

    /// Whether the rows of a part are expected to be new here, and nothing is to be known of each.
    fn are_new(&self, part: (i64, EntryId)) -> bool {
        self.parts.get(&part).is_some_and(|p| p.new)
            && !self.shadows
            && self.lost.is_none()
            && self.store.written.is_none()
            && !self.old.contains_key(&part)
    }

    /// Answers how many of the rows are done: the others are to be written one by one.
    fn many(&mut self, part: (i64, EntryId), at: usize, values: &[ValueRef<'_>], scratch: &mut Scratch) -> Result<usize> {
        let info = &self.store.infos[at];
        let columns = info.tags.len();
        if !values.chunks(columns).all(|row| comes_back(info, row)) {
            return Ok(0);
        }
        let through = went(self.store.insert(at, values))?;
        let Some(known) = self.parts.get_mut(&part) else { return Err(Error::plain("a part is missing")) };
        // Most likely another bucket has brought the row, and those that follow.
        known.new = through;
        if !through {
            return Ok(0);
        }
        let info = &self.store.infos[at];
        let rows = || values.chunks(columns);
        let hashes: Vec<RowHash> =
            rows().map(|row| hash::row_hash_of(info.table.tag, &info.tags, row.iter().copied(), &mut scratch.hash)).collect();
        let mut composite = Vec::new();
        if info.keys.len() > 1 {
            composite.extend(rows().map(|row| {
                let mut key = Vec::new();
                row::put_all(&mut key, info.keys.iter().map(|k| row[*k]));
                key
            }));
        }
        let mut binds = Vec::with_capacity(2 + 2 * MANY);
        binds.extend([ValueRef::Integer(info.id), ValueRef::Integer(known.id)]);
        for (n, row) in rows().enumerate() {
            binds.extend([composite.get(n).map_or(row[info.keys[0]], |key| ValueRef::Blob(key)), ValueRef::Integer(hashes[n].0)]);
        }
        known.dirty = true;
        let done = match self.enter_many.run(&binds) {
            Ok(()) => MANY,
            // Those before the one that is there already.
            Err(error) if error.is_constraint() => usize::try_from(self.db.changes()).unwrap_or(0),
            // It did not begin: what has changed is of the statement before.
            Err(error) if error.is_too_much() => 0,
            Err(error) => return Err(error),
        };
        hashes[..done].iter().for_each(|hash| known.sum.add(*hash));
        Ok(done)
    }
}

/// Whether a row comes back as it is written, and has a key.
fn comes_back(info: &TableInfo, row: &[ValueRef<'_>]) -> bool {
    row.iter().enumerate().all(|(i, v)| info.is_exact(i, *v)) && info.keys.iter().all(|k| row[*k] != ValueRef::Null)
}

/// Whether a statement of many rows went through; false where they are to be tried one by one.
fn went(outcome: Result<()>) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.is_constraint() || error.is_too_much() => Ok(false),
        Err(error) => Err(error),
    }
}
