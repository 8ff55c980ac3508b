//! Staged pages keep up with the schema: their rows stand in the order of the columns that the device knew when they came.

use crate::error::Result;
use crate::host::Db;
use crate::staged;
use crate::table::TableInfo;
use serde_bytes::ByteBuf;
use sync_shared::message::{Affinity, Column, PartChanges};
use sync_shared::{envelope, row, ValueRef};

/// Rewrites the staged rows of tables that have other columns now. What changed in the new columns since, a later page says.
pub fn follow(db: Db<'_>, before: &[TableInfo], now: &[TableInfo]) -> Result<()> {
    let other = |old: &TableInfo| {
        let new = now.iter().find(|t| t.table.tag == old.table.tag)?;
        (old.tags != new.tags || old.keys != new.keys).then(|| (old.clone(), new.clone()))
    };
    let changed: Vec<(TableInfo, TableInfo)> = before.iter().filter_map(other).collect();
    if changed.is_empty() {
        return Ok(());
    }
    for seq in db.all("SELECT seq FROM main.sync_stage ORDER BY seq", &[], |r| Ok(r.integer(0)))? {
        let number = ValueRef::Integer(seq);
        let mut delta = staged::read(db, seq)?;
        for changes in &mut delta.changes {
            if let Some((old, new)) = changed.iter().find(|(old, _)| old.table.tag == changes.table) {
                rewrite(changes, old, new)?;
            }
        }
        db.run("UPDATE main.sync_stage SET page = ?2 WHERE seq = ?1", &[number, ValueRef::Blob(&envelope::encode(&delta)?)])?;
    }
    Ok(())
}

fn rewrite(changes: &mut PartChanges, old: &TableInfo, new: &TableInfo) -> Result<()> {
    let same_key = old.keys.iter().map(|k| old.tags[*k]).eq(new.keys.iter().map(|k| new.tags[*k]));
    let mut rows = Vec::new();
    if same_key {
        let mut reader = row::Reader::new(&changes.rows);
        let mut values = Vec::new();
        // Where each column of the rows stands in them, or that they do not have it; of short rows only those that stay.
        let places: Vec<(&Column, Option<usize>)> = match &changes.columns {
            None => new.table.columns.iter().map(|c| (c, old.position(c.tag))).collect(),
            Some(columns) => {
                let place = |c: &Column| columns.iter().position(|at| old.tags.get(usize::from(*at)) == Some(&c.tag));
                new.table.columns.iter().filter_map(|c| Some((c, Some(place(c)?)))).collect()
            }
        };
        let width = changes.width(old.tags.len());
        for _ in 0..changes.row_count {
            reader.row(width, &mut values)?;
            row::put_all(&mut rows, places.iter().map(|(column, at)| at.map_or(filler(column), |at| values[at])));
        }
        if changes.columns.is_some() {
            changes.columns = Some(places.iter().filter_map(|(c, _)| Some(new.position(c.tag)? as u16)).collect());
        }
    } else {
        // Another key: the table's parts come again whole, and these are gone.
        changes.row_count = 0;
        changes.gone_count = 0;
        changes.gone = ByteBuf::new();
    }
    changes.rows = ByteBuf::from(rows);
    Ok(())
}

/// What a new column holds until the server's value arrives.
fn filler(column: &Column) -> ValueRef<'static> {
    match column.affinity {
        _ if !column.not_null => ValueRef::Null,
        Affinity::Integer => ValueRef::Integer(0),
        Affinity::Real => ValueRef::Real(0.0),
        Affinity::Text => ValueRef::Text(""),
        Affinity::Blob => ValueRef::Blob(&[]),
    }
}
