//! custom: the application's own function decides, with the rights of the user who wrote.

use super::pair::Pair;
use crate::phone::{now, text, update, Phone, SECOND};
use postgres::Client;
use serde_json::{json, Value as Json};
use sync_shared::message::{BatchResult, Verdict};
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database, Device, User};

/// A handler that answers `answer`, a JSON expression over `conflict`.
fn notes(answer: &str) -> (Database<'static>, Client) {
    let db = Cluster::shared().database();
    db.run(&format!(
        "CREATE TABLE note (id int PRIMARY KEY, title text, body text, tags text[], at timestamptz, big numeric, doubled int GENERATED ALWAYS AS (id * 2) STORED);
         CREATE TABLE heard (conflict jsonb, who text);
         CREATE FUNCTION decide(conflict jsonb) RETURNS jsonb LANGUAGE plpgsql AS $f$
         BEGIN INSERT INTO heard VALUES (conflict, current_user); RETURN {answer}; END $f$;
         SELECT sync.set_policy('note', 'custom', handler => 'decide(jsonb)');
         SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note')"
    ));
    db.run("INSERT INTO note VALUES (1, 'title', 'body', '{a}', '2024-01-01 00:00Z', 12345678901234567890.123)");
    let server = db.connect();
    (db, server)
}

/// Both change the title; the device also changes the body, somebody else the tags.
fn conflict(db: &Database<'_>, server: &mut Client) -> BatchResult {
    db.run("UPDATE note SET title = 'theirs', tags = '{a,b}'");
    let mut phone = Phone::new("ann");
    phone.clock = Some(now() + 60 * SECOND);
    let change = update("note", 1, &[("title", text("title"), text("mine")), ("body", text("body"), text("mine"))]);
    let mut batch = phone.batch(vec![change]);
    batch.note = r#"{"why": "because"}"#.into();
    phone.push(server, vec![batch]).results.remove(0)
}

fn note(server: &mut Client) -> Vec<String> {
    server_rows(server, "SELECT title, body, tags FROM note").remove(0)
}

#[test]
fn the_handler_takes_one_side_or_merges() {
    let cases = [
        (json!({ "action": "mine" }), ["mine", "mine", "{a,b}"]),
        (json!({ "action": "theirs" }), ["theirs", "body", "{a,b}"]),
        (json!({ "action": "merge" }), ["theirs", "mine", "{a,b}"]),
        (json!({ "action": "merge", "row": { "title": "both", "tags": ["x", null] } }), ["both", "mine", "{x,NULL}"]),
        (json!({ "action": "merge", "row": { "title": null, "body": "body" } }), ["∅", "body", "{a,b}"]),
    ];
    for (answer, expected) in cases {
        let (db, mut server) = notes(&format!("'{answer}'"));
        let result = conflict(&db, &mut server);
        assert_eq!(
            (result.verdict, note(&mut server)),
            (Verdict::Merged, expected.map(str::to_owned).to_vec()),
            "{answer}: {result:?}"
        );
        let [conflict] = &result.conflicts[..] else { panic!("{result:?}") };
        assert_eq!((conflict.policy.as_str(), conflict.column), ("custom", None));
        assert!(conflict.reason.contains("the handler public.decide(jsonb) decided"), "{}", conflict.reason);
        assert_eq!(server_value(&mut server, "SELECT coalesce(result->>'title', '∅') FROM sync.conflict"), expected[0]);
    }
}

#[test]
fn the_handler_is_told_everything_about_the_conflict() {
    let (db, mut server) = notes(r#"'{"action": "mine", "reason": "mine is nicer"}'"#);
    let result = conflict(&db, &mut server);
    assert!(result.message.starts_with("mine is nicer (the server at 20"), "{}", result.message);
    let heard: Json = serde_json::from_str(&server_value(&mut server, "SELECT conflict FROM heard")).expect("JSON");
    assert_eq!([&heard["table"], &heard["kind"], &heard["user"]], [&json!("public.note"), &json!("update"), &json!("ann")]);
    assert_eq!([&heard["key"], &heard["batch"], &heard["note"]], [&json!({ "id": 1 }), &json!(1), &json!({ "why": "because" })]);
    assert_eq!(heard["columns"]["title"], json!({ "base": "title", "theirs": "theirs", "mine": "mine", "conflict": true }));
    assert_eq!(heard["columns"]["body"], json!({ "base": "body", "theirs": "body", "mine": "mine", "conflict": false }));
    assert_eq!([&heard["row"]["tags"], &heard["row"]["title"]], [&json!(["a", "b"]), &json!("theirs")]);
    assert_eq!(server_value(&mut server, "SELECT conflict->'row'->>'big' FROM heard"), "12345678901234567890.123");
    assert!(
        heard["edited"]["theirs"].is_string() && heard["edited"]["mine"].is_string() && heard["device"].is_string(),
        "{heard}"
    );
}

#[test]
fn values_of_every_type_come_back_as_they_went() {
    let answer = r#"jsonb_build_object('action', 'merge', 'row', (conflict->'row') - 'id' - 'doubled' || '{"title": "a\"b"}')"#;
    let (db, mut server) = notes(answer);
    let before = server_rows(&mut server, "SELECT at, big FROM note");
    db.run("SET TimeZone = 'Asia/Tokyo'");
    let result = conflict(&db, &mut server);
    assert_eq!(result.verdict, Verdict::Merged, "{result:?}");
    assert_eq!(note(&mut server), ["a\"b", "body", "{a,b}"]);
    assert_eq!(server_rows(&mut server, "SELECT at, big FROM note"), before);
}

#[test]
fn the_handler_rejects_with_its_reason() {
    let (db, mut server) = notes(r#"'{"action": "reject", "reason": "the month is closed"}'"#);
    let result = conflict(&db, &mut server);
    assert_eq!((result.verdict, result.code.as_str()), (Verdict::Rejected, "SY010"));
    assert!(result.message.contains("the month is closed"), "{}", result.message);
    assert_eq!(note(&mut server)[0], "theirs");
    assert_eq!(server_rows(&mut server, "SELECT policy, reason FROM sync.conflict"), [["custom", "the month is closed"]]);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM heard"), "0", "what it wrote is undone");
}

#[test]
fn any_other_answer_is_a_rejection_that_names_the_handler() {
    let answers = [
        ("NULL", "answered NULL", "SY011"),
        ("'[]'", "must answer", "SY011"),
        ("'\"mine\"'", "must answer", "SY011"),
        ("'{\"action\": \"both\"}'", "not {\"action\": \"both\"}", "SY011"),
        ("'{\"action\": \"mine\", \"row\": {\"title\": \"x\"}}'", "must answer", "SY011"),
        ("'{\"action\": \"merge\", \"row\": [1]}'", "must answer", "SY011"),
        ("'{\"action\": \"merge\", \"row\": {\"nowhere\": 1}}'", "\"nowhere\"", "SY011"),
        ("'{\"action\": \"merge\", \"row\": {\"id\": 2}}'", "must not change the key", "SY011"),
        ("'{\"action\": \"merge\", \"row\": {\"doubled\": 2}}'", "generated column", "SY011"),
        ("'{\"action\": \"merge\", \"row\": {\"at\": \"soon\"}}'", "invalid input syntax", "22007"),
        ("jsonb_build_object('action', 1 / 0)", "failed: division by zero", "22012"),
    ];
    for (answer, message, code) in answers {
        let (db, mut server) = notes(answer);
        let result = conflict(&db, &mut server);
        assert_eq!((result.verdict, result.code.as_str()), (Verdict::Rejected, code), "{answer}: {result:?}");
        assert!(result.message.contains(message) && result.message.contains("decide(jsonb)"), "{answer}: {}", result.message);
        assert_eq!(note(&mut server)[0], "theirs");
    }
}

#[test]
fn a_handler_that_is_gone_rejects_and_one_that_is_made_again_decides() {
    let (db, mut server) = notes(r#"'{"action": "mine"}'"#);
    db.run("DROP FUNCTION decide");
    let result = conflict(&db, &mut server);
    assert_eq!(result.code, "SY011");
    assert!(result.message.contains("the handler public.decide(jsonb) is gone"), "{}", result.message);
    db.run(r#"CREATE FUNCTION decide(c jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"action": "mine"}'::jsonb $$"#);
    conflict(&db, &mut server);
    assert_eq!(note(&mut server)[0], "mine");
}

#[test]
fn the_handler_runs_with_the_rights_of_the_user_who_wrote() {
    let (db, mut server) = notes("jsonb_build_object('action', 'merge', 'row', jsonb_build_object('title', current_user))");
    let role = format!("app_{}_{}", db.name(), std::process::id());
    db.run(&format!(
        "CREATE ROLE {role} NOLOGIN; GRANT SELECT (id, title, body), UPDATE ON note TO {role}; GRANT INSERT ON heard TO {role};
         ALTER TABLE note DROP tags, DROP at, DROP big, DROP doubled; ALTER TABLE note ADD secret text DEFAULT 's3cret'"
    ));
    let device = Device::for_user(User::with_role("ann", &role));
    let round = |server: &mut Client, theirs: &str| {
        device.sync(server);
        db.run(&format!("UPDATE note SET title = '{theirs}'"));
        device.run("UPDATE note SET title = 'mine'");
        device.sync(server);
    };
    round(&mut server, "first");
    assert_eq!(server_value(&mut server, "SELECT title FROM note"), role);
    assert_eq!(device.rows("SELECT title FROM note"), [[role.as_str()]], "the device that wrote sees what the handler made");
    // It is not told what its user may not read.
    assert_eq!(
        server_rows(&mut server, "SELECT conflict->'row' ? 'secret', conflict->'row' ? 'body', who FROM heard"),
        [["f", "t", role.as_str()]]
    );
    // What its user may not do, it may not.
    db.run(&format!("REVOKE INSERT ON heard FROM {role}"));
    round(&mut server, "second");
    assert_eq!(device.rows("SELECT code FROM sync_rejected"), [["42501"]]);
    let message = device.value("SELECT message FROM sync_rejected");
    assert!(message.contains("the handler public.decide(jsonb) failed: permission denied for table heard"), "{message}");
    db.run(&format!("REVOKE EXECUTE ON FUNCTION decide FROM PUBLIC; GRANT INSERT ON heard TO {role}"));
    round(&mut server, "third");
    assert!(device
        .value("SELECT message FROM sync_rejected ORDER BY batch DESC LIMIT 1")
        .contains("permission denied for function decide"));
}

#[test]
fn a_handler_decides_between_two_devices() {
    // The longer title wins, and the losing one is kept in the body.
    let mut pair = Pair::new(
        "CREATE TABLE note (id int PRIMARY KEY, title text, body text DEFAULT ''); INSERT INTO note VALUES (1, 'title');
         CREATE FUNCTION longer(c jsonb) RETURNS jsonb LANGUAGE sql AS $$
             SELECT jsonb_build_object('action', 'merge', 'reason', 'the longer title wins', 'row', jsonb_build_object(
                 'title', CASE WHEN length(t->>'mine') > length(t->>'theirs') THEN t->>'mine' ELSE t->>'theirs' END,
                 'body', (c->'row'->>'body') || (t->>'mine') || '/' || (t->>'theirs')))
             FROM (SELECT c->'columns'->'title') AS x(t) $$;
         SELECT sync.set_policy('note', 'custom', handler => 'longer(jsonb)')",
    );
    pair.write("UPDATE note SET title = 'the long one'", "UPDATE note SET title = 'short'");
    assert_eq!(pair.bob.rows("SELECT title, body FROM note"), [["the long one", "short/the long one"]]);
    assert!(pair.bob.value("SELECT reason FROM sync_conflicts").starts_with("the longer title wins"));
}
