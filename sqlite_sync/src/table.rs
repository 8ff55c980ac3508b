//! A synced table as the device knows it, and the statements that follow from it.
//!
//! Values always stand in the order of the schema's columns (their tags), which is the order on the wire and in hashes.

use crate::damage;
use crate::error::Result;
use crate::host::{Db, Row};
use sync_shared::hash::Tag;
use sync_shared::message::{Affinity, Column, Table};
use sync_shared::{row, Value, ValueRef};

/// A table of the registry.
#[derive(Debug, Clone)]
pub struct TableInfo {
    /// Its number in this file.
    pub id: i64,
    /// As the server describes it.
    pub table: Table,
    /// No longer in the server's schema; kept until nothing unsent refers to it.
    pub retired: bool,
    /// Positions of the key columns, in key order.
    pub keys: Vec<usize>,
    /// The columns' tags.
    pub tags: Vec<Tag>,
    /// Positions of the columns whose values the server has encrypted.
    pub encrypted: Vec<usize>,
}

/// An identifier, quoted.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// All tables of the registry.
pub fn load(db: Db<'_>) -> Result<Vec<TableInfo>> {
    db.all("SELECT id, body, retired, name FROM main.sync_table ORDER BY id", &[], |row| {
        let table: Option<Table> = rmp_serde::from_slice(&row.blob(1)).ok().filter(|t| is_sound(t) && t.name == row.text(3));
        let table = table.ok_or_else(|| damage::of("a table of sync_table cannot be read"))?;
        Ok(TableInfo::new(row.integer(0), table, row.integer(2) != 0))
    })
}

/// What the other modules count on. schema.rs checks more, once, and says what is wrong.
pub fn is_sound(table: &Table) -> bool {
    let columns = &table.columns;
    let within = |list: &[u16]| !list.is_empty() && list.iter().all(|c| usize::from(*c) < columns.len());
    let mut keys: Vec<u16> = columns.iter().map(|c| c.key).filter(|k| *k > 0).collect();
    keys.sort_unstable();
    !keys.is_empty()
        && keys.iter().zip(1..).all(|(key, n)| *key == n)
        && columns.windows(2).all(|pair| pair[0].tag < pair[1].tag)
        && table.indexes.iter().all(|index| within(index))
        && table.references.iter().all(|reference| within(&reference.columns))
        && table.encrypted.iter().all(|c| columns.get(usize::from(*c)).is_some_and(may_be_encrypted))
}

/// Ciphertext is a blob, and neither tells rows apart nor comes from the server.
fn may_be_encrypted(column: &Column) -> bool {
    column.affinity == Affinity::Blob && column.key == 0 && !column.generated
}

impl TableInfo {
    /// What follows from a table's description.
    pub fn new(id: i64, table: Table, retired: bool) -> Self {
        let mut keys: Vec<usize> = (0..table.columns.len()).filter(|i| table.columns[*i].key > 0).collect();
        keys.sort_by_key(|i| table.columns[*i].key);
        let tags = table.columns.iter().map(|c| c.tag).collect();
        let encrypted = table.encrypted.iter().map(|c| usize::from(*c)).collect();
        TableInfo { id, table, retired, keys, tags, encrypted }
    }

    /// Its name, quoted.
    pub fn name(&self) -> String {
        format!("main.{}", quote(&self.table.name))
    }

    /// Whether its key is SQLite's own rowid.
    pub fn is_rowid(&self) -> bool {
        matches!(self.keys[..], [key] if self.table.columns[key].affinity == Affinity::Integer)
    }

    /// Its columns, each made by `with` from the quoted name and the position, with commas between.
    pub fn list(&self, with: impl Fn(&str, usize) -> String) -> String {
        let columns: Vec<_> = self.table.columns.iter().enumerate().map(|(i, c)| with(&quote(&c.name), i)).collect();
        columns.join(", ")
    }

    /// Its key columns, joined.
    pub fn key_list(&self, separator: &str, with: impl Fn(&str, usize) -> String) -> String {
        let columns: Vec<_> = self.keys.iter().enumerate().map(|(i, k)| with(&quote(&self.table.columns[*k].name), i)).collect();
        columns.join(separator)
    }

    /// `k1 = ?1 AND k2 = ?2`.
    pub fn by_key(&self) -> String {
        self.key_list(" AND ", |c, i| format!("{c} = ?{}", i + 1))
    }

    /// Reads a row by its key.
    pub fn select(&self) -> String {
        format!("SELECT {} FROM {} WHERE {}", self.list(|c, _| c.into()), self.name(), self.by_key())
    }

    /// Writes a row, whether or not it is there.
    pub fn upsert(&self) -> String {
        let others: Vec<_> =
            self.table.columns.iter().filter(|c| c.key == 0).map(|c| format!("{0} = excluded.{0}", quote(&c.name))).collect();
        let action = if others.is_empty() { "NOTHING".into() } else { format!("UPDATE SET {}", others.join(", ")) };
        format!(
            "INSERT INTO {}({}) VALUES ({}) ON CONFLICT({}) DO {action}",
            self.name(),
            self.list(|c, _| c.into()),
            self.list(|_, i| format!("?{}", i + 1)),
            self.key_list(", ", |c, _| c.into())
        )
    }

    /// Writes so many rows that are not there.
    pub fn insert(&self, rows: usize) -> String {
        let row = format!("({})", self.list(|_, _| "?".into()));
        format!("INSERT OR FAIL INTO {}({}) VALUES {}", self.name(), self.list(|c, _| c.into()), vec![row; rows].join(", "))
    }

    /// Removes a row by its key.
    pub fn delete(&self) -> String {
        format!("DELETE FROM {} WHERE {}", self.name(), self.by_key())
    }

    /// The key of a row.
    pub fn key_of(&self, row: &[Value]) -> Key {
        Key(self.keys.iter().map(|k| row.get(*k).cloned().unwrap_or_default()).collect())
    }

    /// Forgets the ciphertext that is kept beside a row's encrypted columns.
    pub fn forget_ciphertext(&self, db: Db<'_>, key: &Key) -> Result<()> {
        if self.encrypted.is_empty() {
            return Ok(());
        }
        let mut scratch = Vec::new();
        let binds = [ValueRef::Integer(self.id), key.stored(&mut scratch)];
        db.run("DELETE FROM main.sync_cipher WHERE tbl = ?1 AND key = ?2", &binds)
    }

    /// The position of a column.
    pub fn position(&self, tag: Tag) -> Option<usize> {
        self.tags.binary_search(&tag).ok()
    }

    /// Whether a value comes back from a column exactly as it was bound: it has the column's own storage class.
    pub fn is_exact(&self, column: usize, value: ValueRef<'_>) -> bool {
        match (self.table.columns[column].affinity, value) {
            (_, ValueRef::Null | ValueRef::Blob(_)) => true,
            (Affinity::Integer, ValueRef::Integer(_)) | (Affinity::Text, ValueRef::Text(_)) => true,
            // Integral reals are stored as integers and come back as reals; NaN would become NULL.
            (Affinity::Real, ValueRef::Real(r)) => !r.is_nan(),
            (Affinity::Blob, ValueRef::Integer(_) | ValueRef::Text(_)) => true,
            (Affinity::Blob, ValueRef::Real(r)) => !r.is_nan(),
            _ => false,
        }
    }
}

/// A row's key, in key order.
#[derive(Debug, Clone, PartialEq)]
pub struct Key(pub Vec<Value>);

impl Key {
    /// The key as one value, as `sync_row` and the like hold it: itself, or the bytes of a composite one.
    pub fn stored<'a>(&'a self, scratch: &'a mut Vec<u8>) -> ValueRef<'a> {
        if let [one] = &self.0[..] {
            return one.as_ref();
        }
        scratch.clear();
        row::put_all(scratch, self.0.iter().map(Value::as_ref));
        ValueRef::Blob(scratch)
    }

    /// Back from [`Key::stored`].
    pub fn from_stored(value: ValueRef<'_>, columns: usize) -> Result<Key> {
        let key = match value {
            ValueRef::Blob(bytes) if columns > 1 => row::decode(bytes).ok().filter(|key| key.len() == columns).map(Key),
            other if columns == 1 => Some(Key(vec![other.to_owned()])),
            _ => None,
        };
        key.ok_or_else(|| damage::of("a key that is kept cannot be read"))
    }

    /// Bytes that tell keys apart in maps.
    pub fn bytes(&self) -> Vec<u8> {
        row::encode(&self.0)
    }

    /// For binding.
    pub fn refs(&self) -> Vec<ValueRef<'_>> {
        self.0.iter().map(Value::as_ref).collect()
    }
}

/// A result row's columns from `from` on.
pub fn values(row: &Row<'_>, from: usize, count: usize) -> Vec<Value> {
    (from..from + count).map(|i| row.value(i).to_owned()).collect()
}
