//! What the worker does where the library is preloaded.

use crate::{eventually, is_maintained, preloaded, value, with_rule, LAUNCHERS};
use sync_tests::compare::assert_verified;
use sync_tests::Device;

#[test]
fn every_database_with_the_extension_is_maintained() {
    let cluster = preloaded("");
    let databases = [with_rule(&cluster), with_rule(&cluster)];
    for db in &databases {
        let mut client = db.connect();
        eventually(&mut client, "the sums are known", "SELECT bool_and(state = 'ready') FROM sync.entry");
        assert_eq!(value(&mut client, "SELECT sum(count) FROM sync.base"), "100");
        is_maintained(db);
        assert_eq!(value(&mut client, "SELECT value FROM sync.status WHERE what = 'background worker'"), "runs");
        assert_eq!(value(&mut client, "SELECT failures FROM sync.visit"), "0");
    }
    let device = Device::new("ann");
    device.sync(&mut databases[0].connect());
    assert_eq!(device.value("SELECT count(*) FROM task"), "100");
    assert_verified(&device);
    let mut client = databases[0].connect();
    assert_eq!(value(&mut client, LAUNCHERS), "1");
    assert_eq!(
        value(&mut client, "SELECT application_name FROM pg_stat_activity WHERE backend_type = 'pg_sync launcher'"),
        "pg_sync"
    );
    // Where all are visited nobody needs another one.
    assert_eq!(value(&mut client, "SELECT sync.start_worker()"), "false");
    assert_eq!(value(&mut client, "SELECT sync.stop_worker()"), "false");
}

#[test]
fn what_is_older_than_the_lease_leaves_the_log() {
    let cluster = preloaded("sync.lease = '1 second'");
    let db = with_rule(&cluster);
    let mut client = db.connect();
    eventually(&mut client, "the sums are known", "SELECT bool_and(state = 'ready') FROM sync.entry");
    client.batch_execute("INSERT INTO task SELECT i, 'more' FROM generate_series(101, 200) i").expect("an insert");
    eventually(&mut client, "the log is empty", "SELECT count(*) = 0 FROM sync.op");
    assert_eq!(value(&mut client, "SELECT sum(count) FROM sync.base"), "200");
    assert_eq!(value(&mut client, "SELECT count(*) FROM sync.verify_table('task')"), "0");
}

#[test]
fn only_listed_databases_are_visited_and_none_where_it_is_off() {
    let cluster = preloaded("sync.worker_databases = 'db1, postgres'");
    let (other, listed) = (with_rule(&cluster), with_rule(&cluster));
    assert_eq!(listed.name(), "db1");
    is_maintained(&listed);
    let mut client = other.connect();
    assert_eq!(value(&mut client, "SELECT count(*) FROM sync.visit"), "0");
    assert_eq!(value(&mut client, "SELECT value FROM sync.status WHERE what = 'background worker'"), "none");
    client.batch_execute("ALTER SYSTEM SET sync.worker = off").expect("a setting");
    client.batch_execute("SELECT pg_reload_conf()").expect("the settings are read");
    let mut client = listed.connect();
    eventually(&mut client, "it is off", "SELECT current_setting('sync.worker') = 'off'");
    let last = "SELECT max(id) FROM sync.mark";
    // A visit may have been under way.
    eventually(&mut client, "nobody visits", "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_sync visitor'");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let before = value(&mut client, last);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(value(&mut client, last), before);
    assert_eq!(value(&mut client, "SELECT value FROM sync.status WHERE what = 'background worker'"), "off");
}

#[test]
fn a_table_that_cannot_be_read_does_not_stop_the_others() {
    let cluster = preloaded("");
    let db = cluster.database();
    db.run(
        "CREATE FUNCTION bad(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
            BEGIN IF i = 7 THEN RAISE EXCEPTION 'seven is bad'; END IF; RETURN i; END $$;
         CREATE TABLE a (id int PRIMARY KEY, kind int); INSERT INTO a SELECT i, i FROM generate_series(1, 10) i;
         CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b SELECT generate_series(1, 10)",
    );
    db.run(
        "SELECT sync.create_bucket('a', members => 'SELECT 1'); SELECT sync.add_table('a', 'a', key => 'bad(kind)');
         SELECT sync.create_bucket('b'); SELECT sync.add_table('b', 'b')",
    );
    let mut client = db.connect();
    eventually(&mut client, "b is ready", "SELECT bool_or(state = 'ready') FROM sync.rules WHERE bucket = 'b'");
    eventually(
        &mut client,
        "the failure is told",
        "SELECT bool_or(problem LIKE '%seven is bad%') FROM sync.rules WHERE bucket = 'a'",
    );
    eventually(&mut client, "the visit failed", "SELECT coalesce(max(failures), 0) > 0 FROM sync.visit");
    let note = value(&mut client, "SELECT note FROM sync.status WHERE what = 'background worker'");
    assert!(note.contains("seven is bad"), "{note}");
    client.batch_execute("UPDATE a SET kind = 8 WHERE id = 7").expect_err("capture cannot say the old row's bucket");
    client
        .batch_execute("CREATE OR REPLACE FUNCTION bad(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i'")
        .expect("mended");
    // As if an hour had passed.
    client.batch_execute("UPDATE sync.visit SET at = at - interval '1 day'").expect("time passes");
    eventually(
        &mut client,
        "a is ready",
        "SELECT bool_or(state = 'ready' AND problem IS NULL) FROM sync.rules WHERE bucket = 'a'",
    );
}
