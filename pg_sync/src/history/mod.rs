//! What rows were before each change: statement triggers that write to `sync.version`, and ways back.
//!
//! Rows become JSON with the rights of the table's owner, who may have defined their types and casts; what comes out is written with
//! those of the owner of the schema `sync`.
//!
//! # Layout
//! - this file: the trigger
//! - [`restore`]: `sync.restore_row`, `sync.restore_batch`
#![allow(unsafe_code)]

mod restore;

use crate::error::spi;
use crate::expr::quote;
use crate::identity;
use crate::push::note;
use crate::query::{Kept, Query};
use crate::render::pinned;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use serde::Deserialize;
use std::ffi::CStr;

/// Versions that are written at once.
const CHUNK: i64 = 1000;

/// The trigger's argument, made by `sync.history_definition`.
#[derive(Deserialize)]
struct Definition {
    home: String,
    /// The table that has the history: the relation itself, or the one that it is a partition of.
    root: u32,
    /// Names of the primary key's columns, in key order.
    key: Vec<String>,
}

/// Postgres asks for this beside the function.
#[no_mangle]
pub extern "C" fn pg_finfo_sync_keep_version() -> *const pg_sys::Pg_finfo_record {
    static RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}

/// The trigger function.
///
/// # Safety
/// Called by Postgres with its calling convention.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn sync_keep_version(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the context is checked to be a trigger's before it is read as one.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            error!("sync.keep_version() can only be called as a trigger");
        }
        let trigger: *mut pg_sys::TriggerData = context.cast();
        let made = &*(*trigger).tg_trigger;
        if made.tgnargs != 1 {
            error!("sync.keep_version() needs its definition: triggers are made by sync.keep_history");
        }
        let source = CStr::from_ptr(*made.tgargs).to_string_lossy();
        let definition: Definition = serde_json::from_str(&source)
            .unwrap_or_else(|e| error!("sync.keep_version(): the trigger's definition is damaged: {e}"));
        // One that came with a dump does nothing until keep_history has made it anew.
        if definition.home == crate::snapshot::home() {
            statement(trigger, &definition);
        }
    }
    pg_sys::Datum::from(0)
}

/// # Safety
/// `trigger` must be the running trigger's data.
unsafe fn statement(trigger: *mut pg_sys::TriggerData, definition: &Definition) {
    // SAFETY: which transition tables exist follows from the event, as CREATE TRIGGER in sql/10_history.sql declares them. They
    // are registered with the SPI connection that reads them.
    unsafe {
        let relation = (*trigger).tg_relation;
        let form = &*(*relation).rd_rel;
        let key = |row: &str| {
            let pairs: Vec<String> =
                definition.key.iter().map(|c| format!("{}, {row}.{}", pgrx::spi::quote_literal(c), quote(c))).collect();
            format!("pg_catalog.jsonb_build_object({})", pairs.join(", "))
        };
        // The order of one row's versions is told by hashes of the row's text: see sql/10_history.sql.
        let rows = |name: &str, from: &str| {
            format!("(SELECT {} AS key, r::text AS line, r AS row FROM {from} AS r OFFSET 0) AS {name}", key("r"))
        };
        let hash = |line: &str| format!("coalesce(hashtextextended({line}, 0) | 1, 0)");
        let versions = |key: &str, before: &str, hashes: [String; 2], from: String| {
            format!(
                "SELECT {key} AS key, {before} AS before, {} AS before_hash, {} AS after_hash FROM {from}",
                hashes[0], hashes[1]
            )
        };
        let none = || "0::int8".to_owned();
        let gone = |from: &str| versions("o.key", "to_jsonb(o.row)", [hash("o.line"), none()], rows("o", from));
        let sql = match (*trigger).tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => versions("n.key", "NULL::jsonb", [none(), hash("n.line")], rows("n", "sync_new")),
            pg_sys::TRIGGER_EVENT_DELETE => gone("sync_old"),
            pg_sys::TRIGGER_EVENT_UPDATE => versions(
                "coalesce(o.key, n.key)",
                "CASE WHEN o.key IS NOT NULL THEN to_jsonb(o.row) END",
                [hash("o.line"), hash("n.line")],
                format!(
                    "{} FULL JOIN {} ON o.key = n.key WHERE o.line IS DISTINCT FROM n.line",
                    rows("o", "sync_old"),
                    rows("n", "sync_new")
                ),
            ),
            // A partitioned table has no rows of its own; TRUNCATE names its partitions too.
            _ if form.relkind != pg_sys::RELKIND_RELATION as std::ffi::c_char => return,
            _ => gone("sync_old"),
        };
        let count = |store: *mut pg_sys::Tuplestorestate| match store.is_null() {
            true => i64::MAX,
            false => pg_sys::tuplestore_tuple_count(store),
        };
        let few = count((*trigger).tg_oldtable).min(count((*trigger).tg_newtable)) <= CHUNK;
        // A kept plan belongs to one relation: over another one's transition tables it would read wrong columns.
        let sql = format!("/* {} */ {}", (*relation).rd_id.to_u32(), in_arrays(&sql, few));
        let writer = Writer { owner: sync_owner(), root: definition.root.into(), user: identity::writing_user() };
        pinned(|| {
            Spi::connect(|_| {
                if pg_sys::TRIGGER_EVENT_TRUNCATE == (*trigger).tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
                    register_rows(relation);
                } else {
                    pg_sys::SPI_register_trigger_data(trigger);
                }
                identity::as_role(form.relowner, || {
                    Query::kept("sync.keep_version()", &sql, &[]).each(&[], |found| {
                        writer.write([0, 1, 2, 3].map(|column| found.datum(column)));
                        true
                    })
                })
            });
        });
    }
}

/// TRUNCATE has no transition table: one is made of the rows before they go. A query of the owner's would not read all of them under
/// FORCE ROW LEVEL SECURITY. The table is locked against everybody already.
///
/// # Safety
/// `relation` must be the relation being truncated, and SPI connected: what is made here goes with the connection.
unsafe fn register_rows(relation: pg_sys::Relation) {
    // SAFETY: an ordinary scan. The latest snapshot, since in REPEATABLE READ the transaction's own may be older than the rows.
    unsafe {
        let store = pg_sys::tuplestore_begin_heap(false, false, pg_sys::work_mem);
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let scan = pg_sys::table_beginscan(relation, snapshot, 0, std::ptr::null_mut());
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        while pg_sys::table_scan_getnextslot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
            pgrx::check_for_interrupts!();
            pg_sys::tuplestore_puttupleslot(store, slot);
        }
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::table_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        let size = std::mem::size_of::<pg_sys::EphemeralNamedRelationData>();
        let rows: pg_sys::EphemeralNamedRelation = pg_sys::palloc0(size).cast();
        (*rows).md.name = pg_sys::pstrdup(c"sync_old".as_ptr());
        (*rows).md.reliddesc = (*relation).rd_id;
        (*rows).md.enrtype = pg_sys::EphemeralNameRelationType::ENR_NAMED_TUPLESTORE;
        (*rows).md.enrtuples = pg_sys::tuplestore_tuple_count(store) as f64;
        (*rows).reldata = store.cast();
        pg_sys::SPI_register_relation(rows);
    }
}

/// The same with each column as an array: one row for all versions, or for some of many.
fn in_arrays(versions: &str, few: bool) -> String {
    let arrays = "SELECT array_agg(v.key), array_agg(v.before), array_agg(v.before_hash), array_agg(v.after_hash) FROM";
    if few {
        return format!("{arrays} ({versions}) AS v");
    }
    format!("{arrays} (SELECT i.*, row_number() OVER () / {CHUNK} AS chunk FROM ({versions}) AS i) AS v GROUP BY v.chunk")
}

/// The owner of the schema `sync`, from the catalog's cache: this runs for every statement.
///
/// # Safety
/// None beyond a running transaction.
unsafe fn sync_owner() -> Oid {
    // SAFETY: look-ups in the system cache; the tuple is released.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"sync".as_ptr(), false);
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::NAMESPACEOID as i32, pg_sys::Datum::from(schema));
        if tuple.is_null() {
            error!("the schema sync is gone");
        }
        let form: pg_sys::Form_pg_namespace = pg_sys::GETSTRUCT(tuple).cast();
        let owner = (*form).nspowner;
        pg_sys::ReleaseSysCache(tuple);
        owner
    }
}

/// Writes versions of one statement.
struct Writer {
    owner: Oid,
    root: Oid,
    user: String,
}

impl Writer {
    /// Arrays of keys, images, and the hashes before and after; NULL where there is nothing.
    fn write(&self, arrays: [Option<pg_sys::Datum>; 4]) {
        let [Some(keys), Some(images), Some(before), Some(after)] = arrays else { return };
        let (device, number) = note::current().unzip();
        // SAFETY: the query that made the arrays gives them these types.
        let array = |datum, type_oid| unsafe { DatumWithOid::new(datum, type_oid) };
        let arguments = [
            self.root.into(),
            array(keys, pg_sys::JSONBARRAYOID),
            array(images, pg_sys::JSONBARRAYOID),
            array(before, pg_sys::INT8ARRAYOID),
            array(after, pg_sys::INT8ARRAYOID),
            self.user.as_str().into(),
            device.map(|d| pgrx::Uuid::from_bytes(*d.as_bytes())).into(),
            number.into(),
        ];
        let sql = "INSERT INTO sync.version (relid, key, before, before_hash, after_hash, xid, at, user_id, device, number)
             SELECT $1, v.key, v.before, v.before_hash, v.after_hash, pg_current_xact_id(), clock_timestamp(), $6, $7, $8
             FROM unnest($2, $3, $4, $5) AS v (key, before, before_hash, after_hash)";
        let insert = || Spi::connect_mut(|c| c.update(Kept(sql), None, &arguments).map(|_| ()));
        identity::as_owner(self.owner, || spi("keeping a version", insert()));
    }
}
