//! Too much of anything is refused, and others go on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use sync_tests::gateway::{head, read, served};
use sync_tests::{Cluster, Device};

#[test]
fn an_oversized_body_is_refused_before_it_is_read() {
    let served = served(Cluster::shared());
    let gateway = served.gateway(&["--max-body", "100000"]);
    let token = served.token("ann");
    let reply = gateway.ask("POST", "/sync/push", &token, &vec![7; 100_001]).expect("an answer");
    assert_eq!(reply.status, 413, "{}", reply.text());
    // Only announced, and without saying how much.
    let mut stream = TcpStream::connect(gateway.address).expect("a connection");
    stream.write_all(head("POST", "/sync/push", &token, 10_000_000_000).as_bytes()).expect("a request");
    assert_eq!(read(&mut stream).expect("an answer").status, 413);
    let mut stream = TcpStream::connect(gateway.address).expect("a connection");
    let chunked = head("POST", "/sync/push", &token, 0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    stream.write_all(chunked.as_bytes()).expect("a request");
    for _ in 0..20 {
        let _refused = stream.write_all(format!("2000\r\n{}\r\n", "x".repeat(0x2000)).as_bytes());
    }
    assert_eq!(read(&mut stream).expect("an answer").status, 413);
    let device = Device::new("ann");
    gateway.sync(&device, &token).expect("others go on");
}

#[test]
fn too_many_bodies_at_once_and_slow_ones_are_refused() {
    let served = served(Cluster::shared());
    let gateway = served.gateway(&["--max-buffered", "65536", "--timeout", "2"]);
    let token = served.token("ann");
    let open = |sent: usize| {
        let mut stream = TcpStream::connect(gateway.address).expect("a connection");
        stream.write_all(head("POST", "/sync/push", &token, 60_000).as_bytes()).expect("a request");
        stream.write_all(&vec![1; sent]).expect("a part");
        stream
    };
    let mut first = open(40_000);
    std::thread::sleep(Duration::from_millis(300));
    let mut second = open(40_000);
    let reply = read(&mut second).expect("an answer");
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(read(&mut first).expect("an answer").status, 408, "it does not wait for the rest for ever");
    gateway.sync(&Device::new("ann"), &token).expect("there is room again");
    // One who says nothing at all is cut off; see PATIENCE in serve.rs.
    let mut silent = TcpStream::connect(gateway.address).expect("a connection");
    silent.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    silent.write_all(b"POST /sync/pull HTTP/1.1\r\n").expect("a beginning");
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).expect("it is cut off");
}

#[test]
fn where_too_many_wait_the_rest_is_told_to_come_again() {
    let served = served(Cluster::shared());
    served.lists(1);
    let gateway = served.gateway(&["--pool", "1", "--queue", "2", "--timeout", "10"]);
    let token = served.token("user1");
    gateway.sync(&Device::new("user1"), &token).expect("a sync");
    // The only connection waits for a lock.
    let mut holder = served.db.connect();
    holder.batch_execute("BEGIN; LOCK TABLE sync.rule IN ACCESS EXCLUSIVE MODE").expect("a lock");
    let request = Device::new("user1").pull_request();
    let statuses: Vec<_> = std::thread::scope(|scope| {
        let ask = || gateway.ask("POST", "/sync/pull", &token, &request).expect("an answer");
        let mut asked = Vec::new();
        for _ in 0..8 {
            asked.push(scope.spawn(ask));
            std::thread::sleep(Duration::from_millis(30));
        }
        std::thread::sleep(Duration::from_millis(100));
        holder.batch_execute("COMMIT").expect("the lock is let go");
        asked.into_iter().map(|a| a.join().expect("an answer")).collect()
    });
    let busy: Vec<_> = statuses.iter().filter(|r| r.status == 503).collect();
    assert!(busy.len() >= 5, "{:?}", statuses.iter().map(|r| r.status).collect::<Vec<_>>());
    assert!(busy.iter().all(|r| r.head.to_lowercase().contains("retry-after: 1")));
    assert_eq!(statuses[0].status, 200, "{}", statuses[0].text());
    gateway.sync(&Device::new("user1"), &token).expect("afterwards all is as before");
}
