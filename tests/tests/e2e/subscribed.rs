//! A table that logical replication feeds cannot be synced: the apply worker fires no statement triggers. That is said when the table is
//! added, and whenever a subscription comes later. A synced table may be published.

use postgres::Client;
use std::time::{Duration, Instant};
use sync_tests::cluster::describe;
use sync_tests::compare::{assert_same, assert_verified, server_rows, server_value};
use sync_tests::{Cluster, Database, Device};

const TABLES: &str = "CREATE TABLE city (id int PRIMARY KEY, name text); CREATE TABLE river (id int PRIMARY KEY, name text)";
const REASON: &str = "it is fed by a logical-replication subscription, whose apply worker fires no statement triggers";
const PROBLEMS: &str = "SELECT \"table\"::text, state, problem FROM sync.rules WHERE state = 'broken' ORDER BY 1";

fn wait_until(client: &mut Client, sql: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while server_value(client, sql) != "t" {
        assert!(Instant::now() < deadline, "never: {sql}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A subscription to what the other database publishes.
fn subscribe(publisher: &Database<'_>, name: &str) -> String {
    let server = publisher.cluster();
    format!(
        "CREATE SUBSCRIPTION {name} CONNECTION 'host={} port={} user=postgres dbname={}' PUBLICATION {name}",
        server.socket().display(),
        server.port(),
        publisher.name()
    )
}

#[test]
fn a_table_that_a_subscription_feeds_is_refused_before_and_after() {
    let (publishing, subscribing) = (Cluster::start("wal_level = logical\n"), Cluster::start(""));
    let (publisher, db) = (publishing.empty_database(), subscribing.database());
    publisher.run(TABLES);
    publisher.run(
        "INSERT INTO city VALUES (1, 'Bern'); INSERT INTO river VALUES (1, 'Aare'); CREATE PUBLICATION places FOR TABLE city",
    );
    db.run(TABLES);
    db.run("SELECT sync.create_bucket('all')");
    let mut server = db.connect();

    // Before: it is not added.
    db.run(&subscribe(&publisher, "places"));
    wait_until(&mut server, "SELECT count(*) = 1 FROM city");
    let refused = db.try_run("SELECT sync.add_table('all', 'city')").expect_err("it is fed by a subscription");
    assert!(refused.contains("0A000") && refused.contains(REASON), "{refused}");
    db.run("DROP SUBSCRIPTION places");
    db.run("SELECT sync.add_table('all', 'city'); SELECT sync.add_table('all', 'river'); SELECT sync.maintain()");
    let device = Device::new("ann");
    device.sync(&mut server);
    assert_eq!(device.value("SELECT name FROM city"), "Bern");

    // After: it is synced no longer, and comes back with the end of the subscription.
    publisher.run("INSERT INTO city VALUES (2, 'Thun')");
    db.run("DELETE FROM city");
    db.run(&subscribe(&publisher, "places"));
    assert_eq!(server_rows(&mut server, PROBLEMS), [["city", "broken", REASON]]);
    wait_until(&mut server, "SELECT count(*) = 2 FROM city");
    publisher.run("UPDATE city SET name = 'Bienne' WHERE id = 2");
    wait_until(&mut server, "SELECT count(*) = 1 FROM city WHERE name = 'Bienne'");
    device.sync(&mut server);
    assert_eq!(device.value("SELECT count(*) FROM city"), "0");

    // A publication grows, and the subscription follows it.
    publisher.run("ALTER PUBLICATION places ADD TABLE river");
    assert_eq!(server_rows(&mut server, PROBLEMS).len(), 1);
    server.batch_execute("ALTER SUBSCRIPTION places REFRESH PUBLICATION").unwrap_or_else(|e| panic!("{}", describe(&e)));
    assert_eq!(server_rows(&mut server, PROBLEMS), [["city", "broken", REASON], ["river", "broken", REASON]]);
    wait_until(&mut server, "SELECT count(*) = 1 FROM river");

    server.batch_execute("DROP SUBSCRIPTION places").unwrap_or_else(|e| panic!("{}", describe(&e)));
    assert_eq!(server_rows(&mut server, PROBLEMS), Vec::<Vec<String>>::new());
    db.run("SELECT sync.maintain(); UPDATE river SET name = name || '!'");
    device.sync(&mut server);
    assert_same(&device, &mut server, "SELECT id, name FROM city");
    assert_same(&device, &mut server, "SELECT id, name FROM river");
    assert_verified(&device);

    // Behind the back of the event triggers: maintenance finds it.
    db.run("ALTER EVENT TRIGGER sync_on_ddl DISABLE; DELETE FROM city; DELETE FROM river");
    db.run(&subscribe(&publisher, "places"));
    db.run("ALTER EVENT TRIGGER sync_on_ddl ENABLE ALWAYS");
    assert_eq!(server_rows(&mut server, PROBLEMS).len(), 0);
    db.run("SELECT sync.maintain()");
    assert_eq!(server_rows(&mut server, PROBLEMS), [["city", "broken", REASON], ["river", "broken", REASON]]);
    assert_eq!(server_value(&mut server, "SELECT value FROM sync.status WHERE what = 'broken entries'"), "2");
    db.run("DROP SUBSCRIPTION places");
}

#[test]
fn a_synced_table_is_published() {
    let (publishing, subscribing) = (Cluster::start("wal_level = logical\n"), Cluster::start(""));
    let (publisher, db) = (publishing.database(), subscribing.empty_database());
    publisher.run(TABLES);
    publisher.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'city'); SELECT sync.maintain(); CREATE PUBLICATION places FOR TABLE city");
    db.run(TABLES);
    db.run(&subscribe(&publisher, "places"));
    let (device, mut server) = (Device::new("ann"), publisher.connect());
    device.sync(&mut server);
    device.run("INSERT INTO city VALUES (1, 'Bern')");
    device.sync(&mut server);
    wait_until(&mut db.connect(), "SELECT count(*) = 1 FROM city WHERE name = 'Bern'");
    db.run("DROP SUBSCRIPTION places");
}
