//! `sync.head()`, `sync.changed_since()` and `sync.my_buckets()`: nothing is missed, and nobody learns what is not his.

use postgres::Client;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use sync_tests::cluster::describe;
use sync_tests::gateway::{served, Served};
use sync_tests::Cluster;

struct News {
    head: String,
    buckets: HashSet<String>,
    members: bool,
    everyone: bool,
}

fn since(client: &mut Client, head: Option<&str>, wait: i32) -> News {
    let row = client
        .query_one("SELECT head, buckets::text[], members, everyone FROM sync.changed_since($1, $2)", &[&head, &wait])
        .unwrap_or_else(|e| panic!("{}", describe(&e)));
    News { head: row.get(0), buckets: row.get::<_, Vec<_>>(1).into_iter().collect(), members: row.get(2), everyone: row.get(3) }
}

fn buckets_of(client: &mut Client, served: &Served<'_>, user: &str) -> HashSet<String> {
    let mut transaction = client.transaction().expect("a transaction");
    transaction.query_one("SELECT sync.authenticate($1)", &[&served.token(user)]).expect("a token that counts");
    let row = transaction.query_one("SELECT sync.my_buckets()::text[]", &[]).expect("the buckets");
    row.get::<_, Vec<_>>(0).into_iter().collect()
}

#[test]
fn a_head_changes_with_each_commit_and_says_which_buckets_did() {
    let served = served(Cluster::shared());
    served.lists(3);
    let mut client = served.db.connect_as(&served.relay);
    let mut writer = served.db.connect();
    let head = |client: &mut Client| client.query_one("SELECT sync.head()", &[]).expect("a head").get::<_, String>(0);
    let first = head(&mut client);
    assert!(since(&mut client, None, 0).everyone, "who begins knows nothing");
    // What is not committed is no news, and is not lost when it is: by whichever head.
    let mut late = writer.transaction().expect("a transaction");
    late.batch_execute("INSERT INTO task (list_id, body) VALUES (1, 'late')").expect("an insert");
    let before = since(&mut client, Some(&first), 0);
    assert!(before.buckets.is_empty() && !before.everyone);
    served.db.run("INSERT INTO task (list_id, body) VALUES (2, 'early')");
    let early = since(&mut client, Some(&before.head), 0);
    assert_eq!(early.buckets, buckets_of(&mut client, &served, "user2"));
    late.commit().expect("a commit");
    assert_ne!(head(&mut client), first);
    assert_eq!(since(&mut client, Some(&early.head), 0).buckets, buckets_of(&mut client, &served, "user1"));
    let both: HashSet<_> = ["user1", "user2"].iter().flat_map(|u| buckets_of(&mut client, &served, u)).collect();
    assert_eq!(since(&mut client, Some(&first), 0).buckets, both);
    // Also by way of many transactions, and where a subtransaction wrote.
    let first = head(&mut client);
    for _ in 0..1100 {
        writer.batch_execute("SELECT pg_current_xact_id()").expect("an id is taken");
    }
    writer
        .batch_execute("BEGIN; SAVEPOINT a; INSERT INTO task (list_id, body) VALUES (3, 'within'); RELEASE a; COMMIT")
        .expect("a subtransaction");
    assert_eq!(since(&mut client, Some(&first), 0).buckets, buckets_of(&mut client, &served, "user3"));
    // What was rolled back is none.
    let first = head(&mut client);
    writer.batch_execute("BEGIN; INSERT INTO task (list_id, body) VALUES (3, 'never'); ROLLBACK").expect("a rollback");
    assert!(since(&mut client, Some(&first), 0).buckets.is_empty());
}

#[test]
fn what_concerns_everybody_is_told_to_everybody() {
    let served = served(Cluster::shared());
    served.lists(2);
    let mut client = served.db.connect_as(&served.relay);
    let mut head = since(&mut client, None, 0).head;
    for change in [
        "SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'member')",
        "ALTER TABLE task ADD COLUMN more text",
        "SELECT sync.drop_bucket('all')",
    ] {
        assert!(!since(&mut client, Some(&head), 0).everyone);
        served.db.run(change);
        let news = since(&mut client, Some(&head), 0);
        assert!(news.everyone, "{change}");
        head = news.head;
    }
    for strange in ["", "1:2", "9999999999999:9999999999999:@1", "1:1:@77", "nonsense"] {
        assert!(since(&mut client, Some(strange), 0).everyone, "{strange}");
    }
    // More buckets than are worth naming.
    let head = since(&mut client, None, 0).head;
    served.db.run("INSERT INTO list SELECT n, 'x' FROM generate_series(1000, 12000) n");
    assert!(since(&mut client, Some(&head), 0).everyone);
}

#[test]
fn a_wait_ends_when_there_is_something_to_tell() {
    let served = served(Cluster::shared());
    served.lists(2);
    let mut client = served.db.connect_as(&served.relay);
    let mut head = since(&mut client, None, 0).head;
    // Counters of what was written above may still come.
    while since(&mut client, Some(&head), 1500).members {
        head = since(&mut client, Some(&head), 0).head;
    }
    let begin = Instant::now();
    let news = since(&mut client, Some(&head), 300);
    assert!(news.buckets.is_empty() && !news.members && !news.everyone && begin.elapsed() >= Duration::from_millis(300));
    let db = &served.db;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            db.run("CREATE TABLE other (a int)");
            std::thread::sleep(Duration::from_millis(200));
            db.run("INSERT INTO task (list_id, body) VALUES (2, 'now')");
        });
        let news = since(&mut client, Some(&head), 10_000);
        assert_eq!(news.buckets.len(), 1, "what concerns nobody does not end it");
        assert!(begin.elapsed() < Duration::from_secs(10));
    });
    // A membership is in no bucket.
    let head = since(&mut client, Some(&head), 0).head;
    served.db.run("INSERT INTO member VALUES (2, 'user1')");
    let news = since(&mut client, Some(&head), 10_000);
    assert!(news.members && news.buckets.is_empty() && !news.everyone);
    // Nor is one that is taken away at once with all others.
    served.db.run("TRUNCATE member");
    assert!(since(&mut client, Some(&news.head), 10_000).members);
}

#[test]
fn no_change_is_missed_beside_writers() {
    let served = served(Cluster::shared());
    served.lists(40);
    let mut client = served.db.connect_as(&served.relay);
    let mine: Vec<HashSet<_>> = (1..=40).map(|n| buckets_of(&mut client, &served, &format!("user{n}"))).collect();
    let mut head = since(&mut client, None, 0).head;
    let over = AtomicBool::new(false);
    let mut told = HashSet::new();
    std::thread::scope(|scope| {
        // Each list is written once, by writers who commit late and in any order.
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let db = &served.db;
                scope.spawn(move || {
                    let mut client = db.connect();
                    for n in (1..=40).filter(|n| n % 4 == writer) {
                        let mut transaction = client.transaction().expect("a transaction");
                        let insert = format!("INSERT INTO task (list_id, body) VALUES ({n}, 'x')");
                        transaction.batch_execute(&insert).expect("an insert");
                        std::thread::sleep(Duration::from_millis(fastrand::u64(0..20)));
                        if n % 3 == 0 {
                            transaction
                                .batch_execute("SAVEPOINT a; DELETE FROM task WHERE false; RELEASE a")
                                .expect("a savepoint");
                        }
                        transaction.commit().expect("a commit");
                    }
                })
            })
            .collect();
        let over = &over;
        scope.spawn(move || {
            writers.into_iter().for_each(|w| w.join().expect("a writer"));
            over.store(true, Ordering::Release);
        });
        loop {
            let last = over.load(Ordering::Acquire);
            let news = since(&mut client, Some(&head), 1);
            assert!(!news.everyone);
            told.extend(news.buckets);
            head = news.head;
            if last {
                break;
            }
        }
    });
    for (n, buckets) in mine.iter().enumerate() {
        assert!(buckets.is_subset(&told), "list {} was written and nobody was told", n + 1);
    }
}

#[test]
fn a_standby_tells_what_it_has_replayed() {
    let primary = Cluster::start("wal_level = replica\nmax_wal_senders = 4");
    let served = served(&primary);
    served.lists(2);
    let standby = primary.standby("");
    let mut there = standby.connect(served.db.name(), &served.relay);
    let mut head = since(&mut there, None, 0).head;
    served.db.run("INSERT INTO task (list_id, body) VALUES (2, 'far')");
    let wanted = buckets_of(&mut primary.connect(served.db.name(), &served.relay), &served, "user2");
    let mut told = HashSet::new();
    let deadline = Instant::now() + crate::SOON;
    while told.is_empty() && Instant::now() < deadline {
        let news = since(&mut there, Some(&head), 5_000);
        assert!(!news.everyone);
        told.extend(news.buckets);
        head = news.head;
    }
    assert_eq!(told, wanted);
}

#[test]
fn nobody_else_learns_which_buckets_change() {
    let served = served(Cluster::shared());
    let name = served.db.name().to_owned();
    served.db.run(&format!("CREATE ROLE curious_{name} LOGIN; CREATE ROLE trusted_{name} LOGIN IN ROLE sync_transport"));
    let mut curious = served.db.connect_as(&format!("curious_{name}"));
    for call in [
        "sync.head()",
        "sync.changed_since(NULL)",
        "sync.my_buckets()",
        "sync.wake_channel()",
        "sync.members_read()",
        "sync.tell(NULL)",
    ] {
        let refused = curious.batch_execute(&format!("SELECT {call}")).expect_err("not everybody may");
        assert!(describe(&refused).starts_with("42501"), "{call}: {}", describe(&refused));
    }
    let mut trusted = served.db.connect_as(&format!("trusted_{name}"));
    for call in ["sync.head()", "sync.changed_since(NULL)", "sync.my_buckets()", "sync.wake_channel()"] {
        trusted.batch_execute(&format!("SELECT {call}")).unwrap_or_else(|e| panic!("{call}: {}", describe(&e)));
    }
    let channel = |db: &sync_tests::Database<'_>| {
        db.connect().query_one("SELECT sync.wake_channel()", &[]).expect("it").get::<_, String>(0)
    };
    assert!(channel(&served.db).len() > 36);
}

/// The same lock, where a user's buckets are looked up.
#[test]
fn looking_up_buckets_waits_for_no_lock_that_somebody_keeps() {
    let served = served(Cluster::shared());
    served.lists(1);
    let (mut client, mut holder) = (served.db.connect_as(&served.relay), served.db.connect());
    client.batch_execute("SET statement_timeout = '15s'").expect("a limit");
    let before = buckets_of(&mut client, &served, "user1");
    assert!(!before.is_empty());
    holder.batch_execute("BEGIN; LOCK TABLE member IN ACCESS EXCLUSIVE MODE").expect("locked");
    let begin = Instant::now();
    let mut transaction = client.transaction().expect("a transaction");
    transaction.execute("SELECT sync.authenticate($1)", &[&served.token("user1")]).expect("a token");
    let error = transaction.query_one("SELECT sync.my_buckets()", &[]).expect_err("locked");
    assert_eq!(error.code().map(|code| code.code()), Some("55P03"), "{}", describe(&error));
    assert!(describe(&error).contains("ask again"), "{}", describe(&error));
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    transaction.rollback().expect("an end");
    holder.batch_execute("COMMIT").expect("an end");
    assert_eq!(buckets_of(&mut client, &served, "user1"), before);
}

/// Whoever may write to a table may lock it, and keep the lock.
#[test]
fn a_lock_that_somebody_keeps_is_not_waited_for_and_none_is_kept() {
    let served = served(Cluster::shared());
    served.lists(1);
    served.db.run(
        "CREATE TABLE staff (user_id text, list_id int) PARTITION BY LIST (list_id);
         CREATE TABLE staff_1 PARTITION OF staff FOR VALUES IN (1);
         CREATE TABLE staff_2 PARTITION OF staff FOR VALUES IN (2);
         CREATE TABLE guest (user_id text, list_id int)",
    );
    for (rule, table) in [("staff", "staff"), ("guest", "guest")] {
        served.db.run(&format!(
            "SELECT sync.create_bucket('{rule}', members => 'SELECT m.list_id FROM {table} m WHERE m.user_id = sync.user_id()');
             SELECT sync.add_table('{rule}', 'list', key => 'id')"
        ));
    }
    let (mut client, mut holder) = (served.db.connect_as(&served.relay), served.db.connect());
    holder.batch_execute("BEGIN; LOCK TABLE staff_2, guest IN ACCESS EXCLUSIVE MODE").expect("locked");
    client.batch_execute("SET statement_timeout = '15s'").expect("a limit");
    let begin = Instant::now();
    let mut transaction = client.transaction().expect("a transaction");
    let head: String = transaction.query_one("SELECT head FROM sync.changed_since(NULL)", &[]).expect("an answer").get(0);
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    let locks = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation IN
        ('staff'::regclass, 'staff_1'::regclass, 'member'::regclass)";
    assert_eq!(transaction.query_one(locks, &[]).expect("a number").get::<_, i64>(0), 0, "locks are kept");
    transaction.commit().expect("a commit");
    // What was written under the lock, and what is written after it, is told once the lock is gone.
    holder.batch_execute("INSERT INTO guest VALUES ('ann', 1); COMMIT").expect("a commit");
    let news = since(&mut client, Some(&head), 10_000);
    assert!(news.members, "members may have changed");
    let mut head = news.head;
    while since(&mut client, Some(&head), 3000).members {
        head = since(&mut client, Some(&head), 0).head;
    }
    served.db.run("INSERT INTO staff VALUES ('ann', 2)");
    assert!(since(&mut client, Some(&head), 10_000).members, "both tables are watched again");
}
