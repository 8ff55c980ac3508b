//! The clients: devices with an application and a sync loop, each in a thread of its own, and a writer on the server.

use crate::history::{End, Key, Session, Transaction, Value};
use crate::world::{self, KEYS};
use fastrand::Rng;
use postgres::{Client, NoTls};
use rusqlite::{Connection, ErrorCode};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use sync_shared::envelope::{decode, encode};
use sync_shared::message::PullRequest;
use sync_tests::device::{load, server_pull, server_push};
use sync_tests::{build, Device};

/// Registers that a transaction writes.
const WRITES: usize = 4;
/// Session `s` writes the values from `s * RANGE + 1` on.
const RANGE: Value = 1_000_000_000;

/// Says when to stop.
#[derive(Default)]
pub struct Stop(AtomicBool);

impl Stop {
    pub fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn yet(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Says so at the latest when its owner is dropped, also by a panic that clients would wait behind.
    pub fn at_the_end(&self) -> impl Drop + '_ {
        struct End<'s>(&'s Stop);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.now();
            }
        }
        End(self)
    }
}

/// How a client finds the server, also after it was started again.
pub type Connect<'a> = &'a (dyn Fn() -> Option<Client> + Sync);

/// Connects once; None while the server is down.
pub fn try_connect(socket: &Path, port: u16, database: &str) -> Option<Client> {
    let mut config = postgres::Config::new();
    config.host_path(socket).port(port).user("postgres").dbname(database);
    config.connect(NoTls).ok()
}

/// Values never written before, for distinct registers.
fn draw(rng: &mut Rng, session: &Session, number: usize) -> Vec<(Key, Value)> {
    let keys = rng.choose_multiple(0..KEYS, WRITES);
    let first = number as Value * RANGE + (session.transactions.len() * WRITES) as Value + 1;
    keys.into_iter().zip(first..).collect()
}

fn nap(rng: &mut Rng, millis: std::ops::Range<u64>) {
    std::thread::sleep(Duration::from_millis(rng.u64(millis)));
}

/// An application on a device: its own connection, with the extension or without, opened again now and then.
pub fn application(path: &Path, number: usize, stop: &Stop, rng: &mut Rng) -> Session {
    let with_extension = !number.is_multiple_of(3);
    let name = format!("device {number}{}", if with_extension { "" } else { " (a plain connection)" });
    let mut session = Session { name, transactions: Vec::new() };
    while !stop.yet() {
        let connection = Connection::open(path).expect("the file opens");
        connection.busy_timeout(Duration::from_secs(30)).expect("a timeout");
        if with_extension {
            load(&connection, &build::library("libsqlite_sync.so"));
        }
        for _ in 0..rng.usize(10..100) {
            if stop.yet() {
                break;
            }
            let writes = draw(rng, &session, number);
            let commit = rng.u8(..20) > 0;
            session.transactions.push(on_device(&connection, writes, commit, !with_extension).expect("a local transaction"));
            nap(rng, 20..120);
        }
    }
    session
}

/// Reads all registers of a device.
pub fn read(connection: &Connection) -> rusqlite::Result<Vec<Value>> {
    let mut statement = connection.prepare(world::READ)?;
    let rows = statement.query_map([], |row| Ok([row.get(0)?, row.get(1)?]))?;
    Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.concat())
}

fn on_device(connection: &Connection, writes: Vec<(Key, Value)>, commit: bool, mark: bool) -> rusqlite::Result<Transaction> {
    loop {
        match connection.execute_batch("BEGIN IMMEDIATE") {
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => continue,
            begun => begun?,
        }
        let before = read(connection)?;
        for (key, value) in &writes {
            connection.execute_batch(&world::write(*key, *value))?;
        }
        let after = read(connection)?;
        if mark {
            // Without the extension a transaction says itself that it is one.
            connection.execute_batch("INSERT INTO sync_marker DEFAULT VALUES")?;
        }
        connection.execute_batch(if commit { "COMMIT" } else { "ROLLBACK" })?;
        let end = if commit { End::Committed } else { End::RolledBack };
        return Ok(Transaction { before, writes, after, end });
    }
}

/// A device's sync loop: runs at random times, over a network that loses requests and replies, with offline spells.
pub fn sync_loop(device: &mut Device, connect: Connect<'_>, stop: &Stop, rng: &mut Rng) {
    let mut server = None;
    while !stop.yet() {
        match rng.u8(..100) {
            0..8 => nap(rng, 200..1500),
            8..12 => device.restart(),
            _ => nap(rng, 1..60),
        }
        let client = match &mut server {
            Some(client) => client,
            nobody => match connect() {
                Some(client) => nobody.insert(client),
                None => continue,
            },
        };
        if round(device, client, rng, true).is_none() && client.is_closed() {
            server = None;
        }
    }
}

/// Until nothing waits on the device and the server has no more.
pub fn finish(device: &Device, server: &mut Client, rng: &mut Rng) {
    for _ in 0..20 {
        round(device, server, rng, false).expect("a round with a good network");
        if device.value("SELECT count(*) FROM sync_pending") == "0" {
            return;
        }
    }
    panic!("batches still wait after twenty rounds with a good network");
}

/// The client loop once; None where the network or the server failed on the way.
fn round(device: &Device, server: &mut Client, rng: &mut Rng, lossy: bool) -> Option<()> {
    let lost = |rng: &mut Rng| lossy && rng.u8(..12) == 0;
    // A reply to a push that gets lost does not keep a client from pulling, but it waits for the reply first.
    while let Some(batches) = device.pending_ops() {
        if lost(rng) {
            break;
        }
        let reply = server_push(server, &device.user, &batches);
        if lost(rng) {
            nap(rng, 50..400);
            break;
        }
        device.apply(&arrived(reply)?).expect("a push reply is applied");
    }
    loop {
        let mut request: PullRequest = decode(&device.pull_request()).expect("a request can be read");
        request.page_bytes = [300, 2_000, 1 << 20][rng.usize(..3)];
        let request = encode(&request).expect("a request can be written");
        if lost(rng) {
            return None;
        }
        let reply = arrived(server_pull(server, &device.user, &request))?;
        if lost(rng) {
            return None;
        }
        if !device.apply(&reply).expect("a delta is applied").more() {
            return Some(());
        }
    }
}

/// The answer, unless a lock or a crash of the server was in the way.
fn arrived(answer: Result<Vec<u8>, String>) -> Option<Vec<u8>> {
    const PASSING: [&str; 8] = ["40P01", "40001", "55P03", "57P01", "57P02", "57P03", "connection closed", "error communicating"];
    match answer {
        Ok(reply) => Some(reply),
        Err(e) if PASSING.iter().any(|p| e.starts_with(p)) => None,
        Err(e) => panic!("the server failed: {e}"),
    }
}

/// Somebody who works on the server itself.
pub fn server_writer(connect: Connect<'_>, number: usize, stop: &Stop, rng: &mut Rng) -> Session {
    let mut session = Session { name: "the server's own writer".into(), transactions: Vec::new() };
    while !stop.yet() {
        let Some(mut client) = connect() else {
            nap(rng, 10..50);
            continue;
        };
        while !stop.yet() && !client.is_closed() {
            let writes = draw(rng, &session, number);
            if let Some(transaction) = on_server(&mut client, writes, rng.u8(..10) > 0) {
                session.transactions.push(transaction);
            }
            if rng.u8(..20) == 0 {
                // It may meet a crash, as everybody may.
                let _maintained = client.batch_execute("SELECT sync.maintain()");
            }
            nap(rng, 20..120);
        }
    }
    session
}

fn server_read(client: &mut Client) -> Result<Vec<Value>, postgres::Error> {
    Ok(client.query(world::READ, &[])?.iter().flat_map(|row| [row.get(0), row.get(1)]).collect())
}

/// All registers as the server holds them.
pub fn server_registers(client: &mut Client) -> Vec<Value> {
    server_read(client).expect("the server's registers")
}

/// None where the server was gone before anything was written.
fn on_server(client: &mut Client, writes: Vec<(Key, Value)>, commit: bool) -> Option<Transaction> {
    client.batch_execute("BEGIN").ok()?;
    let before = server_read(client).ok()?;
    let ended = |end| Some(Transaction { before: before.clone(), writes: writes.clone(), after: Vec::new(), end });
    for (key, value) in &writes {
        if let Err(e) = client.batch_execute(&world::write(*key, *value)) {
            // A deadlock with a push, or a crash: it is rolled back in either case.
            let _nothing_open = client.batch_execute("ROLLBACK");
            assert!(client.is_closed() || e.code().is_some(), "the server's writer failed: {e}");
            return ended(End::RolledBack);
        }
    }
    let done = client.batch_execute(if commit { "COMMIT" } else { "ROLLBACK" });
    ended(match (commit, done) {
        (false, _) => End::RolledBack,
        (true, Ok(())) => End::Committed,
        (true, Err(_)) => End::Unknown,
    })
}
