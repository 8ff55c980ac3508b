//! How a server knows that it still has all that a device saw, where neither its name nor its timeline nor its numbers tell.

use crate::leaked;
use crate::lists::Lists;
use sync_tests::compare::server_value;
use sync_tests::{Answer, Cluster};

/// Little of the log is kept: what a cursor points at is soon gone.
const SHORT_LOG: &str = "min_wal_size = 32MB\nmax_wal_size = 48MB\nautovacuum = off\n";

fn start() -> (&'static Cluster, Lists) {
    let cluster = leaked(Cluster::start(SHORT_LOG));
    (cluster, Lists::on(cluster))
}

fn restart(cluster: &Cluster, lists: &mut Lists) {
    cluster.launch();
    lists.server = lists.db.connect();
}

/// The log goes on until nothing is left of what it says today.
fn recycle_log(lists: &mut Lists) {
    for _ in 0..4 {
        lists.run("SELECT pg_switch_wal(); CREATE TABLE t (); DROP TABLE t; CHECKPOINT");
    }
}

fn first_answers(lists: &mut Lists) -> Vec<Answer> {
    [&lists.ann, &lists.bob].map(|device| device.pull(&mut lists.server)).concat()
}

#[track_caller]
fn assert_goes_on(answers: &[Answer]) {
    assert!(answers.iter().all(|a| a.kind() == "delta"), "a history that goes on was not recognised: {answers:?}");
}

#[track_caller]
fn assert_notices(answers: &[Answer]) {
    let notices = answers.iter().filter(|a| a.0["message"].as_str().is_some_and(|m| m.contains("history has changed"))).count();
    assert_eq!(notices, 2, "{answers:?}");
}

/// Pulls only: no push and no maintenance leaves a mark. Then the disk is put back, and counts on past all numbers that devices know.
fn put_back_without_a_mark(recycled: bool) {
    let (cluster, mut lists) = start();
    cluster.stop();
    cluster.save("copy");
    restart(cluster, &mut lists);
    lists.run("INSERT INTO item SELECT i, 2, 'seen and lost' FROM generate_series(3000, 3009) i");
    lists.run("INSERT INTO item VALUES (3010, 2, 'seen and lost'); DELETE FROM item WHERE id IN (1, 4)");
    lists.ann.pull(&mut lists.server);
    lists.bob.pull(&mut lists.server);
    let seen = server_value(&mut lists.server, "SELECT pg_snapshot_xmax(pg_current_snapshot())");
    cluster.kill();
    cluster.put_back("copy");
    restart(cluster, &mut lists);
    for i in 0..20 {
        lists.run(&format!("INSERT INTO item VALUES ({}, 2, 'under ids that devices have seen')", 4000 + i));
    }
    lists.run("CREATE TABLE other AS SELECT md5(i::text) FROM generate_series(1, 5000) i");
    if recycled {
        recycle_log(&mut lists);
    }
    assert_eq!(server_value(&mut lists.server, &format!("SELECT pg_snapshot_xmin(pg_current_snapshot()) > '{seen}'")), "t");
    assert_notices(&first_answers(&mut lists));
    lists.check_as_it_is();
    for device in [&lists.ann, &lists.bob] {
        assert_eq!(device.value("SELECT count(*) FROM sync_lost WHERE server IS NULL"), "11");
    }
}

#[test]
fn a_disk_put_back_without_a_mark_shows_in_the_log() {
    put_back_without_a_mark(false);
}

#[test]
fn a_disk_put_back_without_a_mark_shows_when_the_log_is_gone() {
    put_back_without_a_mark(true);
}

#[test]
fn a_crash_after_which_everything_is_there_is_no_other_history() {
    let (cluster, mut lists) = start();
    for round in 0..3 {
        lists.run(&format!("INSERT INTO item VALUES ({}, 2, 'seen')", 3000 + round));
        lists.ann.pull(&mut lists.server);
        lists.bob.pull(&mut lists.server);
        cluster.kill();
        restart(cluster, &mut lists);
        lists.run(&format!("INSERT INTO item VALUES ({}, 2, 'after the crash')", 4000 + round));
        assert_goes_on(&first_answers(&mut lists));
        lists.check_as_it_is();
    }
}

#[test]
fn a_mark_from_behind_a_cursor_shows_that_it_is_of_this_history() {
    let (cluster, mut lists) = start();
    lists.run("INSERT INTO item VALUES (3000, 2, 'seen')");
    lists.sync();
    lists.run("SELECT sync.maintain()");
    cluster.kill();
    restart(cluster, &mut lists);
    recycle_log(&mut lists);
    lists.run("INSERT INTO item VALUES (3001, 2, 'later')");
    assert_goes_on(&first_answers(&mut lists));
    // Pulled by this run after its last mark: while it runs it knows itself.
    recycle_log(&mut lists);
    assert_goes_on(&first_answers(&mut lists));
    lists.check_as_it_is();
}

#[test]
fn a_log_that_was_left_early_tells_nothing_wrong() {
    let (cluster, mut lists) = start();
    for _ in 0..3 {
        lists.run("SELECT pg_switch_wal()");
        lists.ann.pull(&mut lists.server);
        lists.bob.pull(&mut lists.server);
        lists.run("SELECT pg_switch_wal(); SELECT sync.maintain()");
        cluster.kill();
        restart(cluster, &mut lists);
        assert_goes_on(&first_answers(&mut lists));
    }
    lists.check_as_it_is();
}

#[test]
fn a_pass_over_several_pages_is_noticed_too() {
    let (cluster, mut lists) = start();
    lists.run("INSERT INTO item SELECT i, 2, repeat('x', 1000) FROM generate_series(10000, 10199) i");
    lists.sync();
    cluster.stop();
    cluster.save("copy");
    restart(cluster, &mut lists);
    lists.run("UPDATE item SET body = 'seen on the first page, and lost' WHERE id BETWEEN 10000 AND 10100");
    lists.run("UPDATE item SET body = repeat('y', 1000) WHERE id > 10100");
    lists.ann.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
    let reply = sync_tests::device::server_pull(&mut lists.server, &lists.ann.user, &lists.ann.pull_request()).expect("a page");
    assert!(lists.ann.apply(&reply).expect("it is staged").more());
    cluster.kill();
    cluster.put_back("copy");
    restart(cluster, &mut lists);
    for i in 0..20 {
        lists.run(&format!("UPDATE item SET body = 'under ids that the page has seen' WHERE id = {}", 10000 + i));
    }
    let answers = lists.ann.pull(&mut lists.server);
    assert!(answers[0].0["message"].as_str().is_some_and(|m| m.contains("history has changed")), "{answers:?}");
    lists.check();
}
