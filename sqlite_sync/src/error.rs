//! What can go wrong on the device, each with a sentence that says what to do.

use crate::host;
use std::fmt;

/// Why a call was refused. Whatever it is, the database is as it was before the call.
#[derive(Debug)]
pub enum Error {
    /// SQLite itself: busy, full, a constraint.
    Sqlite { code: i32, message: String },
    /// Bytes that are no message, or a damaged one.
    Wire(sync_shared::Error),
    /// Anything else, in plain words.
    Plain(String),
}

/// The result of everything that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error in plain words.
    pub fn plain(text: impl Into<String>) -> Self {
        Error::Plain(text.into())
    }

    /// Bytes that contradict themselves or the schema.
    pub fn damaged(text: impl fmt::Display) -> Self {
        Error::Wire(sync_shared::Error::Damaged(text.to_string()))
    }

    /// SQLite has no memory.
    pub fn no_memory() -> Self {
        Error::Sqlite { code: host::NOMEM, message: String::new() }
    }

    /// Whether SQLite had no memory.
    pub fn is_no_memory(&self) -> bool {
        matches!(self, Error::Sqlite { code, .. } if code & 0xff == host::NOMEM)
    }

    /// A bug in this library; the transaction was rolled back.
    pub fn panicked() -> Self {
        Error::plain("sqlite_sync met a bug and undid the call: please report what was called")
    }

    /// The result code that the application sees.
    pub fn sqlite_code(&self) -> i32 {
        match self {
            Error::Sqlite { code, .. } if *code != host::OK => *code,
            _ => host::ERROR,
        }
    }

    /// Whether SQLite found a statement of this library's wrong, or a value of another kind than was put there.
    pub fn is_unexpected(&self) -> bool {
        matches!(self, Error::Sqlite { code, .. } if [host::ERROR, host::MISMATCH, host::CONSTRAINT].contains(&(code & 0xff)))
    }

    /// Whether one row was refused by a constraint or by a trigger's RAISE, and the others may go on.
    pub fn is_constraint(&self) -> bool {
        matches!(self, Error::Sqlite { code, .. } if code & 0xff == host::CONSTRAINT)
    }

    /// Whether a statement was not even begun since this connection takes none so long: a limit that the application has set.
    pub fn is_too_much(&self) -> bool {
        matches!(self, Error::Sqlite { code, .. } if [host::ERROR, host::TOO_BIG].contains(&(code & 0xff)))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            error if error.is_no_memory() => f.write_str("out of memory: the call was undone, repeat it"),
            Error::Sqlite { message, .. } => f.write_str(message),
            Error::Wire(error) => write!(f, "{}: {error}", error.code()),
            Error::Plain(text) => f.write_str(text),
        }
    }
}

impl From<sync_shared::Error> for Error {
    fn from(error: sync_shared::Error) -> Self {
        Error::Wire(error)
    }
}
