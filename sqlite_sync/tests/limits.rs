//! Each limit on the device: taken at the limit, refused or put off in plain words one beyond it.

mod common;
use common::*;
use sync_shared::limits;

fn fails(device: &Device, sql: &str) -> String {
    device.db.execute_batch(sql).unwrap_err().to_string()
}

#[test]
fn columns_of_a_table() {
    let with = |count: usize| {
        let columns = (0..count).map(|i| column(&format!("c{i}"), Affinity::Text, i as u16 + 1, u16::from(i == 0))).collect();
        only(Schema { generation: 1, tables: vec![table("wide", columns)] }).bytes()
    };
    let device = Device::new();
    device.apply_bytes(&with(limits::COLUMNS)).unwrap();
    device.run("INSERT INTO wide(c0, c1599) VALUES ('k', 'x')");
    assert_eq!(device.push().len(), 1);
    let error = Device::new().apply_bytes(&with(limits::COLUMNS + 1)).unwrap_err().to_string();
    assert!(error.contains("1601 columns, at most 1600"), "{error}");
}

#[test]
fn bytes_of_a_note() {
    let device = Device::with(&[row(1, "a")]);
    let note = |bytes: usize| format!("'\"{}\"'", "x".repeat(bytes - 2));
    for say in ["SELECT sync_note(NOTE)", "INSERT INTO sync_marker(note) VALUES (NOTE)"] {
        let say = |bytes: usize| {
            format!("BEGIN; UPDATE notes SET rank = coalesce(rank, 0) + 1; {}; COMMIT", say.replace("NOTE", &note(bytes)))
        };
        device.run(&say(limits::NOTE_BYTES));
        let error = fails(&device, &say(limits::NOTE_BYTES + 1));
        assert!(error.contains("a note has at most 65536 bytes"), "{error}");
        device.run("ROLLBACK");
    }
    let batches = device.push();
    assert_eq!(batches.iter().map(|b| b.note.len()).collect::<Vec<_>>(), [limits::NOTE_BYTES; 2]);
}

#[test]
fn bytes_of_a_batch() {
    let bytes = {
        let device = Device::with(&[row(1, "a")]);
        device.run("UPDATE notes SET title = 'a title'");
        device.push();
        device.number("SELECT bytes FROM sync_pending")
    };
    for (limit, sent) in [(bytes, 1), (bytes - 1, 0)] {
        let device = Device::with(&[row(1, "a")]);
        device.run(&format!(
            "UPDATE sync_setting SET value = {limit} WHERE name = 'batch_bytes'; UPDATE notes SET title = 'a title'"
        ));
        assert_eq!(device.push().len(), sent);
        assert_eq!(device.status("rejected"), 1 - sent as i64);
        if sent == 0 {
            let say = device.text("SELECT code || ': ' || message FROM sync_rejected");
            assert!(
                say.starts_with("too_large: ") && say.contains("batch_bytes") && say.contains("smaller transactions"),
                "{say}"
            );
        }
    }
    // The setting cannot be larger than what a server takes.
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE sync_setting SET value = 1 << 40 WHERE name = 'batch_bytes'");
    device.run(&format!("UPDATE notes SET body = replace(hex(zeroblob({})), '00', 'xx')", limits::BATCH_BYTES / 2 + 1));
    device.push();
    assert!(device.text("SELECT message FROM sync_rejected").contains("the 67108864 that"));
}

#[test]
fn batches_and_bytes_of_a_push() {
    let device = Device::with(&[row(1, "a")]);
    for i in 0..=limits::BATCHES_PER_PUSH {
        device.run(&format!("UPDATE notes SET rank = {i}"));
    }
    let first = device.push();
    assert_eq!(first.len(), limits::BATCHES_PER_PUSH);
    device.answer(&first, Verdict::Accepted);
    let second = device.push();
    assert_eq!(second.len(), 1);
    device.answer(&second, Verdict::Accepted);
    // Half of what one push may have, twice and once more.
    let half = limits::PUSH_BYTES / 2 - 1000;
    for _ in 0..3 {
        device.run(&format!("INSERT INTO notes(body) VALUES (replace(hex(zeroblob({})), '00', 'ab'))", half / 2));
    }
    assert_eq!(device.push().len(), 2);
}

#[test]
fn numbers_of_a_lease_and_leases_that_are_named() {
    let device = Device::new();
    device.apply(&only(shop(true)));
    let tag = shop(true).tables[0].tag;
    let lease = |first: i64, count: u32| KeyLease { table: tag, first, step: 1, count, proof: Default::default() };
    let answer = |leases: Vec<KeyLease>| PushReply { leases, ..reply(&[], Verdict::Accepted) };
    device.run("UPDATE sync_setting SET value = 1 << 40 WHERE name = 'keys_per_table'");
    let wants = device.push_request().unwrap().wants;
    assert_eq!(wants[0].count, limits::KEYS_PER_LEASE);
    device.apply_message(&answer(vec![lease(1, limits::KEYS_PER_LEASE)]));
    assert_eq!(device.number("SELECT sum(remaining) FROM sync_lease"), i64::from(limits::KEYS_PER_LEASE));
    let more = sync_shared::envelope::encode(&answer(vec![lease(1 << 30, limits::KEYS_PER_LEASE + 1)])).unwrap();
    assert!(device.apply_bytes(&more).unwrap_err().to_string().contains("a lease of 100001 numbers"));
    // A server that went back is told of them, so many at a time.
    let many = (0..limits::HELD_LEASES as i64).map(|i| lease((1 << 20) + i * 10, 10)).collect();
    device.apply_message(&answer(many));
    device.apply_message(&notice(NoticeKind::Resync, vec![]));
    assert_eq!(device.push_request().unwrap().held.len(), limits::HELD_LEASES);
    device.apply_message(&reply(&[], Verdict::Accepted));
    assert_eq!(device.push_request().unwrap().held.len(), 1);
}

#[test]
fn bytes_of_a_page() {
    let device = Device::with(&[]);
    for (value, asked) in
        [("4194304", limits::PAGE_BYTES), ("4194305", limits::PAGE_BYTES), ("1 << 40", limits::PAGE_BYTES), ("-1", 1 << 20)]
    {
        device.run(&format!("UPDATE sync_setting SET value = {value} WHERE name = 'page_bytes'"));
        assert_eq!(device.request().page_bytes, asked, "{value}");
    }
}

#[test]
fn indexes_of_a_table() {
    for (count, works) in [(64, true), (65, false)] {
        let mut schema = schema();
        schema.tables[0].indexes = vec![vec![0]; count];
        assert_eq!(Device::new().apply_bytes(&only(schema).bytes()).is_ok(), works);
    }
}

#[test]
#[ignore = "it takes two minutes to write 17 million values: run it with --ignored"]
fn values_of_a_batch() {
    // A value is a byte here, the name of its column five: fewer bytes than a batch may have.
    let columns =
        (0..limits::COLUMNS).map(|i| column(&format!("c{i}"), Affinity::Integer, i as u16 + 1, u16::from(i == 0))).collect();
    let device = Device::new();
    device.apply(&only(Schema { generation: 1, tables: vec![table("wide", columns)] }));
    let rows = limits::BATCH_VALUES / (2 * limits::COLUMNS);
    let ones = vec!["1"; limits::COLUMNS - 1].join(", ");
    let insert = |rows: usize, from: usize| {
        let rows = format!("WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {})", from + rows - 1);
        device.run(&format!("{rows} INSERT INTO wide SELECT i, {ones} FROM n"));
        device.push().len()
    };
    assert_eq!(insert(rows + 20, 100_000), 0);
    let say = device.text("SELECT code || ': ' || message FROM sync_rejected");
    assert!(say.starts_with("too_large: ") && say.contains("16777216") && say.contains("smaller transactions"), "{say}");
    assert_eq!(insert(100, 1), 1, "the next one is sent");
}
