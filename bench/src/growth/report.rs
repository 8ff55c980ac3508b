//! Growth as a table, a plot and CSV, from growth.json.

use crate::plot::{lines, short, Lines};
use crate::results::{list, number, text};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;

/// Names of all figures of a series, in the order they came.
fn names(series: &Value) -> Vec<&str> {
    let mut names = Vec::new();
    for figure in list(series, "points").iter().flat_map(|p| list(p, "figures")) {
        let name = figure[0].as_str().unwrap_or("");
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// (size, value) of one figure.
fn values(series: &Value, name: &str) -> Vec<(f64, f64)> {
    let of = |point: &Value| {
        let figure = list(point, "figures").iter().find(|f| f[0] == name)?;
        Some((point["x"].as_f64()?, figure[1].as_f64()?))
    };
    list(series, "points").iter().filter_map(of).collect()
}

fn is_time(name: &&str) -> bool {
    !name.contains("bytes")
}

/// How many times as much the largest size costs as a tenth of it, with both sizes.
fn growth(series: &Value, name: &str) -> Option<(f64, f64, f64)> {
    let values = values(series, name);
    let (x, last) = *values.last()?;
    let (tenth, before) = *values.iter().find(|(at, _)| (at * 10.0 - x).abs() < 0.5)?;
    Some((tenth, x, last / before))
}

/// Draws growth.svg into a folder.
pub fn plots(growth: &Value, folder: &Path) -> std::io::Result<()> {
    let panel = |series: &Value| Lines {
        title: text(series, "title").to_owned(),
        across: format!("{}; dotted: in proportion", text(series, "across")),
        unit: "ms".to_owned(),
        series: (names(series).into_iter().filter(is_time))
            .map(|name| (name.to_owned(), values(series, name).into_iter().filter(|(_, v)| *v > 0.0).collect()))
            .collect(),
    };
    let panels: Vec<_> = list(growth, "series").iter().map(panel).collect();
    std::fs::write(folder.join("growth.svg"), lines(&panels))
}

/// All figures, one a line.
pub fn csv(growth: &Value) -> String {
    let mut out = String::from("series,size,figure,value\n");
    for series in list(growth, "series") {
        for name in names(series) {
            for (x, value) in values(series, name) {
                let _ = writeln!(
                    out,
                    "{},{x},\"{name}{}\",{value:.4}",
                    text(series, "name"),
                    if is_time(&name) { ", ms" } else { "" }
                );
            }
        }
    }
    out
}

/// The part of RESULTS.md about growth.
pub fn markdown(growth_json: &Value) -> String {
    let mut out = String::from("\n## As work grows\n\n");
    let fact = |name: &str| list(growth_json, "machine").iter().find(|f| f[0] == name).and_then(|f| f[1].as_str()).unwrap_or("");
    let _ = writeln!(
        out,
        "Written by `{}`, {}, commit {}: a run of its own, in which each size is loaded, measured and dropped again. Milliseconds where \
         nothing else is said. [The plot](plots/growth.svg) has logarithmic axes; the figures are also in growth.csv.",
        text(growth_json, "run"),
        fact("date"),
        fact("commit")
    );
    for series in list(growth_json, "series") {
        let names = names(series);
        let _ = write!(out, "\n### {}\n\n{}\n\n", text(series, "title"), text(series, "text"));
        let sizes: Vec<f64> = list(series, "points").iter().filter_map(|p| p["x"].as_f64()).collect();
        let heads: Vec<_> = sizes.iter().map(|x| short(*x)).collect();
        let _ = writeln!(out, "| {} | {} | ten times as much | |", text(series, "across"), heads.join(" | "));
        let _ = writeln!(out, "| --- |{} --- | --- |", " --- |".repeat(sizes.len()));
        for name in names {
            let values = values(series, name);
            let cell = |x: &f64| values.iter().find(|(at, _)| at == x).map_or(String::new(), |(_, v)| number(*v));
            let cells: Vec<_> = sizes.iter().map(cell).collect();
            let grown = growth(series, name).filter(|_| is_time(&name)).map(|g| g.2);
            let goal = list(series, "goals").iter().find(|g| g[0] == name).and_then(|g| g[1].as_f64());
            let judged = match (grown, goal) {
                (Some(grown), Some(goal)) if grown <= goal => format!("met: at most {goal} times"),
                (Some(_), Some(goal)) => format!("**missed**: at most {goal} times"),
                _ => String::new(),
            };
            let grown = grown.map_or(String::new(), |g| format!("{g:.2}x"));
            let _ = writeln!(out, "| {name} | {} | {grown} | {judged} |", cells.join(" | "));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_size_is_compared_with_a_tenth_of_it() {
        let point = |x: usize, ms: f64| json!({ "x": x, "figures": [["first sync, server", ms], ["wire, bytes per row", 50.0]] });
        let points = [point(1_000, 5.0), point(10_000, 30.0), point(100_000, 360.0)];
        let series = json!({ "name": "rows", "title": "Rows", "across": "rows", "text": "All.",
            "goals": [["first sync, server", 11.0]], "points": points });
        assert_eq!(growth(&series, "first sync, server"), Some((10_000.0, 100_000.0, 12.0)));
        let all = json!({ "run": "./dev bench growth", "machine": [["commit", "abc"]], "series": [series] });
        let text = markdown(&all);
        assert!(text.contains("| first sync, server | 5.00 | 30.0 | 360 | 12.00x | **missed**: at most 11 times |"), "{text}");
        assert!(text.contains("| wire, bytes per row | 50.0 | 50.0 | 50.0 |  |  |"), "{text}");
        assert!(csv(&all).contains("rows,10000,\"first sync, server, ms\",30.0000"));
    }
}
