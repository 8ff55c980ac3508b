//! The application's own function decides, in the batch's transaction and with its user's rights: `f(conflict) -> resolution`.

use super::Handler;
use crate::push::author::Author;
use crate::push::batch::Row;
use crate::push::conflict;
use crate::push::merge::{Set, Weighed};
use crate::push::refusal::{Refusal, REJECTED_BY_POLICY, UNUSABLE_POLICY};
use crate::push::statements::Parameter;
use crate::push::subtransaction::set_handler;
use crate::render::{pinned, Renderer};
use pgrx::pg_sys::{JSONBOID, TEXTOID};
use serde_json::{json, Value as Json};
use sync_shared::message::ChangeKind;
use sync_shared::Value;

/// What the handler wants the row to be.
pub struct Answer {
    pub set: Set,
    pub reason: String,
}

/// Asks the handler.
pub fn ask(
    row: &mut Row<'_>,
    handler: &Handler,
    key: &[Parameter],
    weighed: &[Weighed<'_>],
    author: Author,
) -> Result<Answer, Refusal> {
    let table = row.target.table.name.clone();
    let refuse = |code, why: &str| Refusal::new(code, format!("table {table}: the handler {} {why}", handler.declared), "");
    let Some(function) = &handler.function else {
        return Err(refuse(UNUSABLE_POLICY, "is gone: make it again, or declare another policy with sync.set_policy"));
    };
    let question = question(row, key, weighed, author)?;
    let question = row.statements.read(&Renderer::new(JSONBOID), &Value::Text(question))?;
    set_handler(Some(&handler.declared));
    let sql = format!("SELECT {function}($1)");
    let answer = row.statements.run(&sql, &[question], &mut [&mut Renderer::new(JSONBOID)])?.row;
    set_handler(None);
    let Some([Value::Text(text)]) = answer.as_deref() else {
        return Err(refuse(UNUSABLE_POLICY, "answered NULL instead of {\"action\": ...}"));
    };
    let parsed: Json = serde_json::from_str(text).unwrap_or_default();
    let reason = parsed.get("reason").and_then(Json::as_str);
    let action = parsed.get("action").and_then(Json::as_str).unwrap_or_default();
    let values = parsed.get("row").filter(|values| !values.is_null());
    let all = |take: &dyn Fn(&Weighed<'_>) -> bool| weighed.iter().filter(|w| take(w)).map(|w| (w.wish.column, w.mine)).collect();
    let set = match (action, values) {
        ("mine", None) => all(&|_| true),
        ("theirs", None) => all(&|_| false),
        ("merge", None) => all(&|w| !w.clashes()),
        ("merge", Some(Json::Object(values))) => {
            let mut set: Set = all(&|w| !w.clashes());
            for name in values.keys() {
                let column = named(row, name).map_err(|why| refuse(UNUSABLE_POLICY, &why))?;
                set_handler(Some(&handler.declared));
                let parameter = value_of(row, column, text, name)?;
                set_handler(None);
                set.retain(|(other, _)| *other != column);
                set.push((column, parameter));
            }
            set
        }
        ("reject", _) => {
            let why = reason.unwrap_or("without a reason");
            let conflict = row.row_conflict("custom", weighed, &[], why.to_owned());
            let refusal = refuse(REJECTED_BY_POLICY, &format!("rejected it: {why}"));
            return Err(Refusal { conflicts: vec![conflict], ..refusal });
        }
        _ => {
            let shape = r#"{"action": "mine", "theirs", "merge" or "reject", "row": {column: value} with merge, "reason": text}"#;
            let shown: String = text.chars().take(200).collect();
            return Err(refuse(UNUSABLE_POLICY, &format!("must answer {shape}, not {shown}")));
        }
    };
    let sides = conflict::sides(author, row.edited);
    let reason = reason.map_or_else(|| format!("the handler {} decided: {action}", handler.declared), str::to_owned);
    Ok(Answer { set, reason: format!("{reason} ({sides})") })
}

/// The column that the answer names.
fn named(row: &Row<'_>, name: &str) -> Result<usize, String> {
    let table = &row.target.table;
    match table.columns.iter().position(|c| c.name == name) {
        Some(column) if table.key.contains(&column) => Err(format!("must not change the key: \"{name}\"")),
        Some(column) if table.columns[column].generated => Err(format!("must not set the generated column \"{name}\"")),
        Some(column) => Ok(column),
        None => Err(format!("names a column that is not there or not sent to devices: \"{name}\"")),
    }
}

/// One value of the answer, read as Postgres reads JSON into a column of that type.
fn value_of(row: &mut Row<'_>, column: usize, answer: &str, name: &str) -> Result<Parameter, Refusal> {
    let text = Renderer::new(TEXTOID);
    let answer = row.statements.read(&text, &Value::Text(answer.to_owned()))?;
    let name = row.statements.read(&text, &Value::Text(name.to_owned()))?;
    let renderer = &mut row.target.renderers[column];
    let declared = crate::render::type_name(renderer.type_oid());
    let sql = format!(
        "SELECT r.v FROM pg_catalog.jsonb_to_record(pg_catalog.jsonb_build_object('v', \
         $1::pg_catalog.jsonb OPERATOR(pg_catalog.->) 'row' OPERATOR(pg_catalog.->) $2)) AS r(v {declared})"
    );
    let statements = &mut *row.statements;
    let value = pinned(|| statements.run(&sql, &[answer, name], &mut [renderer]))?.row.and_then(|mut row| row.pop());
    row.target.read(row.statements, column, &value.unwrap_or_default())
}

/// The conflict as the handler gets it.
fn question(row: &mut Row<'_>, key: &[Parameter], weighed: &[Weighed<'_>], author: Author) -> Result<String, Refusal> {
    let mut columns = Vec::new();
    for w in weighed {
        let column = w.wish.column;
        let base = row.target.read(row.statements, column, w.wish.base)?;
        let theirs = row.target.read(row.statements, column, &w.theirs)?;
        let sides = [
            ("base", json_of(row, column, base)?),
            ("theirs", json_of(row, column, theirs)?),
            ("mine", json_of(row, column, w.mine)?),
        ];
        let fields =
            sides.into_iter().map(|(name, value)| (name.to_owned(), value)).chain([("conflict".into(), w.clashes().to_string())]);
        columns.push((row.target.table.columns[column].name.clone(), object(fields)));
    }
    let mut keys = Vec::new();
    for (i, &parameter) in key.iter().enumerate() {
        let column = row.target.table.key[i];
        keys.push((row.target.table.columns[column].name.clone(), json_of(row, column, parameter)?));
    }
    let readable = row.target.columns_for(row.owner, "SELECT");
    let current = row.target.current(row.statements, &readable, key, false, "")?.unwrap_or_default();
    let mut present = Vec::new();
    for (&column, value) in readable.iter().zip(&current) {
        let parameter = row.target.read(row.statements, column, value)?;
        present.push((row.target.table.columns[column].name.clone(), json_of(row, column, parameter)?));
    }
    let kind = if row.change.kind == ChangeKind::Insert { "insert" } else { "update" };
    let theirs = author.at().map_or(Json::Null, |at| json!(conflict::time(at)));
    let note = serde_json::from_str::<serde::de::IgnoredAny>(&row.batch.note).map_or("null", |_| &row.batch.note);
    let fields = [
        ("table", json!(row.target.table.name).to_string()),
        ("key", object(keys)),
        ("kind", json!(kind).to_string()),
        ("columns", object(columns)),
        ("row", object(present)),
        ("edited", json!({ "theirs": theirs, "mine": conflict::time(row.edited) }).to_string()),
        ("user", json!(row.origin.user).to_string()),
        ("device", json!(row.origin.device.to_string()).to_string()),
        ("batch", row.batch.id.number.to_string()),
        ("note", note.to_owned()),
    ];
    Ok(object(fields.into_iter().map(|(name, value)| (name.to_owned(), value))))
}

/// A column's value as Postgres writes it in JSON, with every digit.
fn json_of(row: &mut Row<'_>, column: usize, parameter: Parameter) -> Result<String, Refusal> {
    let declared = crate::render::type_name(row.target.renderers[column].type_oid());
    let sql = format!("SELECT pg_catalog.to_jsonb($1::{declared})");
    let statements = &mut *row.statements;
    let answer = pinned(|| statements.run(&sql, &[parameter], &mut [&mut Renderer::new(JSONBOID)]))?;
    Ok(match answer.row.as_deref() {
        Some([Value::Text(json)]) => json.clone(),
        _ => "null".into(),
    })
}

/// An object of values that are JSON already.
fn object(fields: impl IntoIterator<Item = (String, String)>) -> String {
    let fields: Vec<String> = fields.into_iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
    format!("{{{}}}", fields.join(","))
}
