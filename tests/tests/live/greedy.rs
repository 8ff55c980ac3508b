//! Users that are known and want everything: others go on.

use crate::SOON;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use sync_tests::gateway::{head, read, served, Events, Gateway, Reply, Served};
use sync_tests::{Cluster, Device};

/// Bytes of memory that the gateway says are taken.
fn held(gateway: &Gateway, what: &str) -> usize {
    let metrics = gateway.ask("GET", "/metrics", "", b"").expect("an answer").text();
    let line = metrics.lines().find_map(|l| l.strip_prefix(&format!("sync_gateway_held_bytes{{what=\"{what}\"}} ")));
    line.unwrap_or_else(|| panic!("nothing of {what} in\n{metrics}")).parse().expect("a number")
}

/// Opens a stream, or is told why not.
fn stream(gateway: &Gateway, token: &str) -> (TcpStream, Reply) {
    let mut stream = TcpStream::connect(gateway.address).expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a limit");
    stream.write_all(head("GET", "/sync/events", token, 0).as_bytes()).expect("a request");
    let reply = read(&mut stream).expect("an answer");
    (stream, reply)
}

/// A row of so many megabytes; the delta has three quarters of it.
fn large_row(served: &Served<'_>, list: i32, megabytes: usize) {
    served.db.run(&format!(
        "INSERT INTO task (list_id, body)
         SELECT {list}, string_agg(encode(sha512(n::text::bytea), 'base64'), '') FROM generate_series(1, {}) n",
        megabytes * 11_000
    ));
}

#[test]
fn answers_that_nobody_takes_are_counted_and_cut_off() {
    let served = served(Cluster::shared());
    served.lists(2);
    large_row(&served, 1, 6);
    // A quarter is for large answers: one of these, not two.
    let limits = ["--timeout", "2", "--max-body", "8000000", "--max-pull", "8000000", "--max-buffered", "30000000"];
    let gateway = served.gateway(&limits);
    let (token, request) = (served.token("user1"), Device::new("user1").pull_request());
    let ask = || {
        let mut stream = TcpStream::connect(gateway.address).expect("a connection");
        stream.set_read_timeout(Some(SOON)).expect("a limit");
        stream.write_all(head("POST", "/sync/pull", &token, request.len()).as_bytes()).expect("a request");
        stream.write_all(&request).expect("its body");
        stream
    };
    let deadline = Instant::now() + SOON;
    let mut lazy = ask();
    while held(&gateway, "answers") < 4_000_000 {
        assert!(Instant::now() < deadline, "the answer is not counted");
        std::thread::sleep(Duration::from_millis(20));
    }
    let refused = read(&mut ask()).expect("an answer");
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.head.to_lowercase().contains("retry-after: 2"), "{}", refused.head);
    // Small answers have room of their own.
    gateway.sync(&Device::new("user2"), &served.token("user2")).expect("others go on");
    while held(&gateway, "answers") > 0 {
        assert!(Instant::now() < deadline, "a client that reads nothing is not cut off");
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut rest = Vec::new();
    let _cut = lazy.read_to_end(&mut rest);
    assert!(rest.len() < 4_400_000, "it has all {} bytes", rest.len());
    // One that reads slowly, and all the time, gets everything, in more time than the other had.
    let (mut slow, mut bytes, begin) = (ask(), vec![0; 32 << 10], Instant::now());
    let mut whole = Vec::new();
    while whole.len() < 4_400_000 {
        let n = slow.read(&mut bytes).expect("more of it");
        assert!(n > 0, "cut off after {} bytes", whole.len());
        whole.extend_from_slice(&bytes[..n]);
        std::thread::sleep(Duration::from_millis(25));
    }
    assert!(begin.elapsed() > Duration::from_secs(3), "it took {:?}", begin.elapsed());
    gateway.sync(&Device::new("user1"), &token).expect("and so does who reads at once");
    // Where there is room, too, one token has only so many.
    let gateway = served.gateway(&[]);
    let mut waiting: Vec<_> = (0..5)
        .map(|n| {
            let mut stream = TcpStream::connect(gateway.address).expect("a connection");
            stream.set_read_timeout(Some(SOON)).expect("a limit");
            stream.write_all(head("POST", "/sync/pull", &token, request.len()).as_bytes()).expect("a request");
            stream.write_all(&request).expect("its body");
            while n < 4 && held(&gateway, "answers") < (n + 1) * 4_000_000 {
                assert!(begin.elapsed() < SOON * 3, "the answer is not counted");
                std::thread::sleep(Duration::from_millis(20));
            }
            stream
        })
        .collect();
    assert_eq!(read(waiting.last_mut().expect("five")).expect("an answer").status, 429);
}

#[test]
fn one_token_has_no_more_than_its_share_of_connections() {
    let served = served(Cluster::shared());
    served.lists(2);
    served.db.run(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(new.list_id); RETURN new; END $$;
         CREATE TRIGGER wait BEFORE INSERT ON task FOR EACH ROW EXECUTE FUNCTION wait()",
    );
    let gateway = served.gateway(&["--pool", "4", "--max-per-token", "6"]);
    let (token, other) = (served.token("user1"), served.token("user2"));
    let devices: Vec<_> = (0..10).map(|_| Device::new("user1")).collect();
    let batches = devices.iter().map(|device| {
        gateway.sync(device, &token).expect("a sync");
        device.run("INSERT INTO task (list_id, body) VALUES (1, 'x')");
        device.pending_ops().expect("something to send")
    });
    let batches: Vec<_> = batches.collect();
    let mut holder = served.db.connect();
    holder.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(1)").expect("a lock");
    std::thread::scope(|scope| {
        let ask = |batches: &Vec<u8>| gateway.ask("POST", "/sync/push", &token, batches).expect("an answer");
        let asked: Vec<_> = batches.iter().map(|b| scope.spawn(move || ask(b))).collect();
        std::thread::sleep(Duration::from_millis(500));
        let (device, begin) = (Device::new("user2"), Instant::now());
        gateway.sync(&device, &other).expect("others go on");
        device.run("INSERT INTO task (list_id, body) VALUES (2, 'y')");
        gateway.sync(&device, &other).expect("others go on");
        assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
        holder.batch_execute("COMMIT").expect("the lock is let go");
        let replies: Vec<_> = asked.into_iter().map(|a| a.join().expect("an answer")).collect();
        let refused: Vec<_> = replies.iter().filter(|r| r.status == 429).collect();
        assert_eq!(refused.len(), 4, "{:?}", replies.iter().map(|r| r.status).collect::<Vec<_>>());
        assert!(refused.iter().all(|r| r.head.to_lowercase().contains("retry-after: ")));
        assert_eq!(replies.iter().filter(|r| r.status == 200).count(), 6);
    });
}

#[test]
fn a_user_has_so_many_streams_and_no_more() {
    let served = served(Cluster::shared());
    served.lists(2);
    let gateway = served.gateway(&["--max-streams", "2"]);
    let first = stream(&gateway, &served.token("user1"));
    // Another token of the same user.
    let second = stream(&gateway, &served.token_until("user1", 1800));
    let third = stream(&gateway, &served.token_until("user1", 900));
    assert_eq!((first.1.status, second.1.status, third.1.status), (200, 200, 429), "{}", third.1.text());
    assert!(third.1.head.to_lowercase().contains("retry-after: "), "{}", third.1.head);
    assert_eq!(stream(&gateway, &served.token("user2")).1.status, 200, "others have theirs");
    assert!(held(&gateway, "streams") > 0, "what streams keep is counted");
    drop((first, second));
    let deadline = Instant::now() + SOON;
    while stream(&gateway, &served.token("user1")).1.status != 200 {
        assert!(Instant::now() < deadline, "those that were closed still count");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_streams_keep_is_limited() {
    let served = served(Cluster::shared());
    served.lists(1);
    // An eighth is for streams: 64 KiB, of which each takes what it was sent.
    let gateway = served.gateway(&["--max-buffered", "524288", "--max-body", "190000", "--max-pull", "190000"]);
    served.db.run(
        "SELECT sync.create_bucket('board', members => 'SELECT sync.param(''id'')::int');
         SELECT sync.add_table('board', 'list', key => 'id')",
    );
    let (device, token) = (Device::new("user1"), served.token("user1"));
    let note: String = std::iter::repeat_with(fastrand::alphanumeric).take(20_000).collect();
    device.run(&format!("SELECT sync_subscribe('board', '{{\"id\": \"1\", \"note\": \"{note}\"}}')"));
    let request = device.pull_request();
    assert!(request.len() > 10_000, "{} bytes", request.len());
    let statuses = (0..6).map(|_| {
        let mut stream = TcpStream::connect(gateway.address).expect("a connection");
        stream.write_all(head("POST", "/sync/events", &token, request.len()).as_bytes()).expect("a request");
        stream.write_all(&request).expect("its body");
        let status = read(&mut stream).expect("an answer").status;
        (stream, status)
    });
    let statuses: Vec<_> = statuses.collect();
    assert_eq!(statuses[0].1, 200);
    assert_eq!(statuses[5].1, 503, "{:?}", statuses.iter().map(|s| s.1).collect::<Vec<_>>());
    assert!(held(&gateway, "streams") <= 65_536);
    gateway.sync(&device, &token).expect("calls go on");
    drop(statuses);
    let deadline = Instant::now() + SOON;
    while held(&gateway, "streams") > 0 {
        assert!(Instant::now() < deadline, "streams that are closed still count");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_user_whose_lookups_are_slow_delays_nobody_and_loses_the_stream() {
    let served = served(Cluster::shared());
    served.lists(3);
    served.db.run(
        "CREATE TABLE slow (user_id text);
         CREATE FUNCTION lists_of(u text) RETURNS SETOF int LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
         BEGIN
             PERFORM pg_sleep(20) FROM slow s WHERE s.user_id = u;
             RETURN QUERY SELECT m.list_id FROM member m WHERE m.user_id = u;
         END $$;
         SELECT sync.drop_bucket('list');
         SELECT sync.create_bucket('list', members =>
             'SELECT l.list_id FROM lists_of(sync.user_id()) l(list_id) JOIN member m ON m.list_id = l.list_id AND m.user_id = sync.user_id()');
         SELECT sync.add_table('list', 'list', key => 'id')",
    );
    let gateway = served.gateway(&[]);
    let (device, token) = (Device::new("user1"), served.token("user1"));
    let slow = Events::open(&gateway, &served.token("user2"));
    let events = Events::open(&gateway, &token);
    served.db.run("INSERT INTO slow VALUES ('user2')");
    for list in [2, 3] {
        while events.next(Duration::from_millis(500)) {}
        served.db.run(&format!("INSERT INTO member VALUES ({list}, 'user1')"));
        assert!(events.next(Duration::from_secs(10)), "of list {list} nobody was told in time");
    }
    gateway.sync(&device, &token).expect("a sync");
    assert_eq!(device.value("SELECT count(*) FROM list"), "3");
    assert!(slow.ends(SOON), "who is always slow has no stream");
    assert!(!events.ends(Duration::from_millis(100)), "the others keep theirs");
}

#[test]
fn a_websocket_takes_small_messages_and_counts_as_a_connection() {
    let served = served(Cluster::shared());
    served.lists(1);
    let gateway = served.gateway(&[]);
    let open = || {
        let mut stream = TcpStream::connect(gateway.address).expect("a connection");
        stream.set_read_timeout(Some(SOON)).expect("a limit");
        let upgrade =
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        let request = head("GET", "/sync/events", &served.token("user1"), 0).replace("Content-Length: 0", upgrade);
        stream.write_all(request.as_bytes()).expect("a request");
        assert_eq!(read(&mut stream).expect("an answer").status, 101);
        stream
    };
    let (mut large, many) = (open(), open());
    let metrics = gateway.ask("GET", "/metrics", "", b"").expect("an answer").text();
    assert!(metrics.contains("sync_gateway_connections 3\n"), "{metrics}");
    // The head of a message of a megabyte: nobody waits for the rest.
    large.write_all(&[0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 2, 3, 4]).expect("a head");
    let mut rest = Vec::new();
    let ended = large.read_to_end(&mut rest);
    assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset), "it goes on");
    // Nor for one that comes in many small pieces.
    let mut pieces = many;
    let frame = |first: u8| [&[first, 0xfe, 0x40, 0, 0, 0, 0, 0][..], &[7; 0x4000]].concat();
    let _refused = pieces.write_all(&frame(0x02));
    for _ in 0..4 {
        let _refused = pieces.write_all(&frame(0x00));
    }
    let ended = pieces.read_to_end(&mut rest);
    assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset), "it goes on");
}
