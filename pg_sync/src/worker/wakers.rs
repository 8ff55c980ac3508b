//! The wakers that a launcher has started, one for each database.

use super::{builder, process, WAKE};
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerStatus, DynamicBackgroundWorker};
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use pgrx::PgMemoryContexts;
use std::collections::HashMap;

/// A process, and where the server keeps what is known of it.
struct Waker {
    process: DynamicBackgroundWorker,
    _memory: PgMemoryContexts,
}

#[derive(Default)]
pub struct Wakers(HashMap<Oid, Waker>);

impl Wakers {
    /// Starts one where there is none and one is wanted. It ends by itself where there is no extension, or nobody wants it any more.
    pub fn start(&mut self, database: Oid) {
        let runs = |waker: &Waker| !matches!(waker.process.pid(), Err(BackgroundWorkerStatus::Stopped));
        if WAKE.get() <= 0 || self.0.get(&database).is_some_and(runs) {
            return;
        }
        let mut memory = PgMemoryContexts::new("pg_sync waker");
        let worker = builder("pg_sync waker", "sync_waker").set_argument(database.into_datum());
        match process::start(worker, &mut memory) {
            Some(process) => drop(self.0.insert(database, Waker { process, _memory: memory })),
            None => log!("pg_sync: no process is left for notifying from a database: raise max_worker_processes"),
        }
    }

    /// Ends those whose database somebody wants to drop, rename or copy; they come back with the next round.
    pub fn give_way(&mut self) {
        let wanted = |database: &Oid| BackgroundWorker::transaction(|| process::is_wanted(*database));
        let databases: Vec<Oid> = self.0.keys().copied().filter(wanted).collect();
        databases.iter().filter_map(|database| self.0.remove(database)).for_each(Waker::end);
    }

    /// Ends all.
    pub fn end(&mut self) {
        self.0.drain().for_each(|(_, waker)| waker.end());
    }
}

impl Waker {
    fn end(self) {
        self.process.terminate();
    }
}
