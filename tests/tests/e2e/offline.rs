//! The device as an ordinary SQLite file: writes without the extension, restarts, pending writes under a delta.

use crate::lists::Lists;
use std::io::Write;
use std::process::{Command, Stdio};
use sync_tests::compare::{server_rows, server_value};
use sync_tests::device::server_pull;

/// Runs statements in a `sqlite3` shell that never loads the extension.
fn shell(path: &std::path::Path, sql: &str) -> String {
    let mut shell = Command::new("sqlite3")
        .arg("-batch")
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sqlite3 runs");
    shell.stdin.take().expect("a pipe").write_all(sql.as_bytes()).expect("the shell reads");
    let output = shell.wait_with_output().expect("the shell ends");
    assert!(output.status.success(), "the shell failed on {sql}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_plain_shell_reads_and_writes_and_its_writes_are_synced() {
    let mut lists = Lists::new();
    let path = lists.ann.path();
    assert_eq!(shell(&path, "SELECT body FROM item WHERE id = 3;"), "item 3\n");
    shell(&path, "INSERT INTO item VALUES (100, 1, 'from the shell', 0); UPDATE item SET body = 'changed' WHERE id = 3;");
    shell(
        &path,
        "PRAGMA trusted_schema = OFF; DELETE FROM item WHERE id = 4; INSERT OR REPLACE INTO item VALUES (6, 2, 'replaced', 0);",
    );
    shell(&path, "BEGIN; INSERT INTO item VALUES (101, 1, 'never', 0); ROLLBACK;");
    lists.ann.close();
    shell(&path, "PRAGMA recursive_triggers = ON; INSERT INTO item VALUES (3, 1, 'upsert', 0) ON CONFLICT (id) DO UPDATE SET body = 'upserted'; REPLACE INTO item VALUES (9, 2, 'again', 0);");
    lists.ann.restart();
    lists.check();
    assert_eq!(
        server_rows(&mut lists.server, "SELECT id, list, body FROM item WHERE id IN (3, 4, 6, 9, 100, 101) ORDER BY id"),
        [["3", "1", "upserted"], ["6", "2", "replaced"], ["9", "2", "again"], ["100", "1", "from the shell"]]
    );
}

#[test]
fn every_way_to_write_on_a_device_arrives() {
    let mut lists = Lists::new();
    for sql in [
        "INSERT INTO item VALUES (100, 1, 'a', 0), (101, 2, 'b', 0)",
        "INSERT INTO item SELECT id + 1000, list, body, hidden FROM item WHERE id < 10",
        "UPDATE item SET body = body || '!' WHERE list = 2",
        "UPDATE item SET id = id + 5000 WHERE id = 100",
        "UPDATE OR REPLACE item SET id = 101 WHERE id = 3",
        "REPLACE INTO item VALUES (6, 1, 'replaced', 0)",
        "INSERT OR IGNORE INTO item VALUES (6, 1, 'ignored', 0), (102, 1, 'not ignored', 0)",
        "INSERT INTO item VALUES (6, 2, 'x', 0) ON CONFLICT (id) DO UPDATE SET list = excluded.list, body = 'upserted'",
        "DELETE FROM item WHERE id % 4 = 0",
        "BEGIN; INSERT INTO item VALUES (200, 1, 'x', 0); SAVEPOINT s; DELETE FROM item; ROLLBACK TO s; UPDATE item SET body = 'y' WHERE id = 200; COMMIT",
        "BEGIN; DELETE FROM item WHERE id = 200; INSERT INTO item VALUES (200, 2, 'z', 0); COMMIT",
        "BEGIN; INSERT INTO item VALUES (201, 1, 'x', 0); DELETE FROM item WHERE id = 201; COMMIT",
        "UPDATE item SET body = body",
    ] {
        lists.ann.run(sql);
        let expected = lists.ann.rows("SELECT id, list, body FROM item ORDER BY id");
        lists.check();
        assert_eq!(lists.ann.rows("SELECT id, list, body FROM item ORDER BY id"), expected, "after {sql}");
    }
}

#[test]
fn a_write_while_a_delta_for_the_same_row_comes_in() {
    let mut lists = Lists::new();
    lists.ann.run("UPDATE item SET body = 'from ann' WHERE id = 3");
    lists.run("UPDATE item SET hidden = false, list = 2 WHERE id = 3; UPDATE item SET body = 'from the server' WHERE id = 4");
    lists.ann.pull(&mut lists.server);
    assert_eq!(
        lists.ann.rows("SELECT list, body FROM item WHERE id IN (3, 4) ORDER BY id"),
        [["2", "from ann"], ["2", "from the server"]]
    );
    lists.check();
    assert_eq!(server_rows(&mut lists.server, "SELECT list, body FROM item WHERE id = 3"), [["2", "from ann"]]);
}

#[test]
fn pending_writes_survive_restarts_and_deltas_that_take_the_bucket_away() {
    let mut lists = Lists::new();
    lists.ann.run("INSERT INTO item VALUES (100, 1, 'pending', 0)");
    lists.ann.restart();
    lists.run("DELETE FROM reader WHERE name = 'ann' AND list = 1");
    lists.ann.pull(&mut lists.server);
    assert_eq!(lists.ann.rows("SELECT body FROM item WHERE id = 100"), [["pending"]]);
    lists.ann.restart();
    lists.check();
    assert_eq!(server_value(&mut lists.server, "SELECT body FROM item WHERE id = 100"), "pending");
}

#[test]
fn a_restart_between_any_two_messages_loses_nothing() {
    let mut lists = Lists::new();
    lists.run("INSERT INTO item SELECT i, i % 3 + 1, repeat(md5(i::text), 40) FROM generate_series(1000, 12000) i");
    lists.ann.run("INSERT INTO item VALUES (100, 1, 'pending', 0)");
    let mut messages = 0;
    loop {
        lists.ann.restart();
        let reply = server_pull(&mut lists.server, &lists.ann.user, &lists.ann.pull_request()).expect("a page");
        lists.ann.restart();
        let more = lists.ann.apply(&reply).expect("a page is applied").more();
        messages += 1;
        if !more {
            break;
        }
        assert!(messages < 200, "the first sync does not end when the device restarts between pages");
    }
    lists.check();
    assert_eq!(server_value(&mut lists.server, "SELECT body FROM item WHERE id = 100"), "pending");
}

#[test]
fn a_process_killed_in_the_middle_of_an_apply_leaves_the_last_published_state() {
    let mut lists = Lists::new();
    lists.ann.run("INSERT INTO item VALUES (100, 1, 'pending', 0)");
    let before = lists.ann.rows("SELECT * FROM item ORDER BY id");
    lists.run("INSERT INTO item SELECT i, 1, 'bulk' FROM generate_series(1000, 9000) i; DELETE FROM item WHERE id < 10");
    let reply = server_pull(&mut lists.server, &lists.ann.user, &lists.ann.pull_request()).expect("a page");
    // The progress handler stops the statement as a killed process would: nothing of it may stay.
    for steps in [100, 2_000, 20_000] {
        let mut calls = 0;
        lists
            .ann
            .connection()
            .progress_handler(
                100,
                Some(move || {
                    calls += 100;
                    calls > steps
                }),
            )
            .expect("a handler");
        let result = lists.ann.apply(&reply);
        lists.ann.connection().progress_handler(0, None::<fn() -> bool>).expect("no handler");
        if result.is_ok() {
            break;
        }
        lists.ann.restart();
        assert_eq!(lists.ann.rows("SELECT * FROM item ORDER BY id"), before);
    }
    lists.ann.apply(&reply).expect("the same page again");
    lists.check();
    assert_eq!(server_value(&mut lists.server, "SELECT body FROM item WHERE id = 100"), "pending");
}

#[test]
fn a_user_who_signs_out_leaves_nothing_when_asked_to_wipe() {
    let mut lists = Lists::new();
    lists.run("UPDATE item SET body = 'a very secret text'");
    lists.check();
    lists.ann.value("SELECT sync_sign_out('wipe')");
    lists.ann.run("PRAGMA wal_checkpoint(TRUNCATE)");
    let bytes = std::fs::read(lists.ann.path()).expect("the file");
    assert!(!bytes.windows(11).any(|window| window == b"very secret"), "the file still holds the text");
    lists.check();
}
