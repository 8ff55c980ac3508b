//! What the figures depend on: the machine, the versions, the cost of a flush and of a round trip.

use postgres::Client;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Instant;

use crate::stats::Spread;

/// Facts by name.
pub struct Machine {
    /// In the order they are printed.
    pub facts: Vec<(&'static str, String)>,
}

impl Machine {
    /// Looks at the machine, the server and this repository.
    pub fn look(server: &mut Client) -> Machine {
        let text = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).current_dir(sync_tests::build::root()).output();
            output.map_or_else(|_| "unknown".to_owned(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        };
        let mut commit = text("git", &["rev-parse", "--short", "HEAD"]);
        let others = ["--", ":!bench/*.md", ":!bench/*.json", ":!bench/*.csv", ":!bench/plots"];
        if !text("git", &[&["status", "--porcelain", "--untracked-files=no"], &others[..]].concat()).is_empty() {
            commit += ", with uncommitted changes";
        }
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().next().unwrap_or("unknown").to_owned();
        let postgres: String = server.query_one("SHOW server_version", &[]).expect("the server tells its version").get(0);
        let flush = flush();
        let trip = round_trip();
        Machine {
            facts: vec![
                ("date", text("date", &["--utc", "+%Y-%m-%d %H:%M UTC"])),
                ("commit", commit),
                ("cores", cores.to_string()),
                ("processor", processor_name()),
                ("load when it began", load),
                ("versions", format!("Postgres {postgres}, SQLite {}, {}", rusqlite::version(), text("rustc", &["--version"]))),
                ("fsync of 8 KiB", milliseconds(&flush)),
                ("round trip over loopback, 100 bytes", milliseconds(&trip)),
                (
                    "server",
                    format!(
                        "fsync on, autovacuum off, {}",
                        ["shared_buffers", "max_wal_size"]
                            .map(|name| {
                                let value: String =
                                    server.query_one(&format!("SHOW {name}"), &[]).expect("a setting is shown").get(0);
                                format!("{name} {value}")
                            })
                            .join(", ")
                    ),
                ),
                ("device files", "WAL mode, synchronous=NORMAL".to_owned()),
            ],
        }
    }
}

fn milliseconds(spread: &Spread) -> String {
    format!("median {:.3} ms, {:.3} to {:.3}", spread.median(), spread.min(), spread.max())
}

fn processor_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split(':').nth(1)).map_or_else(|| std::env::consts::ARCH.to_owned(), |name| name.trim().to_owned())
}

/// Milliseconds of fsync where the server and the devices have their files.
fn flush() -> Spread {
    let path = std::env::temp_dir().join(format!("pg_sync_flush.{}", std::process::id()));
    let mut file = std::fs::File::create(&path).expect("a temporary file is created");
    let times = (0..100).map(|_| {
        file.write_all(&[7; 8192]).expect("a temporary file is written");
        let start = Instant::now();
        file.sync_data().expect("a temporary file is flushed");
        start.elapsed().as_secs_f64() * 1000.0
    });
    let spread = Spread(times.collect());
    let _ = std::fs::remove_file(path);
    spread
}

/// Milliseconds for 100 bytes to go to another thread over TCP and back.
fn round_trip() -> Spread {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("a listener has an address");
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection comes");
        let _ = stream.set_nodelay(true);
        let mut bytes = [0; 100];
        while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
    });
    let mut stream = TcpStream::connect(address).expect("a connection is made");
    let _ = stream.set_nodelay(true);
    let mut bytes = [1; 100];
    let times = (0..500).map(|_| {
        let start = Instant::now();
        stream.write_all(&bytes).expect("bytes go");
        stream.read_exact(&mut bytes).expect("bytes come back");
        start.elapsed().as_secs_f64() * 1000.0
    });
    let spread = Spread(times.collect());
    drop(stream);
    let _ = echo.join();
    spread
}
