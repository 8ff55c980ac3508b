//! Clients that leave: what they asked for ends with them, and nobody waits behind it.

use crate::SOON;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use sync_tests::compare::server_value;
use sync_tests::gateway::{head, served, Gateway, Served};
use sync_tests::{Cluster, Device};

/// Asks, and is gone after a while.
fn ask_and_leave(gateway: &Gateway, path: &str, token: &str, body: &[u8], stay: Duration) {
    let mut stream = TcpStream::connect(gateway.address).expect("a connection");
    stream.write_all(head("POST", path, token, body.len()).as_bytes()).expect("a request");
    stream.write_all(body).expect("its body");
    std::thread::sleep(stay);
}

/// Calls of the gateway that Postgres is busy with.
fn busy(served: &Served<'_>) -> String {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{}' AND state <> 'idle'", served.relay);
    server_value(&mut served.db.connect(), &sql)
}

/// From now on what `user2` may hold is found out in half a minute; others are as quick as ever.
fn slow_for_user2(served: &Served<'_>, seconds: &str) {
    served.db.run(&format!(
        "CREATE FUNCTION lists_of(u text) RETURNS SETOF int LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
         BEGIN
             PERFORM pg_sleep({seconds}) WHERE u = 'user2';
             RETURN QUERY SELECT m.list_id FROM member m WHERE m.user_id = u;
         END $$;
         SELECT sync.drop_bucket('list');
         SELECT sync.create_bucket('list', members => 'SELECT * FROM lists_of(sync.user_id())');
         SELECT sync.add_table('list', 'list', key => 'id')"
    ));
}

fn until_idle(served: &Served<'_>) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while busy(served) != "0" {
        assert!(Instant::now() < deadline, "{} calls go on although nobody waits for them", busy(served));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_call_ends_with_its_client_and_nobody_waits_behind_it() {
    let served = served(Cluster::shared());
    served.lists(2);
    slow_for_user2(&served, "30");
    let gateway = served.gateway(&["--pool", "2", "--queue", "500", "--timeout", "60"]);
    let (device, token, other) = (Device::new("user1"), served.token("user1"), served.token("user2"));
    let request = Device::new("user2").pull_request();
    let leave = || ask_and_leave(&gateway, "/sync/pull", &other, &request, Duration::from_millis(40));
    std::thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(|| (0..15).for_each(|_| leave()))));
    });
    let begin = Instant::now();
    gateway.sync(&device, &token).expect("a sync");
    assert!(begin.elapsed() < Duration::from_secs(10), "it waited for {:?}", begin.elapsed());
    until_idle(&served);
    let sql = format!("SELECT count(*) <= 2 FROM pg_stat_activity WHERE usename = '{}'", served.relay);
    let deadline = Instant::now() + SOON;
    while server_value(&mut served.db.connect(), &sql) != "t" {
        assert!(Instant::now() < deadline, "more connections than the pool may have");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_push_whose_client_leaves_is_not_half_done_and_is_sent_again() {
    let served = served(Cluster::shared());
    served.lists(1);
    let gateway = served.gateway(&["--pool", "1", "--timeout", "60"]);
    let (device, token) = (Device::new("user1"), served.token("user1"));
    gateway.sync(&device, &token).expect("a sync");
    device.run("INSERT INTO task (list_id, body) VALUES (1, 'one'), (1, 'two')");
    let batches = device.pending_ops().expect("something to send");
    let mut holder = served.db.connect();
    holder.batch_execute("BEGIN; LOCK TABLE task IN ACCESS EXCLUSIVE MODE").expect("a lock");
    ask_and_leave(&gateway, "/sync/push", &token, &batches, Duration::from_millis(300));
    until_idle(&served);
    holder.batch_execute("COMMIT").expect("the lock is let go");
    assert_eq!(server_value(&mut served.db.connect(), "SELECT count(*) FROM task"), "0");
    gateway.sync(&device, &token).expect("it is sent again");
    assert_eq!(server_value(&mut served.db.connect(), "SELECT count(*) FROM task"), "2");
}

#[test]
fn a_call_that_takes_too_long_ends_and_its_client_is_told_to_come_again() {
    let served = served(Cluster::shared());
    served.lists(2);
    slow_for_user2(&served, "30");
    let gateway = served.gateway(&["--pool", "1", "--timeout", "1"]);
    let begin = Instant::now();
    let request = Device::new("user2").pull_request();
    let reply = gateway.ask("POST", "/sync/pull", &served.token("user2"), &request).expect("an answer");
    assert_eq!((reply.status, begin.elapsed() < SOON), (503, true), "{}", reply.text());
    assert!(reply.head.to_lowercase().contains("retry-after: 5"), "{}", reply.head);
    until_idle(&served);
    gateway.sync(&Device::new("user1"), &served.token("user1")).expect("others go on");
}

/// The limit of a statement begins anew with each.
#[test]
fn a_transaction_that_no_statements_limit_ends_is_cancelled() {
    let served = served(Cluster::shared());
    served.lists(2);
    slow_for_user2(&served, "1.8");
    served.db.run(
        "ALTER FUNCTION sync.authenticate(text) RENAME TO authenticate_at_once;
         CREATE FUNCTION sync.authenticate(text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN PERFORM pg_sleep(1.8); RETURN sync.authenticate_at_once($1); END $$",
    );
    let gateway = served.gateway(&["--pool", "1", "--timeout", "2"]);
    let request = Device::new("user2").pull_request();
    let reply = gateway.ask("POST", "/sync/pull", &served.token("user2"), &request).expect("an answer");
    assert_eq!(reply.status, 503, "{}", reply.text());
    until_idle(&served);
    gateway.sync(&Device::new("user1"), &served.token("user1")).expect("others go on");
}
