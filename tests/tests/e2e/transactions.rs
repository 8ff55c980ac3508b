//! Large transactions arrive whole, and nobody ever sees a part of one: not on the server, not on a device while it publishes.

use postgres::Client;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use sync_shared::envelope::{decode, encode};
use sync_shared::message::PullRequest;
use sync_tests::compare::{assert_same, assert_verified, server_rows, server_value};
use sync_tests::device::{rows, server_pull};
use sync_tests::{Cluster, Database, Device};

/// Orders, their lines, and what each took from the stock: 40 orders of 200 lines are 10,040 rows.
const TABLES: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, total int NOT NULL);
    CREATE TABLE line (id int PRIMARY KEY, order_id int NOT NULL REFERENCES orders DEFERRABLE INITIALLY DEFERRED, amount int NOT NULL CHECK (amount > 0), note text);
    CREATE TABLE stock (id int PRIMARY KEY, sold int NOT NULL);
    INSERT INTO stock SELECT i, 0 FROM generate_series(1, 2000) i;
";
const RULES: &str = "
    SELECT sync.create_bucket('shop');
    SELECT sync.add_table('shop', 'orders'); SELECT sync.add_table('shop', 'line'); SELECT sync.add_table('shop', 'stock');
";
const LARGE: &str = "
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8000)
        INSERT INTO line SELECT i, i % 40 + 1, i % 7 + 1, printf('line %060d', i) FROM n;
    INSERT INTO orders SELECT order_id, sum(amount) FROM line GROUP BY order_id;
    UPDATE stock SET sold = (SELECT sum(amount) FROM line WHERE line.id % 2000 + 1 = stock.id);
";
/// What each table says the whole is: equal in every state that anybody may see.
const STATE: &str = "SELECT (SELECT coalesce(sum(total), 0) FROM orders), (SELECT coalesce(sum(amount), 0) FROM line),
    (SELECT coalesce(sum(sold), 0) FROM stock), (SELECT count(*) FROM line)";

fn shop() -> (Database<'static>, Client) {
    let db = Cluster::shared().database();
    db.run(TABLES);
    db.run(RULES);
    let server = db.connect();
    (db, server)
}

type States = BTreeSet<Vec<String>>;

/// Runs `body` while another thread reads `state` again and again; answers every state that it saw.
fn watching<T>(mut state: impl FnMut() -> Vec<String> + Send, body: impl FnOnce() -> T) -> (T, States) {
    let (mut seen, stop) = (States::from([state()]), AtomicBool::new(false));
    let done = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                seen.insert(state());
            }
            seen.insert(state());
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        stop.store(true, Ordering::Relaxed);
        watcher.join().expect("the watcher reads");
        done
    });
    (done.unwrap_or_else(|cause| std::panic::resume_unwind(cause)), seen)
}

/// Reads a device's file through a connection of its own that never loaded the extension.
fn on_device(path: &Path) -> impl FnMut() -> Vec<String> + Send {
    let connection = rusqlite::Connection::open(path).expect("the file opens");
    connection.busy_timeout(std::time::Duration::from_secs(30)).expect("a timeout");
    move || rows(&connection, STATE).remove(0)
}

fn on_server(db: &Database<'_>) -> impl FnMut() -> Vec<String> + Send {
    let mut client = db.connect();
    move || server_rows(&mut client, STATE).remove(0)
}

/// A pull in pages of a few rows; answers how many there were.
fn pull_in_small_pages(device: &Device, server: &mut Client) -> usize {
    for page in 1.. {
        let mut request: PullRequest = decode(&device.pull_request()).expect("a request can be read");
        request.page_bytes = 16 << 10;
        let reply = server_pull(server, &device.user, &encode(&request).expect("a request")).expect("a page");
        if !device.apply(&reply).expect("a page is applied").more() {
            return page;
        }
    }
    unreachable!("a pull ends")
}

fn state(device: &Device) -> Vec<String> {
    device.rows(STATE).remove(0)
}

#[test]
fn a_transaction_of_ten_thousand_rows_is_one_on_the_server_and_is_never_seen_in_part() {
    let (db, mut server) = shop();
    let (ann, bob) = (Device::new("ann"), Device::new("bob"));
    ann.sync(&mut server);
    bob.sync(&mut server);
    for change in [
        LARGE,
        "DELETE FROM line WHERE id % 3 = 0; UPDATE line SET note = note || '!'; UPDATE orders SET total = (SELECT sum(amount) FROM line WHERE order_id = orders.id) WHERE id % 2 = 0;
         DELETE FROM orders WHERE id % 2 = 1; DELETE FROM line WHERE order_id % 2 = 1;
         UPDATE stock SET sold = coalesce((SELECT sum(amount) FROM line WHERE line.id % 2000 + 1 = stock.id), 0)",
    ] {
        let before = state(&ann);
        ann.run(&format!("BEGIN; {change}; COMMIT"));
        let after = state(&ann);
        assert!(before != after && after[0] == after[1] && after[1] == after[2], "{before:?} {after:?}");
        server.batch_execute("CREATE TABLE mark AS SELECT pg_current_xact_id() AS xid").expect("a mark");
        let ((_, seen_on_server), seen_by_ann) = watching(on_device(&ann.path()), || {
            let pushed = watching(on_server(&db), || ann.push(&mut server).expect("something waits"));
            pull_in_small_pages(&ann, &mut server);
            pushed
        });
        assert!(seen_on_server.is_subset(&States::from([before.clone(), after.clone()])), "{seen_on_server:?}");
        assert_eq!(seen_by_ann, States::from([after.clone()]), "the device's own transaction flickered");
        let written = "SELECT count(DISTINCT xid) FROM sync.op WHERE xid > (SELECT xid FROM mark)";
        assert_eq!(server_value(&mut server, written), "1");
        let (pages, seen_by_bob) = watching(on_device(&bob.path()), || pull_in_small_pages(&bob, &mut server));
        assert!(pages > 5, "the delta came in {pages} pages");
        assert!(seen_by_bob.is_subset(&States::from([before, after.clone()])), "{seen_by_bob:?}");
        assert_eq!(state(&bob), after);
        for table in ["orders", "line", "stock"] {
            assert_same(&bob, &mut server, &format!("SELECT * FROM {table}"));
        }
        server.batch_execute("DROP TABLE mark").expect("the mark goes");
    }
    assert_verified(&ann);
    assert_verified(&bob);
}

#[test]
fn a_large_transaction_that_fails_at_its_last_row_leaves_nothing() {
    let (_db, mut server) = shop();
    let ann = Device::new("ann");
    ann.sync(&mut server);
    let before = state(&ann);
    ann.run(&format!("BEGIN; {LARGE}; INSERT INTO line VALUES (9000, 1, -5, ''); COMMIT"));
    ann.run("INSERT INTO orders VALUES (100, 0)");
    ann.sync(&mut server);
    assert_eq!((state(&ann), server_rows(&mut server, STATE)), (before.clone(), vec![before]));
    assert_eq!(ann.rows("SELECT code, subject FROM sync_rejected"), [["23514", "line_amount_check"]]);
    assert_eq!(ann.value("SELECT json_array_length(batch) FROM sync_rejected"), "10041");
    assert_same(&ann, &mut server, "SELECT * FROM orders");
    assert_verified(&ann);
}

#[test]
fn a_device_that_pulls_while_others_write_two_tables_sees_their_transactions_whole() {
    let (db, mut server) = shop();
    let bob = Device::new("bob");
    server
        .batch_execute(
            "INSERT INTO orders SELECT i, 100 FROM generate_series(1, 300) i; UPDATE stock SET sold = 100 WHERE id <= 300",
        )
        .expect("rows");
    server.batch_execute("INSERT INTO line SELECT i, i, 100 FROM generate_series(1, 300) i").expect("rows");
    bob.sync(&mut server);
    // Moves amounts from one table to all three: the sums stay equal to each other after each transaction.
    let write = |client: &mut Client, round: i32| {
        let (from, by) = (round * 7 % 200 + 1, round % 5 + 1);
        let sql = format!(
            "BEGIN; UPDATE orders SET total = total + {by} WHERE id BETWEEN {from} AND {from} + 90;
             UPDATE line SET amount = amount + {by} WHERE id BETWEEN {from} AND {from} + 90; SAVEPOINT s;
             UPDATE stock SET sold = sold + {by} WHERE id BETWEEN {from} AND {from} + 90; RELEASE s; COMMIT"
        );
        client.batch_execute(&sql).expect("a transaction of the server");
    };
    let writing = AtomicBool::new(true);
    let (publishes, seen) = std::thread::scope(|scope| {
        let (writing, db) = (&writing, &db);
        scope.spawn(move || {
            let mut client = db.connect();
            (0..150).for_each(|round| write(&mut client, round));
            writing.store(false, Ordering::Relaxed);
        });
        watching(on_device(&bob.path()), || {
            let mut publishes = 0;
            while writing.load(Ordering::Relaxed) || publishes < 3 {
                pull_in_small_pages(&bob, &mut server);
                publishes += 1;
            }
            publishes
        })
    });
    bob.sync(&mut server);
    let torn: Vec<_> = seen.iter().filter(|state| state[0] != state[1] || state[1] != state[2]).collect();
    assert!(torn.is_empty(), "seen in part: {torn:?}, of {} states after {publishes} pulls", seen.len());
    assert_eq!(state(&bob), server_rows(&mut server, STATE).remove(0));
    assert_verified(&bob);
}
