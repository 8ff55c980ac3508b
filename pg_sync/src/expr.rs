//! Expressions over a row, and queries for members: read under the caller's search_path once, then kept with every name
//! qualified.
#![allow(unsafe_code)]

use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::{CStr, CString};

/// A list of expressions over one relation, parsed and checked.
pub struct Expressions {
    /// `List *` of expression nodes over range-table entry 1, as parsed.
    list: *mut pg_sys::List,
    relation: pg_sys::Oid,
}

/// What an expression is for; errors name it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Makes a bucket's key.
    Key,
    /// Decides whether a row is in.
    Filter,
}

impl Expressions {
    /// Parses `text` (`a, lower(b)`) over `relation`. An error names the rule, the table and the expression.
    pub fn parse(rule: &str, relation: pg_sys::Oid, purpose: Purpose, text: &str) -> Self {
        let what = if purpose == Purpose::Key { "key" } else { "filter" };
        let place = format!("rule \"{rule}\", table {}: {what} \"{text}\"", relation_name(relation));
        crate::error::named(&place.clone(), || Self::parse_at(place, relation, purpose, text))
    }

    fn parse_at(place: String, relation: pg_sys::Oid, purpose: Purpose, text: &str) -> Self {
        // The parentheses keep a key's list and a filter from being read as anything but expressions.
        let select = match purpose {
            Purpose::Key => format!("SELECT ROW({text}\n)"),
            Purpose::Filter => format!("SELECT ROW(({text}\n))"),
        };
        // SAFETY: parser calls on a NUL-free string; the relation is locked while it is looked at. Node types are checked
        // before a pointer is cast.
        unsafe {
            let Ok(sql) = CString::new(select) else { error!("{} contains NUL", place) };
            let statements = pg_sys::pg_parse_query(sql.as_ptr());
            if list_length(statements) != 1 {
                refuse(&place, "must be a list of expressions");
            }
            let raw: *mut pg_sys::RawStmt = list_nth(statements, 0);
            let select: *mut pg_sys::SelectStmt = (*raw).stmt.cast();
            if (*select).type_ != pg_sys::NodeTag::T_SelectStmt
                || list_length((*select).targetList) != 1
                || !(*select).fromClause.is_null()
                || !(*select).whereClause.is_null()
                || (*select).op != pg_sys::SetOperation::SETOP_NONE
            {
                refuse(&place, "must be a list of expressions");
            }
            let target: *mut pg_sys::ResTarget = list_nth((*select).targetList, 0);
            let row: *mut pg_sys::RowExpr = (*target).val.cast();
            if (*row).xpr.type_ != pg_sys::NodeTag::T_RowExpr {
                refuse(&place, "must be a list of expressions");
            }
            let rel = pg_sys::table_open(relation, pg_sys::AccessShareLock as i32);
            let state = pg_sys::make_parsestate(std::ptr::null_mut());
            (*state).p_sourcetext = sql.as_ptr();
            let item = pg_sys::addRangeTableEntryForRelation(
                state,
                rel,
                pg_sys::AccessShareLock as i32,
                std::ptr::null_mut(),
                false,
                true,
            );
            pg_sys::addNSItemToQuery(state, item, true, true, true);
            let mut list = std::ptr::null_mut();
            for i in 0..list_length((*row).args) {
                let raw: *mut pg_sys::Node = list_nth((*row).args, i);
                // What an index expression may contain: no sub-select, aggregate, window or set-returning function.
                let kind = pg_sys::ParseExprKind::EXPR_KIND_INDEX_EXPRESSION;
                let mut node = pg_sys::transformExpr(state, raw, kind);
                let type_oid = pg_sys::exprType(node);
                if type_oid == pg_sys::UNKNOWNOID {
                    node = pg_sys::coerce_type(
                        state,
                        node,
                        pg_sys::UNKNOWNOID,
                        pg_sys::TEXTOID,
                        -1,
                        pg_sys::CoercionContext::COERCION_IMPLICIT,
                        pg_sys::CoercionForm::COERCE_IMPLICIT_CAST,
                        -1,
                    );
                }
                if purpose == Purpose::Filter && pg_sys::exprType(node) != pg_sys::BOOLOID {
                    refuse(&place, "must be a condition: its type is not boolean");
                }
                list = pg_sys::lappend(list, node.cast());
            }
            if purpose == Purpose::Filter && list_length(list) != 1 {
                refuse(&place, "must be one condition");
            }
            pg_sys::assign_expr_collations(state, list.cast());
            pg_sys::table_close(rel, pg_sys::NoLock as i32);
            let expressions = Expressions { list, relation };
            if pg_sys::contain_mutable_functions(expressions.planned().cast()) {
                refuse(&place, "must use immutable functions only, since a row's bucket must follow from the row alone");
            }
            expressions
        }
    }

    /// The same list made ready for `ExecInitExprList`.
    pub fn planned(&self) -> *mut pg_sys::List {
        // SAFETY: the list holds expression nodes; expression_planner copies what it changes.
        unsafe { pg_sys::expression_planner(pg_sys::copyObjectImpl(self.list.cast()).cast()).cast() }
    }

    /// The planned list as text that [`from_string`] reads.
    pub fn to_node_string(&self) -> String {
        // SAFETY: nodeToString returns a palloc'ed C string.
        unsafe { CStr::from_ptr(pg_sys::nodeToString(self.planned().cast())).to_string_lossy().into_owned() }
    }

    /// Each expression's type.
    pub fn types(&self) -> Vec<pg_sys::Oid> {
        // SAFETY: the list holds expression nodes.
        unsafe { (0..list_length(self.list)).map(|i| pg_sys::exprType(list_nth(self.list, i))).collect() }
    }

    /// Each expression as SQL with every name qualified; columns stand alone.
    pub fn to_sql(&self) -> Vec<String> {
        crate::render::pinned(|| {
            // SAFETY: deparsing nodes that were parsed over this relation.
            unsafe {
                let name = pg_sys::get_rel_name(self.relation);
                let context = pg_sys::deparse_context_for(name, self.relation);
                (0..list_length(self.list))
                    .map(|i| {
                        let sql = pg_sys::deparse_expression(list_nth(self.list, i), context, false, false);
                        CStr::from_ptr(sql).to_string_lossy().into_owned()
                    })
                    .collect()
            }
        })
    }
}

/// The expressions as parsed, one list, as text that [`from_string`] reads.
pub fn to_string<'e>(expressions: impl IntoIterator<Item = &'e Expressions>) -> String {
    // SAFETY: lists of expression nodes; list_concat_copy leaves its arguments alone.
    unsafe {
        let all = expressions.into_iter().fold(std::ptr::null_mut(), |all, e| pg_sys::list_concat_copy(all, e.list));
        CStr::from_ptr(pg_sys::nodeToString(all.cast())).to_string_lossy().into_owned()
    }
}

/// Stored expressions as SQL, with the columns' present names.
#[pg_extern(stable, strict)]
fn expression_sql(relation: pg_sys::Oid, nodes: &str) -> Vec<String> {
    Expressions { list: from_string(nodes), relation }.to_sql()
}

/// Reads what [`Expressions::to_node_string`] wrote, into the current memory context.
pub fn from_string(nodes: &str) -> *mut pg_sys::List {
    let Ok(nodes) = CString::new(nodes) else { error!("sync: a stored expression contains NUL") };
    // SAFETY: the text was written by `to_string` or `to_node_string`: it is read from the argument of a trigger on
    // sync.capture(), and from sync.entry, and only the extension's owner may create the one or write the other.
    unsafe { pg_sys::stringToNode(nodes.as_ptr()).cast() }
}

/// A members query with every name qualified, so that no search_path can change its meaning; refused if it is not one
/// SELECT, or volatile.
pub fn qualified_query(rule: &str, text: &str) -> String {
    let place = format!("rule \"{rule}\": members");
    crate::error::named(&place, || qualified(&place, text))
}

fn qualified(place: &str, text: &str) -> String {
    // SAFETY: parser calls on a NUL-free string; results are checked before use.
    unsafe {
        let Ok(sql) = CString::new(text) else { error!("{place} contain NUL") };
        let statements = pg_sys::pg_parse_query(sql.as_ptr());
        if list_length(statements) != 1 {
            refuse(place, "must be one SELECT");
        }
        let raw: *mut pg_sys::RawStmt = list_nth(statements, 0);
        if (*(*raw).stmt).type_ != pg_sys::NodeTag::T_SelectStmt {
            refuse(place, "must be one SELECT");
        }
        let query = pg_sys::parse_analyze_fixedparams(raw, sql.as_ptr(), std::ptr::null(), 0, std::ptr::null_mut());
        if (*query).commandType != pg_sys::CmdType::CMD_SELECT || (*query).hasModifyingCTE || !(*query).rowMarks.is_null() {
            refuse(place, "must only read: no INTO, FOR UPDATE, or changes in WITH");
        }
        if pg_sys::contain_volatile_functions(query.cast()) {
            refuse(place, "must not use volatile functions: they would see other rows than the delta");
        }
        crate::render::pinned(|| CStr::from_ptr(pg_sys::pg_get_querydef(query, false)).to_string_lossy().into_owned())
    }
}

fn refuse(place: &str, why: &str) -> ! {
    crate::error::raise(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("{place} {why}"))
}

/// A relation's name as SQL reads it: `public.messages`.
pub fn relation_name(relation: pg_sys::Oid) -> String {
    // SAFETY: look-ups by OID; unknown ones give NULL.
    unsafe {
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() {
            return relation.to_u32().to_string();
        }
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relation));
        CStr::from_ptr(pg_sys::quote_qualified_identifier(schema, name)).to_string_lossy().into_owned()
    }
}

/// An identifier quoted where SQL needs it.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

unsafe fn list_length(list: *const pg_sys::List) -> i32 {
    // SAFETY: NIL is a null pointer.
    unsafe {
        if list.is_null() {
            0
        } else {
            (*list).length
        }
    }
}

unsafe fn list_nth<T>(list: *const pg_sys::List, n: i32) -> *mut T {
    // SAFETY: the caller keeps n below the length.
    unsafe { pg_sys::list_nth(list, n).cast() }
}
