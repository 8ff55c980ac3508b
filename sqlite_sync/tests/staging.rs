//! Pages wait until one publishes them; what publishes is exact, and what is wrong is found and mended.

mod common;
use common::*;
use rusqlite::Connection;

#[test]
fn pages_wait_for_the_one_that_publishes_also_after_a_kill() {
    let mut device = Device::new();
    let report = device.apply(&page(&[row(1, "a")]).with_schema().starting_empty());
    assert_eq!(report["more"], true);
    assert_eq!(device.titles(), [""; 0]);
    assert_eq!(device.request().held.count, 0, "not complete yet");
    device.db = Connection::open(&device.path).unwrap();
    load(&device.db);
    device.apply(&page(&[row(2, "b")]).whole());
    assert_eq!(device.request().pass.as_ref(), b"pass");
    assert_eq!(device.request().held.count, 1, "staged completely");
    assert_eq!(device.status("staged_pages"), 2);
    device.db = Connection::open(&device.path).unwrap();
    load(&device.db);
    device.apply(&page(&[row(2, "B")]).publish().known().sum(&[row(1, "a"), row(2, "B")]));
    assert_eq!(device.titles(), ["1:a", "2:B"]);
    assert_eq!(device.status("staged_pages"), 0);
    assert_eq!(device.request().pass.as_ref(), b"");
    assert_eq!(device.status("mismatch") + device.status("refetch"), 0);
}

#[test]
fn a_part_from_empty_keeps_only_what_is_sent_again() {
    let device = Device::with(&[row(1, "a"), row(2, "b"), row(3, "c")]);
    device.apply(&page(&[row(2, "B")]).starting_empty());
    device.apply(&page(&[row(4, "d")]).publish().sum(&[row(2, "B"), row(4, "d")]));
    assert_eq!(device.titles(), ["2:B", "4:d"]);
    assert_eq!(device.status("refetch"), 0);
}

#[test]
fn a_row_stays_while_one_bucket_has_it() {
    let device = Device::with(&[row(1, "a")]);
    device.apply(&page(&[row(1, "a"), row(2, "b")]).in_bucket("second").publish());
    device.apply(&empty().gone_bucket("all").publish().known());
    assert_eq!(device.titles(), ["1:a", "2:b"]);
    device.apply(&page(&[]).in_bucket("second").gone(&[1]).publish().known().sum(&[row(2, "b")]));
    assert_eq!(device.titles(), ["2:b"]);
    let mut gone = empty().publish().known();
    gone.0.gone_entries = vec![1];
    device.apply(&gone);
    assert_eq!(device.titles(), [""; 0]);
    assert_eq!(device.number("SELECT count(*) FROM sync_row"), 0);
    assert_eq!(device.number("SELECT count(*) FROM sync_part"), 0);
}

#[test]
fn a_row_that_changes_buckets_never_vanishes() {
    let device = Device::with(&[row(1, "a")]);
    device.run("CREATE TABLE seen(n); CREATE TRIGGER app AFTER DELETE ON notes BEGIN INSERT INTO seen VALUES (1); END");
    let mut moved = page(&[]).gone(&[1]).publish();
    moved.0.buckets.push(bucket("second"));
    let mut second = page(&[row(1, "a")]).0.changes.remove(0);
    second.bucket = 1;
    moved.0.changes.push(second);
    device.apply(&moved.whole());
    assert_eq!(device.titles(), ["1:a"]);
    assert_eq!(device.number("SELECT count(*) FROM seen"), 0);
}

#[test]
fn a_wrong_sum_is_fetched_again_and_given_up_after_three() {
    let device = Device::with(&[row(1, "a")]);
    let wrong = page(&[row(1, "a")]).starting_empty().publish().sum(&[row(1, "something else")]);
    for round in 1..=3 {
        let report = device.apply(&wrong);
        assert_eq!(report["more"], round < 3);
        assert_eq!(device.request().held.count, u64::from(round == 3));
    }
    assert_eq!(device.text("SELECT state FROM sync_buckets"), "mismatch");
    assert_eq!(device.status("mismatch"), 1);
    device.apply(&page(&[]).publish().known().sum(&[row(1, "a")]));
    assert_eq!(device.text("SELECT state FROM sync_buckets"), "published");
}

#[test]
fn a_bucket_fetched_again_and_not_sent_is_not_ours_any_more() {
    let device = Device::with(&[row(1, "a")]);
    device.apply(&page(&[]).publish().known().sum(&[row(2, "b")]));
    device.request();
    device.apply(&empty().publish().known());
    assert_eq!(device.titles(), [""; 0]);
    assert_eq!(device.number("SELECT count(*) FROM sync_bucket"), 0);
}

/// A page of the bucket that was gone: whole again, with these rows.
fn back(rows: &[Vec<Value>]) -> Page {
    page(rows).starting_empty().whole()
}

#[test]
fn a_bucket_gone_on_one_page_and_whole_on_a_later_one_stays() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    device.apply(&empty().gone_bucket("all"));
    assert_eq!(device.request().held.count, 0);
    device.apply(&back(&[row(2, "B"), row(3, "c")]));
    assert_eq!(device.request().held.count, 1);
    assert_eq!(device.titles(), ["1:a", "2:b"], "nothing is visible yet");
    let report = device.apply(&empty().publish().known().sum(&[row(2, "B"), row(3, "c")]));
    assert_eq!(report["more"], false);
    assert_eq!(device.titles(), ["2:B", "3:c"]);
    assert_eq!(device.request().held.count, 1);
    assert_eq!(device.text("SELECT state FROM sync_buckets"), "published");
    assert!(device.text("SELECT sync_verify()").contains(r#""different":[]"#));
}

#[test]
fn a_bucket_gone_on_one_page_and_whole_on_the_one_that_publishes_stays() {
    let device = Device::with(&[row(1, "a")]);
    device.apply(&empty().gone_bucket("all"));
    device.apply(&back(&[row(2, "b")]).publish().sum(&[row(2, "b")]));
    assert_eq!(device.titles(), ["2:b"]);
    device.apply(&back(&[row(3, "c")]).gone_bucket("all").publish().sum(&[row(3, "c")]));
    assert_eq!(device.titles(), ["3:c"], "gone and back on one page");
    assert_eq!(device.status("refetch") + device.status("mismatch"), 0);
    assert_eq!(device.request().held.count, 1);
}

#[test]
fn a_bucket_that_goes_comes_and_goes_is_gone() {
    for last_page_stages in [true, false] {
        let device = Device::with(&[row(1, "a")]);
        device.apply(&empty().gone_bucket("all"));
        device.apply(&back(&[row(2, "b")]));
        let last = empty().gone_bucket("all");
        if last_page_stages {
            device.apply(&last);
            device.apply(&empty().publish().known());
        } else {
            device.apply(&last.publish().known());
        }
        assert_eq!(device.titles(), [""; 0]);
        for table in ["sync_bucket", "sync_part", "sync_row", "sync_stage"] {
            assert_eq!(device.number(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
        }
    }
}

#[test]
fn a_bucket_gone_and_only_begun_again_when_its_priority_is_published_is_dropped() {
    let device = Device::with(&[row(1, "a")]);
    device.apply(&empty().gone_bucket("all"));
    device.apply(&page(&[row(2, "b")]).starting_empty());
    device.apply(&empty().publish().known());
    assert_eq!(device.titles(), [""; 0]);
    assert_eq!(device.number("SELECT count(*) FROM sync_bucket"), 0);
}

const DAY: &str = "3600000000 * 24";

#[test]
fn all_sums_are_compared_right_after_a_pull_once_a_day() {
    let device = Device::with(&[row(1, "a")]);
    let unchanged = page(&[]).publish().known().sum(&[row(1, "a")]);
    assert_eq!(device.apply(&unchanged)["more"], false, "not at once");
    assert!(device.request().sums.is_none());
    device.run(&format!("UPDATE sync_meta SET value = value - {DAY} WHERE name = 'verified_at'"));
    device.run("UPDATE sync_meta SET value = value - 3600000000 WHERE name = 'published_at'");
    assert!(device.request().sums.is_none(), "what it has is old: first a pull");
    device.apply(&page(&[row(2, "b")]).starting_empty());
    assert!(device.request().sums.is_none(), "a pass is under way");
    assert_eq!(device.apply(&page(&[]).publish().sum(&[row(2, "b")]))["more"], true);
    let request = device.request();
    assert_eq!(request.sums.unwrap()[0].content, content(&schema().tables[0], &[row(2, "b")]));
    assert_eq!(request.cursor.as_ref(), b"cursor", "nothing is forgotten");
    device.apply_message(&notice(NoticeKind::Retry, vec![]));
    assert!(device.request().sums.is_some(), "until it is answered");
    device.apply_message(&notice(NoticeKind::Verified, vec![bucket("all").id]));
    let request = device.request();
    assert!(request.sums.is_none());
    assert_eq!(request.cursor.as_ref(), b"verified");
    assert_eq!(request.held.count, 1);
    assert_eq!(device.apply(&page(&[]).publish().known().sum(&[row(2, "b")]))["more"], false);
}

#[test]
fn what_the_daily_comparison_finds_is_fetched_again() {
    let device = Device::with(&[row(1, "a")]);
    device.apply(&page(&[row(2, "b")]).in_bucket("second").publish());
    device.run("UPDATE sync_setting SET value = 1 WHERE name = 'verify_hours'");
    device.run("UPDATE sync_meta SET value = value - 3600000000 WHERE name = 'verified_at'");
    assert_eq!(device.request().sums.map(|s| s.len()), Some(2));
    device.apply_message(&notice(NoticeKind::Verified, vec![bucket("second").id]));
    assert_eq!(device.titles(), ["1:a", "2:b"], "it stays visible until then");
    assert_eq!(device.request().held.count, 1);
    device.apply(&page(&[row(1, "A")]).starting_empty().publish());
    assert_eq!(device.titles(), ["1:A", "2:b"]);
}

#[test]
fn a_clock_that_was_put_back_does_not_put_off_the_daily_comparison() {
    let device = Device::with(&[row(1, "a")]);
    device.run(&format!("UPDATE sync_meta SET value = value + 400 * {DAY} WHERE name = 'verified_at'"));
    assert_eq!(device.apply(&page(&[]).publish().known())["more"], true);
    assert!(device.request().sums.is_some());
}

#[test]
fn verify_reads_what_is_stored() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    assert_eq!(device.text("SELECT sync_verify()"), r#"{"different":[],"parts":1,"rows":2,"strays":0}"#);
    device.run("UPDATE notes SET title = 'mine'");
    device.push();
    assert!(device.text("SELECT sync_verify()").contains(r#""different":[]"#), "a pending change is no difference");
    device.run("UPDATE sync_guard SET applying = 1; DELETE FROM notes WHERE id = 'k1'; UPDATE sync_guard SET applying = 0");
    device.run("UPDATE sync_shadow SET body = x'' WHERE key = 'k2'");
    assert!(device.text("SELECT sync_verify()").contains(r#""rows":2"#));
    assert_eq!(device.request().held.count, 0, "to be fetched again");
}

#[test]
fn values_are_summed_as_they_are_stored() {
    let numbers = &schema().tables[1];
    let device = Device::new();
    // A text that looks like a number, in a REAL column: SQLite stores the number.
    let sent = values(numbers, &[("id", Value::Integer(1)), ("x", Value::Text("2.5".into()))]);
    let stored = values(numbers, &[("id", Value::Integer(1)), ("x", Value::Real(2.5))]);
    let mut page = empty().rows_of(1, 1, &[sent]).with_schema().publish();
    page.0.sums = vec![PartSum { bucket: bucket("all").id, entry: 1, content: content(numbers, &[stored]) }];
    assert_eq!(device.apply(&page)["more"], false);
    let reals: Vec<_> = [0.0, -0.0, 1.0, 1e300, f64::INFINITY, 0.1]
        .iter()
        .enumerate()
        .map(|(i, r)| values(numbers, &[("id", Value::Integer(i as i64 + 2)), ("x", Value::Real(*r))]))
        .collect();
    let mut page = empty().rows_of(1, 2, &reals).publish().known();
    page.0.sums = vec![PartSum { bucket: bucket("all").id, entry: 2, content: content(numbers, &reals) }];
    assert_eq!(device.apply(&page)["more"], false);
    assert!(device.text("SELECT sync_verify()").contains(r#""different":[]"#));
}

#[test]
fn resync_compares_sums_and_keeps_what_is_equal() {
    let device = Device::with(&[row(1, "a")]);
    device.apply(&page(&[row(2, "b")]).in_bucket("second").publish());
    device.apply_message(&notice(NoticeKind::Resync, vec![]));
    let request = device.request();
    assert_eq!(request.cursor.len() + request.pass.len(), 0);
    let mut sums = request.sums.unwrap();
    sums.sort_by_key(|s| s.bucket != bucket("all").id);
    assert_eq!(sums[0].content, content(&schema().tables[0], &[row(1, "a")]));
    assert_eq!(sums.len(), 2);
    let report = device.apply_message(&notice(NoticeKind::Verified, vec![bucket("all").id]));
    assert_eq!(report["more"], true);
    let request = device.request();
    assert_eq!(request.cursor.as_ref(), b"verified");
    assert!(request.sums.is_none());
    assert_eq!(request.held.count, 1);
    device.apply(&page(&[row(2, "B")]).in_bucket("second").starting_empty().publish());
    assert_eq!(device.titles(), ["1:a", "2:B"]);
    assert_eq!(device.request().held.count, 2);
}

#[test]
fn the_list_of_buckets_goes_out_when_asked_for() {
    let device = Device::with(&[row(1, "a")]);
    assert!(device.request().held_list.is_none());
    device.apply_message(&notice(NoticeKind::NeedHeld, vec![]));
    assert_eq!(device.request().held_list.unwrap(), [bucket("all").id]);
    device.apply(&page(&[]).publish().known());
    assert!(device.request().held_list.is_none());
    assert_eq!(device.apply_message(&notice(NoticeKind::Behind, vec![]))["more"], false);
}

#[test]
fn a_table_that_stays_locked_is_not_asked_for_without_end() {
    let device = Device::with(&[row(1, "a")]);
    let retry = || device.apply_message(&notice(NoticeKind::Retry, vec![]))["more"] == true;
    for _ in 0..2 {
        assert_eq!([retry(), retry(), retry()], [true, true, false], "a round ends");
    }
    assert!(retry() && retry());
    device.apply(&page(&[]).publish().known());
    assert!(retry() && retry() && !retry(), "an answer in between counts anew");
}

#[test]
fn a_row_that_the_application_refuses_is_set_aside_and_tried_again() {
    let device = Device::with(&[row(1, "a")]);
    device.run("CREATE TRIGGER app BEFORE INSERT ON notes WHEN new.title = 'bad' BEGIN SELECT raise(ABORT, 'not here'); END");
    device.run("CREATE TRIGGER app2 BEFORE UPDATE ON notes WHEN new.title = 'bad' BEGIN SELECT raise(ABORT, 'not here'); END");
    let rows = [row(1, "bad"), row(2, "b"), row(3, "bad")];
    device.apply(&page(&rows).publish().known().sum(&rows));
    assert_eq!(device.titles(), ["1:a", "2:b"]);
    assert_eq!(device.status("set_aside"), 2);
    assert!(device.text("SELECT value FROM sync_status WHERE name = 'problem'").contains("not here"));
    assert_eq!(device.status("refetch"), 0, "what is set aside counts as the server's");
    device.run("DROP TRIGGER app; DROP TRIGGER app2");
    device.apply(&page(&[]).publish().known().sum(&rows));
    assert_eq!(device.titles(), ["1:bad", "2:b", "3:bad"]);
    assert_eq!(device.status("set_aside"), 0);
}

#[test]
fn what_triggers_do_to_synced_rows_during_a_publish_is_put_back() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    device.run("CREATE TABLE log(x)");
    device.run(
        "CREATE TRIGGER app AFTER UPDATE ON notes BEGIN UPDATE notes SET rank = 9; INSERT INTO log SELECT applying FROM sync_guard; DELETE FROM notes WHERE id = 'k2'; END",
    );
    let rows = [row(1, "A"), row(2, "b")];
    device.apply(&page(&rows[..1]).publish().known().sum(&rows));
    assert_eq!(device.titles(), ["1:A", "2:b"]);
    assert_eq!(device.number("SELECT count(*) FROM notes WHERE rank IS NOT NULL"), 0);
    assert_eq!(device.number("SELECT count(*) FROM log WHERE x > 0"), 1, "it fired, and could see that a publish was going on");
    assert!(device.push().is_empty(), "nothing of it is sent");
    assert!(device.text("SELECT value FROM sync_status WHERE name = 'problem'").contains("put back"));
    assert!(device.text("SELECT sync_verify()").contains(r#""different":[]"#));
}

#[test]
fn a_trigger_that_rolls_back_is_an_error_and_nothing_changes() {
    let device = Device::with(&[row(1, "a")]);
    device.run("CREATE TRIGGER app BEFORE UPDATE ON notes BEGIN SELECT raise(ROLLBACK, 'no'); END");
    let before = device.dump();
    let error = device.apply_bytes(&page(&[row(1, "b")]).publish().known().bytes()).unwrap_err();
    assert!(error.to_string().contains("RAISE(ABORT)"), "{error}");
    assert_eq!(device.dump(), before);
    device.run("DROP TRIGGER app; UPDATE notes SET title = 'captured again'");
    assert_eq!(device.push().len(), 1);
}

#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    let device = Device::with(&[row(1, "a")]);
    let before = device.dump();
    device.run("PRAGMA max_page_count = 1");
    let rows: Vec<_> = (0..5000).map(|n| row(n, "a long title to fill the file")).collect();
    let error = device.apply_bytes(&page(&rows).publish().known().bytes()).unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!(device.dump(), before);
    device.run("PRAGMA max_page_count = 1000000");
    device.apply(&page(&rows).publish().known());
    assert_eq!(device.number("SELECT count(*) FROM notes"), 5000);
}

#[test]
fn foreign_keys_of_the_application_do_not_block_a_publish() {
    for when in ["", "DEFERRABLE INITIALLY DEFERRED"] {
        let device = Device::with(&[row(1, "a"), row(2, "b")]);
        device.run(&format!(
            "PRAGMA foreign_keys = ON; CREATE TABLE own(note TEXT REFERENCES notes(id) {when}); INSERT INTO own VALUES ('k1')"
        ));
        device.apply(&page(&[row(2, "B")]).gone(&[1]).publish().known().sum(&[row(2, "B")]));
        assert!(device.titles().contains(&"2:B".to_owned()));
        assert_eq!(device.number("SELECT count(*) FROM sync_status WHERE name = 'problem'"), 1, "{when}");
        assert_eq!(device.number("SELECT foreign_keys FROM pragma_foreign_keys"), 1);
        device.text("SELECT sync_sign_out('wipe')");
    }
}

#[test]
fn a_reply_that_comes_late_or_twice_is_left() {
    let device = Device::with(&[]);
    let first = device.request().turn;
    let mut old = page(&[row(1, "old")]).publish();
    old.0.turn = first;
    assert_eq!(device.request().turn, first, "asking twice changes nothing");
    device.apply(&old);
    let second = device.request().turn;
    assert_ne!(second, first);
    let mut new = page(&[row(1, "new")]).publish();
    new.0.turn = second;
    device.apply(&new);
    let before = device.dump();
    for late in [&old, &new] {
        let report = device.apply(late);
        assert_eq!((report["rows"].as_i64(), report["more"].as_bool()), (Some(0), Some(true)), "{report}");
    }
    let resync = Notice { turn: first, ..notice(NoticeKind::Resync, vec![]) };
    device.apply_message(&resync);
    assert_eq!(device.dump(), before, "a late reply changed something");
    assert_eq!(device.titles(), ["1:new"]);
}

#[test]
fn a_bucket_that_comes_whole_has_no_other_parts() {
    let device = Device::new();
    device.apply(&page(&[row(1, "a")]).rows_of(0, 2, &[row(2, "b")]).with_schema().starting_empty().whole().publish());
    assert_eq!(device.titles(), ["1:a", "2:b"]);
    // The server went back, and entry 2 is one of another rule now: nothing says that it is gone.
    device.apply(&page(&[row(1, "a"), row(3, "c")]).starting_empty().whole().publish());
    assert_eq!(device.titles(), ["1:a", "3:c"]);
}

#[test]
fn a_table_that_goes_while_its_rows_are_staged_does_not_stop_the_publish() {
    let device = Device::new();
    let other = |rows: &[Vec<Value>]| page(&[]).rows_of(1, 2, rows);
    let table = &schema().tables[1];
    let key =
        table.columns.iter().map(|c| if c.affinity == Affinity::Integer { Value::Integer(1) } else { Value::Text("k".into()) });
    device.apply(&other(&[key.collect()]).with_schema().starting_empty());
    let mut last = page(&[row(1, "a")]).starting_empty().with_schema().publish();
    if let Some(schema) = &mut last.0.schema {
        schema.generation += 1;
        schema.tables.truncate(1);
    }
    last.0.gone_entries = vec![2];
    device.apply(&last);
    assert_eq!(device.titles(), ["1:a"]);
}
