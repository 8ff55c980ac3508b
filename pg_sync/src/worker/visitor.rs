//! A visit to one database: what waits to be summed, each in a transaction of its own, then `sync.maintain()`.

use crate::identity::as_owner;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

/// Whatever is set for the database or the role, a visit runs under these.
const SETTINGS: &str = "SELECT pg_catalog.set_config(s.name, s.value, false) FROM (VALUES
    ('application_name', 'pg_sync'), ('search_path', 'pg_catalog, pg_temp'), ('default_transaction_isolation', 'read committed'),
    ('default_transaction_read_only', 'off'), ('statement_timeout', '0'), ('lock_timeout', '10s')) AS s (name, value)";

/// The extension's owner, if what is to be called is the extension's: anybody may own a schema of that name where it is not.
const OWNER: &str = "SELECT (SELECT e.extowner FROM pg_catalog.pg_extension e
    JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
        AND d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = pg_catalog.to_regprocedure('sync.attend()')
    WHERE e.extname = 'pg_sync')";

/// Within a transaction: the settings, and who owns the extension; None where there is none.
pub fn begin() -> Option<Oid> {
    one::<String>(SETTINGS);
    owner()
}

/// An ERROR ends the process, which logs it.
pub fn run() {
    let Some(owner) = BackgroundWorker::transaction(begin) else { return };
    BackgroundWorker::transaction(crate::version::refuse_other);
    if step(owner, "SELECT sync.is_due()") != Some(true) {
        return;
    }
    let mut built = Some(0);
    while let Some(last) = built {
        built = step(owner, &format!("SELECT sync.build_next({last})"));
    }
    step::<bool>(owner, "SELECT sync.attend()");
}

/// Whoever owns the extension, if it is there. Within a transaction.
pub fn owner() -> Option<Oid> {
    one(OWNER)
}

/// One transaction, with the rights of the extension's owner.
pub fn step<T: FromDatum + IntoDatum + 'static>(owner: Oid, sql: &str) -> Option<T> {
    BackgroundWorker::transaction(|| as_owner(owner, || one(sql)))
}

/// What a query answers. Within a transaction.
fn one<T: FromDatum + IntoDatum + 'static>(sql: &str) -> Option<T> {
    crate::error::spi("a visit of the background worker", Spi::get_one(sql))
}
