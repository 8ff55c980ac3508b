//! A series of days: as CSV, as a plot, and whether it grows.

use std::collections::BTreeMap;
use std::fmt::Write;

/// What one day measured.
#[derive(Debug, Default, Clone)]
pub struct Sample(BTreeMap<&'static str, f64>);

impl Sample {
    pub fn put(&mut self, name: &'static str, value: f64) {
        self.0.insert(name, value);
    }
}

#[derive(Default)]
pub struct Series(Vec<Sample>);

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 70.0;
const COLOURS: [&str; 7] = ["#1b6ca8", "#c0392b", "#27864a", "#8e44ad", "#d68910", "#5d6d7e", "#117a65"];
/// Title, unit, and what is drawn in it.
const PANELS: [(&str, &str, &[&str]); 4] = [
    ("The op log, the table, and a device's file", "kB", &["op_kb", "task_kb", "twin_kb", "device_kb"]),
    ("Other tables of the server", "kB", &["batch_kb", "old_batch_kb", "base_kb", "mark_kb", "checkpoint_kb", "key_lease_kb"]),
    ("Syncs that come every day, every 10th, every 40th", "ms", &["daily_sync_ms", "tenth_sync_ms", "late_sync_ms"]),
    ("A day's writes, and maintenance", "ms", &["write_ms", "twin_write_ms", "maintain_ms"]),
];

impl Series {
    pub fn add(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    pub fn last(&self) -> String {
        let values = self.0.last().map(|s| s.0.iter().map(|(name, value)| format!("{name} {value:.0}")).collect::<Vec<_>>());
        values.unwrap_or_default().join(", ")
    }

    pub fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.0.iter().flat_map(|s| s.0.keys().copied()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn values(&self, name: &str) -> Vec<(usize, f64)> {
        self.0.iter().enumerate().filter_map(|(day, s)| s.0.get(name).map(|v| (day + 1, *v))).collect()
    }

    /// Each name with its median in the `settled` days from `settled` on and in the last as many. Times of single days vary.
    pub fn compare(&self, settled: usize) -> Vec<(&'static str, f64, f64)> {
        let median = |values: &[f64]| {
            let mut sorted = values.to_vec();
            sorted.sort_by(f64::total_cmp);
            sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
        };
        let of = |name: &&'static str| {
            let values = self.values(name);
            let within = |from: usize, to: usize| -> Vec<f64> {
                values.iter().filter(|(day, _)| (from..to).contains(day)).map(|(_, v)| *v).collect()
            };
            let end = self.0.len() + 1;
            (*name, median(&within(settled, 2 * settled)), median(&within(end.saturating_sub(settled), end)))
        };
        self.names().iter().map(of).collect()
    }

    /// Every so many days one line; what was not measured on it is the value measured last.
    pub fn csv(&self, every: usize) -> String {
        let names = self.names();
        let mut out = format!("day,{}\n", names.join(","));
        for day in (every..=self.0.len()).step_by(every) {
            let value =
                |name: &&str| self.0[..day].iter().rev().find_map(|s| s.0.get(name)).map_or(String::new(), |v| format!("{v:.1}"));
            let _ = writeln!(out, "{day},{}", names.iter().map(value).collect::<Vec<_>>().join(","));
        }
        out
    }

    pub fn svg(&self) -> String {
        let total = PANELS.len() as f64 * (HEIGHT + 60.0);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {total}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
            WIDTH + LEFT + 170.0
        );
        for (at, (title, unit, names)) in PANELS.iter().enumerate() {
            self.panel(&mut out, at as f64 * (HEIGHT + 60.0) + 30.0, &format!("{title} ({unit})"), names);
        }
        out + "</svg>\n"
    }

    fn panel(&self, out: &mut String, top: f64, title: &str, names: &[&str]) {
        let highest = names.iter().flat_map(|n| self.values(n)).map(|(_, v)| v).fold(1.0, f64::max);
        let days = self.0.len().max(2) as f64;
        let x = |day: usize| LEFT + (day as f64 - 1.0) / (days - 1.0) * WIDTH;
        let y = |value: f64| top + HEIGHT - value / highest * HEIGHT;
        let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{}\" font-size=\"14\">{title}</text>", top - 8.0);
        for part in 0..=2 {
            let value = highest * f64::from(part) / 2.0;
            let _ = writeln!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{1:.1}\" y2=\"{1:.1}\" stroke=\"#ddd\"/><text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\">{value:.0}</text>",
                LEFT + WIDTH, y(value), LEFT - 6.0, y(value) + 4.0
            );
        }
        for day in (0..=self.0.len()).step_by(90).skip(1) {
            let _ =
                writeln!(out, "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">day {day}</text>", x(day), top + HEIGHT + 16.0);
        }
        for (at, name) in names.iter().enumerate() {
            let points: Vec<_> = self.values(name).into_iter().map(|(day, v)| format!("{:.1},{:.1}", x(day), y(v))).collect();
            let colour = COLOURS[at % COLOURS.len()];
            let _ = writeln!(out, "<polyline fill=\"none\" stroke=\"{colour}\" points=\"{}\"/>", points.join(" "));
            let (label, line) = (LEFT + WIDTH + 10.0, top + 14.0 + 18.0 * at as f64);
            let _ = writeln!(out, "<text x=\"{label}\" y=\"{line}\" fill=\"{colour}\">{name}</text>");
        }
    }
}
