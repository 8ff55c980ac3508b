//! Somebody writes to the library's own tables: dropped, emptied, with columns missing or of other types, with triggers, or views in
//! their place. Every call then works or says what is wrong; nothing crashes, the application's own tables stay as they are, and
//! sync_sign_out('wipe') begins anew in every case.

mod common;
use common::*;
use rusqlite::Connection;
use std::panic::catch_unwind;

/// A device in the middle of things: pages staged, a batch in each state, records, leased keys, two tables with rows.
fn busy() -> Device {
    let device = Device::with(&[row(1, "a"), row(2, "b"), row(3, "c")]);
    device.run("CREATE TABLE own(id INTEGER PRIMARY KEY, x); INSERT INTO own VALUES (1, 'mine'), (2, x'00ff')");
    device.run("CREATE TRIGGER own_trigger AFTER INSERT ON own BEGIN UPDATE own SET x = 'seen' WHERE id = new.id AND 0; END");
    for (title, verdict) in [("refused", Verdict::Rejected), ("merged", Verdict::Merged)] {
        device.run(&format!("BEGIN; UPDATE notes SET title = '{title}' WHERE id = 'k1'; SELECT sync_note('{{}}'); COMMIT"));
        let batches = device.push();
        let mut answer = reply(&batches, verdict);
        answer.results[0].conflicts = vec![Conflict {
            table: schema().tables[0].tag,
            key: vec![Value::Text("k1".into())],
            column: None,
            base: Value::Null,
            theirs: Value::Null,
            mine: Value::Null,
            result: Value::Null,
            reason: "a reason".into(),
            policy: String::new(),
        }];
        device.apply_message(&answer);
    }
    device.run("UPDATE sync_guard SET applying = 1; INSERT INTO notes(id) VALUES ('k9'); UPDATE sync_guard SET applying = 0");
    device.text("SELECT sync_verify()");
    device.run("INSERT INTO numbers(x) VALUES (1.5); INSERT INTO pairs VALUES ('a', 1, 'p')");
    device.push();
    device.run("UPDATE notes SET body = 'not sealed' WHERE id = 'k2'; INSERT INTO sync_marker(note) VALUES ('[]')");
    device.run("SELECT sync_subscribe('room', '{\"name\":\"x\"}'); INSERT INTO sync_lease VALUES (2, 10, 1, 10, 5, 5, x'', 0)");
    device.run("INSERT INTO sync_moved_key VALUES (1, 'numbers', 1, 2, 0)");
    device.apply(&page(&[row(4, "staged")]).in_bucket("other"));
    device
}

/// The same, as one file that can be copied.
fn file() -> Device {
    let device = busy();
    device.run("PRAGMA journal_mode = DELETE");
    device
}

/// What a client does, each call for itself. Answers what was said where a call failed.
fn calls(db: &Connection) -> Vec<String> {
    let blob =
        |bytes: Vec<u8>| format!("SELECT apply_delta(x'{}')", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>());
    let publish = page(&[row(1, "new"), row(5, "e")]).with_schema().publish();
    let answer = sync_shared::envelope::encode(&reply(&[], Verdict::Accepted)).unwrap();
    let resync = sync_shared::envelope::encode(&notice(NoticeKind::Resync, vec![])).unwrap();
    let statements = [
        "SELECT pull_request()".into(),
        "UPDATE notes SET title = 'written' WHERE id = 'k3'".into(),
        "SELECT pending_ops()".into(),
        "SELECT * FROM sync_status, sync_pending, sync_rejected, sync_conflicts, sync_lost, sync_buckets, sync_record_counts"
            .into(),
        "SELECT sync_retry(1)".into(),
        "SELECT sync_discard_conflict(2)".into(),
        "SELECT sync_restore_lost(1)".into(),
        "SELECT sync_next_id('numbers')".into(),
        blob(answer),
        blob(publish.bytes()),
        "SELECT sync_verify('server')".into(),
        "SELECT pull_request()".into(),
        blob(resync),
        "SELECT pull_request()".into(),
        "SELECT sync_sign_out('keep')".into(),
    ];
    let run = |sql: &String| {
        let mut statement = match db.prepare(sql) {
            Ok(statement) => statement,
            Err(error) => return Some(error.to_string()),
        };
        let mut rows = statement.raw_query();
        loop {
            match rows.next() {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => return Some(error.to_string()),
            }
        }
    };
    statements.iter().filter_map(run).collect()
}

const OWN: &str =
    "SELECT group_concat(id || quote(x)) || (SELECT group_concat(sql) FROM sqlite_schema WHERE tbl_name = 'own') FROM own";

/// Damages a copy of a file, tries everything, and begins anew. Answers what was said; None where the damage itself is refused.
fn try_out(file: &Device, damage: &str) -> Option<Vec<String>> {
    let path = file.path.with_extension("copy");
    std::fs::copy(&file.path, &path).unwrap();
    let tampered = Connection::open(&path).unwrap();
    tampered.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY").unwrap();
    // Without the extension, as anybody might.
    let done = tampered.execute_batch(damage).is_ok();
    load(&tampered);
    let own: String = tampered.query_row(OWN, [], |r| r.get(0)).unwrap();
    let said = done.then(|| calls(&tampered));
    for error in said.iter().flatten() {
        assert!(!error.contains("met a bug") && error.len() > 10, "{damage}: {error}");
    }
    match tampered.query_row("SELECT sync_sign_out('wipe')", [], |r| r.get::<_, String>(0)) {
        Ok(wiped) => assert!(wiped.contains("true"), "{damage}"),
        // A file of a newer library is touched by nothing.
        Err(error) => {
            assert!(
                damage.contains("sync_meta SET value") && error.to_string().contains("newer sqlite_sync"),
                "{damage}: {error}"
            );
            return said;
        }
    }
    let left = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'sync%' OR name IN ('notes', 'numbers', 'pairs')";
    assert_eq!(tampered.query_row(left, [], |r| r.get::<_, i64>(0)).unwrap(), 0, "{damage}");
    let first = page(&[row(1, "again")]).with_schema().publish().bytes();
    tampered.query_row("SELECT apply_delta(?)", [first], |r| r.get::<_, String>(0)).unwrap_or_else(|e| panic!("{damage}: {e}"));
    assert_eq!(tampered.query_row("PRAGMA integrity_check", [], |r| r.get::<_, String>(0)).unwrap(), "ok", "{damage}");
    assert_eq!(tampered.query_row(OWN, [], |r| r.get::<_, String>(0)).unwrap(), own, "{damage}");
    drop(tampered);
    std::fs::remove_file(path).unwrap();
    said
}

fn all(sql: &str) -> Vec<String> {
    let device = Device::with(&[]);
    let mut statement = device.db.prepare(sql).unwrap();
    let found = statement.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect();
    found
}

fn tables() -> Vec<String> {
    all("SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'sync%' ORDER BY 1")
}

fn columns() -> Vec<(String, String)> {
    let both = all("SELECT s.name || '.' || c.name FROM sqlite_schema s, pragma_table_info(s.name) c WHERE s.type = 'table' AND s.name LIKE 'sync%'");
    both.iter().map(|both| both.split_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap()).collect()
}

/// Tries each damage; answers what was said of each, and how many could be done.
fn try_all(damages: impl IntoIterator<Item = String>) -> Vec<(String, Vec<String>)> {
    let device = file();
    damages.into_iter().filter_map(|damage| try_out(&device, &damage).map(|said| (damage, said))).collect()
}

#[test]
fn a_table_that_is_gone_is_named() {
    let tried = try_all(tables().into_iter().map(|name| format!("DROP TABLE {name}")));
    assert_eq!(tried.len(), tables().len());
    for (damage, said) in tried {
        let name = damage.rsplit(' ').next().unwrap();
        assert!(said.iter().any(|e| e.contains(name) && e.contains("sync_sign_out('wipe')")), "{damage}: {said:?}");
    }
}

#[test]
fn a_view_in_place_of_a_table() {
    let damage = |name: String| format!("DROP TABLE {name}; CREATE VIEW {name} AS SELECT * FROM own");
    let tried = try_all(tables().into_iter().map(damage));
    assert!(tried.iter().all(|(_, said)| said.iter().any(|e| e.contains("sync_sign_out('wipe')"))), "{tried:?}");
}

#[test]
fn a_view_that_is_gone_is_made_again_by_sync_verify() {
    for name in all("SELECT name FROM sqlite_schema WHERE type = 'view'") {
        let device = busy();
        device.run(&format!("DROP VIEW {name}"));
        device.text("SELECT sync_verify()");
        assert_eq!(device.number(&format!("SELECT count(*) FROM sqlite_schema WHERE name = '{name}'")), 1, "{name}");
    }
    let device = busy();
    device.run("CREATE VIEW sync_of_the_application AS SELECT 1; SELECT sync_verify()");
    assert_eq!(device.number("SELECT * FROM sync_of_the_application"), 1, "only its own");
    device.run("DROP VIEW sync_user");
    let error = device.db.query_row("SELECT sync_retry(1)", [], |r| r.get::<_, String>(0)).unwrap_err().to_string();
    assert!(error.contains("sync_user is missing: sync_verify() makes it again"), "{error}");
}

#[test]
fn a_capture_trigger_that_is_gone_is_made_again_by_sync_verify() {
    let device = Device::with(&[row(1, "a")]);
    device.run("DROP TRIGGER sync_1_update; SELECT sync_verify(); UPDATE notes SET title = 'x'");
    assert_eq!(kinds(&device.push()), ["update k1 (title)"]);
}

#[test]
fn rows_that_are_gone() {
    try_all(tables().into_iter().map(|name| format!("DELETE FROM {name}")));
}

#[test]
fn columns_that_are_gone() {
    let damage = |(table, column): (String, String)| format!("ALTER TABLE {table} DROP COLUMN {column}");
    let tried = try_all(columns().into_iter().map(damage));
    assert!(tried.len() > 25, "{}", tried.len());
    // What SQLite says about the application's own statements is SQLite's; sync_verify() brings back columns of the log.
    let raw = |error: &String| error.contains("no such column") || error.contains("has no column named");
    let raw: Vec<_> = tried.iter().filter(|(d, said)| !d.contains("sync_log") && said.iter().any(raw)).collect();
    let explained = |(_, said): &(String, Vec<String>)| {
        said.iter().all(|e| !e.contains("no such column") || e.contains("the library's table"))
    };
    assert!(raw.iter().all(|tried| explained(tried)), "{raw:#?}");
    assert!(tried.iter().filter(|(_, said)| said.iter().any(|e| e.contains("the library's table"))).count() > 20);
}

#[test]
fn a_column_of_the_log_that_is_gone_is_made_again_by_sync_verify() {
    let device = Device::with(&[row(1, "a")]);
    device.run("ALTER TABLE sync_log DROP COLUMN c4");
    assert!(device.db.execute_batch("UPDATE notes SET title = 'x'").is_err());
    device.run("SELECT sync_verify(); UPDATE notes SET title = 'x'");
    assert_eq!(kinds(&device.push()), ["update k1 (title)"]);
}

#[test]
fn values_of_another_kind() {
    let values = ["x'c1c1c1c1c1c1'", "NULL", "-1", "9223372036854775807", "'text'"];
    let damages = columns()
        .into_iter()
        .flat_map(|(table, column)| values.map(|value| format!("UPDATE OR IGNORE {table} SET {column} = {value}")));
    let tried = try_all(damages);
    assert!(tried.len() > 300, "{}", tried.len());
}

#[test]
fn blobs_of_garbage() {
    // Nested deeper than any stack, too long to be, cut short, and of another message.
    let deep = "x'".to_owned() + &"91".repeat(50_000) + "'";
    let blobs = [
        deep.as_str(),
        "x'dd7fffffff'",
        "x'9a'",
        "(SELECT page FROM sync_stage)",
        "randomblob(1000)",
        "x'5359010301ffffffff00000000'",
    ];
    let places = [
        "sync_table SET body",
        "sync_change SET body",
        "sync_shadow SET body",
        "sync_stage SET page",
        "sync_lost_row SET body",
        "sync_lease SET proof",
        "sync_batch SET random",
        "sync_bucket SET bucket",
        "sync_row SET key",
        "sync_change SET key",
    ];
    try_all(places.iter().flat_map(|place| blobs.map(|blob| format!("UPDATE OR IGNORE {place} = {blob}"))));
}

#[test]
fn triggers_of_somebody_else() {
    let on = |name: String| {
        [
            ("BEFORE INSERT", "raise(ABORT, 'refused by somebody')"),
            ("AFTER UPDATE", "raise(IGNORE)"),
            ("AFTER DELETE", "raise(ROLLBACK, 'undone by somebody')"),
        ]
        .map(|(when, what)| format!("CREATE TRIGGER somebody {when} ON {name} BEGIN SELECT {what}; END"))
    };
    try_all(tables().into_iter().flat_map(on));
}

#[test]
fn a_table_of_somebody_elses_is_never_taken_for_ours() {
    let device = Device::new();
    device.run("CREATE TABLE sync_meta(name, value); INSERT INTO sync_meta VALUES ('mine', 1); CREATE TABLE sync_log(x)");
    let before = device.dump();
    for call in ["pull_request()", "sync_sign_out('wipe')", "sync_verify()"] {
        let _ = device.db.query_row(&format!("SELECT {call}"), [], |_| Ok(()));
        assert_eq!(device.dump(), before, "{call}");
    }
}

#[test]
fn a_registry_that_names_a_table_of_the_application_is_not_believed() {
    let device = busy();
    device.run("UPDATE sync_table SET name = 'own' WHERE name = 'notes'");
    let error = device.apply_bytes(&page(&[row(1, "x")]).publish().bytes()).unwrap_err().to_string();
    assert!(error.contains("sync_table cannot be read") && error.contains("wipe"), "{error}");
    assert_eq!(device.text("SELECT group_concat(x) FROM own WHERE id = 1"), "mine");
}

#[test]
fn nothing_unwinds_out_of_a_call() {
    assert!(catch_unwind(|| try_out(&file(), "UPDATE sync_table SET body = x'97a0'")).is_ok());
}
