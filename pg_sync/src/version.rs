//! Whether the library and the SQL in this database belong together. A new library is there for every database at once, and the SQL of
//! each stays what it was until `ALTER EXTENSION pg_sync UPDATE`.
#![allow(unsafe_code)]

use crate::error::{raise, spi};
use crate::query::Kept;
use crate::render::pinned;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::c_int;

/// Of the library. Must equal `default_version` in pg_sync.control.
const LIBRARY: &str = env!("CARGO_PKG_VERSION");

thread_local! {
    /// Found to be the same; taken back when a function changes, as every update of the extension changes some.
    static SAME: Cell<bool> = const { Cell::new(false) };
    static LISTENS: Cell<bool> = const { Cell::new(false) };
}

#[pg_extern(stable, parallel_safe)]
fn library_version() -> &'static str {
    LIBRARY
}

/// Refuses to serve devices where the two differ.
pub fn refuse_other() {
    if SAME.get() {
        return;
    }
    if !LISTENS.replace(true) {
        let functions = pg_sys::SysCacheIdentifier::PROCOID as c_int;
        // SAFETY: a function that lives as long as the library, which is never unloaded.
        unsafe { pg_sys::CacheRegisterSyscacheCallback(functions, Some(changed), pg_sys::Datum::from(0)) };
    }
    let sql = "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'pg_sync'";
    let found = pinned(|| Spi::connect(|c| c.select(Kept(sql), Some(1), &[])?.first().get_one::<String>()));
    let found = spi("reading the extension's version", found).unwrap_or_default();
    if found != LIBRARY {
        let message = format!("the library of pg_sync is of version {LIBRARY}, but what is in this database of {found}");
        let remedy = "ALTER EXTENSION pg_sync UPDATE as a superuser; if the library is the older one, install the newer one";
        raise(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, format!("{message}: {remedy}, and connect again"));
    }
    SAME.set(true);
}

/// Called by Postgres where a function has changed, or any may have.
///
/// # Safety
/// Called by Postgres, at any time.
#[pg_guard]
unsafe extern "C-unwind" fn changed(_argument: pg_sys::Datum, _cache: c_int, _hash: u32) {
    SAME.set(false);
}
