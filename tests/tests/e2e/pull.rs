//! The way down: snapshots, pages, priorities, buckets that come and go.

use crate::lists::Lists;
use sync_shared::envelope::decode;
use sync_shared::message::Delta;
use sync_tests::compare::{assert_alike, assert_same, assert_verified, server_value};
use sync_tests::device::server_pull;
use sync_tests::{Cluster, Device};

#[test]
fn a_pull_reads_only_and_assigns_no_transaction_id() {
    let mut lists = Lists::new();
    lists.run("INSERT INTO item VALUES (100, 1, 'new')");
    let mut transaction = lists.server.build_transaction().read_only(true).start().expect("a transaction");
    transaction.batch_execute(r#"SELECT set_config('request.jwt.claims', '{"sub": "ann"}', true)"#).expect("claims");
    let request = lists.ann.pull_request();
    let reply: Vec<u8> = transaction.query_one("SELECT sync.pull($1)", &[&request]).expect("a pull").get(0);
    let id: Option<String> = transaction.query_one("SELECT pg_current_xact_id_if_assigned()::text", &[]).expect("an id").get(0);
    assert_eq!(id, None);
    transaction.commit().expect("a commit");
    lists.ann.apply(&reply).expect("a delta");
    lists.check();
}

#[test]
fn a_pull_in_a_transaction_that_has_written_is_refused() {
    let lists = Lists::new();
    let mut client = lists.db.connect();
    let mut transaction = client.transaction().expect("a transaction");
    transaction.batch_execute("INSERT INTO item VALUES (100, 1, 'not committed')").expect("a write");
    assert!(transaction.query_one("SELECT sync.pull($1)", &[&lists.ann.pull_request()]).is_err());
}

#[test]
fn a_pull_runs_at_every_isolation_level_that_can_work() {
    let mut lists = Lists::new();
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE READ ONLY DEFERRABLE"] {
        let mut client = lists.db.connect();
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}")).expect("a transaction");
        client.batch_execute(r#"SELECT set_config('request.jwt.claims', '{"sub": "ann"}', true)"#).expect("claims");
        let reply: Vec<u8> = client.query_one("SELECT sync.pull($1)", &[&lists.ann.pull_request()]).expect(level).get(0);
        lists.ann.apply(&reply).expect("a delta");
    }
    lists.check();
}

#[test]
fn a_transaction_that_commits_late_is_not_missed() {
    let mut lists = Lists::new();
    let mut slow = lists.db.connect();
    slow.batch_execute(
        "BEGIN; INSERT INTO item VALUES (900, 1, 'slow'); SAVEPOINT s; UPDATE item SET body = 'slow' WHERE id = 3; RELEASE s",
    )
    .expect("a slow transaction");
    for i in 0..5 {
        lists.run_and_check(&format!("INSERT INTO item VALUES ({}, 1, 'fast')", 910 + i));
    }
    slow.batch_execute("COMMIT").expect("a commit");
    lists.run_and_check("INSERT INTO item VALUES (920, 2, 'later')");
    assert_eq!(lists.ann.rows("SELECT id FROM item WHERE body = 'slow' ORDER BY id"), [["3"], ["900"]]);
}

#[test]
fn many_open_transactions_commit_in_another_order_than_they_began() {
    let mut lists = Lists::new();
    let mut open: Vec<_> = (0..8).map(|_| lists.db.connect()).collect();
    for (i, client) in open.iter_mut().enumerate() {
        let sql = format!(
            "BEGIN; INSERT INTO item VALUES ({0}, {1}, 'open'); UPDATE item SET list = 1 WHERE id = {2}",
            800 + i,
            i % 3 + 1,
            i + 1
        );
        client.batch_execute(&sql).expect("an open transaction");
    }
    for i in [3, 0, 7, 5, 1, 6, 2, 4] {
        open[i].batch_execute(if i == 5 { "ROLLBACK" } else { "COMMIT" }).expect("an end");
        lists.check();
    }
}

#[test]
fn buckets_come_and_go_with_membership() {
    let mut lists = Lists::new();
    lists.run_and_check("DELETE FROM reader WHERE name = 'ann' AND list = 1");
    lists.run_and_check("INSERT INTO reader VALUES ('ann', 3)");
    lists.run_and_check("DELETE FROM reader; INSERT INTO item VALUES (700, 2, 'while nobody looked')");
    assert_eq!(lists.ann.value("SELECT count(*) FROM item"), "0");
    lists.run_and_check("INSERT INTO reader VALUES ('ann', 1), ('ann', 2), ('ann', 3), ('bob', 1)");
    // A row that moves while the membership of both buckets changes.
    lists.run_and_check("UPDATE item SET list = 3 WHERE id = 1; UPDATE reader SET list = 3 WHERE name = 'bob'");
}

#[test]
fn a_delta_of_many_pages_is_published_at_once() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE wide (id int PRIMARY KEY, body text)");
    db.run("INSERT INTO wide SELECT i, md5(i::text) || repeat(md5(i::text), 30) FROM generate_series(1, 20000) i");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'wide')");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    let mut pages = 0;
    loop {
        let reply = server_pull(&mut server, &device.user, &device.pull_request()).expect("a page");
        let answer = device.apply(&reply).expect("a page is applied");
        pages += 1;
        let visible = device.rows("SELECT count(*) FROM sqlite_schema WHERE name = 'wide'");
        let rows = if visible == [["1"]] { device.value("SELECT count(*) FROM wide") } else { "0".to_owned() };
        if rows != "0" {
            assert_eq!(rows, "20000", "a part of the delta is visible after {pages} pages");
        }
        if !answer.more() {
            break;
        }
    }
    assert!(pages > 2, "20 MB came in {pages} pages");
    assert_same(&device, &mut server, "SELECT * FROM wide");
    assert_verified(&device);
}

#[test]
fn a_row_written_between_two_pages_arrives() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE wide (id int PRIMARY KEY, body text)");
    db.run("INSERT INTO wide SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 15000) i");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'wide')");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    for page in 0..100 {
        let reply = server_pull(&mut server, &device.user, &device.pull_request()).expect("a page");
        let more = device.apply(&reply).expect("a page is applied").more();
        if page < 6 {
            db.run(&format!(
                "INSERT INTO wide VALUES ({0}, 'new'), (-{0}, 'new'); DELETE FROM wide WHERE id = {1}; UPDATE wide SET body = 'changed' WHERE id = {2};
                 UPDATE wide SET id = id + 100000 WHERE id = {3}",
                20_000 + page, page * 1000 + 5, 14_000 - page * 2000, page * 2000 + 77
            ));
        } else if !more {
            break;
        }
    }
    device.sync(&mut server);
    assert_same(&device, &mut server, "SELECT * FROM wide");
    assert_verified(&device);
}

#[test]
fn lower_priorities_are_visible_first() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE important (id int PRIMARY KEY, body text); CREATE TABLE bulk (id int PRIMARY KEY, body text)");
    db.run("INSERT INTO important SELECT i, 'now' FROM generate_series(1, 100) i");
    db.run("INSERT INTO bulk SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 15000) i");
    db.run(
        "SELECT sync.create_bucket('later', priority => 200); SELECT sync.add_table('later', 'bulk');
         SELECT sync.create_bucket('first', priority => 0); SELECT sync.add_table('first', 'important')",
    );
    let (mut server, device) = (db.connect(), Device::new("ann"));
    let mut seen_alone = false;
    loop {
        let reply = server_pull(&mut server, &device.user, &device.pull_request()).expect("a page");
        let answer = device.apply(&reply).expect("a page is applied");
        seen_alone |=
            device.rows("SELECT count(*) FROM important") == [["100"]] && device.rows("SELECT count(*) FROM bulk") == [["0"]];
        if !answer.more() {
            break;
        }
    }
    assert!(seen_alone, "the important rows were never visible before the bulk");
    assert_same(&device, &mut server, "SELECT * FROM bulk");
    assert_verified(&device);
}

#[test]
fn a_row_that_moves_between_priorities_does_not_vanish() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE job (id int PRIMARY KEY, urgent boolean NOT NULL, body text)");
    db.run("INSERT INTO job SELECT i, i % 2 = 0, 'job' FROM generate_series(1, 50) i");
    db.run(
        "SELECT sync.create_bucket('urgent', priority => 0); SELECT sync.add_table('urgent', 'job', filter => 'urgent');
         SELECT sync.create_bucket('rest', priority => 9); SELECT sync.add_table('rest', 'job', filter => 'NOT urgent')",
    );
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    for change in
        ["UPDATE job SET urgent = NOT urgent", "UPDATE job SET urgent = true WHERE id < 20", "DELETE FROM job WHERE urgent"]
    {
        db.run(change);
        let mut least = usize::MAX;
        loop {
            let reply = server_pull(&mut server, &device.user, &device.pull_request()).expect("a page");
            let more = device.apply(&reply).expect("a page is applied").more();
            least = least.min(device.rows("SELECT id FROM job").len());
            if !more {
                break;
            }
        }
        let left: usize = server_value(&mut server, "SELECT count(*) FROM job").parse().expect("a number");
        assert!(least >= left, "{least} rows were visible on the way to {left} in {change}");
        assert_alike(&device, "SELECT id, urgent, body FROM job", &mut server, "SELECT id, urgent::int, body FROM job");
        assert_verified(&device);
    }
}

#[test]
fn a_thousand_buckets_of_one_user() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE post (id int PRIMARY KEY, thread int, body text); CREATE INDEX ON post (thread, id)");
    db.run("INSERT INTO post SELECT i, i % 1500, 'post' FROM generate_series(1, 6000) i");
    db.run(
        "SELECT sync.create_bucket('thread', members => 'SELECT g FROM generate_series(0, 999) g');
         SELECT sync.add_table('thread', 'post', key => 'thread')",
    );
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    assert_alike(&device, "SELECT * FROM post", &mut server, "SELECT * FROM post WHERE thread < 1000");
    db.run("UPDATE post SET thread = (thread + 250) % 1500 WHERE id % 3 = 0; DELETE FROM post WHERE id % 7 = 0");
    device.sync(&mut server);
    assert_alike(&device, "SELECT * FROM post", &mut server, "SELECT * FROM post WHERE thread < 1000");
    assert_verified(&device);
}

#[test]
fn maintenance_between_pulls_changes_nothing_that_devices_see() {
    let mut lists = Lists::new();
    for round in 0..4 {
        lists.run("SELECT sync.maintain()");
        lists.run_and_check(&format!("UPDATE item SET body = 'round {round}', list = list % 3 + 1 WHERE id % 4 = {round}"));
        lists.run_and_check("SELECT sync.maintain()");
    }
}

#[test]
fn a_user_cannot_reach_the_buckets_of_another() {
    let lists = Lists::new();
    let eve = Device::new("eve");
    // Eve sends a copy of Ann's request: cursor, held buckets and all.
    let reply = server_pull(&mut lists.db.connect(), &eve.user, &lists.ann.pull_request());
    if let Some(delta) = reply.ok().and_then(|reply| decode::<Delta>(&reply).ok()) {
        assert!(delta.changes.iter().all(|part| part.row_count == 0), "Eve was sent Ann's rows");
    }
    eve.sync(&mut lists.db.connect());
    assert_eq!(eve.value("SELECT count(*) FROM item"), "0");
}

#[test]
fn pages_may_end_within_the_changes_of_one_statement() {
    let mut lists = Lists::new();
    lists.run("INSERT INTO item SELECT i, 1, 'x' FROM generate_series(1000, 1199) i");
    lists.ann.pull(&mut lists.server);
    // One row of the log holds about a hundred keys, a page twenty to thirty of these rows.
    lists.run("UPDATE item SET body = repeat('y', 1000) || id WHERE id >= 1000; DELETE FROM item WHERE id = 1150");
    lists.ann.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
    let answers = lists.ann.pull(&mut lists.server);
    assert!(answers.len() > 4, "{} pages", answers.len());
    let rows: u64 = answers.iter().map(sync_tests::device::Answer::rows).sum();
    assert!(rows <= 2 * 200 + 1, "{rows} rows travelled");
    lists.check();
}
