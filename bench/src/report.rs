//! The table of results, as Markdown and as JSON.

use crate::machine::Machine;
use crate::stats::Spread;
use serde_json::{json, Value};
use std::fmt::Write as _;
use std::path::Path;

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// No goal is set.
    None,
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Goal {
    fn met(self, value: f64) -> Option<bool> {
        match self {
            Goal::None => None,
            Goal::AtMost(limit) => Some(value <= limit),
            Goal::AtLeast(limit) => Some(value >= limit),
        }
    }
}

/// How a figure is written.
#[derive(Debug, Clone, Copy)]
pub enum Unit {
    /// A ratio of two figures of the same run.
    Times,
    /// Anything else, with the name of what is counted.
    Of(&'static str),
}

impl Unit {
    fn write(self, value: f64) -> String {
        match self {
            Unit::Times => format!("{value:.2}x"),
            Unit::Of(name) => format!("{} {name}", number(value)),
        }
    }
}

/// Three digits that count, thousands apart.
fn number(value: f64) -> String {
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

struct Line {
    what: String,
    unit: Unit,
    goal: Goal,
    spread: Spread,
}

struct Section {
    name: &'static str,
    title: String,
    text: String,
    lines: Vec<Line>,
}

/// Everything measured so far.
#[derive(Default)]
pub struct Report {
    sections: Vec<Section>,
    skipped: Vec<(String, String)>,
}

impl Report {
    /// Begins a group of figures.
    pub fn section(&mut self, name: &'static str, title: &str, text: &str) {
        eprintln!("\n{title}");
        self.sections.push(Section { name, title: title.to_owned(), text: text.to_owned(), lines: Vec::new() });
    }

    /// Adds a figure to the group begun last.
    pub fn line(&mut self, what: &str, unit: Unit, goal: Goal, spread: Spread) {
        let met = goal.met(spread.median()).map_or("", |met| if met { "  met" } else { "  MISSED" });
        let range = format!("{} to {}", unit.write(spread.min()), unit.write(spread.max()));
        eprintln!("  {what:<66} {:>18}   ({range}){met}", unit.write(spread.median()));
        let section = self.sections.last_mut().expect("a section was begun");
        section.lines.push(Line { what: what.to_owned(), unit, goal, spread });
    }

    /// Notes what could not be measured.
    pub fn skip(&mut self, what: &str, reason: &str) {
        eprintln!("  {what}: skipped, {reason}");
        self.skipped.push((what.to_owned(), reason.to_owned()));
    }

    /// Writes both files.
    pub fn write(&self, folder: &Path, machine: &Machine, run: &str) -> std::io::Result<()> {
        std::fs::write(folder.join("RESULTS.md"), self.markdown(machine, run))?;
        let json = serde_json::to_string_pretty(&self.json(machine, run))?;
        std::fs::write(folder.join("results.json"), json + "\n")
    }

    fn markdown(&self, machine: &Machine, run: &str) -> String {
        let mut out = String::from("# Results of ./dev bench\n\n");
        let _ = writeln!(
            out,
            "Written by `{run}`; nothing here is written by hand. Contenders take turns in every round; the figure"
        );
        let _ = writeln!(
            out,
            "is the median over the rounds, the spread its least and greatest value, a ratio is taken within a round.\n"
        );
        for (name, value) in &machine.facts {
            let _ = writeln!(out, "- {name}: {value}");
        }
        let (met, of) = self.score();
        let _ = writeln!(out, "\n{met} of {of} goals met, {} measurements skipped.", self.skipped.len());
        for section in &self.sections {
            let _ = write!(out, "\n## {}\n\n{}\n\n", section.title, section.text);
            out.push_str("| what | goal | measured | spread | |\n| --- | --- | --- | --- | --- |\n");
            for line in &section.lines {
                let goal = match line.goal {
                    Goal::None => String::new(),
                    Goal::AtMost(limit) => format!("at most {}", line.unit.write(limit)),
                    Goal::AtLeast(limit) => format!("at least {}", line.unit.write(limit)),
                };
                let met = line.goal.met(line.spread.median()).map_or("", |met| if met { "met" } else { "**missed**" });
                let [least, middle, most] =
                    [line.spread.min(), line.spread.median(), line.spread.max()].map(|value| line.unit.write(value));
                let _ = writeln!(out, "| {} | {goal} | {middle} | {least} to {most} | {met} |", line.what);
            }
        }
        if !self.skipped.is_empty() {
            out.push_str("\n## Skipped\n\n");
            for (what, reason) in &self.skipped {
                let _ = writeln!(out, "- {what}: {reason}");
            }
        }
        out
    }

    fn json(&self, machine: &Machine, run: &str) -> Value {
        let line = |line: &Line| {
            let (goal, limit) = match line.goal {
                Goal::None => (Value::Null, Value::Null),
                Goal::AtMost(limit) => (json!("at most"), json!(limit)),
                Goal::AtLeast(limit) => (json!("at least"), json!(limit)),
            };
            json!({
                "what": line.what,
                "unit": match line.unit { Unit::Times => "x", Unit::Of(name) => name },
                "goal": goal,
                "limit": limit,
                "met": line.goal.met(line.spread.median()),
                "median": line.spread.median(),
                "min": line.spread.min(),
                "max": line.spread.max(),
                "values": if line.spread.0.len() <= 100 { json!(line.spread.0) } else { Value::Null },
            })
        };
        let section = |section: &Section| {
            let lines: Vec<_> = section.lines.iter().map(line).collect();
            json!({ "name": section.name, "title": section.title, "figures": lines })
        };
        let facts: serde_json::Map<_, _> = machine.facts.iter().map(|(n, v)| ((*n).to_owned(), json!(v))).collect();
        let (met, of) = self.score();
        json!({
            "run": run,
            "machine": facts,
            "goals": { "met": met, "of": of },
            "sections": self.sections.iter().map(section).collect::<Vec<_>>(),
            "skipped": self.skipped.iter().map(|(what, reason)| json!({ "what": what, "reason": reason })).collect::<Vec<_>>(),
        })
    }

    /// Goals met, goals in all.
    pub fn score(&self) -> (usize, usize) {
        let lines = self.sections.iter().flat_map(|s| &s.lines);
        let met: Vec<_> = lines.filter_map(|line| line.goal.met(line.spread.median())).collect();
        (met.iter().filter(|met| **met).count(), met.len())
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_have_the_digits_that_count() {
        assert_eq!([1.234, 12.34, 123.4, 1_234_567.8, -4321.0].map(number), ["1.23", "12.3", "123", "1,234,568", "-4,321"]);
    }
}
