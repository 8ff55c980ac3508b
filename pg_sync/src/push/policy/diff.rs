//! What changed between two lists of tokens, in bounded time: a device may send anything.

use imara_diff::{Algorithm, Diff, InternedInput};
use std::collections::HashMap;
use std::ops::Range;

/// A place in the first list, and what stands there in the second.
pub type Edit = (Range<usize>, Range<usize>);

/// Work that may be done: one is about 3 ns, a pair of tokens compared at its worst.
pub struct Budget {
    left: u64,
    /// What was done, with what had to be done in any case.
    pub done: u64,
}

/// What one comparison costs at least, and what it costs for each token to look for anchors.
const COMPARISON: u64 = 2_000;
const TOKEN: u64 = 16;

impl Budget {
    pub fn new(work: u64) -> Self {
        Budget { left: work, done: 0 }
    }

    /// Whether there is enough left, which is then spent.
    pub fn spend(&mut self, work: u64) -> bool {
        let enough = work <= self.left;
        if enough {
            self.left -= work;
            self.done += work;
        }
        enough
    }

    /// What has to be done in any case: a pass over tokens or bytes.
    pub fn pass(&mut self, over: usize) {
        self.done += over as u64;
    }

    /// Lets `f` spend some of what is left, at most so much.
    pub fn at_most<R>(&mut self, work: u64, f: impl FnOnce(&mut Budget) -> R) -> R {
        let mut part = Budget::new(work.min(self.left));
        let result = f(&mut part);
        self.left -= work.min(self.left) - part.left;
        self.done += part.done;
        result
    }
}

/// How often a list is split at tokens that occur once.
const SPLITS: usize = 8;

/// In order, with something unchanged between two of them. What is too much to compare is one edit.
pub fn edits(base: &[&str], side: &[&str], budget: &mut Budget) -> Vec<Edit> {
    let mut edits = Vec::new();
    let whole = Window { base, side, at: (0, 0) };
    whole.compare(budget, SPLITS, &mut edits);
    edits
}

/// A part of both lists that begins at `at`.
struct Window<'a, 't> {
    base: &'a [&'t str],
    side: &'a [&'t str],
    at: (usize, usize),
}

impl Window<'_, '_> {
    fn compare(mut self, budget: &mut Budget, splits: usize, edits: &mut Vec<Edit>) {
        budget.pass(self.trim() + 1);
        let Window { base, side, at } = self;
        let pairs = base.len() as u64 * side.len() as u64;
        if base.is_empty() && side.is_empty() {
            return;
        }
        if pairs > 0 && budget.spend(pairs + COMPARISON) {
            let mut input = InternedInput::default();
            input.update_before(base.iter().copied());
            input.update_after(side.iter().copied());
            let range = |r: Range<u32>, from: usize| r.start as usize + from..r.end as usize + from;
            let hunks = Diff::compute(Algorithm::Histogram, &input);
            edits.extend(hunks.hunks().map(|hunk| (range(hunk.before, at.0), range(hunk.after, at.1))));
            return;
        }
        let looks = pairs > 0 && splits > 0 && budget.spend(TOKEN * (base.len() + side.len()) as u64);
        let anchors = if looks { anchors(base, side) } else { Vec::new() };
        if anchors.is_empty() {
            edits.push((at.0..at.0 + base.len(), at.1..at.1 + side.len()));
            return;
        }
        let mut from = (0, 0);
        for to in anchors.into_iter().map(|(i, j)| (i, j, 1)).chain([(base.len(), side.len(), 0)]) {
            let gap = Window { base: &base[from.0..to.0], side: &side[from.1..to.1], at: (at.0 + from.0, at.1 + from.1) };
            gap.compare(budget, splits - 1, edits);
            from = (to.0 + to.2, to.1 + to.2);
        }
    }

    /// Leaves out what both begin and end with. Answers how many tokens that is.
    fn trim(&mut self) -> usize {
        let before = self.base.len();
        let same = self.base.iter().zip(self.side).take_while(|(a, b)| a == b).count();
        (self.base, self.side, self.at) = (&self.base[same..], &self.side[same..], (self.at.0 + same, self.at.1 + same));
        let same = self.base.iter().rev().zip(self.side.iter().rev()).take_while(|(a, b)| a == b).count();
        (self.base, self.side) = (&self.base[..self.base.len() - same], &self.side[..self.side.len() - same]);
        before - self.base.len()
    }
}

/// Tokens that occur once in either list, as many as stand in the same order in both.
fn anchors(base: &[&str], side: &[&str]) -> Vec<(usize, usize)> {
    let mut places: HashMap<&str, [(usize, usize); 2]> = HashMap::new();
    for (list, tokens) in [base, side].into_iter().enumerate() {
        for (i, &token) in tokens.iter().enumerate() {
            let place = &mut places.entry(token).or_default()[list];
            *place = (place.0 + 1, i);
        }
    }
    let mut once: Vec<(usize, usize)> =
        places.into_values().filter(|[a, b]| a.0 == 1 && b.0 == 1).map(|[a, b]| (a.1, b.1)).collect();
    once.sort_unstable();
    // The longest run that rises: for each length the one that ends lowest, and where each came from.
    let mut ends: Vec<usize> = Vec::new();
    let mut before = vec![usize::MAX; once.len()];
    for i in 0..once.len() {
        let length = ends.partition_point(|&end| once[end].1 < once[i].1);
        if length > 0 {
            before[i] = ends[length - 1];
        }
        match ends.get_mut(length) {
            Some(end) => *end = i,
            None => ends.push(i),
        }
    }
    let mut run = Vec::new();
    let mut at = ends.last().copied();
    while let Some(i) = at {
        run.push(once[i]);
        at = (before[i] != usize::MAX).then_some(before[i]);
    }
    run.reverse();
    run
}
