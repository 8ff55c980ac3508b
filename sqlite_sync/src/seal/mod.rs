//! The capture log becomes batches: one per local transaction.

use crate::batch::{self, Sealed, Sent};
use crate::capture;
use crate::error::Result;
use crate::host::Db;
use crate::json;
use crate::keys;
use crate::meta;
use crate::order::Order;
use crate::store::{while_applying, MaybeRow, Place, Store};
use crate::table::{values, Key};
use std::collections::HashMap;
use sync_shared::clock;
use sync_shared::message::{Change, ChangeKind};
use sync_shared::{Value, ValueRef};

/// What one transaction touched, in the order of first touch, with what each row was before.
#[derive(Default)]
pub struct Group {
    pub touched: Vec<(Place, Base)>,
    index: HashMap<Place, usize>,
    /// Places in the log of inserts that began with a key not yet known and have not ended.
    open: Vec<usize>,
    /// When the last write was made, in microseconds.
    at: i64,
    /// The application's note, as JSON.
    note: String,
    priority: i64,
}

/// What a row was before a transaction.
pub struct Base {
    pub row: MaybeRow,
    /// Place of the first entry in the log.
    first: usize,
    /// A later entry says that the row went; so an insert that follows is a second one.
    removed: bool,
    /// An insert that named this key began, so no insert with a key chosen by SQLite ended here.
    begun: bool,
    /// SQLite chose the key.
    chosen: bool,
}

/// Turns everything captured into batches. Inside a transaction, before anything else changes synced rows.
pub fn seal(store: &mut Store<'_>) -> Result<()> {
    let db = store.db;
    if db.number("SELECT count(*) FROM (SELECT 1 FROM main.sync_log LIMIT 1)", &[])? == 0 {
        return db.run("DELETE FROM main.sync_marker", &[]);
    }
    let groups = read_log(store)?;
    // From the last transaction back: what a row became is what the next transaction found, or else what it is now.
    let mut later: HashMap<Place, MaybeRow> = HashMap::new();
    let mut transactions = Vec::with_capacity(groups.len());
    for group in groups.into_iter().rev() {
        let mut changed = Vec::new();
        for (place, base) in group.touched {
            let key = Key(sync_shared::row::decode(&place.1)?);
            let now = match later.remove(&place) {
                Some(row) => row,
                None => store.visible(place.0, &key)?,
            };
            if let Some(change) = difference(store, place.0, &key, &base.row, &now) {
                let chosen = base.chosen && change.kind == ChangeKind::Insert && keys::leases(&store.infos[place.0]);
                changed.push(Changed { at: place.0, key, base: base.row.clone(), change, chosen });
            }
            later.insert(place, base.row);
        }
        transactions.push(Transaction { at: group.at, note: group.note, priority: group.priority, changed });
    }
    clear_log(db)?;
    let user = meta::text(db, "user")?;
    let mut order = Order::read(db)?;
    transactions.into_iter().rev().try_for_each(|transaction| keep(store, &mut order, transaction, &user))?;
    if order.keyless && db.number("SELECT EXISTS (SELECT 1 FROM main.sync_lease WHERE remaining > 0)", &[])? != 0 {
        while_applying(store, keys::provide)?;
    }
    Ok(())
}

/// One row that a transaction changed.
struct Changed {
    at: usize,
    key: Key,
    base: MaybeRow,
    change: Change,
    /// SQLite chose the key, and it is to give way to a leased one.
    chosen: bool,
}

/// One transaction that changed something.
struct Transaction {
    at: i64,
    note: String,
    priority: i64,
    changed: Vec<Changed>,
}

fn keep(store: &mut Store<'_>, order: &mut Order, transaction: Transaction, user: &str) -> Result<()> {
    let db = store.db;
    if transaction.changed.is_empty() {
        return Ok(());
    }
    let mut changes = Vec::with_capacity(transaction.changed.len());
    let mut touched = Vec::with_capacity(transaction.changed.len());
    let chosen = transaction.changed.iter().any(|c| c.chosen);
    let mut revived = Vec::new();
    for Changed { at, key, base, change, chosen } in transaction.changed {
        match store.shadow(at, &key)? {
            None => {
                let row: Option<Vec<_>> = base.as_ref().map(|r| r.iter().map(Value::as_ref).collect());
                store.set_shadow(at, &key, row.as_deref(), None)?;
            }
            // Only changes that wait show the row.
            Some(shadow) if shadow.row.is_none() && change.kind == ChangeKind::Update => revived.push((at, key.clone())),
            Some(_) => {}
        }
        // Only a generated column was written: nothing to send, the server's value comes back.
        if !(change.kind == ChangeKind::Update && change.columns.is_empty()) {
            changes.push(Sent { table: store.infos[at].id, change, chosen });
        }
        touched.push((at, key));
    }
    let mut kept = None;
    if !changes.is_empty() {
        let edited = clock::next(transaction.at.min(meta::now()), meta::number(db, "last_edit")?);
        meta::set_number(db, "last_edit", edited)?;
        let sealed = Sealed { changes, edited, note: transaction.note, priority: transaction.priority };
        kept = batch::keep(db, &store.infos, sealed, user)?;
        revived.iter().try_for_each(|(at, key)| store.keep_rest(*at, key, 0))?;
    }
    match kept {
        Some(id) => order.place(store, id, transaction.priority, chosen),
        None => crate::store::while_applying(store, |store| touched.iter().try_for_each(|(at, key)| store.settle(*at, key))),
    }
}

/// Forgets what was captured.
pub fn clear_log(db: Db<'_>) -> Result<()> {
    db.run("DELETE FROM main.sync_log", &[])?;
    db.run("DELETE FROM main.sync_marker", &[])
}

/// Reads the log, one group per transaction: the numbered ones, and between them one per run that markers do not separate.
pub fn read_log(store: &Store<'_>) -> Result<Vec<Group>> {
    let db = store.db;
    let markers = db.all("SELECT seq FROM main.sync_marker ORDER BY seq", &[], |r| Ok(r.integer(0)))?;
    let mut marker = 0;
    let mut groups: Vec<Group> = Vec::new();
    let mut current = None;
    let mut place = 0;
    let columns =
        (1..=store.infos.iter().map(|i| i.tags.len()).max().unwrap_or(1)).map(|c| format!(", c{c}")).collect::<String>();
    db.prepare(&format!("SELECT seq, tbl, kind, at, txn{columns} FROM main.sync_log ORDER BY seq"))?.each(&[], |row| {
        let seq = row.integer(0);
        place += 1;
        while markers.get(marker).is_some_and(|m| *m < seq) {
            marker += 1;
        }
        let group = match row.value(4) {
            ValueRef::Integer(number) => (Some(number), 0),
            _ => (None, marker),
        };
        if current != Some(group) {
            current = Some(group);
            groups.push(Group::default());
        }
        let Some(group) = groups.last_mut() else { return Ok(true) };
        if row.integer(1) == 0 {
            group.hear(&row.text(2), row.value(5));
        }
        let Some(at) = store.by_id(row.integer(1)) else { return Ok(true) };
        let all = values(row, 5, store.infos[at].tags.len());
        let when = if let ValueRef::Real(days) = row.value(3) { ((days - 2_440_587.5) * 86_400_000_000.0) as i64 } else { 0 };
        group.add(place, (at, store.infos[at].key_of(&all)), &row.text(2), all, when);
        Ok(true)
    })?;
    Ok(groups)
}

impl Group {
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

    fn add(&mut self, place: usize, (at, key): (usize, Key), kind: &str, all: Vec<Value>, when: i64) {
        self.at = self.at.max(when);
        let unknown = key.0.iter().any(|v| v.is_null() || *v == Value::Integer(-1));
        if kind == capture::BEGINS && unknown {
            self.open.push(place);
        }
        if key.0.iter().any(Value::is_null) {
            return;
        }
        let row = matches!(kind, capture::WAS_UPDATED | capture::WAS_DELETED | capture::WAS_REPLACED).then_some(all);
        let name = (at, key.bytes());
        let begun = self.index.get(&name).and_then(|i| self.touched.get(*i)).is_some_and(|known| known.1.begun);
        let began = if kind == capture::INSERTED && !begun { self.open.pop() } else { None };
        let Some(known) = self.index.get(&name).and_then(|i| self.touched.get_mut(*i)) else {
            self.index.insert(name.clone(), self.touched.len());
            let (begun, chosen) = (kind == capture::BEGINS, began.is_some());
            self.touched.push((name, Base { row, first: place, removed: false, begun, chosen }));
            return;
        };
        let base = &mut known.1;
        base.chosen |= began.is_some();
        match kind {
            // The key was chosen by SQLite, and the row was written to (by a trigger of the application) before our AFTER
            // trigger could say so: it was absent before, unless it had been there and went.
            capture::INSERTED if began.is_some_and(|b| b < base.first) || (began.is_some() && !base.removed) => base.row = None,
            capture::WAS_DELETED | capture::WAS_REPLACED => base.removed = true,
            capture::BEGINS => base.begun = true,
            _ => {}
        }
    }
}

/// How to get from one version of a row to the other; None when they are equal.
fn difference(store: &Store<'_>, at: usize, key: &Key, old: &MaybeRow, new: &MaybeRow) -> Option<Change> {
    let info = &store.infos[at];
    let (kind, columns): (_, Vec<usize>) = match (old, new) {
        (None, None) => return None,
        (None, Some(new)) => {
            (ChangeKind::Insert, (0..new.len()).filter(|i| !new[*i].is_null() && !info.table.columns[*i].generated).collect())
        }
        (Some(old), None) => (ChangeKind::Delete, (0..old.len()).collect()),
        (Some(old), Some(new)) if old == new => return None,
        (Some(old), Some(new)) => {
            let differs = |i: &usize| old[*i] != new[*i] && !info.keys.contains(i) && !info.table.columns[*i].generated;
            (ChangeKind::Update, (0..new.len()).filter(differs).collect())
        }
    };
    let pick = |row: &MaybeRow| row.as_ref().map_or(Vec::new(), |row| columns.iter().map(|i| row[*i].clone()).collect());
    Some(Change {
        table: info.table.tag,
        kind,
        key: key.0.clone(),
        columns: columns.iter().map(|i| info.tags[*i]).collect(),
        old: if kind == ChangeKind::Insert { Vec::new() } else { pick(old) },
        new: if kind == ChangeKind::Delete { Vec::new() } else { pick(new) },
        rest: None,
        below: Vec::new(),
    })
}
