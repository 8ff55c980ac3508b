//! Content that changed behind everybody's back is found and mended, and only what differs is exchanged.

use postgres::Client;
use sync_shared::envelope::{decode, encode};
use sync_shared::message::{Delta, Differ, PartSum, PullRequest, PushRequest};
use sync_tests::compare::{assert_same, assert_verified, server_rows, server_value};
use sync_tests::device::{server_pull, server_push};
use sync_tests::{Cluster, Database, Device};

/// What a repair moved.
#[derive(Debug, Default)]
struct Moved {
    rows: u32,
    bytes: usize,
    round_trips: u32,
}

/// The pull loop, measured.
fn pull(device: &Device, server: &mut Client) -> Moved {
    let mut moved = Moved::default();
    loop {
        let request = device.pull_request();
        let reply = server_pull(server, &device.user, &request).expect("a reply");
        if let Ok(delta) = decode::<Delta>(&reply) {
            moved.rows += delta.changes.iter().map(|c| c.row_count + c.gone_count).sum::<u32>();
        }
        moved.bytes += request.len() + reply.len();
        moved.round_trips += 1;
        if !device.apply(&reply).expect("a reply is applied").more() {
            return moved;
        }
    }
}

/// Writes on a device past the capture triggers, as a faulty tool would.
fn damage(device: &Device, sql: &str) {
    let sql = format!("UPDATE sync_guard SET applying = 1; {sql}; UPDATE sync_guard SET applying = 0");
    device.plain_connection().execute_batch(&sql).expect("the damage is done");
}

/// Writes on the server past the capture triggers, and past what watches over them.
fn past_triggers(db: &Database<'_>, sql: &str) {
    db.run(&format!(
        "BEGIN; ALTER EVENT TRIGGER sync_on_ddl DISABLE; ALTER TABLE place DISABLE TRIGGER ALL; {sql};
         ALTER TABLE place ENABLE TRIGGER ALL; ALTER EVENT TRIGGER sync_on_ddl ENABLE ALWAYS; COMMIT"
    ));
}

/// A table of many rows, and a device that has them.
fn many(rows: u32) -> (Database<'static>, Client, Device) {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE place (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, size int)");
    db.run(&format!("INSERT INTO place (name, size) SELECT 'Größe ' || md5(i::text), i FROM generate_series(1, {rows}) i"));
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'place'); SELECT sync.maintain()");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    (db, server, device)
}

#[test]
fn one_damaged_row_in_a_hundred_thousand_costs_a_few_kilobytes() {
    let (_db, mut server, device) = many(100_000);
    for sql in ["UPDATE place SET name = 'wrong' WHERE size = 7", "DELETE FROM place WHERE size = 8"] {
        damage(&device, sql);
        let report = device.value("SELECT sync_verify()");
        assert!(report.contains(r#""rule":"all""#), "{report}");
        let moved = pull(&device, &mut server);
        assert!(moved.rows < 300 && moved.bytes < 40_000 && moved.round_trips <= 3, "{moved:?}");
        assert_same(&device, &mut server, "SELECT * FROM place");
        assert_verified(&device);
    }
}

#[test]
fn rows_that_nobody_sent_go() {
    let (_db, mut server, device) = many(1_000);
    damage(&device, "INSERT INTO place VALUES ('00000000-0000-0000-0000-000000000000', 'nobody''s', 1)");
    assert!(device.value("SELECT sync_verify()").contains(r#""strays":1"#));
    assert_same(&device, &mut server, "SELECT * FROM place");
    damage(&device, "DELETE FROM sync_row WHERE key = (SELECT id FROM place WHERE size = 77)");
    device.run("SELECT sync_verify()");
    pull(&device, &mut server);
    assert_same(&device, &mut server, "SELECT * FROM place");
    assert_verified(&device);
}

#[test]
fn unsent_writes_survive_a_repair() {
    let (_db, mut server, device) = many(1_000);
    device.run("UPDATE place SET name = 'mine' WHERE size = 5; DELETE FROM place WHERE size = 6");
    device.run("INSERT INTO place VALUES ('00000000-0000-0000-0000-00000000000a', 'mine too', 0)");
    assert!(device.pending_ops().is_some());
    damage(&device, "UPDATE place SET size = -1 WHERE size BETWEEN 100 AND 110; DELETE FROM place WHERE size = 200");
    device.run("SELECT sync_verify('server')");
    pull(&device, &mut server);
    assert_eq!(device.rows("SELECT name FROM place WHERE size IN (0, 5, 6)"), [["mine"], ["mine too"]]);
    device.sync(&mut server);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM place WHERE name LIKE 'mine%' OR size = 6"), "2");
    assert_same(&device, &mut server, "SELECT * FROM place");
    assert_verified(&device);
}

#[test]
fn rows_changed_past_the_triggers_are_found_and_mended_from_the_server() {
    let (db, mut server, device) = many(20_000);
    past_triggers(
        &db,
        "UPDATE place SET name = 'past' WHERE size = 3; DELETE FROM place WHERE size = 4; INSERT INTO place (size) VALUES (-5)",
    );
    device.sync(&mut server);
    assert_eq!(device.value("SELECT count(*) FROM place WHERE name = 'past'"), "0", "nothing told the device");
    let found = server_rows(&mut server, "SELECT rule, rows_recorded, rows_found FROM sync.verify_table('place')");
    assert_eq!(found, [["all", "20000", "20000"]]);
    assert!(server_rows(&mut server, "SELECT * FROM sync.verify_table('place')").is_empty());
    let moved = pull(&device, &mut server);
    assert!(moved.rows < 1_000 && moved.round_trips <= 4, "{moved:?}");
    assert_same(&device, &mut server, "SELECT * FROM place");
    assert_verified(&device);
    db.run("SELECT sync.maintain(); UPDATE place SET name = 'later' WHERE size < 100");
    assert_eq!(pull(&device, &mut server).round_trips, 1, "all sums are right again");
}

#[test]
fn rows_changed_past_the_triggers_are_found_and_mended_from_the_device() {
    let (db, mut server, device) = many(20_000);
    past_triggers(&db, "UPDATE place SET name = 'past' WHERE size = 3");
    device.run("SELECT sync_verify('server')");
    let moved = pull(&device, &mut server);
    assert!(moved.rows < 1_000, "{moved:?}");
    assert_same(&device, &mut server, "SELECT * FROM place");
    // What the server has recorded is wrong until it looks at its table itself; a device does not ask for ever.
    db.run("UPDATE place SET name = 'later' WHERE size = 9");
    device.sync(&mut server);
    assert_same(&device, &mut server, "SELECT * FROM place");
    db.run("SELECT sync.verify_table('place')");
    device.sync(&mut server);
    assert_eq!(device.value("SELECT value FROM sync_status WHERE name = 'mismatch'"), "0");
    assert_verified(&device);
}

/// The next compare of the table was long ago, as far as the server knows.
const DAYS_PASS: &str = "UPDATE sync.verified SET at = at - interval '2 days'";
const IN_DOUBT: &str = "SELECT string_agg(relid::regclass::text, ' ') FROM sync.verified WHERE at = '-infinity'";

#[test]
fn a_device_tells_the_server_that_its_sums_are_wrong() {
    let (db, mut server, device) = many(2_000);
    db.run("CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1)");
    db.run("SELECT sync.add_table('all', 'other'); SELECT sync.maintain()");
    device.sync(&mut server);
    db.run(DAYS_PASS);
    past_triggers(&db, "UPDATE place SET name = 'past' WHERE size = 3");
    device.run("SELECT sync_verify('server')");
    pull(&device, &mut server);
    assert_same(&device, &mut server, "SELECT * FROM place");
    assert_eq!(device.value("SELECT value FROM sync_status WHERE name = 'mismatch'"), "1");
    // It has nothing else to send, and says it once.
    assert!(device.push(&mut server).is_some());
    assert_eq!(device.pending_ops(), None);
    assert_eq!(server_value(&mut server, IN_DOUBT), "place");
    db.run("SELECT sync.maintain()");
    assert_eq!(server_value(&mut server, "SELECT mended FROM sync.verified WHERE relid = 'place'::regclass"), "1");
    device.sync(&mut server);
    assert_eq!(device.value("SELECT value FROM sync_status WHERE name = 'mismatch'"), "0");
    assert_verified(&device);
    assert_eq!(device.pending_ops(), None);
}

/// A push that says so of the first of the device's parts.
fn say_that_it_differs(device: &Device, server: &mut Client, change: impl Fn(&mut Vec<PartSum>)) -> Result<(), String> {
    let request: PullRequest = {
        device.run("UPDATE sync_meta SET value = 1 WHERE name = 'resync'; INSERT OR IGNORE INTO sync_meta VALUES ('resync', 1)");
        let request = decode(&device.pull_request()).expect("a request");
        device.run("UPDATE sync_meta SET value = 0 WHERE name = 'resync'");
        request
    };
    let mut parts = request.sums.expect("sums");
    change(&mut parts);
    let differ = Some(Differ { parts, subscriptions: vec![] });
    let push = PushRequest { device: request.device, batches: vec![], wants: vec![], held: vec![], differ };
    server_push(server, &device.user, &encode(&push).expect("a request")).map(|_| ())
}

#[test]
fn what_devices_say_of_sums_is_believed_only_so_far() {
    let (db, mut server, device) = many(10);
    db.run("CREATE TABLE secret (id int PRIMARY KEY, who text); INSERT INTO secret VALUES (1, 'bob')");
    db.run("SELECT sync.create_bucket('own', members => 'SELECT sync.user_id()'); SELECT sync.add_table('own', 'secret', key => 'who'); SELECT sync.maintain()");
    let bob = Device::new("bob");
    [&device, &bob].iter().for_each(|device| device.sync(&mut server));
    let wrong = |parts: &mut Vec<PartSum>| parts.iter_mut().for_each(|part| part.content.sum ^= 1);
    let mut doubt = |device: &Device, change: &dyn Fn(&mut Vec<PartSum>)| {
        say_that_it_differs(device, &mut server, change).expect("the push is taken");
        let doubt = server_value(&mut server, IN_DOUBT);
        db.run("UPDATE sync.verified SET at = now() - interval '2 days'");
        doubt
    };
    // Lately compared; then as long ago as must be.
    assert_eq!(doubt(&bob, &wrong), "∅");
    assert_eq!(doubt(&bob, &wrong).split(' ').collect::<std::collections::BTreeSet<_>>(), ["place", "secret"].into());
    // Sums that are the same here, parts that are nobody's, and somebody else's bucket.
    assert_eq!(doubt(&bob, &|_| ()), "∅");
    assert_eq!(doubt(&bob, &|parts| parts.iter_mut().for_each(|part| part.entry += 1000)), "∅");
    let (mut other, mut of_bob) = (db.connect(), Vec::new());
    let taken = std::cell::RefCell::new(Vec::new());
    say_that_it_differs(&bob, &mut other, |parts| taken.borrow_mut().clone_from(parts)).expect("the push is taken");
    of_bob.extend(taken.into_inner());
    assert_eq!(
        doubt(&device, &|parts| {
            parts.clone_from(&of_bob);
            wrong(parts)
        }),
        "place"
    );
    // More than anybody has.
    let many = say_that_it_differs(&bob, &mut other, |parts| *parts = parts.iter().cycle().take(101).copied().collect());
    assert!(many.expect_err("it is refused").contains("54000"));
    // Members that cannot be told are no fault of the push.
    db.run("SELECT sync.create_bucket('broken', members => 'SELECT 1 / (SELECT count(*) FROM secret WHERE id > 1)::int')");
    db.run("CREATE TABLE t (id int PRIMARY KEY); SELECT sync.add_table('broken', 't', key => 'id')");
    assert_eq!(doubt(&bob, &wrong), "∅");
}

#[test]
fn a_damaged_op_log_and_damaged_bases_are_found_and_mended() {
    let (db, mut server, device) = many(5_000);
    db.run("UPDATE place SET name = 'new' WHERE size <= 10; DELETE FROM sync.op");
    device.sync(&mut server);
    assert_ne!(device.value("SELECT count(*) FROM place WHERE name = 'new'"), "10", "the log was the way");
    for damage in [
        "",
        "UPDATE sync.op SET hash = hash + 1",
        "UPDATE sync.base SET sum = sum - 5, count = count + 1",
        "DELETE FROM sync.base",
    ] {
        db.run(damage);
        assert_eq!(server_rows(&mut server, "SELECT rule FROM sync.verify_table('place')"), [["all"]], "{damage}");
        pull(&device, &mut server);
        assert_same(&device, &mut server, "SELECT * FROM place");
        db.run("UPDATE place SET name = name || '.' WHERE size = 1");
        let moved = pull(&device, &mut server);
        assert_eq!((moved.rows, moved.round_trips), (1, 1), "after {damage}");
        assert_verified(&device);
    }
}

#[test]
fn disabled_triggers_are_noticed() {
    let (db, mut server, device) = many(20_000);
    db.run("ALTER TABLE place DISABLE TRIGGER ALL; UPDATE place SET name = 'past' WHERE size = 3; ALTER TABLE place ENABLE TRIGGER ALL");
    assert!(pull(&device, &mut server).rows < 10, "the table is not fetched again");
    assert_same(&device, &mut server, "SELECT * FROM place");
    db.run("UPDATE place SET name = 'captured' WHERE size = 4");
    assert_eq!(pull(&device, &mut server).rows, 1);
    assert_same(&device, &mut server, "SELECT * FROM place");
    assert_verified(&device);
    // Nobody watched while they were disabled: the table is compared in the next maintenance, and what differs comes.
    db.run(
        "BEGIN; ALTER EVENT TRIGGER sync_on_ddl DISABLE; ALTER TABLE place DISABLE TRIGGER USER; UPDATE place SET name = 'past' WHERE size = 5;
         ALTER EVENT TRIGGER sync_on_ddl ENABLE ALWAYS; COMMIT; ALTER TABLE place ENABLE TRIGGER USER",
    );
    assert_eq!(pull(&device, &mut server).rows, 0);
    db.run("SELECT sync.maintain()");
    let moved = pull(&device, &mut server);
    assert!(moved.rows < 300 && moved.round_trips <= 4, "{moved:?}");
    assert_same(&device, &mut server, "SELECT * FROM place");
    assert_verified(&device);
}

#[test]
fn a_repair_of_many_pages_beside_writers_is_exact() {
    let (db, mut server, device) = many(20_000);
    damage(&device, "UPDATE place SET name = 'wrong' WHERE size % 3 = 0; DELETE FROM place WHERE size % 7 = 0");
    device.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
    device.run("SELECT sync_verify()");
    for page in 0..1_000 {
        let reply = server_pull(&mut server, &device.user, &device.pull_request()).expect("a page");
        if !device.apply(&reply).expect("a page is applied").more() {
            assert!(page > 8, "{page} pages");
            break;
        }
        db.run(&format!(
            "UPDATE place SET name = 'page {page}' WHERE size % 997 = {page}; DELETE FROM place WHERE size = {page};
             INSERT INTO place (name, size) VALUES ('new', -{page})"
        ));
        if page == 5 {
            assert_eq!(device.value("SELECT count(*) FROM place WHERE name LIKE 'page%'"), "0", "published too early");
        }
    }
    device.sync(&mut server);
    assert_same(&device, &mut server, "SELECT * FROM place");
    assert_verified(&device);
}

#[test]
fn a_device_past_its_lease_gets_what_differs_and_keeps_its_unsent_writes() {
    let (db, mut server, device) = many(20_000);
    device.run("UPDATE place SET name = 'mine' WHERE size = 5");
    db.run("UPDATE place SET name = 'theirs' WHERE size BETWEEN 100 AND 109; DELETE FROM place WHERE size = 110");
    server.batch_execute("SET sync.lease = '0 seconds'; SELECT pg_current_xact_id()").expect("a lease that is over");
    // Until nothing is left of what the device missed: a transaction of another test may hold the log back for a while.
    while server_value(&mut server, "SELECT count(*) FROM sync.op") != "0" {
        server.batch_execute("SELECT sync.maintain()").expect("maintenance");
    }
    let moved = pull(&device, &mut server);
    assert!(moved.rows < 2_000 && moved.round_trips <= 4, "{moved:?}");
    assert_eq!(device.value("SELECT name FROM place WHERE size = 5"), "mine");
    server.batch_execute("RESET sync.lease").expect("a lease");
    device.sync(&mut server);
    assert_eq!(server_value(&mut server, "SELECT name FROM place WHERE size = 5"), "mine");
    assert_same(&device, &mut server, "SELECT * FROM place");
    assert_verified(&device);
    assert!(server_rows(&mut server, "SELECT * FROM sync.verify_table('place')").is_empty());
}

#[test]
fn a_batch_of_which_only_the_name_is_left_is_not_applied_again() {
    let (_db, mut server, device) = many(10);
    device.run("INSERT INTO place VALUES ('00000000-0000-0000-0000-00000000000b', 'once', 0)");
    let batches = device.pending_ops().expect("a batch");
    server_push(&mut server, &device.user, &batches).expect("a reply");
    let past =
        "UPDATE sync.batch SET pushed = pushed - interval '100 days'; SELECT sync.maintain(); DELETE FROM place WHERE size = 0";
    server.batch_execute(past).expect("a hundred days pass");
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.batch"), "0");
    // The reply was lost, and the device is back: as itself, then as a copy that got another identity.
    server_push(&mut server, &device.user, &batches).expect("a reply");
    server.batch_execute("UPDATE sync.device SET last_number = 0, last_random = NULL").expect("a new identity");
    let reply = server_push(&mut server, &device.user, &batches).expect("a reply");
    assert_eq!(device.apply(&reply).expect("a reply is applied").verdicts("accepted"), 1);
    device.sync(&mut server);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM place WHERE size = 0"), "0");
    assert_same(&device, &mut server, "SELECT * FROM place");
}
