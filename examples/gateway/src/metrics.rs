//! Counters, in the text format of Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets that calls are counted in, in microseconds.
const BOUNDS: [u64; 9] = [1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000];

/// How long one kind of call took, and how they ended.
#[derive(Default)]
pub struct Calls {
    within: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    micros: AtomicU64,
    /// By the first digit of the status.
    ended: [AtomicU64; 6],
    received: AtomicU64,
    sent: AtomicU64,
}

impl Calls {
    /// Counts one.
    pub fn count(&self, took: Duration, status: u16, received: usize, sent: usize) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        for (bound, within) in BOUNDS.iter().zip(&self.within) {
            if micros <= *bound {
                add(within, 1);
            }
        }
        add(&self.count, 1);
        add(&self.micros, micros);
        add(&self.ended[usize::from(status / 100).min(5)], 1);
        add(&self.received, received as u64);
        add(&self.sent, sent as u64);
    }
}

/// Everything that is counted.
#[derive(Default)]
pub struct Metrics {
    /// `POST /sync/pull`
    pub pull: Calls,
    /// `POST /sync/push`
    pub push: Calls,
    /// Streams that were opened.
    pub streams: AtomicU64,
    /// Events that streams were told.
    pub woken: AtomicU64,
    /// Times that everybody's buckets were looked up.
    pub looked_up: AtomicU64,
    /// Times that the connection that waits for changes was lost or refused.
    pub watch_lost: AtomicU64,
    /// Connections of clients that are open.
    pub connections: AtomicU64,
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// What is known elsewhere.
pub struct Now {
    /// Streams that are open.
    pub streams: usize,
    /// Requests that wait for a connection.
    pub waiting: usize,
    /// Connections to the database.
    pub database: usize,
    /// Bytes of memory that are taken: of bodies, of answers, of streams.
    pub held: [usize; 3],
}

impl Metrics {
    /// The text.
    pub fn text(&self, now: &Now) -> String {
        let mut out = String::new();
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let line = |out: &mut String, name: &str, kind: &str, help: &str, value: u64| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        line(&mut out, "sync_gateway_streams", "gauge", "Streams of events that are open.", now.streams as u64);
        line(
            &mut out,
            "sync_gateway_waiting",
            "gauge",
            "Requests that wait for a connection to the database.",
            now.waiting as u64,
        );
        line(&mut out, "sync_gateway_database_connections", "gauge", "Connections to the database.", now.database as u64);
        out.push_str(
            "# HELP sync_gateway_held_bytes Memory that is taken of --max-buffered.\n# TYPE sync_gateway_held_bytes gauge\n",
        );
        for (what, bytes) in ["bodies", "answers", "streams"].iter().zip(now.held) {
            let _ = writeln!(out, "sync_gateway_held_bytes{{what=\"{what}\"}} {bytes}");
        }
        line(&mut out, "sync_gateway_connections", "gauge", "Connections of clients.", read(&self.connections));
        line(&mut out, "sync_gateway_streams_total", "counter", "Streams of events that were opened.", read(&self.streams));
        line(&mut out, "sync_gateway_events_total", "counter", "Times that a stream was told to ask.", read(&self.woken));
        line(
            &mut out,
            "sync_gateway_lookups_total",
            "counter",
            "Times that everybody's buckets were looked up.",
            read(&self.looked_up),
        );
        line(
            &mut out,
            "sync_gateway_watch_lost_total",
            "counter",
            "Times that waiting for changes failed.",
            read(&self.watch_lost),
        );
        let calls = [("pull", &self.pull), ("push", &self.push)];
        out.push_str(
            "# HELP sync_gateway_requests_total Requests by how they ended.\n# TYPE sync_gateway_requests_total counter\n",
        );
        for (call, c) in calls {
            for (digit, n) in c.ended.iter().enumerate().filter(|(digit, _)| *digit >= 2) {
                let _ = writeln!(out, "sync_gateway_requests_total{{call=\"{call}\",status=\"{digit}xx\"}} {}", read(n));
            }
        }
        out.push_str("# HELP sync_gateway_bytes_total Bytes of bodies.\n# TYPE sync_gateway_bytes_total counter\n");
        for (call, c) in calls {
            let (received, sent) = (read(&c.received), read(&c.sent));
            let _ = writeln!(out, "sync_gateway_bytes_total{{call=\"{call}\",way=\"received\"}} {received}");
            let _ = writeln!(out, "sync_gateway_bytes_total{{call=\"{call}\",way=\"sent\"}} {sent}");
        }
        out.push_str("# HELP sync_gateway_seconds How long requests took.\n# TYPE sync_gateway_seconds histogram\n");
        for (call, c) in calls {
            for (bound, n) in BOUNDS.iter().zip(&c.within) {
                let le = *bound as f64 / 1e6;
                let _ = writeln!(out, "sync_gateway_seconds_bucket{{call=\"{call}\",le=\"{le}\"}} {}", read(n));
            }
            let (count, sum) = (read(&c.count), read(&c.micros) as f64 / 1e6);
            let _ = writeln!(out, "sync_gateway_seconds_bucket{{call=\"{call}\",le=\"+Inf\"}} {count}");
            let _ = writeln!(
                out,
                "sync_gateway_seconds_sum{{call=\"{call}\"}} {sum}\nsync_gateway_seconds_count{{call=\"{call}\"}} {count}"
            );
        }
        out
    }
}
