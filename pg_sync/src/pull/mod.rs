//! `sync.pull`: what changed for a device, in one snapshot per page. Reads only.
//!
//! # Layout
//! - [`state`]: what is read first; [`members`]: which buckets the user may hold
//! - [`cursor`]: the tokens in which the device keeps for the server where it stands
//! - [`changes`]: known buckets, from the op log; [`source`]: new ones and current rows, from the tables
//! - [`enforce`]: parts of which only what the user's policies show is handed out
//! - [`page`]: what is sent; [`sums`]: what it must add up to; [`compare`]: what need not be sent

mod changes;
mod compare;
mod cursor;
mod enforce;
pub mod members;
mod page;
pub mod source;
mod state;
pub mod sums;

use crate::access::viewer::{Session, Viewer};
use crate::auth::sign;
use crate::catalog::{self, Catalog, SyncedTable};
use crate::error::raise;
use crate::identity::{self, asking_user};
use crate::lineage::{Lineage, Standing};
use crate::push::subtransaction::{only_reads, unless_locked};
use crate::push::REVOKED;
use crate::render::pinned;
use crate::snapshot::{self, Snapshot};
use compare::{Differ, Differences};
use cursor::{Cursor, Pass, Position, Running, Step};
use enforce::{Enforced, Rest};
use members::Member;
use page::{Page, Part, Start};
use pgrx::prelude::*;
use source::Source;
use state::State;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use sync_shared::envelope;
use sync_shared::hash::{BucketId, SetDigest};
use sync_shared::limits;
use sync_shared::message::{BatchId, Delta, EntryId, Notice, NoticeKind, PartChanges, PartSum, PullRequest};
use sync_shared::ranges::Ranges;

/// The smallest page, in bytes.
const PAGE_BYTES_MIN: u32 = 16 << 10;
/// The largest page after doublings, in bytes.
const PAGE_BYTES_MAX: usize = 64 << 20;
/// How long one lock is waited for, in milliseconds: a device that asks again costs less than a writer who waits for it.
const PATIENCE_MS: i32 = 500;
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

/// Where the device stands: what it has (published or staged), the pass it is in, and the token that said so.
type Place = (Cursor, Option<Running>, Option<Pass>);

fn standing(request: &PullRequest, lineage: &Lineage, now: &Snapshot, horizon: u64) -> Result<Place, (NoticeKind, String)> {
    let unreadable = || (NoticeKind::Resync, "the cursor is not one of this server's version".to_owned());
    let (base, running, pass) = if request.sums.is_some() {
        (Cursor::empty(lineage.clone()), None, None)
    } else if !request.pass.is_empty() {
        let pass: Pass = cursor::decode(&request.pass).ok_or_else(unreadable)?;
        (pass.base.clone(), pass.running.clone(), Some(pass))
    } else if !request.cursor.is_empty() {
        (cursor::decode(&request.cursor).ok_or_else(unreadable)?, None, None)
    } else {
        (Cursor::empty(lineage.clone()), None, None)
    };
    // Whoever sends it may have made it.
    let differ = running.iter().flat_map(|r| &r.differ);
    if base.shown.iter().any(|(.., sums)| sums.check().is_err()) || differ.clone().any(|(.., ranges)| ranges.check().is_err()) {
        return Err(unreadable());
    }
    lineage_and_log(&base, running.as_ref(), lineage, now, horizon)?;
    Ok((base, running, pass))
}

/// Whether a cursor is of this history, and the log reaches back to it.
fn lineage_and_log(
    base: &Cursor,
    running: Option<&Running>,
    lineage: &Lineage,
    now: &Snapshot,
    horizon: u64,
) -> Result<(), (NoticeKind, String)> {
    match lineage.standing_of(&base.lineage) {
        Standing::Valid => {}
        Standing::Behind => {
            return Err((NoticeKind::Behind, "this server has not caught up yet: ask later, or another one".into()))
        }
        Standing::Other(why) => return Err((NoticeKind::Restored, format!("the server's history has changed: {why}"))),
    }
    let seen = base.levels.iter().map(|(_, s)| s).chain(running.map(|r| &r.start));
    for snapshot in seen {
        if snapshot::is_ahead(snapshot) {
            let message = "the server's history has changed: its transactions end before what the device saw";
            return Err((NoticeKind::Restored, message.into()));
        }
        if now.misses_some_of(snapshot) {
            return Err((NoticeKind::Behind, "the device has seen a commit that is not visible here yet: ask again".into()));
        }
    }
    let mut needed: Box<dyn Iterator<Item = &Snapshot>> = match running {
        Some(pass) => Box::new(pass.log_needed(base)),
        None => Box::new(base.levels.iter().map(|(_, s)| s)),
    };
    if needed.any(|snapshot| snapshot.xmin < horizon) {
        return Err((NoticeKind::Resync, "the device was away for longer than the log reaches back".into()));
    }
    Ok(())
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

    fn delta(
        &self,
        request: &PullRequest,
        user: String,
        base: Cursor,
        running: Option<Running>,
        pass: Option<Pass>,
        mut held: Vec<BucketId>,
    ) -> Delta {
        let doublings = pass.as_ref().map_or(0, |p| p.doublings);
        let staged = pass.as_ref().and_then(|p| p.staged);
        let wanted = request.page_bytes.clamp(PAGE_BYTES_MIN, limits::PAGE_BYTES) as usize;
        let mut page = Page::new((wanted << doublings.min(16)).min(PAGE_BYTES_MAX));
        let entries: HashSet<EntryId> = match &running {
            Some(r) => r.entries.iter().copied().collect(),
            None => self.entries().map(|(id, _)| id).collect(),
        };
        let mut delta = self.empty_delta(request, user);
        let ids = self.ids();
        if held != ids {
            held.dedup();
            delta.gone_buckets = held.iter().filter(|b| ids.binary_search(b).is_err()).copied().collect();
            held.retain(|b| ids.binary_search(b).is_ok());
        }
        if running.is_none() {
            delta.gone_entries = base.entries.iter().filter(|e| !entries.contains(e)).copied().collect();
        }
        let mut sources = self.sources(&entries);
        let differ = match &running {
            Some(r) => r.differ.iter().map(|(b, e, ranges)| ((*b, *e), Differ { ranges: ranges.clone(), rows: 0 })).collect(),
            None => self.differences(&request.ranges, &held, &mut sources),
        };
        let mut enforced = self.enforced(&base, running.is_none(), &held, &delta.gone_buckets, &request.ranges);
        let walk = self.walk(&base, &entries, &held, running.as_ref(), staged, &differ, &mut enforced, &mut sources, &mut page);
        let mut base = base;
        base.shown = enforced.shown(if let Walk::Publish(upto) = walk { upto } else { ALL });
        match (walk, running) {
            (Walk::All, None) => self.publish(&mut delta, base, ALL, &entries, &page, pass.is_some(), &enforced),
            (Walk::Publish(upto), None) => self.publish(&mut delta, base, upto, &entries, &page, pass.is_some(), &enforced),
            // A pass over several pages saw several snapshots: the next one catches up from its first.
            (Walk::All | Walk::Publish(_), Some(ended)) => {
                let next = self.moved(base, ended.upto, &ended.start, &entries);
                delta.pass = cursor::encode(&Pass {
                    base: next,
                    running: None,
                    doublings: doublings.saturating_add(1),
                    staged: Some(ended.upto),
                });
            }
            (Walk::Cut(position), Some(mut going)) => {
                going.differ.retain(|(_, entry, _)| !self.is_enforced(*entry));
                going.differ.extend(enforced.cut());
                let running = Some(Running { position, known: held, ..going });
                delta.pass = cursor::encode(&Pass { base: self.seen(base), running, doublings, staged });
            }
            (Walk::Cut(position), None) => {
                let entries = entries.iter().copied().collect();
                let upto = position.priority;
                delta.expected_rows = Some(self.expected(&held, &differ));
                let differ = differ.into_iter().map(|((bucket, entry), d)| (bucket, entry, d.ranges));
                let differ = differ.chain(enforced.cut()).collect();
                let running = Some(Running { start: self.now.clone(), upto, entries, known: held, position, differ });
                delta.pass = cursor::encode(&Pass { base: self.seen(base), running, doublings, staged });
            }
        }
        delta.more = !delta.complete;
        delta.buckets = page.buckets;
        delta.changes = page.changes;
        delta.whole = page.whole;
        delta
    }

    fn empty_delta(&self, request: &PullRequest, user: String) -> Delta {
        Delta {
            cursor: Default::default(),
            pass: Default::default(),
            publish: None,
            complete: false,
            more: false,
            user,
            server_time: snapshot::now_micros(),
            schema: (request.schema != self.catalog.generation.number).then(|| catalog::schema(&self.catalog.tables)),
            buckets: Vec::new(),
            gone_buckets: Vec::new(),
            gone_entries: Vec::new(),
            changes: Vec::new(),
            whole: Vec::new(),
            sums: Vec::new(),
            last_batch: self.last_batch,
            expected_rows: None,
            turn: request.turn,
        }
    }

    /// Rows that the buckets which the device does not hold are expected to bring; how many of them row level security hides is not told,
    /// so none of enforced parts.
    fn expected(&self, held: &[BucketId], differ: &Differences) -> u64 {
        let ids: Vec<BucketId> = self.members.iter().map(|m| m.id).filter(|id| held.binary_search(id).is_err()).collect();
        let counted = |part: &(BucketId, EntryId)| !differ.contains_key(part) && !self.is_enforced(part.1);
        let whole = sums::of(&ids).into_iter().filter(|(part, _)| counted(part)).map(|(_, s)| s.count.max(0) as u64);
        whole.chain(differ.values().map(|d| d.rows)).sum()
    }

    /// How the given entries' rows are read.
    fn sources(&self, entries: &HashSet<EntryId>) -> HashMap<EntryId, Source<'_>> {
        let mut sources = HashMap::new();
        for rule in &self.catalog.rules {
            for entry in rule.entries.iter().filter(|e| entries.contains(&e.id)) {
                if let Some(table) = self.table(entry.relation) {
                    sources.insert(entry.id, Source::new(rule, entry, table));
                }
            }
        }
        sources
    }

    /// The same place, by a device that has now seen this server: a page of one that is behind, or of another history, does not fit
    /// the pages before it.
    fn seen(&self, base: Cursor) -> Cursor {
        Cursor { lineage: self.lineage.clone(), ..base }
    }

    /// Moves a cursor's priorities up to `upto` to a snapshot, with the entries of those priorities.
    fn moved(&self, mut cursor: Cursor, upto: u8, snapshot: &Snapshot, entries: &HashSet<EntryId>) -> Cursor {
        cursor.lineage = self.lineage.clone();
        cursor.advance(upto, snapshot);
        let now: HashMap<EntryId, u8> = self.entries().collect();
        // One that was dropped on the way stays listed, so that the next pass reports it gone.
        cursor.entries.extend(entries.iter().filter(|e| now.get(e).is_none_or(|&priority| priority <= upto)));
        cursor.entries.sort_unstable();
        cursor.entries.dedup();
        cursor
    }

    #[allow(clippy::too_many_arguments)]
    fn publish(
        &self,
        delta: &mut Delta,
        base: Cursor,
        upto: u8,
        entries: &HashSet<EntryId>,
        page: &Page,
        staged: bool,
        enforced: &Enforced<'_>,
    ) {
        let mut cursor = self.moved(base, upto, &self.now, entries);
        // Those that are no more were reported gone on this page.
        cursor.entries.retain(|e| entries.contains(e));
        // Which parts earlier pages touched is not known here, so then all of them are compared.
        let parts: Vec<(BucketId, EntryId)> = if staged {
            let members = self.members.iter().filter(|m| m.priority <= upto);
            members.flat_map(|m| self.catalog.rules[m.rule].entries.iter().map(|e| (m.id, e.id))).collect()
        } else {
            let of = |c: &PartChanges| &page.buckets[c.bucket as usize];
            let touched: HashSet<_> =
                page.changes.iter().filter(|c| of(c).priority <= upto).map(|c| (of(c).id, c.entry)).collect();
            touched.into_iter().collect()
        };
        let mut buckets: Vec<BucketId> = parts.iter().map(|(b, _)| *b).collect();
        buckets.sort_unstable();
        buckets.dedup();
        let sums = sums::of(&buckets);
        let content = |part: &(BucketId, EntryId)| match self.is_enforced(part.1) {
            // Of rows that the user sees: those that the device has with this page.
            true => enforced.content(*part),
            false => self.ready.contains(&part.1).then(|| sums.get(part).copied().unwrap_or_default()),
        };
        delta.sums = (parts.iter().filter(|part| cursor.entries.contains(&part.1)))
            .filter_map(|part| Some(PartSum { bucket: part.0, entry: part.1, content: content(part)? }))
            .collect();
        delta.cursor = cursor::encode(&cursor);
        delta.publish = Some(upto);
        delta.complete = upto == ALL;
    }

    /// Fills the page in the order of work, from where the pass stands.
    #[allow(clippy::too_many_arguments)]
    fn walk<'a>(
        &'a self,
        base: &Cursor,
        entries: &HashSet<EntryId>,
        held: &[BucketId],
        running: Option<&Running>,
        staged: Option<u8>,
        differ: &Differences,
        enforced: &mut Enforced<'a>,
        sources: &mut HashMap<EntryId, Source<'a>>,
        page: &mut Page,
    ) -> Walk {
        // Those that the log is about: of enforced ones it says nothing that counts.
        let known: HashSet<EntryId> =
            base.entries.iter().copied().filter(|e| entries.contains(e) && !self.is_enforced(*e)).collect();
        let mut priorities: Vec<u8> = self.catalog.rules.iter().map(|r| r.priority).collect();
        priorities.dedup();
        let position = running.map(|r| &r.position);
        let upto = running.map_or(ALL, |r| r.upto);
        // The last priority that is complete on this page and brought something that should not wait for the next.
        let mut complete = None;
        for priority in priorities.into_iter().filter(|&p| p <= upto) {
            let step = match position {
                Some(at) if at.priority > priority => continue,
                Some(at) if at.priority == priority => Some(&at.step),
                _ => None,
            };
            let first_time = base.level(priority).is_none();
            let (cut, new) = self.walk_priority(priority, base, &known, held, step, differ, enforced, sources, page);
            if let Some(step) = cut {
                if let (None, Some((done, before))) = (running, complete) {
                    page.truncate(before);
                    return Walk::Publish(done);
                }
                return Walk::Cut(Position { priority, step });
            }
            // What is staged must not become visible before all of it is at this snapshot.
            let worth_it = staged.map_or(first_time || new, |level| priority >= level);
            if worth_it {
                complete = Some((priority, page.extent()));
            }
        }
        Walk::All
    }

    #[allow(clippy::too_many_arguments)]
    fn walk_priority<'a>(
        &'a self,
        priority: u8,
        base: &Cursor,
        known: &HashSet<EntryId>,
        held: &[BucketId],
        step: Option<&Step>,
        differ: &Differences,
        enforced: &mut Enforced<'a>,
        sources: &mut HashMap<EntryId, Source<'a>>,
        page: &mut Page,
    ) -> (Option<Step>, bool) {
        let members: Vec<&Member> = self.members.iter().filter(|m| m.priority == priority).collect();
        if let (Some(snapshot), None | Some(Step::Log { .. })) = (base.level(priority), step) {
            if *snapshot != self.now {
                let after = match step {
                    Some(Step::Log { bucket, xid, op_id }) => Some((*bucket, *xid, *op_id)),
                    _ => None,
                };
                let later = self.members.iter().filter(|m| m.priority > priority).map(|m| (m.id, m)).collect();
                let is_held = |m: &&Member| held.len() == self.members.len() || held.binary_search(&m.id).is_ok();
                let old: Vec<&Member> = members.iter().copied().filter(is_held).collect();
                if let Some(cut) = changes::read(snapshot, &old, &later, sources, known, after, page) {
                    return (Some(cut), false);
                }
            }
        }
        let mut new = false;
        // `held` has none that is not a member.
        let all_held = held.len() == self.members.len();
        let news: Vec<bool> = self.catalog.rules.iter().map(|r| r.entries.iter().any(|e| !known.contains(&e.id))).collect();
        for member in members {
            let rule = &self.catalog.rules[member.rule];
            let is_fresh = !all_held && held.binary_search(&member.id).is_err();
            if !is_fresh && !news[member.rule] {
                continue;
            }
            for entry in &rule.entries {
                if !is_fresh && known.contains(&entry.id) {
                    continue;
                }
                let Some(source) = sources.get_mut(&entry.id) else { continue };
                let behind = match step {
                    Some(Step::Table { bucket, entry: at, key }) => match (member.id, entry.id).cmp(&(*bucket, *at)) {
                        std::cmp::Ordering::Less => continue,
                        std::cmp::Ordering::Equal => match key {
                            None => continue,
                            Some(key) => Some(key.as_slice()),
                        },
                        std::cmp::Ordering::Greater => None,
                    },
                    _ => None,
                };
                let table = source.table.tag;
                let ranges = differ.get(&(member.id, entry.id)).map(|d| &d.ranges);
                let begun =
                    |key| Some(Step::Table { bucket: member.id, entry: entry.id, key: Some(serde_bytes::ByteBuf::from(key)) });
                if entry.enforced {
                    let part = Part { member, rule, entry: entry.id, table, start: Start::On };
                    let rest = behind.map_or(Rest::All, |key| Rest::Behind(key, ranges));
                    if let Some(key) = enforced.read(source, part, rest, is_fresh, page) {
                        return (begun(key), new);
                    }
                    continue;
                }
                new = true;
                let start = if behind.is_some() { Start::On } else { ranges.map_or(Start::Empty, Start::Ranges) };
                let part = Part { member, rule, entry: entry.id, table, start };
                page.part(part);
                if ranges.is_some_and(Ranges::is_empty) {
                    continue;
                }
                if let Some(key) = source.read_part(part, behind, ranges, page) {
                    return (begun(key), new);
                }
            }
            let passed = matches!(step, Some(Step::Table { bucket, .. }) if member.id < *bucket);
            if is_fresh && !passed {
                page.is_whole(member, rule);
                new = true;
            }
        }
        (None, new)
    }
}

/// How far a page came.
enum Walk {
    /// Everything that the pass is about.
    All,
    /// Everything up to a priority; what was read of the next was taken back.
    Publish(u8),
    /// Up to here.
    Cut(Position),
}
