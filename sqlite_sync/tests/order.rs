//! Notes about transactions, and which of them are sent first.

mod common;
use common::*;

/// A device of the shop whose next push is known to the server.
fn shop_device() -> Device {
    let device = Device::new();
    device.apply(&only(shop(false)));
    device.push_request();
    device.apply_message(&reply(&[], Verdict::Accepted));
    device
}

fn write(device: &Device, priority: i64, sql: &str) {
    device.run(&format!("BEGIN; {sql}; SELECT sync_priority({priority}); COMMIT"));
}

/// The ids of all batches in the order in which they are sent, `|` between pushes.
fn sent(device: &Device) -> String {
    let mut pushes = Vec::new();
    loop {
        let batches = device.push();
        if batches.is_empty() {
            return pushes.join(" | ");
        }
        let numbers: Vec<_> = batches.iter().map(|b| b.id.number).collect();
        assert!(numbers.windows(2).all(|w| w[0] + 1 == w[1]), "{numbers:?}");
        let ids = numbers.iter().map(|n| device.text(&format!("SELECT CAST(id AS TEXT) FROM sync_batch WHERE number = {n}")));
        pushes.push(ids.collect::<Vec<_>>().join(" "));
        device.answer(&batches, Verdict::Accepted);
    }
}

#[test]
fn a_note_travels_with_its_transaction() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'without'");
    device.run(r#"BEGIN; SELECT sync_note('{"first":1}'); UPDATE notes SET title = 'with'; SELECT sync_note('{"why":"import"}'); COMMIT"#);
    device.run("BEGIN; SELECT sync_note('\"nothing was written\"'); COMMIT");
    device.run("UPDATE notes SET title = 'without again'");
    let batches = device.push();
    assert_eq!(batches.iter().map(|b| b.note.as_str()).collect::<Vec<_>>(), ["", r#"{"why":"import"}"#, ""]);
    assert_eq!(device.text("SELECT group_concat(note, '') FROM sync_pending"), r#"{"why":"import"}"#);
}

#[test]
fn a_note_that_is_rolled_back_is_gone() {
    let device = Device::with(&[row(1, "a")]);
    device.run("BEGIN; SELECT sync_note('1'); UPDATE notes SET title = 'x'; ROLLBACK; UPDATE notes SET title = 'y'");
    device.run(
        "BEGIN; UPDATE notes SET title = 'z'; SAVEPOINT s; SELECT sync_note('2'); SELECT sync_priority(7); ROLLBACK TO s; COMMIT",
    );
    assert_eq!(device.push().iter().map(|b| b.note.as_str()).collect::<Vec<_>>(), ["", ""]);
    assert_eq!(device.number("SELECT sum(priority) FROM sync_pending"), 0);
}

#[test]
fn notes_and_priorities_are_checked() {
    let device = Device::with(&[row(1, "a")]);
    let error = |sql: &str| device.db.query_row(sql, [], |_| Ok(())).unwrap_err().to_string();
    assert!(error("SELECT sync_note('1')").contains("BEGIN"));
    assert!(error("SELECT sync_priority(1)").contains("BEGIN"));
    device.run("BEGIN");
    assert!(error("SELECT sync_note('{no json')").contains("takes JSON"));
    assert!(error("SELECT sync_note(12)").contains("takes JSON"));
    assert!(error("SELECT sync_note('\"' || hex(zeroblob(32768)) || '\"')").contains("at most 65536 bytes"));
    assert!(error("SELECT sync_priority('soon')").contains("whole number"));
    device.run("UPDATE notes SET title = 'x'; SELECT sync_note('\"' || hex(zeroblob(32767)) || '\"'); COMMIT");
    assert_eq!(device.push()[0].note.len(), 65536);
    let fresh = Device::new();
    fresh.run("BEGIN");
    assert!(fresh.db.query_row("SELECT sync_note('1')", [], |_| Ok(())).unwrap_err().to_string().contains("not synced yet"));
}

#[test]
fn a_plain_connection_says_it_with_a_marker() {
    let device = Device::with(&[row(1, "a")]);
    let plain = device.plain();
    plain
        .execute_batch(
            "UPDATE notes SET title = 'x'; INSERT INTO sync_marker(note, priority) VALUES ('{\"a\":1}', 4); \
             UPDATE notes SET title = 'y'; INSERT INTO sync_marker(note) VALUES ('no json'); UPDATE notes SET title = 'z'",
        )
        .unwrap();
    assert!(plain.execute_batch("INSERT INTO sync_marker(note) VALUES (hex(zeroblob(40000)))").is_err());
    assert_eq!(device.push().len(), 3);
    assert_eq!(
        device.text("SELECT group_concat(note || ' ' || priority, ', ') FROM sync_pending"),
        r#"{"a":1} 4, "no json" 0,  0"#
    );
}

#[test]
fn a_retry_keeps_its_note() {
    let device = Device::with(&[row(1, "a")]);
    device.run("BEGIN; SELECT sync_note('[1]'); UPDATE notes SET title = 'x'; COMMIT");
    let batches = device.push();
    device.answer(&batches, Verdict::Rejected);
    assert_eq!(device.text("SELECT note FROM sync_rejected"), "[1]");
    device.text("SELECT sync_retry(1)");
    assert_eq!(device.push()[0].note, "[1]");
}

#[test]
fn an_urgent_batch_passes_independent_ones() {
    let device = shop_device();
    for n in 1..=3 {
        device.run(&format!("INSERT INTO orders(id, title) VALUES ({n}, 'import')"));
    }
    write(&device, -1, "INSERT INTO orders(id, title) VALUES (10, 'message')");
    write(&device, 5, "INSERT INTO orders(id, title) VALUES (11, 'thumbnail')");
    device.run("INSERT INTO orders(id, title) VALUES (12, 'usual')");
    assert_eq!(sent(&device), "4 | 1 2 3 6 | 5");
}

#[test]
fn a_batch_never_passes_one_that_touches_its_rows() {
    let device = shop_device();
    device.run("INSERT INTO orders(id, title) VALUES (1, 'a')");
    device.run("INSERT INTO orders(id, title) VALUES (2, 'independent')");
    device.run("UPDATE orders SET title = 'b' WHERE id = 1");
    write(&device, -1, "UPDATE orders SET title = 'c' WHERE id = 1");
    assert_eq!(device.push().iter().map(|b| b.changes.len()).collect::<Vec<_>>(), [1, 1, 1], "what it depends on comes along");
    assert_eq!(
        device.text("SELECT group_concat(id, ' ') FROM (SELECT id FROM sync_batch WHERE number IS NOT NULL ORDER BY number)"),
        "1 3 4"
    );
}

#[test]
fn a_batch_never_passes_one_that_it_refers_to() {
    let device = shop_device();
    device.run("INSERT INTO orders(id, title) VALUES (1, 'independent')");
    device.run("INSERT INTO orders(id, title) VALUES (2, 'grandparent')");
    device.run("INSERT INTO orders(id, title, up) VALUES (3, 'parent', 2)");
    device.run("INSERT INTO lines VALUES (3, 1, 'child')");
    write(&device, -1, "INSERT INTO tags VALUES ('t', 3, 1)");
    assert_eq!(sent(&device), "2 3 4 5 | 1");
    device.run("INSERT INTO orders(id, title) VALUES (4, 'independent')");
    device.run("INSERT INTO lines VALUES (3, 2, 'other')");
    write(&device, -1, "UPDATE tags SET n = 2");
    assert_eq!(sent(&device), "7 8 | 6", "also where only a part of the reference changes");
}

#[test]
fn a_parent_is_not_deleted_before_its_children() {
    let device = shop_device();
    device.run(
        "INSERT INTO orders(id, title) VALUES (1, 'parent'), (2, 'other'); INSERT INTO lines VALUES (1, 1, 'a'), (1, 2, 'b')",
    );
    assert_eq!(sent(&device), "1 2");
    device.run("INSERT INTO orders(id, title) VALUES (3, 'independent')");
    device.run("DELETE FROM lines WHERE n = 1");
    device.run("UPDATE lines SET order_id = 2");
    write(&device, -1, "DELETE FROM orders WHERE id = 1");
    assert_eq!(sent(&device), "4 5 6 | 3");
}

#[test]
fn a_batch_with_a_number_does_not_move() {
    let device = shop_device();
    device.run("INSERT INTO orders(id, title) VALUES (1, 'a')");
    device.run("INSERT INTO orders(id, title) VALUES (2, 'b')");
    let first = device.push();
    write(&device, -1, "UPDATE orders SET title = 'urgent'");
    let again = device.push();
    assert_eq!(again[..2], first[..]);
    assert_eq!(again[2].id.number, 3);
}

#[test]
fn the_order_survives_a_restart_and_a_new_identity() {
    let mut device = shop_device();
    device.run("INSERT INTO orders(id, title) VALUES (1, 'a')");
    write(&device, -1, "INSERT INTO orders(id, title) VALUES (2, 'urgent')");
    assert_eq!(device.push()[0].id.number, 1);
    let other = rusqlite::Connection::open(&device.path).unwrap();
    load(&other);
    device.db = other;
    let urgent = device.push();
    assert_eq!((urgent.len(), urgent[0].id.number), (1, 1), "the same one again");
    device.answer(&urgent, Verdict::Accepted);
    let usual = device.push();
    // It depends on a batch with a number, and is more urgent than it.
    write(&device, -2, "UPDATE orders SET title = 'more urgent' WHERE id = 1");
    device.apply_message(&state_reply(PushState::Fork, None));
    let after = device.push();
    assert_eq!(after.iter().map(|b| b.id.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!([&after[0].changes, &after[1].changes], [&urgent[0].changes, &usual[0].changes], "the old order first");
    device.apply_message(&state_reply(PushState::Fork, None));
    let again = device.push();
    assert_eq!(again, after);
    device.answer(&again, Verdict::Accepted);
    device.apply_message(&notice(NoticeKind::Resync, vec![]));
    assert_eq!(device.push(), again);
}

#[test]
fn numbers_that_are_given_back_keep_their_order() {
    let device = shop_device();
    device.run("INSERT INTO orders(id, title) VALUES (1, 'a')");
    write(&device, -1, "INSERT INTO orders(id, title) VALUES (2, 'b')");
    let urgent = device.push();
    device.answer(&urgent, Verdict::Accepted);
    let batches = device.push();
    let mut answer = reply(&batches, Verdict::Held);
    answer.last = Some(urgent[0].id);
    device.apply_message(&answer);
    write(&device, -3, "INSERT INTO orders(id, title) VALUES (3, 'c')");
    device.run("UPDATE sync_batch SET state = 0 WHERE state = 4");
    let next = device.push();
    assert_eq!((next[0].id.number, next[0].id.random), (2, batches[0].id.random));
}

#[test]
fn what_the_device_shows_does_not_depend_on_the_order_of_sending() {
    let device = shop_device();
    device.run("INSERT INTO orders(id, title) VALUES (1, 'a')");
    device.run("UPDATE orders SET title = 'b' WHERE id = 1");
    write(&device, -1, "INSERT INTO orders(id, title) VALUES (2, 'urgent')");
    let urgent = device.push();
    device.answer(&urgent, Verdict::Rejected);
    assert_eq!(device.text("SELECT group_concat(id || title) FROM orders"), "1b");
    let usual = device.push();
    let mut answer = reply(&usual, Verdict::Accepted);
    answer.results[0].verdict = Verdict::Rejected;
    device.apply_message(&answer);
    assert_eq!(device.number("SELECT count(*) FROM orders"), 0, "an update of a row that never was");
    device.apply(&empty().publish().known().confirm(&usual[1]));
    assert_eq!(device.number("SELECT count(*) FROM sync_pending"), 0);
}

#[test]
fn a_confirmation_reaches_as_far_as_its_number() {
    let device = shop_device();
    device.run("INSERT INTO orders(id, title) VALUES (1, 'usual')");
    write(&device, -1, "INSERT INTO orders(id, title) VALUES (2, 'urgent')");
    let urgent = device.push();
    device.answer(&urgent, Verdict::Accepted);
    let usual = device.push();
    device.answer(&usual, Verdict::Accepted);
    let orders = &shop(false).tables[0];
    let came = [values(orders, &[("id", Value::Integer(2)), ("title", Value::Text("urgent".into()))])];
    device.apply(&empty().rows_in(orders, 1, &came).publish().confirm(&urgent[0]));
    assert_eq!(device.text("SELECT group_concat(number) FROM sync_pending"), "2");
    assert_eq!(device.text("SELECT group_concat(title) FROM orders"), "usual,urgent");
    device.apply(&empty().publish().known().confirm(&usual[0]));
    assert_eq!(device.text("SELECT group_concat(title) FROM orders"), "urgent");
}
