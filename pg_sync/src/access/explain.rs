//! `sync.explain`: why a row is or is not on a user's devices.

use super::viewer::Viewer;
use super::{asked_by, named_by, viewer_of, Asked};
use crate::catalog::{self, Entry, Rule, SyncedTable};
use crate::error::{raise, spi};
use crate::expr::{quote, relation_name};
use crate::identity::as_role;
use crate::pull::members::{self, key_values};
use crate::pull::source::{NotIn, Source};
use crate::push::conflict::as_json;
use crate::query::{argument, Kept, Query};
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use pgrx::JsonB;
use serde_json::{json, Value as Json};
use sync_shared::limits;

/// What is said of one entry: the rule's name, the bucket's key, whether its rows reach the user's devices, and why.
type Line = (Option<String>, Option<JsonB>, String, String);

const HELD: &str = "held";
const NOT_HELD: &str = "not held";
const DEPENDS: &str = "depends";

#[pg_extern(stable)]
#[allow(clippy::type_complexity)]
fn explain(
    table: Option<Oid>,
    key: Option<String>,
    claims: Option<JsonB>,
) -> TableIterator<
    'static,
    (name!(bucket, Option<String>), name!(bucket_key, Option<JsonB>), name!(verdict, String), name!(reason, String)),
> {
    let (Some(table), Some(key)) = (table, key) else { error!("sync.explain needs a table, a row's key and a user's claims") };
    let (user, claims) = named_by("explain", claims);
    let asked = Asked::now("explain");
    // Where policies have no say, nothing need be known of the role.
    let viewer = || claims.get("role").map(|_| viewer_of(&asked, &user, &claims));
    TableIterator::new(asked_by(&user, &claims, || lines(table, &key, &user, viewer)))
}

fn lines(relation: Oid, key: &str, user: &str, viewer: impl Fn() -> Option<Viewer>) -> Vec<Line> {
    let none = |reason: String| vec![(None, None, NOT_HELD.to_owned(), reason)];
    let name = relation_name(relation);
    let tables = catalog::tables();
    let broken = broken(relation);
    let mut rules = catalog::rules();
    rules.iter_mut().for_each(|rule| rule.entries.retain(|e| e.relation == relation));
    rules.retain(|rule| !rule.entries.is_empty());
    let Some(table) = tables.iter().find(|t| t.relation == relation) else {
        let parent =
            root_of(relation).map_or(String::new(), |root| format!("; it is a partition, ask for {}", relation_name(root)));
        return none(format!("table {name} is not synced{parent}: sync.add_table puts a table into a rule"));
    };
    if rules.is_empty() && broken.is_empty() {
        return none(format!("table {name} is in no rule: devices may insert into it, and hold nothing of it"));
    }
    let wanted = key_of(table, key);
    let members = members::of(user, &rules, &[]);
    let mut lines = Vec::new();
    for (position, rule) in rules.iter().enumerate() {
        for entry in &rule.entries {
            let found = Source::new(rule, entry, table).current(&[&wanted], None, &mut { usize::MAX });
            let Some(row) = found.into_iter().flatten().next().flatten() else {
                return none(format!("table {name} has no row with the key {key}"));
            };
            let is_member = |bucket| members.iter().any(|m| m.rule == position && m.id == bucket);
            let (verdict, reason) = match row.bucket {
                Err(why) => (NOT_HELD, why_not_in(why, entry)),
                Ok(bucket) if is_member(bucket) && entry.enforced => why_shown(table, &wanted, viewer()),
                Ok(bucket) if is_member(bucket) => (HELD, why_held(rule, entry, user)),
                Ok(_) => why_no_member(rule, user),
            };
            lines.push((Some(rule.name.clone()), bucket_key(&row.key), verdict.to_owned(), reason));
        }
    }
    let unserved = |(rule, problem)| {
        let reason = format!("the table is broken in this rule and not served, until that is mended: {problem}");
        (Some(rule), None, NOT_HELD.to_owned(), reason)
    };
    lines.extend(broken.into_iter().map(unserved));
    lines
}

fn why_not_in(why: NotIn, entry: &Entry) -> String {
    match why {
        NotIn::Filtered => format!("the filter is not true for this row: {}", entry.filter.as_deref().unwrap_or("true")),
        NotIn::NoKey => format!("the bucket's key is NULL, so the row is in no bucket: {}", entry.key.join(", ")),
        NotIn::TooLarge => format!("the row is larger than {} MiB, which no device gets", limits::ROW_BYTES >> 20),
    }
}

fn why_held(rule: &Rule, entry: &Entry, user: &str) -> String {
    let whose = match &rule.members {
        None => "the rule has no members, so its one bucket is everybody's".to_owned(),
        Some(_) => format!("user \"{user}\" is a member of this bucket"),
    };
    match entry.ready {
        true => whose,
        false => format!("{whose}; its sums are not known yet, sync.maintain() makes them known"),
    }
}

/// Of a row that the rule gives to the user, as far as the table's policies show it.
fn why_shown(table: &SyncedTable, key: &[u8], viewer: Option<Viewer>) -> (&'static str, String) {
    let Some(viewer) = viewer else {
        return (DEPENDS, "row level security decides (rls => 'enforce'), and the claims name no role: give \"role\"".to_owned());
    };
    let view = viewer.of(table);
    let role = viewer.role_name();
    match (view.is_readable(), view.sees(&[key]) == [true]) {
        (true, true) => (HELD, format!("the user is a member of this bucket, and the policies show the row to role \"{role}\"")),
        (true, false) => {
            (NOT_HELD, format!("row level security hides it from role \"{role}\" with these claims (rls => 'enforce')"))
        }
        (false, _) => {
            (NOT_HELD, format!("role \"{role}\" may not SELECT all that is sent of table {} (rls => 'enforce')", table.name))
        }
    }
}

fn why_no_member(rule: &Rule, user: &str) -> (&'static str, String) {
    match &rule.members {
        Some(sql) if members::takes_parameters(sql) => {
            (DEPENDS, "the members read sync.param(): it depends on what the device subscribes to".to_owned())
        }
        _ => (NOT_HELD, format!("user \"{user}\" is no member of this bucket: the rule's members do not give its key")),
    }
}

/// A bucket's key; None for the one bucket of a rule without members.
pub fn bucket_key(key: &[u8]) -> Option<JsonB> {
    (!key.is_empty()).then(|| JsonB(Json::Array(key_values(key).iter().map(as_json).collect())))
}

/// A primary key, given as text or as a JSON object of its columns, as wire values.
fn key_of(table: &SyncedTable, key: &str) -> Vec<u8> {
    let names: Vec<&str> = table.key.iter().map(|&i| table.columns[i].name.as_str()).collect();
    let given = match (key.trim_start().starts_with('{'), &names[..]) {
        (true, _) => serde_json::from_str::<Json>(key).ok().filter(|k| names.iter().all(|name| k.get(name).is_some())),
        (false, [one]) => Some(json!({ *one: key })),
        _ => None,
    };
    let Some(given) = given else {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!(
                "table {}: the key must give {}, as a JSON object, or as plain text for a key of one column",
                table.name,
                names.join(", ")
            ),
        )
    };
    let columns: Vec<String> = names.iter().map(|name| format!("sync_key.{}", quote(name))).collect();
    let sql = format!("SELECT {} FROM jsonb_populate_record(NULL::{}, $1::jsonb) AS sync_key", columns.join(", "), table.name);
    let arguments = [argument(Some(given.to_string()))];
    let mut bytes = Vec::new();
    as_role(table.owner, || {
        Spi::connect(|_| {
            let mut query = Query::prepare(&format!("table {}: the key", table.name), &sql, &[arguments[0].0]);
            query.each(&arguments, |mut row| {
                (0..names.len()).for_each(|i| row.put(i, &mut bytes));
                true
            })
        })
    });
    bytes
}

/// Rules in which the table is broken, with the reason.
fn broken(relation: Oid) -> Vec<(String, String)> {
    const SQL: &str = "SELECT r.name, coalesce(e.problem, '') FROM sync.entry e JOIN sync.rule r ON r.rule_id = e.rule_id
        WHERE e.relid = $1 AND e.state = 'broken' ORDER BY r.priority, r.rule_id, e.entry_id";
    let read = Spi::connect(|c| {
        let rows = c.select(Kept(SQL), None, &[relation.into()])?;
        let line = |row: pgrx::spi::SpiHeapTupleData| Ok((row.get(1)?.unwrap_or_default(), row.get(2)?.unwrap_or_default()));
        rows.map(line).collect::<Result<Vec<_>, spi::Error>>()
    });
    spi("reading broken entries", read)
}

/// The synced table that a relation is a partition of.
fn root_of(relation: Oid) -> Option<Oid> {
    let sql = Kept("SELECT root FROM sync.captured WHERE relid = $1 AND root <> relid");
    let read = Spi::connect(|c| c.select(sql, Some(1), &[relation.into()])?.next().map_or(Ok(None), |row| row.get::<Oid>(1)));
    spi("reading sync.captured", read)
}
