//! Signing out: the next user starts afresh, or nothing stays readable in the file.

use crate::apply::forget_pass;
use crate::error::{Error, Result};
use crate::host::{Answer, Db};
use crate::store::Store;
use crate::table::{self, quote};
use crate::transaction::transaction;
use crate::{file, meta, seal};
use serde_json::json;
use sync_shared::ValueRef;

/// Forgets user and cursor; rows and unsent writes stay until somebody signs in.
pub fn keep(db: Db<'_>) -> Result<Answer> {
    db.keys().set(&[]);
    transaction(db, || {
        file::ready(db)?;
        seal::seal(&mut Store::open(db)?)?;
        forget_pass(db)?;
        meta::set(db, "cursor", ValueRef::Blob(&[]))?;
        meta::set(db, "user", ValueRef::Text(""))?;
        meta::next_turn(db)?;
        // Nothing is claimed as held: the next user gets all of their buckets, and those of nobody go.
        db.run("UPDATE main.sync_bucket SET refetch = 1", &[])?;
        let pending = db.number("SELECT count(*) FROM main.sync_batch WHERE state IN (0, 1, 4)", &[])?;
        Answer::text(&json!({ "kept": true, "pending": pending }).to_string())
    })
}

/// Removes every synced table and everything the library keeps, and overwrites what they occupied.
pub fn wipe(db: Db<'_>) -> Result<Answer> {
    db.keys().set(&[]);
    emptied(db, || Ok(()), wiped)
}

/// The same because the server says so. The file remembers it: it does not start over as a new device by itself.
pub fn ordered(db: Db<'_>, order: &str) -> Result<Answer> {
    let remember = || {
        file::create(db)?;
        meta::set(db, "wiped", ValueRef::Text(order))?;
        meta::set(db, "notice", ValueRef::Text(order))
    };
    emptied(db, remember, |advice| {
        let report = json!({
            "more": false, "kind": "notice", "tables": [], "rows": 0, "message": order, "wiped": true, "advice": advice,
            "verdicts": { "accepted": 0, "merged": 0, "rejected": 0, "later": 0, "held": 0 },
        });
        Answer::text(&report.to_string())
    })
}

/// Refuses to sync a file that was emptied on the server's order.
pub fn refuse_wiped(db: Db<'_>) -> Result<()> {
    match meta::text(db, "wiped")?.as_str() {
        "" => Ok(()),
        order => Err(Error::plain(format!("{order}; sync_sign_out('wipe') makes this file a new device"))),
    }
}

/// Empties the file, does what comes `after` in the same transaction, and says so with advice on what is left to do.
fn emptied(db: Db<'_>, after: impl FnOnce() -> Result<()>, say: impl Fn(&str) -> Result<Answer>) -> Result<Answer> {
    if !db.autocommit() {
        return Err(Error::plain("sync_sign_out('wipe') cannot work inside an open transaction: COMMIT first"));
    }
    match file::state(db)? {
        file::State::Empty | file::State::Taken => return say(""),
        // Of a newer library.
        file::State::Format(_) => drop(file::format(db)?),
        file::State::Damaged => {}
    }
    let before = db.number("PRAGMA main.secure_delete", &[])?;
    let restore = format!("PRAGMA main.secure_delete = {before}");
    db.run("PRAGMA main.secure_delete = ON", &[])?;
    let triggers = db.triggers(-1);
    db.triggers(0);
    let enforced = db.foreign_keys(-1);
    db.foreign_keys(0);
    let outcome = transaction(db, || {
        for name in synced_tables(db)? {
            db.run(&format!("DROP TABLE IF EXISTS main.{}", quote(&name)), &[])?;
        }
        let own = db.all("SELECT type, name FROM main.sqlite_schema WHERE name LIKE 'sync\\_%' ESCAPE '\\' AND type IN ('table', 'view') ORDER BY type DESC", &[], |r| {
            Ok((r.text(0), r.text(1)))
        })?;
        for (kind, name) in own {
            db.run(&format!("DROP {kind} main.{}", quote(&name)), &[])?;
        }
        overwrite_free_pages(db)?;
        db.run(&restore, &[])?;
        after()?;
        // Both, before the commit.
        let busy = say("run PRAGMA wal_checkpoint(TRUNCATE), then VACUUM")?;
        Ok((busy, say("run VACUUM to give the space back")?))
    });
    // The write-ahead log still has old pages; it can be emptied unless somebody is reading.
    let outcome = outcome.map(|(busy, emptied)| if db.empty_log() { emptied } else { busy });
    db.triggers(i32::from(triggers));
    db.foreign_keys(i32::from(enforced));
    if outcome.is_err() {
        // Where this fails, what is deleted later is overwritten too.
        let _ = db.run(&restore, &[]);
    }
    outcome
}

/// What the list of tables names, as far as it can be read, and what has capture triggers.
fn synced_tables(db: Db<'_>) -> Result<Vec<String>> {
    let mut names: Vec<String> =
        table::load(db).map_or(Vec::new(), |known| known.into_iter().map(|info| info.table.name).collect());
    let captured = "SELECT DISTINCT tbl_name FROM main.sqlite_schema WHERE type = 'trigger' AND name GLOB 'sync_[0-9]*_*'";
    names.extend(db.all(captured, &[], |row| Ok(row.text(0)))?);
    let is_table = "SELECT count(*) FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
    let mut found = Vec::new();
    for name in names {
        if db.number(is_table, &[ValueRef::Text(&name)])? > 0 {
            found.push(name);
        }
    }
    Ok(found)
}

fn wiped(advice: &str) -> Result<Answer> {
    Answer::text(&json!({ "wiped": true, "advice": advice }).to_string())
}

/// Rows deleted earlier may still be readable in free pages: fills them once, and lets secure_delete zero them.
fn overwrite_free_pages(db: Db<'_>) -> Result<()> {
    let free = db.number("PRAGMA main.freelist_count", &[])?;
    let page = db.number("PRAGMA main.page_size", &[])?;
    db.run("CREATE TABLE main.sync_filler(x)", &[])?;
    let mut fill = db.prepare("INSERT INTO main.sync_filler VALUES (zeroblob(?1))")?;
    // One page's worth at a time keeps every blob below SQLite's length limit.
    for _ in 0..free {
        fill.run(&[ValueRef::Integer(page - 100)])?;
    }
    drop(fill);
    db.run("DROP TABLE main.sync_filler", &[])
}
