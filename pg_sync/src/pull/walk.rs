//! Fills a page in the order of work: by priority, what the log tells of known buckets first, then what is new.

use super::compare::Differences;
use super::cursor::{Cursor, Position, Running, Step};
use super::enforce::{Enforced, Rest};
use super::members::Member;
use super::page::{Page, Part, Start};
use super::source::Source;
use super::{changes, Server, ALL};
use std::collections::{HashMap, HashSet};
use sync_shared::hash::BucketId;
use sync_shared::message::EntryId;
use sync_shared::ranges::Ranges;

/// How far a page came.
pub(super) enum Walk {
    /// Everything that the pass is about.
    All,
    /// Everything up to a priority; what was read of the next was taken back.
    Publish(u8),
    /// Up to here.
    Cut(Position),
}

impl Server {
    /// Fills the page in the order of work, from where the pass stands.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn walk<'a>(
        &'a self,
        base: &Cursor,
        entries: &HashSet<EntryId>,
        held: &[BucketId],
        running: Option<&Running>,
        staged: Option<u8>,
        differ: &Differences,
        enforced: &mut Enforced<'a>,
        sources: &mut HashMap<EntryId, Source<'a>>,
        page: &mut Page,
    ) -> Walk {
        // Those that the log is about: of enforced ones it says nothing that counts.
        let known: HashSet<EntryId> =
            base.entries.iter().copied().filter(|e| entries.contains(e) && !self.is_enforced(*e)).collect();
        let mut priorities: Vec<u8> = self.catalog.rules.iter().map(|r| r.priority).collect();
        priorities.dedup();
        let position = running.map(|r| &r.position);
        let upto = running.map_or(ALL, |r| r.upto);
        // The last priority that is complete on this page and brought something that should not wait for the next.
        let mut complete = None;
        for priority in priorities.into_iter().filter(|&p| p <= upto) {
            let step = match position {
                Some(at) if at.priority > priority => continue,
                Some(at) if at.priority == priority => Some(&at.step),
                _ => None,
            };
            let first_time = base.level(priority).is_none();
            let (cut, new) = self.walk_priority(priority, base, &known, held, step, differ, enforced, sources, page);
            if let Some(step) = cut {
                if let (None, Some((done, before))) = (running, complete) {
                    page.truncate(before);
                    return Walk::Publish(done);
                }
                return Walk::Cut(Position { priority, step });
            }
            // What is staged must not become visible before all of it is at this snapshot.
            let worth_it = staged.map_or(first_time || new, |level| priority >= level);
            if worth_it {
                complete = Some((priority, page.extent()));
            }
        }
        Walk::All
    }

    #[allow(clippy::too_many_arguments)]
    fn walk_priority<'a>(
        &'a self,
        priority: u8,
        base: &Cursor,
        known: &HashSet<EntryId>,
        held: &[BucketId],
        step: Option<&Step>,
        differ: &Differences,
        enforced: &mut Enforced<'a>,
        sources: &mut HashMap<EntryId, Source<'a>>,
        page: &mut Page,
    ) -> (Option<Step>, bool) {
        let members: Vec<&Member> = self.members.iter().filter(|m| m.priority == priority).collect();
        if let (Some(snapshot), None | Some(Step::Log { .. })) = (base.level(priority), step) {
            if *snapshot != self.now {
                let after = match step {
                    Some(Step::Log { bucket, xid, op_id }) => Some((*bucket, *xid, *op_id)),
                    _ => None,
                };
                let later = self.members.iter().filter(|m| m.priority > priority).map(|m| (m.id, m)).collect();
                let is_held = |m: &&Member| held.len() == self.members.len() || held.binary_search(&m.id).is_ok();
                let old: Vec<&Member> = members.iter().copied().filter(is_held).collect();
                if let Some(cut) = changes::read(snapshot, &old, &later, sources, known, after, page) {
                    return (Some(cut), false);
                }
            }
        }
        let mut new = false;
        // `held` has none that is not a member.
        let all_held = held.len() == self.members.len();
        let news: Vec<bool> = self.catalog.rules.iter().map(|r| r.entries.iter().any(|e| !known.contains(&e.id))).collect();
        for member in members {
            let rule = &self.catalog.rules[member.rule];
            let is_fresh = !all_held && held.binary_search(&member.id).is_err();
            if !is_fresh && !news[member.rule] {
                continue;
            }
            for entry in &rule.entries {
                if !is_fresh && known.contains(&entry.id) {
                    continue;
                }
                let Some(source) = sources.get_mut(&entry.id) else { continue };
                let behind = match step {
                    Some(Step::Table { bucket, entry: at, key }) => match (member.id, entry.id).cmp(&(*bucket, *at)) {
                        std::cmp::Ordering::Less => continue,
                        std::cmp::Ordering::Equal => match key {
                            None => continue,
                            Some(key) => Some(key.as_slice()),
                        },
                        std::cmp::Ordering::Greater => None,
                    },
                    _ => None,
                };
                let table = source.table.tag;
                let ranges = differ.get(&(member.id, entry.id)).map(|d| &d.ranges);
                let begun =
                    |key| Some(Step::Table { bucket: member.id, entry: entry.id, key: Some(serde_bytes::ByteBuf::from(key)) });
                if entry.enforced {
                    let part = Part { member, rule, entry: entry.id, table, start: Start::On };
                    let rest = behind.map_or(Rest::All, |key| Rest::Behind(key, ranges));
                    if let Some(key) = enforced.read(source, part, rest, is_fresh, page) {
                        return (begun(key), new);
                    }
                    continue;
                }
                new = true;
                let start = if behind.is_some() { Start::On } else { ranges.map_or(Start::Empty, Start::Ranges) };
                let part = Part { member, rule, entry: entry.id, table, start };
                page.part(part);
                if ranges.is_some_and(Ranges::is_empty) {
                    continue;
                }
                if let Some(key) = source.read_part(part, behind, ranges, page) {
                    return (begun(key), new);
                }
            }
            let passed = matches!(step, Some(Step::Table { bucket, .. }) if member.id < *bucket);
            if is_fresh && !passed {
                page.is_whole(member, rule);
                new = true;
            }
        }
        (None, new)
    }
}
