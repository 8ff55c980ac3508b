//! `sync.push`: what devices wrote, applied once, whole, as the user.
//!
//! # Layout
//! - [`registry`]: devices, and batches that were taken before
//! - [`subtransaction`], [`refusal`]: one batch is applied whole or undone with a reason
//! - [`batch`]: changes -> rows; [`target`], [`statements`]: the SQL for it
//! - [`merge`], [`delete`]: a change meets a row that is there, or gone
//! - [`policy`], [`author`], [`conflict`]: what decides where both sides changed the same thing, and what is kept of it
//! - [`constraints`]: deferred ones are checked batch by batch
//! - [`unmade`], [`orphan`]: rows that are not there because their insert, or their parent, is not
//! - [`witness`]: the row that was in the way; [`content`], [`retry`]: rejected batches as people read them, and again
//! - [`lease`]: numbers for keys; [`note`]: what triggers may ask about the batch
//! - [`doubt`]: what a device says of the server's sums
//! - [`role`]: whose rights and settings each part runs with
//!
//! The function itself has the caller's settings, so that triggers and policies see them; everything that is not the end user's
//! runs as the owner of the schema `sync` under pinned ones.

mod author;
mod batch;
pub mod conflict;
mod constraints;
mod content;
mod delete;
mod doubt;
mod lease;
mod merge;
pub mod note;
mod orphan;
mod policy;
mod refusal;
mod registry;
mod retry;
mod role;
mod statements;
pub mod subtransaction;
mod target;
mod unmade;
mod witness;

use crate::auth::sign;
use crate::capture::log::set_edited;
use crate::catalog;
use crate::error::{raise, spi};
use crate::identity;
use crate::query::Kept;
use crate::render::pinned;
use author::Authors;
use batch::Findings;
use constraints::Modes;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use refusal::Refusal;
use registry::{Device, Known, Record};
use std::borrow::Cow;
use std::collections::HashMap;
use sync_shared::hash::Tag;
use sync_shared::message::{Batch, BatchId, BatchResult, Conflict, PushReply, PushRequest, PushState, Verdict};
use sync_shared::undone::Undone;
use sync_shared::{clock, envelope};
use target::Target;
use unmade::Unmade;

/// How often a batch is applied again when a row with its key appeared meanwhile.
const TRIES: usize = 2;

/// What a revoked device is told.
pub const REVOKED: &str = "this device was revoked: it may not sync any longer";

#[pg_extern]
fn push(batches: &[u8]) -> Vec<u8> {
    crate::version::refuse_other();
    let user = identity::asking_user();
    let writer = identity::writing_role();
    let request: PushRequest = envelope::decode(batches)
        .unwrap_or_else(|e| raise(PgSqlErrorCode::ERRCODE_INVALID_BINARY_REPRESENTATION, format!("not a push request: {e}")));
    registry::check(&request);
    let claims = identity::believed_claims().map(|claims| claims.to_string());
    let owner = identity::owner();
    let (reply, keys) = identity::as_owner(owner, || (answer(&request, user, writer, claims, owner), pinned(sign::keys)));
    let reply = envelope::encode(&reply)
        .unwrap_or_else(|e| raise(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, format!("the answer cannot be sent: {e}")));
    sign::signed(&keys, batches, reply)
}

fn answer(request: &PushRequest, user: String, writer: Oid, claims: Option<String>, owner: Oid) -> PushReply {
    let reply = |state, message: &str, last, results| PushReply {
        state,
        message: message.into(),
        last,
        user: user.clone(),
        results,
        leases: Vec::new(),
    };
    if let Some(later) = not_now(request) {
        let results = request.batches.iter().map(|b| registry::result(b.id, Verdict::Later, later.clone())).collect();
        return reply(PushState::NotNow, &later.message, None, results);
    }
    let (device, known) = pinned(|| (registry::lock(request.device, &user), registry::known(request, &user)));
    if device.revoked {
        return reply(PushState::Revoked, REVOKED, device.last, Vec::new());
    }
    if device.user != user {
        let foreign = request.batches.iter().filter(|b| !b.user.is_empty() && b.user != user);
        let results = foreign.map(|b| held(b, &user)).collect();
        let message = "this device belongs to another user: that user must sign in again, or the file must be made anew";
        return reply(PushState::Refused, message, None, results);
    }
    let last = device.last.map_or(0, |l| l.number);
    let ours = |b: &Batch| known.get(&b.id.random.into_array()).is_some_and(|k| k.user == user);
    if request.batches.iter().any(|b| b.id.number <= last && !ours(b)) {
        let message = "this file is a copy: another batch has the number already. Take a new device id and send again";
        return reply(PushState::Fork, message, device.last, Vec::new());
    }
    pinned(|| lease::recall(request, &device));
    let targets = pinned(|| target::of(request, writer));
    let push = Push {
        writer,
        owner,
        claims,
        authors: Authors::new(owner, device.id),
        targets,
        known,
        modes: None,
        undone: Undone::default(),
        unmade: Unmade::of(device.id, owner),
        last: device.last,
        device,
    };
    let (device, (state, message, last, results)) = push.run(request);
    let (leases, refused) = match state {
        PushState::Taken => pinned(|| lease::give(request, &device, writer)),
        _ => Default::default(),
    };
    let message = if message.is_empty() { refused } else { message };
    if let Some(differ) = request.differ.as_ref().filter(|_| state == PushState::Taken) {
        pinned(|| doubt::note(differ, &user));
    }
    // Verification of small tables begins by itself. Reading which are left costs next to nothing.
    let build = Kept("SELECT sync.build_small() FROM sync.entry WHERE state = 'building' LIMIT 1");
    pinned(|| spi("building sums", Spi::connect_mut(|c| c.update(build, None, &[]).map(|_| ()))));
    PushReply { leases, ..reply(state, &message, last, results) }
}

/// Why the whole request has to wait, if it has to.
fn not_now(request: &PushRequest) -> Option<Refusal> {
    if role::read_only() {
        return Some(Refusal::new("25006", "this server cannot be written to now: send again later, or to another one", ""));
    }
    let waits = |why: &str| Some(Refusal::new("55000", format!("this database was restored or upgraded: {why}"), ""));
    if pinned(catalog::has_moved) {
        // The first push after a restore makes rules and capture anew.
        let problem = pinned(|| spi("reading the rules again", Spi::get_one::<String>("SELECT sync.try_move_in()")));
        if let Some(problem) = problem {
            return waits(&format!("{problem}; call sync.maintain()"));
        }
    }
    let waiting = pinned(catalog::waiting_tables);
    let waits_for = |tag: &Tag| waiting.contains(&i64::from(*tag));
    if request.batches.iter().flat_map(|b| &b.changes).any(|c| waits_for(&c.table)) {
        return waits("a table of these batches is not synced again yet, see sync.carried");
    }
    None
}

fn held(batch: &Batch, user: &str) -> BatchResult {
    let message = format!("made by another user: kept on the device, {user} cannot send it");
    registry::result(batch.id, Verdict::Held, Refusal::new("28000", message, ""))
}

/// Now, in microseconds since 1970.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

/// State, message, the last batch taken, and what became of each.
type Answered = (PushState, String, Option<BatchId>, Vec<BatchResult>);

/// One push of a device that may.
struct Push {
    writer: Oid,
    owner: Oid,
    /// The sender's believed claims.
    claims: Option<String>,
    device: Device,
    authors: Authors,
    targets: HashMap<Tag, Target>,
    /// Batches that were taken before, and by this push.
    known: HashMap<[u8; 16], Known>,
    /// Read with the first batch.
    modes: Option<Modes>,
    /// What the batches of this push that were rejected would have written.
    undone: Undone,
    unmade: Unmade,
    last: Option<BatchId>,
}

impl Push {
    fn run(mut self, request: &PushRequest) -> (Device, Answered) {
        let mut results: Vec<BatchResult> = Vec::new();
        let mut records: Vec<Record<'_>> = Vec::new();
        let mut state = (PushState::Taken, String::new());
        // Why the batches that remain cannot be taken now.
        let mut waits: Option<Refusal> = None;
        for batch in &request.batches {
            let id = batch.id;
            let random = id.random.into_array();
            let last = self.last.map_or(0, |l| l.number);
            let known = self.known.get(&random).filter(|k| k.user == self.device.user).map(|k| k.result.clone());
            if let Some(refusal) = &waits {
                let foreign = !batch.user.is_empty() && batch.user != self.device.user;
                let waiting = || registry::result(id, Verdict::Later, refusal.clone());
                results.push(if foreign { held(batch, &self.device.user) } else { waiting() });
                continue;
            }
            if id.number > last + 1 {
                state = (PushState::Gap, format!("batches are missing: the server has {last}, then came {}", id.number));
                break;
            }
            let edited = clock::bounded(batch.edited, now());
            let rebased = self.rebase(batch);
            if let Some(result) = known {
                let result = BatchResult { id, ..result };
                self.note_outcome(&rebased, &result);
                if id.number > last {
                    records.push(Record { batch, result: result.clone(), edited, repeats: true, note: None });
                    self.last = Some(id);
                }
                results.push(result);
                continue;
            }
            // Also one that was taken already, for somebody else.
            let foreign = self.known.contains_key(&random) || !batch.user.is_empty() && batch.user != self.device.user;
            if foreign {
                results.push(held(batch, &self.device.user));
                let message = format!("waits behind batch {}, which was made by another user", id.number);
                waits = Some(Refusal::new("28000", message, ""));
                continue;
            }
            let (result, goes_on, note) = self.take(&rebased, edited);
            self.note_outcome(&rebased, &result);
            if result.verdict == Verdict::Later {
                let message = format!("waits behind batch {}: {}", id.number, result.message);
                waits = Some(Refusal::new(&result.code, message, ""));
            } else {
                if !goes_on {
                    waits = Some(Refusal::new("55000", "constraints of one name differ in their mode: one batch at a time", ""));
                }
                self.known.insert(random, Known { user: self.device.user.clone(), result: result.clone() });
                records.push(Record { batch, result: result.clone(), edited, repeats: false, note });
                self.last = Some(id);
            }
            results.push(result);
        }
        pinned(|| {
            registry::remember(&self.device, self.last, &records, self.writer, self.claims.as_deref());
            let fresh = records.iter().filter(|r| !r.repeats).map(|r| &r.result);
            let conflicts = fresh.flat_map(|r| r.conflicts.iter().map(|c| (r.id.number, c)));
            conflict::remember(self.device.id, conflicts, &self.targets);
        });
        (self.device, (state.0, state.1, self.last, results))
    }

    /// The batch as it would be without those of this push that were rejected.
    fn rebase<'b>(&self, batch: &'b Batch) -> Cow<'b, Batch> {
        let mut rebased = Cow::Borrowed(batch);
        for (i, change) in batch.changes.iter().enumerate() {
            if let Some(change) = self.undone.rebase(change) {
                rebased.to_mut().changes[i] = change;
            }
        }
        rebased
    }

    fn note_outcome(&mut self, batch: &Batch, result: &BatchResult) {
        self.unmade.note(&batch.changes, result);
        match result.verdict {
            Verdict::Rejected => batch.changes.iter().for_each(|change| self.undone.add(change)),
            _ => batch.changes.iter().for_each(|change| self.undone.forget(change)),
        }
    }

    /// Applies a batch that is next. Also answers whether another may follow in this transaction, and the note that was read.
    fn take(&mut self, batch: &Batch, edited: i64) -> (BatchResult, bool, Option<String>) {
        let note = match note::read(batch) {
            Ok(note) => note,
            Err(refusal) => return (refused(batch.id, refusal), true, None),
        };
        let modes = self.modes.take().unwrap_or_else(|| pinned(Modes::read));
        let mut taken = self.try_once(batch, edited, &modes, &note);
        for _ in 1..TRIES {
            // A row with the key of one of its inserts was committed after it was looked for.
            let Err(refusal) = &taken else { break };
            if refusal.code != "23505" || !pinned(|| target::is_primary_key(&refusal.subject)) {
                break;
            }
            taken = self.try_once(batch, edited, &modes, &note);
        }
        self.modes = Some(modes);
        match taken {
            Ok(Taken { conflicts, idle, goes_on }) if conflicts.is_empty() => {
                let refusal = if idle.is_empty() { Refusal::default() } else { Refusal::new("02000", idle, "") };
                (registry::result(batch.id, Verdict::Accepted, refusal), goes_on, note)
            }
            Ok(Taken { conflicts, goes_on, .. }) => {
                let reasons: Vec<&str> = conflicts.iter().take(3).map(|c| c.reason.as_str()).collect();
                let refusal = Refusal::new("00000", reasons.join("; "), "");
                (BatchResult { conflicts, ..registry::result(batch.id, Verdict::Merged, refusal) }, goes_on, note)
            }
            Err(refusal) => {
                let witness = witness::of(batch, &refusal, &mut self.targets, self.writer, self.owner);
                let mut result = refused(batch.id, refusal);
                result.conflicts.extend(witness);
                (result, true, note)
            }
        }
    }

    fn try_once(&mut self, batch: &Batch, edited: i64, modes: &Modes, note: &Option<String>) -> Result<Taken, Refusal> {
        let Push { writer, owner, authors, targets, device, unmade, .. } = self;
        let origin = batch::Origin { user: &device.user, device: device.id };
        let mut findings = Findings::default();
        let taken = subtransaction::run(|| {
            let mut context = batch::Context { targets, authors, owner: *owner, edited, origin, unmade, findings: &mut findings };
            let _edited = Edited::begin(edited);
            let _note = note::Scope::begin(device.id, batch.id.number, note.clone());
            let conflicts = role::as_writer(*writer, || {
                let conflicts = batch::apply(&mut context, batch);
                if conflicts.is_ok() {
                    modes.check(*writer);
                }
                conflicts
            })?;
            Ok((conflicts, pinned(|| modes.restore())))
        });
        let Findings { missing, put_back, idle } = findings;
        match taken {
            Ok((conflicts, goes_on)) => Ok(Taken { conflicts, idle: idle.join("; "), goes_on }),
            // Without its missing rows a batch may fail in other ways.
            Err(refusal) if !missing.is_empty() && !refusal.passing => Err(Refusal::asks_for(&missing)),
            Err(refusal) => Err(pinned(|| orphan::explain(refusal, put_back, targets))),
        }
    }
}

/// What became of a batch that was taken.
struct Taken {
    conflicts: Vec<Conflict>,
    /// What is to be told of changes that had nothing to do.
    idle: String,
    /// Another batch may follow in this transaction.
    goes_on: bool,
}

/// The answer for a batch that was not applied.
fn refused(id: BatchId, refusal: Refusal) -> BatchResult {
    let verdict = if refusal.passing { Verdict::Later } else { Verdict::Rejected };
    registry::result(id, verdict, refusal)
}

/// While it lives, captured changes bear the time of their edit on the device.
struct Edited;

impl Edited {
    fn begin(at: i64) -> Self {
        set_edited(Some(at));
        Edited
    }
}

impl Drop for Edited {
    fn drop(&mut self) {
        set_edited(None);
    }
}
