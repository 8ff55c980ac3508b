//! What changes between two pages of a pull, and comparisons of all sums.

use crate::everything::{Everything, TASKS};
use postgres::Client;
use sync_tests::compare::{assert_alike, assert_same, assert_verified};
use sync_tests::device::server_pull;
use sync_tests::{Cluster, Database, Device};

// Between two pages ---------------------------------------------------------------------------------------------------------

/// Rows in two rules, and a device whose pages are small.
fn paged(rules: &str) -> (Database<'static>, Client, Device) {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE wide (id int PRIMARY KEY, k int NOT NULL, pad text); CREATE INDEX ON wide (k, id);
         CREATE TABLE member (k int, name text, PRIMARY KEY (k, name));
         INSERT INTO member SELECT k, 'ann' FROM generate_series(1, 8) k;
         INSERT INTO wide SELECT i, 1 + i % 8, repeat(md5(i::text), 10) FROM generate_series(1, 800) i",
    );
    db.run(rules);
    db.run("SELECT sync.maintain()");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    device.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
    (db, server, device)
}

fn pages(server: &mut Client, device: &Device, count: usize) {
    for _ in 0..count {
        let reply = server_pull(server, &device.user, &device.pull_request()).expect("a page");
        device.apply(&reply).expect("a page is applied");
    }
}

#[test]
fn columns_that_come_between_two_pages_are_filled() {
    let rules = "SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'wide')";
    for (before, column) in [(1, "a text"), (2, "note text"), (3, "z int"), (4, "n int NOT NULL DEFAULT 7")] {
        let (db, mut server, known) = paged(rules);
        let fresh = Device::new("ann");
        fresh.pull_request();
        fresh.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
        db.run("UPDATE wide SET pad = pad || 'x'");
        for device in [&known, &fresh] {
            pages(&mut server, device, before);
            assert_ne!(device.value("SELECT count(*) FROM sync_stage"), "0", "the pages wait");
        }
        let name = column.split(' ').next().expect("a name");
        db.run(&format!("ALTER TABLE wide ADD COLUMN {column}"));
        db.run(&format!("UPDATE wide SET {name} = '9' WHERE id % 50 = 0"));
        for device in [&known, &fresh] {
            device.sync(&mut server);
            let all = format!("SELECT id, k, pad, {name} FROM wide");
            assert_alike(device, &all, &mut server, &all);
            assert_verified(device);
        }
    }
}

#[test]
fn the_rows_of_a_table_dropped_from_a_rule_between_two_pages_go() {
    let rules = "SELECT sync.create_bucket('low'); SELECT sync.add_table('low', 'wide', filter => 'id <= 400');
                 SELECT sync.create_bucket('high'); SELECT sync.add_table('high', 'wide', filter => 'id > 400')";
    for before in 1..5 {
        let (db, mut server, device) = paged(rules);
        db.run("UPDATE wide SET pad = pad || 'x'");
        pages(&mut server, &device, before);
        db.run("SELECT sync.drop_table('low', 'wide')");
        device.sync(&mut server);
        assert_alike(&device, "SELECT * FROM wide", &mut server, "SELECT * FROM wide WHERE id > 400");
        db.run("DELETE FROM wide WHERE id % 2 = 0");
        device.sync(&mut server);
        assert_alike(&device, "SELECT * FROM wide", &mut server, "SELECT * FROM wide WHERE id > 400");
        assert_verified(&device);
    }
}

#[test]
fn the_rows_of_a_table_sent_again_between_two_pages_are_its_rows() {
    for before in 1..5 {
        let (db, mut server, device) = paged("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'wide')");
        db.run("UPDATE wide SET pad = pad || 'x'");
        pages(&mut server, &device, before);
        db.run("ALTER TABLE wide ALTER pad TYPE text USING left(pad, 20)");
        pages(&mut server, &device, 1);
        db.run("DELETE FROM wide WHERE id % 2 = 0");
        device.sync(&mut server);
        assert_same(&device, &mut server, "SELECT * FROM wide");
        assert_verified(&device);
    }
}

#[test]
fn a_bucket_lost_and_regained_between_two_pages_is_whole() {
    let rules = "SELECT sync.create_bucket('k', members => 'SELECT k FROM member WHERE name = sync.user_id()');
                 SELECT sync.add_table('k', 'wide', key => 'k')";
    for (before, without) in [(1, 1), (2, 1), (1, 2), (2, 3), (3, 6)] {
        for lost in ["true", "k % 2 = 0", "k > 6", "k = 1"] {
            let (db, mut server, device) = paged(rules);
            db.run("UPDATE wide SET pad = pad || 'x'");
            pages(&mut server, &device, before);
            db.run(&format!("DELETE FROM member WHERE {lost}"));
            pages(&mut server, &device, without);
            db.run("UPDATE wide SET pad = pad || 'y' WHERE id % 5 = 0; DELETE FROM wide WHERE id % 7 = 0");
            db.run("INSERT INTO member SELECT k, 'ann' FROM generate_series(1, 8) k ON CONFLICT DO NOTHING");
            device.sync(&mut server);
            assert_same(&device, &mut server, "SELECT * FROM wide");
            assert_verified(&device);
        }
    }
}

#[test]
fn a_bucket_lost_and_regained_between_two_pages_is_whole_before_its_sums_are_known() {
    let rules = "SELECT sync.create_bucket('k', members => 'SELECT k FROM member WHERE name = sync.user_id()');
                 SELECT sync.add_table('k', 'wide', key => 'k')";
    let (db, mut server, device) = paged(rules);
    db.run("UPDATE sync.entry SET state = 'building'; DELETE FROM sync.base");
    db.run("UPDATE wide SET pad = pad || 'x'");
    pages(&mut server, &device, 2);
    db.run("DELETE FROM member");
    pages(&mut server, &device, 1);
    db.run("INSERT INTO member SELECT k, 'ann' FROM generate_series(1, 8) k");
    device.sync(&mut server);
    assert_same(&device, &mut server, "SELECT * FROM wide");
}

// Comparisons ---------------------------------------------------------------------------------------------------------------

/// Lets the day end after which a device compares everything with the server.
fn a_day_later(device: &Device) {
    device.run("UPDATE sync_meta SET value = value - 86400000000 WHERE name = 'verified_at'");
}

#[test]
fn a_device_that_differs_is_mended_within_a_day() {
    let mut all = Everything::new(TASKS, &["task", "event"]);
    // As if the server had forgotten to tell, and as if the file had been damaged.
    all.db.run("ALTER TABLE task DISABLE TRIGGER ALL");
    all.device.run(
        "UPDATE sync_guard SET applying = 1; UPDATE task SET body = 'damaged' WHERE id = 3; DELETE FROM task WHERE id = 4;
         UPDATE sync_guard SET applying = 0",
    );
    all.device.sync(&mut all.server);
    a_day_later(&all.device);
    all.check("SELECT 1", "SELECT * FROM task");
    all.check("INSERT INTO task VALUES (100, 'new')", "SELECT * FROM task");
    // Nothing differs: nothing is sent.
    a_day_later(&all.device);
    let answers = all.device.pull(&mut all.server);
    assert!(answers.len() > 1, "it did compare");
    assert_eq!(answers.iter().map(|answer| answer.rows()).sum::<u64>(), 0);
}

#[test]
fn rows_whose_sums_are_not_known_yet_are_not_fetched_again_every_day() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE task (id int PRIMARY KEY, body text); INSERT INTO task SELECT i, 'task' FROM generate_series(1, 10) i");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'task')");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    assert_eq!(sync_tests::compare::server_value(&mut server, "SELECT state FROM sync.entry"), "building");
    a_day_later(&device);
    let answers = device.pull(&mut server);
    assert!(answers.iter().any(|answer| answer.kind() == "notice"), "it did compare");
    assert_eq!(answers.iter().map(|answer| answer.rows()).sum::<u64>(), 0);
    // What changed between the cursor and the comparison is not taken for equal.
    a_day_later(&device);
    db.run("UPDATE task SET body = 'changed' WHERE id = 3; DELETE FROM task WHERE id = 4");
    device.pull(&mut server);
    assert_same(&device, &mut server, "SELECT * FROM task");
}

#[test]
fn a_table_dropped_from_a_rule_just_before_a_comparison_goes() {
    let (db, mut server, device) = paged(
        "SELECT sync.create_bucket('low'); SELECT sync.add_table('low', 'wide', filter => 'id <= 400');
         SELECT sync.create_bucket('high'); SELECT sync.add_table('high', 'wide', filter => 'id > 400')",
    );
    a_day_later(&device);
    db.run("SELECT sync.drop_table('low', 'wide')");
    device.sync(&mut server);
    assert_alike(&device, "SELECT * FROM wide", &mut server, "SELECT * FROM wide WHERE id > 400");
    assert_verified(&device);
}
