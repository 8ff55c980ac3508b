//! What only newer servers have.

use sync_tests::compare::{assert_same, server_value};
use sync_tests::{Cluster, Database, Device};

/// The shared server's, as 150004.
fn version(db: &Database<'_>) -> u32 {
    server_value(&mut db.connect(), "SHOW server_version_num").parse().expect("a number")
}

#[test]
fn generated_columns_that_are_not_stored_stay_on_the_server() {
    let db = Cluster::shared().database();
    if version(&db) < 180_000 {
        return;
    }
    db.run(
        "BEGIN; CREATE TABLE item (id int PRIMARY KEY, price int, twice int GENERATED ALWAYS AS (price * 2) VIRTUAL,
             thrice int GENERATED ALWAYS AS (price * 3) STORED);
         INSERT INTO item VALUES (1, 10); COMMIT; SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'item')",
    );
    let mut server = db.connect();
    let device = Device::new("ann");
    device.sync(&mut server);
    db.run("ALTER TABLE item ADD COLUMN half int GENERATED ALWAYS AS (price / 2) VIRTUAL; INSERT INTO item VALUES (2, 20)");
    device.run("UPDATE item SET price = 11 WHERE id = 1");
    device.sync(&mut server);
    device.sync(&mut server);
    assert_same(&device, &mut server, "SELECT id, price, thrice FROM item");
    assert_eq!(device.value("SELECT group_concat(name) FROM pragma_table_info('item')"), "id,price,thrice");
    sync_tests::compare::assert_verified(&device);
    let refused = db.try_run("CREATE TABLE other (id int PRIMARY KEY, v int GENERATED ALWAYS AS (id) VIRTUAL); SELECT sync.add_table('all', 'other', filter => 'v > 1')");
    assert!(refused.is_err_and(|e| e.starts_with("0A000") && e.contains("not stored")));
    let refused = db.try_run("CREATE TABLE other (id int PRIMARY KEY, v int GENERATED ALWAYS AS (id) VIRTUAL); SELECT sync.add_table('all', 'other', columns => '{id,v}')");
    assert!(refused.is_err_and(|e| e.starts_with("0A000") && e.contains("computed when it is read")));
}

#[test]
fn keys_without_overlaps_are_refused() {
    let db = Cluster::shared().database();
    if version(&db) < 180_000 {
        return;
    }
    db.run("CREATE TABLE stay (room int4range, at daterange, PRIMARY KEY (room, at WITHOUT OVERLAPS)); SELECT sync.create_bucket('all')");
    let refused = db.try_run("SELECT sync.add_table('all', 'stay')");
    assert!(refused.is_err_and(|e| e.starts_with("0A000") && e.contains("WITHOUT OVERLAPS")));
}
