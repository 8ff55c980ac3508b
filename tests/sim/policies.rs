//! Random conflict policies, and what each of them promises at the end, as far as it can be told from outside.

use crate::server::Server;
use crate::world::has_table;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use sync_tests::{Database, Device};

/// Rows of `tally`, whose `hits` are a counter and whose `tags` are a set.
const TALLIES: i64 = 4;

/// What transactions did to `tally`, by their name in `trace`: row, difference; each also adds its name to the tags.
#[derive(Default)]
pub struct Promises(BTreeMap<String, (i64, i64)>);

/// Declares a policy for everything that may have one.
pub fn declare(db: &Database<'_>, rng: &mut Rng) {
    db.run(&format!(
        "INSERT INTO tally (id) SELECT generate_series(1, {TALLIES});
         SELECT sync.set_policy('tally', 'counter', 'hits'); SELECT sync.set_policy('tally', 'set', 'tags');
         CREATE FUNCTION decide(conflict jsonb) RETURNS jsonb LANGUAGE sql AS
         $$ SELECT jsonb_build_object('action', CASE WHEN length(conflict::text) % 3 = 0 THEN 'mine' WHEN length(conflict::text) % 3 = 1 THEN 'theirs' ELSE 'reject' END, 'reason', 'the handler says so') $$"
    ));
    for table in ["task", "label", "news"] {
        let policy = ["merge", "server_wins", "client_wins", "last_writer", "reject", "custom", "keep_both"][rng.usize(..7)];
        db.run(&match policy {
            "custom" => format!("SELECT sync.set_policy('{table}', 'custom', handler => 'decide(jsonb)')"),
            "keep_both" => format!("SELECT sync.set_policy('{table}', 'keep_both', options => '{{\"as\": \"record\"}}')"),
            _ => format!("SELECT sync.set_policy('{table}', '{policy}')"),
        });
        let delete = ["keep_update", "delete_wins", "last_writer", "reject"][rng.usize(..4)];
        db.run(&format!("SELECT sync.set_delete_policy('{table}', '{delete}')"));
    }
    let body = ["text", "server_wins", "client_wins", "last_writer", "reject"][rng.usize(..5)];
    let n = ["counter", "max", "min", "server_wins"][rng.usize(..4)];
    db.run(&format!("SELECT sync.set_policy('task', '{body}', 'body'); SELECT sync.set_policy('task', '{n}', 'n')"));
}

impl Promises {
    /// A statement for a transaction of a device; none where it does not show the row.
    pub fn on_device(&mut self, rng: &mut Rng, device: &Device, trace: &str) -> Option<String> {
        let (id, hits) = (rng.i64(1..=TALLIES), rng.i64(-5..10));
        if !has_table(device, "tally") || device.rows(&format!("SELECT 1 FROM tally WHERE id = {id}")).is_empty() {
            return None;
        }
        self.0.insert(trace.to_owned(), (id, hits));
        Some(format!("UPDATE tally SET hits = hits + {hits}, tags = json_insert(tags, '$[#]', '{trace}') WHERE id = {id}"))
    }

    /// A transaction of the server.
    pub fn on_server(&mut self, rng: &mut Rng, trace: &str) -> String {
        let (id, hits) = (rng.i64(1..=TALLIES), rng.i64(-5..10));
        self.0.insert(trace.to_owned(), (id, hits));
        format!(
            "BEGIN; INSERT INTO trace VALUES ('{trace}a'), ('{trace}b'); \
             UPDATE tally SET hits = hits + {hits}, tags = tags || '[\"{trace}\"]' WHERE id = {id}; COMMIT"
        )
    }

    /// Counters are the sums of what was applied, sets have everything that was added, and no merge is without a record.
    pub fn check(&self, server: &mut Server<'_>, applied: &BTreeSet<String>) {
        for id in 1..=TALLIES {
            let mine = self.0.iter().filter(|(trace, (of, _))| *of == id && applied.contains(&format!("{trace}a")));
            let sum: i64 = mine.clone().map(|(_, (_, hits))| hits).sum();
            let row = server.rows(&format!("SELECT hits, tags FROM tally WHERE id = {id}")).concat();
            assert_eq!(row[0], sum.to_string(), "the counter of tally {id} is not the sum of all differences");
            for (trace, _) in mine {
                assert!(row[1].contains(&format!("\"{trace}\"")), "{trace} is not in the set of tally {id}: {}", row[1]);
            }
        }
        let silent = "SELECT device, number FROM sync.batch b WHERE verdict = 'merged' AND NOT repeats AND NOT EXISTS
            (SELECT FROM sync.conflict c WHERE c.device = b.device AND c.number = b.number)";
        let silent = server.rows(silent);
        assert!(silent.is_empty(), "merged without a record: {silent:?}");
    }
}
