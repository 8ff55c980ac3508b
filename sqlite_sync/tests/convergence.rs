//! Random histories: a model of the server, a device that writes (urgently or not), pulls and pushes in any order, with rejections,
//! staged pages, kills, bucket moves, refetches and new identities. In the end the device shows what the server has, exactly.

mod common;
use common::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use sync_shared::hash::RowHash;
use sync_shared::ranges::{RangeSums, Ranges};

const BUCKETS: [&str; 2] = ["all", "second"];

#[derive(Debug, Clone)]
enum Step {
    Local(u8, u8, bool),
    Server(u8, u8),
    Move(u8, u8),
    Push(u8),
    Stage,
    Publish(bool),
    Kill,
    Refetch(u8),
    Resync,
    Aside(bool),
    Fork,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        6 => (0..6u8, 0..6u8, any::<bool>()).prop_map(|(k, w, e)| Step::Local(k, w, e)),
        4 => (0..6u8, any::<u8>()).prop_map(|(k, v)| Step::Server(k, v)),
        3 => (0..6u8, 0..4u8).prop_map(|(k, b)| Step::Move(k, b)),
        3 => (0..4u8).prop_map(Step::Push),
        2 => Just(Step::Stage),
        4 => any::<bool>().prop_map(Step::Publish),
        1 => Just(Step::Kill),
        1 => (0..2u8).prop_map(Step::Refetch),
        1 => Just(Step::Resync),
        1 => any::<bool>().prop_map(Step::Aside),
        1 => Just(Step::Fork),
    ];
    prop::collection::vec(one, 1..40)
}

/// title, rank, and in which buckets (bits).
type Note = (String, i64, u8);

#[derive(Default)]
struct Server {
    notes: BTreeMap<u8, Note>,
    /// Keys that changed since the last publish.
    dirty: BTreeSet<u8>,
    /// Of all batches ever taken: the random bytes, and the verdict.
    taken: Vec<(BatchId, Verdict)>,
    last: Option<BatchId>,
    /// When each key was last written by the device.
    written: BTreeMap<u8, i64>,
}

fn as_row(key: u8, note: &Note) -> Vec<Value> {
    let text = |s: &str| Value::Text(s.into());
    values(&schema().tables[0], &[("id", text(&format!("k{key}"))), ("title", text(&note.0)), ("rank", Value::Integer(note.1))])
}

impl Server {
    fn in_bucket(&self, bucket: usize) -> Vec<(u8, Vec<Value>)> {
        self.notes.iter().filter(|(_, n)| n.2 & (1 << bucket) != 0).map(|(k, n)| (*k, as_row(*k, n))).collect()
    }

    /// Where a bucket differs from what the device has.
    fn differing(&self, at: usize, theirs: &RangeSums) -> Ranges {
        let (mut ours, notes) = (RangeSums::new(theirs.bits()), &schema().tables[0]);
        for (key, row) in self.in_bucket(at) {
            ours.add(&row::encode(&[Value::Text(format!("k{key}"))]), RowHash(content(notes, &[row]).sum));
        }
        ours.differing(theirs).0
    }

    /// A page with what changed, or everything of the buckets that the device does not hold.
    fn page(&self, device: &Device) -> Page {
        let request = device.request();
        let held = if request.held.count == 2 {
            BUCKETS.map(|b| bucket(b).id).to_vec()
        } else {
            // The model may peek where a server would ask for the list.
            let all: Vec<_> = BUCKETS.iter().map(|b| bucket(b).id).collect();
            all.into_iter().filter(|id| sync_shared::hash::SetDigest::of([id]) == request.held).collect()
        };
        let mut page = empty();
        page.0.buckets = BUCKETS.map(bucket).to_vec();
        for (at, name) in BUCKETS.iter().enumerate() {
            let new = !held.contains(&bucket(name).id);
            let mut rows: Vec<_> = self.in_bucket(at).into_iter().filter(|(k, _)| new || self.dirty.contains(k)).collect();
            let differ =
                request.ranges.iter().find(|r| r.bucket == bucket(name).id).map(|theirs| self.differing(at, &theirs.sums));
            let key = |k: u8| row::encode(&[Value::Text(format!("k{k}"))]);
            rows.retain(|(k, _)| differ.as_ref().is_none_or(|ranges| ranges.contain(&key(*k))));
            let gone: Vec<i64> =
                self.dirty.iter().filter(|k| !new && !rows.iter().any(|(r, _)| r == *k)).map(|k| i64::from(*k)).collect();
            let rows: Vec<_> = rows.into_iter().map(|(_, r)| r).collect();
            page = page.rows_of(0, 1, &rows).gone(&gone);
            let changes = page.0.changes.last_mut().unwrap();
            changes.bucket = at as u32;
            changes.from_empty = new && differ.is_none();
            changes.ranges = differ;
            let part = PartSum {
                bucket: bucket(name).id,
                entry: 1,
                content: content(&schema().tables[0], &self.in_bucket(at).into_iter().map(|(_, r)| r).collect::<Vec<_>>()),
            };
            page.0.sums.push(part);
            if new {
                page.0.whole.push(at as u32);
            }
        }
        page
    }

    fn publish(&mut self, device: &Device, complete: bool) {
        let mut page = self.page(device);
        let whole = page.0.whole.clone();
        page = page.publish();
        page.0.whole = whole;
        page.0.complete = complete;
        page.0.last_batch = self.last;
        device.apply(&page);
        self.dirty.clear();
        assert_eq!(device.number("SELECT count(*) FROM sync_bucket WHERE misses > 0"), 0, "a sum was wrong");
    }

    fn take(&mut self, batch: &Batch, mood: u8) -> Verdict {
        if let Some((_, verdict)) = self.taken.iter().find(|(id, _)| id.random == batch.id.random) {
            self.last = Some(batch.id);
            return *verdict;
        }
        let verdict = [Verdict::Accepted, Verdict::Merged, Verdict::Rejected, Verdict::Later][usize::from(mood)];
        if verdict == Verdict::Later {
            return verdict;
        }
        self.taken.push((batch.id, verdict));
        for change in &batch.changes {
            if let Value::Text(key) = &change.key[0] {
                let before = self.written.insert(key[1..].parse().unwrap(), batch.edited);
                assert!(before < Some(batch.edited), "a batch was passed by one that touches the same row");
            }
        }
        self.last = Some(batch.id);
        if verdict == Verdict::Rejected {
            return verdict;
        }
        for change in &batch.changes {
            let Value::Text(key) = &change.key[0] else { continue };
            let key: u8 = key[1..].parse().unwrap();
            self.dirty.insert(key);
            let mut note = self.notes.remove(&key);
            if change.kind == ChangeKind::Delete || (change.kind == ChangeKind::Update && note.is_none()) {
                continue;
            }
            let fresh = (String::new(), 0, key % 4);
            let note_now = note.get_or_insert(fresh);
            for (tag, value) in change.columns.iter().zip(&change.new) {
                match value {
                    Value::Text(t) if *tag == sync_shared::hash::tag("title") => note_now.0 = t.clone(),
                    Value::Integer(i) => note_now.1 = *i,
                    _ => {}
                }
            }
            if let (Verdict::Merged, Some(note)) = (verdict, &mut note) {
                note.0.push('!');
            }
            self.notes.insert(key, note.unwrap());
        }
        verdict
    }

    fn push(&mut self, device: &Device, mood: u8) {
        while let Some(request) = device.push_request() {
            let verdicts: Vec<_> = request.batches.iter().map(|b| self.take(b, mood)).collect();
            let mut answer = reply(&request.batches, Verdict::Accepted);
            for (result, verdict) in answer.results.iter_mut().zip(verdicts) {
                result.verdict = verdict;
            }
            device.apply_message(&answer);
        }
    }
}

fn play(steps: &[Step]) {
    let mut device = Device::with(&[]);
    let mut server = Server::default();
    let mut staged = false;
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Local(key, what, extension) => {
                let sql = match what {
                    0 => format!("INSERT OR IGNORE INTO notes(id, title, rank) VALUES ('k{key}', 'mine{number}', 0)"),
                    1 => format!("INSERT OR REPLACE INTO notes(id, title, rank) VALUES ('k{key}', 'new{number}', {number})"),
                    2 => format!("UPDATE notes SET title = 'mine{number}' WHERE id = 'k{key}'"),
                    3 => format!("UPDATE notes SET rank = {number}"),
                    4 => format!("DELETE FROM notes WHERE id = 'k{key}'"),
                    _ => format!("UPDATE OR IGNORE notes SET id = 'k{}' WHERE id = 'k{key}'", (key + 1) % 6),
                };
                if *extension {
                    device.run(&format!("BEGIN; {sql}; SELECT sync_priority({}); COMMIT", number * 7 % 5 / 2));
                } else {
                    device.plain().execute_batch(&sql).unwrap();
                }
            }
            Step::Server(key, value) => {
                server.dirty.insert(*key);
                if value % 4 == 0 {
                    server.notes.remove(key);
                } else {
                    let bits = server.notes.get(key).map_or(1 + value % 3, |n| n.2);
                    server.notes.insert(*key, (format!("theirs{value}"), i64::from(*value), bits));
                }
            }
            Step::Move(key, bits) => {
                server.dirty.insert(*key);
                if let Some(note) = server.notes.get_mut(key) {
                    note.2 = *bits;
                }
            }
            Step::Push(mood) => server.push(&device, *mood),
            Step::Stage => {
                // What a staged page says is old by the time it is published: the last page repeats all that changed.
                let mut page = server.page(&device);
                page.0.sums.clear();
                device.apply(&page);
                staged = true;
            }
            Step::Publish(complete) => {
                server.publish(&device, *complete);
                staged = false;
            }
            Step::Kill => {
                device.db = rusqlite::Connection::open(&device.path).unwrap();
                load(&device.db);
            }
            Step::Refetch(at) => device.run(&format!("UPDATE sync_bucket SET refetch = 1 WHERE rule = '{}' AND published", BUCKETS[usize::from(*at)])),
            Step::Resync if !staged => {
                device.apply_message(&notice(NoticeKind::Resync, vec![]));
                let sums = device.request().sums.unwrap();
                let held = |at: &usize| sums.iter().any(|s| s.bucket == bucket(BUCKETS[*at]).id);
                let keep = (0..2).filter(held).map(|at| bucket(BUCKETS[at]).id).collect();
                device.apply_message(&notice(NoticeKind::Verified, keep));
            }
            Step::Resync => {}
            Step::Fork => {
                device.apply_message(&state_reply(PushState::Fork, None));
            }
            Step::Aside(on) => device.run(if *on {
                "CREATE TRIGGER IF NOT EXISTS app BEFORE UPDATE ON notes WHEN new.rank % 5 = 2 AND (SELECT applying FROM sync_guard) BEGIN SELECT raise(ABORT, 'no'); END"
            } else {
                "DROP TRIGGER IF EXISTS app"
            }),
        }
    }
    device.run("DROP TRIGGER IF EXISTS app");
    server.push(&device, 0);
    server.publish(&device, true);
    server.push(&device, 0);
    server.publish(&device, true);
    server.publish(&device, true);
    // A file that was damaged behind its back is mended by what differs.
    let damage = [
        "UPDATE notes SET title = 'wrong' WHERE id = 'k1'",
        "DELETE FROM notes WHERE id = 'k2'",
        "DELETE FROM sync_row WHERE key = 'k3'",
        "UPDATE sync_row SET hash = 7 WHERE key = 'k4'",
        "UPDATE sync_part SET sum = 7 WHERE id = 1",
    ][steps.len() % 5];
    device
        .plain()
        .execute_batch(&format!("UPDATE sync_guard SET applying = 1; {damage}; UPDATE sync_guard SET applying = 0"))
        .unwrap();
    device.text("SELECT sync_verify()");
    server.publish(&device, true);
    let expected: Vec<String> =
        server.notes.iter().filter(|(_, n)| n.2 & 3 != 0).map(|(k, n)| format!("{k}:{}:{}", n.0, n.1)).collect();
    let mut statement = device.db.prepare("SELECT substr(id, 2) || ':' || title || ':' || rank FROM notes ORDER BY id").unwrap();
    let shown: Vec<String> = statement.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(shown, expected);
    assert_eq!(device.number("SELECT count(*) FROM sync_shadow"), 0);
    assert_eq!(device.number("SELECT count(*) FROM sync_pending"), 0);
    assert!(device.text("SELECT sync_verify()").contains(r#""different":[]"#));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn the_device_ends_up_with_the_servers_rows(steps in steps()) {
        play(&steps);
    }
}
