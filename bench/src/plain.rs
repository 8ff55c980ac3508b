//! Ordinary SQLite files with the columns and indexes that a device has, written through the same driver.

use rusqlite::types::Value;
use rusqlite::{params_from_iter, Connection};
use std::path::PathBuf;
use sync_tests::Device;

/// What a table's rows are: values in the order of its columns.
pub type Rows = Vec<Vec<Value>>;

/// The statement that an application would use.
pub const INSERT: &str = "INSERT INTO item (id, owner_id, title, body, rank, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
/// The statement that a hand-written sync would use.
pub const UPSERT: &str = "INSERT INTO item (id, owner_id, title, body, rank, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
    ON CONFLICT (id) DO UPDATE SET owner_id = excluded.owner_id, title = excluded.title, body = excluded.body,
    rank = excluded.rank, updated_at = excluded.updated_at";

/// A file without anything of ours in it.
pub struct Plain {
    folder: PathBuf,
    /// The connection.
    pub connection: Connection,
}

impl Plain {
    /// A new file with the table and indexes that a device has.
    pub fn like(device: &Device) -> Plain {
        let folder = std::env::temp_dir().join(format!("pg_sync_plain.{}.{:016x}", std::process::id(), fastrand::u64(..)));
        std::fs::create_dir(&folder).expect("a folder is created");
        let connection = Connection::open(folder.join("plain.db")).expect("a file opens");
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).expect("WAL is set");
        connection.execute_batch("PRAGMA synchronous = NORMAL").expect("synchronous is set");
        for row in
            device.rows("SELECT sql FROM sqlite_master WHERE tbl_name = 'item' AND type IN ('table', 'index') AND sql NOT NULL")
        {
            connection.execute_batch(&row[0]).expect("a device's table is an ordinary one");
        }
        Plain { folder, connection }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A device's rows, in the order they came.
pub fn rows_of(device: &Device) -> Rows {
    let connection = device.connection();
    let mut statement = connection
        .prepare("SELECT id, owner_id, title, body, rank, updated_at FROM item ORDER BY rowid")
        .expect("a device has the table");
    let rows = statement.query_map([], |row| (0..6).map(|i| row.get(i)).collect()).expect("rows are read");
    rows.collect::<Result<_, _>>().expect("rows are read")
}

/// Writes rows with one prepared statement in one transaction.
pub fn write(connection: &Connection, sql: &str, rows: &[Vec<Value>]) {
    connection.execute_batch("BEGIN").expect("a transaction begins");
    let mut statement = connection.prepare(sql).expect("a statement is prepared");
    for row in rows {
        statement.execute(params_from_iter(row)).expect("a row is written");
    }
    drop(statement);
    connection.execute_batch("COMMIT").expect("a transaction commits");
}

/// Bytes of the file when everything in the log is in it.
pub fn file_size(connection: &Connection) -> f64 {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("the log is written back");
    let path = connection.path().expect("it is a file");
    std::fs::metadata(path).expect("the file is there").len() as f64
}
