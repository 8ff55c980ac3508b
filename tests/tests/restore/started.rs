//! A server that loads the library as it starts leaves a mark right then: devices that were served last before a crash go on where they
//! were, also when the log of that time is gone; and no mark says so of what a disk that was put back has lost.

use crate::leaked;
use crate::lists::Lists;
use std::time::{Duration, Instant};
use sync_tests::compare::server_value;
use sync_tests::{Answer, Cluster};

/// Little of the log is kept.
const SETTINGS: &str =
    "shared_preload_libraries = 'pg_sync'\nsync.worker_interval = '1 day'\nmin_wal_size = 32MB\nmax_wal_size = 48MB\n";
const NOT_LOADED: &str = "shared_preload_libraries = ''\n";

const MARKS_OF_THIS_RUN: &str = "
    SELECT count(*) FROM sync.mark WHERE run = (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";

/// A server whose run has left its mark, and two devices that it has served.
fn start() -> (&'static Cluster, Lists) {
    let cluster = leaked(Cluster::start(SETTINGS));
    let mut lists = Lists::on(cluster);
    cluster.stop();
    launch(cluster, &mut lists);
    wait_for_a_mark(&mut lists);
    lists.sync();
    (cluster, lists)
}

fn launch(cluster: &Cluster, lists: &mut Lists) {
    cluster.launch();
    lists.server = lists.db.connect();
}

fn wait_for_a_mark(lists: &mut Lists) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while server_value(&mut lists.server, MARKS_OF_THIS_RUN) == "0" {
        assert!(Instant::now() < deadline, "no mark is left at the start");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Pulls only, which leave no mark.
fn see(lists: &mut Lists, id: i32) {
    lists.run(&format!("INSERT INTO item VALUES ({id}, 2, 'seen')"));
    lists.ann.pull(&mut lists.server);
    lists.bob.pull(&mut lists.server);
}

/// The log goes on until nothing is left of what it says today.
fn recycle_log(lists: &mut Lists) {
    for _ in 0..4 {
        lists.run("SELECT pg_switch_wal(); CREATE TABLE t (); DROP TABLE t; CHECKPOINT");
    }
}

/// What the first pulls are answered that are not told to ask again.
fn answers(lists: &mut Lists) -> Vec<Answer> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut of = |device: &sync_tests::Device| loop {
        let answers = device.pull(&mut lists.server);
        let waits = answers.iter().any(|a| a.0["message"].as_str().is_some_and(|m| m.contains("just been started")));
        assert!(Instant::now() < deadline, "it is never answered");
        if !waits {
            return answers;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    [of(&lists.ann), of(&lists.bob)].concat()
}

fn notices(lists: &mut Lists) -> usize {
    let answers = answers(lists);
    answers.iter().filter(|a| a.0["message"].as_str().is_some_and(|m| m.contains("history has changed"))).count()
}

#[test]
fn who_was_served_last_before_a_crash_goes_on_when_the_log_is_gone() {
    let (cluster, mut lists) = start();
    for round in 0..3 {
        see(&mut lists, 3000 + round);
        match round {
            0 => cluster.kill(),
            1 => cluster.crash(),
            _ => cluster.stop(),
        }
        launch(cluster, &mut lists);
        lists.run(&format!("DELETE FROM item WHERE id = {}", 3000 + round));
        wait_for_a_mark(&mut lists);
        recycle_log(&mut lists);
        assert_eq!(notices(&mut lists), 0, "round {round}");
        assert_eq!(lists.ann.value("SELECT count(*) FROM sync_lost"), "0");
        lists.check_as_it_is();
    }
}

#[test]
fn what_a_snapshot_of_the_disk_has_lost_is_noticed() {
    let (cluster, mut lists) = start();
    let marks = server_value(&mut lists.server, "SELECT max(id) FROM sync.mark");
    let run = server_value(&mut lists.server, "SELECT max(run) FROM sync.mark");
    cluster.snapshot("copy");
    see(&mut lists, 3000);
    cluster.kill();
    cluster.put_back("copy");
    launch(cluster, &mut lists);
    wait_for_a_mark(&mut lists);
    // There is a mark of the run before, from where the copy was taken.
    let of_the_run_before = format!("SELECT count(*) > 0 FROM sync.mark WHERE id > {marks} AND run = {run}");
    assert_eq!(server_value(&mut lists.server, &of_the_run_before), "t");
    recycle_log(&mut lists);
    lists.run("INSERT INTO item SELECT i, 2, 'under ids that devices have seen' FROM generate_series(4000, 4020) i");
    assert_eq!(notices(&mut lists), 2);
    lists.check_as_it_is();
    assert_eq!(lists.bob.value("SELECT count(*) FROM sync_lost WHERE server IS NULL"), "1");
}

#[test]
fn a_run_that_left_no_mark_is_not_passed_over() {
    let (cluster, mut lists) = start();
    cluster.snapshot("copy");
    see(&mut lists, 3000);
    cluster.kill();
    cluster.put_back("copy");
    let conf = cluster.data().join("postgresql.conf");
    let loaded = std::fs::read_to_string(&conf).expect("the settings can be read");
    std::fs::write(&conf, loaded.clone() + NOT_LOADED).expect("the settings can be written");
    launch(cluster, &mut lists);
    // On past all that the devices have seen; what it says there is gone in the end.
    recycle_log(&mut lists);
    lists.run("INSERT INTO item SELECT i, 2, 'under ids that devices have seen' FROM generate_series(4000, 4020) i");
    cluster.kill();
    std::fs::write(&conf, loaded).expect("the settings can be written");
    launch(cluster, &mut lists);
    wait_for_a_mark(&mut lists);
    recycle_log(&mut lists);
    assert_eq!(notices(&mut lists), 2);
    lists.check_as_it_is();
}

#[test]
fn nobody_is_served_before_the_mark_is_left() {
    let (cluster, mut lists) = start();
    see(&mut lists, 3000);
    cluster.kill();
    launch(cluster, &mut lists);
    // As if nobody had come yet; and then as if nobody had come for too long.
    wait_for_a_mark(&mut lists);
    lists.run("DELETE FROM sync.mark WHERE run = (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint");
    let answer = lists.ann.pull(&mut lists.server);
    assert!(answer[0].0["message"].as_str().is_some_and(|m| m.contains("just been started")), "{answer:?}");
    lists.run("ALTER SYSTEM SET sync.worker = off");
    lists.run("SELECT pg_reload_conf()");
    lists.server = lists.db.connect();
    assert_eq!(notices(&mut lists), 0);
}
