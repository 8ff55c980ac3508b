//! Why a batch was not applied.

use pgrx::prelude::*;
use sync_shared::message::Conflict;

/// SQLSTATE, words and the object that refused.
#[derive(Debug, Clone, Default)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    /// The constraint, column or table, if any.
    pub subject: String,
    /// The state of the server is the reason, not the batch: it may be applied later.
    pub passing: bool,
    /// Conflicts that are the reason.
    pub conflicts: Vec<Conflict>,
    /// Positions of updates whose rows are to be sent whole.
    pub whole: Box<[u32]>,
}

/// A policy rejects what conflicts.
pub const REJECTED_BY_POLICY: &str = "SY010";
/// A policy cannot be used: its handler is gone or does not answer as it should, or the table has changed.
pub const UNUSABLE_POLICY: &str = "SY011";

impl Refusal {
    /// A refusal of our own.
    pub fn new(code: &str, message: impl Into<String>, subject: impl Into<String>) -> Self {
        Refusal { code: code.into(), message: message.into(), subject: subject.into(), ..Refusal::default() }
    }

    /// Rows that the batch changes are gone, and can be put back if the device sends them whole.
    pub fn asks_for(whole: &[u32]) -> Self {
        let message =
            "rows of this batch were deleted on the server: it is sent again with the whole rows, so that they can be put back";
        Refusal { passing: true, whole: whole.into(), ..Refusal::new("02000", message, "") }
    }
}

/// SQLSTATEs whose reason passes by itself. 40002 is an integrity violation, which does not.
pub fn passes(code: &str) -> bool {
    let class = &code[..code.len().min(2)];
    matches!(class, "40" | "53" | "57" | "58") && code != "40002" || matches!(code, "55P03" | "25006")
}

/// A SQLSTATE as text: five characters of six bits.
pub fn sqlstate(packed: i32) -> String {
    (0..5).map(|i| char::from(((packed >> (6 * i)) & 0x3f) as u8 + b'0')).collect()
}

/// The code of an error that Rust raised.
pub fn sqlstate_of(code: PgSqlErrorCode) -> String {
    sqlstate(code as i32)
}
