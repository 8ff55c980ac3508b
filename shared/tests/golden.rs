//! The wire in bytes: what another implementation has to produce and understand. `docs/protocol.md` explains the fields.
//!
//! Each file in `golden/` holds one message in hexadecimal. A change of these bytes is a change of the wire version. After a
//! deliberate one, `UPDATE_GOLDEN=1 cargo test -p sync-shared --test golden` writes them anew.

use serde_bytes::{ByteArray, ByteBuf};
use std::path::PathBuf;
use sync_shared::envelope::{decode, encode, Message};
use sync_shared::hash::{self, BucketId, ContentSum, SetDigest};
use sync_shared::message::*;
use sync_shared::ranges::RangeSums;
use sync_shared::{row, signed, Value};
use uuid::Uuid;

/// Compares bytes with a file of hexadecimal digits, and answers what is in it.
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, format!("{hex}\n")).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap();
    assert_eq!(golden.trim(), hex, "{name}: the bytes on the wire have changed");
    (0..golden.trim().len() / 2).map(|i| u8::from_str_radix(&golden[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn check<M: Message + PartialEq + std::fmt::Debug>(name: &str, message: &M) {
    let bytes = golden(name, &encode(message).unwrap());
    assert_eq!(&decode::<M>(&bytes).unwrap(), message, "{name}: the bytes are read as something else");
}

fn device() -> Uuid {
    Uuid::from_bytes(*b"device-device-01")
}

fn batch_id() -> BatchId {
    BatchId { number: 7, random: ByteArray::new(*b"random--random--") }
}

/// Four ranges; the row is in the one of its key's place.
fn ranges() -> RangeSums {
    let mut ranges = RangeSums::new(2);
    ranges.add(&row::encode(&[Value::Integer(42)]), hash::RowHash(-9));
    ranges
}

#[test]
fn pull_requests() {
    let first = PullRequest {
        device: device(),
        cursor: ByteBuf::new(),
        pass: ByteBuf::new(),
        schema: 0,
        held: SetDigest::default(),
        held_list: None,
        sums: None,
        subscriptions: vec![],
        page_bytes: 1 << 20,
        turn: 0,
        ranges: vec![],
        completes: false,
    };
    check("pull_request_first", &first);
    let bucket = hash::bucket_id("list", &row::encode(&[Value::Integer(42)]));
    let later = PullRequest {
        cursor: ByteBuf::from(vec![1, 2, 3]),
        pass: ByteBuf::from(vec![4]),
        schema: 3,
        held: SetDigest::of([&bucket]),
        held_list: Some(vec![bucket]),
        sums: Some(vec![PartSum { bucket, entry: 5, content: ContentSum { sum: -9, count: 2 } }]),
        subscriptions: vec![Subscription { rule: "near".into(), params: vec![("place".into(), "Bern".into())] }],
        turn: -77,
        ranges: vec![PartRanges { bucket, entry: 5, sums: ranges() }],
        completes: true,
        ..first
    };
    check("pull_request_later", &later);
}

#[test]
fn deltas() {
    let bucket = hash::bucket_id("list", &row::encode(&[Value::Integer(42)]));
    let column = |name: &str, affinity, key| Column {
        name: name.into(),
        tag: hash::tag(name),
        affinity,
        pg_type: "text".into(),
        key,
        position: 1,
        not_null: true,
        generated: false,
        default: ColumnDefault::Literal,
        literal: Value::Text("x".into()),
    };
    let schema = Schema {
        generation: 3,
        tables: vec![Table {
            name: "t".into(),
            tag: hash::tag("public.t"),
            columns: vec![column("id", Affinity::Integer, 1)],
            indexes: vec![vec![0]],
            mode: TableMode::InsertOnly,
            references: vec![Reference { columns: vec![0], table: hash::tag("public.other") }],
            key_from_sequence: true,
            encrypted: vec![],
        }],
    };
    let values = [Value::Integer(1), Value::Null, Value::Real(0.5), Value::Text("é".into()), Value::Blob(vec![0, 255])];
    let delta = Delta {
        cursor: ByteBuf::from(vec![9]),
        pass: ByteBuf::new(),
        publish: Some(255),
        complete: true,
        more: false,
        user: "ann".into(),
        server_time: 1_700_000_000_000_000,
        schema: None,
        buckets: vec![Bucket { id: bucket, rule: "list".into(), key: vec![Value::Integer(42)], priority: 1 }],
        gone_buckets: vec![BucketId([3; 16])],
        gone_entries: vec![4],
        changes: vec![PartChanges {
            bucket: 0,
            entry: 5,
            table: hash::tag("public.t"),
            from_empty: true,
            row_count: 1,
            rows: ByteBuf::from(row::encode(&values)),
            gone_count: 1,
            gone: ByteBuf::from(row::encode(&values[..1])),
            ranges: Some(ranges().differing(&RangeSums::new(2)).0),
            columns: None,
        }],
        whole: vec![0],
        sums: vec![PartSum { bucket, entry: 5, content: ContentSum { sum: i64::MIN, count: 1 } }],
        last_batch: Some(batch_id()),
        expected_rows: Some(1),
        turn: -77,
    };
    check("delta", &delta);
    let short = PartChanges {
        rows: ByteBuf::from(row::encode(&[values[0].clone(), values[3].clone()])),
        columns: Some(vec![0, 3]),
        from_empty: false,
        ranges: None,
        ..delta.changes[0].clone()
    };
    check("delta_with_short_rows", &Delta { changes: vec![short], ..delta.clone() });
    let empty = Delta {
        buckets: vec![],
        gone_buckets: vec![],
        gone_entries: vec![],
        changes: vec![],
        whole: vec![],
        sums: vec![],
        last_batch: None,
        expected_rows: None,
        schema: Some(schema),
        ..delta
    };
    check("delta_with_schema", &empty);
}

#[test]
fn notices() {
    let kinds = [NoticeKind::NeedHeld, NoticeKind::Resync, NoticeKind::Verified, NoticeKind::Behind, NoticeKind::Retry];
    for kind in kinds {
        let notice =
            Notice { kind, message: "why".into(), cursor: ByteBuf::from(vec![1]), keep: vec![BucketId([2; 16])], turn: -77 };
        check(&format!("notice_{}", u8::from(kind)), &notice);
    }
}

fn lease(first: i64) -> KeyLease {
    KeyLease { table: hash::tag("public.t"), first, step: 1, count: 100, proof: ByteArray::new([9; 16]) }
}

#[test]
fn pushes() {
    let change = |kind, columns: Vec<u32>, old: Vec<Value>, new: Vec<Value>| Change {
        table: hash::tag("public.t"),
        kind,
        key: vec![Value::Integer(1)],
        columns,
        old,
        new,
        rest: None,
        below: vec![],
    };
    let (old, new) = (Value::Text("old".into()), Value::Text("new".into()));
    let changes = vec![
        change(ChangeKind::Insert, vec![1, 2], vec![], vec![Value::Integer(1), new.clone()]),
        Change {
            rest: Some(vec![(3, Value::Integer(3))]),
            below: vec![(2, Value::Null)],
            ..change(ChangeKind::Update, vec![2], vec![old.clone()], vec![new.clone()])
        },
        change(ChangeKind::Delete, vec![1, 2], vec![Value::Integer(1), old.clone()], vec![]),
    ];
    let batch =
        Batch { id: batch_id(), edited: 1_700_000_000_000_000, user: "ann".into(), changes, note: "{}".into(), whole: true };
    check(
        "push_request",
        &PushRequest {
            device: device(),
            batches: vec![batch],
            wants: vec![KeyWant { table: hash::tag("public.t"), count: 100 }],
            held: vec![lease(1)],
            differ: Some(Differ {
                parts: vec![PartSum { bucket: BucketId([7; 16]), entry: 5, content: ContentSum { sum: -9, count: 2 } }],
                subscriptions: vec![Subscription { rule: "near".into(), params: vec![("place".into(), "Bern".into())] }],
            }),
        },
    );
    let conflict = Conflict {
        table: hash::tag("public.t"),
        key: vec![Value::Integer(1)],
        column: Some(2),
        base: old,
        theirs: Value::Null,
        mine: new.clone(),
        result: new,
        reason: "later".into(),
        policy: "merge".into(),
    };
    let result = BatchResult {
        id: batch_id(),
        verdict: Verdict::Merged,
        code: "".into(),
        message: "m".into(),
        subject: "s".into(),
        conflicts: vec![conflict],
        whole: vec![1],
    };
    let reply = PushReply {
        state: PushState::Taken,
        message: "".into(),
        last: Some(batch_id()),
        user: "ann".into(),
        results: vec![result],
        leases: vec![lease(101)],
    };
    check("push_reply", &reply);
}

#[test]
fn hashes_tags_and_ids() {
    // Computed with Python's hashlib from the definitions in docs/protocol.md.
    assert_eq!(hash::tag("public.messages"), 4150128702);
    let values = [Value::Integer(1), Value::Null, Value::Real(0.5), Value::Text("é".into()), Value::Blob(vec![0, 255])];
    let hash = hash::row_hash_of(0x0102_0304, &[1, 2, 3, 4, 5], values.iter().map(Value::as_ref), &mut Vec::new());
    assert_eq!(hash.0, -1939158557433562366);
    let bucket = hash::bucket_id("list", &row::encode(&[Value::Integer(42)]));
    assert_eq!(Uuid::from_bytes(bucket.0).to_string(), "e27e7e5e-4175-5a72-d36a-e60369d1e82c");
}

#[test]
fn signed_answers() {
    let asked = signed::asked(b"a request");
    let message = encode(&PushReply {
        state: PushState::Taken,
        message: String::new(),
        last: None,
        user: "ann".into(),
        results: vec![],
        leases: vec![],
    })
    .unwrap();
    golden("signed_bytes", &signed::signed_bytes(&asked, &message));
    let signatures = [([1; 32], [2; 64]), ([3; 32], [4; 64])];
    let bytes = golden("signed_answer", &signed::join(&asked, &signatures, &message));
    let found = signed::split(&bytes).unwrap().unwrap();
    assert_eq!((found.asked, &found.signatures[..], found.message), (asked, &signatures[..], &message[..]));
}
