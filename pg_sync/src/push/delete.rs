//! Deletes, and updates of rows that are gone.

use super::author::Author;
use super::batch::{Row, Wish};
use super::conflict;
use super::policy::DeletePolicy;
use super::refusal::Refusal;
use super::statements::Parameter;
use super::unmade::Insert;
use crate::catalog;
use crate::render::pinned;
use sync_shared::message::{Cell, Conflict};
use sync_shared::Value;

/// How often a delete looks again at a row that others change at the same time.
const TRIES: usize = 8;
/// Why a delete was not carried out by default.
const UPDATE_WINS: &str =
    "the row was changed on the server after the device last saw it; update wins over delete, so it was kept";

impl Row<'_> {
    pub fn delete(mut self) -> Result<(), Refusal> {
        let key = self.target.read_key(self.statements, &self.change.key)?;
        let (columns, base) = self.known()?;
        // Locking the row would need the right to update it; its version tells as well whether it is still the same.
        let by_version = self.target.version();
        let clause = if by_version { "" } else { "FOR UPDATE" };
        let mut tried = None;
        for _ in 0..TRIES {
            let Some(mut current) = self.target.current(self.statements, &columns, &key, by_version, clause)? else {
                return if self.exists(&key)? { Err(self.denied("delete")) } else { self.delete_of_nothing() };
            };
            let version = if by_version { current.pop() } else { None };
            if tried.is_some() && tried == version {
                return Err(self.denied("delete"));
            }
            let conflict = self.meets_update(&key, &columns, &base, &current)?;
            if let Some((conflict, false)) = conflict {
                self.conflicts.push(conflict);
                return Ok(());
            }
            let mut sql = format!("DELETE FROM {} {}", self.target.table.name, self.target.where_key(1));
            let mut parameters = key.clone();
            if let Some(Value::Integer(xid)) = version {
                sql += &format!(" AND xmin OPERATOR(pg_catalog.=) ${}", key.len() + 1);
                parameters.push(self.statements.xid(xid as u32));
            }
            if self.statements.run(&sql, &parameters, &mut [])?.count > 0 {
                self.conflicts.extend(conflict.map(|(conflict, _)| conflict));
                return Ok(());
            }
            if !by_version {
                return Err(self.denied("delete"));
            }
            tried = version;
        }
        let message = format!("table {}: the row is being changed by others all the time", self.target.table.name);
        Err(Refusal { passing: true, ..Refusal::new("40001", message, "") })
    }

    /// A row that is gone already. Nothing is lost, but one that never came may be wanted after all.
    fn delete_of_nothing(self) -> Result<(), Refusal> {
        let few = self.findings.idle.len() < 3;
        if let Some(insert) = self.unmade.insert_of(self.change).filter(|_| few) {
            let message = format!(
                "table {}: nothing to delete: batch {} of this device, which inserted this row, was rejected ({})",
                self.target.table.name, insert.batch, insert.code
            );
            self.findings.idle.push(message);
        }
        Ok(())
    }

    /// Columns that the device knew and that are still there, with what it knew. A column that is gone cannot have been changed.
    fn known(&self) -> Result<(Vec<usize>, Vec<Value>), Refusal> {
        let tags = self.change.columns.iter().zip(&self.change.old);
        let (columns, base): (Vec<usize>, Vec<Value>) =
            tags.filter_map(|(&tag, old)| Some((self.target.position(tag).ok()?, old.clone()))).unzip();
        let mut once = columns.clone();
        once.sort_unstable();
        once.dedup();
        if once.len() != columns.len() {
            return Err(self.malformed("a column is named twice"));
        }
        Ok((columns, base))
    }

    /// Where somebody else changed the row: what is recorded, and whether it is deleted all the same.
    fn meets_update(
        &mut self,
        key: &[Parameter],
        columns: &[usize],
        base: &[Value],
        theirs: &[Value],
    ) -> Result<Option<(Conflict, bool)>, Refusal> {
        let policy = self.target.policies.deletes;
        let mut trace = None;
        let mut author = None;
        for (_, &column) in columns.iter().enumerate().filter(|&(i, _)| base[i] != theirs[i]) {
            let found = self.author(&mut trace, key, column)?;
            if found != Author::Device {
                author = author.into_iter().chain([found]).max_by_key(|author| author.at());
                if policy == DeletePolicy::KeepUpdate {
                    break;
                }
            }
        }
        let Some(author) = author else { return Ok(None) };
        let sides = conflict::sides(author, self.edited);
        let (deletes, reason) = match policy {
            DeletePolicy::KeepUpdate => (false, format!("{UPDATE_WINS} ({sides})")),
            DeletePolicy::DeleteWins => {
                (true, format!("the device deleted a row that the server had changed ({sides}); delete_wins"))
            }
            DeletePolicy::LastWriter if conflict::later(author, self.edited) => {
                (true, format!("the device deleted a row that the server had changed ({sides}); the delete is later"))
            }
            DeletePolicy::LastWriter => (
                false,
                format!(
                    "the device deleted a row that the server had changed ({sides}); the delete is not later, so it was kept"
                ),
            ),
            DeletePolicy::Reject => (false, format!("the device deleted a row that the server had changed ({sides})")),
        };
        let object = |values: &[Value]| conflict::version(self.target, columns.iter().copied().zip(values));
        let conflict = Conflict {
            base: object(base),
            theirs: object(theirs),
            result: if deletes { Value::Null } else { object(theirs) },
            ..conflict::of_row(self.change, policy.name(), reason)
        };
        match policy {
            DeletePolicy::Reject => Err(self.rejected(conflict)),
            _ => Ok(Some((conflict, deletes))),
        }
    }

    /// The device changed a row that is gone.
    pub fn update_of_nothing(mut self, key: &[Parameter], wishes: &[Wish<'_>]) -> Result<(), Refusal> {
        let change = self.change;
        // A device keeps the rest of a row that it had from the server.
        let insert = if change.rest.is_none() { self.unmade.insert_of(change) } else { None };
        if let Some(insert) = insert {
            if self.batch.whole {
                return Err(self.never_made(insert));
            }
            self.findings.missing.push(self.position);
            return Ok(());
        }
        match (self.target.policies.deletes, &change.rest) {
            (DeletePolicy::DeleteWins, _) => {
                let conflict = self.about_nothing(wishes, &[], DeletePolicy::DeleteWins.name());
                self.conflicts.push(conflict);
                Ok(())
            }
            (DeletePolicy::Reject, _) => Err(self.rejected(self.about_nothing(wishes, &[], DeletePolicy::Reject.name()))),
            (_, Some(rest)) => self.put_back(key, wishes, rest),
            (_, None) if !self.batch.whole => {
                self.findings.missing.push(self.position);
                Ok(())
            }
            (policy, None) => {
                let message = format!(
                    "table {}: the row was deleted on the server, and the device does not know all of it any longer, so it cannot be put back: insert it again if it is still wanted",
                    self.target.table.name
                );
                let conflict = self.about_nothing(wishes, &[], policy.name());
                Err(Refusal { conflicts: vec![conflict], ..Refusal::new("02000", message, "") })
            }
        }
    }

    /// The row's insert was rejected.
    fn never_made(&self, insert: &Insert) -> Refusal {
        let message = format!(
            "table {}: this row is not on the server, because batch {} of this device, which inserted it, was rejected ({}): retry that batch first, then this one",
            self.target.table.name, insert.batch, insert.code
        );
        Refusal::new("55000", message, "")
    }

    /// What is recorded of an update of a row that is gone; `rest` are columns that it does not change.
    fn about_nothing(&self, wishes: &[Wish<'_>], rest: &[(usize, &Value)], what: &str) -> Conflict {
        let rest = || rest.iter().copied();
        let reason = format!("the device changed, at {}, a row that was deleted on the server", conflict::time(self.edited));
        Conflict {
            base: conflict::version(self.target, wishes.iter().map(|w| (w.column, w.base)).chain(rest())),
            mine: conflict::version(self.target, wishes.iter().map(|w| (w.column, w.mine)).chain(rest())),
            ..conflict::of_row(self.change, self.target.policies.deletes.name(), format!("{reason}; {what}"))
        }
    }

    /// Makes the row again, as the end user, with what the device changed in it; with last_writer unless the delete is later.
    fn put_back(&mut self, key: &[Parameter], wishes: &[Wish<'_>], rest: &[Cell]) -> Result<(), Refusal> {
        let mut row: Vec<(usize, Parameter)> = self.target.table.key.iter().copied().zip(key.iter().copied()).collect();
        for wish in wishes {
            row.push((wish.column, self.target.read(self.statements, wish.column, wish.mine)?));
        }
        let mut kept = Vec::with_capacity(rest.len());
        for (tag, value) in rest {
            // A column that is gone is not put back.
            let Ok(column) = self.target.position(*tag) else { continue };
            if !row.iter().any(|(known, _)| *known == column) {
                row.push((column, self.target.read(self.statements, column, value)?));
                kept.push((column, value));
            }
        }
        if self.target.policies.deletes == DeletePolicy::LastWriter {
            let trace = self.authors.trace_of_gone(self.statements, self.target, key, &row)?;
            let author = self.authors.of_row(&trace, self.edited);
            if !conflict::later(author, self.edited) {
                let what = format!(
                    "the delete of {} is not earlier, so it stays deleted",
                    conflict::time(author.at().unwrap_or_default())
                );
                let conflict = self.about_nothing(wishes, &kept, &what);
                self.conflicts.push(conflict);
                return Ok(());
            }
        }
        let writable = self.target.columns_for(self.owner, "INSERT");
        row.retain(|(column, _)| self.target.table.key.contains(column) || writable.contains(column));
        let (columns, parameters): (Vec<_>, Vec<_>) = row.into_iter().unzip();
        let given = self.was_given();
        let policy = self.target.policies.deletes.name();
        let unless = self.about_nothing(wishes, &kept, &format!("{policy} would put it back"));
        self.findings.put_back.push((self.position, unless));
        self.insert_row(&columns, &parameters, given)?;
        let conflict = self.about_nothing(wishes, &kept, &format!("{policy}, so it was put back"));
        self.conflicts.push(Conflict { result: conflict.mine.clone(), ..conflict });
        Ok(())
    }

    /// Whether the row's key can only have come from the table's sequence, and did.
    fn was_given(&self) -> bool {
        let Some(sequence) = self.target.sequence.as_ref().filter(|s| s.always) else { return false };
        let [Value::Integer(key)] = self.change.key[..] else { return false };
        crate::identity::as_owner(self.owner, || pinned(|| catalog::has_given(sequence, key)))
    }
}
