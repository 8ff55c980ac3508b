//! The background worker: everything here is maintained without a call of `sync.maintain()`.

mod alone;
mod dynamic;
mod visits;

use postgres::Client;
use std::time::{Duration, Instant};
use sync_tests::{Cluster, Database};

/// A server that loads the library as it starts, and visits every second.
pub fn preloaded(more: &str) -> Cluster {
    Cluster::start(&format!("shared_preload_libraries = 'pg_sync'\nsync.worker_interval = 1\n{more}"))
}

/// A database with a rule for everybody over one table.
pub fn with_rule(cluster: &Cluster) -> Database<'_> {
    let db = cluster.database();
    db.run(
        "CREATE TABLE task (id int PRIMARY KEY, title text); INSERT INTO task SELECT i, 'task ' || i FROM generate_series(1, 100) i",
    );
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'task')");
    db
}

/// Waits until a query answers true.
pub fn eventually(client: &mut Client, what: &str, sql: &str) {
    let deadline = Instant::now() + Duration::from_secs(25);
    while !client
        .query_one(sql, &[])
        .unwrap_or_else(|e| panic!("{what}: {}", sync_tests::cluster::describe(&e)))
        .get::<_, bool>(0)
    {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn value(client: &mut Client, sql: &str) -> String {
    let sql = format!("SELECT ({sql})::text");
    client
        .query_one(&sql, &[])
        .unwrap_or_else(|e| panic!("{sql}: {}", sync_tests::cluster::describe(&e)))
        .get::<_, Option<String>>(0)
        .unwrap_or_default()
}

/// Maintained again since now.
pub fn is_maintained(db: &Database<'_>) {
    let mut client = db.connect();
    let before = value(&mut client, "SELECT coalesce(max(id), 0) FROM sync.mark");
    eventually(&mut client, "a mark is left", &format!("SELECT max(id) > {before} FROM sync.mark"));
    eventually(&mut client, "a checkpoint is recorded", "SELECT max(at) > now() - interval '10 seconds' FROM sync.checkpoint");
}

pub const LAUNCHERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_sync launcher'";
