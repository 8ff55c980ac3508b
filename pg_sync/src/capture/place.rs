//! Where the log is: `sync.op` and its indexes, remembered from statement to statement until Postgres says that one of them changes.
#![allow(unsafe_code)]

use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

thread_local! {
    static PLACE: RefCell<Option<Rc<Place>>> = const { RefCell::new(None) };
    /// Set by Postgres.
    static CHANGED: Cell<bool> = const { Cell::new(false) };
    static LISTENS: Cell<bool> = const { Cell::new(false) };
}

struct Place {
    log: pg_sys::Oid,
    indexes: Vec<Index>,
    /// Holds what the indexes' descriptions point to.
    memory: pg_sys::MemoryContext,
}

#[derive(Clone, Copy)]
struct Index {
    oid: pg_sys::Oid,
    /// Of a B-tree, which keeps nothing in it.
    info: Option<*mut pg_sys::IndexInfo>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: whoever uses the descriptions holds the place.
        unsafe { pg_sys::MemoryContextDelete(self.memory) }
    }
}

/// The log and its indexes, opened and locked for writing.
pub struct Log {
    pub relation: pg_sys::Relation,
    pub indexes: Vec<(pg_sys::Relation, *mut pg_sys::IndexInfo)>,
    _place: Rc<Place>,
}

impl Log {
    /// Closes them; the locks stay until the transaction ends.
    pub fn close(self) {
        // SAFETY: opened in `open`.
        unsafe {
            for (index, _) in self.indexes {
                pg_sys::index_close(index, pg_sys::NoLock as i32);
            }
            pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
        }
    }
}

/// Opens the log and its indexes.
pub fn open() -> Log {
    if !LISTENS.replace(true) {
        // SAFETY: a function that lives as long as the library, which is never unloaded.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(changed), pg_sys::Datum::from(0)) };
    }
    // SAFETY: plain use of the relation cache; the relations are closed by the caller, or by the transaction's abort.
    unsafe {
        let lock = pg_sys::RowExclusiveLock as i32;
        let remembered = || PLACE.with_borrow(|place| place.clone()).filter(|_| !CHANGED.get());
        let oid = remembered().map_or_else(log_oid, |place| place.log);
        let relation = pg_sys::table_open(oid, lock);
        // Locking it made this backend hear of all that has changed before.
        let place = remembered().filter(|place| place.log == oid).unwrap_or_else(|| {
            CHANGED.set(false);
            let place = Rc::new(look(relation));
            PLACE.set(Some(place.clone()));
            place
        });
        let open = |index: &Index| {
            let relation = pg_sys::index_open(index.oid, lock);
            (relation, index.info.unwrap_or_else(|| pg_sys::BuildIndexInfo(relation)))
        };
        Log { relation, indexes: place.indexes.iter().map(open).collect(), _place: place }
    }
}

fn log_oid() -> pg_sys::Oid {
    // SAFETY: look-ups by name.
    unsafe { pg_sys::get_relname_relid(c"op".as_ptr(), pg_sys::get_namespace_oid(c"sync".as_ptr(), false)) }
}

/// # Safety
/// `log` must be open and locked.
unsafe fn look(log: pg_sys::Relation) -> Place {
    // SAFETY: what is built here is allocated in a context of the place's own.
    unsafe {
        let memory = pg_sys::AllocSetContextCreateExtended(pg_sys::TopMemoryContext, c"sync log".as_ptr(), 0, 1024, 8 << 20);
        let outer = pg_sys::MemoryContextSwitchTo(memory);
        let list = pg_sys::RelationGetIndexList(log);
        let count = if list.is_null() { 0 } else { (*list).length };
        let index = |i| {
            let oid = pg_sys::list_nth_oid(list, i);
            let relation = pg_sys::index_open(oid, pg_sys::RowExclusiveLock as i32);
            let info = pg_sys::BuildIndexInfo(relation);
            if !(*info).ii_Expressions.is_null() || !(*info).ii_Predicate.is_null() {
                error!("sync.op has an index over expressions or a part of its rows, which capture cannot fill: drop it");
            }
            let is_btree = (*(*relation).rd_rel).relam == pg_sys::BTREE_AM_OID;
            pg_sys::index_close(relation, pg_sys::NoLock as i32);
            Index { oid, info: is_btree.then_some(info) }
        };
        let indexes = (0..count).map(index).collect();
        pg_sys::MemoryContextSwitchTo(outer);
        Place { log: (*log).rd_id, indexes, memory }
    }
}

/// Called by Postgres where a relation has changed; no relation: where any may have.
///
/// # Safety
/// Called by Postgres, at any time.
#[pg_guard]
unsafe extern "C-unwind" fn changed(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let concerns = PLACE.try_with(|place| match place.try_borrow() {
        Ok(place) => place.as_ref().is_some_and(|p| p.log == relation || p.indexes.iter().any(|i| i.oid == relation)),
        Err(_) => true,
    });
    if relation == pg_sys::InvalidOid || concerns.unwrap_or(true) {
        CHANGED.set(true);
    }
}
