//! The tables that members read, and whether somebody writes to them.
//!
//! A membership change is in no op: nothing is captured on tables that are only read by members. So their counters of written rows are
//! watched, which Postgres keeps anyway and writers report within a second or so (ten where they fall idle). It is a hint: what members
//! read inside functions, and the clock, it does not show.
#![allow(unsafe_code)]

use crate::error::{raise, spi};
use crate::identity::as_role;
use crate::query::Kept;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::ffi::CString;
use std::time::{Duration, Instant};

/// How long the list of tables is used: a view among them may be replaced.
const LIST_AGE: Duration = Duration::from_secs(60);

thread_local! {
    /// Of which generation of the schema the list is, since when, and the list.
    static LIST: RefCell<Option<(i64, Instant, Vec<pg_sys::Oid>)>> = const { RefCell::new(None) };
}

/// A number that is another one once the tables that members read were written to.
pub fn activity() -> i64 {
    let generation = crate::catalog::generation();
    let known = LIST.with(|list| {
        list.borrow().as_ref().filter(|(g, since, _)| *g == generation && since.elapsed() < LIST_AGE).map(|(_, _, l)| l.clone())
    });
    let list = known.unwrap_or_else(|| {
        let found =
            Spi::connect(|c| c.select(Kept("SELECT sync.members_read()"), Some(1), &[])?.first().get_one::<Vec<pg_sys::Oid>>());
        let list = spi("reading what members read", found).unwrap_or_default();
        LIST.with(|l| *l.borrow_mut() = Some((generation, Instant::now(), list.clone())));
        list
    });
    let found = Spi::connect(|c| c.select(Kept("SELECT sync.written($1)"), Some(1), &[list.into()])?.first().get_one::<i64>());
    spi("reading the counters of tables", found).unwrap_or(0)
}

/// The relations that a query reads, as far as the query itself says. It is parsed with the rights of `owner`, and not run.
#[pg_extern(stable, strict)]
fn relations_of(query: &str, owner: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let Ok(text) = CString::new(query) else { return Vec::new() };
    as_role(owner, || {
        Spi::connect(|_| {
            // SAFETY: SPI is connected; the plan and its source live until it is not any more, and the list is one of oids.
            unsafe {
                let plan = pg_sys::SPI_prepare(text.as_ptr(), 0, std::ptr::null_mut());
                if plan.is_null() {
                    raise(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "members cannot be prepared");
                }
                let source: *mut pg_sys::CachedPlanSource = pg_sys::list_nth(pg_sys::SPI_plan_get_plan_sources(plan), 0).cast();
                let list = (*source).relationOids;
                let length = if list.is_null() { 0 } else { (*list).length };
                (0..length).map(|at| pg_sys::list_nth_oid(list, at)).collect()
            }
        })
    })
}
