//! The background worker notifies, so that writers need not.

use postgres::fallible_iterator::FallibleIterator;
use postgres::Client;
use serde_json::Value as Json;
use std::time::{Duration, Instant};
use sync_tests::gateway::served;
use sync_tests::Cluster;

/// What is told within a time.
fn told(client: &mut Client, limit: Duration) -> Vec<Json> {
    let mut notifications = client.notifications();
    let mut iter = notifications.timeout_iter(limit);
    let mut found = Vec::new();
    while let Some(notification) = iter.next().expect("the connection stays") {
        found.push(serde_json::from_str(notification.payload()).expect("a payload is JSON"));
    }
    found
}

fn listener(db: &sync_tests::Database<'_>) -> Client {
    let mut client = db.connect();
    let channel: String = client.query_one("SELECT sync.wake_channel()", &[]).expect("a channel").get(0);
    client.batch_execute(&format!("LISTEN {channel}")).expect("it listens");
    client
}

const WAKERS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_sync waker' AND datname = current_database()";

fn wakers(client: &mut Client, wanted: i64) {
    let deadline = Instant::now() + crate::SOON;
    while client.query_one(WAKERS, &[]).expect("an answer").get::<_, i64>(0) != wanted {
        assert!(Instant::now() < deadline, "{wanted} wakers are expected");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_worker_notifies_of_buckets_once_for_many_changes() {
    let cluster = Cluster::start("shared_preload_libraries = 'pg_sync'\nsync.worker_interval = 1\nsync.wake_interval = '300ms'");
    let served = served(&cluster);
    served.lists(2);
    let mut client = listener(&served.db);
    let mut writer = served.db.connect();
    let deadline = Instant::now() + crate::SOON;
    // Everybody is told of a rule, and when a waker begins.
    writer.batch_execute("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'member')").expect("a rule");
    while !told(&mut client, Duration::from_millis(200)).iter().any(|n| n["everyone"] == true) {
        assert!(Instant::now() < deadline, "nobody is told anything");
    }
    writer.batch_execute("SELECT sync.drop_bucket('all')").expect("no rule");
    told(&mut client, Duration::from_secs(1));
    for n in 0..50 {
        writer.batch_execute(&format!("INSERT INTO task (list_id, body) VALUES ({}, 'x')", n % 2 + 1)).expect("an insert");
    }
    let news: Vec<_> = told(&mut client, Duration::from_millis(1500)).into_iter().filter(|n| n["buckets"].is_array()).collect();
    let mut buckets: Vec<_> =
        news.iter().flat_map(|n| n["buckets"].as_array().expect("a list").iter().map(Json::to_string)).collect();
    buckets.sort();
    buckets.dedup();
    assert_eq!(buckets.len(), 2, "{news:?}");
    assert!(news.len() <= 20, "50 changes are told by {} notifications", news.len());
    // Nobody is told where nothing happens, and the notifications themselves are nothing.
    served.db.run("INSERT INTO member VALUES (2, 'user1')");
    assert!(told(&mut client, Duration::from_secs(2)).iter().any(|n| n["members"] == true));
    wakers(&mut client, 1);
    // Whoever guesses at names of channels hears nothing: his database's is another one.
    let other = cluster.database();
    assert_ne!(
        client.query_one("SELECT sync.wake_channel()", &[]).expect("a channel").get::<_, String>(0),
        format!("sync_{}", other.name())
    );
    drop(client);
    drop(writer);
    // The waker is in nobody's way.
    let mut admin = cluster.connect("postgres", "postgres");
    admin.batch_execute(&format!("DROP DATABASE {}", served.db.name())).expect("the database is dropped");
}

#[test]
fn it_begins_and_ends_with_its_setting_and_after_start_worker() {
    let cluster = Cluster::start("sync.worker_interval = 1\nsync.worker = off");
    let served = served(&cluster);
    let mut admin = served.db.connect();
    admin.batch_execute("SELECT sync.start_worker()").expect("a worker");
    admin.batch_execute("ALTER SYSTEM SET sync.wake_interval = '20ms'").expect("a setting");
    admin.batch_execute("SELECT pg_reload_conf()").expect("the settings are read");
    let mut client = listener(&served.db);
    wakers(&mut admin, 1);
    assert!(told(&mut client, Duration::from_secs(2)).iter().any(|n| n["everyone"] == true));
    served.lists(1);
    assert!(told(&mut client, Duration::from_secs(2)).iter().any(|n| n["buckets"].is_array()));
    admin.batch_execute("ALTER SYSTEM RESET sync.wake_interval").expect("a setting");
    admin.batch_execute("SELECT pg_reload_conf()").expect("the settings are read");
    wakers(&mut admin, 0);
    admin.batch_execute("ALTER SYSTEM SET sync.wake_interval = '20ms'").expect("a setting");
    admin.batch_execute("SELECT pg_reload_conf()").expect("the settings are read");
    wakers(&mut admin, 1);
    admin.batch_execute("SELECT sync.stop_worker()").expect("it is stopped");
    wakers(&mut admin, 0);
}
