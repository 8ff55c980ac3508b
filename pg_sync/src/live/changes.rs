//! Which buckets changed between two snapshots: the ops of exactly the transactions that the later one includes and the earlier does not.

use crate::error::spi;
use crate::query::Kept;
use crate::snapshot::{self, Snapshot};
use pgrx::prelude::*;

/// Buckets that are named; of more it is only said that there are.
pub const BUCKETS: usize = 10_000;
/// So few transactions are looked up one by one; not all of them wrote an op.
const FEW: u64 = 1_000;

/// What was committed in between.
pub enum Changed {
    /// Ops in these buckets, perhaps none.
    Buckets(Vec<pgrx::Uuid>),
    /// What everybody must look at: the schema, a device that was revoked or let in again, too many buckets, or the log does not reach back.
    Everything,
}

/// Looks in the active snapshot, which is `now`.
pub fn between(before: &Snapshot, now: &Snapshot) -> Changed {
    if snapshot::is_ahead(before) || now.misses_some_of(before) {
        return Changed::Everything;
    }
    let (sql, ids) = match now.since(before, FEW) {
        Some(ids) if ids.is_empty() => return Changed::Buckets(Vec::new()),
        Some(ids) => (
            "SELECT (SELECT h.xid::text FROM sync.horizon h), (SELECT g.xid = ANY ($1::xid8[]) FROM sync.generation g)
                     OR EXISTS (SELECT FROM sync.device d WHERE d.told = ANY ($1::xid8[])),
                 ARRAY(SELECT DISTINCT o.bucket FROM sync.op o WHERE o.xid = ANY ($1::xid8[]) LIMIT 10001)",
            ids,
        ),
        // Rows of transactions that still run are not visible in this snapshot.
        None => (
            "SELECT (SELECT h.xid::text FROM sync.horizon h),
                 (SELECT g.xid >= ($1::xid8[])[1] OR g.xid = ANY ($1::xid8[]) FROM sync.generation g)
                     OR EXISTS (SELECT FROM sync.device d WHERE d.told >= ($1::xid8[])[1] OR d.told = ANY ($1::xid8[])),
                 ARRAY(SELECT DISTINCT o.bucket FROM (
                     SELECT l.bucket FROM sync.op l WHERE l.xid >= ($1::xid8[])[1]
                     UNION ALL SELECT l.bucket FROM sync.op l WHERE l.xid = ANY ($1::xid8[])) o LIMIT 10001)",
            std::iter::once(before.xmax).chain(before.running.iter().copied()).collect(),
        ),
    };
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    let found = Spi::connect(|c| {
        let list = format!("{{{}}}", ids.join(","));
        let row = c.select(Kept(sql), Some(1), &[list.into()])?.first();
        Ok::<_, pgrx::spi::Error>((
            row.get::<String>(1)?,
            row.get::<bool>(2)?,
            row.get::<Vec<pgrx::Uuid>>(3)?.unwrap_or_default(),
        ))
    });
    let (horizon, concerns_all, buckets) = spi("reading what changed", found);
    let horizon = horizon.and_then(|h| h.parse::<u64>().ok()).unwrap_or(u64::MAX);
    if before.xmin < horizon || concerns_all != Some(false) || buckets.len() > BUCKETS {
        return Changed::Everything;
    }
    Changed::Buckets(buckets)
}
