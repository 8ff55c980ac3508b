//! What each pull reads before anything else, in one query.

use crate::catalog::Generation;
use crate::error::spi;
use crate::lineage::Mark;
use crate::query::Kept;
use crate::snapshot;
use pgrx::prelude::*;
use std::collections::HashSet;
use sync_shared::message::{BatchId, BatchRandom, EntryId, NoticeKind};

/// Each table of one row is read with a LIMIT: nobody analyzes it, and Postgres takes 2,000 rows for granted. Multiplied with each other
/// they made this query so dear that it was compiled (`jit_above_cost`), each time, for 15 ms.
const SQL: &str = "
    SELECT g.n, h.xid::text, (SELECT pg_catalog.array_agg(e.entry_id) FROM sync.entry e WHERE e.state = 'ready'),
        EXISTS (SELECT FROM sync.carried o WHERE o.home <> $2),
        d.last_number, d.last_random, d.revoked IS NOT NULL, d.wipe, m.id, m.random, m.run, g.xid::text
    FROM (SELECT n, xid FROM sync.generation LIMIT 1) g
    LEFT JOIN (SELECT xid FROM sync.horizon LIMIT 1) h ON true
    LEFT JOIN sync.device d ON d.device = $1
    LEFT JOIN LATERAL (SELECT id, random, run FROM sync.mark ORDER BY id DESC LIMIT 1) m ON true";

/// The server's state in this snapshot, and what it knows of the device that asks.
#[derive(Default)]
pub struct State {
    /// Of the schema that devices should have.
    pub generation: Generation,
    /// Ops of transactions before this one are no longer in the log.
    pub horizon: u64,
    /// Entries whose sums are known.
    pub ready: HashSet<EntryId>,
    /// What came with a dump waits for being read.
    pub waits: bool,
    /// The newest mark.
    pub mark: Option<Mark>,
    /// The device's last batch that this snapshot includes.
    pub last_batch: Option<BatchId>,
    /// What the device is told, once it was revoked.
    pub revoked: Option<NoticeKind>,
}

impl State {
    /// Reads it. A device that never pushed is unknown.
    pub fn read(device: uuid::Uuid) -> State {
        let device = pgrx::Uuid::from_bytes(*device.as_bytes());
        let number = |text: Option<String>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
        let random = |uuid: pgrx::Uuid| BatchRandom::new(*uuid.as_bytes());
        let read = Spi::connect(|c| {
            let arguments = [device.into(), snapshot::home().into()];
            let Some(row) = c.select(Kept(SQL), Some(1), &arguments)?.next() else { return Ok(State::default()) };
            let last = row.get::<i64>(5)?.zip(row.get::<pgrx::Uuid>(6)?);
            let told = if row.get(8)?.unwrap_or(false) { NoticeKind::Wipe } else { NoticeKind::Revoked };
            let mark = row.get::<i64>(9)?.zip(row.get::<pgrx::Uuid>(10)?);
            let run = row.get(11)?.unwrap_or(0);
            Ok::<_, pgrx::spi::Error>(State {
                generation: Generation { number: row.get(1)?.unwrap_or(0), xid: number(row.get(12)?) },
                horizon: number(row.get(2)?),
                ready: row.get::<Vec<EntryId>>(3)?.unwrap_or_default().into_iter().collect(),
                waits: row.get(4)?.unwrap_or(true),
                mark: mark.map(|(id, uuid)| Mark { named: (id, random(uuid)), run }),
                last_batch: last.map(|(number, uuid)| BatchId { number, random: random(uuid) }),
                revoked: row.get(7)?.unwrap_or(false).then_some(told),
            })
        });
        spi("reading the server's state", read)
    }
}
