//! Statements of one batch: prepared once, given typed values, their rows rendered as wire values.
//!
//! Plans live as long as the batch's SPI connection and never longer: they belong to its role and its locks.
#![allow(unsafe_code)]

use super::refusal::Refusal;
use crate::render::{pinned, Renderer};
use pgrx::pg_sys;
use std::collections::HashMap;
use std::ffi::CString;
use sync_shared::{row, Value};

/// A value of a type; None is NULL.
#[derive(Clone, Copy)]
pub struct Parameter {
    type_oid: pg_sys::Oid,
    datum: Option<pg_sys::Datum>,
}

impl Parameter {
    pub fn is_null(self) -> bool {
        self.datum.is_none()
    }
}

/// An SPI connection with its plans.
pub struct Statements {
    plans: HashMap<String, pg_sys::SPIPlanPtr>,
    /// Holds parameters until [`Statements::forget`].
    memory: pg_sys::MemoryContext,
}

/// What a statement did.
pub struct Answer {
    /// Rows written, or found.
    pub count: u64,
    /// The first row, if any was asked for.
    pub row: Option<Vec<Value>>,
}

impl Statements {
    /// Connects. An ERROR disconnects with the subtransaction.
    pub fn connect() -> Self {
        // SAFETY: connects to SPI, whose own memory context is then current and becomes the parent of ours.
        unsafe {
            pg_sys::SPI_connect();
            let memory =
                pg_sys::AllocSetContextCreateExtended(pg_sys::CurrentMemoryContext, c"sync push".as_ptr(), 0, 8192, 8 << 20);
            Statements { plans: HashMap::new(), memory }
        }
    }

    /// Disconnects; frees plans and parameters.
    pub fn finish(self) {
        // SAFETY: connected in `connect`; connections made since are closed again.
        unsafe { pg_sys::SPI_finish() };
    }

    /// Frees all parameters.
    pub fn forget(&mut self) {
        // SAFETY: parameters are not used after this by contract: it is called between changes.
        unsafe { pg_sys::MemoryContextReset(self.memory) }
    }

    /// Runs a statement; renders the first row it returns. Calls with the same text must have parameters of the same types.
    pub fn run(&mut self, sql: &str, parameters: &[Parameter], columns: &mut [&mut Renderer]) -> Result<Answer, Refusal> {
        // SAFETY: the parameters have the types that the plan was prepared with; the result is read before it is freed, and its
        // columns have the types of `columns` as the statement selects them.
        unsafe {
            let table = self.execute(sql, parameters)?;
            let count = pg_sys::SPI_processed;
            let mut found = None;
            if !table.is_null() {
                if (*table).numvals > 0 && !columns.is_empty() {
                    let tuple = *(*table).vals;
                    let outer = pg_sys::MemoryContextSwitchTo(self.memory);
                    let mut bytes = Vec::new();
                    with_pins(columns.iter().any(|c| c.needs_pins), || {
                        for (i, renderer) in columns.iter_mut().enumerate() {
                            let mut is_null = false;
                            let datum = pg_sys::SPI_getbinval(tuple, (*table).tupdesc, i as i32 + 1, &mut is_null);
                            renderer.put(&mut bytes, datum, is_null);
                        }
                    });
                    pg_sys::MemoryContextSwitchTo(outer);
                    found = Some(decoded(&bytes)?);
                }
                pg_sys::SPI_freetuptable(table);
            }
            Ok(Answer { count, row: found })
        }
    }

    /// # Safety
    /// See [`Statements::run`]. The result belongs to SPI.
    unsafe fn execute(&mut self, sql: &str, parameters: &[Parameter]) -> Result<*mut pg_sys::SPITupleTable, Refusal> {
        let failed = |what: &str| Refusal::new("XX000", format!("a statement of push could not be {what}"), "");
        // SAFETY: SPI is connected; arrays are as long as the plan's list of parameters.
        unsafe {
            let plan = match self.plans.get(sql) {
                Some(&plan) => plan,
                None => {
                    let text = CString::new(sql).map_err(|_| failed("written: a name contains NUL"))?;
                    let mut types: Vec<pg_sys::Oid> = parameters.iter().map(|p| p.type_oid).collect();
                    // Look-ups by key need no plan of their own for each value.
                    let options = pg_sys::CURSOR_OPT_GENERIC_PLAN as i32;
                    let plan = pg_sys::SPI_prepare_cursor(text.as_ptr(), types.len() as i32, types.as_mut_ptr(), options);
                    if plan.is_null() {
                        return Err(failed("prepared"));
                    }
                    self.plans.insert(sql.to_owned(), plan);
                    plan
                }
            };
            let null = pg_sys::Datum::null();
            let mut values: Vec<pg_sys::Datum> = parameters.iter().map(|p| p.datum.unwrap_or(null)).collect();
            let nulls: Vec<std::ffi::c_char> =
                parameters.iter().map(|p| if p.datum.is_some() { b' ' } else { b'n' } as std::ffi::c_char).collect();
            pg_sys::SPI_tuptable = std::ptr::null_mut();
            let status = pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr(), false, 0);
            if status < 0 {
                return Err(failed("run"));
            }
            Ok(pg_sys::SPI_tuptable)
        }
    }

    /// Reads a wire value as the column's type, under the same settings that values are rendered with: `1,50` means the same
    /// whatever the session has set, and a time without a zone is UTC. Err says what does not fit; a text that the type's
    /// input function refuses is an ERROR.
    pub fn read(&mut self, renderer: &Renderer, value: &Value) -> Result<Parameter, Refusal> {
        let type_oid = renderer.type_oid();
        let Some(text) = renderer.parameter(value).map_err(|why| Refusal::new("22P02", why, ""))? else {
            return Ok(Parameter { type_oid, datum: None });
        };
        let text = CString::new(text).map_err(|_| Refusal::new("22021", "a text must not contain NUL", ""))?;
        // SAFETY: the input function is the type's own; arrays and composites, whose text is JSON, go through SQL and are
        // varlena, copied before the result is freed. Both kinds of datum live in our context.
        unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(self.memory);
            let datum = with_pins(renderer.reading_needs_pins(), || {
                if renderer.is_json() {
                    let input = pg_sys::Datum::from(pg_sys::cstring_to_text(text.as_ptr()));
                    let input = Parameter { type_oid: pg_sys::TEXTOID, datum: Some(input) };
                    let table = self.execute(&format!("SELECT {}", renderer.read_text("$1")), &[input])?;
                    if table.is_null() || (*table).numvals == 0 {
                        return Err(Refusal::new("22P02", "the value cannot be read", ""));
                    }
                    let mut is_null = false;
                    let found = pg_sys::SPI_getbinval(*(*table).vals, (*table).tupdesc, 1, &mut is_null);
                    pg_sys::MemoryContextSwitchTo(self.memory);
                    let copy = (!is_null)
                        .then(|| pg_sys::Datum::from(pg_sys::pg_detoast_datum_copy(found.cast_mut_ptr::<pg_sys::varlena>())));
                    pg_sys::SPI_freetuptable(table);
                    Ok(copy)
                } else {
                    let (mut input, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
                    pg_sys::getTypeInputInfo(type_oid, &mut input, &mut parameter);
                    Ok(Some(pg_sys::OidInputFunctionCall(input, text.as_ptr().cast_mut(), parameter, -1)))
                }
            });
            pg_sys::MemoryContextSwitchTo(outer);
            Ok(Parameter { type_oid, datum: datum? })
        }
    }

    /// A parameter as the server itself would send it: `2024-1-1` as `2024-01-01`.
    pub fn render(&mut self, renderer: &mut Renderer, parameter: Parameter) -> Result<Value, Refusal> {
        let mut bytes = Vec::new();
        // SAFETY: the parameter was read as the renderer's type.
        unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(self.memory);
            with_pins(renderer.needs_pins, || {
                renderer.put(&mut bytes, parameter.datum.unwrap_or(pg_sys::Datum::null()), parameter.datum.is_none());
            });
            pg_sys::MemoryContextSwitchTo(outer);
        }
        Ok(decoded(&bytes)?.pop().unwrap_or_default())
    }

    /// A text.
    pub fn text(&mut self, text: &str) -> Result<Parameter, Refusal> {
        let text = CString::new(text).map_err(|_| Refusal::new("22021", "a text must not contain NUL", ""))?;
        // SAFETY: the text is copied into our context.
        let datum = unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(self.memory);
            let datum = pg_sys::Datum::from(pg_sys::cstring_to_text(text.as_ptr()));
            pg_sys::MemoryContextSwitchTo(outer);
            datum
        };
        Ok(Parameter { type_oid: pg_sys::TEXTOID, datum: Some(datum) })
    }

    /// A transaction id, to be compared with a row's xmin.
    pub fn xid(&self, xid: u32) -> Parameter {
        Parameter { type_oid: pg_sys::XIDOID, datum: Some(pg_sys::Datum::from(xid)) }
    }
}

fn with_pins<R>(needed: bool, f: impl FnOnce() -> R) -> R {
    if needed {
        pinned(f)
    } else {
        f()
    }
}

fn decoded(bytes: &[u8]) -> Result<Vec<Value>, Refusal> {
    row::decode(bytes).map_err(|e| Refusal::new("XX000", format!("a row of the server cannot be rendered: {e}"), ""))
}
