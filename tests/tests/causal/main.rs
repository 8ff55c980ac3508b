//! Causal consistency in the manner of Jepsen's tests of local-first databases: clients that in each transaction read all of 100
//! registers and write 4 of them with values of their own, on devices that sync at random times, lose replies, go offline and
//! restart, beside a writer on the server and a server that crashes. What they saw is recorded and checked afterwards.
//!
//! What is promised stands in docs/consistency.md. `CAUSAL_SECONDS=600 ./dev test causal` runs each for longer.
//!
//! # Layout
//! - [`history`]: what is recorded, and where each write stands
//! - [`checks`]: one function for each guarantee
//! - [`broken`]: for each check a history that it must refuse
//! - [`clients`]: devices and the server's writer
//! - [`world`]: the tables, the rules, and what the server records

mod broken;
mod checks;
mod clients;
mod history;
mod world;

use clients::Stop;
use fastrand::Rng;
use history::{History, Loss, Session, Value};
use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;
use sync_tests::compare::assert_verified;
use sync_tests::{Cluster, Device};
use world::Policies;

const DEVICES: usize = 4;

/// Runs for so long, then brings everybody up to date.
fn run(seconds: u64, seed: u64, policies: Policies) -> History {
    let cluster = Cluster::start("deadlock_timeout = 100ms\n");
    let db = cluster.database();
    world::install(&db, policies);
    let mut devices: Vec<Device> = (0..DEVICES).map(|i| Device::new(&format!("user {i}"))).collect();
    let mut server = db.connect();
    devices.iter().for_each(|device| device.sync(&mut server));
    drop(server);
    let connect = || clients::try_connect(&cluster.socket(), cluster.port(), db.name());
    let stop = Stop::default();
    let sessions: Vec<Session> = std::thread::scope(|scope| {
        let (stop, connect) = (&stop, &connect);
        let _at_the_end = stop.at_the_end();
        let mut threads = Vec::new();
        for (i, device) in devices.iter_mut().enumerate() {
            let (path, mut rng, mut other) =
                (device.path(), Rng::with_seed(seed + i as u64), Rng::with_seed(seed + 100 + i as u64));
            threads.push(scope.spawn(move || clients::application(&path, i, stop, &mut rng)));
            scope.spawn(move || clients::sync_loop(device, connect, stop, &mut other));
        }
        let mut rng = Rng::with_seed(seed + 1000);
        threads.push(scope.spawn(move || clients::server_writer(connect, DEVICES, stop, &mut rng)));
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(seconds * 1000 / 3));
            cluster.crash();
            cluster.launch();
        }
        std::thread::sleep(Duration::from_millis(seconds * 1000 / 3));
        stop.now();
        threads.into_iter().map(|thread| thread.join().expect("a client ends")).collect()
    });
    let (mut server, mut rng) = (db.connect(), Rng::with_seed(seed));
    // The second time shows what the others wrote.
    for device in devices.iter().chain(&devices) {
        clients::finish(device, &mut server, &mut rng);
    }
    devices.iter().for_each(assert_verified);
    let rejected: HashSet<Value> = devices.iter().flat_map(world::rejected_on).collect();
    // A rejection comes with the conflicts that caused it.
    let lost = |losses: Vec<Loss>| losses.into_iter().filter(|loss| !rejected.contains(&loss.value)).collect();
    let read = |device: &Device| clients::read(device.connection()).expect("the registers");
    History {
        keys: world::KEYS,
        versions: world::versions(&mut server),
        conflicts: world::conflicts(&mut server),
        lost: lost(world::losses(&mut server)),
        lost_on_devices: lost(devices.iter().flat_map(world::losses_on).collect()),
        server: clients::server_registers(&mut server),
        devices: devices.iter().zip(&sessions).map(|(device, session)| (session.name.clone(), read(device))).collect(),
        sessions,
        rejected,
    }
}

/// Runs, and says everything that is wrong with what was seen.
fn check(policies: Policies) {
    // One at a time: they would only slow each other down.
    static RUNNING: Mutex<()> = Mutex::new(());
    let _alone = RUNNING.lock();
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seconds = number("CAUSAL_SECONDS").unwrap_or(5);
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let history = run(seconds, seed, policies);
    let transactions: usize = history.sessions.iter().map(|s| s.transactions.len()).sum();
    let (taken, lost) = (history.versions.iter().map(Vec::len).sum::<usize>(), history.lost.len());
    let (rejected, conflicts) = (history.rejected.len(), history.conflicts);
    println!(
        "{policies:?}: {transactions} transactions; {taken} writes taken, {lost} lost, {rejected} rejected, {conflicts} conflicts; seed {seed}"
    );
    // A history in which nothing met anything would show nothing.
    assert!(transactions > 100 && conflicts > 0, "too little happened");
    let wrong: Vec<String> =
        checks::ALL.iter().filter_map(|(name, check)| Some(format!("{name}: {}", check(&history).err()?))).collect();
    if !wrong.is_empty() {
        let file = std::env::temp_dir().join(format!("causal.{}.{policies:?}.history", std::process::id()));
        std::fs::write(&file, format!("{history:#?}")).expect("the history can be written");
        panic!("{}\nthe history is in {}", wrong.join("\n"), file.display());
    }
}

#[test]
fn causal_consistency_holds_where_policies_decide_column_by_column() {
    check(Policies::Columns);
}

#[test]
fn causal_consistency_holds_where_the_server_wins() {
    check(Policies::ServerWins);
}

#[test]
fn causal_consistency_holds_where_the_client_wins() {
    check(Policies::ClientWins);
}

#[test]
fn causal_consistency_holds_where_the_later_edit_gets_the_row() {
    check(Policies::LastWriter);
}

#[test]
fn causal_consistency_holds_where_a_conflict_rejects_the_transaction() {
    check(Policies::Reject);
}

#[test]
fn causal_consistency_holds_where_both_are_kept_or_a_function_decides() {
    check(Policies::Rows);
}

#[test]
fn causal_consistency_holds_where_the_greater_or_smaller_value_stays() {
    check(Policies::Extremes);
}
