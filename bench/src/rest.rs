//! What the server keeps for a database in which nothing has changed for a lease.

use crate::report::{Goal, Report, Unit};
use crate::stats::Spread;
use crate::transport::world;
use crate::Size;
use sync_tests::Cluster;

/// Rows of each bucket.
const EACH: usize = 1000;

/// Runs the measurement.
pub fn run(cluster: &Cluster, size: &Size, report: &mut Report) {
    let buckets = (size.many / EACH).max(1);
    report.section(
        "rest",
        "What the server keeps at rest",
        &format!(
            "A table with {} rows in {buckets} buckets; a tenth of them has changed once, then the lease has passed, `sync.maintain()` has \
             run and VACUUM after it. Bytes are those of all tables and indexes of the schema `sync`, over those of the table with its indexes.",
            size.many
        ),
    );
    let (_database, mut session) = world(cluster, &[("one", 1, buckets, size.many)], true);
    let log = "SELECT pg_total_relation_size('sync.op')";
    let all = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c
        WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'S')";
    session.run("UPDATE item SET rank = -rank WHERE rank % 10 = 0");
    let busy = session.number(log);
    // The horizon is the oldest transaction of an earlier call that is older than the lease.
    for _ in 0..2 {
        session.run("BEGIN; SET LOCAL sync.lease = '0'; SELECT sync.maintain(); COMMIT");
    }
    session.run("VACUUM sync.op");
    session.run("VACUUM item");
    assert_eq!(session.number("SELECT count(*) FROM sync.op"), 0.0, "the log is empty");
    let source = session.number("SELECT pg_total_relation_size('item')");
    let kept = session.number(all);
    let bases = session.number("SELECT pg_total_relation_size('sync.base')");
    let share = |bytes: f64| Spread(vec![bytes / source * 100.0]);
    report.line("the table with its indexes", Unit::Of("MB"), Goal::None, Spread(vec![source / 1e6]));
    report.line("all that pg_sync keeps, at rest", Unit::Of("% of the table"), Goal::AtMost(2.0), share(kept));
    report.line("of that sums of buckets", Unit::Of("% of the table"), Goal::None, share(bases));
    report.line("the log before the lease had passed", Unit::Of("% of the table"), Goal::None, share(busy));
}
