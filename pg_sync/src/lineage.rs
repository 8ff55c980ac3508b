//! Which history a snapshot belongs to, and whether this server still has it.
//!
//! A server may go back in time in ways that leave its name and its timeline as they were: a disk that is put back. Transaction ids and
//! positions in the log are then given again, to others. So a cursor also says
//! - what stood in the log right in front of its position, which can be compared as long as that part of the log is kept;
//! - which run of the server it is of. Within one run nothing that was flushed is lost. Pushes and maintenance leave marks that name
//!   their run and their position: a history that has a mark of the same run from behind the cursor contains the cursor;
//! - the last mark that it has seen.
//!
//! Where the server loads the library as it starts, a mark is left right then, of where the run before ended (`worker::starter`).
//!
//! Where none of this tells, the history counts as another one, and sums are compared: once, for a device that was served last after the
//! last mark of a run, and comes back when the log of that time is gone.

use crate::error::spi;
use crate::query::Kept;
use crate::snapshot;
use crate::wal;
use crate::worker;
use pgrx::prelude::*;
use serde::{Deserialize, Serialize};
use sync_shared::message::BatchRandom;

/// Where in which history a snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// `system_identifier` of the cluster.
    pub system: u64,
    pub timeline: u32,
    /// Everything that the snapshot includes is before it, and flushed.
    pub lsn: u64,
    /// The last mark that the snapshot includes.
    pub mark: Option<(i64, BatchRandom)>,
    /// The database: one cluster's databases share transaction ids.
    pub database: u32,
    /// The run of the server that answered, by its start.
    pub server: i64,
    /// The run that wrote the log there: the same on a primary, the last that it knows of on a standby.
    pub run: i64,
    /// Fingerprint of the log in front of `lsn`; 0: not known.
    pub tail: u64,
}

/// How a cursor relates to this server.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can be continued here.
    Valid,
    /// This server has not replayed as far yet.
    Behind,
    /// It belongs to a history that this server has lost or never had.
    Other(&'static str),
}

/// A row of `sync.mark`.
pub struct Mark {
    /// Its number and what it says.
    pub named: (i64, BatchRandom),
    /// The run of the server that left it.
    pub run: i64,
}

impl Lineage {
    /// The running server's, for the active snapshot, whose newest mark is given. None where it has just been started and its first mark
    /// is about to be left: what is seen before it may have nothing to show for itself after a crash.
    pub fn current(mark: Option<Mark>) -> Option<Self> {
        let (timeline, lsn) = wal::position();
        let server = wal::started();
        if !wal::is_standby() && mark.as_ref().is_none_or(|m| m.run != server) && is_mark_awaited() {
            return None;
        }
        let run = if wal::is_standby() { mark.as_ref().map_or(0, |m| m.run) } else { server };
        let (system, database) = snapshot::system_and_database();
        let mark = mark.map(|m| m.named);
        Some(Lineage { system, timeline, lsn, mark, database, server, run, tail: wal::tail(timeline, lsn).unwrap_or(0) })
    }

    /// How a cursor with lineage `theirs` relates to `self`, the running server's.
    pub fn standing_of(&self, theirs: &Lineage) -> Standing {
        if theirs == self {
            return Standing::Valid;
        }
        let standby = wal::is_standby();
        if theirs.system != self.system || theirs.database != self.database {
            return Standing::Other("it comes from another database");
        }
        let too_far = if standby { Standing::Behind } else { Standing::Other("this server's log ends before it") };
        if theirs.timeline == self.timeline {
            if theirs.lsn > self.lsn {
                return too_far;
            }
        } else {
            match wal::fork_point(self.timeline, theirs.timeline) {
                Some(fork) if theirs.lsn <= fork => {}
                Some(_) => return Standing::Other("it saw what was lost in a failover"),
                None if theirs.timeline > self.timeline && standby => return Standing::Behind,
                None => return Standing::Other("its timeline is not part of this server's history"),
            }
        }
        self.contains(theirs, standby)
    }

    /// Whether this history, which has come as far as the cursor, is the cursor's.
    fn contains(&self, theirs: &Lineage, standby: bool) -> Standing {
        if theirs.tail != 0 {
            match wal::tail(self.timeline, theirs.lsn).or_else(|| wal::tail(theirs.timeline, theirs.lsn)) {
                Some(tail) if tail == theirs.tail => return Standing::Valid,
                Some(_) => return Standing::Other("its log says something else where the device was: was a backup put back?"),
                None => {}
            }
        }
        if let Some((id, random)) = &theirs.mark {
            match mark(*id) {
                Some(found) if found == *random => {}
                None if standby => return Standing::Behind,
                _ => return Standing::Other("it saw writes that this server does not have: was a backup put back?"),
            }
        }
        // A standby does not go back either while it runs, nor when it is promoted.
        if theirs.server == self.server || !standby && theirs.run == self.run {
            return Standing::Valid;
        }
        match marks_behind(theirs) {
            (true, _) => Standing::Valid,
            // The primary's next mark will tell.
            (false, false) if standby => Standing::Behind,
            _ => Standing::Other("it was restarted, and nothing shows any more that it has all that the device saw"),
        }
    }
}

fn mark(id: i64) -> Option<BatchRandom> {
    let found = Spi::connect(|c| {
        let rows = c.select(Kept("SELECT random FROM sync.mark WHERE id = $1"), Some(1), &[id.into()])?;
        if rows.is_empty() {
            Ok(None)
        } else {
            rows.first().get_one::<pgrx::Uuid>()
        }
    });
    spi("reading sync.mark", found).map(|random| BatchRandom::new(*random.as_bytes()))
}

/// Whether a mark is left here as the server starts, and it was started or has recovered a moment ago.
fn is_mark_awaited() -> bool {
    let sql = "SELECT current_database()::text, clock_timestamp() - greatest(pg_postmaster_start_time(), c.checkpoint_time) < '1 minute'
        FROM pg_control_checkpoint() c";
    let found = Spi::connect(|c| c.select(Kept(sql), Some(1), &[])?.first().get_two::<String, bool>());
    let (database, fresh) = spi("reading the last checkpoint", found);
    fresh == Some(true) && database.is_some_and(|database| worker::greets(&database))
}

/// Whether there is a mark of the cursor's run from behind it, and whether the last one is from behind it at all.
fn marks_behind(theirs: &Lineage) -> (bool, bool) {
    let sql = "SELECT EXISTS (SELECT FROM sync.mark m WHERE m.run = $1 AND m.lsn >= $2::pg_lsn),
        EXISTS (SELECT FROM sync.mark m WHERE m.id = (SELECT max(id) FROM sync.mark) AND m.lsn >= $2::pg_lsn)";
    let lsn = format!("{:X}/{:X}", theirs.lsn >> 32, theirs.lsn & 0xffff_ffff);
    let found = Spi::connect(|c| c.select(Kept(sql), Some(1), &[theirs.run.into(), lsn.into()])?.first().get_two::<bool, bool>());
    let (same, any) = spi("reading sync.mark", found);
    (same.unwrap_or(false), any.unwrap_or(false))
}
