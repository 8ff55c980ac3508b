//! One local transaction, one batch: what a connection with the extension writes to the log carries a number of its transaction.
//!
//! The capture triggers are plain SQL, for connections without the extension too, and put `char()` into every row of the log:
//! SQLite's own function, which makes an empty text out of no characters. On a connection with the extension `char()` without
//! arguments answers the number of the open transaction instead; with arguments it stays SQLite's. So nothing has to be written when
//! a transaction begins or commits (commit hooks would do, but there is one per connection, and it belongs to the application),
//! and a rollback, to a savepoint too, takes away what it takes away.

use crate::error::Result;
use crate::host::{self, Answer, Db};
use sqlite_loadable::FunctionFlags;
use std::cell::Cell;
use uuid::Uuid;

/// Numbers stay below this, so that they take six bytes in the log.
const NUMBERS: i64 = 1 << 47;

/// Makes this connection number its transactions.
pub fn register(db: Db<'_>) -> Result<()> {
    // Only neighbours in the log must differ, so connections begin anywhere.
    let number = Cell::new((Uuid::new_v4().as_u128() as i64).rem_euclid(NUMBERS));
    let seen = Cell::new(None);
    // It reads and changes nothing but these two numbers, so it may run in a trigger under trusted_schema=OFF.
    host::define(db, "char", 0, FunctionFlags::INNOCUOUS, move |db, _| {
        // It grows with every commit to the file, this connection's own ones too, and not within a transaction that writes.
        // After a rollback the number stays, and so does what it numbered not.
        let version = db.data_version()?;
        if seen.replace(Some(version)) != Some(version) {
            number.set((number.get() + 1) % NUMBERS);
        }
        Ok(Answer::Integer(number.get()))
    })?;
    // Statements prepared before still call SQLite's char() in their triggers. A change of the TEMP schema has them prepared anew;
    // where it is refused (a connection that only reads) nothing is captured either.
    let _ = db.run("CREATE TEMP VIEW sync_prepared AS SELECT 1", &[]).and_then(|()| db.run("DROP VIEW temp.sync_prepared", &[]));
    Ok(())
}
