//! The way up: whole transactions, exactly once, with the rights of the user, and an answer for each.

use crate::lists::Lists;
use sync_tests::compare::{assert_same, assert_verified, server_rows, server_value};
use sync_tests::device::{server_pull, server_push};
use sync_tests::{Cluster, Database, Device, User};

const NONE: Vec<Vec<String>> = Vec::new();

fn accounts() -> Database<'static> {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE account (id int PRIMARY KEY, owner text NOT NULL DEFAULT 'ann', amount int CHECK (amount >= 0), note text,
             UNIQUE (note) DEFERRABLE INITIALLY DEFERRED)",
    );
    db.run("INSERT INTO account VALUES (1, 'ann', 100, 'first'), (2, 'ann', 200, 'second')");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'account')");
    db
}

#[test]
fn three_local_transactions_with_the_second_rejected() {
    let db = accounts();
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    device.run("BEGIN; UPDATE account SET amount = 110 WHERE id = 1; INSERT INTO account VALUES (3, 'ann', 1, 'third'); COMMIT");
    device.run("BEGIN; UPDATE account SET amount = -5 WHERE id = 2; INSERT INTO account VALUES (4, 'ann', 1, 'fourth'); COMMIT");
    device.run("BEGIN; UPDATE account SET note = 'changed' WHERE id = 1; COMMIT");
    device.sync(&mut server);
    assert_eq!(
        server_rows(&mut server, "SELECT id, amount, note FROM account ORDER BY id"),
        [["1", "110", "changed"], ["2", "200", "second"], ["3", "1", "third"]]
    );
    assert_same(&device, &mut server, "SELECT * FROM account");
    assert_eq!(device.rows("SELECT code FROM sync_rejected"), [["23514"]]);
    assert!(device.value("SELECT message FROM sync_rejected").contains("account_amount_check"));
    assert_eq!(device.value("SELECT count(*) FROM sync_pending"), "0");
    assert_verified(&device);
}

#[test]
fn each_kind_of_refusal_has_its_sqlstate() {
    let db = accounts();
    db.run("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not on Sundays' USING ERRCODE = 'SY999'; END $$");
    db.run("CREATE TRIGGER no BEFORE INSERT ON account FOR EACH ROW WHEN (NEW.amount = 666) EXECUTE FUNCTION no()");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    let refusals = [
        ("INSERT INTO account VALUES (5, 'ann', -1, 'check')", "23514"),
        ("INSERT INTO account VALUES (6, 'ann', 1, 'first')", "23505"),
        ("INSERT INTO account VALUES (7, 'ann', 666, 'trigger')", "SY999"),
        ("INSERT INTO account VALUES (8, 'ann', 99999999999, 'range')", "22003"),
    ];
    for (sql, code) in refusals {
        device.run(sql);
        device.sync(&mut server);
        let codes = device.rows("SELECT code FROM sync_rejected");
        assert!(codes.contains(&vec![code.to_owned()]), "{sql} gave {codes:?}, not {code}");
        assert_same(&device, &mut server, "SELECT * FROM account");
    }
    // Two rows that change a unique value between them are fine: the constraint is deferrable, and whole transactions arrive.
    device.run("BEGIN; UPDATE account SET note = 'x' WHERE id = 1; UPDATE account SET note = 'first' WHERE id = 2; UPDATE account SET note = 'second' WHERE id = 1; COMMIT");
    device.sync(&mut server);
    assert_eq!(server_rows(&mut server, "SELECT id, note FROM account ORDER BY id"), [["1", "second"], ["2", "first"]]);
    assert_verified(&device);
}

#[test]
fn one_deferred_violation_does_not_fail_the_batches_around_it() {
    let db = accounts();
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    for (id, note) in [(10, "a"), (11, "first"), (12, "b"), (13, "first"), (14, "c")] {
        device.run(&format!("INSERT INTO account VALUES ({id}, 'ann', 1, '{note}')"));
    }
    device.sync(&mut server);
    assert_eq!(server_rows(&mut server, "SELECT id FROM account WHERE id >= 10 ORDER BY id"), [["10"], ["12"], ["14"]]);
    assert_same(&device, &mut server, "SELECT * FROM account");
    assert_eq!(device.rows("SELECT code FROM sync_rejected"), [["23505"], ["23505"]]);
}

#[test]
fn row_level_security_and_grants_decide() {
    let db = Cluster::shared().database();
    let role = format!("app_{}", db.name());
    db.run(&format!("CREATE ROLE {role} NOLOGIN"));
    db.run(
        "CREATE TABLE doc (id int PRIMARY KEY, owner text NOT NULL, body text, locked text);
         ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON doc USING (owner = sync.user_id())",
    );
    db.run(&format!("GRANT SELECT, INSERT (id, owner, body), UPDATE (body, owner), DELETE ON doc TO {role}"));
    db.run("INSERT INTO doc VALUES (1, 'ann', 'mine', 'l'), (2, 'bob', 'his', 'l')");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'doc', rls => 'rules_decide')");
    let mut server = db.connect();
    let device = Device::for_user(User::with_role("ann", &role));
    device.sync(&mut server);
    device.run("UPDATE doc SET body = 'changed' WHERE id = 1");
    device.run("INSERT INTO doc (id, owner, body) VALUES (3, 'ann', 'new')");
    device.run("INSERT INTO doc (id, owner, body) VALUES (4, 'bob', 'in his name')");
    device.run("UPDATE doc SET owner = 'bob' WHERE id = 1");
    device.run("UPDATE doc SET locked = 'no' WHERE id = 1");
    device.run("UPDATE doc SET body = 'not mine' WHERE id = 2");
    device.run("DELETE FROM doc WHERE id = 2");
    device.sync(&mut server);
    assert_eq!(
        server_rows(&mut server, "SELECT * FROM doc ORDER BY id"),
        [["1", "ann", "changed", "l"], ["2", "bob", "his", "l"], ["3", "ann", "new", "∅"]]
    );
    assert_same(&device, &mut server, "SELECT * FROM doc");
    let codes = device.rows("SELECT code FROM sync_rejected");
    assert!(codes.len() == 5 && codes.iter().all(|row| row[0] == "42501"), "{codes:?}");
    assert_verified(&device);
}

#[test]
fn a_push_that_is_repeated_is_applied_once() {
    let mut lists = Lists::new();
    lists.ann.run("INSERT INTO item VALUES (100, 1, 'once', 0)");
    lists.run("CREATE TABLE seen (id int); CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (NEW.id); RETURN NULL; END $$");
    lists.run("CREATE TRIGGER see AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION see()");
    let batches = lists.ann.pending_ops().expect("something waits");
    for _ in 0..3 {
        server_push(&mut lists.server, &lists.ann.user, &batches).expect("a push");
    }
    let reply = server_push(&mut lists.server, &lists.ann.user, &batches).expect("a push");
    let answer = lists.ann.apply(&reply).expect("a reply");
    assert_eq!(answer.verdicts("accepted"), 1);
    assert_eq!(server_value(&mut lists.server, "SELECT count(*) FROM seen"), "1");
    lists.check();
}

#[test]
fn a_lost_reply_and_a_lost_delta_lose_nothing() {
    let mut lists = Lists::new();
    for i in 0..5 {
        lists.ann.run(&format!("INSERT INTO item VALUES ({}, 1, 'from ann', 0)", 100 + i));
        let batches = lists.ann.pending_ops().expect("something waits");
        server_push(&mut lists.server, &lists.ann.user, &batches).expect("a push whose reply is lost");
        server_pull(&mut lists.server, &lists.ann.user, &lists.ann.pull_request()).expect("a pull whose delta is lost");
        if i % 2 == 0 {
            lists.ann.restart();
        }
    }
    lists.check();
    assert_eq!(server_value(&mut lists.server, "SELECT count(*) FROM item WHERE id >= 100"), "5");
}

#[test]
fn columns_changed_on_different_devices_are_merged() {
    let db = accounts();
    let mut server = db.connect();
    let (ann, bob) = (Device::new("ann"), Device::new("bob"));
    ann.sync(&mut server);
    bob.sync(&mut server);
    ann.run("UPDATE account SET amount = 1 WHERE id = 1");
    bob.run("UPDATE account SET note = 'bob was here' WHERE id = 1");
    for device in [&ann, &bob, &ann] {
        device.sync(&mut server);
    }
    assert_eq!(server_rows(&mut server, "SELECT amount, note FROM account WHERE id = 1"), [["1", "bob was here"]]);
    assert_same(&ann, &mut server, "SELECT * FROM account");
    assert_same(&bob, &mut server, "SELECT * FROM account");
    assert_eq!(bob.rows("SELECT * FROM sync_rejected"), NONE);
}

#[test]
fn the_later_edit_of_the_same_column_wins_whoever_syncs_first() {
    for ann_first in [true, false] {
        let db = accounts();
        let mut server = db.connect();
        let (ann, bob) = (Device::new("ann"), Device::new("bob"));
        ann.sync(&mut server);
        bob.sync(&mut server);
        ann.run("UPDATE account SET note = 'earlier' WHERE id = 1");
        ann.pending_ops().expect("sealed now, so that its time is now");
        std::thread::sleep(std::time::Duration::from_millis(20));
        bob.run("UPDATE account SET note = 'later' WHERE id = 1");
        let order = if ann_first { [&ann, &bob, &ann] } else { [&bob, &ann, &bob] };
        for device in order {
            device.sync(&mut server);
        }
        assert_eq!(server_rows(&mut server, "SELECT note FROM account WHERE id = 1"), [["later"]], "Ann first: {ann_first}");
        assert_same(&ann, &mut server, "SELECT * FROM account");
        assert_same(&bob, &mut server, "SELECT * FROM account");
        assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.conflict"), "1");
    }
}

#[test]
fn a_devices_second_edit_is_no_conflict_with_its_first() {
    let db = accounts();
    db.run(
        "ALTER TABLE account ADD updated_at timestamptz;
         CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := now(); NEW.note := upper(NEW.note); RETURN NEW; END $$;
         CREATE TRIGGER touch BEFORE UPDATE ON account FOR EACH ROW EXECUTE FUNCTION touch()",
    );
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    device.run("UPDATE account SET note = 'one' WHERE id = 1");
    device.run("UPDATE account SET note = 'two' WHERE id = 1");
    device.run("UPDATE account SET note = 'three' WHERE id = 1");
    device.sync(&mut server);
    assert_eq!(server_rows(&mut server, "SELECT note FROM account WHERE id = 1"), [["THREE"]]);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.conflict"), "0");
    assert_same(&device, &mut server, "SELECT id, note FROM account");
    assert_verified(&device);
}

#[test]
fn an_edit_of_a_row_that_was_deleted_meanwhile_ends_with_a_record() {
    let mut lists = Lists::new();
    lists.ann.run("UPDATE item SET body = 'too late' WHERE id = 3");
    lists.run("DELETE FROM item WHERE id = 3");
    lists.check();
    let records = lists.ann.value("SELECT (SELECT count(*) FROM sync_rejected) + (SELECT count(*) FROM sync_conflicts)");
    assert_ne!(records, "0", "the edit of a deleted row left no trace");
}

#[test]
fn a_delete_of_a_row_that_was_deleted_meanwhile_is_fine() {
    let mut lists = Lists::new();
    lists.ann.run("DELETE FROM item WHERE id = 3");
    lists.run("DELETE FROM item WHERE id = 3");
    lists.check();
    assert_eq!(lists.ann.rows("SELECT * FROM sync_rejected"), NONE);
}

#[test]
fn devices_move_rows_between_buckets() {
    let mut lists = Lists::new();
    lists.ann.run("UPDATE item SET list = 3 WHERE id = 3");
    lists.ann.run("UPDATE item SET list = 2 WHERE id = 6");
    lists.ann.run("INSERT INTO item VALUES (100, 3, 'for bob', 0)");
    lists.check();
    assert_eq!(lists.bob.rows("SELECT id FROM item WHERE id IN (3, 6, 100) ORDER BY id"), [["3"], ["6"], ["100"]]);
}

#[test]
fn a_copied_device_file_takes_a_new_identity() {
    let mut lists = Lists::new();
    lists.ann.run("INSERT INTO item VALUES (100, 1, 'before the copy', 0)");
    let clone = lists.ann.copy();
    lists.ann.run("INSERT INTO item VALUES (101, 1, 'on the original', 0)");
    clone.run("INSERT INTO item VALUES (102, 1, 'on the copy', 0)");
    lists.ann.sync(&mut lists.server);
    clone.sync(&mut lists.server);
    clone.run("INSERT INTO item VALUES (103, 1, 'on the copy again', 0)");
    clone.sync(&mut lists.server);
    lists.check();
    clone.sync(&mut lists.server);
    let ids = server_rows(&mut lists.server, "SELECT id FROM item WHERE id >= 100 ORDER BY id");
    assert_eq!(ids, [["100"], ["101"], ["102"], ["103"]]);
    assert_eq!(clone.rows("SELECT id FROM item WHERE id >= 100 ORDER BY id"), ids);
}

#[test]
fn a_batch_that_must_wait_is_sent_again_and_those_behind_it_wait() {
    let mut lists = Lists::new();
    let mut holder = lists.db.connect();
    holder.batch_execute("BEGIN; UPDATE item SET body = 'held' WHERE id = 3").expect("a lock");
    lists.run("SET lock_timeout = '100ms'");
    lists.ann.run("UPDATE item SET body = 'from ann' WHERE id = 3");
    lists.ann.run("INSERT INTO item VALUES (100, 1, 'behind it', 0)");
    lists.ann.push(&mut lists.server);
    assert_eq!(server_value(&mut lists.server, "SELECT count(*) FROM item WHERE id = 100"), "0");
    assert_eq!(lists.ann.rows("SELECT * FROM sync_rejected"), NONE);
    holder.batch_execute("ROLLBACK").expect("the lock goes");
    lists.check();
    assert_eq!(
        server_rows(&mut lists.server, "SELECT body FROM item WHERE id IN (3, 100) ORDER BY id"),
        [["from ann"], ["behind it"]]
    );
}

#[test]
fn claims_of_an_ordinary_session_are_not_believed() {
    let lists = Lists::new();
    let role = format!("plain_{}", lists.db.name());
    lists.db.run(&format!("CREATE ROLE {role} LOGIN"));
    let mut client = lists.db.connect_as(&role);
    client.batch_execute(r#"SET request.jwt.claims = '{"sub": "ann"}'"#).expect("anybody may set it");
    let user = client.query_one("SELECT sync.user_id()", &[]);
    if let Ok(row) = user {
        assert_eq!(row.get::<_, String>(0), role);
    }
    let device = Device::new("ann");
    if let Ok(reply) = server_pull(&mut client, &device.user, &device.pull_request()) {
        device.apply(&reply).expect("a delta");
        assert!(
            device.rows("SELECT name FROM sqlite_schema WHERE name = 'item'").is_empty()
                || device.value("SELECT count(*) FROM item") == "0"
        );
    }
}

#[test]
fn a_key_that_is_equal_and_not_identical_is_no_conflict_of_a_device_with_itself() {
    let db = Cluster::shared().database();
    if server_value(&mut db.connect(), "SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'") == "0" {
        return sync_tests::skipped("the server has no citext");
    }
    db.run("CREATE EXTENSION citext");
    db.run(
        "CREATE TABLE tag (name citext PRIMARY KEY, body text);
         CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.body := NEW.body || '!'; RETURN NEW; END $$;
         CREATE TRIGGER shout BEFORE UPDATE ON tag FOR EACH ROW WHEN (NEW.body IS DISTINCT FROM OLD.body) EXECUTE FUNCTION shout();
         INSERT INTO tag VALUES ('abc', 'one')",
    );
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'tag')");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    db.run("UPDATE tag SET name = 'ABC'");
    for body in ["two", "three"] {
        device.run(&format!("UPDATE tag SET body = '{body}' WHERE name = 'abc'"));
        device.push(&mut server);
    }
    device.pull(&mut server);
    assert_eq!(server_rows(&mut server, "SELECT name, body FROM tag"), [["ABC", "three!"]]);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.conflict"), "0");
    assert_same(&device, &mut server, "SELECT name, body FROM tag");
    assert_verified(&device);
}
