//! Who set a column's current value, and when: from the op log.

use super::statements::{Parameter, Statements};
use super::target::Target;
use crate::catalog::{self, Rule};
use crate::error::spi;
use crate::expr::quote;
use crate::identity::as_role;
use crate::render::{pinned, Renderer};
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use std::cell::OnceCell;
use sync_shared::clock::EditTime;
use sync_shared::hash::bucket_id;
use sync_shared::{row, Value};
use uuid::Uuid;

/// Where a current value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// An earlier batch of the device itself, or what the server's triggers made of it.
    Device,
    /// Somebody else, whose edit was made then (microseconds since 1970).
    Other { at: i64 },
    /// Somebody else, further back than the log shows or was looked at.
    Earlier,
}

impl Author {
    /// When somebody else edited, where the log shows it.
    pub fn at(self) -> Option<i64> {
        match self {
            Author::Other { at } => Some(at),
            Author::Device | Author::Earlier => None,
        }
    }
}

/// Asks the op log on behalf of one device.
pub struct Authors {
    owner: Oid,
    device: Uuid,
    rules: OnceCell<Vec<Rule>>,
}

/// A row's place in the log: its buckets with their entries, and its key.
pub struct Trace {
    buckets: Vec<pgrx::Uuid>,
    entries: Vec<i32>,
    key: Vec<u8>,
}

impl Authors {
    pub fn new(owner: Oid, device: Uuid) -> Self {
        Authors { owner, device, rules: OnceCell::new() }
    }

    /// Finds the row of `key` in the log. The buckets are those of the row as it is now: an op that moved it there counts as a
    /// change of every column.
    pub fn trace(&self, statements: &mut Statements, target: &mut Target, key: &[Parameter]) -> Result<Trace, super::Refusal> {
        let from = format!("{} {}", target.table.name, target.where_key(1));
        self.trace_from(statements, target, key, &from, key)
    }

    /// The same for a row that is gone, by what its columns were.
    pub fn trace_of_gone(
        &self,
        statements: &mut Statements,
        target: &mut Target,
        key: &[Parameter],
        row: &[(usize, Parameter)],
    ) -> Result<Trace, super::Refusal> {
        let values: Vec<Parameter> = row.iter().map(|(_, parameter)| *parameter).collect();
        let read = || catalog::all_columns(target.table.relation);
        let (name, columns) = crate::identity::as_owner(self.owner, || pinned(read));
        let columns = columns.into_iter().map(|(position, name, type_name)| {
            let place = row.iter().position(|(column, _)| target.table.columns[*column].position as i16 == position);
            let value = place.map_or("NULL".into(), |place| format!("${}", place + 1));
            format!("{value}::{type_name} AS {name}")
        });
        let from = format!("(SELECT {}) AS {name} WHERE true", columns.collect::<Vec<_>>().join(", "));
        self.trace_from(statements, target, key, &from, &values)
    }

    fn trace_from(
        &self,
        statements: &mut Statements,
        target: &mut Target,
        key: &[Parameter],
        from: &str,
        values: &[Parameter],
    ) -> Result<Trace, super::Refusal> {
        let mut trace =
            Trace { buckets: Vec::new(), entries: Vec::new(), key: row::encode(&self.stored_key(statements, target, key)?) };
        let rules = self.rules.get_or_init(|| crate::identity::as_owner(self.owner, || pinned(catalog::rules)));
        // A bucket for everybody is likely to have the longest log.
        for global in [false, true] {
            let of_kind = rules.iter().filter(|r| r.members.is_none() == global);
            for (rule, entry) in of_kind.flat_map(|r| r.entries.iter().map(move |e| (r, e))) {
                if entry.relation != target.table.relation {
                    continue;
                }
                let found = if entry.key.is_empty() && entry.filter.is_none() {
                    Some(Vec::new())
                } else {
                    self.bucket_key(statements, rule, entry, from, values)?
                };
                if let Some(values) = found.filter(|values| !values.iter().any(Value::is_null)) {
                    trace.buckets.push(pgrx::Uuid::from_bytes(bucket_id(&rule.name, &row::encode(&values)).0));
                    trace.entries.push(entry.id);
                }
            }
        }
        Ok(trace)
    }

    /// The key as the row has it: for citext, numeric and others, equal is not identical, and the log names rows as they are.
    fn stored_key(
        &self,
        statements: &mut Statements,
        target: &mut Target,
        key: &[Parameter],
    ) -> Result<Vec<Value>, super::Refusal> {
        let columns = target.table.key.clone();
        let list = columns.iter().map(|&i| quote(&target.table.columns[i].name)).collect::<Vec<_>>().join(", ");
        let sql = format!("SELECT {list} FROM {} {}", target.table.name, target.where_key(1));
        let mut renderers: Vec<Renderer> = columns.iter().map(|&i| Renderer::new(target.table.columns[i].type_oid)).collect();
        let found =
            as_role(target.table.owner, || pinned(|| statements.run(&sql, key, &mut renderers.iter_mut().collect::<Vec<_>>())))?;
        match found.row {
            Some(values) => Ok(values),
            None => {
                columns.iter().zip(key).map(|(&i, &parameter)| statements.render(&mut target.renderers[i], parameter)).collect()
            }
        }
    }

    /// The key of the row's bucket by one entry; None for a row that is in none. Evaluated as pull does: as the rule's owner.
    fn bucket_key(
        &self,
        statements: &mut Statements,
        rule: &Rule,
        entry: &catalog::Entry,
        from: &str,
        values: &[Parameter],
    ) -> Result<Option<Vec<Value>>, super::Refusal> {
        let list = if entry.key.is_empty() { "1".to_owned() } else { entry.key.join(", ") };
        let filter = entry.filter.as_ref().map_or(String::new(), |filter| format!(" AND ({filter})"));
        let sql = format!("SELECT {list} FROM {from}{filter}");
        let types: &[Oid] = if entry.key.is_empty() { &[pgrx::pg_sys::INT4OID] } else { &rule.key_types };
        let mut renderers: Vec<Renderer> = types.iter().map(|&t| Renderer::new(t)).collect();
        let mut columns: Vec<&mut Renderer> = renderers.iter_mut().collect();
        let answer = as_role(rule.owner, || pinned(|| statements.run(&sql, values, &mut columns)))?;
        Ok(answer.row.map(|values| if entry.key.is_empty() { Vec::new() } else { values }))
    }

    /// Whether a key is a number that was leased to the device, or to another one of its user.
    pub fn has_leased(&self, relation: Oid, key: i64) -> bool {
        crate::identity::as_owner(self.owner, || pinned(|| super::lease::is_leased(self.device, relation, key)))
    }

    /// Who set the column with this bit in `sync.op.changed`, as far as that matters to an edit of `mine_at`.
    pub fn of(&self, trace: &Trace, bit: u8, mine_at: EditTime) -> Author {
        self.last(trace, 1i64 << bit, mine_at)
    }

    /// Who last touched any column, or made or deleted the row.
    pub fn of_row(&self, trace: &Trace, mine_at: EditTime) -> Author {
        self.last(trace, -1, mine_at)
    }

    fn last(&self, trace: &Trace, mask: i64, mine_at: EditTime) -> Author {
        let device = pgrx::Uuid::from_bytes(*self.device.as_bytes());
        let read = || {
            Spi::connect_mut(|c| {
                let arguments = [
                    trace.buckets.clone().into(),
                    trace.entries.clone().into(),
                    trace.key.clone().into(),
                    mask.into(),
                    device.into(),
                    mine_at.into(),
                ];
                let mut rows = c.update("SELECT own, at FROM sync.last_edit($1, $2, $3, $4, $5, $6)", Some(1), &arguments)?;
                let Some(found) = rows.next() else { return Ok(Author::Earlier) };
                Ok::<_, spi::Error>(match found.get::<bool>(1)? {
                    Some(true) => Author::Device,
                    _ => Author::Other { at: found.get(2)?.unwrap_or_default() },
                })
            })
        };
        spi("reading the op log", crate::identity::as_owner(self.owner, || pinned(read)))
    }
}
