//! What rows were, who changed them, and getting them back.

mod keeping;
mod looking;
mod restoring;

use postgres::Client;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database};

/// A table with a history.
pub fn tasks() -> (Database<'static>, Client) {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE task (id int PRIMARY KEY, title text, done boolean DEFAULT false)");
    db.run("INSERT INTO task VALUES (1, 'old', false)");
    db.run("SELECT sync.keep_history('task', '30 days')");
    let server = db.connect();
    (db, server)
}

/// The changes of a row: operation, title before, title after.
pub fn titles(server: &mut Client, key: &str) -> Vec<Vec<String>> {
    server_rows(server, &format!("SELECT operation, before ->> 'title', after ->> 'title' FROM sync.history('task', '{key}')"))
}

/// A moment between what was done and what comes.
pub fn moment(server: &mut Client) -> String {
    server_value(server, "SELECT clock_timestamp()")
}

/// A table's rows at a moment.
pub fn as_of(server: &mut Client, moment: &str) -> Vec<String> {
    let sql =
        format!("SELECT (r ->> 'id') || ' ' || coalesce(r ->> 'title', '') FROM sync.as_of('task', '{moment}') r ORDER BY 1");
    server_rows(server, &sql).into_iter().map(|row| row[0].clone()).collect()
}
