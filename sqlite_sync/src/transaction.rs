//! One transaction around whatever a call does.

use crate::error::{Error, Result};
use crate::host::{Db, Statement};
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Runs `body` in one transaction, or in a savepoint of the application's; on an error everything is undone. Where SQLite has no
/// memory that is the application's whole transaction, as it is for SQLite's own statements.
pub fn transaction<T>(db: Db<'_>, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let (mut body, mut value) = (Some(body), None);
    in_one(db, &mut || {
        value = body.take().map(|body| body()).transpose()?;
        Ok(())
    })?;
    value.ok_or_else(|| Error::plain("a transaction had nothing to do"))
}

/// For any body, so that the library has it once.
fn in_one(db: Db<'_>, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let own = db.autocommit();
    // IMMEDIATE: a deferred one may find, halfway through, that somebody else has written.
    let begin = if own { "BEGIN IMMEDIATE" } else { "SAVEPOINT sync_call" };
    let mut end = End::prepare(db, own)?;
    db.run(begin, &[])?;
    let guard = db.guard().inspect_err(|_| end.undo(db))?;
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(Error::panicked()));
    // Made anew: triggers that were switched meanwhile have made the first ones outdated.
    match outcome.and_then(|value| Ok((value, End::prepare(db, own)?))) {
        Ok(((), mut end)) => {
            // Behind a commit SQLite copies its log into the file, unless a statement is reading.
            drop(guard);
            end.commit.run(&[]).inspect_err(|_| end.undo(db))?;
            Ok(())
        }
        Err(error) => {
            match End::prepare(db, own) {
                Ok(mut end) => end.undo(db),
                Err(_) => db.give_up(),
            }
            Err(error)
        }
    }
}

/// How a transaction ends: made before it has to, since there may be no memory then.
struct End<'c> {
    own: bool,
    commit: Statement<'c>,
    undo: Statement<'c>,
}

impl<'c> End<'c> {
    fn prepare(db: Db<'c>, own: bool) -> Result<Self> {
        let (commit, undo) = if own { ("COMMIT", "ROLLBACK") } else { ("RELEASE sync_call", "ROLLBACK TO sync_call") };
        Ok(End { own, commit: db.prepare(commit)?, undo: db.prepare(undo)? })
    }

    /// A failing rollback leaves nothing better to do; the first error says why.
    fn undo(&mut self, db: Db<'_>) {
        // SQLite itself undoes all where the disk or the memory fails.
        if db.autocommit() {
            return;
        }
        let _ = self.undo.run(&[]);
        if !self.own {
            let _ = self.commit.run(&[]);
        }
    }
}
