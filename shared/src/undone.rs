//! What rejected batches would have written. A later batch of the same device was made on top of it, so what it takes for the
//! server's values never was: it is given those that were there before, or its changes would look like conflicts with somebody.

use crate::hash::Tag;
use crate::message::{Change, ChangeKind};
use crate::{row, Value};
use std::collections::HashMap;

/// Columns of rows, each with the value that was never written and the one below it.
#[derive(Debug, Default)]
pub struct Undone(HashMap<(Tag, Vec<u8>, Tag), (Value, Value)>);

impl Undone {
    /// A change of a rejected batch, already rebased on those before it.
    pub fn add(&mut self, change: &Change) {
        if change.kind != ChangeKind::Update {
            return;
        }
        let key = row::encode(&change.key);
        for ((column, old), new) in change.columns.iter().zip(&change.old).zip(&change.new) {
            self.0.insert((change.table, key.clone(), *column), (new.clone(), old.clone()));
        }
    }

    /// A change that was taken: its columns are the server's now.
    pub fn forget(&mut self, change: &Change) {
        if !self.0.is_empty() {
            let key = row::encode(&change.key);
            change.columns.iter().for_each(|column| drop(self.0.remove(&(change.table, key.clone(), *column))));
        }
    }

    /// The change as it would be without the rejected batches; None: the same.
    pub fn rebase(&self, change: &Change) -> Option<Change> {
        if self.0.is_empty() || change.kind == ChangeKind::Insert {
            return None;
        }
        let key = row::encode(&change.key);
        let mut rebased = None;
        for (i, (column, old)) in change.columns.iter().zip(&change.old).enumerate() {
            if let Some((_, below)) = self.0.get(&(change.table, key.clone(), *column)).filter(|(undone, _)| undone == old) {
                rebased.get_or_insert_with(|| change.clone()).old[i] = below.clone();
            }
        }
        rebased
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: ChangeKind, id: i64, columns: &[(Tag, i64, i64)]) -> Change {
        Change {
            table: 7,
            kind,
            key: vec![Value::Integer(id)],
            columns: columns.iter().map(|c| c.0).collect(),
            old: columns.iter().map(|c| Value::Integer(c.1)).collect(),
            new: if kind == ChangeKind::Delete { vec![] } else { columns.iter().map(|c| Value::Integer(c.2)).collect() },
        }
    }

    fn update(id: i64, columns: &[(Tag, i64, i64)]) -> Change {
        change(ChangeKind::Update, id, columns)
    }

    #[test]
    fn what_was_made_on_top_of_a_rejected_value_gets_the_one_below() {
        let mut undone = Undone::default();
        undone.add(&update(1, &[(1, 10, -5), (2, 20, 21)]));
        assert_eq!(undone.rebase(&update(1, &[(1, -5, 6)])), Some(update(1, &[(1, 10, 6)])));
        assert_eq!(
            undone.rebase(&change(ChangeKind::Delete, 1, &[(1, -5, 0), (2, 21, 0), (3, 30, 0)])),
            Some(change(ChangeKind::Delete, 1, &[(1, 10, 0), (2, 20, 0), (3, 30, 0)]))
        );
        for other in [update(2, &[(1, -5, 6)]), update(1, &[(3, -5, 6)]), update(1, &[(1, 11, 6)]), update(1, &[])] {
            assert_eq!(undone.rebase(&other), None, "{other:?}");
        }
    }

    #[test]
    fn rejected_batches_pile_up_until_one_is_taken() {
        let mut undone = Undone::default();
        undone.add(&update(1, &[(1, 10, -5)]));
        let second = undone.rebase(&update(1, &[(1, -5, -6)])).expect("it stood on the first");
        undone.add(&second);
        let third = undone.rebase(&update(1, &[(1, -6, 7)])).expect("it stood on the second");
        assert_eq!(third, update(1, &[(1, 10, 7)]));
        undone.forget(&third);
        assert_eq!(undone.rebase(&update(1, &[(1, -6, 8)])), None);
    }
}
