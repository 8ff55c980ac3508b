//! pg_sync: the Postgres half. `CREATE EXTENSION pg_sync` runs the files in `sql/`; this crate holds what they call.
//!
//! # Layout
//! - [`rules`], [`expr`]: create_bucket, add_table, and the expressions they are given; [`modes`]: what devices may do with a table
//! - [`capture`]: triggers -> op log
//! - [`render`], [`calendar`]: Postgres values <-> wire values, the same for capture, pull and push
//! - [`identity`]: who asks; [`auth`]: tokens that prove it; [`query`]: reading rows; [`quick`]: maps
//! - [`snapshot`], [`lineage`], [`wal`]: what a cursor is made of, and whether it belongs to this history
//! - [`access`]: who gets which rows, for people who ask
//! - [`pull`]: op log and tables -> delta
//! - [`push`]: batches -> tables
//! - [`history`]: what rows were, and making them so again
//! - [`live`]: what changed since, for transports that tell devices when to ask
//! - [`worker`]: the background worker, which maintains, and wakes those who listen; [`settings`]: what else can be set
//! - [`version`]: whether library and SQL belong together
//!
//! Bytes from a client go decode -> decide -> write; every message type is in `sync_shared::message`.
#![deny(unsafe_code)]

use pgrx::prelude::*;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

mod access;
mod auth;
mod calendar;
mod capture;
mod catalog;
mod error;
mod expr;
mod history;
mod identity;
mod lineage;
mod live;
mod modes;
mod pull;
mod push;
mod query;
mod quick;
mod render;
mod rules;
mod settings;
mod snapshot;
mod verify;
mod version;
mod wal;
mod worker;

::pgrx::pg_module_magic!(name, version);

/// On while the extension changes its own triggers, which its event triggers then leave alone.
static IN_DDL: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Runs when a backend loads the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    GucRegistry::define_bool_guc(
        c"sync.in_ddl",
        c"On while pg_sync changes its own triggers.",
        c"Set by pg_sync itself; only a superuser can, since it hides changes from it.",
        &IN_DDL,
        GucContext::Suset,
        GucFlags::NO_SHOW_ALL,
    );
    settings::init();
    worker::init();
}
