//! Parts of enforced entries: of their rows a device has those that the policies of the table show to its user.
//!
//! Whether a row is shown may change without the row, so the log says nothing of it. Instead the cursor carries what the device has of
//! each such part: sums of ranges of its keys. A pull reads the part's rows and asks which of them the user sees, in its own snapshot;
//! ranges whose sums differ are sent again, without what is hidden. What is sent is added to the sums that the cursor carries, row by
//! row, so they are what the device has also after several pages of several snapshots, and the next pass finds what is still missing.
//!
//! Of hidden rows nothing leaves the server: no value, no key (a page never ends at one), and no sum or count that includes them.

use super::cursor::Cursor;
use super::page::{Page, Part, Start};
use super::source::Source;
use super::Server;
use crate::access::viewer::View;
use crate::error::raise;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use std::collections::HashMap;
use sync_shared::hash::{BucketId, ContentSum};
use sync_shared::limits::RANGE_BITS;
use sync_shared::message::{EntryId, PartRanges};
use sync_shared::ranges::{RangeSums, Ranges};

type Name = (BucketId, EntryId);

/// How many more bits of ranges are summed than a part had so far: it may have grown.
const GROWTH: u8 = 3;

/// The enforced parts of one pull.
pub struct Enforced<'a> {
    views: HashMap<Oid, View<'a>>,
    /// What the device had of the parts before this page; nothing known of one: it is sent from empty.
    before: HashMap<Name, RangeSums>,
    /// The same after this page, for those that it came to.
    after: HashMap<Name, (u8, RangeSums)>,
    /// The part that the page ended in, and the ranges of it that are sent.
    cut: Option<(BucketId, EntryId, Ranges)>,
}

/// How much of a part is to be sent.
pub enum Rest<'r> {
    /// What differs.
    All,
    /// What lies behind a primary key; of these ranges, if not of all.
    Behind(&'r [u8], Option<&'r Ranges>),
}

impl<'a> Enforced<'a> {
    fn had(&self, name: Name) -> Option<&RangeSums> {
        self.after.get(&name).map(|(_, sums)| sums).or_else(|| self.before.get(&name))
    }

    /// Appends what the device lacks of a part, and says so if it has to be named: always where its bucket is read whole. Some(key) if
    /// the page filled up: that of the last row, which the user sees.
    pub fn read(
        &mut self,
        source: &mut Source<'_>,
        part: Part<'_>,
        rest: Rest<'_>,
        named: bool,
        page: &mut Page,
    ) -> Option<Vec<u8>> {
        let (name, priority) = ((part.member.id, part.entry), part.rule.priority);
        let view = self.views.get(&source.entry.relation)?;
        let (behind, ranges, mut sums, start) = match (rest, self.had(name)) {
            (Rest::Behind(key, ranges), has) => {
                (Some(key), ranges.cloned(), has.cloned().unwrap_or_else(|| RangeSums::new(RANGE_BITS)), false)
            }
            (Rest::All, None) => (None, None, RangeSums::new(RANGE_BITS), true),
            (Rest::All, Some(has)) => {
                let fine = RangeSums::bits_for(has.total().count).saturating_add(GROWTH).max(has.bits()).min(RANGE_BITS);
                let now = source.range_sums(part.member, fine, Some(view));
                let (ranges, _) = now.coarser(has.bits()).differing(has);
                let sums = now.outside(&ranges, RangeSums::bits_for(now.total().count));
                if ranges.is_empty() {
                    self.after.insert(name, (priority, sums));
                    if named {
                        page.part(Part { start: Start::Ranges(&ranges), ..part });
                    }
                    return None;
                }
                (None, Some(ranges), sums, true)
            }
        };
        let start = if start { ranges.as_ref().map_or(Start::Empty, Start::Ranges) } else { Start::On };
        let part = Part { start, ..part };
        page.part(part);
        let cut = source.read_shown(part, behind, ranges.as_ref(), view, page, &mut sums);
        match &cut {
            Some(_) => self.cut = ranges.clone().map(|ranges| (name.0, name.1, ranges)),
            // Nobody knew how many there would be.
            None => sums = sums.coarser(RangeSums::bits_for(sums.total().count)),
        }
        self.after.insert(name, (priority, sums));
        cut
    }

    /// Content of a part that this page came to.
    pub fn content(&self, name: Name) -> Option<ContentSum> {
        self.after.get(&name).map(|(_, sums)| sums.total())
    }

    /// What the device will have of all parts, where this page counts up to a priority.
    pub fn shown(&self, upto: u8) -> Vec<(BucketId, EntryId, RangeSums)> {
        let counts = |(priority, _): &&(u8, RangeSums)| *priority <= upto;
        let mut shown: HashMap<Name, &RangeSums> = self.before.iter().map(|(name, sums)| (*name, sums)).collect();
        for (name, after) in &self.after {
            if let Some((_, sums)) = Some(after).filter(counts) {
                shown.insert(*name, sums);
            }
        }
        let mut shown: Vec<_> = shown.into_iter().map(|((bucket, entry), sums)| (bucket, entry, sums.clone())).collect();
        shown.sort_unstable_by_key(|(bucket, entry, _)| (*bucket, *entry));
        shown
    }

    /// The ranges that the next page goes on with.
    pub fn cut(&mut self) -> Option<(BucketId, EntryId, Ranges)> {
        self.cut.take()
    }
}

impl Server {
    /// How the user looks at the tables of enforced entries.
    pub fn views(&self) -> HashMap<Oid, View<'_>> {
        let entries = || self.catalog.rules.iter().flat_map(|r| &r.entries).filter(|e| e.enforced);
        let tables = self.catalog.tables.iter().filter(|t| entries().any(|e| e.relation == t.relation));
        self.viewer.iter().flat_map(|viewer| tables.clone().map(|table| (table.relation, viewer.of(table)))).collect()
    }

    pub fn is_enforced(&self, entry: EntryId) -> bool {
        self.catalog.rules.iter().flat_map(|r| &r.entries).any(|e| e.id == entry && e.enforced)
    }

    /// What the device has of enforced parts: as its cursor says, in buckets that it holds; on the first page of a pass as it says itself,
    /// in those that it does not claim to hold.
    pub fn enforced(
        &self,
        base: &Cursor,
        begins: bool,
        held: &[BucketId],
        gone: &[BucketId],
        theirs: &[PartRanges],
    ) -> Enforced<'_> {
        let mut enforced = Enforced { views: self.views(), before: HashMap::new(), after: HashMap::new(), cut: None };
        if self.viewer.is_none() {
            return enforced;
        }
        let holds = |bucket: &BucketId| held.binary_search(bucket).is_ok();
        for (bucket, entry, sums) in &base.shown {
            // Later pages have brought rows of other buckets, and of entries that are new.
            let has = if begins { base.entries.contains(entry) && holds(bucket) } else { !gone.contains(bucket) };
            if has && self.is_enforced(*entry) {
                enforced.before.insert((*bucket, *entry), sums.clone());
            }
        }
        if begins {
            let rules: HashMap<BucketId, usize> = self.members.iter().map(|m| (m.id, m.rule)).collect();
            for part in theirs.iter().filter(|p| !holds(&p.bucket)) {
                let of_rule = |rule: &usize| self.catalog.rules[*rule].entries.iter().any(|e| e.id == part.entry && e.enforced);
                if rules.get(&part.bucket).is_some_and(of_rule) {
                    checked(&part.sums);
                    enforced.before.insert((part.bucket, part.entry), part.sums.clone());
                }
            }
        }
        enforced
    }
}

/// Refuses sums that do not have the ranges that they say.
pub fn checked(sums: &RangeSums) {
    if let Err(error) = sums.check() {
        raise(PgSqlErrorCode::ERRCODE_INVALID_BINARY_REPRESENTATION, format!("sync.pull: {error}"));
    }
}
