//! Postgres compiles a query that it takes for dear (`jit_above_cost`), each time that it runs. The tables of a new installation are small and
//! not analyzed, and what is guessed of them must not make them dear.

use sync_tests::compare::{assert_alike, assert_verified};
use sync_tests::{skipped, Cluster, Device};

#[test]
fn on_a_new_server_nothing_is_compiled_for_a_device() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE item (id int PRIMARY KEY, list int, body text);
         SELECT sync.create_bucket('list', members => 'SELECT i FROM generate_series(1, 20) i');
         SELECT sync.add_table('list', 'item', key => 'list')",
    );
    if db.connect().query_one("SELECT pg_jit_available()", &[]).expect("an answer").get::<_, bool>(0) {
        // The last compilation of a query says how long it took, at this level.
        db.run(&format!("ALTER DATABASE {} SET log_min_messages = 'debug1'", db.name()));
    } else {
        return skipped("this Postgres compiles no queries");
    }
    let compiled = || db.cluster().log().lines().filter(|l| l.contains(db.name()) && l.contains("time to inline")).count();
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    device.run("INSERT INTO item VALUES (1, 1, 'one'), (2, 20, 'two')");
    device.sync(&mut server);
    server.batch_execute("UPDATE item SET body = 'more'; SELECT sync.maintain()").expect("a write");
    device.sync(&mut server);
    assert_alike(&device, "SELECT * FROM item", &mut server, "SELECT * FROM item");
    assert_verified(&device);
    assert_eq!(compiled(), 0, "{}", db.cluster().log());
    server.batch_execute("SET jit_above_cost = 0; SELECT count(*) FROM item").expect("a query");
    assert_ne!(compiled(), 0, "what is compiled is not seen in the log");
}
