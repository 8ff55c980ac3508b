//! The worker gives way, comes back, and does nothing where nothing is to be done.

use crate::{eventually, is_maintained, preloaded, value, with_rule, LAUNCHERS};
use std::process::Command;
use std::time::{Duration, Instant};
use sync_tests::{Cluster, Database};

/// A database that a visitor does not leave by himself.
fn endless(cluster: &Cluster) -> Database<'_> {
    let db = cluster.database();
    db.run(
        "CREATE FUNCTION slow(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM pg_sleep(600); RETURN i; END $$;
         CREATE TABLE task (id int PRIMARY KEY); INSERT INTO task VALUES (1)",
    );
    db.run("SELECT sync.create_bucket('one', members => 'SELECT 1'); SELECT sync.add_table('one', 'task', key => 'slow(id)')");
    let mut client = cluster.connect("postgres", "postgres");
    eventually(&mut client, "somebody visits", &format!("SELECT count(*) > 0 FROM {}", visitor_of(&db)));
    db
}

fn visitor_of(db: &Database<'_>) -> String {
    format!("pg_stat_activity WHERE backend_type = 'pg_sync visitor' AND datname = '{}' AND wait_event = 'PgSleep'", db.name())
}

#[test]
fn a_database_is_dropped_or_copied_while_it_is_visited() {
    let cluster = preloaded("");
    let mut client = cluster.connect("postgres", "postgres");
    let db = endless(&cluster);
    client.batch_execute(&format!("CREATE DATABASE copy TEMPLATE {}", db.name())).expect("the database is copied");
    client.batch_execute("DROP DATABASE copy").expect("the copy is dropped");
    eventually(&mut client, "he comes again", &format!("SELECT count(*) > 0 FROM {}", visitor_of(&db)));
    client.batch_execute(&format!("DROP DATABASE {}", db.name())).expect("the database is dropped");
    is_maintained(&with_rule(&cluster));
}

#[test]
fn a_server_stops_at_once_while_a_database_is_visited() {
    let cluster = preloaded("");
    let mut client = cluster.connect("postgres", "postgres");
    let db = endless(&cluster);
    let ended = Instant::now();
    client.batch_execute(&format!("SELECT pg_terminate_backend(pid) FROM {}", visitor_of(&db))).expect("he is told to go");
    client
        .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_sync launcher'")
        .expect("told");
    eventually(&mut client, "both are gone", "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'pg_sync%'");
    eventually(&mut client, "it comes again by itself", &format!("SELECT ({LAUNCHERS}) = 1"));
    drop(client);
    cluster.stop();
    assert!(ended.elapsed() < Duration::from_secs(50), "the visitor was waited for");
}

#[test]
fn it_comes_back_after_a_kill() {
    let cluster = preloaded("");
    let db = with_rule(&cluster);
    for _ in 0..2 {
        is_maintained(&db);
        let pid = value(&mut db.connect(), "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_sync launcher'");
        let killed = Command::new("kill").args(["-KILL", &pid]).status();
        assert!(killed.is_ok_and(|status| status.success()), "the launcher is killed");
        let deadline = Instant::now() + Duration::from_secs(60);
        // The server starts anew with all its processes.
        while cluster.try_connect(db.name(), "postgres").is_ok_and(|mut c| {
            c.batch_execute(&format!(
                "SELECT 1 / (CASE WHEN EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid}) THEN 1 ELSE 0 END)"
            ))
            .is_ok()
        }) {
            assert!(Instant::now() < deadline, "the server does not notice");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    is_maintained(&db);
}

#[test]
fn the_extension_goes_and_comes() {
    let cluster = preloaded("");
    let db = with_rule(&cluster);
    is_maintained(&db);
    db.run("DROP EXTENSION pg_sync CASCADE");
    let mut client = db.connect();
    // Whoever owns the database may call something by the same names: nobody calls it.
    client
        .batch_execute(
            "CREATE ROLE mallory; CREATE SCHEMA sync AUTHORIZATION mallory; CREATE TABLE called (who name); GRANT ALL ON called TO mallory;
             SET ROLE mallory; CREATE FUNCTION sync.attend() RETURNS boolean LANGUAGE sql AS 'INSERT INTO public.called VALUES (current_user); SELECT true';
             CREATE FUNCTION sync.is_due() RETURNS boolean LANGUAGE sql AS 'INSERT INTO public.called VALUES (current_user); SELECT true'",
        )
        .expect("a schema of the same name");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(value(&mut client, "SELECT count(*) FROM called"), "0");
    client.batch_execute("RESET ROLE; DROP SCHEMA sync CASCADE; CREATE EXTENSION pg_sync").expect("the extension comes again");
    is_maintained(&db);
    let log = cluster.log();
    assert!(!log.contains("ERROR:  relation"), "{log}");
}

#[test]
fn a_standby_is_left_alone_until_it_is_promoted() {
    let settings = "shared_preload_libraries = 'pg_sync'\nsync.worker_interval = 1\n";
    let primary = Cluster::start("");
    let db = with_rule(&primary);
    let standby = primary.standby(settings);
    primary.wait_for(&standby);
    let copy = standby.same(&db);
    let mut client = copy.connect();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(value(&mut client, LAUNCHERS), "0");
    let refused = client.batch_execute("SELECT sync.start_worker()").expect_err("a standby starts none");
    assert_eq!(refused.code().map(postgres::error::SqlState::code), Some("25006"));
    primary.stop();
    standby.promote();
    eventually(&mut copy.connect(), "it begins", &format!("SELECT ({LAUNCHERS}) = 1"));
    is_maintained(&copy);
}
