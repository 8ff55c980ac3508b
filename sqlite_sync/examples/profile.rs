//! Work for a profiler: one kind of work of the device, in the function `measured`, on rows like those of `./dev bench`.
//!
//! `bench/PROFILES.md` says how to run it under callgrind and what was found.
#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;
use common::*;
use rusqlite::{params_from_iter, types, Connection};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use sync_shared::{envelope, hash};

const HELP: &str = "usage: profile WORK ROWS

  apply          ROWS rows into a new file, in pages, published; plain-apply: the same rows by prepared upserts
  changes        100 changed rows on a device that holds ROWS, 20 times; plain-changes: the same by prepared upserts
  nothing        pull_request and an answer without changes on a device that holds ROWS, 20 times
  insert         ROWS prepared inserts in one transaction; bare-insert: without the extension; plain-insert: without triggers
  update         one column of ROWS rows; bare-update, plain-update as above
  encode         a page of ROWS rows into bytes; decode: back; read: its rows; hash: their sums
  sizes          what ROWS rows take in the file, by table
  seal           pending_ops after ROWS inserts, an update and a delete of them all, each a transaction
  singles        ROWS updates of one row, each a transaction; bare-singles, plain-singles as above

The last line says how many microseconds of the processor the work itself took.";

/// Rows of a page.
const PAGE: usize = 8000;
const INSERT: &str = "INSERT INTO item (id, owner_id, title, body, rank, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const UPSERT: &str = "INSERT INTO item (id, owner_id, title, body, rank, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
    ON CONFLICT (id) DO UPDATE SET owner_id = excluded.owner_id, title = excluded.title, body = excluded.body,
    rank = excluded.rank, updated_at = excluded.updated_at";
const NAMES: [&str; 6] = ["id", "owner_id", "title", "body", "rank", "updated_at"];

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let ([work, _], Some(count)) = (&arguments[..], arguments.get(1).and_then(|n| n.parse().ok())) else {
        eprintln!("{HELP}");
        std::process::exit(2)
    };
    let rows: Vec<_> = (0..count).map(|n| item(n, count)).collect();
    match work.as_str() {
        "apply" => {
            let device = Device::new();
            let pages = first_sync(&rows);
            measured(|| pages.iter().for_each(|page| drop(device.apply_bytes(page).unwrap())));
        }
        "encode" | "decode" | "read" | "hash" => wire(work, &rows),
        "plain-apply" => {
            let device = plain();
            measured(|| write(&device.db, UPSERT, &rows));
        }
        "changes" | "nothing" => {
            let (device, changed) = (synced(&rows), if work == "changes" { 100 } else { 0 });
            for round in 0..20 {
                let delta = delta(&changes(&rows, round, changed));
                measured(|| {
                    black_box(device.db.query_row("SELECT pull_request()", [], |r| r.get::<_, Vec<u8>>(0)).unwrap());
                    device.apply_bytes(&delta).unwrap();
                });
            }
        }
        "plain-changes" => {
            let device = plain();
            write(&device.db, INSERT, &rows);
            for round in 0..20 {
                let changed = changes(&rows, round, 100);
                measured(|| write(&device.db, UPSERT, &changed));
            }
        }
        "seal" => {
            let device = synced(&[]);
            write(&device.db, INSERT, &rows);
            device.db.execute_batch("UPDATE item SET rank = rank + 1").unwrap();
            device.db.execute_batch("DELETE FROM item WHERE rank IS NOT NULL").unwrap();
            measured(|| drop(device.db.query_row("SELECT pending_ops()", [], |r| r.get::<_, Vec<u8>>(0)).unwrap()));
        }
        "sizes" => {
            let device = synced(&rows);
            let sizes = "SELECT group_concat(name || ': ' || bytes, char(10)) FROM (
                SELECT name, sum(pgsize) AS bytes FROM dbstat GROUP BY name HAVING bytes > 50000
                UNION ALL SELECT 'unused pages', freelist_count * page_size FROM pragma_freelist_count, pragma_page_size)";
            println!("{}", device.text(sizes));
        }
        local => {
            let (who, what) = local.split_once('-').unwrap_or(("loaded", local));
            let device = if who == "plain" { plain() } else { synced(&[]) };
            let other = device.plain();
            other.execute_batch("PRAGMA synchronous = OFF").unwrap();
            let db = if who == "bare" { &other } else { &device.db };
            match what {
                "insert" => measured(|| write(db, INSERT, &rows)),
                "update" => {
                    write(db, INSERT, &rows);
                    measured(|| db.execute_batch("UPDATE item SET rank = rank + 1").unwrap());
                }
                "singles" => {
                    write(db, INSERT, &rows);
                    let mut statement = db.prepare("UPDATE item SET rank = rank + 1 WHERE id = ?1").unwrap();
                    measured(|| rows.iter().for_each(|row| assert_eq!(statement.execute([bound(&row[0])]).unwrap(), 1)));
                }
                _ => panic!("{HELP}"),
            }
        }
    }
    println!("{} us", TOOK.load(Ordering::Relaxed) / 1000);
}

/// Callgrind counts what happens in here.
#[no_mangle]
#[inline(never)]
fn measured_work(work: &mut dyn FnMut()) {
    work();
}

/// Nanoseconds of the processor for all measured work: what `./dev bench ratios` compares.
static TOOK: AtomicU64 = AtomicU64::new(0);

fn measured(mut work: impl FnMut()) {
    let begin = processor_time();
    measured_work(&mut work);
    TOOK.fetch_add(processor_time() - begin, Ordering::Relaxed);
}

/// Nanoseconds that this thread has run for, as Linux counts them; 0 elsewhere.
fn processor_time() -> u64 {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    said.split(' ').next().and_then(|time| time.parse().ok()).unwrap_or(0)
}

/// What messages and rows go through on both sides.
fn wire(work: &str, rows: &[Vec<Value>]) {
    let Page(page) = rows_in(rows);
    let (bytes, table) = (envelope::encode(&page).unwrap(), &schema_of_items().tables[0]);
    let tags: Vec<_> = table.columns.iter().map(|c| c.tag).collect();
    let (mut values, mut scratch) = (Vec::new(), Vec::new());
    let mut reader = row::Reader::new(&page.changes[0].rows);
    match work {
        "encode" => measured(|| drop(black_box(envelope::encode(&page).unwrap()))),
        "decode" => measured(|| drop(black_box(envelope::decode::<Delta>(&bytes).unwrap()))),
        "read" => measured(|| {
            while !reader.is_empty() {
                reader.row(tags.len(), &mut values).unwrap();
                black_box(&values);
            }
        }),
        _ => measured(|| {
            while !reader.is_empty() {
                black_box(hash::row_hash(table.tag, &tags, &mut reader, &mut scratch).unwrap());
            }
        }),
    }
}

/// The n-th row, in the order of [`NAMES`]; keys ascend, as pages bring them.
fn item(n: usize, count: usize) -> Vec<Value> {
    let text = |text: String| Value::Text(text);
    vec![
        text(format!("{:08x}-1111-4000-8000-{n:012x}", n * (usize::from(u16::MAX) << 16) / count)),
        text("00000000-0000-4000-8000-000000000001".into()),
        text(format!("note {n:07} of a list")),
        text(format!("what it says:{:020} and a little more", n * 7_777_777)),
        Value::Integer(n as i64),
        text("2026-01-01T00:00:00.000000Z".into()),
    ]
}

fn schema_of_items() -> Schema {
    let affinity = |name: &str| if name == "rank" { Affinity::Integer } else { Affinity::Text };
    let column =
        |(at, name): (usize, &&str)| Column { not_null: true, ..column(name, affinity(name), at as u16 + 1, u16::from(at == 0)) };
    let mut item = table("item", NAMES.iter().enumerate().map(column).collect());
    for column in &mut item.columns {
        column.default = ColumnDefault::Nothing;
    }
    Schema { generation: 1, tables: vec![item] }
}

/// Rows of a page, in the order of the columns' tags.
fn rows_in(rows: &[Vec<Value>]) -> Page {
    let schema = schema_of_items();
    let of = |row: &Vec<Value>| values(&schema.tables[0], &NAMES.into_iter().zip(row.iter().cloned()).collect::<Vec<_>>());
    empty().rows_in(&schema.tables[0], 1, &rows.iter().map(of).collect::<Vec<_>>())
}

fn first_sync(rows: &[Vec<Value>]) -> Vec<Vec<u8>> {
    let mut pages: Vec<_> = rows.chunks(PAGE).map(rows_in).collect();
    if pages.is_empty() {
        pages.push(empty());
    }
    pages[0].0.schema = Some(schema_of_items());
    let last = pages.len() - 1;
    pages[last] = pages[last].clone().publish();
    pages.iter().map(Page::bytes).collect()
}

fn delta(rows: &[Vec<Value>]) -> Vec<u8> {
    if rows.is_empty() { empty() } else { rows_in(rows) }.publish().known().bytes()
}

fn changes(rows: &[Vec<Value>], round: usize, count: usize) -> Vec<Vec<Value>> {
    let step = rows.len() / count.max(1);
    let mut changed: Vec<_> = (0..count).map(|n| rows[(n * step + round * 13) % rows.len()].clone()).collect();
    changed.iter_mut().for_each(|row| row[4] = Value::Integer(round as i64 - 1));
    changed
}

fn synced(rows: &[Vec<Value>]) -> Device {
    let device = Device::new();
    first_sync(rows).iter().for_each(|page| drop(device.apply_bytes(page).unwrap()));
    device
}

/// A file with the same table, in which nothing is captured.
fn plain() -> Device {
    let (like, device) = (synced(&[]), Device::new());
    device.run(&like.text("SELECT sql FROM sqlite_schema WHERE name = 'item'"));
    device
}

fn bound(value: &Value) -> types::Value {
    match value {
        Value::Integer(i) => types::Value::Integer(*i),
        Value::Text(t) => types::Value::Text(t.clone()),
        other => panic!("no such value is in these rows: {other:?}"),
    }
}

fn write(db: &Connection, sql: &str, rows: &[Vec<Value>]) {
    db.execute_batch("BEGIN").unwrap();
    let mut statement = db.prepare(sql).unwrap();
    for row in rows {
        statement.execute(params_from_iter(row.iter().map(bound))).unwrap();
    }
    drop(statement);
    db.execute_batch("COMMIT").unwrap();
}
