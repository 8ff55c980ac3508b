//! What the device's library costs an application before it does anything.

use crate::report::{Goal, Report, Unit};
use crate::stats::{Spread, Took};
use crate::Size;
use rusqlite::Connection;
use sync_tests::{build, device, Cluster};

/// Runs the measurement.
pub fn run(_cluster: &Cluster, size: &Size, report: &mut Report) {
    report.section(
        "library",
        "The device's library",
        &format!(
            "The file that `./dev build` leaves, and `load_extension` on {} new connections of one process, which the first of them has \
             in memory from then on.",
            size.repeats
        ),
    );
    let library = build::library("libsqlite_sync.so");
    let bytes = std::fs::metadata(&library).expect("the library is there").len();
    report.line("size", Unit::Of("MB"), Goal::AtMost(1.5), Spread(vec![bytes as f64 / 1e6]));
    let loads = (0..size.repeats).map(|_| {
        let connection = Connection::open_in_memory().expect("a database opens");
        Took::here(|| device::load(&connection, &library)).0.wall * 1000.0
    });
    report.line("load", Unit::Of("ms"), Goal::AtMost(1.0), Spread(loads.collect()));
}
