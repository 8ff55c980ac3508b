//! Rows that go without anybody's write are kept in `sync_lost`, with the reason, until they are given back, discarded, or expire.

mod common;
use common::*;
use serde_json::json;

/// Writes past the capture triggers, as something other than an application would.
fn behind_the_back(device: &Device, sql: &str) {
    device.run(&format!("UPDATE sync_guard SET applying = 1; {sql}; UPDATE sync_guard SET applying = 0"));
}

/// The server went back in time, and has only these rows now.
fn restored(device: &Device, now: &[Vec<Value>]) {
    device.apply_message(&notice(NoticeKind::Restored, vec![]));
    device.apply(&page(now).starting_empty().publish());
}

fn restore(device: &Device) -> Result<serde_json::Value, String> {
    let answer = device.db.query_row("SELECT sync_restore_lost(max(id)) FROM sync_lost", [], |r| r.get::<_, String>(0));
    answer.map(|text| serde_json::from_str(&text).unwrap()).map_err(|e| e.to_string())
}

fn strays(device: &Device) -> i64 {
    let report: serde_json::Value = serde_json::from_str(&device.text("SELECT sync_verify()")).unwrap();
    report["strays"].as_i64().unwrap()
}

/// A table of each kind of key, in one schema.
fn keys() -> Schema {
    let files = table("files", vec![column("id", Affinity::Blob, 1, 1), column("body", Affinity::Text, 2, 0)]);
    let mut schema = schema();
    schema.tables.push(files);
    schema
}

#[test]
fn a_row_in_no_bucket_is_kept_before_verify_removes_it() {
    for (insert, key, back) in [
        ("INSERT INTO notes(id, title, rank) VALUES ('k7', 'nobody''s', 3)", json!(["k7"]), "SELECT title || rank FROM notes"),
        ("INSERT INTO numbers VALUES (5, 'nobody''s')", json!([5]), "SELECT x || 3 FROM numbers"),
        ("INSERT INTO pairs VALUES ('a', 2, 'nobody''s')", json!(["a", 2]), "SELECT note || 3 FROM pairs WHERE b = 2"),
        (
            "INSERT INTO files VALUES (x'00ff', 'nobody''s')",
            json!([{"hex": "00ff"}]),
            "SELECT body || 3 FROM files WHERE id = x'00ff'",
        ),
    ] {
        let device = Device::new();
        device.apply(&only(keys()));
        behind_the_back(&device, insert);
        assert_eq!(strays(&device), 1, "{insert}");
        assert_eq!(device.number(&back.replacen("SELECT", "SELECT count(*),", 1)), 0, "{insert}");
        assert_eq!(device.text("SELECT key FROM sync_lost"), key.to_string());
        let reason = device.text("SELECT reason FROM sync_lost WHERE server IS NULL");
        assert!(reason.contains("in no bucket"), "{reason}");
        assert_eq!(device.status("lost"), 1);
        assert_eq!(restore(&device).unwrap()["outcome"], "written");
        assert_eq!(device.text(back), "nobody's3");
        assert_eq!(device.push()[0].changes.len(), 1, "it is a write like any now");
        assert_eq!((strays(&device), device.status("lost")), (0, 0), "an unsent write explains it");
    }
}

#[test]
fn a_row_whose_bucket_was_forgotten_is_kept_until_the_server_sends_it_again() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    device.run("DELETE FROM sync_row WHERE key = 'k1'");
    assert_eq!(strays(&device), 1);
    assert_eq!((device.titles(), device.status("lost")), (vec!["2:b".to_string()], 1));
    device.apply(&page(&[row(1, "a"), row(2, "b")]).starting_empty().publish());
    assert_eq!((device.titles(), device.status("lost")), (vec!["1:a".to_string(), "2:b".into()], 0));
}

#[test]
fn many_rows_in_no_bucket_are_each_kept_once() {
    let device = Device::with(&[row(1, "a")]);
    let many = "INSERT INTO pairs WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) SELECT 'p' || (i % 2), i, 'x' FROM n";
    behind_the_back(&device, many);
    assert_eq!(strays(&device), 40);
    behind_the_back(&device, many);
    assert_eq!(strays(&device), 40);
    assert_eq!(device.number("SELECT count(*) * 1000 + count(DISTINCT key) FROM sync_lost"), 40_040);
    assert_eq!(device.titles(), ["1:a"]);
}

#[test]
fn lost_rows_say_what_the_server_has_instead() {
    let device = Device::with(&[row(1, "a"), row(2, "b"), row(3, "c")]);
    restored(&device, &[row(1, "older"), row(3, "c")]);
    let said = |key: &str| {
        let sql =
            format!("SELECT coalesce(server ->> 'title', 'nothing') || ': ' || reason FROM sync_lost WHERE key = '[\"{key}\"]'");
        device.text(&sql)
    };
    assert_eq!(said("k1"), "older: the server went back in time and has another version of this row");
    assert_eq!(said("k2"), "nothing: the server went back in time and has lost this row");
    assert_eq!(device.status("lost"), 2);
}

#[test]
fn lost_rows_with_composite_keys_are_told_apart_and_given_back() {
    let device = Device::new();
    let pairs = &schema().tables[2];
    let pair = |b: i64, note: &str| {
        values(pairs, &[("a", Value::Text("x".into())), ("b", Value::Integer(b)), ("note", Value::Text(note.into()))])
    };
    device.apply(&empty().rows_of(2, 3, &[pair(1, "one"), pair(2, "two"), pair(3, "three")]).with_schema().publish());
    device.apply_message(&notice(NoticeKind::Restored, vec![]));
    device.apply(&empty().rows_of(2, 3, &[pair(1, "one"), pair(2, "older")]).starting_empty().publish());
    assert_eq!(device.text("SELECT group_concat(key || (row ->> 'note')) FROM sync_lost"), r#"["x",2]two,["x",3]three"#);
    let outcomes: Vec<_> = (0..2).map(|_| restore(&device).unwrap()["outcome"].as_str().unwrap().to_owned()).collect();
    assert_eq!(outcomes, ["written", "changed"]);
    assert_eq!(device.text("SELECT group_concat(b || note) FROM pairs"), "1one,2two,3three");
    assert_eq!(kinds(&device.push()), ["insert x+3 (a, b, note)", "update x+2 (note)"]);
}

#[test]
fn lost_rows_expire_with_the_records() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    restored(&device, &[]);
    device.run("UPDATE sync_lost_row SET at = at - 89 * 86400000000 WHERE key = '[\"k1\"]'");
    device.apply(&page(&[]).publish().known());
    assert_eq!(device.status("lost"), 2);
    device.run("UPDATE sync_lost_row SET at = at - 2 * 86400000000 WHERE key = '[\"k1\"]'");
    device.apply(&page(&[]).publish().known());
    assert_eq!(device.text("SELECT group_concat(key) FROM sync_lost"), r#"["k2"]"#);
    device.run(
        "UPDATE sync_setting SET value = 1 WHERE name = 'keep_records_days'; UPDATE sync_lost_row SET at = at - 2 * 86400000000",
    );
    device.apply(&page(&[]).publish().known());
    assert_eq!(device.status("lost"), 0);
}

#[test]
fn another_user_never_sees_what_the_first_one_lost() {
    for message in [page(&[]).publish().user("bob"), page(&[]).user("bob")] {
        let device = Device::with(&[row(1, "a"), row(2, "b")]);
        restored(&device, &[row(2, "b")]);
        behind_the_back(&device, "INSERT INTO notes(id, title) VALUES ('k9', 'nobody''s')");
        strays(&device);
        assert_eq!(device.status("lost"), 2);
        device.text("SELECT sync_sign_out('keep')");
        device.apply(&message);
        assert_eq!(device.number("SELECT count(*) FROM sync_lost") + device.status("lost"), 0);
        let refused = device.db.query_row("SELECT sync_restore_lost(id) FROM sync_lost_row", [], |r| r.get::<_, String>(0));
        assert!(refused.unwrap_err().to_string().contains("there is no lost row"));
        device.apply(&page(&[]).user("anna"));
        assert_eq!(device.status("lost"), 2, "they wait for whose they are");
    }
}

#[test]
fn an_answer_to_a_push_of_another_user_hides_the_lost_rows_too() {
    let device = Device::with(&[row(1, "a")]);
    restored(&device, &[]);
    device.text("SELECT sync_sign_out('keep')");
    device.apply_message(&PushReply { user: "bob".into(), ..state_reply(PushState::Taken, None) });
    assert_eq!(device.number("SELECT count(*) FROM sync_lost"), 0);
}

#[test]
fn the_same_user_finds_lost_rows_after_signing_in_again() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    restored(&device, &[row(2, "b")]);
    device.text("SELECT sync_sign_out('keep')");
    assert_eq!(device.status("lost"), 0, "nobody is signed in");
    device.apply(&page(&[row(2, "b")]).starting_empty().publish());
    assert_eq!(device.status("lost"), 1);
    restore(&device).unwrap();
    assert_eq!(device.titles(), ["1:a", "2:b"]);
}

#[test]
fn signing_out_with_wipe_leaves_no_lost_row_in_the_file() {
    let device = Device::with(&[row(1, "a-very-rare-word"), row(2, "b")]);
    restored(&device, &[row(2, "b")]);
    behind_the_back(&device, "INSERT INTO notes(id, title) VALUES ('k9', 'another-rare-word')");
    strays(&device);
    device.text("SELECT sync_sign_out('wipe')");
    assert_eq!(device.number("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'sync%' OR name = 'notes'"), 0);
    for end in ["", "-wal"] {
        let bytes = std::fs::read(format!("{}{end}", device.path.display())).unwrap_or_default();
        for word in ["a-very-rare-word", "another-rare-word"] {
            assert!(!bytes.windows(word.len()).any(|w| w == word.as_bytes()), "{word} is in the file{end}");
        }
    }
}

#[test]
fn a_lost_row_is_given_back_without_a_column_that_went_meanwhile() {
    let device = Device::new();
    let full = values(
        &schema().tables[0],
        &[("id", Value::Text("k1".into())), ("title", Value::Text("a".into())), ("body", Value::Text("b".into()))],
    );
    device.apply(&page(&[full]).with_schema().publish());
    restored(&device, &[]);
    let mut schema = schema();
    schema.generation = 2;
    schema.tables[0].columns.retain(|c| c.name != "body");
    device.apply(&only(schema).known());
    assert_eq!(device.text("SELECT row ->> 'body' FROM sync_lost"), "b", "the record still says it");
    assert_eq!(restore(&device).unwrap()["outcome"], "written");
    assert_eq!((device.titles(), device.status("lost")), (vec!["1:a".to_string()], 0));
    assert_eq!(device.push()[0].changes[0].new.len(), 2);
}

#[test]
fn a_lost_row_of_a_table_that_is_no_longer_synced_can_only_be_discarded() {
    let device = Device::with(&[row(1, "a")]);
    restored(&device, &[]);
    device.apply(&only(Schema { generation: 2, tables: schema().tables[1..].to_vec() }).known());
    assert!(restore(&device).unwrap_err().contains("no longer synced: discard it"));
    device.run("SELECT sync_discard_lost(id) FROM sync_lost");
    assert_eq!(device.status("lost"), 0);
}
