//! Postgres is killed in the middle of the scan that makes the sums of a large table known, again and again, while clients write to it
//! and a device holds a part of it.
//!
//! `BACKFILL_ROWS=1000000 BACKFILL_KILLS=10 ./dev test backfill` for longer.

use crate::kill::{sync, World};
use crate::leaked;
use fastrand::Rng;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use sync_tests::compare::{assert_alike, assert_verified, server_rows, server_value};
use sync_tests::{Cluster, Device};

/// The device's part of the table is one in so many.
const PARTS: i64 = 50;
const MINE: i64 = 7;
const TABLE: &str = "
    CREATE TABLE big (id int PRIMARY KEY, k int NOT NULL, n int NOT NULL DEFAULT 0, body text NOT NULL);
    CREATE INDEX ON big (k, id);
    SELECT sync.create_bucket('nobody', members => 'SELECT 1 WHERE false');
    SELECT sync.create_bucket('mine', members => 'SELECT 7');
";

/// The log of the last seconds is there after a restart, so that nobody has to compare sums; no worker maintains.
const SETTINGS: &str = "wal_keep_size = 256MB\nmax_wal_size = 1GB\nmin_wal_size = 512MB\n";

/// Adds one to a random row and moves it to another part. Returns how often it was tried, and acknowledged.
fn write(world: &World, writer: u64, rows: i64) -> (i64, i64) {
    let mut rng = Rng::with_seed(writer);
    let (mut tried, mut acknowledged) = (0, 0);
    while let Some(mut client) = world.connect() {
        while world.goes_on() {
            let (id, part) = (rng.i64(1..=rows), rng.i64(0..PARTS));
            tried += 1;
            if client.batch_execute(&format!("UPDATE big SET n = n + 1, k = {part} WHERE id = {id}")).is_err() {
                break;
            }
            acknowledged += 1;
            thread::sleep(Duration::from_millis(2));
        }
    }
    (tried, acknowledged)
}

/// Syncs until all is over. Returns how many rows came.
fn hold(world: &World, device: &Device) -> i64 {
    let mut came = 0;
    while let Some(mut client) = world.connect() {
        while world.goes_on() && sync(device, &mut client, &mut came).is_some() {
            thread::sleep(Duration::from_millis(20));
        }
    }
    came
}

/// Kills the server during maintenance, after at most such a part of the time that it takes. False if maintenance was done before.
fn kill_within(world: &World, whole: Duration, part: f64, rng: &mut Rng) -> bool {
    let mut client = world.connect().expect("the server runs");
    thread::scope(|scope| {
        let maintenance = scope.spawn(move || client.batch_execute("SELECT sync.maintain()"));
        thread::sleep(whole.mul_f64(part * (0.1 + 0.9 * rng.f64())));
        world.cluster.kill();
        world.cluster.launch();
        maintenance.join().expect("no panic").is_err()
    })
}

#[test]
fn the_backfill_of_a_large_table_survives_kills_in_its_middle() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    // More than what is made known at once.
    let (rows, kills) = (number("BACKFILL_ROWS", 150_000), number("BACKFILL_KILLS", 3));
    let mut rng = Rng::with_seed(number("SEED", 1) as u64);
    let cluster = leaked(Cluster::start(SETTINGS));
    let db = cluster.database();
    db.run(TABLE);
    db.run(&format!("INSERT INTO big SELECT i, i % {PARTS}, 0, repeat(md5(i::text), 14) FROM generate_series(1, {rows}) i"));
    db.run("SELECT sync.add_table('nobody', 'big', key => 'k')");
    let begin = Instant::now();
    db.run("SELECT sync.maintain()");
    let whole = begin.elapsed();
    db.run("SELECT sync.drop_table('nobody', 'big')");
    db.run("SELECT sync.add_table('mine', 'big', key => 'k')");
    let device = Device::new("ann");
    device.sync(&mut db.connect());
    let world = World { cluster, db, ended: AtomicBool::new(false) };
    let building = "SELECT count(*) FROM sync.rules WHERE state = 'building'";
    let (written, mut came, device, hits) = thread::scope(|scope| {
        let world = &world;
        let writers: Vec<_> = (1..3).map(|n| scope.spawn(move || write(world, n, rows))).collect();
        let holder = scope.spawn(move || (hold(world, &device), device));
        let mut hits = 0;
        // The first early, since a machine that has become less busy is done sooner; whether later ones still hit counts less.
        while hits < kills && kill_within(world, whole, if hits == 0 { 0.25 } else { 0.7 }, &mut rng) {
            hits += 1;
            // What was scanned is forgotten with the transaction: no half of it counts.
            let mut client = world.connect().expect("the server runs");
            assert_eq!(server_value(&mut client, building), "1");
            assert_eq!(server_value(&mut client, "SELECT count(*) FROM sync.base"), "0");
        }
        world.connect().expect("the server runs").batch_execute("SELECT sync.maintain()").expect("maintenance");
        world.ended.store(true, Ordering::Relaxed);
        let written: Vec<_> = writers.into_iter().map(|w| w.join().expect("a writer ends well")).collect();
        let (came, device) = holder.join().expect("a device ends well");
        (written, came, device, hits)
    });
    assert!(hits > 0, "maintenance was done before it could be killed");
    let mut server = world.db.connect();
    assert_eq!(server_value(&mut server, building), "0");
    assert_eq!(server_rows(&mut server, "SELECT * FROM sync.verify_table('big')"), Vec::<Vec<String>>::new());
    while sync(&device, &mut server, &mut came).is_none() {}
    let mine = "SELECT id, k, n, body FROM big";
    assert_alike(&device, mine, &mut server, &format!("{mine} WHERE k = {MINE}"));
    assert_verified(&device);
    let (tried, acknowledged) = written.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let counted: i64 = server_value(&mut server, "SELECT sum(n) FROM big").parse().expect("a number");
    assert!((acknowledged..=tried).contains(&counted), "{acknowledged} of {tried} writes were acknowledged, {counted} are there");
    // Each brings a row or takes one, and again where the answer was lost with the server.
    assert!(came <= 2 * counted, "{came} rows came, though only {counted} were changed");
    eprintln!("{hits} kills within {whole:?}, {counted} writes, {came} rows came to a device that holds {}", rows / PARTS);
}
