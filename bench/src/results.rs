//! RESULTS.md and the plots, written from what the files of earlier runs say: results.json, growth.json, and MISSED.md, in which
//! people explain the goals that are missed. So an explanation can be added without measuring again, and a new run keeps it.

use crate::missed::{self, Notes};
use crate::{beside, growth};
use serde_json::Value;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// A figure with its unit; `x` stands for a ratio.
pub fn figure(unit: &str, value: f64) -> String {
    match unit {
        "x" => format!("{value:.2}x"),
        unit => format!("{} {unit}", number(value)),
    }
}

/// Three digits that count, thousands apart.
pub fn number(value: f64) -> String {
    if value.abs() < 10.0 {
        return format!("{value:.2}");
    }
    if value.abs() < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 {
        format!("-{out}")
    } else {
        out
    }
}

/// A list in a JSON object; empty if there is none.
pub fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// A text in a JSON object; empty if there is none.
pub fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or("")
}

/// A file of JSON; None if there is none.
pub fn read(path: &Path) -> io::Result<Option<Value>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes a file of JSON.
pub fn save(path: &Path, value: &Value) -> io::Result<()> {
    std::fs::write(path, serde_json::to_string_pretty(value)? + "\n")
}

/// Writes RESULTS.md and the plots in `folder` from the files of results there, and the notes.
pub fn write(folder: &Path, notes: &Notes) -> io::Result<()> {
    let plots = folder.join("plots");
    std::fs::create_dir_all(&plots)?;
    let growth = read(&folder.join("growth.json"))?;
    if let Some(growth) = &growth {
        growth::report::plots(growth, &plots)?;
        std::fs::write(folder.join("growth.csv"), growth::report::csv(growth))?;
    }
    if let Some(results) = read(&folder.join("results.json"))? {
        std::fs::write(plots.join("beside.svg"), beside::svg(&results))?;
        std::fs::write(folder.join("RESULTS.md"), markdown(&results, growth.as_ref(), notes))?;
    }
    Ok(())
}

fn markdown(results: &Value, growth: Option<&Value>, notes: &Notes) -> String {
    let mut out = String::from("# Results of ./dev bench\n\n");
    let _ = writeln!(
        out,
        "Written by `{}`; nothing here is written by hand but what is said about missed goals, which comes from MISSED.md.",
        text(results, "run")
    );
    let _ = writeln!(
        out,
        "Contenders take turns in every round; the figure is the median over the rounds, the spread its least and greatest value, a\n\
         ratio is taken within a round.\n"
    );
    for fact in list(results, "machine") {
        let _ = writeln!(out, "- {}: {}", fact[0].as_str().unwrap_or(""), fact[1].as_str().unwrap_or(""));
    }
    let goals = &results["goals"];
    let skipped = list(results, "skipped");
    let _ = writeln!(
        out,
        "\n{} of {} goals met, {} measurements skipped. [Which are missed, and why](#goals-that-are-missed). Plots:\n\
         [beside others](plots/beside.svg){}.",
        goals["met"],
        goals["of"],
        skipped.len(),
        if growth.is_some() { ", [as work grows](plots/growth.svg)" } else { "" }
    );
    for section in list(results, "sections") {
        let _ = write!(out, "\n## {}\n\n{}\n\n", text(section, "title"), text(section, "text"));
        out.push_str("| what | goal | measured | spread | |\n| --- | --- | --- | --- | --- |\n");
        list(section, "figures").iter().for_each(|line| row(&mut out, line));
    }
    if let Some(growth) = growth {
        out.push_str(&growth::report::markdown(growth));
    }
    out.push_str(&missed::markdown(results, notes));
    if !skipped.is_empty() {
        out.push_str("\n## Skipped\n\n");
        for skip in skipped {
            let _ = writeln!(out, "- {}: {}", text(skip, "what"), text(skip, "reason"));
        }
    }
    out
}

fn row(out: &mut String, line: &Value) {
    let unit = text(line, "unit");
    let write = |name: &str| line[name].as_f64().map_or(String::new(), |value| figure(unit, value));
    let goal = match text(line, "goal") {
        "" => String::new(),
        goal => format!("{goal} {}", write("limit")),
    };
    let met = match line["met"].as_bool() {
        None => "",
        Some(true) => "met",
        Some(false) => "**missed**",
    };
    let _ =
        writeln!(out, "| {} | {goal} | {} | {} to {} | {met} |", text(line, "what"), write("median"), write("min"), write("max"));
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_have_the_digits_that_count() {
        assert_eq!([1.234, 12.34, 123.4, 1_234_567.8, -4321.0].map(number), ["1.23", "12.3", "123", "1,234,568", "-4,321"]);
    }
}
