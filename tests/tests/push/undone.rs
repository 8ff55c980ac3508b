//! A device goes on writing on top of a batch that is then rejected: what follows is judged by what the server has.

use crate::phone::{delete, insert, int, short, update, Phone};
use postgres::Client;
use sync_shared::hash::tag;
use sync_shared::message::{Change, Verdict};
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
        // A row that never was looks like one that was deleted.
        let wrong = "SELECT c.key, c.column_name, c.base, c.theirs, c.mine, c.reason FROM sync.conflict c
                     JOIN sync.batch b USING (device, number) WHERE b.code IS DISTINCT FROM '02000'";
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
