//! What a transport watches, so that devices need not ask all the time.
//!
//! # Layout
//! - [`head`]: how far somebody has seen
//! - [`changes`]: buckets that changed since
//! - [`reads`]: tables that decide who may hold which bucket
//!
//! Nothing here costs a writer anything but the entry in the log's index by transaction. Whoever watches looks at a snapshot, which is
//! another one after each commit: something may be reported that concerns nobody, never the other way round.

mod changes;
mod head;
mod reads;

use crate::error::raise;
use crate::identity::asking_user;
use crate::pull::{buckets_of, PATIENCE_MS};
use crate::push::subtransaction::unless_locked;
use crate::render::pinned;
use crate::snapshot::{self, Snapshot};
use crate::wal;
use changes::Changed;
use head::Head;
use pgrx::prelude::*;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// The longest wait: the statement's snapshot holds back vacuum for as long.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Pauses between looks: the longer, the longer nothing has been committed.
const PAUSE: std::ops::RangeInclusive<u64> = 1..=10;
/// How often the tables that members read are looked at.
const MEMBERS_EVERY: Duration = Duration::from_millis(200);

thread_local! {
    /// When something was committed last, as far as this backend has seen.
    static MOVED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// What is to be told.
pub struct News {
    pub head: String,
    pub buckets: Vec<pgrx::Uuid>,
    /// Who holds which bucket may have changed.
    pub members: bool,
    /// Everybody should ask.
    pub everyone: bool,
}

impl News {
    /// Whether there is anything to tell.
    pub fn is_some(&self) -> bool {
        self.everyone || self.members || !self.buckets.is_empty()
    }
}

fn head_of(snapshot: Snapshot, members: Option<i64>) -> Head {
    Head { snapshot, timeline: wal::timeline(), members }
}

#[pg_extern(volatile, parallel_restricted, name = "head")]
fn live_head() -> String {
    snapshot::with_latest(|| head_of(Snapshot::active(), None).to_string())
}

#[pg_extern(volatile)]
#[allow(clippy::type_complexity)]
fn changed_since(
    head: Option<&str>,
    wait: i32,
) -> TableIterator<'static, (name!(head, String), name!(buckets, Vec<pgrx::Uuid>), name!(members, bool), name!(everyone, bool))> {
    let wait = Duration::from_millis(wait.max(0).unsigned_abs().into()).min(WAIT_MAX);
    let news = since(head, wait);
    TableIterator::once((news.head, news.buckets, news.members, news.everyone))
}

/// What was committed since a head; waits for something to tell.
pub fn since(head: Option<&str>, wait: Duration) -> News {
    let begin = Instant::now();
    let Some(mut before) = head.and_then(|h| h.parse::<Head>().ok()) else {
        return snapshot::with_latest(|| everything(Snapshot::active()));
    };
    let mut looked: Option<Instant> = None;
    loop {
        let due = looked.is_none_or(|at| at.elapsed() >= MEMBERS_EVERY);
        if due {
            looked = Some(Instant::now());
        }
        let news = snapshot::with_latest(|| look(&mut before, due));
        if news.is_some() || begin.elapsed() >= wait {
            return news;
        }
        let still = MOVED.with(Cell::get).map_or(u64::MAX, |at| at.elapsed().as_millis() as u64);
        let pause = Duration::from_millis((still / 50).clamp(*PAUSE.start(), *PAUSE.end()));
        snapshot::sleep(pause.min(wait.saturating_sub(begin.elapsed())));
    }
}

/// One look, in the active snapshot. What needs not be told is passed over: `before` moves on.
fn look(before: &mut Head, members_due: bool) -> News {
    let now = Snapshot::active();
    let timeline = wal::timeline();
    if timeline != before.timeline {
        return everything(now);
    }
    let mut buckets = Vec::new();
    if now != before.snapshot {
        MOVED.with(|m| m.set(Some(Instant::now())));
        match changes::between(&before.snapshot, &now) {
            Changed::Everything => return everything(now),
            Changed::Buckets(found) => buckets = found,
        }
        before.snapshot = now;
    }
    let mut members = false;
    if members_due {
        let activity = reads::activity();
        members = before.members != Some(activity);
        before.members = Some(activity);
    }
    News { head: before.to_string(), buckets, members, everyone: false }
}

fn everything(now: Snapshot) -> News {
    let head = head_of(now, Some(reads::activity())).to_string();
    News { head, buckets: Vec::new(), members: true, everyone: true }
}

#[pg_extern(stable)]
fn my_buckets(request: Option<&[u8]>) -> Vec<pgrx::Uuid> {
    let user = asking_user();
    // Whoever may write to a table that members read may keep it locked.
    let found = pinned(|| unless_locked(PATIENCE_MS, || buckets_of(&user, request)));
    let locked = "sync.my_buckets: a table that members read is locked and cannot be read now: ask again";
    let buckets = found.unwrap_or_else(|| raise(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, locked));
    buckets.into_iter().map(|id| pgrx::Uuid::from_bytes(id.0)).collect()
}
