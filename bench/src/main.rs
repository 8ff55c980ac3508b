//! `./dev bench`: what syncing costs beside plain tables and peers, measured in one run on the same rows.
//!
//! # Layout
//! - [`machine`]: what the figures depend on
//! - [`stats`]: rounds in which contenders take turns, medians and spread, processor time
//! - [`report`]: the table, RESULTS.md and results.json
//! - [`server`]: the server under measurement and the rows that all measurements use
//! - [`transport`]: buckets, users and the loop between a device and the server; [`plain`]: ordinary SQLite files
//! - [`capture`]: what a writer on the server pays
//! - [`first_sync`]: what the server pays for a first sync, and [`device`]: what the device pays for it
//! - [`local`]: what a writer on the device pays
//! - [`polls`]: pulls that find nothing or little
//! - [`pushes`]: pushes of one change
//! - [`capacity`]: what a deployment is sized by
//! - [`latency`]: from a commit to another device
//! - [`library`]: the size of the device's library, and loading it
//! - [`peers`]: other systems, on the device, through one driver

mod capacity;
mod capture;
mod device;
mod first_sync;
mod latency;
mod library;
mod local;
mod machine;
mod peers;
mod plain;
mod polls;
mod pushes;
mod report;
mod server;
mod stats;
mod transport;

use report::Report;

const HELP: &str = "usage: ./dev bench [NAME...] [--rounds N] [--quick]

  NAME        measure only these, and write no files: capture first-sync device local polls pushes capacity latency library peers
  --rounds N  rounds in which the contenders take turns; 5, or 3 with --quick
  --quick     fewer rows and shorter rounds: to see whether it works, not for figures

Writes bench/RESULTS.md and bench/results.json after a whole run without --quick; --quick writes into target/bench.";

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

type Measure = fn(&sync_tests::Cluster, &Size, &mut Report);

const MEASURES: &[(&str, Measure)] = &[
    ("capture", capture::run),
    ("first-sync", first_sync::run),
    ("device", device::run),
    ("local", local::run),
    ("polls", polls::run),
    ("pushes", pushes::run),
    ("capacity", capacity::run),
    ("latency", latency::run),
    ("library", library::run),
    ("peers", peers::run),
];

fn main() {
    let mut names = Vec::new();
    let (mut quick, mut rounds) = (false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => quick = true,
            "--rounds" => match arguments.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0) {
                Some(n) => rounds = Some(n),
                None => refuse("--rounds takes a number from 1"),
            },
            "--help" | "-h" => return println!("{HELP}"),
            name if MEASURES.iter().any(|(n, _)| *n == name) => names.push(name.to_owned()),
            other => refuse(&format!("'{other}' is nothing to measure")),
        }
    }
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
        let folder = sync_tests::build::root().join(if quick { "target/bench" } else { "bench" });
        let mut run = format!("./dev bench --rounds {}", size.rounds);
        if quick {
            run += " --quick";
        }
        let written = std::fs::create_dir_all(&folder).and_then(|()| report.write(&folder, &machine, &run));
        written.unwrap_or_else(|e| refuse(&format!("the results could not be written: {e}")));
        eprintln!("written: {}", folder.join("RESULTS.md").display());
    }
}

fn refuse(why: &str) -> ! {
    eprintln!("./dev bench: {why}\n\n{HELP}");
    std::process::exit(2)
}
