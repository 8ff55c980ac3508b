//! SQLite's n-th allocation fails, alone or with all behind it, for every n. In a process of its own, since the allocator must be
//! in place before SQLite is used.
//!
//! With `FAULTS=all` there are very many points: `FAULTS_SECONDS` ends a run, and the next one goes on behind the last line about a scene in
//! `target/faults-memory.tsv`: scene, what failed, commit, first and last point, how many there are. One that is tried to its end is left out.
//! `FAULTS_ONLY="allocations from"` tries one of the two kinds: "allocation" fails alone, "allocations from" with all behind it.

use crate::errors::{every_point, Failing, Tried};
use crate::world::{Journal, Scene, World};
use crate::{all, points, seconds};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
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
    let Some(file) = std::env::var_os(SCENES).map(PathBuf::from) else { return };
    memory::install();
    let scenes: Vec<Scene> = rmp_serde::from_slice(&std::fs::read(&file).expect("the scenes")).expect("scenes are read");
    let path = file.with_extension("memory.db");
    let loaded = rusqlite::Connection::open_in_memory().expect("a database in memory");
    device::load(&loaded, &build::library("libsqlite_sync.so"));
    let until = if all() { seconds().map(|s| Instant::now() + Duration::from_secs(s)) } else { None };
    let only = std::env::var("FAULTS_ONLY").ok();
    let kinds = [("allocation", false), ("allocations from", true)];
    for (name, for_good) in kinds.into_iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name)) {
        let arm = |at: u32| memory::fail(i64::from(at), for_good);
        let failing = Failing { name, arm: &arm, calm: &memory::calm, counted: &memory::counted, disk: false };
        let mut told: BTreeMap<String, u32> = BTreeMap::new();
        for scene in &scenes {
            for (text, times) in try_scene(scene, &path, &failing, until).told {
                *told.entry(text).or_default() += times;
            }
        }
        println!("{name}: {told:?}");
    }
}

/// A selection of the points, or all that were not tried yet.
fn try_scene(scene: &Scene, path: &Path, failing: &Failing<'_>, until: Option<Instant>) -> Tried {
    let tries = |choose: &dyn Fn(u32) -> Vec<u32>| every_point(scene, path, Journal::Wal, failing, choose, until);
    if !all() {
        return tries(&|total| points(total, 50));
    }
    let Some(first) = first_untried(&scene.name, failing.name) else { return Tried::default() };
    let tried = tries(&|total| (first..=total + 1).collect());
    if tried.upto >= first {
        let line = format!(
            "{}\t{}\t{}\t{first}\t{}\t{}\n",
            scene.name,
            failing.name,
            build::commit(),
            tried.upto.min(tried.total),
            tried.total
        );
        let mut file = File::options().append(true).create(true).open(results()).expect("the results are there");
        file.write_all(line.as_bytes()).expect("a result is written");
    }
    tried
}

/// The first point of a scene that no line tells of; None where all are tried.
fn first_untried(scene: &str, failing: &str) -> Option<u32> {
    let lines = std::fs::read_to_string(results()).unwrap_or_default();
    let fields = lines.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let mut own = fields.filter(|fields| fields.len() == 6 && fields[0] == scene && fields[1] == failing);
    let Some(last) = own.next_back() else { return Some(1) };
    let number = |at: usize| last[at].parse::<u32>().expect("a number in the results");
    (number(4) < number(5)).then(|| number(4) + 1)
}

fn results() -> PathBuf {
    build::record("faults-memory.tsv")
}
