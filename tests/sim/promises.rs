//! What policies promise about rows: transactions write to tables whose policies are known, remember what they did and what they
//! started from, and at the end the rows must be what the applied ones add up to.

use crate::policies::{TALLIES, TEXT};
use crate::server::Server;
use crate::world::has_table;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use sync_tests::Device;

/// What one transaction did to one row.
#[derive(Debug)]
enum Deed {
    /// Added to the counter, and put its name into the set.
    Hit(i64),
    /// Took a name out of the set.
    Untag(String),
    /// Wrote a greater value than it saw, or a smaller one.
    Best(i64),
    Least(i64),
    /// Put a word into the text.
    Word(String),
    /// Wrote its name over what it saw, where the policy rejects.
    Strict(String),
    /// Wrote its name over what it saw, where both versions are kept.
    Note(String),
}

use Deed::*;

/// A row of `tally`, and all notes, as somebody sees them.
struct Seen {
    tags: Vec<String>,
    best: i64,
    least: i64,
    body: String,
    strict: String,
    notes: Vec<String>,
}

impl Seen {
    fn of(id: i64, rows: &mut dyn FnMut(&str) -> Vec<Vec<String>>) -> Option<Seen> {
        let tally = rows(&format!("SELECT tags, best, least, body, strict FROM tally WHERE id = {id}"));
        let [tags, best, least, body, strict] = <[String; 5]>::try_from(tally.into_iter().next()?).ok()?;
        Some(Seen {
            tags: serde_json::from_str(&tags).expect("a list"),
            best: best.parse().expect("a number"),
            least: least.parse().expect("a number"),
            body,
            strict,
            notes: rows("SELECT body FROM note ORDER BY body").concat(),
        })
    }
}

/// What a transaction of that name could do, and the assignment that does it.
fn random(rng: &mut Rng, name: &str, id: i64, seen: Seen) -> (Deed, String) {
    let tally = |set: String| format!("UPDATE tally SET {set} WHERE id = {id}");
    let list = |tags: &[String]| serde_json::to_string(tags).expect("a list");
    match rng.u8(..9) {
        0 if !seen.tags.is_empty() => {
            let mut tags = seen.tags;
            let gone = tags.remove(rng.usize(..tags.len()));
            (Untag(gone), tally(format!("tags = '{}'", list(&tags))))
        }
        1 => {
            let value = seen.best + rng.i64(1..50);
            (Best(value), tally(format!("best = {value}")))
        }
        2 => {
            let value = seen.least - rng.i64(1..50);
            (Least(value), tally(format!("least = {value}")))
        }
        3 | 4 => {
            let word = name.replace('.', "p");
            let ends: Vec<usize> = seen.body.match_indices([' ', '\n']).map(|(i, _)| i).chain([seen.body.len()]).collect();
            let (before, after) = seen.body.split_at(ends[rng.usize(..ends.len())]);
            let body = format!("{before}{}{word}{after}", if rng.u8(..4) == 0 { "\n" } else { " " });
            (Word(word), tally(format!("body = '{body}'")))
        }
        5 => (Strict(seen.strict), tally(format!("strict = '{name}'"))),
        6 | 7 if !seen.notes.is_empty() => {
            let old = seen.notes[rng.usize(..seen.notes.len())].clone();
            let sql = format!("UPDATE note SET body = '{name}' WHERE body = '{old}'");
            (Note(old), sql)
        }
        _ => {
            let (hits, mut tags) = (rng.i64(-5..10), seen.tags);
            tags.push(name.to_owned());
            (Hit(hits), tally(format!("hits = hits + {hits}, tags = '{}'", list(&tags))))
        }
    }
}

/// By the transactions' names in `trace`: row, and what was done.
#[derive(Default)]
pub struct Promises(BTreeMap<String, (i64, Deed)>);

impl Promises {
    /// A statement for a transaction of a device; none where it does not show the rows.
    pub fn on_device(&mut self, rng: &mut Rng, device: &Device, name: &str) -> Option<String> {
        let shown = has_table(device, "tally") && has_table(device, "note");
        self.promise(rng, name, &mut |sql| if shown { device.rows(sql) } else { Vec::new() })
    }

    /// A transaction of the server.
    pub fn on_server(&mut self, rng: &mut Rng, server: &mut Server<'_>, name: &str) -> String {
        let sql = self.promise(rng, name, &mut |sql| server.rows(sql)).expect("the rows are there");
        format!("BEGIN; INSERT INTO trace VALUES ('{name}a'), ('{name}b'); {sql}; COMMIT")
    }

    fn promise(&mut self, rng: &mut Rng, name: &str, rows: &mut dyn FnMut(&str) -> Vec<Vec<String>>) -> Option<String> {
        let id = rng.i64(1..=TALLIES);
        let (deed, sql) = random(rng, name, id, Seen::of(id, rows)?);
        self.0.insert(name.to_owned(), (id, deed));
        Some(sql)
    }

    /// The rows are what the applied transactions add up to. `exact`: the server has lost nothing on the way.
    pub fn check(&self, server: &mut Server<'_>, applied: &BTreeSet<String>, exact: bool) {
        let applied = Applied { promises: self, names: applied };
        for id in 1..=TALLIES {
            let seen = Seen::of(id, &mut |sql| server.rows(sql)).expect("the row is there");
            let hits = server.value(&format!("SELECT hits FROM tally WHERE id = {id}"));
            let sum: i64 = applied.of(id).map(|(_, deed)| if let Hit(hits) = deed { *hits } else { 0 }).sum();
            assert_eq!(hits, sum.to_string(), "the counter of tally {id} is not the sum of all differences");
            let best = applied.of(id).map(|(_, deed)| if let Best(value) = deed { *value } else { 0 }).max();
            assert_eq!(seen.best, best.unwrap_or(0), "tally {id} does not have the greatest value");
            let least = applied.of(id).map(|(_, deed)| if let Least(value) = deed { *value } else { 0 }).min();
            assert_eq!(seen.least, least.unwrap_or(0), "tally {id} does not have the smallest value");
            applied.check_set(id, &seen.tags, exact);
            applied.check_text(id, &seen.body, server);
            applied.check_strict(id, &seen.strict);
        }
        applied.check_notes(server);
    }
}

/// The transactions that are on the server.
struct Applied<'a> {
    promises: &'a Promises,
    names: &'a BTreeSet<String>,
}

impl<'a> Applied<'a> {
    fn is(&self, name: &str) -> bool {
        self.names.contains(&format!("{name}a"))
    }

    fn all(&self) -> impl Iterator<Item = (&'a str, i64, &'a Deed)> + '_ {
        let all = self.promises.0.iter().map(|(name, (id, deed))| (name.as_str(), *id, deed));
        all.filter(|(name, ..)| self.is(name))
    }

    fn of(&self, id: i64) -> impl Iterator<Item = (&'a str, &'a Deed)> + '_ {
        self.all().filter(move |(_, of, _)| *of == id).map(|(name, _, deed)| (name, deed))
    }

    /// Everything that was added is there, unless somebody took it out.
    fn check_set(&self, id: i64, tags: &[String], exact: bool) {
        let gone: BTreeSet<&str> =
            self.of(id).filter_map(|(_, deed)| if let Untag(tag) = deed { Some(tag.as_str()) } else { None }).collect();
        let there: BTreeSet<&str> = tags.iter().map(String::as_str).collect();
        assert_eq!(there.len(), tags.len(), "something is twice in the set of tally {id}: {tags:?}");
        let added = self.of(id).filter(|(_, deed)| matches!(deed, Hit(_))).map(|(name, _)| name);
        let want: BTreeSet<&str> = added.filter(|name| !gone.contains(name)).collect();
        // Where the server lost an addition or a removal, they may come again in another order.
        let fits = if exact { want == there } else { want.is_subset(&there) };
        assert!(fits, "the set of tally {id} should be {want:?}, it is {there:?}");
    }

    /// Every word is there, or a conflict says which one stayed.
    fn check_text(&self, id: i64, body: &str, server: &mut Server<'_>) {
        let words: BTreeSet<&str> = body.split_whitespace().collect();
        let added = self.of(id).filter_map(|(_, deed)| if let Word(word) = deed { Some(word.as_str()) } else { None });
        for word in TEXT.split_whitespace().chain(added).filter(|word| !words.contains(word)) {
            let record = format!(
                "SELECT count(*) FROM sync.conflict WHERE relid = 'tally'::regclass AND column_name = 'body' AND key = '[{id}]'
                 AND reason LIKE '%same words%' AND (mine::text || theirs::text) LIKE '%{word}%' AND result::text NOT LIKE '%{word}%'"
            );
            assert_ne!(server.value(&record), "0", "{word} is not in the text of tally {id}, and no conflict tells: {body:?}");
        }
    }

    /// What a write was made on top of, when those that were not applied are left out.
    fn base<'s>(&'s self, mut old: &'s str) -> &'s str {
        while let Some((_, Strict(before) | Note(before))) = self.promises.0.get(old).filter(|_| !self.is(old)) {
            old = before;
        }
        old
    }

    /// Nobody overwrote what he had not seen: the writes are a chain.
    fn check_strict(&self, id: i64, last: &str) {
        let mut over = BTreeMap::new();
        for (name, deed) in self.of(id) {
            let Strict(old) = deed else { continue };
            let before = over.insert(self.base(old), name);
            assert!(
                before.is_none(),
                "{before:?} and {name} both wrote over {old:?} in tally {id}, though its policy rejects that"
            );
        }
        let mut end = "";
        while let Some(next) = over.remove(end) {
            end = next;
        }
        assert!(over.is_empty() && end == last, "tally {id} ends with {last:?}, its writes with {end:?}; left over: {over:?}");
    }

    /// Every version is a row, or somebody who saw it wrote over it; or it is in the record, where it was declared so.
    fn check_notes(&self, server: &mut Server<'_>) {
        let there: BTreeSet<String> = server.rows("SELECT body FROM note").concat().into_iter().collect();
        let as_row =
            server.value("SELECT count(*) FROM sync.policies WHERE \"table\" = 'note'::regclass AND options ->> 'as' = 'row'");
        let notes = || self.all().filter_map(|(name, _, deed)| if let Note(old) = deed { Some((name, old)) } else { None });
        let overwritten: BTreeSet<&str> = notes().map(|(_, old)| self.base(old)).collect();
        for name in notes().map(|(name, _)| name).chain(["first", "second", "third"]) {
            if there.contains(name) || overwritten.contains(name) {
                continue;
            }
            let record = format!(
                "SELECT count(*) FROM sync.conflict WHERE relid = 'note'::regclass AND policy = 'keep_both'
                 AND '{name}' IN (mine ->> 'body', theirs ->> 'body') AND result ->> 'body' <> '{name}'"
            );
            assert!(as_row == "0" && server.value(&record) != "0", "the note {name} is nowhere any more");
        }
    }
}
