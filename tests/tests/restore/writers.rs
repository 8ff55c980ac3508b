//! Many writers into one bucket at once, at every isolation level, with savepoints, prepared transactions and orders that deadlock:
//! capture adds no error of its own, and devices that pull meanwhile miss nothing.

use crate::leaked;
use fastrand::Rng;
use postgres::error::SqlState;
use postgres::Client;
use std::thread;
use sync_tests::cluster::describe;
use sync_tests::compare::{assert_same, assert_verified, server_rows, server_value};
use sync_tests::{Cluster, Database, Device};

const WRITERS: usize = 64;
const TRANSACTIONS: usize = 12;
/// Counters 0 to 9 are everybody's, the others belong to one writer; each has a twin that changes in the same transaction.
const TABLES: &str = "
    CREATE TABLE tick (id int PRIMARY KEY, n int NOT NULL);
    SELECT sync.create_bucket('all');
    SELECT sync.add_table('all', 'tick');
";

fn both(counter: usize) -> String {
    format!("UPDATE tick SET n = n + 1 WHERE id IN ({counter}, {})", counter + 1000)
}

/// One transaction. Returns what it added to the writer's own counter.
fn transaction(client: &mut Client, writer: usize, rng: &mut Rng) -> Result<u32, postgres::Error> {
    let own = 10 + writer;
    let (some, other) = (rng.usize(..10), rng.usize(..10));
    let sql = match writer % 4 {
        // Nobody else's rows: nothing may stop it.
        0 => format!(
            "BEGIN; {}; SAVEPOINT a; {}; ROLLBACK TO a; SAVEPOINT b; {}; RELEASE b; COMMIT",
            both(own),
            both(own),
            both(own)
        ),
        1 => format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {}; {}; COMMIT", both(own), both(own)),
        // Rows of everybody, in any order.
        2 => format!("BEGIN; {}; {}; {}; {}; COMMIT", both(own), both(some), both(other), both(own)),
        _ => format!("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(n) FROM tick; {}; {}; COMMIT", both(own), both(own)),
    };
    if writer.is_multiple_of(8) {
        client.batch_execute(&sql.replace("COMMIT", &format!("PREPARE TRANSACTION 'w{writer}'")))?;
        client.batch_execute(&format!("COMMIT PREPARED 'w{writer}'"))?;
    } else {
        client.batch_execute(&sql)?;
    }
    Ok(2)
}

/// Returns what the writer's own counter must be, and how often it had to give up.
fn write(db: &Database<'_>, writer: usize) -> (u32, u32) {
    let mut client = db.connect();
    client.batch_execute("SET deadlock_timeout = '20ms'").expect("a setting");
    let mut rng = Rng::with_seed(writer as u64);
    let (mut total, mut failed) = (0, 0);
    for _ in 0..TRANSACTIONS {
        match transaction(&mut client, writer, &mut rng) {
            Ok(added) => total += added,
            Err(e) => {
                let passing = [&SqlState::T_R_DEADLOCK_DETECTED, &SqlState::T_R_SERIALIZATION_FAILURE];
                assert!(writer % 4 >= 2, "a writer of rows of its own was stopped: {}", describe(&e));
                assert!(e.code().is_some_and(|code| passing.contains(&code)), "{}", describe(&e));
                client.batch_execute("ROLLBACK").expect("a rollback");
                failed += 1;
            }
        }
    }
    (total, failed)
}

#[test]
fn many_writers_into_one_bucket_at_every_isolation_level() {
    let cluster = leaked(Cluster::start("max_connections = 100\nmax_prepared_transactions = 20\n"));
    let db = cluster.database();
    db.run(TABLES);
    db.run(
        "INSERT INTO tick SELECT i, 0 FROM generate_series(0, 99) i UNION ALL SELECT 1000 + i, 0 FROM generate_series(0, 99) i",
    );
    db.run("SELECT sync.maintain()");
    let device = Device::new("ann");
    device.pull(&mut db.connect());
    let counted: Vec<(u32, u32)> = thread::scope(|scope| {
        let db = &db;
        let writers: Vec<_> = (0..WRITERS).map(|n| scope.spawn(move || write(db, n))).collect();
        let mut client = db.connect();
        while !writers.iter().all(|w| w.is_finished()) {
            device.pull(&mut client);
            let torn = "SELECT a.id, a.n, b.n FROM tick a JOIN tick b ON b.id = a.id + 1000 WHERE a.n <> b.n";
            assert_eq!(device.rows(torn), Vec::<Vec<String>>::new(), "half of a transaction is shown");
        }
        writers.into_iter().map(|w| w.join().expect("a writer ends well")).collect()
    });
    let mut server = db.connect();
    device.pull(&mut server);
    assert_same(&device, &mut server, "SELECT id, n FROM tick");
    assert_verified(&device);
    for (writer, (total, _)) in counted.iter().enumerate() {
        assert_eq!(server_value(&mut server, &format!("SELECT n FROM tick WHERE id = {}", 10 + writer)), total.to_string());
    }
    assert_eq!(server_rows(&mut server, "SELECT * FROM sync.verify_table('tick')"), Vec::<Vec<String>>::new());
    let gave_up: u32 = counted.iter().map(|(_, failed)| failed).sum();
    eprintln!("{} transactions, {gave_up} gave way to others", WRITERS * TRANSACTIONS);
}
