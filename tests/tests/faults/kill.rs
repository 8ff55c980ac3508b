//! An application that writes and syncs is killed again and again, at any moment. What it said it had committed is on the server
//! once, whatever was going on. `FAULTS_SECONDS=600` goes on for longer.

use fastrand::Rng;
use postgres::{Client, Config, NoTls};
use rusqlite::Connection;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use sync_tests::compare::{assert_same, assert_verified, server_rows};
use sync_tests::device::{server_pull, server_push};
use sync_tests::{build, device, Cluster, Device, User};

const TABLES: &str = "
    CREATE TABLE note (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), n bigint NOT NULL, part int NOT NULL, body text);
    CREATE TABLE other (id int PRIMARY KEY, body text);
    SELECT sync.create_bucket('all');
    SELECT sync.add_table('all', 'note');
    SELECT sync.add_table('all', 'other');
";
/// Tells the application where its file is, where the server is, and from which number on it writes.
const APPLICATION: &str = "FAULTS_APPLICATION";

/// What the application said before it was killed.
fn run_and_kill(device: &Path, socket: &Path, database: &str, from: u64, after: Duration) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child.args(["--ignored", "--exact", "kill::application", "--nocapture"]);
    child.env(APPLICATION, format!("{}\n{}\n{database}\n{from}", device.display(), socket.display()));
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the application starts");
    let output = BufReader::new(child.stdout.take().expect("a pipe"));
    let (say, said) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        lines.filter_map(|line| line.strip_prefix("committed ")?.parse().ok()).try_for_each(|n: u64| say.send(n))
    });
    // Mostly when it is at work, sometimes while it starts.
    let mut committed = Vec::new();
    if !after.as_millis().is_multiple_of(8) {
        committed.extend(said.recv_timeout(Duration::from_secs(20)));
    }
    std::thread::sleep(after);
    child.kill().expect("the application is killed");
    child.wait().expect("the application ends");
    reader.join().expect("its output is read").expect("somebody listens");
    committed.extend(said);
    committed
}

#[test]
fn faults_an_application_is_killed_again_and_again() {
    let seconds = crate::seconds().unwrap_or(12);
    let db = Cluster::shared().database();
    db.run(TABLES);
    db.run("INSERT INTO other SELECT i, md5(i::text) FROM generate_series(1, 200) i");
    let mut server = db.connect();
    let mut device = Device::new("ann");
    device.sync(&mut server);
    device.close();
    let (mut rng, mut committed, mut kills) = (Rng::new(), Vec::new(), 0);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        // The server changes too, so that there is something to download.
        let change = format!("UPDATE other SET body = '{}' WHERE id % 7 = {}", rng.u32(..), rng.u8(..7));
        server.batch_execute(&change).expect("the server writes");
        let after = Duration::from_millis(rng.u64(..60));
        committed.extend(run_and_kill(&device.path(), &Cluster::shared().socket(), db.name(), kills * 1_000_000, after));
        kills += 1;
    }
    device.restart();
    assert_eq!(device.value("PRAGMA integrity_check"), "ok");
    for _ in 0..3 {
        device.sync(&mut server);
    }
    assert_eq!(device.rows("SELECT * FROM sync_pending"), Vec::<Vec<String>>::new());
    assert_eq!(device.rows("SELECT * FROM sync_rejected"), Vec::<Vec<String>>::new());
    for table in ["note", "other"] {
        assert_same(&device, &mut server, &format!("SELECT * FROM {table}"));
    }
    assert_verified(&device);
    let broken = server_rows(
        &mut server,
        "SELECT n, count(*) FROM note GROUP BY n HAVING count(*) <> 2 OR min(part) <> 1 OR max(part) <> 2",
    );
    assert_eq!(broken, Vec::<Vec<String>>::new(), "transactions that are on the server in part, or more than once");
    let there: std::collections::HashSet<String> =
        server_rows(&mut server, "SELECT DISTINCT n FROM note").into_iter().map(|mut row| row.remove(0)).collect();
    let lost: Vec<_> = committed.iter().filter(|n| !there.contains(&n.to_string())).collect();
    assert!(lost.is_empty(), "committed, and lost: {lost:?}");
    assert!(!committed.is_empty(), "the application never came to write");
    println!("killed {kills} times; of {} transactions on the server {} were acknowledged", there.len(), committed.len());
}

#[test]
#[ignore = "started by faults_an_application_is_killed_again_and_again"]
fn application() {
    let Ok(told) = std::env::var(APPLICATION) else { return };
    let told: Vec<_> = told.lines().collect();
    let [file, socket, database, from] = told[..] else { panic!("{told:?}") };
    let own = open(Path::new(file));
    device::load(&own, &build::library("libsqlite_sync.so"));
    let plain = open(Path::new(file));
    let mut server =
        Config::new().host_path(socket).user("postgres").dbname(database).connect(NoTls).expect("the server is there");
    let (user, mut rng) = (User::new("ann"), Rng::new());
    for n in from.parse::<u64>().expect("a number").. {
        write(if rng.bool() { &own } else { &plain }, n);
        if rng.u8(..3) == 0 {
            sync(&own, &mut server, &user);
        }
    }
}

fn open(file: &Path) -> Connection {
    let connection = Connection::open(file).expect("the file opens");
    connection.busy_timeout(Duration::from_secs(10)).expect("a timeout is set");
    connection.pragma_update(None, "synchronous", "NORMAL").expect("synchronous is set");
    connection
}

/// A transaction of two rows, said only when it is committed.
fn write(connection: &Connection, n: u64) {
    let rows = format!(
        "BEGIN; INSERT INTO note (n, part, body) VALUES ({n}, 1, 'a'); INSERT INTO note (n, part, body) VALUES ({n}, 2, 'b'); COMMIT;
         INSERT INTO sync_marker DEFAULT VALUES"
    );
    connection.execute_batch(&rows).expect("a transaction is written");
    println!("committed {n}");
    std::io::stdout().flush().expect("it is said");
}

fn sync(connection: &Connection, server: &mut Client, user: &User) {
    let apply = |message: Vec<u8>| -> String {
        connection.query_row("SELECT apply_delta(?)", [message], |row| row.get(0)).expect("a message is applied")
    };
    let next = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, Option<Vec<u8>>>(0)).expect("a message is made");
    while let Some(batches) = next("SELECT pending_ops()") {
        apply(server_push(server, user, &batches).expect("sync.push answers"));
    }
    loop {
        let request = next("SELECT pull_request()").expect("a request");
        if !apply(server_pull(server, user, &request).expect("sync.pull answers")).contains("\"more\":true") {
            return;
        }
    }
}
