//! Behind pgbouncer in transaction mode: each transaction may be in another session.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use sync_tests::compare::server_value;
use sync_tests::gateway::{head, served, Events, Gateway, Served};
use sync_tests::{Cluster, Device};

/// A pgbouncer in front of a database, with three sessions for everybody.
struct Pooler {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl Pooler {
    fn start(served: &Served<'_>) -> Pooler {
        let folder = std::env::temp_dir().join(format!("pg_sync_pooler.{}.{:08x}", std::process::id(), fastrand::u32(..)));
        std::fs::create_dir(&folder).expect("a folder");
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let cluster = served.db.cluster();
        let file = folder.join("pgbouncer.ini");
        // With auth_type any it logs in as whoever the database's line names.
        let settings = format!(
            "[databases]\n* = host={} port={} user={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 200\nlogfile = {}\n\
             ignore_startup_parameters = extra_float_digits\n",
            cluster.socket().display(),
            cluster.port(),
            served.relay,
            folder.join("log").display()
        );
        std::fs::write(&file, settings).expect("its settings");
        let program = std::env::var_os("SYNC_PGBOUNCER").filter(|p| !p.is_empty()).unwrap_or_else(|| "pgbouncer".into());
        let mut command = Command::new(program);
        if std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0) {
            // It does not run as root.
            std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("others may write");
            command.args(["-u", "postgres"]);
        }
        let process = command.arg("-q").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.unwrap_or_else(|e| panic!("pgbouncer: {e}: ./dev test says where it is"));
        let deadline = Instant::now() + crate::SOON;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "pgbouncer does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Pooler { process, folder, port }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _ended = self.process.wait();
        let _removed = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn behind_pgbouncer_in_transaction_mode_everything_works() {
    let served = served(Cluster::shared());
    served.lists(12);
    let pooler = Pooler::start(&served);
    let address = format!("host=127.0.0.1 port={} user=gateway dbname={}", pooler.port, served.db.name());
    let gateways: Vec<_> = (0..2).map(|_| Gateway::start(&address, &["--pool", "8"])).collect();
    std::thread::scope(|scope| {
        for n in 1..=12 {
            let (served, gateway) = (&served, &gateways[n % 2]);
            scope.spawn(move || {
                let user = format!("user{n}");
                let (device, token) = (Device::new(&user), served.token(&user));
                gateway.sync(&device, &token).unwrap_or_else(|e| panic!("{e}"));
                for i in 0..10 {
                    device.run(&format!("INSERT INTO task (list_id, body) VALUES ({n}, '{i}')"));
                    gateway.sync(&device, &token).unwrap_or_else(|e| panic!("{e}"));
                    // A refused token leaves nothing behind in whichever session it was.
                    let refused = gateway.ask("POST", "/sync/pull", "nonsense", &device.pull_request()).expect("an answer");
                    assert_eq!(refused.status, 401);
                }
                assert_eq!(device.value("SELECT count(*) FROM list"), "1");
            });
        }
    });
    assert_eq!(server_value(&mut served.db.connect(), "SELECT count(*) FROM task"), "120");
    let (device, token) = (Device::new("user1"), served.token("user1"));
    let events = Events::open(&gateways[0], &token);
    served.db.run("UPDATE list SET title = 'through a pooler'");
    crate::until(&gateways[0], &events, &device, &token, "SELECT title FROM list", "through a pooler");
    // A client that leaves takes its call with it: the pooler hands on what cancels it.
    device.run("INSERT INTO task (list_id, body) VALUES (1, 'left')");
    let batches = device.pending_ops().expect("something to send");
    let mut holder = served.db.connect();
    holder.batch_execute("BEGIN; LOCK TABLE task IN ACCESS EXCLUSIVE MODE").expect("a lock");
    let mut stream = std::net::TcpStream::connect(gateways[0].address).expect("a connection");
    stream.write_all(head("POST", "/sync/push", &token, batches.len()).as_bytes()).expect("a request");
    stream.write_all(&batches).expect("its body");
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{}' AND state <> 'idle' AND query NOT LIKE '%changed_since%'",
        served.relay
    );
    for (wanted, why) in [("1", "the push does not wait for the lock"), ("0", "it goes on although nobody waits for it")] {
        let deadline = Instant::now() + crate::SOON;
        while server_value(&mut served.db.connect(), &waiting) != wanted {
            assert!(Instant::now() < deadline, "{why}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let _gone = stream.shutdown(std::net::Shutdown::Both);
    }
    holder.batch_execute("COMMIT").expect("the lock is let go");
    gateways[0].sync(&device, &token).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(server_value(&mut served.db.connect(), "SELECT count(*) FROM task WHERE body = 'left'"), "1");
    // Sessions that are cut off are made anew.
    served.db.run(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'", served.relay));
    served.db.run("UPDATE list SET title = 'again'");
    let deadline = Instant::now() + crate::SOON;
    while device.value("SELECT title FROM list") != "again" {
        assert!(events.next(deadline.saturating_duration_since(Instant::now())), "nobody was told");
        while gateways[0].sync(&device, &token).is_err() {
            assert!(Instant::now() < deadline, "it does not come back");
        }
    }
}
