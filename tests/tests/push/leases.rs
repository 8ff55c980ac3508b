//! Numbers that a device may use for keys, from the sequence of the server's own inserts.

use crate::phone::{insert, int, short, text, Phone};
use sync_shared::envelope;
use sync_shared::message::{KeyLease, PushReply, PushRequest, PushState};
use sync_tests::compare::{server_rows, server_value};
use sync_tests::device::server_push;
use sync_tests::{Cluster, Database, User};

fn notes() -> Database<'static> {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE note (id serial PRIMARY KEY, body text);
         CREATE TABLE always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text);
         CREATE TABLE plain (id int PRIMARY KEY, body text);
         INSERT INTO note (body) VALUES ('first')",
    );
    db.run(
        "SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note'); SELECT sync.add_table('all', 'always');
         SELECT sync.add_table('all', 'plain')",
    );
    db
}

fn runs(reply: &PushReply) -> Vec<(i64, i64, u32)> {
    reply.leases.iter().map(|KeyLease { first, step, count, .. }| (*first, *step, *count)).collect()
}

#[test]
fn leased_numbers_are_nobody_elses() {
    let db = notes();
    let (mut server, ann, bob) = (db.connect(), Phone::new("ann"), Phone::new("bob"));
    assert_eq!(runs(&ann.push_and_want(&mut server, vec![], &[("note", 3)])), [(2, 1, 3)]);
    db.run("INSERT INTO note (body) VALUES ('server')");
    assert_eq!(runs(&bob.push_and_want(&mut server, vec![], &[("note", 2), ("always", 2)])).iter().map(|r| r.2).sum::<u32>(), 4);
    assert_eq!(runs(&ann.push_and_want(&mut server, vec![], &[("note", 1)])), [(8, 1, 1)]);
    db.run("ALTER SEQUENCE note_id_seq INCREMENT BY -5 MINVALUE -100");
    assert_eq!(runs(&ann.push_and_want(&mut server, vec![], &[("note", 2)])), [(3, -5, 2)]);
    assert_eq!(server_value(&mut server, "SELECT sum(count) FROM sync.key_lease"), "10");
}

#[test]
fn an_insert_with_a_strangers_key_is_rejected_and_not_merged() {
    let db = notes();
    let (mut server, mut ann, mut bob) = (db.connect(), Phone::new("ann"), Phone::new("bob"));
    ann.push_and_want(&mut server, vec![], &[("note", 2)]);
    ann.accepted(&mut server, insert("note", 2, &[("body", text("ann's"))]));
    // Again, as after a restore of the device: her own row.
    ann.accepted(&mut server, insert("note", 2, &[("body", text("ann's"))]));
    for id in [1, 2] {
        let result = bob.one(&mut server, insert("note", id, &[("body", text("bob's"))]));
        assert_eq!((result.code.as_str(), result.subject.as_str()), ("23505", "note_pkey"), "{result:?}");
    }
    // On another device of the same user the number is still hers; without a lease the log tells whose row it is.
    let mut tablet = Phone::new("ann");
    assert_ne!(short(&[tablet.one(&mut server, insert("note", 2, &[("body", text("ann's"))]))]), ["rejected 23505"]);
    bob.accepted(&mut server, insert("note", 500, &[("body", text("chosen"))]));
    bob.accepted(&mut server, insert("note", 500, &[("body", text("chosen"))]));
    assert_eq!(
        server_rows(&mut server, "SELECT id, body FROM note ORDER BY id"),
        [["1", "first"], ["2", "ann's"], ["500", "chosen"]]
    );
}

#[test]
fn a_key_that_is_always_generated_takes_leased_numbers_only() {
    let db = notes();
    let (mut server, mut ann) = (db.connect(), Phone::new("ann"));
    assert_eq!(runs(&ann.push_and_want(&mut server, vec![], &[("always", 2)])), [(1, 1, 2)]);
    ann.accepted(&mut server, insert("always", 2, &[("body", text("mine"))]));
    assert_eq!(ann.one(&mut server, insert("always", 3, &[("id", int(3)), ("body", text("not mine"))])).code, "428C9");
    assert_eq!(server_rows(&mut server, "SELECT id, body FROM always"), [["2", "mine"]]);
}

#[test]
fn what_cannot_be_leased_is_said_in_plain_words() {
    let db = notes();
    let role = format!("reader_{}_{}", db.name(), std::process::id());
    db.run(&format!(
        "CREATE ROLE {role}; GRANT SELECT ON note TO {role};
         CREATE TABLE small (id smallint PRIMARY KEY DEFAULT 0); CREATE SEQUENCE small_id START 32766;
         ALTER TABLE small ALTER id SET DEFAULT nextval('small_id');
         CREATE TABLE short (id int PRIMARY KEY); CREATE SEQUENCE short_id MAXVALUE 3; ALTER TABLE short ALTER id SET DEFAULT nextval('short_id');
         SELECT sync.add_table('all', 'small'); SELECT sync.add_table('all', 'short')"
    ));
    let (mut server, phone) = (db.connect(), Phone::new("ann"));
    let mut want = |phone: &Phone, table: &str, n: u32| {
        let reply = phone.push_and_want(&mut server, vec![], &[(table, n)]);
        assert_eq!(reply.state, PushState::Taken);
        (reply.leases.iter().map(|l| l.count).sum::<u32>(), reply.message)
    };
    let says = |(count, message): (u32, String), words: &str| assert!(count == 0 && message.contains(words), "{count} {message}");
    says(want(&phone, "plain", 5), "table public.plain: its key is not a single integer from a sequence");
    says(want(&phone, "nowhere", 5), "no table with the tag");
    says(want(&Phone::of(User::with_role("ann", &role)), "note", 5), "table public.note: the user may not insert");
    assert_eq!(want(&phone, "small", 5).0, 2);
    says(want(&phone, "small", 5), "no numbers left");
    assert_eq!(want(&phone, "short", 5).0, 3);
    says(want(&phone, "short", 5), "no numbers left");
    db.run("SELECT sync.set_mode('note', 'read_only')");
    says(want(&phone, "note", 5), "read_only");
}

#[test]
fn a_device_cannot_use_up_a_sequence() {
    let db = notes();
    let mut server = db.connect();
    server.batch_execute("SET sync.keys_per_lease = 100").expect("a setting");
    let phone = Phone::new("ann");
    let counts: Vec<u32> = (0..12)
        .map(|_| phone.push_and_want(&mut server, vec![], &[("note", u32::MAX)]).leases.iter().map(|l| l.count).sum())
        .collect();
    assert_eq!(counts, [100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 0, 0]);
    let reply = phone.push_and_want(&mut server, vec![], &[("note", 1)]);
    assert!(reply.message.contains("sync.keys_per_lease"), "{}", reply.message);
    server.batch_execute("RESET sync.keys_per_lease").expect("a setting");
    let reply = Phone::new("bob").push_and_want(&mut server, vec![], &[("note", u32::MAX)]);
    assert_eq!(reply.leases.iter().map(|l| l.count).sum::<u32>(), 10_000);
}

#[test]
fn many_devices_of_one_user_get_no_more_than_one() {
    let db = notes();
    let mut server = db.connect();
    server.batch_execute("SET sync.keys_per_lease = 10").expect("a setting");
    let mut given = || -> u32 {
        let reply = Phone::new("ann").push_and_want(&mut server, vec![], &[("note", 10)]);
        reply.leases.iter().map(|l| l.count).sum()
    };
    let counts: Vec<u32> = (0..12).map(|_| given()).collect();
    assert_eq!(counts, [10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 0, 0]);
    assert_eq!(Phone::new("bob").push_and_want(&mut server, vec![], &[("note", 10)]).leases.len(), 1);
}

#[test]
fn a_server_that_lost_its_leases_never_gives_the_numbers_again() {
    let db = notes();
    let (mut server, mut ann) = (db.connect(), Phone::new("ann"));
    let mut leases = ann.push_and_want(&mut server, vec![], &[("note", 300), ("always", 5)]).leases;
    leases.sort_by_key(|l| l.count);
    // As a restore leaves it.
    db.run(
        "DELETE FROM sync.key_lease; DELETE FROM sync.device; SELECT setval('note_id_seq', 1), setval('always_id_seq', 1, false)",
    );
    let mut tell = |phone: &Phone, held: &[KeyLease]| {
        let request = PushRequest { device: phone.device, batches: vec![], wants: vec![], held: held.to_vec(), differ: None };
        let request = envelope::encode(&request).expect("a request");
        let reply = server_push(&mut server, &phone.user, &request).expect("sync.push answers");
        let reply: PushReply = envelope::decode(&reply).expect("a reply");
        assert_eq!(reply.state, PushState::Taken);
    };
    // What the server did not say, or not to this user, moves nothing.
    let forged = [KeyLease { count: 1000, ..leases[1] }, KeyLease { first: 1_000_000, ..leases[1] }];
    tell(&ann, &forged);
    tell(&Phone::new("bob"), &leases);
    assert_eq!(server_value(&mut db.connect(), "SELECT last_value FROM note_id_seq"), "1");
    // Told twice, or of what the sequence has passed, it stays where it is.
    for _ in 0..2 {
        tell(&ann, &leases);
        assert_eq!(server_value(&mut db.connect(), "SELECT last_value FROM note_id_seq"), "301");
    }
    assert_eq!(server_value(&mut db.connect(), "SELECT count(*) FROM sync.key_lease"), "2");
    assert_eq!(server_value(&mut db.connect(), "INSERT INTO note (body) VALUES ('the server''s') RETURNING id"), "302");
    // Numbers that only a lease can have are taken.
    let mut server = db.connect();
    ann.accepted(&mut server, insert("always", leases[0].first, &[("body", text("ann's"))]));
    assert_eq!(runs(&ann.push_and_want(&mut server, vec![], &[("note", 1)])), [(303, 1, 1)]);
}
