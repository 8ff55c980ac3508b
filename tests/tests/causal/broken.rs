//! For each check the smallest histories that it must refuse, each of which the others that it stands beside may let pass.

use crate::checks;
use crate::history::{End, History, Key, Loss, Session, Transaction, Value, Version};

const KEYS: usize = 4;

/// A committed transaction that reads and then writes.
fn transaction(before: [Value; KEYS], writes: &[(Key, Value)]) -> Transaction {
    let mut after = before.to_vec();
    writes.iter().for_each(|(key, value)| after[*key] = *value);
    Transaction { before: before.to_vec(), writes: writes.to_vec(), after, end: End::Committed }
}

/// A history of sessions; the server took each register's values in the order given, each in a transaction of its own unless
/// two values share one, and everybody ends with the last ones.
fn history(sessions: Vec<Vec<Transaction>>, versions: [&[(Value, i64)]; KEYS]) -> History {
    let last: Vec<Value> = versions.iter().map(|v| v.last().map_or(0, |(value, _)| *value)).collect();
    let sessions =
        sessions.into_iter().enumerate().map(|(i, transactions)| Session { name: format!("client {i}"), transactions });
    let versions = versions.iter().map(|v| v.iter().map(|&(value, xid)| Version { value, xid }).collect());
    History {
        keys: KEYS,
        sessions: sessions.collect(),
        versions: versions.collect(),
        server: last.clone(),
        devices: vec![("client 0".into(), last.clone()), ("client 1".into(), last)],
        ..History::default()
    }
}

/// The checks that refuse it.
fn refused(history: &History) -> Vec<&'static str> {
    checks::ALL.iter().filter(|(_, check)| check(history).is_err()).map(|(name, _)| *name).collect()
}

/// What one client writes and the other sees.
fn good() -> History {
    let writer = vec![transaction([0; 4], &[(0, 10), (1, 11)]), transaction([10, 11, 0, 0], &[(2, 12)])];
    let reader = vec![transaction([0; 4], &[]), transaction([10, 11, 0, 0], &[]), transaction([10, 11, 12, 0], &[])];
    history(vec![writer, reader], [&[(10, 1)], &[(11, 1)], &[(12, 2)], &[]])
}

/// Client 1 writes 20 to register 0 and loses it to 10.
fn with_a_loss() -> History {
    let winner = vec![transaction([0; 4], &[(0, 10), (1, 11)])];
    let loser =
        vec![transaction([0; 4], &[(0, 20), (2, 22)]), transaction([20, 11, 22, 0], &[]), transaction([10, 11, 22, 0], &[])];
    let mut history = history(vec![winner, loser], [&[(10, 1)], &[(11, 1)], &[(22, 2)], &[]]);
    history.lost = vec![Loss { key: 0, value: 20, to: Some(10) }];
    history.lost_on_devices = history.lost.clone();
    history
}

#[test]
fn causal_checks_accept_good_histories() {
    assert_eq!(refused(&good()), [""; 0]);
    assert_eq!(refused(&with_a_loss()), [""; 0]);
}

/// Client 1 writes 20 and 21 to one row, loses 20 to 10, and 21 with it though nobody else touched that register.
fn with_a_lost_row() -> History {
    let mut history = with_a_loss();
    let sessions = &mut history.sessions[1].transactions;
    sessions[0] = transaction([0; 4], &[(0, 20), (2, 22), (3, 21)]);
    sessions[1] = transaction([20, 11, 22, 21], &[]);
    history.lost.push(Loss { key: 3, value: 21, to: None });
    history.lost_on_devices = history.lost.clone();
    history
}

#[test]
fn causal_checks_find_that_others_see_what_was_lost_with_its_row() {
    assert_eq!(refused(&with_a_lost_row()), [""; 0], "its own session may, while it waits");
    let mut seen = with_a_lost_row();
    seen.sessions[0].transactions.push(transaction([10, 11, 22, 21], &[]));
    assert_eq!(refused(&seen), ["nothing unfinished is seen"]);
    let mut back = with_a_lost_row();
    back.sessions[1].transactions.push(transaction([10, 11, 22, 21], &[]));
    assert_eq!(refused(&back), ["monotonic reads"]);
}

#[test]
fn causal_checks_find_a_write_that_vanished() {
    let mut vanished = good();
    vanished.sessions[1].transactions.push(transaction([10, 11, 12, 0], &[(3, 99)]));
    assert_eq!(refused(&vanished), ["every write ends well"]);
    let mut unrecorded = with_a_loss();
    unrecorded.lost_on_devices.clear();
    assert_eq!(refused(&unrecorded), ["every write ends well"]);
}

#[test]
fn causal_checks_find_a_write_that_was_rolled_back_and_taken() {
    let mut taken = good();
    taken.sessions[0].transactions[1].end = End::RolledBack;
    assert_eq!(refused(&taken), ["every write ends well", "nothing unfinished is seen"]);
}

#[test]
fn causal_checks_find_a_write_that_was_taken_twice() {
    let mut twice = good();
    twice.versions[2].push(Version { value: 12, xid: 9 });
    assert!(refused(&twice).contains(&"every write ends well"));
}

#[test]
fn causal_checks_find_a_value_that_nobody_may_see() {
    let mut lost = with_a_loss();
    lost.sessions[0].transactions.push(transaction([20, 11, 22, 0], &[]));
    assert!(refused(&lost).contains(&"nothing unfinished is seen"));
    let mut early = good();
    early.sessions[0].transactions[0].before[2] = 12;
    assert!(refused(&early).contains(&"nothing unfinished is seen"));
    let mut invented = good();
    invented.sessions[1].transactions[0].before[3] = 77;
    assert!(refused(&invented).contains(&"nothing unfinished is seen"));
}

#[test]
fn causal_checks_find_a_session_that_does_not_see_its_own_write() {
    let mut gone = good();
    gone.sessions[0].transactions.push(transaction([10, 11, 0, 0], &[]));
    assert_eq!(refused(&gone), ["read your writes"]);
    let mut inside = good();
    inside.sessions[0].transactions[1].after[2] = 0;
    assert_eq!(refused(&inside), ["read your writes"]);
    // One that lost may give way to what it lost to, and to nothing older.
    let mut older = with_a_loss();
    older.sessions[1].transactions[1] = transaction([0, 0, 22, 0], &[]);
    assert_eq!(refused(&older), ["read your writes"]);
}

#[test]
fn causal_checks_find_a_read_that_goes_back() {
    let mut back = good();
    back.sessions[1].transactions.push(transaction([0; 4], &[]));
    assert_eq!(refused(&back), ["monotonic reads"]);
    // A value that lost does not come back once the winner was seen.
    let mut again = with_a_loss();
    again.sessions[1].transactions.push(transaction([20, 11, 22, 0], &[]));
    assert_eq!(refused(&again), ["monotonic reads"]);
}

/// Client 1 writes 20 and 22, sees them while they wait, and has them rejected.
fn with_a_rejection() -> History {
    let mut history = with_a_loss();
    history.lost.clear();
    history.lost_on_devices.clear();
    history.versions[2].clear();
    history.rejected = [20, 22].into();
    history.sessions[1].transactions[2] = transaction([10, 11, 0, 0], &[]);
    history.server[2] = 0;
    history.devices.iter_mut().for_each(|(_, values)| values[2] = 0);
    history
}

#[test]
fn causal_checks_find_half_a_rejection() {
    assert_eq!(refused(&with_a_rejection()), [""; 0]);
    let mut half = with_a_rejection();
    half.rejected.remove(&22);
    assert!(refused(&half).contains(&"every write ends well"));
    let mut taken = with_a_rejection();
    taken.versions[2].push(Version { value: 22, xid: 9 });
    assert!(refused(&taken).contains(&"every write ends well"));
    let mut seen = with_a_rejection();
    seen.sessions[0].transactions.push(transaction([10, 11, 22, 0], &[]));
    assert_eq!(refused(&seen), ["nothing unfinished is seen"]);
    let mut back = with_a_rejection();
    back.sessions[1].transactions.push(transaction([20, 11, 22, 0], &[]));
    assert_eq!(refused(&back), ["monotonic reads"]);
}

#[test]
fn causal_checks_find_writes_out_of_order() {
    // Client 0 has not read its first write, so this is about the order of writes alone.
    let writer = vec![transaction([0; 4], &[(0, 10)]), transaction([10, 0, 0, 0], &[(1, 11)])];
    let reader = vec![transaction([0, 11, 0, 0], &[])];
    let broken = history(vec![writer, reader], [&[(10, 1)], &[(11, 2)], &[], &[]]);
    assert_eq!(refused(&broken), ["monotonic writes", "writes follow reads"]);
}

#[test]
fn causal_checks_find_a_write_without_what_it_followed() {
    let first = vec![transaction([0; 4], &[(0, 10)])];
    let second = vec![transaction([10, 0, 0, 0], &[(1, 20)])];
    let third = vec![transaction([0, 20, 0, 0], &[])];
    let broken = history(vec![first, second, third], [&[(10, 1)], &[(20, 2)], &[], &[]]);
    assert_eq!(refused(&broken), ["writes follow reads"]);
}

#[test]
fn causal_checks_find_half_a_transaction() {
    let mut half = good();
    half.sessions[1].transactions[1] = transaction([10, 0, 0, 0], &[]);
    assert_eq!(refused(&half), ["atomic visibility", "one snapshot"]);
}

#[test]
fn causal_checks_find_two_snapshots_in_one() {
    // Client 2 has overwritten one half of what client 0 wrote, and the reader sees that without the other half.
    let first = vec![transaction([0; 4], &[(0, 10), (1, 11)])];
    let second = vec![transaction([0; 4], &[(0, 20)])];
    let reader = vec![transaction([20, 0, 0, 0], &[])];
    let broken = history(vec![first, second, reader], [&[(10, 1), (20, 2)], &[(11, 1)], &[], &[]]);
    assert_eq!(refused(&broken), ["one snapshot"]);
}

#[test]
fn causal_checks_find_devices_that_differ() {
    let mut differs = good();
    differs.devices[1].1[2] = 0;
    assert_eq!(refused(&differs), ["strong convergence"]);
    let mut agree_on_the_wrong_value = good();
    agree_on_the_wrong_value.versions[0].push(Version { value: 12, xid: 9 });
    assert!(refused(&agree_on_the_wrong_value).contains(&"strong convergence"));
    let mut empty = good();
    empty.server.clear();
    assert_eq!(refused(&empty), ["strong convergence"]);
}
