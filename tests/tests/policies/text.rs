//! Long text that both sides edit: merged by lines and words; where edits overlap, the later one stays.

use super::pair::Pair;
use crate::phone::{insert, now, short, text, update, Phone, SECOND};
use sync_shared::message::BatchResult;
use sync_shared::Value;
use sync_tests::compare::server_value;
use sync_tests::{Cluster, Database};

const TABLE: &str = "CREATE TABLE note (id int PRIMARY KEY, body text); SELECT sync.set_policy('note', 'text', 'body')";

fn texts() -> (Database<'static>, postgres::Client) {
    let db = Cluster::shared().database();
    db.run(TABLE);
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note')");
    let server = db.connect();
    (db, server)
}

/// Somebody makes `theirs` of `base`, then a device sends that it made `mine` of it: what it becomes, and what is said.
fn merged(server: &mut postgres::Client, later: bool, base: &str, theirs: &str, mine: &str) -> (String, BatchResult) {
    let update_as = "INSERT INTO note VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET body = excluded.body";
    for body in [base, theirs] {
        server.execute(update_as, &[&body]).expect("a write on the server");
    }
    let mut phone = Phone::new("ann");
    phone.clock = Some(if later { now() + 60 * SECOND } else { 0 });
    let result = phone.one(server, update("note", 1, &[("body", text(base), text(mine))]));
    (server_value(server, "SELECT body FROM note"), result)
}

#[test]
fn two_devices_edit_different_places_of_a_text() {
    let mut pair = Pair::new(&format!("{TABLE}; INSERT INTO note VALUES (1, E'Shopping\nmilk\nbread\n\nCall the plumber')"));
    pair.write(
        "UPDATE note SET body = replace(body, 'milk', 'milk, two litres')",
        "UPDATE note SET body = replace(body, 'plumber', 'electrician') || char(10) || 'Water the plants'",
    );
    assert_eq!(
        pair.rows("SELECT body FROM note"),
        [["Shopping\nmilk, two litres\nbread\n\nCall the electrician\nWater the plants"]]
    );
    assert_eq!(pair.recorded(), [["text", "body"]]);
    assert!(pair.bob.value("SELECT reason FROM sync_conflicts").contains("changes of the text were merged"));
}

#[test]
fn edits_that_do_not_overlap_are_merged() {
    let (_db, mut server) = texts();
    let cases = [
        // Lines.
        ("a\nb\nc", "A\nb\nc", "a\nb\nC", "A\nb\nC"),
        ("a\nb\nc", "a\nc", "a\nb\nc\nd", "a\nc\nd"),
        ("a\nb\nc\n", "a\nb\nc\nd\n", "x\na\nb\nc\n", "x\na\nb\nc\nd\n"),
        ("a\nb", "A\nb", "a\nB", "A\nB"),
        // New lines at the same place: both stay, the server's first.
        ("list", "list\ntheirs", "list\nmine", "list\ntheirs\nmine"),
        ("list\n", "list\ntheirs\n", "list\nmine\n", "list\ntheirs\nmine\n"),
        // Words of one line.
        ("the quick brown fox", "the slow brown fox", "the quick brown dog", "the slow brown dog"),
        ("one two", "zero one two", "one two three", "zero one two three"),
        ("naïve café, 東京 is big", "naïve bar, 東京 is big", "naïve café, 大阪 is big", "naïve bar, 大阪 is big"),
        ("tab\tand\r\nreturn", "tab\tor\r\nreturn", "tab\tand\r\nreturns", "tab\tor\r\nreturns"),
        // The same change on both sides, and one of one side.
        ("a\nb\nc", "a\nB\nc", "a\nB\nC", "a\nB\nC"),
        // One side removes everything that the other left alone.
        ("a\nb", "a", "x\na\nb", "x\na"),
    ];
    for (base, theirs, mine, both) in cases {
        for later in [false, true] {
            let (body, result) = merged(&mut server, later, base, theirs, mine);
            assert_eq!(body, both, "{base:?} {theirs:?} {mine:?}");
            assert_eq!((short(std::slice::from_ref(&result)), result.conflicts.len()), (vec!["merged".into()], 1), "{result:?}");
            assert!(!result.message.contains("later edit"), "{result:?}");
        }
    }
}

#[test]
fn where_edits_overlap_the_later_stays_and_the_rest_is_merged() {
    let (_db, mut server) = texts();
    let cases = [
        ("call me", "call you", "call him", "call you", "call him"),
        ("a\ncall me\nz", "a\ncall you\nZ", "A\ncall him\nz", "A\ncall you\nZ", "A\ncall him\nZ"),
        ("", "theirs", "mine", "theirs", "mine"),
        ("one\ntwo", "one", "one\ntwo!", "one", "one\ntwo!"),
        ("the cat", "the big cat", "the small cat", "the big cat", "the small cat"),
    ];
    for (base, theirs, mine, earlier, later) in cases {
        for (is_later, expected) in [(false, earlier), (true, later)] {
            let (body, result) = merged(&mut server, is_later, base, theirs, mine);
            assert_eq!(body, expected, "{base:?} {theirs:?} {mine:?} {is_later}");
            assert!(result.message.contains("the later edit stays"), "{result:?}");
            let conflict = &result.conflicts[0];
            assert_eq!([&conflict.theirs, &conflict.mine, &conflict.result], [&text(theirs), &text(mine), &text(expected)]);
        }
    }
}

#[test]
fn null_and_two_inserts_are_decided_by_the_later_edit() {
    let (db, mut server) = texts();
    db.run("INSERT INTO note VALUES (1, 'a'); UPDATE note SET body = NULL");
    let mut phone = Phone::new("ann");
    phone.clock = Some(0);
    phone.one(&mut server, update("note", 1, &[("body", text("a"), text("a b"))]));
    assert_eq!(server_value(&mut server, "SELECT coalesce(body, 'NULL') FROM note"), "NULL");
    phone.clock = Some(now() + 60 * SECOND);
    db.run("UPDATE note SET body = 'theirs'");
    phone.one(&mut server, update("note", 1, &[("body", text("a"), Value::Null)]));
    assert_eq!(server_value(&mut server, "SELECT coalesce(body, 'NULL') FROM note"), "NULL");
    Phone::new("bob").accepted(&mut server, insert("note", 2, &[("body", text("bob's"))]));
    phone.one(&mut server, insert("note", 2, &[("body", text("mine"))]));
    assert_eq!(server_value(&mut server, "SELECT body FROM note WHERE id = 2"), "mine");
}

#[test]
fn batches_of_one_device_are_merged_one_after_the_other() {
    let (db, mut server) = texts();
    db.run("INSERT INTO note VALUES (1, E'a\nb\nc'); UPDATE note SET body = E'a\nb\ntheirs'");
    let body = |old: &str, new: &str| vec![update("note", 1, &[("body", text(old), text(new))])];
    let mut phone = Phone::new("ann");
    phone.clock = Some(0);
    let results =
        phone.send(&mut server, vec![body("a\nb\nc", "A\nb\nc"), body("A\nb\nc", "A!\nb\nc"), body("A!\nb\nc", "b\nc")]);
    assert_eq!(short(&results), ["merged", "merged", "merged"]);
    assert_eq!(server_value(&mut server, "SELECT body FROM note"), "b\ntheirs");
}

/// What the first batch was merged with is other people's: the device that sends the second has not seen it.
#[test]
fn what_an_earlier_batch_was_merged_with_does_not_give_way_in_silence() {
    let (db, mut server) = texts();
    db.run("INSERT INTO note VALUES (1, E'one two\nthree'); UPDATE note SET body = E'one theirs two\nthree'");
    let body = |old: &str, new: &str| vec![update("note", 1, &[("body", text(old), text(new))])];
    let mut phone = Phone::new("ann");
    phone.clock = Some(0);
    let first = body("one two\nthree", "one two\nthree mine");
    let second = body("one two\nthree mine", "one again two\nthree mine");
    let results = phone.send(&mut server, vec![first, second]);
    assert_eq!(short(&results), ["merged", "merged"]);
    assert_eq!(server_value(&mut server, "SELECT body FROM note"), "one again two\nthree mine");
    let conflict = &results[1].conflicts[0];
    assert_eq!([&conflict.theirs, &conflict.result], [&text("one theirs two\nthree mine"), &text("one again two\nthree mine")]);
    assert!(results[1].message.contains("an earlier batch of the device"), "{}", results[1].message);
    let third = body("one again two\nthree mine", "one again two\nthree mine!");
    assert_eq!(
        short(&phone.send(&mut server, vec![third])),
        ["accepted"],
        "what the device made alone is no conflict with itself"
    );
}

/// Random edits, each of whose words is one of its own: whatever does not overlap is there afterwards, and nothing is there that
/// nobody wrote.
#[test]
fn nothing_is_made_up_and_only_overlapping_edits_are_lost() {
    let (_db, mut server) = texts();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..150 {
        let base: Vec<String> = (0..random.usize(1..30)).map(|i| format!("line {i} of {round}")).collect();
        let mut side = |name: &str| {
            let mut lines = base.clone();
            for edit in 0..random.usize(1..6) {
                let at = random.usize(..=lines.len());
                match random.u8(..3) {
                    0 => lines.insert(at, format!("{name}{edit} new")),
                    1 if at < lines.len() => lines[at] += &format!(" {name}{edit}"),
                    _ if at < lines.len() => drop(lines.remove(at)),
                    _ => {}
                }
            }
            lines.join("\n")
        };
        let (theirs, mine) = (side("theirs"), side("mine"));
        if theirs == mine {
            continue;
        }
        let (body, result) = merged(&mut server, random.bool(), &base.join("\n"), &theirs, &mine);
        let words = |t: &str| t.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let known: Vec<String> = words(&theirs).into_iter().chain(words(&mine)).collect();
        assert!(words(&body).iter().all(|word| known.contains(word)), "{body:?} from {theirs:?} and {mine:?}");
        if !result.message.contains("later edit") {
            let written = known.iter().filter(|w| w.starts_with("theirs") || w.starts_with("mine"));
            let lost: Vec<&String> = written.filter(|w| !body.contains(w.as_str())).collect();
            assert!(lost.is_empty(), "{lost:?} lost in {body:?} from {theirs:?} and {mine:?}");
        }
    }
}

#[test]
fn large_texts_are_merged_and_too_large_ones_decided_by_the_later_edit() {
    let (_db, mut server) = texts();
    let base: Vec<String> = (0..40_000).map(|i| format!("line {i} of a long text")).collect();
    let (mut theirs, mut mine) = (base.clone(), base.clone());
    for i in (0..39_990).step_by(7) {
        theirs[i] += " theirs";
        mine[i + 3] += " mine";
    }
    let (body, result) = merged(&mut server, true, &base.join("\n"), &theirs.join("\n"), &mine.join("\n"));
    assert!(!result.message.contains("later edit"), "{}", result.message);
    assert_eq!((body.matches(" theirs").count(), body.matches(" mine").count()), (5713, 5713));
    // One line of a megabyte, one without anything in common, and lines that are too much alike to be compared.
    let words: String = (0..200_000).map(|i| format!("w{} ", i % 5000)).collect();
    let (body, _) = merged(&mut server, true, &words, &format!("theirs {words}"), &format!("{words}mine"));
    assert!(body.starts_with("theirs ") && body.ends_with("mine"));
    let other: String = (0..100_000).map(|i| format!("x{i}\n")).collect();
    let (body, _) = merged(&mut server, true, &words, &other, &other.replace('x', "y"));
    assert!(body.starts_with("y0\n"));
    let mut random = fastrand::Rng::with_seed(7);
    let mut letters = || (0..200_000).map(|_| if random.bool() { "a\n" } else { "b\n" }).collect::<String>();
    let (theirs, mine) = (letters(), letters() + "c\nc");
    let (body, result) = merged(&mut server, true, &letters(), &theirs, &mine);
    assert!(body == mine && result.message.contains("the later edit stays"));
    let long = "a ".repeat(3 << 20);
    let (body, result) = merged(&mut server, false, &long, &format!("{long}theirs"), &format!("mine {long}"));
    assert!(body.ends_with("theirs") && result.message.contains("too long or too unlike to be merged, the later edit stays"));
    assert_eq!(result.conflicts[0].mine, text(&format!("mine {long}")), "nothing is lost");
}
