//! Columns that devices encrypt: the server has ciphertext, whatever happens.

use postgres::Client;
use std::path::Path;
use sync_tests::compare::{assert_same, assert_verified, server_rows, server_value};
use sync_tests::device::server_push;
use sync_tests::{Cluster, Database, Device};

const ONE: &str = "11";
const TWO: &str = "22";
/// In every text that only devices may read.
const SECRET: &str = "walrus-in-the-cellar";

/// A table of notes whose bodies are encrypted, and two devices of one person with the key.
struct Notes {
    db: Database<'static>,
    server: Client,
    phone: Device,
    laptop: Device,
}

impl Notes {
    fn new() -> Notes {
        Notes::on(Cluster::shared())
    }

    fn on(cluster: &'static Cluster) -> Notes {
        let db = cluster.database();
        db.run("CREATE TABLE note (id int PRIMARY KEY, title text, body bytea, more bytea)");
        db.run(
            "SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note'); SELECT sync.set_encrypted('note', 'body')",
        );
        let mut server = db.connect();
        let devices = [(); 2].map(|()| Device::new("ann"));
        for device in &devices {
            set_keys(device, &[ONE]);
            device.sync(&mut server);
        }
        let [phone, laptop] = devices;
        Notes { db, server, phone, laptop }
    }

    fn sync(&mut self) {
        for device in [&self.phone, &self.laptop, &self.phone] {
            device.sync(&mut self.server);
        }
    }

    /// Both devices have the same, nothing is unverified, and nothing is fetched again.
    #[track_caller]
    fn check(&mut self) {
        self.sync();
        let all = "SELECT id, title, typeof(body), body, more FROM note ORDER BY id";
        assert_eq!(self.phone.rows(all), self.laptop.rows(all));
        for device in [&self.phone, &self.laptop] {
            assert_same(device, &mut self.server, "SELECT id, title, more FROM note");
            check_sums(device, &mut self.server, 0);
            assert_eq!(device.value("SELECT count(*) FROM sync_rejected"), "0");
        }
    }
}

fn set_keys(device: &Device, keys: &[&str]) {
    let list: Vec<String> = keys.iter().map(|byte| format!("x'{}'", byte.repeat(32))).collect();
    assert_eq!(device.value(&format!("SELECT sync_set_key({})", list.join(", "))), keys.len().to_string());
}

fn status(device: &Device, name: &str) -> Vec<String> {
    let rows = device.rows(&format!("SELECT value FROM sync_status WHERE name = '{name}'"));
    rows.into_iter().map(|mut row| row.remove(0)).collect()
}

/// What is written from now on is the later edit.
fn later() {
    std::thread::sleep(std::time::Duration::from_millis(5));
}

/// The sums are the server's, `unverified` values cannot be decrypted, and comparing all rows brings none.
#[track_caller]
fn check_sums(device: &Device, server: &mut Client, unverified: u64) {
    assert_verified(device);
    let report: serde_json::Value = serde_json::from_str(&device.value("SELECT sync_verify('server')")).expect("JSON");
    assert_eq!(report["unverified"].as_u64(), Some(unverified), "{report}");
    let fetched: u64 = device.pull(server).iter().map(|answer| answer.rows()).sum();
    assert_eq!(fetched, 0, "rows that are the same on both sides were fetched again");
    assert_eq!(status(device, "mismatch"), ["0"]);
}

/// Files below a folder that have these bytes in them.
fn files_with(folder: &Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, bytes));
        } else if std::fs::read(&path).is_ok_and(|content| content.windows(bytes.len()).any(|window| window == bytes)) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn what_is_written_to_an_encrypted_column_is_nowhere_on_the_server() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start("")));
    let mut notes = Notes::on(cluster);
    notes.db.run("SELECT sync.keep_history('note', '30 days')");
    notes.phone.run(&format!(
        "INSERT INTO note VALUES (1, 'a clear-text-title', '{SECRET}', x'00ff'), (2, 'number', 42, NULL), (3, 'real', 1.5, NULL),
            (4, 'bytes', x'0102', NULL), (5, 'nothing', NULL, NULL), (6, 'empty', '', NULL), (7, 'looks encrypted', x'53594501', NULL)"
    ));
    notes.check();
    let kinds = notes.laptop.rows("SELECT typeof(body) FROM note ORDER BY id").concat();
    assert_eq!(kinds, ["text", "integer", "real", "blob", "null", "text", "blob"]);
    assert_eq!(notes.laptop.value("SELECT body FROM note WHERE id = 1"), SECRET);
    // Changes, conflicts in which either side wins, a delete against an update, a rejected batch: with all that is recorded of them.
    notes.laptop.run(&format!("UPDATE note SET body = '{SECRET} changed' WHERE id = 2; DELETE FROM note WHERE id = 3"));
    later();
    notes.phone.run(&format!("UPDATE note SET body = '{SECRET} as well' WHERE id IN (2, 3)"));
    notes.laptop.push(&mut notes.server);
    notes.check();
    assert_eq!(notes.phone.rows("SELECT id FROM note WHERE body LIKE '%as well'").concat(), ["2", "3"]);
    let conflict = notes.phone.rows("SELECT theirs, mine FROM sync_conflicts WHERE column_name = 'body'");
    assert_eq!(conflict, [[format!("{SECRET} changed"), format!("{SECRET} as well")]]);
    notes.db.run("ALTER TABLE note ADD CHECK (title <> 'no')");
    notes.phone.run(&format!("INSERT INTO note VALUES (9, 'no', '{SECRET} refused', NULL)"));
    notes.phone.sync(&mut notes.server);
    assert!(notes.phone.value("SELECT batch FROM sync_rejected").contains(SECRET), "the device's own record can be read");
    notes.server.batch_execute("CHECKPOINT").expect("a checkpoint");
    let data = cluster.data();
    assert!(!files_with(&data, b"clear-text-title").is_empty(), "what is not encrypted is found");
    assert_eq!(files_with(&data, SECRET.as_bytes()), Vec::<String>::new());
    let ciphertext = "SELECT count(*) FROM note WHERE substr(body, 1, 4) <> '\\x53594501' AND body IS NOT NULL";
    assert_eq!(server_value(&mut notes.server, ciphertext), "0");
    // A device's own file is another thing.
    notes.phone.run("PRAGMA wal_checkpoint(TRUNCATE)");
    let folder = notes.phone.path().parent().expect("a folder").to_owned();
    assert!(!files_with(&folder, SECRET.as_bytes()).is_empty());
    assert_eq!(files_with(&folder, &[0x11; 16]), Vec::<String>::new(), "its key is not in it");
}

#[test]
fn policies_that_do_not_look_at_values_decide_about_ciphertext() {
    for (policy, options) in
        [("last_writer", "{}"), ("client_wins", "{}"), ("server_wins", "{}"), ("keep_both", r#"{"as": "record"}"#)]
    {
        let mut notes = Notes::new();
        notes.db.run(&format!("SELECT sync.set_policy('note', '{policy}', options => '{options}')"));
        notes.phone.run("INSERT INTO note (id, title, body) VALUES (1, 't', 'first')");
        notes.check();
        notes.laptop.run("UPDATE note SET body = 'of the laptop'");
        later();
        notes.phone.run("UPDATE note SET body = 'of the phone'");
        notes.laptop.push(&mut notes.server);
        notes.check();
        let won = if policy == "server_wins" { "of the laptop" } else { "of the phone" };
        assert_eq!(notes.laptop.value("SELECT body FROM note"), won, "{policy}");
        // The same on both sides is no conflict.
        let before = server_value(&mut notes.server, "SELECT count(*) FROM sync.conflict");
        assert_eq!(before, "1", "{policy}");
        for device in [&notes.phone, &notes.laptop] {
            device.run("UPDATE note SET body = 'the same'");
            device.push(&mut notes.server);
        }
        notes.check();
        assert_eq!(server_value(&mut notes.server, "SELECT count(*) FROM sync.conflict"), before, "{policy}");
    }
}

#[test]
fn a_value_that_was_moved_or_changed_is_reported_and_never_shown_as_another() {
    let mut notes = Notes::new();
    notes.phone.run("INSERT INTO note (id, title, body) VALUES (1, 'a', 'one'), (2, 'b', 'two'), (3, 'c', 'three')");
    notes.check();
    notes.db.run("UPDATE note SET body = (SELECT body FROM note WHERE id = 1) WHERE id = 2");
    notes.db.run("UPDATE note SET body = set_byte(body, 40, get_byte(body, 40) # 1) WHERE id = 3");
    notes.db.run("INSERT INTO note (id, title, body) SELECT 4, 'copied', body FROM note WHERE id = 1; INSERT INTO note VALUES (5, 'plain', 'plain')");
    for device in [&notes.phone, &notes.laptop] {
        device.sync(&mut notes.server);
        let rows = device.rows("SELECT id, typeof(body) FROM note ORDER BY id");
        assert_eq!(rows.concat(), ["1", "text", "2", "blob", "3", "blob", "4", "blob", "5", "blob"]);
        assert_same(device, &mut notes.server, "SELECT id, body FROM note WHERE id > 1");
        check_sums(device, &mut notes.server, 4);
        assert_eq!(status(device, "unreadable"), ["4"]);
        assert!(status(device, "problem")[0].contains("4 values cannot be decrypted"));
    }
    // Such a row is written to like any other, and a value that replaces it is one again.
    notes.phone.run("UPDATE note SET title = 'still there' WHERE id = 2; UPDATE note SET body = 'new' WHERE id IN (3, 5); DELETE FROM note WHERE id = 4");
    notes.phone.sync(&mut notes.server);
    let moved = "SELECT (SELECT body FROM note WHERE id = 1) = (SELECT body FROM note WHERE id = 2)";
    assert_eq!(server_value(&mut notes.server, moved), "t", "what could not be read was not changed");
    notes.phone.run("UPDATE note SET body = 'two again' WHERE id = 2");
    notes.check();
    assert_eq!(notes.laptop.rows("SELECT body FROM note ORDER BY id").concat(), ["one", "two again", "new", "new"]);
    assert_eq!(status(&notes.laptop, "problem"), Vec::<String>::new());
    // Somebody who writes to the table past the triggers is found, as ever.
    let plain = notes.phone.plain_connection();
    plain.execute_batch("UPDATE sync_guard SET applying = 1; UPDATE note SET body = 'forged' WHERE id = 1; UPDATE sync_guard SET applying = 0").expect("written");
    let report: serde_json::Value = serde_json::from_str(&notes.phone.value("SELECT sync_verify()")).expect("JSON");
    assert_eq!(report["different"].as_array().map(Vec::len), Some(1), "{report}");
    notes.check();
    assert_eq!(notes.phone.value("SELECT body FROM note WHERE id = 1"), "one");
}

#[test]
fn keys_of_columns_are_rotated() {
    let mut notes = Notes::new();
    notes.phone.run("INSERT INTO note (id, title, body) VALUES (1, 'a', 'old one'), (2, 'b', 'old two'), (4, 'd', 'old four')");
    notes.check();
    // Sent under the old key, and written once more before anything comes back.
    notes.phone.run("UPDATE note SET body = 'sent' WHERE id = 1");
    notes.phone.push(&mut notes.server);
    for device in [&notes.phone, &notes.laptop] {
        set_keys(device, &[TWO, ONE]);
    }
    notes.phone.run("UPDATE note SET body = 'sent again' WHERE id = 1");
    let answer = notes.phone.push(&mut notes.server).expect("an answer");
    assert_eq!((answer.verdicts("accepted"), answer.verdicts("merged")), (1, 0), "{answer:?}");
    // What somebody else wrote under the old key is what a change under the new one starts from.
    notes
        .laptop
        .run("INSERT INTO note (id, title, body) VALUES (3, 'c', 'new three'); UPDATE note SET body = 'new four' WHERE id = 4");
    let answer = notes.laptop.push(&mut notes.server).expect("an answer");
    assert_eq!(answer.verdicts("merged"), 0, "{answer:?}");
    assert_eq!(server_value(&mut notes.server, "SELECT count(*) FROM sync.conflict"), "0");
    notes.check();
    let keys = "SELECT count(DISTINCT substr(body, 5, 8)) FROM note";
    assert_eq!(server_value(&mut notes.server, keys), "2");
    // A device that has only the new key, and later both.
    let late = Device::new("ann");
    set_keys(&late, &[TWO]);
    late.sync(&mut notes.server);
    assert_eq!(late.rows("SELECT id FROM note WHERE typeof(body) = 'text' ORDER BY id").concat(), ["1", "3", "4"]);
    check_sums(&late, &mut notes.server, 1);
    set_keys(&late, &[TWO, ONE]);
    assert_eq!(late.rows("SELECT body FROM note ORDER BY id").concat(), ["sent again", "old two", "new three", "new four"]);
    check_sums(&late, &mut notes.server, 0);
    // Without the old key everything that is readable stays so, and what changes is under the new one.
    set_keys(&notes.phone, &[TWO]);
    notes.phone.run("UPDATE note SET title = 'other title' WHERE id = 2");
    notes.phone.sync(&mut notes.server);
    assert_eq!(status(&notes.phone, "problem"), Vec::<String>::new());
    notes.phone.run("UPDATE note SET body = 'now new' WHERE id = 2");
    notes.check();
    assert_eq!(server_value(&mut notes.server, keys), "1");
    assert_eq!(late.value("SELECT sync_set_key(NULL)"), "0");
}

#[test]
fn without_a_key_values_stay_ciphertext_and_writes_wait() {
    let mut notes = Notes::new();
    notes.phone.run("INSERT INTO note (id, title, body) VALUES (1, 'a', 'one'), (2, 'b', NULL)");
    notes.check();
    let new = Device::new("ann");
    new.sync(&mut notes.server);
    assert_eq!(new.rows("SELECT typeof(body) FROM note ORDER BY id").concat(), ["blob", "null"]);
    check_sums(&new, &mut notes.server, 1);
    // What needs no key goes; what needs one waits, with what comes after it; downloads go on.
    new.run("UPDATE note SET title = 'changed' WHERE id = 1");
    new.sync(&mut notes.server);
    assert_eq!(server_value(&mut notes.server, "SELECT title FROM note WHERE id = 1"), "changed");
    new.run("UPDATE note SET body = 'waits' WHERE id = 2");
    new.run("UPDATE note SET title = 'comes after' WHERE id = 1");
    notes.phone.run("INSERT INTO note (id, title, body) VALUES (3, 'c', 'three')");
    notes.phone.sync(&mut notes.server);
    for _ in 0..2 {
        new.sync(&mut notes.server);
    }
    assert_eq!(new.value("SELECT count(*) FROM note"), "3");
    assert_eq!(status(&new, "waiting"), ["2"]);
    assert!(status(&new, "problem").iter().any(|p| p.contains("wait for a key")));
    assert_eq!(server_value(&mut notes.server, "SELECT title FROM note WHERE id = 1"), "changed");
    assert_eq!(new.value("SELECT body FROM note WHERE id = 2"), "waits");
    set_keys(&new, &[ONE]);
    assert_eq!(new.rows("SELECT body FROM note ORDER BY id").concat(), ["one", "waits", "three"]);
    new.sync(&mut notes.server);
    new.sync(&mut notes.server);
    assert_eq!((status(&new, "waiting"), status(&new, "problem")), (vec!["0".to_owned()], Vec::new()));
    notes.check();
    assert_eq!(
        notes.laptop.rows("SELECT title, body FROM note ORDER BY id").concat(),
        ["comes after", "one", "b", "waits", "c", "three"]
    );
    // An application that starts again without its key still has everything, and does not fetch it anew.
    notes.phone.run("UPDATE note SET body = 'sent' WHERE id = 3");
    notes.phone.push(&mut notes.server);
    notes.phone.restart();
    notes.db.run("UPDATE note SET title = 'of the server' WHERE id IN (1, 3)");
    notes.phone.sync(&mut notes.server);
    check_sums(&notes.phone, &mut notes.server, 0);
    let rows = notes.phone.rows("SELECT title, body FROM note WHERE id IN (1, 3) ORDER BY id");
    assert_eq!(rows.concat(), ["of the server", "one", "of the server", "sent"]);
    notes.laptop.value("SELECT sync_sign_out('keep')");
    notes.laptop.run("UPDATE note SET body = 'after signing out' WHERE id = 1");
    notes.laptop.sync(&mut notes.server);
    assert_eq!(status(&notes.laptop, "waiting"), ["1"], "signing out forgets the keys");
    for wrong in ["'short'", "x'00'", "7", "zeroblob(33)"] {
        let error =
            notes.laptop.connection().query_row(&format!("SELECT sync_set_key({wrong})"), [], |_| Ok(())).expect_err(wrong);
        assert!(error.to_string().contains("32 bytes"), "{error}");
    }
}

#[test]
fn columns_that_cannot_be_encrypted_are_refused() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), a text, b bytea, c bytea DEFAULT '', d bytea, link uuid, g bytea GENERATED ALWAYS AS (b) STORED)");
    db.run(
        "CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b bytea); CREATE TABLE k (id bytea PRIMARY KEY)",
    );
    db.run("INSERT INTO t (d) VALUES ('known')");
    for (call, why) in [
        ("'t', 'a'", "must be of type bytea"),
        ("'t', 'c'", "a default would stand in it"),
        ("'t', 'd'", "has values already"),
        ("'t', 'g'", "a generated column"),
        ("'t', 'x'", "no such column"),
        ("'numbered', 'b'", "comes from a sequence"),
        ("'k', 'id'", "the primary key"),
    ] {
        let error = db.try_run(&format!("SELECT sync.set_encrypted({call})")).expect_err(call);
        assert!(error.contains(why), "{call}: {error}");
    }
    db.run("CREATE FUNCTION decide(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1'");
    let policies = [
        "'t', 'custom', handler => 'decide(jsonb)'",
        r#"'t', 'keep_both', options => '{"as": "row", "link": "link"}'"#,
        "'t', 'max', 'b'",
        "'t', 'min', 'b'",
    ];
    for policy in policies {
        db.run(&format!("SELECT sync.set_policy({policy})"));
        let error = db.try_run("SELECT sync.set_encrypted('t', 'b')").expect_err(policy);
        assert!(error.contains("cannot be encrypted"), "{policy}: {error}");
        db.run("DELETE FROM sync.policy");
    }
    db.run("SELECT sync.set_encrypted('t', 'b')");
    for policy in policies.into_iter().chain(["'t', 'counter', 'b'", "'t', 'text', 'b'", "'t', 'set', 'b'"]) {
        assert!(db.try_run(&format!("SELECT sync.set_policy({policy})")).is_err(), "{policy}");
    }
    db.run("SELECT sync.set_policy('t', 'last_writer', 'b'); SELECT sync.drop_policy('t', 'b')");
    let mut server = db.connect();
    let declared = r#"SELECT "column", event FROM sync.policies"#;
    assert_eq!(server_rows(&mut server, declared), [["b", "encrypted"]]);
}

#[test]
fn nothing_is_sent_as_it_is_by_a_device_that_has_not_heard_or_is_told_otherwise() {
    let mut notes = Notes::new();
    // Not heard yet.
    notes.phone.run("INSERT INTO note (id, title) VALUES (1, 'a')");
    notes.check();
    notes.db.run("SELECT sync.set_encrypted('note', 'more')");
    notes.phone.run("UPDATE note SET more = x'0102'");
    let answer = notes.phone.push(&mut notes.server).expect("an answer");
    assert_eq!(answer.verdicts("rejected"), 1, "{answer:?}");
    assert_eq!(notes.phone.rows("SELECT code FROM sync_rejected"), [["22023"]]);
    assert_eq!(server_value(&mut notes.server, "SELECT count(*) FROM note WHERE more IS NOT NULL"), "0");
    notes.phone.sync(&mut notes.server);
    let id = notes.phone.value("SELECT id FROM sync_rejected");
    notes.phone.run(&format!("SELECT sync_retry({id})"));
    notes.sync();
    assert_eq!(notes.laptop.value("SELECT more FROM note"), "\\x0102");
    // Told otherwise: by whoever has the server.
    notes.db.run("DELETE FROM sync.policy; SELECT sync.raise_generation()");
    notes.phone.run(&format!("UPDATE note SET body = '{SECRET}'"));
    let batches = notes.phone.pending_ops().expect("something waits");
    assert!(!batches.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));
    let reply = server_push(&mut notes.server, &notes.phone.user, &batches).expect("an answer");
    notes.phone.apply(&reply).expect("applied");
    let answer = sync_tests::device::server_pull(&mut notes.server, &notes.phone.user, &notes.phone.pull_request());
    let error = notes.phone.apply(&answer.expect("an answer")).expect_err("refused");
    assert!(error.contains("no longer has column") && error.contains("encrypted"), "{error}");
    assert_eq!(notes.phone.value("SELECT body FROM note"), SECRET);
    // Nor with another table in its place.
    notes.db.run("SELECT sync.drop_bucket('all')");
    notes.laptop.sync(&mut notes.server);
    assert_eq!(notes.laptop.value("SELECT count(*) FROM sqlite_schema WHERE name = 'note'"), "0");
    notes.db.run("SELECT sync.create_bucket('other'); SELECT sync.add_table('other', 'note')");
    notes.db.run("UPDATE sync.synced_table SET tag = tag # 1; SELECT sync.raise_generation()");
    let answer = sync_tests::device::server_pull(&mut notes.server, &notes.laptop.user, &notes.laptop.pull_request());
    assert!(notes.laptop.apply(&answer.expect("an answer")).expect_err("refused").contains("no longer has column"));
}

#[test]
fn a_dump_and_other_names_keep_columns_encrypted() {
    let mut notes = Notes::new();
    notes.phone.run("INSERT INTO note (id, title, body) VALUES (1, 'a', 'one')");
    notes.check();
    notes.db.run("ALTER TABLE note RENAME COLUMN body TO content");
    notes.phone.run("UPDATE note SET body = 'before the name is known'");
    notes.sync();
    let file = notes.db.dump(&[]);
    // The dump does not have it: the phone keeps it until the laptop has sent it once more.
    notes.laptop.run("INSERT INTO note (id, title, content) VALUES (2, 'b', 'after the dump')");
    notes.sync();
    let restored = Cluster::shared().empty_database();
    restored.load(&file);
    restored.run("SELECT sync.maintain()");
    notes.phone.pull(&mut restored.connect());
    let lost = notes.phone.rows("SELECT key, row FROM sync_lost");
    assert!(lost.len() == 1 && lost[0][1].contains("after the dump"), "{lost:?}");
    notes.server = restored.connect();
    notes.db = restored;
    notes.sync();
    notes.laptop.run("UPDATE note SET content = content || ', and after the dump' WHERE id = 1");
    notes.sync();
    for device in [&notes.phone, &notes.laptop] {
        let contents = device.rows("SELECT content FROM note ORDER BY id").concat();
        assert_eq!(contents, ["before the name is known, and after the dump", "after the dump"]);
        assert_eq!(device.value("SELECT count(*) FROM sync_lost"), "0");
        check_sums(device, &mut notes.server, 0);
    }
    assert_eq!(server_value(&mut notes.server, "SELECT count(*) FROM note WHERE substr(content, 1, 4) = '\\x53594501'"), "2");
}

#[test]
fn many_rows_with_composite_keys_that_are_written_otherwise_and_change() {
    let mut notes = Notes::new();
    notes.db.run("CREATE TABLE part (a uuid, b text, body bytea, note text, PRIMARY KEY (b, a))");
    notes.db.run("SELECT sync.add_table('all', 'part'); SELECT sync.set_encrypted('part', 'body')");
    notes.sync();
    // Keys as the server would not write them.
    notes.phone.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 700)
         INSERT INTO part SELECT printf('AAAAAAAA-AAAA-4AAA-8AAA-%012X', i + 2748), 'b' || i % 7, 'body ' || i || printf('%200c', 'x'), 'note' FROM n",
    );
    notes.laptop.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
    notes.check();
    let all = "SELECT a, b, body, note FROM part ORDER BY b, a";
    assert_eq!(notes.phone.rows(all), notes.laptop.rows(all));
    assert_eq!(notes.laptop.value("SELECT count(*) FROM part WHERE body LIKE 'body %'"), "700");
    // Another key is another row, whose value is encrypted anew.
    notes.laptop.run("UPDATE part SET b = 'moved' WHERE body LIKE 'body 70%'; DELETE FROM part WHERE b = 'b3'");
    notes.check();
    assert_eq!(notes.phone.rows(all), notes.laptop.rows(all));
    assert_eq!(notes.phone.value("SELECT count(*) FROM part WHERE b = 'moved' AND body LIKE 'body 70%'"), "2");
    // What is kept beside the values goes with them.
    for device in [&notes.phone, &notes.laptop] {
        let rows = "SELECT count(*) FROM sync_cipher c WHERE NOT EXISTS (SELECT 1 FROM sync_row r WHERE r.tbl = c.tbl AND r.key = c.key)";
        assert_eq!(device.value(rows), "0");
    }
    notes.db.run("SELECT sync.drop_table('all', 'part')");
    notes.check();
    assert_eq!(notes.laptop.value("SELECT count(*) FROM sync_cipher"), "0");
}
