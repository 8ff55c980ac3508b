//! Every kind of statement is captured, with and without the extension, whatever the application's triggers and pragmas.

mod common;
use common::*;
use rusqlite::Connection;

/// Runs `sql` as one transaction on a device that has k1:a and k2:b, on a connection with or without the extension and with
/// recursive triggers on or off, and says what would be sent.
fn sent(prepare: &str, sql: &str) -> Vec<String> {
    let mut all = Vec::new();
    for extension in [true, false] {
        for recursive in ["ON", "OFF"] {
            let device = Device::with(&[row(1, "a"), row(2, "b")]);
            device.run(prepare);
            let plain;
            let db: &Connection = if extension {
                &device.db
            } else {
                plain = device.plain();
                &plain
            };
            db.execute_batch(&format!("PRAGMA recursive_triggers = {recursive}; PRAGMA trusted_schema = OFF")).unwrap();
            let _ = db.execute_batch(&format!("BEGIN; {sql}"));
            if !db.is_autocommit() {
                db.execute_batch("COMMIT").unwrap();
            }
            let batches = device.push();
            assert!(batches.len() <= 1, "{sql}: one transaction, one batch");
            // A key chosen at random is only known to be one.
            let length = |s: String| if s.starts_with("insert ") && s.len() > 50 { format!("{} a uuid", &s[..6]) } else { s };
            all.push(kinds(&batches).into_iter().map(length).collect::<Vec<_>>());
        }
    }
    assert!(all.windows(2).all(|w| w[0] == w[1]), "{sql}: {all:?}");
    all.pop().unwrap()
}

#[test]
fn plain_statements() {
    assert_eq!(sent("", "INSERT INTO notes(id, title) VALUES ('k3', 'c')"), ["insert k3 (id, title)"]);
    assert_eq!(sent("", "UPDATE notes SET title = 'x'"), ["update k1 (title)", "update k2 (title)"]);
    assert_eq!(sent("", "DELETE FROM notes"), ["delete k1 (id, rank, title, body)", "delete k2 (id, rank, title, body)"]);
    assert_eq!(sent("", "UPDATE notes SET title = title"), [""; 0]);
    assert_eq!(sent("", "UPDATE notes SET title = 'x' WHERE id = 'k1'; UPDATE notes SET title = 'a' WHERE id = 'k1'"), [""; 0]);
    assert_eq!(sent("", "INSERT INTO notes(id) VALUES ('k3'); DELETE FROM notes WHERE id = 'k3'"), [""; 0]);
    assert_eq!(sent("", "DELETE FROM notes WHERE id = 'k1'; INSERT INTO notes(id, title) VALUES ('k1', 'a')"), [""; 0]);
}

#[test]
fn a_key_that_changes_is_a_delete_and_an_insert() {
    assert_eq!(
        sent("", "UPDATE notes SET id = 'k9' WHERE id = 'k1'"),
        ["delete k1 (id, rank, title, body)", "insert k9 (id, title)"]
    );
    assert_eq!(
        sent("", "UPDATE OR REPLACE notes SET id = 'k2' WHERE id = 'k1'"),
        ["delete k1 (id, rank, title, body)", "update k2 (title)"]
    );
}

#[test]
fn or_clauses() {
    assert_eq!(sent("", "INSERT OR REPLACE INTO notes(id, title) VALUES ('k1', 'x')"), ["update k1 (title)"]);
    assert_eq!(sent("", "REPLACE INTO notes(id, title) VALUES ('k3', 'x')"), ["insert k3 (id, title)"]);
    assert_eq!(sent("", "INSERT OR IGNORE INTO notes(id, title) VALUES ('k1', 'x')"), [""; 0]);
    assert_eq!(
        sent("", "INSERT OR IGNORE INTO notes(id, title) VALUES ('k3', 'c'), ('k1', 'x'), ('k4', 'd')"),
        ["insert k3 (id, title)", "insert k4 (id, title)"]
    );
    assert_eq!(
        sent("", "INSERT OR FAIL INTO notes(id, title) VALUES ('k3', 'c'), ('k1', 'x'), ('k4', 'd')"),
        ["insert k3 (id, title)"]
    );
    assert_eq!(sent("", "INSERT OR ABORT INTO notes(id, title) VALUES ('k3', 'c'), ('k1', 'x')"), [""; 0]);
    assert_eq!(
        sent("", "INSERT INTO notes(id, title) VALUES ('k1', 'x') ON CONFLICT DO UPDATE SET title = excluded.title"),
        ["update k1 (title)"]
    );
    assert_eq!(sent("", "UPDATE OR IGNORE notes SET id = 'k2' WHERE id = 'k1'"), [""; 0]);
}

#[test]
fn savepoints_and_rollback() {
    assert_eq!(
        sent("", "INSERT INTO notes(id) VALUES ('k3'); SAVEPOINT s; UPDATE notes SET title = 'x'; ROLLBACK TO s; INSERT INTO notes(id) VALUES ('k4'); RELEASE s"),
        ["insert k3 (id)", "insert k4 (id)"]
    );
    assert_eq!(
        sent("", "SAVEPOINT s; INSERT INTO notes(id) VALUES ('k3'); ROLLBACK TO s; INSERT INTO notes(id) VALUES ('k4')"),
        ["insert k4 (id)"]
    );
    assert_eq!(sent("", "INSERT INTO notes(id) VALUES ('k3'); ROLLBACK"), [""; 0]);
}

#[test]
fn keys_that_sqlite_chooses() {
    assert_eq!(sent("", "INSERT INTO numbers(x) VALUES (1.5), (2)"), ["insert 1 (id, x)", "insert 2 (id, x)"]);
    assert_eq!(
        sent("", "INSERT INTO numbers(id, x) VALUES (-1, 1), (7, 1); INSERT INTO numbers(x) VALUES (2)"),
        ["insert -1 (id, x)", "insert 7 (id, x)", "insert 8 (id, x)"]
    );
    assert_eq!(sent("", "INSERT INTO notes(title) VALUES ('x')"), ["insert a uuid"]);
    assert_eq!(sent("", "INSERT OR REPLACE INTO notes(id, title) VALUES (NULL, 'x')"), ["insert a uuid"]);
    assert_eq!(
        sent("", "INSERT INTO pairs VALUES ('a', 1, 'x'), ('a', 2, 'y'); UPDATE pairs SET b = 3 WHERE b = 1"),
        ["insert a+2 (a, b, note)", "insert a+3 (a, b, note)"]
    );
}

#[test]
fn triggers_of_the_application() {
    let after = "CREATE TRIGGER app AFTER INSERT ON notes BEGIN UPDATE notes SET rank = 1 WHERE id = new.id; END";
    assert_eq!(sent(after, "INSERT INTO notes(id) VALUES ('k3')"), ["insert k3 (id, rank)"]);
    let before = "CREATE TRIGGER app BEFORE INSERT ON notes BEGIN DELETE FROM notes WHERE id = new.id; END";
    assert_eq!(sent(before, "INSERT INTO notes(id, title) VALUES ('k1', 'x')"), ["update k1 (title)"]);
    let replaces = "CREATE TRIGGER app AFTER INSERT ON notes WHEN new.body IS NULL BEGIN INSERT OR REPLACE INTO notes(id, title, body) VALUES (new.id, new.title, 'b'); END";
    assert_eq!(sent(replaces, "INSERT INTO notes(id, title) VALUES ('k3', 'x')"), ["insert k3 (id, title, body)"]);
    let refuses = "CREATE TRIGGER app AFTER INSERT ON notes BEGIN DELETE FROM notes WHERE id = new.id; END";
    assert_eq!(sent(refuses, "INSERT INTO notes(id, title) VALUES ('k3', 'x')"), [""; 0]);
    let chosen = "CREATE TRIGGER app AFTER INSERT ON numbers BEGIN UPDATE numbers SET x = 5 WHERE id = new.id; END";
    assert_eq!(sent(chosen, "INSERT INTO numbers(x) VALUES (1), (2)"), ["insert 1 (id, x)", "insert 2 (id, x)"]);
    let gone = "CREATE TRIGGER app AFTER INSERT ON numbers BEGIN DELETE FROM numbers WHERE id = new.id; END";
    assert_eq!(sent(gone, "INSERT INTO numbers(x) VALUES (1)"), [""; 0]);
    let other = "CREATE TRIGGER app AFTER UPDATE ON notes BEGIN INSERT INTO numbers(x) VALUES (1); END";
    assert_eq!(sent(other, "UPDATE notes SET title = 'x' WHERE id = 'k1'"), ["update k1 (title)", "insert 1 (id, x)"]);
}

#[test]
fn each_transaction_is_one_batch() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    device.run("UPDATE notes SET title = '1'");
    device.run("BEGIN; UPDATE notes SET title = '2' WHERE id = 'k1'; UPDATE notes SET title = '2' WHERE id = 'k2'; COMMIT");
    device.run("SAVEPOINT s; UPDATE notes SET title = '3'; RELEASE s");
    device.run("BEGIN; UPDATE notes SET title = 'no'; ROLLBACK");
    device.run("INSERT INTO notes(id) VALUES ('k3'), ('k4')");
    let batches = device.push();
    assert_eq!(batches.iter().map(|b| b.changes.len()).collect::<Vec<_>>(), [2, 2, 2, 2]);
    assert_eq!(batches.iter().map(|b| b.id.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(batches.windows(2).all(|w| w[0].edited < w[1].edited));
}

#[test]
fn each_batch_has_its_own_old_and_new_values() {
    let device = Device::with(&[row(1, "a")]);
    for title in ["b", "c", "d"] {
        device.run(&format!("UPDATE notes SET title = '{title}'"));
    }
    device.run("DELETE FROM notes");
    let text = |s: &str| vec![Value::Text(s.into())];
    let batches = device.push();
    let steps: Vec<_> = batches[..3].iter().map(|b| (b.changes[0].old.clone(), b.changes[0].new.clone())).collect();
    assert_eq!(steps, [(text("a"), text("b")), (text("b"), text("c")), (text("c"), text("d"))]);
    assert!(batches[3].changes[0].old.contains(&text("d")[0]));
}

#[test]
fn a_defensive_connection_works_as_any() {
    let device = Device::new();
    device.db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).unwrap();
    device.run("PRAGMA trusted_schema = OFF; PRAGMA foreign_keys = ON");
    device.apply(&page(&[row(1, "a")]).with_schema().publish());
    device.run("UPDATE notes SET title = 'x'");
    let batches = device.push();
    device.answer(&batches, Verdict::Rejected);
    assert_eq!(device.titles(), ["1:a"]);
    device.text("SELECT sync_sign_out('wipe')");
}

#[test]
fn a_defensive_connection_without_the_extension_writes_and_is_captured() {
    let device = Device::with(&[row(1, "a")]);
    let plain = device.plain();
    plain.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).unwrap();
    plain.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false).unwrap();
    plain
        .execute_batch("UPDATE notes SET title = 'x'; INSERT INTO notes(id) VALUES ('k2'); DELETE FROM notes WHERE id = 'k2'")
        .unwrap();
    plain.execute_batch("INSERT INTO sync_marker(note) VALUES ('[1]')").unwrap();
    let views = "SELECT count(*) FROM sync_status, sync_pending, sync_rejected, sync_conflicts, sync_lost, sync_buckets, sync_record_counts";
    plain.query_row(views, [], |r| r.get::<_, i64>(0)).unwrap();
    assert_eq!(kinds(&device.push()), ["update k1 (title)"]);
}

#[test]
fn a_connection_without_the_extension_makes_one_batch_per_run() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    let plain = device.plain();
    plain.execute_batch("UPDATE notes SET title = '1' WHERE id = 'k1'").unwrap();
    plain.execute_batch("UPDATE notes SET title = '1' WHERE id = 'k2'").unwrap();
    device.run("UPDATE notes SET title = '2'");
    plain.execute_batch("UPDATE notes SET title = '3'").unwrap();
    plain.execute_batch("INSERT INTO sync_marker DEFAULT VALUES").unwrap();
    plain.execute_batch("UPDATE notes SET title = '4' WHERE id = 'k1'").unwrap();
    let batches = device.push();
    assert_eq!(batches.iter().map(|b| b.changes.len()).collect::<Vec<_>>(), [2, 2, 2, 1]);
    assert_eq!(device.number("SELECT count(*) FROM sync_marker"), 0);
}

#[test]
fn another_connection_with_the_extension_records_its_own() {
    let device = Device::with(&[row(1, "a")]);
    let other = device.plain();
    load(&other);
    other.execute_batch("UPDATE notes SET title = '1'; UPDATE notes SET title = '2'").unwrap();
    assert_eq!(device.push().len(), 2);
    other.close().unwrap();
}

#[test]
fn a_connection_that_loaded_before_the_first_sync_records_its_own() {
    let device = Device::new();
    let other = device.plain();
    load(&other);
    device.apply(&page(&[row(1, "a")]).with_schema().publish());
    other
        .execute_batch("UPDATE notes SET title = '1'; BEGIN; UPDATE notes SET title = '2'; UPDATE notes SET title = '3'; COMMIT")
        .unwrap();
    assert_eq!(device.push().len(), 2);
}

#[test]
fn a_statement_prepared_before_loading_is_part_of_its_transaction() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    let other = device.plain();
    let mut early = other.prepare("UPDATE notes SET title = 'early' WHERE id = 'k1'").unwrap();
    load(&other);
    other.execute_batch("BEGIN; UPDATE notes SET title = 'late' WHERE id = 'k2'").unwrap();
    early.execute([]).unwrap();
    other.execute_batch("COMMIT").unwrap();
    early.execute([]).unwrap();
    drop(early);
    other.execute_batch("UPDATE notes SET title = 'x' WHERE id = 'k1'").unwrap();
    assert_eq!(device.push().iter().map(|b| b.changes.len()).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn a_rollback_to_a_savepoint_keeps_the_transaction_one() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    device.run("BEGIN; SAVEPOINT s; UPDATE notes SET title = 'no'; ROLLBACK TO s; UPDATE notes SET title = '1' WHERE id = 'k1';
        SAVEPOINT t; UPDATE notes SET title = 'no' WHERE id = 'k2'; ROLLBACK TO t; UPDATE notes SET title = '2' WHERE id = 'k2'; COMMIT");
    device.run("BEGIN; UPDATE notes SET title = 'no'; ROLLBACK");
    device.run("UPDATE notes SET title = '3' WHERE id = 'k1'");
    assert_eq!(device.push().iter().map(|b| b.changes.len()).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn char_is_sqlites_own_with_arguments() {
    let device = Device::with(&[]);
    assert_eq!(device.text("SELECT char(83, 81, 76)"), "SQL");
    assert_eq!(device.text("SELECT typeof(char())"), "integer");
    assert_eq!(device.plain().query_row("SELECT char()", [], |r| r.get::<_, String>(0)).unwrap(), "");
}

#[test]
fn pending_ops_refuses_inside_a_transaction() {
    let device = Device::with(&[row(1, "a")]);
    device.run("BEGIN; UPDATE notes SET title = 'x'");
    let refused = device.db.query_row("SELECT pending_ops()", [], |r| r.get::<_, Option<Vec<u8>>>(0)).unwrap_err();
    assert!(refused.to_string().contains("open transaction"));
    let refused = device.apply_bytes(&page(&[]).bytes()).unwrap_err();
    assert!(refused.to_string().contains("open transaction"));
    device.run("COMMIT");
    assert_eq!(device.push().len(), 1);
}

#[test]
fn the_functions_cannot_be_used_in_triggers() {
    let device = Device::with(&[row(1, "a")]);
    assert!(device.db.execute_batch("CREATE VIEW v AS SELECT pending_ops() AS x; SELECT x FROM v").is_err());
}

#[test]
fn closing_needs_no_ceremony() {
    let device = Device::with(&[row(1, "a")]);
    let other = device.plain();
    load(&other);
    other.execute_batch("UPDATE notes SET title = 'x'").unwrap();
    let _: Option<Vec<u8>> = other.query_row("SELECT pending_ops()", [], |r| r.get(0)).unwrap();
    other.close().unwrap();
}
