//! `sync.pull`: what changed for a device, in one snapshot per page. Reads only.
//!
//! # Layout
//! - [`state`]: what is read first; [`members`]: which buckets the user may hold
//! - [`cursor`]: the tokens in which the device keeps for the server where it stands
//! - [`changes`]: known buckets, from the op log; [`source`]: new ones and current rows, from the tables
//! - [`enforce`]: parts of which only what the user's policies show is handed out
//! - [`standing`]: whether the device can go on from there; [`walk`]: the order of work
//! - [`delta`], [`page`]: what is sent; [`sums`]: what it must add up to; [`compare`]: what need not be sent

mod changes;
mod compare;
mod cursor;
mod delta;
mod enforce;
pub mod members;
mod page;
pub mod source;
mod standing;
mod state;
pub mod sums;
mod walk;

use crate::access::viewer::{Session, Viewer};
use crate::auth::sign;
use crate::catalog::{self, Catalog, SyncedTable};
use crate::error::raise;
use crate::identity::{self, asking_user};
use crate::lineage::Lineage;
use crate::push::subtransaction::{only_reads, unless_locked};
use crate::push::REVOKED;
use crate::render::pinned;
use crate::snapshot::{self, Snapshot};
use members::Member;
use pgrx::prelude::*;
use standing::{lineage_and_log, standing};
use state::State;
use std::collections::HashSet;
use std::rc::Rc;
use sync_shared::envelope;
use sync_shared::hash::{BucketId, SetDigest};
use sync_shared::message::{BatchId, Delta, EntryId, Notice, NoticeKind, PullRequest};

/// How long one lock is waited for, in milliseconds: a device that asks again costs less than a writer who waits for it.
pub const PATIENCE_MS: i32 = 500;
/// The priority that is above all others.
const ALL: u8 = u8::MAX;

#[pg_extern(stable, strict)]
fn pull(request: &[u8]) -> Vec<u8> {
    snapshot::refuse_unfit_transaction();
    crate::version::refuse_other();
    let bytes = request;
    let request: PullRequest = envelope::decode(bytes)
        .unwrap_or_else(|e| raise(PgSqlErrorCode::ERRCODE_INVALID_BINARY_REPRESENTATION, format!("sync.pull: {e}")));
    let user = asking_user();
    let locked = || Answer::Notice(NoticeKind::Retry, "a table is being changed and cannot be read now: ask again".into());
    let (owner, session) = (identity::owner(), Session::now());
    let read = || {
        // Functions of policies and of members are other people's, and this writes nothing.
        only_reads();
        Spi::connect(|_| answer(&request, user, session))
    };
    let answered = || unless_locked(PATIENCE_MS, read).unwrap_or_else(locked);
    let (answer, keys) = identity::as_owner(owner, || pinned(|| (answered(), sign::keys())));
    let reply = match answer {
        Answer::Delta(delta) => envelope::encode(&*delta),
        Answer::Notice(kind, message) => {
            envelope::encode(&Notice { kind, message, cursor: Default::default(), keep: Vec::new(), turn: request.turn })
        }
        Answer::Verified(notice) => envelope::encode(&Notice { turn: request.turn, ..notice }),
    };
    let reply = reply.unwrap_or_else(|e| raise(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, format!("sync.pull: {e}")));
    sign::signed(&keys, bytes, reply)
}

/// The buckets that a user may hold; a device's request says what it subscribes to.
pub fn buckets_of(user: &str, request: Option<&[u8]>) -> Vec<BucketId> {
    let subscriptions = request.map_or_else(Vec::new, |request| {
        let decoded: Result<PullRequest, _> = envelope::decode(request);
        let refuse = |e| raise(PgSqlErrorCode::ERRCODE_INVALID_BINARY_REPRESENTATION, format!("sync.my_buckets: {e}"));
        decoded.unwrap_or_else(refuse).subscriptions
    });
    Spi::connect(|_| members::of(user, &catalog::rules(), &subscriptions)).into_iter().map(|m| m.id).collect()
}

enum Answer {
    Delta(Box<Delta>),
    Notice(NoticeKind, String),
    Verified(Notice),
}

/// Everything that a page is made from.
struct Server {
    catalog: Rc<Catalog>,
    /// Entries whose sums are known.
    ready: HashSet<EntryId>,
    members: Vec<Member>,
    /// The user as policies see them, where an entry is enforced.
    viewer: Option<Viewer>,
    now: Snapshot,
    lineage: Lineage,
    horizon: u64,
    last_batch: Option<BatchId>,
}

fn answer(request: &PullRequest, user: String, session: Session) -> Answer {
    let state = State::read(request.device);
    let catalog = Catalog::at(state.generation);
    refuse_if_moved(state.waits || catalog.moved);
    if let Some(kind) = state.revoked {
        return Answer::Notice(kind, REVOKED.into());
    }
    if was_rewritten(&catalog) {
        return Answer::Notice(NoticeKind::Retry, "a synced table is being rewritten: ask again".into());
    }
    let Some(lineage) = Lineage::current(state.mark) else {
        return Answer::Notice(NoticeKind::Retry, "the server has just been started, and leaves a mark first: ask again".into());
    };
    let (now, horizon) = (Snapshot::active(), state.horizon);
    let (base, running, pass) = match standing(request, &lineage, &now, horizon) {
        Ok(found) => found,
        Err((kind, message)) => return Answer::Notice(kind, message),
    };
    let members = members::of(&user, &catalog.rules, &request.subscriptions);
    let asks = catalog.rules.iter().flat_map(|r| &r.entries).any(|e| e.enforced);
    let claims = identity::believed_claims;
    let viewer = asks.then(|| Viewer::new(user.clone(), identity::writing_role(), claims().as_ref(), session));
    let server = Server { catalog, ready: state.ready, members, viewer, now, lineage, horizon, last_batch: state.last_batch };
    if let Some(sums) = &request.sums {
        let stands = cursor::decode(&request.cursor)
            .filter(|base| lineage_and_log(base, None, &server.lineage, &server.now, server.horizon).is_ok());
        return Answer::Verified(server.verify(sums, stands.as_ref()));
    }
    let held = match (&running, server.held(request)) {
        (Some(running), _) => running.known.clone(),
        (None, Some(held)) => held,
        (None, None) => {
            return Answer::Notice(NoticeKind::NeedHeld, "the buckets have changed: send the list of those you hold".into())
        }
    };
    Answer::Delta(Box::new(server.delta(request, user, base, running, pass, held)))
}

/// In a restored, copied or upgraded database the capture triggers do nothing until the rules have been read anew: what they miss
/// must not look like no change.
pub fn refuse_if_moved(moved: bool) {
    if moved {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "this database was restored, copied or upgraded, and its rules were not read again yet: call sync.maintain() once",
        );
    }
}

/// A TRUNCATE or rewrite that committed after our snapshot makes a table look empty, and a rule changed meanwhile no longer fits
/// what we read: both are seen by comparing the snapshot's catalog with the current one, under a lock that keeps it so. Partitions are
/// locked too, since each may be truncated by itself.
fn was_rewritten(catalog: &Catalog) -> bool {
    snapshot::lock_shared(&catalog.captured);
    !catalog.captured.iter().all(|&relation| snapshot::has_same_file(relation))
        || snapshot::with_latest(catalog::generation) != catalog.generation.number
}

impl Server {
    fn table(&self, relation: pgrx::pg_sys::Oid) -> Option<&SyncedTable> {
        self.catalog.tables.iter().find(|t| t.relation == relation)
    }

    /// Entry ids with their rule's priority.
    fn entries(&self) -> impl Iterator<Item = (EntryId, u8)> + '_ {
        self.catalog.rules.iter().flat_map(|r| r.entries.iter().map(|e| (e.id, r.priority)))
    }

    /// The ids of all members, sorted.
    fn ids(&self) -> Vec<BucketId> {
        let mut ids: Vec<BucketId> = self.members.iter().map(|m| m.id).collect();
        ids.sort_unstable();
        ids
    }

    /// The buckets that the device holds, sorted; None if it has to say.
    fn held(&self, request: &PullRequest) -> Option<Vec<BucketId>> {
        let digest = SetDigest::of(self.members.iter().map(|m| &m.id));
        let mut held: Vec<BucketId> = if request.held == digest {
            return Some(self.ids());
        } else if let Some(list) = &request.held_list {
            list.clone()
        } else if request.held.count == 0 {
            Vec::new()
        } else {
            return None;
        };
        held.sort_unstable();
        held.dedup();
        Some(held)
    }
}
