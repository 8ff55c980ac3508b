//! `./dev bench growth`: what the same work costs as there is more of everything: rows, buckets, devices, changes.
//!
//! # Layout
//! - [`measure`]: what is measured at each size
//! - [`report`]: the table, the plot and the CSV
//!
//! The sizes are powers of ten. All series are measured at the smaller sizes before any goes on to a larger one, and what is
//! known is saved after each, so a run that is cut short, or that ends because its time is up, has all but the largest.

mod measure;
pub mod report;

use crate::machine::Machine;
use crate::results;
use serde_json::{json, Value};
use std::path::Path;
use std::time::{Duration, Instant};
use sync_tests::Cluster;

/// As in the other measurements, but what is loaded is not logged, and little is kept of the log.
const SETTINGS: &str = "
fsync = on
autovacuum = off
shared_buffers = 1GB
max_wal_size = 1GB
checkpoint_timeout = 1h
wal_level = minimal
max_wal_senders = 0
";

/// What one size costs: names with milliseconds, or what their last word says.
type Figures = Vec<(&'static str, f64)>;

/// One thing of which there is more and more.
pub struct Series {
    pub name: &'static str,
    pub title: &'static str,
    /// What there is more of.
    pub across: &'static str,
    pub text: &'static str,
    /// Powers of ten: from, to, to with `--quick`.
    powers: [u32; 3],
    /// Ten times as much may cost so many times as much, between the last two sizes.
    pub goals: &'static [(&'static str, f64)],
    measure: fn(&Cluster, usize, &Scale) -> Figures,
}

/// How much is measured beside the size.
pub struct Scale {
    /// Rows of a table that does not grow.
    pub rows: usize,
    /// Repetitions of what takes milliseconds.
    pub repeats: usize,
}

/// How it was asked for.
pub struct Ask {
    pub quick: bool,
    /// Goes on with what the last run has left.
    pub resume: bool,
    /// Nothing is begun that is expected to end later.
    pub minutes: u64,
}

/// Measures, and saves growth.json in `folder` after each size.
pub fn run(folder: &Path, ask: &Ask) -> std::io::Result<()> {
    let began = Instant::now();
    let end = Duration::from_secs(ask.minutes * 60);
    let cluster = Cluster::start(SETTINGS);
    let machine = Machine::look(&mut cluster.connect("postgres", "postgres"));
    let scale = if ask.quick { Scale { rows: 10_000, repeats: 20 } } else { Scale { rows: 1_000_000, repeats: 100 } };
    let file = folder.join("growth.json");
    let mut known = if ask.resume { results::read(&file)? } else { None }.unwrap_or_else(|| begin(&machine, ask));
    let highest = measure::ALL.iter().map(|s| s.powers[1]).max().unwrap_or(0);
    for power in 0..=highest {
        for series in measure::ALL.iter().filter(|s| power >= s.powers[0] && power <= s.powers[if ask.quick { 2 } else { 1 }]) {
            let x = 10usize.pow(power);
            let points = list_of(&mut known, series);
            if points.iter().any(|p| p["x"] == json!(x)) {
                continue;
            }
            // Ten times as much takes up to ten times as long.
            let last = points.last().and_then(|p| p["seconds"].as_f64()).unwrap_or(0.0);
            if began.elapsed() + Duration::from_secs_f64(last * 10.0) > end {
                eprintln!("{x} {}: left out, it would take up to {:.0} minutes more", series.across, last / 6.0);
                continue;
            }
            eprintln!("\n{x} {}", series.across);
            let start = Instant::now();
            let figures = (series.measure)(&cluster, x, &scale);
            let seconds = start.elapsed().as_secs_f64();
            for (name, value) in &figures {
                eprintln!("  {name:<60} {:>14}", results::number(*value));
            }
            eprintln!("  in {seconds:.0} s");
            let figures: Vec<_> = figures.into_iter().map(|(name, value)| json!([name, value])).collect();
            list_of(&mut known, series).push(json!({ "x": x, "seconds": seconds, "figures": figures }));
            results::save(&file, &known)?;
        }
    }
    eprintln!("\n{:.0} minutes", began.elapsed().as_secs_f64() / 60.0);
    Ok(())
}

fn begin(machine: &Machine, ask: &Ask) -> Value {
    let facts = machine.facts.iter().filter(|(name, _)| ["date", "commit", "cores", "processor", "versions"].contains(name));
    let series = measure::ALL
        .iter()
        .map(|s| json!({ "name": s.name, "title": s.title, "across": s.across, "text": s.text, "goals": s.goals, "points": [] }));
    json!({
        "run": format!("./dev bench growth{}", if ask.quick { " --quick" } else { "" }),
        "machine": facts.map(|(name, value)| json!([name, value])).collect::<Vec<_>>(),
        "series": series.collect::<Vec<_>>(),
    })
}

/// The points of a series that are known.
fn list_of<'v>(known: &'v mut Value, series: &Series) -> &'v mut Vec<Value> {
    let all = known["series"].as_array_mut().expect("growth.json has series");
    let of = all.iter_mut().find(|s| s["name"] == json!(series.name)).expect("growth.json has each series");
    of["points"].as_array_mut().expect("growth.json has points")
}
