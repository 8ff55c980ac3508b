//! Where a device stands, by the tokens that it brings, and whether it can go on from there.

use super::cursor::{self, Cursor, Pass, Running};
use crate::lineage::{Lineage, Standing};
use crate::snapshot::{self, Snapshot};
use sync_shared::message::{NoticeKind, PullRequest};

/// Where the device stands: what it has (published or staged), the pass it is in, and the token that said so.
pub type Place = (Cursor, Option<Running>, Option<Pass>);

pub fn standing(request: &PullRequest, lineage: &Lineage, now: &Snapshot, horizon: u64) -> Result<Place, (NoticeKind, String)> {
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
pub fn lineage_and_log(
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
