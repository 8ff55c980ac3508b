//! From a commit to another device, without a gateway: the devices ask at once.

use crate::report::{Goal, Report, Unit};
use crate::server;
use crate::stats::Spread;
use crate::transport::{world, Transport};
use crate::Size;
use std::time::Instant;
use sync_tests::{Cluster, Device};

/// Runs the measurement.
pub fn run(cluster: &Cluster, size: &Size, report: &mut Report) {
    report.section(
        "latency",
        "From a commit to another device",
        &format!(
            "In one process and over a Unix socket, {} times each: no gateway, no notification, the reading device asks as soon as the \
             commit has returned, so this is the floor under any transport. The devices hold {} rows in one bucket.",
            size.repeats, size.rows
        ),
    );
    let (database, mut session) = world(cluster, &[("ann", 1, 1, size.rows), ("bob", 1, 1, 0)], true);
    let mut transport = Transport::new(&database);
    let (ann, bob) = (Device::new("ann"), Device::new("bob"));
    transport.sync(&ann);
    transport.sync(&bob);
    transport.send(&ann);

    let from_server = (0..size.repeats).map(|n| {
        session.run(&format!("UPDATE item SET rank = -{n} WHERE id = md5('1 {}')::uuid", n + 1));
        let start = Instant::now();
        transport.sync(&bob);
        let took = start.elapsed().as_secs_f64() * 1000.0;
        assert_eq!(bob.value(&format!("SELECT min(rank) FROM item WHERE rank = -{n}")), format!("{}", -(n as i64)));
        took
    });
    lines("commit on the server returned -> applied on a device", Goal::AtMost(6.0), Spread(from_server.collect()), report);

    let between = (0..size.repeats).map(|n| {
        let start = Instant::now();
        ann.run(&format!(
            "INSERT INTO item VALUES ('00000000-0000-4000-9000-{n:012x}', '{}', 't', 'b', {}, '2026-01-01T00:00:00.000000Z')",
            server::owner(1),
            10_000_000 + n
        ));
        transport.send(&ann);
        transport.sync(&bob);
        let took = start.elapsed().as_secs_f64() * 1000.0;
        assert_eq!(bob.value(&format!("SELECT count(*) FROM item WHERE id = '00000000-0000-4000-9000-{n:012x}'")), "1");
        took
    });
    lines("write on a device -> pushed -> applied on another device", Goal::None, Spread(between.collect()), report);
}

fn lines(what: &str, goal: Goal, spread: Spread, report: &mut Report) {
    let slow = spread.quantile(0.99);
    report.line(&format!("{what}, p50"), Unit::Of("ms"), goal, spread);
    report.line(&format!("{what}, p99"), Unit::Of("ms"), Goal::None, Spread(vec![slow]));
}
