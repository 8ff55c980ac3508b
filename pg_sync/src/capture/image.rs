//! One row as capture sees it: key, hash, columns, and the bucket it is in for each entry.
#![allow(unsafe_code)]

use super::definition::{Column, Definition, Entry};
use crate::expr;
use crate::quick::QuickMap;
use crate::render::{pinned, Renderer};
use pgrx::pg_sys;
use sync_shared::hash::{self, BucketId, RowHash};
use sync_shared::row;

/// Bucket ids that an entry remembers.
const IDS: usize = 1_024;
/// A buffer that has grown beyond this is given back after the statement, in bytes.
const BUFFER: usize = 64 << 10;

/// A definition made ready for this backend. Kept across statements.
pub struct Plan {
    /// The trigger's argument that this was made from.
    pub source: Vec<u8>,
    pub definition: Definition,
    /// False for a trigger that came with a dump from another database: it does nothing.
    pub is_at_home: bool,
    /// One per column, in tag order.
    renderers: Vec<Renderer>,
    entries: Vec<EntryPlan>,
    needs_pins: bool,
    /// Images between two statements.
    images: (Image, Image),
    /// Holds the nodes and the renderers' caches.
    memory: pg_sys::MemoryContext,
    /// Holds what reading one row allocates.
    row: pg_sys::MemoryContext,
}

struct EntryPlan {
    key: Vec<KeyPart>,
    filter: Option<*mut pg_sys::Expr>,
    /// The ids of the last keys' buckets.
    ids: QuickMap<Vec<u8>, BucketId>,
}

/// A part of an entry's key.
enum KeyPart {
    /// A column that is sent, by its position: its value has been rendered already.
    Column(usize),
    Expression(*mut pg_sys::Expr, Renderer),
}

impl KeyPart {
    /// # Safety
    /// `node` must be an expression over the definition's relation.
    unsafe fn new(node: *mut pg_sys::Expr, columns: &[Column]) -> Self {
        // SAFETY: a node is read as what its tag says.
        unsafe {
            let type_oid = pg_sys::exprType(node.cast());
            let column = ((*node).type_ == pg_sys::NodeTag::T_Var).then(|| {
                let attnum = (*node.cast::<pg_sys::Var>()).varattno;
                columns.iter().position(|c| c.attnum == attnum && pg_sys::Oid::from(c.type_oid) == type_oid)
            });
            match column.flatten() {
                Some(position) => KeyPart::Column(position),
                None => KeyPart::Expression(node, Renderer::new(type_oid)),
            }
        }
    }

    fn needs_pins(&self) -> bool {
        matches!(self, KeyPart::Expression(_, renderer) if renderer.needs_pins)
    }
}

impl Plan {
    /// Reads a trigger's argument.
    pub fn new(source: &[u8]) -> Result<Self, serde_json::Error> {
        let mut definition: Definition = serde_json::from_slice(source)?;
        let is_at_home = definition.home == crate::snapshot::home();
        if !is_at_home {
            pgrx::warning!("pg_sync: a capture trigger comes from another database and does nothing: add its table to its rules again, or call sync.maintain() after pg_upgrade");
            definition.columns.clear();
            definition.key.clear();
            definition.entries.clear();
        }
        // SAFETY: contexts of our own under TopMemoryContext; nodes and renderers are made inside the first and die with it.
        unsafe {
            let context = |parent| pg_sys::AllocSetContextCreateExtended(parent, c"sync capture".as_ptr(), 0, 1024, 8 << 20);
            let memory = context(pg_sys::TopMemoryContext);
            let row = context(memory);
            let outer = pg_sys::MemoryContextSwitchTo(memory);
            let nodes = |text: &str| -> Vec<*mut pg_sys::Expr> {
                let list = expr::from_string(text);
                let length = if list.is_null() { 0 } else { (*list).length };
                (0..length).map(|i| pg_sys::list_nth(list, i).cast()).collect()
            };
            let entry = |entry: &Entry| EntryPlan {
                key: nodes(&entry.key).into_iter().map(|node| KeyPart::new(node, &definition.columns)).collect(),
                filter: entry.filter.as_ref().and_then(|text| nodes(text).first().copied()),
                ids: QuickMap::default(),
            };
            let entries: Vec<EntryPlan> = definition.entries.iter().map(entry).collect();
            let renderers = definition.renderers();
            pg_sys::MemoryContextSwitchTo(outer);
            let parts = || entries.iter().flat_map(|e| &e.key);
            let needs_pins = renderers.iter().any(|r| r.needs_pins) || parts().any(KeyPart::needs_pins);
            let (source, images) = (source.to_owned(), Default::default());
            Ok(Plan { source, definition, is_at_home, renderers, entries, needs_pins, images, memory, row })
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

/// A row's content, reused from row to row and from statement to statement.
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
    /// A bucket's key.
    bucket_key: Vec<u8>,
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

    fn is_large(&self) -> bool {
        self.values.capacity() + self.canonical.capacity() > BUFFER
    }
}

/// An entry's expressions, prepared for one statement.
struct Prepared {
    /// None for columns.
    key: Vec<Option<*mut pg_sys::ExprState>>,
    filter: Option<*mut pg_sys::ExprState>,
}

impl Prepared {
    /// # Safety
    /// The plan's nodes must outlive the statement, in whose memory this is made.
    unsafe fn new(entry: &EntryPlan) -> Self {
        let init = |node: *mut pg_sys::Expr| {
            // SAFETY: see above.
            unsafe { pg_sys::ExecInitExpr(node, std::ptr::null_mut()) }
        };
        let part = |part: &KeyPart| match part {
            KeyPart::Column(_) => None,
            KeyPart::Expression(node, _) => Some(init(*node)),
        };
        Prepared { key: entry.key.iter().map(part).collect(), filter: entry.filter.map(init) }
    }
}

/// Evaluates rows of one relation during one statement.
pub struct Evaluator<'p> {
    plan: &'p mut Plan,
    /// For each entry; empty where none has anything to prepare.
    prepared: Vec<Prepared>,
    /// Made with the first expression.
    context: *mut pg_sys::ExprContext,
}

impl<'p> Evaluator<'p> {
    /// Prepares the plan's expressions for this statement.
    pub fn new(plan: &'p mut Plan) -> Self {
        let is_plain = |e: &EntryPlan| e.filter.is_none() && e.key.iter().all(|part| matches!(part, KeyPart::Column(_)));
        // SAFETY: the plan is borrowed for as long as the statement runs.
        unsafe {
            let (prepared, context) = match plan.entries.iter().all(is_plain) {
                true => (Vec::new(), std::ptr::null_mut()),
                false => (plan.entries.iter().map(|e| Prepared::new(e)).collect(), pg_sys::CreateStandaloneExprContext()),
            };
            Evaluator { plan, prepared, context }
        }
    }

    /// Two images to read rows into, an old one and a new one; to be given back to `close`.
    pub fn images(&mut self) -> (Image, Image) {
        std::mem::take(&mut self.plan.images)
    }

    /// Fills `image` from the row in `slot`.
    ///
    /// # Safety
    /// `slot` must hold a row of the relation that the plan was made for.
    pub unsafe fn read(&mut self, slot: *mut pg_sys::TupleTableSlot, image: &mut Image) {
        // SAFETY: the slot is deformed before its arrays are read; attribute numbers are checked against its descriptor. Nothing in the
        // row's memory is used after the next row has begun.
        unsafe {
            reset(self.plan.row);
            let outer = pg_sys::MemoryContextSwitchTo(self.plan.row);
            let natts = (*(*slot).tts_tupleDescriptor).natts as usize;
            if ((*slot).tts_nvalid as usize) < natts {
                pg_sys::slot_getsomeattrs_int(slot, natts as i32);
            }
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
            image.is_too_large = row::is_too_large(&image.values);
            image.buckets.clear();
            if !self.context.is_null() {
                reset((*self.context).ecxt_per_tuple_memory);
                (*self.context).ecxt_scantuple = slot;
            }
            for i in 0..self.plan.entries.len() {
                let bucket = self.bucket(i, image).filter(|_| !image.is_too_large);
                image.buckets.push(bucket);
            }
            pg_sys::MemoryContextSwitchTo(outer);
        }
    }

    /// The bucket that the current row is in by one entry; None for a false filter or a NULL key.
    fn bucket(&mut self, entry: usize, image: &mut Image) -> Option<BucketId> {
        let prepared = self.prepared.get(entry);
        if let Some(filter) = prepared.and_then(|p| p.filter) {
            let (value, is_null) = evaluate(self.context, filter);
            if is_null || value.value() as u8 == 0 {
                return None;
            }
        }
        let EntryPlan { key, ids, .. } = &mut self.plan.entries[entry];
        image.bucket_key.clear();
        for (i, part) in key.iter_mut().enumerate() {
            match (part, prepared.and_then(|p| p.key[i])) {
                (KeyPart::Column(position), _) => {
                    let start = if *position == 0 { 0 } else { image.ends[*position - 1] };
                    let value = &image.values[start..image.ends[*position]];
                    if row::is_null(value) {
                        return None;
                    }
                    image.bucket_key.extend_from_slice(value);
                }
                (KeyPart::Expression(_, renderer), Some(state)) => {
                    let (value, is_null) = evaluate(self.context, state);
                    if is_null {
                        return None;
                    }
                    // SAFETY: the renderer was made for this expression's type.
                    unsafe { renderer.put(&mut image.bucket_key, value, false) };
                }
                (KeyPart::Expression(..), None) => return None,
            }
        }
        if let Some(id) = ids.get(&image.bucket_key) {
            return Some(*id);
        }
        let id = hash::bucket_id(&self.plan.definition.entries[entry].rule, &image.bucket_key);
        if ids.len() == IDS {
            ids.clear();
        }
        ids.insert(image.bucket_key.clone(), id);
        Some(id)
    }

    /// The columns of the images, in their order.
    pub fn columns(&self) -> &[Column] {
        &self.plan.definition.columns
    }

    /// Releases the statement's share.
    pub fn close(self, old: Image, new: Image) {
        if !old.is_large() && !new.is_large() {
            self.plan.images = (old, new);
        }
        if !self.context.is_null() {
            // SAFETY: made in `new`, used nowhere else.
            unsafe { pg_sys::FreeExprContext(self.context, true) }
        }
    }
}

fn evaluate(context: *mut pg_sys::ExprContext, state: *mut pg_sys::ExprState) -> (pg_sys::Datum, bool) {
    let mut is_null = false;
    // SAFETY: an initialised state; the context's scan tuple is the current row. The boundary turns an ERROR into an unwind.
    let value = unsafe {
        match (*state).evalfunc {
            Some(evaluate) => pg_sys::ffi::pg_guard_ffi_boundary(|| evaluate(state, context, &mut is_null)),
            None => pg_sys::Datum::null(),
        }
    };
    (value, is_null)
}

/// Frees what is in a context, without a call where there is nothing.
///
/// # Safety
/// Nothing in it may be used after this.
unsafe fn reset(context: pg_sys::MemoryContext) {
    // SAFETY: see above.
    unsafe {
        if !(*context).isReset || !(*context).firstchild.is_null() {
            pg_sys::MemoryContextReset(context);
        }
    }
}
