//! What an attacker, or a careless administrator, does to synced tables: devices still end up with the server's rows, nobody gains
//! rights, and no writer fails.

use postgres::Client;
use sync_tests::compare::{assert_alike, assert_same, assert_verified, server_rows, server_value};
use sync_tests::device::{server_pull, server_push};
use sync_tests::{Cluster, Database, Device};

/// A server with tables that everybody has in full, and a device that holds them.
struct Everything {
    db: Database<'static>,
    server: Client,
    device: Device,
}

impl Everything {
    #[track_caller]
    fn new(sql: &str, tables: &[&str]) -> Everything {
        let db = Cluster::shared().database();
        db.run(sql);
        db.run("SELECT sync.create_bucket('all')");
        for table in tables {
            db.run(&format!("SELECT sync.add_table('all', '{table}')"));
        }
        db.run("SELECT sync.maintain()");
        let (server, device) = (db.connect(), Device::new("ann"));
        let mut everything = Everything { db, server, device };
        for table in tables {
            everything.check("SELECT 1", &format!("SELECT count(*) FROM {table}"));
        }
        everything
    }

    /// Runs statements in one transaction, syncs, and fails unless the query gives the same on both sides with the right sums.
    #[track_caller]
    fn check(&mut self, change: &str, query: &str) {
        self.check_alike(change, query, query);
    }

    /// The same where a value looks different on the device.
    #[track_caller]
    fn check_alike(&mut self, change: &str, on_device: &str, on_server: &str) {
        self.db.run(change);
        self.device.sync(&mut self.server);
        assert_alike(&self.device, on_device, &mut self.server, on_server);
        assert_verified(&self.device);
        assert_sums(&mut self.server);
    }

    /// `state problem` of a table's entries.
    fn states(&mut self, table: &str) -> Vec<Vec<String>> {
        server_rows(&mut self.server, &format!("SELECT state, problem FROM sync.entry WHERE relid = '{table}'::regclass"))
    }

    fn entries(&mut self) -> Vec<Vec<String>> {
        server_rows(&mut self.server, "SELECT entry_id FROM sync.entry ORDER BY 1")
    }
}

/// Fails unless base and log of every part add up to what the tables hold.
#[track_caller]
fn assert_sums(server: &mut Client) {
    server.batch_execute("SELECT sync.maintain()").expect("maintenance");
    let wrong = "
        SELECT e.entry_id, e.relid, x.* FROM sync.entry e, LATERAL (
            SELECT bucket, s.sum AS scanned, l.sum AS known, s.count AS rows, l.count AS rows_known
            FROM sync.scan_entry(e.entry_id) s FULL JOIN (
                SELECT bucket, sync.wrap(sum(h)) AS sum, sum(n)::bigint AS count FROM (
                    SELECT bucket, sum::numeric AS h, count AS n FROM sync.base WHERE entry = e.entry_id
                    UNION ALL SELECT bucket, hash, n FROM sync.op WHERE entry = e.entry_id) a
                GROUP BY bucket) l USING (bucket)
            WHERE coalesce(s.sum, 0) <> coalesce(l.sum, 0) OR coalesce(s.count, 0) <> coalesce(l.count, 0)) x
        WHERE e.state <> 'broken'";
    assert_eq!(server_rows(server, wrong), Vec::<Vec<String>>::new(), "sums are wrong");
}

/// Fails unless a relation has the four capture triggers, once each and always on.
#[track_caller]
fn assert_captured(server: &mut Client, relation: &str) {
    let sql = format!(
        "SELECT tgname, tgenabled FROM pg_trigger
         WHERE tgrelid = '{relation}'::regclass AND tgfoid = 'sync.capture'::regproc ORDER BY 1"
    );
    let names = ["delete", "insert", "truncate", "update"];
    let wanted: Vec<_> = names.iter().map(|n| vec![format!("sync_capture_{n}"), "A".to_owned()]).collect();
    assert_eq!(server_rows(server, &sql), wanted, "the capture triggers of {relation}");
}

// Rows that change other than by plain writes ------------------------------------------------------------------------------

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

// Capture triggers ---------------------------------------------------------------------------------------------------------

const TASKS: &str = "
    CREATE TABLE task (id int PRIMARY KEY, body text);
    INSERT INTO task SELECT i, 'task' FROM generate_series(1, 10) i;
    CREATE TABLE event (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
    CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);
    INSERT INTO event VALUES (1, 1)";

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

// Tables that cannot be synced any longer ----------------------------------------------------------------------------------

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

// Between two pages --------------------------------------------------------------------------------------------------------

/// Rows in two rules, and a device whose pages are small.
fn paged(rules: &str) -> (Database<'static>, Client, Device) {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE wide (id int PRIMARY KEY, k int NOT NULL, pad text); CREATE INDEX ON wide (k, id);
         CREATE TABLE member (k int, name text, PRIMARY KEY (k, name));
         INSERT INTO member SELECT k, 'ann' FROM generate_series(1, 8) k;
         INSERT INTO wide SELECT i, 1 + i % 8, repeat(md5(i::text), 10) FROM generate_series(1, 800) i",
    );
    db.run(rules);
    db.run("SELECT sync.maintain()");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    device.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
    (db, server, device)
}

fn pages(server: &mut Client, device: &Device, count: usize) {
    for _ in 0..count {
        let reply = server_pull(server, &device.user, &device.pull_request()).expect("a page");
        device.apply(&reply).expect("a page is applied");
    }
}

#[test]
fn the_rows_of_a_table_dropped_from_a_rule_between_two_pages_go() {
    let rules = "SELECT sync.create_bucket('low'); SELECT sync.add_table('low', 'wide', filter => 'id <= 400');
                 SELECT sync.create_bucket('high'); SELECT sync.add_table('high', 'wide', filter => 'id > 400')";
    for before in 1..5 {
        let (db, mut server, device) = paged(rules);
        db.run("UPDATE wide SET pad = pad || 'x'");
        pages(&mut server, &device, before);
        db.run("SELECT sync.drop_table('low', 'wide')");
        device.sync(&mut server);
        assert_alike(&device, "SELECT * FROM wide", &mut server, "SELECT * FROM wide WHERE id > 400");
        db.run("DELETE FROM wide WHERE id % 2 = 0");
        device.sync(&mut server);
        assert_alike(&device, "SELECT * FROM wide", &mut server, "SELECT * FROM wide WHERE id > 400");
        assert_verified(&device);
    }
}

#[test]
fn the_rows_of_a_table_sent_again_between_two_pages_are_its_rows() {
    for before in 1..5 {
        let (db, mut server, device) = paged("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'wide')");
        db.run("UPDATE wide SET pad = pad || 'x'");
        pages(&mut server, &device, before);
        db.run("ALTER TABLE wide ALTER pad TYPE text USING left(pad, 20)");
        pages(&mut server, &device, 1);
        db.run("DELETE FROM wide WHERE id % 2 = 0");
        device.sync(&mut server);
        assert_same(&device, &mut server, "SELECT * FROM wide");
        assert_verified(&device);
    }
}

#[test]
fn a_bucket_lost_and_regained_between_two_pages_is_whole() {
    let rules = "SELECT sync.create_bucket('k', members => 'SELECT k FROM member WHERE name = sync.user_id()');
                 SELECT sync.add_table('k', 'wide', key => 'k')";
    for (before, without) in [(1, 1), (2, 1), (1, 2), (2, 3), (3, 6)] {
        for lost in ["true", "k % 2 = 0", "k > 6", "k = 1"] {
            let (db, mut server, device) = paged(rules);
            db.run("UPDATE wide SET pad = pad || 'x'");
            pages(&mut server, &device, before);
            db.run(&format!("DELETE FROM member WHERE {lost}"));
            pages(&mut server, &device, without);
            db.run("UPDATE wide SET pad = pad || 'y' WHERE id % 5 = 0; DELETE FROM wide WHERE id % 7 = 0");
            db.run("INSERT INTO member SELECT k, 'ann' FROM generate_series(1, 8) k ON CONFLICT DO NOTHING");
            device.sync(&mut server);
            assert_same(&device, &mut server, "SELECT * FROM wide");
            assert_verified(&device);
        }
    }
}

#[test]
fn a_bucket_lost_and_regained_between_two_pages_is_whole_before_its_sums_are_known() {
    let rules = "SELECT sync.create_bucket('k', members => 'SELECT k FROM member WHERE name = sync.user_id()');
                 SELECT sync.add_table('k', 'wide', key => 'k')";
    let (db, mut server, device) = paged(rules);
    db.run("UPDATE sync.entry SET state = 'building'; DELETE FROM sync.base");
    db.run("UPDATE wide SET pad = pad || 'x'");
    pages(&mut server, &device, 2);
    db.run("DELETE FROM member");
    pages(&mut server, &device, 1);
    db.run("INSERT INTO member SELECT k, 'ann' FROM generate_series(1, 8) k");
    device.sync(&mut server);
    assert_same(&device, &mut server, "SELECT * FROM wide");
}

// Comparisons --------------------------------------------------------------------------------------------------------------

/// Lets the day end after which a device compares everything with the server.
fn a_day_later(device: &Device) {
    device.run("UPDATE sync_meta SET value = value - 86400000000 WHERE name = 'verified_at'");
}

#[test]
fn a_device_that_differs_is_mended_within_a_day() {
    let mut all = Everything::new(TASKS, &["task", "event"]);
    // As if the server had forgotten to tell, and as if the file had been damaged.
    all.db.run("ALTER TABLE task DISABLE TRIGGER ALL");
    all.device.run(
        "UPDATE sync_guard SET applying = 1; UPDATE task SET body = 'damaged' WHERE id = 3; DELETE FROM task WHERE id = 4;
         UPDATE sync_guard SET applying = 0",
    );
    all.device.sync(&mut all.server);
    a_day_later(&all.device);
    all.check("SELECT 1", "SELECT * FROM task");
    all.check("INSERT INTO task VALUES (100, 'new')", "SELECT * FROM task");
    // Nothing differs: nothing is sent.
    a_day_later(&all.device);
    let answers = all.device.pull(&mut all.server);
    assert!(answers.len() > 1, "it did compare");
    assert_eq!(answers.iter().map(|answer| answer.rows()).sum::<u64>(), 0);
}

#[test]
fn a_table_dropped_from_a_rule_just_before_a_comparison_goes() {
    let (db, mut server, device) = paged(
        "SELECT sync.create_bucket('low'); SELECT sync.add_table('low', 'wide', filter => 'id <= 400');
         SELECT sync.create_bucket('high'); SELECT sync.add_table('high', 'wide', filter => 'id > 400')",
    );
    a_day_later(&device);
    db.run("SELECT sync.drop_table('low', 'wide')");
    device.sync(&mut server);
    assert_alike(&device, "SELECT * FROM wide", &mut server, "SELECT * FROM wide WHERE id > 400");
    assert_verified(&device);
}

// Rights -------------------------------------------------------------------------------------------------------------------

/// Runs statements one by one, whether they work or not.
fn attempt(client: &mut Client, statements: &[&str]) {
    for sql in statements {
        let _ = client.batch_execute(sql);
    }
}

fn is_superuser(server: &mut Client, role: &str) -> bool {
    server_value(server, &format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'")) == "t"
}

/// The SQLSTATE that a statement fails with; empty when it works.
fn code(client: &mut Client, sql: &str) -> String {
    match client.batch_execute(sql) {
        Ok(()) => String::new(),
        Err(e) => e.code().map_or_else(|| e.to_string(), |c| c.code().to_owned()),
    }
}

#[test]
fn a_trigger_forged_by_a_tables_owner_changes_no_rule() {
    // Its own server: the fault that this is about could take all sessions down.
    let cluster = Cluster::start("");
    let db = cluster.database();
    db.run(
        "CREATE ROLE bob LOGIN; CREATE SCHEMA bob AUTHORIZATION bob;
         CREATE TABLE secret (id int PRIMARY KEY, body text); INSERT INTO secret SELECT i, 'secret' FROM generate_series(1, 10) i",
    );
    db.run("SELECT sync.create_bucket('secret'); SELECT sync.add_table('secret', 'secret', filter => 'id > 5')");
    let mut bob = db.connect_as("bob");
    bob.batch_execute(
        "CREATE TABLE bob.t (id int PRIMARY KEY, x int); INSERT INTO bob.t VALUES (1, 1), (2, 2);
         CREATE FUNCTION bob.evil() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
         BEGIN
             ALTER ROLE bob SUPERUSER;
             RETURN true;
         EXCEPTION WHEN OTHERS THEN
             RETURN true;
         END $$;
         CREATE TABLE bob.nodes (x boolean DEFAULT bob.evil());
         CREATE FUNCTION bob.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
    )
    .expect("bob's own things");
    db.run("SELECT sync.add_table('secret', 'bob.t', filter => 'x > 0')");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    let rules = |server: &mut Client| {
        server_rows(server, "SELECT bucket, \"table\", key, filter, state = 'broken' FROM sync.rules ORDER BY 2")
    };
    let before = rules(&mut server);
    let evil = server_value(&mut server, "SELECT adbin::text FROM pg_attrdef WHERE adrelid = 'bob.nodes'::regclass");
    let wild = "{CONST :consttype 25 :consttypmod -1 :constcollid 100 :constlen -1 :constbyval true :constisnull false :location -1 :constvalue 8 [ 64 0 0 0 0 0 0 0 ]}";
    let ids = server_rows(&mut server, "SELECT entry_id FROM sync.entry");
    let mut change = 0;
    for node in [evil.as_str(), wild] {
        for id in &ids {
            let forged = serde_json::json!({
                "table": 1, "columns": [],
                "entries": [{ "id": id[0].parse::<i32>().expect("an id"), "key": "<>", "filter": format!("({node})") }],
            });
            let argument = forged.to_string().replace('\'', "''");
            for name in ["sync_capture_insert", "sync_capture_update", "forged"] {
                change += 1;
                let event = if name == "sync_capture_update" { "UPDATE" } else { "INSERT" };
                let make =
                    format!("TRIGGER {name} AFTER {event} ON bob.t FOR EACH STATEMENT EXECUTE FUNCTION bob.f('{argument}')");
                attempt(
                    &mut bob,
                    &[
                        &format!("DROP TRIGGER {name} ON bob.t"),
                        &format!("CREATE {make}"),
                        &format!("ALTER TABLE bob.t ADD y{change} int"),
                        &format!("CREATE OR REPLACE {make}"),
                        &format!("ALTER TABLE bob.t RENAME y{change} TO z{change}"),
                        // All in one transaction, with nothing in between that could mend it.
                        &format!("BEGIN; DROP TRIGGER {name} ON bob.t; CREATE {make}; ALTER TABLE bob.t DROP z{change}; COMMIT"),
                        "ROLLBACK",
                    ],
                );
                assert!(!bob.is_closed(), "the server went down");
            }
        }
    }
    db.run("SELECT sync.maintain()");
    bob.batch_execute("INSERT INTO bob.t VALUES (3, 3), (4, -1)").expect("a writer never fails");
    db.run("INSERT INTO secret VALUES (4711, 'new'), (-1, 'hidden')");
    device.sync(&mut server);
    assert_eq!(rules(&mut server), before);
    assert!(!is_superuser(&mut server, "bob"));
    assert_alike(&device, "SELECT * FROM secret", &mut server, "SELECT * FROM secret WHERE id > 5");
    assert_alike(&device, "SELECT id, x FROM bob_t", &mut server, "SELECT id, x FROM bob.t WHERE x > 0");
    assert_captured(&mut server, "bob.t");
    // Nobody can make a trigger of the real function with arguments of his own.
    for name in ["sync_capture_insert", "mine"] {
        let sql = format!(
            "CREATE OR REPLACE TRIGGER {name} AFTER INSERT ON bob.t FOR EACH STATEMENT EXECUTE FUNCTION sync.capture('x')"
        );
        assert_eq!(code(&mut bob, &sql), "42501");
    }
}

#[test]
fn a_filters_function_never_runs_as_anybody_but_the_tables_owner() {
    let cluster = Cluster::start("");
    let db = cluster.database();
    db.run(
        "CREATE ROLE mal LOGIN IN ROLE sync_admin; CREATE SCHEMA mal AUTHORIZATION mal;
         CREATE ROLE writer LOGIN; GRANT USAGE ON SCHEMA mal TO writer",
    );
    let mut mal = db.connect_as("mal");
    // The first is folded while a query is planned, the second runs for each row.
    mal.batch_execute(
        "CREATE FUNCTION mal.act() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
         BEGIN
             IF current_user <> 'mal' THEN
                 BEGIN
                     ALTER ROLE mal SUPERUSER;
                 EXCEPTION WHEN OTHERS THEN
                     NULL;
                 END;
                 RAISE EXCEPTION 'ran as %', current_user;
             END IF;
         END $$;
         CREATE FUNCTION mal.evil(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM mal.act(); RETURN x; END $$;
         CREATE FUNCTION mal.inlined(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT mal.evil(x)';
         CREATE TABLE mal.t (id int PRIMARY KEY, x int);
         CREATE TABLE mal.k (id int PRIMARY KEY, x int);
         CREATE TABLE mal.g (id int PRIMARY KEY, x int);
         INSERT INTO mal.g VALUES (1, 1), (2, 2);
         INSERT INTO mal.t SELECT i, i FROM generate_series(1, 10) i;
         INSERT INTO mal.k SELECT i, i FROM generate_series(1, 10) i;
         GRANT INSERT, UPDATE, DELETE, SELECT, TRUNCATE ON mal.t, mal.k, mal.g TO writer",
    )
    .expect("mal's own things");
    mal.batch_execute(
        "SELECT sync.create_bucket('m');
         SELECT sync.add_table('m', 'mal.t', filter => 'x <> mal.evil(1) AND mal.evil(x) > 0 AND mal.inlined(2) <> x');
         SELECT sync.create_bucket('key', members => 'SELECT mal.evil(g) FROM generate_series(1, 3) g');
         SELECT sync.add_table('key', 'mal.k', key => 'mal.evil(x)')",
    )
    .expect("a sync_admin adds tables of its own");
    // Into the rule of a superuser: the rule's owner's rights are not lent to the filter.
    db.run("SELECT sync.create_bucket('of superuser', members => 'SELECT g FROM generate_series(1, 2) g')");
    mal.batch_execute("SELECT sync.add_table('of superuser', 'mal.g', key => 'mal.evil(x)', filter => 'mal.evil(id) < 100')")
        .expect("a table of its own");
    let (mut server, mut writer, device) = (db.connect(), db.connect_as("writer"), Device::new("ann"));
    let mut check = |server: &mut Client, mal: &mut Client, change: &str| {
        if !change.is_empty() {
            mal.batch_execute(change).unwrap_or_else(|e| panic!("{}\nin: {change}", sync_tests::cluster::describe(&e)));
        }
        // As the superuser, and as somebody with hardly any rights.
        server.batch_execute("SELECT sync.maintain()").expect("maintenance");
        for client in [&mut *server, &mut writer] {
            let write = "INSERT INTO mal.t SELECT max(id) + 1, max(id) + 1 FROM mal.t; UPDATE mal.t SET x = x + 1 WHERE id = 5;
                         DELETE FROM mal.t WHERE id = (SELECT max(id) FROM mal.t WHERE id < 5);
                         INSERT INTO mal.k SELECT max(id) + 1, 2 FROM mal.k;
                         INSERT INTO mal.g SELECT max(id) + 1, 2 FROM mal.g; UPDATE mal.g SET x = 1 WHERE id = 2; UPDATE mal.k SET x = x % 4 + 1 WHERE id = 5";
            client.batch_execute(write).unwrap_or_else(|e| panic!("a writer failed: {}", sync_tests::cluster::describe(&e)));
        }
        device.run("UPDATE mal_g SET x = 3 - x WHERE id = 1; INSERT INTO mal_g (id, x) SELECT max(id) + 1, 1 FROM mal_g");
        device.sync(server);
        // From nothing, so that the tables are read and not the log.
        Device::new("bob").sync(server);
        assert!(!is_superuser(server, "mal"), "after {change}");
        let broken = server_rows(server, "SELECT relid, problem FROM sync.entry WHERE state = 'broken'");
        assert!(broken.is_empty(), "after {change}: {broken:?}");
        assert_alike(&device, "SELECT id, x FROM mal_g", server, "SELECT id, x FROM mal.g");
        assert_alike(&device, "SELECT id, x FROM mal_t", server, "SELECT id, x FROM mal.t WHERE x NOT IN (1, 2)");
        assert_alike(&device, "SELECT id, x FROM mal_k", server, "SELECT id, x FROM mal.k WHERE x BETWEEN 1 AND 3");
    };
    device.sync(&mut server);
    check(&mut server, &mut mal, "");
    check(&mut server, &mut mal, "ALTER TABLE mal.t ADD y int; ALTER TABLE mal.k ADD y int");
    check(&mut server, &mut mal, "DROP TRIGGER sync_capture_insert ON mal.t; ALTER TABLE mal.t ADD z int");
    check(&mut server, &mut mal, "ALTER TABLE mal.t DISABLE TRIGGER ALL; ALTER TABLE mal.k RENAME y TO w");
    check(&mut server, &mut mal, "ALTER TABLE mal.t ALTER y TYPE text; ALTER TABLE mal.k ALTER w TYPE bigint");
    db.run("ALTER TABLE mal.t ADD by_superuser int");
    check(&mut server, &mut mal, "");
    // What is stored is what was written, not what it was folded to.
    let filter = server_value(&mut server, "SELECT filter FROM sync.rules WHERE bucket = 'm'");
    assert!(filter.contains("evil(1)") && filter.contains("inlined(2)"), "{filter}");
}

#[test]
fn a_rules_owner_cannot_be_changed_and_members_run_with_its_rights() {
    let cluster = Cluster::start("");
    let db = cluster.database();
    db.run(
        "CREATE ROLE mal LOGIN IN ROLE sync_admin; CREATE SCHEMA mal AUTHORIZATION mal; CREATE TABLE hidden (id int PRIMARY KEY)",
    );
    let mut mal = db.connect_as("mal");
    mal.batch_execute(
        "CREATE FUNCTION mal.vol() RETURNS int LANGUAGE plpgsql VOLATILE AS $$
         BEGIN
             ALTER ROLE mal SUPERUSER;
             RETURN 1;
         EXCEPTION WHEN OTHERS THEN
             RETURN 1;
         END $$;
         CREATE FUNCTION mal.members() RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN mal.vol(); END $$;
         CREATE TABLE mal.t (id int PRIMARY KEY, k int); INSERT INTO mal.t VALUES (1, 1)",
    )
    .expect("things of its own");
    mal.batch_execute(
        "SELECT sync.create_bucket('m', members => 'SELECT mal.members()'); SELECT sync.add_table('m', 'mal.t', key => 'k')",
    )
    .expect("a rule of its own");
    assert_eq!(code(&mut mal, "UPDATE sync.rule SET owner = 'postgres'"), "42501");
    assert_eq!(code(&mut mal, "UPDATE sync.entry SET filter = 'mal.vol() = 1'"), "42501");
    assert_eq!(code(&mut mal, "SELECT sync.add_table('m', 'hidden', key => 'id')"), "42501");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    // A transport may well ask in a transaction that can write.
    server.query_one("SELECT sync.pull($1)", &[&device.pull_request()]).expect("a page");
    device.sync(&mut server);
    assert!(!is_superuser(&mut server, "mal"));
    assert_eq!(server_value(&mut server, "SELECT owner FROM sync.rule"), "mal");
    assert_eq!(device.rows("SELECT * FROM mal_t"), [["1", "1"]]);
}

#[test]
fn who_may_do_what_in_the_schema_sync() {
    let db = Cluster::shared().database();
    let name = |what: &str| format!("{what}_{}_{}", db.name(), std::process::id());
    let (admin, plain, transport) = (name("admin"), name("plain"), name("transport"));
    db.run(&format!(
        "CREATE ROLE {admin} LOGIN IN ROLE sync_admin; CREATE ROLE {plain} LOGIN; CREATE ROLE {transport} LOGIN IN ROLE sync_transport;
         CREATE SCHEMA own AUTHORIZATION {admin}; CREATE SCHEMA other AUTHORIZATION {plain};
         CREATE TABLE foreign_table (id int PRIMARY KEY); GRANT ALL ON foreign_table TO {admin}, {plain}"
    ));
    let mut server = db.connect();
    let (mut by_admin, mut by_plain) = (db.connect_as(&admin), db.connect_as(&plain));
    by_admin.batch_execute("CREATE TABLE own.t (id int PRIMARY KEY); INSERT INTO own.t VALUES (1)").expect("a table");
    by_plain.batch_execute("CREATE TABLE other.t (id int PRIMARY KEY)").expect("a table");

    // An administrator of rules.
    for sql in [
        "SELECT sync.create_bucket('r')",
        "SELECT sync.add_table('r', 'own.t')",
        "INSERT INTO own.t VALUES (2)",
        "SELECT sync.maintain()",
        "SELECT * FROM sync.rules",
        "SELECT * FROM sync.status",
    ] {
        assert_eq!(code(&mut by_admin, sql), "", "{sql}");
    }
    let device = Device::new("ann");
    device.sync(&mut server);
    assert_eq!(device.rows("SELECT id FROM own_t ORDER BY id"), [["1"], ["2"]]);
    assert_eq!(code(&mut by_admin, "SELECT sync.add_table('r', 'foreign_table')"), "42501");
    let tables = server_rows(
        &mut server,
        "SELECT oid::regclass, relkind FROM pg_class WHERE relnamespace = 'sync'::regnamespace AND relkind IN ('r', 'v')",
    );
    assert!(tables.len() > 10);
    for table in tables {
        let [table, kind] = &table[..] else { panic!("two columns") };
        assert_eq!(code(&mut by_admin, &format!("SELECT * FROM {table} LIMIT 1")), "", "{table}");
        if kind == "r" {
            assert_eq!(code(&mut by_admin, &format!("DELETE FROM {table}")), "42501", "{table}");
        }
        assert_eq!(code(&mut by_plain, &format!("SELECT * FROM {table} LIMIT 1")), "42501", "{table}");
        let rights = format!(
            "SELECT r, p FROM unnest(ARRAY['{admin}', '{plain}', '{transport}']) r, unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p
             WHERE has_table_privilege(r, '{table}', p) OR p IN ('INSERT', 'UPDATE') AND has_any_column_privilege(r, '{table}', p)"
        );
        assert_eq!(server_rows(&mut server, &rights), Vec::<Vec<String>>::new(), "{table}");
    }
    for sql in ["SELECT sync.drop_table('r', 'own.t')", "SELECT sync.drop_bucket('r')"] {
        assert_eq!(code(&mut by_admin, sql), "", "{sql}");
    }

    // Functions: exactly these.
    let asking = ["claims", "param", "user_id"];
    let rules = ["add_table", "create_bucket", "drop_bucket", "drop_table", "lease", "maintain"];
    let transporting = ["pull", "push"];
    for (role, more) in [(&admin, &rules[..]), (&plain, &[]), (&transport, &transporting)] {
        let mut wanted: Vec<_> = asking.iter().chain(more).map(|f| vec![(*f).to_owned()]).collect();
        wanted.sort();
        let sql = format!(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'sync'::regnamespace AND has_function_privilege('{role}', oid, 'EXECUTE')
             ORDER BY proname COLLATE \"C\""
        );
        assert_eq!(server_rows(&mut server, &sql), wanted, "what {role} may call");
    }
    assert_eq!(code(&mut by_admin, "SELECT sync.install_capture('own.t')"), "42501");
    let forged = "CREATE TRIGGER x AFTER INSERT ON own.t FOR EACH STATEMENT EXECUTE FUNCTION sync.capture('{}')";
    assert_eq!(code(&mut by_admin, forged), "42501");
    for sql in [
        "SELECT sync.create_bucket('p')",
        "SELECT sync.add_table('p', 'other.t')",
        "SELECT sync.drop_table('p', 'other.t')",
        "SELECT sync.drop_bucket('p')",
        "SELECT sync.maintain()",
        "SELECT sync.install_capture('other.t')",
        r"SELECT sync.pull('\x')",
        r"SELECT sync.push('\x')",
    ] {
        assert_eq!(code(&mut by_plain, sql), "42501", "{sql}");
    }
    assert_eq!(code(&mut by_plain, "SELECT sync.user_id(), sync.claims(), sync.param('x')"), "");
}

// Bytes --------------------------------------------------------------------------------------------------------------------

#[test]
fn malformed_bytes_are_an_error_of_data_and_not_of_the_connection() {
    let all = Everything::new(TASKS, &["task"]);
    let mut client = all.db.connect();
    all.device.run("INSERT INTO task VALUES (100, 'waits')");
    let (request, batches) = (all.device.pull_request(), all.device.pending_ops().expect("something waits"));
    let cut = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let newer = |bytes: &[u8]| [&bytes[..2], &[99], &bytes[3..]].concat();
    for bytes in [Vec::new(), b"S".to_vec(), b"no message at all".to_vec(), cut(&request), newer(&request), batches.clone()] {
        let error = server_pull(&mut client, &all.device.user, &bytes).expect_err("refused");
        assert!(error.starts_with("22P03 "), "pull: {error}");
    }
    for bytes in [Vec::new(), b"S".to_vec(), b"no message at all".to_vec(), cut(&batches), newer(&batches), request.clone()] {
        let error = server_push(&mut client, &all.device.user, &bytes).expect_err("refused");
        assert!(error.starts_with("22P03 "), "push: {error}");
    }
    assert!(!client.is_closed());
}
