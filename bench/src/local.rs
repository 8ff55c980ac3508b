//! What a writer on the device pays for having its writes captured.

use crate::plain::{self, Plain, Rows};
use crate::report::{Goal, Report, Unit};
use crate::stats::{interleave, Run, Sample, Took};
use crate::transport::{world, Transport};
use crate::Size;
use rusqlite::{params_from_iter, Connection};
use std::cell::RefCell;
use sync_tests::{Cluster, Device};

const PLAIN: &str = "plain";
const LOADED: &str = "with the extension";
const BARE: &str = "without the extension";
const PLAIN_IN_MEMORY: &str = "plain, temp_store = MEMORY";
const LOADED_IN_MEMORY: &str = "with the extension, temp_store = MEMORY";
/// A statement with triggers keeps a journal of its own, which moves to a temporary file where it is kept: see bench/PROFILES.md.
const IN_MEMORY: &str = "PRAGMA temp_store = MEMORY";
/// Transactions of one row each.
const SINGLES: usize = 2000;

/// Runs the measurement.
pub fn run(cluster: &Cluster, size: &Size, report: &mut Report) {
    report.section(
        "local",
        "Local writes on the device",
        &format!(
            "{} prepared inserts in one transaction, one column of all rows updated, all rows deleted; then {SINGLES} inserts and \
             {SINGLES} updates of one row a transaction. Plain: a table with the same columns and indexes and nothing else. Ours: on a \
             connection that loaded the extension, and on one that never did; and bulk writes once more with `PRAGMA temp_store = MEMORY` \
             on both sides, which docs/device.md recommends. Ratios are of times.",
            size.rows
        ),
    );
    let (database, _session) = world(cluster, &[("source", 1, 1, size.rows), ("writer", 2, 1, 0)], true);
    let transport = RefCell::new(Transport::new(&database));
    let source = Device::new("source");
    transport.borrow_mut().sync(&source);
    let rows = plain::rows_of(&source);

    let plain: Run<'_> = Box::new(|| writes(&Plain::like(&source).connection, &rows));
    let loaded: Run<'_> = Box::new(|| {
        let device = Device::new("writer");
        transport.borrow_mut().sync(&device);
        let mut sample = writes(device.connection(), &rows);
        let (took, _) = Took::here(|| device.pending_ops());
        sample.put("seal", took.wall);
        sample
    });
    let bare: Run<'_> = Box::new(|| {
        let mut device = Device::new("writer");
        transport.borrow_mut().sync(&device);
        device.close();
        let connection = Connection::open(device.path()).expect("a device's file is an ordinary one");
        connection.execute_batch("PRAGMA synchronous = NORMAL").expect("synchronous is set");
        writes(&connection, &rows)
    });
    let plain_in_memory: Run<'_> = Box::new(|| {
        let plain = Plain::like(&source);
        plain.connection.execute_batch(IN_MEMORY).expect("temp_store is set");
        writes(&plain.connection, &rows)
    });
    let loaded_in_memory: Run<'_> = Box::new(|| {
        let device = Device::new("writer");
        transport.borrow_mut().sync(&device);
        device.connection().execute_batch(IN_MEMORY).expect("temp_store is set");
        writes(device.connection(), &rows)
    });
    let contenders = vec![
        (PLAIN, plain),
        (LOADED, loaded),
        (BARE, bare),
        (PLAIN_IN_MEMORY, plain_in_memory),
        (LOADED_IN_MEMORY, loaded_in_memory),
    ];
    let rounds = interleave(size.rounds, contenders);
    let (bulk, single) = (Goal::AtMost(2.0), Goal::AtMost(1.3));
    for (kind, figure, goal) in [
        ("bulk insert", "insert", bulk),
        ("bulk update", "update", bulk),
        ("bulk delete", "delete", bulk),
        ("inserts one by one", "single insert", single),
        ("updates one by one", "single update", single),
    ] {
        let count = if figure.starts_with("single") { SINGLES } else { size.rows } as f64;
        let rate = rounds.values(PLAIN, figure).0.iter().map(|seconds| count / seconds).collect();
        report.line(&format!("{kind}, plain"), Unit::Of("rows/s"), Goal::None, crate::stats::Spread(rate));
        for name in [LOADED, BARE] {
            report.line(&format!("{kind}, {name}, over plain"), Unit::Times, goal, rounds.ratio(name, PLAIN, figure));
        }
        if kind.starts_with("bulk") {
            let ratio = rounds.ratio(LOADED_IN_MEMORY, PLAIN_IN_MEMORY, figure);
            report.line(&format!("{kind}, {LOADED_IN_MEMORY}, over plain with it"), Unit::Times, Goal::None, ratio);
        }
    }
    let what = "pending_ops() after all of it (seals every batch, returns the first)";
    report.line(what, Unit::Of("s"), Goal::None, rounds.values(LOADED, "seal"));
}

fn writes(connection: &Connection, rows: &Rows) -> Sample {
    let batch = |sql: &str| connection.execute_batch(sql).expect("statements run");
    let mut sample = Sample::default();
    let mut put = |name, work: &dyn Fn()| sample.put(name, Took::here(work).0.wall);
    put("insert", &|| plain::write(connection, plain::INSERT, rows));
    put("update", &|| batch("UPDATE item SET rank = rank + 1"));
    put("delete", &|| batch("DELETE FROM item WHERE rank IS NOT NULL"));
    put("single insert", &|| {
        let mut statement = connection.prepare(plain::INSERT).expect("a statement is prepared");
        for row in &rows[..SINGLES] {
            statement.execute(params_from_iter(row)).expect("a row is written");
        }
    });
    put("single update", &|| {
        let mut statement = connection.prepare("UPDATE item SET rank = rank + 1 WHERE id = ?1").expect("a statement is prepared");
        for row in &rows[..SINGLES] {
            statement.execute([&row[0]]).expect("a row is written");
        }
    });
    sample
}
