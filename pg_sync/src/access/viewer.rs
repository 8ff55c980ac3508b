//! The end user as a table's policies see them: their role, their claims, and the settings of their session.

use crate::catalog::SyncedTable;
use crate::error::{raise, spi};
use crate::expr::quote;
use crate::identity::{self, as_role};
use crate::query::{argument, operator, Argument, Kept, Query, Row};
use crate::render::{with_settings, Renderer};
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use serde_json::Value as Json;
use std::ffi::CStr;
use sync_shared::row;

/// Settings of the session that functions of policies may depend on.
#[derive(Clone)]
pub struct Session {
    search_path: String,
    time_zone: String,
}

/// Whose `SELECT` decides.
pub struct Viewer {
    user: String,
    role: Oid,
    /// What policies may depend on: the session's settings, and the claims that are believed.
    settings: Vec<(&'static CStr, String)>,
}

/// How a viewer looks at one table.
pub struct View<'a> {
    viewer: &'a Viewer,
    table: &'a SyncedTable,
    key_renderers: Vec<Renderer>,
    /// The role may read all columns that are sent.
    readable: bool,
    /// Finds which of some keys are of rows that are seen.
    some: String,
}

impl Session {
    /// As it is now: to be called before settings are pinned.
    pub fn now() -> Self {
        let setting = |name| identity::setting(name).unwrap_or_default();
        Session { search_path: setting(c"search_path"), time_zone: setting(c"TimeZone") }
    }
}

impl Viewer {
    /// A user with their role and claims.
    pub fn new(user: String, role: Oid, claims: Option<&Json>, session: Session) -> Self {
        let mut settings = identity::claim_settings(claims);
        settings.push((c"row_security", "on".to_owned()));
        settings.push((c"search_path", session.search_path));
        settings.push((c"TimeZone", session.time_zone));
        Viewer { user, role, settings }
    }

    /// The role's name.
    pub fn role_name(&self) -> String {
        identity::role_name(self.role)
    }

    /// Looks at a table.
    pub fn of<'a>(&'a self, table: &'a SyncedTable) -> View<'a> {
        let key_renderers: Vec<Renderer> = table.key.iter().map(|&i| Renderer::new(table.columns[i].type_oid)).collect();
        let some = some_sql(table, &key_renderers);
        View { viewer: self, table, key_renderers, readable: self.may_read(table), some }
    }

    /// Whether a `SELECT` of what is sent of a table would be denied to nobody of this role.
    fn may_read(&self, table: &SyncedTable) -> bool {
        const SQL: &str = "SELECT pg_catalog.has_schema_privilege($1, c.relnamespace, 'USAGE')
                AND (pg_catalog.has_table_privilege($1, c.oid, 'SELECT')
                    OR (SELECT bool_and(pg_catalog.has_column_privilege($1, c.oid, n.attnum, 'SELECT'))
                        FROM pg_catalog.unnest($3) AS n(attnum)))
            FROM pg_catalog.pg_class c WHERE c.oid = $2";
        let columns: Vec<i16> = table.columns.iter().map(|c| c.position as i16).collect();
        let arguments = [self.role.into(), table.relation.into(), columns.into()];
        let read = Spi::connect(|c| c.select(Kept(SQL), Some(1), &arguments)?.first().get_one::<bool>());
        spi("reading a role's rights", read) == Some(true)
    }

    /// Runs `f` as the user, unable to become anybody else. The plan of a query that policies are part of is of one role: Postgres makes
    /// another for another.
    fn looking<R>(&self, f: impl FnOnce() -> R) -> R {
        identity::asked_by(&self.user, || with_settings(&self.settings, || as_role(self.role, f)))
    }
}

impl View<'_> {
    /// Whether the role may read the table at all.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    fn what(&self) -> String {
        format!("table {}, as its policies show it", self.table.name)
    }

    /// Whether the user sees the rows with these primary keys, which exist.
    pub fn sees(&self, keys: &[&[u8]]) -> Vec<bool> {
        let mut seen = vec![false; keys.len()];
        if !self.readable || keys.is_empty() {
            return seen;
        }
        let mut arrays: Vec<Vec<Option<String>>> = vec![Vec::with_capacity(keys.len()); self.key_renderers.len()];
        for key in keys {
            let values = row::decode(key).unwrap_or_default();
            for ((renderer, value), array) in self.key_renderers.iter().zip(&values).zip(&mut arrays) {
                let text = renderer.parameter(value).unwrap_or_else(|e| {
                    raise(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("{}: in a key, {e}", self.what()))
                });
                array.push(text);
            }
        }
        let arguments: Vec<Argument> = arrays.into_iter().map(|array| argument(Some(array))).collect();
        let types: Vec<_> = arguments.iter().map(|(t, _)| *t).collect();
        let mut mark = |found: Row<'_>| {
            if let Some(seen) = usize::try_from(found.integer(0) - 1).ok().and_then(|n| seen.get_mut(n)) {
                *seen = true;
            }
            true
        };
        // A connection of its own, and nothing kept from it: it may be called while another query's row is being read.
        let look = || Spi::connect(|_| Query::kept(&self.what(), &self.some, &types).each(&arguments, &mut mark));
        self.viewer.looking(look);
        seen
    }

    /// Hands over the primary keys of all rows that the user sees.
    pub fn all(&self, mut f: impl FnMut(&[u8])) {
        if !self.readable {
            return;
        }
        let columns = key_columns(self.table);
        let sql = format!("SELECT {} FROM {} AS sync_row", columns.join(", "), self.table.name);
        let mut key = Vec::new();
        self.viewer.looking(|| {
            Query::kept(&self.what(), &sql, &[]).each(&[], |mut found| {
                key.clear();
                (0..columns.len()).for_each(|i| found.put(i, &mut key));
                f(&key);
                true
            })
        });
    }
}

fn key_columns(table: &SyncedTable) -> Vec<String> {
    table.key.iter().map(|&i| format!("sync_row.{}", quote(&table.columns[i].name))).collect()
}

/// Which of the keys, one text array for each of their columns, are of rows that are seen. Nothing but keys is looked at, so that no
/// function of a filter or of another column runs as this user; every name is qualified, since the user's search_path holds.
///
/// The keys become values of their types first, apart: a policy comes before whatever might tell of a row, as a cast in the same
/// condition might, and no index could be used.
fn some_sql(table: &SyncedTable, renderers: &[Renderer]) -> String {
    let numbers = || 1..=renderers.len();
    let list = |f: &dyn Fn(usize) -> String| numbers().map(f).collect::<Vec<_>>().join(", ");
    let read = |i: usize| format!("{} AS k{i}", renderers[i - 1].read_text(&format!("sync_text.t{i}")));
    let conditions: Vec<String> = (key_columns(table).iter().zip(renderers).zip(numbers()))
        .map(|((column, r), i)| format!("{column} {} sync_key.k{i}", operator(r.type_oid(), "=")))
        .collect();
    format!(
        "WITH sync_key AS MATERIALIZED (
             SELECT sync_text.n, {} FROM ROWS FROM ({}) WITH ORDINALITY AS sync_text({}, n))
         SELECT sync_key.n FROM sync_key CROSS JOIN LATERAL (SELECT FROM {} AS sync_row WHERE {}) AS sync_found",
        list(&read),
        list(&|i| format!("pg_catalog.unnest(${i}::pg_catalog.text[])")),
        list(&|i| format!("t{i}")),
        table.name,
        conditions.join(" AND ")
    )
}
