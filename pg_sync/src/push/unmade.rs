//! Rows that are not there because this device's insert of them was rejected: what comes after says so, and what to do.

use super::content;
use crate::error::spi;
use crate::identity;
use crate::query::Kept;
use crate::render::pinned;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use std::cell::OnceCell;
use std::collections::HashMap;
use sync_shared::hash::Tag;
use sync_shared::message::{BatchResult, Change, ChangeKind, Verdict};
use sync_shared::{envelope, row};
use uuid::Uuid;

/// How many of a device's last batches are looked at.
const BATCHES: i64 = 1000;
/// Bytes of rejected batches that are looked at: as they are kept, and as they are read.
const KEPT_BYTES: i64 = 4 << 20;
const READ_BYTES: usize = 16 << 20;

/// A row as its device names it.
type RowName = (Tag, Vec<u8>);

/// A batch that would have inserted a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insert {
    pub batch: i64,
    /// Why it was rejected.
    pub code: String,
}

/// Inserts of one device that were rejected, the last one of each row.
pub struct Unmade {
    device: Uuid,
    owner: Oid,
    /// By this push.
    now: HashMap<RowName, Insert>,
    /// By earlier ones; read when first asked for.
    before: OnceCell<HashMap<RowName, Insert>>,
}

fn name(change: &Change) -> RowName {
    (change.table, row::encode(&change.key))
}

fn inserts(changes: &[Change]) -> impl Iterator<Item = &Change> {
    changes.iter().filter(|change| change.kind == ChangeKind::Insert)
}

impl Unmade {
    pub fn of(device: Uuid, owner: Oid) -> Self {
        Unmade { device, owner, now: HashMap::new(), before: OnceCell::new() }
    }

    /// What became of a batch of this push.
    pub fn note(&mut self, changes: &[Change], result: &BatchResult) {
        if result.verdict == Verdict::Rejected {
            let insert = Insert { batch: result.id.number, code: result.code.clone() };
            self.now.extend(inserts(changes).map(|change| (name(change), insert.clone())));
        } else if !self.now.is_empty() {
            inserts(changes).for_each(|change| drop(self.now.remove(&name(change))));
        }
    }

    /// The insert of a row that is not there. A row that was inserted again later, taken and then deleted has one too: who
    /// knows more than its key tells the two apart.
    pub fn insert_of(&self, change: &Change) -> Option<&Insert> {
        let name = name(change);
        self.now.get(&name).or_else(|| self.before.get_or_init(|| self.read()).get(&name))
    }

    fn read(&self) -> HashMap<RowName, Insert> {
        let read = || {
            Spi::connect(|c| {
                let device = super::registry::pg(self.device);
                let sql = Kept(
                    "SELECT b.number, b.code, b.content FROM (
                         SELECT number, code, content, sum(octet_length(content)) OVER (ORDER BY number DESC) AS bytes
                         FROM sync.batch WHERE device = $1 AND verdict = 'rejected' AND content IS NOT NULL AND NOT repeats
                             AND number > (SELECT max(number) FROM sync.batch WHERE device = $1) - $2) AS b
                     WHERE b.bytes <= $3 ORDER BY b.number DESC",
                );
                let (mut found, mut bytes) = (HashMap::new(), 0usize);
                for row in c.select(sql, None, &[device.into(), BATCHES.into(), KEPT_BYTES.into()])? {
                    let (number, code) = (row.get::<i64>(1)?.unwrap_or_default(), row.get::<String>(2)?.unwrap_or_default());
                    let content = row.get::<&[u8]>(3)?.unwrap_or_default();
                    bytes = bytes.saturating_add(envelope::declared(content));
                    if bytes > READ_BYTES {
                        break;
                    }
                    let Some(batch) = content::decode(content) else { continue };
                    for change in inserts(&batch.changes) {
                        found.entry(name(change)).or_insert_with(|| Insert { batch: number, code: code.clone() });
                    }
                }
                Ok::<_, spi::Error>(found)
            })
        };
        spi("reading rejected batches", identity::as_owner(self.owner, || pinned(read)))
    }
}
