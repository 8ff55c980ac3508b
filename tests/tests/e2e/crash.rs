//! Servers that crash, lose commits, or are put back to an earlier state: devices notice, converge, and keep their writes.

use crate::lists::Lists;
use std::sync::OnceLock;
use sync_tests::Cluster;

/// A server that these tests may stop: WAL reaches the disk only when somebody asks for it.
fn unsafe_cluster() -> Cluster {
    Cluster::start("synchronous_commit = off\nwal_writer_delay = 10s\nautovacuum = off\n")
}

/// Tests need a server that lives as long as the process.
fn leaked() -> &'static Cluster {
    Box::leak(Box::new(unsafe_cluster()))
}

#[test]
fn a_crash_after_a_device_has_seen_rows_that_were_not_flushed() {
    static CLUSTER: OnceLock<&Cluster> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(leaked);
    let mut lists = Lists::on(cluster);
    for round in 0..3 {
        lists.run("CHECKPOINT");
        for i in 0..20 {
            lists.run(&format!("INSERT INTO item VALUES ({}, {}, 'seen in round {round}')", 1000 + 100 * round + i, i % 3 + 1));
        }
        lists.ann.run(&format!("INSERT INTO item VALUES ({}, 1, 'written in round {round}', 0)", 2000 + round));
        lists.sync();
        // Not seen by anybody, and lost: their transaction ids will be given to others.
        for i in 0..20 {
            lists.run(&format!("INSERT INTO item VALUES ({}, {}, 'lost')", 5000 + 100 * round + i, i % 3 + 1));
        }
        cluster.crash();
        cluster.launch();
        lists.server = lists.db.connect();
        for i in 0..25 {
            lists.run(&format!("INSERT INTO item VALUES ({}, {}, 'after the crash')", 7000 + 100 * round + i, i % 3 + 1));
        }
        lists.check();
    }
    let kept = lists.ann.value("SELECT count(*) FROM item WHERE id BETWEEN 2000 AND 2999");
    assert_eq!(kept, "3", "a write of the device was lost");
}

#[test]
fn a_server_put_back_from_a_copy_of_its_disk() {
    static CLUSTER: OnceLock<&Cluster> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(leaked);
    let mut lists = Lists::on(cluster);
    cluster.stop();
    cluster.save("copy");
    cluster.launch();
    lists.server = lists.db.connect();
    for i in 0..20 {
        lists.run(&format!("INSERT INTO item VALUES ({}, {}, 'will be undone')", 1000 + i, i % 3 + 1));
    }
    lists.run("DELETE FROM item WHERE id < 10");
    lists.ann.run("INSERT INTO item VALUES (2000, 1, 'accepted, then undone', 0)");
    lists.sync();
    lists.ann.run("INSERT INTO item VALUES (2001, 1, 'pending', 0)");
    cluster.stop();
    cluster.put_back("copy");
    cluster.launch();
    lists.server = lists.db.connect();
    for i in 0..40 {
        lists.run(&format!("INSERT INTO item VALUES ({}, {}, 'another history')", 3000 + i, i % 3 + 1));
    }
    lists.check();
    assert_eq!(lists.ann.rows("SELECT id FROM item WHERE id BETWEEN 2000 AND 2001 ORDER BY id"), [["2000"], ["2001"]]);
}

#[test]
fn a_server_put_back_that_has_written_more_but_fewer_transactions() {
    static CLUSTER: OnceLock<&Cluster> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(leaked);
    let mut lists = Lists::on(cluster);
    lists.run("CREATE TABLE other (body text)");
    lists.sync();
    cluster.stop();
    cluster.save("copy");
    cluster.launch();
    lists.server = lists.db.connect();
    for i in 0..50 {
        lists.run(&format!("INSERT INTO item VALUES ({}, {}, 'will be undone')", 1000 + i, i % 3 + 1));
    }
    // No push and no maintenance: no mark tells the two histories apart.
    lists.ann.pull(&mut lists.server);
    cluster.stop();
    cluster.put_back("copy");
    cluster.launch();
    lists.server = lists.db.connect();
    lists.run("INSERT INTO other SELECT repeat(md5(i::text), 30) FROM generate_series(1, 20000) i; CHECKPOINT");
    lists.check();
}
