//! What a statement did to a table's buckets, appended to the op log by native statement-level triggers.
//!
//! # Layout
//! - [`definition`]: what a trigger knows
//! - [`image`]: a row's key, hash and buckets
//! - [`log`]: writing ops; [`place`]: where to
#![allow(unsafe_code)]

pub mod definition;
pub mod image;
pub mod log;
mod place;

use crate::quick::QuickMap;
use image::{Evaluator, Image, Plan};
use log::{Op, Writer};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::ffi::CStr;

/// Other flags fail ("too late to require new tuplestore eflags"). Its value is another one since Postgres 16.
const EXEC_FLAG_REWIND: i32 = pg_sys::EXEC_FLAG_REWIND as i32;
/// `changed` of a row that enters or leaves: every column.
const ALL_COLUMNS: i64 = -1;

thread_local! {
    /// By relation. A plan is replaced when the trigger's argument is another.
    static PLANS: RefCell<QuickMap<pg_sys::Oid, Box<Plan>>> = RefCell::default();
}

/// Postgres asks for this beside the function.
#[no_mangle]
pub extern "C" fn pg_finfo_sync_capture() -> *const pg_sys::Pg_finfo_record {
    static RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}

/// The trigger function.
///
/// # Safety
/// Called by Postgres with its calling convention.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn sync_capture(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the context is checked to be a trigger's before it is read as one.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            error!("sync.capture() can only be called as a trigger");
        }
        let trigger: *mut pg_sys::TriggerData = context.cast();
        let definition = &*(*trigger).tg_trigger;
        if definition.tgnargs != 1 {
            error!("sync.capture() needs its definition: triggers are made by sync.add_table");
        }
        let source = CStr::from_ptr(*definition.tgargs).to_bytes();
        let relation = (*trigger).tg_relation;
        // The expressions are the table owner's, so they run as the table owner, who may have written them for that.
        let (mut user, mut security) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut security);
        let restricted = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
        pg_sys::SetUserIdAndSecContext((*(*relation).rd_rel).relowner, security | restricted as i32);
        // Taken out while in use: evaluating an expression may run code that fires captures of other tables.
        let known = PLANS.with(|p| p.borrow_mut().remove(&(*relation).rd_id)).filter(|plan| plan.source == source);
        let mut plan = match known {
            Some(plan) => plan,
            None => match Plan::new(source) {
                Ok(plan) => Box::new(plan),
                Err(e) => error!("sync.capture(): the trigger's definition is damaged: {e}"),
            },
        };
        if plan.is_at_home {
            // What their functions set is not left to the writer.
            let level = pg_sys::NewGUCNestLevel();
            Plan::with_settings(plan.needs_pins(), || statement(trigger, &mut plan));
            pg_sys::AtEOXact_GUC(false, level);
        }
        PLANS.with(|p| p.borrow_mut().insert((*relation).rd_id, plan));
        pg_sys::SetUserIdAndSecContext(user, security);
    }
    pg_sys::Datum::from(0)
}

/// # Safety
/// `trigger` must be the running trigger's data, `plan` made from its argument.
unsafe fn statement(trigger: *mut pg_sys::TriggerData, plan: &mut Plan) {
    // SAFETY: which stores exist follows from the event, as CREATE TRIGGER in sql/04_capture.sql declares them.
    unsafe {
        let event = (*trigger).tg_event & pg_sys::TRIGGER_EVENT_OPMASK;
        if event == pg_sys::TRIGGER_EVENT_TRUNCATE {
            return truncate((*trigger).tg_relation, plan);
        }
        let old = Rows::open((*trigger).tg_oldtable, (*trigger).tg_relation);
        let new = Rows::open((*trigger).tg_newtable, (*trigger).tg_relation);
        let count = old.as_ref().or(new.as_ref()).map_or(0, |rows| rows.count);
        if count > 0 {
            let mut changes = Changes::new(plan, count);
            match (&old, &new) {
                (None, Some(new)) => {
                    while changes.next_new(new) {
                        changes.entered();
                    }
                }
                (Some(old), None) => {
                    while changes.next_old(old) {
                        changes.left();
                    }
                }
                // Both stores are filled row by row, so they run in parallel; where the keys differ all the same, the two
                // rows are logged apart, which is right in any case.
                (Some(old), Some(new)) => loop {
                    // A move into a partition whose trigger refuses the row leaves an old row without a new one.
                    match (changes.next_old(old), changes.next_new(new)) {
                        (true, true) => changes.updated(),
                        (true, false) => changes.left(),
                        (false, true) => changes.entered(),
                        (false, false) => break,
                    }
                },
                (None, None) => {}
            }
            changes.close();
        }
        for rows in [old, new].into_iter().flatten() {
            rows.close();
        }
    }
}

/// TRUNCATE has no transition table: the rows are read before they go. The table is locked against everybody already.
///
/// # Safety
/// `relation` must be the relation being truncated.
unsafe fn truncate(relation: pg_sys::Relation, plan: &mut Plan) {
    // SAFETY: an ordinary scan. The latest snapshot, since in REPEATABLE READ the transaction's own may be older than the rows.
    unsafe {
        if (*(*relation).rd_rel).relkind != pg_sys::RELKIND_RELATION as std::ffi::c_char {
            return;
        }
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let scan = pg_sys::table_beginscan(relation, snapshot, 0, std::ptr::null_mut());
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let mut changes = Changes::new(plan, usize::MAX);
        while pg_sys::table_scan_getnextslot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
            pgrx::check_for_interrupts!();
            changes.evaluator.read(slot, &mut changes.old);
            changes.left();
        }
        changes.close();
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::table_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
    }
}

/// A transition table, read through a pointer of our own: other triggers of the statement read the same store.
struct Rows {
    store: *mut pg_sys::Tuplestorestate,
    slot: *mut pg_sys::TupleTableSlot,
    relation: pg_sys::Oid,
    count: usize,
}

impl Rows {
    /// # Safety
    /// `store` must be NULL or a transition table of `relation`.
    unsafe fn open(store: *mut pg_sys::Tuplestorestate, relation: pg_sys::Relation) -> Option<Self> {
        if store.is_null() {
            return None;
        }
        // SAFETY: see above; the slot has the relation's descriptor.
        unsafe {
            let pointer = pg_sys::tuplestore_alloc_read_pointer(store, EXEC_FLAG_REWIND);
            pg_sys::tuplestore_select_read_pointer(store, pointer);
            pg_sys::tuplestore_rescan(store);
            let slot = pg_sys::MakeSingleTupleTableSlot((*relation).rd_att, &pg_sys::TTSOpsMinimalTuple);
            let relation = (*relation).rd_id;
            Some(Rows { store, slot, relation, count: pg_sys::tuplestore_tuple_count(store) as usize })
        }
    }

    fn next(&self) -> bool {
        // SAFETY: the store lives as long as the statement. Our pointer stays selected, since only triggers of this statement can
        // read the store, one after the other.
        unsafe { pg_sys::tuplestore_gettupleslot(self.store, true, false, self.slot) }
    }

    fn close(self) {
        // SAFETY: made in `open`.
        unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) }
    }
}

/// Whether a packed list of keys contains a key.
#[pg_extern(immutable, strict, parallel_safe)]
fn op_has(keys: &[u8], key: &[u8]) -> bool {
    sync_shared::keys::contains(keys, key)
}

/// Turns row images into ops.
struct Changes<'p> {
    evaluator: Evaluator<'p>,
    entries: Vec<i32>,
    /// Opened with the first op: most statements on rows in no bucket never need it.
    writer: Option<Writer>,
    rows: usize,
    old: Image,
    new: Image,
}

impl<'p> Changes<'p> {
    fn new(plan: &'p mut Plan, rows: usize) -> Self {
        let entries = plan.definition.entries.iter().map(|e| e.id).collect();
        let mut evaluator = Evaluator::new(plan);
        let (old, new) = evaluator.images();
        Changes { evaluator, entries, writer: None, rows, old, new }
    }

    fn next_old(&mut self, rows: &Rows) -> bool {
        pgrx::check_for_interrupts!();
        let more = rows.next();
        if more {
            // SAFETY: the slot holds a row of the trigger's relation.
            unsafe { self.evaluator.read(rows.slot, &mut self.old) };
        }
        more
    }

    fn next_new(&mut self, rows: &Rows) -> bool {
        pgrx::check_for_interrupts!();
        let more = rows.next();
        if more {
            // SAFETY: the slot holds a row of the trigger's relation.
            unsafe { self.evaluator.read(rows.slot, &mut self.new) };
            if self.new.is_too_large {
                let key = sync_shared::row::decode(&self.new.key).unwrap_or_default();
                crate::verify::too_large(&crate::expr::relation_name(rows.relation), self.new.size(), &key);
            }
        }
        more
    }

    fn append(writer: &mut Option<Writer>, rows: usize, op: Op<'_>) {
        writer.get_or_insert_with(|| Writer::open(rows)).append(op);
    }

    fn entered(&mut self) {
        for (&entry, bucket) in self.entries.iter().zip(&self.new.buckets) {
            if let Some(bucket) = *bucket {
                let op = Op { bucket, entry, hash: self.new.hash.0, n: 1, changed: ALL_COLUMNS, key: &self.new.key };
                Self::append(&mut self.writer, self.rows, op);
            }
        }
    }

    fn left(&mut self) {
        for (&entry, bucket) in self.entries.iter().zip(&self.old.buckets) {
            if let Some(bucket) = *bucket {
                let op = Op {
                    bucket,
                    entry,
                    hash: 0i64.wrapping_sub(self.old.hash.0),
                    n: -1,
                    changed: ALL_COLUMNS,
                    key: &self.old.key,
                };
                Self::append(&mut self.writer, self.rows, op);
            }
        }
    }

    fn updated(&mut self) {
        if self.old.key != self.new.key || self.old.buckets != self.new.buckets {
            self.left();
            self.entered();
        } else if self.old.hash != self.new.hash {
            let changed = self.new.changed(&self.old, self.evaluator.columns());
            let hash = self.new.hash.0.wrapping_sub(self.old.hash.0);
            for (&entry, bucket) in self.entries.iter().zip(&self.new.buckets) {
                if let Some(bucket) = *bucket {
                    Self::append(&mut self.writer, self.rows, Op { bucket, entry, hash, n: 0, changed, key: &self.new.key });
                }
            }
        }
    }

    fn close(self) {
        if let Some(writer) = self.writer {
            writer.close();
        }
        self.evaluator.close(self.old, self.new);
    }
}
