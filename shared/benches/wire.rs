//! Times of what every message, row and bucket goes through: `./dev bench shared`.
//!
//! Rows are those of `./dev bench`: six columns, 117 bytes of values, ascending keys. Where a change is to be judged, `./dev bench instructions`
//! counts the same work to a percent; this says what it takes by the clock, with SHA instructions where the processor has them.

use criterion::{criterion_group, criterion_main, BatchSize, Criterion, Throughput};
use serde_bytes::ByteBuf;
use std::hint::black_box;
use sync_shared::hash::{bucket_id, tag, ContentSum, Tag};
use sync_shared::message::{Batch, BatchId, Bucket, Change, ChangeKind, Delta, PartChanges, PushRequest};
use sync_shared::{envelope, hash, row, Value};

/// Of a page.
const ROWS: usize = 8_000;
/// Of a push.
const CHANGES: usize = 1_000;

/// The columns' tags, in their order.
fn tags() -> Vec<Tag> {
    let mut tags = ["id", "owner_id", "title", "body", "rank", "updated_at"].map(tag).to_vec();
    tags.sort_unstable();
    tags
}

/// The n-th row.
fn values(n: usize) -> Vec<Value> {
    vec![
        Value::Text(format!("{n:08x}-{:04x}-4000-8000-{:012x}", n * 7919 % 65_521, n * 0x9e37_79b9 % 0xffff_ffff_ffff)),
        Value::Text(format!("00000000-0000-4000-8000-{:012x}", n % 100)),
        Value::Text(format!("note {n:07} of a list")),
        Value::Text(format!("what it says:{:020} and a little more", n * 7_777_777)),
        Value::Integer(n as i64),
        Value::Text(format!("2026-01-01T00:{:02}:{:02}.000000Z", n / 60 % 60, n % 60)),
    ]
}

/// Rows as they stand in a page.
fn encoded(count: usize) -> Vec<u8> {
    (0..count).flat_map(|n| row::encode(&values(n))).collect()
}

/// A page of a first sync.
fn page() -> Delta {
    let changes = PartChanges {
        bucket: 0,
        entry: 1,
        table: tag("public.item"),
        from_empty: true,
        row_count: ROWS as u32,
        rows: ByteBuf::from(encoded(ROWS)),
        gone_count: 0,
        gone: ByteBuf::new(),
        ranges: None,
        columns: None,
    };
    let key = vec![Value::Integer(1)];
    let bucket = Bucket { id: bucket_id("owner", &row::encode(&key)), rule: "owner".into(), key, priority: 1 };
    Delta {
        cursor: ByteBuf::new(),
        pass: ByteBuf::from(vec![7; 60]),
        publish: None,
        complete: false,
        more: true,
        user: "ann".into(),
        server_time: 1_767_225_600_000_000,
        schema: None,
        buckets: vec![bucket],
        gone_buckets: Vec::new(),
        gone_entries: Vec::new(),
        changes: vec![changes],
        whole: Vec::new(),
        sums: Vec::new(),
        last_batch: None,
        expected_rows: Some(ROWS as u64),
        turn: 5,
    }
}

/// A push of one transaction that inserts rows.
fn push() -> PushRequest {
    let change = |n| {
        let values = values(n);
        Change {
            table: tag("public.item"),
            kind: ChangeKind::Insert,
            key: vec![values[0].clone()],
            columns: tags(),
            old: Vec::new(),
            new: values,
            rest: None,
            below: Vec::new(),
        }
    };
    let batch = Batch {
        id: BatchId { number: 1, random: [7; 16].into() },
        edited: 1_767_225_600_000_000,
        user: "ann".into(),
        changes: (0..CHANGES).map(change).collect(),
        note: String::new(),
        whole: false,
    };
    PushRequest { device: uuid::Uuid::from_u128(7), batches: vec![batch], wants: Vec::new(), held: Vec::new(), differ: None }
}

fn messages(c: &mut Criterion) {
    let (page, push) = (page(), push());
    let bytes = envelope::encode(&page).expect("a page is encoded");
    let mut group = c.benchmark_group("page of a first sync");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("encode", |b| b.iter(|| envelope::encode(black_box(&page))));
    group.bench_function("decode", |b| b.iter(|| envelope::decode::<Delta>(black_box(&bytes))));
    group.finish();
    let bytes = envelope::encode(&push).expect("a push is encoded");
    let mut group = c.benchmark_group("push");
    group.throughput(Throughput::Elements(CHANGES as u64));
    group.bench_function("encode", |b| b.iter(|| envelope::encode(black_box(&push))));
    group.bench_function("decode", |b| b.iter(|| envelope::decode::<PushRequest>(black_box(&bytes))));
    group.finish();
}

fn rows(c: &mut Criterion) {
    let (tags, bytes) = (tags(), encoded(ROWS));
    let values: Vec<_> = (0..ROWS).map(values).collect();
    let mut group = c.benchmark_group("rows");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("encode", |b| {
        let write = |mut out: Vec<u8>| {
            values.iter().for_each(|row| row::put_all(&mut out, row.iter().map(Value::as_ref)));
            out
        };
        b.iter_batched(|| Vec::with_capacity(bytes.len()), write, BatchSize::LargeInput);
    });
    group.bench_function("decode", |b| {
        b.iter(|| {
            let (mut reader, mut values) = (row::Reader::new(black_box(&bytes)), Vec::new());
            while !reader.is_empty() {
                reader.row(tags.len(), &mut values).expect("a row is read");
                black_box(&values);
            }
        });
    });
    let mut scratch = Vec::new();
    group.bench_function("hash", |b| {
        b.iter(|| {
            let (mut reader, mut sum) = (row::Reader::new(black_box(&bytes)), ContentSum::default());
            while !reader.is_empty() {
                sum.add(hash::row_hash(7, &tags, &mut reader, &mut scratch).expect("a row is hashed"));
            }
            sum
        });
    });
    group.finish();
    let key = row::encode(&[Value::Text("00000000-0000-4000-8000-000000000001".into())]);
    c.bench_function("bucket id", |b| b.iter(|| bucket_id(black_box("conversation"), black_box(&key))));
}

criterion_group! {
    name = benches;
    // A minute for all of it, which is enough for a percent on an idle machine.
    config = Criterion::default().without_plots().sample_size(50).measurement_time(std::time::Duration::from_secs(4));
    targets = messages, rows
}
criterion_main!(benches);
