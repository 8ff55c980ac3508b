//! The opaque tokens that a device keeps for the server: where it stands, and where an unfinished pass goes on.

use crate::lineage::Lineage;
use crate::snapshot::Snapshot;
use serde::{Deserialize, Serialize};
use sync_shared::hash::BucketId;
use sync_shared::message::EntryId;
use sync_shared::ranges::{RangeSums, Ranges};

/// Nesting of the tokens' MessagePack.
const DEPTH: usize = 12;

/// What a device has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cursor {
    pub lineage: Lineage,
    /// By priority, ascending: everything up to the number is at the snapshot. Nothing known above the last.
    pub levels: Vec<(u8, Snapshot)>,
    /// Entries whose parts the device has for all the buckets it holds.
    pub entries: Vec<EntryId>,
    /// What the device has of parts of enforced entries, staged pages included: see [`super::enforce`].
    #[serde(default)]
    pub shown: Vec<(BucketId, EntryId, RangeSums)>,
}

impl Cursor {
    /// Of a device that has nothing.
    pub fn empty(lineage: Lineage) -> Self {
        Cursor { lineage, levels: Vec::new(), entries: Vec::new(), shown: Vec::new() }
    }

    /// The snapshot that a priority is at.
    pub fn level(&self, priority: u8) -> Option<&Snapshot> {
        self.levels.iter().find(|(upto, _)| *upto >= priority).map(|(_, snapshot)| snapshot)
    }

    /// Everything up to `priority` moves to `snapshot`.
    pub fn advance(&mut self, priority: u8, snapshot: &Snapshot) {
        self.levels.retain(|(upto, _)| *upto > priority);
        self.levels.insert(0, (priority, snapshot.clone()));
    }
}

/// A pass over more than one page, or the way from an unpublished pass to the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pass {
    /// Where the device stands with what it has staged.
    pub base: Cursor,
    /// None: a new pass begins from `base`.
    pub running: Option<Running>,
    /// How many passes ended without a publish: each doubles the page.
    pub doublings: u8,
    /// Everything up to this priority is staged and waits to be published.
    pub staged: Option<u8>,
}

/// An unfinished pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// The first page's snapshot: the next pass catches up from it, never from a later one.
    pub start: Snapshot,
    /// The pass reads everything up to this priority.
    pub upto: u8,
    /// Entries at the first page: those added meanwhile are the next pass's.
    pub entries: Vec<EntryId>,
    /// Buckets that the device held at the first page and may still hold, sorted. All others are read whole. One that it loses
    /// on the way is reported gone at once and taken out, since pages read without it have passed over its ops.
    pub known: Vec<BucketId>,
    pub position: Position,
    /// Of parts that are read anew, the ranges that differed in the first page's snapshot: the others are passed over, which is right
    /// since the next pass catches up from that snapshot.
    pub differ: Vec<(BucketId, EntryId, Ranges)>,
}

impl Running {
    /// Where the rest of the pass reads the log from. It reads none for what it takes from the tables, so a download may take longer than
    /// the log reaches back: the way from its start to now is then found by sums, when all of it is there.
    pub fn log_needed<'a>(&self, base: &'a Cursor) -> impl Iterator<Item = &'a Snapshot> {
        let first = u16::from(self.position.priority) + u16::from(!matches!(self.position.step, Step::Log { .. }));
        (first..=u16::from(self.upto)).filter_map(move |priority| base.level(u8::try_from(priority).ok()?))
    }
}

/// The last thing that a page has dealt with; order is the order of work.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    pub priority: u8,
    pub step: Step,
}

/// Within one priority: first the log for known parts, then the tables for new ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Step {
    /// Ops up to this one.
    Log { bucket: BucketId, xid: u64, op_id: i32 },
    /// Parts before this one, and of this one the rows up to the key (all if None).
    Table { bucket: BucketId, entry: EntryId, key: Option<serde_bytes::ByteBuf> },
}

/// The token's bytes.
pub fn encode<T: Serialize>(token: &T) -> serde_bytes::ByteBuf {
    // Encoding these types to a Vec cannot fail.
    serde_bytes::ByteBuf::from(rmp_serde::to_vec(token).unwrap_or_default())
}

/// A token from a device; None if it is not one of ours (any more).
pub fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<T> {
    let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
    decoder.set_max_depth(DEPTH);
    T::deserialize(&mut decoder).ok()
}
