//! What the server pays for the first sync of a large bucket.

use crate::report::{Goal, Report, Unit};
use crate::server::{self, Session};
use crate::stats::{interleave, Run, Sample, Spread};
use crate::transport::{world, Transport};
use crate::Size;
use std::cell::RefCell;
use std::io::Read;
use sync_tests::{Cluster, Device};

/// Runs the measurement.
pub fn run(cluster: &Cluster, size: &Size, report: &mut Report) {
    let (database, _) = world(cluster, &[("small", 1, 1, size.rows), ("large", 2, 1, size.many)], true);
    let transport = RefCell::new(Transport::new(&database));
    let copier = RefCell::new(Session::new(database.connect()));
    report.section(
        "first-sync",
        "First sync, on the server",
        "All pages of a first sync of one bucket, `sync.pull` only, with the device applying each page in between (not counted), \
         against `COPY (SELECT * FROM item WHERE owner_id = ...) TO STDOUT (FORMAT binary)` of the same rows. Processor time of the \
         backend, so rows/s are those of one core; the wire is what travels, compressed.",
    );
    for (user, owner, rows, goal) in
        [("small", 1, size.rows, Goal::AtLeast(500_000.0)), ("large", 2, size.many, Goal::AtLeast(500_000.0))]
    {
        let pull: Run<'_> = Box::new(|| {
            let device = Device::new(user);
            let synced = transport.borrow_mut().sync(&device);
            let held = device.value("SELECT count(*) FROM item");
            assert_eq!(held, rows.to_string(), "the device holds the bucket");
            let rows = rows as f64;
            Sample(vec![
                ("rate", rows / synced.server.cpu),
                ("wall rate", rows / synced.server.wall),
                ("wire", synced.received as f64 / rows),
                ("pages", synced.pages as f64),
            ])
        });
        let copy: Run<'_> = Box::new(|| {
            let sql = format!("COPY (SELECT * FROM item WHERE owner_id = '{}') TO STDOUT (FORMAT binary)", server::owner(owner));
            let (took, bytes) = copier.borrow_mut().measure(|client| {
                let mut reader = client.copy_out(&sql).expect("COPY begins");
                let mut buffer = vec![0; 1 << 20];
                let mut bytes = 0;
                loop {
                    match reader.read(&mut buffer).expect("COPY goes on") {
                        0 => return bytes,
                        n => bytes += n,
                    }
                }
            });
            let rows = rows as f64;
            Sample(vec![("rate", rows / took.cpu), ("wall rate", rows / took.wall), ("wire", bytes as f64 / rows)])
        });
        let rounds = interleave(size.rounds, vec![("pull", pull), ("copy", copy)]);
        let count = format!("{rows} rows");
        report.line(&format!("{count}, sync.pull, one core"), Unit::Of("rows/s"), goal, rounds.values("pull", "rate"));
        report.line(
            &format!("{count}, sync.pull, by the clock"),
            Unit::Of("rows/s"),
            Goal::None,
            rounds.values("pull", "wall rate"),
        );
        report.line(&format!("{count}, COPY binary, one core"), Unit::Of("rows/s"), Goal::None, rounds.values("copy", "rate"));
        let ratio: Spread = rounds.ratio("pull", "copy", "rate");
        report.line(&format!("{count}, sync.pull over COPY, processor time"), Unit::Times, Goal::AtLeast(0.4), ratio);
        report.line(
            &format!("{count}, wire per row, sync.pull"),
            Unit::Of("B"),
            Goal::AtMost(50.0),
            rounds.values("pull", "wire"),
        );
        report.line(&format!("{count}, wire per row, COPY"), Unit::Of("B"), Goal::None, rounds.values("copy", "wire"));
        report.line(&format!("{count}, pages"), Unit::Of("pages"), Goal::None, rounds.values("pull", "pages"));
    }
}
