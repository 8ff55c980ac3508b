//! Pushes of one batch that changes one row.

use crate::report::{Goal, Report, Unit};
use crate::stats::{Spread, Took};
use crate::transport::{world, Transport};
use crate::Size;
use sync_tests::{Cluster, Device};

const ROWS: usize = 1000;

/// Runs the measurement.
pub fn run(cluster: &Cluster, size: &Size, report: &mut Report) {
    report.section(
        "pushes",
        "Pushes of one batch with one change",
        &format!(
            "A device updates one of {ROWS} rows and sends that, {} times in one connection. Times are those of the statement \
             `SELECT sync.push($1)`, prepared, without its commit.",
            size.repeats
        ),
    );
    let (database, _session) = world(cluster, &[("push", 1, 1, ROWS)], true);
    let mut transport = Transport::new(&database);
    let device = Device::new("push");
    transport.sync(&device);
    let mut all = Vec::new();
    for n in 0..size.repeats {
        device.run(&format!("UPDATE item SET rank = -{n} - 1 WHERE id = (SELECT id FROM item LIMIT 1 OFFSET {})", n % ROWS));
        while let Some(batches) = device.pending_ops() {
            let (took, reply) = transport.push(&device.user.id, &batches);
            let answer = device.apply(&reply).unwrap_or_else(|e| panic!("apply_delta: {e}"));
            if answer.verdicts("accepted") == 1 {
                all.push(took);
            }
        }
    }
    assert_eq!(all.len(), size.repeats, "each is accepted, one by one");
    let spread = |figure: fn(&Took) -> f64| Spread(all.iter().map(figure).collect());
    report.line("by the clock", Unit::Of("ms"), Goal::None, spread(|took| took.wall * 1000.0));
    report.line("processor time", Unit::Of("ms"), Goal::None, spread(|took| took.cpu * 1000.0));
}
