//! Years of running, compressed: 1 % of the rows change a day, with maintenance between, and nothing may grow or slow down.
//!
//! `./dev soak [--days N]` plays N days, 730 unless told otherwise. A day passes by moving every time that server and devices remember a
//! day back, so all settings are the defaults: a lease of 14 days, records for 90. Autovacuum is off, since it works by the clock; its
//! work is done at the end of each day. A whole run writes docs/soak.csv and docs/soak.svg.
//!
//! # Layout
//! - [`world`]: the tables, the devices, and what happens on a day
//! - [`plot`]: a series as CSV and SVG

mod plot;
mod world;

use plot::Series;
use world::World;

/// Days after which everything has its size: the lease and the time for records have passed once.
const SETTLED: usize = 120;
/// How much the last days' mean may be above that of the first settled days. Times vary more than sizes.
const GROWTH: f64 = 1.25;
const SLOWDOWN: f64 = 1.6;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let days = match &arguments[..] {
        [] => 730,
        [name, days] if name == "--days" => days.parse().unwrap_or_else(|_| usage()),
        _ => usage(),
    };
    let mut world = World::new();
    let mut series = Series::default();
    for day in 1..=days {
        series.add(world.day(day));
        if day % 73 == 0 {
            world.check();
            eprintln!("day {day}: {}", series.last());
        }
    }
    if days == 730 {
        let docs = sync_tests::build::root().join("docs");
        std::fs::write(docs.join("soak.csv"), series.csv(7)).expect("docs/soak.csv is written");
        std::fs::write(docs.join("soak.svg"), series.svg()).expect("docs/soak.svg is written");
    }
    let mut failed = 0;
    let compared = series.compare(SETTLED);
    // The twin tells what Postgres does by itself, and how busy the machine was.
    let twin = |wanted: &str| compared.iter().find(|(name, ..)| *name == wanted).map_or(1.0, |(_, first, last)| last / first);
    let (size, pace) = (twin("twin_kb"), twin("twin_write_ms").max(1.0));
    for (name, first, last) in compared.iter().copied() {
        let limit = match name {
            "task_kb" => GROWTH * size,
            _ if name.ends_with("_ms") => SLOWDOWN * pace,
            _ => GROWTH,
        };
        let verdict = match name {
            "twin_kb" | "twin_write_ms" => "as Postgres does",
            "old_batch_kb" => "a name for each batch",
            _ if last <= first * limit || last - first < 8.0 => "flat",
            _ => "GROWS",
        };
        failed += usize::from(verdict == "GROWS");
        println!("{name:>16}  {first:>10.1}  {last:>10.1}  {verdict}");
    }
    println!("{} passed, {failed} failed", series.names().len() - failed);
    std::process::exit(i32::from(failed > 0));
}

fn usage() -> ! {
    eprintln!("usage: ./dev soak [--days N]");
    std::process::exit(2);
}
