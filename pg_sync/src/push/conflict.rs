//! What is said and kept about conflicts: who is taken to be later, why, and every version.

use super::author::Author;
use super::policy::ColumnPolicy;
use super::target::Target;
use crate::error::spi;
use pgrx::prelude::*;
use serde_json::{json, Value as Json};
use sync_shared::clock::EditTime;
use sync_shared::message::{Change, Conflict};
use sync_shared::Value;

/// The outcome for one column, or for a row.
pub enum Decision {
    /// One side's value stays: the device's, or the server's.
    Keep { mine: bool, reason: String },
    /// The batch is rejected.
    Reject { reason: String },
}

/// Whether the device's edit is the later one. Between two at the same time the server's stays.
pub fn later(author: Author, mine_at: EditTime) -> bool {
    match author {
        Author::Device | Author::Earlier => true,
        Author::Other { at } => mine_at > at,
    }
}

/// The later edit wins. `what` was changed by both: `"title"`.
pub fn later_wins(what: &str, author: Author, mine_at: EditTime) -> Decision {
    let mine = time(mine_at);
    let reason = match author {
        Author::Other { at } if mine_at > at => {
            format!("the device's edit of {mine} won, it is later than the server's of {}", time(at))
        }
        Author::Other { at } => format!("the server's edit of {} won, the device's of {mine} is not later", time(at)),
        Author::Device | Author::Earlier => {
            format!("the device's edit of {mine} won, the server's lies further back in its log")
        }
    };
    Decision::Keep { mine: later(author, mine_at), reason: format!("both changed {what}; {reason}") }
}

/// By a policy that chooses a side, or none.
pub fn choose(policy: ColumnPolicy, what: &str, author: Author, mine_at: EditTime) -> Decision {
    let sides = sides(author, mine_at);
    let name = policy.name();
    match policy {
        ColumnPolicy::ServerWins => {
            Decision::Keep { mine: false, reason: format!("both changed {what} ({sides}); {name} kept the server's") }
        }
        ColumnPolicy::ClientWins => {
            Decision::Keep { mine: true, reason: format!("both changed {what} ({sides}); {name} took the device's") }
        }
        ColumnPolicy::Reject => Decision::Reject { reason: format!("both changed {what} ({sides})") },
        _ => later_wins(what, author, mine_at),
    }
}

/// When either side edited.
pub fn sides(author: Author, mine_at: EditTime) -> String {
    let theirs = match author {
        Author::Other { at } => format!("the server at {}", time(at)),
        Author::Device => "the server with an earlier batch of the device".into(),
        Author::Earlier => "the server further back than its log".into(),
    };
    format!("{theirs}, the device at {}", time(mine_at))
}

/// A time as people and JSON read it.
pub fn time(at: EditTime) -> String {
    /// Microseconds from 1970 to 2000, where Postgres's clock starts.
    const EPOCH_MICROS: i64 = 946_684_800_000_000;
    crate::calendar::timestamp(at.saturating_sub(EPOCH_MICROS), true).to_string()
}

/// Columns of a row with one version's values, as a JSON object.
pub fn version<'v>(target: &Target, values: impl IntoIterator<Item = (usize, &'v Value)>) -> Value {
    let pairs = values.into_iter().map(|(column, value)| (target.table.columns[column].name.clone(), as_json(value)));
    Value::Text(Json::Object(pairs.collect()).to_string())
}

/// A conflict over the whole row, without its versions.
pub fn of_row(change: &Change, policy: &str, reason: String) -> Conflict {
    Conflict {
        table: change.table,
        key: change.key.clone(),
        column: None,
        base: Value::Null,
        theirs: Value::Null,
        mine: Value::Null,
        result: Value::Null,
        reason,
        policy: policy.into(),
    }
}

/// A value as people read it; bytes in hexadecimal, what JSON has no number for as text.
pub fn as_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(i) => json!(i),
        Value::Real(r) if r.is_finite() => json!(r),
        Value::Real(r) => json!(r.to_string()),
        // jsonb has no NUL.
        Value::Text(t) => json!(t.replace('\0', "\u{fffd}")),
        Value::Blob(b) => json!({ "hex": b.iter().map(|b| format!("{b:02x}")).collect::<String>() }),
    }
}

/// Keeps conflicts in `sync.conflict`.
pub fn remember<'a>(
    device: uuid::Uuid,
    conflicts: impl Iterator<Item = (i64, &'a Conflict)>,
    targets: &std::collections::HashMap<u32, Target>,
) {
    let device = pgrx::Uuid::from_bytes(*device.as_bytes());
    let written = Spi::connect_mut(|c| {
        for (number, conflict) in conflicts {
            let Some(target) = targets.get(&conflict.table) else { continue };
            let column = conflict.column.and_then(|tag| target.table.columns.iter().find(|c| c.tag == tag));
            let key = Json::from(conflict.key.iter().map(as_json).collect::<Vec<_>>()).to_string();
            // Whole rows are JSON already.
            let version = |value: &Value| match value {
                Value::Text(object) if column.is_none() => object.clone(),
                other => as_json(other).to_string(),
            };
            c.update(
                "INSERT INTO sync.conflict (device, number, relid, key, column_name, base, theirs, mine, result, reason, policy)
                 VALUES ($1, $2, $3::regclass, $4::jsonb, $5, $6::jsonb, $7::jsonb, $8::jsonb, $9::jsonb, $10, $11)",
                None,
                &[
                    device.into(),
                    number.into(),
                    target.table.relation.into(),
                    key.into(),
                    column.map(|c| c.name.clone()).into(),
                    version(&conflict.base).into(),
                    version(&conflict.theirs).into(),
                    version(&conflict.mine).into(),
                    version(&conflict.result).into(),
                    conflict.reason.as_str().into(),
                    conflict.policy.as_str().into(),
                ],
            )?;
        }
        Ok::<_, spi::Error>(())
    });
    spi("recording conflicts", written);
}
