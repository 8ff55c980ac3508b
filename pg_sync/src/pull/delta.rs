//! A page as a message: what is gone, what has changed, and what it must add up to where it publishes.

use super::compare::{Differ, Differences};
use super::cursor::{self, Cursor, Pass, Running};
use super::enforce::Enforced;
use super::page::Page;
use super::source::Source;
use super::walk::Walk;
use super::{sums, Server, ALL};
use crate::catalog::{self, Entry};
use crate::snapshot::{self, Snapshot};
use std::collections::{BTreeSet, HashMap, HashSet};
use sync_shared::hash::BucketId;
use sync_shared::limits;
use sync_shared::message::{Delta, EntryId, PartChanges, PartSum, PullRequest};

/// The smallest page, in bytes.
const PAGE_BYTES_MIN: u32 = 16 << 10;
/// The largest page after doublings, in bytes.
const PAGE_BYTES_MAX: usize = 64 << 20;

impl Server {
    pub(super) fn delta(
        &self,
        request: &PullRequest,
        user: String,
        base: Cursor,
        running: Option<Running>,
        pass: Option<Pass>,
        mut held: Vec<BucketId>,
    ) -> Delta {
        let doublings = pass.as_ref().map_or(0, |p| p.doublings);
        let staged = pass.as_ref().and_then(|p| p.staged);
        let wanted = request.page_bytes.clamp(PAGE_BYTES_MIN, limits::PAGE_BYTES) as usize;
        let mut page = Page::new((wanted << doublings.min(16)).min(PAGE_BYTES_MAX));
        let entries: HashSet<EntryId> = match &running {
            Some(r) => r.entries.iter().copied().collect(),
            None => self.entries().map(|(id, _)| id).collect(),
        };
        let mut delta = self.empty_delta(request, user);
        let ids = self.ids();
        if held != ids {
            held.dedup();
            delta.gone_buckets = held.iter().filter(|b| ids.binary_search(b).is_err()).copied().collect();
            held.retain(|b| ids.binary_search(b).is_ok());
        }
        if running.is_none() {
            // Also those of pages that an earlier pass has left staged: no cursor knows of them.
            let had = base.entries.iter().copied().chain(request.ranges.iter().map(|part| part.entry));
            let gone: BTreeSet<EntryId> = had.filter(|e| !entries.contains(e)).collect();
            delta.gone_entries = gone.into_iter().collect();
        }
        let mut sources = self.sources(&entries);
        // What a device has of columns that it is only told of now is not known here.
        let completes = request.completes && delta.schema.is_none();
        sources.values_mut().for_each(|source| source.leaves_out = completes && self.is_last(source.entry, source.rule.priority));
        let differ = match &running {
            Some(r) => r.differ.iter().map(|(b, e, ranges)| ((*b, *e), Differ { ranges: ranges.clone(), rows: 0 })).collect(),
            None => self.differences(&request.ranges, &held, &mut sources),
        };
        let mut enforced = self.enforced(&base, running.is_none(), &held, &delta.gone_buckets, &request.ranges);
        let walk = self.walk(&base, &entries, &held, running.as_ref(), staged, &differ, &mut enforced, &mut sources, &mut page);
        let mut base = base;
        base.shown = enforced.shown(if let Walk::Publish(upto) = walk { upto } else { ALL });
        match (walk, running) {
            (Walk::All, None) => self.publish(&mut delta, base, ALL, &entries, &page, pass.is_some(), &enforced),
            (Walk::Publish(upto), None) => self.publish(&mut delta, base, upto, &entries, &page, pass.is_some(), &enforced),
            // A pass over several pages saw several snapshots: the next one catches up from its first.
            (Walk::All | Walk::Publish(_), Some(ended)) => {
                let next = self.moved(base, ended.upto, &ended.start, &entries);
                delta.pass = cursor::encode(&Pass {
                    base: next,
                    running: None,
                    doublings: doublings.saturating_add(1),
                    staged: Some(ended.upto),
                });
            }
            (Walk::Cut(position), Some(mut going)) => {
                going.differ.retain(|(_, entry, _)| !self.is_enforced(*entry));
                going.differ.extend(enforced.cut());
                let running = Some(Running { position, known: held, ..going });
                delta.pass = cursor::encode(&Pass { base: self.seen(base), running, doublings, staged });
            }
            (Walk::Cut(position), None) => {
                let entries = entries.iter().copied().collect();
                let upto = position.priority;
                delta.expected_rows = Some(self.expected(&held, &differ));
                let differ = differ.into_iter().map(|((bucket, entry), d)| (bucket, entry, d.ranges));
                let differ = differ.chain(enforced.cut()).collect();
                let running = Some(Running { start: self.now.clone(), upto, entries, known: held, position, differ });
                delta.pass = cursor::encode(&Pass { base: self.seen(base), running, doublings, staged });
            }
        }
        delta.more = !delta.complete;
        delta.buckets = page.buckets;
        delta.changes = page.changes;
        delta.whole = page.whole;
        delta
    }

    fn empty_delta(&self, request: &PullRequest, user: String) -> Delta {
        Delta {
            cursor: Default::default(),
            pass: Default::default(),
            publish: None,
            complete: false,
            more: false,
            user,
            server_time: snapshot::now_micros(),
            schema: (request.schema != self.catalog.generation.number).then(|| catalog::schema(&self.catalog.tables)),
            buckets: Vec::new(),
            gone_buckets: Vec::new(),
            gone_entries: Vec::new(),
            changes: Vec::new(),
            whole: Vec::new(),
            sums: Vec::new(),
            last_batch: self.last_batch,
            expected_rows: None,
            turn: request.turn,
        }
    }

    /// Rows that the buckets which the device does not hold are expected to bring; how many of them row level security hides is not told,
    /// so none of enforced parts.
    fn expected(&self, held: &[BucketId], differ: &Differences) -> u64 {
        let ids: Vec<BucketId> = self.members.iter().map(|m| m.id).filter(|id| held.binary_search(id).is_err()).collect();
        let counted = |part: &(BucketId, EntryId)| !differ.contains_key(part) && !self.is_enforced(part.1);
        let whole = sums::of(&ids).into_iter().filter(|(part, _)| counted(part)).map(|(_, s)| s.count.max(0) as u64);
        whole.chain(differ.values().map(|d| d.rows)).sum()
    }

    /// How the given entries' rows are read.
    pub(super) fn sources(&self, entries: &HashSet<EntryId>) -> HashMap<EntryId, Source<'_>> {
        let mut sources = HashMap::new();
        for rule in &self.catalog.rules {
            for entry in rule.entries.iter().filter(|e| entries.contains(&e.id)) {
                if let Some(table) = self.table(entry.relation) {
                    sources.insert(entry.id, Source::new(rule, entry, table));
                }
            }
        }
        sources
    }

    /// Whether no rule of a later priority has the table too. A page of such a rule may wait on the device, and be applied behind later ones
    /// of this: then the row that it has is for a moment older than what this part had of it.
    fn is_last(&self, entry: &Entry, priority: u8) -> bool {
        let later = self.catalog.rules.iter().filter(|r| r.priority > priority).flat_map(|r| &r.entries);
        later.into_iter().all(|e| e.relation != entry.relation)
    }

    /// The same place, by a device that has now seen this server: a page of one that is behind, or of another history, does not fit
    /// the pages before it.
    fn seen(&self, base: Cursor) -> Cursor {
        Cursor { lineage: self.lineage.clone(), ..base }
    }

    /// Moves a cursor's priorities up to `upto` to a snapshot, with the entries of those priorities.
    fn moved(&self, mut cursor: Cursor, upto: u8, snapshot: &Snapshot, entries: &HashSet<EntryId>) -> Cursor {
        cursor.lineage = self.lineage.clone();
        cursor.advance(upto, snapshot);
        let now: HashMap<EntryId, u8> = self.entries().collect();
        // One that was dropped on the way stays listed, so that the next pass reports it gone.
        cursor.entries.extend(entries.iter().filter(|e| now.get(e).is_none_or(|&priority| priority <= upto)));
        cursor.entries.sort_unstable();
        cursor.entries.dedup();
        cursor
    }

    #[allow(clippy::too_many_arguments)]
    fn publish(
        &self,
        delta: &mut Delta,
        base: Cursor,
        upto: u8,
        entries: &HashSet<EntryId>,
        page: &Page,
        staged: bool,
        enforced: &Enforced<'_>,
    ) {
        let mut cursor = self.moved(base, upto, &self.now, entries);
        // Those that are no more were reported gone on this page.
        cursor.entries.retain(|e| entries.contains(e));
        // Which parts earlier pages touched is not known here, so then all of them are compared.
        let parts: Vec<(BucketId, EntryId)> = if staged {
            let members = self.members.iter().filter(|m| m.priority <= upto);
            members.flat_map(|m| self.catalog.rules[m.rule].entries.iter().map(|e| (m.id, e.id))).collect()
        } else {
            let of = |c: &PartChanges| &page.buckets[c.bucket as usize];
            let touched: HashSet<_> =
                page.changes.iter().filter(|c| of(c).priority <= upto).map(|c| (of(c).id, c.entry)).collect();
            touched.into_iter().collect()
        };
        let mut buckets: Vec<BucketId> = parts.iter().map(|(b, _)| *b).collect();
        buckets.sort_unstable();
        buckets.dedup();
        let sums = sums::of(&buckets);
        let content = |part: &(BucketId, EntryId)| match self.is_enforced(part.1) {
            // Of rows that the user sees: those that the device has with this page.
            true => enforced.content(*part),
            false => self.ready.contains(&part.1).then(|| sums.get(part).copied().unwrap_or_default()),
        };
        delta.sums = (parts.iter().filter(|part| cursor.entries.contains(&part.1)))
            .filter_map(|part| Some(PartSum { bucket: part.0, entry: part.1, content: content(part)? }))
            .collect();
        delta.cursor = cursor::encode(&cursor);
        delta.publish = Some(upto);
        delta.complete = upto == ALL;
    }
}
