//! Rows that are too large for a device, and many that are large: the rest arrives.

use sync_tests::compare::{assert_alike, assert_verified};
use sync_tests::{Cluster, Device};

const TABLE: &str = "
    CREATE TABLE big (id int PRIMARY KEY, body text);
    INSERT INTO big VALUES (1, 'one'), (2, repeat('x', 70 << 20)), (3, 'three');
    SELECT sync.create_bucket('all');
";

#[test]
fn a_row_that_is_too_large_is_set_aside_and_the_others_arrive() {
    // Of its own: what the log says is asked for below.
    let cluster = Cluster::start("");
    let db = cluster.database();
    db.run(TABLE);
    db.run("SELECT sync.add_table('all', 'big')");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    let mut check = |change: &str, ids: &str| {
        db.run(change);
        device.sync(&mut server);
        let held = format!("SELECT id, length(body) FROM big WHERE id IN ({ids})");
        assert_alike(&device, "SELECT id, length(body) FROM big", &mut server, &held);
        assert_verified(&device);
    };
    check("SELECT 1", "1, 3");
    check("SELECT sync.maintain()", "1, 3");
    assert!(cluster.log().contains("table public.big: the row with the key 2 has"), "{}", cluster.log());
    check(
        "UPDATE big SET body = 'first' WHERE id = 1; INSERT INTO big VALUES (4, repeat('y', 80 << 20)), (5, 'five')",
        "1, 3, 5",
    );
    assert!(cluster.log().contains("the row with the key 4 has"), "{}", cluster.log());
    check("UPDATE big SET body = left(body, 10) WHERE id = 2", "1, 2, 3, 5");
    check("UPDATE big SET body = repeat('z', 65 << 20) WHERE id = 3", "1, 2, 5");
    check("DELETE FROM big WHERE id IN (2, 3, 4); SELECT sync.maintain()", "1, 5");
}

#[test]
fn large_rows_that_changed_arrive_a_few_at_a_time() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE big (id int PRIMARY KEY, body text); INSERT INTO big SELECT i, '' FROM generate_series(1, 8) i");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'big')");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    db.run("UPDATE big SET body = repeat(id::text, 9 << 20)");
    assert!(device.pull(&mut server).len() > 8, "each fills a page");
    let sizes = "SELECT id, length(body), substr(body, 1, 1) FROM big";
    assert_alike(&device, sizes, &mut server, sizes);
    assert_verified(&device);
}
