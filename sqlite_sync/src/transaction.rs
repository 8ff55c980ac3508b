//! One transaction around whatever a call does.

use crate::error::{Error, Result};
use crate::host::Db;

/// Runs `body` in one transaction, or in a savepoint of the application's; on an error everything is undone.
pub fn transaction<T>(db: Db<'_>, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = db.autocommit();
    // IMMEDIATE: a deferred one may find, halfway through, that somebody else has written.
    let (begin, commit, undo) = if own {
        ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK")
    } else {
        ("SAVEPOINT sync_call", "RELEASE sync_call", "ROLLBACK TO sync_call")
    };
    // Made now, since there may be no memory when they are needed.
    let (mut commit, mut undo) = (db.prepare(commit)?, db.prepare(undo)?);
    db.run(begin, &[])?;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or_else(|_| Err(Error::panicked()));
    let outcome = outcome.and_then(|value| commit.run(&[]).map(|()| value));
    if outcome.is_err() && !(own && db.autocommit()) {
        // A failing rollback leaves nothing better to do; the first error says why.
        let _ = undo.run(&[]);
        if !own {
            let _ = commit.run(&[]);
        }
    }
    outcome
}
