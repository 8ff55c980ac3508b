//! The file in which long runs are recorded, a line for each range of seeds: where they stopped, they go on.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

/// The results of one range of seeds.
pub struct Range {
    pub mode: &'static str,
    pub first: u64,
    pub last: u64,
    pub passed: usize,
    pub failed: usize,
    pub seconds: f64,
}

fn file() -> PathBuf {
    sync_tests::build::record("sim-results.tsv")
}

/// Appends a line.
pub fn append(range: &Range) -> std::io::Result<()> {
    let mut out = fs::File::options().append(true).create(true).open(file())?;
    let Range { mode, first, last, passed, failed, seconds } = range;
    writeln!(out, "{mode}\t{first}\t{last}\t{passed}\t{failed}\t{seconds:.0}\t{}", sync_tests::build::commit())
}

/// The first seed from `first` on that no recorded range of this mode covers.
pub fn next(mode: &str, first: u64) -> u64 {
    let text = fs::read_to_string(file()).unwrap_or_default();
    let mut ranges: Vec<(u64, u64)> = text
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split('\t').collect();
            (fields.first() == Some(&mode)).then_some(())?;
            Some((fields.get(1)?.parse().ok()?, fields.get(2)?.parse().ok()?))
        })
        .collect();
    ranges.sort_unstable();
    ranges.into_iter().fold(first, |next, (from, to)| if from <= next && to >= next { to + 1 } else { next })
}
