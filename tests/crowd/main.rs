//! `./dev crowd`: many writers at once into one bucket, and the same load on a table that is not synced, in turns.
//!
//! What must be true: nobody is stopped who changes only his own rows, no deadlock is about a lock of capture, a device never shows half of
//! a transaction, and in the end it has all. How much slower the synced table is, is told and not judged.
//!
//! # Layout
//! - [`load`]: what one writer does; [`world`]: the tables, the transaction that stays open, the device

mod load;
mod world;

use std::io::Write;
use std::time::{Duration, Instant};
use sync_tests::build;
use world::{Turn, World, TABLES};

/// Changes of one turn of each table.
const CHUNK: u64 = 200_000;
/// Every so many turns a device downloads all the while. These turns do not count for the comparison.
const WATCHED: u64 = 5;
/// For so long a transaction stays open.
const HELD: Duration = Duration::from_secs(180);
const RESULTS: &str = "crowd-results.tsv";
const USAGE: &str = "usage: ./dev crowd [--changes N] [--writers N] [--triggers] [--resume]
  --triggers  a third table, whose triggers do nothing with the same transition tables
  --resume  goes on until all recorded runs together have made so many changes, and records this one";

struct Options {
    changes: u64,
    writers: usize,
    triggers: bool,
    resume: bool,
}

fn main() {
    let options = options().unwrap_or_else(|e| {
        eprintln!("crowd: {e}\n{USAGE}");
        std::process::exit(2)
    });
    let (first, before) = if options.resume { recorded() } else { (1, 0) };
    let left = options.changes.saturating_sub(before);
    let mut world = World::new(options.writers);
    let names = if options.triggers { TABLES } else { &TABLES[..2] };
    let all_new = || [(); 3].map(|()| Turn::default());
    let (mut done, mut ratios, mut turns) = (0, Vec::new(), all_new());
    let mut held = Instant::now();
    for chunk in first.. {
        if done >= left {
            break;
        }
        let size = CHUNK.min(left - done);
        let watched = chunk % WATCHED == 0;
        let mut each = all_new();
        // Who is first has a fresher table.
        for place in 0..names.len() {
            let table = (place + chunk as usize) % names.len();
            each[table] = world.turn(names[table], size, chunk, watched);
        }
        if held.elapsed() > HELD {
            world.let_go();
            held = Instant::now();
        }
        world.check();
        let [plain, synced, triggered] = &each;
        done += synced.changes;
        if !watched {
            ratios.push(synced.speed() / plain.speed());
        }
        println!(
            "turn {chunk}: {synced}, without capture {plain}{}",
            if watched { ", with a device that downloads" } else { "" }
        );
        if options.triggers {
            println!("turn {chunk}: with triggers that do nothing {triggered}");
        }
        if options.resume {
            record(chunk, plain, synced, watched);
        }
        turns.iter_mut().zip(&each).for_each(|(all, one)| all.add(one));
    }
    world.let_go();
    world.check();
    world.end();
    ratios.sort_by(f64::total_cmp);
    let [plain, synced, triggered] = &turns;
    println!("{} writers: {synced}\nwithout capture: {plain}", options.writers);
    if options.triggers {
        println!("with triggers that do nothing: {triggered}");
    }
    if let (Some(least), Some(most)) = (ratios.first(), ratios.last()) {
        let median = ratios[ratios.len() / 2];
        println!(
            "changes a second, synced over not synced: median {median:.2}, {least:.2} to {most:.2} in {} turns",
            ratios.len()
        );
    }
    println!("1 passed, 0 failed");
}

/// The next turn's number, and the changes of the recorded ones.
fn recorded() -> (u64, u64) {
    let text = std::fs::read_to_string(build::record(RESULTS)).unwrap_or_default();
    let number = |line: &str, at: usize| line.split('\t').nth(at).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let last = text.lines().map(|line| number(line, 0)).max().unwrap_or(0);
    (last + 1, text.lines().map(|line| number(line, 1)).sum())
}

fn record(chunk: u64, plain: &Turn, synced: &Turn, watched: bool) {
    let mut file =
        std::fs::File::options().append(true).create(true).open(build::record(RESULTS)).expect("results can be recorded");
    let line = format!(
        "{chunk}\t{}\t{:.2}\t{:.2}\t{}\t{}\t{}\t{}\n",
        synced.changes,
        synced.seconds,
        plain.seconds,
        synced.deadlocks,
        plain.deadlocks,
        if watched { "watched" } else { "compared" },
        build::commit()
    );
    file.write_all(line.as_bytes()).expect("results can be recorded");
}

fn options() -> Result<Options, String> {
    let mut options = Options { changes: 1_000_000, writers: 64, triggers: false, resume: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut number = || arguments.next().and_then(|n| n.parse().ok()).ok_or(format!("{name} wants a number"));
        match name.as_str() {
            "--changes" => options.changes = number()?,
            "--writers" => options.writers = number()? as usize,
            "--triggers" => options.triggers = true,
            "--resume" => options.resume = true,
            _ => return Err(format!("{name} is unknown")),
        }
    }
    if (1..=90).contains(&options.writers) {
        Ok(options)
    } else {
        Err("1 to 90 writers".into())
    }
}
