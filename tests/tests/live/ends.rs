//! The gateway holds no state: it may end at any moment.

use crate::SOON;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use sync_tests::compare::server_value;
use sync_tests::gateway::{head, read, served, Events, Gateway};
use sync_tests::{Cluster, Device};

#[test]
fn killed_at_any_moment_it_loses_nothing() {
    let served = served(Cluster::shared());
    served.lists(1);
    let port =
        TcpStream::connect(served.gateway(&[]).address).expect("a connection").peer_addr().expect("an address").to_string();
    let again = || Gateway::start(&served.address(), &["--listen", &port]);
    let mut gateway = again();
    let address = gateway.address;
    let over = AtomicBool::new(false);
    let written = 150;
    std::thread::scope(|scope| {
        let token = served.token("user1");
        let over = &over;
        let writer = scope.spawn(move || {
            let device = Device::new("user1");
            let call = |path: &str, body: &[u8]| -> Result<Vec<u8>, String> {
                let mut stream = TcpStream::connect(address).map_err(|e| e.to_string())?;
                sync_tests::gateway::ask(&mut stream, "POST", path, &token, body)?.content()
            };
            let sync = || -> Result<(), String> {
                while let Some(batches) = device.pending_ops() {
                    device.apply(&call("/sync/push", &batches)?)?;
                }
                while device.apply(&call("/sync/pull", &device.pull_request())?)?.more() {}
                Ok(())
            };
            while sync().is_err() {}
            let mut failed = 0;
            for n in 0..written {
                device.run(&format!("INSERT INTO task (list_id, body) VALUES (1, 'task {n}')"));
                failed += usize::from(sync().is_err());
            }
            over.store(true, Ordering::Release);
            while sync().is_err() {
                std::thread::sleep(Duration::from_millis(5));
            }
            (device, failed)
        });
        let mut kills = 0;
        while !over.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(fastrand::u64(5..60)));
            gateway.kill();
            gateway = again();
            kills += 1;
        }
        let (device, failed) = writer.join().expect("the device");
        assert!(failed > 0 && kills > 2, "{failed} calls failed of {kills} kills: nothing was tried");
        assert_eq!(device.value("SELECT count(*) FROM task"), written.to_string());
        assert_eq!(device.value("SELECT count(*) FROM sync_pending"), "0");
    });
    let mut client = served.db.connect();
    assert_eq!(server_value(&mut client, "SELECT count(*) FROM task"), written.to_string());
    assert_eq!(server_value(&mut client, "SELECT count(DISTINCT body) FROM task"), written.to_string());
}

#[test]
fn told_to_end_it_finishes_what_is_under_way() {
    let served = served(Cluster::shared());
    served.lists(1);
    let mut gateway = served.gateway(&[]);
    let token = served.token("user1");
    let device = Device::new("user1");
    gateway.sync(&device, &token).expect("a sync");
    device.run("INSERT INTO task (list_id, body) VALUES (1, 'last')");
    let batches = device.pending_ops().expect("something to send");
    let events = Events::open(&gateway, &token);
    let mut idle = TcpStream::connect(gateway.address).expect("a connection");
    idle.write_all(head("GET", "/healthz", "", 0).as_bytes()).expect("a request");
    read(&mut idle).expect("an answer");
    // A push that waits for a lock.
    let mut holder = served.db.connect();
    holder.batch_execute("BEGIN; LOCK TABLE task IN ACCESS EXCLUSIVE MODE").expect("a lock");
    let mut stream = TcpStream::connect(gateway.address).expect("a connection");
    stream.write_all(head("POST", "/sync/push", &token, batches.len()).as_bytes()).expect("a request");
    stream.write_all(&batches).expect("its body");
    std::thread::sleep(Duration::from_millis(300));
    gateway.terminate();
    assert!(events.ends(SOON), "streams end at once");
    std::thread::sleep(Duration::from_millis(200));
    assert!(TcpStream::connect(gateway.address).is_err(), "nobody new is let in");
    holder.batch_execute("COMMIT").expect("the lock is let go");
    let reply = read(&mut stream).expect("an answer").content().expect("what was under way is finished");
    device.apply(&reply).expect("a reply");
    assert_eq!(idle.read(&mut [0; 10]).expect("the connection is closed"), 0);
    assert!(gateway.wait(SOON), "it ends well");
    assert_eq!(server_value(&mut served.db.connect(), "SELECT count(*) FROM task"), "1");
}

#[test]
fn a_server_that_restarts_is_found_again_and_what_it_did_meanwhile_is_told() {
    let cluster = Cluster::start("");
    let served = served(&cluster);
    served.lists(1);
    let gateway = served.gateway(&[]);
    let (device, token) = (Device::new("user1"), served.token("user1"));
    let events = Events::open(&gateway, &token);
    crate::until(&gateway, &events, &device, &token, "SELECT count(*) FROM list", "1");
    cluster.stop();
    let reply = gateway.ask("POST", "/sync/pull", &token, &device.pull_request()).expect("an answer");
    assert_eq!(reply.status, 503, "{}", reply.text());
    cluster.launch();
    served.db.run("UPDATE list SET title = 'changed'");
    let deadline = std::time::Instant::now() + SOON;
    while device.value("SELECT title FROM list") != "changed" {
        assert!(events.next(deadline.saturating_duration_since(std::time::Instant::now())), "nobody was told");
        while let Err(why) = gateway.sync(&device, &token) {
            assert!(why.starts_with("503") && std::time::Instant::now() < deadline, "{why}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
