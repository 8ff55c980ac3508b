//! What the device has is compared with what is here, without sending it: sums of whole parts first, then of ranges of their keys.

use super::cursor::{self, Cursor};
use super::enforce::checked;
use super::members::Member;
use super::source::Source;
use super::{changes, sums, Server, ALL};
use crate::catalog;
use std::collections::{HashMap, HashSet};
use sync_shared::hash::{BucketId, ContentSum};
use sync_shared::message::{EntryId, Notice, NoticeKind, PartRanges, PartSum};
use sync_shared::ranges::{RangeSums, Ranges};

/// Ranges of a part that differ, and how many rows they have here.
pub struct Differ {
    pub ranges: Ranges,
    pub rows: u64,
}

/// By part; what is not in it is read from empty.
pub type Differences = HashMap<(BucketId, EntryId), Differ>;

impl Server {
    /// Compares the device's own sums with ours: buckets that are equal in all their parts are kept. Parts whose sums are not known yet
    /// are kept where the device stands at a cursor of this history and nothing has changed in them since.
    pub fn verify(&self, theirs: &[PartSum], stands: Option<&Cursor>) -> Notice {
        let theirs: HashMap<_, _> = theirs.iter().map(|s| ((s.bucket, s.entry), s.content)).collect();
        let ids: Vec<BucketId> = self.members.iter().map(|m| m.id).collect();
        let ours = sums::of(&ids);
        let part = |map: &HashMap<_, _>, bucket, entry| map.get(&(bucket, entry)).copied().unwrap_or_default();
        // A server that went back may have given an entry's number to one of another rule.
        let of_rule: HashMap<EntryId, usize> =
            self.catalog.rules.iter().enumerate().flat_map(|(rule, r)| r.entries.iter().map(move |e| (e.id, rule))).collect();
        let rule_of: HashMap<BucketId, usize> = self.members.iter().map(|m| (m.id, m.rule)).collect();
        let strange: HashSet<BucketId> = (theirs.keys())
            .filter(|(bucket, entry)| of_rule.get(entry).is_some_and(|rule| rule_of.get(bucket).is_some_and(|of| of != rule)))
            .map(|(bucket, _)| *bucket)
            .collect();
        let waiting = self.catalog.rules.iter().flat_map(|r| &r.entries).any(|e| !self.ready.contains(&e.id));
        let moved = stands.filter(|_| waiting).map(|cursor| changes::touched(cursor, &self.members));
        let untouched = |m: &Member, entry| {
            let known = stands.is_some_and(|cursor| cursor.entries.contains(&entry) && cursor.level(m.priority).is_some());
            known && moved.as_ref().is_some_and(|moved| !moved.contains(&(m.id, entry)))
        };
        let seen = self.seen_by_user(&theirs);
        let equal = |m: &Member, e: &catalog::Entry| match (e.enforced, self.ready.contains(&e.id)) {
            (true, _) => seen.get(&(m.id, e.id)).is_some_and(|sums| part(&theirs, m.id, e.id) == sums.total()),
            (false, true) => part(&theirs, m.id, e.id) == part(&ours, m.id, e.id),
            (false, false) => untouched(m, e.id),
        };
        let equals = |m: &&Member| !strange.contains(&m.id) && self.catalog.rules[m.rule].entries.iter().all(|e| equal(m, e));
        let keep: Vec<BucketId> = self.members.iter().filter(equals).map(|m| m.id).collect();
        let mut cursor = Cursor::empty(self.lineage.clone());
        cursor.advance(ALL, &self.now);
        let kept: HashSet<&BucketId> = keep.iter().collect();
        let shown = seen.iter().filter(|((bucket, _), _)| kept.contains(bucket));
        cursor.shown = shown.map(|((bucket, entry), sums)| (*bucket, *entry, sums.clone())).collect();
        // Those that the device names and that are no more are listed too: the next pass reports them gone.
        let named: HashSet<EntryId> = self.entries().map(|(id, _)| id).chain(theirs.keys().map(|(_, entry)| *entry)).collect();
        cursor.entries = named.into_iter().collect();
        cursor.entries.sort_unstable();
        Notice {
            kind: NoticeKind::Verified,
            message: "the sums of all buckets were compared".into(),
            keep,
            cursor: cursor::encode(&cursor),
            turn: 0,
        }
    }

    /// Sums of all enforced parts, of the rows that the user sees.
    fn seen_by_user(&self, theirs: &HashMap<(BucketId, EntryId), ContentSum>) -> HashMap<(BucketId, EntryId), RangeSums> {
        let entries = self.entries().map(|(id, _)| id).filter(|id| self.is_enforced(*id)).collect();
        let mut sources = self.sources(&entries);
        let views = self.views();
        let mut seen = HashMap::new();
        for member in &self.members {
            for entry in self.catalog.rules[member.rule].entries.iter().filter(|e| e.enforced) {
                let (Some(source), Some(view)) = (sources.get_mut(&entry.id), views.get(&entry.relation)) else { continue };
                let count = theirs.get(&(member.id, entry.id)).map_or(0, |content| content.count);
                seen.insert((member.id, entry.id), source.range_sums(member, RangeSums::bits_for(count), Some(view)));
            }
        }
        seen
    }

    /// Where the parts whose sums the device has sent differ from the rows of this snapshot.
    pub fn differences(
        &self,
        theirs: &[PartRanges],
        held: &[BucketId],
        sources: &mut HashMap<EntryId, Source<'_>>,
    ) -> Differences {
        let mut found = Differences::new();
        if theirs.is_empty() {
            return found;
        }
        let members: HashMap<BucketId, &Member> = self.members.iter().map(|m| (m.id, m)).collect();
        for part in theirs {
            checked(&part.sums);
            let (Some(member), Some(source)) = (members.get(&part.bucket), sources.get_mut(&part.entry)) else { continue };
            let is_of_rule = self.catalog.rules[member.rule].entries.iter().any(|e| e.id == part.entry && !e.enforced);
            if !is_of_rule || held.binary_search(&part.bucket).is_ok() || found.contains_key(&(part.bucket, part.entry)) {
                continue;
            }
            let (ranges, rows) = source.range_sums(member, part.sums.bits(), None).differing(&part.sums);
            found.insert((part.bucket, part.entry), Differ { ranges, rows: rows.max(0) as u64 });
        }
        found
    }
}
