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
use sync_shared::hash::BucketId;

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

/// Rows after which what rendering them has allocated is freed.
const ROWS: usize = 256;

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

    /// About how many bytes a column's value is, without fetching what is stored beside its row.
    pub fn size(&self, column: usize) -> usize {
        // SAFETY: the renderer was made for this column's type.
        self.datum(column).map_or(1, |datum| unsafe { self.renderers[column].size(datum) })
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

/// An argument of type uuid[], copied at once.
pub fn ids<'i>(ids: impl Iterator<Item = &'i BucketId>) -> Argument {
    let mut elements: Vec<pg_sys::Datum> = ids.map(|id| pg_sys::Datum::from(id.0.as_ptr())).collect();
    // SAFETY: each element points to the 16 bytes of a uuid, which are aligned to bytes and passed by reference.
    let array = unsafe {
        let alignment = b'c' as std::ffi::c_char;
        pg_sys::construct_array(elements.as_mut_ptr(), elements.len() as i32, pg_sys::UUIDOID, 16, false, alignment)
    };
    (pg_sys::UUIDARRAYOID, Some(pg_sys::Datum::from(array)))
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
    ///
    /// Rows go from the executor's slot to `f` without a copy in between.
    /// `f` must not run or prepare queries but in an SPI connection of its own (`Spi::connect`): the end of another in the same one frees
    /// the memory of this one.
    pub fn each(&mut self, arguments: &[Argument], mut f: impl FnMut(Row<'_>) -> bool) -> bool {
        let source = self.source();
        // SAFETY: the arguments have the prepared types. The receiver lives on this frame until the query has ended, and on an ERROR
        // nobody asks for it any more; what rendering allocates goes to a context of its own.
        unsafe {
            let outer = pg_sys::CurrentMemoryContext;
            let scratch = pg_sys::AllocSetContextCreateExtended(outer, c"sync row".as_ptr(), 0, 8192, 8 << 20);
            let plan = self.plan;
            let mut receiver = Receiver { head: HEAD, query: self, f: &mut f, outer, scratch, rows: 0, stopped: false };
            let options = pg_sys::SPIExecuteOptions {
                params: parameters(source, arguments),
                read_only: true,
                dest: (&raw mut receiver).cast(),
                ..Default::default()
            };
            let status = pg_sys::SPI_execute_plan_extended(plan, &options);
            if status < 0 {
                error!("a query could not be run: {status}");
            }
            let stopped = receiver.stopped;
            pg_sys::MemoryContextDelete(scratch);
            !stopped
        }
    }

    /// The only statement of the plan.
    fn source(&self) -> *mut pg_sys::CachedPlanSource {
        // SAFETY: a plan has at least one, which lives as long as the plan.
        unsafe { pg_sys::list_nth(pg_sys::SPI_plan_get_plan_sources(self.plan), 0).cast() }
    }
}

/// Where the executor sends rows. Postgres knows the first field only.
#[repr(C)]
struct Receiver<'q> {
    head: pg_sys::DestReceiver,
    query: &'q mut Query,
    f: &'q mut dyn FnMut(Row<'_>) -> bool,
    /// The caller's, which lives as long as the query's renderers are used.
    outer: pg_sys::MemoryContext,
    scratch: pg_sys::MemoryContext,
    rows: usize,
    stopped: bool,
}

/// Any destination but those that SPI treats in a way of its own.
const HEAD: pg_sys::DestReceiver = pg_sys::DestReceiver {
    receiveSlot: Some(receive),
    rStartup: Some(start),
    rShutdown: Some(ignore),
    rDestroy: Some(ignore),
    mydest: pg_sys::CommandDest::DestTuplestore,
};

/// # Safety
/// Called by the executor with a receiver that `Query::each` made.
#[pg_guard]
unsafe extern "C-unwind" fn start(
    receiver: *mut pg_sys::DestReceiver,
    _operation: std::ffi::c_int,
    descriptor: pg_sys::TupleDesc,
) {
    // SAFETY: see above. A kept plan may have been made anew, for other types. The executor's memory, current here, ends with this run
    // of the query; its renderers serve the next ones too.
    unsafe {
        let receiver = &mut *receiver.cast::<Receiver<'_>>();
        let executors = pg_sys::MemoryContextSwitchTo(receiver.outer);
        receiver.query.render(descriptor);
        pg_sys::MemoryContextSwitchTo(executors);
    }
}

/// # Safety
/// Called by the executor with a receiver that `Query::each` made, and a row.
#[pg_guard]
unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, receiver: *mut pg_sys::DestReceiver) -> bool {
    // SAFETY: see above. The slot's values are valid until the executor goes on.
    unsafe {
        let receiver = &mut *receiver.cast::<Receiver<'_>>();
        let natts = (*(*slot).tts_tupleDescriptor).natts as usize;
        if ((*slot).tts_nvalid as usize) < natts {
            pg_sys::slot_getsomeattrs_int(slot, natts as i32);
        }
        let outer = pg_sys::MemoryContextSwitchTo(receiver.scratch);
        receiver.rows += 1;
        if receiver.rows % ROWS == 0 {
            pg_sys::MemoryContextReset(receiver.scratch);
        }
        let go_on = (receiver.f)(Row {
            values: std::slice::from_raw_parts((*slot).tts_values, natts),
            nulls: std::slice::from_raw_parts((*slot).tts_isnull, natts),
            renderers: &mut receiver.query.renderers,
        });
        pg_sys::MemoryContextSwitchTo(outer);
        receiver.stopped = !go_on;
        go_on
    }
}

/// # Safety
/// Called by the executor; there is nothing to do.
#[pg_guard]
unsafe extern "C-unwind" fn ignore(_receiver: *mut pg_sys::DestReceiver) {}

/// Arguments as the executor takes them; NULL for none.
///
/// # Safety
/// The arguments must have the types of the statement's parameters.
unsafe fn parameters(source: *mut pg_sys::CachedPlanSource, arguments: &[Argument]) -> pg_sys::ParamListInfo {
    if arguments.is_empty() {
        return std::ptr::null_mut();
    }
    // SAFETY: a list for as many parameters as there are arguments.
    unsafe {
        let list = pg_sys::makeParamList(arguments.len() as i32);
        let entries = (*list).params.as_mut_slice(arguments.len());
        for (i, (entry, (_, value))) in entries.iter_mut().zip(arguments).enumerate() {
            entry.value = value.unwrap_or(pg_sys::Datum::null());
            entry.isnull = value.is_none();
            entry.pflags = pg_sys::PARAM_FLAG_CONST as u16;
            entry.ptype = *(*source).param_types.add(i);
        }
        list
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
