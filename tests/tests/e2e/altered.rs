//! Rows that change other than by plain writes: types, labels, columns, partitions.

use crate::everything::{Everything, TASKS};

#[test]
fn a_row_whose_move_to_another_partition_a_trigger_swallows_leaves_the_devices() {
    let mut all = Everything::new(
        "CREATE TABLE parted (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
         CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
         CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             RETURN CASE WHEN NEW.id % 2 = 0 THEN NULL ELSE NEW END;
         END $$;
         CREATE TRIGGER swallow BEFORE INSERT ON parted_2 FOR EACH ROW EXECUTE FUNCTION swallow();
         INSERT INTO parted SELECT i, 1 FROM generate_series(1, 12) i",
        &["parted"],
    );
    let query = "SELECT id, k FROM parted";
    all.check("UPDATE parted SET k = 2 WHERE id = 2", query);
    all.check("UPDATE parted SET k = 2 WHERE id BETWEEN 3 AND 6", query);
    all.check("UPDATE parted SET k = 2 WHERE id IN (8, 10)", query);
    all.check("UPDATE parted SET k = 2", query);
    assert_eq!(all.device.value("SELECT count(*) FROM parted"), "6");
}

#[test]
fn values_that_alter_type_rewrites_reach_devices() {
    let mut all = Everything::new(
        "CREATE TABLE rewritten (id int PRIMARY KEY, n numeric(10,2), s text, v varchar(20), at timestamp(6));
         INSERT INTO rewritten SELECT i, i + 0.5, 'text ' || i, 'varchar ' || i, '2020-01-01 00:00:00.123456' FROM generate_series(1, 20) i",
        &["rewritten"],
    );
    let on_server = "SELECT id, n, s, v, to_char(at, 'YYYY-MM-DD\"T\"HH24:MI:SS.US') FROM rewritten";
    for change in [
        "ALTER TABLE rewritten ALTER n TYPE numeric(10,4)",
        "ALTER TABLE rewritten ALTER s TYPE text USING upper(s)",
        "ALTER TABLE rewritten ALTER v TYPE varchar(4) USING left(v, 4)",
        "ALTER TABLE rewritten ALTER at TYPE timestamp(0)",
        "BEGIN; ALTER TABLE rewritten ALTER s TYPE text USING lower(s); UPDATE rewritten SET n = 7 WHERE id = 7; COMMIT",
        "UPDATE rewritten SET s = s || '!' WHERE id % 2 = 0",
    ] {
        all.check_alike(change, "SELECT id, n, s, v, at FROM rewritten", on_server);
    }
}

#[test]
fn a_type_modifier_that_rewrites_nothing_keeps_what_devices_have() {
    let mut all = Everything::new(
        "CREATE TABLE wider (id int PRIMARY KEY, v varchar(20)); INSERT INTO wider SELECT i, i FROM generate_series(1, 20) i",
        &["wider"],
    );
    let before = all.entries();
    all.check("ALTER TABLE wider ALTER v TYPE varchar(40)", "SELECT * FROM wider");
    assert_eq!(all.entries(), before);
}

const MOODS: &str = "
    CREATE TYPE mood AS ENUM ('bad', 'good');
    CREATE DOMAIN strict_mood AS mood;
    CREATE TYPE report AS (m mood, n int);
    CREATE TABLE plain (id int PRIMARY KEY, m mood);
    CREATE TABLE many (id int PRIMARY KEY, m mood[]);
    CREATE TABLE narrowed (id int PRIMARY KEY, m strict_mood);
    CREATE TABLE composed (id int PRIMARY KEY, m report);
    CREATE TABLE nested (id int PRIMARY KEY, m report[]);
    INSERT INTO plain VALUES (1, 'bad'), (2, 'good');
    INSERT INTO many VALUES (1, '{bad,good}'), (2, '{good}');
    INSERT INTO narrowed VALUES (1, 'bad'), (2, 'good');
    INSERT INTO composed VALUES (1, '(bad,1)'), (2, '(good,2)');
    INSERT INTO nested VALUES (1, ARRAY['(bad,1)', '(good,2)']::report[])";
const MOOD_TABLES: [&str; 5] = ["plain", "many", "narrowed", "composed", "nested"];

/// Arrays and composite values are JSON on a device.
fn check_moods(all: &mut Everything, change: &str) {
    for (i, table) in MOOD_TABLES.iter().enumerate() {
        let value = if ["plain", "narrowed"].contains(table) { "m" } else { "to_json(m)" };
        let on_server = format!("SELECT id, {value} FROM {table}");
        all.check_alike(if i == 0 { change } else { "SELECT 1" }, &format!("SELECT id, m FROM {table}"), &on_server);
    }
}

#[test]
fn a_renamed_label_of_an_enum_reaches_devices() {
    let mut all = Everything::new(MOODS, &MOOD_TABLES);
    check_moods(&mut all, "ALTER TYPE mood RENAME VALUE 'bad' TO 'awful'");
    check_moods(&mut all, "UPDATE plain SET m = 'good' WHERE id = 1; UPDATE many SET m = m || 'good'::mood");
    check_moods(&mut all, "ALTER TYPE mood RENAME VALUE 'awful' TO 'bad'");
}

#[test]
fn a_label_added_to_an_enum_sends_no_row_again() {
    let mut all = Everything::new(MOODS, &MOOD_TABLES);
    all.db.run("ALTER TYPE mood RENAME VALUE 'bad' TO 'awful'");
    all.device.sync(&mut all.server);
    let before = all.entries();
    all.db.run("ALTER TYPE mood ADD VALUE 'best'");
    assert_eq!(all.entries(), before);
    let rows: u64 = all.device.pull(&mut all.server).iter().map(|answer| answer.rows()).sum();
    assert_eq!(rows, 0);
    check_moods(&mut all, "INSERT INTO plain VALUES (3, 'best'); INSERT INTO nested VALUES (3, ARRAY['(best,3)']::report[])");
}

#[test]
fn an_attribute_added_to_a_composite_type_reaches_devices() {
    let mut all = Everything::new(
        "CREATE TYPE place AS (x int, y int);
         CREATE TABLE visit (id int PRIMARY KEY, at place, others place[]);
         INSERT INTO visit SELECT i, (i, i)::place, ARRAY[(i, 0)::place] FROM generate_series(1, 10) i",
        &["visit"],
    );
    for change in [
        "ALTER TYPE place ADD ATTRIBUTE z int",
        "INSERT INTO visit VALUES (11, '(1,2,3)')",
        "ALTER TYPE place DROP ATTRIBUTE y",
        "UPDATE visit SET at = '(5,6)' WHERE id = 3",
        "ALTER TYPE place RENAME ATTRIBUTE z TO w",
    ] {
        all.check_alike(change, "SELECT id, at, others FROM visit", "SELECT id, to_json(at), to_json(others) FROM visit");
    }
}

#[test]
fn a_column_may_take_a_name_that_another_one_had() {
    let mut all = Everything::new(
        "CREATE TABLE named (id int PRIMARY KEY, x text, y text);
         INSERT INTO named SELECT i, 'x' || i, 'y' || i FROM generate_series(1, 10) i",
        &["named"],
    );
    let query = "SELECT id, x, y FROM named";
    all.check(
        "ALTER TABLE named RENAME x TO z; ALTER TABLE named RENAME y TO x; ALTER TABLE named RENAME z TO y; UPDATE named SET x = 'new' WHERE id = 1",
        query,
    );
    all.check("ALTER TABLE named RENAME x TO old; ALTER TABLE named ADD x text", "SELECT id, x, y, old FROM named");
    all.check("UPDATE named SET x = 'added' WHERE id < 5", "SELECT id, x, y, old FROM named");
    all.device.run("UPDATE named SET x = 'from the device', old = NULL WHERE id = 7");
    all.check("SELECT 1", "SELECT id, x, y, old FROM named");
    all.check("ALTER TABLE named DROP old; ALTER TABLE named ADD old text DEFAULT 'again'", "SELECT id, x, y, old FROM named");
}

#[test]
fn columns_that_differ_only_in_case_block_no_other_table() {
    let mut all = Everything::new(TASKS, &["task", "event"]);
    all.db.run(r#"CREATE TABLE twins (id int PRIMARY KEY, z text, "Z" text)"#);
    let error = all.db.try_run("SELECT sync.add_table('all', 'twins')").expect_err("a device cannot hold both");
    assert!(error.contains("twins") && error.contains("case"), "{error}");
    all.db.run(r#"ALTER TABLE task ADD "BODY" text; INSERT INTO task VALUES (100, 'a', 'b')"#);
    all.check("INSERT INTO event VALUES (2, 1)", "SELECT * FROM event");
    all.check(r#"ALTER TABLE task RENAME "BODY" TO other"#, "SELECT * FROM task");
}
