//! Encrypted columns: the value is in the application's table, and its ciphertext in whatever travels.
//!
//! `sync_cipher` has, beside each encrypted value of a row, the bytes that the server has of it. So sums and what a change started from
//! are the server's to the last byte, whatever key made them, and whether or not this connection knows it. It is made with the first
//! table that has such a column.
//!
//! What must stay true: rows in tables, shadows, the log and unsent changes are as the application sees them; what is summed, and what
//! leaves the device, is as the server sees it. A value that cannot be decrypted stands in the table as its ciphertext.

use crate::error::{Error, Result};
use crate::host::{Answer, Db};
use crate::keyring::{Opened, KEY, KEYS};
use crate::meta;
use crate::seal;
use crate::store::{while_applying, Store};
use crate::table::{Key, TableInfo};
use crate::transaction::transaction;
use crate::{file, trust};
use sync_shared::encrypted::place;
use sync_shared::hash::{self, RowHash, Tag};
use sync_shared::message::{Cell, Change};
use sync_shared::{row, Value, ValueRef};
use uuid::Uuid;
use zeroize::Zeroizing;

/// Makes what these tables need.
pub fn prepare(db: Db<'_>) -> Result<()> {
    // own: 0 the server's, 1 what this device sent last. readable: 0 it stands in the table as it is here. value: of what was sent, so that
    // it is known also where it comes back to a connection without the key.
    db.run(
        "CREATE TABLE IF NOT EXISTS main.sync_cipher(tbl INTEGER NOT NULL, key, tag INTEGER NOT NULL, own INTEGER NOT NULL, \
         body BLOB NOT NULL, readable INTEGER NOT NULL, value BLOB, PRIMARY KEY(tbl, key, tag, own)) WITHOUT ROWID",
        &[],
    )?;
    db.run("CREATE INDEX IF NOT EXISTS main.sync_cipher_unread ON sync_cipher(tbl, key) WHERE NOT readable", &[])
}

/// Whether any table has an encrypted column.
pub fn any(infos: &[TableInfo]) -> bool {
    infos.iter().any(|info| !info.encrypted.is_empty())
}

/// The key as the server writes it: what a device writes otherwise comes back so.
fn place_of(info: &TableInfo, column: usize, key: &[Value]) -> Vec<u8> {
    let canonical = |(position, value): (&usize, &Value)| match value {
        Value::Text(text) if info.table.columns[*position].pg_type == "pg_catalog.uuid" => {
            Uuid::parse_str(text).map_or(value.clone(), |uuid| Value::Text(uuid.to_string()))
        }
        _ => value.clone(),
    };
    let key: Vec<Value> = info.keys.iter().zip(key).map(canonical).collect();
    place(info.table.tag, info.tags[column], &key)
}

fn plain(bytes: &[u8]) -> Option<Value> {
    row::decode(bytes).ok().filter(|values| values.len() == 1).and_then(|mut values| values.pop())
}

/// The bytes that are kept of a value: the server's, then what this device sent.
fn kept(db: Db<'_>, info: &TableInfo, column: usize, key: &Key) -> Result<Vec<Vec<u8>>> {
    let mut scratch = Vec::new();
    let binds = [ValueRef::Integer(info.id), key.stored(&mut scratch), ValueRef::Integer(i64::from(info.tags[column]))];
    db.all("SELECT body FROM main.sync_cipher WHERE tbl = ?1 AND key = ?2 AND tag = ?3 ORDER BY own", &binds, |r| Ok(r.blob(0)))
}

/// Keeps the server's bytes of a value, or those that are sent of this one.
fn keep(db: Db<'_>, info: &TableInfo, column: usize, key: &Key, body: &[u8], readable: bool, sent: Option<&Value>) -> Result<()> {
    let (mut scratch, sent) = (Vec::new(), sent.map(|value| row::encode(std::slice::from_ref(value))));
    db.run(
        "INSERT OR REPLACE INTO main.sync_cipher VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        &[
            ValueRef::Integer(info.id),
            key.stored(&mut scratch),
            ValueRef::Integer(i64::from(info.tags[column])),
            ValueRef::Integer(i64::from(sent.is_some())),
            ValueRef::Blob(body),
            ValueRef::Integer(i64::from(readable)),
            sent.as_deref().map_or(ValueRef::Null, ValueRef::Blob),
        ],
    )
}

/// Forgets what is kept of a table.
pub fn forget_table(db: Db<'_>, info: &TableInfo) -> Result<()> {
    match info.encrypted.is_empty() {
        true => Ok(()),
        false => db.run("DELETE FROM main.sync_cipher WHERE tbl = ?1", &[ValueRef::Integer(info.id)]),
    }
}

/// The server's row as the application will see it; `before`: as it was here.
pub fn received(db: Db<'_>, info: &TableInfo, values: &[ValueRef<'_>], before: Option<&[Value]>) -> Result<Vec<Value>> {
    let mut row: Vec<Value> = values.iter().map(|value| (*value).to_owned()).collect();
    let key = info.key_of(&row);
    let mut found = Vec::new();
    for column in &info.encrypted {
        let Value::Blob(body) = &row[*column] else { continue };
        let value = match db.keys().open(&place_of(info, *column, &key.0), body) {
            Opened::Plain(bytes) => plain(&bytes),
            Opened::Unknown => known(db, info, *column, &key, body, before)?,
            Opened::Wrong => None,
        };
        found.push((*column, value));
    }
    info.forget_ciphertext(db, &key)?;
    for (column, value) in found {
        let Value::Blob(body) = &row[column] else { continue };
        keep(db, info, column, &key, body, value.is_some(), None)?;
        if let Some(value) = value {
            row[column] = value;
        }
    }
    Ok(row)
}

/// What is in bytes that came before, or that this device made, when their key was at hand.
fn known(db: Db<'_>, info: &TableInfo, column: usize, key: &Key, body: &[u8], before: Option<&[Value]>) -> Result<Option<Value>> {
    let mut scratch = Vec::new();
    let tag = ValueRef::Integer(i64::from(info.tags[column]));
    let binds = [ValueRef::Integer(info.id), key.stored(&mut scratch), tag, ValueRef::Blob(body)];
    let sql = "SELECT own, value FROM main.sync_cipher WHERE tbl = ?1 AND key = ?2 AND tag = ?3 AND body = ?4 AND readable ORDER BY own DESC";
    let found = db.first(sql, &binds, |r| Ok((r.integer(0) != 0, r.blob(1))))?;
    Ok(match found {
        Some((true, value)) => plain(&value),
        Some((false, _)) => before.map(|row| row[column].clone()),
        None => None,
    })
}

/// The hash of a row that is stored here, as the server's row hashes if nothing but decryption lies between the two.
pub fn hash_of(db: Db<'_>, info: &TableInfo, row: &[Value], scratch: &mut Vec<u8>) -> Result<RowHash> {
    let hash = |row: &[Value], scratch: &mut Vec<u8>| {
        hash::row_hash_of(info.table.tag, &info.tags, row.iter().map(Value::as_ref), scratch)
    };
    if info.encrypted.is_empty() {
        return Ok(hash(row, scratch));
    }
    Ok(hash(&as_sent(db, info, row.to_vec())?, scratch))
}

/// A row that is stored here as the server has sent it, if nothing but decryption lies between the two.
pub fn as_sent(db: Db<'_>, info: &TableInfo, row: Vec<Value>) -> Result<Vec<Value>> {
    let (key, mut theirs) = (info.key_of(&row), row);
    for column in &info.encrypted {
        if theirs[*column].is_null() {
            continue;
        }
        let Some(body) = kept(db, info, *column, &key)?.into_iter().next() else { continue };
        let is_it = match db.keys().open(&place_of(info, *column, &key.0), &body) {
            Opened::Plain(bytes) => plain(&bytes).as_ref() == Some(&theirs[*column]),
            // Nothing can be said against it without the key.
            Opened::Unknown => true,
            Opened::Wrong => false,
        };
        if is_it {
            theirs[*column] = Value::Blob(body);
        }
    }
    Ok(theirs)
}

/// One value as the server has it, or is to have it; None: there is no key. `fresh`: the newest key makes it, whatever was before.
fn to_send(db: Db<'_>, info: &TableInfo, column: usize, key: &Key, value: &Value, fresh: bool) -> Result<Option<Value>> {
    if value.is_null() {
        return Ok(Some(Value::Null));
    }
    let place = place_of(info, column, &key.0);
    for body in kept(db, info, column, key)? {
        let is_it = || matches!(db.keys().open(&place, &body), Opened::Plain(bytes) if plain(&bytes).as_ref() == Some(value));
        if matches!(value, Value::Blob(bytes) if *bytes == body) || !fresh && is_it() {
            return Ok(Some(Value::Blob(body)));
        }
    }
    // What could not be decrypted, of a row that is gone.
    if matches!(value, Value::Blob(bytes) if matches!(db.keys().open(&place, bytes), Opened::Unknown)) {
        return Ok(Some(value.clone()));
    }
    Ok(db.keys().encrypt(&place, &row::encode(std::slice::from_ref(value))).map(Value::Blob))
}

/// Changes as they are sent; None: a key is needed that nobody has set.
pub fn to_be_sent(db: Db<'_>, infos: &[TableInfo], mut changes: Vec<Change>) -> Result<Option<Vec<Change>>> {
    if !any(infos) {
        return Ok(Some(changes));
    }
    for change in &mut changes {
        let info = infos.iter().find(|info| info.table.tag == change.table && !info.encrypted.is_empty());
        if let Some(info) = info {
            if !change_to_be_sent(db, info, change)? {
                return Ok(None);
            }
        }
    }
    Ok(Some(changes))
}

fn change_to_be_sent(db: Db<'_>, info: &TableInfo, change: &mut Change) -> Result<bool> {
    let key = Key(change.key.clone());
    let column_of = |tag: &Tag| info.position(*tag).filter(|column| info.encrypted.contains(column));
    for (i, tag) in change.columns.iter().enumerate() {
        let Some(column) = column_of(tag) else { continue };
        if let Some(old) = change.old.get_mut(i) {
            let Some(sent) = to_send(db, info, column, &key, old, false)? else { return Ok(false) };
            *old = sent;
        }
        if let Some(new) = change.new.get_mut(i) {
            let Some(sent) = to_send(db, info, column, &key, new, true)? else { return Ok(false) };
            if let Value::Blob(body) = &sent {
                keep(db, info, column, &key, body, true, Some(new))?;
            }
            *new = sent;
        }
    }
    for (tag, value) in change.rest.iter_mut().flatten().chain(&mut change.below) {
        let Some(column) = column_of(tag) else { continue };
        let Some(sent) = to_send(db, info, column, &key, value, false)? else { return Ok(false) };
        *value = sent;
    }
    Ok(true)
}

/// Says whether unsent writes wait for a key.
pub fn note_waiting(db: Db<'_>, infos: &[TableInfo], waits: bool) -> Result<()> {
    if !any(infos) {
        return Ok(());
    }
    match waits {
        true => meta::set(
            db,
            "key_problem",
            ValueRef::Text("writes to encrypted columns wait for a key, and what was written after them: call sync_set_key"),
        ),
        false => db.run("DELETE FROM main.sync_meta WHERE name = 'key_problem'", &[]),
    }
}

/// What a record of the server says of a column, as people read it.
pub fn readable(db: Db<'_>, info: Option<&TableInfo>, key: &[Value], column: Option<Tag>, value: &Value) -> Value {
    let opened = || {
        let info = info.filter(|info| info.keys.len() == key.len())?;
        let column = info.position(column?).filter(|column| info.encrypted.contains(column))?;
        let Value::Blob(bytes) = value else { return None };
        match db.keys().open(&place_of(info, column, key), bytes) {
            Opened::Plain(bytes) => plain(&bytes),
            Opened::Unknown | Opened::Wrong => None,
        }
    };
    opened().unwrap_or_else(|| value.clone())
}

/// Counts the values that cannot be decrypted.
pub fn count(db: Db<'_>, infos: &[TableInfo]) -> Result<()> {
    if !any(infos) {
        return Ok(());
    }
    let count = db.number("SELECT count(*) FROM main.sync_cipher WHERE NOT readable", &[])?;
    meta::set_number(db, "unreadable", count)
}

/// `sync_set_key`: keys for this connection, the newest first; none: it has none any longer. What they decrypt becomes readable.
pub fn set_keys(db: Db<'_>, keys: &[ValueRef<'_>]) -> Result<Answer> {
    if !db.autocommit() {
        return Err(Error::plain("sync_set_key cannot work inside an open transaction: COMMIT first, then call it on its own"));
    }
    let given = keys.iter().filter(|key| **key != ValueRef::Null);
    let secrets = given.map(read).collect::<Result<Vec<_>>>()?;
    if secrets.len() > KEYS {
        return Err(Error::plain(format!(
            "sync_set_key takes at most {KEYS} keys: leave out those that nothing is encrypted with any longer"
        )));
    }
    db.keys().set(&secrets);
    if !secrets.is_empty() && file::present(db)? {
        transaction(db, || reveal(&mut Store::open(db)?))?;
    }
    Ok(Answer::Integer(secrets.len() as i64))
}

fn read(key: &ValueRef<'_>) -> Result<Zeroizing<[u8; KEY]>> {
    let bytes = match key {
        ValueRef::Blob(bytes) => <[u8; KEY]>::try_from(*bytes).ok(),
        ValueRef::Text(text) => trust::bytes_of(text),
        _ => None,
    };
    let wrong =
        "sync_set_key takes keys of 32 bytes, the newest first: each as a blob, or as 64 hexadecimal digits; NULL forgets them";
    bytes.map(Zeroizing::new).ok_or_else(|| Error::plain(wrong))
}

fn reveal(store: &mut Store<'_>) -> Result<()> {
    if !any(&store.infos) {
        return Ok(());
    }
    // What the application wrote since is a difference to what it saw then.
    seal::seal(store)?;
    let rows = store.keys_of("SELECT DISTINCT tbl, key FROM main.sync_cipher WHERE NOT readable", &[])?;
    while_applying(store, |store| rows.iter().try_for_each(|(at, key)| reveal_row(store, *at, key)))?;
    count(store.db, &store.infos)
}

fn reveal_row(store: &mut Store<'_>, at: usize, key: &Key) -> Result<()> {
    let db = store.db;
    let Some(mut row) = store.server_version(at, key)? else { return Ok(()) };
    let mut changed = false;
    for column in store.infos[at].encrypted.clone() {
        let info = &store.infos[at];
        let Value::Blob(body) = &row[column] else { continue };
        let Opened::Plain(bytes) = db.keys().open(&place_of(info, column, &key.0), body) else { continue };
        let Some(value) = plain(&bytes) else { continue };
        keep(db, info, column, key, body, true, None)?;
        row[column] = value;
        changed = true;
    }
    if !changed {
        return Ok(());
    }
    let values: Vec<ValueRef<'_>> = row.iter().map(Value::as_ref).collect();
    if let Some(shadow) = store.shadow(at, key)? {
        store.set_shadow(at, key, Some(&values), shadow.error.as_deref())?;
        return store.settle(at, key);
    }
    if let Err(error) = store.write(at, &values) {
        let reason = store.set_aside(error)?;
        store.set_shadow(at, key, Some(&values), Some(&reason))?;
    }
    Ok(())
}

/// Bytes that encryption adds to a change.
pub fn overhead(info: &TableInfo, change: &Change) -> usize {
    let cells = |cells: &[Cell]| cells.len();
    let values = change.old.len() + change.new.len() + change.rest.as_deref().map_or(0, cells) + change.below.len();
    if info.encrypted.is_empty() {
        0
    } else {
        values * (sync_shared::encrypted::OVERHEAD + 8)
    }
}
