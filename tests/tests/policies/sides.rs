//! Policies that choose a side, or none.

use super::pair::Pair;
use crate::phone::{insert, int, now, text, update, Phone, SECOND};
use postgres::Client;
use sync_shared::message::{Change, Verdict};
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database};

fn notes(policies: &str) -> (Database<'static>, Client) {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE note (id int PRIMARY KEY, title text, body text); INSERT INTO note VALUES (1, 'title', 'body')");
    db.run(policies);
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note')");
    let server = db.connect();
    (db, server)
}

fn both(title: &str, body: &str) -> Change {
    update("note", 1, &[("title", text("title"), text(title)), ("body", text("body"), text(body))])
}

fn note(server: &mut Client) -> Vec<String> {
    server_rows(server, "SELECT title, body FROM note WHERE id = 1").remove(0)
}

/// A device whose edits are later, or earlier, than everybody's.
fn phone(later: bool) -> Phone {
    let mut phone = Phone::new("ann");
    phone.clock = Some(if later { now() + 60 * SECOND } else { 0 });
    phone
}

#[test]
fn server_wins_keeps_the_servers_columns_and_takes_the_others() {
    let (db, mut server) = notes("SELECT sync.set_policy('note', 'server_wins')");
    db.run("UPDATE note SET title = 'theirs'");
    let result = phone(true).one(&mut server, both("mine", "mine"));
    assert_eq!((result.verdict, note(&mut server)), (Verdict::Merged, vec!["theirs".into(), "mine".into()]));
    let [conflict] = &result.conflicts[..] else { panic!("{result:?}") };
    assert_eq!((conflict.policy.as_str(), &conflict.result), ("server_wins", &text("theirs")));
    assert!(conflict.reason.contains("the server at") && conflict.reason.contains("the device at"), "{}", conflict.reason);
    assert_eq!(
        server_rows(&mut server, "SELECT policy, column_name, theirs, mine, result FROM sync.conflict"),
        [["server_wins", "title", "\"theirs\"", "\"mine\"", "\"theirs\""]]
    );
}

#[test]
fn client_wins_takes_the_devices_columns_even_when_they_are_older() {
    let (db, mut server) = notes("SELECT sync.set_policy('note', 'client_wins')");
    db.run("UPDATE note SET title = 'theirs'");
    let result = phone(false).one(&mut server, both("mine", "mine"));
    assert_eq!((result.verdict, note(&mut server)), (Verdict::Merged, vec!["mine".into(), "mine".into()]));
    assert_eq!(result.conflicts[0].policy, "client_wins");
}

#[test]
fn a_columns_policy_comes_before_its_tables() {
    let (db, mut server) =
        notes("SELECT sync.set_policy('note', 'server_wins'), sync.set_policy('note', 'client_wins', 'title')");
    db.run("UPDATE note SET title = 'theirs', body = 'theirs'");
    let result = phone(true).one(&mut server, both("mine", "mine"));
    assert_eq!(note(&mut server), ["mine", "theirs"]);
    let policies: Vec<&str> = result.conflicts.iter().map(|c| c.policy.as_str()).collect();
    assert_eq!(policies, ["client_wins", "server_wins"]);
}

#[test]
fn last_writer_for_one_column_is_the_later_edit() {
    for later in [false, true] {
        let (db, mut server) =
            notes("SELECT sync.set_policy('note', 'server_wins'), sync.set_policy('note', 'last_writer', 'title')");
        db.run("UPDATE note SET title = 'theirs', body = 'theirs'");
        phone(later).one(&mut server, both("mine", "mine"));
        assert_eq!(note(&mut server), [if later { "mine" } else { "theirs" }, "theirs"]);
    }
}

#[test]
fn last_writer_for_a_table_takes_all_of_the_devices_row_or_nothing() {
    for later in [false, true] {
        let (db, mut server) = notes("SELECT sync.set_policy('note', 'last_writer')");
        db.run("UPDATE note SET title = 'theirs'");
        let result = phone(later).one(&mut server, both("mine", "mine"));
        let winner = if later { ["mine", "mine"] } else { ["theirs", "body"] };
        assert_eq!((result.verdict, note(&mut server)), (Verdict::Merged, winner.map(str::to_owned).to_vec()));
        let [conflict] = &result.conflicts[..] else { panic!("{result:?}") };
        assert_eq!((conflict.policy.as_str(), conflict.column), ("last_writer", None));
        let sql = "SELECT base->>'title', theirs->>'body', mine->>'title', result->>'title', result->>'body' FROM sync.conflict";
        assert_eq!(server_rows(&mut server, sql), [["title", "body", "mine", winner[0], winner[1]]]);
        // Without a conflict columns of both sides are merged.
        db.run("UPDATE note SET body = 'other'");
        phone(false).accepted(&mut server, update("note", 1, &[("title", text(winner[0]), text("alone"))]));
        assert_eq!(note(&mut server), ["alone", "other"]);
    }
}

#[test]
fn a_clock_that_runs_ahead_wins_no_longer_than_the_skew() {
    let (_db, mut server) = notes("SELECT sync.set_policy('note', 'last_writer')");
    let mut fast = Phone::new("ann");
    fast.clock = Some(now() + 365 * 86400 * SECOND);
    fast.accepted(&mut server, both("fast", "fast"));
    let mut other = Phone::new("bob");
    other.clock = Some(now() + 301 * SECOND);
    other.one(&mut server, both("other", "other"));
    assert_eq!(note(&mut server), ["other", "other"]);
}

#[test]
fn reject_rejects_the_whole_batch_and_records_why() {
    for declared in ["sync.set_policy('note', 'reject')", "sync.set_policy('note', 'reject', 'title')"] {
        let (db, mut server) = notes(&format!("SELECT {declared}"));
        db.run("UPDATE note SET title = 'theirs'");
        let mut phone = phone(true);
        let batch = phone.batch(vec![insert("note", 2, &[("title", text("new"))]), both("mine", "mine")]);
        let result = phone.push(&mut server, vec![batch.clone()]).results.remove(0);
        assert_eq!((result.verdict, result.code.as_str()), (Verdict::Rejected, "SY010"), "{result:?}");
        assert!(
            result.message.contains("both changed \"title\"") && result.message.contains("write again"),
            "{}",
            result.message
        );
        assert_eq!(result.conflicts.len(), 1);
        assert_eq!(server_rows(&mut server, "SELECT id, title, body FROM note"), [["1", "theirs", "body"]]);
        assert_eq!(server_value(&mut server, "SELECT policy FROM sync.conflict"), "reject");
        // Asked again, it says the same.
        assert_eq!(phone.push(&mut server, vec![batch]).results, [result]);
        // What does not conflict goes through.
        phone.accepted(&mut server, update("note", 1, &[("title", text("theirs"), text("mine"))]));
    }
}

#[test]
fn a_rejected_batch_leaves_the_device_with_the_servers_row() {
    let mut pair = Pair::new(
        "CREATE TABLE note (id int PRIMARY KEY, title text); INSERT INTO note VALUES (1, 'title');
         SELECT sync.set_policy('note', 'reject')",
    );
    pair.write("UPDATE note SET title = 'ann'", "UPDATE note SET title = 'bob'");
    assert_eq!(pair.bob.rows("SELECT title FROM note"), [["ann"]]);
    assert_eq!(pair.bob.rows("SELECT code FROM sync_rejected"), [["SY010"]]);
    assert_eq!(pair.recorded(), [["reject", "∅"]]);
}

#[test]
fn a_devices_own_earlier_batch_is_no_conflict_under_any_policy() {
    for policy in ["merge", "server_wins", "client_wins", "last_writer", "reject"] {
        let (db, mut server) = notes(&format!("SELECT sync.set_policy('note', '{policy}')"));
        db.run(
            "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.title := upper(NEW.title); RETURN NEW; END $$;
             CREATE TRIGGER shout BEFORE UPDATE ON note FOR EACH ROW EXECUTE FUNCTION shout()",
        );
        let mut phone = phone(false);
        phone.accepted(&mut server, update("note", 1, &[("title", text("title"), text("a"))]));
        phone.accepted(&mut server, update("note", 1, &[("title", text("a"), text("b"))]));
        assert_eq!(note(&mut server)[0], "B", "{policy}");
    }
}

#[test]
fn an_insert_that_meets_a_row_is_decided_by_the_policy() {
    let (db, mut server) = notes("SELECT sync.set_policy('note', 'server_wins')");
    db.run("INSERT INTO note VALUES (2, 'theirs', NULL)");
    let result =
        phone(true).one(&mut server, insert("note", 2, &[("id", int(2)), ("title", text("mine")), ("body", text("mine"))]));
    assert_eq!((result.verdict, result.conflicts.len()), (Verdict::Merged, 2));
    assert_eq!(server_rows(&mut server, "SELECT title, body FROM note WHERE id = 2"), [["theirs", "∅"]]);
}
