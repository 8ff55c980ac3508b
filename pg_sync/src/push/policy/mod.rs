//! Declared conflict policies: what decides where a device and somebody else changed the same row. See docs/conflicts.md.
//!
//! # Layout
//! - this file: what is declared, read once for each push
//! - [`counter`], [`set`], [`text`] (with [`diff`]): policies of a column that join both sides' changes into one value
//! - [`keep_both`], [`custom`]: policies of a whole row that need more than a choice

pub mod counter;
pub mod custom;
mod diff;
pub mod keep_both;
pub mod set;
pub mod text;

use crate::error::spi;
use crate::query::Kept;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use std::collections::HashMap;

/// What decides one column that both changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnPolicy {
    /// The later edit wins: what a table does without a policy.
    Merge,
    ServerWins,
    ClientWins,
    /// The same as `Merge`, declared for one column.
    LastWriter,
    Reject,
    Counter,
    Max,
    Min,
    Set,
    Text,
}

impl ColumnPolicy {
    fn named(name: &str) -> Option<Self> {
        use ColumnPolicy::*;
        [Merge, ServerWins, ClientWins, LastWriter, Reject, Counter, Max, Min, Set, Text].into_iter().find(|p| p.name() == name)
    }

    /// As `sync.set_policy` takes it.
    pub fn name(self) -> &'static str {
        match self {
            ColumnPolicy::Merge => "merge",
            ColumnPolicy::ServerWins => "server_wins",
            ColumnPolicy::ClientWins => "client_wins",
            ColumnPolicy::LastWriter => "last_writer",
            ColumnPolicy::Reject => "reject",
            ColumnPolicy::Counter => "counter",
            ColumnPolicy::Max => "max",
            ColumnPolicy::Min => "min",
            ColumnPolicy::Set => "set",
            ColumnPolicy::Text => "text",
        }
    }

    /// Whether it looks at the difference that a change makes, so that it matters what the change started from.
    pub fn differs(self) -> bool {
        use ColumnPolicy::*;
        matches!(self, Counter | Set | Text)
    }

    /// Whether it makes one value of both sides' changes, whoever made them.
    pub fn joins(self) -> bool {
        use ColumnPolicy::*;
        matches!(self, Counter | Max | Min | Set | Text)
    }
}

/// What decides a row that both changed, for the columns without a policy of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowPolicy {
    /// Each column by itself.
    Columns(ColumnPolicy),
    /// All that the device changed, or nothing of it.
    LastWriter,
    /// The same, and the losing version becomes a row of its own, or is only recorded.
    KeepBoth(Option<Link>),
    Reject,
    Custom(Handler),
}

/// How a losing version becomes a row: both are numbers of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The column of the key that gets a new value; None: there is none any longer.
    pub fresh: Option<i16>,
    /// The column that gets the winner's.
    pub link: i16,
}

/// A function of the application's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Qualified, as SQL reads it; None: it is gone.
    pub function: Option<String>,
    /// As it was declared.
    pub declared: String,
}

/// What decides where one side deleted a row that the other changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletePolicy {
    KeepUpdate,
    DeleteWins,
    LastWriter,
    Reject,
}

impl DeletePolicy {
    fn named(name: &str) -> Option<Self> {
        use DeletePolicy::*;
        [KeepUpdate, DeleteWins, LastWriter, Reject].into_iter().find(|p| p.name() == name)
    }

    /// As `sync.set_delete_policy` takes it.
    pub fn name(self) -> &'static str {
        match self {
            DeletePolicy::KeepUpdate => "keep_update",
            DeletePolicy::DeleteWins => "delete_wins",
            DeletePolicy::LastWriter => "last_writer",
            DeletePolicy::Reject => "reject",
        }
    }
}

/// Those of one table.
#[derive(Debug, Clone)]
pub struct Policies {
    pub row: RowPolicy,
    pub deletes: DeletePolicy,
    /// By the column's number.
    columns: HashMap<i16, (ColumnPolicy, String)>,
}

impl Default for Policies {
    fn default() -> Self {
        Policies { row: RowPolicy::Columns(ColumnPolicy::Merge), deletes: DeletePolicy::KeepUpdate, columns: HashMap::new() }
    }
}

impl Policies {
    /// A column's own.
    pub fn of_column(&self, attnum: i16) -> Option<ColumnPolicy> {
        self.columns.get(&attnum).map(|(policy, _)| *policy)
    }

    /// How SQL names the collation of a column with a policy, behind a value: ` COLLATE "x"`, or nothing.
    pub fn collation(&self, attnum: i16) -> &str {
        self.columns.get(&attnum).map_or("", |(_, collation)| collation)
    }
}

/// Those of the given tables that have any.
pub fn read(relations: &[Oid]) -> HashMap<Oid, Policies> {
    let read = Spi::connect(|client| {
        let mut found: HashMap<Oid, Policies> = HashMap::new();
        // Where none is declared the function is not even called.
        let sql = "SELECT f.relid, f.attnum, f.event, f.policy, f.handler, f.handler_name, f.fresh, f.link, f.collated_by
             FROM (SELECT p.relid FROM sync.policy p WHERE p.relid = ANY ($1) LIMIT 1) AS declared
             CROSS JOIN LATERAL sync.policies_of(CASE WHEN declared.relid IS NOT NULL THEN $1 END) AS f";
        for row in client.select(Kept(sql), None, &[relations.to_vec().into()])? {
            let policies = found.entry(row.get::<Oid>(1)?.unwrap_or(Oid::INVALID)).or_default();
            let attnum = row.get::<i16>(2)?.unwrap_or_default();
            let event = row.get::<String>(3)?.unwrap_or_default();
            let name = row.get::<String>(4)?.unwrap_or_default();
            if event == "delete" {
                policies.deletes = DeletePolicy::named(&name).unwrap_or(policies.deletes);
            } else if attnum > 0 {
                let collation = row.get::<String>(9)?.unwrap_or_default();
                policies.columns.extend(ColumnPolicy::named(&name).map(|policy| (attnum, (policy, collation))));
            } else {
                let fresh = row.get(7)?;
                policies.row = match name.as_str() {
                    "last_writer" => RowPolicy::LastWriter,
                    "reject" => RowPolicy::Reject,
                    "keep_both" => RowPolicy::KeepBoth(row.get(8)?.map(|link| Link { fresh, link })),
                    "custom" => RowPolicy::Custom(Handler { function: row.get(5)?, declared: row.get(6)?.unwrap_or_default() }),
                    other => RowPolicy::Columns(ColumnPolicy::named(other).unwrap_or(ColumnPolicy::Merge)),
                };
            }
        }
        Ok::<_, spi::Error>(found)
    });
    spi("reading sync.policy", read)
}
