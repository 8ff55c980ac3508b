//! The capture log becomes batches: one per local transaction.
//!
//! What must stay true: memory holds the keys of one transaction, and where the log has several 24 bytes or so for each row that it names;
//! rows go one by one from the log to the batch.

mod log;

pub use log::{before, clear as clear_log, groups, Rows};

use crate::answer;
use crate::batch::{Head, Writer};
use crate::encrypted;
use crate::error::Result;
use crate::host::Statement;
use crate::keys;
use crate::meta;
use crate::order::Order;
use crate::store::{pack, while_applying, MaybeRow, Place, Store};
use crate::table::Key;
use log::{Base, Group};
use std::collections::hash_map::RandomState;
use std::collections::HashMap;
use std::hash::BuildHasher;
use sync_shared::clock;
use sync_shared::message::{Change, ChangeKind};
use sync_shared::{Value, ValueRef};

/// Turns everything captured into batches. Inside a transaction, before anything else changes synced rows.
pub fn seal(store: &mut Store<'_>) -> Result<()> {
    let db = store.db;
    if db.number("SELECT count(*) FROM (SELECT 1 FROM main.sync_log LIMIT 1)", &[])? == 0 {
        return db.run("DELETE FROM main.sync_marker", &[]);
    }
    let mut sealer = Sealer::new(store)?;
    log::groups(store, |store, group| sealer.group(store, group))?;
    let Sealer { refused, unsent, order, last_edit, .. } = sealer;
    clear_log(db)?;
    meta::set_number(db, "last_edit", last_edit)?;
    if !refused.is_empty() || !unsent.is_empty() {
        refused.iter().try_for_each(|id| answer::rebase_followers(db, *id))?;
        while_applying(store, |store| {
            refused.iter().try_for_each(|id| store.settle_batch(*id))?;
            unsent.iter().try_for_each(|(at, key)| store.settle(*at, key))
        })?;
    }
    if order.keyless && db.number("SELECT EXISTS (SELECT 1 FROM main.sync_lease WHERE remaining > 0)", &[])? != 0 {
        while_applying(store, keys::provide)?;
    }
    Ok(())
}

/// What the sealing of a log needs from one transaction to the next.
struct Sealer<'c> {
    writer: Writer<'c>,
    rows: Rows<'c>,
    /// Keeps the server's version of a row, unless it is kept already.
    shadow: Statement<'c>,
    /// By the first entry about a row in a transaction: the entry with what the next transaction found (None: no row).
    later: HashMap<i64, Option<i64>>,
    order: Order,
    last_edit: i64,
    /// Batches that are too large to be sent.
    refused: Vec<i64>,
    /// Rows that only look different: the server's version comes back.
    unsent: Vec<(usize, Key)>,
}

impl<'c> Sealer<'c> {
    fn new(store: &mut Store<'c>) -> Result<Self> {
        let db = store.db;
        Ok(Sealer {
            writer: Writer::new(db)?,
            rows: Rows::new(store),
            shadow: db.prepare("INSERT INTO main.sync_shadow VALUES (?1, ?2, ?3, NULL) ON CONFLICT DO NOTHING")?,
            later: later(store)?,
            order: Order::read(db)?,
            last_edit: meta::number(db, "last_edit")?,
            refused: Vec::new(),
            unsent: Vec::new(),
        })
    }

    /// One transaction.
    fn group(&mut self, store: &mut Store<'c>, mut group: Group) -> Result<()> {
        let (mut revived, mut unsent) = (Vec::new(), Vec::new());
        let (mut batch, mut chose) = (None, false);
        for (place, base) in group.touched() {
            let key = Key(sync_shared::row::decode(&place.1)?);
            let at = place.0;
            let before = self.rows.row(store, at, base.entry())?;
            let now = self.now(store, at, &key, &base)?;
            let Some(change) = difference(store, at, &key, &before, &now) else { continue };
            let chosen = base.chosen && change.kind == ChangeKind::Insert && keys::leases(&store.infos[at]);
            if self.keep_server_version(store, at, &key, &before, change.kind)? {
                revived.push((at, key.clone()));
            }
            // Only a generated column was written: nothing to send, the server's value comes back.
            if change.kind == ChangeKind::Update && change.columns.is_empty() {
                unsent.push((at, key));
                continue;
            }
            if batch.is_none() {
                batch = Some(self.begin(&group)?);
            }
            chose |= chosen;
            self.writer.grow(encrypted::overhead(&store.infos[at], &change));
            self.writer.add(store.infos[at].id, change, chosen)?;
        }
        let Some(id) = batch else {
            self.unsent.append(&mut unsent);
            return Ok(());
        };
        let sent = self.writer.end(&store.infos)?;
        revived.iter().try_for_each(|(at, key)| store.keep_rest(*at, key, 0))?;
        if sent {
            return self.order.place(store, id, group.priority, chose);
        }
        self.refused.push(id);
        Ok(())
    }

    fn begin(&mut self, group: &Group) -> Result<i64> {
        self.last_edit = clock::next(group.at.min(meta::now()), self.last_edit);
        self.writer.begin(Head { edited: self.last_edit, note: &group.note, priority: group.priority })
    }

    /// What a row became: what the next transaction found, or else what it is now.
    fn now(&mut self, store: &mut Store<'c>, at: usize, key: &Key, base: &Base) -> Result<MaybeRow> {
        match self.later.remove(&base.first) {
            Some(entry) => self.rows.row(store, at, entry),
            None => store.visible(at, key),
        }
    }

    /// What a row was before the first unconfirmed change is the server's version. True: the server has none, only changes that wait
    /// show the row, and this is an update.
    fn keep_server_version(
        &mut self,
        store: &mut Store<'c>,
        at: usize,
        key: &Key,
        before: &MaybeRow,
        kind: ChangeKind,
    ) -> Result<bool> {
        let (info, mut scratch) = (&store.infos[at], Vec::new());
        let body = before.as_ref().map(|row| pack(info, &row.iter().map(Value::as_ref).collect::<Vec<_>>()));
        let body = body.as_ref().map_or(ValueRef::Null, |body| ValueRef::Blob(body));
        self.shadow.run(&[ValueRef::Integer(info.id), key.stored(&mut scratch), body])?;
        Ok(kind == ChangeKind::Update
            && store.db.changes() == 0
            && store.shadow(at, key)?.is_some_and(|shadow| shadow.row.is_none()))
    }
}

/// For each row that several transactions of the log touch, what the later of two found.
fn later(store: &mut Store<'_>) -> Result<HashMap<i64, Option<i64>>> {
    let mut found = HashMap::new();
    if !log::has_several(store.db)? {
        return Ok(found);
    }
    // Two keyed hashes of 64 bits stand for a row: nobody can make them meet, and by chance they do not.
    let keyed = [RandomState::new(), RandomState::new()];
    let print = |place: &Place| [keyed[0].hash_one(place), keyed[1].hash_one(place)];
    let mut last: HashMap<[u64; 2], i64> = HashMap::new();
    log::groups(store, |_, mut group| {
        for (place, base) in group.touched() {
            if let Some(earlier) = last.insert(print(&place), base.first) {
                found.insert(earlier, base.entry());
            }
        }
        Ok(())
    })?;
    Ok(found)
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
