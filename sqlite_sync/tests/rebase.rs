//! What the application sees is the server's version with its own unconfirmed writes on top.

mod common;
use common::*;
use rusqlite::Connection;

#[test]
fn a_download_goes_below_an_unsent_write() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    device.run("UPDATE notes SET rank = 5 WHERE id = 'k1'");
    device.apply(&page(&[row(1, "from the server")]).publish().known());
    assert_eq!(device.titles(), ["1:from the server", "2:b"]);
    assert_eq!(device.number("SELECT rank FROM notes WHERE id = 'k1'"), 5);
    device.run("UPDATE notes SET title = 'mine' WHERE id = 'k1'");
    device.apply(&page(&[row(1, "again")]).publish().known());
    assert_eq!(device.titles(), ["1:mine", "2:b"]);
    let batches = device.push();
    device.answer(&batches, Verdict::Accepted);
    assert_eq!(device.titles()[0], "1:mine", "answered is not confirmed");
    device.apply(&page(&[row(1, "decided")]).publish().known().confirm(&batches[1]));
    assert_eq!(device.titles()[0], "1:decided");
    assert_eq!(device.number("SELECT rank IS NULL FROM notes WHERE id = 'k1'"), 1);
    assert_eq!(device.number("SELECT count(*) FROM sync_shadow"), 0);
}

#[test]
fn a_rejected_batch_disappears_and_is_kept() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    device.run("BEGIN; UPDATE notes SET title = 'bad'; INSERT INTO notes(id, title) VALUES ('k3', 'c'); DELETE FROM notes WHERE id = 'k2'; COMMIT");
    device.run("UPDATE notes SET rank = 7 WHERE id = 'k1'");
    let batches = device.push();
    let mut answer = reply(&batches, Verdict::Accepted);
    answer.results[0].verdict = Verdict::Rejected;
    answer.results[0].message = "no such luck".into();
    let report = device.apply_message(&answer);
    assert_eq!(report["verdicts"]["rejected"], 1);
    assert_eq!(report["verdicts"]["accepted"], 1);
    assert_eq!(device.titles(), ["1:a", "2:b"]);
    assert_eq!(device.number("SELECT rank FROM notes WHERE id = 'k1'"), 7, "the later batch stays");
    assert_eq!(device.text("SELECT message FROM sync_rejected"), "no such luck");
    assert!(device.text("SELECT batch FROM sync_rejected").contains("\"bad\""));
    device.run("DELETE FROM sync_rejected");
    assert_eq!(device.number("SELECT count(*) FROM sync_batch"), 1);
    assert!(device.push().is_empty());
}

#[test]
fn a_batch_whose_answer_was_lost_gives_way_to_the_snapshot_that_includes_it() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    device.run("UPDATE notes SET title = 'mine'");
    device.run("UPDATE notes SET title = 'unsent' WHERE id = 'k2'");
    let mut batches = device.push();
    // The server took the first one only, somebody else has overwritten it since, and the answer was lost.
    device.apply(&page(&[row(1, "theirs"), row(2, "theirs")]).publish().known().confirm(&batches[0]));
    assert_eq!(device.titles(), ["1:theirs", "2:unsent"]);
    assert_eq!(device.number("SELECT count(*) FROM sync_pending"), 2, "its verdict is still asked for");
    assert_eq!(device.push(), batches);
    device.answer(&batches, Verdict::Merged);
    assert_eq!(device.titles(), ["1:theirs", "2:unsent"]);
    device.apply(&page(&[row(2, "unsent")]).publish().known().confirm(&batches.remove(1)));
    assert_eq!(device.titles(), ["1:theirs", "2:unsent"]);
    assert_eq!(device.number("SELECT count(*) FROM sync_pending") + device.number("SELECT count(*) FROM sync_shadow"), 0);
}

#[test]
fn a_row_that_left_stays_whole_while_an_update_of_it_waits() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    device.run("UPDATE notes SET rank = 5, body = x'01'");
    let batches = device.push();
    device.answer(&batches, Verdict::Accepted);
    device.apply(&page(&[]).publish().known().confirm(&batches[0]));
    device.run("UPDATE notes SET title = 'x' WHERE id = 'k1'");
    device.apply(&page(&[]).gone(&[1, 2]).publish().known());
    assert_eq!(device.titles(), ["1:x"]);
    // What is written on top of it is as whole.
    device.run("UPDATE notes SET rank = 6 WHERE id = 'k1'");
    let batches = device.push();
    assert_eq!(kinds(&batches), ["update k1 (title)", "update k1 (rank)"]);
    let rest: Vec<_> = batches.iter().map(|b| b.changes[0].rest.clone().expect("what the row was").len()).collect();
    assert_eq!(rest, [0, 1], "the server took rank and body back, and the title is this device's");
    device.answer(&batches[..1], Verdict::Rejected);
    assert_eq!(device.text("SELECT title || rank FROM notes"), "a6", "the second without the first");
    assert_eq!(device.push()[0].changes[0].rest, Some(vec![(sync_shared::hash::tag("title"), Value::Text("a".into()))]));
    device.apply(&page(&[row(1, "back")]).publish().known());
    assert_eq!(device.text("SELECT title || rank FROM notes"), "back6");
    device.answer(&batches[1..], Verdict::Rejected);
    assert_eq!(device.titles(), ["1:back"]);
    assert_eq!(device.number("SELECT count(*) FROM sync_shadow"), 0);
}

#[test]
fn a_row_of_a_bucket_that_is_lost_goes_whatever_waits() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'x'");
    device.apply(&empty().gone_bucket("notes").publish());
    assert_eq!(device.titles(), [""; 0]);
    assert_eq!(device.push()[0].changes[0].rest, None);
    device.apply(&page(&[row(1, "back")]).publish().known());
    assert_eq!(device.titles(), ["1:x"]);
}

#[test]
fn whole_rows_are_sent_at_once_when_the_server_asks_and_only_once() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    device.run("UPDATE notes SET rank = 1");
    device.run("UPDATE notes SET rank = 2 WHERE id = 'k2'");
    let batches = device.push();
    assert!(batches.iter().all(|b| !b.whole && b.changes.iter().all(|c| c.rest.is_none())));
    let mut answer = reply(&batches, Verdict::Later);
    answer.results[0].whole = vec![1, 99];
    device.apply_message(&answer);
    let again = device.push();
    assert_eq!(again[0].id, batches[0].id);
    let title = Some(vec![(sync_shared::hash::tag("title"), Value::Text("b".into()))]);
    assert_eq!((again[0].whole, &again[0].changes[0].rest, &again[0].changes[1].rest), (true, &None, &title));
    assert_eq!((again[1].whole, &again[1].changes[0].rest), (false, &title), "made on top of it");
    device.apply_message(&answer);
    assert!(device.push_request().is_none(), "nothing to add: later");
}

#[test]
fn an_update_made_before_its_predecessor_was_rejected_is_told_what_the_server_had() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'bad'");
    let sent = device.push();
    device.run("UPDATE notes SET title = 'good'");
    device.run("UPDATE notes SET title = 'better'");
    device.answer(&sent, Verdict::Rejected);
    let batches = device.push();
    let (change, title) = (&batches[0].changes[0], sync_shared::hash::tag("title"));
    assert_eq!((&change.old[0], change.below(title)), (&Value::Text("bad".into()), Some(&Value::Text("a".into()))));
    assert_eq!(batches[1].changes[0].below, [], "what it started from is the server's if the one before is");
    device.answer(&batches[..1], Verdict::Rejected);
    assert_eq!(device.push()[0].changes[0].below(title), Some(&Value::Text("a".into())));
    assert_eq!(device.titles(), ["1:better"]);
}

#[test]
fn an_insert_made_before_the_delete_of_its_key_was_rejected_is_told_what_the_server_has() {
    let device = Device::with(&[row(1, "a")]);
    device.run("DELETE FROM notes");
    let sent = device.push();
    device.run("INSERT INTO notes(id, title) VALUES ('k1', 'new')");
    device.answer(&sent, Verdict::Rejected);
    assert_eq!(device.titles(), ["1:new"]);
    let batches = device.push();
    assert_eq!(kinds(&batches), ["insert k1 (id, title)"]);
    assert_eq!(batches[0].changes[0].below(sync_shared::hash::tag("title")), Some(&Value::Text("a".into())));
}

#[test]
fn a_confirmed_row_that_is_in_no_bucket_goes() {
    let device = Device::with(&[]);
    device.run("INSERT INTO notes(id, title) VALUES ('k1', 'elsewhere'), ('k2', 'here')");
    let batches = device.push();
    device.answer(&batches, Verdict::Merged);
    device.apply(&page(&[row(2, "here")]).publish().known());
    assert_eq!(device.titles(), ["1:elsewhere", "2:here"], "not confirmed yet");
    device.apply(&page(&[]).publish().known().confirm(&batches[0]));
    assert_eq!(device.titles(), ["2:here"]);
}

#[test]
fn only_the_same_random_bytes_confirm() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'x'");
    let batches = device.push();
    device.answer(&batches, Verdict::Accepted);
    let mut other = batches[0].clone();
    other.id.random = random(1);
    device.apply(&page(&[]).publish().known().confirm(&other));
    assert_eq!(device.push(), batches, "another copy of the file has sent: this one sends again, under another identity");
    device.answer(&batches, Verdict::Accepted);
    let mut unfinished = page(&[]).publish().known().confirm(&batches[0]);
    unfinished.0.complete = false;
    device.apply(&unfinished);
    assert_eq!(device.number("SELECT count(*) FROM sync_pending"), 1, "a lower priority is not there yet");
    device.apply(&page(&[]).publish().known().confirm(&batches[0]));
    assert_eq!(device.number("SELECT count(*) FROM sync_pending"), 0);
    assert_eq!(device.titles(), ["1:a"], "the server's version of it has not come: it is what the server says");
}

#[test]
fn a_local_delete_stays_deleted() {
    let device = Device::with(&[row(1, "a")]);
    device.run("DELETE FROM notes");
    device.apply(&page(&[row(1, "b")]).publish().known());
    assert_eq!(device.titles(), [""; 0]);
    device.run("INSERT INTO notes(id, title) VALUES ('k1', 'again')");
    let batches = device.push();
    assert_eq!(kinds(&batches), ["delete k1 (id, rank, title, body)", "insert k1 (id, title)"]);
    device.answer(&batches, Verdict::Rejected);
    assert_eq!(device.titles(), ["1:b"]);
}

#[test]
fn later_ends_the_loop_until_the_next_pull() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'x'");
    let batches = device.push();
    device.answer(&batches, Verdict::Later);
    assert!(device.push_request().is_none());
    device.request();
    assert_eq!(device.push()[0].id, batches[0].id, "the same name");
}

#[test]
fn a_server_that_answers_nothing_does_not_loop() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'x'");
    device.push();
    device.apply_message(&reply(&[], Verdict::Accepted));
    assert!(device.push_request().is_none());
}

#[test]
fn a_new_device_registers_once() {
    let device = Device::with(&[row(1, "a")]);
    assert_eq!(device.push_request().unwrap().batches.len(), 0);
    assert!(device.push_request().is_none(), "asked once per round");
    device.apply_message(&reply(&[], Verdict::Accepted));
    device.request();
    assert!(device.push_request().is_none(), "known now");
}

#[test]
fn another_users_batches_wait_for_their_user() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'of anna'");
    let first = device.push_request().unwrap();
    let of_anna = first.batches;
    let mut answer = reply(&of_anna, Verdict::Held);
    answer.user = "bert".into();
    answer.last = None;
    device.apply_message(&answer);
    assert_eq!(device.titles(), ["1:a"], "bert sees what the server has");
    device.run("UPDATE notes SET rank = 2");
    let second = device.push_request().unwrap();
    assert_ne!(second.device, first.device, "the server ties a device to its user");
    let of_bert = second.batches;
    assert_eq!((of_bert.len(), of_bert[0].user.as_str(), of_bert[0].id.number), (1, "bert", 1));
    let mut answer = reply(&of_bert, Verdict::Accepted);
    answer.user = "bert".into();
    device.apply_message(&answer);
    assert!(device.push().is_empty());
    device.apply(&page(&[]).publish().known().user("anna"));
    assert_eq!(device.titles(), ["1:of anna"]);
    let again = device.push();
    assert_eq!((again.len(), again[0].id.number, again[0].id.random), (1, 1, of_anna[0].id.random));
}

#[test]
fn a_copied_file_that_only_repeats_what_the_other_sent_is_confirmed_under_a_new_identity() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'x'");
    let sent = device.push_request().unwrap();
    device.answer(&sent.batches, Verdict::Accepted);
    // The other copy has sent a second batch: this one is never the last.
    let id = BatchId { number: 2, random: random(9) };
    device.apply(&page(&[row(1, "later")]).publish().known().confirm(&Batch { id, ..sent.batches[0].clone() }));
    let again = device.push_request().unwrap();
    assert_ne!(again.device, sent.device);
    assert_eq!(again.batches, sent.batches, "under number 1 of the new identity, and known by its random bytes");
    device.answer(&again.batches, Verdict::Accepted);
    device.apply(&page(&[]).publish().known().confirm(&again.batches[0]));
    assert_eq!(device.titles(), ["1:later"]);
    assert_eq!(device.number("SELECT count(*) FROM sync_pending"), 0);
}

#[test]
fn a_last_batch_that_was_discarded_still_confirms_those_before_it() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    device.run("UPDATE notes SET title = 'x' WHERE id = 'k1'");
    device.run("UPDATE notes SET title = 'y' WHERE id = 'k2'");
    let sent = device.push();
    device.answer(&sent[..1], Verdict::Accepted);
    device.answer(&sent[1..], Verdict::Rejected);
    device.run("DELETE FROM sync_rejected");
    device.apply(&page(&[row(1, "later")]).publish().known().confirm(&sent[1]));
    assert_eq!(device.titles(), ["1:later", "2:b"]);
    assert_eq!(device.number("SELECT count(*) FROM sync_pending"), 0);
}

/// Three batches of which the second was rejected, and the third confirmed; then the device starts over.
fn starts_over() -> (Device, PushRequest) {
    let device = Device::with(&[row(1, "a"), row(2, "b"), row(3, "c")]);
    for n in 1..=3 {
        device.run(&format!("UPDATE notes SET title = 'mine' WHERE id = 'k{n}'"));
    }
    let sent = device.push_request().unwrap();
    let mut answer = reply(&sent.batches, Verdict::Accepted);
    answer.results[1].verdict = Verdict::Rejected;
    device.apply_message(&answer);
    device.apply(&page(&[row(1, "mine"), row(3, "mine")]).publish().known().confirm(&sent.batches[2]));
    assert_eq!(device.number("SELECT count(*) FROM sync_pending"), 0);
    device.apply_message(&notice(NoticeKind::Resync, vec![]));
    (device, sent)
}

#[test]
fn a_device_that_starts_over_keeps_its_identity_and_numbers_although_some_batches_are_gone() {
    for discard in [false, true] {
        let (device, sent) = starts_over();
        if discard {
            device.run("DELETE FROM sync_rejected");
        }
        let again = device.push_request().unwrap();
        assert_eq!(again.device, sent.device);
        assert_eq!(again.batches, [sent.batches[0].clone(), sent.batches[2].clone()]);
        device.run("UPDATE notes SET title = 'more' WHERE id = 'k2'");
        device.answer(&again.batches, Verdict::Accepted);
        assert_eq!(device.push()[0].id.number, 4);
        assert_eq!(device.text("SELECT group_concat(title) FROM (SELECT title FROM notes ORDER BY id)"), "mine,more,mine");
    }
}

#[test]
fn a_device_that_starts_over_takes_a_new_identity_where_the_server_has_lost_a_number_that_is_not_kept() {
    let (device, sent) = starts_over();
    let again = device.push_request().unwrap();
    // It has lost the second batch and the third.
    let mut answer = reply(&again.batches[..1], Verdict::Accepted);
    answer.state = PushState::Gap;
    answer.last = Some(again.batches[0].id);
    device.apply_message(&answer);
    let anew = device.push_request().unwrap();
    assert_ne!(anew.device, sent.device);
    let named = |batches: &[Batch]| batches.iter().map(|b| (b.id.number, b.id.random)).collect::<Vec<_>>();
    assert_eq!(named(&anew.batches), [(1, sent.batches[0].id.random), (2, sent.batches[2].id.random)]);
    device.answer(&anew.batches, Verdict::Accepted);
    assert!(device.push().is_empty());
}

#[test]
fn a_batch_that_the_server_lost_after_its_answer_is_sent_again() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'x'");
    let sent = device.push();
    device.answer(&sent, Verdict::Accepted);
    for _ in 0..2 {
        device.apply(&page(&[]).publish().known());
        assert!(device.push().is_empty(), "a standby may be a little late");
    }
    device.apply(&page(&[]).publish().known());
    assert_eq!(device.push(), sent);
    device.answer(&sent, Verdict::Accepted);
    device.apply(&page(&[row(1, "x")]).publish().known().confirm(&sent[0]));
    assert_eq!(device.number("SELECT count(*) FROM sync_pending"), 0);
}

#[test]
fn two_copies_of_a_file_give_the_same_name_to_a_transaction_made_before() {
    let mut copy = Device::new();
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'before'");
    device.run("PRAGMA wal_checkpoint(TRUNCATE)");
    copy.db = Connection::open_in_memory().unwrap();
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", copy.path.display()));
    }
    std::fs::copy(&device.path, &copy.path).unwrap();
    copy.db = Connection::open(&copy.path).unwrap();
    load(&copy.db);
    for one in [&device, &copy] {
        one.run("UPDATE notes SET title = hex(randomblob(8))");
    }
    let (ours, theirs) = (device.push(), copy.push());
    assert_eq!((ours.len(), theirs.len()), (2, 2));
    assert_eq!(ours[0], theirs[0], "known by the server, whoever sends it first");
    assert_ne!(ours[1].id.random, theirs[1].id.random, "written twice");
}

#[test]
fn a_copied_file_takes_a_new_identity() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'x'");
    device.run("UPDATE notes SET title = 'y'");
    let before = device.push_request().unwrap();
    device.apply_message(&state_reply(PushState::Fork, None));
    let after = device.push_request().unwrap();
    assert_ne!(before.device, after.device);
    assert_eq!(before.batches, after.batches, "numbers from 1 again, random bytes kept");
}

#[test]
fn a_gap_is_filled_or_left_behind() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'x'");
    device.run("UPDATE notes SET title = 'y'");
    let batches = device.push();
    device.answer(&batches, Verdict::Accepted);
    device.run("UPDATE notes SET title = 'z'");
    let third = device.push_request().unwrap();
    device.apply_message(&state_reply(PushState::Gap, Some(batches[0].id)));
    let again = device.push_request().unwrap();
    assert_eq!(again.batches.iter().map(|b| b.id.number).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(again.device, third.device);
    device.run("DELETE FROM sync_change WHERE batch = 2; DELETE FROM sync_batch WHERE id = 2");
    device.apply_message(&state_reply(PushState::Gap, Some(batches[0].id)));
    let anew = device.push_request().unwrap();
    assert_ne!(anew.device, third.device);
    assert_eq!(anew.batches[0].id.number, 1);
}

#[test]
fn a_lost_history_gets_everything_again() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'x'");
    device.run("UPDATE notes SET title = 'y'");
    let batches = device.push();
    device.answer(&batches, Verdict::Accepted);
    device.apply(&page(&[row(1, "x")]).publish().known().confirm(&batches[0]));
    assert_eq!(device.number("SELECT count(*) FROM sync_pending"), 1);
    let report = device.apply_message(&notice(NoticeKind::Resync, vec![]));
    assert_eq!(report["more"], true);
    assert_eq!(device.push(), batches, "the same numbers and random bytes");
    assert_eq!(device.titles(), ["1:y"]);
}

#[test]
fn a_batch_over_the_limit_is_refused_here() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE sync_setting SET value = 2000 WHERE name = 'batch_bytes'");
    device.run("UPDATE notes SET body = hex(zeroblob(4000))");
    device.run("UPDATE notes SET title = 'small'");
    let batches = device.push();
    assert_eq!(kinds(&batches), ["update k1 (title)"]);
    assert_eq!(batches[0].id.number, 1);
    assert!(device.text("SELECT message FROM sync_rejected").contains("batch_bytes"));
    assert_eq!(device.number("SELECT body IS NULL FROM notes"), 1);
    assert_eq!(device.titles(), ["1:small"]);
}

#[test]
fn what_stands_on_a_batch_over_the_limit_starts_from_what_the_server_has() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE sync_setting SET value = 2000 WHERE name = 'batch_bytes'");
    device.run("UPDATE notes SET title = 'large', body = hex(zeroblob(4000))");
    device.run("UPDATE notes SET title = 'small'");
    let batches = device.push();
    let below: Vec<_> = batches[0].changes[0].below.iter().map(|(_, value)| value.clone()).collect();
    assert_eq!(below, [Value::Text("a".into())], "not what was refused");
    assert_eq!(device.titles(), ["1:small"]);
}

#[test]
fn conflicts_are_kept() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'mine'");
    let batches = device.push();
    let mut answer = reply(&batches, Verdict::Merged);
    answer.results[0].conflicts.push(Conflict {
        table: schema().tables[0].tag,
        key: vec![Value::Text("k1".into())],
        column: Some(sync_shared::hash::tag("title")),
        base: Value::Text("a".into()),
        theirs: Value::Text("theirs".into()),
        mine: Value::Text("mine".into()),
        result: Value::Text("theirs".into()),
        reason: "later".into(),
        policy: "merge".into(),
    });
    device.apply_message(&answer);
    assert_eq!(
        device.text("SELECT table_name || key || column_name || theirs || mine FROM sync_conflicts"),
        "notes[\"k1\"]titletheirsmine"
    );
}

#[test]
fn verdicts_beside_a_gap_count() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'x'");
    device.run("UPDATE notes SET title = 'y'");
    let batches = device.push();
    let mut answer = reply(&batches[..1], Verdict::Rejected);
    answer.state = PushState::Gap;
    device.apply_message(&answer);
    assert_eq!(device.number("SELECT count(*) FROM sync_rejected"), 1);
    let again = device.push();
    assert_eq!((again.len(), again[0].id), (1, batches[1].id));
}

#[test]
fn a_reply_that_refuses_numbers_registers_all_the_same() {
    let device = Device::with(&[row(1, "a")]);
    device.push_request().unwrap();
    let mut answer = reply(&[], Verdict::Accepted);
    answer.message = "no numbers for keys".into();
    device.apply_message(&answer);
    device.request();
    assert!(device.push_request().is_none());
}

#[test]
fn a_server_that_only_reads_has_registered_nobody() {
    let device = Device::with(&[row(1, "a")]);
    device.push_request().unwrap();
    let mut answer = reply(&[], Verdict::Accepted);
    answer.message = "read-only".into();
    answer.state = PushState::NotNow;
    device.apply_message(&answer);
    device.request();
    assert!(device.push_request().is_some());
}
