//! Bytes that are wrong in any way are refused with a sentence, and change nothing.

mod common;
use common::*;
use proptest::prelude::*;
use serde_bytes::ByteBuf;
use sync_shared::envelope;

fn refused(device: &Device, bytes: &[u8]) -> String {
    let before = device.dump();
    let error = device.apply_bytes(bytes).unwrap_err().to_string();
    assert_eq!(device.dump(), before, "{error}");
    error
}

#[test]
fn pages_that_contradict_themselves() {
    let device = Device::with(&[row(1, "a")]);
    let good = page(&[row(1, "b")]).publish();
    type Change = fn(&mut Delta);
    let wrong: [(&str, Change); 8] = [
        ("table tag", |d| d.changes[0].table = 1),
        ("bucket 5", |d| d.changes[0].bucket = 5),
        ("bucket 9", |d| d.whole.push(9)),
        ("do not fit", |d| d.changes[0].row_count = 0),
        ("cut short", |d| d.changes[0].row_count = u32::MAX),
        ("cut short", |d| d.changes[0].gone_count = 1),
        ("is not a value", |d| d.changes[0].rows = ByteBuf::from(vec![0xc1; 4])),
        ("a key", |d| d.changes[0].rows = ByteBuf::from(vec![0xc0; 4])),
    ];
    for (say, change) in wrong {
        let mut delta = good.0.clone();
        change(&mut delta);
        let error = refused(&device, &envelope::encode(&delta).unwrap());
        assert!(error.contains(say), "{error}");
    }
    device.apply(&good);
}

/// A device with a table of the application's, which every message must leave alone.
fn with_own() -> Device {
    let device = Device::with(&[row(1, "a")]);
    device.run("CREATE TABLE own(id INTEGER PRIMARY KEY, x TEXT); INSERT INTO own VALUES (1, 'mine')");
    device.run("CREATE VIEW seen AS SELECT * FROM own; CREATE INDEX own_x ON own(x); CREATE TEMP TABLE passing(x)");
    device
}

fn with_schema(change: impl FnOnce(&mut Schema)) -> Vec<u8> {
    let mut schema = schema();
    schema.generation = 2;
    change(&mut schema);
    only(schema).bytes()
}

#[test]
fn tables_of_the_application_are_not_the_servers() {
    for (name, say) in [
        ("own", "already has one"),
        ("OWN", "already has one"),
        ("seen", "already has one"),
        ("own_x", "already has one"),
        ("sqlite_schema", "reserved"),
        ("SQLITE_stat1", "reserved"),
        ("sync_meta", "reserved"),
        ("Sync_Guard", "reserved"),
        ("sync_index_1_0", "reserved"),
        ("", "reserved"),
        ("nul\0l", "reserved"),
    ] {
        let device = with_own();
        // A new table, and one that the device has under another name.
        let error = refused(&device, &with_schema(|s| s.tables.push(table(name, vec![column("id", Affinity::Text, 1, 1)]))));
        assert!(error.contains(say), "{name:?}: {error}");
        let error = refused(&device, &with_schema(|s| s.tables[0].name = name.into()));
        assert!(error.contains(say), "{name:?}: {error}");
    }
    // One of the connection's own does not count.
    with_own().apply_bytes(&with_schema(|s| s.tables[0].name = "passing".into())).unwrap();
}

#[test]
fn a_schema_that_cannot_be() {
    type Change = fn(&mut Schema);
    let wrong: [(&str, Change); 13] = [
        ("1601 columns", |s| s.tables[0].columns = (0..=1600).map(|i| column(&format!("c{i}"), Affinity::Text, 1, 0)).collect()),
        ("0 columns", |s| s.tables[0].columns.clear()),
        ("order of their tags", |s| s.tables[0].columns.reverse()),
        ("order of their tags", |s| s.tables[0].columns = vec![s.tables[0].columns[0].clone(); 2]),
        ("no name or one that is taken", |s| s.tables[0].columns[0].name = "TITLE".into()),
        ("no name or one that is taken", |s| s.tables[0].columns[0].name = "a\0".into()),
        ("key", |s| s.tables[0].columns.iter_mut().for_each(|c| c.key = 0)),
        ("key", |s| s.tables[0].columns.iter_mut().for_each(|c| c.key = u16::MAX)),
        ("an index", |s| s.tables[0].indexes = vec![vec![4]]),
        ("an index", |s| s.tables[0].indexes = vec![vec![0]; 65]),
        ("an index", |s| s.tables[0].indexes = vec![vec![]]),
        ("a reference", |s| s.tables[0].references = vec![Reference { columns: vec![9], table: 1 }]),
        ("twice", |s| s.tables.push(s.tables[0].clone())),
    ];
    let device = with_own();
    for (say, change) in wrong {
        let error = refused(&device, &with_schema(change));
        assert!(error.contains(say), "{say}: {error}");
    }
}

#[test]
fn names_and_defaults_are_never_run() {
    let evil = "x'); DELETE FROM own; DROP TABLE own; --\"";
    let device = with_own();
    device
        .apply_bytes(&with_schema(|s| {
            let table = &mut s.tables[1];
            table.name = evil.into();
            table.indexes = vec![vec![0], vec![1, 0]];
            for (at, column) in table.columns.iter_mut().enumerate() {
                column.name = format!("{at} {evil}");
                column.pg_type = evil.into();
                column.default = if column.key > 0 { ColumnDefault::Uuid } else { ColumnDefault::Literal };
                column.literal = Value::Text(evil.into());
            }
        }))
        .unwrap();
    for default in [ColumnDefault::Now, ColumnDefault::Literal] {
        for literal in [Value::Real(f64::INFINITY), Value::Integer(i64::MIN), Value::Blob(evil.into()), Value::Text("a\0".into())]
        {
            let mut changed = schema();
            changed.tables[0].columns.iter_mut().filter(|c| c.key == 0).for_each(|c| {
                c.default = default;
                c.literal = literal.clone();
                c.pg_type = evil.into();
            });
            Device::new().apply_bytes(&only(changed).bytes()).unwrap();
        }
    }
    device.run("INSERT INTO notes(id) VALUES ('new')");
    assert_eq!(device.text("SELECT group_concat(id || x) FROM seen"), "1mine");
}

#[test]
fn values_that_lie_about_their_type() {
    let all =
        [Value::Null, Value::Integer(i64::MIN), Value::Real(f64::NAN), Value::Text("\0".into()), Value::Blob(vec![0xff; 9])];
    for value in &all {
        let device = with_own();
        for (name, info, at) in [("notes", 0, "title"), ("notes", 0, "rank"), ("numbers", 1, "x")] {
            let table = &schema().tables[info];
            let key = if info == 0 { Value::Text("k7".into()) } else { Value::Integer(7) };
            let bytes = empty().rows_of(info, 5, &[values(table, &[("id", key), (at, value.clone())])]).publish().known().bytes();
            device.apply_bytes(&bytes).unwrap();
            assert_eq!(device.number(&format!("SELECT count(*) FROM {name} WHERE id IN ('k7', 7)")), 1);
            // A key that its column cannot hold names no row.
            if matches!(value, Value::Null | Value::Real(_))
                || (info == 1 && !matches!(value, Value::Integer(_) | Value::Blob(_)))
            {
                let bytes = empty().rows_of(info, 5, &[values(table, &[("id", value.clone())])]).publish().bytes();
                assert!(refused(&device, &bytes).contains("a key"));
            }
        }
        assert_eq!(device.text("PRAGMA integrity_check"), "ok");
    }
}

#[test]
fn counts_that_are_absurd() {
    type Change = fn(&mut Delta);
    let wrong: [Change; 6] = [
        |d| d.changes[0].row_count = u32::MAX,
        |d| d.changes[0].gone_count = u32::MAX,
        |d| d.whole = vec![u32::MAX],
        |d| d.changes[0].bucket = u32::MAX,
        |d| d.changes[0].table = u32::MAX,
        |d| (d.changes[0].entry, d.changes[0].row_count) = (i32::MIN, 0),
    ];
    let device = with_own();
    for change in wrong {
        let mut delta = page(&[row(1, "b")]).publish().0;
        change(&mut delta);
        refused(&device, &envelope::encode(&delta).unwrap());
    }
    // Numbers that nothing is counted by.
    let mut delta = page(&[row(1, "b")]).publish().0;
    (delta.expected_rows, delta.server_time, delta.publish) = (Some(u64::MAX), i64::MIN, Some(u8::MAX));
    delta.sums = vec![PartSum { bucket: bucket("all").id, entry: i32::MAX, content: Default::default() }];
    device.apply_bytes(&envelope::encode(&delta).unwrap()).unwrap();
    for (first, step, count) in [(1, 0, 1), (i64::MAX, 1, 2), (1, 1, 0), (1, i64::MAX, 3), (1, 1, 100_001)] {
        let lease = KeyLease { table: schema().tables[1].tag, first, step, count, proof: Default::default() };
        let answer = PushReply { leases: vec![lease], ..reply(&[], Verdict::Accepted) };
        assert!(refused(&device, &envelope::encode(&answer).unwrap()).contains("a lease"));
    }
    assert_eq!(device.text("SELECT group_concat(id || x) FROM seen"), "1mine");
}

#[test]
fn answers_about_batches_that_nobody_sent() {
    let device = with_own();
    device.run("UPDATE notes SET title = 'x'");
    let batch = &device.push()[0];
    let mut answer = reply(&[Batch { id: BatchId { number: i64::MAX, random: random(9) }, ..batch.clone() }], Verdict::Rejected);
    answer.results[0].whole = vec![u32::MAX];
    for state in [PushState::Taken, PushState::Gap, PushState::Fork, PushState::Refused, PushState::NotNow] {
        answer.state = state;
        device.apply_message(&answer);
        assert_eq!((device.titles(), device.status("rejected")), (vec!["1:x".into()], 0), "{state:?}");
    }
    device.request();
    assert_eq!(device.push().len(), 1, "it is still to be sent");
}

#[test]
fn an_order_to_wipe_that_answers_no_question_is_not_carried_out() {
    let device = with_own();
    device.request();
    device.apply_message(&notice(NoticeKind::Wipe, vec![]));
    device.apply_message(&Notice { turn: 1, ..notice(NoticeKind::Wipe, vec![]) });
    assert_eq!(device.titles(), ["1:a"]);
}

/// A message with this body, whatever it is.
fn with_body(kind: u8, codec: u8, declared: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = [b"SY\x01".as_slice(), &[kind, codec], &declared.to_be_bytes(), &[0; 4], body].concat();
    envelope::seal(&mut bytes);
    bytes
}

#[test]
fn nesting_and_bombs_on_a_small_stack() {
    // As little as a thread of an application may have.
    let small = std::thread::Builder::new().stack_size(2 << 20).spawn(|| {
        let device = with_own();
        for kind in 3..=5 {
            for marker in [0x91, 0x81, 0xc7, 0xdc] {
                refused(&device, &with_body(kind, 0, 1_000_000, &vec![marker; 1_000_000]));
            }
            // Endless arrays that are not there.
            for head in [[0xdd, 0xff, 0xff, 0xff, 0xff], [0xdf, 0xff, 0xff, 0xff, 0xff], [0xc6, 0xff, 0xff, 0xff, 0xff]] {
                refused(&device, &with_body(kind, 0, 5, &head));
            }
            // 64 MiB of zeros in 2 KiB: more than it may claim; and claimed to be less than it is.
            let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
            assert!(refused(&device, &with_body(kind, 1, 64 << 20, &bomb)).contains("the limit is"));
            assert!(refused(&device, &with_body(kind, 1, 1 << 20, &bomb)).contains("not the declared one"));
        }
    });
    small.unwrap().join().unwrap();
}

#[test]
fn messages_of_the_wrong_kind_and_no_messages() {
    let device = Device::with(&[row(1, "a")]);
    let request = envelope::encode(&device.request()).unwrap();
    assert!(refused(&device, &request).contains("pull request"));
    for bytes in [&b""[..], b"SY", b"hello world, this is not one", &[0; 100]] {
        refused(&device, bytes);
    }
    for sql in [
        "SELECT apply_delta(NULL)",
        "SELECT apply_delta(1)",
        "SELECT apply_delta('SY')",
        "SELECT sync_sign_out('x')",
        "SELECT sync_subscribe('a', '[]')",
    ] {
        assert!(device.db.query_row(sql, [], |r| r.get::<_, Option<String>>(0)).is_err(), "{sql}");
    }
}

#[test]
fn on_an_empty_database() {
    let device = Device::new();
    assert!(device.push_request().is_none());
    assert!(device.db.query_row("SELECT sync_verify()", [], |r| r.get::<_, String>(0)).is_err());
    refused(&device, &page(&[row(1, "a")]).publish().bytes());
    assert_eq!(device.number("SELECT count(*) FROM sqlite_schema"), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn changed_and_cut_messages_never_crash(changes in prop::collection::vec((any::<u16>(), any::<u8>()), 1..6), cut in any::<u16>()) {
        let device = Device::with(&[row(1, "a")]);
        for message in [page(&[row(1, "b"), row(2, "c")]).with_schema().publish().bytes(), envelope::encode(&notice(NoticeKind::Verified, vec![bucket("all").id])).unwrap(), envelope::encode(&reply(&[], Verdict::Accepted)).unwrap()] {
            let mut bytes = message.clone();
            for (at, value) in &changes {
                let at = 9 + usize::from(*at) % (bytes.len() - 9);
                bytes[at] = *value;
            }
            let before = device.dump();
            if device.apply_bytes(&bytes).is_err() {
                prop_assert_eq!(device.dump(), before);
            }
            refused(&device, &message[..usize::from(cut) % message.len()]);
        }
        prop_assert!(device.db.query_row("PRAGMA integrity_check", [], |r| r.get::<_, String>(0)).unwrap() == "ok");
    }
}
