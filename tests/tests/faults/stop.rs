//! The process ends, or the power goes, after the n-th call that writes, for every n.

use crate::points;
use crate::world::{state, Journal, Scene, World};
use fastrand::Rng;
use sync_tests::vfs::{self, Fault, Leaves};

/// What is lost beside the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loses {
    Nothing,
    Power(Leaves),
}

/// Stops the world at one point. Answers whether the call was made to its end, whether the point was reached
/// in it, and how many calls wrote.
fn stop(scene: &Scene, world: &World, journal: Journal, loses: Loses, at: u32, rng: &mut Rng) -> (bool, bool, u32) {
    scene.place(&world.path(), journal);
    if let Loses::Power(_) = loses {
        vfs::watch();
    }
    let connection = scene.open(&world.path(), journal, true);
    vfs::set(Fault::Stop(at));
    let made = scene.call(&connection).is_ok();
    let (reached, calls) = (vfs::calm(), vfs::counted());
    // Whatever closing the file would write is lost as well.
    vfs::set(Fault::Stop(0));
    drop(connection);
    vfs::calm();
    if let Loses::Power(leaves) = loses {
        vfs::lose_power(leaves, rng);
    }
    (made, reached, calls)
}

/// Stops at every selected point. Answers how often.
fn every_point(world: &mut World, journal: Journal, loses: Loses, some: u32, rng: &mut Rng) -> u32 {
    world.device.close();
    let scenes = std::mem::take(&mut world.scenes);
    let mut tried = 0;
    for scene in &scenes {
        let [before, after] = scene.states(&world.path());
        let (_, _, calls) = stop(scene, world, journal, Loses::Nothing, u32::MAX, rng);
        for at in points(calls, some) {
            let (made, reached, _) = stop(scene, world, journal, loses, at, rng);
            let what = format!("{}, {journal:?}, {loses:?}, stopped after {at} writing calls", scene.name);
            let now = state(&world.path());
            assert!(
                now == after || (now == before && !made),
                "{what}, made: {made}\nbefore: {before}\nafter: {after}\nnow: {now}"
            );
            tried += 1;
            if crate::all() || rng.u8(..8) == 0 || !reached {
                let had = world.arrived();
                world.converge(&what);
                let local = scene.name.starts_with("a local transaction") && now == after;
                assert_eq!(world.arrived() - had, if local { 3 } else { 0 }, "{what}: the transaction is on the server once");
            }
        }
    }
    world.scenes = scenes;
    tried
}

#[test]
fn faults_the_process_ends_at_any_write() {
    let (mut world, mut rng) = (World::new(), Rng::with_seed(1));
    for journal in [Journal::Wal, Journal::Delete] {
        let points = every_point(&mut world, journal, Loses::Nothing, 30, &mut rng);
        println!("the process ended at {points} points, {journal:?}");
    }
}

#[test]
fn faults_the_power_goes_at_any_write() {
    let (mut world, mut rng) = (World::new(), Rng::with_seed(2));
    for journal in [Journal::Wal, Journal::Delete, Journal::Truncate] {
        for leaves in [Leaves::Nothing, Leaves::Some] {
            let points = every_point(&mut world, journal, Loses::Power(leaves), 12, &mut rng);
            println!("the power went at {points} points, {journal:?}, {leaves:?}");
        }
    }
}
