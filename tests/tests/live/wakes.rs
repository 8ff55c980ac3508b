//! Who is woken: whom it concerns, and nobody else.

use crate::SOON;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sync_tests::gateway::{head, served, Events, Gateway, Served};
use sync_tests::{Cluster, Device};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Streams of `user1` and so on, each with what it was told.
struct Crowd {
    _runtime: tokio::runtime::Runtime,
    told: Vec<Arc<AtomicU32>>,
}

impl Crowd {
    fn open(served: &Served<'_>, gateway: &Gateway, count: usize) -> Crowd {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
        let told: Vec<_> = (0..count).map(|_| Arc::new(AtomicU32::new(0))).collect();
        for (n, told) in told.iter().enumerate() {
            let request = head("GET", "/sync/events", &served.token(&format!("user{}", n + 1)), 0);
            let (told, address) = (told.clone(), gateway.address);
            runtime.spawn(async move {
                let mut bytes = [0; 1024];
                loop {
                    let mut stream = TcpStream::connect(address).await.expect("a connection");
                    stream.write_all(request.as_bytes()).await.expect("a request");
                    while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                        // All come at once, and some are told to come again.
                        if bytes.starts_with(b"HTTP/1.1 503") {
                            break;
                        }
                        let events = bytes[..n].windows(6).filter(|w| w == b"event:").count();
                        told.fetch_add(events as u32, Ordering::Relaxed);
                    }
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            });
        }
        let crowd = Crowd { _runtime: runtime, told };
        // Those who came before the gateway knew where to begin are told once more.
        crowd.until("everybody is told to begin", |told| told.iter().all(|n| *n >= 1));
        std::thread::sleep(Duration::from_millis(500));
        crowd
    }

    fn told(&self) -> Vec<u32> {
        self.told.iter().map(|n| n.load(Ordering::Relaxed)).collect()
    }

    fn until(&self, what: &str, done: impl Fn(&[u32]) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !done(&self.told()) {
            assert!(
                Instant::now() < deadline,
                "not in time: {what}; {} were told",
                self.told().iter().filter(|n| **n > 0).count()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn of_two_thousand_streams_a_change_wakes_the_one_that_it_concerns_and_none_is_lost() {
    let served = served(Cluster::shared());
    served.lists(2000);
    let gateway = served.gateway(&["--members-every", "3600"]);
    let crowd = Crowd::open(&served, &gateway, 2000);
    let begun = crowd.told();
    served.db.run("INSERT INTO task (list_id, body) VALUES (777, 'x')");
    crowd.until("its device is woken", |told| told[776] == begun[776] + 1);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(crowd.told().iter().sum::<u32>(), begun.iter().sum::<u32>() + 1, "one change wakes one device");
    // Now each of them, one transaction each, in no order.
    let begun = crowd.told();
    let mut writer = served.db.connect();
    let mut lists: Vec<_> = (1..=2000).collect();
    fastrand::shuffle(&mut lists);
    for list in lists {
        writer.batch_execute(&format!("INSERT INTO task (list_id, body) VALUES ({list}, 'x')")).expect("an insert");
    }
    crowd.until("everybody is woken", |told| told.iter().zip(&begun).all(|(now, before)| now > before));
    // And all at once.
    let before = crowd.told();
    served.db.run("UPDATE list SET title = title || '!'");
    crowd.until("everybody is woken again", |told| told.iter().zip(&before).all(|(now, before)| now > before));
}

#[test]
fn a_change_of_membership_wakes_its_device_and_no_other() {
    let served = served(Cluster::shared());
    served.lists(20);
    let gateway = served.gateway(&[]);
    let crowd = Crowd::open(&served, &gateway, 20);
    let begun = crowd.told();
    let (device, token) = (Device::new("user1"), served.token("user1"));
    let events = Events::open(&gateway, &token);
    crate::until(&gateway, &events, &device, &token, "SELECT count(*) FROM list", "1");
    served.db.run("INSERT INTO member VALUES (2, 'user1')");
    crate::until(&gateway, &events, &device, &token, "SELECT count(*) FROM list", "2");
    // What it holds since then concerns it.
    served.db.run("UPDATE list SET title = 'mine too' WHERE id = 2");
    crate::until(&gateway, &events, &device, &token, "SELECT title FROM list WHERE id = 2", "mine too");
    served.db.run("DELETE FROM member WHERE list_id = 2 AND user_id = 'user1'");
    crate::until(&gateway, &events, &device, &token, "SELECT count(*) FROM list", "1");
    let told = crowd.told();
    assert_eq!(told[2..], begun[2..]);
    // A rule concerns everybody.
    served.db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'member')");
    crowd.until("everybody is woken", |now| now.iter().zip(&told).all(|(now, before)| now > before));
}

#[test]
fn a_membership_that_no_table_shows_is_found_by_looking() {
    let served = served(Cluster::shared());
    served.db.run(
        "CREATE TABLE hidden (user_id text, list_id int);
         CREATE FUNCTION lists_of(u text) RETURNS SETOF int LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp
             AS $$ BEGIN RETURN QUERY SELECT h.list_id FROM hidden h WHERE h.user_id = u; END $$;
         INSERT INTO list VALUES (1, 'hidden')",
    );
    served.db.run(
        "SELECT sync.drop_bucket('list');
         SELECT sync.create_bucket('list', members => 'SELECT * FROM lists_of(sync.user_id())');
         SELECT sync.add_table('list', 'list', key => 'id')",
    );
    let gateway = served.gateway(&["--members-every", "1"]);
    let (device, token) = (Device::new("ann"), served.token("ann"));
    let events = Events::open(&gateway, &token);
    gateway.sync(&device, &token).expect("a sync");
    served.db.run("INSERT INTO hidden VALUES ('ann', 1)");
    crate::until(&gateway, &events, &device, &token, "SELECT count(*) FROM list", "1");
}

#[test]
fn a_subscription_is_told_with_the_devices_own_request() {
    let served = served(Cluster::shared());
    served.db.run("INSERT INTO list VALUES (1, 'one'), (2, 'two')");
    served.db.run(
        "SELECT sync.create_bucket('board', members => 'SELECT sync.param(''id'')::int');
         SELECT sync.add_table('board', 'list', key => 'id')",
    );
    let gateway = served.gateway(&["--members-every", "3600"]);
    let (device, token) = (Device::new("ann"), served.token("ann"));
    device.run("SELECT sync_subscribe('board', '{\"id\": \"2\"}')");
    let request = device.pull_request();
    let mut stream = std::net::TcpStream::connect(gateway.address).expect("a connection");
    use std::io::{BufRead, Write};
    stream.write_all(head("POST", "/sync/events", &token, request.len()).as_bytes()).expect("a request");
    stream.write_all(&request).expect("its body");
    stream.set_read_timeout(Some(SOON)).expect("a limit");
    let mut lines = std::io::BufReader::new(stream).lines().map(|l| l.expect("a line")).filter(|l| l == "event: changed");
    lines.next().expect("the first event");
    served.db.run("UPDATE list SET title = 'other' WHERE id = 1");
    served.db.run("UPDATE list SET title = 'mine' WHERE id = 2");
    lines.next().expect("an event");
    gateway.sync(&device, &token).expect("a sync");
    assert_eq!(device.value("SELECT title FROM list"), "mine");
    // Without it nobody knows.
    let plain = Events::open(&gateway, &token);
    served.db.run("UPDATE list SET title = 'again' WHERE id = 2");
    assert!(!plain.next(Duration::from_millis(500)));
}

/// Java's own client asks for HTTP/2 in passing.
#[test]
fn a_device_that_is_revoked_learns_it_at_once() {
    let served = served(Cluster::shared());
    served.lists(1);
    let gateway = served.gateway(&["--members-every", "3600"]);
    let (device, token) = (Device::new("user1"), served.token("user1"));
    let events = Events::open(&gateway, &token);
    gateway.sync(&device, &token).expect("a sync");
    gateway.sync(&device, &token).expect("a sync");
    assert_eq!(device.value("SELECT count(*) FROM list"), "1");
    while events.next(Duration::from_secs(2)) {}
    let id = device.value("SELECT value FROM sync_status WHERE name = 'device'");
    served.db.run(&format!("SELECT sync.revoke_device('{id}')"));
    assert!(events.next(SOON), "it is woken");
    let answer = gateway.pull(&device, &token).expect("an answer");
    assert_eq!(answer.0["wiped"].as_bool(), Some(true), "{answer:?}");
}

#[test]
fn another_upgrade_is_left_aside() {
    use std::io::{BufRead, Write};
    let served = served(Cluster::shared());
    served.lists(1);
    let gateway = served.gateway(&[]);
    let mut stream = std::net::TcpStream::connect(gateway.address).expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a limit");
    let upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA";
    let request = head("GET", "/sync/events", &served.token("user1"), 0).replace("Content-Length: 0", upgrade);
    stream.write_all(request.as_bytes()).expect("a request");
    let mut lines = std::io::BufReader::new(stream).lines().map(|l| l.expect("a line"));
    assert_eq!(lines.next().as_deref(), Some("HTTP/1.1 200 OK"));
    assert!(lines.any(|l| l == "event: changed"), "the first event");
}

#[test]
fn a_websocket_tells_the_same() {
    use std::io::{Read, Write};
    let served = served(Cluster::shared());
    served.lists(1);
    let gateway = served.gateway(&[]);
    let token = served.token("user1");
    let mut stream = std::net::TcpStream::connect(gateway.address).expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a limit");
    let upgrade =
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let request = head("GET", "/sync/events", &token, 0).replace("Content-Length: 0", upgrade);
    stream.write_all(request.as_bytes()).expect("a request");
    let mut said = Vec::new();
    let mut until = |stream: &mut std::net::TcpStream, count: usize| {
        let mut chunk = [0; 1024];
        // A frame of text, 7 bytes, not masked.
        while said.windows(9).filter(|w| w == b"\x81\x07changed").count() < count {
            let n = stream.read(&mut chunk).expect("something is said");
            assert!(n > 0, "{}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&chunk[..n]);
        }
        String::from_utf8_lossy(&said).into_owned()
    };
    let head = until(&mut stream, 1);
    assert!(head.starts_with("HTTP/1.1 101") && head.to_lowercase().contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    served.db.run("UPDATE list SET title = 'x'");
    until(&mut stream, 2);
    // The device's request, masked as clients must.
    let request = Device::new("user1").pull_request();
    let mut frame = vec![0x82, 0x80 | request.len() as u8, 0, 0, 0, 0];
    assert!(request.len() < 126, "the length is written in one byte");
    frame.extend_from_slice(&request);
    stream.write_all(&frame).expect("a message");
    until(&mut stream, 3);
    served.db.run("UPDATE list SET title = 'y'");
    until(&mut stream, 4);
}
