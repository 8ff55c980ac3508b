//! What can be wrong with bytes that claim to be a message.

/// Why bytes were refused. Every variant has a stable code, listed in `docs/protocol.md`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The first bytes are not this protocol's.
    #[error("these bytes are not a sync message (no header): pass them on exactly as the other side returned them")]
    NotAMessage,
    /// The other side speaks a version this library does not know.
    #[error("the message is of wire version {0}, this library understands {min} to {max}: update the older side", min = crate::limits::WIRE_VERSION_OLDEST, max = crate::limits::WIRE_VERSION)]
    Version(u8),
    /// A message of one kind arrived where another was expected.
    #[error("a {found} message cannot be used here, {expected} was expected")]
    Kind {
        /// What the header says.
        found: &'static str,
        /// What the caller can take.
        expected: &'static str,
    },
    /// A declared size is over the limit.
    #[error("the message declares {found} {what}, the limit is {limit}")]
    TooLarge {
        /// What is counted: bytes, batches, columns.
        what: &'static str,
        /// The declared number.
        found: u64,
        /// The limit in `limits`.
        limit: u64,
    },
    /// Cut short or changed on the way.
    #[error("the message is damaged ({0}): fetch it again")]
    Damaged(String),
    /// The device trusts keys, and none of them has signed it.
    #[error("this answer {0}: nothing was changed. Either something between here and the server altered it, or the server signs with another key than sync_trust() was given")]
    Untrusted(&'static str),
}

impl Error {
    /// The stable code of this error, as `docs/protocol.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Error::NotAMessage => "SY001",
            Error::Version(_) => "SY002",
            Error::Kind { .. } => "SY003",
            Error::TooLarge { .. } => "SY004",
            Error::Damaged(_) => "SY005",
            Error::Untrusted(_) => "SY006",
        }
    }

    pub(crate) fn damaged(what: impl std::fmt::Display) -> Self {
        Error::Damaged(what.to_string())
    }
}

/// The result of decoding.
pub type Result<T> = std::result::Result<T, Error>;
