//! Rows of synced tables: the visible ones, and the shadows that hold the server's version where the two differ.
//!
//! What must stay true: a key without a shadow shows exactly the server's row. A key has a shadow while an unconfirmed batch
//! touches it, or while its row could not be written (`error`); [`Store::settle`] alone decides when it goes.

use crate::damage;
use crate::error::{Error, Result};
use crate::host::{Db, Later};
use crate::meta;
use crate::seal;
use crate::table::{self, values, Key, TableInfo};
use std::collections::HashMap;
use sync_shared::hash::Tag;
use sync_shared::limits;
use sync_shared::message::{Cell, Change, ChangeKind};
use sync_shared::{row, Value, ValueRef};

/// A row, or that there is none.
pub type MaybeRow = Option<Vec<Value>>;

/// Names a row: the table's place in [`Store::infos`], and [`Key::bytes`].
pub type Place = (usize, Vec<u8>);

/// Rows that [`Store::insert`] writes.
pub const MANY: usize = 32;

/// The tables, with the statements that one call needs again and again.
pub struct Store<'c> {
    pub db: Db<'c>,
    pub infos: Vec<TableInfo>,
    rows: Vec<Option<RowStatements<'c>>>,
    get_shadow: Later<'c>,
    set_shadow: Later<'c>,
    drop_shadow: Later<'c>,
    pending: Later<'c>,
    /// What a publish wrote, kept only where triggers of the application may have changed it again.
    pub written: Option<HashMap<Place, MaybeRow>>,
}

struct RowStatements<'c> {
    select: Later<'c>,
    upsert: Later<'c>,
    insert: Later<'c>,
    delete: Later<'c>,
}

/// The server's version of a row.
pub struct Shadow {
    pub row: MaybeRow,
    pub error: Option<String>,
}

impl<'c> Store<'c> {
    pub fn open(db: Db<'c>) -> Result<Self> {
        let infos = table::load(db)?;
        Ok(Store {
            db,
            rows: infos.iter().map(|_| None).collect(),
            infos,
            get_shadow: db.later("SELECT body, error FROM main.sync_shadow WHERE tbl = ?1 AND key = ?2"),
            set_shadow: db.later("INSERT OR REPLACE INTO main.sync_shadow VALUES (?1, ?2, ?3, ?4)"),
            drop_shadow: db.later("DELETE FROM main.sync_shadow WHERE tbl = ?1 AND key = ?2"),
            pending: db.later(
                "SELECT c.id, c.batch, b.bytes, b.state IN (0, 4), coalesce(b.number, 0), c.body FROM main.sync_change c JOIN main.sync_batch b ON b.id = c.batch \
                 WHERE c.tbl = ?1 AND c.key = ?2 AND b.replay = 1 AND b.state IN (0, 1, 4) ORDER BY c.id",
            ),
            written: None,
        })
    }

    /// The place of the table with this tag.
    pub fn by_tag(&self, tag: Tag) -> Result<usize> {
        self.infos
            .iter()
            .position(|t| t.table.tag == tag)
            .ok_or_else(|| Error::damaged(format_args!("table tag {tag} is not in the schema")))
    }

    /// The place of the table with this number.
    pub fn by_id(&self, id: i64) -> Option<usize> {
        self.infos.iter().position(|t| t.id == id)
    }

    fn statements(&mut self, at: usize) -> Result<&mut RowStatements<'c>> {
        let (info, db) = (&self.infos[at], self.db);
        let slot = &mut self.rows[at];
        if slot.is_none() {
            *slot = Some(RowStatements {
                select: db.later(info.select()),
                upsert: db.later(info.upsert()),
                insert: db.later(info.insert(MANY)),
                delete: db.later(info.delete()),
            });
        }
        slot.as_mut().ok_or_else(|| Error::plain("a statement is missing"))
    }

    /// The visible row.
    pub fn visible(&mut self, at: usize, key: &Key) -> Result<MaybeRow> {
        let count = self.infos[at].tags.len();
        self.statements(at)?.select.first(&key.refs(), |row| Ok(values(row, 0, count)))
    }

    /// Writes the visible row.
    pub fn write(&mut self, at: usize, row: &[ValueRef<'_>]) -> Result<()> {
        self.statements(at)?.upsert.run(row)?;
        if self.written.is_some() {
            let row: Vec<Value> = row.iter().map(|v| (*v).to_owned()).collect();
            let place = (at, self.infos[at].key_of(&row).bytes());
            self.written.get_or_insert_default().insert(place, Some(row));
        }
        Ok(())
    }

    /// Writes [`MANY`] rows that are not there, one after the other in `rows`, with one statement. On an error those before the one
    /// that it is about are written.
    pub fn insert(&mut self, at: usize, rows: &[ValueRef<'_>]) -> Result<()> {
        self.statements(at)?.insert.run(rows)
    }

    /// Removes the visible row.
    pub fn remove(&mut self, at: usize, key: &Key) -> Result<()> {
        self.statements(at)?.delete.run(&key.refs())?;
        if let Some(written) = &mut self.written {
            written.insert((at, key.bytes()), None);
        }
        Ok(())
    }

    fn show(&mut self, at: usize, key: &Key, row: &MaybeRow) -> Result<()> {
        match row {
            Some(row) => self.write(at, &row.iter().map(Value::as_ref).collect::<Vec<_>>()),
            None => self.remove(at, key),
        }
    }

    /// The server's version, where it is kept apart.
    pub fn shadow(&mut self, at: usize, key: &Key) -> Result<Option<Shadow>> {
        let (info, mut scratch) = (&self.infos[at], Vec::new());
        self.get_shadow.first(&[ValueRef::Integer(info.id), key.stored(&mut scratch)], |row| {
            let body = match row.value(0) {
                ValueRef::Blob(bytes) => Some(unpack(info, bytes)?),
                _ => None,
            };
            Ok(Shadow { row: body, error: if let ValueRef::Text(t) = row.value(1) { Some(t.to_owned()) } else { None } })
        })
    }

    /// The server's version, wherever it is.
    pub fn server_version(&mut self, at: usize, key: &Key) -> Result<MaybeRow> {
        match self.shadow(at, key)? {
            Some(shadow) => Ok(shadow.row),
            None => self.visible(at, key),
        }
    }

    /// Keeps the server's version apart.
    pub fn set_shadow(&mut self, at: usize, key: &Key, row: Option<&[ValueRef<'_>]>, error: Option<&str>) -> Result<()> {
        let (info, mut scratch) = (&self.infos[at], Vec::new());
        let body = row.map(|row| pack(info, row));
        let body = body.as_ref().map_or(ValueRef::Null, |b| ValueRef::Blob(b));
        let error = error.map_or(ValueRef::Null, ValueRef::Text);
        self.set_shadow.run(&[ValueRef::Integer(info.id), key.stored(&mut scratch), body, error])
    }

    /// The changes of unconfirmed batches to one row, in order.
    fn pending(&mut self, at: usize, key: &Key) -> Result<Vec<Pending>> {
        let mut scratch = Vec::new();
        self.pending.all(&[ValueRef::Integer(self.infos[at].id), key.stored(&mut scratch)], |row| {
            let (id, batch) = (row.integer(0), row.integer(1));
            let (bytes, waits, number) = (row.integer(2), row.integer(3) != 0, row.integer(4));
            Ok(Pending { id, batch, bytes, waits, number, change: unpack_change(&row.blob(5))? })
        })
    }

    /// Keeps in the updates that wait what else their row has, before the server's version of it goes: they can make it again. Not
    /// of a row that the server never had; it has this device's batches up to the number `included`.
    pub fn keep_rest(&mut self, at: usize, key: &Key, included: i64) -> Result<()> {
        let mut row = self.shadow(at, key)?.and_then(|shadow| shadow.row);
        let mut only_here = false;
        for Pending { id, batch, bytes, waits, number, mut change } in self.pending(at, key)? {
            if row.is_none() {
                only_here = change.kind == ChangeKind::Insert && waits && !(1..=included).contains(&number);
            }
            let known =
                row.as_ref().filter(|_| !only_here && waits && change.kind == ChangeKind::Update && change.rest.is_none());
            if let Some(known) = known {
                let before = pack_change(&change)?.len();
                change.rest = rest_of(&self.infos[at], known, &change);
                let body = pack_change(&change)?;
                let bytes = bytes.saturating_add(body.len() as i64 - before as i64);
                // One that is too large to be sent like this stays as it is.
                if bytes <= limits::BATCH_BYTES as i64 {
                    let binds = [ValueRef::Integer(id), ValueRef::Blob(&body)];
                    self.db.run("UPDATE main.sync_change SET body = ?2 WHERE id = ?1", &binds)?;
                    let binds = [ValueRef::Integer(batch), ValueRef::Integer(bytes)];
                    self.db.run("UPDATE main.sync_batch SET bytes = ?2 WHERE id = ?1", &binds)?;
                }
            }
            row = replay(&self.infos[at], row, &change);
        }
        Ok(())
    }

    /// Makes the visible row the server's version plus the pending changes, replayed in order; without any the shadow goes.
    ///
    /// A row that cannot be written stays as it is, with the reason in its shadow; it is tried again at each publish.
    pub fn settle(&mut self, at: usize, key: &Key) -> Result<()> {
        let Some(shadow) = self.shadow(at, key)? else { return Ok(()) };
        let pending = self.pending(at, key)?;
        let mut row = shadow.row.clone();
        for pending in &pending {
            row = replay(&self.infos[at], row, &pending.change);
        }
        let error = match self.show(at, key, &row) {
            Ok(()) => None,
            Err(error) => Some(self.set_aside(error)?),
        };
        if pending.is_empty() && error.is_none() {
            if row.is_none() {
                self.infos[at].forget_ciphertext(self.db, key)?;
            }
            let mut scratch = Vec::new();
            return self.drop_shadow.run(&[ValueRef::Integer(self.infos[at].id), key.stored(&mut scratch)]);
        }
        if error != shadow.error {
            let row: Option<Vec<_>> = shadow.row.as_ref().map(|r| r.iter().map(Value::as_ref).collect());
            self.set_shadow(at, key, row.as_deref(), error.as_deref())?;
        }
        Ok(())
    }

    /// The reason to keep a row apart, or the error itself when it is not about this row alone.
    pub fn set_aside(&self, error: Error) -> Result<String> {
        if !error.is_constraint() {
            return Err(error);
        }
        if self.db.autocommit() {
            return Err(Error::plain(format!("a trigger of the application undid the whole publish with RAISE(ROLLBACK) ({error}): use RAISE(ABORT) there, which sets only the row aside")));
        }
        Ok(error.to_string())
    }

    /// The same for the rows of a batch that is about to be confirmed and that the server does not have.
    pub fn keep_rest_behind(&mut self, batch: i64, included: i64) -> Result<()> {
        let sql = "SELECT c.tbl, c.key FROM main.sync_change c JOIN main.sync_shadow s ON s.tbl = c.tbl AND s.key = c.key \
                   WHERE c.batch = ?1 AND s.body IS NULL";
        for (at, key) in self.keys_of(sql, &[ValueRef::Integer(batch)])? {
            self.keep_rest(at, &key, included)?;
        }
        Ok(())
    }

    /// Settles every row that a batch touches.
    pub fn settle_batch(&mut self, batch: i64) -> Result<()> {
        for (at, key) in self.keys_of("SELECT tbl, key FROM main.sync_change WHERE batch = ?1", &[ValueRef::Integer(batch)])? {
            self.settle(at, &key)?;
        }
        Ok(())
    }

    /// Table and key from a query that selects them.
    pub fn keys_of(&self, sql: &str, binds: &[ValueRef<'_>]) -> Result<Vec<(usize, Key)>> {
        let found = self.db.all(sql, binds, |row| {
            let at = self.by_id(row.integer(0));
            at.map(|at| Ok((at, Key::from_stored(row.value(1), self.infos[at].keys.len())?))).transpose()
        })?;
        Ok(found.into_iter().flatten().collect())
    }
}

/// One change of an unconfirmed batch.
struct Pending {
    id: i64,
    batch: i64,
    /// The batch's size.
    bytes: i64,
    /// The server has not answered it.
    waits: bool,
    /// The batch's; 0 for none.
    number: i64,
    change: Change,
}

/// The columns of a row that an update does not change.
pub fn rest_of(info: &TableInfo, row: &[Value], change: &Change) -> Option<Vec<Cell>> {
    let is_other = |i: usize| !info.keys.contains(&i) && !row[i].is_null() && !change.columns.contains(&info.tags[i]);
    let others = (0..row.len()).filter(|i| is_other(*i));
    (change.kind == ChangeKind::Update).then(|| others.map(|i| (info.tags[i], row[i].clone())).collect())
}

/// One pending change on top of a row.
fn replay(info: &TableInfo, row: MaybeRow, change: &Change) -> MaybeRow {
    let mut row = match (change.kind, row, &change.rest) {
        (ChangeKind::Delete, ..) | (ChangeKind::Update, None, None) => return None,
        (_, Some(row), _) => row,
        (_, None, rest) => {
            let mut row = vec![Value::Null; info.tags.len()];
            for (k, value) in info.keys.iter().zip(&change.key) {
                row[*k] = value.clone();
            }
            for (tag, value) in rest.iter().flatten() {
                if let Some(at) = info.position(*tag) {
                    row[at] = value.clone();
                }
            }
            row
        }
    };
    for (tag, value) in change.columns.iter().zip(&change.new) {
        if let Some(at) = info.position(*tag) {
            row[at] = value.clone();
        }
    }
    Some(row)
}

/// A row with its columns' tags, so that it survives changes of the schema.
pub fn pack(info: &TableInfo, row: &[ValueRef<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, value) in info.tags.iter().zip(row).filter(|(_, v)| **v != ValueRef::Null) {
        row::put(&mut out, ValueRef::Integer(i64::from(*tag)));
        row::put(&mut out, *value);
    }
    out
}

pub fn unpack(info: &TableInfo, bytes: &[u8]) -> Result<Vec<Value>> {
    let mut row = vec![Value::Null; info.tags.len()];
    let mut reader = row::Reader::new(bytes);
    while !reader.is_empty() {
        let pair = reader.value().and_then(|tag| Ok((tag, reader.value()?)));
        let (tag, value) = pair.map_err(|_| damage::of("a row that is kept cannot be read"))?;
        if let ValueRef::Integer(tag) = tag {
            if let Some(at) = Tag::try_from(tag).ok().and_then(|t| info.position(t)) {
                row[at] = value.to_owned();
            }
        }
    }
    Ok(row)
}

/// A change as `sync_change` holds it.
pub fn pack_change(change: &Change) -> Result<Vec<u8>> {
    rmp_serde::to_vec(change).map_err(|e| Error::plain(e.to_string()))
}

/// Back from [`pack_change`].
pub fn unpack_change(bytes: &[u8]) -> Result<Change> {
    rmp_serde::from_slice(bytes).map_err(|_| damage::of("a change of sync_change cannot be read"))
}

/// Runs `body` with the triggers of this connection as the tables need them.
///
/// Without triggers of the application on synced tables all are switched off; otherwise `applying` is set for them.
pub fn while_applying<T>(store: &mut Store<'_>, body: impl FnOnce(&mut Store<'_>) -> Result<T>) -> Result<T> {
    let (mut body, mut value) = (Some(body), None);
    applying(store, &mut |store| {
        value = body.take().map(|body| body(store)).transpose()?;
        Ok(())
    })?;
    value.ok_or_else(|| Error::plain("a publish had nothing to do"))
}

/// For any body, so that the library has it once.
fn applying(store: &mut Store<'_>, body: &mut dyn FnMut(&mut Store<'_>) -> Result<()>) -> Result<()> {
    let db = store.db;
    let watched = db.number(
        "SELECT EXISTS (SELECT 1 FROM (SELECT tbl_name, name, type FROM main.sqlite_schema UNION ALL SELECT tbl_name, name, type FROM temp.sqlite_schema) s \
         JOIN main.sync_table t ON t.name = s.tbl_name COLLATE NOCASE WHERE s.type = 'trigger' AND s.name NOT LIKE 'sync\\_%' ESCAPE '\\')",
        &[],
    )? != 0;
    let before = db.triggers(-1);
    let watched = watched && before;
    if watched {
        db.run("UPDATE main.sync_guard SET applying = 2", &[])?;
        store.written = Some(HashMap::new());
    } else {
        db.triggers(0);
    }
    let outcome = body(store).and_then(|()| {
        if watched {
            db.triggers(0);
            undo_triggers(store)?;
        }
        Ok(())
    });
    if before {
        db.triggers(1);
    }
    outcome?;
    if watched {
        db.run("UPDATE main.sync_guard SET applying = 0", &[])?;
    }
    Ok(())
}

/// What the application's triggers did to synced rows during a publish gives way to the server's values.
fn undo_triggers(store: &mut Store<'_>) -> Result<()> {
    let written = store.written.take().unwrap_or_default();
    let mut rows = seal::Rows::new(store);
    let mut undone = 0;
    seal::groups(store, |store, mut group| {
        for (place, base) in group.touched() {
            let (at, key) = (place.0, Key(row::decode(&place.1)?));
            let expected = match written.get(&place) {
                Some(written) => written.clone(),
                None => rows.row(store, at, base.entry())?,
            };
            if store.visible(at, &key)? != expected {
                undone += 1;
                store.show(at, &key, &expected)?;
            }
        }
        Ok(())
    })?;
    seal::clear_log(store.db)?;
    if undone > 0 {
        let text = format!(
            "triggers of the application changed {undone} synced rows during a publish; the server's values were put back"
        );
        meta::set(store.db, "trigger_problem", ValueRef::Text(&text))?;
    }
    Ok(())
}
