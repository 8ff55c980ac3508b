//! `./dev bench`: what syncing costs beside plain tables and peers, measured in one run on the same rows.
//!
//! # Layout
//! - [`machine`]: what the figures depend on
//! - [`stats`]: rounds in which contenders take turns, medians and spread, processor time
//! - [`report`]: figures as they come, for results.json; [`results`]: RESULTS.md, written from it
//! - [`missed`]: why goals are missed; [`plot`] and [`beside`]: bars beside peers
//! - [`server`]: the server under measurement and the rows that all measurements use
//! - [`transport`]: buckets, users and the loop between a device and the server; [`plain`]: ordinary SQLite files
//! - [`capture`]: what a writer on the server pays, [`slot`] for a logical slot, [`crowded`] beside many other rules
//! - [`rest`]: what the server keeps where nothing changes
//! - [`first_sync`]: what the server pays for a first sync, and [`device`]: what the device pays for it
//! - [`local`]: what a writer on the device pays
//! - [`reading`]: what reading on the device costs, and for how long a publish keeps others from writing
//! - [`large_row`]: one small column of a large row
//! - [`polls`]: pulls that find nothing or little
//! - [`pushes`]: pushes of one change
//! - [`capacity`]: what a deployment is sized by
//! - [`latency`]: from a commit to another device; [`live`]: the same through the gateway, with a thousand devices connected
//! - [`library`]: the size of the device's library, and loading it
//! - [`peers`]: other systems, on the device, through one driver
//! - [`growth`]: the same work with more of everything, a run of its own
//! - [`counts`]: instructions of fixed work on the server

mod beside;
mod capacity;
mod capture;
mod counts;
mod crowded;
mod device;
mod first_sync;
mod growth;
mod large_row;
mod latency;
mod library;
mod live;
mod local;
mod machine;
mod missed;
mod peers;
mod plain;
mod plot;
mod polls;
mod pushes;
mod reading;
mod report;
mod rest;
mod results;
mod server;
mod slot;
mod stats;
mod transport;

use report::Report;
use std::path::Path;

const HELP: &str = "usage: ./dev bench [NAME...] [--rounds N] [--quick]
       ./dev bench growth [--quick] [--resume] [--minutes N]
       ./dev bench write

  NAME         measure only these, and write no files: NAMES
  --rounds N   rounds in which the contenders take turns; 5, or 3 with --quick
  --quick      fewer rows and shorter rounds: to see whether it works, not for figures
  growth       the same work with more rows, buckets, devices and changes, by powers of ten
  --resume     goes on with what the last run of it has left
  --minutes N  begins nothing that is expected to end later; 55
  write        RESULTS.md and the plots once more, from what was measured and from bench/MISSED.md

A whole run without --quick writes bench/results.json, growth writes bench/growth.json, both write bench/RESULTS.md and bench/plots;
with --quick all of it goes to target/bench.";

/// How much is measured.
pub struct Size {
    /// Rounds in which the contenders take turns.
    pub rounds: usize,
    /// Rows of a bulk statement and of a first sync.
    pub rows: usize,
    /// Rows of a large bucket.
    pub many: usize,
    /// Rows that peers are sent.
    pub peer_rows: usize,
    /// Seconds that pgbench runs.
    pub seconds: usize,
    /// Repetitions of what takes milliseconds.
    pub repeats: usize,
}

/// What is not measured together with anything else; `counts` is called by `./dev bench instructions`.
const ALONE: [&str; 3] = ["growth", "write", "counts"];

type Measure = fn(&sync_tests::Cluster, &Size, &mut Report);

const MEASURES: [(&str, Measure); 15] = [
    ("capture", capture::run),
    ("crowded", crowded::run),
    ("rest", rest::run),
    ("first-sync", first_sync::run),
    ("device", device::run),
    ("local", local::run),
    ("reading", reading::run),
    ("large-row", large_row::run),
    ("polls", polls::run),
    ("pushes", pushes::run),
    ("capacity", capacity::run),
    ("latency", latency::run),
    ("live", live::run),
    ("library", library::run),
    ("peers", peers::run),
];

fn main() {
    let mut names = Vec::new();
    let (mut quick, mut resume, mut rounds, mut minutes) = (false, false, None, 55);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut count = || arguments.next().and_then(|n| n.parse::<usize>().ok()).filter(|n| *n > 0);
        match argument.as_str() {
            "--quick" => quick = true,
            "--resume" => resume = true,
            "--rounds" => match count() {
                Some(n) => rounds = Some(n),
                None => refuse("--rounds takes a number from 1"),
            },
            "--minutes" => match count() {
                Some(n) => minutes = n as u64,
                None => refuse("--minutes takes a number from 1"),
            },
            "--help" | "-h" => return println!("{}", help()),
            name if ALONE.contains(&name) || MEASURES.iter().any(|(n, _)| *n == name) => names.push(name.to_owned()),
            other => refuse(&format!("'{other}' is nothing to measure")),
        }
    }
    let folder = sync_tests::build::root().join(if quick { "target/bench" } else { "bench" });
    std::fs::create_dir_all(&folder).unwrap_or_else(|e| refuse(&format!("{} cannot be made: {e}", folder.display())));
    match names.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["growth"] => {
            let ask = growth::Ask { quick, resume, minutes };
            growth::run(&folder, &ask).unwrap_or_else(|e| refuse(&format!("growth.json could not be written: {e}")));
            write(&folder);
        }
        ["write"] => write(&folder),
        ["counts"] => counts::run().unwrap_or_else(|e| refuse(&e)),
        _ if names.iter().any(|name| ALONE.contains(&name.as_str())) => refuse("growth, write and counts stand alone"),
        _ => measure(&names, quick, rounds, &folder),
    }
}

fn measure(names: &[String], quick: bool, rounds: Option<usize>, folder: &Path) {
    let size = if quick {
        Size { rounds: rounds.unwrap_or(3), rows: 100_000, many: 200_000, peer_rows: 20_000, seconds: 2, repeats: 100 }
    } else {
        Size { rounds: rounds.unwrap_or(5), rows: 100_000, many: 1_000_000, peer_rows: 100_000, seconds: 8, repeats: 300 }
    };
    let cluster = server::start();
    let machine = machine::Machine::look(&mut cluster.connect("postgres", "postgres"));
    for (name, value) in &machine.facts {
        eprintln!("{name}: {value}");
    }
    let mut report = Report::default();
    for (name, measure) in MEASURES {
        if names.is_empty() || names.iter().any(|n| n == name) {
            measure(&cluster, &size, &mut report);
        }
    }
    let (met, of) = report.score();
    eprintln!("\n{met} of {of} goals met");
    if names.is_empty() {
        let run = format!("./dev bench --rounds {}{}", size.rounds, if quick { " --quick" } else { "" });
        let saved = results::save(&folder.join("results.json"), &report.json(&machine, &run));
        saved.unwrap_or_else(|e| refuse(&format!("results.json could not be written: {e}")));
        write(folder);
    }
}

/// RESULTS.md and the plots, from the files of figures.
fn write(folder: &Path) {
    let notes = missed::Notes::read(&sync_tests::build::root().join("bench"));
    let notes = notes.unwrap_or_else(|e| refuse(&format!("bench/MISSED.md cannot be read: {e}")));
    results::write(folder, &notes).unwrap_or_else(|e| refuse(&format!("the results could not be written: {e}")));
    eprintln!("written: {}", folder.display());
    if let Ok(Some(results)) = results::read(&folder.join("results.json")) {
        for name in missed::unexplained(&results, &notes) {
            eprintln!("missed and not explained in bench/MISSED.md: {name}");
        }
    }
}

fn help() -> String {
    HELP.replace("NAMES", &MEASURES.map(|(name, _)| name).join(" "))
}

fn refuse(why: &str) -> ! {
    eprintln!("./dev bench: {why}\n\n{}", help());
    std::process::exit(2)
}
