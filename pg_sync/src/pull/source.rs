//! Reads rows of one entry from its source table: whole parts by key, and the current rows of given primary keys.

use super::members::Member;
use super::page::{Page, Part};
use crate::access::viewer::View;
use crate::capture::definition::changed_bit;
use crate::catalog::{Entry, Rule, SyncedColumn, SyncedTable};
use crate::error::raise;
use crate::expr::quote;
use crate::identity::as_table_owner;
use crate::query::{argument, operator, Argument, Query};
use crate::render::Renderer;
use pgrx::prelude::*;
use sync_shared::hash::{bucket_id, row_hash, BucketId, RowHash, Tag};
use sync_shared::ranges::{RangeSums, Ranges};
use sync_shared::{row, Value};

/// An entry's queries, prepared once per pull.
pub struct Source<'a> {
    pub rule: &'a Rule,
    pub entry: &'a Entry,
    pub table: &'a SyncedTable,
    /// Rows are sent without values that have not changed, where that is worth it.
    pub leaves_out: bool,
    key_renderers: Vec<Renderer>,
    pk_renderers: Vec<Renderer>,
    first: Option<Query>,
    unordered: Option<Query>,
    rest: Option<Query>,
    current: Option<Query>,
}

/// A row as it is now.
pub struct Current {
    /// The bucket it is in by this entry.
    pub bucket: Result<BucketId, NotIn>,
    /// That bucket's key; empty where the row is in none by its filter or key.
    pub key: Vec<u8>,
    pub values: Vec<u8>,
    /// The columns that `values` are of; None: all.
    pub columns: Option<Vec<u16>>,
}

/// In a mask of changed columns: all of them, or the row is new here.
pub const WHOLE: i64 = -1;

/// So many bytes that have not changed are left out of a row.
const WORTH: usize = 512;

/// Why a row is in no bucket of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotIn {
    /// The filter is not true.
    Filtered,
    /// A part of the key is NULL.
    NoKey,
    TooLarge,
}

/// The columns to send of a row, given the bits of those that have changed and how large each value is; None: all of them, since what has
/// not changed is small.
fn to_send(table: &SyncedTable, changed: i64, size: impl Fn(usize) -> usize) -> Option<Vec<u16>> {
    if changed == WHOLE {
        return None;
    }
    let is_sent = |c: &SyncedColumn| c.key > 0 || changed & 1 << changed_bit(c.position as i16) != 0;
    let columns = || table.columns.iter().enumerate();
    let left: usize = columns().filter(|(_, c)| !is_sent(c)).map(|(i, _)| size(i)).sum();
    (left >= WORTH).then(|| columns().filter(|(_, c)| is_sent(c)).map(|(i, _)| i as u16).collect())
}

/// Rows of which is asked at once whether the user sees them: few at first, where a page may soon be full.
const LOOKUP: std::ops::Range<usize> = 64..1_000;
/// The same in bytes, unless it is a single row.
const LOOKUP_BYTES: usize = 1 << 20;

/// Rows that were read, until it is asked whether the user sees them.
struct Waiting {
    rows: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
    enough: usize,
}

impl Waiting {
    fn new(enough: usize) -> Self {
        Waiting { rows: Vec::new(), bytes: 0, enough }
    }

    fn add(&mut self, key: &[u8], values: &[u8]) {
        self.bytes += values.len();
        self.rows.push((key.to_vec(), values.to_vec()));
    }

    fn is_enough(&self) -> bool {
        self.rows.len() >= self.enough || self.bytes >= LOOKUP_BYTES
    }

    /// Those that the user sees, in their order: keys and values. Next time there may be more of them.
    fn seen(&mut self, view: &View<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let keys: Vec<&[u8]> = self.rows.iter().map(|(key, _)| key.as_slice()).collect();
        let seen = view.sees(&keys);
        self.bytes = 0;
        self.enough = (self.enough * 2).min(LOOKUP.end);
        self.rows.drain(..).zip(seen).filter(|(_, seen)| *seen).map(|(row, _)| row).collect()
    }
}

/// Hashes rows of one table.
struct Hasher {
    table: Tag,
    tags: Vec<Tag>,
    scratch: Vec<u8>,
}

impl Hasher {
    fn new(table: &SyncedTable) -> Self {
        Hasher { table: table.tag, tags: table.columns.iter().map(|c| c.tag).collect(), scratch: Vec::new() }
    }

    fn hash(&mut self, values: &[u8]) -> Option<RowHash> {
        row_hash(self.table, &self.tags, &mut row::Reader::new(values), &mut self.scratch).ok()
    }
}

/// In which order rows are read.
enum Order<'b> {
    Any,
    First,
    Behind(&'b [u8]),
}

/// A row of a part.
struct Found<'r> {
    values: &'r [u8],
    /// Where each value ends, after a 0.
    ends: &'r [usize],
    key_columns: &'r [usize],
}

impl Found<'_> {
    /// Its primary key.
    fn key(&self, key: &mut Vec<u8>) {
        key.clear();
        self.key_columns.iter().for_each(|&i| key.extend_from_slice(&self.values[self.ends[i]..self.ends[i + 1]]));
    }
}

impl<'a> Source<'a> {
    pub fn new(rule: &'a Rule, entry: &'a Entry, table: &'a SyncedTable) -> Self {
        Source {
            rule,
            entry,
            table,
            leaves_out: false,
            key_renderers: rule.key_types.iter().map(|&t| Renderer::new(t)).collect(),
            pk_renderers: table.key.iter().map(|&i| Renderer::new(table.columns[i].type_oid)).collect(),
            first: None,
            unordered: None,
            rest: None,
            current: None,
        }
    }

    fn what(&self) -> String {
        format!("rule \"{}\", table {}", self.rule.name, self.table.name)
    }

    fn pk_columns(&self) -> Vec<String> {
        self.table.key.iter().map(|&i| quote(&self.table.columns[i].name)).collect()
    }

    /// Key expressions, then the sent columns.
    fn select_list(&self) -> String {
        let keys = self.entry.key.iter().map(|k| format!("({k})"));
        keys.chain(self.table.columns.iter().map(|c| quote(&c.name))).collect::<Vec<_>>().join(", ")
    }

    /// Rows of one bucket; parameters are the bucket's key. In the order of the primary key, a parameter may be the one to start behind.
    fn part_sql(&self, behind: bool, ordered: bool) -> String {
        let keys = self.key_renderers.len();
        let mut conditions: Vec<String> = (self.entry.key.iter().zip(&self.key_renderers).enumerate())
            .map(|(i, (sql, r))| format!("({sql}) {} {}", operator(r.type_oid(), "="), r.read_text(&format!("${}", i + 1))))
            .collect();
        conditions.extend(self.entry.filter.iter().map(|filter| format!("({filter})")));
        if behind {
            let values: Vec<String> =
                self.pk_renderers.iter().enumerate().map(|(i, r)| r.read_text(&format!("${}", keys + i + 1))).collect();
            let greater = operator(self.pk_renderers[0].type_oid(), ">");
            conditions.push(format!("ROW({}) {greater} ROW({})", self.pk_columns().join(", "), values.join(", ")));
        }
        let filter = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        let order = if ordered { format!(" ORDER BY {}", self.pk_columns().join(", ")) } else { String::new() };
        format!("SELECT {} FROM {} AS sync_row{filter}{order}", self.select_list(), self.table.name)
    }

    /// The rows of given primary keys, one text array for each key column.
    fn current_sql(&self) -> String {
        let arrays: Vec<String> = (1..=self.pk_renderers.len()).map(|i| format!("${i}::text[]")).collect();
        let names: Vec<String> = (1..=self.pk_renderers.len()).map(|i| format!("k{i}")).collect();
        let conditions: Vec<String> = (self.pk_columns().iter().zip(&self.pk_renderers).zip(&names))
            .map(|((column, r), name)| {
                format!("{column} {} {}", operator(r.type_oid(), "="), r.read_text(&format!("sync_key.{name}")))
            })
            .collect();
        // Two levels: a filter's or key's column must not be mistaken for one of the keys.
        format!(
            "SELECT sync_key.n, sync_found.* FROM ROWS FROM (unnest({})) WITH ORDINALITY AS sync_key({}, n)
             CROSS JOIN LATERAL (SELECT ({}), {} FROM {} AS sync_row WHERE {}) AS sync_found",
            arrays.join(", "),
            names.join(", "),
            self.entry.filter.as_deref().unwrap_or("true"),
            self.select_list(),
            self.table.name,
            conditions.join(" AND ")
        )
    }

    fn parameters(&self, renderers: &[Renderer], values: &[Value]) -> Vec<Option<String>> {
        if renderers.len() != values.len() {
            raise(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("{}: a key has the wrong number of values", self.what()),
            );
        }
        let text = |(r, v): (&Renderer, &Value)| {
            r.parameter(v).unwrap_or_else(|e| {
                raise(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("{}: in a key, {e}", self.what()))
            })
        };
        renderers.iter().zip(values).map(text).collect()
    }

    /// Hands the rows of a bucket to `f` until it answers false: all of them in any order, or in the order of the primary key those behind
    /// one. Answers whether all were seen.
    fn each(&mut self, bucket_key: &[u8], order: Order<'_>, mut f: impl FnMut(&Found<'_>) -> bool) -> bool {
        let decode = |bytes: &[u8]| row::decode(bytes).unwrap_or_default();
        let mut arguments: Vec<Argument> =
            self.parameters(&self.key_renderers, &decode(bucket_key)).into_iter().map(argument).collect();
        if let Order::Behind(key) = order {
            arguments.extend(self.parameters(&self.pk_renderers, &decode(key)).into_iter().map(argument));
        }
        let types: Vec<_> = arguments.iter().map(|(t, _)| *t).collect();
        let (behind, ordered) = (matches!(order, Order::Behind(_)), !matches!(order, Order::Any));
        let (what, sql) = (self.what(), self.part_sql(behind, ordered));
        let (keys, key_columns, columns) = (self.key_renderers.len(), &self.table.key, self.table.columns.len());
        let (mut values, mut ends) = (Vec::new(), Vec::new());
        let slot = match order {
            Order::Any => &mut self.unordered,
            Order::First => &mut self.first,
            Order::Behind(_) => &mut self.rest,
        };
        as_table_owner(self.table.owner, || {
            let prepare = if ordered { Query::kept_first } else { Query::kept };
            let query = slot.get_or_insert_with(|| prepare(&what, &sql, &types));
            query.each(&arguments, |mut found| {
                values.clear();
                (0..keys).for_each(|i| found.put(i, &mut values));
                // Equal is not always identical (citext, numeric 1.0 and 1.00): the bucket is the one of the identical key.
                if values != bucket_key {
                    return true;
                }
                values.clear();
                ends.clear();
                ends.push(0);
                for i in 0..columns {
                    found.put(keys + i, &mut values);
                    ends.push(values.len());
                }
                row::is_too_large(&values) || f(&Found { values: &values, ends: &ends, key_columns })
            })
        })
    }

    /// Appends a part's rows behind a primary key to the page, of the given ranges if there are any. Some(key) if the page filled up: the
    /// last row's key.
    pub fn read_part(
        &mut self,
        part: Part<'_>,
        behind: Option<&[u8]>,
        ranges: Option<&Ranges>,
        page: &mut Page,
    ) -> Option<Vec<u8>> {
        let mut key = Vec::new();
        let whole = self.each(&part.member.key, behind.map_or(Order::First, Order::Behind), |found| {
            if let Some(ranges) = ranges {
                found.key(&mut key);
                if !ranges.contain(&key) {
                    return true;
                }
            }
            page.row(part, found.values);
            if page.is_full() {
                found.key(&mut key);
            }
            !page.is_full()
        });
        (!whole).then_some(key)
    }

    /// The same for a part of which only rows that the user sees are sent; `sums` gets those that are. The key is that of a row that was
    /// sent.
    pub fn read_shown(
        &mut self,
        part: Part<'_>,
        behind: Option<&[u8]>,
        ranges: Option<&Ranges>,
        view: &View<'_>,
        page: &mut Page,
        sums: &mut RangeSums,
    ) -> Option<Vec<u8>> {
        let (mut hasher, mut key) = (Hasher::new(self.table), Vec::new());
        let mut waiting = Waiting::new(LOOKUP.start);
        let mut cut = None;
        let mut send = |waiting: &mut Waiting| {
            for (key, values) in waiting.seen(view) {
                if let Some(hash) = hasher.hash(&values) {
                    page.row(part, &values);
                    sums.add(&key, hash);
                }
                if page.is_full() {
                    cut = Some(key);
                    return false;
                }
            }
            true
        };
        let whole = self.each(&part.member.key, behind.map_or(Order::First, Order::Behind), |found| {
            found.key(&mut key);
            if ranges.is_none_or(|ranges| ranges.contain(&key)) {
                waiting.add(&key, found.values);
            }
            !waiting.is_enough() || send(&mut waiting)
        });
        if whole {
            send(&mut waiting);
        }
        cut
    }

    /// Sums of a part's ranges, from its rows as they are; of those that the user sees, if somebody looks.
    pub fn range_sums(&mut self, member: &Member, bits: u8, view: Option<&View<'_>>) -> RangeSums {
        let mut sums = RangeSums::new(bits);
        let (mut hasher, mut key) = (Hasher::new(self.table), Vec::new());
        let mut hashes: Vec<(Vec<u8>, RowHash)> = Vec::new();
        let look = |hashes: &mut Vec<(Vec<u8>, RowHash)>, sums: &mut RangeSums| {
            if let Some(view) = view {
                let keys: Vec<&[u8]> = hashes.iter().map(|(key, _)| key.as_slice()).collect();
                let seen = view.sees(&keys);
                hashes.drain(..).zip(seen).filter(|(_, seen)| *seen).for_each(|((key, hash), _)| sums.add(&key, hash));
            }
        };
        self.each(&member.key, Order::Any, |found| {
            found.key(&mut key);
            match (hasher.hash(found.values), view) {
                (Some(hash), None) => sums.add(&key, hash),
                (Some(hash), Some(_)) => hashes.push((key.clone(), hash)),
                (None, _) => {}
            }
            if hashes.len() == LOOKUP.end {
                look(&mut hashes, &mut sums);
            }
            true
        });
        look(&mut hashes, &mut sums);
        sums
    }

    /// Hands over the primary keys of a bucket's rows.
    pub fn keys(&mut self, member: &Member, mut f: impl FnMut(&[u8])) {
        let mut key = Vec::new();
        self.each(&member.key, Order::Any, |found| {
            found.key(&mut key);
            f(&key);
            true
        });
    }

    /// The current rows of the given primary keys; None for rows that do not exist. `budget` goes down by their bytes: where it does not
    /// suffice for several keys, there is no answer. `changed`: for each key, the bits of the columns that are not as the device has them.
    pub fn current(&mut self, keys: &[&[u8]], changed: Option<&[i64]>, budget: &mut usize) -> Option<Vec<Option<Current>>> {
        let mut arrays: Vec<Vec<Option<String>>> = vec![Vec::with_capacity(keys.len()); self.pk_renderers.len()];
        for key in keys {
            let texts = self.parameters(&self.pk_renderers, &row::decode(key).unwrap_or_default());
            arrays.iter_mut().zip(texts).for_each(|(array, text)| array.push(text));
        }
        let arguments: Vec<Argument> = arrays.into_iter().map(|array| argument(Some(array))).collect();
        let types: Vec<_> = arguments.iter().map(|(t, _)| *t).collect();
        let (what, sql) = (self.what(), self.current_sql());
        let (key_count, columns) = (self.key_renderers.len(), self.table.columns.len());
        let (rule, table) = (self.rule, self.table);
        let slot = &mut self.current;
        let mut rows: Vec<Option<Current>> = keys.iter().map(|_| None).collect();
        let whole = as_table_owner(self.table.owner, || {
            let query = slot.get_or_insert_with(|| Query::kept(&what, &sql, &types));
            query.each(&arguments, |mut found| {
                let n = found.integer(0) as usize - 1;
                let mut key = Vec::new();
                let mut bucket = match (found.is_true(1), (0..key_count).any(|i| found.is_null(2 + i))) {
                    (false, _) => Err(NotIn::Filtered),
                    (true, true) => Err(NotIn::NoKey),
                    (true, false) => {
                        (0..key_count).for_each(|i| found.put(2 + i, &mut key));
                        Ok(bucket_id(&rule.name, &key))
                    }
                };
                let mut values = Vec::new();
                // What is left out is not even fetched where it is stored beside its row.
                let sent = changed.and_then(|changed| to_send(table, changed[n], |i| found.size(2 + key_count + i)));
                match &sent {
                    Some(sent) => sent.iter().for_each(|&i| found.put(2 + key_count + usize::from(i), &mut values)),
                    None => (0..columns).for_each(|i| found.put(2 + key_count + i, &mut values)),
                }
                *budget = budget.saturating_sub(values.len());
                if row::is_too_large(&values) {
                    bucket = bucket.and(Err(NotIn::TooLarge));
                }
                rows[n] = Some(Current { bucket, key, values, columns: sent });
                *budget > 0 || keys.len() == 1
            })
        });
        whole.then_some(rows)
    }
}
