//! What a logical replication slot costs a writer: Postgres's own capture, read through `pgoutput`.

use crate::report::{Goal, Report, Unit};
use crate::server::{self, Session};
use crate::stats::{interleave, Run, Sample};
use crate::Size;
use std::cell::RefCell;
use sync_tests::Cluster;

const PLAIN: &str = "plain";
const SLOT: &str = "slot";

/// Adds its figures to the section begun last. A server of its own: a slot needs `wal_level = logical`.
pub fn lines(size: &Size, report: &mut Report) {
    let settings = format!("{}wal_level = logical\nmax_replication_slots = 4\nmax_wal_senders = 4\n", server::SETTINGS);
    let cluster = Cluster::start(&settings);
    let databases = [PLAIN, SLOT].map(|name| (name, cluster.database()));
    let contenders = databases.each_ref().map(|(name, database)| {
        let mut session = Session::new(database.connect());
        session.run(&format!(
            "CREATE TABLE slim ({}); CREATE TABLE source AS {}",
            server::COLUMNS,
            server::rows(size.rows, 0, 100)
        ));
        session.run("VACUUM ANALYZE");
        if *name == SLOT {
            session.run("CREATE PUBLICATION p FOR TABLE slim");
            session.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
        }
        (*name, RefCell::new(session))
    });
    let runs = contenders.iter().map(|(name, session)| {
        let run: Run<'_> = Box::new(|| {
            let session = &mut *session.borrow_mut();
            let mut sample = Sample::default();
            session.run("TRUNCATE slim");
            session.run("CHECKPOINT");
            drain(name, session);
            for (sql, [written, read, wal]) in [
                ("INSERT INTO slim SELECT * FROM source", ["insert", "insert read", "insert wal"]),
                ("UPDATE slim SET rank = rank + 1", ["update", "update read", "update wal"]),
                ("DELETE FROM slim", ["delete", "delete read", "delete wal"]),
            ] {
                let before = session.wal();
                let took = session.time(sql).wall;
                sample.put(written, took);
                sample.put(wal, session.wal() - before);
                sample.put(read, took + drain(name, session));
            }
            sample
        });
        (*name, run)
    });
    let rounds = interleave(size.rounds, runs.collect());
    for (kind, read, wal) in [
        ("insert", "insert read", "insert wal"),
        ("update", "update read", "update wal"),
        ("delete", "delete read", "delete wal"),
    ] {
        let mut line = |what: &str, figure| {
            report.line(
                &format!("{kind}, a logical slot, {what} plain"),
                Unit::Times,
                Goal::None,
                rounds.ratio(SLOT, PLAIN, figure),
            );
        };
        line("written, over", kind);
        line("written and read, over", read);
        line("WAL over", wal);
    }
}

/// Reads all that the slot has, as its reader's connection would, and says how long that took.
fn drain(name: &str, session: &mut Session) -> f64 {
    if name != SLOT {
        return 0.0;
    }
    session
        .time(
            "SELECT count(*), sum(length(data)) FROM pg_logical_slot_get_binary_changes('s', NULL, NULL,
             'proto_version', '1', 'publication_names', 'p')",
        )
        .wall
}
