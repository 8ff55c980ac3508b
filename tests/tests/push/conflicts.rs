//! Where both sides changed the same thing: decided by rule, recorded with every version, and never in silence.

use crate::phone::{delete, insert, int, now, short, text, update, Phone, SECOND};
use postgres::Client;
use sync_shared::hash::tag;
use sync_shared::message::{Change, Verdict};
use sync_shared::Value;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database};

fn notes() -> (Database<'static>, Client) {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE note (id int PRIMARY KEY, topic int NOT NULL DEFAULT 1, title text, body text, draft boolean DEFAULT false)");
    db.run(
        "SELECT sync.create_bucket('topic', members => 'SELECT 1');
         SELECT sync.add_table('topic', 'note', key => 'topic', filter => 'NOT draft');
         SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note')",
    );
    db.run("INSERT INTO note (id, title, body) VALUES (1, 'title', 'body')");
    let server = db.connect();
    (db, server)
}

fn title(old: &str, new: &str) -> Change {
    update("note", 1, &[("title", text(old), text(new))])
}

fn note(server: &mut Client) -> Vec<String> {
    server_rows(server, "SELECT title, body FROM note WHERE id = 1").remove(0)
}

#[test]
fn changes_of_different_columns_are_merged_without_a_conflict() {
    let (db, mut server) = notes();
    db.run("UPDATE note SET body = 'theirs'");
    Phone::new("ann").accepted(&mut server, title("title", "mine"));
    assert_eq!(note(&mut server), ["mine", "theirs"]);
}

#[test]
fn the_later_edit_of_a_column_wins() {
    for (made, winner) in [(-3600, "theirs"), (3600, "mine")] {
        let (db, mut server) = notes();
        db.run("UPDATE note SET title = 'theirs'");
        let mut phone = Phone::new("ann");
        // Held at the skew, which is still later.
        phone.clock = Some(now() + made * SECOND);
        let change = update("note", 1, &[("title", text("title"), text("mine")), ("body", text("body"), text("own"))]);
        let result = phone.one(&mut server, change);
        assert_eq!(result.verdict, Verdict::Merged, "{result:?}");
        assert_eq!(note(&mut server), [winner, "own"]);
        let [conflict] = &result.conflicts[..] else { panic!("{result:?}") };
        assert_eq!(conflict.column, Some(tag("title")));
        assert_eq!(
            [&conflict.base, &conflict.theirs, &conflict.mine, &conflict.result],
            [&text("title"), &text("theirs"), &text("mine"), &text(winner)]
        );
        let who = if winner == "mine" { "the device's edit" } else { "the server's edit" };
        assert!(conflict.reason.contains(who) && conflict.reason.contains("won"), "{}", conflict.reason);
        assert_eq!(
            server_rows(&mut server, "SELECT key, column_name, base, theirs, mine, result FROM sync.conflict"),
            [["[1]", "title", "\"title\"", "\"theirs\"", "\"mine\"", &format!("\"{winner}\"")]]
        );
        assert_eq!(server_value(&mut server, "SELECT verdict FROM sync.batch WHERE content IS NOT NULL"), "merged");
        // Asked again, it says the same.
    }
}

#[test]
fn a_merge_that_is_sent_again_is_answered_with_its_conflicts() {
    let (db, mut server) = notes();
    db.run("UPDATE note SET title = 'theirs'");
    let mut phone = Phone::new("ann");
    let batch = phone.batch(vec![title("title", "mine")]);
    let first = phone.push(&mut server, vec![batch.clone()]);
    assert_eq!(first.results[0].conflicts.len(), 1);
    assert_eq!(phone.push(&mut server, vec![batch]).results, first.results);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.conflict"), "1");
}

#[test]
fn a_device_does_not_conflict_with_its_own_earlier_batches() {
    let (db, mut server) = notes();
    // The server changes what the device wrote, and more.
    db.run(
        "ALTER TABLE note ADD updated_at timestamptz DEFAULT 'epoch';
         CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN NEW.updated_at := clock_timestamp(); NEW.title := NEW.title || '!'; RETURN NEW; END $$;
         CREATE TRIGGER touch BEFORE UPDATE ON note FOR EACH ROW EXECUTE FUNCTION touch()",
    );
    let mut phone = Phone::new("ann");
    // The device's clock is far behind; that must not matter here.
    phone.clock = Some(0);
    let change = |old: &str, new: &str| {
        let stamps = (text(&format!("{old} stamp")), text("2024-01-01T00:00:00Z"));
        update("note", 1, &[("title", text(old), text(new)), ("updated_at", stamps.0, stamps.1)])
    };
    let first = update("note", 1, &[("title", text("title"), text("a"))]);
    let results = phone.send(&mut server, vec![vec![first], vec![change("a", "b")], vec![change("b", "c")]]);
    assert_eq!(short(&results), ["accepted", "accepted", "accepted"]);
    phone.accepted(&mut server, change("c", "d"));
    assert_eq!(note(&mut server)[0], "d!");
    // Somebody else in between is a conflict again.
    db.run("UPDATE note SET title = 'theirs'");
    let result = phone.one(&mut server, update("note", 1, &[("title", text("d"), text("e"))]));
    assert_eq!((result.verdict, note(&mut server)[0].as_str()), (Verdict::Merged, "theirs!"));
    assert_eq!(result.conflicts.len(), 1);
    // Two devices of one user are two.
    let result = Phone::new("ann").one(&mut server, update("note", 1, &[("title", text("d"), text("f"))]));
    assert_eq!(result.verdict, Verdict::Merged);
}

#[test]
fn an_older_transaction_that_writes_after_a_batch_is_somebody_else() {
    let (db, mut server) = notes();
    let mut old = db.connect();
    old.batch_execute("BEGIN; INSERT INTO note (id) VALUES (50)").expect("an id for the transaction");
    let mut phone = Phone::new("ann");
    phone.accepted(&mut server, title("title", "mine"));
    old.batch_execute("UPDATE note SET title = 'theirs' WHERE id = 1; COMMIT").expect("a later write");
    phone.clock = Some(0);
    let result = phone.one(&mut server, title("mine", "mine again"));
    assert_eq!((result.verdict, note(&mut server)[0].as_str()), (Verdict::Merged, "theirs"));
}

#[test]
fn a_younger_transaction_that_wrote_before_a_batch_is_not_in_its_way() {
    let (db, mut server) = notes();
    // The push's transaction has its id before the other writer.
    server.batch_execute("BEGIN; SELECT pg_current_xact_id()").expect("an id");
    db.run("UPDATE note SET title = 'theirs' WHERE id = 1");
    let mut phone = Phone::new("ann");
    phone.clock = Some(now() + 60 * SECOND);
    let push = |server: &mut Client, phone: &mut Phone, change| {
        let batch = phone.batch(vec![change]);
        let request = sync_shared::message::PushRequest {
            device: phone.device,
            batches: vec![batch],
            wants: vec![],
            held: vec![],
            differ: None,
        };
        let request = sync_shared::envelope::encode(&request).expect("a request");
        server.batch_execute("SELECT set_config('request.jwt.claims', '{\"sub\": \"ann\"}', true)").expect("claims");
        let reply: Vec<u8> = server.query_one("SELECT sync.push($1)", &[&request]).expect("a push").get(0);
        let reply: sync_shared::message::PushReply = sync_shared::envelope::decode(&reply).expect("a reply");
        reply.results[0].verdict
    };
    assert_eq!(push(&mut server, &mut phone, title("title", "mine")), Verdict::Merged);
    assert_eq!(push(&mut server, &mut phone, title("mine?", "mine 2")), Verdict::Accepted);
    server.batch_execute("COMMIT").expect("an end");
    phone.clock = Some(0);
    phone.accepted(&mut server, title("mine??", "mine 3"));
    assert_eq!(note(&mut server)[0], "mine 3");
}

#[test]
fn the_same_value_on_both_sides_is_no_conflict() {
    let (db, mut server) = notes();
    db.run("UPDATE note SET title = 'same'; ALTER TABLE note ADD at timestamptz DEFAULT '2024-01-01 00:00:00Z'");
    let mut phone = Phone::new("ann");
    phone.accepted(&mut server, title("title", "same"));
    phone.accepted(&mut server, update("note", 1, &[("at", Value::Null, text("2024-01-01 01:00:00+01"))]));
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.conflict"), "0");
}

#[test]
fn a_row_in_no_bucket_is_decided_for_the_device() {
    let (db, mut server) = notes();
    db.run("SELECT sync.drop_bucket('all'); UPDATE note SET title = 'theirs', draft = true");
    let result = Phone::new("ann").one(&mut server, title("title", "mine"));
    assert_eq!((result.verdict, note(&mut server)[0].as_str()), (Verdict::Merged, "mine"));
    assert!(result.conflicts[0].reason.contains("further back"), "{result:?}");
}

#[test]
fn an_insert_of_a_row_that_is_there_is_merged_into_it() {
    let (db, mut server) = notes();
    let mut phone = Phone::new("ann");
    let row = |title: &str, body: &str| insert("note", 2, &[("id", int(2)), ("title", text(title)), ("body", text(body))]);
    phone.accepted(&mut server, row("a", "b"));
    // Sent again, after the server lost its memory of the device.
    let mut again = Phone::new("ann");
    again.accepted(&mut server, row("a", "b"));
    db.run("UPDATE note SET body = 'theirs' WHERE id = 2");
    again.clock = Some(0);
    let result = again.one(&mut server, row("a", "c"));
    assert_eq!(result.verdict, Verdict::Merged);
    assert_eq!((result.conflicts.len(), &result.conflicts[0].base), (1, &Value::Null));
    assert_eq!(server_rows(&mut server, "SELECT title, body FROM note WHERE id = 2"), [["a", "theirs"]]);
    again.clock = None;
    assert_eq!(again.one(&mut server, row("a", "d")).verdict, Verdict::Merged);
    assert_eq!(server_rows(&mut server, "SELECT title, body FROM note WHERE id = 2"), [["a", "d"]]);
}

#[test]
fn an_insert_that_meets_one_that_commits_meanwhile_is_merged() {
    let (db, mut server) = notes();
    let mut other = db.connect();
    other.batch_execute("BEGIN; INSERT INTO note (id, title) VALUES (2, 'theirs')").expect("an open insert");
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(400));
        other.batch_execute("COMMIT").expect("a commit");
    });
    let mut phone = Phone::new("ann");
    phone.clock = Some(now() + 60 * SECOND);
    let result = phone.one(&mut server, insert("note", 2, &[("title", text("mine"))]));
    thread.join().expect("the thread ends");
    assert_eq!(result.verdict, Verdict::Merged, "{result:?}");
    assert_eq!(server_rows(&mut server, "SELECT title FROM note WHERE id = 2"), [["mine"]]);
}

#[test]
fn a_delete_goes_through_unless_the_row_was_changed() {
    let (db, mut server) = notes();
    let mut phone = Phone::new("ann");
    let delete = |title: &str| delete("note", 1, &[("id", int(1)), ("title", text(title)), ("body", text("body"))]);
    db.run("UPDATE note SET title = 'theirs'");
    let result = phone.one(&mut server, delete("title"));
    assert_eq!(result.verdict, Verdict::Merged, "{result:?}");
    assert_eq!(result.conflicts[0].column, None);
    assert!(result.conflicts[0].reason.contains("update wins over delete"));
    assert_eq!(
        server_rows(&mut server, "SELECT theirs->>'title', base->>'title', mine, column_name FROM sync.conflict"),
        [["theirs", "title", "null", "∅"]]
    );
    assert_eq!(note(&mut server)[0], "theirs");
    phone.accepted(&mut server, delete("theirs"));
    // Already gone.
    phone.accepted(&mut server, delete("theirs"));
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM note"), "0");
    let gone = phone.one(&mut server, title("theirs", "x"));
    assert_eq!((gone.verdict, gone.whole), (Verdict::Later, vec![0]), "it is asked for whole");
}

#[test]
fn a_delete_after_the_devices_own_update_goes_through() {
    let (db, mut server) = notes();
    db.run(
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.title := upper(NEW.title); RETURN NEW; END $$;
         CREATE TRIGGER shout BEFORE UPDATE ON note FOR EACH ROW EXECUTE FUNCTION shout()",
    );
    let mut phone = Phone::new("ann");
    phone.accepted(&mut server, title("title", "mine"));
    phone.accepted(&mut server, delete("note", 1, &[("title", text("mine")), ("body", text("body"))]));
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM note"), "0");
}

#[test]
fn a_row_that_changes_while_it_is_deleted_is_kept() {
    let (db, mut server) = notes();
    let mut other = db.connect();
    other.batch_execute("BEGIN; UPDATE note SET title = 'theirs' WHERE id = 1").expect("an open update");
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(400));
        other.batch_execute("COMMIT").expect("a commit");
    });
    let result = Phone::new("ann").one(&mut server, delete("note", 1, &[("title", text("title")), ("body", text("body"))]));
    thread.join().expect("the thread ends");
    assert_eq!(result.verdict, Verdict::Merged, "{result:?}");
    assert_eq!(note(&mut server)[0], "theirs");
}
