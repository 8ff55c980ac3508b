//! What an application on the device pays for reading, and for waiting while a publish writes.

use crate::plain::{self, Plain};
use crate::report::{Goal, Report, Unit};
use crate::stats::{interleave, Run, Sample, Spread, Took};
use crate::transport::{world, Transport};
use crate::Size;
use rusqlite::Connection;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use sync_tests::{Cluster, Device};

const PLAIN: &str = "plain";
const OURS: &str = "device";
/// Rows looked up one by one.
const LOOKED_UP: usize = 20_000;

/// Runs the measurement.
pub fn run(cluster: &Cluster, size: &Size, report: &mut Report) {
    let (database, mut session) = world(cluster, &[("reader", 2, 1, size.rows)], false);
    let mut transport = Transport::new(&database);
    let device = Device::new("reader");
    let hold = longest_hold(&device, || transport.settle(&device));
    reads(&device, size, report);
    session.run("UPDATE item SET rank = rank + 1");
    let changes = longest_hold(&device, || transport.settle(&device));
    report.section(
        "hold",
        "How long a publish holds the device's write lock",
        &format!(
            "The longest time in which another connection to the file could not begin to write, asked every half millisecond, during a first \
             sync of {0} rows and during a publish of {0} changed ones. No setting bounds it: what a publish makes visible is one \
             snapshot of the server, so it is one transaction of the file. Readers go on meanwhile (WAL), and pages that are only staged \
             take as long as `page_bytes` (1 MiB) says. Several rules with priorities publish one after the other.",
            size.rows
        ),
    );
    report.line("a first sync", Unit::Of("ms"), Goal::None, Spread(vec![hold.publish]));
    report.line("changes", Unit::Of("ms"), Goal::None, Spread(vec![changes.publish]));
    report.line("of a page that is only staged, at most half of all pages", Unit::Of("ms"), Goal::None, Spread(vec![hold.usual]));
}

fn reads(device: &Device, size: &Size, report: &mut Report) {
    report.section(
        "reading",
        "Reading on the device",
        &format!(
            "{} rows of one table that was synced, against a plain table with the same columns, indexes and rows in the same order: a sum over \
             all rows, a search in all texts, {LOOKED_UP} rows by their key. Both files checkpointed; ratios are of times.",
            size.rows
        ),
    );
    let plain = Plain::like(device);
    let rows = plain::rows_of(device);
    plain::write(&plain.connection, plain::INSERT, &rows);
    for connection in [&plain.connection, device.connection()] {
        plain::file_size(connection);
    }
    let contender = |connection: &'_ Connection| -> Sample {
        let scan =
            |sql: &str| Took::here(|| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("a table is read")).0.wall;
        let (keys, _) = Took::here(|| {
            let mut statement = connection.prepare("SELECT title, rank FROM item WHERE id = ?1").expect("it is prepared");
            for n in 0..LOOKED_UP.min(rows.len()) {
                let key = &rows[n * 7919 % rows.len()][0];
                statement.query_row([key], |row| row.get::<_, String>(0)).expect("the row is there");
            }
        });
        Sample(vec![
            ("sum", scan("SELECT sum(rank) FROM item")),
            ("search", scan("SELECT count(*) FROM item WHERE body LIKE '%nowhere%'")),
            ("keys", keys.wall),
        ])
    };
    let plain_run: Run<'_> = Box::new(|| contender(&plain.connection));
    let ours: Run<'_> = Box::new(|| contender(device.connection()));
    let rounds = interleave(size.rounds * 5, vec![(PLAIN, plain_run), (OURS, ours)]);
    // As good as equal: what the clock cannot tell apart.
    for (what, figure) in [("a sum over all rows", "sum"), ("a search in all texts", "search"), ("rows by their key", "keys")] {
        let ratio = rounds.ratio(OURS, PLAIN, figure);
        report.line(&format!("{what}, device over plain"), Unit::Times, Goal::AtMost(1.05), ratio);
    }
}

/// Times in which nobody else could write, in milliseconds.
struct Hold {
    publish: f64,
    usual: f64,
}

fn longest_hold(device: &Device, work: impl FnOnce()) -> Hold {
    let done = AtomicBool::new(false);
    let path = device.path();
    std::thread::scope(|threads| {
        let watcher = threads.spawn(|| watch(&path, &done));
        work();
        done.store(true, Ordering::Relaxed);
        let holds = watcher.join().expect("the file can be watched");
        Hold { publish: holds.max(), usual: holds.median() }
    })
}

/// How long the write lock was held, each time that it was.
fn watch(path: &Path, done: &AtomicBool) -> Spread {
    let connection = Connection::open(path).expect("the file opens");
    connection.busy_timeout(Duration::ZERO).expect("a timeout is set");
    let mut holds = vec![0.0];
    let mut since: Option<Instant> = None;
    while !done.load(Ordering::Relaxed) {
        match connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK") {
            Ok(()) => holds.extend(since.take().map(|start| start.elapsed().as_secs_f64() * 1000.0)),
            Err(_) => drop(since.get_or_insert_with(Instant::now)),
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    holds.extend(since.map(|start| start.elapsed().as_secs_f64() * 1000.0));
    Spread(holds)
}
