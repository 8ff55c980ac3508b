//! The example application of `sql/examples/one.sql`, with its row level security, as its users meet it.

use postgres::Client;
use std::sync::Mutex;
use sync_tests::compare::{assert_alike, assert_verified, server_rows, server_value};
use sync_tests::{build, Cluster, Database, Device, User};

const ANN: &str = "a0000000-0000-4000-8000-00000000000a";
const BOB: &str = "b0000000-0000-4000-8000-00000000000b";
const TALK: &str = "c0000000-0000-4000-8000-000000000001";

/// Installs the example. Roles belong to the whole server, so two tests must not make them at the same time.
pub fn install(db: &Database<'_>) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    db.run(&std::fs::read_to_string(build::root().join("sql/examples/one.sql")).expect("the example"));
}

fn app() -> (Database<'static>, Client, Device, Device) {
    let db = Cluster::shared().database();
    install(&db);
    db.run(&format!("INSERT INTO profiles (id, handle, name) VALUES ('{ANN}', 'ann', 'Ann'), ('{BOB}', 'bob', 'Bob')"));
    let mut server = db.connect();
    let [ann, bob] = [ANN, BOB].map(|id| Device::for_user(User::with_role(id, "app_user")));
    ann.sync(&mut server);
    bob.sync(&mut server);
    (db, server, ann, bob)
}

/// Ann begins a conversation, without a network, in one transaction.
fn begin(ann: &Device) {
    ann.run(&format!(
        "BEGIN;
         INSERT INTO conversations (id, title, created_by) VALUES ('{TALK}', 'Plans', '{ANN}');
         INSERT INTO participants (conversation_id, profile_id, role) VALUES ('{TALK}', '{ANN}', 'owner');
         INSERT INTO messages (conversation_id, author_id, body) VALUES ('{TALK}', '{ANN}', 'Hello');
         COMMIT"
    ));
}

fn refused(device: &Device) -> Vec<Vec<String>> {
    device.rows("SELECT code FROM sync_rejected")
}

#[test]
fn a_conversation_begun_offline_reaches_whoever_is_invited() {
    let (_db, mut server, ann, bob) = app();
    begin(&ann);
    ann.sync(&mut server);
    assert_eq!(ann.rows("SELECT code, message FROM sync_rejected"), Vec::<Vec<String>>::new());
    assert_eq!(server_rows(&mut server, "SELECT title FROM conversations"), [["Plans"]]);
    bob.sync(&mut server);
    assert_eq!(bob.value("SELECT count(*) FROM conversations"), "0");
    ann.run(&format!("INSERT INTO participants (conversation_id, profile_id, role) VALUES ('{TALK}', '{BOB}', 'writer')"));
    for device in [&ann, &bob] {
        device.sync(&mut server);
    }
    bob.run(&format!("INSERT INTO messages (conversation_id, author_id, body) VALUES ('{TALK}', '{BOB}', 'Hi!')"));
    for device in [&bob, &ann] {
        device.sync(&mut server);
        let messages = "SELECT id, author_id, body FROM messages";
        assert_alike(device, messages, &mut server, messages);
        assert_verified(device);
    }
}

#[test]
fn a_draft_stays_with_its_author_until_it_is_sent() {
    let (_db, mut server, ann, bob) = app();
    begin(&ann);
    ann.run(&format!("INSERT INTO participants (conversation_id, profile_id, role) VALUES ('{TALK}', '{BOB}', 'writer')"));
    ann.run(&format!("INSERT INTO messages (conversation_id, author_id, body, draft) VALUES ('{TALK}', '{ANN}', 'Not yet', 1)"));
    ann.sync(&mut server);
    bob.sync(&mut server);
    assert_eq!(bob.rows("SELECT body FROM messages"), [["Hello"]]);
    assert_eq!(ann.value("SELECT count(*) FROM messages"), "2");
    ann.run("UPDATE messages SET draft = 0, body = 'Now' WHERE draft");
    ann.sync(&mut server);
    bob.sync(&mut server);
    assert_eq!(bob.rows("SELECT body FROM messages ORDER BY body"), [["Hello"], ["Now"]]);
    for device in [&ann, &bob] {
        assert_eq!(refused(device), Vec::<Vec<String>>::new());
        assert_verified(device);
    }
}

#[test]
fn somebody_who_may_only_read_is_refused_and_sees_why() {
    let (db, mut server, ann, bob) = app();
    begin(&ann);
    ann.sync(&mut server);
    db.run(&format!("INSERT INTO participants (conversation_id, profile_id, role) VALUES ('{TALK}', '{BOB}', 'reader')"));
    bob.sync(&mut server);
    bob.run(&format!("INSERT INTO messages (conversation_id, author_id, body) VALUES ('{TALK}', '{BOB}', 'May I?')"));
    bob.run(&format!("INSERT INTO messages (conversation_id, author_id, body) VALUES ('{TALK}', '{ANN}', 'In her name')"));
    bob.run("UPDATE conversations SET title = 'Mine'");
    bob.run("UPDATE profiles SET name = 'Robert'");
    bob.sync(&mut server);
    assert_eq!(refused(&bob), [["42501"], ["42501"], ["42501"]]);
    assert_eq!(bob.rows("SELECT title FROM conversations"), [["Plans"]]);
    assert_eq!(bob.rows("SELECT body FROM messages"), [["Hello"]]);
    assert_eq!(server_value(&mut server, &format!("SELECT name FROM profiles WHERE id = '{BOB}'")), "Robert");
    assert_verified(&bob);
}

#[test]
fn whoever_leaves_a_conversation_loses_its_rows_and_nobody_else_does() {
    let (db, mut server, ann, bob) = app();
    begin(&ann);
    ann.run(&format!("INSERT INTO participants (conversation_id, profile_id, role) VALUES ('{TALK}', '{BOB}', 'writer')"));
    ann.sync(&mut server);
    db.run(&format!("INSERT INTO agent_state VALUES ('{TALK}', 'planner', '{{\"step\": 1}}', 7)"));
    bob.sync(&mut server);
    assert_eq!(bob.rows("SELECT json_extract(state, '$.step'), tokens_used FROM agent_state"), [["1", "7"]]);
    bob.run(&format!("DELETE FROM participants WHERE profile_id = '{BOB}'"));
    bob.sync(&mut server);
    for table in ["conversations", "messages", "participants", "agent_state"] {
        assert_eq!(bob.value(&format!("SELECT count(*) FROM {table}")), "0", "{table}");
    }
    ann.sync(&mut server);
    assert_eq!(ann.rows("SELECT body FROM messages"), [["Hello"]]);
    assert_verified(&ann);
    assert_verified(&bob);
}
