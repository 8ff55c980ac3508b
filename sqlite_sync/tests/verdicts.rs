//! What becomes of pending writes on the device that made them: undone exactly, taken over without flicker, or merged.

mod common;
use common::*;
use std::collections::BTreeMap;

/// title, body, rank: None where it is NULL.
type Note = [Option<String>; 3];
type Notes = BTreeMap<String, Note>;

const COLUMNS: [&str; 3] = ["title", "body", "rank"];

enum Step {
    /// Inserts a note with one column, or fills the column in where the note is there.
    Put(&'static str, usize, &'static str),
    /// Changes one column, where the note is there.
    Set(&'static str, usize, &'static str),
    Delete(&'static str),
}
use Step::{Delete, Put, Set};

/// Four transactions over the same rows.
fn transactions() -> [Vec<Step>; 4] {
    [
        vec![Set("k1", 0, "1"), Put("k3", 0, "1")],
        vec![Set("k1", 2, "2"), Set("k3", 0, "2"), Delete("k2")],
        vec![Put("k2", 1, "3"), Set("k1", 0, "3"), Set("k3", 1, "3")],
        vec![Delete("k3"), Set("k1", 1, "4"), Set("k2", 0, "4")],
    ]
}

fn sql(step: &Step) -> String {
    match step {
        Put(key, column, value) => format!("INSERT INTO notes(id, {}) VALUES ('{key}', '{value}')", COLUMNS[*column]),
        Set(key, column, value) => format!("UPDATE notes SET {} = '{value}' WHERE id = '{key}'", COLUMNS[*column]),
        Delete(key) => format!("DELETE FROM notes WHERE id = '{key}'"),
    }
}

fn model(notes: &mut Notes, step: &Step) {
    match step {
        Put(key, column, value) => notes.entry((*key).into()).or_default()[*column] = Some((*value).into()),
        Set(key, column, value) => {
            if let Some(note) = notes.get_mut(*key) {
                note[*column] = Some((*value).into());
            }
        }
        Delete(key) => {
            notes.remove(*key);
        }
    }
}

fn visible(device: &Device) -> Notes {
    let mut statement = device.db.prepare("SELECT id, title, body, CAST(rank AS TEXT) FROM notes").unwrap();
    let rows = statement.query_map([], |r| Ok((r.get(0)?, [r.get(1)?, r.get(2)?, r.get(3)?]))).unwrap();
    rows.map(Result::unwrap).collect()
}

fn as_row(key: &str, note: &Note) -> Vec<Value> {
    let text = |t: &Option<String>| t.clone().map_or(Value::Null, Value::Text);
    let rank = note[2].as_ref().map_or(Value::Null, |r| Value::Integer(r.parse().unwrap()));
    let pairs = [("id", Value::Text(key.into())), ("title", text(&note[0])), ("body", text(&note[1])), ("rank", rank)];
    values(&schema().tables[0], &pairs)
}

#[test]
fn whatever_is_rejected_is_undone_exactly_and_the_rest_stays() {
    for rejected in 0..16_u32 {
        let device = Device::with(&[row(1, "a"), row(2, "b")]);
        let mut server = visible(&device);
        for steps in transactions() {
            let all: Vec<_> = steps.iter().map(sql).collect();
            device.run(&format!("BEGIN; {}; COMMIT", all.join("; ")));
        }
        let batches = device.push();
        assert_eq!(batches.len(), 4);
        let is_rejected = |at: usize| rejected & (1 << at) != 0;
        // One verdict at a time, as a slow network would bring them; what waits is shown on top all along.
        for at in 0..4 {
            let mut answer = reply(&batches[at..=at], if is_rejected(at) { Verdict::Rejected } else { Verdict::Accepted });
            answer.last = Some(batches[at].id);
            device.apply_message(&answer);
            let mut expected = server.clone();
            for (_, steps) in transactions().iter().enumerate().filter(|(other, _)| *other > at || !is_rejected(*other)) {
                steps.iter().for_each(|step| model(&mut expected, step));
            }
            assert_eq!(visible(&device), expected, "rejected {rejected:04b}, after verdict {at}");
        }
        transactions()
            .iter()
            .enumerate()
            .filter(|(at, _)| !is_rejected(*at))
            .flat_map(|(_, s)| s)
            .for_each(|s| model(&mut server, s));
        let rows: Vec<_> = server.iter().map(|(key, note)| as_row(key, note)).collect();
        let gone: Vec<i64> = (1..4).filter(|n| !server.contains_key(&format!("k{n}"))).collect();
        device.apply(&page(&rows).gone(&gone).publish().known().confirm(&batches[3]));
        assert_eq!(visible(&device), server, "rejected {rejected:04b}");
        assert_eq!(device.number("SELECT count(*) FROM sync_shadow"), 0);
        assert_eq!(device.number("SELECT count(*) FROM sync_rejected"), i64::from(rejected.count_ones()));
    }
}

#[test]
fn an_accepted_write_is_never_seen_undone() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    let watcher = device.plain();
    let sees = |when: &str| {
        let title: String = watcher.query_row("SELECT title FROM notes WHERE id = 'k1'", [], |r| r.get(0)).unwrap();
        let others: i64 = watcher.query_row("SELECT count(*) FROM notes WHERE id IN ('k2', 'k3')", [], |r| r.get(0)).unwrap();
        assert_eq!((title.as_str(), others), ("mine", 1), "{when}");
    };
    device.run("BEGIN; UPDATE notes SET title = 'mine' WHERE id = 'k1'; DELETE FROM notes WHERE id = 'k2'; INSERT INTO notes(id) VALUES ('k3'); COMMIT");
    sees("written");
    let batches = device.push();
    sees("sealed");
    device.apply(&page(&[row(1, "a"), row(2, "b")]).publish().known());
    sees("a download from before it");
    device.apply_message(&reply(&[], Verdict::Accepted));
    sees("an answer about nothing");
    device.answer(&batches, Verdict::Later);
    sees("later");
    device.request();
    assert_eq!(device.push(), batches);
    device.answer(&batches, Verdict::Accepted);
    sees("answered");
    device.apply(&page(&[row(2, "b")]).publish().known());
    sees("a download from before it, after the answer");
    let now = [row(1, "mine"), row(3, "")];
    let mut part = page(&now).gone(&[2]).publish().known().confirm(&batches[0]);
    part.0.complete = false;
    device.apply(&part);
    sees("a lower priority is not there yet");
    device.apply(&page(&now));
    sees("staged");
    device.apply_message(&notice(NoticeKind::Resync, vec![]));
    sees("the server went back");
    assert_eq!(device.push().len(), 1);
    device.answer(&batches, Verdict::Accepted);
    sees("answered again");
    device.apply(&page(&now).gone(&[2]).publish().known().confirm(&batches[0]));
    sees("confirmed");
    assert_eq!(device.number("SELECT (SELECT count(*) FROM sync_shadow) + (SELECT count(*) FROM sync_pending)"), 0);
}

#[test]
fn what_the_server_merged_appears_on_the_device_that_wrote() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    device.run("UPDATE notes SET rank = 7, title = 'mine' WHERE id = 'k1'");
    let batches = device.push();
    device.answer(&batches, Verdict::Merged);
    assert_eq!(device.text("SELECT title || rank FROM notes WHERE id = 'k1'"), "mine7");
    device.run("UPDATE notes SET body = 'later' WHERE id = 'k1'");
    let note = |body: Option<&str>| as_row("k1", &[Some("theirs".into()), body.map(Into::into), Some("7".into())]);
    device.apply(&page(&[note(None)]).publish().known().confirm(&batches[0]));
    assert_eq!(device.text("SELECT title || rank || body FROM notes WHERE id = 'k1'"), "theirs7later", "with what waits on top");
    let batches = device.push();
    assert_eq!(kinds(&batches), ["update k1 (body)"]);
    device.answer(&batches, Verdict::Accepted);
    device.apply(&page(&[note(Some("later"))]).publish().known().confirm(&batches[0]));
    assert_eq!(device.text("SELECT title || rank || body FROM notes WHERE id = 'k1'"), "theirs7later");
    assert_eq!(device.number("SELECT count(*) FROM sync_shadow"), 0);
}
