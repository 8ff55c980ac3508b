//! Watches the clock, and sends visitors to databases, one after the other.

use super::process;
use super::wakers::Wakers;
use super::{builder, is_listed, INTERVAL, WAKE, WORKER};
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerStatus};
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use pgrx::PgMemoryContexts;
use std::time::{Duration, Instant};

/// The first visits come soon after a start, but not at once: what crashes a server must not do so all the time.
const FIRST: Duration = Duration::from_secs(10);
/// How often a visitor's database is looked at while he is there.
const WATCH: Duration = Duration::from_secs(1);

/// Ends when it is told to, or when nothing is left to do. True: somebody is to take its place.
pub fn run(only: Option<Oid>) -> bool {
    if !BackgroundWorker::transaction(|| process::take_place(only)) {
        return false;
    }
    // Told to read them again before it listened for it, this process would not know.
    process::reload();
    let interval = || Duration::from_secs(INTERVAL.get().max(1).unsigned_abs().into());
    let mut next = Instant::now() + interval().min(FIRST);
    let mut wakers = Wakers::default();
    loop {
        let rest = next.saturating_duration_since(Instant::now());
        let rest = if WAKE.get() > 0 { rest.min(WATCH) } else { rest };
        if !BackgroundWorker::wait_latch(Some(rest)) {
            wakers.end();
            return only.is_none();
        }
        wakers.give_way();
        if BackgroundWorker::sighup_received() {
            process::reload();
            next = next.min(Instant::now() + interval());
        }
        if Instant::now() < next {
            continue;
        }
        if (WORKER.get() || WAKE.get() > 0) && !round(only, &mut wakers) {
            wakers.end();
            return only.is_none();
        }
        next = Instant::now() + interval();
    }
}

/// Visits each database once, and sees to it that each has its waker. False if this process is to end.
fn round(only: Option<Oid>, wakers: &mut Wakers) -> bool {
    let mut databases = BackgroundWorker::transaction(process::databases);
    match only {
        Some(one) => databases.retain(|(database, _)| *database == one),
        None => databases.retain(|(_, name)| is_listed(name)),
    }
    if only.is_some() && databases.is_empty() {
        // Dropped.
        return false;
    }
    databases.into_iter().all(|(database, _)| {
        wakers.start(database);
        !WORKER.get() || visit(database, "sync_visitor", wakers)
    })
}

/// Sends a visitor, who begins with that function, and waits for his end. False if this process is to end meanwhile.
pub fn visit(database: Oid, function: &str, wakers: &mut Wakers) -> bool {
    let mut memory = PgMemoryContexts::new("pg_sync visit");
    let worker = builder("pg_sync visitor", function).set_argument(database.into_datum()).set_notify_pid(process::own_pid());
    let Some(visitor) = process::start(worker, &mut memory) else {
        log!("pg_sync: no process is left for maintaining a database: raise max_worker_processes");
        return true;
    };
    let mut watched = Instant::now();
    loop {
        match visitor.pid() {
            Err(BackgroundWorkerStatus::Stopped) => return true,
            Err(BackgroundWorkerStatus::PostmasterDied) => return false,
            _ => {}
        }
        if !BackgroundWorker::wait_latch(Some(WATCH)) {
            visitor.terminate();
            return false;
        }
        if watched.elapsed() >= WATCH {
            watched = Instant::now();
            wakers.give_way();
            if BackgroundWorker::transaction(|| process::is_wanted(database)) {
                visitor.terminate();
                return true;
            }
        }
    }
}
