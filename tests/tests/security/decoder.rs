//! What the decoder of the server bounds before it allocates.

use postgres::Client;
use sync_shared::envelope::{self, Kind};
use sync_tests::{Cluster, Device};

/// A message of NULLs: each is a byte on the wire, and 32 where it is decoded.
fn nulls(kind: Kind, count: usize) -> Vec<u8> {
    let body = [&[0xdd][..], &(count as u32).to_be_bytes(), &vec![0xc0; count]].concat();
    let head = [b"SY\x01".as_slice(), &[kind as u8, 0], &(body.len() as u32).to_be_bytes(), &[0; 4]].concat();
    let mut bytes = [head, body].concat();
    envelope::seal(&mut bytes);
    bytes
}

fn peak(server: &mut Client) -> u64 {
    let pid: i32 = server.query_one("SELECT pg_backend_pid()", &[]).expect("its number").get(0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its state");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("its peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

#[test]
fn values_of_a_byte_do_not_become_gigabytes() {
    let db = Cluster::shared().database();
    let mut server = db.connect();
    let device = Device::new("ann");
    let ask = |server: &mut Client, sql: &str, message: &[u8]| {
        let error = server.query_one(sql, &[&message]).expect_err("refused");
        sync_tests::cluster::describe(&error)
    };
    server.query_one("SELECT sync.pull($1)", &[&device.pull_request()]).expect("an answer");
    let before = peak(&mut server);
    for (sql, kind) in [("SELECT sync.push($1)", Kind::PushRequest), ("SELECT sync.pull($1)", Kind::PullRequest)] {
        let said = ask(&mut server, sql, &nulls(kind, 40 << 20));
        assert!(said.starts_with("22P03") && said.contains("values, the limit is"), "{said}");
    }
    let grown = (peak(&mut server) - before) >> 10;
    assert!(grown < 400, "{grown} MiB for messages of 40 MiB");
}
