//! A stream of events takes its connection out of HTTP: what holds for the connection holds on, and little is kept for it.

use crate::SOON;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use sync_tests::gateway::{ask, head, read, served, Gateway};
use sync_tests::{Cluster, Device};

/// What a connected device may take, in KiB; a third of it is measured.
const EACH: f64 = 10.0;

fn connect(gateway: &Gateway) -> TcpStream {
    let stream = TcpStream::connect(gateway.address).expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a limit");
    stream
}

/// Reads until an event has come; what came before it, too.
fn event(stream: &mut TcpStream) -> String {
    let (mut text, mut bytes) = (String::new(), [0; 512]);
    while !text.ends_with("event: changed\ndata: {}\n\n") {
        let n = stream.read(&mut bytes).expect("an event");
        assert!(n > 0, "it ended: {text}");
        text += &String::from_utf8_lossy(&bytes[..n]);
    }
    text
}

#[test]
fn a_connected_device_that_waits_takes_little_memory() {
    let served = served(Cluster::shared());
    let count = 400;
    served.lists(count);
    let gateway = served.gateway(&[]);
    let open = |n: usize| {
        let mut stream = connect(&gateway);
        stream.write_all(head("GET", "/sync/events", &served.token(&format!("user{n}")), 0).as_bytes()).expect("a request");
        event(&mut stream);
        stream
    };
    // What the first ones take is there for all.
    let _first: Vec<_> = (1..=50).map(open).collect();
    let before = gateway.resident();
    let _more: Vec<_> = (51..=count).map(open).collect();
    let each = (gateway.resident() - before) / (count - 50) as f64;
    assert!(each < EACH, "{each:.1} KiB for each device");
}

#[test]
fn a_stream_comes_after_other_requests_of_its_connection_and_ends_with_it() {
    let served = served(Cluster::shared());
    served.lists(1);
    let gateway = served.gateway(&[]);
    let (device, token) = (Device::new("user1"), served.token("user1"));
    let mut stream = connect(&gateway);
    // A sync on the connection, and a pull whose answer is not waited for.
    let reply = ask(&mut stream, "POST", "/sync/pull", &token, &device.pull_request()).expect("an answer");
    device.apply(&reply.content().expect("a delta")).expect("it is applied");
    let pull = device.pull_request();
    let mut both = [head("POST", "/sync/pull", &token, pull.len()).as_bytes(), &pull].concat();
    both.extend_from_slice(head("GET", "/sync/events", &token, 0).as_bytes());
    stream.write_all(&both).expect("two requests");
    // The events may come in one piece with the answer, whose length is told.
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"event: changed\ndata: {}\n\n") {
        assert_eq!(stream.read(&mut byte).expect("more"), 1);
        text.push(byte[0]);
    }
    let reply = read(&mut &text[..]).expect("the answer");
    assert_eq!(reply.status, 200);
    let length = reply.head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
    let (answer, rest) = reply.body.split_at(length.expect("its length"));
    device.apply(answer).expect("the whole answer");
    let rest = String::from_utf8_lossy(rest);
    let (of_stream, _) = rest.split_once("\r\n\r\n").expect("a head");
    for line in
        ["HTTP/1.1 200 OK", "content-type: text/event-stream", "cache-control: no-store", "x-accel-buffering: no", "date: "]
    {
        assert!(of_stream.contains(line), "{line} is not in {of_stream}");
    }
    // What more is said has no answer, and does no harm.
    stream.write_all(head("GET", "/healthz", "", 0).as_bytes()).expect("a request");
    std::thread::sleep(Duration::from_millis(100));
    served.db.run("UPDATE list SET title = 'x' WHERE id = 1");
    assert_eq!(event(&mut stream), "event: changed\ndata: {}\n\n");
    let counts = || {
        let metrics = gateway.ask("GET", "/metrics", "", b"").expect("an answer").text();
        ["sync_gateway_streams 1\n", "sync_gateway_connections 2\n"].map(|line| metrics.contains(line))
    };
    assert_eq!(counts(), [true, true]);
    drop(stream);
    let deadline = Instant::now() + SOON;
    while counts() != [false, false] {
        assert!(Instant::now() < deadline, "the client is gone, and the stream is not");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_stream_has_no_head_without_events() {
    let served = served(Cluster::shared());
    let gateway = served.gateway(&[]);
    let mut stream = connect(&gateway);
    stream.write_all(head("HEAD", "/sync/events", &served.token("ann"), 0).as_bytes()).expect("a request");
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).expect("a head"), 1);
        text.push(byte[0]);
    }
    assert!(text.starts_with(b"HTTP/1.1 405 "), "{}", String::from_utf8_lossy(&text));
    // The connection goes on.
    assert_eq!(ask(&mut stream, "GET", "/healthz", "", b"").expect("an answer").status, 200);
}
