//! The device's own half, with a real server: keys, notes, urgency, modes, and writes that are taken over without flicker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use sync_tests::compare::{assert_same, assert_verified, server_rows, server_value};
use sync_tests::device::{server_push, Device};
use sync_tests::{Cluster, Database};

/// Orders with lines, whose keys come from sequences, and a log of what arrives when.
fn shop() -> Database<'static> {
    let database = Cluster::shared().database();
    database.run(
        "CREATE TABLE orders (id serial PRIMARY KEY, title text NOT NULL UNIQUE, n int NOT NULL DEFAULT 0, up int REFERENCES orders);
         CREATE TABLE line (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id int NOT NULL REFERENCES orders, body text);
         CREATE TABLE arrival (at serial, title text, note jsonb);
         CREATE FUNCTION arrived() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO arrival (title, note) VALUES (NEW.title, sync.note()::jsonb); RETURN NEW; END $$;
         CREATE TRIGGER arrived AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION arrived();
         SELECT sync.create_bucket('shop');
         SELECT sync.add_table('shop', 'orders');
         SELECT sync.add_table('shop', 'line');",
    );
    database
}

/// A device that has numbers.
fn device(server: &mut postgres::Client, user: &str) -> Device {
    let device = Device::new(user);
    device.sync(server);
    device.sync(server);
    device
}

#[test]
fn rows_made_offline_on_two_devices_get_keys_of_their_own() {
    let database = shop();
    let mut server = database.connect();
    // Bob's device has no numbers yet when he writes.
    let (ann, bob) = (device(&mut server, "ann"), Device::new("bob"));
    bob.pull(&mut server);
    for (device, name) in [(&ann, "ann"), (&bob, "bob")] {
        for n in 1..=3 {
            device.run(&format!(
                "BEGIN; INSERT INTO orders (title, up) VALUES ('{name} {n}', (SELECT max(id) FROM orders)); \
                 INSERT INTO line (order_id, body) SELECT id, title FROM orders WHERE title = '{name} {n}'; COMMIT"
            ));
        }
    }
    ann.run("INSERT INTO orders (id, title) SELECT sync_next_id('orders'), 'ann asked'");
    server
        .batch_execute(
            "INSERT INTO orders (title) VALUES ('server'); INSERT INTO line (order_id, body) SELECT id, title FROM orders",
        )
        .expect("written");
    for _ in 0..2 {
        ann.sync(&mut server);
        bob.sync(&mut server);
    }
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM orders"), "8");
    assert_eq!(
        server_rows(&mut server, "SELECT o.title, l.body FROM line l JOIN orders o ON o.id = l.order_id WHERE o.title <> l.body"),
        Vec::<Vec<String>>::new()
    );
    assert_eq!(
        server_rows(&mut server, "SELECT o.title, u.title FROM orders o JOIN orders u ON u.id = o.up ORDER BY 1"),
        [["ann 2", "ann 1"], ["ann 3", "ann 2"], ["bob 2", "bob 1"], ["bob 3", "bob 2"]]
    );
    for device in [&ann, &bob] {
        assert_same(device, &mut server, "SELECT id, title, up FROM orders");
        assert_same(device, &mut server, "SELECT id, order_id, body FROM line");
        assert_verified(device);
        assert_eq!(device.rows("SELECT code, message FROM sync_rejected"), Vec::<Vec<String>>::new());
        assert_eq!(device.value("SELECT count(*) FROM sync_pending"), "0");
    }
    server.batch_execute("INSERT INTO orders (title) VALUES ('the sequence goes on')").expect("no leased number comes twice");
}

#[test]
fn an_urgent_transaction_arrives_first_with_its_note() {
    let database = shop();
    let mut server = database.connect();
    let ann = device(&mut server, "ann");
    for n in 1..=3 {
        ann.run(&format!("INSERT INTO orders (title) VALUES ('import {n}')"));
    }
    ann.run("BEGIN; INSERT INTO orders (title) VALUES ('message'); SELECT sync_priority(-1); SELECT sync_note('{\"why\": \"urgent\"}'); COMMIT");
    let first = ann.pending_ops().expect("something waits");
    let reply = server_push(&mut server, &ann.user, &first).expect("sync.push answers");
    assert_eq!(server_rows(&mut server, "SELECT title, note->>'why' FROM arrival"), [["message", "urgent"]]);
    ann.apply(&reply).expect("a reply");
    ann.sync(&mut server);
    assert_eq!(
        server_rows(&mut server, "SELECT title, note FROM arrival ORDER BY at OFFSET 1"),
        [["import 1", "∅"], ["import 2", "∅"], ["import 3", "∅"]]
    );
    assert_same(&ann, &mut server, "SELECT id, title FROM orders");
}

#[test]
fn a_rejected_transaction_is_edited_and_sent_again() {
    let database = shop();
    let mut server = database.connect();
    let (ann, bob) = (device(&mut server, "ann"), device(&mut server, "bob"));
    ann.run("INSERT INTO orders (title) VALUES ('same')");
    bob.run("BEGIN; INSERT INTO orders (title) VALUES ('same'); INSERT INTO line (order_id, body) SELECT max(id), 'of bob' FROM orders; COMMIT");
    ann.sync(&mut server);
    bob.sync(&mut server);
    assert_eq!(bob.rows("SELECT code, subject FROM sync_rejected"), [["23505", "orders_title_key"]]);
    assert_eq!(bob.value("SELECT count(*) FROM line"), "0", "undone whole");
    bob.value(
        "SELECT sync_retry(id, json_array(json_object('table', 'orders', 'key', json_extract(batch, '$[0].key'), \
         'new', json_object('title', 'another')))) FROM sync_rejected",
    );
    bob.sync(&mut server);
    assert_eq!(
        server_rows(&mut server, "SELECT o.title, l.body FROM orders o LEFT JOIN line l ON l.order_id = o.id ORDER BY 1"),
        [["another", "of bob"], ["same", "∅"]]
    );
    assert_same(&bob, &mut server, "SELECT id, title FROM orders");
    assert_eq!(bob.value("SELECT count(*) FROM sync_rejected"), "0");
}

#[test]
fn modes_are_told_to_devices_and_may_change() {
    let database = shop();
    let mut server = database.connect();
    let ann = device(&mut server, "ann");
    server.batch_execute("SELECT sync.set_mode('orders', 'read_only'); SELECT sync.set_mode('line', 'insert_only'); INSERT INTO orders (title) VALUES ('given')").expect("modes are set");
    ann.sync(&mut server);
    assert!(ann.try_run("INSERT INTO orders (title) VALUES ('no')").unwrap_err().contains("is read only here"));
    ann.run("INSERT INTO line (order_id, body) SELECT id, 'noted' FROM orders");
    assert!(ann.try_run("UPDATE line SET body = 'no'").unwrap_err().contains("is insert only here"));
    ann.sync(&mut server);
    assert_same(&ann, &mut server, "SELECT id, order_id, body FROM line");
    server.batch_execute("SELECT sync.set_mode('line', 'read_write')").expect("modes are set");
    ann.sync(&mut server);
    ann.run("UPDATE line SET body = 'changed'");
    ann.sync(&mut server);
    assert_eq!(server_value(&mut server, "SELECT body FROM line"), "changed");
}

#[test]
fn a_reader_never_sees_a_write_come_undone() {
    let database = shop();
    let mut server = database.connect();
    database.run("INSERT INTO orders (id, title) VALUES (1000, 'counted')");
    let (ann, bob) = (device(&mut server, "ann"), device(&mut server, "bob"));
    let stop = Arc::new(AtomicBool::new(false));
    let (path, stopped) = (ann.path(), stop.clone());
    let watcher = std::thread::spawn(move || {
        let reader = rusqlite::Connection::open(path).expect("a device file opens");
        reader.busy_timeout(std::time::Duration::from_secs(10)).expect("a timeout is set");
        let (mut last, mut seen) = (0, 0);
        while !stopped.load(Ordering::Relaxed) {
            let now: i64 = reader.query_row("SELECT n FROM orders WHERE id = 1000", [], |r| r.get(0)).expect("the row is there");
            assert!(now >= last, "{last} was seen, then {now}");
            (last, seen) = (now, seen + 1);
        }
        (last, seen)
    });
    for n in 1..=40 {
        ann.run(&format!("UPDATE orders SET n = {n} WHERE id = 1000"));
        if n % 3 == 0 {
            bob.run(&format!("UPDATE orders SET title = 'counted {n}' WHERE id = 1000"));
            bob.sync(&mut server);
        }
        if n % 2 == 0 {
            ann.pull(&mut server);
        }
        ann.sync(&mut server);
    }
    stop.store(true, Ordering::Relaxed);
    let (last, seen) = watcher.join().expect("nothing came undone");
    assert!(last > 0 && seen > 1, "the reader saw {seen} times up to {last}");
    assert_eq!(server_rows(&mut server, "SELECT title, n FROM orders"), [["counted 39", "40"]]);
    assert_same(&ann, &mut server, "SELECT title, n FROM orders");
}

#[test]
fn a_revoked_device_keeps_its_writes_until_it_may_sync_again() {
    let database = shop();
    let mut server = database.connect();
    let ann = device(&mut server, "ann");
    server.batch_execute("UPDATE sync.device SET revoked = now()").expect("revoked");
    ann.run("INSERT INTO orders (title) VALUES ('waits')");
    ann.push(&mut server);
    assert!(ann.value("SELECT value FROM sync_status WHERE name = 'notice'").contains("revoked"));
    assert_eq!(ann.value("SELECT state FROM sync_pending"), "waiting");
    assert!(ann.pending_ops().is_none());
    server.batch_execute("UPDATE sync.device SET revoked = NULL").expect("trusted again");
    ann.pull(&mut server);
    assert_eq!(ann.rows("SELECT value FROM sync_status WHERE name = 'notice' AND value IS NOT NULL"), Vec::<Vec<String>>::new());
    ann.sync(&mut server);
    assert_same(&ann, &mut server, "SELECT id, title FROM orders");
    assert_eq!(server_value(&mut server, "SELECT title FROM orders"), "waits");
}
