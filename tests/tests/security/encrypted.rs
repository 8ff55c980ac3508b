//! The file encrypted at rest: the library in builds of SQLite that do it.

use postgres::Client;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use sync_tests::compare::{server_rows, server_value};
use sync_tests::device::{server_pull, server_push, User};
use sync_tests::{build, Cluster, Database, Device};

const KEY: &str = "the key of the file";
/// What is in an ordinary file after the same.
const READABLE: [&str; 6] = ["of the server", "of the device", "refused", "diary", "sync_meta", "SQLite format 3"];

/// A device in a process of its own.
struct Encrypted {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Encrypted {
    /// Opens the file; None: the key does not fit.
    fn open(build: &str, folder: &Path, key: &str) -> Option<Encrypted> {
        let python = std::env::var("SYNC_CIPHERS").expect("./dev test installs what this needs");
        let mut process = Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("encrypted/device.py"))
            .args([
                build.as_ref(),
                folder.join("device.db").as_os_str(),
                build::library("libsqlite_sync.so").as_os_str(),
                key.as_ref(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let input = process.stdin.take().expect("an input");
        let output = BufReader::new(process.stdout.take().expect("an output"));
        let mut device = Encrypted { process, input, output };
        device.read().is_ok().then_some(device)
    }

    fn read(&mut self) -> Result<Vec<u8>, String> {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("an answer");
        let (how, value) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let digits = |i| u8::from_str_radix(&value[i..i + 2], 16).unwrap_or_default();
        let value: Vec<u8> = if value == "-" { Vec::new() } else { (0..value.len()).step_by(2).map(digits).collect() };
        if how == "ok" {
            Ok(value)
        } else {
            Err(String::from_utf8_lossy(&value).into_owned())
        }
    }

    /// The first value of a statement; empty for NULL.
    fn call(&mut self, sql: &str, blob: Option<&[u8]>) -> Vec<u8> {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        writeln!(self.input, "{} {}", hex(sql.as_bytes()), blob.map_or("-".into(), hex)).expect("python listens");
        self.read().unwrap_or_else(|e| panic!("{e}\nin: {sql}"))
    }

    fn value(&mut self, sql: &str) -> String {
        String::from_utf8(self.call(sql, None)).expect("a text")
    }

    fn sync(&mut self, server: &mut Client, user: &User) {
        loop {
            let batches = self.call("SELECT pending_ops()", None);
            if batches.is_empty() {
                break;
            }
            let reply = server_push(server, user, &batches).expect("a reply");
            self.call("SELECT apply_delta(?)", Some(&reply));
        }
        loop {
            let request = self.call("SELECT pull_request()", None);
            let page = server_pull(server, user, &request).expect("a page");
            let answer = self.call("SELECT apply_delta(?)", Some(&page));
            if !String::from_utf8_lossy(&answer).contains("\"more\":true") {
                return;
            }
        }
    }
}

/// What of `READABLE` stands in the files of a folder.
fn readable(folder: &Path) -> Vec<&'static str> {
    let files =
        std::fs::read_dir(folder).expect("the folder").map(|file| std::fs::read(file.expect("a file").path()).expect("read"));
    let bytes = files.collect::<Vec<_>>().concat();
    assert!(bytes.len() > 10_000, "there is something to look at");
    READABLE.into_iter().filter(|text| bytes.windows(text.len()).any(|window| window == text.as_bytes())).collect()
}

fn diary() -> (Database<'static>, Client) {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE diary (id int PRIMARY KEY, body text CHECK (body <> 'refused'))");
    db.run("INSERT INTO diary SELECT i, 'of the server ' || i FROM generate_series(1, 200) i");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'diary')");
    let server = db.connect();
    (db, server)
}

const WRITES: [&str; 3] = [
    "INSERT INTO diary VALUES (1000, 'of the device')",
    "INSERT INTO diary VALUES (1001, 'refused')",
    "UPDATE diary SET body = 'of the device too' WHERE id = 1",
];

fn works(build: &str) {
    let (_db, mut server) = diary();
    let ann = User::new("ann");
    let folder = std::env::temp_dir().join(format!("sync_encrypted_{build}_{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut device = Encrypted::open(build, &folder, KEY).expect("it opens");
    device.sync(&mut server, &ann);
    assert_eq!(device.value("SELECT count(*) FROM diary"), "200");
    for sql in WRITES {
        device.value(sql);
    }
    assert_eq!(readable(&folder), [""; 0], "unsent writes");
    device.sync(&mut server, &ann);
    assert_eq!(
        server_rows(&mut server, "SELECT id, body FROM diary WHERE id IN (1, 1000, 1001) ORDER BY 1"),
        [["1", "of the device too"], ["1000", "of the device"]]
    );
    assert_eq!(device.value("SELECT count(*) || code FROM sync_rejected"), "123514");
    server.batch_execute("UPDATE diary SET body = 'of the server, later' WHERE id = 2").expect("updated");
    device.sync(&mut server, &ann);
    assert_eq!(device.value("SELECT body FROM diary WHERE id = 2"), "of the server, later");
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.device"), "1");
    device.value("PRAGMA wal_checkpoint(PASSIVE)");
    assert_eq!(readable(&folder), [""; 0]);
    let everything = device.value("everything");
    assert!(everything.contains("of the device too") && !everything.contains(KEY), "the key is not kept in what it locks");
    // Opened again, and by somebody without the key.
    drop(device);
    assert!(Encrypted::open(build, &folder, "another key").is_none());
    let mut device = Encrypted::open(build, &folder, KEY).expect("it opens");
    assert_eq!(device.value("SELECT json_extract(sync_verify(), '$.different')"), "[]");
    device.value("SELECT sync_sign_out('wipe')");
    assert_eq!(device.value("SELECT count(*) FROM sqlite_schema"), "0");
    drop(device);
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn nothing_is_readable_in_a_file_that_sqlcipher_encrypts() {
    works("sqlcipher");
}

#[test]
fn nothing_is_readable_in_a_file_that_sqlite3_multiple_ciphers_encrypts() {
    works("sqlite3mc");
}

#[test]
fn all_of_it_is_readable_in_an_ordinary_file() {
    let (_db, mut server) = diary();
    let device = Device::new("ann");
    device.sync(&mut server);
    for sql in WRITES {
        device.run(sql);
    }
    device.sync(&mut server);
    assert_eq!(readable(device.path().parent().expect("a folder")), READABLE);
}

#[test]
fn a_file_holds_no_secret() {
    let (_db, mut server) = diary();
    let device = Device::new("ann");
    device.sync(&mut server);
    // Whatever the library remembers by name: none is a token, a key or a password, and no function takes one.
    let known = "asked complete cursor deferred device device_user expected format generation keys_asked keys_refused last_edit last_number \
                 missed need_held notice pass published_at pushed_at restored resync retries server_time staged_rows stalls trigger_problem turn user \
                 verified_at wiped";
    for name in device.rows("SELECT name FROM sync_meta").concat() {
        assert!(known.split_whitespace().any(|known| known == name), "{name} is new: is it a secret?");
    }
}
