//! Pulls that find nothing, or one change in a thousand buckets.

use crate::report::{Goal, Report, Unit};
use crate::stats::Spread;
use crate::transport::{world, Synced, Transport};
use crate::Size;
use sync_tests::{Cluster, Device};

const BUCKETS: usize = 1000;

/// Runs the measurement.
pub fn run(cluster: &Cluster, size: &Size, report: &mut Report) {
    report.section(
        "polls",
        "Pulls that find nothing, or little",
        &format!(
            "A device that holds {BUCKETS} buckets with {} rows together asks {} times when nothing has changed, then as often after \
             one row of a random bucket has changed. Server times are those of the statement `SELECT sync.pull($1)`, prepared.",
            size.many, size.repeats
        ),
    );
    let (database, mut session) = world(cluster, &[("poll", 1000, BUCKETS, size.many)], true);
    let mut transport = Transport::new(&database);
    let device = Device::new("poll");
    transport.settle(&device);
    let idle: Vec<_> = (0..size.repeats).map(|_| transport.sync(&device)).collect();
    lines("nothing changed", 1.0, Goal::AtMost(200.0), &idle, report);
    let random = fastrand::Rng::with_seed(7);
    let one: Vec<_> = change_and_sync(size, random, |n| {
        session.run(&format!("UPDATE item SET rank = rank + 1 WHERE id = md5('1000 {n}')::uuid"));
        transport.sync(&device)
    });
    lines("1 change", 2.0, Goal::None, &one, report);
}

fn change_and_sync(size: &Size, mut random: fastrand::Rng, mut step: impl FnMut(usize) -> Synced) -> Vec<Synced> {
    (0..size.repeats).map(|_| step(random.usize(1..=size.many))).collect()
}

fn lines(what: &str, ms: f64, answered: Goal, all: &[Synced], report: &mut Report) {
    let spread = |figure: fn(&Synced) -> f64| Spread(all.iter().map(figure).collect());
    let wall = spread(|s| s.server.wall * 1000.0);
    let slow = wall.quantile(0.99);
    report.line(&format!("{what}, server, by the clock"), Unit::Of("ms"), Goal::AtMost(ms), wall);
    report.line(&format!("{what}, server, by the clock, p99"), Unit::Of("ms"), Goal::None, Spread(vec![slow]));
    report.line(&format!("{what}, server, processor time"), Unit::Of("ms"), Goal::None, spread(|s| s.server.cpu * 1000.0));
    report.line(&format!("{what}, device"), Unit::Of("ms"), Goal::None, spread(|s| s.device.wall * 1000.0));
    report.line(&format!("{what}, bytes asked"), Unit::Of("B"), Goal::None, spread(|s| s.sent as f64));
    report.line(&format!("{what}, bytes answered"), Unit::Of("B"), answered, spread(|s| s.received as f64));
    report.line(&format!("{what}, calls"), Unit::Of("pulls"), Goal::None, spread(|s| s.pages as f64));
}
