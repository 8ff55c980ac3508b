//! What the device pays for what it is sent.

use crate::plain::{self, file_size, Plain};
use crate::report::{Goal, Report, Unit};
use crate::stats::{interleave, Run, Sample, Spread, Took};
use crate::transport::{world, Transport};
use crate::Size;
use std::cell::RefCell;
use sync_tests::{Cluster, Device};

const INSERT: &str = "prepared inserts";
const UPSERT: &str = "prepared upserts";
const OURS: &str = "apply_delta";

/// Runs the measurement.
pub fn run(cluster: &Cluster, size: &Size, report: &mut Report) {
    first_sync(cluster, false, size, report);
    first_sync(cluster, true, size, report);
    few_changes(cluster, size, report);
}

fn first_sync(cluster: &Cluster, index: bool, size: &Size, report: &mut Report) {
    let (database, _session) = world(cluster, &[("small", 1, 1, size.rows)], index);
    let transport = RefCell::new(Transport::new(&database));
    let first = Device::new("small");
    transport.borrow_mut().sync(&first);
    let rows = plain::rows_of(&first);
    assert_eq!(rows.len(), size.rows, "the device holds the bucket");

    let (name, about) =
        if index { ("device-index", "a table with one more index") } else { ("device", "a table with only a primary key") };
    report.section(
        name,
        &format!("A first sync, on the device: {about}"),
        &format!(
            "{} rows into a new file: `pull_request` and `apply_delta` of all pages until they are published and verified, against one \
             transaction of prepared statements through the same driver (rusqlite, the system's SQLite) into a table with the same \
             columns and indexes, rows in the same order. Files are measured after a checkpoint. Ratios are of speeds.",
            size.rows
        ),
    );
    let by_hand = |sql: &'static str| -> Run<'_> {
        let (first, rows) = (&first, &rows);
        Box::new(move || {
            let file = Plain::like(first);
            let (took, ()) = Took::here(|| plain::write(&file.connection, sql, rows));
            Sample(vec![("wall", took.wall), ("cpu", took.cpu), ("size", file_size(&file.connection) / rows.len() as f64)])
        })
    };
    let ours: Run<'_> = Box::new(|| {
        let device = Device::new("small");
        let took = transport.borrow_mut().sync(&device).device;
        Sample(vec![("wall", took.wall), ("cpu", took.cpu), ("size", file_size(device.connection()) / size.rows as f64)])
    });
    let contenders = vec![(INSERT, by_hand(plain::INSERT)), (UPSERT, by_hand(plain::UPSERT)), (OURS, ours)];
    let rounds = interleave(size.rounds, contenders);
    let rate = |name| Spread(rounds.values(name, "wall").0.iter().map(|s| size.rows as f64 / s).collect());
    report.line("plain prepared inserts", Unit::Of("rows/s"), Goal::None, rate(INSERT));
    report.line("plain prepared upserts", Unit::Of("rows/s"), Goal::None, rate(UPSERT));
    report.line("apply_delta", Unit::Of("rows/s"), Goal::None, rate(OURS));
    report.line("apply_delta over plain inserts", Unit::Times, Goal::None, rounds.ratio(INSERT, OURS, "wall"));
    report.line("apply_delta over plain inserts, processor time", Unit::Times, Goal::None, rounds.ratio(INSERT, OURS, "cpu"));
    report.line("apply_delta over plain upserts", Unit::Times, Goal::AtLeast(0.5), rounds.ratio(UPSERT, OURS, "wall"));
    report.line("file per row, plain", Unit::Of("B"), Goal::None, rounds.values(INSERT, "size"));
    report.line("file per row, device over plain", Unit::Times, Goal::AtMost(1.35), rounds.ratio(OURS, INSERT, "size"));
}

/// 100 changed rows on a device that holds many.
fn few_changes(cluster: &Cluster, size: &Size, report: &mut Report) {
    const CHANGES: usize = 100;
    let repeats = (size.repeats / 5).max(10);
    report.section(
        "device-changes",
        "100 changes on a device with many rows",
        &format!(
            "{CHANGES} random rows of one bucket of {} are updated on the server in one transaction, {repeats} times; `pull_request` and \
             `apply_delta` until published and verified, against {CHANGES} prepared upserts in one transaction into a plain table of as \
             many rows.",
            size.many
        ),
    );
    let (database, mut session) = world(cluster, &[("large", 2, 1, size.many)], true);
    let mut transport = Transport::new(&database);
    let device = Device::new("large");
    transport.sync(&device);
    let plain = Plain::like(&device);
    let rows = plain::rows_of(&device);
    plain::write(&plain.connection, plain::INSERT, &rows);
    let mut random = fastrand::Rng::with_seed(11);
    let ours: Run<'_> = Box::new(|| {
        let keys: Vec<_> = (0..CHANGES).map(|_| format!("md5('2 {}')::uuid", random.usize(1..=size.many))).collect();
        session.run(&format!("UPDATE item SET rank = rank + 1 WHERE id IN ({})", keys.join(", ")));
        let synced = transport.sync(&device);
        Sample(vec![
            ("ms", synced.device.wall * 1000.0),
            ("server", synced.server.wall * 1000.0),
            ("wire", synced.received as f64),
        ])
    });
    let mut picked = fastrand::Rng::with_seed(11);
    let by_hand: Run<'_> = Box::new(|| {
        let changed: plain::Rows = (0..CHANGES).map(|_| rows[picked.usize(0..rows.len())].clone()).collect();
        let (took, ()) = Took::here(|| plain::write(&plain.connection, plain::UPSERT, &changed));
        Sample(vec![("ms", took.wall * 1000.0)])
    });
    let rounds = interleave(repeats, vec![(OURS, ours), (UPSERT, by_hand)]);
    report.line("100 changes, device", Unit::Of("ms"), Goal::AtMost(1.0), rounds.values(OURS, "ms"));
    report.line("100 prepared upserts, plain", Unit::Of("ms"), Goal::None, rounds.values(UPSERT, "ms"));
    report.line("100 changes, apply_delta over plain upserts, time", Unit::Times, Goal::None, rounds.ratio(OURS, UPSERT, "ms"));
    report.line("100 changes, server", Unit::Of("ms"), Goal::None, rounds.values(OURS, "server"));
    report.line("100 changes, bytes answered", Unit::Of("B"), Goal::None, rounds.values(OURS, "wire"));
}
