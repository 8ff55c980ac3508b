//! The native halves of what declares rules and policies. `sync.create_bucket` and `sync.add_table` read SQL under the caller's
//! search_path and hand it on with every name qualified; all of them ask for the caller's rights first.

use crate::error::{named, raise, spi};
use crate::expr::{self, qualified_query, relation_name, Expressions, Purpose};
use crate::identity;
use crate::query::Query;
use crate::render::{pinned, type_name};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use pgrx::JsonB;

/// Calls the second half with the rights of the extension's owner.
pub fn run(sql: &str, arguments: &[DatumWithOid]) {
    spi("changing the rules", identity::as_owner(identity::owner(), || Spi::run_with_args(sql, arguments)));
}

/// Whoever puts a table's rows into buckets decides who gets them, and the key and filter run as the table's owner.
fn refuse_unless_owned(rule: &str, table: Oid) {
    owned(&format!("rule \"{rule}\", table {}: only its owner can add it", relation_name(table)), table);
}

/// Refuses whoever does not own a table. Not under the caller's search_path: its operators could be the caller's.
pub fn owned(otherwise: &str, table: Oid) {
    let sql = "SELECT pg_catalog.pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class WHERE oid = $1";
    let owned = pinned(|| Spi::connect(|c| c.select(sql, Some(1), &[table.into()])?.first().get_one::<bool>()));
    if spi("reading the table's owner", owned) != Some(true) {
        raise(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, otherwise);
    }
}

#[pg_extern]
fn create_bucket(name: Option<String>, members: Option<String>, priority: Option<i32>) {
    let name = name.unwrap_or_default();
    let members = members.map(|text| qualified_query(&name, &text));
    let arguments = [name.into(), members.into(), priority.into(), identity::current_user().into()];
    run("SELECT sync.put_rule($1, $2, $3, $4)", &arguments);
}

#[pg_extern]
fn add_table(
    bucket: Option<String>,
    table: Option<Oid>,
    key: Option<String>,
    filter: Option<String>,
    columns: Option<Vec<String>>,
    rls: Option<String>,
) {
    let Some(bucket) = bucket else { error!("add_table needs the name of a rule: see sync.create_bucket") };
    let Some(table) = table else { error!("rule \"{bucket}\": add_table needs a table") };
    refuse_unless_owned(&bucket, table);
    let key = key.map(|text| Expressions::parse(&bucket, table, Purpose::Key, &text));
    let filter = filter.map(|text| Expressions::parse(&bucket, table, Purpose::Filter, &text));
    let (key_sql, key_types) = key.as_ref().map_or((vec![], vec![]), |k| (k.to_sql(), k.types()));
    let filter_sql = filter.as_ref().map(|f| f.to_sql().remove(0));
    let nodes = expr::to_string(key.iter().chain(&filter));
    run(
        "SELECT sync.put_entry($1, $2::pg_catalog.regclass, $3, $4::pg_catalog.regtype[], $5, $6, $7::pg_catalog.name[], $8)",
        &[
            bucket.into(),
            table.into(),
            key_sql.into(),
            key_types.into(),
            filter_sql.into(),
            nodes.into(),
            columns.into(),
            rls.into(),
        ],
    );
}

#[pg_extern]
fn set_rls(bucket: Option<String>, table: Option<Oid>, rls: Option<String>) {
    let (Some(bucket), Some(table)) = (bucket, table) else { error!("set_rls needs the name of a rule and a table") };
    owned(&format!("rule \"{bucket}\", table {}: only its owner can say who decides", relation_name(table)), table);
    run("SELECT sync.put_rls($1, $2::pg_catalog.regclass, $3)", &[bucket.into(), table.into(), rls.into()]);
}

/// Who decides conflicts decides what becomes of users' writes, and a handler runs with their rights.
fn with_policies_of(function: &str, table: Option<Oid>) -> Oid {
    let Some(table) = table else { error!("{function} needs a table") };
    owned(&format!("table {}: only its owner can declare policies", relation_name(table)), table);
    table
}

#[pg_extern]
fn set_policy(table: Option<Oid>, policy: Option<String>, column: Option<String>, handler: Option<Oid>, options: Option<JsonB>) {
    let table = with_policies_of("set_policy", table);
    let arguments = [table.into(), policy.into(), column.into(), handler.into(), options.into()];
    run("SELECT sync.put_policy($1::pg_catalog.regclass, $2, $3, $4, $5)", &arguments);
}

#[pg_extern]
fn drop_policy(table: Option<Oid>, column: Option<String>) {
    let table = with_policies_of("drop_policy", table);
    run("SELECT sync.take_policy($1::pg_catalog.regclass, $2)", &[table.into(), column.into()]);
}

#[pg_extern]
fn set_delete_policy(table: Option<Oid>, policy: Option<String>) {
    let table = with_policies_of("set_delete_policy", table);
    run("SELECT sync.put_delete_policy($1::pg_catalog.regclass, $2)", &[table.into(), policy.into()]);
}

#[pg_extern]
fn set_encrypted(table: Option<Oid>, column: Option<String>) {
    let Some(table) = table else { error!("set_encrypted needs a table") };
    owned(&format!("table {}: only its owner can have a column encrypted", relation_name(table)), table);
    run("SELECT sync.put_encrypted($1::pg_catalog.regclass, $2)", &[table.into(), column.unwrap_or_default().into()]);
}

/// A wrong number of columns or an impossible cast shows here and not at a pull. The members are only analysed: running, or even
/// planning them would evaluate `sync.user_id()` for whoever makes the rule.
#[pg_extern]
fn check_members(rule: String, members: Option<String>, types: Vec<Oid>) {
    let Some(members) = members else { return };
    let place = format!("rule \"{rule}\": members");
    let columns = |sql: &str| named(&place, || Spi::connect(|_| Query::prepare(&place, sql, &[]).columns()));
    let found = columns(&members);
    if found != types.len() {
        raise(
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            format!("{place} give {found} columns, the key has {}: select the key's columns, in its order", types.len()),
        );
    }
    columns(&members_query(&members, &types));
}

/// Fails where a pull would: where the rule's owner lacks a right, or a table is gone. A query without rows still asks for its rights.
#[pg_extern(stable, strict)]
fn plan_members(rule: i32) {
    for rule in crate::catalog::rules().into_iter().filter(|r| r.id == rule && !r.key_types.is_empty()) {
        let Some(members) = &rule.members else { continue };
        let sql = format!("{} LIMIT 0", members_query(members, &rule.key_types));
        let plan = || Spi::connect(|c| c.select(sql.as_str(), None, &[]).map(|_| ()));
        let place = format!("rule \"{}\": members", rule.name);
        named(&place, || spi("planning members", identity::as_role(rule.owner, plan)));
    }
}

/// Members with their columns cast to the key's types: `k1, k2, ...`. One may occur more than once.
pub fn members_query(members: &str, types: &[Oid]) -> String {
    let names: Vec<String> = (1..=types.len()).map(|i| format!("k{i}")).collect();
    let casts: Vec<String> =
        types.iter().zip(&names).map(|(t, name)| format!("m.{name}::{0} AS {name}", type_name(*t))).collect();
    format!("SELECT {} FROM ({members}) AS m({})", casts.join(", "), names.join(", "))
}

#[pg_extern(immutable, strict, parallel_safe)]
fn tag(first_name: &str) -> i64 {
    i64::from(sync_shared::hash::tag(first_name))
}
