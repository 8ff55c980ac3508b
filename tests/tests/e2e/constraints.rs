//! What the server's constraints and triggers do to a device's writes: afterwards the device shows exactly what the server stored.

use postgres::Client;
use sync_tests::compare::{assert_alike, assert_same, assert_verified, server_rows};
use sync_tests::device::server_push;
use sync_tests::{Cluster, Database, Device};

const NONE: Vec<Vec<String>> = Vec::new();

/// A server with tables that everybody holds, and two devices.
struct World {
    db: Database<'static>,
    server: Client,
    ann: Device,
    bob: Device,
    tables: Vec<&'static str>,
}

fn world(sql: &str, tables: &[&'static str]) -> World {
    let db = Cluster::shared().database();
    db.run(sql);
    db.run("SELECT sync.create_bucket('all')");
    for table in tables {
        db.run(&format!("SELECT sync.add_table('all', '{table}')"));
    }
    let server = db.connect();
    let mut world = World { db, server, ann: Device::new("ann"), bob: Device::new("bob"), tables: tables.to_vec() };
    world.check();
    world
}

impl World {
    /// Syncs everybody; nobody may differ from the server, and nothing may wait.
    #[track_caller]
    fn check(&mut self) {
        for device in [&self.ann, &self.bob, &self.ann] {
            device.sync(&mut self.server);
        }
        for device in [&self.ann, &self.bob] {
            for table in &self.tables {
                assert_same(device, &mut self.server, &format!("SELECT * FROM {table}"));
            }
            assert_eq!(device.rows("SELECT * FROM sync_pending"), NONE);
            assert_verified(device);
        }
    }

    fn server_rows(&mut self, sql: &str) -> Vec<Vec<String>> {
        server_rows(&mut self.server, sql)
    }
}

fn refused(device: &Device) -> Vec<Vec<String>> {
    device.rows("SELECT code, subject FROM sync_rejected ORDER BY id")
}

#[test]
fn of_two_devices_that_insert_one_unique_value_offline_the_first_is_accepted() {
    let mut all = world("CREATE TABLE seat (id int PRIMARY KEY, place text CONSTRAINT one_each UNIQUE, who text)", &["seat"]);
    all.ann.run("INSERT INTO seat VALUES (1, '12A', 'ann')");
    all.bob.run("BEGIN; INSERT INTO seat VALUES (2, '12A', 'bob'); INSERT INTO seat VALUES (3, '12B', 'bob'); COMMIT");
    all.bob.run("INSERT INTO seat VALUES (4, '14F', 'bob')");
    all.check();
    assert_eq!(all.server_rows("SELECT id, place, who FROM seat ORDER BY id"), [["1", "12A", "ann"], ["4", "14F", "bob"]]);
    assert_eq!((refused(&all.ann), refused(&all.bob)), (NONE, vec![vec!["23505".to_owned(), "one_each".to_owned()]]));
    // Both rows of the refused transaction are there to look at.
    let kept = "SELECT j.value ->> '$.new.place' FROM sync_rejected, json_each(batch) j ORDER BY 1";
    assert_eq!(all.bob.rows(kept), [["12A"], ["12B"]]);
}

#[test]
fn a_unique_value_may_be_passed_on_between_rows_and_devices() {
    let mut all =
        world("CREATE TABLE seat (id int PRIMARY KEY, place text UNIQUE); INSERT INTO seat VALUES (1, 'a'), (2, 'b')", &["seat"]);
    all.ann.run("UPDATE seat SET place = 'c' WHERE id = 1");
    all.ann.run("UPDATE seat SET place = 'a' WHERE id = 2");
    all.check();
    // On the device the row that gives the value up comes last, on the server it may not: the order of writes is kept.
    all.bob.run("BEGIN; DELETE FROM seat WHERE id = 1; INSERT INTO seat VALUES (3, 'c'); COMMIT");
    all.check();
    assert_eq!(all.server_rows("SELECT id, place FROM seat ORDER BY id"), [["2", "a"], ["3", "c"]]);
    assert_eq!((refused(&all.ann), refused(&all.bob)), (NONE, NONE));
}

#[test]
fn a_check_refuses_one_transaction_and_those_around_it_go_on() {
    let mut all = world(
        "CREATE TABLE purse (id int PRIMARY KEY, coins int CONSTRAINT not_negative CHECK (coins >= 0)); INSERT INTO purse VALUES (1, 10)",
        &["purse"],
    );
    for by in [-4, -9, -6] {
        all.ann.run(&format!("UPDATE purse SET coins = coins + {by} WHERE id = 1"));
    }
    assert_eq!(all.ann.value("SELECT coins FROM purse"), "-9");
    all.check();
    // 6, then -3 is refused; the third wrote -9, which is no better.
    assert_eq!(refused(&all.ann), [["23514", "not_negative"], ["23514", "not_negative"]]);
    assert_eq!(all.ann.value("SELECT coins FROM purse"), "6");
}

#[test]
fn what_follows_a_refused_write_is_no_conflict_with_it() {
    let mut all = world(
        "CREATE TABLE purse (id int PRIMARY KEY, coins int CHECK (coins >= 0), note text);
         INSERT INTO purse SELECT i, 10, 'full' FROM generate_series(1, 4) i;
         SELECT sync.set_policy('purse', 'server_wins')",
        &["purse"],
    );
    // Corrected before anything was sent, and deleted.
    for write in
        ["coins = -5, note = 'a' WHERE id < 3", "coins = -6 WHERE id = 1", "coins = 6 WHERE id = 1", "note = 'b' WHERE id = 1"]
    {
        all.ann.run(&format!("UPDATE purse SET {write}"));
    }
    all.ann.run("DELETE FROM purse WHERE id = 2");
    // Deleted before the answer came.
    all.ann.run("UPDATE purse SET coins = -7 WHERE id = 4");
    all.ann.run("UPDATE purse SET coins = -7 WHERE id = 3");
    all.ann.run("UPDATE purse SET coins = 7 WHERE id = 3");
    let batches = all.ann.pending_ops().expect("something waits");
    let answer = server_push(&mut all.server, &all.ann.user, &batches).expect("a push");
    all.ann.run("DELETE FROM purse WHERE id = 4");
    all.ann.apply(&answer).expect("the answer");
    all.check();
    assert_eq!(all.server_rows("SELECT id, coins, note FROM purse ORDER BY id"), [["1", "6", "b"], ["3", "7", "full"]]);
    assert_eq!((refused(&all.ann).len(), all.ann.rows("SELECT * FROM sync_conflicts")), (4, NONE));
    // What somebody else changed meanwhile still is one.
    all.ann.run("UPDATE purse SET coins = -8 WHERE id = 3");
    all.ann.run("UPDATE purse SET coins = 8 WHERE id = 3");
    all.db.run("UPDATE purse SET coins = 99 WHERE id = 3");
    all.check();
    assert_eq!(all.ann.rows("SELECT coins FROM purse WHERE id = 3"), [["99"]]);
}

const FAMILY: &str = "
    CREATE TABLE parent (id int PRIMARY KEY, name text);
    CREATE TABLE child (id int PRIMARY KEY, parent int CONSTRAINT of_parent REFERENCES parent {deferrable}, name text);
    INSERT INTO parent VALUES (1, 'one')";

#[test]
fn a_child_may_come_before_its_parent_where_the_foreign_key_is_deferred() {
    let mut all = world(&FAMILY.replace("{deferrable}", "DEFERRABLE INITIALLY DEFERRED"), &["parent", "child"]);
    all.ann.run("BEGIN; INSERT INTO child VALUES (1, 7, 'first'); INSERT INTO parent VALUES (7, 'seven'); COMMIT");
    all.ann.run("INSERT INTO child VALUES (2, 8, 'orphan')");
    all.ann.run("BEGIN; DELETE FROM parent WHERE id = 1; INSERT INTO child VALUES (3, 1, 'of nobody'); INSERT INTO parent VALUES (1, 'again'); COMMIT");
    all.check();
    assert_eq!(refused(&all.ann), [["23503", "of_parent"]]);
    assert_eq!(all.server_rows("SELECT id, parent FROM child ORDER BY id"), [["1", "7"], ["3", "1"]]);
}

#[test]
fn parents_and_children_in_transactions_of_their_own_keep_their_order() {
    let mut all = world(&FAMILY.replace("{deferrable}", ""), &["parent", "child"]);
    for i in 10..70 {
        all.ann.run(&format!("INSERT INTO parent VALUES ({i}, 'p')"));
        all.ann.run(&format!("INSERT INTO child VALUES ({i}, {i}, 'c')"));
    }
    all.ann.run("DELETE FROM child WHERE id = 10");
    all.ann.run("DELETE FROM parent WHERE id = 10");
    all.ann.run("DELETE FROM parent WHERE id = 11");
    all.check();
    // The last one has a child.
    assert_eq!(refused(&all.ann), [["23503", "of_parent"]]);
    assert_eq!(all.server_rows("SELECT count(*), min(id) FROM child"), [["59", "11"]]);
}

#[test]
fn a_rejected_parent_takes_its_later_children_along_and_nothing_else() {
    let mut all = world(&FAMILY.replace("{deferrable}", ""), &["parent", "child"]);
    all.db.run("ALTER TABLE parent ADD CONSTRAINT named CHECK (name <> '')");
    all.ann.run("INSERT INTO parent VALUES (2, '')");
    all.ann.run("INSERT INTO child VALUES (2, 2, 'lost with it')");
    all.ann.run("INSERT INTO child VALUES (3, 1, 'kept')");
    all.check();
    assert_eq!(refused(&all.ann), [["23514", "named"], ["23503", "of_parent"]]);
    assert_eq!(all.ann.rows("SELECT id FROM child"), [["3"]]);
}

#[test]
fn what_a_foreign_key_does_to_other_rows_reaches_the_device_that_caused_it() {
    let mut all = world(
        "CREATE TABLE parent (id int PRIMARY KEY, name text);
         CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE, name text);
         CREATE TABLE guest (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE SET NULL, name text);
         INSERT INTO parent VALUES (1, 'one'), (2, 'two');
         INSERT INTO child SELECT i, i % 2 + 1, 'c' FROM generate_series(1, 20) i;
         INSERT INTO guest SELECT i, i % 2 + 1, 'g' FROM generate_series(1, 4) i",
        &["parent", "child", "guest"],
    );
    // Bob edits a child that goes, offline.
    all.bob.run("UPDATE child SET name = 'edited' WHERE id = 2");
    all.bob.run("UPDATE guest SET name = 'edited' WHERE id = 2");
    all.ann.run("DELETE FROM parent WHERE id = 1");
    all.check();
    assert_eq!(all.server_rows("SELECT count(*) FROM child"), [["10"]]);
    assert_eq!(all.ann.rows("SELECT parent, name FROM guest WHERE id = 2"), [["∅", "edited"]]);
    // It cannot be put back without its parent.
    assert_eq!(refused(&all.bob), [["23503", "child_parent_fkey"]]);
}

#[test]
fn an_exclusion_constraint_keeps_two_bookings_apart() {
    let mut all = world(
        "CREATE TABLE booking (id int PRIMARY KEY, during tsrange, CONSTRAINT no_overlap EXCLUDE USING gist (during WITH &&))",
        &["booking"],
    );
    all.ann.run("INSERT INTO booking VALUES (1, '[2024-05-01 10:00,2024-05-01 12:00)')");
    all.bob.run("INSERT INTO booking VALUES (2, '[2024-05-01 11:00,2024-05-01 13:00)')");
    all.bob.run("INSERT INTO booking VALUES (3, '[2024-05-01 12:00,2024-05-01 13:00)')");
    all.check();
    assert_eq!(refused(&all.bob), [["23P01", "no_overlap"]]);
    assert_eq!(all.ann.rows("SELECT id FROM booking ORDER BY id"), [["1"], ["3"]]);
}

#[test]
fn a_trigger_that_raises_refuses_with_its_own_words() {
    let mut all = world(
        "CREATE TABLE post (id int PRIMARY KEY, body text, locked int NOT NULL DEFAULT 0);
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF OLD.locked = 1 THEN RAISE EXCEPTION 'post % is locked', OLD.id USING ERRCODE = 'PT409', HINT = 'Ask a moderator.'; END IF;
             RETURN coalesce(NEW, OLD);
         END $$;
         CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON post FOR EACH ROW EXECUTE FUNCTION keep();
         INSERT INTO post VALUES (1, 'open', 0), (2, 'shut', 1), (3, 'shut', 1)",
        &["post"],
    );
    all.ann.run("UPDATE post SET body = 'edited'");
    all.ann.run("DELETE FROM post WHERE id = 3");
    all.ann.run("UPDATE post SET body = 'edited alone' WHERE id = 1");
    all.check();
    let words = all.ann.rows("SELECT code, message FROM sync_rejected ORDER BY id");
    assert_eq!(words.len(), 2, "{words:?}");
    assert!(words.iter().all(|row| row[0] == "PT409"), "{words:?}");
    assert!(words[0][1].contains("post 2 is locked") && words[1][1].contains("post 3 is locked"), "{words:?}");
    assert_eq!(all.ann.rows("SELECT body FROM post ORDER BY id"), [["edited alone"], ["shut"], ["shut"]]);
}

#[test]
fn a_device_shows_what_triggers_defaults_and_generated_columns_made_of_its_rows() {
    let mut all = world(
        "CREATE TABLE person (id int PRIMARY KEY, name text NOT NULL, email text, plan text NOT NULL DEFAULT 'free', score int DEFAULT 40 + 2,
             shout text GENERATED ALWAYS AS (upper(name)) STORED, revision int NOT NULL DEFAULT 0, updated_at timestamptz NOT NULL DEFAULT now());
         CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             NEW.name := btrim(NEW.name); NEW.email := lower(NEW.email); NEW.updated_at := clock_timestamp();
             NEW.revision := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE OLD.revision + 1 END;
             RETURN NEW;
         END $$;
         CREATE TRIGGER tidy BEFORE INSERT OR UPDATE ON person FOR EACH ROW EXECUTE FUNCTION tidy()",
        &[],
    );
    all.db.run("SELECT sync.add_table('all', 'person')");
    all.check();
    let stored = "id, name, email, plan, score, shout, revision";
    all.ann.run("INSERT INTO person (id, name, email) VALUES (1, '  Ada ', 'ADA@Example.org')");
    all.ann.run("UPDATE person SET name = ' Ada L. ', updated_at = '1999-01-01T00:00:00Z' WHERE id = 1");
    all.ann.run("BEGIN; INSERT INTO person (id, name) VALUES (2, 'Bob '); UPDATE person SET email = 'B@X' WHERE id = 2; COMMIT");
    for _ in 0..2 {
        all.check();
        for device in [&all.ann, &all.bob] {
            assert_alike(
                device,
                &format!("SELECT {stored} FROM person"),
                &mut all.server,
                &format!("SELECT {stored} FROM person"),
            );
            let times = "SELECT id, to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM person";
            assert_alike(device, "SELECT id, updated_at FROM person", &mut all.server, times);
        }
    }
    assert_eq!(
        all.ann.rows(&format!("SELECT {stored} FROM person ORDER BY id")),
        [["1", "Ada L.", "ada@example.org", "free", "42", "ADA L.", "2"], ["2", "Bob", "b@x", "free", "42", "BOB", "1"]]
    );
    assert!(all.ann.value("SELECT updated_at FROM person WHERE id = 1").starts_with("20"));
    // The server's own rewriting is no conflict with what the device writes next.
    all.ann.run("UPDATE person SET name = 'Ada III ' WHERE id = 1");
    all.check();
    assert_eq!(all.ann.rows("SELECT name, revision FROM person WHERE id = 1"), [["Ada III", "3"]]);
    assert_eq!((all.ann.rows("SELECT * FROM sync_conflicts"), refused(&all.ann)), (NONE, NONE));
}

#[test]
fn a_row_that_a_trigger_swallows_is_refused_and_goes_from_the_device() {
    let mut all = world(
        "CREATE TABLE mail (id int PRIMARY KEY, body text);
         CREATE FUNCTION filter() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN IF NEW.body LIKE '%spam%' THEN RETURN NULL; END IF; RETURN NEW; END $$;
         CREATE TRIGGER filter BEFORE INSERT OR UPDATE ON mail FOR EACH ROW EXECUTE FUNCTION filter();
         INSERT INTO mail VALUES (1, 'hello')",
        &["mail"],
    );
    all.ann.run("INSERT INTO mail VALUES (2, 'spam')");
    all.ann.run("UPDATE mail SET body = 'more spam' WHERE id = 1");
    all.ann.run("INSERT INTO mail VALUES (3, 'fine')");
    all.check();
    assert_eq!(all.ann.rows("SELECT id, body FROM mail ORDER BY id"), [["1", "hello"], ["3", "fine"]]);
    assert_eq!(refused(&all.ann), [["42501", "mail"], ["42501", "mail"]]);
}

#[test]
fn rows_that_a_trigger_writes_elsewhere_come_with_the_transaction() {
    let mut all = world(
        "CREATE TABLE item (id int PRIMARY KEY, body text);
         CREATE TABLE audit (id int PRIMARY KEY, what text);
         CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO audit VALUES (NEW.id * 10, TG_OP || ' ' || NEW.body); RETURN NULL; END $$;
         CREATE TRIGGER audit AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION audit()",
        &["item", "audit"],
    );
    all.ann.run("BEGIN; INSERT INTO item VALUES (1, 'a'); INSERT INTO item VALUES (2, 'b'); COMMIT");
    all.check();
    assert_eq!(all.bob.rows("SELECT * FROM audit ORDER BY id"), [["10", "INSERT a"], ["20", "INSERT b"]]);
}
