//! What becomes of rejected batches and conflicts on the server: seen, tried again, let go.

use crate::phone::{delete, insert, int, short, text, update, Phone};
use postgres::Client;
use serde_json::json;
use sync_shared::message::{BatchResult, Conflict, Verdict};
use sync_shared::Value;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database, User};

fn people() -> (Database<'static>, Client) {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE person (id int PRIMARY KEY, name text, email text, room int4range, data bytea, tags text[], age int CHECK (age > 0),
             EXCLUDE USING gist (room WITH &&));
         CREATE UNIQUE INDEX person_email ON person (lower(email)) WHERE name IS NOT NULL;
         ALTER TABLE person ADD CONSTRAINT one_name UNIQUE (name) DEFERRABLE INITIALLY DEFERRED;
         INSERT INTO person VALUES (1, 'Ann', 'Ann@x', '[1,5)', '\\x01', '{a}', 30)",
    );
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'person')");
    let server = db.connect();
    (db, server)
}

/// The rows of a conflict, as JSON.
fn rows(conflict: &Conflict) -> (serde_json::Value, serde_json::Value) {
    let json = |v: &Value| match v {
        Value::Text(t) => serde_json::from_str(t).expect("a JSON object"),
        _ => serde_json::Value::Null,
    };
    assert_eq!((conflict.policy.as_str(), conflict.column, &conflict.result), ("constraint", None, &Value::Null));
    (json(&conflict.theirs), json(&conflict.mine))
}

fn only(result: &BatchResult) -> &Conflict {
    assert_eq!((result.verdict, result.conflicts.len()), (Verdict::Rejected, 1), "{result:?}");
    &result.conflicts[0]
}

#[test]
fn a_constraint_shows_both_rows() {
    let (_db, mut server) = people();
    let mut phone = Phone::new("ann");
    let first =
        json!({"id": 1, "name": "Ann", "email": "Ann@x", "room": "[1,5)", "data": {"hex": "01"}, "tags": "[\"a\"]", "age": 30});
    // An index over an expression, an exclusion constraint, a deferred one, and an update of one column.
    let result = phone.one(&mut server, insert("person", 2, &[("name", text("Bob")), ("email", text("ann@X"))]));
    assert_eq!((result.code.as_str(), result.subject.as_str()), ("23505", "person_email"));
    assert_eq!(rows(only(&result)), (first.clone(), json!({"id": 2, "name": "Bob", "email": "ann@X"})));
    assert!(only(&result).reason.contains("\"person_email\""), "{result:?}");
    let result = phone.one(&mut server, insert("person", 2, &[("room", text("[4,6)")), ("tags", text("[\"b\"]"))]));
    assert_eq!((result.code.as_str(), result.subject.as_str()), ("23P01", "person_room_excl"));
    assert_eq!(rows(only(&result)).0, first);
    let result = phone.send(
        &mut server,
        vec![vec![
            insert("person", 2, &[("age", int(1))]),
            insert("person", 3, &[("name", text("Ann"))]),
            insert("person", 4, &[]),
        ]],
    );
    assert_eq!(rows(only(&result[0])), (first.clone(), json!({"id": 3, "name": "Ann"})));
    phone.accepted(&mut server, insert("person", 2, &[("name", text("Bob")), ("email", text("bob@x"))]));
    // The row in the way may come from a batch of the same push.
    let results = phone.send(
        &mut server,
        vec![
            vec![insert("person", 5, &[("email", text("eve@x")), ("name", text("Eve"))])],
            vec![update("person", 2, &[("email", text("bob@x"), text("EVE@x"))])],
        ],
    );
    assert_eq!(short(&results), ["accepted", "rejected 23505"]);
    let (theirs, mine) = rows(only(&results[1]));
    assert_eq!((&theirs["id"], mine), (&json!(5), json!({"id": 2, "email": "EVE@x"})));
    // Recorded, and told again when the reply was lost.
    assert_eq!(
        server_rows(
            &mut server,
            "SELECT policy, key, theirs ->> 'id', mine ->> 'id', verdict, user_id FROM sync.conflicts ORDER BY 1, 2, 4"
        ),
        [
            ["constraint", "[2]", "1", "2", "rejected", "ann"],
            ["constraint", "[2]", "1", "2", "rejected", "ann"],
            ["constraint", "[2]", "5", "2", "rejected", "ann"],
            ["constraint", "[3]", "1", "3", "rejected", "ann"],
        ]
    );
    // Two rows of one batch that exclude each other: nothing is there to show.
    let twins = vec![insert("person", 8, &[("room", text("[50,60)"))]), insert("person", 9, &[("room", text("[55,60)"))])];
    let results = phone.send(&mut server, vec![twins]);
    assert_eq!(rows(only(&results[0])).0, serde_json::Value::Null);
}

#[test]
fn a_lost_reply_is_told_again_with_both_rows() {
    let (_db, mut server) = people();
    let mut phone = Phone::new("ann");
    let batch = phone.batch(vec![insert("person", 2, &[("name", text("Bob")), ("email", text("ann@x"))])]);
    let first = phone.push(&mut server, vec![batch.clone()]);
    assert_eq!(phone.push(&mut server, vec![batch]).results, first.results);
    assert_eq!(first.results[0].conflicts.len(), 1);
}

#[test]
fn the_row_in_the_way_is_shown_as_far_as_its_user_may_see_it() {
    let (db, mut server) = people();
    let role = format!("app_{}_{}", db.name(), std::process::id());
    db.run(&format!(
        "CREATE ROLE {role}; GRANT SELECT (id, name, email, room), INSERT, UPDATE ON person TO {role};
         ALTER TABLE person ENABLE ROW LEVEL SECURITY;
         CREATE POLICY mine ON person USING (name = 'Ann' OR name = 'Bob') WITH CHECK (true);
         INSERT INTO person (id, name, email, age) VALUES (7, 'Hidden', 'hidden@x', 50)"
    ));
    let mut phone = Phone::of(User::with_role("ann", &role));
    let result = phone.one(&mut server, insert("person", 2, &[("name", text("Bob")), ("email", text("ann@x"))]));
    assert_eq!(rows(only(&result)).0, json!({"id": 1, "name": "Ann", "email": "Ann@x", "room": "[1,5)"}));
    let result = phone.one(&mut server, insert("person", 2, &[("name", text("Bob")), ("email", text("hidden@x"))]));
    assert_eq!(rows(only(&result)).0, serde_json::Value::Null);
    assert!(!format!("{result:?}").contains("Hidden"), "{result:?}");
}

#[test]
fn rejected_batches_are_listed_as_people_read_them() {
    let (_db, mut server) = people();
    let mut phone = Phone::new("ann");
    let changes = vec![
        update("person", 1, &[("age", int(30), int(-1)), ("tags", text("[\"a\"]"), Value::Null)]),
        delete("person", 9, &[("name", text("Zoe"))]),
        insert("person", 2, &[("data", Value::Blob(vec![0, 255]))]),
    ];
    assert_eq!(short(&phone.send(&mut server, vec![changes])), ["rejected 23514"]);
    let listed = server_rows(&mut server, "SELECT number, user_id, role, code, subject, batch FROM sync.rejected");
    let batch: serde_json::Value = serde_json::from_str(&listed[0][5]).expect("JSON");
    assert_eq!(listed[0][..5], ["1", "ann", "postgres", "23514", "person_age_check"]);
    assert_eq!(
        batch,
        json!([
            {"table": "person", "kind": "update", "key": [1], "old": {"age": 30, "tags": "[\"a\"]"}, "new": {"age": -1, "tags": null}},
            {"table": "person", "kind": "delete", "key": [9], "old": {"name": "Zoe"}, "new": {}},
            {"table": "person", "kind": "insert", "key": [2], "old": {}, "new": {"data": {"hex": "00ff"}}},
        ])
    );
    assert_eq!(server_rows(&mut server, "SELECT * FROM sync.record_counts"), [["person", "0", "1"]]);
}

#[test]
fn a_rejected_batch_is_retried_as_its_user_after_an_edit() {
    let (db, mut server) = people();
    let role = format!("app_{}_{}", db.name(), std::process::id());
    db.run(&format!(
        "CREATE ROLE {role}; GRANT ALL ON person TO {role};
         CREATE TABLE seen (who text, claim text, user_id text, device uuid, number bigint); GRANT ALL ON seen TO {role};
         CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO seen VALUES (current_user, current_setting('request.jwt.claims')::json ->> 'tenant', sync.user_id(),
             sync.device(), sync.batch_number()); RETURN NEW; END $$;
         CREATE TRIGGER look BEFORE INSERT ON person FOR EACH ROW EXECUTE FUNCTION look()"
    ));
    let mut phone = Phone::of(User::with_role("ann", &role));
    let batch = phone.batch(vec![insert("person", 2, &[("age", int(-1))]), insert("person", 3, &[("age", int(-3))])]);
    let request = sync_shared::message::PushRequest {
        device: phone.device,
        batches: vec![batch.clone()],
        wants: vec![],
        held: vec![],
        differ: None,
    };
    let request = sync_shared::envelope::encode(&request).expect("a request");
    let claims = format!("{{\"sub\": \"ann\", \"role\": \"{role}\", \"tenant\": \"T1\"}}");
    let mut transaction = server.transaction().expect("a transaction");
    transaction.execute("SELECT set_config('request.jwt.claims', $1, true)", &[&claims]).expect("claims");
    transaction.execute("SELECT sync.push($1)", &[&request]).expect("a push");
    transaction.commit().expect("a commit");
    let retry = |server: &mut Client, edits: &str| {
        server_rows(server, &format!("SELECT verdict, code FROM sync.retry('{}', 1, {edits})", phone.device))
    };
    assert_eq!(retry(&mut server, "NULL"), [["rejected", "23514"]]);
    let edits = "'[{\"table\": \"person\", \"key\": [2], \"set\": {\"age\": 20, \"name\": \"Bob\"}}, {\"table\": \"public.person\", \"key\": [3], \"skip\": true}]'";
    assert_eq!(retry(&mut server, edits), [["accepted", ""]]);
    assert_eq!(
        server_rows(&mut server, "SELECT id, name, age FROM person ORDER BY id"),
        [["1", "Ann", "30"], ["2", "Bob", "20"]]
    );
    let device = phone.device.to_string();
    assert_eq!(server_rows(&mut server, "SELECT * FROM seen"), [[role.as_str(), "T1", "ann", device.as_str(), "1"]]);
    assert_eq!(
        server_value(&mut server, "SELECT current_setting('request.jwt.claims', true) || current_user || sync.user_id()"),
        "postgrespostgres"
    );
    assert_eq!(
        server_rows(
            &mut server,
            "SELECT verdict, jsonb_array_length(attempts), attempts -> 1 ->> 'code', attempts -> 1 ->> 'by' FROM sync.batch"
        ),
        [["accepted", "2", "23514", "postgres"]]
    );
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.rejected"), "0");
    // The device that sends it again is told how it ended.
    assert_eq!(short(&phone.push(&mut server, vec![batch]).results), ["accepted"]);
    let error = server.batch_execute(&format!("SELECT sync.retry('{device}', 1)")).expect_err("refused");
    assert!(sync_tests::cluster::describe(&error).contains("was not rejected"), "{error}");
}

#[test]
fn edits_that_mean_nothing_are_refused() {
    let (_db, mut server) = people();
    let mut phone = Phone::new("ann");
    phone.one(&mut server, update("person", 1, &[("age", int(30), int(-1))]));
    for (edits, words) in [
        ("{}", "the edits are not a list"),
        ("[{\"table\": \"person\"}]", "names no table or no key"),
        ("[{\"table\": \"person\", \"key\": [2], \"skip\": true}]", "no row of table person with the key [2]"),
        ("[{\"table\": \"person\", \"key\": [1]}]", "neither set nor skip"),
        ("[{\"table\": \"person\", \"key\": [1], \"set\": {\"name\": \"x\"}}]", "does not set \"name\""),
        ("[{\"table\": \"person\", \"key\": [1], \"set\": {\"id\": 5}}]", "does not set \"id\""),
    ] {
        let error = server.batch_execute(&format!("SELECT sync.retry('{}', 1, '{edits}')", phone.device)).expect_err("refused");
        assert!(sync_tests::cluster::describe(&error).contains(words), "{edits}: {}", sync_tests::cluster::describe(&error));
    }
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.rejected"), "1");
}

#[test]
fn only_admins_see_records_and_only_members_of_the_role_retry() {
    let (db, mut server) = people();
    let name = |what: &str| format!("{what}_{}_{}", db.name(), std::process::id());
    let (role, admin, other) = (name("app"), name("admin"), name("other"));
    db.run(&format!(
        "CREATE ROLE {role}; CREATE ROLE {admin} LOGIN IN ROLE sync_admin; CREATE ROLE {other} LOGIN; GRANT ALL ON person TO {role}"
    ));
    let mut phone = Phone::of(User::with_role("ann", &role));
    phone.one(&mut server, insert("person", 2, &[("name", text("x")), ("email", text("ann@x"))]));
    let retry = format!("SELECT sync.retry('{}', 1)", phone.device);
    let discard = format!("SELECT sync.discard('{}', 1)", phone.device);
    let mut client = db.connect_as(&other);
    for sql in [
        "SELECT * FROM sync.rejected",
        "SELECT * FROM sync.conflicts",
        "SELECT * FROM sync.record_counts",
        "SELECT * FROM sync.batch",
        "SELECT sync.discard_conflict(1)",
        &retry,
        &discard,
    ] {
        let error = client.batch_execute(sql).expect_err("refused");
        assert_eq!(error.code().map(|c| c.code()), Some("42501"), "{sql}");
    }
    let mut client = db.connect_as(&admin);
    assert_eq!(server_value(&mut client, "SELECT batch -> 0 -> 'new' ->> 'email' FROM sync.rejected"), "ann@x");
    let error = client.batch_execute(&retry).expect_err("refused");
    assert!(sync_tests::cluster::describe(&error).contains("which you may not take"), "{error}");
    db.run(&format!("GRANT {role} TO {admin}; UPDATE person SET email = 'else@x'"));
    assert_eq!(server_rows(&mut client, &format!("SELECT verdict FROM sync.retry('{}', 1)", phone.device)), [["accepted"]]);
    phone.one(&mut server, insert("person", 3, &[("age", int(-1))]));
    client.batch_execute(&format!("SELECT sync.discard('{}', 2)", phone.device)).expect("an admin may");
    assert_eq!(server_value(&mut client, "SELECT count(*) FROM sync.rejected"), "0");
    assert_eq!(server_value(&mut client, "SELECT code FROM sync.batch WHERE number = 2"), "23514");
    for sql in [format!("SELECT sync.discard('{}', 2)", phone.device), format!("SELECT sync.retry('{}', 2)", phone.device)] {
        assert!(client.batch_execute(&sql).is_err(), "{sql}");
    }
    client.batch_execute("SELECT sync.discard_conflict(conflict_id) FROM sync.conflicts").expect("an admin may");
    assert!(client.batch_execute("SELECT sync.discard_conflict(1)").is_err());
}

#[test]
fn records_are_let_go_when_their_time_is_over() {
    let (db, mut server) = people();
    let mut phone = Phone::new("ann");
    phone.one(&mut server, insert("person", 2, &[("name", text("x")), ("email", text("ann@x"))]));
    phone.one(&mut server, insert("person", 2, &[("name", text("x")), ("email", text("ann@x"))]));
    db.run("UPDATE sync.batch SET pushed = now() - interval '91 days' WHERE number = 1; UPDATE sync.conflict SET at = now() - interval '91 days' WHERE number = 1");
    db.run("SELECT sync.maintain()");
    assert_eq!(server_rows(&mut server, "SELECT number FROM sync.rejected"), [["2"]]);
    assert_eq!(server_rows(&mut server, "SELECT number FROM sync.conflicts"), [["2"]]);
    assert_eq!(
        server_rows(&mut server, "SELECT number, code, content IS NULL FROM sync.batch ORDER BY 1"),
        [["1", "23505", "t"], ["2", "23505", "f"]]
    );
    db.run("SET sync.keep_records = '0'; SELECT pg_sleep(0.01); SELECT sync.maintain()");
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.rejected"), "0");
}
