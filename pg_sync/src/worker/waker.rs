//! Stays in one database and notifies those who listen, coalesced: writers never do.

use super::process;
use super::visitor::{begin, owner, step};
use super::WAKE;
use crate::snapshot::{self, Snapshot};
use pgrx::bgworkers::BackgroundWorker;
use std::time::{Duration, Instant};

/// How often it is looked at what members read, whose writers report late.
const MEMBERS_EVERY: Duration = Duration::from_millis(250);

/// Ends where there is no extension, or once nobody wants it. An ERROR ends the process, which logs it; the launcher starts another.
pub fn run() {
    if BackgroundWorker::transaction(begin).is_none() {
        return;
    }
    let mut head: Option<String> = None;
    let mut seen: Option<Snapshot> = None;
    let mut looked = Instant::now();
    loop {
        let pause = WAKE.get();
        if pause <= 0 {
            return;
        }
        let now = BackgroundWorker::transaction(Snapshot::active);
        if seen.as_ref() != Some(&now) || looked.elapsed() >= MEMBERS_EVERY {
            looked = Instant::now();
            // May have been dropped meanwhile.
            let Some(owner) = BackgroundWorker::transaction(owner) else { return };
            let before = head.as_ref().map_or("NULL".to_owned(), |h| format!("'{h}'"));
            head = step::<String>(owner, &format!("SELECT sync.tell({before})"));
            seen = Some(now);
        }
        snapshot::sleep(Duration::from_millis(pause.unsigned_abs().into()));
        if BackgroundWorker::sighup_received() {
            process::reload();
        }
    }
}
