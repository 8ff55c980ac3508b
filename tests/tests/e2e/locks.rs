//! Pull and maintenance beside those who lock whole tables.

use crate::everything::{assert_sums, Everything};
use crate::lists::Lists;
use std::time::Duration;
use sync_shared::envelope;
use sync_shared::message::{Notice, NoticeKind};
use sync_tests::compare::server_value;
use sync_tests::device::server_pull;

#[test]
fn a_pull_gives_way_where_a_table_is_locked() {
    let mut lists = Lists::new();
    let mut other = lists.db.connect();
    let mut truncate = other.transaction().expect("a transaction");
    truncate.batch_execute("LOCK TABLE reader, item IN ACCESS EXCLUSIVE MODE").expect("a lock");
    let reply = server_pull(&mut lists.server, &lists.ann.user, &lists.ann.pull_request()).expect("an answer, and no error");
    let notice: Notice = envelope::decode(&reply).expect("a notice");
    assert_eq!(notice.kind, NoticeKind::Retry, "{}", notice.message);
    assert!(lists.ann.apply(&reply).expect("it is applied").more(), "the device asks again");
    // The transaction of the call goes on, with the settings it had.
    let mut reading = lists.server.build_transaction().read_only(true).start().expect("a transaction");
    reading
        .batch_execute("SET LOCAL lock_timeout = '7s'; SELECT set_config('request.jwt.claims', '{\"sub\": \"ann\"}', true)")
        .expect("settings");
    let request = lists.ann.pull_request();
    reading.query_one("SELECT sync.pull($1)", &[&request]).expect("an answer");
    let after = reading.query_one("SELECT current_setting('lock_timeout')", &[]).expect("the transaction lives");
    assert_eq!(after.get::<_, String>(0), "7s");
    drop(reading);
    truncate
        .batch_execute("TRUNCATE item, reader; INSERT INTO reader VALUES ('bob', 1); INSERT INTO item VALUES (7, 1, 'new')")
        .expect("it goes on");
    truncate.commit().expect("a commit");
    lists.check();
}

#[test]
fn sums_built_while_a_truncate_holds_the_table_are_right() {
    let mut all = Everything::new(
        "CREATE TABLE task (id int PRIMARY KEY, body text); INSERT INTO task SELECT i, 'task' FROM generate_series(1, 50) i",
        &[],
    );
    all.db.run("SELECT sync.add_table('all', 'task')");
    let mut other = all.db.connect();
    let mut truncate = other.transaction().expect("a transaction");
    truncate
        .batch_execute("INSERT INTO task VALUES (100, 'logged'); TRUNCATE task; INSERT INTO task VALUES (101, 'left')")
        .expect("it truncates");
    let mut maintainer = all.db.connect();
    let maintain = std::thread::spawn(move || maintainer.batch_execute("SELECT sync.maintain()"));
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'task'::regclass";
    while server_value(&mut all.server, waiting) == "0" {
        std::thread::sleep(Duration::from_millis(5));
    }
    truncate.commit().expect("a commit");
    maintain.join().expect("no panic").expect("maintenance waits and goes on");
    assert_sums(&mut all.server);
    all.check("INSERT INTO task VALUES (102, 'more')", "SELECT * FROM task");
}

#[test]
fn floating_point_keys_are_refused_with_the_remedy() {
    let all = Everything::new(
        "CREATE TABLE point (x float8 PRIMARY KEY); CREATE TABLE pair (id int, y real, PRIMARY KEY (id, y))",
        &[],
    );
    for table in ["point", "pair"] {
        let error = all.db.try_run(&format!("SELECT sync.add_table('all', '{table}')")).expect_err("refused");
        assert!(error.starts_with("0A000") && error.contains("floating-point") && error.contains("Use numeric"), "{error}");
    }
}
