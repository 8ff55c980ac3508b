//! Rejected batches and conflicts are kept, and can be written again, discarded, or left to expire.

mod common;
use common::*;
use serde_json::json;
use sync_shared::hash;

/// Runs `sql` as one transaction and has the server refuse it. Answers the record's id.
fn refused(device: &Device, sql: &str) -> i64 {
    device.run(&format!("BEGIN; {sql}; COMMIT"));
    let batches = device.push();
    device.answer(&batches, Verdict::Rejected);
    device.number("SELECT max(id) FROM sync_rejected")
}

fn retry(device: &Device, id: i64, edits: &str) -> Result<serde_json::Value, String> {
    let answer = device.db.query_row("SELECT sync_retry(?1, ?2)", (id, edits), |r| r.get::<_, String>(0));
    answer.map(|text| serde_json::from_str(&text).unwrap()).map_err(|e| e.to_string())
}

fn outcomes(answer: &serde_json::Value) -> Vec<String> {
    let one = |c: &serde_json::Value| format!("{} {}: {}", c["kind"].as_str().unwrap(), c["key"], c["outcome"].as_str().unwrap());
    answer["changes"].as_array().unwrap().iter().map(one).collect()
}

fn conflict(key: &str, policy: &str) -> Conflict {
    let text = |s: &str| Value::Text(s.into());
    Conflict {
        table: schema().tables[0].tag,
        key: vec![text(key)],
        column: None,
        base: Value::Null,
        theirs: text(r#"{"id":"k9","title":"x"}"#),
        mine: text(r#"{"id":"k3","title":"x"}"#),
        result: Value::Null,
        reason: "the title is taken".into(),
        policy: policy.into(),
    }
}

#[test]
fn a_rejected_batch_is_written_again() {
    let device = Device::with(&[row(1, "a"), row(2, "b"), row(3, "c")]);
    let id = refused(
        &device,
        "UPDATE notes SET title = 'x' WHERE id = 'k1'; INSERT INTO notes(id, title) VALUES ('k4', 'd'); DELETE FROM notes WHERE id = 'k2'",
    );
    assert_eq!(device.titles(), ["1:a", "2:b", "3:c"]);
    let answer: serde_json::Value = serde_json::from_str(&device.text(&format!("SELECT sync_retry({id})"))).unwrap();
    assert_eq!(answer["retried"], true);
    assert_eq!(outcomes(&answer), [r#"update ["k1"]: written"#, r#"insert ["k4"]: written"#, r#"delete ["k2"]: written"#]);
    assert_eq!(device.titles(), ["1:x", "3:c", "4:d"]);
    assert_eq!(device.number("SELECT count(*) FROM sync_rejected"), 0, "it is a write like any now");
    let batches = device.push();
    assert_eq!(kinds(&batches), ["update k1 (title)", "insert k4 (id, title)", "delete k2 (id, rank, title, body)"]);
    assert_eq!(batches[0].id.number, 2);
}

#[test]
fn a_retry_may_be_edited() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    let id = refused(&device, "UPDATE notes SET title = 'x'; INSERT INTO notes(id, title) VALUES ('k3', 'c')");
    let edits = json!([
        {"table": "Notes", "key": ["k1"], "new": {"title": "y", "rank": 4}},
        {"table": "notes", "key": ["k2"], "skip": true},
        {"table": "notes", "key": ["k3"], "new": {"id": "k5", "body": {"hex": "00ff"}}},
    ]);
    let answer = retry(&device, id, &edits.to_string()).unwrap();
    assert_eq!(outcomes(&answer), [r#"update ["k1"]: written"#, r#"insert ["k5"]: written"#]);
    assert_eq!(device.titles(), ["1:y", "2:b", "5:c"]);
    assert_eq!(device.number("SELECT body = x'00ff' FROM notes WHERE id = 'k5'"), 1);
    assert_eq!(kinds(&device.push()), ["update k1 (rank, title)", "insert k5 (id, title, body)"]);
}

#[test]
fn edits_that_fit_nothing_are_refused_and_nothing_is_written() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    let id = refused(&device, "UPDATE notes SET title = 'x' WHERE id = 'k1'; DELETE FROM notes WHERE id = 'k2'");
    for (edits, says) in [
        (json!({}), "must be JSON such as"),
        (json!([{"table": "notes"}]), "must be JSON such as"),
        (json!([{"table": "notes", "key": ["k1"], "nwe": {}}]), "must be JSON such as"),
        (json!([{"table": "notes", "key": ["k7"], "skip": true}]), "does not change notes [\"k7\"]"),
        (json!([{"table": "notes", "key": ["k1"], "new": {"colour": 1}}]), "no column colour"),
        (json!([{"table": "notes", "key": ["k1"], "new": {"id": "k2"}}]), "cannot change in an update"),
        (json!([{"table": "notes", "key": ["k2"], "new": {"title": "k2"}}]), "has no new values"),
    ] {
        let error = retry(&device, id, &edits.to_string()).unwrap_err();
        assert!(error.contains(says), "{edits}: {error}");
    }
    assert!(retry(&device, 77, "[]").unwrap_err().contains("there is no rejected batch 77"));
    assert_eq!(device.titles(), ["1:a", "2:b"]);
    assert_eq!(device.number("SELECT count(*) FROM sync_rejected"), 1);
}

#[test]
fn a_retry_says_how_the_rows_have_changed_meanwhile() {
    let device = Device::with(&[row(1, "a"), row(2, "b"), row(3, "c"), row(4, "d")]);
    let id = refused(
        &device,
        "UPDATE notes SET title = 'x' WHERE id IN ('k1', 'k2'); DELETE FROM notes WHERE id IN ('k3', 'k4'); INSERT INTO notes(id, title) VALUES ('k5', 'e')",
    );
    let now = [row(1, "theirs"), row(2, "x"), row(3, "theirs"), row(5, "theirs")];
    device.apply(&page(&now).gone(&[4]).publish().known());
    let answer = retry(&device, id, "[]").unwrap();
    let expected = [
        r#"update ["k1"]: changed"#,
        r#"update ["k2"]: already"#,
        r#"delete ["k3"]: changed"#,
        r#"delete ["k4"]: already"#,
        r#"insert ["k5"]: exists"#,
    ];
    assert_eq!(outcomes(&answer), expected);
    assert!(answer["changes"][0]["message"].as_str().unwrap().contains("written over"));
    assert_eq!(device.titles(), ["1:x", "2:x", "5:e"]);
    assert_eq!(kinds(&device.push()), ["update k1 (title)", "delete k3 (id, rank, title, body)", "update k5 (title)"]);
}

/// A note with a body, too.
fn full(n: i64, title: &str, body: &str) -> Vec<Value> {
    let pairs = [("id", format!("k{n}")), ("title", title.into()), ("body", body.into())];
    values(&schema().tables[0], &pairs.map(|(name, text)| (name, Value::Text(text))))
}

#[test]
fn a_retry_makes_a_row_again_that_is_gone_meanwhile() {
    let device = Device::with(&[full(1, "a", "x"), full(2, "b", "y"), full(3, "c", "z")]);
    let id = refused(&device, "UPDATE notes SET title = 'new ' || title; INSERT INTO notes(id, title) VALUES ('k4', 'd')");
    // It changed once more before it went: that is how it was last.
    device.apply(&page(&[full(2, "b", "later")]).publish().known());
    device.apply(&page(&[]).gone(&[2]).publish().known());
    assert_eq!(device.titles(), ["1:a", "3:c"]);
    let answer = retry(&device, id, "[]").unwrap();
    assert_eq!(answer["retried"], true);
    let expected =
        [r#"update ["k1"]: written"#, r#"update ["k2"]: made"#, r#"update ["k3"]: written"#, r#"insert ["k4"]: written"#];
    assert_eq!(outcomes(&answer), expected);
    assert_eq!(device.titles(), ["1:new a", "2:new b", "3:new c", "4:d"]);
    assert_eq!(device.text("SELECT body FROM notes WHERE id = 'k2'"), "later");
    let batches = device.push();
    let sent = ["update k1 (title)", "insert k2 (id, title, body)", "update k3 (title)", "insert k4 (id, title)"];
    assert_eq!((batches.len(), kinds(&batches)), (1, sent.map(String::from).to_vec()));
}

#[test]
fn a_retry_makes_a_row_again_that_was_deleted_here() {
    let device = Device::with(&[full(1, "a", "x"), full(2, "b", "y")]);
    let id = refused(&device, "UPDATE notes SET title = 'mine'");
    device.run("DELETE FROM notes WHERE id = 'k1'");
    device.push();
    let answer = retry(&device, id, "[]").unwrap();
    assert_eq!(outcomes(&answer), [r#"update ["k1"]: made"#, r#"update ["k2"]: written"#]);
    assert_eq!(device.text("SELECT group_concat(title || body) FROM (SELECT * FROM notes ORDER BY id)"), "minex,miney");
}

#[test]
fn a_retry_is_whole_or_not_at_all() {
    let device = Device::with(&[row(1, "a")]);
    device.apply(&page(&[row(2, "b")]).in_bucket("other").publish());
    let id = refused(&device, "UPDATE notes SET title = 'x'");
    // The user may not hold it any longer, so nothing else of it stays here.
    device.apply(&empty().gone_bucket("other").publish().known());
    let answer = retry(&device, id, "[]").unwrap();
    assert_eq!(answer["retried"], false);
    assert_eq!(outcomes(&answer), [r#"update ["k1"]: written"#, r#"update ["k2"]: gone"#]);
    let message = answer["changes"][1]["message"].as_str().unwrap();
    assert!(message.contains("skip") && message.contains("new"), "{message}");
    assert_eq!(device.titles(), ["1:a"]);
    assert_eq!(device.number("SELECT count(*) FROM sync_rejected"), 1);
    device.run("CREATE TRIGGER app BEFORE UPDATE ON notes WHEN new.title = 'x' BEGIN SELECT raise(ABORT, 'not here'); END");
    let skip = json!([{"table": "notes", "key": ["k2"], "skip": true}]).to_string();
    assert!(retry(&device, id, &skip).unwrap_err().contains("not here"));
    assert_eq!(device.number("SELECT count(*) FROM sync_rejected"), 1);
    device.run("DROP TRIGGER app");
    assert_eq!(retry(&device, id, &skip).unwrap()["retried"], true);
    assert_eq!(device.titles(), ["1:x"]);
}

#[test]
fn a_retry_may_say_what_else_a_gone_row_had() {
    let device = Device::with(&[row(1, "a")]);
    device.apply(&page(&[row(2, "b")]).in_bucket("other").publish());
    let id = refused(&device, "UPDATE notes SET title = 'x' WHERE id = 'k2'");
    device.apply(&empty().gone_bucket("other").publish().known());
    let edit = |new: serde_json::Value| json!([{"table": "notes", "key": ["k2"], "new": new}]).to_string();
    assert_eq!(outcomes(&retry(&device, id, &edit(json!({"body": "y"}))).unwrap()), [r#"update ["k2"]: gone"#]);
    let answer = retry(&device, id, &edit(json!({"body": "y", "rank": null}))).unwrap();
    assert_eq!(outcomes(&answer), [r#"update ["k2"]: made"#]);
    assert_eq!(device.titles(), ["1:a", "2:x"]);
}

#[test]
fn a_retry_inside_a_transaction_belongs_to_it() {
    let device = Device::with(&[row(1, "a")]);
    let id = refused(&device, "UPDATE notes SET title = 'x'");
    device.run("BEGIN");
    retry(&device, id, "[]").unwrap();
    device.run("ROLLBACK");
    assert_eq!((device.titles()[0].as_str(), device.push().len()), ("1:a", 0));
    assert_eq!(device.number("SELECT count(*) FROM sync_rejected"), 1);
    device.run("BEGIN; UPDATE notes SET rank = 1");
    retry(&device, id, "[]").unwrap();
    device.run("INSERT INTO notes(id) VALUES ('k2'); COMMIT");
    let batches = device.push();
    assert_eq!(
        (batches.len(), kinds(&batches).as_slice()),
        (1, ["update k1 (rank, title)".into(), "insert k2 (id)".to_string()].as_slice())
    );
}

#[test]
fn a_retry_of_a_table_that_is_no_longer_synced_is_refused() {
    let device = Device::with(&[row(1, "a")]);
    let id = refused(&device, "UPDATE notes SET title = 'x'");
    let mut page = empty().publish().known();
    page.0.schema = Some(Schema { generation: 2, tables: schema().tables[1..].to_vec() });
    device.apply(&page);
    assert!(retry(&device, id, "[]").unwrap_err().contains("no longer synced"));
    assert_eq!(device.text("SELECT table_name FROM sync_record_counts"), "a table that is no longer synced");
    device.run(&format!("SELECT sync_discard({id})"));
    assert_eq!(device.number("SELECT count(*) FROM sync_change"), 0);
}

#[test]
fn both_rows_that_a_constraint_kept_apart_are_kept_with_the_rejection() {
    let device = Device::with(&[row(1, "a")]);
    device.run("INSERT INTO notes(id, title) VALUES ('k3', 'x')");
    let batches = device.push();
    let mut answer = reply(&batches, Verdict::Rejected);
    answer.results[0].subject = "notes_title_key".into();
    answer.results[0].conflicts.push(conflict("k3", "constraint"));
    device.apply_message(&answer);
    let both = "SELECT r.subject || c.policy || json_extract(c.theirs, '$.id') || json_extract(c.mine, '$.id') || r.conflicts \
                FROM sync_rejected r JOIN sync_conflicts c ON c.batch = r.id";
    assert_eq!(device.text(both), "notes_title_keyconstraintk9k31");
    assert_eq!(device.text("SELECT table_name || rejected || conflicts FROM sync_record_counts"), "notes11");
    device.run("DELETE FROM sync_rejected");
    assert_eq!(device.number("SELECT (SELECT count(*) FROM sync_conflicts) + (SELECT count(*) FROM sync_change)"), 0);
}

#[test]
fn a_batch_that_is_answered_twice_has_its_conflicts_once() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'x'");
    let batches = device.push();
    let mut answer = reply(&batches, Verdict::Merged);
    answer.results[0].conflicts.push(conflict("k1", "merge"));
    device.apply_message(&answer);
    device.apply_message(&notice(NoticeKind::Resync, vec![]));
    assert_eq!(device.push().len(), 1);
    device.apply_message(&answer);
    assert_eq!(device.text("SELECT group_concat(policy) FROM sync_conflicts"), "merge");
}

#[test]
fn records_are_discarded_one_by_one() {
    let device = Device::with(&[row(1, "a")]);
    let id = refused(&device, "UPDATE notes SET title = 'x'");
    device.run("UPDATE notes SET title = 'y'");
    let batches = device.push();
    let mut answer = reply(&batches, Verdict::Merged);
    answer.results[0].conflicts.extend([conflict("k1", "merge"), conflict("k2", "counter")]);
    device.apply_message(&answer);
    assert_eq!(device.text("SELECT rejected || ' ' || conflicts FROM sync_record_counts"), "1 2");
    let first = device.number("SELECT min(id) FROM sync_conflicts");
    device.run(&format!("SELECT sync_discard_conflict({first}); SELECT sync_discard({id})"));
    assert_eq!(
        device.text("SELECT rejected || ' ' || conflicts || (SELECT policy FROM sync_conflicts) FROM sync_record_counts"),
        "0 1counter"
    );
    assert_eq!(device.number("SELECT count(*) FROM sync_pending"), 1, "what is on its way stays");
    for sql in
        [format!("SELECT sync_discard({id})"), "SELECT sync_discard(2)".into(), format!("SELECT sync_discard_conflict({first})")]
    {
        assert!(device.db.execute_batch(&sql).unwrap_err().to_string().contains("there is no"), "{sql}");
    }
}

#[test]
fn records_expire() {
    let device = Device::with(&[row(1, "a")]);
    let old = refused(&device, "UPDATE notes SET title = 'x'");
    refused(&device, "UPDATE notes SET title = 'y'");
    device.run("INSERT INTO sync_conflict(at, table_name) VALUES (1, 'notes')");
    device.run(&format!("UPDATE sync_batch SET at = at - 91 * 86400000000 WHERE id = {old}"));
    device.apply(&page(&[]).publish().known());
    assert_eq!(device.number("SELECT count(*) FROM sync_rejected"), 1);
    assert_eq!(device.number("SELECT (SELECT count(*) FROM sync_conflicts) * 10 + (SELECT count(*) FROM sync_change)"), 1);
    device.run(
        "UPDATE sync_setting SET value = 1 WHERE name = 'keep_records_days'; UPDATE sync_batch SET at = at - 2 * 86400000000",
    );
    device.apply(&page(&[]).publish().known());
    assert_eq!(device.number("SELECT count(*) FROM sync_rejected"), 0);
}

#[test]
fn a_revoked_device_says_so_and_sends_nothing_until_a_pull_succeeds() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'x'");
    device.push();
    device.apply_message(&state_reply(PushState::Revoked, None));
    assert_eq!(device.text("SELECT value FROM sync_status WHERE name = 'notice'"), "why");
    assert!(device.push_request().is_none());
    device.request();
    assert!(device.push_request().is_none(), "to have asked is not enough");
    assert_eq!(device.titles(), ["1:x"], "nothing is lost");
    device.apply(&page(&[]).publish().known());
    assert_eq!(device.number("SELECT count(*) FROM sync_status WHERE name = 'notice' AND value IS NOT NULL"), 0);
    assert_eq!(device.push().len(), 1);
}

#[test]
fn the_conflicts_column_keeps_its_name() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'mine'");
    let batches = device.push();
    let mut answer = reply(&batches, Verdict::Merged);
    answer.results[0].conflicts.push(Conflict { column: Some(hash::tag("title")), ..conflict("k1", "server_wins") });
    device.apply_message(&answer);
    assert_eq!(device.text("SELECT column_name || ' ' || policy FROM sync_conflicts"), "title server_wins");
}
