//! The tables that members read, and whether somebody writes to them.
//!
//! A membership change is in no op: nothing is captured on tables that are only read by members. So their counters of written rows are
//! watched, which Postgres keeps anyway and writers report within a second or so (ten where they fall idle). It is a hint: what members
//! read inside functions, and the clock, it does not show. A table that somebody keeps locked is not in the list, if it was in none
//! before, until the lock can be had; then members may have changed.
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
/// The same of a list that could not be made whole, because somebody held a lock.
const PART_AGE: Duration = Duration::from_secs(2);

/// The tables that members read.
#[derive(Clone)]
struct List {
    /// Of the schema.
    generation: i64,
    until: Instant,
    tables: Vec<pg_sys::Oid>,
}

thread_local! {
    static LIST: RefCell<Option<List>> = const { RefCell::new(None) };
}

/// A number that is another one once the tables that members read were written to, and once their list is another one.
pub fn activity() -> i64 {
    let generation = crate::catalog::generation();
    let last = LIST.with(|list| list.borrow().clone()).filter(|list| list.generation == generation);
    let list = match last {
        Some(list) if Instant::now() < list.until => list,
        last => read(generation, last),
    };
    let counted = Kept("SELECT sync.written($1)");
    let found = Spi::connect(|c| c.select(counted, Some(1), &[list.tables.into()])?.first().get_one::<i64>());
    spi("reading the counters of tables", found).unwrap_or(0)
}

/// The list anew. What a lock hides is taken from the last list, and looked for again soon.
fn read(generation: i64, last: Option<List>) -> List {
    let sql = Kept("SELECT relations, complete FROM sync.members_read()");
    let found = Spi::connect(|c| {
        let row = c.select(sql, Some(1), &[])?.first();
        Ok::<_, pgrx::spi::Error>((row.get::<Vec<pg_sys::Oid>>(1)?.unwrap_or_default(), row.get::<bool>(2)?))
    });
    let (mut tables, complete) = spi("reading what members read", found);
    let mut age = LIST_AGE;
    if complete != Some(true) {
        age = PART_AGE;
        for table in last.map(|list| list.tables).unwrap_or_default() {
            if !tables.contains(&table) {
                tables.push(table);
            }
        }
    }
    let list = List { generation, until: Instant::now() + age, tables };
    LIST.with(|l| *l.borrow_mut() = Some(list.clone()));
    list
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
