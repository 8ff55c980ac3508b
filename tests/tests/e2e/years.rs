//! What maintenance does by itself over the years: sums are checked, devices that never came back are forgotten.

use sync_tests::compare::{assert_same, assert_verified, server_value};
use sync_tests::{Cluster, Database, Device};

fn places() -> Database<'static> {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE place (id int PRIMARY KEY, name text); INSERT INTO place SELECT i, 'place ' || i FROM generate_series(1, 50) i");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'place'); SELECT sync.maintain()");
    db
}

/// Writes past the capture triggers, and past what watches over them, until somebody enables the triggers again.
const PAST: &str = "BEGIN; ALTER EVENT TRIGGER sync_on_ddl DISABLE; ALTER TABLE place DISABLE TRIGGER ALL;
    UPDATE place SET name = 'past' WHERE id = 7; DELETE FROM place WHERE id = 8; ALTER EVENT TRIGGER sync_on_ddl ENABLE ALWAYS; COMMIT";

/// The same, and puts the triggers back as they were, so that nothing tells of it.
fn past_in_secret() -> String {
    let enable = ["insert", "update", "delete", "truncate"].map(|e| format!("ENABLE ALWAYS TRIGGER sync_capture_{e}")).join(", ");
    PAST.replace(
        "ALTER EVENT TRIGGER sync_on_ddl ENABLE",
        &format!("ALTER TABLE place {enable}; ALTER EVENT TRIGGER sync_on_ddl ENABLE"),
    )
}

#[test]
fn a_table_whose_triggers_were_disabled_is_compared_at_once() {
    let db = places();
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    db.run(PAST);
    db.run("ALTER TABLE place ENABLE TRIGGER ALL");
    let waiting = "SELECT value FROM sync.status WHERE what = 'tables to be compared'";
    assert_eq!(server_value(&mut server, waiting), "1");
    db.run("SELECT sync.maintain()");
    assert_eq!(server_value(&mut server, waiting), "0");
    assert_eq!(server_value(&mut server, "SELECT value FROM sync.status WHERE what = 'sums set right'"), "1");
    device.sync(&mut server);
    assert_same(&device, &mut server, "SELECT id, name FROM place");
    assert_verified(&device);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.verify_table('place')"), "0");
}

#[test]
fn each_table_is_compared_from_time_to_time() {
    let db = places();
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    db.run(&past_in_secret());
    db.run("SELECT sync.maintain()");
    assert_eq!(server_value(&mut server, "SELECT sum(mended) FROM sync.verified"), "0");
    // A month later.
    db.run("UPDATE sync.verified SET at = at - interval '31 days'");
    db.run("BEGIN; SET LOCAL sync.verify_every = '0'; SELECT sync.maintain(); COMMIT");
    assert_eq!(server_value(&mut server, "SELECT sum(mended) FROM sync.verified"), "0");
    db.run("SELECT sync.maintain()");
    assert_eq!(server_value(&mut server, "SELECT sum(mended) FROM sync.verified"), "1");
    device.sync(&mut server);
    assert_same(&device, &mut server, "SELECT id, name FROM place");
    assert_verified(&device);
}

#[test]
fn a_device_that_was_forgotten_goes_on_under_a_new_identity() {
    let db = places();
    let mut server = db.connect();
    let (gone, stays, revoked) = (Device::new("ann"), Device::new("bob"), Device::new("eve"));
    for device in [&gone, &stays, &revoked] {
        device.sync(&mut server);
        device.run("UPDATE place SET name = name || '!' WHERE id = 1");
        device.sync(&mut server);
    }
    // So much later it has let go of what was confirmed.
    gone.run("DELETE FROM sync_change WHERE batch IN (SELECT id FROM sync_batch WHERE state = 2); DELETE FROM sync_batch WHERE state = 2");
    // Its last write is taken, and it never hears of it.
    gone.run("UPDATE place SET name = name || '?' WHERE id = 2");
    let lost = gone.pending_ops().expect("a batch");
    sync_tests::device::server_push(&mut server, &gone.user, &lost).expect("the server takes it");
    let device = |d: &Device| d.value("SELECT lower(hex(value)) FROM sync_meta WHERE name = 'device'");
    let before = device(&gone);
    db.run("UPDATE sync.device SET revoked = now() WHERE user_id = 'eve'");
    // Two years later.
    db.run(
        "UPDATE sync.batch SET pushed = pushed - interval '2 years'; UPDATE sync.checkpoint SET at = at - interval '2 years';
         UPDATE sync.device SET seen = seen - interval '2 years' WHERE user_id <> 'bob'",
    );
    db.run("BEGIN; SET LOCAL sync.keep_devices = '0'; SELECT sync.maintain(); COMMIT; UPDATE sync.checkpoint SET at = at - interval '1 day'");
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.device"), "3");
    db.run("SELECT sync.maintain()");
    assert_eq!(server_value(&mut server, "SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM sync.device"), "bob eve");
    gone.run("UPDATE place SET name = name || '#' WHERE id = 3");
    gone.sync(&mut server);
    gone.sync(&mut server);
    assert_ne!(device(&gone), before, "a new identity");
    assert_eq!(
        server_value(&mut server, "SELECT string_agg(name, ' ' ORDER BY id) FROM place WHERE id < 4"),
        "place 1!!! place 2? place 3#"
    );
    assert_same(&gone, &mut server, "SELECT id, name FROM place");
    assert_eq!(gone.value("SELECT count(*) FROM sync_pending"), "0");
}

#[test]
fn many_forgotten_devices_go_in_chunks() {
    let db = places();
    db.run("INSERT INTO sync.device (device, user_id, seen) SELECT gen_random_uuid(), 'u' || i, now() - interval '2 years' FROM generate_series(1, 100000) i");
    let mut server = db.connect();
    for left in ["50000", "0"] {
        db.run("UPDATE sync.checkpoint SET at = at - interval '2 hours'; SELECT sync.maintain()");
        assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.device"), left);
    }
}
