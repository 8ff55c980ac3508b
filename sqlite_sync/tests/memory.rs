//! Sealing holds one transaction's keys, not the rows of the log. In a program of its own: memory is counted for the whole process.

mod common;
use common::*;

const ROWS: i64 = 12_000;
const TRANSACTIONS: i64 = 6;

/// A device with rows of about a thousand bytes, each written twice and not sealed.
fn full_log() -> Device {
    let device = Device::with(&[]);
    device.run("PRAGMA cache_size = -2000");
    for which in 0..TRANSACTIONS * 2 {
        let (from, to) = (which % TRANSACTIONS * ROWS / TRANSACTIONS, (which % TRANSACTIONS + 1) * ROWS / TRANSACTIONS);
        if which < TRANSACTIONS {
            device.run(&format!(
                "INSERT INTO notes(id, title, body) WITH n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {to}) \
                 SELECT printf('k%06d', i), 'a', hex(zeroblob(500)) FROM n"
            ));
        } else {
            device.run(&format!(
                "UPDATE notes SET body = body || 'x' WHERE id >= printf('k%06d', {from}) AND id < printf('k%06d', {to})"
            ));
        }
    }
    device
}

/// What the process has at most held, in KiB, since `forget`.
fn peak() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn forget() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

#[test]
fn sealing_holds_no_rows_of_the_log() {
    let device = full_log();
    let log = device.number(
        "SELECT sum(length(c1) + coalesce(length(c2), 0) + coalesce(length(c3), 0) + coalesce(length(c4), 0)) FROM sync_log",
    );
    assert!(log > ROWS * 1000);
    forget();
    let before = peak();
    device.apply_message(&notice(NoticeKind::Behind, vec![]));
    let held = peak() - before;
    assert_eq!(device.number("SELECT count(*) FROM sync_change"), ROWS * 2);
    assert_eq!(device.number("SELECT count(*) FROM sync_pending"), TRANSACTIONS * 2);
    println!("{held} KiB for {} KiB of the log", log / 1024);
    assert!(held < 8 * 1024, "sealing held {held} KiB");
}
