//! Going back in time, each way that an operator may: devices send again what they wrote, and offer what others had written.

use crate::leaked;
use crate::lists::Lists;
use crate::losses::{after, before, check, elsewhere};
use sync_tests::{Cluster, Database};

fn go_on(lists: &mut Lists, database: Database<'static>) {
    lists.server = database.connect();
    lists.db = database;
}

#[test]
fn a_dump_is_restored() {
    let mut lists = Lists::new();
    before(&mut lists);
    let file = lists.db.dump(&[]);
    after(&mut lists);
    let restored = Cluster::shared().empty_database();
    restored.load(&file);
    go_on(&mut lists, restored);
    lists.run("SELECT sync.maintain()");
    elsewhere(&mut lists, 3);
    check(&mut lists);
}

#[test]
fn a_base_backup_is_restored() {
    let primary = leaked(Cluster::start(""));
    let mut lists = Lists::on(primary);
    before(&mut lists);
    let backup = leaked(primary.backup(&[]));
    after(&mut lists);
    backup.launch();
    let database = backup.same(&lists.db);
    go_on(&mut lists, database);
    // Far past what the devices have seen, in transactions and in the log.
    elsewhere(&mut lists, 200);
    check(&mut lists);
}

#[test]
fn a_server_recovers_to_a_point_in_time_from_its_archive() {
    let cluster = leaked(Cluster::start_archiving(""));
    let mut lists = Lists::on(cluster);
    cluster.save_backup("base");
    before(&mut lists);
    lists.run("SELECT pg_create_restore_point('here')");
    after(&mut lists);
    lists.run("SELECT pg_create_restore_point('later')");
    cluster.archive_all();
    cluster.stop();
    cluster.recover("base", "recovery_target_name = 'here'");
    lists.server = lists.db.connect();
    elsewhere(&mut lists, 200);
    check(&mut lists);
    assert_eq!(sync_tests::compare::server_value(&mut lists.server, "SELECT timeline_id FROM pg_control_checkpoint()"), "2");
}

#[test]
fn a_recovery_to_a_point_that_no_device_has_passed_changes_nothing() {
    let cluster = leaked(Cluster::start_archiving(""));
    let mut lists = Lists::on(cluster);
    cluster.save_backup("base");
    before(&mut lists);
    lists.run("SELECT pg_create_restore_point('here')");
    lists.run("INSERT INTO item VALUES (3000, 2, 'seen by nobody')");
    cluster.archive_all();
    cluster.stop();
    cluster.recover("base", "recovery_target_name = 'here'");
    lists.server = lists.db.connect();
    elsewhere(&mut lists, 5);
    for device in [&lists.ann, &lists.bob] {
        let answers = device.pull(&mut lists.server);
        assert!(answers.iter().all(|a| a.kind() == "delta"), "{answers:?}");
        assert!(answers.iter().map(|a| a.rows()).sum::<u64>() <= 5, "{answers:?}");
        assert_eq!(device.value("SELECT count(*) FROM sync_lost"), "0");
    }
    lists.check();
}

/// A cluster whose disk was saved as "copy" before devices saw what came after.
fn ahead_of_a_saved_disk() -> (&'static Cluster, Lists) {
    let cluster = leaked(Cluster::start(""));
    let mut lists = Lists::on(cluster);
    before(&mut lists);
    cluster.stop();
    cluster.save("copy");
    cluster.launch();
    lists.server = lists.db.connect();
    after(&mut lists);
    (cluster, lists)
}

#[test]
fn a_disk_is_put_back_and_counts_on_past_what_devices_saw() {
    let (cluster, mut lists) = ahead_of_a_saved_disk();
    cluster.kill();
    cluster.put_back("copy");
    cluster.launch();
    lists.server = lists.db.connect();
    elsewhere(&mut lists, 200);
    check(&mut lists);
}

#[test]
fn transaction_ids_begin_far_higher_after_a_reset() {
    let (cluster, mut lists) = ahead_of_a_saved_disk();
    cluster.stop();
    cluster.put_back("copy");
    cluster.set_next_xid(3, 1_000_000_000);
    cluster.launch();
    lists.server = lists.db.connect();
    elsewhere(&mut lists, 20);
    check(&mut lists);
}
