//! One row as capture sees it: key, hash, columns, and the bucket it is in for each entry.
#![allow(unsafe_code)]

use super::definition::{Column, Definition};
use crate::expr;
use crate::render::{pinned, Renderer};
use pgrx::pg_sys;
use sync_shared::hash::{self, BucketId, RowHash};
use sync_shared::row;

/// A definition made ready for this backend. Kept across statements.
pub struct Plan {
    /// The trigger's argument that this was made from.
    pub source: String,
    pub definition: Definition,
    /// False for a trigger that came with a dump from another database: it does nothing.
    pub is_at_home: bool,
    /// One per column, in tag order.
    renderers: Vec<Renderer>,
    entries: Vec<EntryPlan>,
    needs_pins: bool,
    /// Holds the nodes and the renderers' caches.
    memory: pg_sys::MemoryContext,
}

struct EntryPlan {
    key: Vec<*mut pg_sys::Expr>,
    key_renderers: Vec<Renderer>,
    filter: Option<*mut pg_sys::Expr>,
}

impl Plan {
    /// Reads a trigger's argument.
    pub fn new(source: &str) -> Result<Self, serde_json::Error> {
        let mut definition: Definition = serde_json::from_str(source)?;
        let is_at_home = definition.home == crate::snapshot::home();
        if !is_at_home {
            pgrx::warning!("pg_sync: a capture trigger comes from another database and does nothing: add its table to its rules again, or call sync.maintain() after pg_upgrade");
            definition.columns.clear();
            definition.key.clear();
            definition.entries.clear();
        }
        // SAFETY: a context of our own under TopMemoryContext; nodes and renderers are made inside it and die with it.
        unsafe {
            let memory =
                pg_sys::AllocSetContextCreateExtended(pg_sys::TopMemoryContext, c"sync capture".as_ptr(), 0, 1024, 8 << 20);
            let outer = pg_sys::MemoryContextSwitchTo(memory);
            let nodes = |text: &str| -> Vec<*mut pg_sys::Expr> {
                let list = expr::from_string(text);
                let length = if list.is_null() { 0 } else { (*list).length };
                (0..length).map(|i| pg_sys::list_nth(list, i).cast()).collect()
            };
            let entries: Vec<EntryPlan> = definition
                .entries
                .iter()
                .map(|entry| {
                    let key = nodes(&entry.key);
                    EntryPlan {
                        key_renderers: key.iter().map(|&node| Renderer::new(pg_sys::exprType(node.cast()))).collect(),
                        key,
                        filter: entry.filter.as_ref().and_then(|text| nodes(text).first().copied()),
                    }
                })
                .collect();
            let renderers = definition.renderers();
            pg_sys::MemoryContextSwitchTo(outer);
            let needs_pins = renderers.iter().chain(entries.iter().flat_map(|e| &e.key_renderers)).any(|r| r.needs_pins);
            Ok(Plan { source: source.to_owned(), definition, is_at_home, renderers, entries, needs_pins, memory })
        }
    }

    /// Runs `f` under pinned settings if any column needs them.
    pub fn with_settings<R>(needs_pins: bool, f: impl FnOnce() -> R) -> R {
        if needs_pins {
            pinned(f)
        } else {
            f()
        }
    }

    /// Whether a value's text depends on settings.
    pub fn needs_pins(&self) -> bool {
        self.needs_pins
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: nothing outside the plan points into its context.
        unsafe { pg_sys::MemoryContextDelete(self.memory) }
    }
}

/// A row's content, reused from row to row.
#[derive(Default)]
pub struct Image {
    /// Wire values in tag order, one behind the other.
    values: Vec<u8>,
    /// Where each value ends.
    ends: Vec<usize>,
    canonical: Vec<u8>,
    /// The primary key as wire values.
    pub key: Vec<u8>,
    pub hash: RowHash,
    /// See `limits::ROW_BYTES`: it is in no bucket.
    pub is_too_large: bool,
    /// For each entry of the definition.
    pub buckets: Vec<Option<BucketId>>,
    /// The last bucket key of each entry and its id: neighbours are often in the same bucket.
    recent: Vec<(Vec<u8>, BucketId)>,
    scratch: Vec<u8>,
}

impl Image {
    /// Bytes on the wire.
    pub fn size(&self) -> usize {
        self.values.len()
    }

    fn column(&self, i: usize) -> &[u8] {
        &self.values[if i == 0 { 0 } else { self.ends[i - 1] }..self.ends[i]]
    }

    /// The bits of the columns that differ.
    pub fn changed(&self, other: &Image, columns: &[Column]) -> i64 {
        let differ = columns.iter().enumerate().filter(|(i, _)| self.column(*i) != other.column(*i));
        differ.fold(0, |mask, (_, column)| mask | 1i64 << column.bit)
    }
}

/// Evaluates rows of one relation during one statement.
pub struct Evaluator<'p> {
    plan: &'p mut Plan,
    context: *mut pg_sys::ExprContext,
    keys: Vec<Vec<*mut pg_sys::ExprState>>,
    filters: Vec<Option<*mut pg_sys::ExprState>>,
}

impl<'p> Evaluator<'p> {
    /// Prepares the plan's expressions for this statement.
    pub fn new(plan: &'p mut Plan) -> Self {
        // SAFETY: the plan's nodes outlive the statement; the states are made in the statement's memory.
        unsafe {
            let init = |node: *mut pg_sys::Expr| pg_sys::ExecInitExpr(node, std::ptr::null_mut());
            let keys = plan.entries.iter().map(|e| e.key.iter().map(|&n| init(n)).collect()).collect();
            let filters = plan.entries.iter().map(|e| e.filter.map(init)).collect();
            Evaluator { plan, context: pg_sys::CreateStandaloneExprContext(), keys, filters }
        }
    }

    /// Fills `image` from the row in `slot`.
    ///
    /// # Safety
    /// `slot` must hold a row of the relation that the plan was made for.
    pub unsafe fn read(&mut self, slot: *mut pg_sys::TupleTableSlot, image: &mut Image) {
        // SAFETY: the slot is deformed before its arrays are read; attribute numbers are checked against its descriptor.
        unsafe {
            let context = self.context;
            pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            let outer = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_tuple_memory);
            let natts = (*(*slot).tts_tupleDescriptor).natts as usize;
            pg_sys::slot_getsomeattrs_int(slot, natts as i32);
            let values = std::slice::from_raw_parts((*slot).tts_values, natts);
            let nulls = std::slice::from_raw_parts((*slot).tts_isnull, natts);
            image.values.clear();
            image.ends.clear();
            image.canonical.clear();
            image.canonical.extend_from_slice(&self.plan.definition.table.to_be_bytes());
            for (column, renderer) in self.plan.definition.columns.iter().zip(&mut self.plan.renderers) {
                let at = column.attnum as usize - 1;
                let is_null = at >= natts || nulls[at];
                let start = image.values.len();
                renderer.put(&mut image.values, if is_null { pg_sys::Datum::null() } else { values[at] }, is_null);
                image.ends.push(image.values.len());
                if !is_null {
                    image.canonical.extend_from_slice(&column.tag.to_be_bytes());
                    image.canonical.extend_from_slice(&image.values[start..]);
                }
            }
            image.hash = hash::digest(&image.canonical);
            image.key.clear();
            for &position in &self.plan.definition.key {
                let start = if position == 0 { 0 } else { image.ends[position - 1] };
                image.key.extend_from_slice(&image.values[start..image.ends[position]]);
            }
            (*context).ecxt_scantuple = slot;
            image.is_too_large = row::is_too_large(&image.values);
            image.buckets.clear();
            image.recent.resize_with(self.plan.entries.len(), Default::default);
            for i in 0..self.plan.entries.len() {
                let bucket = self.bucket(i, image).filter(|_| !image.is_too_large);
                image.buckets.push(bucket);
            }
            pg_sys::MemoryContextSwitchTo(outer);
        }
    }

    /// The bucket that the current row is in by one entry; None for a false filter or a NULL key.
    fn bucket(&mut self, entry: usize, image: &mut Image) -> Option<BucketId> {
        if let Some(filter) = self.filters[entry] {
            let (value, is_null) = self.evaluate(filter);
            if is_null || value.value() as u8 == 0 {
                return None;
            }
        }
        image.scratch.clear();
        for (i, &state) in self.keys[entry].iter().enumerate() {
            let (value, is_null) = self.evaluate(state);
            if is_null {
                return None;
            }
            // SAFETY: the renderer was made for this expression's type.
            unsafe { self.plan.entries[entry].key_renderers[i].put(&mut image.scratch, value, false) };
        }
        let (key, id) = &mut image.recent[entry];
        if *id == BucketId::default() || *key != image.scratch {
            key.clone_from(&image.scratch);
            *id = hash::bucket_id(&self.plan.definition.entries[entry].rule, &image.scratch);
        }
        Some(*id)
    }

    fn evaluate(&self, state: *mut pg_sys::ExprState) -> (pg_sys::Datum, bool) {
        let mut is_null = false;
        // SAFETY: an initialised state; the context's scan tuple is the current row. The boundary turns an ERROR into an unwind.
        let value = unsafe {
            match (*state).evalfunc {
                Some(evaluate) => pg_sys::ffi::pg_guard_ffi_boundary(|| evaluate(state, self.context, &mut is_null)),
                None => pg_sys::Datum::null(),
            }
        };
        (value, is_null)
    }

    /// The columns of the images, in their order.
    pub fn columns(&self) -> &[Column] {
        &self.plan.definition.columns
    }

    /// Releases the statement's share.
    pub fn close(self) {
        // SAFETY: made in `new`, used nowhere else.
        unsafe { pg_sys::FreeExprContext(self.context, true) }
    }
}
