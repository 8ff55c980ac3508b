//! Progress, times and tables on the terminal.

use postgres::Client;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::time::Instant;
use sync_shared::envelope::{self, Kind};
use sync_shared::hash::ContentSum;
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

/// Sum and count of a rule's rows, on the device and on the server.
#[derive(Default)]
struct Holding {
    buckets: BTreeSet<Vec<u8>>,
    device: ContentSum,
    server: ContentSum,
}

/// Prints what a device holds, with the sums on both sides: the device's over the values that it has stored, the server's
/// kept by its capture triggers. Returns whether they agree.
pub fn holdings(name: &str, device: &Device, server: &mut Client) -> bool {
    let mut rules: BTreeMap<String, Holding> = BTreeMap::new();
    const PARTS: &str = "SELECT b.rule, b.bucket, p.entry, p.sum, p.count FROM sync_part p JOIN sync_bucket b ON b.id = p.bucket";
    let mut parts = device.connection().prepare(PARTS).expect("what the device holds");
    let mut parts = parts.query([]).expect("what the device holds");
    while let Some(part) = parts.next().expect("what the device holds") {
        let (rule, bucket, entry): (String, Vec<u8>, i32) = (part.get_unwrap(0), part.get_unwrap(1), part.get_unwrap(2));
        let holding = rules.entry(rule).or_default();
        add(&mut holding.device, part.get_unwrap(3), part.get_unwrap(4));
        for row in server.query(KEPT, &[&bucket, &entry]).expect("what the server has summed") {
            add(&mut holding.server, row.get(0), row.get(1));
        }
        holding.buckets.insert(bucket);
    }
    println!("  {name:<4} {:<14}{:>8}{:>10}   {:<18}{:<18}", "rule", "buckets", "rows", "sum on device", "sum on server");
    for (rule, holding) in &rules {
        let (count, rows) = (holding.buckets.len(), number(holding.device.count as u64));
        let (here, there) = (holding.device.sum, holding.server.sum);
        let mark = if holding.device == holding.server { "same" } else { "DIFFERENT" };
        println!("       {rule:<14}{count:>8}{rows:>10}   {here:016x}  {there:016x}  {mark}");
    }
    rules.values().all(|holding| holding.device == holding.server)
}

/// What is folded into the base, and what is still in the log.
const KEPT: &str = "
    SELECT sum, count FROM sync.base WHERE bucket = encode($1, 'hex')::uuid AND entry = $2
    UNION ALL SELECT hash, n::bigint FROM sync.op WHERE bucket = encode($1, 'hex')::uuid AND entry = $2";

fn add(to: &mut ContentSum, sum: i64, count: i64) {
    to.sum = to.sum.wrapping_add(sum);
    to.count += count;
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
