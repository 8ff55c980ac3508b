//! What the log says happened in known buckets: only which rows to look at. Their current state in this page's snapshot decides.

use super::cursor::{Cursor, Step};
use super::members::Member;
use super::page::{Page, Part, Start};
use super::source::{Current, Source, WHOLE};
use crate::query::{argument, ids, Argument, Query};
use crate::quick::QuickMap;
use crate::snapshot::Snapshot;
use pgrx::prelude::*;
use std::collections::{HashMap, HashSet};
use sync_shared::hash::BucketId;
use sync_shared::message::EntryId;
use sync_shared::{keys, row, ValueRef};

/// Rows of the log read at once; each holds up to about a hundred ops.
const GROUPS: usize = 2_000;
/// Rows looked up at once: few at first, since they may be large.
const LOOKUP: std::ops::Range<usize> = 16..2_000;
/// Bytes of rows looked up at once, unless it is a single one.
const LOOKUP_BYTES: usize = 16 << 20;

/// So few transactions, and rows of the log, are looked up by transaction.
const FEW: usize = 1_000;

struct Op {
    bucket: BucketId,
    xid: u64,
    op_id: i32,
    entry: EntryId,
    /// The bits of the columns that changed; [`WHOLE`] where the row entered or left.
    changed: i64,
    /// Empty for one that is about no row that is known, only about the part's sum.
    key: Vec<u8>,
}

/// Names a row of a part.
type Place<'o> = (BucketId, EntryId, &'o [u8]);

/// Appends what changed since `base` in `buckets` (sorted by id), behind `after`. Some(step) if the page filled up first.
pub fn read<'a>(
    base: &Snapshot,
    buckets: &[&'a Member],
    later: &QuickMap<BucketId, &'a Member>,
    sources: &mut HashMap<EntryId, Source<'a>>,
    known: &HashSet<EntryId>,
    mut after: Option<(BucketId, u64, i32)>,
    page: &mut Page,
) -> Option<Step> {
    // Which columns of a row are on the page, in its snapshot.
    let mut seen: HashMap<(BucketId, EntryId, Vec<u8>), i64> = HashMap::new();
    let mut lookup = LOOKUP.start;
    loop {
        let (ops, more) = ops(base, buckets, after, GROUPS);
        let mut rest = ops.as_slice();
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(lookup.min(rest.len()));
            let mut wanted: HashMap<EntryId, Vec<&Op>> = HashMap::new();
            let mut fresh: HashMap<Place<'_>, i64> = HashMap::new();
            for op in chunk.iter().filter(|op| !op.key.is_empty() && known.contains(&op.entry)) {
                let changed = if sources.get(&op.entry).is_some_and(|s| s.leaves_out) { op.changed } else { WHOLE };
                let sent = seen.get(&(op.bucket, op.entry, op.key.clone())).copied().unwrap_or(0);
                if changed & !sent == 0 {
                    continue;
                }
                let mut is_first = false;
                *fresh.entry((op.bucket, op.entry, op.key.as_slice())).or_insert_with(|| {
                    is_first = true;
                    0
                }) |= changed;
                if is_first {
                    wanted.entry(op.entry).or_default().push(op);
                }
            }
            let Some(found) = look_up(wanted, &fresh, sources) else {
                lookup = (chunk.len() / 4).max(1);
                continue;
            };
            rest = behind;
            for (entry, found) in found {
                for (op, now) in &found {
                    let changed = fresh.get(&(op.bucket, entry, op.key.as_slice())).filter(|_| is_short(op, now)).copied();
                    *seen.entry((op.bucket, entry, op.key.clone())).or_default() |= changed.unwrap_or(WHOLE);
                }
                if let Some(source) = sources.get(&entry) {
                    let moved = append(source, buckets, found, page);
                    if !moved.is_empty() {
                        send_along(entry, &moved, later, sources, page);
                    }
                }
            }
            chunk.iter().filter(|op| op.key.is_empty()).for_each(|op| name(op, buckets, sources, known, page));
            let Some(last) = chunk.last() else { break };
            after = Some((last.bucket, last.xid, last.op_id));
            if page.is_full() && (more || !rest.is_empty()) {
                return Some(Step::Log { bucket: last.bucket, xid: last.xid, op_id: last.op_id });
            }
            if page.has_room(4) {
                lookup = (lookup * 2).min(LOOKUP.end);
            }
        }
        if !more {
            return None;
        }
    }
}

/// The bucket of an op, among buckets sorted by id. Mostly there are many of them and no op, so no map is made.
fn member<'m>(buckets: &[&'m Member], op: &Op) -> Option<&'m Member> {
    buckets.binary_search_by_key(&op.bucket, |m| m.id).ok().map(|place| buckets[place])
}

/// A part whose sum was set right without knowing the row: it is named, so that its sum is compared.
fn name(op: &Op, buckets: &[&Member], sources: &HashMap<EntryId, Source<'_>>, known: &HashSet<EntryId>, page: &mut Page) {
    if let (Some(member), Some(source), true) = (member(buckets, op), sources.get(&op.entry), known.contains(&op.entry)) {
        page.part(Part { member, rule: source.rule, entry: op.entry, table: source.table.tag, start: Start::On });
    }
}

/// Ops with the current state of their rows.
type Found<'o> = Vec<(&'o Op, Option<Current>)>;

/// Whether the op's row is in its bucket, and comes without what has not changed.
fn is_short(op: &Op, row: &Option<Current>) -> bool {
    row.as_ref().is_some_and(|row| row.bucket == Ok(op.bucket) && row.columns.is_some())
}

/// The ops' rows as they are now, by entry. None: they are larger than fits in memory and page together, ask for fewer.
fn look_up<'o>(
    wanted: HashMap<EntryId, Vec<&'o Op>>,
    changed: &HashMap<Place<'_>, i64>,
    sources: &mut HashMap<EntryId, Source<'_>>,
) -> Option<Vec<(EntryId, Found<'o>)>> {
    let mut budget = LOOKUP_BYTES;
    let mut found = Vec::with_capacity(wanted.len());
    for (entry, ops) in wanted {
        if let Some(source) = sources.get_mut(&entry) {
            let keys: Vec<&[u8]> = ops.iter().map(|op| op.key.as_slice()).collect();
            let changed: Vec<i64> =
                ops.iter().map(|op| changed.get(&(op.bucket, entry, &op.key)).copied().unwrap_or(WHOLE)).collect();
            let rows = source.current(&keys, source.leaves_out.then_some(&changed), &mut budget)?;
            let mut ops: Found<'o> = ops.into_iter().zip(rows).collect();
            // Those of the same part and with the same columns are written down together.
            ops.sort_by(|(a, x), (b, y)| (a.bucket, columns(x)).cmp(&(b.bucket, columns(y))));
            found.push((entry, ops));
        }
    }
    Some(found)
}

fn columns(row: &Option<Current>) -> Option<&[u16]> {
    row.as_ref().and_then(|row| row.columns.as_deref())
}

/// Appends what became of the ops' rows. Returns the keys of rows that left their bucket and still exist.
fn append(source: &Source<'_>, buckets: &[&Member], found: Found<'_>, page: &mut Page) -> Vec<Vec<u8>> {
    let mut moved = Vec::new();
    for (op, now) in found {
        let Some(member) = member(buckets, op) else { continue };
        let part = Part { member, rule: source.rule, entry: op.entry, table: source.table.tag, start: Start::On };
        match now {
            Some(Current { bucket: Ok(bucket), values, columns, .. }) if bucket == op.bucket => {
                page.row_with(part, columns.as_deref(), &values)
            }
            other => {
                page.gone(part, &op.key);
                if other.is_some() {
                    moved.push(op.key.clone());
                }
            }
        }
    }
    moved
}

/// A row that moved to a bucket of a later priority is sent with its leaving, or it would vanish until that priority's turn.
fn send_along<'a>(
    left: EntryId,
    keys: &[Vec<u8>],
    later: &QuickMap<BucketId, &'a Member>,
    sources: &mut HashMap<EntryId, Source<'a>>,
    page: &mut Page,
) {
    let Some((relation, priority)) = sources.get(&left).map(|s| (s.entry.relation, s.rule.priority)) else { return };
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    for source in sources.values_mut().filter(|s| s.entry.relation == relation && s.rule.priority > priority && !s.entry.enforced)
    {
        // They are no more than what was just looked up for the bucket that they left.
        for row in source.current(&keys, None, &mut { usize::MAX }).into_iter().flatten().flatten() {
            if let Some(member) = row.bucket.ok().and_then(|b| later.get(&b)) {
                let part = Part { member, rule: source.rule, entry: source.entry.id, table: source.table.tag, start: Start::On };
                page.row(part, &row.values);
            }
        }
    }
}

/// The parts that something has happened in since the cursor, as far as its priorities go.
pub fn touched(cursor: &Cursor, members: &[Member]) -> HashSet<(BucketId, EntryId)> {
    let mut touched = HashSet::new();
    for (_, snapshot) in &cursor.levels {
        let mut buckets: Vec<&Member> = members.iter().filter(|m| cursor.level(m.priority) == Some(snapshot)).collect();
        buckets.sort_unstable_by_key(|m| m.id);
        let mut after = None;
        loop {
            let (found, more) = ops(snapshot, &buckets, after, GROUPS);
            touched.extend(found.iter().map(|op| (op.bucket, op.entry)));
            match found.last() {
                Some(last) if more => after = Some((last.bucket, last.xid, last.op_id)),
                _ => break,
            }
        }
    }
    touched
}

/// Ops visible now and not in `base`, by (bucket, xid, op_id), from at most `limit` rows of the log; and whether there are more.
fn ops(base: &Snapshot, buckets: &[&Member], after: Option<(BucketId, u64, i32)>, limit: usize) -> (Vec<Op>, bool) {
    let first = after.map_or(0, |(bucket, _, _)| buckets.partition_point(|m| m.id < bucket));
    if first == buckets.len() {
        return (Vec::new(), false);
    }
    if let (None, Some(few)) = (after, of_few(base, buckets)) {
        return (few, false);
    }
    // A page may have ended within a row of the log: `op_id` is the number of its last op.
    let (from, running) = base.missing();
    let mut arguments = vec![ids(buckets[first..].iter().map(|m| &m.id)), argument(Some(from))];
    let mut behind = "";
    if let Some((bucket, xid, op_id)) = after {
        behind = "WHERE (o.bucket, o.xid, o.op_id) > ($3, $4::xid8, $5)";
        arguments.extend([
            argument(Some(pgrx::Uuid::from_bytes(bucket.0))),
            argument(Some(xid.to_string())),
            argument(Some(op_id)),
        ]);
    }
    let probe = "SELECT bucket, xid, op_id, entry, keys, changed FROM sync.op WHERE bucket = b.id AND xid";
    let mut probes = format!("{probe} >= $2::xid8");
    if !base.running.is_empty() {
        arguments.push(argument(Some(running)));
        probes += &format!(" UNION ALL {probe} = ANY (${}::xid8[])", arguments.len());
    }
    let sql = format!(
        "SELECT pg_catalog.uuid_send(o.bucket), o.xid::text, o.op_id, o.entry, o.keys, o.changed
         FROM pg_catalog.unnest($1) AS b(id) CROSS JOIN LATERAL ({probes}) AS o
         {behind} ORDER BY o.bucket, o.xid, o.op_id LIMIT {limit}"
    );
    let mut found = Vec::new();
    let rows = log(&sql, &arguments, after, &mut found);
    (found, rows == limit)
}

/// The same where only few transactions were committed since `base`: they are looked up, rather than so many buckets. None: it is not so,
/// or what they changed, in whatever buckets, is more than [`FEW`] rows of the log.
fn of_few(base: &Snapshot, buckets: &[&Member]) -> Option<Vec<Op>> {
    let xids = Snapshot::active().since(base, FEW as u64)?;
    if xids.is_empty() {
        return Some(Vec::new());
    }
    if xids.len() * 2 > buckets.len() {
        return None;
    }
    let list: Vec<String> = xids.iter().map(u64::to_string).collect();
    let arguments = [argument(Some(format!("{{{}}}", list.join(","))))];
    let sql = format!(
        "SELECT pg_catalog.uuid_send(o.bucket), o.xid::text, o.op_id, o.entry, o.keys, o.changed
         FROM sync.op o WHERE o.xid = ANY ($1::xid8[]) LIMIT {}",
        FEW + 1
    );
    let mut found = Vec::new();
    if log(&sql, &arguments, None, &mut found) > FEW {
        return None;
    }
    found.retain(|op| member(buckets, op).is_some());
    found.sort_unstable_by_key(|op| (op.bucket, op.xid, op.op_id));
    Some(found)
}

/// Appends the ops that a query of the log finds, those behind `after`. Answers how many rows of the log it read.
fn log(sql: &str, arguments: &[Argument], after: Option<(BucketId, u64, i32)>, found: &mut Vec<Op>) -> usize {
    let mut rows = 0;
    Spi::connect(|_| {
        let types: Vec<_> = arguments.iter().map(|(t, _)| *t).collect();
        Query::kept("reading the op log", sql, &types).each(arguments, |mut row| {
            let mut bytes = Vec::new();
            (0..6).for_each(|i| row.put(i, &mut bytes));
            rows += 1;
            if !unfold(&bytes, after, found) {
                error!("sync.op is damaged: restore it from a backup, or drop the rules and make them anew");
            }
            true
        })
    });
    rows
}

/// Appends the ops of one row of the log that lie behind `after`. False for a damaged one.
fn unfold(bytes: &[u8], after: Option<(BucketId, u64, i32)>, found: &mut Vec<Op>) -> bool {
    let mut values = row::Reader::new(bytes);
    let mut next = || values.value().ok();
    let (Some(ValueRef::Blob(bucket)), Some(ValueRef::Text(xid)), Some(ValueRef::Integer(last))) = (next(), next(), next())
    else {
        return false;
    };
    let (Some(ValueRef::Integer(entry)), Some(ValueRef::Blob(list)), Some(ValueRef::Integer(changed))) = (next(), next(), next())
    else {
        return false;
    };
    let (Ok(bucket), Ok(xid), Ok(keys)) = (bucket.try_into().map(BucketId), xid.parse(), keys::all(list)) else { return false };
    let keys = if keys.is_empty() { vec![Vec::new()] } else { keys };
    let first = last as i32 - keys.len() as i32 + 1;
    let ops = keys.into_iter().zip(first..).map(|(key, op_id)| Op { bucket, xid, op_id, entry: entry as EntryId, changed, key });
    found.extend(ops.filter(|op| after.is_none_or(|after| (op.bucket, op.xid, op.op_id) > after)));
    true
}
