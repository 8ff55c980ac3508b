//! `sync.retry`: a rejected batch again, on the server, with the rights of the role that wrote it.

use super::author::Authors;
use super::registry::{self, Device};
use super::unmade::Unmade;
use super::{conflict, content, now, target, Push};
use crate::error::{raise, spi};
use crate::identity;
use crate::render::pinned;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use pgrx::JsonB;
use serde_json::Value as Json;
use std::collections::HashMap;
use sync_shared::clock;
use sync_shared::message::{Batch, BatchId, PushRequest, Verdict};
use uuid::Uuid;

/// A rejected batch as it was kept.
struct Kept {
    user: String,
    role: Oid,
    role_name: Option<String>,
    claims: Option<Json>,
    batch: Batch,
}

#[pg_extern]
#[allow(clippy::type_complexity)]
fn retry(
    device: Option<pgrx::Uuid>,
    number: Option<i64>,
    changed: Option<JsonB>,
) -> TableIterator<'static, (name!(verdict, String), name!(code, String), name!(message, String))> {
    let (Some(device), Some(number)) = (device, number) else { error!("sync.retry needs a device and the number of a batch") };
    let device = Uuid::from_bytes(*device.as_bytes());
    let (caller, owner) = (identity::current_user(), identity::owner());
    let kept = identity::as_owner(owner, || pinned(|| lock(device, number)));
    refuse_unless_member(caller, &kept);
    let changed = changed.map(|JsonB(edits)| edits);
    let answer = identity::acting_as(&kept.user.clone(), kept.claims.clone(), || {
        identity::as_owner(owner, || again(device, kept, changed, caller, owner))
    });
    TableIterator::once(answer)
}

fn refuse_unless_member(caller: Oid, kept: &Kept) {
    let Some(name) = &kept.role_name else {
        raise(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, "the role that wrote this batch is gone: only sync.discard is left")
    };
    if !identity::is_member(caller, kept.role) {
        raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("this batch was written as role \"{name}\", which you may not take: GRANT it, or ask somebody who may"),
        );
    }
}

/// Locks the device and reads the batch.
fn lock(device: Uuid, number: i64) -> Kept {
    let read = Spi::connect_mut(|c| {
        let device = registry::pg(device);
        c.update("SELECT FROM sync.device WHERE device = $1 FOR UPDATE", None, &[device.into()])?;
        let sql = "SELECT b.user_id, r.oid, r.rolname::text, b.claims::text, b.content, b.verdict
                   FROM sync.batch b LEFT JOIN pg_roles r ON r.rolname = b.role WHERE b.device = $1 AND b.number = $2 FOR UPDATE OF b";
        let mut rows = c.update(sql, Some(1), &[device.into(), number.into()])?;
        let Some(row) = rows.next() else { return Ok(Err("there is no such batch")) };
        if row.get::<&str>(6)? != Some("rejected") {
            return Ok(Err("this batch was not rejected"));
        }
        let Some(batch) = row.get::<Vec<u8>>(5)?.and_then(|content| content::decode(&content)) else {
            return Ok(Err("what this batch did is no longer kept"));
        };
        Ok::<_, spi::Error>(Ok(Kept {
            user: row.get(1)?.unwrap_or_default(),
            role: row.get(2)?.unwrap_or(Oid::INVALID),
            role_name: row.get(3)?,
            claims: row.get::<&str>(4)?.and_then(|text| serde_json::from_str(text).ok()),
            batch: Batch { id: BatchId { number, ..batch.id }, whole: true, ..batch },
        }))
    });
    spi("reading a rejected batch", read)
        .unwrap_or_else(|why| raise(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("{why}: see sync.rejected")))
}

fn again(id: Uuid, kept: Kept, changed: Option<Json>, caller: Oid, owner: Oid) -> (String, String, String) {
    let Kept { user, role: writer, claims, mut batch, .. } = kept;
    // With edits it is what somebody wants now; without, it is still the edit of then, and gives way to later ones.
    let edited = if changed.is_some() { now() } else { clock::bounded(batch.edited, now()) };
    if let Some(edits) = &changed {
        pinned(|| content::edit(&mut batch, edits));
    }
    let request = PushRequest { device: id, batches: vec![batch], wants: Vec::new(), held: vec![], differ: None };
    let device = Device { id, user, last: None, revoked: false };
    let mut push = Push {
        writer,
        owner,
        claims: claims.map(|c| c.to_string()),
        authors: Authors::new(owner, id),
        targets: pinned(|| target::of(&request, writer)),
        known: HashMap::new(),
        modes: None,
        undone: Default::default(),
        unmade: Unmade::of(id, owner),
        last: None,
        device,
    };
    let batch = &request.batches[0];
    let (result, ..) = push.take(batch, edited);
    if result.verdict != Verdict::Later {
        pinned(|| {
            registry::retried(id, &result, changed.as_ref().map(Json::to_string), caller);
            let conflicts = result.conflicts.iter().map(|c| (result.id.number, c));
            conflict::remember(id, conflicts, &push.targets);
        });
    }
    (registry::verdict(result.verdict).to_owned(), result.code, result.message)
}
