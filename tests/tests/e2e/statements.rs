//! Every kind of statement that changes rows reaches the devices that hold them, and no others.

use crate::lists::Lists;
use std::io::Write;
use sync_tests::compare::{assert_alike, assert_same, assert_verified};
use sync_tests::{Cluster, Device};

#[test]
fn inserts_of_one_and_of_many_rows() {
    let mut lists = Lists::new();
    lists.run_and_check("INSERT INTO item VALUES (100, 1, 'one'), (101, 2, 'two'), (102, 3, 'three'), (103, NULL, 'nowhere')");
    lists.run_and_check("INSERT INTO item SELECT i, i % 4, 'bulk' FROM generate_series(1000, 4000) i");
}

#[test]
fn updates_of_values_of_the_bucket_key_of_the_filter_and_of_the_primary_key() {
    let mut lists = Lists::new();
    lists.run_and_check("UPDATE item SET body = body || '!' WHERE id % 2 = 0");
    lists.run_and_check("UPDATE item SET list = 3 WHERE list = 1 AND id < 10");
    lists.run_and_check("UPDATE item SET list = NULL WHERE list = 2 AND id > 20");
    lists.run_and_check("UPDATE item SET list = 2 WHERE list IS NULL");
    lists.run_and_check("UPDATE item SET hidden = NOT hidden WHERE id IN (3, 4, 5)");
    lists.run_and_check("UPDATE item SET hidden = NOT hidden, list = 2, body = 'back' WHERE id IN (3, 4, 5)");
    lists.run_and_check("UPDATE item SET id = id + 500 WHERE id < 5");
    lists.run_and_check("UPDATE item SET id = id + 500, list = list % 3 + 1 WHERE id > 25");
    lists.run_and_check("UPDATE item SET body = body");
}

#[test]
fn keys_that_change_places_in_one_statement() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE seat (id int PRIMARY KEY DEFERRABLE, guest text)");
    db.run("INSERT INTO seat SELECT i, 'guest ' || i FROM generate_series(1, 5) i");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'seat')");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    db.run("UPDATE seat SET id = CASE id WHEN 1 THEN 2 ELSE 1 END WHERE id IN (1, 2)");
    db.run("UPDATE seat SET id = id % 5 + 1");
    device.sync(&mut server);
    assert_same(&device, &mut server, "SELECT * FROM seat");
    assert_verified(&device);
}

#[test]
fn deletes_and_truncate() {
    let mut lists = Lists::new();
    lists.run_and_check("DELETE FROM item WHERE id % 5 = 0");
    lists.run_and_check("TRUNCATE item");
    lists.run_and_check("INSERT INTO item VALUES (1, 1, 'after'), (2, 2, 'after')");
    lists.run_and_check("BEGIN; TRUNCATE item; INSERT INTO item VALUES (2, 2, 'again'), (9, 1, 'again'); COMMIT");
    lists.run_and_check("BEGIN; TRUNCATE item; ROLLBACK");
}

#[test]
fn copy() {
    let mut lists = Lists::new();
    let mut writer = lists.server.copy_in("COPY item (id, list, body) FROM STDIN (FORMAT csv)").expect("COPY begins");
    for id in 200..900 {
        writeln!(writer, "{id},{},\"copied, {id}\"", id % 4).expect("COPY takes a line");
    }
    writer.finish().expect("COPY ends");
    lists.check();
}

#[test]
fn insert_on_conflict_do_update() {
    let mut lists = Lists::new();
    lists.run_and_check(
        "INSERT INTO item SELECT i, 2, 'upsert' FROM generate_series(20, 40) i
         ON CONFLICT (id) DO UPDATE SET body = 'was there', list = excluded.list",
    );
    lists.run_and_check("INSERT INTO item VALUES (1, 1, 'x'), (99, 1, 'y') ON CONFLICT DO NOTHING");
}

#[test]
fn merge() {
    let mut lists = Lists::new();
    lists.run_and_check(
        "MERGE INTO item USING (SELECT i FROM generate_series(25, 40) i) s ON item.id = s.i
         WHEN MATCHED AND i % 2 = 0 THEN DELETE
         WHEN MATCHED THEN UPDATE SET body = 'merged', list = i % 3 + 1
         WHEN NOT MATCHED THEN INSERT VALUES (i, i % 3 + 1, 'new', false)",
    );
}

#[test]
fn several_statements_and_savepoints_in_one_transaction() {
    let mut lists = Lists::new();
    lists.run_and_check(
        "BEGIN;
         INSERT INTO item VALUES (300, 1, 'a');
         SAVEPOINT s; UPDATE item SET list = 2 WHERE id = 300; DELETE FROM item WHERE id = 1; ROLLBACK TO s;
         SAVEPOINT t; UPDATE item SET body = 'b' WHERE id = 300; RELEASE t;
         DELETE FROM item WHERE id = 2; INSERT INTO item VALUES (2, 3, 'moved by delete and insert');
         COMMIT",
    );
    lists.run_and_check("BEGIN; INSERT INTO item VALUES (301, 2, 'gone at once'); DELETE FROM item WHERE id = 301; COMMIT");
}

#[test]
fn common_table_expressions_that_write_the_table_more_than_once() {
    let mut lists = Lists::new();
    lists.run_and_check(
        "WITH gone AS (DELETE FROM item WHERE id <= 5 RETURNING *), changed AS (UPDATE item SET list = 2 WHERE id BETWEEN 6 AND 9)
         INSERT INTO item SELECT id + 700, list, body, hidden FROM gone",
    );
}

#[test]
fn foreign_key_cascades() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE parent (id int PRIMARY KEY, owner text);
         CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON UPDATE CASCADE ON DELETE CASCADE, body text);
         CREATE TABLE note (id int PRIMARY KEY, child int REFERENCES child ON DELETE SET NULL);
         SELECT sync.create_bucket('all');
         SELECT sync.add_table('all', 'parent'); SELECT sync.add_table('all', 'child'); SELECT sync.add_table('all', 'note')",
    );
    db.run(
        "INSERT INTO parent SELECT i, 'ann' FROM generate_series(1, 10) i;
         INSERT INTO child SELECT i, i % 10 + 1, 'child' FROM generate_series(1, 100) i;
         INSERT INTO note SELECT i, i FROM generate_series(1, 100) i",
    );
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    for change in ["UPDATE parent SET id = 50 WHERE id = 5", "DELETE FROM parent WHERE id IN (1, 50)", "TRUNCATE parent CASCADE"]
    {
        db.run(change);
        device.sync(&mut server);
        for table in ["parent", "child", "note"] {
            assert_same(&device, &mut server, &format!("SELECT * FROM {table}"));
        }
        assert_verified(&device);
    }
}

#[test]
fn partitioned_tables_through_the_parent_and_directly() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE event (id int, day int, body text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
         CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (10);
         CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM (10) TO (20) PARTITION BY LIST (day);
         CREATE TABLE event_2_a PARTITION OF event_2 FOR VALUES IN (10, 11, 12, 13, 14);
         CREATE TABLE event_2_b (body text, day int NOT NULL, id int NOT NULL, PRIMARY KEY (id, day));
         ALTER TABLE event_2 ATTACH PARTITION event_2_b FOR VALUES IN (15, 16, 17, 18, 19);
         INSERT INTO event SELECT i, i % 20, 'event' FROM generate_series(1, 100) i",
    );
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'event')");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    let mut check = |change: &str| {
        db.run(change);
        device.sync(&mut server);
        assert_same(&device, &mut server, "SELECT id, day, body FROM event");
        assert_verified(&device);
    };
    check("SELECT 1");
    check("INSERT INTO event SELECT i, i % 20, 'through the parent' FROM generate_series(200, 300) i");
    check("INSERT INTO event_1 VALUES (1000, 5, 'directly')");
    check("INSERT INTO event_2_b (id, day, body) VALUES (1001, 15, 'directly, columns in another order')");
    check("UPDATE event_2 SET body = 'middle' WHERE id % 2 = 0");
    check("UPDATE event SET day = 15 WHERE day = 3");
    check("UPDATE event SET day = (day + 10) % 20 WHERE id < 50");
    check("DELETE FROM event_2_a WHERE id % 3 = 0");
    check("TRUNCATE event_1");
    check("CREATE TABLE event_3 PARTITION OF event FOR VALUES FROM (20) TO (30)");
    check("INSERT INTO event_3 VALUES (2000, 25, 'into a partition made later')");
    check("ALTER TABLE event DETACH PARTITION event_3");
    check("ALTER TABLE event ATTACH PARTITION event_3 FOR VALUES FROM (20) TO (30)");
    check("TRUNCATE event");
}

#[test]
fn a_row_changed_again_by_an_after_row_trigger() {
    let mut lists = Lists::new();
    lists.run(
        "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             UPDATE item SET body = NEW.body || ' again' WHERE id = NEW.id;
             RETURN NULL;
         END $$;
         CREATE TRIGGER again AFTER INSERT OR UPDATE ON item FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION again()",
    );
    lists.run_and_check("INSERT INTO item VALUES (400, 1, 'new'), (401, 2, 'new')");
    lists.run_and_check("UPDATE item SET body = 'old' WHERE id % 3 = 0");
}

#[test]
fn a_row_moved_to_another_bucket_by_an_after_row_trigger() {
    let mut lists = Lists::new();
    lists.run(
        "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             UPDATE item SET list = NEW.list % 3 + 1 WHERE id = NEW.id;
             RETURN NULL;
         END $$;
         CREATE TRIGGER again AFTER INSERT OR UPDATE ON item FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION again()",
    );
    lists.run_and_check("INSERT INTO item VALUES (400, 1, 'new'), (401, 2, 'new'), (402, 3, 'new')");
    lists.run_and_check("UPDATE item SET list = 2, body = 'old' WHERE id % 3 = 0");
    lists.run_and_check("UPDATE item SET hidden = true WHERE id % 4 = 0");
}

#[test]
fn a_row_deleted_by_an_after_row_trigger() {
    let mut lists = Lists::new();
    lists.run(
        "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             DELETE FROM item WHERE id = NEW.id;
             RETURN NULL;
         END $$;
         CREATE TRIGGER again AFTER INSERT OR UPDATE ON item FOR EACH ROW WHEN (NEW.body = 'bad') EXECUTE FUNCTION again()",
    );
    lists.run_and_check("INSERT INTO item VALUES (400, 1, 'bad'), (401, 2, 'good')");
    lists.run_and_check("UPDATE item SET body = 'bad' WHERE id % 3 = 0");
}

#[test]
fn writes_under_session_replication_role_replica() {
    let mut lists = Lists::new();
    lists.run_and_check(
        "SET session_replication_role = replica;
         INSERT INTO item VALUES (500, 1, 'replica'), (501, 2, 'replica');
         UPDATE item SET list = 2 WHERE id < 10; DELETE FROM item WHERE id > 25 AND id < 500; RESET session_replication_role",
    );
}

#[test]
fn a_row_in_several_buckets_and_tables_with_composite_keys() {
    let db = Cluster::shared().database();
    db.run(
        r#"CREATE TABLE "Odd ""name""" ("a b" int, "c'd" text, "new
line" text, PRIMARY KEY ("c'd", "a b"));
         SELECT sync.create_bucket('number', members => 'SELECT g FROM generate_series(1, 3) g');
         SELECT sync.add_table('number', '"Odd ""name"""', key => '"a b"');
         SELECT sync.create_bucket('letter', members => $$SELECT upper(sync.user_id())$$);
         SELECT sync.add_table('letter', '"Odd ""name"""', key => $$upper("c'd")$$)"#,
    );
    db.run(r#"INSERT INTO "Odd ""name""" SELECT i, l, 'x' FROM generate_series(1, 6) i, unnest(ARRAY['a', 'b', 'A', 'é''"']) l"#);
    let mut server = db.connect();
    let (a, z) = (Device::new("a"), Device::new("z"));
    let mut check = |change: &str| {
        db.run(change);
        for device in [&a, &z] {
            device.sync(&mut server);
            let entitled = format!(
                r#"SELECT * FROM "Odd ""name""" WHERE "a b" BETWEEN 1 AND 3 OR upper("c'd") = upper('{}')"#,
                device.user.id
            );
            assert_alike(device, r#"SELECT * FROM "Odd ""name""""#, &mut server, &entitled);
            assert_verified(device);
        }
    };
    check("SELECT 1");
    check(r#"UPDATE "Odd ""name""" SET "a b" = "a b" + 3 WHERE "a b" < 3 AND "c'd" = 'a' AND "a b" + 3 > 6"#);
    check(r#"UPDATE "Odd ""name""" SET "a b" = "a b" + 10 WHERE "a b" IN (2, 5)"#);
    check(
        r#"UPDATE "Odd ""name""" SET "new
line" = NULL WHERE "c'd" = 'A'"#,
    );
    check(r#"DELETE FROM "Odd ""name""" WHERE "c'd" <> 'A'"#);
}

#[test]
fn tables_that_are_added_and_dropped_while_devices_hold_them() {
    let mut lists = Lists::new();
    lists.run("CREATE TABLE extra (id int PRIMARY KEY, list int)");
    lists.run("INSERT INTO extra SELECT i, i % 4 FROM generate_series(1, 50) i");
    lists.run_and_check("SELECT sync.add_table('list', 'extra', key => 'list')");
    let entitled = "SELECT id, list FROM extra WHERE list IN (1, 2)";
    assert_alike(&lists.ann, "SELECT id, list FROM extra", &mut lists.server, entitled);
    lists.run("INSERT INTO extra VALUES (60, 1), (61, 3)");
    lists.run("SELECT sync.drop_table('list', 'item')");
    lists.sync();
    assert_alike(&lists.ann, "SELECT id, list FROM extra", &mut lists.server, entitled);
}
