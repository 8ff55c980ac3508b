//! Postgres values as wire values, and back: the same code for capture, pull and push, so that all hash alike.
//!
//! Types with a fast path depend on no setting. All others go through their output function, under [`pinned`] settings.
#![allow(unsafe_code)]

use crate::calendar;
use pgrx::pg_sys;
use std::ffi::{CStr, CString};
use sync_shared::message::Affinity;
use sync_shared::{row, Value, ValueRef};

/// Settings that text forms depend on. `pg_temp` last, or a temporary object could stand in for a catalog's.
/// Rows that a policy hides from a rule's owner are an error, never silently missing.
const PINS: [(&CStr, &CStr); 8] = [
    (c"row_security", c"off"),
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"TimeZone", c"UTC"),
    (c"DateStyle", c"ISO, YMD"),
    (c"IntervalStyle", c"postgres"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    (c"lc_monetary", c"C"),
];

/// How values of one type are rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    /// text, varchar, bpchar, json: the bytes as stored.
    Text,
    Uuid,
    Bytea,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    /// The type's output function.
    Output,
    /// `to_json`: arrays and composites. Arrays whose subscripts do not begin at 1, which JSON cannot say, as Postgres writes them.
    Json,
}

/// Renders values of one column or expression.
pub struct Renderer {
    form: Form,
    /// The declared type, before domains are resolved.
    type_oid: pg_sys::Oid,
    function: pg_sys::FmgrInfo,
    /// For arrays.
    output: Option<pg_sys::FmgrInfo>,
    /// Whether the text depends on settings that must be pinned.
    pub needs_pins: bool,
}

impl Renderer {
    /// For values of `type_oid`. What it allocates lives in the current memory context, and so must the renderer.
    pub fn new(type_oid: pg_sys::Oid) -> Self {
        // SAFETY: catalog look-ups by OID; they raise an ERROR for an unknown type. fmgr_info fills the zeroed FmgrInfo.
        unsafe {
            let base = pg_sys::getBaseType(type_oid);
            let (form, needs_pins) = match base {
                pg_sys::BOOLOID => (Form::Bool, false),
                pg_sys::INT2OID => (Form::Int2, false),
                pg_sys::INT4OID => (Form::Int4, false),
                pg_sys::INT8OID => (Form::Int8, false),
                pg_sys::OIDOID => (Form::Oid, false),
                pg_sys::FLOAT4OID => (Form::Float4, false),
                pg_sys::FLOAT8OID => (Form::Float8, false),
                pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID | pg_sys::JSONOID => (Form::Text, false),
                pg_sys::UUIDOID => (Form::Uuid, false),
                pg_sys::BYTEAOID => (Form::Bytea, false),
                pg_sys::DATEOID => (Form::Date, false),
                pg_sys::TIMEOID => (Form::Time, false),
                pg_sys::TIMESTAMPOID => (Form::Timestamp, false),
                pg_sys::TIMESTAMPTZOID => (Form::Timestamptz, false),
                pg_sys::NUMERICOID | pg_sys::JSONBOID | pg_sys::NAMEOID => (Form::Output, false),
                _ if pg_sys::get_element_type(base) != pg_sys::InvalidOid => (Form::Json, true),
                _ if pg_sys::get_typtype(base) == pg_sys::TYPTYPE_COMPOSITE as std::ffi::c_char => (Form::Json, true),
                _ => (Form::Output, pg_sys::get_typtype(base) != pg_sys::TYPTYPE_ENUM as std::ffi::c_char),
            };
            let output = || {
                let (mut output, mut varlena) = (pg_sys::InvalidOid, false);
                let mut function: pg_sys::FmgrInfo = std::mem::zeroed();
                pg_sys::getTypeOutputInfo(base, &mut output, &mut varlena);
                pg_sys::fmgr_info(output, &mut function);
                function
            };
            let mut function: pg_sys::FmgrInfo = std::mem::zeroed();
            match form {
                Form::Output => function = output(),
                Form::Json => {
                    let to_json = pg_sys::Oid::from(pg_sys::F_TO_JSON);
                    pg_sys::fmgr_info(to_json, &mut function);
                    // to_json learns its argument's type from the call's expression.
                    let argument = pg_sys::makeNullConst(base, -1, pg_sys::InvalidOid);
                    let call = pg_sys::makeFuncExpr(
                        to_json,
                        pg_sys::JSONOID,
                        pg_sys::lappend(std::ptr::null_mut(), argument.cast()),
                        pg_sys::InvalidOid,
                        pg_sys::InvalidOid,
                        pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
                    );
                    function.fn_expr = call.cast();
                }
                _ => {}
            }
            // The subscripts of these two begin at 0, always.
            let is_vector = [pg_sys::INT2VECTOROID, pg_sys::OIDVECTOROID].contains(&base);
            let is_array = form == Form::Json && !is_vector && pg_sys::get_element_type(base) != pg_sys::InvalidOid;
            Renderer { form, type_oid, function, output: is_array.then(output), needs_pins }
        }
    }

    /// The type this renders, as declared.
    pub fn type_oid(&self) -> pg_sys::Oid {
        self.type_oid
    }

    /// Whether the text of values is JSON, which only SQL reads back: see [`Renderer::read_text`].
    pub fn is_json(&self) -> bool {
        self.form == Form::Json
    }

    /// Whether reading a text depends on settings, beside rendering it: dates, and times without a zone.
    pub fn reading_needs_pins(&self) -> bool {
        self.needs_pins || matches!(self.form, Form::Date | Form::Time | Form::Timestamp | Form::Timestamptz)
    }

    /// The SQLite column type that keeps these values as they are.
    pub fn affinity(&self) -> Affinity {
        match self.form {
            Form::Bool | Form::Int2 | Form::Int4 | Form::Int8 | Form::Oid => Affinity::Integer,
            Form::Float4 | Form::Float8 => Affinity::Real,
            Form::Bytea => Affinity::Blob,
            _ => Affinity::Text,
        }
    }

    /// Whether the type is an enum (or a domain over one): its text is its label.
    pub fn is_enum(&self) -> bool {
        // SAFETY: look-ups by OID.
        unsafe { pg_sys::get_typtype(pg_sys::getBaseType(self.type_oid)) == pg_sys::TYPTYPE_ENUM as std::ffi::c_char }
    }

    /// Whether the current time as a default means the same on both sides.
    pub fn is_time(&self) -> bool {
        matches!(self.form, Form::Timestamp | Form::Timestamptz | Form::Date)
    }

    /// About how many bytes a value is, without fetching what is stored beside its row.
    ///
    /// # Safety
    /// `datum` must be a value of the renderer's type.
    pub unsafe fn size(&self, datum: pg_sys::Datum) -> usize {
        // SAFETY: types without a fixed length have a varlena header, which says how long the value is also where it is elsewhere.
        unsafe {
            let varies = match self.form {
                Form::Text | Form::Bytea | Form::Json => true,
                Form::Output => pg_sys::get_typlen(self.type_oid) == -1,
                _ => false,
            };
            if varies {
                pg_sys::toast_raw_datum_size(datum)
            } else {
                size_of::<pg_sys::Datum>()
            }
        }
    }

    /// Appends a value as `row::put` would. Scratch memory is taken from the current memory context.
    ///
    /// # Safety
    /// `datum` must be a value of the renderer's type.
    pub unsafe fn put(&mut self, out: &mut Vec<u8>, datum: pg_sys::Datum, is_null: bool) {
        if is_null {
            return row::put(out, ValueRef::Null);
        }
        // SAFETY: the caller vouches for the datum's type; pointers it holds are valid in this memory context.
        unsafe {
            let word = datum.value();
            match self.form {
                Form::Bool => row::put(out, ValueRef::Integer((word as u8 != 0).into())),
                Form::Int2 => row::put(out, ValueRef::Integer((word as i16).into())),
                Form::Int4 => row::put(out, ValueRef::Integer((word as i32).into())),
                Form::Int8 => row::put(out, ValueRef::Integer(word as i64)),
                Form::Oid => row::put(out, ValueRef::Integer((word as u32).into())),
                Form::Float4 => put_real(out, f32::from_bits(word as u32).into()),
                Form::Float8 => put_real(out, f64::from_bits(word as u64)),
                Form::Uuid => put_uuid(out, std::slice::from_raw_parts(datum.cast_mut_ptr::<u8>(), 16)),
                Form::Text => with_varlena(datum, |bytes| row::put_text(out, bytes)),
                Form::Bytea => with_varlena(datum, |bytes| row::put(out, ValueRef::Blob(bytes))),
                Form::Date => row::put_text(out, calendar::date(word as i32).as_bytes()),
                Form::Time => row::put_text(out, calendar::time(word as i64).as_bytes()),
                Form::Timestamp => row::put_text(out, calendar::timestamp(word as i64, false).as_bytes()),
                Form::Timestamptz => row::put_text(out, calendar::timestamp(word as i64, true).as_bytes()),
                Form::Output => {
                    let text = pg_sys::OutputFunctionCall(&mut self.function, datum);
                    row::put_text(out, CStr::from_ptr(text).to_bytes());
                    pg_sys::pfree(text.cast());
                }
                Form::Json => {
                    if let Some(output) = self.output.as_mut().filter(|_| begins_elsewhere(datum)) {
                        let text = pg_sys::OutputFunctionCall(output, datum);
                        return row::put_text(out, CStr::from_ptr(text).to_bytes());
                    }
                    let json = pg_sys::FunctionCall1Coll(&mut self.function, pg_sys::InvalidOid, datum);
                    with_varlena(json, |bytes| row::put_text(out, bytes));
                    pg_sys::pfree(json.cast_mut_ptr());
                }
            }
        }
    }

    /// The SQL that turns a text parameter (see [`Renderer::parameter`]) into a value of this type.
    pub fn read_text(&self, parameter: &str) -> String {
        let declared = type_name(self.type_oid);
        match self.form {
            Form::Json => {
                let json = format!("(SELECT v FROM pg_catalog.jsonb_to_record(pg_catalog.jsonb_build_object('v', {parameter}::pg_catalog.jsonb)) AS r(v {declared}))");
                match self.output {
                    None => json,
                    // `[2:3]={7,8}`, which is no JSON.
                    Some(_) => format!("CASE WHEN {parameter} OPERATOR(pg_catalog.~) '^\\[[+-]?[0-9]+:' THEN {parameter}::{declared} ELSE {json} END"),
                }
            }
            _ => format!("{parameter}::{declared}"),
        }
    }

    /// The text that stands for a wire value in SQL; None is NULL. An error says what does not fit.
    pub fn parameter(&self, value: &Value) -> Result<Option<String>, String> {
        let text = match (self.form, value) {
            (_, Value::Null) => return Ok(None),
            (Form::Bool, Value::Integer(i @ 0..=1)) => i.to_string(),
            (Form::Bool, other) => return Err(format!("a boolean must be 0 or 1, not {}", class(other))),
            (Form::Int2 | Form::Int4 | Form::Int8 | Form::Oid, Value::Integer(i)) => i.to_string(),
            (Form::Int2 | Form::Int4 | Form::Int8 | Form::Oid, other) => {
                return Err(format!("an integer is needed, not {}", class(other)))
            }
            (Form::Float4 | Form::Float8, Value::Real(r)) => real_text(*r),
            (Form::Float4 | Form::Float8, Value::Integer(i)) => i.to_string(),
            (Form::Float4 | Form::Float8, Value::Text(t)) if t == "NaN" => t.clone(),
            (Form::Float4 | Form::Float8, other) => return Err(format!("a number is needed, not {}", class(other))),
            (Form::Bytea, Value::Blob(b)) => {
                let mut hex = String::with_capacity(2 + 2 * b.len());
                hex.push_str("\\x");
                for byte in b {
                    hex.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
                    hex.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
                }
                hex
            }
            (Form::Bytea, other) => return Err(format!("a blob is needed, not {}", class(other))),
            (_, Value::Text(t)) => t.clone(),
            (_, Value::Integer(i)) => i.to_string(),
            (_, Value::Real(r)) => real_text(*r),
            (_, Value::Blob(_)) => return Err("a text is needed, not a blob".into()),
        };
        if text.contains('\0') {
            return Err("a text must not contain NUL".into());
        }
        Ok(Some(text))
    }
}

fn class(value: &Value) -> &'static str {
    match value {
        Value::Null => "NULL",
        Value::Integer(_) => "an integer",
        Value::Real(_) => "a real",
        Value::Text(_) => "a text",
        Value::Blob(_) => "a blob",
    }
}

fn real_text(real: f64) -> String {
    if real.is_infinite() {
        if real > 0.0 {
            "Infinity".into()
        } else {
            "-Infinity".into()
        }
    } else {
        format!("{real:?}")
    }
}

fn put_real(out: &mut Vec<u8>, real: f64) {
    match real.is_nan() {
        true => row::put(out, ValueRef::Text("NaN")),
        false => row::put(out, ValueRef::Real(real)),
    }
}

/// The two hexadecimal digits of each byte.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};
/// Where a UUID's text has the digits of each byte.
const UUID_PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

fn put_uuid(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut text = [b'-'; 36];
    for (byte, at) in bytes.iter().zip(UUID_PLACES) {
        text[at..at + 2].copy_from_slice(&HEX[usize::from(*byte)]);
    }
    row::put_text(out, &text);
}

/// Whether an array's subscripts begin at something else than 1 in any dimension.
///
/// # Safety
/// `datum` must be a non-NULL array.
unsafe fn begins_elsewhere(datum: pg_sys::Datum) -> bool {
    // SAFETY: array.h: behind the fixed part stand the lengths of all dimensions, then the lower bounds of all.
    unsafe {
        let stored: *mut pg_sys::varlena = datum.cast_mut_ptr();
        let array: *mut pg_sys::ArrayType = pg_sys::pg_detoast_datum(stored).cast();
        let dimensions = (*array).ndim.max(0) as usize;
        let bounds = array.add(1).cast::<i32>().add(dimensions);
        let elsewhere = (0..dimensions).any(|i| bounds.add(i).read() != 1);
        if array.cast() != stored {
            pg_sys::pfree(array.cast());
        }
        elsewhere
    }
}

/// Hands the bytes of a varlena to `f`, decompressed and fetched from TOAST where needed.
///
/// # Safety
/// `datum` must be a non-NULL varlena.
pub unsafe fn with_varlena(datum: pg_sys::Datum, f: impl FnOnce(&[u8])) {
    // SAFETY: pg_detoast_datum_packed returns its argument or a copy of ours, which nobody else refers to.
    unsafe {
        let stored: *mut pg_sys::varlena = datum.cast_mut_ptr();
        if is_plain(stored) {
            return f(pgrx::varlena_to_byte_slice(stored));
        }
        let packed = pg_sys::pg_detoast_datum_packed(stored);
        f(pgrx::varlena_to_byte_slice(packed));
        if packed != stored {
            pg_sys::pfree(packed.cast());
        }
    }
}

/// Whether a varlena's bytes stand where it points to, neither compressed nor elsewhere: most do, and need no call.
///
/// # Safety
/// `stored` must be a varlena.
unsafe fn is_plain(stored: *const pg_sys::varlena) -> bool {
    // SAFETY: reads the first byte.
    unsafe { pgrx::varatt_is_4b_u(stored) || pgrx::varatt_is_1b(stored) && !pgrx::varatt_is_1b_e(stored) }
}

/// A type's name, qualified unless it is in pg_catalog, as SQL can read it.
pub fn type_name(type_oid: pg_sys::Oid) -> String {
    // SAFETY: returns a palloc'ed C string for any OID.
    unsafe {
        // Without the second flag bpchar and bit come out as `character` and `bit`, which mean a length of 1.
        let flags = pg_sys::FORMAT_TYPE_FORCE_QUALIFY | pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN;
        let name = pg_sys::format_type_extended(type_oid, -1, flags as u16);
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}

/// What a domain is over; any other type itself.
pub fn base_type(type_oid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a look-up by OID.
    unsafe { pg_sys::getBaseType(type_oid) }
}

/// Runs `f` under the pinned settings. An ERROR inside undoes them with the (sub)transaction.
pub fn pinned<R>(f: impl FnOnce() -> R) -> R {
    set_within(PINS.into_iter(), f)
}

/// Runs `f` under other settings. An ERROR inside undoes them with the (sub)transaction.
pub fn with_settings<R>(settings: &[(&CStr, String)], f: impl FnOnce() -> R) -> R {
    let text = |text: &String| CString::new(text.as_str()).unwrap_or_default();
    let settings: Vec<(&CStr, CString)> = settings.iter().map(|(name, value)| (*name, text(value))).collect();
    set_within(settings.iter().map(|(name, value)| (*name, value.as_c_str())), f)
}

/// Sets a parameter for the rest of the transaction, as SET LOCAL does.
pub fn set_local(name: &CStr, value: &str) {
    let value = CString::new(value).unwrap_or_default();
    // SAFETY: as the statement SET LOCAL; the transaction's end undoes it.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}

fn set_within<'a, R>(settings: impl Iterator<Item = (&'a CStr, &'a CStr)>, f: impl FnOnce() -> R) -> R {
    // SAFETY: the settings are undone by AtEOXact_GUC at the level opened here, or by the transaction's own cleanup.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in settings {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
        let result = f();
        // Also what functions of others have set meanwhile, for the session or for the transaction.
        pg_sys::AtEOXact_GUC(false, level);
        result
    }
}
