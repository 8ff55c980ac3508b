//! Arrays and JSON arrays as sets: what each side added and removed.

use crate::error::spi;
use crate::identity::as_owner;
use crate::render::pinned;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use sync_shared::Value;

/// Both sides' changes in one value; None where one of them is JSON but no array. The values are text, as the server renders them.
pub fn merge(owner: Oid, base: &Value, theirs: &Value, mine: &Value) -> Option<Value> {
    let arguments = [array(base)?, array(theirs)?, array(mine)?];
    let sql = "SELECT sync.merge_sets($1::jsonb, $2::jsonb, $3::jsonb)::text";
    let [base, theirs, mine] = arguments.map(|a| a.map(str::to_owned).into());
    let run = || Spi::connect(|c| c.select(sql, Some(1), &[base, theirs, mine])?.first().get_one::<String>());
    let merged = spi("merging sets", as_owner(owner, || pinned(run)));
    Some(merged.map_or(Value::Null, Value::Text))
}

/// The text of a JSON array, or NULL.
fn array(value: &Value) -> Option<Option<&str>> {
    match value {
        Value::Null => Some(None),
        Value::Text(text) if text.trim_start().starts_with('[') => Some(Some(text)),
        _ => None,
    }
}
