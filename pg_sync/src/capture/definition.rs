//! What a capture trigger knows: its argument, as JSON, made by `sync.capture_definition`.
//!
//! The definition travels in the trigger and not in a table, so that a writer captures by the rule that belongs to the trigger it
//! fires, whatever its snapshot shows of the catalog.

use crate::catalog;
use crate::expr::{Expressions, Purpose};
use crate::identity::as_role;
use crate::render::Renderer;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use serde::{Deserialize, Serialize};
use sync_shared::hash::Tag;
use sync_shared::message::EntryId;

/// A relation's columns and the entries that its rows take part in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// See [`home`].
    pub home: String,
    /// The synced table's tag; a partition has its root's.
    pub table: Tag,
    /// In tag order.
    pub columns: Vec<Column>,
    /// Positions in `columns` of the primary key, in key order.
    pub key: Vec<usize>,
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub tag: Tag,
    pub attnum: i16,
    pub type_oid: u32,
    /// Which bit of `sync.op.changed` stands for it, see [`changed_bit`].
    pub bit: u8,
}

/// The bit of a column in `sync.op.changed`: by its number in the synced table, which never changes and is never given again. The
/// 64th column and those behind it share the last bit.
pub fn changed_bit(attnum: i16) -> u8 {
    attnum.saturating_sub(1).clamp(0, 63) as u8
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub id: EntryId,
    /// The rule's name: part of the bucket's id.
    pub rule: String,
    /// Node strings: immune to renamed columns and to any search_path.
    pub key: String,
    pub filter: Option<String>,
}

/// The definition for `relation`, which is `root` or one of its partitions (whose columns may stand in another order).
#[pg_extern(stable)]
fn capture_definition(relation: Oid, root: Oid) -> String {
    let mut columns = Vec::new();
    let mut key = Vec::new();
    let mut entries = Vec::new();
    let owner = catalog::owner_of(root);
    Spi::connect(|client| {
        let rows = client.select(
            "SELECT s.tag, a.attnum, a.atttypid,
                    pg_catalog.array_position((i.indkey::smallint[])[0:i.indnkeyatts - 1], r.attnum), r.attnum
             FROM sync.synced_column s
             JOIN pg_catalog.pg_attribute r ON r.attrelid = s.relid AND r.attnum = s.attnum
             JOIN pg_catalog.pg_attribute a ON a.attrelid = $1 AND a.attname = r.attname AND NOT a.attisdropped
             LEFT JOIN pg_catalog.pg_index i ON i.indrelid = s.relid AND i.indisprimary
             WHERE s.relid = $2 ORDER BY s.tag",
            None,
            &[relation.into(), root.into()],
        )?;
        for (position, row) in rows.enumerate() {
            columns.push(Column {
                tag: row.get::<i64>(1)?.unwrap_or_default() as Tag,
                attnum: row.get::<i16>(2)?.unwrap_or_default(),
                type_oid: row.get::<Oid>(3)?.unwrap_or(Oid::INVALID).to_u32(),
                bit: changed_bit(row.get::<i16>(5)?.unwrap_or_default()),
            });
            if let Some(order) = row.get::<i32>(4)? {
                key.push((order, position));
            }
        }
        let rows = client.select(
            "SELECT e.entry_id, r.name, pg_catalog.array_to_string(e.key, ', '), e.filter
             FROM sync.entry e JOIN sync.rule r USING (rule_id) WHERE e.relid = $1 AND e.state <> 'broken' ORDER BY e.entry_id",
            None,
            &[root.into()],
        )?;
        for row in rows {
            let rule = row.get::<String>(2)?.unwrap_or_default();
            // Planning evaluates what it can, so it must not happen with more rights than the table's owner has.
            let parse =
                |purpose, text: String| as_role(owner, || Expressions::parse(&rule, relation, purpose, &text).to_node_string());
            entries.push(Entry {
                id: row.get(1)?.unwrap_or_default(),
                key: parse(Purpose::Key, row.get(3)?.unwrap_or_default()),
                filter: row.get::<String>(4)?.map(|text| parse(Purpose::Filter, text)),
                rule,
            });
        }
        Ok::<_, spi::Error>(())
    })
    .unwrap_or_else(|e| error!("sync.capture_definition: {e}"));
    key.sort_unstable();
    let definition = Definition {
        home: home(),
        table: Spi::connect(|c| {
            c.select("SELECT tag FROM sync.synced_table WHERE relid = $1", None, &[root.into()])?.first().get_one::<i64>()
        })
        .unwrap_or_else(|e| error!("sync.capture_definition: {e}"))
        .unwrap_or_else(|| error!("table {} is not synced", crate::expr::relation_name(root))) as Tag,
        columns,
        key: key.into_iter().map(|(_, position)| position).collect(),
        entries,
    };
    serde_json::to_string(&definition).unwrap_or_else(|e| error!("sync.capture_definition: {e}"))
}

/// Names this database of this cluster. A trigger that came from elsewhere, in a dump, holds ids of functions and types that mean
/// something else here.
#[pg_extern(stable)]
pub fn home() -> String {
    crate::snapshot::home()
}

/// A key and a filter as Postgres reads them, for `sync.entry.nodes`.
#[pg_extern(stable)]
fn expression_nodes(relation: Oid, key: Option<String>, filter: Option<String>) -> String {
    as_role(catalog::owner_of(relation), || {
        let parse = |purpose, text: &String| Expressions::parse("", relation, purpose, text);
        let key = key.as_ref().filter(|text| !text.is_empty()).map(|text| parse(Purpose::Key, text));
        let filter = filter.as_ref().map(|text| parse(Purpose::Filter, text));
        crate::expr::to_string(key.iter().chain(&filter))
    })
}

impl Definition {
    /// One renderer per column, in tag order; allocated in the current memory context.
    pub fn renderers(&self) -> Vec<Renderer> {
        self.columns.iter().map(|c| Renderer::new(c.type_oid.into())).collect()
    }
}
