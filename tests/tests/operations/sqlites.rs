//! The newest SQLite, as PyPI's apsw brings it; all other tests run on the system's.

use serde_json::{json, Value};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use sync_tests::build::{library, root};
use sync_tests::compare::server_rows;
use sync_tests::device::{server_pull, server_push};
use sync_tests::{Cluster, User};

/// A device in a process of its own, see tests/apsw/device.py.
struct Newest {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    version: String,
}

impl Newest {
    fn start(python: &str, path: &std::path::Path) -> Newest {
        let mut command = Command::new(python);
        command.arg(root().join("tests/apsw/device.py")).arg(library("libsqlite_sync.so")).arg(path);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python starts");
        let to = process.stdin.take().expect("a pipe");
        let from = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut device = Newest { process, to, from, version: String::new() };
        device.version = device.answer()["version"].as_str().expect("a version").to_owned();
        device
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }

    fn rows(&mut self, sql: &str, blob: Option<&[u8]>) -> Vec<Vec<Value>> {
        let hex = blob.map(|bytes| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>());
        writeln!(self.to, "{}", json!({ "sql": sql, "blob": hex })).expect("it listens");
        let answer = self.answer();
        assert_eq!(answer.get("error"), None, "in {sql}");
        serde_json::from_value(answer["rows"].clone()).expect("rows")
    }

    /// A call's blob; None for NULL.
    fn blob(&mut self, sql: &str) -> Option<Vec<u8>> {
        let hex = self.rows(sql, None)[0][0]["hex"].as_str()?.to_owned();
        Some((0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex")).collect())
    }

    fn apply(&mut self, reply: &[u8]) -> bool {
        let answer = self.rows("SELECT apply_delta(?)", Some(reply))[0][0].as_str().expect("JSON").to_owned();
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        answer["more"] == json!(true) || answer["more"] == json!(1)
    }

    fn sync(&mut self, server: &mut postgres::Client, user: &User) {
        while let Some(batches) = self.blob("SELECT pending_ops()") {
            let reply = server_push(server, user, &batches).expect("taken");
            self.apply(&reply);
        }
        loop {
            let request = self.blob("SELECT pull_request()").expect("a request");
            let reply = server_pull(server, user, &request).expect("an answer");
            if !self.apply(&reply) {
                break;
            }
        }
    }
}

#[test]
fn the_newest_sqlite_makes_the_round_trip() {
    // `./dev test` says so where it is missing.
    let Ok(python) = std::env::var("SYNC_APSW") else { return };
    let db = Cluster::shared().database();
    db.run("BEGIN; CREATE TABLE task (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), body text NOT NULL, n numeric, at timestamptz DEFAULT now(), raw bytea);
        INSERT INTO task (body, n, raw) VALUES ('from the server', 1.50, 'x'); COMMIT;
        SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'task')");
    let mut server = db.connect();
    let folder = std::env::temp_dir().join(format!("pg_sync_apsw.{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut device = Newest::start(&python, &folder.join("device.db"));
    let number = |version: &str| version.split('.').map(|n| n.parse::<u32>().expect("a number")).collect::<Vec<_>>();
    assert!(number(&device.version) >= vec![3, 50], "{}", device.version);
    let user = User::new("ann");
    device.sync(&mut server, &user);
    device.rows("UPDATE task SET body = body || ', changed'", None);
    device.rows("INSERT INTO task (body) VALUES ('from the device')", None);
    device.rows("BEGIN", None);
    device.rows("INSERT INTO task (body, raw) VALUES ('gone', x'00ff')", None);
    device.rows("SAVEPOINT s", None);
    device.rows("UPDATE task SET n = '2.25' WHERE body = 'from the device'", None);
    device.rows("RELEASE s", None);
    device.rows("DELETE FROM task WHERE body = 'gone'", None);
    device.rows("COMMIT", None);
    device.sync(&mut server, &user);
    device.sync(&mut server, &user);
    let sql = "SELECT body, n FROM task ORDER BY body";
    let expected = vec![vec!["from the device", "2.25"], vec!["from the server, changed", "1.50"]];
    assert_eq!(server_rows(&mut server, sql), expected);
    assert_eq!(
        device.rows(sql, None),
        expected.iter().map(|row| row.iter().map(|v| json!(v)).collect()).collect::<Vec<Vec<Value>>>()
    );
    let verified = device.rows("SELECT sync_verify()", None);
    assert!(verified[0][0].as_str().is_some_and(|v| !v.contains("mismatch")), "{verified:?}");
    assert_eq!(device.rows("PRAGMA integrity_check", None), [["ok"]]);
    drop(device.to);
    device.process.wait().expect("it ends");
    std::fs::remove_dir_all(folder).expect("removed");
}
