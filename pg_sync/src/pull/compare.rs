//! What the device has is compared with what is here, without sending it: sums of whole parts first, then of ranges of their keys.

use super::cursor::{self, Cursor};
use super::members::Member;
use super::source::Source;
use super::{changes, sums, Server, ALL};
use crate::catalog;
use crate::error::raise;
use pgrx::prelude::*;
use std::collections::{HashMap, HashSet};
use sync_shared::hash::BucketId;
use sync_shared::message::{EntryId, Notice, NoticeKind, PartRanges, PartSum};
use sync_shared::ranges::Ranges;

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
            self.rules.iter().enumerate().flat_map(|(rule, r)| r.entries.iter().map(move |e| (e.id, rule))).collect();
        let rule_of: HashMap<BucketId, usize> = self.members.iter().map(|m| (m.id, m.rule)).collect();
        let strange: HashSet<BucketId> = (theirs.keys())
            .filter(|(bucket, entry)| of_rule.get(entry).is_some_and(|rule| rule_of.get(bucket).is_some_and(|of| of != rule)))
            .map(|(bucket, _)| *bucket)
            .collect();
        let waiting = self.rules.iter().flat_map(|r| &r.entries).any(|e| !e.ready);
        let moved = stands.filter(|_| waiting).map(|cursor| changes::touched(cursor, &self.members));
        let untouched = |m: &Member, entry| {
            let known = stands.is_some_and(|cursor| cursor.entries.contains(&entry) && cursor.level(m.priority).is_some());
            known && moved.as_ref().is_some_and(|moved| !moved.contains(&(m.id, entry)))
        };
        let equal = |m: &Member, e: &catalog::Entry| match e.ready {
            true => part(&theirs, m.id, e.id) == part(&ours, m.id, e.id),
            false => untouched(m, e.id),
        };
        let keep =
            (self.members.iter()).filter(|m| !strange.contains(&m.id) && self.rules[m.rule].entries.iter().all(|e| equal(m, e)));
        let mut cursor = Cursor::empty(self.lineage.clone());
        cursor.advance(ALL, &self.now);
        // Those that the device names and that are no more are listed too: the next pass reports them gone.
        let named: HashSet<EntryId> = self.entries().map(|(id, _)| id).chain(theirs.keys().map(|(_, entry)| *entry)).collect();
        cursor.entries = named.into_iter().collect();
        cursor.entries.sort_unstable();
        Notice {
            kind: NoticeKind::Verified,
            message: "the sums of all buckets were compared".into(),
            keep: keep.map(|m| m.id).collect(),
            cursor: cursor::encode(&cursor),
            turn: 0,
        }
    }

    /// Where the parts whose sums the device has sent differ from the rows of this snapshot.
    pub fn differences(
        &self,
        theirs: &[PartRanges],
        held: &[BucketId],
        sources: &mut HashMap<EntryId, Source<'_>>,
    ) -> Differences {
        let members: HashMap<BucketId, &Member> = self.members.iter().map(|m| (m.id, m)).collect();
        let mut found = Differences::new();
        for part in theirs {
            if let Err(error) = part.sums.check() {
                raise(PgSqlErrorCode::ERRCODE_INVALID_BINARY_REPRESENTATION, format!("sync.pull: {error}"));
            }
            let (Some(member), Some(source)) = (members.get(&part.bucket), sources.get_mut(&part.entry)) else { continue };
            let is_of_rule = self.rules[member.rule].entries.iter().any(|e| e.id == part.entry);
            if !is_of_rule || held.binary_search(&part.bucket).is_ok() || found.contains_key(&(part.bucket, part.entry)) {
                continue;
            }
            let (ranges, rows) = source.range_sums(member, part.sums.bits()).differing(&part.sums);
            found.insert((part.bucket, part.entry), Differ { ranges, rows: rows.max(0) as u64 });
        }
        found
    }
}
