//! The native halves of `sync.set_mode`, `sync.add_upload_table` and `sync.keep_history`: they see who calls, and hand on with the owner's rights.

use crate::expr::relation_name;
use crate::rules::{owned, run};
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

fn table_of(function: &str, table: Option<Oid>) -> Oid {
    let Some(table) = table else { error!("sync.{function} needs a table") };
    owned(&format!("table {}: only its owner can call sync.{function}", relation_name(table)), table);
    table
}

#[pg_extern]
fn set_mode(table: Option<Oid>, mode: Option<String>) {
    let table = table_of("set_mode", table);
    run("SELECT sync.put_mode($1::pg_catalog.regclass, $2)", &[table.into(), mode.into()]);
}

#[pg_extern]
fn add_upload_table(table: Option<Oid>, columns: Option<Vec<String>>) {
    let table = table_of("add_upload_table", table);
    run("SELECT sync.put_upload($1::pg_catalog.regclass, $2::pg_catalog.name[])", &[table.into(), columns.into()]);
}

#[pg_extern]
fn keep_history(table: Option<Oid>, keep: Option<pgrx::datum::Interval>) {
    let table = table_of("keep_history", table);
    run("SELECT sync.put_history($1::pg_catalog.regclass, $2)", &[table.into(), keep.into()]);
}
