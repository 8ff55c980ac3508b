//! SQLite's n-th allocation fails, alone or with all behind it, for every n. In a process of its own, since the allocator must be
//! in place before SQLite is used.

use crate::errors::{every_point, Failing};
use crate::world::{Journal, Scene, World};
use std::collections::BTreeMap;
use std::process::Command;
use sync_tests::{build, device, memory};

/// Names the file with the scenes to the other process.
const SCENES: &str = "FAULTS_SCENES";

#[test]
fn faults_any_allocation_fails() {
    let world = World::new();
    let file = world.path().with_extension("scenes");
    std::fs::write(&file, rmp_serde::to_vec(&world.scenes).expect("scenes are written")).expect("a file is written");
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    let output = child.args(["--ignored", "--exact", "memory::child", "--nocapture"]).env(SCENES, &file).output();
    let output = output.expect("the other process runs");
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("allocation"), "{} {said}", output.status);
    println!("{said}");
}

#[test]
#[ignore = "started by faults_any_allocation_fails"]
fn child() {
    let Some(file) = std::env::var_os(SCENES).map(std::path::PathBuf::from) else { return };
    memory::install();
    let scenes: Vec<Scene> = rmp_serde::from_slice(&std::fs::read(&file).expect("the scenes")).expect("scenes are read");
    let path = file.with_extension("memory.db");
    let loaded = rusqlite::Connection::open_in_memory().expect("a database in memory");
    device::load(&loaded, &build::library("libsqlite_sync.so"));
    for (name, for_good) in [("allocation", false), ("allocations from", true)] {
        let arm = |at: u32| memory::fail(i64::from(at), for_good);
        let failing = Failing { name, arm: &arm, calm: &memory::calm, counted: &memory::counted, disk: false };
        let mut told: BTreeMap<String, u32> = BTreeMap::new();
        for scene in &scenes {
            for (text, times) in every_point(scene, &path, Journal::Wal, &failing) {
                *told.entry(text).or_default() += times;
            }
        }
        println!("{name}: {told:?}");
    }
}
