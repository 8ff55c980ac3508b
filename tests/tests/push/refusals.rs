//! A batch is applied whole or not at all, and its verdict says why.

use crate::phone::{delete, insert, int, short, text, update, Phone};
use postgres::Client;
use sync_shared::hash::tag;
use sync_shared::message::{Change, ChangeKind, Verdict};
use sync_shared::Value;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database};

fn accounts() -> (Database<'static>, Client) {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE owner (id int PRIMARY KEY);
         INSERT INTO owner VALUES (1);
         CREATE TABLE account (id int PRIMARY KEY, name text UNIQUE, amount int CONSTRAINT not_negative CHECK (amount >= 0),
             owner int REFERENCES owner, born date, ratio real, flag boolean, data bytea, short varchar(3), fixed char(4),
             doc jsonb, list int[], at timestamptz, twice int GENERATED ALWAYS AS (amount * 2) STORED);
         INSERT INTO account (id, name, amount) VALUES (1, 'first', 10), (2, 'second', 20)",
    );
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'owner'); SELECT sync.add_table('all', 'account')");
    let server = db.connect();
    (db, server)
}

fn account(id: i64, columns: &[(&str, Value)]) -> Change {
    insert("account", id, columns)
}

#[test]
fn constraints_refuse_with_their_sqlstate_and_name() {
    let (db, mut server) = accounts();
    db.run(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not on Sundays' USING ERRCODE = 'SY999'; END $$;
         CREATE TRIGGER no BEFORE INSERT ON account FOR EACH ROW WHEN (NEW.amount = 666) EXECUTE FUNCTION no();
         CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END;
             RAISE EXCEPTION 'second thoughts' USING ERRCODE = 'check_violation', CONSTRAINT = 'thoughts';
         EXCEPTION WHEN check_violation THEN
             BEGIN RAISE EXCEPTION 'a third'; EXCEPTION WHEN raise_exception THEN NULL; END;
             RAISE;
         END $$;
         CREATE TRIGGER again BEFORE INSERT ON account FOR EACH ROW WHEN (NEW.amount = 667) EXECUTE FUNCTION again();
         CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER skip BEFORE INSERT ON account FOR EACH ROW WHEN (NEW.amount = 668) EXECUTE FUNCTION skip()",
    );
    let mut phone = Phone::new("ann");
    let cases = [
        (account(3, &[("amount", int(-1))]), "23514", "not_negative"),
        (account(3, &[("name", text("first"))]), "23505", "account_name_key"),
        (account(3, &[("owner", int(9))]), "23503", "account_owner_fkey"),
        (delete("owner", 7, &[]), "", ""),
        (account(3, &[("amount", int(666))]), "SY999", "account"),
        (account(3, &[("amount", int(667))]), "23514", "account"),
        (account(3, &[("amount", int(668))]), "42501", "account"),
        (account(3, &[("short", text("long"))]), "22001", "account"),
        (Change { rest: Some(vec![]), ..update("account", 9, &[("amount", int(1), int(-2))]) }, "23514", "not_negative"),
    ];
    for (change, code, subject) in cases {
        let result = phone.one(&mut server, change.clone());
        assert_eq!((result.code.as_str(), result.subject.as_str()), (code, subject), "{change:?} {result:?}");
    }
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM account"), "2");
    assert_eq!(
        server_value(
            &mut server,
            "SELECT count(*) FROM sync.batch WHERE verdict = 'rejected' AND content IS NOT NULL AND code <> ''"
        ),
        "8"
    );
}

#[test]
fn values_that_do_not_fit_name_table_and_column() {
    let (_db, mut server) = accounts();
    let mut phone = Phone::new("ann");
    let cases = [
        ("amount", text("many"), "22P02"),
        ("amount", int(99_999_999_999), "22003"),
        ("amount", Value::Real(1.5), "22P02"),
        ("flag", int(2), "22P02"),
        ("data", text("text"), "22P02"),
        ("name", Value::Blob(vec![1]), "22P02"),
        ("name", text("nul\0nul"), "22P02"),
        ("born", text("yesterdayish"), "22007"),
        ("born", text("2024-13-01"), "22008"),
        ("doc", text("{"), "22P02"),
        ("list", text("{1,2}"), "22P02"),
        ("ratio", text("much"), "22P02"),
    ];
    for (column, value, code) in cases {
        let result = phone.one(&mut server, account(3, &[(column, value.clone())]));
        assert_eq!(result.code, code, "{column} {value:?}: {result:?}");
        assert_eq!(result.subject, column, "{result:?}");
        assert!(result.message.contains("public.account") && result.message.contains(column), "{}", result.message);
    }
}

#[test]
fn values_are_read_alike_whatever_the_session_has_set() {
    let (db, mut server) = accounts();
    db.run("CREATE TABLE price (id int PRIMARY KEY, tax money, span interval, slot tstzrange, bits bit varying, kind \"char\")");
    db.run("SELECT sync.add_table('all', 'price')");
    server
        .batch_execute(
            "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'sql_standard'; SET search_path = ''",
        )
        .expect("settings");
    let mut phone = Phone::new("ann");
    let values = [
        ("name", text("x")),
        ("born", text("2024-02-03")),
        ("fixed", text("ab")),
        ("doc", text("{\"a\": [1.50]}")),
        ("list", text("[1,null,3]")),
        ("at", text("2024-02-03T04:05:06")),
        ("data", Value::Blob(vec![0, 255])),
        ("flag", int(1)),
        ("ratio", Value::Real(0.5)),
        ("twice", int(7)),
    ];
    phone.accepted(&mut server, account(3, &values));
    let more = [
        ("tax", text("$1,234.50")),
        ("span", text("-1 days +02:00:00")),
        ("slot", text("[\"2024-01-01 00:00:00\",\"2024-01-02 00:00:00\")")),
        ("bits", text("10110")),
        ("kind", text("k")),
    ];
    phone.accepted(&mut server, insert("price", 1, &more));
    let rows = server_rows(
        &mut db.connect(),
        "SELECT born::text, fixed, doc::text, list::text, (at = '2024-02-03T04:05:06Z')::text, data::text, flag::text, ratio::text FROM account WHERE id = 3",
    );
    assert_eq!(rows, [["2024-02-03", "ab  ", "{\"a\": [1.50]}", "{1,NULL,3}", "true", "\\x00ff", "true", "0.5"]]);
    let rows =
        server_rows(&mut db.connect(), "SELECT tax::numeric::text, span::text, slot::text, bits::text, kind::text FROM price");
    assert_eq!(rows, [["1234.50", "-1 days +02:00:00", "[\"2024-01-01 00:00:00+00\",\"2024-01-02 00:00:00+00\")", "10110", "k"]]);
}

#[test]
fn a_batch_is_applied_whole_or_not_at_all_and_the_next_goes_on() {
    let (_db, mut server) = accounts();
    let mut phone = Phone::new("ann");
    let results = phone.send(
        &mut server,
        vec![
            vec![account(3, &[("name", text("third"))])],
            vec![account(4, &[("name", text("fourth"))]), update("account", 1, &[("amount", int(10), int(-1))])],
            vec![update("account", 3, &[("name", text("third"), text("3"))]), account(5, &[])],
        ],
    );
    assert_eq!(short(&results), ["accepted", "rejected 23514", "accepted"]);
    assert_eq!(
        server_rows(&mut server, "SELECT id, name FROM account ORDER BY id"),
        [["1", "first"], ["2", "second"], ["3", "3"], ["5", "∅"]]
    );
}

#[test]
fn deferred_constraints_are_checked_batch_by_batch() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE parent (id int PRIMARY KEY, name text, UNIQUE (name) DEFERRABLE INITIALLY DEFERRED);
         CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED,
             name text, CONSTRAINT \"odd \"\"name\" UNIQUE (name) DEFERRABLE INITIALLY IMMEDIATE);
         CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN IF NEW.name = 'bad' THEN RAISE EXCEPTION 'looked'; END IF; RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER look AFTER INSERT ON child DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look()",
    );
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'parent'); SELECT sync.add_table('all', 'child')");
    let (mut server, mut phone) = (db.connect(), Phone::new("ann"));
    let parent = |id, name: &str| insert("parent", id, &[("name", text(name))]);
    let child = |id, parent, name: &str| insert("child", id, &[("parent", int(parent)), ("name", text(name))]);
    let results = phone.send(
        &mut server,
        vec![
            vec![parent(1, "a"), parent(2, "b")],
            vec![parent(3, "a")],
            // A child before its parent, a name that two rows exchange: right at the end of the batch only.
            vec![child(1, 4, "x"), parent(4, "d")],
            vec![child(2, 9, "orphan")],
            vec![update("parent", 1, &[("name", text("a"), text("b"))]), update("parent", 2, &[("name", text("b"), text("a"))])],
            vec![child(3, 1, "bad")],
            // Declared immediate: two rows cannot exchange it one by one.
            vec![child(4, 1, "x")],
            vec![child(5, 1, "y"), parent(5, "e")],
        ],
    );
    assert_eq!(
        short(&results),
        ["accepted", "rejected 23505", "accepted", "rejected 23503", "accepted", "rejected p0001", "rejected 23505", "accepted"]
    );
    assert_eq!(results[6].subject, "odd \"name");
    assert_eq!(
        server_rows(&mut server, "SELECT id, name FROM parent ORDER BY id"),
        [["1", "b"], ["2", "a"], ["4", "d"], ["5", "e"]]
    );
    assert_eq!(server_rows(&mut server, "SELECT id FROM child ORDER BY id"), [["1"], ["5"]]);
}

#[test]
fn an_immediate_constraint_stays_immediate_between_batches() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE a (id int PRIMARY KEY, name text UNIQUE DEFERRABLE INITIALLY IMMEDIATE);
         CREATE TABLE b (id int PRIMARY KEY, name text UNIQUE DEFERRABLE INITIALLY DEFERRED);
         CREATE TABLE seen (how text);
         CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO a VALUES (100, 'x');
             INSERT INTO a VALUES (101, 'x');
             RAISE 'not immediate';
         EXCEPTION WHEN unique_violation THEN INSERT INTO seen VALUES ('immediate'); RETURN NULL;
         END $$;
         CREATE TRIGGER look AFTER INSERT ON b FOR EACH ROW EXECUTE FUNCTION look()",
    );
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'b')");
    let (mut server, mut phone) = (db.connect(), Phone::new("ann"));
    let new = |id| vec![insert("b", id, &[("name", text(&id.to_string()))])];
    assert_eq!(short(&phone.send(&mut server, vec![new(1), new(2), new(3)])), ["accepted"; 3]);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM seen"), "3");
}

#[test]
fn constraints_of_one_name_that_differ_are_taken_one_batch_at_a_time() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE a (id int PRIMARY KEY);
         CREATE TABLE b (id int PRIMARY KEY, a int CONSTRAINT same REFERENCES a DEFERRABLE INITIALLY DEFERRED);
         CREATE TABLE c (id int PRIMARY KEY, a int CONSTRAINT same REFERENCES a DEFERRABLE INITIALLY IMMEDIATE)",
    );
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'a'); SELECT sync.add_table('all', 'b')");
    let (mut server, mut phone) = (db.connect(), Phone::new("ann"));
    let batches: Vec<_> = (1..=2).map(|id| phone.batch(vec![insert("b", id, &[("a", int(id))]), insert("a", id, &[])])).collect();
    let reply = phone.push(&mut server, batches.clone());
    assert_eq!(short(&reply.results), ["accepted", "later 55000"]);
    assert_eq!(short(&phone.push(&mut server, vec![batches[1].clone()]).results), ["accepted"]);
}

#[test]
fn passing_conditions_say_later_and_stop() {
    let (db, mut server) = accounts();
    let mut phone = Phone::new("ann");
    let mut other = db.connect();
    other.batch_execute("BEGIN; UPDATE account SET amount = 11 WHERE id = 2").expect("a lock");
    for setting in ["statement_timeout", "lock_timeout"] {
        server.batch_execute(&format!("SET {setting} = '300ms'")).expect("a setting");
        let change = |id, old, new| vec![update("account", id, &[("amount", int(old), int(new))])];
        let first = if setting == "lock_timeout" { (10, 12) } else { (10, 10) };
        let batches: Vec<_> = [change(1, first.0, first.1), change(2, 20, 21), change(1, 12, 13)].map(|c| phone.batch(c)).into();
        let reply = phone.push(&mut server, batches.clone());
        let code = if setting == "lock_timeout" { "later 55p03" } else { "later 57014" };
        assert_eq!(short(&reply.results), ["accepted", code, code]);
        assert_eq!(reply.last, Some(batches[0].id));
        phone.number -= 2;
        server.batch_execute(&format!("RESET {setting}")).expect("a setting");
    }
    other.batch_execute("ROLLBACK").expect("an end");
    let results = phone.send(&mut server, vec![vec![update("account", 2, &[("amount", int(20), int(21))])]]);
    assert_eq!(short(&results), ["accepted"]);
    assert_eq!(server_rows(&mut server, "SELECT id, amount FROM account ORDER BY id"), [["1", "12"], ["2", "21"]]);
}

#[test]
fn a_cancelled_push_is_an_error_and_no_verdict() {
    let (db, mut server) = accounts();
    let mut phone = Phone::new("ann");
    let mut other = db.connect();
    other.batch_execute("BEGIN; UPDATE account SET amount = 11 WHERE id = 2").expect("a lock");
    let cancel = server.cancel_token();
    let batches =
        vec![phone.batch(vec![account(3, &[])]), phone.batch(vec![update("account", 2, &[("amount", int(20), int(21))])])];
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        cancel.cancel_query(postgres::NoTls).expect("a cancel request");
    });
    let request = sync_shared::envelope::encode(&sync_shared::message::PushRequest {
        device: phone.device,
        batches: batches.clone(),
        wants: vec![],
        held: vec![],
        differ: None,
    });
    let error = sync_tests::device::server_push(&mut server, &phone.user, &request.expect("a request")).expect_err("an error");
    thread.join().expect("the thread ends");
    assert!(error.starts_with("57014"), "{error}");
    other.batch_execute("ROLLBACK").expect("an end");
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM account"), "2");
    assert_eq!(short(&phone.push(&mut server, batches).results), ["accepted", "accepted"]);
}

#[test]
fn a_cancelled_push_can_be_caught_by_its_caller() {
    let (db, mut server) = accounts();
    db.run(
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(10); RETURN NEW; END $$;
         CREATE TRIGGER stop BEFORE UPDATE ON account FOR EACH ROW WHEN (NEW.amount = 99) EXECUTE FUNCTION stop();
         CREATE FUNCTION try_push(batches bytea) RETURNS text LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO account VALUES (50);
             BEGIN
                 PERFORM sync.push(batches);
             EXCEPTION WHEN query_canceled THEN
                 RETURN 'caught';
             END;
             RETURN 'done';
         END $$",
    );
    let mut phone = Phone::new("ann");
    let batches =
        vec![phone.batch(vec![account(3, &[])]), phone.batch(vec![update("account", 2, &[("amount", int(20), int(99))])])];
    let request = sync_shared::message::PushRequest { device: phone.device, batches, wants: vec![], held: vec![], differ: None };
    let request = sync_shared::envelope::encode(&request).expect("a request");
    let claims = r#"SELECT set_config('request.jwt.claims', '{"sub": "ann"}', false)"#;
    server.batch_execute(claims).expect("claims");
    let answer: String = server.query_one("SELECT try_push($1)", &[&request]).expect("an answer").get(0);
    assert_eq!(answer, "caught");
    // What the caller did stays, nothing of the push does, and the session is whole.
    assert_eq!(server_rows(&mut server, "SELECT id FROM account ORDER BY id"), [["1"], ["2"], ["50"]]);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.batch"), "0");
}

#[test]
fn changes_that_make_no_sense_are_rejected_by_name() {
    let (_db, mut server) = accounts();
    let mut phone = Phone::new("ann");
    let unknown_table = insert("nothing", 1, &[]);
    let unknown_column = account(3, &[("nothing", int(1))]);
    let mut no_key = account(3, &[]);
    no_key.key.clear();
    let mut twice = account(3, &[("amount", int(1)), ("amount", int(2))]);
    let key_changed = update("account", 1, &[("id", int(1), int(5))]);
    let other_key = account(3, &[("id", int(4))]);
    let mut uneven = account(3, &[("amount", int(1))]);
    uneven.new.clear();
    for (change, code) in [
        (unknown_table, "42P01"),
        (unknown_column, "42703"),
        (no_key, "22P03"),
        (twice.clone(), "22P03"),
        (key_changed, "22P03"),
        (other_key, "22P03"),
        (uneven, "22P03"),
        (update("account", 1, &[("twice", int(20), int(5))]), ""),
    ] {
        let result = phone.one(&mut server, change.clone());
        assert_eq!(result.code, code, "{change:?} {result:?}");
        assert!(code.is_empty() || !result.message.is_empty());
    }
    twice.columns = vec![tag("amount"), tag("name")];
    twice.new = vec![int(1), Value::Null];
    phone.accepted(&mut server, twice);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM account"), "3");
}

#[test]
fn composite_and_odd_keys_and_names_work() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE SCHEMA \"my \"\"schema\";
         CREATE TABLE \"my \"\"schema\".\"or'der\" (\"a\n\" text, b numeric(8, 2), \"drop\" text, PRIMARY KEY (b, \"a\n\")) PARTITION BY LIST (b);
         CREATE TABLE part PARTITION OF \"my \"\"schema\".\"or'der\" DEFAULT;
         CREATE OPERATOR public.= (FUNCTION = pg_catalog.textne, LEFTARG = text, RIGHTARG = text);
         ALTER DATABASE postgres RESET search_path",
    );
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', '\"my \"\"schema\".\"or''der\"')");
    let (mut server, mut phone) = (db.connect(), Phone::new("ann"));
    server.batch_execute("SET search_path = public, pg_catalog").expect("a setting");
    let change = |kind, old: Vec<Value>, new: Vec<Value>| Change {
        table: tag("my \"schema.or'der"),
        kind,
        key: vec![text("1.5"), text("k")],
        columns: vec![tag("drop")],
        old,
        new,
        rest: None,
        below: vec![],
    };
    phone.accepted(&mut server, change(ChangeKind::Insert, vec![], vec![text("x")]));
    phone.accepted(&mut server, change(ChangeKind::Insert, vec![], vec![text("x")]));
    phone.accepted(&mut server, change(ChangeKind::Update, vec![text("x")], vec![text("y")]));
    assert_eq!(server_rows(&mut db.connect(), "SELECT * FROM part"), [["k", "1.50", "y"]]);
    phone.accepted(&mut server, change(ChangeKind::Delete, vec![text("y")], vec![]));
    let gone = Change { rest: Some(vec![]), ..change(ChangeKind::Update, vec![text("y")], vec![text("z")]) };
    assert_eq!(phone.one(&mut server, gone).verdict, Verdict::Merged, "put back");
    assert_eq!(server_rows(&mut db.connect(), "SELECT * FROM part"), [["k", "1.50", "z"]]);
}
