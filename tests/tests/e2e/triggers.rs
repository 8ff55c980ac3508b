//! What is done to capture triggers, and tables that cannot be synced any longer: no change is missed, no writer fails.

use crate::everything::{assert_captured, Everything, TASKS};
use sync_tests::compare::{assert_same, server_value};

// Capture triggers ----------------------------------------------------------------------------------------------------------

#[test]
fn rows_loaded_while_all_triggers_are_disabled_arrive() {
    let mut all = Everything::new(TASKS, &["task", "event"]);
    // One statement after another, as pg_restore --disable-triggers does, and in one transaction.
    all.db.run("ALTER TABLE task DISABLE TRIGGER ALL");
    all.db.run("INSERT INTO task VALUES (100, 'loaded')");
    all.db.run("ALTER TABLE task ENABLE TRIGGER ALL");
    all.check("INSERT INTO task VALUES (101, 'afterwards')", "SELECT * FROM task");
    assert_captured(&mut all.server, "task");
    all.check(
        "BEGIN; ALTER TABLE task DISABLE TRIGGER ALL; INSERT INTO task VALUES (102, 'loaded'); DELETE FROM task WHERE id = 1;
         ALTER TABLE task ENABLE TRIGGER ALL; COMMIT",
        "SELECT * FROM task",
    );
    all.check(
        "SET session_replication_role = replica; INSERT INTO task VALUES (103, 'replica'); RESET session_replication_role",
        "SELECT * FROM task",
    );
    for relation in ["event", "event_1"] {
        all.db.run(&format!("ALTER TABLE {relation} DISABLE TRIGGER ALL"));
        all.db.run("INSERT INTO event SELECT max(id) + 1, 1 FROM event; INSERT INTO event_1 SELECT max(id) + 1, 1 FROM event");
        all.db.run(&format!("ALTER TABLE {relation} ENABLE TRIGGER ALL"));
        all.check("INSERT INTO event SELECT max(id) + 1, 1 FROM event", "SELECT * FROM event");
        assert_captured(&mut all.server, "event_1");
    }
}

#[test]
fn a_single_disabled_capture_trigger_misses_nothing() {
    let mut all = Everything::new(TASKS, &["task", "event"]);
    for change in ["DISABLE TRIGGER sync_capture_insert", "ENABLE REPLICA TRIGGER sync_capture_update", "DISABLE TRIGGER USER"] {
        all.db.run(&format!("ALTER TABLE task {change}"));
        all.check(
            "INSERT INTO task SELECT max(id) + 1, 'new' FROM task; UPDATE task SET body = body || '+' WHERE id = 3",
            "SELECT * FROM task",
        );
        assert_captured(&mut all.server, "task");
    }
}

#[test]
fn rows_written_after_a_capture_trigger_was_dropped_arrive() {
    let mut all = Everything::new(TASKS, &["task", "event"]);
    for (relation, table, write) in [
        ("task", "task", "INSERT INTO task SELECT max(id) + 1, 'new' FROM task"),
        ("event_1", "event", "INSERT INTO event SELECT max(id) + 1, 1 FROM event"),
    ] {
        for event in ["insert", "update", "delete", "truncate"] {
            all.db.run(&format!("DROP TRIGGER sync_capture_{event} ON {relation}"));
            all.check(write, &format!("SELECT * FROM {table}"));
            assert_captured(&mut all.server, relation);
        }
    }
    all.check(
        "BEGIN; DROP TRIGGER sync_capture_update ON task; UPDATE task SET body = 'in one transaction'; COMMIT",
        "SELECT * FROM task",
    );
    all.check("DELETE FROM task WHERE id > 5; TRUNCATE event", "SELECT * FROM task");
    assert_same(&all.device, &mut all.server, "SELECT * FROM event");
}

#[test]
fn no_setting_of_a_session_hides_a_change_of_a_table() {
    let mut all = Everything::new(TASKS, &["task"]);
    let owner = format!("owner_{}_{}", all.db.name(), std::process::id());
    all.db.run(&format!("CREATE ROLE {owner} LOGIN; ALTER TABLE task OWNER TO {owner}"));
    for (who, setting) in [
        (owner.as_str(), "sync.in_ddl = 'on'"),
        (&owner, "sync.in_ddl TO true"),
        ("postgres", "session_replication_role = replica"),
    ] {
        for change in [
            "ALTER TABLE task ALTER body TYPE text USING upper(body) || '!'",
            "DROP TRIGGER sync_capture_update ON task; UPDATE task SET body = 'later ' || id",
            "ALTER TABLE task DISABLE TRIGGER USER; DELETE FROM task WHERE id = (SELECT max(id) FROM task)",
            "ALTER TABLE task ENABLE TRIGGER USER; INSERT INTO task SELECT max(id) + 1, 'new' FROM task",
        ] {
            // A session of its own, which has not loaded the extension's library yet.
            let mut client = all.db.connect_as(who);
            let _ = client.batch_execute(&format!("SET {setting}"));
            client.batch_execute(change).unwrap_or_else(|e| panic!("{}\nin: {change}", sync_tests::cluster::describe(&e)));
            all.check("SELECT 1", "SELECT * FROM task");
            assert_captured(&mut all.server, "task");
        }
    }
}

#[test]
fn a_renamed_capture_trigger_captures_once() {
    let mut all = Everything::new(TASKS, &["task"]);
    all.db.run("ALTER TRIGGER sync_capture_insert ON task RENAME TO something_else");
    all.check("INSERT INTO task VALUES (100, 'new')", "SELECT * FROM task");
    // What installs the triggers again must not leave the renamed one beside them.
    all.check("ALTER TABLE task ADD more text", "SELECT * FROM task");
    all.check("INSERT INTO task VALUES (101, 'new', 'more')", "SELECT * FROM task");
    assert_captured(&mut all.server, "task");
}

// Tables that cannot be synced any longer -----------------------------------------------------------------------------------

#[test]
fn a_child_table_breaks_the_entry_of_its_parent() {
    for make in [
        "CREATE TABLE child () INHERITS (task)",
        "CREATE TABLE child (id int NOT NULL, body text); ALTER TABLE child INHERIT task",
    ] {
        let mut all = Everything::new(TASKS, &["task", "event"]);
        all.db.run(make);
        let states = all.states("task");
        assert!(states.len() == 1 && states[0][0] == "broken" && states[0][1].contains("inherit"), "{make}: {states:?}");
        // Nobody who writes notices, and other tables go on.
        all.db
            .run("INSERT INTO task VALUES (100, 'parent'); INSERT INTO child VALUES (101, 'child'); UPDATE task SET body = 'x'");
        all.check("INSERT INTO event VALUES (2, 1)", "SELECT * FROM event");
        all.db.run("DROP TABLE child");
        all.db.run("SELECT sync.drop_table('all', 'task')");
        all.db.run("SELECT sync.add_table('all', 'task')");
        all.check("INSERT INTO task VALUES (102, 'again')", "SELECT * FROM task");
    }
}

#[test]
fn a_table_that_becomes_unlogged_breaks_its_entry_until_it_is_logged_again() {
    let mut all = Everything::new(TASKS, &["task", "event"]);
    all.db.run("ALTER TABLE task SET UNLOGGED");
    let states = all.states("task");
    assert!(states.len() == 1 && states[0][0] == "broken" && states[0][1].contains("unlogged"), "{states:?}");
    all.db.run("INSERT INTO task VALUES (100, 'meanwhile'); DELETE FROM task WHERE id = 1");
    all.check("INSERT INTO event VALUES (2, 1)", "SELECT * FROM event");
    all.check("ALTER TABLE task SET LOGGED", "SELECT * FROM task");
    assert_ne!(all.states("task")[0][0], "broken");
    all.check("INSERT INTO task VALUES (101, 'logged')", "SELECT * FROM task");
}

#[test]
fn a_type_or_function_dropped_by_cascade_never_makes_a_writer_fail() {
    let mut all = Everything::new(
        "CREATE DOMAIN short AS text;
         CREATE TYPE pair AS (a int, b int);
         CREATE SCHEMA types; CREATE TYPE types.color AS ENUM ('red', 'blue');
         CREATE FUNCTION is_public(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 0';
         CREATE TABLE typed (id int PRIMARY KEY, s short, p pair, c types.color, body text);
         CREATE TABLE filtered (id int PRIMARY KEY, body text);
         CREATE TABLE other (id int PRIMARY KEY);
         INSERT INTO typed SELECT i, 's', (i, i)::pair, 'red', 'body' FROM generate_series(1, 10) i;
         INSERT INTO filtered SELECT i, 'body' FROM generate_series(1, 10) i",
        &["typed", "other"],
    );
    all.db.run("SELECT sync.create_bucket('filtered'); SELECT sync.add_table('filtered', 'filtered', filter => 'is_public(id)')");
    all.check("SELECT 1", "SELECT * FROM filtered");
    for drop in ["DROP DOMAIN short CASCADE", "DROP TYPE pair CASCADE", "DROP SCHEMA types CASCADE"] {
        all.db.run(drop);
        all.db.run("UPDATE typed SET body = body || '.'");
        all.db.run("DELETE FROM typed WHERE id = (SELECT max(id) FROM typed)");
        all.check("INSERT INTO typed (id, body) SELECT max(id) + 100, 'new' FROM typed", "SELECT id, body FROM typed");
        let columns = "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute
                       WHERE attrelid = 'typed'::regclass AND attnum > 0 AND NOT attisdropped";
        assert_eq!(
            all.device.value("SELECT group_concat(name) FROM pragma_table_info('typed')"),
            server_value(&mut all.server, columns)
        );
    }
    // Refused, or the entry breaks: both are honest.
    let refused = all.db.try_run("DROP FUNCTION is_public(int)");
    all.db.run(
        "INSERT INTO filtered VALUES (50, 'new'); UPDATE filtered SET body = 'x' WHERE id < 5; DELETE FROM filtered WHERE id = 1",
    );
    all.check("INSERT INTO other VALUES (1)", "SELECT * FROM other");
    if refused.is_err() {
        all.check("SELECT 1", "SELECT * FROM filtered");
        all.db.run("DROP FUNCTION is_public(int) CASCADE");
    }
    assert_eq!(all.states("filtered")[0][0], "broken");
    all.db.run("INSERT INTO filtered VALUES (51, 'new'); TRUNCATE filtered");
    all.check("INSERT INTO other VALUES (2)", "SELECT * FROM other");
}
