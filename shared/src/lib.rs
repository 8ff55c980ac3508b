//! What the two extensions must agree on, and nothing else: bytes in, values out.
//!
//! # Layout
//! - [`value`]: the five storage classes that travel, owned and borrowed
//! - [`row`]: rows as bare MessagePack values, read and written without a copy
//! - [`keys`]: lists of keys, packed: the server's op log
//! - [`hash`]: the canonical hash of a row, content sums, tags and bucket ids
//! - [`ranges`]: parts compared by ranges of their keys
//! - [`message`]: every message, field by field (`docs/protocol.md` explains them)
//! - [`envelope`]: the versioned header and compression around a message; [`signed`]: the signatures in front of it
//! - [`encrypted`]: what devices encrypt and the server only stores
//! - [`undone`]: what rejected batches leave behind in those made on top of them
//! - [`clock`]: the order of edits made on different devices
//! - [`limits`], [`count`], [`error`]: what is refused, and how it is said
//!
//! The crate is pure: no database, clock, randomness or I/O.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod clock;
pub mod count;
pub mod encrypted;
pub mod envelope;
pub mod error;
pub mod hash;
pub mod keys;
pub mod limits;
pub mod message;
pub mod ranges;
pub mod row;
pub mod signed;
pub mod undone;
pub mod value;

pub use error::{Error, Result};
pub use value::{Value, ValueRef};
