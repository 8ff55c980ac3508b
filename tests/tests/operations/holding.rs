//! Findings about what holds back the log or its vacuum: they take another session, or another server.

use super::doctor::{assert_found, findings, healthy};
use std::time::{Duration, Instant};
use sync_tests::Cluster;

const PATIENCE: &str = "1 second";

fn wait() {
    std::thread::sleep(Duration::from_millis(1100));
}

#[test]
fn the_doctor_names_who_holds_the_log_back() {
    let cluster = Cluster::start("max_prepared_transactions = 2\nautovacuum = off");
    let db = healthy(&cluster);
    let mut server = db.connect();
    let mut other = db.connect();
    assert_found(&mut server, "1 hour", &[("warning", "setting autovacuum", "nothing cleans up")], "nothing");
    let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).expect("a process").get(0);
    let process = format!("process {pid}");
    let autovacuum = ("warning", "setting autovacuum", "nothing cleans up");

    let mut holds = |begin: &str, expected: (&str, &str, &str), end: &str| {
        other.batch_execute(begin).expect("it begins");
        wait();
        server.batch_execute("SELECT sync.maintain()").expect("maintained");
        assert_found(&mut server, PATIENCE, &[expected, autovacuum], begin);
        other.batch_execute(end).expect("it ends");
        assert_found(&mut server, PATIENCE, &[autovacuum], end);
    };
    holds("BEGIN; UPDATE list SET owner = owner", ("warning", &process, "has written and is open since"), "ROLLBACK");
    holds("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM list", ("warning", &process, "cannot be vacuumed"), "ROLLBACK");
    holds(
        "BEGIN; UPDATE list SET owner = owner; PREPARE TRANSACTION 'forgotten'",
        ("warning", "prepared transaction forgotten", "nothing after it leaves the log"),
        "ROLLBACK PREPARED 'forgotten'",
    );
    holds(
        "SELECT pg_create_physical_replication_slot('unused', true)",
        ("warning", "replication slot unused", "nobody uses it"),
        "SELECT pg_drop_replication_slot('unused')",
    );
}

#[test]
fn the_doctor_sees_what_a_standby_holds_back_and_works_there_too() {
    let cluster = Cluster::start("");
    let db = healthy(&cluster);
    let standby =
        cluster.standby("hot_standby_feedback = on\nwal_receiver_status_interval = 1\nmax_standby_streaming_delay = -1");
    cluster.wait_for(&standby);
    let there = standby.same(&db);
    let mut server = db.connect();
    let mut reader = there.connect();
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM list").expect("it reads");
    let deadline = Instant::now() + Duration::from_secs(30);
    let found = loop {
        server.batch_execute("UPDATE list SET owner = owner; SELECT sync.maintain()").expect("maintained");
        let found = findings(&mut server, PATIENCE);
        if found.iter().any(|f| f[1].starts_with("standby ")) || Instant::now() > deadline {
            break found;
        }
        wait();
    };
    assert!(found.iter().any(|f| f[0] == "warning" && f[2].contains("hot_standby_feedback")), "{found:#?}");
    assert_eq!(findings(&mut there.connect(), "1 hour"), Vec::<[String; 4]>::new(), "on the standby");
    reader.batch_execute("ROLLBACK").expect("it ends");
}
