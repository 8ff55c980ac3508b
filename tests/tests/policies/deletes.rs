//! One side deletes what the other changes: a declared choice, and always recorded.

use super::pair::Pair;
use crate::phone::{delete, insert, int, now, text, update, Phone, SECOND};
use postgres::Client;
use sync_shared::hash::tag;
use sync_shared::message::{Batch, BatchResult, Change, Verdict};
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database, User};

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

fn gone() -> Change {
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

/// An update of the title; the device knows the rest of the row, or not.
fn rename(rest: Option<&str>) -> Change {
    let change = update("note", 1, &[("title", text("title"), text("mine"))]);
    Change { rest: rest.map(|body| vec![(tag("body"), text(body))]), ..change }
}

#[test]
fn rows_that_are_gone_are_asked_for_whole_before_they_are_put_back() {
    let (db, mut server) = notes("");
    db.run(
        "CREATE TABLE line (note int REFERENCES note, id int PRIMARY KEY); SELECT sync.add_table('all', 'line');
         INSERT INTO note SELECT i, 'title', 'body' FROM generate_series(2, 4) i; DELETE FROM note WHERE id IN (1, 3)",
    );
    let mut phone = Phone::new("ann");
    let of = |id: i64, rest: bool| {
        let key = vec![int(id)];
        Change { key, ..rename(rest.then_some("body")) }
    };
    // The line needs the row: no reason to reject the batch before the row is there.
    let line = insert("line", 1, &[("note", int(3)), ("id", int(1))]);
    let batch = phone.batch(vec![of(1, false), of(2, false), of(3, false), line.clone()]);
    let mut asked = phone.push(&mut server, vec![batch.clone()]).results;
    let asked = asked.remove(0);
    assert_eq!((asked.verdict, asked.whole), (Verdict::Later, vec![0, 2]), "{}", asked.message);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM note WHERE title = 'mine'"), "0", "all or nothing");
    let changes = vec![of(1, true), of(2, false), of(3, true), line];
    let result = phone.push(&mut server, vec![Batch { changes, whole: true, ..batch }]).results.remove(0);
    assert_eq!((result.verdict, result.conflicts.len()), (Verdict::Merged, 2), "{result:?}");
    assert!(result.conflicts[0].reason.ends_with("keep_update, so it was put back"), "{result:?}");
    assert_eq!(
        server_rows(&mut server, "SELECT id, title, body FROM note ORDER BY id"),
        [["1", "mine", "body"], ["2", "mine", "body"], ["3", "mine", "body"], ["4", "title", "body"]]
    );
    assert_eq!(
        server_rows(&mut server, "SELECT base, theirs, mine, result = mine FROM sync.conflict LIMIT 1"),
        [[r#"{"body": "body", "title": "title"}"#, "null", r#"{"body": "body", "title": "mine"}"#, "t"]]
    );
}

#[test]
fn a_device_that_does_not_know_the_row_is_asked_once() {
    for (policy, code) in [("", "02000"), ("last_writer", "02000"), ("reject", "SY010"), ("delete_wins", "00000")] {
        let (db, mut server) = notes(policy);
        db.run("DELETE FROM note");
        let mut phone = Phone::new("ann");
        let batch = phone.batch(vec![rename(None)]);
        let result = phone.push(&mut server, vec![Batch { whole: true, ..batch }]).results.remove(0);
        assert_eq!(result.code, code, "{policy}: {result:?}");
        if code == "02000" {
            assert!(result.message.contains("deleted on the server") && result.message.contains("insert it again"), "{result:?}");
        }
        let policy = if policy.is_empty() { "keep_update" } else { policy };
        assert_eq!(
            server_rows(&mut server, "SELECT policy, base->>'title', theirs, mine->>'title' FROM sync.conflict"),
            [[policy, "title", "null", "mine"]]
        );
        assert_eq!(server_value(&mut server, "SELECT count(*) FROM note"), "0");
    }
}

#[test]
fn with_last_writer_an_update_that_is_later_than_the_delete_puts_the_row_back() {
    for global in [true, false] {
        for later in [true, false] {
            let (db, mut server) = notes("last_writer");
            if !global {
                // The key's column does not travel, and a bucket goes by what the row was.
                db.run(
                    "SELECT sync.drop_bucket('all'); ALTER TABLE note ADD secret text DEFAULT 'x';
                     SELECT sync.create_bucket('some', members => 'SELECT ''body''::text');
                     SELECT sync.add_table('some', 'note', key => 'body', filter => 'note.secret IS DISTINCT FROM title',
                         columns => '{id,title,body}')",
                );
            }
            db.run("DELETE FROM note");
            let mut phone = Phone::new("ann");
            phone.clock = Some(if later { now() + 60 * SECOND } else { now() - 60 * SECOND });
            let result = phone.one(&mut server, rename(Some("body")));
            assert_eq!(result.verdict, Verdict::Merged, "{result:?}");
            assert_eq!(server_value(&mut server, "SELECT count(*) FROM note") == "1", later, "{global}: {result:?}");
            let words = if later { "so it was put back" } else { "so it stays deleted" };
            assert!(result.conflicts[0].reason.ends_with(words), "{result:?}");
            assert_eq!(result.conflicts[0].result.is_null(), !later);
        }
    }
}

#[test]
fn a_row_is_put_back_with_the_rights_of_the_user() {
    let db = Cluster::shared().database();
    let (reader, writer) = (format!("{}_reader", db.name()), format!("{}_writer", db.name()));
    db.run(&format!(
        "CREATE ROLE \"{reader}\"; CREATE ROLE \"{writer}\";
         CREATE TABLE note (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, title text, body text DEFAULT 'default');
         INSERT INTO note (title) SELECT 'title' FROM generate_series(1, 3); DELETE FROM note WHERE id = 1;
         GRANT SELECT, UPDATE ON note TO \"{reader}\"; GRANT SELECT, UPDATE, INSERT (id, title) ON note TO \"{writer}\";
         SELECT sync.create_bucket('all')"
    ));
    db.run("SELECT sync.add_table('all', 'note')");
    let mut server = db.connect();
    let result = Phone::of(User::with_role("ann", &reader)).one(&mut server, rename(Some("body")));
    assert_eq!((result.verdict, result.code.as_str()), (Verdict::Rejected, "42501"), "{result:?}");
    let mut phone = Phone::of(User::with_role("ben", &writer));
    // A number that the sequence has not given is not taken from it.
    let other = Change { key: vec![int(9)], ..rename(Some("body")) };
    assert_eq!(phone.one(&mut server, other).code, "428C9");
    assert_eq!(phone.one(&mut server, rename(Some("body"))).verdict, Verdict::Merged);
    // What the user may not set has its default.
    assert_eq!(server_rows(&mut server, "SELECT title, body FROM note WHERE id = 1"), [["mine", "default"]]);
    // A row that the user may not see is not gone, and nothing is asked or told about it.
    db.run("ALTER TABLE note ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON note USING (id <> 1) WITH CHECK (true)");
    for change in [rename(None), rename(Some("body"))] {
        let result = phone.one(&mut server, change);
        assert_eq!((result.code.as_str(), result.whole.len()), ("42501", 0), "{result:?}");
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
}

#[test]
fn one_device_changes_what_the_other_deletes() {
    let all = [("keep_update", "1", "0"), ("delete_wins", "0", "0"), ("last_writer", "1", "0"), ("reject", "0", "1")];
    for (policy, left, rejected) in all {
        // Bob sends first, or learns first that the row is gone.
        for learns in [false, true] {
            let mut pair = Pair::new(&format!(
                "CREATE TABLE note (id int PRIMARY KEY, title text, body text); INSERT INTO note VALUES (1, 'title', 'body');
                 SELECT sync.set_delete_policy('note', '{policy}')"
            ));
            pair.ann.run("DELETE FROM note");
            std::thread::sleep(std::time::Duration::from_millis(5));
            pair.bob.run("UPDATE note SET title = 'bob'");
            pair.ann.sync(&mut pair.server);
            if learns {
                pair.bob.pull(&mut pair.server);
                assert_eq!(pair.bob.rows("SELECT title, body FROM note"), [["bob", "body"]], "his own write keeps it whole");
            }
            pair.sync();
            pair.check("*");
            assert_eq!(pair.rows("SELECT count(*) FROM note WHERE title = 'bob' AND body = 'body'"), [[left]], "{policy}");
            assert_eq!(pair.bob.value("SELECT count(*) FROM sync_rejected"), rejected, "{policy}");
            assert_eq!(pair.recorded(), [[policy, "∅"]]);
        }
    }
}

#[test]
fn two_devices_that_change_a_deleted_row_make_one_again() {
    let mut pair = Pair::new(
        "CREATE TABLE note (id int PRIMARY KEY, title text, body text, rank int); INSERT INTO note VALUES (1, 'title', 'body', 1)",
    );
    pair.ann.run("UPDATE note SET title = 'ann'");
    pair.ann.run("UPDATE note SET rank = rank + 1");
    pair.bob.run("UPDATE note SET body = 'bob'");
    pair.rows("DELETE FROM note RETURNING id");
    pair.bob.pull(&mut pair.server);
    // On top of what only his own write shows.
    pair.bob.run("UPDATE note SET body = body || '!'");
    pair.sync();
    pair.check("*");
    assert_eq!(pair.rows("SELECT title, body, rank FROM note"), [["ann", "bob!", "2"]]);
    assert_eq!(pair.recorded(), [["keep_update", "∅"]], "Bob meets a row that is there");
    assert_eq!(pair.bob.value("SELECT count(*) FROM sync_rejected"), "0");
}

/// A family of three tables; the device changes the child of a parent that is gone with it.
fn orphan(constraint: &str, put_back: Vec<Change>) -> (Client, BatchResult) {
    let db = Cluster::shared().database();
    db.run(&format!(
        "CREATE TABLE parent (a int, \"B b\" text, PRIMARY KEY (a, \"B b\"));
         CREATE TABLE child (id int PRIMARY KEY, a int, b text, title text,
             CONSTRAINT \"of parent\" FOREIGN KEY (a, b) REFERENCES parent ON DELETE CASCADE {constraint});
         INSERT INTO parent VALUES (1, 'x'); INSERT INTO child VALUES (1, 1, 'x', 'title'), (2, NULL, NULL, 'title')"
    ));
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'parent')");
    db.run("SELECT sync.add_table('all', 'child', rls => 'rules_decide'); DELETE FROM parent; DELETE FROM child");
    let mut server = db.connect();
    let mut phone = Phone::new("ann");
    let batch = Batch { whole: true, ..phone.batch(put_back) };
    let result = phone.push(&mut server, vec![batch]).results.remove(0);
    (server, result)
}

fn child(id: i64, parent: Option<(i64, &str)>) -> Change {
    let rest = parent.map_or(vec![], |(a, b)| vec![(tag("a"), int(a)), (tag("b"), text(b))]);
    Change { rest: Some(rest), ..update("child", id, &[("title", text("title"), text("mine"))]) }
}

#[test]
fn a_row_that_cannot_be_put_back_without_its_parent_says_which_one_is_gone() {
    for constraint in ["", "DEFERRABLE INITIALLY DEFERRED"] {
        let (mut server, result) = orphan(constraint, vec![child(2, None), child(1, Some((1, "x")))]);
        assert_eq!((result.verdict, result.code.as_str(), result.subject.as_str()), (Verdict::Rejected, "23503", "of parent"));
        for words in [
            "public.child",
            "deleted on the server",
            "put back",
            "public.parent (\"a\" = 1, \"B b\" = \"x\")",
            "retry this batch",
        ] {
            assert!(result.message.contains(words), "{words} in {}", result.message);
        }
        // Both versions, and why.
        assert_eq!(
            server_rows(&mut server, "SELECT key, base->>'title', theirs, mine->>'title', result, policy FROM sync.conflict"),
            [["[1]", "title", "null", "mine", "null", "keep_update"]]
        );
        let reason = server_value(&mut server, "SELECT reason FROM sync.conflict");
        assert!(
            reason.contains("keep_update would put it back, but the row that it refers to is not there: public.parent"),
            "{reason}"
        );
        assert_eq!(server_value(&mut server, "SELECT count(*) FROM child"), "0");
        // What it says works.
        server.batch_execute("INSERT INTO parent VALUES (1, 'x')").expect("the parent again");
        assert_eq!(server_value(&mut server, "SELECT (sync.retry(device, number)).verdict FROM sync.rejected"), "merged");
        assert_eq!(server_value(&mut server, "SELECT count(*) FROM child WHERE title = 'mine'"), "2");
    }
}

#[test]
fn deferred_foreign_keys_of_several_rows_that_are_put_back_tell_of_all_of_them() {
    let (mut server, result) =
        orphan("DEFERRABLE INITIALLY DEFERRED", vec![child(1, Some((1, "x"))), child(3, Some((7, "y"))), child(2, None)]);
    assert_eq!(result.code, "23503");
    assert!(
        result.message.contains("rows that were deleted") && result.message.contains("retry this batch"),
        "{}",
        result.message
    );
    assert_eq!(server_rows(&mut server, "SELECT key FROM sync.conflict ORDER BY 1"), [["[1]"], ["[3]"]]);
}

#[test]
fn a_foreign_key_that_another_row_breaks_is_told_as_postgres_tells_it() {
    let new = insert("child", 5, &[("a", int(3)), ("b", text("z"))]);
    let (_server, result) = orphan("", vec![child(2, None), new]);
    assert_eq!((result.code.as_str(), result.conflicts.len()), ("23503", 0));
    assert!(result.message.contains("violates foreign key constraint"), "{}", result.message);
}

#[test]
fn a_partition_and_row_level_security_do_not_hide_why_a_row_cannot_be_put_back() {
    let db = Cluster::shared().database();
    let role = format!("{}_writer", db.name());
    db.run(&format!(
        "CREATE ROLE \"{role}\"; CREATE TABLE parent (id int PRIMARY KEY, secret text);
         CREATE TABLE child (id int, region text, parent int REFERENCES parent ON DELETE CASCADE, title text, PRIMARY KEY (id, region))
             PARTITION BY LIST (region);
         CREATE TABLE \"odd \"\"part\" PARTITION OF child DEFAULT;
         INSERT INTO parent VALUES (1, 's'); INSERT INTO child VALUES (1, 'n''orth', 1, 'title');
         ALTER TABLE child ENABLE ROW LEVEL SECURITY; ALTER TABLE child FORCE ROW LEVEL SECURITY;
         ALTER TABLE parent ENABLE ROW LEVEL SECURITY; ALTER TABLE parent FORCE ROW LEVEL SECURITY;
         CREATE POLICY p ON child USING (true); CREATE POLICY p ON parent USING (false);
         GRANT SELECT, INSERT, UPDATE ON child TO \"{role}\""
    ));
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'child', rls => 'rules_decide'); DELETE FROM parent");
    let mut server = db.connect();
    let change = Change { key: vec![int(1), text("n'orth")], ..rename(None) };
    let change = Change { table: tag("public.child"), rest: Some(vec![(tag("parent"), int(1))]), ..change };
    let result = Phone::of(User::with_role("ann", &role)).one(&mut server, change);
    assert_eq!((result.code.as_str(), result.conflicts.len()), ("23503", 1), "{result:?}");
    assert!(result.message.contains("public.parent (\"id\" = 1)") && result.message.contains("was to be put back"), "{result:?}");
}
