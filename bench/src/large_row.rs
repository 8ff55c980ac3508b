//! What a change of one small column in a large row costs on the wire.

use crate::report::{Goal, Report, Unit};
use crate::stats::Spread;
use crate::transport::{world, Transport};
use crate::Size;
use sync_tests::{Cluster, Device};

/// Bytes of the large column.
const BYTES: usize = 100_000;

/// Runs the measurement.
pub fn run(cluster: &Cluster, size: &Size, report: &mut Report) {
    report.section(
        "large-row",
        "One small column changed in a row of 100 KB",
        &format!(
            "A row with {BYTES} bytes of random hexadecimal digits and a counter. The counter changes on the server and the device pulls; \
             then it changes on the device, which pushes; {} times each.",
            size.repeats / 10
        ),
    );
    let (database, mut session) = world(cluster, &[("one", 1, 1, 10)], true);
    session.run("CREATE TABLE document (id int PRIMARY KEY, counter int NOT NULL, body text NOT NULL)");
    session.run(&format!(
        "INSERT INTO document SELECT 1, 0, string_agg(md5(random()::text), '') FROM generate_series(1, {BYTES} / 32)"
    ));
    session.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'document')");
    let mut transport = Transport::new(&database);
    let device = Device::new("one");
    transport.settle(&device);
    let down = (0..size.repeats / 10).map(|_| {
        session.run("UPDATE document SET counter = counter + 1");
        transport.sync(&device).received as f64
    });
    report.line(
        "changed on the server, bytes that the pull answers",
        Unit::Of("B"),
        Goal::AtMost(1000.0),
        Spread(down.collect()),
    );
    let up = (0..size.repeats / 10).map(|_| {
        device.run("UPDATE document SET counter = counter + 1");
        let mut sent = 0;
        while let Some(batches) = device.pending_ops() {
            sent += batches.len();
            let (_, reply) = transport.push("one", &batches);
            device.apply(&reply).expect("a reply is applied");
        }
        sent as f64
    });
    report.line("changed on the device, bytes that it pushes", Unit::Of("B"), Goal::AtMost(1000.0), Spread(up.collect()));
}
