//! The single values that the library remembers.

use crate::damage;
use crate::error::Result;
use crate::host::Db;
use std::time::{SystemTime, UNIX_EPOCH};
use sync_shared::{Value, ValueRef};
use uuid::Uuid;

/// A remembered value; NULL when there is none.
pub fn get(db: Db<'_>, name: &str) -> Result<Value> {
    let value =
        db.first("SELECT value FROM main.sync_meta WHERE name = ?1", &[ValueRef::Text(name)], |row| Ok(row.value(0).to_owned()))?;
    Ok(value.unwrap_or_default())
}

/// A remembered number; 0 when there is none.
pub fn number(db: Db<'_>, name: &str) -> Result<i64> {
    Ok(if let Value::Integer(i) = get(db, name)? { i } else { 0 })
}

/// A remembered text; empty when there is none.
pub fn text(db: Db<'_>, name: &str) -> Result<String> {
    Ok(if let Value::Text(t) = get(db, name)? { t } else { String::new() })
}

/// Remembered bytes; empty when there are none.
pub fn blob(db: Db<'_>, name: &str) -> Result<Vec<u8>> {
    Ok(if let Value::Blob(b) = get(db, name)? { b } else { Vec::new() })
}

/// Remembers a value.
pub fn set(db: Db<'_>, name: &str, value: ValueRef<'_>) -> Result<()> {
    db.run("INSERT OR REPLACE INTO main.sync_meta VALUES (?1, ?2)", &[ValueRef::Text(name), value])
}

/// Remembers a number.
pub fn set_number(db: Db<'_>, name: &str, value: i64) -> Result<()> {
    set(db, name, ValueRef::Integer(value))
}

/// From now on replies to earlier pulls are too late.
pub fn next_turn(db: Db<'_>) -> Result<()> {
    // A random number that is not zero.
    set_number(db, "turn", (Uuid::new_v4().as_u128() as i64) | 1)
}

/// A setting that the application may change; the default where it is missing or no number.
pub fn setting(db: Db<'_>, name: &str, default: i64) -> Result<i64> {
    let value =
        db.first("SELECT value FROM main.sync_setting WHERE name = ?1", &[ValueRef::Text(name)], |row| Ok(row.integer(0)))?;
    Ok(value.filter(|v| *v > 0).unwrap_or(default))
}

/// This file's device id.
pub fn device(db: Db<'_>) -> Result<Uuid> {
    Uuid::parse_str(&text(db, "device")?).map_err(|_| damage::of("sync_meta has no device id"))
}

/// Microseconds since 1970 UTC.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}
