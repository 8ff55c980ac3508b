//! A first download that takes longer than the lease goes on with what it has.

use postgres::Client;
use sync_tests::compare::{assert_same, assert_verified};
use sync_tests::device::server_pull;
use sync_tests::{Cluster, Database, Device};

const ROWS: u64 = 4000;

/// Many rows in two buckets of a late priority, a few in one of an early, and a device that has the early ones and half of the others.
fn half_way() -> (Database<'static>, Client, Device) {
    let db = Cluster::shared().database();
    db.run(&format!(
        "CREATE TABLE news (id int PRIMARY KEY, body text); INSERT INTO news SELECT i, 'news ' || i FROM generate_series(1, 20) i;
         CREATE TABLE wide (id int PRIMARY KEY, k int NOT NULL, pad text); CREATE INDEX ON wide (k, id);
         INSERT INTO wide SELECT i, 1 + i % 2, repeat(md5(i::text), 6) FROM generate_series(1, {ROWS}) i;
         CREATE TABLE member (k int PRIMARY KEY); INSERT INTO member VALUES (1), (2)"
    ));
    db.run("SELECT sync.create_bucket('news', priority => 1); SELECT sync.add_table('news', 'news');
            SELECT sync.create_bucket('wide', members => 'SELECT k FROM public.member'); SELECT sync.add_table('wide', 'wide', key => 'k');
            SELECT sync.maintain()");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.pull_request();
    device.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
    while staged(&device) < ROWS * 6 / 10 {
        page(&mut server, &device);
    }
    assert_eq!(device.value("SELECT count(*) FROM news"), "20");
    (db, server, device)
}

fn staged(device: &Device) -> u64 {
    device.value("SELECT coalesce((SELECT value FROM sync_meta WHERE name = 'staged_rows'), 0)").parse().expect("a number")
}

/// One round; how many rows came, or None when there are no more.
fn page(server: &mut Client, device: &Device) -> (u64, bool) {
    let reply = server_pull(server, &device.user, &device.pull_request()).expect("a page");
    let answer = device.apply(&reply).expect("a page is applied");
    (answer.rows(), answer.more())
}

/// The log forgets everything that is not of this moment.
fn lease_passes(db: &Database<'_>) {
    db.run("UPDATE news SET body = body");
    db.run("BEGIN; SET LOCAL sync.lease = '0'; SELECT sync.maintain(); COMMIT");
    db.run("BEGIN; SET LOCAL sync.lease = '0'; SELECT sync.maintain(); COMMIT");
}

/// Goes on to the end. Rows of the late buckets are shown all at once or not at all. Answers how many rows came.
fn finish(server: &mut Client, device: &Device) -> u64 {
    let mut sum = 0;
    loop {
        let (rows, more) = page(server, device);
        let shown: u64 = device.value("SELECT count(*) FROM wide").parse().expect("a number");
        if more {
            assert_eq!(shown, 0, "half a download is shown");
            // The last page's rows are those of all pages.
            sum += rows;
        } else {
            assert_same(device, server, "SELECT id, body FROM news");
            assert_verified(device);
            return sum;
        }
    }
}

#[test]
fn what_came_before_the_lease_passed_does_not_come_again() {
    let (db, mut server, device) = half_way();
    let before = staged(&device);
    lease_passes(&db);
    let came = finish(&mut server, &device);
    assert_same(&device, &mut server, "SELECT id, k, pad FROM wide");
    assert!(came <= ROWS - before, "{came} of {ROWS} rows came although {before} were there");
    assert_eq!(device.value("SELECT count(*) FROM sync_stage"), "0");
}

#[test]
fn rows_that_were_changed_and_deleted_meanwhile_are_right() {
    let (db, mut server, device) = half_way();
    let before = staged(&device);
    db.run(
        "UPDATE wide SET pad = 'changed' WHERE id % 2000 = 0; DELETE FROM wide WHERE id % 2000 = 1;
            UPDATE wide SET k = 3 - k WHERE id % 2000 = 2; INSERT INTO wide VALUES (5001, 1, 'new');
            UPDATE news SET body = 'other' WHERE id < 5; DELETE FROM news WHERE id = 9",
    );
    lease_passes(&db);
    let came = finish(&mut server, &device);
    assert_same(&device, &mut server, "SELECT id, k, pad FROM wide");
    // A changed row brings its range along, of about 125 rows here.
    assert!(came < ROWS - before + ROWS * 4 / 10, "{came} of {ROWS} rows came although {before} were there");
}

#[test]
fn it_may_pass_again_and_again() {
    let (db, mut server, device) = half_way();
    for _ in 0..3 {
        lease_passes(&db);
        db.run("UPDATE news SET body = body || '.' WHERE id = 3");
        for _ in 0..6 {
            page(&mut server, &device);
        }
        assert_eq!(device.value("SELECT count(*) FROM wide"), "0");
    }
    finish(&mut server, &device);
    assert_same(&device, &mut server, "SELECT id, k, pad FROM wide");
}

#[test]
fn what_the_user_may_no_longer_hold_goes() {
    for (change, bucket) in [
        ("DELETE FROM member WHERE k = 1", "k = 2"),
        ("DELETE FROM wide", "true"),
        (
            "SELECT sync.drop_table('wide', 'wide'); SELECT sync.add_table('wide', 'wide', key => 'k', filter => 'id % 2 = 0')",
            "id % 2 = 0",
        ),
        ("ALTER TABLE wide ADD COLUMN more int; UPDATE wide SET more = id WHERE id % 100 = 0", "true"),
    ] {
        let (db, mut server, device) = half_way();
        db.run(change);
        lease_passes(&db);
        finish(&mut server, &device);
        let columns = device.rows("SELECT name FROM pragma_table_info('wide')").concat().join(", ");
        sync_tests::compare::assert_alike(
            &device,
            &format!("SELECT {columns} FROM wide"),
            &mut server,
            &format!("SELECT {columns} FROM wide WHERE {bucket}"),
        );
    }
}

#[test]
fn a_server_that_went_back_makes_it_start_again() {
    let (db, mut server, device) = half_way();
    // As in a restored database: another history.
    db.run("UPDATE sync.mark SET random = gen_random_uuid()");
    lease_passes(&db);
    finish(&mut server, &device);
    assert_same(&device, &mut server, "SELECT id, k, pad FROM wide");
    assert_eq!(device.value("SELECT count(*) FROM sync_lost"), "0");
}

#[test]
fn a_bucket_that_is_new_to_a_device_may_take_longer_too() {
    let (db, mut server, device) = half_way();
    finish(&mut server, &device);
    db.run("CREATE TABLE more (id int PRIMARY KEY, pad text); INSERT INTO more SELECT i, repeat(md5(i::text), 6) FROM generate_series(1, 1000) i");
    db.run("SELECT sync.create_bucket('more'); SELECT sync.add_table('more', 'more'); SELECT sync.maintain()");
    for _ in 0..6 {
        page(&mut server, &device);
    }
    let before = staged(&device);
    assert!((1..1000).contains(&before), "{before} rows are staged");
    db.run("UPDATE wide SET pad = 'changed' WHERE id = 17; UPDATE more SET pad = 'changed' WHERE id IN (3, 990)");
    lease_passes(&db);
    let mut came = 0;
    let answers = device.pull(&mut server);
    answers.iter().filter(|a| a.more()).for_each(|a| came += a.rows());
    assert_same(&device, &mut server, "SELECT id, k, pad FROM wide");
    assert_same(&device, &mut server, "SELECT id, pad FROM more");
    assert!(came < 1000 - before + 300, "{came} rows came although {before} were there");
}
