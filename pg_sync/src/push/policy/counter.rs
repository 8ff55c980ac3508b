//! Numbers: differences are added, or the greatest or smallest stays. Postgres computes, on the column's own type.
//!
//! A counter never asks who wrote the server's value. What a device sends is its value before and after one transaction, and the
//! difference of the two is what its user did, whatever the server holds:
//!
//! - two devices that start from 0, one +1, the other +2: the second finds 1 and adds 2 - 0;
//! - one device, 0 to 1 and then 1 to 2: the second batch finds the 1 of the first, which is what it started from; where the server
//!   made 3 of the first batch (another device had added 2), it finds 3 and adds 2 - 1;
//! - the first of the two rejected: the second finds 0 and adds 2 - 1;
//! - a merged value that the device has seen and counted on from is what it starts from;
//! - a batch that is sent again is known by its random bytes and not applied;
//! - both sides at the same value are not the same change: 0 to 1 twice is 2;
//! - two inserts of the same row start from nothing: the values are added.

use super::ColumnPolicy;
use crate::push::refusal::{Refusal, UNUSABLE_POLICY};
use crate::push::statements::{Parameter, Statements};
use crate::render::{base_type, type_name, Renderer};
use pgrx::pg_sys;
use sync_shared::Value;

/// Both sides' changes in one value; None where the device wrote NULL, which is no difference.
pub fn add(
    statements: &mut Statements,
    renderer: &mut Renderer,
    base: Parameter,
    theirs: Parameter,
    mine: Parameter,
) -> Result<Option<Value>, Refusal> {
    if mine.is_null() {
        return Ok(None);
    }
    let declared = base_type(renderer.type_oid());
    let name = type_name(declared);
    // Integers may leave their range on the way to a sum that is in it.
    let (wide, zero) = match declared {
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID | pg_sys::NUMERICOID => ("pg_catalog.numeric".to_owned(), "0"),
        pg_sys::FLOAT4OID | pg_sys::FLOAT8OID => ("pg_catalog.float8".to_owned(), "0"),
        pg_sys::INTERVALOID => (name.clone(), "'0'"),
        pg_sys::MONEYOID => (name.clone(), "0::pg_catalog.numeric"),
        _ => return Err(misfit(ColumnPolicy::Counter, &name)),
    };
    let term = |i: usize| format!("COALESCE(${i}::{name}::{wide}, {zero}::{wide})");
    let sql = format!("SELECT ({} OPERATOR(pg_catalog.+) ({} OPERATOR(pg_catalog.-) {}))::{name}", term(2), term(3), term(1));
    one(statements, renderer, &sql, &[base, theirs, mine])
}

/// The greater or the smaller one; NULL is neither.
pub fn extreme(
    statements: &mut Statements,
    renderer: &mut Renderer,
    policy: ColumnPolicy,
    collation: &str,
    theirs: Parameter,
    mine: Parameter,
) -> Result<Option<Value>, Refusal> {
    let name = type_name(base_type(renderer.type_oid()));
    let function = if policy == ColumnPolicy::Max { "GREATEST" } else { "LEAST" };
    let sql = format!("SELECT {function}($1::{name}{collation}, $2::{name})");
    one(statements, renderer, &sql, &[theirs, mine])
}

fn one(
    statements: &mut Statements,
    renderer: &mut Renderer,
    sql: &str,
    parameters: &[Parameter],
) -> Result<Option<Value>, Refusal> {
    Ok(statements.run(sql, parameters, &mut [renderer])?.row.map(|mut row| row.remove(0)))
}

/// The column's type has changed since the policy was declared.
pub fn misfit(policy: ColumnPolicy, type_name: &str) -> Refusal {
    let message = format!(
        "its policy \"{}\" does not fit its type {type_name} any longer: declare another one with sync.set_policy",
        policy.name()
    );
    Refusal::new(UNUSABLE_POLICY, message, "")
}
