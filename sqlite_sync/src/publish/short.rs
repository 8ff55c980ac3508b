//! Rows that came without the columns that have not changed: completed from the row as the server has it here.
//!
//! What must stay true: only a row that the part has is completed, from the server's version of it, never from what was written here and
//! not confirmed. Nothing is guessed: a row that cannot be completed stays as it is, and if no later page brings it whole, its bucket is
//! asked for again. A completed row is summed like any other, so what was completed wrongly shows in the part's sum.

use super::{Publish, Scratch};
use crate::encrypted;
use crate::error::{Error, Result};
use crate::host::Db;
use crate::store::MaybeRow;
use crate::table::{Key, TableInfo};
use std::collections::BTreeSet;
use sync_shared::message::{EntryId, PartChanges};
use sync_shared::{row, Value, ValueRef};

/// Whether these may be the columns of rows: there, in order, and all of the key among them.
pub fn are_columns(info: &TableInfo, columns: &[u16]) -> bool {
    columns.windows(2).all(|pair| pair[0] < pair[1])
        && columns.last().is_some_and(|last| usize::from(*last) < info.tags.len())
        && info.keys.iter().all(|key| u16::try_from(*key).is_ok_and(|key| columns.binary_search(&key).is_ok()))
}

impl Publish<'_, '_> {
    /// Writes a part's rows, which have these columns.
    pub(super) fn short_rows(&mut self, part: (i64, EntryId), at: usize, changes: &PartChanges, columns: &[u16]) -> Result<()> {
        if !are_columns(&self.store.infos[at], columns) {
            return Err(Error::damaged(format_args!("rows of {:?} do not have its columns", self.store.infos[at].table.name)));
        }
        let mut reader = row::Reader::new(&changes.rows);
        let (mut values, mut scratch) = (Vec::with_capacity(columns.len()), Scratch::default());
        for _ in 0..changes.row_count {
            reader.row(columns.len(), &mut values)?;
            let mut given = vec![ValueRef::Null; self.store.infos[at].tags.len()];
            columns.iter().zip(&values).for_each(|(column, value)| given[usize::from(*column)] = *value);
            let key = Key(self.store.infos[at].keys.iter().map(|k| given[*k].to_owned()).collect());
            let Some(known) = self.as_known(part, at, &key)? else {
                self.incomplete.insert((part, (at, key.bytes())));
                continue;
            };
            let mut whole: Vec<ValueRef<'_>> = known.iter().map(Value::as_ref).collect();
            columns.iter().for_each(|column| whole[usize::from(*column)] = given[usize::from(*column)]);
            self.row(part, at, &whole, &mut scratch)?;
        }
        Ok(())
    }

    /// A row of a part as the server had it last.
    fn as_known(&mut self, part: (i64, EntryId), at: usize, key: &Key) -> Result<MaybeRow> {
        let Some(known) = self.parts.get(&part) else { return Ok(None) };
        let mut stored = Vec::new();
        let binds = [ValueRef::Integer(self.store.infos[at].id), key.stored(&mut stored), ValueRef::Integer(known.id)];
        if self.old_hash.first(&binds, |_| Ok(()))?.is_none() {
            return Ok(None);
        }
        let Some(row) = self.store.server_version(at, key)? else { return Ok(None) };
        encrypted::as_sent(self.db, &self.store.infos[at], row).map(Some)
    }

    /// The buckets with rows that could not be completed, and that no later page has brought whole.
    pub fn incomplete(&mut self) -> Result<BTreeSet<i64>> {
        let mut buckets = BTreeSet::new();
        for (part, (at, key)) in std::mem::take(&mut self.incomplete) {
            if self.as_known(part, at, &Key(row::decode(&key)?))?.is_none() {
                buckets.insert(part.0);
            }
        }
        Ok(buckets)
    }
}

/// Marks buckets, to come again with the next pull.
pub fn ask_again(db: Db<'_>, buckets: &BTreeSet<i64>) -> Result<()> {
    let mark = |id: &i64| db.run("UPDATE main.sync_bucket SET refetch = 1 WHERE id = ?1", &[ValueRef::Integer(*id)]);
    buckets.iter().try_for_each(mark)
}
