//! Which changes are kept, and for how long.

use crate::{as_of, moment, tasks, titles};
use sync_tests::cluster::describe;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Device};

#[test]
fn every_kind_of_change_is_kept() {
    let (_db, mut server) = tasks();
    server
        .batch_execute(
            "INSERT INTO task VALUES (2, 'two'); UPDATE task SET title = 'new' WHERE id = 1; UPDATE task SET title = title;
             INSERT INTO task VALUES (2, 'x') ON CONFLICT (id) DO UPDATE SET title = 'upsert'",
        )
        .expect("writes");
    server.batch_execute("DELETE FROM task WHERE id = 1").expect("a write");
    server.batch_execute("INSERT INTO task VALUES (1, 'again')").expect("a write");
    server.batch_execute("UPDATE task SET id = 3 WHERE id = 2").expect("a write");
    server.batch_execute("TRUNCATE task").expect("a write");
    assert_eq!(
        titles(&mut server, "1"),
        [["update", "old", "new"], ["delete", "new", "∅"], ["insert", "∅", "again"], ["delete", "again", "∅"]]
    );
    // The first four were one transaction.
    assert_eq!(titles(&mut server, "2"), [["insert", "∅", "upsert"], ["delete", "upsert", "∅"]]);
    assert_eq!(titles(&mut server, "3"), [["insert", "∅", "upsert"], ["delete", "upsert", "∅"]]);
    assert_eq!(titles(&mut server, "4"), Vec::<Vec<String>>::new());
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.version WHERE before_hash = after_hash"), "0");
}

#[test]
fn a_truncate_is_kept_whatever_the_owner_may_read() {
    let (db, mut server) = tasks();
    let owner = format!("{}_owner", db.name());
    db.run(&format!(
        "CREATE ROLE \"{owner}\"; ALTER TABLE task OWNER TO \"{owner}\"; ALTER TABLE task ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
         CREATE POLICY part ON task USING (id > 1); INSERT INTO task VALUES (2, 'two')"
    ));
    server.batch_execute(&format!("SET ROLE \"{owner}\"; TRUNCATE task; RESET ROLE")).expect("a write");
    assert_eq!(titles(&mut server, "1").last(), Some(&["delete", "old", "∅"].map(str::to_owned).to_vec()));
    assert_eq!(titles(&mut server, "2").last(), Some(&["delete", "two", "∅"].map(str::to_owned).to_vec()));
}

#[test]
fn a_device_a_batch_and_a_note_are_kept_with_the_change() {
    let (db, mut server) = tasks();
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'task')");
    let device = Device::new("ann");
    device.sync(&mut server);
    device.run("BEGIN; SELECT sync_note('{\"why\": \"tidying\"}'); UPDATE task SET title = 'tidy' WHERE id = 1; COMMIT");
    device.run("UPDATE task SET title = 'tidier' WHERE id = 1");
    device.sync(&mut server);
    server.batch_execute("UPDATE task SET title = 'by the server'").expect("a write");
    let id = server_value(&mut server, "SELECT device FROM sync.device");
    assert_eq!(
        server_rows(
            &mut server,
            "SELECT user_id, device, number, note ->> 'why', after ->> 'title' FROM sync.history('task', '1')"
        ),
        [["ann", &id, "1", "tidying", "tidy"], ["ann", &id, "2", "∅", "tidier"], ["postgres", "∅", "∅", "∅", "by the server"],]
    );
}

#[test]
fn partitions_have_the_history_of_their_table() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE task (id int, region text, title text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
         CREATE TABLE north PARTITION OF task FOR VALUES IN ('n');
         CREATE TABLE south (title text, id int NOT NULL, region text NOT NULL)",
    );
    db.run("SELECT sync.keep_history('task')");
    db.run("ALTER TABLE task ATTACH PARTITION south FOR VALUES IN ('s')");
    let mut server = db.connect();
    for sql in [
        "INSERT INTO task VALUES (1, 'n', 'through the parent')",
        "INSERT INTO south VALUES ('straight', 2, 's')",
        "UPDATE task SET region = 's', title = 'moved' WHERE id = 1",
        "UPDATE south SET title = 'changed' WHERE id = 2",
        "TRUNCATE south",
        "INSERT INTO north VALUES (5, 'n', 'late')",
        "TRUNCATE task",
    ] {
        server.batch_execute(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    assert_eq!(
        titles(&mut server, "{\"region\": \"n\", \"id\": 1}"),
        [["insert", "∅", "through the parent"], ["delete", "through the parent", "∅"]]
    );
    assert_eq!(titles(&mut server, "{\"id\": 1, \"region\": \"s\"}"), [["insert", "∅", "moved"], ["delete", "moved", "∅"]]);
    assert_eq!(
        titles(&mut server, "{\"region\": \"s\", \"id\": 2}"),
        [["insert", "∅", "straight"], ["update", "straight", "changed"], ["delete", "changed", "∅"]]
    );
    assert_eq!(titles(&mut server, "{\"region\": \"n\", \"id\": 5}"), [["insert", "∅", "late"], ["delete", "late", "∅"]]);
}

#[test]
fn history_follows_its_table() {
    let (db, mut server) = tasks();
    db.run("ALTER TABLE task RENAME id TO nr; ALTER TABLE task RENAME TO job; ALTER TABLE job ADD body text, DROP done");
    db.run("UPDATE job SET title = 'renamed'");
    db.run("DROP TRIGGER sync_history_update ON job; ALTER TABLE job DISABLE TRIGGER sync_history_delete");
    db.run("UPDATE job SET title = 'still kept'");
    assert_eq!(server_rows(&mut server, "SELECT after ->> 'title' FROM sync.history('job', '1')"), [["renamed"], ["still kept"]]);
    // A table that loses its key loses its history, and nobody's ALTER TABLE fails for it.
    db.run("ALTER TABLE job DROP CONSTRAINT task_pkey");
    db.run("UPDATE job SET title = 'free'");
    assert_eq!(
        server_value(&mut server, "SELECT (SELECT count(*) FROM sync.kept_table) + (SELECT count(*) FROM sync.version)"),
        "0"
    );
    db.run("ALTER TABLE job ADD PRIMARY KEY (nr); SELECT sync.keep_history('job')");
    db.run("UPDATE job SET title = 'kept'");
    db.run("DROP TABLE job");
    assert_eq!(
        server_value(&mut server, "SELECT (SELECT count(*) FROM sync.kept_table) + (SELECT count(*) FROM sync.version)"),
        "0"
    );
}

#[test]
fn history_is_let_go_when_its_time_is_over() {
    let (db, mut server) = tasks();
    db.run("UPDATE task SET title = 'one'");
    db.run("UPDATE task SET title = 'two'");
    let before = moment(&mut server);
    db.run("UPDATE sync.version SET at = at - interval '31 days' WHERE before ->> 'title' = 'old'; UPDATE sync.kept_table SET since = since - interval '31 days'");
    assert_eq!(as_of(&mut server, &before), ["1 two"]);
    db.run("SELECT sync.maintain()");
    assert_eq!(titles(&mut server, "1"), [["update", "one", "two"]]);
    let error = server.batch_execute("SELECT sync.as_of('task', now() - interval '31 days')").expect_err("refused");
    assert!(describe(&error).contains("reaches back to"), "{error}");
    db.run("SELECT sync.keep_history('task', '1 microsecond'); SELECT pg_sleep(0.01)");
    db.run("SELECT sync.maintain()");
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.version"), "0");
    db.run("SELECT sync.drop_history('task')");
    db.run("UPDATE task SET title = 'three'");
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.version"), "0");
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'task'::regclass"), "0");
}

#[test]
fn tables_that_cannot_have_a_history_are_refused() {
    let (db, _server) = tasks();
    db.run(
        "CREATE TABLE keyless (id int); CREATE VIEW v AS SELECT 1; CREATE TABLE p (id int PRIMARY KEY) PARTITION BY LIST (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)",
    );
    for (sql, words) in [
        ("SELECT sync.keep_history('keyless')", "it has no primary key"),
        ("SELECT sync.keep_history('v')", "only ordinary and partitioned tables"),
        ("SELECT sync.keep_history('p1')", "only ordinary and partitioned tables"),
        ("SELECT sync.keep_history('sync.batch')", "system tables"),
        ("SELECT sync.keep_history('task', '-1 day')", "more than nothing"),
        ("SELECT sync.keep_history('task', NULL)", "more than nothing"),
        ("SELECT sync.drop_history('keyless')", "has no history"),
        ("SELECT sync.history('keyless', '1')", "has no history"),
        ("SELECT sync.as_of('keyless', now())", "has no history"),
        ("SELECT sync.history('task', '{\"nr\": 1}')", "the key must give id"),
        ("SELECT sync.history('task', NULL)", "the key must give id"),
    ] {
        let error = db.try_run(sql).expect_err(sql);
        assert!(error.contains(words), "{sql}: {error}");
    }
}

#[test]
fn odd_names_and_types_are_kept() {
    let db = Cluster::shared().database();
    db.run(
        r#"CREATE SCHEMA "my ""app"; CREATE TYPE "my ""app".mood AS ENUM ('so', 'la');
           CREATE TABLE "my ""app"."a'; DROP TABLE x; --" ("the 'key'" text, "n""o" timestamptz, m "my ""app".mood, d bytea, a int[], n numeric, i interval,
               g int GENERATED ALWAYS AS (1) STORED, PRIMARY KEY ("the 'key'", "n""o"))"#,
    );
    let mut server = db.connect();
    let name = r#""my ""app"."a''; DROP TABLE x; --""#;
    db.run(&format!("SELECT sync.keep_history('{name}')"));
    server
        .batch_execute("SET TimeZone = 'Asia/Tokyo'; SET IntervalStyle = 'sql_standard'; SET DateStyle = 'SQL, DMY'")
        .expect("settings");
    let table = name.replace("''", "'");
    server
        .batch_execute(&format!(
            "INSERT INTO {table} VALUES ('{{k''\"', '2024-02-03 04:05:06+00', 'la', '\\x00ff', '{{1,NULL}}', 12345678901234567890.123456789, '1 day -2:00')"
        ))
        .expect("a write");
    let at = moment(&mut server);
    server.batch_execute(&format!("UPDATE {table} SET m = 'so', d = NULL, a = NULL, n = 0, i = NULL")).expect("a write");
    let key = r#"{"the ''key''": "{k''\"", "n\"o": "2024-02-03T13:05:06+09:00"}"#;
    let sql = format!("SELECT operation FROM sync.history('{name}', '{key}')");
    assert_eq!(server_rows(&mut server, &sql), [["insert"], ["update"]]);
    server.batch_execute(&format!("SELECT sync.restore_row('{name}', '{key}', '{at}')")).expect("restored");
    let sql = format!("SELECT m, d, a, n, i = '1 day -2:00', g FROM {table}");
    assert_eq!(server_rows(&mut server, &sql), [["la", "\\x00ff", "{1,NULL}", "12345678901234567890.123456789", "t", "1"]]);
}

#[test]
fn tables_and_partitions_of_other_shapes_do_not_mix() {
    // Plans are kept in a session: each belongs to one relation, and follows its changes.
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE task (id int, title text, n int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE low (n int, title text, id int NOT NULL); CREATE TABLE high (gone text, title text, id int NOT NULL, n int);
         ALTER TABLE high DROP gone;
         ALTER TABLE task ATTACH PARTITION low FOR VALUES FROM (0) TO (100); ALTER TABLE task ATTACH PARTITION high FOR VALUES FROM (100) TO (200);
         CREATE TABLE other (title text, id int PRIMARY KEY, n text); SELECT sync.keep_history('task'); SELECT sync.keep_history('other')",
    );
    let mut server = db.connect();
    for round in 0..3 {
        for (table, id) in [("low", 1), ("high", 101), ("task", 2), ("task", 102), ("other", 3)] {
            for sql in [
                format!("INSERT INTO {table} (id, title, n) VALUES ({id}, '{table}', 7)"),
                format!("UPDATE {table} SET title = title || '+' WHERE id = {id}"),
                format!("DELETE FROM {table} WHERE id = {id}"),
            ] {
                server.batch_execute(&sql).unwrap_or_else(|e| panic!("{round} {sql}: {}", describe(&e)));
            }
        }
        if round == 1 {
            db.run("ALTER TABLE other DROP n; ALTER TABLE other ADD n text; ALTER TABLE task ADD more int DEFAULT 5");
        }
    }
    let sql =
        "SELECT relid::regclass, key ->> 'id', before ->> 'id', before ->> 'title', before ->> 'n', before ->> 'more', count(*)
               FROM sync.version WHERE before IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6";
    let row = |table: &str, id: &str, title: &str, more: &str, count: &str| {
        [table, id, id, title, "7", more, count].map(str::to_owned).to_vec()
    };
    let mut expected = Vec::new();
    for (id, name) in [("1", "low"), ("2", "task"), ("101", "high"), ("102", "task")] {
        for title in [name.to_owned(), format!("{name}+")] {
            expected.push(row("task", id, &title, "5", "1"));
            expected.push(row("task", id, &title, "∅", "2"));
        }
    }
    expected.extend([row("other", "3", "other", "∅", "3"), row("other", "3", "other+", "∅", "3")]);
    let mut kept = server_rows(&mut server, sql);
    kept.sort();
    expected.sort();
    assert_eq!(kept, expected);
}

#[test]
fn statements_of_many_rows_are_kept_whole() {
    let (db, mut server) = tasks();
    db.run("INSERT INTO task SELECT n, 'n' || n FROM generate_series(2, 2500) n");
    db.run("UPDATE task SET title = title || '!', id = CASE WHEN id > 2400 THEN id + 1000 ELSE id END WHERE id % 2 = 0");
    db.run("DELETE FROM task");
    let sql = "SELECT count(*), count(DISTINCT key), count(before) FROM sync.version";
    assert_eq!(server_rows(&mut server, sql), [["6299", "2550", "3750"]]);
    assert_eq!(titles(&mut server, "2400"), [["insert", "∅", "n2400"], ["update", "n2400", "n2400!"], ["delete", "n2400!", "∅"]]);
    assert_eq!(titles(&mut server, "3500"), [["insert", "∅", "n2500!"], ["delete", "n2500!", "∅"]]);
}
