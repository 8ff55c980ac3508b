//! Values and changes as JSON, for people and applications.

use crate::table::TableInfo;
use serde_json::json;
use sync_shared::message::{Change, ChangeKind};
use sync_shared::Value;

/// A value as people read it; bytes in hexadecimal.
pub fn of_value(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(i) => json!(i),
        Value::Real(r) => json!(r),
        Value::Text(t) => json!(t),
        Value::Blob(b) => json!({ "hex": b.iter().map(|b| format!("{b:02x}")).collect::<String>() }),
    }
}

/// What is done to a row, in a word.
pub fn kind_name(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Insert => "insert",
        ChangeKind::Update => "update",
        ChangeKind::Delete => "delete",
    }
}

/// A change with the names of table and columns, as people read them.
pub fn of_change(infos: &[TableInfo], change: &Change) -> serde_json::Value {
    let info = infos.iter().find(|t| t.table.tag == change.table);
    let name = |tag: &u32| {
        let column = info.and_then(|t| t.position(*tag).map(|p| t.table.columns[p].name.clone()));
        column.unwrap_or_else(|| tag.to_string())
    };
    let row = |values: &[Value]| {
        let pairs = change.columns.iter().zip(values).map(|(tag, value)| (name(tag), of_value(value)));
        pairs.collect::<serde_json::Map<_, _>>()
    };
    json!({
        "table": info.map_or_else(|| change.table.to_string(), |t| t.table.name.clone()),
        "kind": kind_name(change.kind),
        "key": of_key(&change.key),
        "old": row(&change.old),
        "new": row(&change.new),
    })
}

/// A key, as a JSON array.
pub fn of_key(key: &[Value]) -> serde_json::Value {
    key.iter().map(of_value).collect()
}

/// Back from [`of_value`]. true and false are 1 and 0; arrays and other objects are their text, as json columns hold them.
pub fn to_value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(yes) => Value::Integer(i64::from(*yes)),
        serde_json::Value::Number(n) => n.as_i64().map_or_else(|| Value::Real(n.as_f64().unwrap_or(0.0)), Value::Integer),
        serde_json::Value::String(text) => Value::Text(text.clone()),
        serde_json::Value::Object(one) if one.len() == 1 => {
            let bytes = one.get("hex").and_then(|h| h.as_str()).and_then(bytes_of);
            bytes.map_or_else(|| Value::Text(json.to_string()), Value::Blob)
        }
        other => Value::Text(other.to_string()),
    }
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|pair| std::str::from_utf8(pair).ok().filter(|p| p.len() == 2).and_then(|p| u8::from_str_radix(p, 16).ok()))
        .collect()
}

/// Whether a text is JSON.
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}
