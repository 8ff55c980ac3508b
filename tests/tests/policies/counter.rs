//! Numbers that both sides change: the differences are added, or the greatest or smallest stays.

use super::pair::Pair;
use crate::phone::{insert, int, short, text, update, Phone};
use postgres::Client;
use sync_shared::message::{Change, Verdict};
use sync_shared::Value;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database};

/// A table with a column of each type, all counters.
fn counters(base: &str) -> (Database<'static>, Client) {
    let db = Cluster::shared().database();
    db.run(
        "CREATE DOMAIN likes AS int CHECK (VALUE >= 0);
         CREATE TABLE note (id int PRIMARY KEY, n int, s smallint, b bigint, x numeric(20, 2), f float8, r real, m money, i interval, l likes)",
    );
    for column in ["n", "s", "b", "x", "f", "r", "m", "i", "l"] {
        db.run(&format!("SELECT sync.set_policy('note', 'counter', '{column}')"));
    }
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note')");
    db.run(&format!("INSERT INTO note VALUES (1, {base})"));
    let server = db.connect();
    (db, server)
}

const ZEROS: &str = "0, 0, 0, 0, 0, 0, 0, '0', 0";

fn count(old: i64, new: i64) -> Change {
    update("note", 1, &[("n", int(old), int(new))])
}

fn n(server: &mut Client) -> String {
    server_value(server, "SELECT n FROM note WHERE id = 1")
}

#[test]
fn one_and_two_from_the_same_base_make_three_on_every_device() {
    let mut pair = Pair::new(
        "CREATE TABLE note (id int PRIMARY KEY, likes int NOT NULL DEFAULT 0); INSERT INTO note VALUES (1);
         SELECT sync.set_policy('note', 'counter', 'likes')",
    );
    pair.write("UPDATE note SET likes = likes + 1", "UPDATE note SET likes = likes + 2");
    assert_eq!(pair.rows("SELECT likes FROM note"), [["3"]]);
    assert_eq!(pair.recorded(), [["counter", "likes"]]);
    let reason = pair.bob.value("SELECT reason FROM sync_conflicts");
    assert!(reason.contains("both changed \"likes\"") && reason.contains("difference was added"), "{reason}");
    // Counted on from what both have seen.
    pair.write("UPDATE note SET likes = likes + 10", "UPDATE note SET likes = likes - 1");
    assert_eq!(pair.rows("SELECT likes FROM note"), [["12"]]);
    // Several transactions of one device in one push, the other's between them.
    pair.ann.run("UPDATE note SET likes = likes + 1; UPDATE note SET likes = likes + 1; UPDATE note SET likes = likes + 1");
    pair.bob.run("UPDATE note SET likes = likes + 100; UPDATE note SET likes = likes + 100");
    pair.bob.push(&mut pair.server);
    pair.sync();
    pair.check("*");
    assert_eq!(pair.rows("SELECT likes FROM note"), [["215"]]);
}

#[test]
fn the_same_new_value_on_both_sides_is_counted_twice() {
    let (db, mut server) = counters(ZEROS);
    db.run("UPDATE note SET n = 1");
    assert_eq!(Phone::new("ann").one(&mut server, count(0, 1)).verdict, Verdict::Merged);
    assert_eq!(n(&mut server), "2");
}

#[test]
fn batches_of_one_device_add_up_whatever_the_server_made_of_the_first() {
    let (db, mut server) = counters(ZEROS);
    let mut phone = Phone::new("ann");
    let results = phone.send(&mut server, vec![vec![count(0, 1)], vec![count(1, 2)]]);
    assert_eq!((short(&results), n(&mut server)), (vec!["accepted".into(); 2], "2".to_owned()));
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.conflict"), "0");
    // The third finds what somebody else added; the fourth was made before the device saw that.
    db.run("UPDATE note SET n = n + 10");
    let results = phone.send(&mut server, vec![vec![count(2, 3)], vec![count(3, 4)]]);
    assert_eq!((short(&results), n(&mut server)), (vec!["merged".into(); 2], "14".to_owned()));
    // In a push of its own, and from what the device has seen by then.
    phone.one(&mut server, count(4, 5));
    assert_eq!(n(&mut server), "15");
    phone.accepted(&mut server, count(15, 16));
    assert_eq!(n(&mut server), "16");
}

#[test]
fn a_rejected_batch_is_not_in_what_the_next_one_adds() {
    let (_db, mut server) = counters(ZEROS);
    let mut phone = Phone::new("ann");
    let refused = update("note", 1, &[("n", int(0), int(1)), ("l", int(0), int(-1))]);
    let results = phone.send(&mut server, vec![vec![refused], vec![count(1, 2)]]);
    assert_eq!(short(&results), ["rejected 23514", "merged"]);
    assert_eq!(n(&mut server), "1");
}

#[test]
fn a_repeated_push_counts_once() {
    let (db, mut server) = counters(ZEROS);
    db.run("UPDATE note SET n = 2");
    let mut phone = Phone::new("ann");
    let batch = phone.batch(vec![count(0, 1)]);
    let first = phone.push(&mut server, vec![batch.clone()]);
    assert_eq!(phone.push(&mut server, vec![batch]).results, first.results);
    assert_eq!(n(&mut server), "3");
}

#[test]
fn every_type_of_number_counts() {
    let (db, mut server) = counters(ZEROS);
    db.run("UPDATE note SET n = 2, s = 2, b = 9007199254740993, x = 0.10, f = 0.5, r = 0.5, m = 2.50, i = '1 day', l = 2");
    let change = update(
        "note",
        1,
        &[
            ("s", int(0), int(-1)),
            ("b", int(0), int(1)),
            ("x", text("0.00"), text("90071992547409.93")),
            ("f", Value::Real(0.0), Value::Real(0.25)),
            ("r", Value::Real(0.0), Value::Real(0.25)),
            ("m", text("$0.00"), text("$1.25")),
            ("i", text("00:00:00"), text("02:00:00")),
            ("l", int(0), int(1)),
        ],
    );
    assert_eq!(Phone::new("ann").one(&mut server, change).verdict, Verdict::Merged);
    assert_eq!(
        server_rows(&mut server, "SELECT s, b, x, f, r, m, i, l FROM note"),
        [["1", "9007199254740994", "90071992547410.03", "0.75", "0.75", "$3.75", "1 day 02:00:00", "3"]]
    );
}

#[test]
fn an_overflow_is_a_rejection_and_never_wraps() {
    let (db, mut server) = counters("2147483647, 32767, 9223372036854775807, 0, 0, 0, 0, '0', 0");
    let mut phone = Phone::new("ann");
    for (column, code) in [("n", "22003"), ("s", "22003"), ("b", "22003")] {
        let result = phone.one(&mut server, update("note", 1, &[(column, int(0), int(1))]));
        assert_eq!((result.verdict, result.code.as_str()), (Verdict::Rejected, code), "{result:?}");
        assert!(result.message.contains(&format!("column \"{column}\"")), "{}", result.message);
        assert_eq!(result.subject, column);
    }
    // A domain's check is met by the sum, not by the difference.
    db.run("UPDATE note SET l = 1, n = -2147483648");
    assert_eq!(phone.one(&mut server, update("note", 1, &[("l", int(5), int(3))])).code, "23514");
    // On the way to a sum that fits nothing overflows.
    assert_eq!(phone.one(&mut server, count(-2147483648 + 1, 2147483647)).code, "00000");
    assert_eq!(n(&mut server), "2147483646");
}

#[test]
fn null_counts_as_nothing_and_writing_null_is_no_difference() {
    let (db, mut server) = counters("NULL, 0, 0, 0, 0, 0, 0, '0', 0");
    let mut phone = Phone::new("ann");
    db.run("UPDATE note SET n = 5");
    phone.one(&mut server, update("note", 1, &[("n", Value::Null, int(2))]));
    assert_eq!(n(&mut server), "7");
    // Taken back to NULL by somebody else: only the difference is left.
    db.run("UPDATE note SET n = NULL");
    phone.one(&mut server, count(7, 8));
    assert_eq!(n(&mut server), "1");
    // The device's own NULL is decided by the later edit.
    db.run("UPDATE note SET n = 100");
    phone.clock = Some(0);
    let result = phone.one(&mut server, update("note", 1, &[("n", int(1), Value::Null)]));
    assert!(result.message.contains("is not later"), "{result:?}");
    assert_eq!((n(&mut server), result.conflicts[0].policy.as_str()), ("100".into(), "counter"));
}

#[test]
fn two_inserts_of_one_row_are_added() {
    let (_db, mut server) = counters(ZEROS);
    Phone::new("ann").accepted(&mut server, insert("note", 2, &[("n", int(1))]));
    let result = Phone::new("bob").one(&mut server, insert("note", 2, &[("n", int(2))]));
    assert_eq!((result.verdict, &result.conflicts[0].base), (Verdict::Merged, &Value::Null));
    assert_eq!(server_value(&mut server, "SELECT n FROM note WHERE id = 2"), "3");
}

#[test]
fn an_insert_only_row_that_comes_again_is_not_counted_again() {
    let (db, mut server) = counters(ZEROS);
    db.run("SELECT sync.set_mode('note', 'insert_only')");
    for user in ["ann", "bob"] {
        Phone::new(user).accepted(&mut server, insert("note", 2, &[("n", int(1))]));
    }
    assert_eq!(server_value(&mut server, "SELECT n FROM note WHERE id = 2"), "1");
}

#[test]
fn the_greatest_and_the_smallest_stay() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE note (id int PRIMARY KEY, top int, low numeric, seen timestamptz, word text COLLATE \"C\");
         SELECT sync.set_policy('note', 'max', 'top'), sync.set_policy('note', 'min', 'low'), sync.set_policy('note', 'max', 'seen'),
             sync.set_policy('note', 'max', 'word');
         SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note');
         INSERT INTO note VALUES (1, 0, 10, 'epoch', 'B')",
    );
    let mut server = db.connect();
    let mut phone = Phone::new("ann");
    let top = |old, new| update("note", 1, &[("top", int(old), int(new))]);
    db.run("UPDATE note SET top = 5, low = 3, seen = '2024-01-01 12:00Z', word = 'a'");
    let result = phone.one(&mut server, top(0, 3));
    assert_eq!((result.verdict, result.conflicts[0].policy.as_str()), (Verdict::Merged, "max"));
    // The device's next batch, made before it saw the greater one, must not lower it.
    assert_eq!(phone.one(&mut server, top(3, 4)).verdict, Verdict::Merged);
    assert_eq!(server_value(&mut server, "SELECT top FROM note"), "5");
    // Alone, it may.
    phone.accepted(&mut server, top(5, 1));
    let others = [
        ("low", text("10"), text("2.5")),
        ("seen", text("1970-01-01T00:00:00.000000Z"), text("2024-01-01T13:30:00+02")),
        ("word", text("B"), text("Z")),
    ];
    phone.one(&mut server, update("note", 1, &others));
    assert_eq!(
        server_rows(&mut server, "SELECT top, low, seen AT TIME ZONE 'UTC', word FROM note"),
        [["1", "2.5", "2024-01-01 12:00:00", "a"]]
    );
    // NULL is neither.
    db.run("UPDATE note SET low = NULL");
    phone.one(&mut server, update("note", 1, &[("low", text("2.5"), text("7"))]));
    assert_eq!(server_value(&mut server, "SELECT low FROM note"), "7");
}
