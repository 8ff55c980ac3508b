//! A server, and scenes: a device's file at some point of its life, and the call that is made there.

use postgres::Client;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use sync_shared::envelope;
use sync_shared::message::Delta;
use sync_tests::compare::{assert_same, assert_verified, server_rows};
use sync_tests::device::{rows, server_pull, server_push};
use sync_tests::{build, device, vfs, Cluster, Database, Device};

const TABLES: &str = "
    CREATE TABLE note (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text NOT NULL CHECK (title <> 'bad'), body text, rank int);
    SELECT sync.create_bucket('all');
    SELECT sync.add_table('all', 'note');
    INSERT INTO note (title, body, rank) SELECT 'note ' || i, repeat(md5(i::text), 3), i FROM generate_series(1, 120) i;
";

/// One transaction of the application.
const LOCAL: &str = "BEGIN;
    INSERT INTO note (title, body) VALUES ('mine', 'a'), ('mine', 'b'), ('mine', 'c');
    UPDATE note SET body = 'changed', rank = 1 WHERE body = 'b';
    UPDATE note SET body = 'touched' WHERE rank = 40;
    COMMIT";

/// A device's file, and one call that is made with it.
#[derive(Serialize, Deserialize)]
pub struct Scene {
    pub name: String,
    /// Empty: there is no file yet.
    file: Vec<u8>,
    sql: String,
    message: Option<Vec<u8>>,
    /// Whether the connection has the extension.
    loads: bool,
}

/// A server and its scenes.
pub struct World {
    _db: Database<'static>,
    pub server: Client,
    /// Where the files are placed.
    pub device: Device,
    /// Keeps the library in memory while files are opened and closed.
    _loaded: Connection,
    pub scenes: Vec<Scene>,
}

/// How the file keeps its journal, and how it is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// WAL, synchronous = FULL.
    Wal,
    /// A journal that is deleted at each commit, synchronous = EXTRA.
    Delete,
    /// A journal that is emptied at each commit, synchronous = FULL.
    Truncate,
}

impl Scene {
    fn new(name: &str, file: Vec<u8>, sql: &str, message: Option<Vec<u8>>) -> Scene {
        Scene { name: name.to_owned(), file, sql: sql.to_owned(), message, loads: true }
    }

    fn apply(name: &str, file: Vec<u8>, message: &[u8]) -> Scene {
        Scene::new(name, file, "SELECT apply_delta(?)", Some(message.to_owned()))
    }

    /// Puts the file in its place.
    pub fn place(&self, path: &Path, journal: Journal) {
        for end in ["", "-wal", "-shm", "-journal"] {
            drop(std::fs::remove_file(format!("{}{end}", path.display())));
        }
        let mut file = self.file.clone();
        if !file.is_empty() {
            // The bytes of the header that say which kind of journal.
            file[18..20].fill(if journal == Journal::Wal { 2 } else { 1 });
            std::fs::write(path, file).expect("a file is placed");
        }
    }

    /// A connection as an application would open it.
    pub fn open(&self, path: &Path, journal: Journal, faults: bool) -> Connection {
        let connection = if faults {
            Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs::name())
        } else {
            Connection::open(path)
        };
        let connection = connection.expect("the file opens");
        let (mode, synchronous) = match journal {
            Journal::Wal => ("WAL", "FULL"),
            Journal::Delete => ("DELETE", "EXTRA"),
            Journal::Truncate => ("TRUNCATE", "FULL"),
        };
        connection.pragma_update(None, "journal_mode", mode).expect("the journal is set");
        connection.pragma_update(None, "synchronous", synchronous).expect("synchronous is set");
        if self.loads {
            device::load(&connection, &build::library("libsqlite_sync.so"));
        }
        connection
    }

    /// Makes the call; an error comes back as text.
    pub fn call(&self, connection: &Connection) -> Result<(), String> {
        let made = match &self.message {
            Some(message) => connection.query_row(&self.sql, [message], |_| Ok(())),
            None if self.sql.starts_with("SELECT") => connection.query_row(&self.sql, [], |_| Ok(())),
            None => connection.execute_batch(&self.sql),
        };
        made.map_err(|error| error.to_string())
    }

    /// Whether the call is a transaction of the application.
    pub fn is_transaction(&self) -> bool {
        self.sql.starts_with("BEGIN")
    }

    /// What the file looks like before and after the call.
    pub fn states(&self, path: &Path) -> [String; 2] {
        self.place(path, Journal::Wal);
        let before = state(path);
        self.place(path, Journal::Wal);
        let connection = self.open(path, Journal::Wal, false);
        self.call(&connection).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        drop(connection);
        [before, state(path)]
    }
}

/// What a file holds, without what is random; what was written and not sealed is sealed first.
pub fn state(path: &Path) -> String {
    let connection = Connection::open(path).expect("the file opens");
    connection.pragma_update(None, "synchronous", "OFF").expect("synchronous is set");
    assert_eq!(rows(&connection, "PRAGMA integrity_check"), [["ok"]]);
    let own = "SELECT count(*) FROM sqlite_schema WHERE name = 'sync_meta'";
    if rows(&connection, own) == [["0"]] {
        return format!("{:?}", rows(&connection, "SELECT name FROM sqlite_schema"));
    }
    device::load(&connection, &build::library("libsqlite_sync.so"));
    connection.query_row("SELECT pending_ops()", [], |_| Ok(())).expect("pending_ops works");
    let of_note = "SELECT coalesce(group_concat(name), '') FROM pragma_table_info('note') WHERE name <> 'id' ORDER BY name";
    let columns = &rows(&connection, of_note)[0][0];
    let notes =
        if columns.is_empty() { vec![] } else { rows(&connection, &format!("SELECT {columns} FROM note ORDER BY {columns}")) };
    let more: Vec<_> = [
        "SELECT state, changes, verdict FROM sync_pending ORDER BY id",
        "SELECT code, message, batch IS NOT NULL FROM sync_rejected ORDER BY id",
        "SELECT name, value FROM sync_status WHERE name IN ('user', 'generation', 'cursor_known', 'staged_pages', 'staged_rows', 'rows', 'complete')",
        "SELECT rule, state, rows, sum FROM sync_buckets",
    ]
    .iter()
    .map(|sql| rows(&connection, sql))
    .collect();
    format!("{columns} {notes:?}\n{more:?}")
}

/// Everything in a file, as it is.
pub fn dump(connection: &Connection) -> Vec<Vec<Vec<String>>> {
    let tables = rows(connection, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name");
    tables.iter().map(|table| rows(connection, &format!("SELECT * FROM \"{}\"", table[0]))).collect()
}

impl World {
    pub fn new() -> World {
        let db = Cluster::shared().database();
        db.run(TABLES);
        let server = db.connect();
        let loaded = Connection::open_in_memory().expect("a database in memory");
        device::load(&loaded, &build::library("libsqlite_sync.so"));
        let mut world = World { _db: db, server, device: Device::new("ann"), _loaded: loaded, scenes: Vec::new() };
        world.first_sync();
        world.answered();
        world.changed();
        world.quiet();
        world
    }

    pub fn path(&self) -> PathBuf {
        self.device.path()
    }

    /// The file as it is on the disk now.
    fn file(&mut self) -> Vec<u8> {
        self.device.close();
        let file = std::fs::read(self.path()).expect("the file can be read");
        self.device.restart();
        file
    }

    fn add(&mut self, scene: Scene) {
        self.scenes.push(scene);
    }

    /// From nothing: the tables are made, pages are staged, the last one publishes.
    fn first_sync(&mut self) {
        self.add(Scene::new("the first request", Vec::new(), "SELECT pull_request()", None));
        self.device.pull_request();
        self.device.run("UPDATE sync_setting SET value = 6000 WHERE name = 'page_bytes'");
        for page in 0.. {
            let reply = server_pull(&mut self.server, &self.device.user, &self.device.pull_request()).expect("a page");
            let delta: Delta = envelope::decode(&reply).expect("a delta");
            let file = self.file();
            match delta.publish {
                None if page == 1 => self.add(Scene::apply("a page is staged", file, &reply)),
                Some(_) => self.add(Scene::apply("the first publish", file, &reply)),
                None => {}
            }
            if !self.device.apply(&reply).expect("the page is applied").more() {
                break;
            }
        }
        self.device.run("UPDATE sync_setting SET value = 1000000 WHERE name = 'page_bytes'");
        self.device.sync(&mut self.server);
    }

    /// One of two batches is rejected, and one behind it touches the same row.
    fn answered(&mut self) {
        self.device.run("INSERT INTO note (title, body) VALUES ('good', 'accepted')");
        self.device.run("UPDATE note SET title = 'bad', rank = -1 WHERE rank = 3");
        let batches = self.device.pending_ops().expect("batches");
        let reply = server_push(&mut self.server, &self.device.user, &batches).expect("an answer");
        self.device.run("UPDATE note SET body = 'behind' WHERE rank = -1");
        let file = self.file();
        self.add(Scene::apply("one accepted, one rejected", file, &reply));
        self.device.apply(&reply).expect("the answer is applied");
        let (file, id) = (self.file(), self.device.value("SELECT id FROM sync_rejected"));
        let edits = r#"[{"table": "note", "key": [KEY], "new": {"title": "good after all"}}]"#;
        let key = self.device.value("SELECT json_extract(batch, '$[0].key[0]') FROM sync_rejected");
        let sql = format!("SELECT sync_retry({id}, '{}')", edits.replace("KEY", &format!("\"{key}\"")));
        self.add(Scene::new("a rejected batch is written again", file, &sql, None));
    }

    /// The server's rows and columns changed, while writes wait here: one sealed, one not.
    fn changed(&mut self) {
        self.device.run("UPDATE note SET body = 'rebased' WHERE rank IN (10, 11, 12)");
        self.device.pending_ops().expect("batches");
        self.device.run("INSERT INTO note (title, body) VALUES ('good', 'not sealed yet')");
        let statements = "
            UPDATE note SET title = 'changed ' || rank WHERE rank BETWEEN 10 AND 30;
            DELETE FROM note WHERE rank BETWEEN 31 AND 38;
            INSERT INTO note (title, rank) SELECT 'new ' || i, 1000 + i FROM generate_series(1, 10) i;
            ALTER TABLE note ADD COLUMN extra text;
            UPDATE note SET extra = 'more' WHERE rank < 15;";
        self.server.batch_execute(statements).expect("the server changes");
        let reply = server_pull(&mut self.server, &self.device.user, &self.device.pull_request()).expect("a delta");
        let file = self.file();
        self.add(Scene::apply("changes, deletes, a new column, and a rebase", file, &reply));
        self.device.apply(&reply).expect("the delta is applied");
        self.device.sync(&mut self.server);
    }

    /// What happens without the server.
    fn quiet(&mut self) {
        let file = self.file();
        self.add(Scene::new("a local transaction", file.clone(), LOCAL, None));
        self.add(Scene { loads: false, ..Scene::new("a local transaction without the extension", file, LOCAL, None) });
        self.device.run("UPDATE sync_guard SET applying = 1; UPDATE note SET body = 'damaged' WHERE rank = 50; UPDATE sync_guard SET applying = 0");
        let file = self.file();
        self.add(Scene::new("a difference is found", file, "SELECT sync_verify()", None));
        self.device.run("SELECT sync_verify()");
        self.device.sync(&mut self.server);
        for i in 0..4 {
            self.device.run(&format!(
                "INSERT INTO note (title, body) VALUES ('good', 'waits {i}'); UPDATE note SET body = 'n{i}' WHERE rank = 60"
            ));
        }
        let file = self.file();
        self.add(Scene::new("transactions are sealed", file.clone(), "SELECT pending_ops()", None));
        self.add(Scene::new("signing out, all kept", file.clone(), "SELECT sync_sign_out('keep')", None));
        self.add(Scene::new("signing out, all wiped", file, "SELECT sync_sign_out('wipe')", None));
    }

    /// The device goes on with the server, and both are the same in the end.
    pub fn converge(&mut self, what: &str) {
        self.device.restart();
        // Nothing to verify where nothing was synced, or all was wiped.
        drop(self.device.try_run("SELECT sync_verify()"));
        for _ in 0..4 {
            self.device.sync(&mut self.server);
            if self.device.value("SELECT count(*) FROM sync_pending WHERE state = 'waiting'") == "0" {
                break;
            }
        }
        let waiting = self.device.rows("SELECT * FROM sync_pending");
        assert_eq!(waiting, Vec::<Vec<String>>::new(), "{what}: not everything was sent and confirmed");
        assert_same(&self.device, &mut self.server, "SELECT id, title, body, rank FROM note");
        assert_verified(&self.device);
        self.device.close();
    }

    /// How many rows of the application's transaction the server has.
    pub fn arrived(&mut self) -> usize {
        server_rows(&mut self.server, "SELECT 1 FROM note WHERE title IN ('mine')").len()
    }
}
