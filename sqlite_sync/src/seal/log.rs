//! The capture log, one transaction after the other: which rows each touched, and where the log says what they were before.
//!
//! What must stay true: of the log's rows only keys are held in memory, those of one transaction; a row is read when it is needed.

use crate::capture;
use crate::error::Result;
use crate::host::{Db, Row, Statement};
use crate::json;
use crate::store::{MaybeRow, Place, Store};
use crate::table::{values, Key};
use std::collections::HashMap;
use sync_shared::{Value, ValueRef};

/// What one transaction touched.
#[derive(Default)]
pub struct Group {
    touched: HashMap<Place, Base>,
    /// Entries of the log: inserts that began with a key not yet known and have not ended.
    open: Vec<i64>,
    /// When the last write was made, in microseconds.
    pub at: i64,
    /// The application's note, as JSON.
    pub note: String,
    pub priority: i64,
}

/// What a row was before a transaction.
#[derive(Clone, Copy)]
pub struct Base {
    /// The first entry of the log about it.
    pub first: i64,
    /// That entry has the row as it was; otherwise there was none.
    there: bool,
    /// A later entry says that the row went; so an insert that follows is a second one.
    removed: bool,
    /// An insert that named this key began, so no insert with a key chosen by SQLite ended here.
    begun: bool,
    /// SQLite chose the key.
    pub chosen: bool,
}

impl Base {
    /// The entry of the log that has the row; None: there was no row.
    pub fn entry(&self) -> Option<i64> {
        self.there.then_some(self.first)
    }
}

/// Tells the log's transactions apart: the numbered ones, and between them one per run that markers do not separate.
struct Boundaries {
    markers: Vec<i64>,
    marker: usize,
    current: Option<(Option<i64>, usize)>,
}

impl Boundaries {
    fn read(db: Db<'_>) -> Result<Self> {
        let markers = db.all("SELECT seq FROM main.sync_marker ORDER BY seq", &[], |r| Ok(r.integer(0)))?;
        Ok(Boundaries { markers, marker: 0, current: None })
    }

    /// Whether a transaction begins with this entry, the next one.
    fn begins(&mut self, seq: i64, number: ValueRef<'_>) -> bool {
        while self.markers.get(self.marker).is_some_and(|m| *m < seq) {
            self.marker += 1;
        }
        let group = match number {
            ValueRef::Integer(number) => (Some(number), 0),
            _ => (None, self.marker),
        };
        self.current.replace(group) != Some(group)
    }
}

/// Whether the log holds more than one transaction.
pub fn has_several(db: Db<'_>) -> Result<bool> {
    let mut boundaries = Boundaries::read(db)?;
    let mut found = 0;
    db.prepare("SELECT seq, txn FROM main.sync_log ORDER BY seq")?.each(&[], |row| {
        found += i32::from(boundaries.begins(row.integer(0), row.value(1)));
        Ok(found < 2)
    })?;
    Ok(found > 1)
}

/// Reads the log, and hands over each transaction when it is read.
pub fn groups<'c>(store: &mut Store<'c>, mut each: impl FnMut(&mut Store<'c>, Group) -> Result<()>) -> Result<()> {
    let db = store.db;
    let mut boundaries = Boundaries::read(db)?;
    let mut group: Option<Group> = None;
    // As many columns as keys reach.
    let width = store.infos.iter().flat_map(|info| info.keys.iter().map(|k| k + 1)).max().unwrap_or(1);
    let columns = (1..=width).map(|c| format!(", c{c}")).collect::<String>();
    db.prepare(&format!("SELECT seq, tbl, kind, at, txn{columns} FROM main.sync_log ORDER BY seq"))?.each(&[], |row| {
        if boundaries.begins(row.integer(0), row.value(4)) {
            if let Some(done) = group.replace(Group::default()) {
                each(store, done)?;
            }
        }
        if let Some(group) = &mut group {
            group.entry(store, row);
        }
        Ok(true)
    })?;
    group.map_or(Ok(()), |done| each(store, done))
}

/// Where the log says what rows were before everything in it: entries by row, as [`Base::entry`] gives them.
pub fn before(store: &mut Store<'_>) -> Result<HashMap<Place, Option<i64>>> {
    let mut first = HashMap::new();
    groups(store, |_, mut group| {
        for (place, base) in group.touched() {
            first.entry(place).or_insert(base.entry());
        }
        Ok(())
    })?;
    Ok(first)
}

impl Group {
    /// The rows, in the order of first touch.
    pub fn touched(&mut self) -> Vec<(Place, Base)> {
        let mut touched: Vec<_> = std::mem::take(&mut self.touched).into_iter().collect();
        touched.sort_unstable_by_key(|(_, base)| base.first);
        touched
    }

    /// One entry: sequence, table, kind, time, number, and as much as is needed of the row.
    fn entry(&mut self, store: &Store<'_>, row: &Row<'_>) {
        let kind = row.value(2);
        let ValueRef::Text(kind) = kind else { return };
        if row.integer(1) == 0 {
            return self.hear(kind, row.value(5));
        }
        let Some(at) = store.by_id(row.integer(1)) else { return };
        if let ValueRef::Real(days) = row.value(3) {
            self.at = self.at.max(((days - 2_440_587.5) * 86_400_000_000.0) as i64);
        }
        let key = Key(store.infos[at].keys.iter().map(|k| row.value(5 + k).to_owned()).collect());
        self.add(row.integer(0), at, &key, kind);
    }

    /// What the application says about the transaction; the last word counts.
    fn hear(&mut self, kind: &str, value: ValueRef<'_>) {
        match (kind, value) {
            // A connection without the extension may have written anything: what is no JSON becomes a JSON text.
            (capture::NOTE, ValueRef::Text(text)) => {
                self.note = if json::is_json(text) { text.into() } else { serde_json::Value::from(text).to_string() };
            }
            (capture::PRIORITY, ValueRef::Integer(priority)) => self.priority = priority,
            _ => {}
        }
    }

    fn add(&mut self, seq: i64, at: usize, key: &Key, kind: &str) {
        let unknown = key.0.iter().any(|v| v.is_null() || *v == Value::Integer(-1));
        if kind == capture::BEGINS && unknown {
            self.open.push(seq);
        }
        if key.0.iter().any(Value::is_null) {
            return;
        }
        let name = (at, key.bytes());
        let begun = self.touched.get(&name).is_some_and(|known| known.begun);
        let began = if kind == capture::INSERTED && !begun { self.open.pop() } else { None };
        let chosen = began.is_some();
        let Some(base) = self.touched.get_mut(&name) else {
            let there = matches!(kind, capture::WAS_UPDATED | capture::WAS_DELETED | capture::WAS_REPLACED);
            let begun = kind == capture::BEGINS;
            self.touched.insert(name, Base { first: seq, there, removed: false, begun, chosen });
            return;
        };
        base.chosen |= chosen;
        match kind {
            // The key was chosen by SQLite, and the row was written to (by a trigger of the application) before our AFTER
            // trigger could say so: it was absent before, unless it had been there and went.
            capture::INSERTED if began.is_some_and(|b| b < base.first) || (chosen && !base.removed) => base.there = false,
            capture::WAS_DELETED | capture::WAS_REPLACED => base.removed = true,
            capture::BEGINS => base.begun = true,
            _ => {}
        }
    }
}

/// Reads rows that the log holds.
pub struct Rows<'c> {
    db: Db<'c>,
    /// By the table's place.
    statements: Vec<Option<Statement<'c>>>,
}

impl<'c> Rows<'c> {
    pub fn new(store: &Store<'c>) -> Self {
        Rows { db: store.db, statements: store.infos.iter().map(|_| None).collect() }
    }

    /// The row of an entry about this table.
    pub fn row(&mut self, store: &Store<'_>, at: usize, entry: Option<i64>) -> Result<MaybeRow> {
        let Some(entry) = entry else { return Ok(None) };
        let count = store.infos[at].tags.len();
        if self.statements[at].is_none() {
            let columns: Vec<_> = (1..=count).map(|c| format!("c{c}")).collect();
            let sql = format!("SELECT {} FROM main.sync_log WHERE seq = ?1", columns.join(", "));
            self.statements[at] = Some(self.db.prepare(&sql)?);
        }
        let statement = self.statements[at].as_mut();
        statement.map_or(Ok(None), |s| s.first(&[ValueRef::Integer(entry)], |row| Ok(values(row, 0, count))))
    }
}

/// Forgets what was captured.
pub fn clear(db: Db<'_>) -> Result<()> {
    db.run("DELETE FROM main.sync_log", &[])?;
    db.run("DELETE FROM main.sync_marker", &[])
}
