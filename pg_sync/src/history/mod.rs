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
use crate::expr::{quote, relation_name};
use crate::identity;
use crate::push::note;
use crate::query::Query;
use crate::render::pinned;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use serde::Deserialize;
use std::ffi::CStr;
use sync_shared::{row, Value};

/// Versions that are written at once.
const CHUNK: usize = 1000;

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
        let image =
            |from: &str| format!("(SELECT {} AS key, pg_catalog.to_jsonb(r)::text AS image FROM {from} AS r OFFSET 0)", key("r"));
        let hash = |image: &str| format!("coalesce(pg_catalog.hashtextextended({image}, 0) | 1, 0)");
        let columns = |old: &str, new: &str| format!("{old}, {}, {}", hash(old), hash(new));
        let none = "NULL::text";
        let sql = match (*trigger).tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => {
                format!("SELECT n.key::text, {} FROM {} AS n", columns(none, "n.image"), image("sync_new"))
            }
            pg_sys::TRIGGER_EVENT_DELETE => {
                format!("SELECT o.key::text, {} FROM {} AS o", columns("o.image", none), image("sync_old"))
            }
            pg_sys::TRIGGER_EVENT_UPDATE => format!(
                "SELECT coalesce(o.key, n.key)::text, {} FROM {} AS o FULL JOIN {} AS n ON o.key = n.key
                 WHERE o.image IS DISTINCT FROM n.image",
                columns("o.image", "n.image"),
                image("sync_old"),
                image("sync_new")
            ),
            // A partitioned table has no rows of its own; TRUNCATE names its partitions too.
            _ if form.relkind != pg_sys::RELKIND_RELATION as std::ffi::c_char => return,
            _ => format!(
                "SELECT o.key::text, {} FROM {} AS o",
                columns("o.image", none),
                image(&format!("ONLY {}", relation_name((*relation).rd_id)))
            ),
        };
        let (table, owner) = (form.relowner, sync_owner());
        let mut writer = Writer { owner, root: definition.root.into(), user: identity::writing_user(), rows: Vec::new() };
        pinned(|| {
            Spi::connect(|_| {
                pg_sys::SPI_register_trigger_data(trigger);
                identity::as_role(table, || read(&sql, &mut writer));
            });
            writer.flush();
        });
    }
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

fn read(sql: &str, writer: &mut Writer) {
    let mut bytes = Vec::new();
    Query::prepare("sync.keep_version()", sql, &[]).each(&[], |mut found| {
        bytes.clear();
        (0..4).for_each(|i| found.put(i, &mut bytes));
        let values = row::decode(&bytes).unwrap_or_else(|e| error!("sync.keep_version(): {e}"));
        writer.rows.push(values);
        if writer.rows.len() == CHUNK {
            writer.flush();
        }
        true
    });
}

/// Collects versions of one statement: key, image, and the hashes before and after.
struct Writer {
    owner: Oid,
    root: Oid,
    user: String,
    rows: Vec<Vec<Value>>,
}

impl Writer {
    fn flush(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return;
        }
        let text = |i: usize| -> Vec<Option<String>> {
            let of = |row: &Vec<Value>| if let Value::Text(t) = &row[i] { Some(t.clone()) } else { None };
            rows.iter().map(of).collect()
        };
        let hash = |i: usize| -> Vec<i64> {
            let of = |row: &Vec<Value>| if let Value::Integer(h) = row[i] { h } else { 0 };
            rows.iter().map(of).collect()
        };
        let (device, number) = note::current().unzip();
        let arguments = [
            self.root.into(),
            text(0).into(),
            text(1).into(),
            hash(2).into(),
            hash(3).into(),
            self.user.as_str().into(),
            device.map(|d| pgrx::Uuid::from_bytes(*d.as_bytes())).into(),
            number.into(),
        ];
        let sql = "INSERT INTO sync.version (relid, key, before, before_hash, after_hash, xid, at, user_id, device, number)
             SELECT $1, v.key::jsonb, v.before::jsonb, v.before_hash, v.after_hash, pg_current_xact_id(), clock_timestamp(), $6, $7, $8
             FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[]) AS v (key, before, before_hash, after_hash)";
        identity::as_owner(self.owner, || spi("keeping a version", Spi::run_with_args(sql, &arguments)));
    }
}
