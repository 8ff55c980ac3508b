//! A worker that was started by hand, where the library is not preloaded.

use crate::{eventually, is_maintained, value, with_rule, LAUNCHERS};
use sync_tests::cluster::describe;
use sync_tests::Cluster;

#[test]
fn an_administrator_starts_and_stops_one_for_his_database() {
    let cluster = Cluster::start("sync.worker_interval = 1");
    let (db, other) = (with_rule(&cluster), with_rule(&cluster));
    db.run("CREATE ROLE admin LOGIN IN ROLE sync_admin; CREATE ROLE anybody LOGIN");
    let refused = db.connect_as("anybody").batch_execute("SELECT sync.start_worker()").expect_err("not everybody may");
    assert!(describe(&refused).starts_with("42501"), "{}", describe(&refused));
    let mut admin = db.connect_as("admin");
    assert_eq!(value(&mut admin, "SELECT value FROM sync.status WHERE what = 'background worker'"), "none");
    assert_eq!(value(&mut admin, "SELECT sync.start_worker()"), "true");
    is_maintained(&db);
    eventually(&mut db.connect(), "the sums are known", "SELECT bool_and(state = 'ready') FROM sync.entry");
    assert_eq!(value(&mut admin, "SELECT sync.start_worker()"), "false");
    assert_eq!(value(&mut admin, "SELECT value FROM sync.status WHERE what = 'background worker'"), "runs");
    let mut stranger = other.connect();
    assert_eq!(value(&mut stranger, "SELECT count(*) FROM sync.visit"), "0");
    assert_eq!(value(&mut stranger, "SELECT sync.stop_worker()"), "false");
    assert_eq!(value(&mut admin, "SELECT sync.stop_worker()"), "true");
    eventually(&mut stranger, "it ends", &format!("SELECT ({LAUNCHERS}) = 0"));
    assert_eq!(value(&mut admin, "SELECT sync.start_worker()"), "true");
    // Many at once are one.
    for _ in 0..3 {
        admin.batch_execute("SELECT sync.start_worker()").expect("another try");
    }
    is_maintained(&db);
    eventually(&mut stranger, "one is left", &format!("SELECT ({LAUNCHERS}) = 1"));
    drop(admin);
    stranger.batch_execute(&format!("DROP DATABASE {}", db.name())).expect("the database is dropped");
    eventually(&mut stranger, "the worker goes with its database", &format!("SELECT ({LAUNCHERS}) = 0"));
}
