//! What syncing costs, beside an ordinary table. Not run by default:
//! `cargo build --release -p sqlite_sync`, then
//! `SQLITE_SYNC_LIBRARY=target/release/libsqlite_sync.so cargo test --release -p sqlite_sync --test measure -- --ignored --nocapture`

mod common;
use common::*;

/// Processor time of this program: wall time says little on a shared machine.
struct Instant(f64);

impl Instant {
    fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<f64> =
            stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2).map(|f| f.parse().unwrap()).collect();
        Instant((fields[0] + fields[1]) / 100.0)
    }

    fn elapsed(&self) -> f64 {
        Instant::now().0 - self.0
    }
}

const ROWS: i64 = 100_000;

fn uuid(n: i64) -> String {
    let mixed = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        mixed >> 32,
        mixed >> 16 & 0xffff,
        mixed & 0xfff,
        n & 0xfff,
        mixed & 0xffff_ffff_ffff
    )
}

fn note(n: i64, title: &str) -> Vec<Value> {
    values(
        &schema().tables[0],
        &[
            ("id", Value::Text(uuid(n))),
            ("title", Value::Text(format!("{title} {n}"))),
            (
                "body",
                Value::Text(format!("the body of note {n}, with a sentence or two that say something about it; not too long")),
            ),
            ("rank", Value::Integer(n)),
        ],
    )
}

fn size(device: &Device) -> f64 {
    device.number(
        "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()",
    ) as f64
        / ROWS as f64
}

fn insert_plain(device: &Device, sql: &str, rows: &[Vec<Value>]) -> f64 {
    let start = Instant::now();
    device.run("BEGIN");
    let mut statement = device.db.prepare(sql).unwrap();
    for row in rows {
        for (at, value) in row.iter().enumerate() {
            match value {
                Value::Integer(i) => statement.raw_bind_parameter(at + 1, i).unwrap(),
                Value::Text(t) => statement.raw_bind_parameter(at + 1, t.as_str()).unwrap(),
                _ => {}
            }
        }
        statement.raw_execute().unwrap();
    }
    drop(statement);
    device.run("COMMIT");
    start.elapsed()
}

#[test]
#[ignore]
fn apply_capture_and_size() {
    let order = values(
        &schema().tables[0],
        &[("id", Value::Integer(1)), ("title", Value::Integer(2)), ("body", Value::Integer(3)), ("rank", Value::Integer(4))],
    );
    let names: Vec<_> = order
        .iter()
        .map(|v| ["", "id", "title", "body", "rank"][if let Value::Integer(i) = v { *i as usize } else { 0 }])
        .collect();
    let sql = |table: &str| format!("INSERT INTO {table}({}) VALUES (?1, ?2, ?3, ?4)", names.join(", "));
    let rows: Vec<_> = (0..ROWS).map(|n| note(n, "title")).collect();

    let plain = Device::new();
    plain.run("CREATE TABLE notes(id TEXT NOT NULL PRIMARY KEY, title TEXT, body TEXT, rank INTEGER)");
    let base = insert_plain(&plain, &sql("notes"), &rows);
    let base_size = size(&plain);
    println!("plain inserts        {base:.3} s  {:.0} rows/s  {base_size:.0} B/row", ROWS as f64 / base);

    let device = Device::new();
    device.apply(&empty().with_schema().publish());
    let pages: Vec<_> = rows.chunks(10_000).map(|c| page(c).starting_empty()).collect();
    let mut pages: Vec<_> = pages.into_iter().collect();
    for page in &mut pages[1..] {
        page.0.changes[0].from_empty = false;
    }
    let last = pages.pop().unwrap().publish().sum(&rows);
    let bytes: Vec<_> = pages.iter().map(Page::bytes).chain([last.bytes()]).collect();
    let start = Instant::now();
    for page in &bytes {
        device.apply_bytes(page).unwrap();
    }
    let took = start.elapsed();
    println!(
        "first sync           {took:.3} s  {:.2}x of plain speed  {:.0} B/row, {:.2}x",
        base / took,
        size(&device),
        size(&device) / base_size
    );
    assert_eq!(device.status("refetch"), 0);

    let changed: Vec<_> = (0..ROWS).map(|n| note(n, "changed")).collect();
    let bytes = page(&changed).publish().known().sum(&changed).bytes();
    let start = Instant::now();
    assert_eq!(device.apply_bytes(&bytes).unwrap()["more"], false);
    let took = start.elapsed();
    println!("every row updated    {took:.3} s  {:.2}x of plain inserts", base / took);

    let start = Instant::now();
    device.text("SELECT sync_verify()");
    println!("sync_verify          {:.3} s", start.elapsed());

    for extension in [false, true] {
        let device = Device::with(&[]);
        let target;
        let writer = if extension {
            &device
        } else {
            target = Device { db: device.plain(), path: device.path.clone() };
            target.run("PRAGMA synchronous = OFF");
            &target
        };
        let took = insert_plain(writer, &sql("notes"), &rows);
        println!("captured inserts     {took:.3} s  {:.2}x of plain time, extension {extension}", took / base);
        let start = Instant::now();
        for n in 0..3000 {
            writer.db.execute("UPDATE notes SET rank = rank + 1 WHERE rank = ?1 AND id = ?2", (n, uuid(n))).unwrap();
        }
        println!("3000 transactions    {:.3} s", start.elapsed());
        let start = Instant::now();
        device.number("SELECT length(pending_ops())");
        println!("sealed               {:.3} s", start.elapsed());
    }
}
