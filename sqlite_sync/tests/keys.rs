//! Keys that the server takes from a sequence: leased numbers, and rows whose key SQLite chose.

mod common;
use common::*;
use serde_bytes::ByteArray;

fn orders() -> Table {
    shop(true).tables[0].clone()
}

fn lease(first: i64, count: u32) -> PushReply {
    let mut answer = reply(&[], Verdict::Accepted);
    answer.leases = vec![KeyLease { table: orders().tag, first, step: 1, count, proof: Default::default() }];
    answer
}

/// A device of the shop that holds order 1 and has no numbers.
fn without_numbers() -> Device {
    let device = Device::new();
    let mut page = only(shop(true)).rows_in(&orders(), 1, &[order(1, "from the server")]);
    page.0.complete = true;
    device.apply(&page);
    device.push_request();
    device.apply_message(&reply(&[], Verdict::Accepted));
    device
}

/// The same with numbers.
fn with_numbers(first: i64, count: u32) -> Device {
    let device = without_numbers();
    device.apply_message(&lease(first, count));
    device
}

fn order(id: i64, title: &str) -> Vec<Value> {
    values(&orders(), &[("id", Value::Integer(id)), ("title", Value::Text(title.into()))])
}

/// Everything visible: orders as `id title up`, lines as `order.n body`, tags as `id>order.n`.
fn shown(device: &Device) -> String {
    device.text(
        "SELECT coalesce(group_concat(x, ', '), '') FROM (SELECT 1 AS kind, id AS a, 0 AS b, id || ' ' || title || coalesce(' ' || up, '') AS x \
         FROM orders UNION ALL SELECT 2, order_id, n, order_id || '.' || n || ' ' || body FROM lines \
         UNION ALL SELECT 3, id, 0, id || '>' || order_id || '.' || n FROM tags ORDER BY 1, 2, 3)",
    )
}

/// What would be sent, batch by batch: `+order 5 (up 3)`, `-` and `~` for deletes and updates.
fn said(batches: &[Batch]) -> Vec<String> {
    let schema = shop(true);
    let one = |change: &Change| {
        let table = schema.tables.iter().find(|t| t.tag == change.table).unwrap();
        let sign = match change.kind {
            ChangeKind::Insert => '+',
            ChangeKind::Update => '~',
            ChangeKind::Delete => '-',
        };
        let show = |v: &Value| match v {
            Value::Integer(i) => i.to_string(),
            Value::Text(t) => t.clone(),
            Value::Null => "NULL".into(),
            other => format!("{other:?}"),
        };
        let pairs = |values: &[Value]| {
            let mut all: Vec<_> = change.columns.iter().zip(values).collect();
            all.sort_by_key(|(tag, _)| table.columns.iter().find(|c| c.tag == **tag).unwrap().position);
            let named =
                all.iter().map(|(tag, v)| format!("{} {}", table.columns.iter().find(|c| c.tag == **tag).unwrap().name, show(v)));
            named.collect::<Vec<_>>().join(" ")
        };
        let key: Vec<_> = change.key.iter().map(show).collect();
        let old = if change.kind == ChangeKind::Insert { String::new() } else { format!(" old({})", pairs(&change.old)) };
        let new = if change.kind == ChangeKind::Delete { String::new() } else { format!(" new({})", pairs(&change.new)) };
        format!("{sign}{} {}{old}{new}", table.name, key.join("."))
    };
    batches.iter().map(|b| b.changes.iter().map(one).collect::<Vec<_>>().join("; ")).collect()
}

#[test]
fn numbers_are_asked_for_and_given_out_one_by_one() {
    let device = Device::new();
    device.apply(&only(shop(true)));
    let first = device.push_request().unwrap();
    assert_eq!((first.batches.len(), first.wants.clone()), (0, vec![KeyWant { table: orders().tag, count: 1000 }]));
    assert!(device.push_request().is_none(), "asked once per round");
    let mut answer = lease(100, 3);
    answer.leases.push(KeyLease { table: orders().tag, first: 900, step: -10, count: 2, proof: Default::default() });
    device.apply_message(&answer);
    let next = || device.number("SELECT sync_next_id('Orders')");
    assert_eq!([next(), next()], [100, 101]);
    device.run("BEGIN");
    assert_eq!(next(), 102);
    device.run("ROLLBACK");
    assert_eq!([next(), next(), next()], [102, 900, 890]);
    let error = |sql: &str| device.db.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap_err().to_string();
    assert!(error("SELECT sync_next_id('orders')").contains("no numbers are left for orders: sync once while online"));
    assert!(error("SELECT sync_next_id('lines')").contains("does not come from a sequence"));
    assert!(error("SELECT sync_next_id('nothing')").contains("no synced table"));
    device.run("INSERT INTO orders(id, title) VALUES (100, 'mine')");
    device.request();
    let again = device.push_request().unwrap();
    assert_eq!((said(&again.batches), again.wants[0].count), (vec!["+orders 100 new(id 100 title mine)".into()], 1000));
    device.answer(&again.batches, Verdict::Accepted);
    assert_eq!(device.number("SELECT count(*) FROM sync_moved_key"), 0, "the application's own choice stays");
}

#[test]
fn half_a_stock_is_enough() {
    let device = with_numbers(100, 500);
    device.request();
    assert!(device.push_request().is_none());
    device.number("SELECT sync_next_id('orders')");
    device.request();
    assert_eq!(device.push_request().unwrap().wants[0].count, 501);
    device.apply_message(&lease(1000, 501));
    assert!(device.push_request().is_none());
    device.run("UPDATE sync_setting SET value = 10 WHERE name = 'keys_per_table'");
    device.request();
    assert!(device.push_request().is_none());
}

#[test]
fn a_lease_counts_once_and_must_be_possible() {
    let device = with_numbers(100, 2);
    device.number("SELECT sync_next_id('orders')");
    device.apply_message(&lease(100, 2));
    assert_eq!(device.number("SELECT sync_next_id('orders')"), 101);
    assert!(device.db.query_row("SELECT sync_next_id('orders')", [], |_| Ok(())).is_err(), "not given twice");
    let before = device.dump();
    for (first, step, count) in [(i64::MAX - 1, 1, 5), (1, 0, 5), (1, 1, 0), (1, 1, 100_001), (1, i64::MAX, 3)] {
        let mut answer = lease(1, 1);
        answer.leases = vec![KeyLease { table: orders().tag, first, step, count, proof: Default::default() }];
        let bytes = sync_shared::envelope::encode(&answer).unwrap();
        assert!(device.apply_bytes(&bytes).unwrap_err().to_string().contains("cannot be"), "{first} {step} {count}");
    }
    assert_eq!(device.dump(), before);
    let mut answer = lease(i64::MAX - 1, 2);
    answer.leases.push(KeyLease { table: 1, first: 1, step: 1, count: 1, proof: Default::default() });
    answer.leases.push(KeyLease { table: shop(true).tables[1].tag, first: 1, step: 1, count: 1, proof: Default::default() });
    device.apply_message(&answer);
    assert_eq!(device.number("SELECT sync_next_id('orders')"), i64::MAX - 1);
    assert_eq!(device.number("SELECT sync_next_id('orders')"), i64::MAX);
    assert!(device.db.query_row("SELECT sync_next_id('orders')", [], |_| Ok(())).is_err());
}

#[test]
fn read_only_tables_and_those_without_a_sequence_need_no_numbers() {
    for mode in [TableMode::ReadOnly, TableMode::InsertOnly] {
        let device = Device::new();
        let mut schema = shop(true);
        schema.tables[0].mode = mode;
        device.apply(&only(schema));
        assert_eq!(device.push_request().unwrap().wants.len(), usize::from(mode == TableMode::InsertOnly));
    }
    let device = Device::new();
    device.apply(&only(shop(false)));
    assert!(device.push_request().unwrap().wants.is_empty());
}

#[test]
fn a_server_that_gives_nothing_is_not_asked_for_ever() {
    let device = without_numbers();
    let mut asked = 0;
    for _ in 0..10 {
        device.request();
        if let Some(push) = device.push_request() {
            asked += push.wants.len();
            device.apply_message(&reply(&push.batches, Verdict::Accepted));
        }
        assert!(device.push_request().is_none(), "the round ends");
    }
    assert_eq!(asked, 2, "and once before");
    device.run("INSERT INTO orders(title) VALUES ('waits')");
    assert_eq!(device.push_request().unwrap().wants.len(), 1, "now somebody waits");
}

#[test]
fn a_key_that_sqlite_chose_gives_way_to_a_leased_one() {
    let device = with_numbers(100, 10);
    for db in [&device.db, &device.plain()] {
        db.execute_batch("BEGIN; INSERT INTO orders(title) VALUES ('a'), ('b'); INSERT INTO lines SELECT id, 1, 'line of ' || title FROM orders WHERE title IN ('a', 'b'); INSERT INTO tags SELECT 't' || order_id, order_id, n FROM lines; UPDATE orders SET up = 2 WHERE title = 'b'; COMMIT").unwrap();
        let first = device.number("SELECT max(id) FROM orders WHERE id < 100");
        assert_eq!(first, 3);
        let batches = device.push();
        let (a, b) = if db.is_autocommit() && batches[0].id.number == 1 { (100, 101) } else { (102, 103) };
        let expected = format!(
            "+orders {a} new(id {a} title a); +orders {b} new(id {b} title b up {a}); +lines {a}.1 new(order_id {a} n 1 body line of a); \
             +lines {b}.1 new(order_id {b} n 1 body line of b); +tags t2 new(id t2 order_id {a} n 1); +tags t3 new(id t3 order_id {b} n 1)"
        );
        assert_eq!(said(&batches), [expected]);
        assert_eq!(
            shown(&device),
            format!("1 from the server, {a} a, {b} b {a}, {a}.1 line of a, {b}.1 line of b, t2>{a}.1, t3>{b}.1")
        );
        assert_eq!(
            device.text("SELECT group_concat(table_name || ' ' || old_key || ' ' || new_key, ', ') FROM sync_moved_key"),
            format!("orders 2 {a}, orders 3 {b}")
        );
        device.run("DELETE FROM sync_moved_key");
        device.answer(&batches, Verdict::Rejected);
        assert_eq!(shown(&device), "1 from the server");
        assert_eq!(device.number("SELECT count(*) FROM sync_shadow"), 0);
    }
}

#[test]
fn a_number_that_happens_to_be_the_next_stays() {
    let device = with_numbers(100, 10);
    device.run("INSERT INTO orders(id, title) SELECT sync_next_id('orders'), 'a'; INSERT INTO orders(title) VALUES ('b'), ('c')");
    assert_eq!(shown(&device), "1 from the server, 100 a, 101 b, 102 c");
    let batches = device.push();
    assert_eq!(said(&batches)[1], "+orders 101 new(id 101 title b); +orders 102 new(id 102 title c)");
    assert_eq!(device.number("SELECT count(*) FROM sync_moved_key"), 0);
    assert_eq!(device.number("SELECT sync_next_id('orders')"), 103);
}

#[test]
fn a_number_that_the_application_took_without_asking_is_passed_over() {
    let device = with_numbers(100, 3);
    device.run("INSERT INTO orders(id, title) VALUES (100, 'taken'), (50, 'explicit')");
    device.run("INSERT INTO orders(title) VALUES ('chosen')");
    assert_eq!(said(&device.push())[1], "+orders 101 new(id 101 title chosen)", "101 was the next after 100");
    assert_eq!(device.number("SELECT sync_next_id('orders')"), 102);
}

#[test]
fn without_numbers_rows_wait_and_what_depends_on_them() {
    let device = without_numbers();
    device.run("INSERT INTO orders(title) VALUES ('a')");
    device.run("UPDATE orders SET title = 'A' WHERE id = 2");
    device.run("INSERT INTO lines VALUES (2, 1, 'x')");
    device.run("INSERT INTO tags VALUES ('t', 2, 1)");
    device.run("INSERT INTO orders(id, title) VALUES (70, 'independent')");
    device.run("UPDATE orders SET up = 2 WHERE id = 1");
    device.run("UPDATE orders SET title = 'also independent' WHERE id = 1");
    device.run("UPDATE lines SET body = 'y' WHERE order_id = 2");
    device.request();
    let push = device.push_request().unwrap();
    assert_eq!(said(&push.batches), ["+orders 70 new(id 70 title independent)"]);
    assert_eq!(push.wants[0].count, 1001);
    assert_eq!(device.status("keyless"), 7);
    assert_eq!(device.text("SELECT group_concat(DISTINCT state) FROM sync_pending"), "keyless,waiting");
    assert!(device.text("SELECT value FROM sync_status WHERE name = 'problem'").contains("orders: 1 new rows wait for keys"));
    let mut answer = reply(&push.batches, Verdict::Accepted);
    device.apply_message(&answer);
    assert!(device.push_request().is_none(), "asked, and nothing came");
    device.request();
    assert_eq!(device.push_request().unwrap().batches.len(), 0);
    answer = lease(500, 100);
    device.apply_message(&answer);
    assert_eq!(shown(&device), "1 also independent 500, 70 independent, 500 A, 500.1 y, t>500.1");
    assert_eq!(device.status("keyless"), 0);
    let batches = device.push();
    assert_eq!(
        said(&batches),
        [
            "+orders 500 new(id 500 title a)",
            "~orders 500 old(title a) new(title A)",
            "+lines 500.1 new(order_id 500 n 1 body x)",
            "+tags t new(id t order_id 500 n 1)",
            "~orders 1 old(up NULL) new(up 500)",
            "~orders 1 old(title from the server) new(title also independent)",
            "~lines 500.1 old(body x) new(body y)",
        ]
    );
    assert_eq!(batches.iter().map(|b| b.id.number).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_number_that_is_chosen_twice_becomes_two() {
    let device = without_numbers();
    device.run("INSERT INTO orders(title) VALUES ('first')");
    device.run("UPDATE orders SET up = 2 WHERE id = 1");
    device.run("DELETE FROM orders WHERE id = 2");
    device.run("INSERT INTO orders(title) VALUES ('second')");
    device.run("UPDATE orders SET up = NULL WHERE id = 1");
    device.run("UPDATE orders SET up = 2 WHERE id = 1");
    device.request();
    assert_eq!(device.push().len(), 0);
    device.apply_message(&lease(500, 100));
    assert_eq!(shown(&device), "1 from the server 501, 501 second");
    assert_eq!(
        said(&device.push()),
        [
            "+orders 500 new(id 500 title first)",
            "~orders 1 old(up NULL) new(up 500)",
            "-orders 500 old(id 500 title first up NULL)",
            "+orders 501 new(id 501 title second)",
            "~orders 1 old(up 500) new(up NULL)",
            "~orders 1 old(up NULL) new(up 501)",
        ]
    );
}

#[test]
fn a_row_of_the_server_with_the_same_number_stays_apart() {
    let device = without_numbers();
    let schema = shop(true);
    let line = |n: i64| {
        values(
            &schema.tables[1],
            &[("order_id", Value::Integer(2)), ("n", Value::Integer(n)), ("body", Value::Text("theirs".into()))],
        )
    };
    // The server has an order 2 that this device does not hold, and a line of it that it does.
    device.apply(&empty().rows_in(&schema.tables[1], 2, &[line(9)]).publish().known());
    device.run("INSERT INTO orders(title) VALUES ('mine')");
    device.run("INSERT INTO lines VALUES (2, 1, 'mine')");
    device.run("UPDATE lines SET body = 'changed' WHERE n = 9");
    assert_eq!(shown(&device), "1 from the server, 2 mine, 2.1 mine, 2.9 changed");
    device.apply(&empty().rows_in(&orders(), 1, &[order(2, "theirs")]).publish().known());
    device.request();
    let first = device.push_request().unwrap();
    assert_eq!(said(&first.batches), ["~lines 2.9 old(body theirs) new(body changed)"]);
    let mut answer = reply(&first.batches, Verdict::Accepted);
    answer.leases = lease(500, 100).leases;
    device.apply_message(&answer);
    assert_eq!(shown(&device), "1 from the server, 2 theirs, 500 mine, 2.9 changed, 500.1 mine");
    device.run("UPDATE lines SET body = 'again' WHERE order_id = 2");
    let batches = device.push();
    assert_eq!(
        said(&batches),
        [
            "+orders 500 new(id 500 title mine)",
            "+lines 500.1 new(order_id 500 n 1 body mine)",
            "~lines 2.9 old(body changed) new(body again)",
        ]
    );
    device.answer(&batches, Verdict::Rejected);
    assert_eq!(shown(&device), "1 from the server, 2 theirs, 2.9 changed");
    assert!(device.text("SELECT sync_verify()").contains(r#""different":[]"#));
}

#[test]
fn a_row_that_is_its_own_parent_moves_whole() {
    let device = with_numbers(100, 10);
    device.run("BEGIN; INSERT INTO orders(title) VALUES ('root'); UPDATE orders SET up = id WHERE title = 'root'; COMMIT");
    device.run("UPDATE orders SET title = 'ROOT' WHERE title = 'root'; DELETE FROM orders WHERE title = 'ROOT'");
    assert_eq!(
        said(&device.push()),
        [
            "+orders 100 new(id 100 title root up 100)",
            "~orders 100 old(title root) new(title ROOT)",
            "-orders 100 old(id 100 title ROOT up 100)",
        ]
    );
}

#[test]
fn rows_of_the_application_follow_a_moved_key() {
    for action in ["", "ON DELETE CASCADE", "ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED"] {
        let device = with_numbers(100, 10);
        device.run(&format!("PRAGMA foreign_keys = ON; CREATE TABLE own(o INTEGER REFERENCES orders(id) {action}, x)"));
        device.run("INSERT INTO orders(title) VALUES ('a'); INSERT INTO own VALUES (2, 'mine'), (1, 'other')");
        assert_eq!(device.push().len(), 1);
        assert_eq!(device.text("SELECT group_concat(o || x) FROM own"), "100mine,1other", "{action}");
        assert_eq!(device.number("SELECT foreign_keys FROM pragma_foreign_keys"), 1);
        assert_eq!(device.number("SELECT count(*) FROM pragma_foreign_key_check"), 0);
    }
}

#[test]
fn triggers_of_the_application_do_not_capture_a_move() {
    let device = with_numbers(100, 10);
    device.run("CREATE TRIGGER app AFTER INSERT ON orders BEGIN UPDATE orders SET title = title || '!' WHERE id = new.id; END");
    device.run("INSERT INTO orders(title) VALUES ('a')");
    assert_eq!(said(&device.push()), ["+orders 100 new(id 100 title a!)"]);
    assert_eq!(shown(&device), "1 from the server, 100 a!");
    assert!(device.push_request().is_some_and(|p| p.batches.len() == 1), "only the one that was not answered");
}

#[test]
fn a_device_that_is_killed_between_asking_and_getting_loses_nothing() {
    let mut device = without_numbers();
    device.run("INSERT INTO orders(title) VALUES ('a'); INSERT INTO lines VALUES (2, 1, 'x')");
    device.request();
    device.push_request();
    let other = rusqlite::Connection::open(&device.path).unwrap();
    load(&other);
    device.db = other;
    assert!(device.push_request().is_none());
    device.request();
    assert_eq!(device.push_request().unwrap().wants.len(), 1);
    device.apply_message(&lease(500, 1));
    assert_eq!(said(&device.push()).len(), 2);
    assert_eq!(shown(&device), "1 from the server, 500 a, 500.1 x");
}

#[test]
fn too_few_numbers_go_to_the_oldest_rows() {
    let device = without_numbers();
    device.run("INSERT INTO orders(title) VALUES ('a'), ('b')");
    device.run("INSERT INTO orders(title) VALUES ('c')");
    device.request();
    device.push_request();
    device.apply_message(&lease(500, 1));
    assert_eq!(device.push().len(), 0);
    assert_eq!(shown(&device), "1 from the server, 3 b, 4 c, 500 a");
    device.apply_message(&lease(600, 1));
    let batches = device.push();
    assert_eq!(said(&batches), ["+orders 500 new(id 500 title a); +orders 600 new(id 600 title b)"]);
    device.answer(&batches, Verdict::Accepted);
    device.apply_message(&lease(700, 1));
    assert_eq!(said(&device.push()), ["+orders 700 new(id 700 title c)"]);
}

#[test]
fn a_copied_file_does_not_use_the_same_numbers() {
    let device = with_numbers(100, 1000);
    device.run("INSERT INTO orders(id, title) SELECT sync_next_id('orders'), 'answered'");
    let first = device.push();
    device.answer(&first, Verdict::Accepted);
    device.run("INSERT INTO orders(id, title) SELECT sync_next_id('orders'), 'not answered'");
    device.run("INSERT INTO lines VALUES (101, 1, 'of it')");
    device.run("UPDATE orders SET title = 'independent' WHERE id = 1");
    device.push();
    device.apply_message(&state_reply(PushState::Fork, None));
    let push = device.push_request().unwrap();
    assert_eq!(
        said(&push.batches),
        ["+orders 100 new(id 100 title answered)", "~orders 1 old(title from the server) new(title independent)"]
    );
    assert_eq!(push.wants.len(), 1);
    let mut answer = reply(&push.batches, Verdict::Accepted);
    answer.leases = lease(5000, 10).leases;
    device.apply_message(&answer);
    assert_eq!(shown(&device), "1 independent, 100 answered, 5000 not answered, 5000.1 of it");
    assert_eq!(
        said(&device.push()),
        ["+orders 5000 new(id 5000 title not answered)", "+lines 5000.1 new(order_id 5000 n 1 body of it)"]
    );
}

#[test]
fn thousands_of_rows_move_together() {
    let device = with_numbers(100_000, 30_000);
    device.run("BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO orders(title) SELECT 't' || i FROM n; INSERT INTO lines SELECT id, 1, title FROM orders WHERE id > 1; COMMIT");
    let batches = device.push();
    assert_eq!(batches[0].changes.len(), 40_000);
    assert_eq!(device.number("SELECT count(*) FROM orders o JOIN lines l ON l.order_id = o.id AND l.body = o.title"), 20_000);
    assert_eq!(device.number("SELECT min(id) FROM orders WHERE id > 1"), 100_000);
}

#[test]
fn numbers_do_not_outlive_their_history_or_their_table() {
    let device = with_numbers(100, 1000);
    device.apply_message(&notice(NoticeKind::Resync, vec![]));
    assert!(device.db.query_row("SELECT sync_next_id('orders')", [], |_| Ok(())).is_err());
    device.request();
    assert_eq!(device.push_request().unwrap().wants[0].count, 1000);
    device.apply_message(&lease(5000, 1000));
    let mut without = shop(true);
    without.generation = 2;
    without.tables.remove(0);
    device.apply(&only(without));
    let mut other = shop(true);
    other.generation = 3;
    other.tables[0].name = "another".into();
    other.tables[0].tag += 1;
    device.apply(&only(other));
    assert!(device.db.query_row("SELECT sync_next_id('another')", [], |_| Ok(())).is_err());
}

#[test]
fn a_server_that_went_back_is_told_what_it_had_leased() {
    let device = without_numbers();
    let mut answer = reply(&[], Verdict::Accepted);
    let lease = KeyLease { table: orders().tag, first: 100, step: 1, count: 3, proof: ByteArray::new([7; 16]) };
    answer.leases = vec![lease];
    device.push_request();
    device.apply_message(&answer);
    assert_eq!(device.number("SELECT sync_next_id('orders')"), 100);
    device.apply_message(&notice(NoticeKind::Resync, vec![]));
    assert!(device.db.query_row("SELECT sync_next_id('orders')", [], |r| r.get::<_, i64>(0)).is_err(), "nothing of it is used");
    for _ in 0..2 {
        assert_eq!(device.push_request().expect("something to tell").held, [lease], "until it was heard");
    }
    device.apply_message(&reply(&[], Verdict::Accepted));
    device.request();
    assert!(device.push_request().is_none_or(|request| request.held.is_empty()));
}
