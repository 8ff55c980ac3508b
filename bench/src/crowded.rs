//! What capture costs where there are many rules and buckets that the written table has nothing to do with.

use crate::report::{Goal, Report, Unit};
use crate::server::{self, Session};
use crate::stats::{interleave, Run, Sample};
use crate::Size;
use std::cell::RefCell;
use sync_tests::{Cluster, Database};

const ALONE: &str = "alone";
const CROWDED: &str = "crowded";
/// Buckets of the written table.
const OWNERS: usize = 100;
/// Transactions of one row each.
const SINGLES: usize = 5000;

/// Runs the measurement.
pub fn run(cluster: &Cluster, size: &Size, report: &mut Report) {
    // Each rule that is added writes all of them down by name, so a thousand take minutes.
    let (rules, buckets) = (if size.many < 1_000_000 { 20 } else { 1000 }, size.many);
    report.section(
        "crowded",
        "Capture beside many other rules and buckets",
        &format!(
            "The table and rule of the first section, once in a database of their own, once beside {rules} rules on {rules} other tables and \
             {buckets} other buckets that have sums and changes in the log. {} rows inserted at once, then {SINGLES} transactions of \
             one row each in one connection. Processor time of the backend, three times as many rounds as elsewhere.",
            size.rows
        ),
    );
    let databases = [ALONE, CROWDED].map(|name| (name, cluster.database()));
    let contenders = databases.each_ref().map(|(name, database)| (*name, RefCell::new(prepare(name, database, size, rules))));
    let runs = contenders.iter().map(|(name, session)| {
        let run: Run<'_> = Box::new(|| {
            let session = &mut *session.borrow_mut();
            session.run("TRUNCATE slim");
            session.run("CHECKPOINT");
            let bulk = session.time("INSERT INTO slim SELECT * FROM source").cpu;
            session.run("TRUNCATE slim");
            let one = session.client.prepare("INSERT INTO slim SELECT * FROM source WHERE rank = $1").expect("it is prepared");
            let (single, ()) = session.measure(|client| {
                for n in 1..=SINGLES as i32 {
                    client.execute(&one, &[&n]).expect("a row is inserted");
                }
            });
            Sample(vec![("bulk", bulk), ("single", single.cpu)])
        });
        (*name, run)
    });
    let rounds = interleave(size.rounds * 3, runs.collect());
    for (what, figure) in [("bulk insert", "bulk"), ("single-row transactions", "single")] {
        let ratio = rounds.ratio(CROWDED, ALONE, figure);
        report.line(&format!("{what}, crowded over alone, processor time"), Unit::Times, Goal::AtMost(1.03), ratio);
    }
}

fn prepare(name: &str, database: &Database<'_>, size: &Size, rules: usize) -> Session {
    let mut session = Session::new(database.connect());
    session.run(&format!(
        "CREATE TABLE slim ({});
         CREATE TABLE source AS {};
         CREATE INDEX ON source (rank)",
        server::COLUMNS,
        server::rows(size.rows, 0, OWNERS)
    ));
    let rule = "SELECT sync.create_bucket('owner', members => 'SELECT DISTINCT owner_id FROM slim');
         SELECT sync.add_table('owner', 'slim', key => 'owner_id')";
    session.run(rule);
    if name == CROWDED {
        session.run(&format!("CREATE TABLE other ({}); CREATE INDEX ON other (owner_id, id)", server::COLUMNS));
        session.run(
            "SELECT sync.create_bucket('other', members => 'SELECT DISTINCT owner_id FROM other');
             SELECT sync.add_table('other', 'other', key => 'owner_id')",
        );
        session.run("SELECT sync.maintain()");
        session.run(&format!("INSERT INTO other {}", server::rows(size.many, 1_000_000, size.many)));
        for n in 1..rules {
            session.run(&format!(
                "CREATE TABLE other_{n} (id int PRIMARY KEY, body text);
                 SELECT sync.create_bucket('other_{n}');
                 SELECT sync.add_table('other_{n}', 'other_{n}')"
            ));
        }
    }
    session.run("SELECT sync.maintain()");
    session.run("VACUUM ANALYZE");
    session.run("CHECKPOINT");
    session
}
