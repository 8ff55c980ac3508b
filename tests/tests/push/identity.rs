//! Which batches are taken: once each, in order, from the device's own user.

use crate::phone::{insert, int, now, short, text, update, Phone};
use postgres::Client;
use sync_shared::message::{PushRequest, PushState, Verdict};
use sync_shared::{envelope, limits};
use sync_tests::compare::{server_rows, server_value};
use sync_tests::device::server_push;
use sync_tests::{Cluster, Database, User};
use uuid::Uuid;

fn items() -> (Database<'static>, Client) {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE item (id int PRIMARY KEY, body text NOT NULL)");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'item')");
    let server = db.connect();
    (db, server)
}

fn new_item(id: i64) -> sync_shared::message::Change {
    insert("item", id, &[("id", int(id)), ("body", text("new"))])
}

#[test]
fn an_empty_push_registers_the_device_and_renews_its_lease() {
    let (db, mut server) = items();
    let phone = Phone::new("ann");
    let reply = phone.push(&mut server, vec![]);
    assert_eq!((reply.state, reply.user.as_str(), reply.last), (PushState::Taken, "ann", None));
    db.run("UPDATE sync.device SET seen = 'epoch'");
    phone.push(&mut server, vec![]);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.device WHERE seen > 'epoch' AND user_id = 'ann'"), "1");
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.mark"), "1");
}

#[test]
fn a_batch_sent_again_is_answered_and_not_applied() {
    let (db, mut server) = items();
    let mut phone = Phone::new("ann");
    let bad = update("item", 9, &[("body", text("old"), text("new"))]);
    let mut batches = vec![phone.batch(vec![new_item(1)]), phone.batch(vec![bad]), phone.batch(vec![new_item(2)])];
    batches[1].whole = true;
    let first = phone.push(&mut server, batches.clone());
    assert_eq!(short(&first.results), ["accepted", "rejected 02000", "accepted"]);
    assert_eq!(first.last, Some(batches[2].id));
    db.run("DELETE FROM item");
    let again = phone.push(&mut server, batches.clone());
    assert_eq!((again.state, &again.results, again.last), (PushState::Taken, &first.results, first.last));
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM item"), "0");
    // Half of it known, half of it new.
    let more = vec![batches[2].clone(), phone.batch(vec![new_item(3)])];
    assert_eq!(short(&phone.push(&mut server, more).results), ["accepted", "accepted"]);
    assert_eq!(server_rows(&mut server, "SELECT id FROM item"), [["3"]]);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.mark"), "3");
}

#[test]
fn a_copied_file_is_told_to_fork_and_its_batches_are_taken_once() {
    let (_db, mut server) = items();
    let mut phone = Phone::new("ann");
    let shared = [phone.batch(vec![new_item(1)]), phone.batch(vec![new_item(2)])];
    let mut copy = Phone { number: 2, ..Phone::new("ann") };
    copy.device = phone.device;
    let own = phone.batch(vec![new_item(3)]);
    let others = copy.batch(vec![new_item(4)]);
    phone.push(&mut server, vec![shared[0].clone(), shared[1].clone(), own.clone()]);
    let reply = copy.push(&mut server, vec![shared[1].clone(), others.clone()]);
    assert_eq!((reply.state, reply.results.len()), (PushState::Fork, 0));
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM item"), "3");
    copy.device = Uuid::new_v4();
    let mut renumbered = vec![shared[1].clone(), others];
    for (i, batch) in renumbered.iter_mut().enumerate() {
        batch.id.number = i as i64 + 1;
    }
    let reply = copy.push(&mut server, renumbered.clone());
    assert_eq!((short(&reply.results), reply.last), (vec!["accepted".into(), "accepted".into()], Some(renumbered[1].id)));
    assert_eq!(server_rows(&mut server, "SELECT id FROM item ORDER BY id"), [["1"], ["2"], ["3"], ["4"]]);
    let reply = copy.push(&mut server, renumbered);
    assert_eq!((reply.state, short(&reply.results)), (PushState::Taken, vec!["accepted".into(), "accepted".into()]));
}

#[test]
fn the_random_bytes_of_another_users_batch_give_nothing_away() {
    let (_db, mut server) = items();
    let mut ann = Phone::new("ann");
    let batch = ann.batch(vec![new_item(1)]);
    ann.push(&mut server, vec![batch.clone()]);
    let mut eve = Phone::new("eve");
    let mut copied = eve.batch(vec![new_item(2)]);
    copied.id.random = batch.id.random;
    assert_eq!(short(&eve.push(&mut server, vec![copied]).results), ["held 28000"]);
    assert_eq!(server_rows(&mut server, "SELECT id FROM item"), [["1"]]);
}

#[test]
fn missing_batches_are_asked_for() {
    let (_db, mut server) = items();
    let mut phone = Phone::new("ann");
    let first = phone.batch(vec![new_item(1)]);
    let reply = phone.push(&mut server, vec![first.clone()]);
    assert_eq!(reply.last, Some(first.id));
    phone.number = 5;
    let late = phone.batch(vec![new_item(6)]);
    let reply = phone.push(&mut server, vec![late]);
    assert_eq!((reply.state, reply.last, reply.results.len()), (PushState::Gap, Some(first.id), 0));
    let reply =
        Phone { number: 1, ..Phone::new("ann") }.push(&mut server, vec![Phone { number: 1, ..Phone::new("ann") }.batch(vec![])]);
    assert_eq!((reply.state, reply.last), (PushState::Gap, None));
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM item"), "1");
}

#[test]
fn a_batch_of_another_user_is_held_and_those_behind_it_wait() {
    let (_db, mut server) = items();
    let mut phone = Phone::new("ann");
    let mut batches: Vec<_> = (1..=4).map(|id| phone.batch(vec![new_item(id)])).collect();
    batches[0].user = String::new();
    batches[1].user = "bob".into();
    batches[3].user = "bob".into();
    let reply = phone.push(&mut server, batches.clone());
    assert_eq!(short(&reply.results), ["accepted", "held 28000", "later 28000", "held 28000"]);
    assert_eq!(reply.last, Some(batches[0].id));
    assert_eq!(server_rows(&mut server, "SELECT id FROM item"), [["1"]]);
    // Bob with Ann's device.
    phone.user = User::new("bob");
    let reply = phone.push(&mut server, batches);
    assert_eq!((reply.state, reply.user.as_str()), (PushState::Refused, "bob"));
    assert!(reply.results.iter().all(|r| r.verdict == Verdict::Held));
    assert_eq!(reply.results.len(), 1, "only Ann's own batch is named");
    assert_eq!(server_rows(&mut server, "SELECT id FROM item"), [["1"]]);
}

#[test]
fn a_revoked_device_is_refused() {
    let (db, mut server) = items();
    let mut phone = Phone::new("ann");
    phone.accepted(&mut server, new_item(1));
    db.run("UPDATE sync.device SET revoked = now()");
    let batch = phone.batch(vec![new_item(2)]);
    let reply = phone.push(&mut server, vec![batch]);
    assert_eq!(reply.state, PushState::Revoked);
    assert!(reply.message.contains("revoked"), "{}", reply.message);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM item"), "1");
}

#[test]
fn what_is_no_push_request_is_an_error_that_changes_nothing() {
    let (_db, mut server) = items();
    let mut phone = Phone::new("ann");
    let too_many: Vec<_> = (0..=limits::BATCHES_PER_PUSH).map(|_| phone.batch(vec![])).collect();
    let unordered = vec![phone.batch(vec![]), phone.batch(vec![])].into_iter().rev().collect();
    let encode = |batches| {
        envelope::encode(&PushRequest { device: phone.device, batches, wants: vec![], held: vec![], differ: None })
            .expect("a request")
    };
    for (bytes, code) in
        [(b"hello".to_vec(), "22P03"), (vec![], "22P03"), (encode(too_many), "54000"), (encode(unordered), "22P03")]
    {
        let error = server_push(&mut server, &phone.user, &bytes).expect_err("an error");
        assert!(error.starts_with(code), "{error}");
    }
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.device"), "0");
}

#[test]
fn damaged_bytes_never_harm_the_server() {
    let (_db, mut server) = items();
    let mut phone = Phone::new("ann");
    phone.accepted(&mut server, new_item(1));
    let batch = phone.batch(vec![new_item(2), update("item", 1, &[("body", text("new"), text("newer"))])]);
    let good =
        envelope::encode(&PushRequest { device: phone.device, batches: vec![batch], wants: vec![], held: vec![], differ: None })
            .expect("a request");
    let mut dice = fastrand::Rng::with_seed(7);
    for _ in 0..2_000 {
        let mut bytes = good.clone();
        for _ in 0..dice.usize(1..4) {
            let at = dice.usize(0..bytes.len());
            bytes[at] = dice.u8(..);
        }
        let _ = server_push(&mut server, &phone.user, &bytes);
    }
    assert_eq!(server_value(&mut server, "SELECT 1"), "1");
}

#[test]
fn a_read_only_server_says_later() {
    let (_db, mut server) = items();
    let mut phone = Phone::new("ann");
    let batch = phone.batch(vec![new_item(1)]);
    let request =
        envelope::encode(&PushRequest { device: phone.device, batches: vec![batch], wants: vec![], held: vec![], differ: None })
            .expect("a request");
    server.batch_execute("SET default_transaction_read_only = on").expect("a setting");
    let reply = server_push(&mut server, &phone.user, &request).expect("an answer");
    let reply: sync_shared::message::PushReply = envelope::decode(&reply).expect("a reply");
    assert_eq!((reply.state, short(&reply.results)), (PushState::NotNow, vec!["later 25006".into()]));
}

#[test]
fn op_log_and_batch_tell_who_wrote_what_and_when() {
    let (_db, mut server) = items();
    let mut phone = Phone::new("ann");
    let made = now() - 3_600_000_000;
    phone.clock = Some(made);
    phone.accepted(&mut server, new_item(1));
    phone.clock = Some(i64::MAX);
    phone.accepted(&mut server, new_item(2));
    let rows = server_rows(
        &mut server,
        "SELECT b.number, b.user_id, b.verdict, o.at::text FROM sync.op o JOIN sync.batch b ON b.xid = o.xid ORDER BY 1",
    );
    assert_eq!(rows[0], ["1", "ann", "accepted", &made.to_string()]);
    let bounded: i64 = rows[1][3].parse().expect("a number");
    assert!((bounded - now() - limits::CLOCK_SKEW_MICROS).abs() < 60_000_000);
}
