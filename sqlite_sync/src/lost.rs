//! Rows that went without anybody's write: kept, and given back on demand. A server which went back in time does not have them any more,
//! or has them as something else; or they were in no bucket.
//!
//! Of a server's losses only the first complete publish after its notice keeps any. Rows of buckets that the user may not hold any longer go without
//! a trace. A row that the server has again as it was, because a device has sent its writes again, is lost no more.

use crate::error::{Error, Result};
use crate::file;
use crate::host::{Answer, Db, Statement};
use crate::json;
use crate::meta;
use crate::store::{pack, unpack, Store};
use crate::table::{quote, Key, TableInfo};
use crate::transaction::transaction;
use serde_json::json;
use std::collections::BTreeSet;
use sync_shared::{Value, ValueRef};

/// Whether the server has lost history since the last complete publish.
pub fn is_restored(db: Db<'_>) -> Result<bool> {
    Ok(meta::number(db, "restored")? != 0)
}

/// Why a row was kept.
#[derive(Clone, Copy)]
pub enum Why<'a> {
    /// The server went back in time; it has this row in its place, or none.
    Server(Option<&'a [Value]>),
    /// No bucket has the row, and no unsent write explains it.
    Stray,
}

impl Why<'_> {
    fn reason(self) -> &'static str {
        match self {
            Why::Server(None) => "the server went back in time and has lost this row",
            Why::Server(Some(_)) => "the server went back in time and has another version of this row",
            Why::Stray => {
                "sync_verify found this row in no bucket and in no unsent write, and removed it: something wrote it past the capture triggers"
            }
        }
    }
}

/// Writes rows to `sync_lost`.
pub struct Keeper<'c> {
    insert: Statement<'c>,
    user: String,
}

impl<'c> Keeper<'c> {
    pub fn new(db: Db<'c>) -> Result<Self> {
        let sql = "INSERT INTO main.sync_lost_row(at, table_name, key, row, server, tbl, body, reason, user) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 \
             WHERE NOT EXISTS (SELECT 1 FROM main.sync_lost_row WHERE tbl = ?6 AND key = ?3 AND body = ?7 AND user = ?9)";
        Ok(Keeper { insert: db.prepare(sql)?, user: meta::text(db, "user")? })
    }

    /// Keeps a row that was here.
    pub fn keep(&mut self, info: &TableInfo, row: &[Value], why: Why<'_>) -> Result<()> {
        let texts = [json::of_key(&info.key_of(row).0).to_string(), of_row(info, row).to_string()];
        let server = if let Why::Server(Some(row)) = why { Some(of_row(info, row).to_string()) } else { None };
        let body = pack(info, &row.iter().map(Value::as_ref).collect::<Vec<_>>());
        self.insert.run(&[
            ValueRef::Integer(meta::now()),
            ValueRef::Text(&info.table.name),
            ValueRef::Text(&texts[0]),
            ValueRef::Text(&texts[1]),
            server.as_deref().map_or(ValueRef::Null, ValueRef::Text),
            ValueRef::Integer(info.id),
            ValueRef::Blob(&body),
            ValueRef::Text(why.reason()),
            ValueRef::Text(&self.user),
        ])
    }
}

fn of_row(info: &TableInfo, row: &[Value]) -> serde_json::Value {
    let pairs = info.table.columns.iter().zip(row).map(|(column, value)| (column.name.clone(), json::of_value(value)));
    serde_json::Value::Object(pairs.collect())
}

/// A row of `sync_lost`.
struct Lost {
    id: i64,
    at: usize,
    row: Vec<Value>,
}

fn read(store: &Store<'_>, sql: &str, binds: &[ValueRef<'_>]) -> Result<Vec<Lost>> {
    let found = store.db.all(
        &format!("SELECT id, tbl, body FROM main.sync_lost_row WHERE {sql} AND user IN (SELECT user FROM main.sync_user)"),
        binds,
        |r| {
            let at = store.by_id(r.integer(1)).filter(|at| !store.infos[*at].retired);
            at.map(|at| Ok(Lost { id: r.integer(0), at, row: unpack(&store.infos[at], &r.blob(2))? })).transpose()
        },
    )?;
    Ok(found.into_iter().flatten().collect())
}

/// Lets go of what is back as it was, after a publish that changed these tables.
pub fn settle(store: &mut Store<'_>, tables: &BTreeSet<usize>) -> Result<()> {
    for at in tables {
        for lost in read(store, "tbl = ?1", &[ValueRef::Integer(store.infos[*at].id)])? {
            let key = store.infos[lost.at].key_of(&lost.row);
            if store.server_version(lost.at, &key)?.as_deref() == Some(&lost.row) {
                forget(store.db, lost.id)?;
            }
        }
    }
    Ok(())
}

/// Writes a lost row as it was, as an ordinary local write; the record goes.
pub fn restore(db: Db<'_>, id: i64) -> Result<Answer> {
    if !db.triggers(-1) {
        return Err(Error::plain(
            "triggers are switched off on this connection, so the write would not be captured: switch them on",
        ));
    }
    file::ready(db)?;
    transaction(db, || {
        exists(db, id)?;
        let mut store = Store::open(db)?;
        let lost = read(&store, "id = ?1", &[ValueRef::Integer(id)])?.pop();
        let lost = lost.ok_or_else(|| Error::plain("the table of this row is no longer synced: discard it"))?;
        let key = store.infos[lost.at].key_of(&lost.row);
        let there = store.visible(lost.at, &key)?;
        let info = &store.infos[lost.at];
        let outcome = match &there {
            None => insert(db, info, &lost.row).map(|()| "written"),
            Some(row) if *row == lost.row => Ok("already"),
            Some(row) => update(db, info, &key, row, &lost.row).map(|()| "changed"),
        }?;
        forget(db, id)?;
        Answer::text(&json!({ "table": info.table.name, "key": json::of_key(&key.0), "outcome": outcome }).to_string())
    })
}

fn insert(db: Db<'_>, info: &TableInfo, row: &[Value]) -> Result<()> {
    let given: Vec<usize> = (0..row.len()).filter(|i| !info.table.columns[*i].generated && row[*i] != Value::Null).collect();
    let names: Vec<_> = given.iter().map(|i| quote(&info.table.columns[*i].name)).collect();
    let holes: Vec<_> = (1..=given.len()).map(|n| format!("?{n}")).collect();
    let sql = format!("INSERT INTO {}({}) VALUES ({})", info.name(), names.join(", "), holes.join(", "));
    db.run(&sql, &given.iter().map(|i| row[*i].as_ref()).collect::<Vec<_>>())
}

fn update(db: Db<'_>, info: &TableInfo, key: &Key, there: &[Value], row: &[Value]) -> Result<()> {
    let differs = |i: &usize| !info.table.columns[*i].generated && !info.keys.contains(i) && there[*i] != row[*i];
    let given: Vec<usize> = (0..row.len()).filter(differs).collect();
    if given.is_empty() {
        return Ok(());
    }
    let first = key.0.len() + 1;
    let set: Vec<_> =
        given.iter().enumerate().map(|(n, i)| format!("{} = ?{}", quote(&info.table.columns[*i].name), first + n)).collect();
    let mut binds = key.refs();
    binds.extend(given.iter().map(|i| row[*i].as_ref()));
    db.run(&format!("UPDATE {} SET {} WHERE {}", info.name(), set.join(", "), info.by_key()), &binds)
}

/// Lets go of a lost row.
pub fn discard(db: Db<'_>, id: i64) -> Result<()> {
    file::ready(db)?;
    transaction(db, || {
        exists(db, id)?;
        forget(db, id)
    })
}

fn exists(db: Db<'_>, id: i64) -> Result<()> {
    match db.number("SELECT count(*) FROM main.sync_lost WHERE id = ?1", &[ValueRef::Integer(id)])? {
        0 => Err(Error::plain(format!("there is no lost row {id}: take an id from sync_lost"))),
        _ => Ok(()),
    }
}

fn forget(db: Db<'_>, id: i64) -> Result<()> {
    db.run("DELETE FROM main.sync_lost_row WHERE id = ?1", &[ValueRef::Integer(id)])
}
