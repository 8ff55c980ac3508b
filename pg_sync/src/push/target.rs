//! The tables that a push writes to, and the SQL for their rows.
//!
//! Every name in it is qualified and quoted, operators too: it runs under the settings of the user's session.

use super::policy::{self, Policies};
use super::refusal::Refusal;
use super::role;
use super::statements::{Parameter, Statements};
use super::subtransaction::set_column;
use crate::catalog::{self, KeySequence, SyncedTable};
use crate::error::spi;
use crate::expr::quote;
use crate::identity;
use crate::query::{operator, Kept};
use crate::render::{pinned, Renderer};
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use std::collections::HashMap;
use sync_shared::hash::Tag;
use sync_shared::message::{ChangeKind, PushRequest, TableMode};
use sync_shared::Value;

/// One table.
pub struct Target {
    pub table: SyncedTable,
    /// One per column.
    pub renderers: Vec<Renderer>,
    /// One per key column: `"id" OPERATOR(pg_catalog.=) `.
    equal: Vec<String>,
    /// The writing role may read all of it: see [`Target::version`].
    readable: bool,
    /// What makes its key.
    pub sequence: Option<KeySequence>,
    /// What decides its conflicts.
    pub policies: Policies,
}

/// By tag, those that a request names. Their columns stay as they are until the transaction ends.
pub fn of(request: &PushRequest, writer: Oid) -> HashMap<Tag, Target> {
    let mut tags: Vec<i64> = request.batches.iter().flat_map(|b| &b.changes).map(|c| i64::from(c.table)).collect();
    tags.sort_unstable();
    tags.dedup();
    if tags.is_empty() {
        return HashMap::new();
    }
    let relations = Spi::connect(|c| {
        let mut relations = Vec::new();
        let rows =
            c.select(Kept("SELECT relid::oid FROM sync.synced_table WHERE tag = ANY ($1)"), None, &[tags.clone().into()])?;
        for row in rows {
            relations.extend(row.get::<Oid>(1)?);
        }
        Ok::<_, spi::Error>(relations)
    });
    let relations = spi("reading sync.synced_table", relations);
    for &relation in &relations {
        role::keep_columns(relation);
    }
    let mut policies = policy::read(&relations);
    let mut target = |table: SyncedTable| {
        let equal = |&i: &usize| format!("{} {} ", quote(&table.columns[i].name), operator(table.columns[i].type_oid, "="));
        let target = Target {
            renderers: table.columns.iter().map(|c| Renderer::new(c.type_oid)).collect(),
            equal: table.key.iter().map(equal).collect(),
            readable: role::may_select(table.relation, writer),
            sequence: catalog::key_sequence(table.relation),
            policies: policies.remove(&table.relation).unwrap_or_default(),
            table,
        };
        (target.table.tag, target)
    };
    catalog::tables_tagged(Some(tags)).into_iter().map(&mut target).collect()
}

/// Whether a constraint's name is that of a primary key, perhaps of a partition.
pub fn is_primary_key(constraint: &str) -> bool {
    let sql = "SELECT EXISTS (SELECT FROM pg_constraint WHERE conname = $1::text AND contype = 'p')";
    let found = Spi::connect(|c| c.select(sql, Some(1), &[constraint.into()])?.first().get_one::<bool>());
    spi("looking for a primary key", found).unwrap_or(false)
}

impl Target {
    /// Refuses what the table's mode does not let devices do.
    pub fn allows(&self, kind: ChangeKind) -> Result<(), Refusal> {
        let name = &self.table.name;
        let message = match (self.table.mode, kind) {
            (TableMode::ReadWrite, _) | (TableMode::InsertOnly, ChangeKind::Insert) => return Ok(()),
            (TableMode::ReadOnly, _) => format!("table {name} is read_only for devices: its rows come from the server"),
            (TableMode::InsertOnly, _) => {
                format!("table {name} is insert_only for devices: its rows are neither changed nor deleted")
            }
        };
        Err(Refusal::new("42501", message, &self.table.device_name))
    }

    /// Says that an insert's key belongs to another row.
    pub fn taken(&self) -> Refusal {
        let sql = "SELECT conname::text FROM pg_constraint WHERE conrelid = $1 AND contype = 'p'";
        let name = Spi::connect(|c| c.select(sql, Some(1), &[self.table.relation.into()])?.first().get_one::<String>());
        let name = name.ok().flatten().unwrap_or_else(|| self.table.device_name.clone());
        let message = format!("table {}: another row has this key already (constraint \"{name}\")", self.table.name);
        Refusal::new("23505", message, name)
    }

    /// Where a column stands. A device may know columns that are gone, or not sent any longer.
    pub fn position(&self, tag: Tag) -> Result<usize, Refusal> {
        self.table.columns.iter().position(|c| c.tag == tag).ok_or_else(|| {
            let message = format!("table {} has no column with the tag {tag} (any longer)", self.table.name);
            Refusal::new("42703", message, &self.table.device_name)
        })
    }

    /// A column's value as a parameter; errors name the table and the column.
    pub fn read(&self, statements: &mut Statements, column: usize, value: &Value) -> Result<Parameter, Refusal> {
        let name = &self.table.columns[column].name;
        set_column(Some(name));
        let read = statements.read(&self.renderers[column], value).map_err(|refusal| Refusal {
            message: format!("table {}, column \"{name}\": {}", self.table.name, refusal.message),
            subject: name.clone(),
            ..refusal
        });
        set_column(None);
        read
    }

    /// The key's parameters.
    pub fn read_key(&self, statements: &mut Statements, key: &[Value]) -> Result<Vec<Parameter>, Refusal> {
        if key.len() != self.table.key.len() {
            let message = format!("the key of table {} has {} columns, not {}", self.table.name, self.table.key.len(), key.len());
            return Err(Refusal::new("22P03", message, &self.table.device_name));
        }
        self.table.key.iter().zip(key).map(|(&column, value)| self.read(statements, column, value)).collect()
    }

    /// `WHERE` and the key, whose parameters begin at `$first`.
    pub fn where_key(&self, first: usize) -> String {
        format!("WHERE {}", self.is_key(first))
    }

    /// The condition that a row has the key, whose parameters begin at `$first`.
    pub fn is_key(&self, first: usize) -> String {
        let parts: Vec<String> = self.equal.iter().enumerate().map(|(i, part)| format!("{part}${}", first + i)).collect();
        parts.join(" AND ")
    }

    /// Columns quoted, in a list.
    pub fn names(&self, columns: &[usize]) -> String {
        let names: Vec<String> = columns.iter().map(|&i| quote(&self.table.columns[i].name)).collect();
        names.join(", ")
    }

    /// Columns of the current row as the role sees it; `clause` locks it, `version` adds a last value that changes with it.
    pub fn current(
        &mut self,
        statements: &mut Statements,
        columns: &[usize],
        key: &[Parameter],
        version: bool,
        clause: &str,
    ) -> Result<Option<Vec<Value>>, Refusal> {
        let mut list = self.names(columns);
        let mut integer = version.then(|| Renderer::new(pgrx::pg_sys::INT8OID));
        if version {
            list += if columns.is_empty() { "" } else { ", " };
            list += "xmin::pg_catalog.text::pg_catalog.int8";
        } else if columns.is_empty() {
            list = self.names(&self.table.key[..1]);
        }
        let sql = format!("SELECT {list} FROM {} {} {clause}", self.table.name, self.where_key(1));
        let wanted = if columns.is_empty() && !version { &self.table.key[..1] } else { columns };
        let mut by_column: Vec<Option<&mut Renderer>> = self.renderers.iter_mut().map(Some).collect();
        let mut renderers: Vec<&mut Renderer> = wanted.iter().filter_map(|&i| by_column[i].take()).collect();
        renderers.extend(integer.as_mut());
        Ok(statements.run(&sql, key, &mut renderers)?.row)
    }

    /// Whether a column's policy takes the difference that a device made.
    pub fn differs(&self, column: usize) -> bool {
        self.policies.of_column(self.table.columns[column].position as i16).is_some_and(|policy| policy.differs())
    }

    /// Columns that are not generated and that the role may use in all these ways: `SELECT, INSERT`.
    pub fn columns_for(&self, owner: Oid, ways: &str) -> Vec<usize> {
        let sql = "SELECT array_agg(a.attnum) FROM pg_attribute a
             WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND NOT EXISTS (
                 SELECT FROM regexp_split_to_table($3, ', ') w WHERE NOT has_column_privilege($2, a.attrelid, a.attnum, w))";
        let arguments = [self.table.relation.into(), identity::current_user().into(), ways.into()];
        let read = || Spi::connect(|c| c.select(sql, Some(1), &arguments)?.first().get_one::<Vec<i16>>());
        let usable = spi("reading rights", identity::as_owner(owner, || pinned(read))).unwrap_or_default();
        let columns = self.table.columns.iter().enumerate();
        columns.filter(|(_, c)| !c.generated && usable.contains(&(c.position as i16))).map(|(i, _)| i).collect()
    }

    /// Whether the system column that tells versions of a row apart may be read.
    pub fn version(&self) -> bool {
        self.readable
    }
}
