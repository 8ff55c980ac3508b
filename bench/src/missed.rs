//! What people say about goals that are missed: bench/MISSED.md.

use crate::results::{figure, list, text};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;

/// Explanations, each for some figures.
#[derive(Default)]
pub struct Notes(Vec<Note>);

struct Note {
    /// `section: figure`; one that ends with `*` stands for all that begin so.
    about: Vec<String>,
    text: String,
}

impl Note {
    fn is_about(&self, name: &str) -> bool {
        self.about.iter().any(|about| match about.strip_suffix('*') {
            Some(begin) => name.starts_with(begin),
            None => about == name,
        })
    }
}

impl Notes {
    /// Reads bench/MISSED.md.
    pub fn read(folder: &Path) -> std::io::Result<Notes> {
        Ok(Notes::parse(&std::fs::read_to_string(folder.join("MISSED.md"))?))
    }

    /// Each `## section: figure` is about that figure; several in a row share the text below the last.
    fn parse(content: &str) -> Notes {
        let mut notes: Vec<Note> = Vec::new();
        for line in content.lines() {
            if let Some(name) = line.strip_prefix("## ") {
                match notes.last_mut().filter(|note| note.text.trim().is_empty()) {
                    Some(note) => note.about.push(name.trim().to_owned()),
                    None => notes.push(Note { about: vec![name.trim().to_owned()], text: String::new() }),
                }
            } else if let Some(note) = notes.last_mut() {
                note.text += line;
                note.text.push('\n');
            }
        }
        Notes(notes)
    }

    fn about(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|note| note.is_about(name))
    }
}

/// Missed figures, as `section: figure` with what was measured.
fn missed(results: &Value) -> Vec<(String, &Value)> {
    let mut missed = Vec::new();
    for section in list(results, "sections") {
        for line in list(section, "figures").iter().filter(|line| line["met"] == Value::Bool(false)) {
            missed.push((format!("{}: {}", text(section, "name"), text(line, "what")), line));
        }
    }
    missed
}

/// Missed goals that nobody has explained.
pub fn unexplained(results: &Value, notes: &Notes) -> Vec<String> {
    missed(results).into_iter().map(|(name, _)| name).filter(|name| notes.about(name).is_none()).collect()
}

/// The part of RESULTS.md about missed goals.
pub fn markdown(results: &Value, notes: &Notes) -> String {
    let missed = missed(results);
    let mut out = String::from("\n## Goals that are missed\n\n");
    let line = |(name, line): &(String, &Value)| {
        let (unit, value) = (text(line, "unit"), line["median"].as_f64().unwrap_or(0.0));
        let (goal, limit) = (text(line, "goal"), line["limit"].as_f64().unwrap_or(0.0));
        let by = (value / limit - 1.0) * 100.0;
        let off = format!("{:.0} % {}", by.abs(), if by > 0.0 { "more" } else { "less" });
        format!("- **{name}**: {}, the goal is {goal} {}: {off}\n", figure(unit, value), figure(unit, limit))
    };
    if missed.is_empty() {
        out.push_str("None.\n");
    }
    for (at, note) in notes.0.iter().enumerate() {
        let of: Vec<_> = missed.iter().filter(|(name, _)| notes.about(name) == Some(at)).collect();
        if !of.is_empty() {
            of.into_iter().for_each(|m| out.push_str(&line(m)));
            let _ = write!(out, "\n{}\n\n", note.text.trim());
        }
    }
    let rest: Vec<_> = missed.iter().filter(|(name, _)| notes.about(name).is_none()).collect();
    if !rest.is_empty() {
        rest.into_iter().for_each(|m| out.push_str(&line(m)));
        out.push_str("\nNot explained yet: bench/MISSED.md is where to do it.\n");
    }
    out.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn folder() -> std::path::PathBuf {
        sync_tests::build::root().join("bench")
    }

    #[test]
    fn every_goal_that_the_committed_results_miss_is_explained() {
        let notes = Notes::read(&folder()).expect("bench/MISSED.md is there");
        let results = crate::results::read(&folder().join("results.json")).expect("JSON").expect("bench/results.json is there");
        assert_eq!(unexplained(&results, &notes), Vec::<String>::new(), "explain them in bench/MISSED.md");
    }

    #[test]
    fn several_figures_share_a_text_and_a_star_stands_for_the_rest() {
        let notes = Notes::parse("# Title\n\nNothing.\n\n## a: one\n## b: bulk *\n\nBecause.\n\n## c: x\n\nSo.\n");
        let line = |what: &str, met: bool| json!({ "what": what, "met": met, "goal": "at most", "limit": 2.0, "median": 3.0, "unit": "x" });
        let section = |name: &str, figures: Vec<Value>| json!({ "name": name, "figures": figures });
        let results = json!({ "sections": [
            section("a", vec![line("one", false), line("two", true)]),
            section("b", vec![line("bulk insert", false), line("single", false)]),
        ]});
        assert_eq!(unexplained(&results, &notes), ["b: single"]);
        let text = markdown(&results, &notes);
        assert!(text.contains("- **a: one**: 3.00x, the goal is at most 2.00x: 50 % more\n- **b: bulk insert**"), "{text}");
        assert!(text.contains("\nBecause.\n") && !text.contains("So.") && !text.contains("two"), "{text}");
    }
}
