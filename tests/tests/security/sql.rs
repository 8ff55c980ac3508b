//! What somebody with a login of the database and nothing else can do: nothing.

use sync_tests::compare::server_value;
use sync_tests::Cluster;

#[test]
fn nobody_can_stop_maintenance_by_holding_a_lock() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE note (id int PRIMARY KEY, body text); SELECT sync.create_bucket('all')");
    let mal = format!("mal_{}_{}", db.name(), std::process::id());
    db.run(&format!("CREATE ROLE {mal} LOGIN"));
    let mut mal = db.connect_as(&mal);
    // Every lock that any SQL user may take and that the extension's tables could be thought to give a name to.
    mal.batch_execute("SELECT pg_advisory_lock(oid::bigint) FROM pg_class WHERE relnamespace = 'sync'::regnamespace")
        .expect("locked");
    for table in ["sync.horizon", "sync.base", "sync.op", "sync.device"] {
        let denied = mal.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN ACCESS SHARE MODE; COMMIT")).expect_err("denied");
        assert_eq!(denied.code().map(|c| c.code().to_owned()).as_deref(), Some("42501"), "{table}");
        mal.batch_execute("ROLLBACK").expect("rolled back");
    }
    db.run("SELECT sync.add_table('all', 'note')");
    let mut server = db.connect();
    server
        .batch_execute("SET lock_timeout = '5s'; SELECT sync.maintain(); SELECT * FROM sync.verify_table('note')")
        .expect("maintained");
    assert_eq!(server_value(&mut server, "SELECT string_agg(state, ' ') FROM sync.rules"), "ready");
}
