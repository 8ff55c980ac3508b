//! A device that was behind the log writes while its rows are compared with the server's.

use crate::lists::Lists;
use sync_tests::compare::server_value;
use sync_tests::device::server_pull;

/// One message of a download. Returns whether there is more.
fn step(lists: &mut Lists) -> bool {
    let reply = server_pull(&mut lists.server, &lists.ann.user, &lists.ann.pull_request()).expect("sync.pull answers");
    lists.ann.apply(&reply).expect("a reply is applied").more()
}

/// Messages that a device which was behind gets: start over, the sums, what differs.
fn begin(lists: &mut Lists, messages: usize) {
    lists.run("UPDATE item SET hidden = true WHERE id = 6");
    let last = server_value(&mut lists.server, "SELECT pg_current_xact_id()");
    lists.run("SET sync.lease = '0 seconds'");
    // A transaction of another test may hold the log back for a while.
    let behind = format!("SELECT xid > '{last}' FROM sync.horizon");
    while server_value(&mut lists.server, &behind) != "t" {
        lists.run("SELECT sync.maintain()");
    }
    lists.run("RESET sync.lease");
    for _ in 0..messages {
        assert!(step(lists), "the download ends before the write");
    }
}

#[test]
fn a_key_that_changes_here_while_its_row_leaves() {
    for messages in 0..3 {
        let mut lists = Lists::new();
        begin(&mut lists, messages);
        lists.ann.run("UPDATE item SET id = 106 WHERE id = 6");
        while step(&mut lists) {}
        assert_eq!(lists.ann.rows("SELECT id FROM item WHERE id IN (6, 106)"), [["106"]], "after {messages}");
        lists.check();
    }
}

#[test]
fn what_is_written_during_a_comparison_is_no_difference() {
    for messages in 0..3 {
        let mut lists = Lists::new();
        begin(&mut lists, messages);
        lists.ann.run("DELETE FROM item WHERE id = 9; UPDATE item SET body = 'mine' WHERE id = 12; INSERT INTO item VALUES (99, 1, 'new', 0)");
        while step(&mut lists) {}
        assert_eq!(lists.ann.rows("SELECT id, body FROM item WHERE id IN (9, 12, 99)"), [["12", "mine"], ["99", "new"]]);
        lists.check();
        assert_eq!(lists.ann.rows("SELECT id, body FROM item WHERE id IN (9, 12, 99)"), [["12", "mine"], ["99", "new"]]);
    }
}

#[test]
fn sync_verify_finds_no_difference_in_what_was_just_written() {
    let lists = Lists::new();
    lists.ann.run("DELETE FROM item WHERE id = 9; UPDATE item SET body = 'mine' WHERE id = 12");
    sync_tests::compare::assert_verified(&lists.ann);
}
