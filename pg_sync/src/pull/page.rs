//! A page being filled.

use super::members::{key_values, Member};
use crate::catalog::Rule;
use std::collections::HashMap;
use sync_shared::hash::{BucketId, Tag};
use sync_shared::message::{Bucket, EntryId, PartChanges};
use sync_shared::ranges::Ranges;

/// What each change costs beside its values, in bytes.
const OVERHEAD: usize = 4;

/// Collects changes until the limit is reached. The limit is looked at after each row, so a page always gets on.
pub struct Page {
    pub buckets: Vec<Bucket>,
    pub changes: Vec<PartChanges>,
    pub whole: Vec<u32>,
    index: HashMap<BucketId, u32>,
    bytes: usize,
    limit: usize,
}

/// How much of a page was filled at some point, to go back to.
#[derive(Clone, Copy)]
pub struct Extent {
    buckets: usize,
    changes: usize,
    whole: usize,
}

/// Which part a change is of.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    pub member: &'a Member,
    pub rule: &'a Rule,
    pub entry: EntryId,
    pub table: Tag,
    pub start: Start<'a>,
}

/// What the device keeps of a part that a page brings rows of.
#[derive(Clone, Copy)]
pub enum Start<'a> {
    /// Everything.
    On,
    /// What is sent again.
    Empty,
    /// What is sent again, and all that is not in these ranges.
    Ranges(&'a Ranges),
}

impl Page {
    pub fn new(limit: usize) -> Self {
        Page { buckets: Vec::new(), changes: Vec::new(), whole: Vec::new(), index: HashMap::new(), bytes: 0, limit }
    }

    pub fn is_full(&self) -> bool {
        self.bytes >= self.limit
    }

    /// Whether less than the given share of the page is used.
    pub fn has_room(&self, share: usize) -> bool {
        self.bytes < self.limit / share
    }

    pub fn extent(&self) -> Extent {
        Extent { buckets: self.buckets.len(), changes: self.changes.len(), whole: self.whole.len() }
    }

    /// Takes back everything after `extent`.
    pub fn truncate(&mut self, extent: Extent) {
        for bucket in self.buckets.drain(extent.buckets..) {
            self.index.remove(&bucket.id);
        }
        self.changes.truncate(extent.changes);
        self.whole.truncate(extent.whole);
    }

    fn bucket(&mut self, member: &Member, rule: &Rule) -> u32 {
        *self.index.entry(member.id).or_insert_with(|| {
            self.bytes += 32 + rule.name.len() + member.key.len();
            self.buckets.push(Bucket {
                id: member.id,
                rule: rule.name.clone(),
                key: key_values(&member.key),
                priority: member.priority,
            });
            self.buckets.len() as u32 - 1
        })
    }

    /// The changes of a part: those begun last, if they are of the same part.
    pub fn part(&mut self, part: Part<'_>) -> &mut PartChanges {
        self.changes(part, None)
    }

    /// The same for rows that have these columns, if not all.
    fn changes(&mut self, part: Part<'_>, columns: Option<&[u16]>) -> &mut PartChanges {
        let bucket = self.bucket(part.member, part.rule);
        let from_empty = matches!(part.start, Start::Empty);
        let ranges = if let Start::Ranges(ranges) = part.start { Some(ranges) } else { None };
        let same = |c: &PartChanges| (c.bucket, c.entry, c.from_empty, c.ranges.is_some());
        let begun = self
            .changes
            .last()
            .is_some_and(|c| same(c) == (bucket, part.entry, from_empty, ranges.is_some()) && c.columns.as_deref() == columns);
        if !begun {
            self.bytes += 24 + ranges.map_or(0, Ranges::bytes) + columns.map_or(0, <[u16]>::len);
            self.changes.push(PartChanges {
                bucket,
                entry: part.entry,
                table: part.table,
                from_empty,
                row_count: 0,
                rows: Default::default(),
                gone_count: 0,
                gone: Default::default(),
                ranges: ranges.cloned(),
                columns: columns.map(<[u16]>::to_vec),
            });
        }
        let last = self.changes.len() - 1;
        &mut self.changes[last]
    }

    /// A row that is in the part.
    pub fn row(&mut self, part: Part<'_>, values: &[u8]) {
        self.row_with(part, None, values);
    }

    /// The same for the values of these columns, if not of all.
    pub fn row_with(&mut self, part: Part<'_>, columns: Option<&[u16]>, values: &[u8]) {
        let changes = self.changes(part, columns);
        changes.rows.extend_from_slice(values);
        changes.row_count += 1;
        self.bytes += values.len() + OVERHEAD;
    }

    /// A key that is not in the part any more.
    pub fn gone(&mut self, part: Part<'_>, key: &[u8]) {
        let changes = self.part(part);
        changes.gone.extend_from_slice(key);
        changes.gone_count += 1;
        self.bytes += key.len() + OVERHEAD;
    }

    /// All parts of the bucket have been read.
    pub fn is_whole(&mut self, member: &Member, rule: &Rule) {
        let bucket = self.bucket(member, rule);
        self.whole.push(bucket);
    }
}
