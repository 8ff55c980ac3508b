//! Through the gateway: from a commit to another device, and what connected devices cost.

use crate::report::{Goal, Report, Unit};
use crate::server::Session;
use crate::stats::Spread;
use crate::Size;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use sync_tests::gateway::{self, head, Events, Gateway, Served};
use sync_tests::{Cluster, Device};

/// Devices that are connected.
const CONNECTED: usize = 1000;
/// Changes a second.
const RATE: u32 = 100;

/// Runs the measurement.
pub fn run(cluster: &Cluster, size: &Size, report: &mut Report) {
    report.section(
        "live",
        "Live, through the gateway",
        &format!(
            "`sync-gateway` with its default pool beside the server, HTTP over loopback, tokens of HS256. A writer commits {RATE} changes a \
             second for {} s, each in a transaction of its own; the reading device holds a stream of events and pulls when it is told. \
             Then {CONNECTED} devices are connected, each with a bucket of its own and all with one in common. Processor times are of all \
             processes of the gateway and of Postgres.",
            size.seconds
        ),
    );
    let served = gateway::served(cluster);
    served.lists(CONNECTED);
    served.db.run(&format!(
        "INSERT INTO list VALUES (0, 'everybody''s'); INSERT INTO member SELECT 0, 'user' || n FROM generate_series(1, {CONNECTED}) n;
         INSERT INTO list VALUES (-1, 'the reader''s'); INSERT INTO member VALUES (-1, 'ann'), (-1, 'bob')"
    ));
    served.db.run("SELECT sync.maintain()");
    served.db.run("VACUUM ANALYZE");
    let gateway = served.gateway(&["--pool", "8"]);
    latency(&served, &gateway, size, report);
    connected(&served, &gateway, cluster, size, report);
}

fn latency(served: &Served<'_>, gateway: &Gateway, size: &Size, report: &mut Report) {
    let (device, token) = (Device::new("ann"), served.token("ann"));
    let events = Events::open(gateway, &token);
    gateway.sync(&device, &token).expect("a sync");
    let changes = RATE * size.seconds as u32;
    let (committed, commits) = mpsc::channel();
    let mut times = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut session = Session::new(served.db.connect());
            let begin = Instant::now();
            for n in 0..changes {
                std::thread::sleep((begin + Duration::from_secs(1) / RATE * n).saturating_duration_since(Instant::now()));
                session.run(&format!("UPDATE list SET title = '{n}' WHERE id = -1"));
                let _told = committed.send((n, Instant::now()));
            }
        });
        let mut waiting = std::collections::VecDeque::new();
        while times.len() < changes as usize {
            assert!(events.next(Duration::from_secs(10)), "no event came");
            gateway.sync(&device, &token).expect("a sync");
            let applied = Instant::now();
            let seen: i64 = device.value("SELECT title FROM list").parse().unwrap_or(-1);
            waiting.extend(commits.try_iter());
            // One may be seen before its writer has said when it was committed: it counts from then on.
            while let Some((_, at)) = waiting.front().copied().filter(|(n, _)| i64::from(*n) <= seen) {
                times.push(applied.saturating_duration_since(at).as_secs_f64() * 1000.0);
                waiting.pop_front();
            }
            if seen == i64::from(changes) - 1 && waiting.is_empty() {
                break;
            }
        }
    });
    lines("commit returned -> applied on a device", (6.0, 40.0), Spread(times), report);

    let (other, of_other) = (Device::new("bob"), served.token("bob"));
    gateway.sync(&other, &of_other).expect("a sync");
    let between = (0..size.repeats).map(|n| {
        while events.next(Duration::from_millis(1)) {}
        let begin = Instant::now();
        other.run(&format!("UPDATE list SET title = 'from a device {n}'"));
        gateway.sync(&other, &of_other).expect("a sync");
        while device.value("SELECT title FROM list") != format!("from a device {n}") {
            assert!(events.next(Duration::from_secs(10)), "no event came");
            gateway.sync(&device, &token).expect("a sync");
        }
        begin.elapsed().as_secs_f64() * 1000.0
    });
    let between = Spread(between.collect());
    let slow = between.quantile(0.99);
    report.line("write on a device -> applied on another, p50", Unit::Of("ms"), Goal::None, between);
    report.line("write on a device -> applied on another, p99", Unit::Of("ms"), Goal::None, Spread(vec![slow]));
}

fn lines(what: &str, (half, nearly_all): (f64, f64), spread: Spread, report: &mut Report) {
    let slow = spread.quantile(0.99);
    report.line(&format!("{what}, {RATE} changes/s, p50"), Unit::Of("ms"), Goal::AtMost(half), spread);
    report.line(&format!("{what}, {RATE} changes/s, p99"), Unit::Of("ms"), Goal::AtMost(nearly_all), Spread(vec![slow]));
}

/// Seconds of processor time: of the gateway, and of the server.
fn spent(gateway: &Gateway, cluster: &Cluster) -> (f64, f64) {
    (sync_tests::cluster::processor_time(&[gateway.pid()]), sync_tests::cluster::processor_time(&cluster.processes()))
}

/// A connected device: its stream, and how many events came.
struct Stream(TcpStream, usize);

impl Stream {
    fn look(&mut self) {
        let mut bytes = [0; 512];
        while let Ok(n @ 1..) = self.0.read(&mut bytes) {
            self.1 += bytes[..n].windows(6).filter(|w| w == b"event:").count();
        }
    }
}

fn connected(served: &Served<'_>, gateway: &Gateway, cluster: &Cluster, size: &Size, report: &mut Report) {
    let mut session = Session::new(served.db.connect());
    // What the pool and its sessions take is there before.
    let tokens: Vec<_> = (1..=CONNECTED).map(|n| served.token(&format!("user{n}"))).collect();
    let request = Device::new("user1").pull_request();
    for _ in 0..200 {
        gateway.ask("POST", "/sync/pull", &tokens[0], &request).expect("an answer");
    }
    let quiet = idle(gateway, cluster, size);
    let (memory, sessions) = (gateway.resident(), cluster.processes().len());
    let mut streams: Vec<_> = tokens.iter().map(|token| open(gateway, token)).collect();
    report.line(
        "gateway, memory per connected device",
        Unit::Of("KiB"),
        Goal::AtMost(10.0),
        one((gateway.resident() - memory) / CONNECTED as f64),
    );
    let more = cluster.processes().len().saturating_sub(sessions) as f64;
    report.line("server, processes more for them", Unit::Of("processes"), Goal::AtMost(0.0), one(more));
    let busy = idle(gateway, cluster, size);
    report.line("gateway, all idle, of a core", Unit::Of("%"), Goal::AtMost(1.0), one(busy.0));
    report.line("server, all idle, of a core", Unit::Of("%"), Goal::AtMost(1.0), one(busy.1));
    report.line("server, none connected, of a core", Unit::Of("%"), Goal::None, one(quiet.1));

    // One of them, each time.
    let mut told = |streams: &mut Vec<Stream>, sql: &str, wanted: usize| {
        let before: usize = streams.iter().map(|s| s.1).sum();
        let begin = Instant::now();
        session.run(sql);
        while streams.iter().map(|s| s.1).sum::<usize>() < before + wanted {
            std::thread::sleep(Duration::from_millis(1));
            streams.iter_mut().for_each(Stream::look);
            assert!(begin.elapsed() < Duration::from_secs(20), "not all were told");
        }
        begin.elapsed().as_secs_f64() * 1000.0
    };
    let before = spent(gateway, cluster);
    for n in 1..=200 {
        told(&mut streams, &format!("UPDATE list SET title = 'x' WHERE id = {n}"), 1);
    }
    std::thread::sleep(Duration::from_millis(500));
    streams.iter_mut().for_each(Stream::look);
    let total: usize = streams.iter().map(|s| s.1).sum();
    report.line(
        "devices told for a change that concerns one",
        Unit::Of("devices"),
        Goal::AtMost(1.0),
        one((total - CONNECTED) as f64 / 200.0),
    );
    let one_each = cost(before, spent(gateway, cluster), 200);
    report.line("gateway and server, a change that concerns one of them", Unit::Of("ms"), Goal::None, one(one_each));
    // All of them.
    let before = spent(gateway, cluster);
    let rounds = 20;
    let times: Vec<_> =
        (0..rounds).map(|n| told(&mut streams, &format!("UPDATE list SET title = '{n}' WHERE id = 0"), CONNECTED)).collect();
    report.line("a change that concerns all -> all are told", Unit::Of("ms"), Goal::None, Spread(times));
    let all = cost(before, spent(gateway, cluster), rounds * CONNECTED);
    report.line("gateway and server, telling, per device and change", Unit::Of("ms"), Goal::AtMost(0.05), one(all));
    // What each of them then asks, as one that is up to date but for this change.
    let device = Device::new("user1");
    gateway.sync(&device, &tokens[0]).expect("a sync");
    session.run("UPDATE list SET title = 'last' WHERE id = 0");
    let request = device.pull_request();
    let before = spent(gateway, cluster);
    let mut connection = TcpStream::connect(gateway.address).expect("a connection");
    for token in &tokens {
        gateway::ask(&mut connection, "POST", "/sync/pull", token, &request).expect("an answer").content().expect("a delta");
    }
    let now = spent(gateway, cluster);
    report.line(
        "gateway, the pull that follows, per device",
        Unit::Of("ms"),
        Goal::None,
        one((now.0 - before.0) * 1000.0 / CONNECTED as f64),
    );
    report.line(
        "server, the pull that follows, per device",
        Unit::Of("ms"),
        Goal::None,
        one((now.1 - before.1) * 1000.0 / CONNECTED as f64),
    );
}

fn one(value: f64) -> Spread {
    Spread(vec![value])
}

/// Milliseconds of both for each of `count`.
fn cost(before: (f64, f64), after: (f64, f64), count: usize) -> f64 {
    (after.0 + after.1 - before.0 - before.1) * 1000.0 / count as f64
}

/// Percent of a core that both take while nothing happens.
fn idle(gateway: &Gateway, cluster: &Cluster, size: &Size) -> (f64, f64) {
    std::thread::sleep(Duration::from_secs(2));
    let (before, begin) = (spent(gateway, cluster), Instant::now());
    std::thread::sleep(Duration::from_secs(size.seconds as u64 * 2));
    let (after, took) = (spent(gateway, cluster), begin.elapsed().as_secs_f64());
    ((after.0 - before.0) * 100.0 / took, (after.1 - before.1) * 100.0 / took)
}

fn open(gateway: &Gateway, token: &str) -> Stream {
    let mut stream = TcpStream::connect(gateway.address).expect("a connection");
    stream.write_all(head("GET", "/sync/events", token, 0).as_bytes()).expect("a request");
    let mut bytes = Vec::new();
    let mut chunk = [0; 512];
    while !bytes.windows(6).any(|w| w == b"event:") {
        let n = stream.read(&mut chunk).expect("an answer");
        assert!(n > 0, "{}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&chunk[..n]);
    }
    stream.set_nonblocking(true).expect("it need not wait");
    Stream(stream, 1)
}
