//! Rows that come without the columns that have not changed are completed from what the server had of them, or asked for again.

mod common;
use common::*;
use rusqlite::Connection;
use serde_bytes::ByteBuf;
use std::slice::from_ref;
use sync_shared::{envelope, row};

/// A note k<n>.
fn note(n: i64, title: &str, body: &str, rank: i64) -> Vec<Value> {
    let text = |text: &str| Value::Text(text.into());
    let pairs = [("id", text(&format!("k{n}"))), ("title", text(title)), ("body", text(body)), ("rank", Value::Integer(rank))];
    values(&schema().tables[0], &pairs)
}

/// Positions of columns of the notes.
fn places(names: &[&str]) -> Vec<u16> {
    let place = |name: &&str| schema().tables[0].columns.iter().position(|c| c.name == **name).unwrap() as u16;
    let mut places: Vec<u16> = names.iter().map(place).collect();
    places.sort_unstable();
    places
}

trait Short {
    /// Rows of notes of which only these columns come, and the key.
    fn short(self, names: &[&str], rows: &[Vec<Value>]) -> Page;
}

impl Short for Page {
    fn short(self, names: &[&str], rows: &[Vec<Value>]) -> Page {
        let columns = places(&[names, &["id"]].concat());
        let cut = |row: &Vec<Value>| columns.iter().map(|c| row[usize::from(*c)].clone()).collect();
        let rows: Vec<Vec<Value>> = rows.iter().map(cut).collect();
        let mut page = self.rows_of(0, 1, &rows);
        page.0.changes.last_mut().unwrap().columns = Some(columns);
        page
    }
}

fn notes(device: &Device) -> Vec<String> {
    let sql = "SELECT id || ' ' || coalesce(title, '-') || ' ' || coalesce(body, '-') || ' ' || coalesce(rank, '-') FROM notes ORDER BY id";
    let mut statement = device.db.prepare(sql).unwrap();
    let rows = statement.query_map([], |r| r.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

fn is_alike(device: &Device) {
    assert_eq!(device.status("mismatch") + device.status("refetch"), 0);
    assert!(device.text("SELECT sync_verify()").contains(r#""different":[]"#));
}

#[test]
fn a_device_says_that_it_completes_rows() {
    assert!(Device::new().request().completes);
}

#[test]
fn what_did_not_come_stays() {
    let device = Device::with(&[note(1, "a", "long", 1), note(2, "b", "longer", 2)]);
    let next = [note(1, "A", "long", 1), note(2, "b", "longer", 3)];
    let report = device.apply(&empty().short(&["title"], &next[..1]).short(&["rank"], &next[1..]).publish().known().sum(&next));
    assert_eq!((report["more"].as_bool(), report["rows"].as_i64()), (Some(false), Some(2)));
    assert_eq!(notes(&device), ["k1 A long 1", "k2 b longer 3"]);
    is_alike(&device);
}

#[test]
fn a_column_that_became_null_is_not_one_that_did_not_come() {
    let device = Device::with(&[note(1, "a", "long", 1)]);
    let mut next = note(1, "a", "long", 1);
    next[usize::from(places(&["title"])[0])] = Value::Null;
    device.apply(&empty().short(&["title"], from_ref(&next)).publish().known().sum(&[next]));
    assert_eq!(notes(&device), ["k1 - long 1"]);
    is_alike(&device);
}

#[test]
fn staged_rows_are_completed_one_from_the_other_also_after_a_kill() {
    let mut device = Device::with(&[note(1, "a", "long", 1), note(2, "b", "longer", 2)]);
    // One row whole and then short, the other short twice, on pages that wait.
    device.apply(&page(&[note(1, "A", "LONG", 1)]).short(&["rank"], &[note(2, "b", "longer", 20)]));
    device.apply(&empty().short(&["rank"], &[note(1, "A", "LONG", 10)]));
    device.db = Connection::open(&device.path).unwrap();
    load(&device.db);
    device.apply(&empty().short(&["title"], &[note(2, "B", "longer", 20)]));
    assert_eq!(notes(&device), ["k1 a long 1", "k2 b longer 2"], "nothing is visible yet");
    let last = [note(1, "Z", "LONG", 10), note(2, "B", "longer", 20)];
    device.apply(&empty().short(&["title"], &last[..1]).publish().known().sum(&last));
    assert_eq!(notes(&device), ["k1 Z LONG 10", "k2 B longer 20"]);
    is_alike(&device);
}

#[test]
fn a_row_is_completed_from_the_servers_version_and_not_from_what_was_written_here() {
    let device = Device::with(&[note(1, "a", "long", 1)]);
    device.run("UPDATE notes SET body = 'mine' WHERE id = 'k1'");
    let next = note(1, "A", "long", 1);
    device.apply(&empty().short(&["title"], from_ref(&next)).publish().known().sum(from_ref(&next)));
    assert_eq!(notes(&device), ["k1 A mine 1"]);
    assert_eq!(device.status("mismatch") + device.status("refetch"), 0);
    // Sent and answered, but not confirmed: the same. Then the server sends what became of it, and nothing of before is left.
    let batches = device.push();
    assert_eq!(kinds(&batches), ["update k1 (body)"]);
    device.answer(&batches, Verdict::Accepted);
    let later = note(1, "A", "long", 2);
    device.apply(&empty().short(&["rank"], from_ref(&later)).publish().known().sum(&[later]));
    assert_eq!(notes(&device), ["k1 A mine 2"]);
    let merged = note(1, "A", "mine", 2);
    device.apply(&empty().short(&["body"], from_ref(&merged)).publish().known().sum(&[merged]).confirm(&batches[0]));
    assert_eq!(notes(&device), ["k1 A mine 2"]);
    is_alike(&device);
    assert_eq!(device.number("SELECT count(*) FROM sync_shadow"), 0);
}

#[test]
fn a_row_that_was_deleted_here_is_completed_and_comes_back_if_the_delete_is_rejected() {
    let device = Device::with(&[note(1, "a", "long", 1)]);
    device.run("DELETE FROM notes");
    let batches = device.push();
    let next = note(1, "A", "long", 1);
    device.apply(&empty().short(&["title"], from_ref(&next)).publish().known().sum(&[next]));
    assert_eq!(notes(&device), [""; 0]);
    device.answer(&batches, Verdict::Rejected);
    assert_eq!(notes(&device), ["k1 A long 1"]);
    is_alike(&device);
}

#[test]
fn a_row_that_the_part_does_not_have_is_not_made_and_its_bucket_is_asked_for_again() {
    let device = Device::with(&[note(1, "a", "long", 1)]);
    // Written here, or in another bucket: it is not the part's.
    device.run("INSERT INTO notes VALUES ('k2', 'mine', 'mine', 9)");
    let second = note(3, "c", "second", 3);
    device.apply(&page(&[second]).in_bucket("second").publish());
    for (n, sums) in [(2, true), (3, false), (4, false)] {
        let before = notes(&device);
        let mut short = empty().short(&["title"], &[note(n, "guess", "?", 0)]).publish().known();
        if sums {
            short = short.sum(&[note(1, "a", "long", 1), note(n, "guess", "?", 0)]);
        }
        assert_eq!(device.apply(&short)["more"], true, "at once");
        assert_eq!(notes(&device), before);
        let request = device.request();
        assert_eq!((request.held.count, request.ranges.len()), (1, 1), "not the bucket with the row, but its ranges");
        let back = [note(1, "a", "long", 1), note(n, "known", "now", n)];
        device.apply(&page(&back).starting_empty().publish().sum(&back));
        assert_eq!(device.request().held.count, 2);
        assert_eq!(device.status("refetch") + device.status("mismatch"), 0);
    }
    assert_eq!(kinds(&device.push()), ["insert k2 (id, rank, title, body)"]);
}

#[test]
fn one_that_comes_whole_after_all_is_not_asked_for_again() {
    let device = Device::with(&[note(1, "a", "long", 1)]);
    device.apply(&empty().short(&["title"], &[note(2, "early", "?", 0)]));
    let all = [note(1, "a", "long", 1), note(2, "b", "whole", 2)];
    let report = device.apply(&page(&all[1..]).publish().known().sum(&all));
    assert_eq!(report["more"], false);
    assert_eq!(notes(&device), ["k1 a long 1", "k2 b whole 2"]);
    is_alike(&device);
}

#[test]
fn what_was_changed_past_the_triggers_is_found_by_the_sum() {
    let device = Device::with(&[note(1, "a", "long", 1)]);
    let triggers: Vec<String> = {
        let mut found =
            device.db.prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'notes'").unwrap();
        let names = found.query_map([], |r| r.get(0)).unwrap();
        names.map(Result::unwrap).collect()
    };
    let saved: Vec<String> =
        triggers.iter().map(|t| device.text(&format!("SELECT sql FROM sqlite_schema WHERE name = '{t}'"))).collect();
    triggers.iter().for_each(|t| device.run(&format!("DROP TRIGGER \"{t}\"")));
    device.run("UPDATE notes SET body = 'damaged'");
    saved.iter().for_each(|sql| device.run(sql));
    let next = note(1, "A", "long", 1);
    let report = device.apply(&empty().short(&["title"], from_ref(&next)).publish().known().sum(from_ref(&next)));
    assert_eq!(report["more"], true);
    assert_eq!(device.request().ranges.len(), 1);
    device.apply(&page(from_ref(&next)).starting_empty().publish().sum(&[next]));
    assert_eq!(notes(&device), ["k1 A long 1"]);
    is_alike(&device);
}

#[test]
fn staged_short_rows_follow_a_schema_that_changes() {
    let device = Device::with(&[note(1, "a", "long", 1)]);
    device.apply(&empty().short(&["title", "rank"], &[note(1, "A", "long", 2)]));
    let mut new = schema();
    new.generation = 2;
    let notes = &mut new.tables[0];
    notes.columns.retain(|c| c.name != "rank");
    notes.columns.push(column("added", Affinity::Text, 5, 0));
    notes.columns.sort_by_key(|c| c.tag);
    let all = [("id", "k1"), ("title", "A"), ("body", "long"), ("added", "new")].map(|(n, v)| (n, Value::Text(v.into())));
    let last = values(&new.tables[0], &all);
    let mut page = empty().rows_in(&new.tables[0], 1, &[]);
    page.0.changes.clear();
    page.0.schema = Some(new.clone());
    device.apply(&page);
    let key = new.tables[0].columns.iter().position(|c| c.name == "id").unwrap();
    let added = new.tables[0].columns.iter().position(|c| c.name == "added").unwrap();
    let mut columns = vec![key as u16, added as u16];
    columns.sort_unstable();
    let short: Vec<Value> = columns.iter().map(|c| last[usize::from(*c)].clone()).collect();
    let mut page = empty().rows_in(&new.tables[0], 1, &[short]).publish().known();
    page.0.changes[0].columns = Some(columns);
    page.0.sums = vec![PartSum { bucket: bucket("all").id, entry: 1, content: content(&new.tables[0], &[last]) }];
    assert_eq!(device.apply(&page)["more"], false);
    assert_eq!(device.text("SELECT title || body || added FROM notes"), "Alongnew");
    is_alike(&device);
}

#[test]
fn what_an_unfinished_download_left_is_compared_by_ranges_that_differ() {
    let device = Device::with(&[]);
    device.apply(&page(&[note(1, "a", "long", 1), note(2, "b", "longer", 2)]).in_bucket("new").starting_empty());
    let whole = device.request();
    assert!(whole.ranges.is_empty(), "the pass goes on");
    let mut short = empty().short(&["title"], &[note(1, "A", "long", 1), note(9, "unknown", "?", 0)]);
    short.0.buckets[0] = bucket("new");
    device.apply(&short);
    device.apply_message(&notice(NoticeKind::Resync, vec![]));
    device.apply_message(&notice(NoticeKind::Verified, vec![bucket("all").id]));
    let request = device.request();
    let sums = &request.ranges.iter().find(|r| r.bucket == bucket("new").id).unwrap().sums;
    assert_eq!(sums.total().count, 2);
    assert_ne!(sums.total(), content(&schema().tables[0], &[note(1, "a", "long", 1), note(2, "b", "longer", 2)]));
    assert_ne!(sums.total(), content(&schema().tables[0], &[note(1, "A", "long", 1), note(2, "b", "longer", 2)]));
}

#[test]
fn columns_that_cannot_be_are_refused_and_change_nothing() {
    let device = Device::with(&[note(1, "a", "long", 1)]);
    let good = empty().short(&["title"], &[note(1, "A", "long", 1)]).publish().known();
    let (all, key) = (places(&["id", "title", "body", "rank"]), places(&["id"])[0]);
    let title = places(&["title"])[0];
    type Change = fn(&mut PartChanges, u16, u16);
    let wrong: [(&str, Change); 9] = [
        ("its columns", |c, _, _| c.columns = Some(vec![])),
        ("its columns", |c, key, _| c.columns = Some(vec![key, 4])),
        ("its columns", |c, key, _| c.columns = Some(vec![key, u16::MAX])),
        ("its columns", |c, key, title| c.columns = Some(vec![key.max(title), key.min(title)])),
        ("its columns", |c, key, _| c.columns = Some(vec![key, key])),
        ("its columns", |c, _, title| c.columns = Some(vec![title])),
        ("its columns", |c, _, _| c.from_empty = true),
        ("do not fit", |c, key, _| c.columns = Some(vec![key])),
        ("cut short", |c, _, _| c.columns = Some(vec![0, 1, 2, 3])),
    ];
    assert_eq!(all, [0, 1, 2, 3]);
    for (say, change) in wrong {
        let mut delta = good.0.clone();
        change(&mut delta.changes[0], key, title);
        let before = device.dump();
        let error = device.apply_bytes(&envelope::encode(&delta).unwrap()).unwrap_err().to_string();
        assert!(error.contains(say), "{error}");
        assert_eq!(device.dump(), before);
    }
    let mut null = good.0.clone();
    let given = |c: &u16| if *c == key { Value::Null } else { Value::Text("A".into()) };
    let values: Vec<Value> = null.changes[0].columns.iter().flatten().map(given).collect();
    null.changes[0].rows = ByteBuf::from(row::encode(&values));
    device.apply_bytes(&envelope::encode(&null).unwrap()).unwrap();
    assert_eq!(notes(&device), ["k1 a long 1"], "no row has such a key");
}
