//! A device goes on writing on top of a batch that is then rejected: what follows is judged by what the server has.

use crate::phone::{delete, insert, int, short, update, Phone};
use postgres::Client;
use sync_shared::hash::tag;
use sync_shared::message::{Change, Verdict};
use sync_shared::Value;
use sync_tests::compare::{assert_same, server_rows, server_value};
use sync_tests::device::server_push;
use sync_tests::{Cluster, Database, Device};

/// Negative numbers are refused, and so is deleting a row that is kept.
fn items() -> (Database<'static>, Client) {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE item (id int PRIMARY KEY, a int CHECK (a >= 0), b int CHECK (b >= 0), kept int DEFAULT 1);
         INSERT INTO item (id, a, b) SELECT i, 10, 20 FROM generate_series(1, 4) i;
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF OLD.kept = 1 THEN RAISE EXCEPTION 'this one is kept'; END IF; RETURN OLD; END $$;
         CREATE TRIGGER keep BEFORE DELETE ON item FOR EACH ROW EXECUTE FUNCTION keep()",
    );
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'item')");
    let server = db.connect();
    (db, server)
}

fn a(old: i64, new: i64) -> Change {
    update("item", 1, &[("a", int(old), int(new))])
}

#[test]
fn an_update_on_top_of_a_rejected_one_is_no_conflict_whenever_it_is_sent() {
    for together in [true, false] {
        let (_db, mut server) = items();
        let mut phone = Phone::new("ann");
        phone.clock = Some(0);
        let results = if together {
            phone.send(&mut server, vec![vec![a(10, -5)], vec![a(-5, 6)]])
        } else {
            let below = vec![(tag("a"), int(10))];
            let first = phone.one(&mut server, a(10, -5));
            vec![first, phone.one(&mut server, Change { below, ..a(-5, 6) })]
        };
        assert_eq!(short(&results), ["rejected 23514", "accepted"], "{results:?}");
        assert_eq!(server_value(&mut server, "SELECT a FROM item WHERE id = 1"), "6");
    }
}

#[test]
fn what_somebody_else_wrote_meanwhile_is_still_a_conflict() {
    let (db, mut server) = items();
    db.run("UPDATE item SET a = 11");
    let mut phone = Phone::new("ann");
    phone.clock = Some(0);
    let result = phone.one(&mut server, Change { below: vec![(tag("a"), int(10))], ..a(-5, 6) });
    assert_eq!((result.verdict, result.conflicts.len()), (Verdict::Merged, 1));
    assert_eq!([&result.conflicts[0].base, &result.conflicts[0].theirs], [&int(10), &int(11)], "and the record says from what");
}

#[test]
fn a_counter_still_adds_the_difference_that_was_made_on_top_of_a_rejected_value() {
    for together in [true, false] {
        let (db, mut server) = items();
        db.run("SELECT sync.set_policy('item', 'counter', 'a')");
        let mut phone = Phone::new("ann");
        let below = if together { vec![] } else { vec![(tag("a"), int(10))] };
        let second = Change { below, ..a(-5, 6) };
        if together {
            phone.send(&mut server, vec![vec![a(10, -5)], vec![second]]);
        } else {
            phone.one(&mut server, a(10, -5));
            phone.one(&mut server, second);
        }
        assert_eq!(server_value(&mut server, "SELECT a FROM item WHERE id = 1"), "21");
    }
}

#[test]
fn an_insert_after_a_rejected_delete_changes_the_row_that_is_there() {
    let row = [("id", int(1)), ("a", int(10)), ("b", int(20)), ("kept", int(1))];
    for together in [true, false] {
        let (_db, mut server) = items();
        let mut phone = Phone::new("ann");
        phone.clock = Some(0);
        let new = insert("item", 1, &[("id", int(1)), ("a", int(7)), ("b", int(20))]);
        let results = if together {
            phone.send(&mut server, vec![vec![delete("item", 1, &row)], vec![new]])
        } else {
            let below = row.iter().map(|(name, value)| (tag(name), value.clone())).collect();
            let first = phone.one(&mut server, delete("item", 1, &row));
            vec![first, phone.one(&mut server, Change { below, ..new })]
        };
        assert_eq!(short(&results), ["rejected p0001", "accepted"], "{results:?}");
        assert_eq!(server_rows(&mut server, "SELECT a, b, kept FROM item WHERE id = 1"), [["7", "20", "1"]]);
    }
}

#[test]
fn an_update_of_a_row_whose_insert_was_rejected_says_so_and_what_to_do() {
    for policy in ["keep_update", "delete_wins", "last_writer", "reject"] {
        for together in [true, false] {
            let (db, mut server) = items();
            db.run(&format!("SELECT sync.set_delete_policy('item', '{policy}')"));
            let mut phone = Phone::new("ann");
            let mut batches = vec![
                phone.batch(vec![insert("item", 9, &[("a", int(-1))])]),
                phone.batch(vec![update("item", 9, &[("b", Value::Null, int(5))])]),
            ];
            if !together {
                phone.push(&mut server, vec![batches.remove(0)]);
            }
            // The device may know more of the row than it has sent.
            let asked = phone.push(&mut server, batches.clone()).results.pop().expect("an answer");
            assert_eq!((asked.verdict, asked.whole), (Verdict::Later, vec![0]), "{}", asked.message);
            batches.last_mut().expect("the update").whole = true;
            let result = phone.push(&mut server, batches).results.pop().expect("an answer");
            assert_eq!((short(std::slice::from_ref(&result)), &result.conflicts[..]), (vec!["rejected 55000".into()], &[][..]));
            for words in ["batch 1 of this device", "was rejected (23514)", "retry that batch first"] {
                assert!(result.message.contains(words), "{}", result.message);
            }
            // What it says works.
            let device = phone.device;
            let edits = r#"[{"table": "item", "key": [9], "set": {"a": 1}}]"#;
            let retried = format!("SELECT verdict FROM sync.retry('{device}', 1, '{edits}')");
            assert_eq!(server_value(&mut server, &retried), "accepted");
            assert_eq!(server_value(&mut server, &format!("SELECT verdict FROM sync.retry('{device}', 2)")), "accepted");
            assert_eq!(server_rows(&mut server, "SELECT a, b FROM item WHERE id = 9"), [["1", "5"]]);
        }
    }
}

#[test]
fn a_row_that_was_inserted_again_and_then_deleted_is_not_taken_for_one_that_never_was() {
    for (policy, code) in [("keep_update", "00000"), ("delete_wins", "00000"), ("reject", "SY010")] {
        let (db, mut server) = items();
        db.run(&format!("SELECT sync.set_delete_policy('item', '{policy}')"));
        let mut phone = Phone::new("ann");
        phone.one(&mut server, insert("item", 9, &[("a", int(-1))]));
        phone.accepted(&mut server, insert("item", 9, &[("a", int(1)), ("kept", int(0))]));
        db.run("DELETE FROM item WHERE id = 9");
        let change = Change { rest: Some(vec![(tag("a"), int(1))]), ..update("item", 9, &[("b", Value::Null, int(5))]) };
        let result = phone.one(&mut server, change);
        assert_eq!(result.code, code, "{policy}: {result:?}");
        assert!(result.conflicts[0].reason.contains("a row that was deleted on the server"), "{result:?}");
    }
}

#[test]
fn a_delete_of_a_row_whose_insert_was_rejected_is_taken_and_says_that_there_was_nothing() {
    for together in [true, false] {
        let (_db, mut server) = items();
        let mut phone = Phone::new("ann");
        let changes = [insert("item", 9, &[("a", int(-1))]), delete("item", 9, &[("a", int(-1))])];
        let results = match together {
            true => phone.send(&mut server, changes.map(|change| vec![change]).into()),
            false => changes.map(|change| phone.one(&mut server, change)).into(),
        };
        assert_eq!(short(&results), ["rejected 23514", "accepted"]);
        assert_eq!(results[1].code, "02000");
        assert!(results[1].message.contains("nothing to delete: batch 1 of this device, which inserted this row, was rejected"));
        assert_eq!(server_value(&mut server, "SELECT code FROM sync.batch WHERE number = 2"), "02000");
        // A row of others that is gone needs no word.
        let gone = phone.one(&mut server, delete("item", 8, &[("a", int(1))]));
        assert_eq!((gone.verdict, gone.message.as_str()), (Verdict::Accepted, ""));
    }
}

#[test]
fn a_device_hears_that_its_update_waits_for_a_rejected_insert_and_can_retry_both() {
    let (_db, mut server) = items();
    let device = Device::new("ann");
    device.sync(&mut server);
    device.run("INSERT INTO item (id, a) VALUES (9, -1)");
    device.run("UPDATE item SET b = 5 WHERE id = 9");
    device.sync(&mut server);
    let rejected = device.rows("SELECT code, message LIKE '%retry that batch first%' FROM sync_rejected ORDER BY id");
    assert_eq!(rejected, [["23514", "0"], ["55000", "1"]]);
    assert_eq!(device.value("SELECT count(*) FROM item WHERE id = 9"), "0");
    let edits = r#"'[{"table": "item", "key": [9], "new": {"a": 1}}]'"#;
    device.value(&format!("SELECT sync_retry(id, {edits}) FROM sync_rejected WHERE code = '23514'"));
    device.value("SELECT sync_retry(id) FROM sync_rejected");
    device.sync(&mut server);
    assert_eq!(server_rows(&mut server, "SELECT a, b FROM item WHERE id = 9"), [["1", "5"]]);
    assert_same(&device, &mut server, "SELECT * FROM item");
}

/// Nobody else writes while a device writes, sends and hears of rejections in any order: so nothing is ever a conflict.
#[test]
fn whoever_writes_alone_meets_no_conflict_whatever_is_rejected() {
    let (db, mut server) = items();
    let device = Device::new("ann");
    let mut verdicts = [0; 2];
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        // Somebody else is the author of every value that the device starts from.
        db.run(&format!("UPDATE item SET a = {seed} + 100, b = {seed} + 200; UPDATE item SET kept = (id <= 2)::int"));
        db.run(&format!(
            "INSERT INTO item SELECT i, {seed}, {seed}, (i <= 2)::int FROM generate_series(1, 4) i ON CONFLICT DO NOTHING"
        ));
        device.sync(&mut server);
        for _ in 0..random.u32(1..4) {
            write(&device, &mut random);
            let Some(batches) = device.pending_ops() else { continue };
            let reply = server_push(&mut server, &device.user, &batches).expect("a push");
            write(&device, &mut random);
            let answer = device.apply(&reply).expect("a reply");
            verdicts[0] += answer.verdicts("accepted");
            verdicts[1] += answer.verdicts("rejected");
        }
        device.sync(&mut server);
        let wrong = "SELECT c.key, c.column_name, c.base, c.theirs, c.mine, c.reason FROM sync.conflict c";
        assert_eq!(server_rows(&mut server, wrong), [[""; 0]; 0], "seed {seed}");
        assert_same(&device, &mut server, "SELECT * FROM item");
        assert_eq!(device.value("SELECT count(*) FROM sync_pending"), "0");
    }
    assert!(verdicts.iter().all(|v| *v > 20), "accepted and rejected: {verdicts:?}");
}

/// A few transactions.
fn write(device: &Device, random: &mut fastrand::Rng) {
    for _ in 0..random.u32(0..4) {
        let id = random.u32(1..=4);
        let value = if random.u32(0..3) == 0 { -random.i32(1..100) } else { random.i32(1..100) };
        let column = if random.bool() { "a" } else { "b" };
        device.run(&match random.u32(0..6) {
            0 => format!("DELETE FROM item WHERE id = {id}"),
            1 => format!("INSERT OR REPLACE INTO item (id, a, b) VALUES ({id}, {value}, 1)"),
            2 => format!("INSERT INTO item (id, {column}) VALUES ({id}, {value}) ON CONFLICT DO NOTHING"),
            _ => format!("UPDATE item SET {column} = {value} WHERE id = {id}"),
        });
    }
}
