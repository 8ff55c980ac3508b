//! A device with the real library loaded into the system's SQLite, and short ways to make the server's messages.
#![allow(dead_code)]

use rusqlite::Connection;
use serde_bytes::{ByteArray, ByteBuf};
use std::path::PathBuf;
use std::sync::OnceLock;
use sync_shared::envelope::{self, Message};
use sync_shared::hash::{self, BucketId, ContentSum, Tag};
pub use sync_shared::message::*;
pub use sync_shared::{row, Value};
use uuid::Uuid;

// sqlite3ext-sys leaves a folder with an old static SQLite in the linker's search path, where rusqlite's `-lsqlite3` would find it
// first. Naming the system's shared library here settles it: this crate's own libraries are linked before those of others.
#[link(name = "libsqlite3.so", kind = "dylib", modifiers = "+verbatim")]
extern "C" {
    fn sqlite3_libversion_number() -> std::ffi::c_int;
}

/// Builds the library once per test program, and says where it is.
pub fn library() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Ok(given) = std::env::var("SQLITE_SYNC_LIBRARY") {
            return std::fs::canonicalize(given).unwrap();
        }
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let status = std::process::Command::new(cargo).args(["build", "--quiet", "-p", "sqlite_sync"]).status();
        // target/debug/deps/<this program>
        let folder = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
        let path = folder.join("libsqlite_sync.so");
        assert!(path.exists(), "{path:?} is missing ({status:?}): run `cargo build -p sqlite_sync`");
        path
    })
}

pub fn load(connection: &Connection) {
    // SAFETY: takes no arguments.
    assert!(unsafe { sqlite3_libversion_number() } >= 3_040_000);
    // SAFETY: the library that was just built.
    unsafe {
        connection.load_extension_enable().unwrap();
        connection.load_extension(library(), Some("sqlite3_sqlitesync_init")).unwrap();
        connection.load_extension_disable().unwrap();
    }
}

pub struct Device {
    pub path: PathBuf,
    pub db: Connection,
}

impl Drop for Device {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(format!("{}{end}", self.path.display()));
        }
    }
}

impl Device {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("sqlite_sync_test_{}.db", Uuid::new_v4()));
        let db = Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").unwrap();
        load(&db);
        Device { path, db }
    }

    /// A device with the table and some rows.
    pub fn with(rows: &[Vec<Value>]) -> Self {
        let device = Device::new();
        device.apply(&page(rows).with_schema().publish());
        device
    }

    /// A connection that never loaded the extension.
    pub fn plain(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }

    pub fn apply(&self, message: &Page) -> serde_json::Value {
        self.apply_bytes(&message.bytes()).unwrap()
    }

    pub fn apply_message(&self, message: &impl Message) -> serde_json::Value {
        self.apply_bytes(&envelope::encode(message).unwrap()).unwrap()
    }

    pub fn apply_bytes(&self, bytes: &[u8]) -> rusqlite::Result<serde_json::Value> {
        let text: String = self.db.query_row("SELECT apply_delta(?)", [bytes], |r| r.get(0))?;
        Ok(serde_json::from_str(&text).unwrap())
    }

    pub fn request(&self) -> PullRequest {
        let bytes: Vec<u8> = self.db.query_row("SELECT pull_request()", [], |r| r.get(0)).unwrap();
        envelope::decode(&bytes).unwrap()
    }

    /// The batches of `pending_ops`; none for NULL.
    pub fn push(&self) -> Vec<Batch> {
        self.push_request().map_or(Vec::new(), |r| r.batches)
    }

    pub fn push_request(&self) -> Option<PushRequest> {
        let bytes: Option<Vec<u8>> = self.db.query_row("SELECT pending_ops()", [], |r| r.get(0)).unwrap();
        bytes.map(|b| envelope::decode(&b).unwrap())
    }

    pub fn answer(&self, batches: &[Batch], verdict: Verdict) -> serde_json::Value {
        self.apply_message(&reply(batches, verdict))
    }

    pub fn run(&self, sql: &str) {
        self.db.execute_batch(sql).unwrap();
    }

    pub fn number(&self, sql: &str) -> i64 {
        self.db.query_row(sql, [], |r| r.get(0)).unwrap()
    }

    pub fn text(&self, sql: &str) -> String {
        self.db.query_row(sql, [], |r| r.get(0)).unwrap()
    }

    pub fn status(&self, name: &str) -> i64 {
        self.number(&format!("SELECT value FROM sync_status WHERE name = '{name}'"))
    }

    /// `1:title` of every visible note.
    pub fn titles(&self) -> Vec<String> {
        let mut statement =
            self.db.prepare("SELECT substr(id, 2) || ':' || coalesce(title, 'NULL') FROM notes ORDER BY id").unwrap();
        let rows = statement.query_map([], |r| r.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// Everything in the file but what a refused call may not touch either.
    pub fn dump(&self) -> String {
        let mut names = Vec::new();
        let mut statement = self.db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").unwrap();
        names.extend(statement.query_map([], |r| r.get::<_, String>(0)).unwrap().map(Result::unwrap));
        let mut out = String::new();
        for name in names {
            let mut statement = self.db.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
            let columns = statement.column_count();
            let mut rows = statement.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let values: Vec<_> = (0..columns).map(|i| format!("{:?}", row.get_ref(i).unwrap())).collect();
                out.push_str(&format!("{name} {values:?}\n"));
            }
        }
        out
    }
}

pub const NOTES: &str = "public.notes";

pub fn column(name: &str, affinity: Affinity, position: u16, key: u16) -> Column {
    Column {
        name: name.into(),
        tag: hash::tag(name),
        affinity,
        pg_type: "text".into(),
        key,
        position,
        not_null: key > 0,
        generated: false,
        default: if key > 0 && affinity == Affinity::Text { ColumnDefault::Uuid } else { ColumnDefault::Nothing },
        literal: Value::Null,
    }
}

pub fn table(name: &str, columns: Vec<Column>) -> Table {
    let mut columns = columns;
    columns.sort_by_key(|c| c.tag);
    Table {
        name: name.into(),
        tag: hash::tag(&format!("public.{name}")),
        columns,
        indexes: vec![],
        mode: TableMode::ReadWrite,
        references: vec![],
        key_from_sequence: false,
        encrypted: vec![],
    }
}

/// notes(id text key, title text, body text, rank integer), numbers(id integer key, x real), pairs(a text, b integer, note text).
pub fn schema() -> Schema {
    let notes = table(
        "notes",
        vec![
            column("id", Affinity::Text, 1, 1),
            column("title", Affinity::Text, 2, 0),
            column("body", Affinity::Text, 3, 0),
            column("rank", Affinity::Integer, 4, 0),
        ],
    );
    let numbers = table("numbers", vec![column("id", Affinity::Integer, 1, 1), column("x", Affinity::Real, 2, 0)]);
    let pairs = table(
        "pairs",
        vec![column("a", Affinity::Text, 1, 1), column("b", Affinity::Integer, 2, 2), column("note", Affinity::Text, 3, 0)],
    );
    Schema { generation: 1, tables: vec![notes, numbers, pairs] }
}

/// orders(id integer key, title text, up: another order), lines(order_id, n; key both; order_id: an order; body text),
/// tags(id text key, order_id and n: a line), with foreign keys. `sequence`: the orders' key comes from one on the server.
pub fn shop(sequence: bool) -> Schema {
    let mut orders = table(
        "orders",
        vec![column("id", Affinity::Integer, 1, 1), column("title", Affinity::Text, 2, 0), column("up", Affinity::Integer, 3, 0)],
    );
    let mut lines = table(
        "lines",
        vec![
            column("order_id", Affinity::Integer, 1, 1),
            column("n", Affinity::Integer, 2, 2),
            column("body", Affinity::Text, 3, 0),
        ],
    );
    let mut tags = table(
        "tags",
        vec![
            column("id", Affinity::Text, 1, 1),
            column("order_id", Affinity::Integer, 2, 0),
            column("n", Affinity::Integer, 3, 0),
        ],
    );
    let refer = |table: &Table, names: &[&str], to: &Table| Reference {
        columns: names.iter().map(|n| table.columns.iter().position(|c| c.name == *n).unwrap() as u16).collect(),
        table: to.tag,
    };
    orders.references = vec![refer(&orders, &["up"], &orders)];
    lines.references = vec![refer(&lines, &["order_id"], &orders)];
    tags.references = vec![refer(&tags, &["order_id", "n"], &lines)];
    orders.key_from_sequence = sequence;
    Schema { generation: 1, tables: vec![orders, lines, tags] }
}

/// What a schema brings, published.
pub fn only(schema: Schema) -> Page {
    let mut page = empty().publish();
    page.0.schema = Some(schema);
    page
}

/// A row of a table, in tag order, from (column, value) pairs.
pub fn values(table: &Table, pairs: &[(&str, Value)]) -> Vec<Value> {
    let of = |c: &Column| pairs.iter().find(|(n, _)| *n == c.name).map(|(_, v)| v.clone()).unwrap_or_default();
    table.columns.iter().map(of).collect()
}

/// A note k<n> with this title.
pub fn row(n: i64, title: &str) -> Vec<Value> {
    values(&schema().tables[0], &[("id", Value::Text(format!("k{n}"))), ("title", Value::Text(title.into()))])
}

pub fn bucket(rule: &str) -> Bucket {
    Bucket { id: hash::bucket_id(rule, b""), rule: rule.into(), key: vec![], priority: 1 }
}

pub fn content(table: &Table, rows: &[Vec<Value>]) -> ContentSum {
    let tags: Vec<Tag> = table.columns.iter().map(|c| c.tag).collect();
    let mut sum = ContentSum::default();
    let mut scratch = Vec::new();
    for row in rows {
        sum.add(hash::row_hash_of(table.tag, &tags, row.iter().map(Value::as_ref), &mut scratch));
    }
    sum
}

/// A delta in the making: by default one page that only stages, of entry 1 (notes) in the bucket "all".
#[derive(Clone)]
pub struct Page(pub Delta);

pub fn page(rows: &[Vec<Value>]) -> Page {
    empty().rows_of(0, 1, rows)
}

pub fn empty() -> Page {
    Page(Delta {
        cursor: ByteBuf::new(),
        pass: ByteBuf::from(b"pass".to_vec()),
        publish: None,
        complete: false,
        more: true,
        user: "anna".into(),
        server_time: 0,
        schema: None,
        buckets: vec![bucket("all")],
        gone_buckets: vec![],
        gone_entries: vec![],
        changes: vec![],
        whole: vec![],
        sums: vec![],
        last_batch: None,
        expected_rows: None,
        turn: 0,
    })
}

impl Page {
    /// Rows of a table of [`schema`], in an entry of the bucket "all".
    pub fn rows_of(mut self, table: usize, entry: EntryId, rows: &[Vec<Value>]) -> Self {
        let mut bytes = Vec::new();
        for values in rows {
            row::put_all(&mut bytes, values.iter().map(Value::as_ref));
        }
        self.0.changes.push(PartChanges {
            bucket: 0,
            entry,
            table: schema().tables[table].tag,
            from_empty: false,
            row_count: rows.len() as u32,
            rows: ByteBuf::from(bytes),
            gone_count: 0,
            gone: ByteBuf::new(),
            ranges: None,
            columns: None,
        });
        self
    }

    /// The same for a table of any schema.
    pub fn rows_in(mut self, table: &Table, entry: EntryId, rows: &[Vec<Value>]) -> Self {
        self = self.rows_of(0, entry, rows);
        let changes = self.0.changes.last_mut().unwrap();
        changes.table = table.tag;
        self
    }

    pub fn with_schema(mut self) -> Self {
        self.0.schema = Some(schema());
        self
    }

    pub fn publish(mut self) -> Self {
        self.0.publish = Some(9);
        self.0.complete = true;
        self.0.more = false;
        self.0.cursor = ByteBuf::from(b"cursor".to_vec());
        self.0.pass = ByteBuf::new();
        self.whole()
    }

    pub fn whole(mut self) -> Self {
        self.0.whole = (0..self.0.buckets.len() as u32).collect();
        self
    }

    pub fn known(mut self) -> Self {
        self.0.whole.clear();
        self
    }

    pub fn starting_empty(mut self) -> Self {
        for changes in &mut self.0.changes {
            changes.from_empty = true;
        }
        self
    }

    pub fn in_bucket(mut self, rule: &str) -> Self {
        self.0.buckets[0] = bucket(rule);
        self
    }

    pub fn gone(mut self, keys: &[i64]) -> Self {
        let changes = self.0.changes.last_mut().unwrap();
        changes.gone_count = keys.len() as u32;
        changes.gone = ByteBuf::from(row::encode(&keys.iter().map(|k| Value::Text(format!("k{k}"))).collect::<Vec<_>>()));
        self
    }

    pub fn gone_bucket(mut self, rule: &str) -> Self {
        self.0.gone_buckets.push(bucket(rule).id);
        self
    }

    /// The sum of entry 1 as the server sees it.
    pub fn sum(mut self, rows: &[Vec<Value>]) -> Self {
        self.0.sums = vec![PartSum { bucket: self.0.buckets[0].id, entry: 1, content: content(&schema().tables[0], rows) }];
        self
    }

    pub fn confirm(mut self, batch: &Batch) -> Self {
        self.0.last_batch = Some(batch.id);
        self
    }

    pub fn user(mut self, user: &str) -> Self {
        self.0.user = user.into();
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        envelope::encode(&self.0).unwrap()
    }
}

pub fn reply(batches: &[Batch], verdict: Verdict) -> PushReply {
    let result = |b: &Batch| BatchResult {
        id: b.id,
        verdict,
        code: if verdict == Verdict::Accepted { String::new() } else { "23505".into() },
        message: if verdict == Verdict::Accepted { String::new() } else { "a reason".into() },
        subject: String::new(),
        conflicts: vec![],
        whole: vec![],
    };
    PushReply {
        state: PushState::Taken,
        message: String::new(),
        last: batches.last().map(|b| b.id),
        user: "anna".into(),
        results: batches.iter().map(result).collect(),
        leases: vec![],
    }
}

pub fn state_reply(state: PushState, last: Option<BatchId>) -> PushReply {
    PushReply { state, message: "why".into(), last, user: "anna".into(), results: vec![], leases: vec![] }
}

pub fn notice(kind: NoticeKind, keep: Vec<BucketId>) -> Notice {
    Notice { kind, message: "a notice".into(), cursor: ByteBuf::from(b"verified".to_vec()), keep, turn: 0 }
}

pub fn random(byte: u8) -> BatchRandom {
    ByteArray::new([byte; 16])
}

/// `update k1 (title)` for every change, batch by batch.
pub fn kinds(batches: &[Batch]) -> Vec<String> {
    let schema = schema();
    let one = |change: &Change| {
        let table = schema.tables.iter().find(|t| t.tag == change.table).unwrap();
        let kind = match change.kind {
            ChangeKind::Insert => "insert",
            ChangeKind::Update => "update",
            ChangeKind::Delete => "delete",
        };
        let mut columns: Vec<_> = table.columns.iter().filter(|c| change.columns.contains(&c.tag)).collect();
        columns.sort_by_key(|c| if c.name == "rank" { 15 } else { c.position * 10 });
        let names: Vec<_> = columns.iter().map(|c| c.name.as_str()).collect();
        let key: Vec<_> = change
            .key
            .iter()
            .map(|v| match v {
                Value::Text(t) => t.clone(),
                Value::Integer(i) => i.to_string(),
                other => format!("{other:?}"),
            })
            .collect();
        format!("{kind} {} ({})", key.join("+"), names.join(", "))
    };
    batches.iter().flat_map(|b| b.changes.iter().map(one)).collect()
}
