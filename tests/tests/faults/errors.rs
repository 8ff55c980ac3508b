//! The n-th call of SQLite to the disk fails, or its n-th allocation, for every n: the application is told in plain words, the
//! database is as before, and the next call works.

use crate::points;
use crate::world::{dump, state, Journal, Scene, World};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use sync_tests::vfs::{self, Fault};

/// What an application may be told.
const PLAIN: [&str; 5] =
    ["disk I/O error", "database or disk is full", "unable to open database file", "out of memory", "locking protocol"];
/// After so many failures the call is made without a fault, and the scene is set anew.
const EACH: u32 = 20;

/// What fails.
pub struct Failing<'a> {
    pub name: &'a str,
    /// From now on the call of this number fails.
    pub arm: &'a dyn Fn(u32),
    /// Nothing fails any more; answers whether something did.
    pub calm: &'a dyn Fn() -> bool,
    /// How many calls there were, where none failed.
    pub counted: &'a dyn Fn() -> u32,
    /// Whether the files are opened through the VFS that fails.
    pub disk: bool,
}

/// Makes the call with a fault; answers what the application was told, and whether the fault was met.
fn make(scene: &Scene, connection: &Connection, failing: &Failing<'_>, at: u32) -> (Option<String>, bool) {
    (failing.arm)(at);
    let told = scene.call(connection).err();
    let met = (failing.calm)();
    if scene.is_transaction() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK").expect("the application rolls back");
    }
    assert!(connection.is_autocommit(), "{}, {} {at}: a transaction was left open", scene.name, failing.name);
    (told, met)
}

/// What came of the points that were tried.
#[derive(Default)]
pub struct Tried {
    /// How often the application was told what.
    pub told: BTreeMap<String, u32>,
    /// The last of them.
    pub upto: u32,
    /// How many there are.
    pub total: u32,
}

/// Lets the calls of a scene fail that `choose` picks out of so many, until the time is over.
pub fn every_point(
    scene: &Scene,
    path: &Path,
    journal: Journal,
    failing: &Failing<'_>,
    choose: &dyn Fn(u32) -> Vec<u32>,
    until: Option<Instant>,
) -> Tried {
    let mut tried = Tried::default();
    let [_, after] = scene.states(path);
    let set = || {
        scene.place(path, journal);
        let connection = scene.open(path, journal, failing.disk);
        // A small cache, so that much is read again and pages are written before the commit.
        connection.pragma_update(None, "cache_size", 10).expect("the cache is set");
        connection
    };
    let mut connection = set();
    let before = dump(&connection);
    make(scene, &connection, failing, u32::MAX);
    tried.total = (failing.counted)();
    connection = again(connection, &set);
    for at in choose(tried.total).into_iter().filter(|at| *at > 0) {
        if until.is_some_and(|until| Instant::now() > until) {
            break;
        }
        tried.upto = at;
        let what = format!("{}, {journal:?}, {} {at}", scene.name, failing.name);
        let (error, met) = make(scene, &connection, failing, at);
        *tried.told.entry(error.clone().unwrap_or_default()).or_default() += 1;
        if let Some(error) = &error {
            assert!(PLAIN.iter().any(|plain| error.contains(plain)), "{what}: {error}");
            assert!(dump(&connection) == before, "{what}: {error}, but something changed");
            if at % EACH != 0 {
                continue;
            }
            scene.call(&connection).unwrap_or_else(|e| panic!("{what}: {error}, and the next call: {e}"));
        }
        drop(connection);
        let now = state(path);
        assert!(now == after, "{what}, told {error:?}\nafter: {after}\nnow: {now}");
        connection = set();
        if !met {
            // There are not as many: what is random was shorter.
            tried.total = at - 1;
            break;
        }
    }
    tried
}

/// Closes the file before it is placed anew.
fn again(connection: Connection, set: &dyn Fn() -> Connection) -> Connection {
    drop(connection);
    set()
}

fn on_the_disk(name: &str, fault: fn(u32) -> Fault) {
    let mut world = World::new();
    world.device.close();
    let failing = Failing { name, arm: &|at| vfs::set(fault(at)), calm: &vfs::calm, counted: &vfs::counted, disk: true };
    for journal in [Journal::Wal, Journal::Delete] {
        let mut told: BTreeMap<String, u32> = BTreeMap::new();
        for scene in &world.scenes {
            let tried = every_point(scene, &world.path(), journal, &failing, &|total| points(total, 50), None);
            for (text, times) in tried.told {
                *told.entry(text).or_default() += times;
            }
        }
        println!("{name}, {journal:?}: {told:?}");
    }
}

#[test]
fn faults_any_call_to_the_disk_fails() {
    on_the_disk("call", Fault::Error);
}

#[test]
fn faults_the_disk_is_full_at_any_write() {
    on_the_disk("full at call", Fault::Full);
}
