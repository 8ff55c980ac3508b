//! What rejected batches would have written. A later batch of the same device was made on top of it, so what it takes for the
//! server's values never was: it is told those that were there before, or its changes would look like conflicts with somebody.

use crate::hash::Tag;
use crate::message::{Cell, Change, ChangeKind};
use crate::{row, Value};
use std::collections::HashMap;

/// What one device takes to be written, and is not.
#[derive(Debug, Default)]
pub struct Undone {
    /// Columns of rows, each with the value that was never written and the one below it.
    cells: HashMap<(Tag, Vec<u8>, Tag), (Value, Value)>,
    /// Rows that were never deleted, as they are.
    rows: HashMap<(Tag, Vec<u8>), Vec<Cell>>,
}

impl Undone {
    /// A change of a rejected batch, already rebased on those before it.
    pub fn add(&mut self, change: &Change) {
        let key = row::encode(&change.key);
        let mut cell = |column: Tag, new: &Value, below: &Value| {
            self.cells.insert((change.table, key.clone(), column), (new.clone(), below.clone()));
        };
        match change.kind {
            ChangeKind::Update => {
                for ((column, old), new) in change.columns.iter().zip(&change.old).zip(&change.new) {
                    cell(*column, new, change.below(*column).unwrap_or(old));
                }
            }
            // In place of a row that is still there.
            ChangeKind::Insert => {
                for (column, below) in &change.below {
                    let new = change.columns.iter().position(|c| c == column).and_then(|i| change.new.get(i));
                    cell(*column, new.unwrap_or(&Value::Null), below);
                }
            }
            ChangeKind::Delete => {
                let was = change.columns.iter().copied().zip(change.old.iter().cloned()).collect();
                self.rows.insert((change.table, key), was);
            }
        }
    }

    /// A change that was taken: its columns are the server's now.
    pub fn forget(&mut self, change: &Change) {
        if self.is_empty() {
            return;
        }
        let key = row::encode(&change.key);
        change.columns.iter().for_each(|column| drop(self.cells.remove(&(change.table, key.clone(), *column))));
        self.rows.remove(&(change.table, key));
    }

    /// The change as it would be without the rejected batches; None: the same.
    ///
    /// A delete started from other values. An update keeps what it started from, since a policy may want the difference that was
    /// made here, and is told what was below.
    pub fn rebase(&self, change: &Change) -> Option<Change> {
        if self.is_empty() {
            return None;
        }
        let key = row::encode(&change.key);
        let below = |column: Tag, value: &Value| {
            let found = self.cells.get(&(change.table, key.clone(), column));
            found.filter(|(undone, _)| undone == value).map(|(_, below)| below.clone())
        };
        let mut rebased = change.clone();
        match change.kind {
            ChangeKind::Insert => {
                if let Some(row) = self.rows.get(&(change.table, key.clone())) {
                    rebased.below.clone_from(row);
                }
            }
            ChangeKind::Update => {
                for (column, old) in change.columns.iter().zip(&change.old) {
                    let Some(value) = below(*column, old) else { continue };
                    rebased.below.retain(|(tag, _)| tag != column);
                    rebased.below.push((*column, value));
                }
                for (column, value) in rebased.rest.iter_mut().flatten() {
                    *value = below(*column, value).unwrap_or_else(|| value.clone());
                }
            }
            ChangeKind::Delete => {
                for (column, old) in change.columns.iter().zip(&mut rebased.old) {
                    *old = below(*column, old).unwrap_or_else(|| old.clone());
                }
            }
        }
        (rebased != *change).then_some(rebased)
    }

    fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: ChangeKind, id: i64, columns: &[(Tag, i64, i64)]) -> Change {
        let values = |of: fn(&(Tag, i64, i64)) -> i64| columns.iter().map(|c| Value::Integer(of(c))).collect();
        Change {
            table: 7,
            kind,
            key: vec![Value::Integer(id)],
            columns: columns.iter().map(|c| c.0).collect(),
            old: if kind == ChangeKind::Insert { vec![] } else { values(|c| c.1) },
            new: if kind == ChangeKind::Delete { vec![] } else { values(|c| c.2) },
            rest: None,
            below: vec![],
        }
    }

    fn update(id: i64, columns: &[(Tag, i64, i64)]) -> Change {
        change(ChangeKind::Update, id, columns)
    }

    fn told(change: Change, below: &[(Tag, i64)]) -> Change {
        Change { below: below.iter().map(|(tag, value)| (*tag, Value::Integer(*value))).collect(), ..change }
    }

    #[test]
    fn what_was_made_on_top_of_a_rejected_value_is_told_the_one_below() {
        let mut undone = Undone::default();
        undone.add(&update(1, &[(1, 10, -5), (2, 20, 21)]));
        assert_eq!(undone.rebase(&update(1, &[(1, -5, 6)])), Some(told(update(1, &[(1, -5, 6)]), &[(1, 10)])));
        assert_eq!(
            undone.rebase(&change(ChangeKind::Delete, 1, &[(1, -5, 0), (2, 21, 0), (3, 30, 0)])),
            Some(change(ChangeKind::Delete, 1, &[(1, 10, 0), (2, 20, 0), (3, 30, 0)]))
        );
        for other in [update(2, &[(1, -5, 6)]), update(1, &[(3, -5, 6)]), update(1, &[(1, 11, 6)]), update(1, &[])] {
            assert_eq!(undone.rebase(&other), None, "{other:?}");
        }
        let cells = |a, b| vec![(1, Value::Integer(a)), (3, Value::Integer(b))];
        let whole = Change { rest: Some(cells(-5, 30)), ..update(1, &[(2, 9, 8)]) };
        assert_eq!(undone.rebase(&whole).expect("it holds a value that never was").rest, Some(cells(10, 30)));
    }

    #[test]
    fn rejected_batches_pile_up_until_one_is_taken() {
        let mut undone = Undone::default();
        undone.add(&update(1, &[(1, 10, -5)]));
        let second = undone.rebase(&update(1, &[(1, -5, -6)])).expect("it stood on the first");
        undone.add(&second);
        let third = undone.rebase(&update(1, &[(1, -6, 7)])).expect("it stood on the second");
        assert_eq!(third, told(update(1, &[(1, -6, 7)]), &[(1, 10)]));
        undone.forget(&third);
        assert_eq!(undone.rebase(&update(1, &[(1, -6, 8)])), None);
    }

    #[test]
    fn an_insert_after_a_rejected_delete_is_told_the_row_that_is_still_there() {
        let mut undone = Undone::default();
        undone.add(&change(ChangeKind::Delete, 1, &[(1, 10, 0), (2, 20, 0)]));
        let insert = change(ChangeKind::Insert, 1, &[(1, 0, 7)]);
        let rebased = undone.rebase(&insert).expect("the row is there");
        assert_eq!(rebased, told(insert.clone(), &[(1, 10), (2, 20)]));
        assert_eq!(undone.rebase(&change(ChangeKind::Insert, 2, &[(1, 0, 7)])), None);
        // Where the insert is rejected as well, an update of what it inserted stands on the row that is there.
        undone.add(&rebased);
        assert_eq!(undone.rebase(&update(1, &[(1, 7, 8)])), Some(told(update(1, &[(1, 7, 8)]), &[(1, 10)])));
        undone.forget(&rebased);
        assert_eq!(undone.rebase(&insert), None);
    }
}
