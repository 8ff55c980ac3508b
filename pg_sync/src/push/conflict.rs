//! What happens where a device and somebody else changed the same thing.

use super::author::Author;
use super::target::Target;
use crate::error::spi;
use pgrx::prelude::*;
use serde_json::{json, Value as Json};
use sync_shared::clock::EditTime;
use sync_shared::message::{Change, Conflict};
use sync_shared::Value;

/// The outcome for one column.
pub struct Decision {
    /// The device's value stays.
    pub mine: bool,
    /// In plain words.
    pub reason: String,
}

/// The later edit wins; between two at the same time the server's stays.
pub fn decide(column: &str, author: Author, mine_at: EditTime) -> Option<Decision> {
    let mine = time(mine_at);
    match author {
        Author::Device => None,
        Author::Earlier => Some(Decision {
            mine: true,
            reason: format!(
                "both changed \"{column}\"; the device's edit of {mine} won, the server's lies further back in its log"
            ),
        }),
        Author::Other { at } if mine_at > at => Some(Decision {
            mine: true,
            reason: format!(
                "both changed \"{column}\"; the device's edit of {mine} won, it is later than the server's of {}",
                time(at)
            ),
        }),
        Author::Other { at } => Some(Decision {
            mine: false,
            reason: format!(
                "both changed \"{column}\"; the server's edit of {} won, the device's of {mine} is not later",
                time(at)
            ),
        }),
    }
}

/// Why a delete was not carried out.
pub const UPDATE_WINS: &str =
    "the row was changed on the server after the device last saw it; update wins over delete, so it was kept";

fn time(at: EditTime) -> String {
    /// Microseconds from 1970 to 2000, where Postgres's clock starts.
    const EPOCH_MICROS: i64 = 946_684_800_000_000;
    crate::calendar::timestamp(at.saturating_sub(EPOCH_MICROS), true)
}

/// A conflict over the whole row; each version as a JSON object of the columns that `columns` names.
pub fn whole_row(target: &Target, change: &Change, columns: &[usize], base: &[Value], theirs: &[Value]) -> Conflict {
    let object = |values: &[Value]| {
        let pairs = columns.iter().zip(values).map(|(&i, value)| (target.table.columns[i].name.clone(), as_json(value)));
        Value::Text(Json::Object(pairs.collect()).to_string())
    };
    Conflict {
        table: change.table,
        key: change.key.clone(),
        column: None,
        base: object(base),
        theirs: object(theirs),
        mine: Value::Null,
        result: object(theirs),
        reason: UPDATE_WINS.into(),
        policy: "merge".into(),
    }
}

/// A value as people read it; bytes in hexadecimal, what JSON has no number for as text.
fn as_json(value: &Value) -> Json {
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
                "INSERT INTO sync.conflict (device, number, relid, key, column_name, base, theirs, mine, result, reason)
                 VALUES ($1, $2, $3::regclass, $4::jsonb, $5, $6::jsonb, $7::jsonb, $8::jsonb, $9::jsonb, $10)",
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
                ],
            )?;
        }
        Ok::<_, spi::Error>(())
    });
    spi("recording conflicts", written);
}
