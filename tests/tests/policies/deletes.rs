//! One side deletes what the other changes: a declared choice, and always recorded.

use super::pair::Pair;
use crate::phone::{delete, int, now, text, update, Phone, SECOND};
use postgres::Client;
use sync_shared::message::Verdict;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database};

fn notes(policy: &str) -> (Database<'static>, Client) {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE note (id int PRIMARY KEY, title text, body text); INSERT INTO note VALUES (1, 'title', 'body')");
    if !policy.is_empty() {
        db.run(&format!("SELECT sync.set_delete_policy('note', '{policy}')"));
    }
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note')");
    let server = db.connect();
    (db, server)
}

fn gone() -> sync_shared::message::Change {
    delete("note", 1, &[("id", int(1)), ("title", text("title")), ("body", text("body"))])
}

/// Whether the row is gone after a device deleted what the server had changed, and what was recorded.
fn deletes(policy: &str, later: bool) -> (bool, String, Vec<Vec<String>>) {
    let (db, mut server) = notes(policy);
    db.run("UPDATE note SET title = 'theirs'");
    let mut phone = Phone::new("ann");
    phone.clock = Some(if later { now() + 60 * SECOND } else { 0 });
    let result = phone.one(&mut server, gone());
    let verdict = if result.verdict == Verdict::Merged { "merged".to_owned() } else { result.code };
    let record = "SELECT policy, base->>'title', theirs->>'title', result->>'title' FROM sync.conflict";
    (server_value(&mut server, "SELECT count(*) FROM note") == "0", verdict, server_rows(&mut server, record))
}

#[test]
fn without_a_policy_the_update_is_kept_and_recorded() {
    let kept = [["keep_update", "title", "theirs", "theirs"]].map(|row| row.map(str::to_owned).to_vec()).to_vec();
    assert_eq!(deletes("", true), (false, "merged".into(), kept.clone()));
    assert_eq!(deletes("keep_update", true), (false, "merged".into(), kept));
}

#[test]
fn delete_wins_deletes_and_keeps_the_others_version_in_the_record() {
    let record = vec![["delete_wins", "title", "theirs", "∅"].map(str::to_owned).to_vec()];
    assert_eq!(deletes("delete_wins", false), (true, "merged".into(), record));
}

#[test]
fn with_last_writer_the_later_of_delete_and_update_wins() {
    let record = |result: &str| vec![["last_writer", "title", "theirs", result].map(str::to_owned).to_vec()];
    assert_eq!(deletes("last_writer", true), (true, "merged".into(), record("∅")));
    assert_eq!(deletes("last_writer", false), (false, "merged".into(), record("theirs")));
}

#[test]
fn reject_rejects_the_delete() {
    let record = vec![["reject", "title", "theirs", "theirs"].map(str::to_owned).to_vec()];
    assert_eq!(deletes("reject", true), (false, "SY010".into(), record));
}

#[test]
fn a_delete_that_meets_no_change_needs_no_policy() {
    for policy in ["keep_update", "delete_wins", "last_writer", "reject"] {
        let (_db, mut server) = notes(policy);
        let mut phone = Phone::new("ann");
        phone.accepted(&mut server, update("note", 1, &[("body", text("body"), text("own"))]));
        phone.accepted(&mut server, delete("note", 1, &[("id", int(1)), ("title", text("title")), ("body", text("own"))]));
        // Already gone.
        phone.accepted(&mut server, gone());
        assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.conflict"), "0");
    }
}

#[test]
fn an_update_of_a_row_that_is_gone_is_rejected_and_recorded_or_lost_as_declared() {
    for (policy, code) in
        [("", "02000"), ("keep_update", "02000"), ("last_writer", "02000"), ("reject", "SY010"), ("delete_wins", "00000")]
    {
        let (db, mut server) = notes(policy);
        db.run("DELETE FROM note");
        let result = Phone::new("ann").one(&mut server, update("note", 1, &[("title", text("title"), text("mine"))]));
        assert_eq!(result.code, code, "{policy}: {result:?}");
        if code == "02000" {
            assert!(result.message.contains("deleted on the server") && result.message.contains("insert it again"), "{result:?}");
        }
        let policy = if policy.is_empty() { "keep_update" } else { policy };
        assert_eq!(
            server_rows(&mut server, "SELECT policy, base->>'title', theirs, mine->>'title' FROM sync.conflict"),
            [[policy, "title", "null", "mine"]]
        );
    }
}

#[test]
fn one_device_deletes_what_the_other_changes() {
    for (policy, left) in [("keep_update", "1"), ("delete_wins", "0"), ("last_writer", "0"), ("reject", "1")] {
        let mut pair = Pair::new(&format!(
            "CREATE TABLE note (id int PRIMARY KEY, title text); INSERT INTO note VALUES (1, 'title');
             SELECT sync.set_delete_policy('note', '{policy}')"
        ));
        // Bob's delete meets Ann's update.
        pair.write("UPDATE note SET title = 'ann'", "DELETE FROM note");
        assert_eq!(pair.rows("SELECT count(*) FROM note"), [[left]], "{policy}");
        assert_eq!(pair.recorded(), [[policy, "∅"]]);
        assert_eq!(pair.bob.value("SELECT count(*) FROM sync_rejected"), if policy == "reject" { "1" } else { "0" });
    }
    for (policy, rejected) in [("keep_update", "1"), ("delete_wins", "0")] {
        let mut pair = Pair::new(&format!(
            "CREATE TABLE note (id int PRIMARY KEY, title text); INSERT INTO note VALUES (1, 'title');
             SELECT sync.set_delete_policy('note', '{policy}')"
        ));
        // Bob's update meets Ann's delete.
        pair.write("DELETE FROM note", "UPDATE note SET title = 'bob'");
        assert_eq!(pair.bob.value("SELECT count(*) FROM sync_rejected"), rejected, "{policy}");
        assert_eq!(pair.recorded(), [[policy, "∅"]]);
    }
}
