//! A SQLite file with the extension loaded, and the sync loop as an application would write it.

use crate::{build, cluster::describe};
use postgres::Client;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};
use serde_json::{json, Value};
use std::path::{Path, PathBuf};

/// Who asks: what a transport would have found in the user's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The claim `sub`.
    pub id: String,
    /// The claim `role`: the database role that pushes run as.
    pub role: Option<String>,
}

impl User {
    /// A user without a database role of its own.
    pub fn new(id: &str) -> User {
        User { id: id.to_owned(), role: None }
    }

    /// The same with a role.
    pub fn with_role(id: &str, role: &str) -> User {
        User { id: id.to_owned(), role: Some(role.to_owned()) }
    }

    /// The claims of a verified token, as JSON.
    pub fn claims(&self) -> String {
        let mut claims = json!({ "sub": self.id });
        if let Some(role) = &self.role {
            claims["role"] = json!(role);
        }
        claims.to_string()
    }
}

/// What `sync.pull` answers, asked as a transport asks: in a transaction that carries the claims and can only read.
pub fn server_pull(client: &mut Client, user: &User, request: &[u8]) -> Result<Vec<u8>, String> {
    let mut transaction = client.build_transaction().read_only(true).start().map_err(|e| describe(&e))?;
    let asked = transaction.execute("SELECT set_config('request.jwt.claims', $1, true)", &[&user.claims()]);
    asked.map_err(|e| describe(&e))?;
    let row = transaction.query_one("SELECT sync.pull($1)", &[&request]).map_err(|e| describe(&e))?;
    transaction.commit().map_err(|e| describe(&e))?;
    Ok(row.get(0))
}

/// What `sync.push` answers.
pub fn server_push(client: &mut Client, user: &User, batches: &[u8]) -> Result<Vec<u8>, String> {
    let mut transaction = client.transaction().map_err(|e| describe(&e))?;
    let asked = transaction.execute("SELECT set_config('request.jwt.claims', $1, true)", &[&user.claims()]);
    asked.map_err(|e| describe(&e))?;
    let row = transaction.query_one("SELECT sync.push($1)", &[&batches]).map_err(|e| describe(&e))?;
    transaction.commit().map_err(|e| describe(&e))?;
    Ok(row.get(0))
}

/// What `apply_delta` answers.
#[derive(Debug, Clone)]
pub struct Answer(pub Value);

impl Answer {
    /// Whether the device should ask again at once.
    pub fn more(&self) -> bool {
        self.0["more"].as_bool().unwrap_or(false) || self.0["more"] == json!(1)
    }

    /// What the message was.
    pub fn kind(&self) -> &str {
        self.0["kind"].as_str().unwrap_or("")
    }

    /// Rows that became visible or went.
    pub fn rows(&self) -> u64 {
        self.0["rows"].as_u64().unwrap_or(0)
    }

    /// How many batches had this verdict.
    pub fn verdicts(&self, verdict: &str) -> u64 {
        self.0["verdicts"][verdict].as_u64().unwrap_or(0)
    }
}

/// A database file on a device.
pub struct Device {
    folder: PathBuf,
    connection: Option<Connection>,
    /// Who uses it.
    pub user: User,
}

impl Device {
    /// A new file for a user.
    pub fn new(user: &str) -> Device {
        Device::for_user(User::new(user))
    }

    /// A new file for a user.
    pub fn for_user(user: User) -> Device {
        let folder = std::env::temp_dir().join(format!("pg_sync_device.{}.{:016x}", std::process::id(), fastrand::u64(..)));
        std::fs::create_dir(&folder).expect("a folder for a device is created");
        let mut device = Device { folder, connection: None, user };
        device.open();
        device
    }

    /// A copy of the file, as a backup or a cloned phone would be.
    pub fn copy(&self) -> Device {
        let mut copy = Device::for_user(self.user.clone());
        copy.close();
        // In an empty file that nothing was read from, SQLite's first checkpoint fails where a TEMP table was made.
        self.run("SELECT count(*) FROM sqlite_schema; PRAGMA wal_checkpoint(TRUNCATE)");
        std::fs::copy(self.path(), copy.path()).expect("a device file is copied");
        copy.open();
        copy
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.join("device.db")
    }

    fn open(&mut self) {
        let connection = Connection::open(self.path()).expect("a device file opens");
        connection.busy_timeout(std::time::Duration::from_secs(10)).expect("a timeout is set");
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).expect("WAL is set");
        connection.execute_batch("PRAGMA synchronous = NORMAL").expect("synchronous is set");
        load(&connection, &build::library("libsqlite_sync.so"));
        self.connection = Some(connection);
    }

    /// Closes the connection; it must close without ceremony.
    pub fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close().map_err(|(_, e)| e).expect("the connection closes");
        }
    }

    /// Closes the file and opens it again, as a restarted application does.
    pub fn restart(&mut self) {
        self.close();
        self.open();
    }

    /// The connection, for what the helpers do not do.
    pub fn connection(&self) -> &Connection {
        self.connection.as_ref().expect("the device is open")
    }

    /// A second connection to the same file that never loads the extension.
    pub fn plain_connection(&self) -> Connection {
        let connection = Connection::open(self.path()).expect("a device file opens");
        connection.busy_timeout(std::time::Duration::from_secs(10)).expect("a timeout is set");
        connection
    }

    /// Runs statements.
    pub fn run(&self, sql: &str) {
        self.try_run(sql).unwrap_or_else(|e| panic!("{e}\nin: {sql}"));
    }

    /// Runs statements; an error comes back as text.
    pub fn try_run(&self, sql: &str) -> Result<(), String> {
        self.connection().execute_batch(sql).map_err(|e| e.to_string())
    }

    /// A query's rows as text; NULL is `∅`, a blob is `\x` and hexadecimal digits as Postgres writes it.
    pub fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        rows(self.connection(), sql)
    }

    /// A query's only value as text.
    pub fn value(&self, sql: &str) -> String {
        let rows = self.rows(sql);
        assert!(rows.len() == 1 && rows[0].len() == 1, "one value expected from {sql}: {rows:?}");
        rows[0][0].clone()
    }

    /// `SELECT pull_request()`.
    pub fn pull_request(&self) -> Vec<u8> {
        self.connection().query_row("SELECT pull_request()", [], |row| row.get(0)).expect("pull_request works")
    }

    /// `SELECT pending_ops()`: None when nothing waits to be sent.
    pub fn pending_ops(&self) -> Option<Vec<u8>> {
        let row = self.connection().query_row("SELECT pending_ops()", [], |row| row.get(0)).optional();
        row.expect("pending_ops works").flatten()
    }

    /// `SELECT apply_delta(message)`.
    pub fn apply(&self, message: &[u8]) -> Result<Answer, String> {
        let answer: String =
            self.connection().query_row("SELECT apply_delta(?)", [message], |row| row.get(0)).map_err(|e| e.to_string())?;
        Ok(Answer(serde_json::from_str(&answer).map_err(|e| format!("{e} in {answer}"))?))
    }

    /// Sends until nothing waits. Returns the last answer, if anything was sent.
    pub fn push(&self, client: &mut Client) -> Option<Answer> {
        let mut last = None;
        for _ in 0..10_000 {
            let Some(batches) = self.pending_ops() else { return last };
            let reply = server_push(client, &self.user, &batches).expect("sync.push answers");
            last = Some(self.apply(&reply).expect("a push reply is applied"));
        }
        panic!("pending_ops() does not end");
    }

    /// Asks until the server has no more. Returns all answers.
    pub fn pull(&self, client: &mut Client) -> Vec<Answer> {
        let mut answers = Vec::new();
        for _ in 0..100_000 {
            let reply = server_pull(client, &self.user, &self.pull_request()).expect("sync.pull answers");
            answers.push(self.apply(&reply).expect("a delta is applied"));
            if !answers[answers.len() - 1].more() {
                return answers;
            }
        }
        panic!("the pull does not end; last: {:?}", answers.last());
    }

    /// The whole loop.
    pub fn sync(&self, client: &mut Client) {
        self.push(client);
        self.pull(client);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.connection = None;
        if std::env::var_os("PG_SYNC_KEEP").is_some() {
            eprintln!("kept: {}", self.folder.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Loads the device's extension as any driver does.
pub fn load(connection: &Connection, library: &Path) {
    // SAFETY: the library is the one built from this workspace; it is loaded before the connection is used.
    unsafe {
        connection.load_extension_enable().expect("extensions can be loaded");
        connection.load_extension(library, None::<&str>).unwrap_or_else(|e| panic!("{}: {e}", library.display()));
    }
    connection.load_extension_disable().expect("loading can be switched off again");
}

/// A query's rows as text, see [`Device::rows`].
pub fn rows(connection: &Connection, sql: &str) -> Vec<Vec<String>> {
    let mut statement = connection.prepare(sql).unwrap_or_else(|e| panic!("{e}\nin: {sql}"));
    let columns = statement.column_count();
    let mut rows = statement.query([]).unwrap_or_else(|e| panic!("{e}\nin: {sql}"));
    let mut out = Vec::new();
    while let Some(row) = rows.next().unwrap_or_else(|e| panic!("{e}\nin: {sql}")) {
        out.push((0..columns).map(|i| text_of(row.get_ref(i).expect("the column exists"))).collect());
    }
    out
}

fn text_of(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "∅".to_owned(),
        ValueRef::Integer(i) => i.to_string(),
        ValueRef::Real(r) => format!("{r:?}"),
        ValueRef::Text(t) => String::from_utf8_lossy(t).into_owned(),
        ValueRef::Blob(b) => b.iter().fold("\\x".to_owned(), |text, byte| text + &format!("{byte:02x}")),
    }
}
