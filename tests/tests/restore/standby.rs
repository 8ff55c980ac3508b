//! Failover to a standby, and what a standby answers that has not caught up.

use crate::leaked;
use crate::lists::Lists;
use crate::losses::{after, before, check, elsewhere};
use crate::wander::{Served, World};
use sync_tests::compare::assert_verified;
use sync_tests::device::server_pull;
use sync_tests::Cluster;

#[test]
fn a_standby_without_the_last_transactions_is_promoted() {
    let primary = leaked(Cluster::start(""));
    let mut lists = Lists::on(primary);
    let standby = leaked(primary.standby(""));
    before(&mut lists);
    primary.wait_for(standby);
    // Its connection is gone for a while, and then the primary is.
    standby.stop();
    after(&mut lists);
    primary.kill();
    standby.launch();
    standby.promote();
    lists.db = standby.same(&lists.db);
    lists.server = lists.db.connect();
    elsewhere(&mut lists, 200);
    check(&mut lists);
}

#[test]
fn a_standby_that_is_behind_says_so_and_shows_no_step_back() {
    let primary = leaked(Cluster::start(""));
    let mut lists = Lists::on(primary);
    let standby = leaked(primary.standby(""));
    primary.wait_for(standby);
    let mut replica = standby.same(&lists.db).connect();
    replica.batch_execute("SELECT pg_wal_replay_pause()").expect("replay pauses");
    lists.run("UPDATE item SET body = 'newer' WHERE id = 4");
    lists.ann.run("INSERT INTO item VALUES (2000, 2, 'mine', 0)");
    lists.sync();
    for device in [&lists.ann, &lists.bob] {
        let answers = device.pull(&mut replica);
        assert!(answers.len() == 1 && answers[0].kind() == "notice", "{answers:?}");
        assert!(answers[0].0["message"].as_str().is_some_and(|m| m.contains("not caught up")), "{answers:?}");
        assert_eq!(device.value("SELECT count(*) FROM item WHERE id = 2000 OR id = 4 AND body = 'newer'"), "2");
    }
    let refused = sync_tests::device::server_push(&mut replica, &lists.ann.user, &{
        lists.ann.run("INSERT INTO item VALUES (2001, 2, 'to the wrong server', 0)");
        lists.ann.pending_ops().expect("a batch waits")
    });
    assert!(
        refused.is_ok_and(|reply| lists.ann.apply(&reply).is_ok_and(|a| a.verdicts("later") == 1)),
        "a standby takes no push"
    );
    replica.batch_execute("SELECT pg_wal_replay_resume()").expect("replay goes on");
    primary.wait_for(standby);
    for device in [&lists.ann, &lists.bob] {
        let answers = device.pull(&mut replica);
        assert!(answers.iter().all(|a| a.kind() == "delta"), "{answers:?}");
        assert_verified(device);
    }
    lists.check();
}

#[test]
fn a_download_that_began_on_the_primary_does_not_go_on_where_less_is_visible() {
    let primary = leaked(Cluster::start(""));
    let mut lists = Lists::on(primary);
    let standby = leaked(primary.standby(""));
    lists.run("INSERT INTO item SELECT i, 2, repeat('x', 1000) FROM generate_series(10000, 10199) i");
    lists.sync();
    primary.wait_for(standby);
    let mut replica = standby.same(&lists.db).connect();
    replica.batch_execute("SELECT pg_wal_replay_pause()").expect("replay pauses");
    lists.run("UPDATE item SET body = repeat('y', 1000) WHERE id >= 10000");
    lists.ann.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
    let ask = |server: &mut postgres::Client| {
        let reply = server_pull(server, &lists.ann.user, &lists.ann.pull_request()).expect("an answer");
        lists.ann.apply(&reply).expect("it is applied")
    };
    // The device's cursor is known to the standby; what its first page has seen is not.
    lists.bob.pull(&mut replica);
    assert_eq!(lists.bob.value("SELECT count(*) FROM sync_status WHERE name = 'notice' AND value IS NOT NULL"), "0");
    assert_eq!(ask(&mut lists.server).kind(), "delta");
    assert_eq!(ask(&mut replica).kind(), "notice", "a page that lacks what the one before had");
    replica.batch_execute("SELECT pg_wal_replay_resume()").expect("replay goes on");
    primary.wait_for(standby);
    while ask(&mut replica).more() {}
    lists.bob.pull(&mut replica);
    lists.check_as_it_is();
}

#[test]
fn a_device_that_begins_on_a_standby_goes_on_anywhere() {
    let primary = leaked(Cluster::start(""));
    let mut lists = Lists::on(primary);
    let standby = leaked(primary.standby(""));
    primary.wait_for(standby);
    let mut replica = standby.same(&lists.db).connect();
    let fresh = sync_tests::Device::new("ann");
    fresh.pull(&mut replica);
    lists.run("INSERT INTO item VALUES (3000, 1, 'later')");
    // The log that its cursor points at is gone on both, and the primary was restarted.
    lists.run("SELECT sync.maintain(); SELECT pg_switch_wal()");
    primary.stop();
    primary.launch();
    lists.server = lists.db.connect();
    let reply = server_pull(&mut lists.server, &fresh.user, &fresh.pull_request()).expect("a delta");
    let answer = fresh.apply(&reply).expect("it is applied");
    assert_eq!((answer.kind(), answer.rows()), ("delta", 1), "{answer:?}");
    primary.wait_for(standby);
    lists.run("INSERT INTO item VALUES (3001, 1, 'later still')");
    primary.wait_for(standby);
    let answers = fresh.pull(&mut standby.same(&lists.db).connect());
    assert_eq!(answers.iter().map(|a| a.rows()).sum::<u64>(), 1, "{answers:?}");
    assert_verified(&fresh);
}

#[test]
fn devices_wander_between_a_primary_and_two_standbys() {
    let mut world = World::new();
    let rounds = std::env::var("RESTORE_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(120);
    world.wander(rounds);
    let Served { primary, standbys, behind } = world.served;
    assert!(primary > 0 && standbys > 0 && behind > 0, "nothing was tried: {:?}", world.served);
    world.finish();
    world.promote();
    world.wander(rounds / 2);
    world.finish();
}
