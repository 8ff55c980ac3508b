//! Long text, merged three ways: by lines, and where both changed the same lines, by words.

use super::diff::{edits, Edit};
use std::ops::Range;

pub use super::diff::Budget;

/// Together longer than this, three texts are not compared.
const LONGEST: usize = 12 << 20;
/// Work for one merge, and for all merges of one batch: a device may send anything.
pub const OF_MERGE: u64 = 150_000_000;
pub const OF_BATCH: u64 = 4 * OF_MERGE;
/// What a byte costs at most that is taken apart into lines, and into words.
const LINES: usize = 2;
const WORDS: usize = 8;

impl Budget {
    pub fn of_batch() -> Self {
        Budget::new(OF_BATCH)
    }
}

/// Both sides' changes in one text.
pub struct Merged {
    pub text: String,
    /// Both changed the same place in different ways: the later edit stays there.
    pub overlaps: bool,
}

/// `mine_later` decides where edits overlap. None: too long, or too much work for what is left of the budget.
pub fn merge(base: &str, theirs: &str, mine: &str, mine_later: bool, budget: &mut Budget) -> Option<Merged> {
    let bytes = base.len() + theirs.len() + mine.len();
    if bytes > LONGEST {
        return None;
    }
    budget.at_most(OF_MERGE, |budget| {
        if !budget.spend((bytes * LINES) as u64) {
            return None;
        }
        let [base, theirs, mine] = [base, theirs, mine].map(|text| text.split('\n').collect::<Vec<_>>());
        let mut lines = Lines::default();
        let mut overlaps = false;
        for part in parts(&base, &theirs, &mine, budget) {
            match part {
                Ok(settled) => lines.take(settled, budget),
                Err(part) => overlaps |= part.settle(mine_later, budget, &mut lines),
            }
        }
        Some(Merged { text: lines.text, overlaps })
    })
}

/// The merged text, line by line.
#[derive(Default)]
struct Lines {
    text: String,
    begun: bool,
}

impl Lines {
    fn push(&mut self, line: &str) {
        if self.begun {
            self.text.push('\n');
        }
        self.text.push_str(line);
        self.begun = true;
    }

    fn take(&mut self, lines: &[&str], budget: &mut Budget) {
        budget.pass(lines.len());
        lines.iter().for_each(|line| self.push(line));
    }
}

/// None where both changed the same words, since a mixture of both would say what neither meant, or where it is too much work.
fn by_words(lines: [&[&str]; 3], budget: &mut Budget) -> Option<String> {
    let bytes: usize = lines.iter().flat_map(|lines| lines.iter()).map(|line| line.len() + 1).sum();
    budget.pass(lines.iter().map(|lines| lines.len()).sum());
    if !budget.spend((bytes * WORDS) as u64) {
        return None;
    }
    let texts = lines.map(|lines| lines.join("\n"));
    let [base, theirs, mine] = texts.each_ref().map(|text| words(text));
    let mut merged = String::new();
    for part in parts(&base, &theirs, &mine, budget) {
        part.ok()?.iter().for_each(|word| merged.push_str(word));
    }
    Some(merged)
}

/// Runs of letters and digits, runs of white space, and single other characters; scripts without spaces by character.
fn words(text: &str) -> Vec<&str> {
    let kind = |c: char| match c {
        c if c.is_whitespace() => 1,
        c if (c.is_alphanumeric() || c == '_') && (c as u32) < 0x2e80 => 2,
        _ => 0,
    };
    let mut words = Vec::new();
    let (mut start, mut before) = (0, 0);
    for (i, c) in text.char_indices() {
        if i > start && (kind(c) != before || before == 0) {
            words.push(&text[start..i]);
            start = i;
        }
        before = kind(c);
    }
    if start < text.len() {
        words.push(&text[start..]);
    }
    words
}

/// A place that both changed, in different ways.
struct Part<'a, 't> {
    base: &'a [&'t str],
    theirs: &'a [&'t str],
    mine: &'a [&'t str],
}

impl Part<'_, '_> {
    /// Settles lines. Answers whether edits overlap, so that the later one's had to be taken.
    fn settle(&self, mine_later: bool, budget: &mut Budget, lines: &mut Lines) -> bool {
        let Part { base, theirs, mine } = self;
        if base.is_empty() {
            // New lines at the same place: both stay, the server's first.
            lines.take(theirs, budget);
            lines.take(mine, budget);
            return false;
        }
        // Without lines there is no text, not even an empty one.
        let merged = match theirs.is_empty() || mine.is_empty() {
            true => None,
            false => by_words([base, theirs, mine], budget),
        };
        if let Some(merged) = merged {
            lines.push(&merged);
            return false;
        }
        if base.len() > 1 && base.len() == theirs.len() && base.len() == mine.len() {
            // Line stands for line.
            let mut overlaps = false;
            for i in 0..base.len() {
                let [base, theirs, mine] = [base, theirs, mine].map(|lines| &lines[i..=i]);
                if theirs == mine || mine == base {
                    lines.push(theirs[0]);
                } else if theirs == base {
                    lines.push(mine[0]);
                } else {
                    overlaps |= Part { base, theirs, mine }.settle(mine_later, budget, lines);
                }
            }
            return overlaps;
        }
        lines.take(if mine_later { mine } else { theirs }, budget);
        true
    }
}

/// The texts from beginning to end: tokens that are settled, and places that both changed.
fn parts<'a, 't>(
    base: &'a [&'t str],
    theirs: &'a [&'t str],
    mine: &'a [&'t str],
    budget: &mut Budget,
) -> Vec<Result<&'a [&'t str], Part<'a, 't>>> {
    let mut parts = Vec::new();
    let (mut server, mut device) = (Side::new(base, theirs, budget), Side::new(base, mine, budget));
    let mut at = 0;
    while let Some(mut place) = earlier(server.next(), device.next()) {
        parts.push(Ok(&base[at..place.start]));
        let (before_server, before_device) = (server.done, device.done);
        while server.takes(&mut place) || device.takes(&mut place) {}
        let theirs = server.says(before_server, &place);
        let mine = device.says(before_device, &place);
        parts.push(match (server.done > before_server, device.done > before_device) {
            (true, true) if theirs != mine => Err(Part { base: &base[place.clone()], theirs, mine }),
            (true, _) => Ok(theirs),
            (false, _) => Ok(mine),
        });
        at = place.end;
    }
    parts.push(Ok(&base[at..]));
    parts
}

/// Of two places the one that begins first; an insertion comes before what it is in front of.
fn earlier(a: Option<Range<usize>>, b: Option<Range<usize>>) -> Option<Range<usize>> {
    a.into_iter().chain(b).min_by_key(|place| (place.start, place.end))
}

/// What one side changed, in order.
struct Side<'a, 't> {
    tokens: &'a [&'t str],
    /// Places in base, and what stands there now.
    edits: Vec<Edit>,
    done: usize,
}

impl<'a, 't> Side<'a, 't> {
    fn new(base: &[&'t str], tokens: &'a [&'t str], budget: &mut Budget) -> Self {
        Side { tokens, edits: edits(base, tokens, budget), done: 0 }
    }

    fn next(&self) -> Option<Range<usize>> {
        self.edits.get(self.done).map(|(place, _)| place.clone())
    }

    /// Takes the next edit if it belongs to the place, which then covers it too.
    fn takes(&mut self, place: &mut Range<usize>) -> bool {
        let Some(next) = self.next() else { return false };
        let belongs = next.start < place.end || next == *place;
        if belongs {
            place.end = place.end.max(next.end);
            self.done += 1;
        }
        belongs
    }

    /// What this side has at the place, of whose edits `from` is the first.
    fn says(&self, from: usize, place: &Range<usize>) -> &'a [&'t str] {
        let Some((first, last)) = self.edits[from..self.done].first().zip(self.edits[from..self.done].last()) else {
            return &[];
        };
        let start = first.1.start - (first.0.start - place.start);
        let end = last.1.end + (place.end - last.0.end);
        &self.tokens[start..end]
    }
}
