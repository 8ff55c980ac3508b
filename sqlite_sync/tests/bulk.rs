//! Rows that are new on the device go many to a statement, and whatever keeps one out does so for that one alone.
#![allow(clippy::unwrap_used)]

mod common;
use common::*;

fn rows(range: std::ops::Range<i64>) -> Vec<Vec<Value>> {
    range.map(|n| row(n, &format!("title {n}"))).collect()
}

/// What is stored has the sums that are remembered, and every row is in a part.
fn is_consistent(device: &Device, count: i64) {
    let report: serde_json::Value = serde_json::from_str(&device.text("SELECT sync_verify()")).unwrap();
    assert_eq!(report["different"], serde_json::json!([]));
    assert_eq!((&report["strays"], &report["rows"]), (&0.into(), &count.into()));
    assert_eq!(device.number("SELECT sum(count) FROM sync_part"), count);
}

#[test]
fn any_number_of_rows_arrives() {
    for count in [0, 1, 31, 32, 33, 64, 200] {
        let device = Device::with(&[]);
        let rows = rows(0..count);
        assert_eq!(device.apply(&page(&rows).publish().sum(&rows))["more"], false, "{count} rows have the server's sum");
        assert_eq!(device.number("SELECT count(*) FROM notes"), count);
        is_consistent(&device, count);
        assert!(device.push().is_empty(), "nothing is captured");
    }
}

#[test]
fn rows_with_a_key_of_two_columns_and_values_that_change_in_their_column() {
    let schema = schema();
    let pair = |n: i64| {
        values(
            &schema.tables[2],
            &[("a", Value::Text(format!("a{n}"))), ("b", Value::Integer(n)), ("note", Value::Text("x".into()))],
        )
    };
    // A real column turns an integer into a real.
    let number = |n: i64| {
        let x = if n % 40 == 7 { Value::Integer(n) } else { Value::Real(n as f64 / 2.0) };
        values(&schema.tables[1], &[("id", Value::Integer(n)), ("x", x)])
    };
    let device = Device::with(&[]);
    let (pairs, numbers): (Vec<_>, Vec<_>) = ((0..100).map(pair).collect(), (-50..50).map(number).collect());
    device.apply(&empty().rows_of(2, 3, &pairs).rows_of(1, 2, &numbers).publish());
    assert_eq!(device.number("SELECT count(*) FROM pairs") + device.number("SELECT count(*) FROM numbers"), 200);
    is_consistent(&device, 200);
}

#[test]
fn a_row_that_two_entries_bring_is_there_once_and_stays_for_the_second() {
    let device = Device::with(&[]);
    let mut later = rows(60..160);
    later[3][schema().tables[0].columns.iter().position(|c| c.name == "title").unwrap()] = Value::Text("newer".into());
    device.apply(&empty().rows_of(0, 1, &rows(0..100)).rows_of(0, 2, &later).publish());
    assert_eq!(device.number("SELECT count(*) FROM notes"), 160);
    assert_eq!(device.text("SELECT title FROM notes WHERE id = 'k63'"), "newer");
    assert_eq!(device.number("SELECT count(*) FROM sync_row"), 200);
    let mut gone = empty().publish().known();
    gone.0.gone_entries = vec![1];
    device.apply(&gone);
    assert_eq!(device.number("SELECT count(*) FROM notes"), 100);
    is_consistent(&device, 100);
}

#[test]
fn a_row_that_comes_twice_counts_once_and_the_later_one_stays() {
    for second in [20, 40, 64] {
        let device = Device::with(&[]);
        let mut rows = rows(0..100);
        rows.insert(second, row(5, "again"));
        device.apply(&page(&rows).publish());
        assert_eq!(device.text("SELECT title FROM notes WHERE id = 'k5'"), "again");
        is_consistent(&device, 100);
    }
}

#[test]
fn a_row_that_a_constraint_keeps_out_keeps_no_other_out() {
    let device = Device::with(&[]);
    device.run("CREATE UNIQUE INDEX of_the_application ON notes(title)");
    let mut rows = rows(0..100);
    rows[45] = row(45, "title 44");
    device.apply(&page(&rows).publish());
    assert_eq!(device.number("SELECT count(*) FROM notes"), 99);
    assert_eq!(device.number("SELECT count(*) FROM sync_shadow WHERE error IS NOT NULL"), 1);
    device.run("DROP INDEX of_the_application");
    device.apply(&empty().publish().known().sum(&rows));
    assert_eq!(device.number("SELECT count(*) FROM notes"), 100);
    is_consistent(&device, 100);
}

#[test]
fn triggers_of_the_application_see_every_row() {
    let device = Device::with(&[]);
    device.run("CREATE TABLE seen(id); CREATE TRIGGER app AFTER INSERT ON notes BEGIN INSERT INTO seen VALUES (new.id); END");
    device.apply(&page(&rows(0..100)).publish());
    assert_eq!(device.number("SELECT count(DISTINCT id) FROM seen"), 100);
    is_consistent(&device, 100);
}

#[test]
fn rows_that_are_remembered_though_their_part_has_no_sum_are_counted_once() {
    let device = Device::with(&rows(0..1));
    device.apply(&page(&rows(0..100)).publish());
    device.run("UPDATE sync_part SET sum = 0, count = 0; UPDATE sync_guard SET applying = 1; DELETE FROM notes; UPDATE sync_guard SET applying = 0");
    let mut brought = rows(100..116);
    brought.extend(rows(0..48));
    device.apply(&page(&brought).publish());
    assert_eq!(device.number("SELECT count(*) FROM notes"), 64);
    assert_eq!(device.number("SELECT count(*) FROM sync_row"), 116);
    assert_eq!(device.number("SELECT count FROM sync_part WHERE entry = 1"), 16, "the others had been counted before");
}

/// An application may let a statement have so few variables that one of many rows cannot be prepared.
#[test]
fn where_a_statement_may_have_few_variables_rows_go_one_by_one() {
    use rusqlite::ffi;
    let limit = |device: &Device, most: i32| {
        // SAFETY: the connection is open; the call changes a number of it.
        unsafe { ffi::sqlite3_limit(device.db.handle(), ffi::SQLITE_LIMIT_VARIABLE_NUMBER, most) }
    };
    let count = 200;
    let rows = rows(0..count);
    let steps = |most: Option<i32>| {
        let device = Device::with(&[]);
        if let Some(most) = most {
            assert!(limit(&device, most) > most);
        }
        assert_eq!(device.apply(&page(&rows).publish().sum(&rows))["more"], false, "{most:?}: the server's sum");
        assert_eq!(device.number("SELECT count(*) FROM notes"), count);
        is_consistent(&device, count);
        assert!(device.push().is_empty(), "nothing is captured");
        device.run("UPDATE notes SET title = 'mine' WHERE id = 'k7'");
        assert_eq!(device.push().len(), 1, "and the device goes on");
    };
    let columns = schema().tables[0].columns.len() as i32;
    // All of it; one for the rows and too few for their keys and hashes; too few for 32 rows.
    for most in [None, Some(32 * columns), Some(32 * columns - 1), Some(66), Some(65), Some(40)] {
        steps(most);
    }
}
