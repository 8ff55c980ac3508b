//! Too much of anything is refused, and others go on.

use crate::SOON;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use sync_tests::gateway::{ask, head, read, served, Gateway};
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

/// Begins a push of so many bytes, and sends some of them.
fn begin(gateway: &Gateway, token: &str, length: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address).expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a limit");
    stream.write_all(head("POST", "/sync/push", token, length).as_bytes()).expect("a request");
    stream.write_all(&vec![1; sent]).expect("a part");
    std::thread::sleep(Duration::from_millis(200));
    stream
}

/// Three eighths of this are for large bodies, one for small ones: 384 KiB and 128.
const FEW: [&str; 6] = ["--max-buffered", "1048576", "--max-body", "300000", "--max-pull", "100000"];

#[test]
fn too_many_bodies_at_once_and_slow_ones_are_refused() {
    let served = served(Cluster::shared());
    let gateway = served.gateway(&[&FEW[..], &["--timeout", "3"]].concat());
    let token = served.token("ann");
    let mut first = begin(&gateway, &token, 290_000, 200_000);
    let mut second = begin(&gateway, &token, 290_000, 200_000);
    let reply = read(&mut second).expect("an answer");
    assert_eq!(reply.status, 503, "{}", reply.text());
    gateway.sync(&Device::new("ann"), &token).expect("small ones have room of their own");
    assert_eq!(read(&mut first).expect("an answer").status, 408, "it does not wait for the rest for ever");
    let mut third = begin(&gateway, &token, 290_000, 290_000);
    assert_eq!(read(&mut third).expect("an answer").status, 400, "there is room again, if not for nonsense");
    // Whoever says nothing at all, or no more, is cut off; see PATIENCE in serve.rs.
    let mut silent = TcpStream::connect(gateway.address).expect("a connection");
    let mut half = TcpStream::connect(gateway.address).expect("a connection");
    half.write_all(b"POST /sync/pull HTTP/1.1\r\n").expect("a beginning");
    for stream in [&mut silent, &mut half, &mut third] {
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("it is cut off");
    }
}

#[test]
fn before_a_large_body_its_token_must_count() {
    let served = served(Cluster::shared());
    let gateway = served.gateway(&[]);
    let forged = served.token("ann") + "x";
    // Of this one nothing was sent yet.
    let refused = read(&mut begin(&gateway, &forged, 70_000_000, 0)).expect("an answer");
    assert_eq!(refused.status, 401, "{}", refused.text());
    // This one does not say how much comes.
    let mut stream = TcpStream::connect(gateway.address).expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a limit");
    let chunked = head("POST", "/sync/push", &forged, 0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    stream.write_all(chunked.as_bytes()).expect("a request");
    for _ in 0..10 {
        let _refused = stream.write_all(format!("2000\r\n{}\r\n", "x".repeat(0x2000)).as_bytes());
    }
    assert_eq!(read(&mut stream).expect("an answer").status, 401);
    // Known, it is received: and is nonsense.
    let token = served.token("ann");
    assert_eq!(gateway.ask("POST", "/sync/push", &token, &vec![7; 1_000_000]).expect("an answer").status, 400);
}

#[test]
fn strangers_have_only_the_room_of_small_bodies() {
    let served = served(Cluster::shared());
    let gateway = served.gateway(&FEW);
    let (token, forged) = (served.token("ann"), served.token("ann") + "x");
    let _waiting = [begin(&gateway, &forged, 65_000, 64_000), begin(&gateway, &forged, 65_000, 64_000)];
    // There is no room for one more, so that its token is looked at first.
    let refused = read(&mut begin(&gateway, &forged, 65_000, 30_000)).expect("an answer");
    assert_eq!(refused.status, 401, "{}", refused.text());
    assert_eq!(gateway.ask("POST", "/sync/push", &token, &vec![7; 30_000]).expect("an answer").status, 400, "nonsense, taken");
    gateway.sync(&Device::new("ann"), &token).expect("users go on");
}

#[test]
fn users_do_not_wait_behind_strangers() {
    let served = served(Cluster::shared());
    served.lists(1);
    served.db.run(
        "ALTER FUNCTION sync.authenticate(text) RENAME TO authenticate_at_once;
         CREATE FUNCTION sync.authenticate(text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN PERFORM pg_sleep(30) WHERE $1 LIKE 'junk%'; RETURN sync.authenticate_at_once($1); END $$",
    );
    let gateway = served.gateway(&["--pool", "2", "--queue", "6", "--timeout", "60"]);
    let token = served.token("user1");
    gateway.sync(&Device::new("user1"), &token).expect("from now on it is known");
    // All hold their connections open, and half of the places are theirs.
    let mut strangers: Vec<_> = (0..12).map(|n| begin(&gateway, &format!("junk{n}"), 3, 3)).collect();
    let begin = Instant::now();
    gateway.sync(&Device::new("user1"), &token).expect("users go on");
    assert!(begin.elapsed() < Duration::from_secs(10), "it waited for {:?}", begin.elapsed());
    assert_eq!(read(strangers.last_mut().expect("twelve")).expect("an answer").status, 503);
}

#[test]
fn an_address_has_so_many_connections_and_no_more() {
    let served = served(Cluster::shared());
    let gateway = served.gateway(&["--max-per-address", "3"]);
    let well = || {
        let mut stream = TcpStream::connect(gateway.address).expect("a connection");
        ask(&mut stream, "GET", "/healthz", "", b"").map(|reply| (stream, reply.status))
    };
    let mut open: Vec<_> = (0..3).map(|_| well().expect("an answer")).collect();
    well().expect_err("a fourth one");
    open.pop();
    let deadline = Instant::now() + SOON;
    while well().is_err() {
        assert!(Instant::now() < deadline, "the one that was closed still counts");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whoever asks how it is, however often, and with whatever token, costs the database one look a second.
#[test]
fn asking_how_it_is_costs_the_database_next_to_nothing() {
    let served = served(Cluster::shared());
    served.db.run(
        "ALTER FUNCTION sync.head() RENAME TO head_itself; CREATE SEQUENCE asked; CREATE FUNCTION sync.head() RETURNS text
         LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN PERFORM nextval('public.asked'); RETURN sync.head_itself(); END $$",
    );
    let gateway = served.gateway(&[]);
    let begin = Instant::now();
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(gateway.address).expect("a connection");
            std::thread::spawn(move || {
                (0..200)
                    .for_each(|_| assert_eq!(ask(&mut stream, "GET", "/healthz", "junk", b"").expect("an answer").status, 200));
            })
        })
        .collect();
    asking.into_iter().for_each(|thread| thread.join().expect("all are answered"));
    let looks: i64 = served.db.connect().query_one("SELECT last_value FROM asked", &[]).expect("a number").get(0);
    let most = begin.elapsed().as_secs() as i64 + 1;
    assert!((1..=most).contains(&looks), "{looks} looks in {:?}", begin.elapsed());
}

/// Operators who come too many at once wait, and devices do not.
#[test]
fn the_address_of_operators_has_so_many_connections_and_no_more() {
    let served = served(Cluster::shared());
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let operators = free.local_addr().expect("its address");
    drop(free);
    let gateway = served.gateway(&["--metrics-listen", &operators.to_string()]);
    let open = || {
        let stream = TcpStream::connect(operators).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a limit");
        stream
    };
    let mut well: Vec<_> = (0..64).map(|_| open()).collect();
    for stream in &mut well {
        assert_eq!(ask(stream, "GET", "/metrics", "", b"").expect("an answer").status, 200);
    }
    let mut late = open();
    ask(&mut late, "GET", "/metrics", "", b"").expect_err("it waits");
    assert_eq!(gateway.ask("GET", "/healthz", "", b"").expect("an answer").status, 200);
    well.pop();
    late.set_read_timeout(Some(SOON)).expect("a limit");
    assert_eq!(read(&mut late).expect("an answer").status, 200);
}

/// What a user's data makes Postgres say is one line of the gateway's log.
#[test]
fn nobody_writes_lines_of_their_own_into_the_log() {
    let served = served(Cluster::shared());
    served.lists(1);
    served.db.run(
        "CREATE FUNCTION told() RETURNS int LANGUAGE plpgsql STABLE AS $$
         BEGIN RAISE EXCEPTION E'over\\nsync-gateway: forged\\r\\x1b[2J' USING ERRCODE = 'P0001'; END $$;
         SELECT sync.create_bucket('bad', members => 'SELECT list_id + public.told() FROM public.member WHERE user_id = sync.user_id()');
         SELECT sync.add_table('bad', 'list', key => 'id')",
    );
    let gateway = served.gateway(&[]);
    let device = Device::new("user1");
    let reply = gateway.ask("POST", "/sync/pull", &served.token("user1"), &device.pull_request()).expect("an answer");
    assert_eq!((reply.status, reply.text().contains("forged")), (500, false));
    // Of a client's own the log has nothing at all.
    let forged = format!("{}%0async-gateway: forged", served.token("user1"));
    gateway.ask("POST", "/sync/pull%0async-gateway:%20forged", &forged, b"x").expect("an answer");
    let deadline = Instant::now() + SOON;
    while !gateway.said().contains("P0001") {
        assert!(Instant::now() < deadline, "it is not in the log");
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = gateway.said();
    assert!(said.contains("over\\nsync-gateway: forged\\r"), "{said}");
    assert!(said.lines().all(|line| !line.starts_with("sync-gateway: forged") && !line.contains('\u{1b}')), "{said}");
}

#[test]
fn a_pull_is_small() {
    let served = served(Cluster::shared());
    let gateway = served.gateway(&FEW);
    let token = served.token("ann");
    let of = |path: &str| gateway.ask("POST", path, &token, &vec![7; 100_001]).expect("an answer").status;
    assert_eq!((of("/sync/pull"), of("/sync/push")), (413, 400));
    // Settings under which a large body would never have room.
    let why = Gateway::try_start(&served.address(), &["--max-buffered", "1000000"]).map(|_| ()).expect_err("refused");
    assert!(why.contains("--max-buffered must be at least 201326592"), "{why}");
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
    holder.batch_execute("BEGIN; LOCK TABLE sync.generation IN ACCESS EXCLUSIVE MODE").expect("a lock");
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
