//! Read-only queries whose rows are rendered straight from their datums, in the snapshot that is active.
#![allow(unsafe_code)]

use crate::error::raise;
use crate::render::Renderer;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiClient, SpiCursor, SpiResult, SpiTupleTable};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;

thread_local! {
    /// Plans of [`Kept`] SQL and of [`Query::kept`]. Never freed: a pull within a pull may be using them. Postgres itself plans
    /// anew what a changed catalog, search_path or role asks for.
    static KEPT: RefCell<HashMap<&'static str, &'static OwnedPreparedStatement>> = RefCell::new(HashMap::new());
    static PLANS: RefCell<HashMap<(String, Vec<pg_sys::Oid>), pg_sys::SPIPlanPtr>> = RefCell::new(HashMap::new());
}

/// Plans of queries made from rules that a backend keeps.
const PLANS_KEPT: usize = 1_000;

/// SQL of our own whose plan stays for the life of the backend: planning it costs more than running it.
pub struct Kept(pub &'static str);

impl<'conn> pgrx::spi::Query<'conn> for Kept {
    fn execute<'mcx>(
        self,
        client: &SpiClient<'conn>,
        limit: Option<std::ffi::c_long>,
        arguments: &[DatumWithOid<'mcx>],
    ) -> SpiResult<SpiTupleTable<'conn>> {
        self.plan(client, arguments)?.execute(client, limit, arguments)
    }

    fn try_open_cursor<'mcx>(self, client: &SpiClient<'conn>, arguments: &[DatumWithOid<'mcx>]) -> SpiResult<SpiCursor<'conn>> {
        self.plan(client, arguments)?.try_open_cursor(client, arguments)
    }
}

impl Kept {
    fn plan(&self, client: &SpiClient<'_>, arguments: &[DatumWithOid<'_>]) -> SpiResult<&'static OwnedPreparedStatement> {
        if let Some(plan) = KEPT.with(|kept| kept.borrow().get(self.0).copied()) {
            return Ok(plan);
        }
        let types: Vec<pg_sys::PgOid> = arguments.iter().map(|a| pg_sys::PgOid::from(a.oid())).collect();
        let plan: &'static OwnedPreparedStatement = Box::leak(Box::new(client.prepare(self.0, &types)?.keep()));
        KEPT.with(|kept| kept.borrow_mut().insert(self.0, plan));
        Ok(plan)
    }
}

/// Rows fetched from the portal at once.
const FETCH: i64 = 256;

/// A prepared query; lives until the surrounding SPI connection ends.
pub struct Query {
    plan: pg_sys::SPIPlanPtr,
    /// A renderer for each column of the result.
    renderers: Vec<Renderer>,
}

/// One row of a result.
pub struct Row<'a> {
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
    renderers: &'a mut [Renderer],
}

impl Row<'_> {
    pub fn is_null(&self, column: usize) -> bool {
        self.nulls[column]
    }

    /// A column's datum, which lives until the next row; None for NULL.
    pub fn datum(&self, column: usize) -> Option<pg_sys::Datum> {
        (!self.nulls[column]).then(|| self.values[column])
    }

    /// Appends a column's wire value.
    pub fn put(&mut self, column: usize, out: &mut Vec<u8>) {
        // SAFETY: the renderer was made for this column's type.
        unsafe { self.renderers[column].put(out, self.values[column], self.nulls[column]) }
    }

    /// A boolean column that is not NULL and true.
    pub fn is_true(&self, column: usize) -> bool {
        !self.nulls[column] && self.values[column].value() as u8 != 0
    }

    /// A bigint column; 0 for NULL.
    pub fn integer(&self, column: usize) -> i64 {
        if self.nulls[column] {
            0
        } else {
            self.values[column].value() as i64
        }
    }
}

/// An argument: a datum, or NULL, of a type.
pub type Argument = (pg_sys::Oid, Option<pg_sys::Datum>);

/// Makes arguments.
pub fn argument<T: IntoDatum>(value: Option<T>) -> Argument {
    (T::type_oid(), value.and_then(IntoDatum::into_datum))
}

impl Query {
    /// Prepares within an SPI connection. `what` is said in errors.
    pub fn prepare(what: &str, sql: &str, types: &[pg_sys::Oid]) -> Self {
        Query::planned(what, sql, types, 0)
    }

    /// The same, with a plan that the backend keeps for the next time.
    pub fn kept(what: &str, sql: &str, types: &[pg_sys::Oid]) -> Self {
        Query::keep(what, sql, types, 0)
    }

    /// The same for a query of which only the first rows may be read: a plan that need not sort everything first.
    pub fn kept_first(what: &str, sql: &str, types: &[pg_sys::Oid]) -> Self {
        Query::keep(what, sql, types, pg_sys::CURSOR_OPT_FAST_PLAN as i32)
    }

    fn keep(what: &str, sql: &str, types: &[pg_sys::Oid], options: i32) -> Self {
        let name = (sql.to_owned(), types.to_vec());
        if let Some(plan) = PLANS.with(|plans| plans.borrow().get(&name).copied()) {
            return Query { plan, renderers: Vec::new() };
        }
        let query = Query::planned(what, sql, types, options);
        if PLANS.with(|plans| plans.borrow().len()) < PLANS_KEPT {
            // SAFETY: a plan of this SPI connection, which from now on outlives it.
            unsafe { pg_sys::SPI_keepplan(query.plan) };
            PLANS.with(|plans| plans.borrow_mut().insert(name, query.plan));
        }
        query
    }

    fn planned(what: &str, sql: &str, types: &[pg_sys::Oid], options: i32) -> Self {
        let Ok(text) = CString::new(sql) else { error!("{what}: the query contains NUL") };
        let mut types = types.to_vec();
        // SAFETY: SPI is connected; the plan is freed with the connection. The plan's result descriptor gives the types.
        unsafe {
            let plan = pg_sys::SPI_prepare_cursor(text.as_ptr(), types.len() as i32, types.as_mut_ptr(), options);
            if plan.is_null() {
                raise(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("{what}: cannot be prepared"));
            }
            let source: *mut pg_sys::CachedPlanSource = pg_sys::list_nth(pg_sys::SPI_plan_get_plan_sources(plan), 0).cast();
            let mut query = Query { plan, renderers: Vec::new() };
            query.render((*source).resultDesc);
            query
        }
    }

    /// Renderers for the columns of a result, unless they are those already.
    ///
    /// # Safety
    /// `descriptor` must be NULL or a valid one.
    unsafe fn render(&mut self, descriptor: pg_sys::TupleDesc) {
        // SAFETY: see above.
        unsafe {
            let columns = if descriptor.is_null() { 0 } else { (*descriptor).natts as usize };
            let types: Vec<pg_sys::Oid> = (0..columns).map(|i| pg_sys::SPI_gettypeid(descriptor, i as i32 + 1)).collect();
            if !types.iter().copied().eq(self.renderers.iter().map(Renderer::type_oid)) {
                self.renderers = types.into_iter().map(Renderer::new).collect();
            }
        }
    }

    /// Number of columns of the result.
    pub fn columns(&self) -> usize {
        self.renderers.len()
    }

    /// Runs and hands every row to `f` until it answers false. Answers whether all rows were seen.
    pub fn each(&mut self, arguments: &[Argument], mut f: impl FnMut(Row<'_>) -> bool) -> bool {
        let mut values: Vec<pg_sys::Datum> = arguments.iter().map(|(_, d)| d.unwrap_or(pg_sys::Datum::null())).collect();
        let nulls: Vec<std::ffi::c_char> =
            arguments.iter().map(|(_, d)| if d.is_some() { b' ' } else { b'n' } as std::ffi::c_char).collect();
        // SAFETY: the arguments have the prepared types. Tuples are read before their table is freed; what rendering allocates
        // goes to a context that is reset with every fetch.
        unsafe {
            let portal = pg_sys::SPI_cursor_open(std::ptr::null(), self.plan, values.as_mut_ptr(), nulls.as_ptr(), true);
            // A kept plan may have been made anew, for other types.
            self.render((*portal).tupDesc);
            let scratch =
                pg_sys::AllocSetContextCreateExtended(pg_sys::CurrentMemoryContext, c"sync row".as_ptr(), 0, 8192, 8 << 20);
            let mut go_on = true;
            let mut datums = Vec::new();
            let mut absent = Vec::new();
            while go_on {
                pgrx::check_for_interrupts!();
                pg_sys::SPI_cursor_fetch(portal, true, FETCH);
                let table = pg_sys::SPI_tuptable;
                let count = pg_sys::SPI_processed as usize;
                if count == 0 {
                    pg_sys::SPI_freetuptable(table);
                    break;
                }
                let descriptor = (*table).tupdesc;
                let natts = (*descriptor).natts as usize;
                datums.resize(natts, pg_sys::Datum::null());
                absent.resize(natts, true);
                let outer = pg_sys::MemoryContextSwitchTo(scratch);
                for i in 0..count {
                    let tuple = *(*table).vals.add(i);
                    pg_sys::heap_deform_tuple(tuple, descriptor, datums.as_mut_ptr(), absent.as_mut_ptr());
                    go_on = f(Row { values: &datums, nulls: &absent, renderers: &mut self.renderers });
                    if !go_on {
                        break;
                    }
                }
                pg_sys::MemoryContextSwitchTo(outer);
                pg_sys::MemoryContextReset(scratch);
                pg_sys::SPI_freetuptable(table);
            }
            pg_sys::SPI_cursor_close(portal);
            pg_sys::MemoryContextDelete(scratch);
            go_on
        }
    }
}

/// How SQL names the operator of a type's default B-tree order: `=` is strategy 3, `>` 5.
pub fn operator(type_oid: pg_sys::Oid, name: &str) -> String {
    // SAFETY: look-ups by OID; the type cache's entry lives as long as the backend.
    unsafe {
        let base = pg_sys::getBaseType(type_oid);
        let entry = &*pg_sys::lookup_type_cache(base, (pg_sys::TYPECACHE_EQ_OPR | pg_sys::TYPECACHE_GT_OPR) as i32);
        let oid = if name == "=" { entry.eq_opr } else { entry.gt_opr };
        let procedure = pg_sys::get_opcode(oid);
        if procedure == pg_sys::InvalidOid {
            raise(
                PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
                format!("type {} has no order, so it cannot be part of a key", crate::render::type_name(type_oid)),
            );
        }
        let schema = pg_sys::get_namespace_name(pg_sys::get_func_namespace(procedure));
        format!("OPERATOR({}.{name})", crate::expr::quote(&std::ffi::CStr::from_ptr(schema).to_string_lossy()))
    }
}
