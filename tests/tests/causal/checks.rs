//! The checks: each looks at a recorded history and nothing else, and says what is wrong with it first.
//!
//! A client "sees" a transaction when it reads a value that the transaction wrote. What it must see then is said in places: at a
//! register where some transaction stands at place p it must read a value of place p or later. So a value that somebody has
//! overwritten, or that lost a recorded conflict, need not be seen, but nothing older may be. A client's own writes may stand over
//! what others did, as long as they have not reached the server.

use crate::history::{End, History, Key, Loss, Name, Place, Places, Transaction, NOWHERE};
use std::collections::{HashMap, HashSet};

/// What is wrong, in plain words.
pub type Outcome = Result<(), String>;
/// A check by its name.
pub type Check = (&'static str, fn(&History) -> Outcome);

/// All of them.
pub const ALL: [Check; 9] = [
    ("every write ends well", every_write_ends_well),
    ("nothing unfinished is seen", nothing_unfinished_is_seen),
    ("read your writes", read_your_writes),
    ("monotonic reads", monotonic_reads),
    ("monotonic writes", monotonic_writes),
    ("writes follow reads", writes_follow_reads),
    ("atomic visibility", atomic_visibility),
    ("one snapshot", one_snapshot),
    ("strong convergence", strong_convergence),
];

/// For each register the place that must be seen at least, and because of whom.
type Bound = Vec<(Place, Name)>;

/// Every write of a committed transaction was taken by the server once, or lost a conflict that both sides recorded, or was rejected
/// with all others of its transaction; no write of another was taken.
pub fn every_write_ends_well(history: &History) -> Outcome {
    let places = Places::new(history)?;
    for (name, transaction) in places.transactions() {
        for (key, value) in &transaction.writes {
            let placed = places.of(*key, *value).is_some();
            let wrong = match transaction.end {
                End::Committed if !placed => "was never taken, and no conflict tells why",
                End::RolledBack if placed => "was taken though it was rolled back",
                _ => continue,
            };
            return Err(format!("register {key}: {value} of {} {wrong}", places.describe(name)));
        }
    }
    for (key, versions) in history.versions.iter().enumerate() {
        if let Some(version) = versions.iter().find(|v| places.writer(v.value).is_none()) {
            return Err(format!("register {key}: nobody wrote {}", version.value));
        }
    }
    let (mut server, mut devices) = (history.lost.clone(), history.lost_on_devices.clone());
    server.sort_unstable();
    devices.sort_unstable();
    if server != devices {
        let only = |a: &[Loss], b: &[Loss]| a.iter().filter(|l| !b.contains(l)).take(3).copied().collect::<Vec<_>>();
        let (here, there) = (only(&server, &devices), only(&devices, &server));
        return Err(format!("conflicts recorded on the server only: {here:?}, on a device only: {there:?}"));
    }
    Ok(())
}

/// Nobody sees what was rolled back, nor a value that lost, unless it is their own.
pub fn nothing_unfinished_is_seen(history: &History) -> Outcome {
    let places = Places::new(history)?;
    for (name, transaction) in places.transactions() {
        for (key, value) in transaction.before.iter().enumerate() {
            let Some(writer) = places.writer(*value) else {
                if *value == 0 {
                    continue;
                }
                return Err(format!("{} reads {value} in register {key}, which nobody wrote", places.describe(name)));
            };
            let own = writer.0 == name.0;
            let wrong = match places.transaction(writer).end {
                End::RolledBack => "was rolled back",
                _ if own && writer.1 >= name.1 => "was not written yet",
                _ if !own && places.is_private(*value) => "lost its conflict or was rejected",
                _ if places.of(key, *value).is_none() => "was never taken",
                _ => continue,
            };
            return Err(format!("{} reads {value} in register {key}, which {wrong}", places.describe(name)));
        }
    }
    Ok(())
}

/// What a transaction wrote it reads, and what its session wrote before, or something later.
pub fn read_your_writes(history: &History) -> Outcome {
    let places = Places::new(history)?;
    for (name, transaction) in places.transactions() {
        let mut expected = transaction.before.clone();
        transaction.writes.iter().for_each(|(key, value)| expected[*key] = *value);
        if !transaction.after.is_empty() && transaction.after != expected {
            return Err(format!("{} does not read what it wrote, or not only that", places.describe(name)));
        }
    }
    each_session(&places, |bound, name, transaction| {
        must_see(&places, name, transaction, bound)?;
        raise_by_writes(&places, bound, name, transaction);
        Ok(())
    })
}

/// What a session reads never goes back to something earlier, and its own write that lost or was rejected stays gone.
pub fn monotonic_reads(history: &History) -> Outcome {
    let places = Places::new(history)?;
    for (s, session) in history.sessions.iter().enumerate() {
        let mut gone = HashSet::new();
        for (n, pair) in session.transactions.windows(2).enumerate() {
            let changed = (0..history.keys).filter(|key| pair[0].before[*key] != pair[1].before[*key]);
            for key in changed {
                gone.insert((key, pair[0].before[key]));
                if places.is_private(pair[1].before[key]) && gone.contains(&(key, pair[1].before[key])) {
                    let (who, value) = (places.describe((s, n + 1)), pair[1].before[key]);
                    return Err(format!("{who} reads {value} in register {key}, which was gone before"));
                }
            }
        }
    }
    each_session(&places, |bound, name, transaction| {
        must_see(&places, name, transaction, bound)?;
        raise_by_reads(&places, bound, name, transaction);
        Ok(())
    })
}

/// Who sees a transaction sees everything that its session wrote before it.
pub fn monotonic_writes(history: &History) -> Outcome {
    let places = Places::new(history)?;
    let mut before: HashMap<Name, Bound> = HashMap::new();
    each_session(&places, |bound, name, transaction| {
        before.insert(name, bound.clone());
        raise_by_writes(&places, bound, name, transaction);
        Ok(())
    })?;
    whoever_sees(&places, &before)
}

/// Who sees a transaction sees everything that its session had read until then.
pub fn writes_follow_reads(history: &History) -> Outcome {
    let places = Places::new(history)?;
    let mut before: HashMap<Name, Bound> = HashMap::new();
    each_session(&places, |bound, name, transaction| {
        raise_by_reads(&places, bound, name, transaction);
        before.insert(name, bound.clone());
        Ok(())
    })?;
    whoever_sees(&places, &before)
}

/// Who sees one write of a transaction sees all of them.
pub fn atomic_visibility(history: &History) -> Outcome {
    let places = Places::new(history)?;
    let mut whole: HashMap<Name, Bound> = HashMap::new();
    for (name, transaction) in places.transactions() {
        let mut bound = nothing(&places);
        raise_by_writes(&places, &mut bound, name, transaction);
        whole.insert(name, bound);
    }
    whoever_sees(&places, &whole)
}

/// Who sees what somebody else's transaction left sees all that the server had taken with it and, at the same registers, before it.
pub fn one_snapshot(history: &History) -> Outcome {
    let places = Places::new(history)?;
    let mut with: HashMap<i64, Vec<(Key, u32)>> = HashMap::new();
    for (key, versions) in history.versions.iter().enumerate() {
        for (i, version) in versions.iter().enumerate() {
            with.entry(version.xid).or_default().push((key, i as u32 + 1));
        }
    }
    // For each version of each register, what stands with it or with one before it.
    let mut bounds: Vec<Vec<Vec<u32>>> = Vec::new();
    for versions in &history.versions {
        let mut bound = vec![0; history.keys];
        let mut all = vec![bound.clone()];
        for version in versions {
            with[&version.xid].iter().for_each(|(key, place)| bound[*key] = bound[*key].max(*place));
            all.push(bound.clone());
        }
        bounds.push(all);
    }
    for (name, transaction) in places.transactions() {
        let seen = places.shown(transaction);
        for (key, value) in transaction.before.iter().enumerate() {
            // Its own may not have been taken yet, and what nobody took is somebody else's check.
            if places.writer(*value).is_none_or(|writer| writer.0 == name.0) || places.is_private(*value) {
                continue;
            }
            let bound = &bounds[key][seen[key].0 as usize / 2];
            if let Some(other) = (0..history.keys).find(|other| seen[*other].0 < 2 * i64::from(bound[*other])) {
                return Err(format!(
                    "{} reads {value} in register {key} but {} in register {other}, which the server had replaced by then",
                    places.describe(name),
                    transaction.before[other]
                ));
            }
        }
    }
    Ok(())
}

/// At the end all are equal, and equal to what the writes make in the order in which the server took them.
pub fn strong_convergence(history: &History) -> Outcome {
    let last: Vec<_> = history.versions.iter().map(|versions| versions.last().map_or(0, |v| v.value)).collect();
    let server = [("the server".to_owned(), history.server.clone())];
    for (who, values) in server.iter().chain(&history.devices) {
        if values.len() != history.keys {
            return Err(format!("{who} holds {} registers of {}", values.len(), history.keys));
        }
        if let Some(key) = (0..history.keys).find(|key| values[*key] != last[*key]) {
            return Err(format!("{who} holds {} in register {key}, and the last write was {}", values[key], last[key]));
        }
    }
    Ok(())
}

/// Walks each session in order, with a bound that it may raise.
fn each_session(places: &Places<'_>, mut walk: impl FnMut(&mut Bound, Name, &Transaction) -> Outcome) -> Outcome {
    for (s, session) in places.history.sessions.iter().enumerate() {
        let mut bound = nothing(places);
        for (n, transaction) in session.transactions.iter().enumerate() {
            walk(&mut bound, (s, n), transaction)?;
        }
    }
    Ok(())
}

fn nothing(places: &Places<'_>) -> Bound {
    vec![((i64::MIN, 0), (0, 0)); places.history.keys]
}

fn raise(bound: &mut Bound, key: Key, place: Place, name: Name) {
    if bound[key].0 < place && place != NOWHERE {
        bound[key] = (place, name);
    }
}

fn raise_by_writes(places: &Places<'_>, bound: &mut Bound, name: Name, transaction: &Transaction) {
    let placed = transaction.writes.iter().filter_map(|(key, value)| Some((*key, places.of(*key, *value)?)));
    placed.for_each(|(key, place)| raise(bound, key, place, name));
}

fn raise_by_reads(places: &Places<'_>, bound: &mut Bound, name: Name, transaction: &Transaction) {
    places.seen(transaction).into_iter().enumerate().for_each(|(key, place)| raise(bound, key, place, name));
}

fn must_see(places: &Places<'_>, name: Name, transaction: &Transaction, bound: &Bound) -> Outcome {
    reaches(places, name, transaction, &places.seen(transaction), bound)
}

fn reaches(places: &Places<'_>, name: Name, transaction: &Transaction, seen: &[Place], bound: &Bound) -> Outcome {
    match (0..seen.len()).find(|key| seen[*key] < bound[*key].0) {
        None => Ok(()),
        Some(key) => Err(format!(
            "{} reads {} in register {key}, which is older than what {} left or saw there",
            places.describe(name),
            transaction.before[key],
            places.describe(bound[key].1)
        )),
    }
}

/// Whoever sees a transaction of somebody else must see what belongs to it.
fn whoever_sees(places: &Places<'_>, belongs: &HashMap<Name, Bound>) -> Outcome {
    for (name, transaction) in places.transactions() {
        let seen = places.shown(transaction);
        for other in places.seen_from_others(name.0, transaction) {
            let Some(bound) = belongs.get(&other) else { continue };
            reaches(places, name, transaction, &seen, bound)
                .map_err(|e| format!("{e}; it has seen {}", places.describe(other)))?;
        }
    }
    Ok(())
}
