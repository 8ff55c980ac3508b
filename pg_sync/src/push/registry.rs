//! What the server remembers of devices and their batches.

use super::refusal::Refusal;
use crate::error::{raise, spi};
use crate::query::Kept;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use pgrx::Uuid as PgUuid;
use std::collections::HashMap;
use sync_shared::message::{Batch, BatchId, BatchRandom, BatchResult, PushReply, PushRequest, PushState, Verdict};
use sync_shared::{envelope, limits};
use uuid::Uuid;

/// A device's row, locked until the transaction ends.
pub struct Device {
    pub id: Uuid,
    pub user: String,
    /// The last batch that was taken, number 0 before the first.
    pub last: Option<BatchId>,
    pub revoked: bool,
}

/// What became of a batch that was taken earlier.
pub struct Known {
    pub user: String,
    pub result: BatchResult,
}

/// A batch that this push takes.
pub struct Record<'a> {
    pub batch: &'a Batch,
    pub result: BatchResult,
    /// When it was made, with the clock's skew bounded.
    pub edited: i64,
    /// It was taken before, under another number.
    pub repeats: bool,
    /// The application's note, as far as it can be read.
    pub note: Option<String>,
}

/// A UUID as Postgres takes it.
pub fn pg(id: Uuid) -> PgUuid {
    PgUuid::from_bytes(*id.as_bytes())
}

fn pg_random(random: &BatchRandom) -> PgUuid {
    PgUuid::from_bytes(random.into_array())
}

/// Locks the device's row; a new device is registered for `user`.
pub fn lock(id: Uuid, user: &str) -> Device {
    let find = || {
        Spi::connect_mut(|c| {
            let sql =
                "SELECT user_id, last_number, last_random, revoked IS NOT NULL FROM sync.device WHERE device = $1 FOR UPDATE";
            let mut rows = c.update(Kept(sql), Some(1), &[pg(id).into()])?;
            let Some(row) = rows.next() else { return Ok(None) };
            let number = row.get::<i64>(2)?.unwrap_or_default();
            let random = row.get::<PgUuid>(3)?;
            let last = random.map(|random| BatchId { number, random: BatchRandom::new(*random.as_bytes()) });
            Ok::<_, spi::Error>(Some(Device {
                id,
                user: row.get(1)?.unwrap_or_default(),
                last,
                revoked: row.get(4)?.unwrap_or(false),
            }))
        })
    };
    if let Some(device) = spi("locking a device", find()) {
        return device;
    }
    let sql = "INSERT INTO sync.device (device, user_id) VALUES ($1, $2) ON CONFLICT (device) DO NOTHING";
    spi("registering a device", Spi::run_with_args(sql, &[pg(id).into(), user.into()]));
    spi("locking a device", find()).unwrap_or_else(|| {
        raise(PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE, "the device was removed while it registered: send again")
    })
}

/// Which of the request's batches were taken before, by their random bytes.
///
/// A device that is no longer registered has left nobody's name behind: whoever knows its random bytes counts as its user.
pub fn known(request: &PushRequest, user: &str) -> HashMap<[u8; 16], Known> {
    if request.batches.is_empty() {
        return HashMap::new();
    }
    let randoms: Vec<PgUuid> = request.batches.iter().map(|b| pg_random(&b.id.random)).collect();
    let read = Spi::connect(|c| {
        let mut known = HashMap::new();
        let sql = "SELECT random, user_id, verdict, code, message, subject, answer FROM sync.batch WHERE random = ANY ($1) AND NOT repeats
             UNION ALL
             SELECT o.random, coalesce(d.user_id, $2), CASE WHEN o.merged THEN 'merged' ELSE 'accepted' END, '', '', '', NULL
             FROM sync.old_batch o LEFT JOIN sync.device d USING (device) WHERE o.random = ANY ($1)";
        let rows = c.select(Kept(sql), None, &[randoms.into(), user.into()])?;
        for row in rows {
            let Some(random) = row.get::<PgUuid>(1)? else { continue };
            let verdict = match row.get::<String>(3)?.as_deref() {
                Some("merged") => Verdict::Merged,
                Some("rejected") => Verdict::Rejected,
                _ => Verdict::Accepted,
            };
            // What was answered then, with the conflicts, where it was kept.
            let answer = row.get::<Vec<u8>>(7)?.and_then(|bytes| envelope::decode::<PushReply>(&bytes).ok());
            let result = match answer.and_then(|mut reply| reply.results.pop()) {
                Some(result) => result,
                None => BatchResult {
                    id: BatchId { number: 0, random: BatchRandom::new(*random.as_bytes()) },
                    verdict,
                    code: row.get(4)?.unwrap_or_default(),
                    message: row.get(5)?.unwrap_or_default(),
                    subject: row.get(6)?.unwrap_or_default(),
                    conflicts: Vec::new(),
                    whole: Vec::new(),
                },
            };
            known.insert(*random.as_bytes(), Known { user: row.get(2)?.unwrap_or_default(), result });
        }
        Ok::<_, spi::Error>(known)
    });
    spi("reading sync.batch", read)
}

/// Remembers what became of the batches, who sent them, and that this history has a witness more.
pub fn remember(device: &Device, last: Option<BatchId>, records: &[Record<'_>], writer: Oid, claims: Option<&str>) {
    let written = Spi::connect_mut(|c| {
        for record in records {
            let BatchResult { id, verdict, code, message, subject, .. } = &record.result;
            let verdict = self::verdict(*verdict);
            let keeps = verdict != "accepted" && !record.repeats;
            let content = keeps.then(|| content(device.id, record.batch)).flatten();
            let answer = (keeps && !record.result.conflicts.is_empty()).then(|| answer(&record.result)).flatten();
            let claims = claims.filter(|_| verdict == "rejected");
            c.update(
                Kept("INSERT INTO sync.batch (device, number, random, xid, snapshot, user_id, edited, verdict, code, message, subject,
                     content, answer, repeats, role, claims, note)
                 VALUES ($1, $2, $3, pg_current_xact_id(), pg_current_snapshot(), $4, to_timestamp($5 / 1000000.0), $6, $7, $8, $9,
                     $10, $11, $12, (SELECT rolname::text FROM pg_roles WHERE oid = $13), $14::jsonb, $15::jsonb)"),
                None,
                &[
                    pg(device.id).into(),
                    id.number.into(),
                    pg_random(&id.random).into(),
                    device.user.as_str().into(),
                    record.edited.max(0).into(),
                    verdict.into(),
                    code.as_str().into(),
                    message.as_str().into(),
                    subject.as_str().into(),
                    content.into(),
                    answer.into(),
                    record.repeats.into(),
                    writer.into(),
                    claims.into(),
                    record.note.as_deref().into(),
                ],
            )?;
        }
        if !records.is_empty() {
            // A sequence that went back in a crash (of a database made from a template) must not stop pushes.
            c.update(
                Kept("INSERT INTO sync.mark (random, at) VALUES (gen_random_uuid(), now()) ON CONFLICT DO NOTHING"),
                None,
                &[],
            )?;
        }
        c.update(
            Kept("UPDATE sync.device SET seen = now(), last_number = $2, last_random = $3 WHERE device = $1"),
            None,
            &[pg(device.id).into(), last.map_or(0, |l| l.number).into(), last.map(|l| pg_random(&l.random)).into()],
        )?;
        Ok::<_, spi::Error>(())
    });
    spi("recording a push", written);
}

/// A verdict's name in `sync.batch`.
pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Accepted => "accepted",
        Verdict::Merged => "merged",
        Verdict::Rejected => "rejected",
        Verdict::Later => "later",
        Verdict::Held => "held",
    }
}

/// Gives a batch another verdict; the one before goes to its attempts.
pub fn retried(device: Uuid, result: &BatchResult, changed: Option<String>, by: Oid) {
    let BatchResult { id, verdict, code, message, subject, .. } = result;
    let answer = (!result.conflicts.is_empty()).then(|| answer(result)).flatten();
    let sql = "UPDATE sync.batch SET
            attempts = attempts || jsonb_build_object('until', now(), 'by', (SELECT rolname FROM pg_roles WHERE oid = $8), 'changed', $9::jsonb,
                'verdict', verdict, 'code', code, 'message', message, 'subject', subject),
            verdict = $3, code = $4, message = $5, subject = $6, answer = $7, xid = pg_current_xact_id(), snapshot = pg_current_snapshot()
        WHERE device = $1 AND number = $2";
    let arguments = [
        pg(device).into(),
        id.number.into(),
        self::verdict(*verdict).into(),
        code.as_str().into(),
        message.as_str().into(),
        subject.as_str().into(),
        answer.into(),
        by.into(),
        changed.into(),
    ];
    spi("recording a retry", Spi::run_with_args(sql, &arguments));
}

/// The whole batch as it was sent.
fn content(device: Uuid, batch: &Batch) -> Option<Vec<u8>> {
    envelope::encode(&PushRequest { device, batches: vec![batch.clone()], wants: Vec::new(), held: vec![], differ: None }).ok()
}

fn answer(result: &BatchResult) -> Option<Vec<u8>> {
    let results = vec![result.clone()];
    let reply = PushReply {
        state: PushState::Taken,
        message: String::new(),
        last: None,
        user: String::new(),
        results,
        leases: Vec::new(),
    };
    envelope::encode(&reply).ok()
}

/// The request's form, before anything is looked at.
pub fn check(request: &PushRequest) {
    if request.batches.len() > limits::BATCHES_PER_PUSH {
        raise(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("a push may have {} batches, this one has {}", limits::BATCHES_PER_PUSH, request.batches.len()),
        );
    }
    if request.held.len() > limits::HELD_LEASES {
        raise(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("a push may name {} leases, this one names {}", limits::HELD_LEASES, request.held.len()),
        );
    }
    let differ = request.differ.as_ref().map_or(0, |differ| differ.parts.len());
    if differ > limits::DIFFER {
        raise(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("a push may say of {} parts that they differ, this one says it of {differ}", limits::DIFFER),
        );
    }
    let numbers: Vec<i64> = request.batches.iter().map(|b| b.id.number).collect();
    if numbers.iter().any(|&n| n < 1) || numbers.windows(2).any(|w| w[0] >= w[1]) {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_BINARY_REPRESENTATION,
            "the batches of a push must be in order of their numbers, which begin at 1",
        );
    }
}

/// A batch's answer.
pub fn result(id: BatchId, verdict: Verdict, refusal: Refusal) -> BatchResult {
    let Refusal { code, message, subject, conflicts, whole, .. } = refusal;
    BatchResult { id, verdict, code, message, subject, conflicts, whole: whole.into_vec() }
}
