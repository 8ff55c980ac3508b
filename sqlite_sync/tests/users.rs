//! Several users on one device, one after the other: what is kept belongs to who made it, waits for that user, and is shown to no other.

mod common;
use common::*;
use serde_bytes::ByteArray;

/// Everything that is shown of what a user wrote or was told.
const SHOWN: &str = "SELECT coalesce(group_concat(x, '; '), '') FROM (
    SELECT 'pending ' || state || ' ' || note AS x FROM sync_pending UNION ALL
    SELECT 'rejected ' || message || json_extract(batch, '$[0].new') FROM sync_rejected UNION ALL
    SELECT 'conflict ' || mine FROM sync_conflicts UNION ALL
    SELECT 'lost ' || row FROM sync_lost UNION ALL
    SELECT 'count ' || table_name || rejected || conflicts FROM sync_record_counts UNION ALL
    SELECT 'problem ' || value FROM sync_status WHERE name IN ('problem', 'notice'))";

/// Anna has a rejected batch with a conflict, a lost row, and a note on a batch that waits.
fn annas() -> Device {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    device.run("UPDATE notes SET title = 'refused secret' WHERE id = 'k1'");
    let batches = device.push();
    let mut answer = reply(&batches, Verdict::Rejected);
    let text = |s: &str| Value::Text(s.into());
    answer.results[0].conflicts = vec![Conflict {
        table: schema().tables[0].tag,
        key: vec![text("k1")],
        column: None,
        base: Value::Null,
        theirs: text("{}"),
        mine: text("conflict secret"),
        result: Value::Null,
        reason: "a reason".into(),
        policy: "merge".into(),
    }];
    device.apply_message(&answer);
    device.run("UPDATE sync_guard SET applying = 1; INSERT INTO notes(id, title) VALUES ('k9', 'lost secret'); UPDATE sync_guard SET applying = 0");
    device.text("SELECT sync_verify()");
    device.run(
        "BEGIN; UPDATE notes SET title = 'waiting secret' WHERE id = 'k2'; INSERT INTO notes(id, title) VALUES ('k3', 'new secret');
         SELECT sync_note('{\"note\": \"secret\"}'); COMMIT",
    );
    device.push();
    device
}

fn sign_in(device: &Device, user: &str, rows: &[Vec<Value>]) {
    device.apply(&page(rows).starting_empty().publish().user(user));
}

#[test]
fn the_next_user_is_shown_nothing_of_the_first_ones_records_and_writes() {
    let device = annas();
    let before = device.text(SHOWN);
    assert!(before.matches("secret").count() >= 4, "{before}");
    device.text("SELECT sync_sign_out('keep')");
    assert_eq!(device.text(SHOWN), "", "nobody is signed in");
    sign_in(&device, "bert", &[row(1, "a"), row(2, "b")]);
    assert_eq!((device.text(SHOWN).as_str(), device.titles()), ("", vec!["1:a".to_string(), "2:b".into()]));
    let counts = ["waiting", "rejected", "lost", "held"].map(|name| device.status(name));
    assert_eq!(counts, [0, 0, 0, 1], "that something waits for another user is no secret");
    assert!(device.push().is_empty());
    // Nor can it be changed by its number.
    device.run("DELETE FROM sync_rejected; DELETE FROM sync_conflicts; DELETE FROM sync_lost");
    for call in ["sync_retry(1)", "sync_discard(1)", "sync_discard_conflict(1)", "sync_restore_lost(1)", "sync_discard_lost(1)"] {
        let error =
            device.db.query_row(&format!("SELECT {call}"), [], |r| r.get::<_, Option<String>>(0)).unwrap_err().to_string();
        assert!(error.contains("there is no"), "{call}: {error}");
    }
    sign_in(&device, "anna", &[row(1, "a"), row(2, "b")]);
    assert_eq!(device.text(SHOWN), before);
    assert_eq!(device.titles(), ["1:a", "2:waiting secret", "3:new secret"]);
    assert_eq!(kinds(&device.push()), ["update k2 (title)", "insert k3 (id, title)"]);
    device.text("SELECT sync_retry(1)");
    assert_eq!(device.titles()[0], "1:refused secret");
}

#[test]
fn two_users_write_the_same_row_in_turns() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'anna', rank = 1");
    sign_in(&device, "bert", &[row(1, "a")]);
    device.run("UPDATE notes SET body = 'bert'; INSERT INTO notes(id, title) VALUES ('k5', 'of bert')");
    let of_bert = device.push();
    assert_eq!(kinds(&of_bert), ["update k1 (body)", "insert k5 (id, title)"]);
    assert_eq!(of_bert[0].changes[0].old, [Value::Null]);
    sign_in(&device, "anna", &[row(1, "b")]);
    assert_eq!(device.titles(), ["1:anna"]);
    assert_eq!(device.text("SELECT coalesce(body, 'none') FROM notes"), "none");
    let of_anna = device.push();
    assert_eq!(kinds(&of_anna), ["update k1 (rank, title)"]);
    // A rejection of Anna's says nothing of what Bert wrote.
    device.answer(&of_anna, Verdict::Rejected);
    assert_eq!(device.titles(), ["1:b"]);
    sign_in(&device, "bert", &[row(1, "b")]);
    assert_eq!(device.titles(), ["1:b", "5:of bert"]);
    let again = device.push();
    assert_eq!(again.iter().map(|b| b.id.random).collect::<Vec<_>>(), of_bert.iter().map(|b| b.id.random).collect::<Vec<_>>());
    assert!(again.iter().flat_map(|b| &b.changes).all(|c| c.below.is_empty()));
    assert_eq!(device.status("rejected"), 0);
}

#[test]
fn a_row_that_goes_under_one_user_is_not_kept_in_a_record_of_another() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'x'");
    let batches = device.push();
    device.answer(&batches, Verdict::Rejected);
    let private = values(&schema().tables[0], &[("id", Value::Text("k1".into())), ("body", Value::Text("of bert".into()))]);
    sign_in(&device, "bert", &[private]);
    device.apply(&page(&[]).gone(&[1]).publish().known().user("bert"));
    sign_in(&device, "anna", &[]);
    let answer = device.text("SELECT sync_retry(1)");
    assert!(answer.contains("\"gone\""), "what else the row had is not known to Anna: {answer}");
}

#[test]
fn what_was_written_before_the_first_sign_in_is_of_whoever_signs_in() {
    let device = Device::new();
    let mut first = page(&[row(1, "a")]).with_schema().publish();
    first.0.user = String::new();
    device.apply(&first);
    device.run("UPDATE notes SET title = 'early'");
    assert_eq!(device.push()[0].user, "");
    device.apply(&page(&[]).user("anna"));
    let batches = device.push();
    device.answer(&batches, Verdict::Rejected);
    assert_eq!(device.status("rejected"), 1);
    sign_in(&device, "bert", &[row(1, "a")]);
    assert_eq!(device.status("rejected"), 0);
}

#[test]
fn a_key_that_sqlite_chose_twice_waits_for_each_user() {
    let device = Device::new();
    let orders = shop(true).tables[0].clone();
    let first = only(shop(true)).rows_in(&orders, 1, &[values(&orders, &[("id", Value::Integer(1))])]);
    device.apply(&first);
    device.run("INSERT INTO orders(title) VALUES ('of anna'); UPDATE orders SET title = 'of anna too' WHERE id = 2");
    device.push();
    let sign_in = |user: &str| device.apply(&empty().publish().known().user(user));
    sign_in("bert");
    assert_eq!(device.number("SELECT count(*) FROM orders"), 1);
    device.run("INSERT INTO orders(title) VALUES ('of bert')");
    device.push();
    let mut lease = PushReply { user: "bert".into(), ..reply(&[], Verdict::Accepted) };
    lease.leases = vec![KeyLease { table: orders.tag, first: 100, step: 1, count: 10, proof: ByteArray::default() }];
    device.apply_message(&lease);
    let of_bert = device.push();
    assert_eq!((of_bert.len(), &of_bert[0].changes[0].key), (1, &vec![Value::Integer(100)]), "it waits for nothing of Anna's");
    sign_in("anna");
    let shown = device.text("SELECT group_concat(id || coalesce(' ' || title, ''), ', ') FROM orders ORDER BY id");
    assert_eq!(shown, "1, 101 of anna too");
    assert_eq!(device.push().len(), 2);
}

#[test]
fn subscriptions_are_the_applications() {
    let device = Device::with(&[]);
    device.run(r#"SELECT sync_subscribe('room', '{"name": "x"}'); SELECT sync_sign_out('keep')"#);
    assert_eq!(device.request().subscriptions.len(), 1, "they stay until the application lets go of them");
}
