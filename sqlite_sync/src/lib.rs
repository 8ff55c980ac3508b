//! The device's half of pg_sync: a SQLite extension that keeps an ordinary database file in step with Postgres.
//!
//! # Layout
//! From the outside in; each module only uses those below it.
//! - [`functions`]: the SQL functions, and their arguments
//! - [`apply`]: `apply_delta`, one transaction per message; staging of pages
//! - [`trust`]: `sync_trust`, and whose answers are applied
//! - [`pull`]: `pull_request`; [`wipe`]: `sync_sign_out`; [`sums`]: `sync_verify` and the sums for the server
//! - [`records`]: rejected batches and conflicts, retried or discarded; [`lost`]: rows that went without anybody's write, given back or discarded
//! - [`publish`]: pages become visible rows, with membership and sums
//! - [`answer`]: the server's verdicts; [`batch`]: local transactions on their way; [`seal`]: the capture log becomes batches
//! - [`order`]: which of them go first; [`keys`]: leased keys; [`rekey`]: rows that get another key
//! - [`store`]: visible rows, shadow rows, and the rebase of one on the other
//! - [`restage`]: staged pages in the order of a changed schema's columns; [`staged`]: what an unfinished pass leaves to the next
//! - [`schema`]: tables from the server's schema; [`capture`]: their triggers, in plain SQL
//! - [`boundary`]: which rows of the log are one transaction
//! - [`encrypted`]: values that the server has as ciphertext; [`keyring`]: the keys, and what they do
//! - [`file`]: the library's own tables; [`damage`]: what somebody else did to them; [`transaction`]: one around whatever a call does
//! - [`table`], [`meta`], [`json`], [`error`]: a table's statements; remembered values; values as JSON; errors
//! - [`host`]: every unsafe call into SQLite
//!
//! `sql/tables.sql` shows everything the library keeps in the file, `sql/views.sql` how to read it.
#![deny(unsafe_code)]

mod answer;
mod apply;
mod batch;
mod boundary;
mod capture;
mod damage;
mod encrypted;
mod error;
mod file;
mod functions;
mod host;
mod json;
mod keyring;
mod keys;
mod lost;
mod meta;
mod order;
mod publish;
mod pull;
mod records;
mod rekey;
mod restage;
mod schema;
mod seal;
mod staged;
mod store;
mod sums;
mod table;
mod transaction;
mod trust;
mod wipe;

use sqlite_loadable::ext::{sqlite3, sqlite3_api_routines};
use std::ffi::{c_char, c_uint};

/// The entry point that SQLite looks for in `libsqlite_sync`.
///
/// # Safety
/// To be called by SQLite alone, when it loads the extension.
#[allow(unsafe_code)]
#[no_mangle]
pub unsafe extern "C" fn sqlite3_sqlitesync_init(
    db: *mut sqlite3,
    message: *mut *mut c_char,
    api: *mut sqlite3_api_routines,
) -> c_uint {
    // SAFETY: SQLite's own arguments, passed on as they came.
    unsafe {
        host::enter(db, message, api, |db| {
            boundary::register(db)?;
            functions::register(db)
        })
    }
}
