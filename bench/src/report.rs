//! Figures as they are measured: on the terminal, and collected for results.json.

use crate::machine::Machine;
use crate::results;
use crate::stats::Spread;
use serde_json::{json, Value};

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
    /// As results.json names it.
    fn name(self) -> &'static str {
        match self {
            Unit::Times => "x",
            Unit::Of(name) => name,
        }
    }

    fn write(self, value: f64) -> String {
        results::figure(self.name(), value)
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

    /// Everything measured, as results.json holds it.
    pub fn json(&self, machine: &Machine, run: &str) -> Value {
        let line = |line: &Line| {
            let (goal, limit) = match line.goal {
                Goal::None => (Value::Null, Value::Null),
                Goal::AtMost(limit) => (json!("at most"), json!(limit)),
                Goal::AtLeast(limit) => (json!("at least"), json!(limit)),
            };
            json!({
                "what": line.what,
                "unit": line.unit.name(),
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
            json!({ "name": section.name, "title": section.title, "text": section.text, "figures": lines })
        };
        let facts: Vec<_> = machine.facts.iter().map(|(name, value)| json!([name, value])).collect();
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
