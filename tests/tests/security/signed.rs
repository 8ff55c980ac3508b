//! Answers that the server signs, and devices that believe nothing else.

use crate::signer::Signer;
use postgres::Client;
use sha2::{Digest, Sha256};
use sync_shared::envelope::{decode, encode};
use sync_shared::message::{Notice, NoticeKind, PullRequest};
use sync_shared::signed;
use sync_tests::compare::{assert_same, assert_verified, server_rows, server_value};
use sync_tests::device::{server_pull, server_push};
use sync_tests::{Cluster, Database, Device};

/// A signing server with a table of notes, its key, and two devices of one person that trust it.
struct Signed {
    db: Database<'static>,
    server: Client,
    key: String,
    phone: Device,
    laptop: Device,
}

impl Signed {
    fn new() -> Signed {
        let db = Cluster::shared().database();
        db.run("CREATE TABLE note (id int PRIMARY KEY, body text)");
        db.run("INSERT INTO note SELECT i, 'note ' || i || repeat(' and more', 40) FROM generate_series(1, 200) i");
        db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note')");
        let mut server = db.connect();
        let key = server_value(&mut server, "SELECT sync.make_signing_key()");
        let (phone, laptop) = (Device::new("ann"), Device::new("ann"));
        for device in [&phone, &laptop] {
            trust(device, &[&key]);
            device.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
        }
        Signed { db, server, key, phone, laptop }
    }

    fn pull(&mut self, request: &[u8]) -> Vec<u8> {
        server_pull(&mut self.server, &self.phone.user, request).expect("an answer")
    }

    fn push(&mut self, batches: &[u8]) -> Vec<u8> {
        server_push(&mut self.server, &self.phone.user, batches).expect("an answer")
    }

    fn check(&mut self) {
        for device in [&self.phone, &self.laptop, &self.phone] {
            device.sync(&mut self.server);
        }
        for device in [&self.phone, &self.laptop] {
            assert_same(device, &mut self.server, "SELECT id, body FROM note");
            assert_verified(device);
        }
    }
}

fn trust(device: &Device, keys: &[&str]) {
    let keys: Vec<String> = keys.iter().map(|key| format!("'{key}'")).collect();
    assert_eq!(device.value(&format!("SELECT sync_trust({})", keys.join(", "))), keys.len().to_string());
}

/// Everything that a refused answer must leave as it was.
fn state(device: &Device) -> Vec<Vec<String>> {
    let known = "SELECT name, value FROM sync_meta UNION ALL SELECT 'staged ' || seq, length(page) FROM sync_stage
        UNION ALL SELECT 'batch ' || id, state || coalesce(verdict, '') FROM sync_batch ORDER BY 1";
    let mut all = device.rows(known);
    if device.value("SELECT count(*) FROM sqlite_schema WHERE name = 'note'") == "1" {
        all.extend(device.rows("SELECT id, body FROM note ORDER BY id"));
    }
    all
}

#[track_caller]
fn refused(device: &Device, answer: &[u8], why: &str) {
    let before = state(device);
    let error = device.apply(answer).expect_err("refused");
    assert!(error.contains(why), "{error}");
    assert_eq!(state(device), before, "a refused answer changed something");
}

/// Applied without an error, but nothing in it counts.
#[track_caller]
fn left(device: &Device, answer: &[u8]) {
    let rows = |device: &Device| {
        let mut rows = state(device);
        rows.retain(|row| !["retries", "stalls", "deferred"].contains(&row[0].as_str()));
        rows
    };
    let before = rows(device);
    let told = device.apply(answer).expect("left aside");
    assert!(told.0["message"].as_str().is_some_and(|m| m.contains("another question") || m.contains("came late")), "{told:?}");
    assert_eq!(rows(device), before, "an answer to another question changed something");
}

/// Each byte of what is in front of the message, and bytes all over it.
fn flip_each_part(device: &Device, answer: &[u8]) {
    let few = answer.len().div_ceil(60).max(1);
    let places = (0..answer.len().min(160)).chain((160..answer.len()).step_by(few)).chain([answer.len() - 1]);
    for at in places {
        let mut changed = answer.to_vec();
        changed[at] ^= 1 << (at % 8);
        refused(device, &changed, "SY0");
    }
    for end in [0, 3, 4, 5, 36, 100, 132, 133, 140, answer.len() - 1] {
        refused(device, &answer[..end.min(answer.len() - 1)], "SY0");
    }
    refused(device, &[answer, &[0]].concat(), "SY006");
}

/// The same message, signed by whoever has another key.
fn signed_by(signer: &Signer, request: &[u8], message: &[u8]) -> Vec<u8> {
    // As docs/protocol.md says it.
    let asked: [u8; 32] = Sha256::digest(request).into();
    let content = [b"pg_sync signed answer 1\0".as_slice(), &asked, &Sha256::digest(message)].concat();
    let (key, signature) = (signer.point().try_into().expect("a key"), signer.sign(&content).try_into().expect("a signature"));
    signed::join(&asked, &[(key, signature)], message)
}

fn message(answer: &[u8]) -> Vec<u8> {
    signed::split(answer).expect("whole").expect("signed").message.to_vec()
}

#[test]
fn nothing_that_was_altered_on_the_way_is_applied_and_nothing_is_lost() {
    let mut all = Signed::new();
    let other = Signer::new("EdDSA");
    // A first page, one in the middle, one that publishes, and the answer to a push.
    let mut seen = 0;
    let mut older: Vec<Vec<u8>> = Vec::new();
    loop {
        let request = all.phone.pull_request();
        let answer = all.pull(&request);
        if seen < 2 {
            flip_each_part(&all.phone, &answer);
        }
        refused(&all.phone, &message(&answer), "SY006: this answer is not signed");
        refused(&all.phone, &signed_by(&other, &request, &message(&answer)), "SY006: this answer is signed with a key");
        // Under the name of the key that is trusted.
        let mut named = signed_by(&other, &request, &message(&answer));
        named[37..69].copy_from_slice(&answer[37..69]);
        refused(&all.phone, &named, "SY006: this answer is not what");
        // The same device's older answers, and another one's.
        older.iter().for_each(|old| left(&all.phone, old));
        let of_laptop = all.pull(&all.laptop.pull_request());
        left(&all.phone, &of_laptop);
        left(&all.laptop, &answer);
        // Pages of one answer put together anew.
        if let Some(old) = older.last() {
            refused(&all.phone, &[&answer[..133], &message(old)].concat(), "SY006");
        }
        older.push(answer.clone());
        seen += 1;
        if !all.phone.apply(&answer).expect("the good one is applied").more() {
            break;
        }
    }
    assert!(seen > 3, "{seen} pages");
    all.phone.run("INSERT INTO note VALUES (1000, 'from the phone')");
    let batches = all.phone.pending_ops().expect("something waits");
    let answer = all.push(&batches);
    flip_each_part(&all.phone, &answer);
    refused(&all.phone, &message(&answer), "is not signed");
    refused(&all.phone, &signed_by(&other, &batches, &message(&answer)), "signed with a key");
    all.laptop.sync(&mut all.server);
    all.laptop.run("INSERT INTO note VALUES (2000, 'from the laptop')");
    let of_laptop = all.laptop.pending_ops().expect("something waits");
    let of_laptop = all.push(&of_laptop);
    left(&all.phone, &of_laptop);
    assert_eq!(all.phone.apply(&answer).expect("the good one").verdicts("accepted"), 1);
    older.iter().for_each(|old| left(&all.phone, old));
    all.check();
    assert_eq!(all.phone.value("SELECT count(*) FROM sync_rejected"), "0");
}

#[test]
fn a_question_that_was_altered_on_the_way_gets_no_answer_that_counts() {
    let mut all = Signed::new();
    all.check();
    all.db.run("UPDATE note SET body = 'changed' WHERE id = 7");
    // Somebody lets the device ask for less than it did: an answer without the change, but with a cursor behind it.
    let honest: PullRequest = decode(&all.phone.pull_request()).expect("a request");
    let ahead = {
        all.laptop.sync(&mut all.server);
        let later: PullRequest = decode(&all.laptop.pull_request()).expect("a request");
        PullRequest { cursor: later.cursor, ..honest }
    };
    let answer = all.pull(&encode(&ahead).expect("a request"));
    left(&all.phone, &answer);
    all.phone.sync(&mut all.server);
    assert_eq!(all.phone.value("SELECT body FROM note WHERE id = 7"), "changed");
    all.check();
}

#[test]
fn a_forged_order_to_wipe_is_refused() {
    let mut all = Signed::new();
    all.check();
    let request: PullRequest = decode(&all.phone.pull_request()).expect("a request");
    let order = Notice {
        kind: NoticeKind::Wipe,
        message: "wipe".into(),
        cursor: Default::default(),
        keep: Vec::new(),
        turn: request.turn,
    };
    refused(&all.phone, &encode(&order).expect("a notice"), "is not signed");
    all.check();
    // The server's own order is carried out.
    let id = all.phone.value("SELECT value FROM sync_status WHERE name = 'device'");
    all.phone.sync(&mut all.server);
    all.db.run(&format!("SELECT sync.revoke_device('{id}')"));
    all.phone.pull(&mut all.server);
    assert_eq!(all.phone.value("SELECT count(*) FROM sqlite_schema WHERE name = 'note'"), "0");
}

#[test]
fn an_answer_that_another_program_signed_as_documented_is_believed() {
    let mut all = Signed::new();
    let signer = Signer::new("EdDSA");
    let hex: String = signer.point().iter().map(|b| format!("{b:02x}")).collect();
    trust(&all.phone, &[&hex]);
    assert_eq!(all.phone.value("SELECT value FROM sync_status WHERE name = 'trusted_keys'"), hex);
    for _ in 0..100 {
        let request = all.phone.pull_request();
        let answer = all.pull(&request);
        refused(&all.phone, &answer, "signed with a key");
        if !all.phone.apply(&signed_by(&signer, &request, &message(&answer))).expect("believed").more() {
            break;
        }
    }
    assert_same(&all.phone, &mut all.server, "SELECT id, body FROM note");
}

#[test]
fn signing_keys_are_rotated_and_a_dump_carries_them() {
    let mut all = Signed::new();
    all.check();
    let first = all.key.clone();
    let second = server_value(&mut all.server, "SELECT sync.make_signing_key()");
    let error = all.db.try_run("SELECT sync.make_signing_key()").expect_err("two are enough");
    assert!(error.contains("two signing keys already"), "{error}");
    assert_eq!(
        server_rows(&mut all.server, "SELECT public_key FROM sync.signing_keys ORDER BY made"),
        [[first.as_str()], [second.as_str()]]
    );
    // The phone is told of both, the laptop of the new one only; a file without a key takes everything.
    trust(&all.phone, &[&first, &second]);
    trust(&all.laptop, &[&second]);
    let careless = Device::new("ann");
    all.db.run("UPDATE note SET body = 'signed twice' WHERE id = 1");
    careless.sync(&mut all.server);
    all.check();
    all.db.run(&format!("SELECT sync.drop_signing_key('{first}'); UPDATE note SET body = 'signed once' WHERE id = 2"));
    all.check();
    trust(&all.phone, &[&second]);
    // With its keys in it a dump is as good as the server.
    let file = all.db.dump(&[]);
    let restored = Cluster::shared().empty_database();
    restored.load(&file);
    restored.run("SELECT sync.maintain()");
    all.server = restored.connect();
    all.db = restored;
    all.phone.run("UPDATE note SET body = 'after the dump' WHERE id = 3");
    all.check();
    careless.sync(&mut all.server);
    assert_same(&careless, &mut all.server, "SELECT id, body FROM note");
    // A server that stops signing reaches no device that trusts keys, until it is told to trust again whatever comes.
    all.db.run(&format!("SELECT sync.drop_signing_key('{second}'); UPDATE note SET body = 'unsigned' WHERE id = 4"));
    let answer = all.pull(&all.phone.pull_request());
    refused(&all.phone, &answer, "is not signed");
    for device in [&all.phone, &all.laptop] {
        assert_eq!(device.value("SELECT sync_trust(NULL)"), "0");
    }
    all.check();
}

#[test]
fn signing_keys_are_seen_and_made_by_few() {
    let all = Signed::new();
    all.db.run("DO $$ BEGIN CREATE ROLE signing_admin LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; GRANT sync_admin TO signing_admin");
    let mut admin = all.db.connect_as("signing_admin");
    assert_eq!(server_value(&mut admin, "SELECT public_key FROM sync.signing_keys"), all.key);
    assert!(admin.simple_query("SELECT seed FROM sync.signing_key").is_err());
    let second = server_value(&mut admin, "SELECT sync.make_signing_key()");
    assert_eq!((second.len(), second == all.key), (64, false));
    server_value(&mut admin, &format!("SELECT sync.drop_signing_key('{second}')"));
    assert!(admin.simple_query(&format!("SELECT sync.drop_signing_key('{second}')")).is_err());
    for wrong in ["'abc'", "''", "7", "x'00'", "'zz'", "printf('%064d', 0)", "printf('%063d1', 0)", "printf('%064d', 0), NULL"] {
        let error = all.phone.connection().query_row(&format!("SELECT sync_trust({wrong})"), [], |_| Ok(())).expect_err(wrong);
        assert!(error.to_string().contains("sync_trust takes"), "{wrong}: {error}");
    }
    assert_eq!(all.phone.value("SELECT value FROM sync_status WHERE name = 'trusted_keys'"), all.key);
    // Somebody has written nonsense into the file: nobody is trusted.
    all.phone.run("UPDATE sync_meta SET value = 'nonsense' WHERE name = 'trusted_keys'");
    let mut server = all.db.connect();
    let answer = server_pull(&mut server, &all.phone.user, &all.phone.pull_request()).expect("an answer");
    refused(&all.phone, &answer, "signed with a key");
    refused(&all.phone, &message(&answer), "is not signed");
}
