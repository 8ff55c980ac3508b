//! The catalog as pull and push read it: rules, entries, tables.

use crate::error::spi;
use crate::query::Kept;
use crate::render::Renderer;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;
use sync_shared::hash::Tag;
use sync_shared::message::{self, ColumnDefault, EntryId, Reference, TableMode};
use sync_shared::Value;

/// A table that devices may hold.
pub struct SyncedTable {
    pub relation: Oid,
    /// Its rows are read, and its keys and filters run, with this role's rights.
    pub owner: Oid,
    /// Qualified, as SQL reads it.
    pub name: String,
    /// Its name on devices.
    pub device_name: String,
    pub tag: Tag,
    /// In tag order, which is the order of values on the wire.
    pub columns: Vec<SyncedColumn>,
    /// Positions in `columns` of the primary key, in key order.
    pub key: Vec<usize>,
    /// What devices may do with it.
    pub mode: TableMode,
}

/// The sequence that makes a table's key, a single integer.
pub struct KeySequence {
    pub sequence: Oid,
    /// The distance between two of its numbers.
    pub step: i64,
    /// What fits in the key's type.
    pub fits: std::ops::RangeInclusive<i64>,
    /// GENERATED ALWAYS: only leased numbers may be inserted.
    pub always: bool,
}

/// A column that is sent.
pub struct SyncedColumn {
    pub name: String,
    pub tag: Tag,
    pub type_oid: Oid,
    /// 1-based position in the primary key; 0 for other columns.
    pub key: u16,
    /// Its number in the table.
    pub position: u16,
    pub not_null: bool,
    pub generated: bool,
    /// The default's SQL, if it has one.
    pub default: Option<String>,
    /// Identity columns, of either kind.
    pub identity: bool,
    /// Devices encrypt its values.
    pub encrypted: bool,
}

/// One `create_bucket`.
pub struct Rule {
    pub id: i32,
    pub name: String,
    /// None: one global bucket.
    pub members: Option<String>,
    pub priority: u8,
    pub key_types: Vec<Oid>,
    pub owner: Oid,
    pub entries: Vec<Entry>,
}

/// One `add_table` that is not broken.
pub struct Entry {
    pub id: EntryId,
    pub relation: Oid,
    /// SQL expressions over the row.
    pub key: Vec<String>,
    pub filter: Option<String>,
    /// Sums are known, as of reading it; a catalog that is remembered does not learn of it, see `pull::state`.
    pub ready: bool,
    /// Only rows that the user's policies show are handed out.
    pub enforced: bool,
}

/// Which state of the catalog: its number, which devices know, and the transaction that made it. The number alone may come again where the
/// extension was dropped and made anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Generation {
    pub number: i64,
    pub xid: u64,
}

/// Everything of the catalog that a pull needs, as it is at one generation: each change of it raises the generation.
pub struct Catalog {
    pub generation: Generation,
    pub rules: Vec<Rule>,
    pub tables: Vec<SyncedTable>,
    /// Synced tables and their partitions.
    pub captured: Vec<Oid>,
    /// It was written in another database.
    pub moved: bool,
}

thread_local! {
    /// The one read last.
    static CATALOG: RefCell<Option<Rc<Catalog>>> = const { RefCell::new(None) };
}

impl Catalog {
    /// The catalog at the generation that the active snapshot has.
    pub fn at(generation: Generation) -> Rc<Catalog> {
        let known = CATALOG.with_borrow(|known| known.clone()).filter(|known| known.generation == generation);
        // Nobody tells when a schema is renamed.
        let is_fresh = |t: &SyncedTable| owner_of(t.relation) == t.owner && crate::expr::relation_name(t.relation) == t.name;
        if let Some(known) = known.filter(|known| known.tables.iter().all(is_fresh)) {
            return known;
        }
        // Its numbers mean something else here. Not remembered: where nothing of it can be read, the generation stays.
        if has_moved() {
            return Rc::new(Catalog { generation, rules: Vec::new(), tables: Vec::new(), captured: Vec::new(), moved: true });
        }
        let captured = Spi::connect(|c| {
            let sql = "SELECT pg_catalog.array_agg(relid ORDER BY relid) FROM sync.captured";
            c.select(Kept(sql), Some(1), &[])?.first().get_one::<Vec<Oid>>()
        });
        let captured = spi("reading sync.captured", captured).unwrap_or_default();
        let catalog = Rc::new(Catalog { generation, rules: rules(), tables: tables(), captured, moved: false });
        CATALOG.with_borrow_mut(|known| *known = Some(catalog.clone()));
        catalog
    }
}

/// The generation of the schema that devices should have.
pub fn generation() -> i64 {
    let n = Spi::connect(|c| c.select(Kept("SELECT n FROM sync.generation"), Some(1), &[])?.first().get_one::<i64>());
    spi("reading sync.generation", n).unwrap_or(0)
}

/// Whether what is declared here was written in another database and waits for being read again.
pub fn has_moved() -> bool {
    let moved = Spi::connect(|c| c.select(Kept("SELECT sync.has_moved()"), Some(1), &[])?.first().get_one::<bool>());
    spi("reading where the rules are from", moved) != Some(false)
}

/// Tags of tables that came with a dump and could not be synced again yet.
pub fn waiting_tables() -> Vec<i64> {
    let sql =
        "SELECT pg_catalog.array_agg((content ->> 'tag')::bigint) FROM sync.carried WHERE kind = 'table' AND problem IS NOT NULL";
    let tags = Spi::connect(|c| c.select(Kept(sql), Some(1), &[])?.first().get_one::<Vec<i64>>());
    spi("reading sync.carried", tags).unwrap_or_default()
}

/// All rules with their entries, by priority and id.
pub fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let read = Spi::connect(|client| {
        let rows = client.select(
            Kept(
                "SELECT r.rule_id, r.name, r.members, r.priority::int4, r.key_types::oid[], r.owner::oid,
                    e.entry_id, e.relid::oid, e.key, e.filter, e.state = 'ready', e.rls = 'enforce'
             FROM sync.rule r LEFT JOIN sync.entry e ON e.rule_id = r.rule_id AND e.state <> 'broken'
             ORDER BY r.priority, r.rule_id, e.entry_id",
            ),
            None,
            &[],
        )?;
        for row in rows {
            let id = row.get(1)?.unwrap_or_default();
            if rules.last().is_none_or(|r| r.id != id) {
                rules.push(Rule {
                    id,
                    name: row.get(2)?.unwrap_or_default(),
                    members: row.get(3)?,
                    priority: row.get::<i32>(4)?.unwrap_or_default() as u8,
                    key_types: row.get::<Vec<Oid>>(5)?.unwrap_or_default(),
                    owner: row.get::<Oid>(6)?.unwrap_or(Oid::INVALID),
                    entries: Vec::new(),
                });
            }
            if let (Some(entry), Some(rule)) = (row.get::<i32>(7)?, rules.last_mut()) {
                rule.entries.push(Entry {
                    id: entry,
                    relation: row.get::<Oid>(8)?.unwrap_or(Oid::INVALID),
                    key: row.get::<Vec<String>>(9)?.unwrap_or_default(),
                    filter: row.get(10)?,
                    ready: row.get(11)?.unwrap_or(false),
                    enforced: row.get(12)?.unwrap_or(false),
                });
            }
        }
        Ok::<_, spi::Error>(())
    });
    spi("reading the rules", read);
    rules
}

/// The owner of a relation.
pub fn owner_of(relation: Oid) -> Oid {
    crate::snapshot::owner_of(relation).unwrap_or(Oid::INVALID)
}

/// All synced tables, by tag.
pub fn tables() -> Vec<SyncedTable> {
    tables_tagged(None)
}

/// Those with one of the given tags, or all.
pub fn tables_tagged(tags: Option<Vec<i64>>) -> Vec<SyncedTable> {
    let mut tables: Vec<SyncedTable> = Vec::new();
    let read = Spi::connect(|client| {
        let rows = client.select(
            Kept(
                "SELECT t.relid::oid, t.device_name, t.tag, a.attname::text, s.tag, a.atttypid,
                    coalesce(pg_catalog.array_position((i.indkey::int2[])[0:i.indnkeyatts - 1], a.attnum), 0), a.attnum::int4, a.attnotnull,
                    a.attgenerated <> '', pg_catalog.pg_get_expr(d.adbin, d.adrelid), a.attidentity <> '', t.mode, p.relid IS NOT NULL
             FROM sync.synced_table t
             JOIN sync.synced_column s ON s.relid = t.relid
             JOIN pg_catalog.pg_attribute a ON a.attrelid = t.relid AND a.attnum = s.attnum AND NOT a.attisdropped
             LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = t.relid AND d.adnum = a.attnum
             LEFT JOIN pg_catalog.pg_index i ON i.indrelid = t.relid AND i.indisprimary
             LEFT JOIN sync.policy p ON p.relid = t.relid AND p.attnum = a.attnum AND p.event = 'encrypted'
             WHERE $1 IS NULL OR t.tag = ANY ($1)
             ORDER BY t.tag, s.tag",
            ),
            None,
            &[tags.into()],
        )?;
        for row in rows {
            let tag = row.get::<i64>(3)?.unwrap_or_default() as Tag;
            if tables.last().is_none_or(|t| t.tag != tag) {
                let relation = row.get::<Oid>(1)?.unwrap_or(Oid::INVALID);
                tables.push(SyncedTable {
                    relation,
                    owner: owner_of(relation),
                    name: crate::expr::relation_name(relation),
                    device_name: row.get(2)?.unwrap_or_default(),
                    tag,
                    columns: Vec::new(),
                    key: Vec::new(),
                    mode: mode(row.get(13)?),
                });
            }
            let column = SyncedColumn {
                name: row.get(4)?.unwrap_or_default(),
                tag: row.get::<i64>(5)?.unwrap_or_default() as Tag,
                type_oid: row.get::<Oid>(6)?.unwrap_or(Oid::INVALID),
                key: row.get::<i32>(7)?.unwrap_or_default() as u16,
                position: row.get::<i32>(8)?.unwrap_or_default() as u16,
                not_null: row.get(9)?.unwrap_or(false),
                generated: row.get(10)?.unwrap_or(false),
                default: row.get(11)?,
                identity: row.get(12)?.unwrap_or(false),
                encrypted: row.get(14)?.unwrap_or(false),
            };
            if let Some(table) = tables.last_mut() {
                table.columns.push(column);
            }
        }
        Ok::<_, spi::Error>(())
    });
    spi("reading the synced tables", read);
    for table in &mut tables {
        let mut key: Vec<usize> = (0..table.columns.len()).filter(|&i| table.columns[i].key > 0).collect();
        key.sort_by_key(|&i| table.columns[i].key);
        table.key = key;
    }
    tables
}

/// A mode by its name in `sync.synced_table`.
fn mode(name: Option<&str>) -> TableMode {
    match name {
        Some("read_only") => TableMode::ReadOnly,
        Some("insert_only") => TableMode::InsertOnly,
        _ => TableMode::ReadWrite,
    }
}

/// The sequence that makes a table's key, if one does.
pub fn key_sequence(relation: Oid) -> Option<KeySequence> {
    let read = Spi::connect(|c| {
        let sql = "SELECT sequence::oid, step, low, high, always FROM sync.key_sequence($1::oid::regclass)";
        let mut rows = c.select(Kept(sql), Some(1), &[relation.into()])?;
        let Some(row) = rows.next() else { return Ok(None) };
        let (low, high) = (row.get(3)?.unwrap_or(i64::MIN), row.get(4)?.unwrap_or(i64::MAX));
        Ok::<_, spi::Error>(Some(KeySequence {
            sequence: row.get(1)?.unwrap_or(Oid::INVALID),
            step: row.get(2)?.unwrap_or(1),
            fits: low..=high,
            always: row.get(5)?.unwrap_or(false),
        }))
    });
    spi("reading a key's sequence", read)
}

/// Whether a sequence has given a number, or passed it.
pub fn has_given(sequence: &KeySequence, number: i64) -> bool {
    let sql = "SELECT pg_sequence_last_value($1)";
    let last =
        spi("reading a sequence", Spi::connect(|c| c.select(Kept(sql), Some(1), &[sequence.sequence.into()])?.first().get_one()));
    last.is_some_and(|last: i64| if sequence.step > 0 { number <= last } else { number >= last })
}

/// A table's name, and all its columns by number, also those that devices do not get: name and type. Names are quoted.
pub fn all_columns(relation: Oid) -> (String, Vec<(i16, String, String)>) {
    let read = Spi::connect(|c| {
        let sql = "SELECT quote_ident(c.relname), a.attnum, quote_ident(a.attname), format_type(a.atttypid, a.atttypmod)
                   FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                   WHERE c.oid = $1 ORDER BY a.attnum";
        let (mut name, mut columns) = (String::new(), Vec::new());
        for row in c.select(sql, None, &[relation.into()])? {
            name = row.get(1)?.unwrap_or_default();
            columns.push((row.get(2)?.unwrap_or_default(), row.get(3)?.unwrap_or_default(), row.get(4)?.unwrap_or_default()));
        }
        Ok::<_, spi::Error>((name, columns))
    });
    spi("reading a table's columns", read)
}

/// The schema as devices get it.
pub fn schema(tables: &[SyncedTable]) -> message::Schema {
    message::Schema { generation: generation(), tables: tables.iter().map(device_table).collect() }
}

fn device_table(table: &SyncedTable) -> message::Table {
    let columns = table.columns.iter().map(|c| {
        let renderer = Renderer::new(c.type_oid);
        let (default, literal) = device_default(c, &renderer);
        message::Column {
            name: c.name.clone(),
            tag: c.tag,
            affinity: renderer.affinity(),
            pg_type: crate::render::type_name(c.type_oid),
            key: c.key,
            position: c.position,
            // Where the server would fill in a value that the device does not know, the device may leave it out.
            not_null: c.not_null && !c.generated && !c.identity && (c.default.is_none() || default != ColumnDefault::Nothing),
            generated: c.generated,
            default,
            literal,
        }
    });
    message::Table {
        name: table.device_name.clone(),
        tag: table.tag,
        columns: columns.collect(),
        indexes: indexes(table),
        mode: table.mode,
        references: references(table),
        key_from_sequence: key_sequence(table.relation).is_some(),
        encrypted: (0..).zip(&table.columns).filter(|(_, c)| c.encrypted).map(|(at, _)| at).collect(),
    }
}

/// Defaults that a device can compute to the same effect; any other is left to the server.
fn device_default(column: &SyncedColumn, renderer: &Renderer) -> (ColumnDefault, Value) {
    let Some(sql) = column.default.as_deref().filter(|_| !column.generated) else { return (ColumnDefault::Nothing, Value::Null) };
    match sql {
        "gen_random_uuid()" | "uuid_generate_v4()" | "extensions.uuid_generate_v4()" => (ColumnDefault::Uuid, Value::Null),
        "now()" | "CURRENT_TIMESTAMP" | "CURRENT_DATE" | "LOCALTIMESTAMP" | "clock_timestamp()" | "statement_timestamp()"
            if renderer.is_time() =>
        {
            (ColumnDefault::Now, Value::Null)
        }
        "true" => (ColumnDefault::Literal, Value::Integer(1)),
        "false" => (ColumnDefault::Literal, Value::Integer(0)),
        _ => match literal(sql, renderer.is_enum()) {
            Some(value) => (ColumnDefault::Literal, value),
            None => (ColumnDefault::Nothing, Value::Null),
        },
    }
}

/// `42`, or `'text'::text` without anything behind the cast; any cast where the column is an enum.
fn literal(sql: &str, is_enum: bool) -> Option<Value> {
    if let Ok(integer) = sql.parse() {
        return Some(Value::Integer(integer));
    }
    let (quoted, cast) = sql.strip_prefix('\'')?.rsplit_once("'::")?;
    let is_text = is_enum || ["text", "character varying", "jsonb", "json"].contains(&cast);
    (is_text && !quoted.replace("''", "").contains('\'')).then(|| Value::Text(quoted.replace("''", "'")))
}

/// Secondary indexes over plain, sent columns.
fn indexes(table: &SyncedTable) -> Vec<Vec<u16>> {
    let read = Spi::connect(|client| {
        let rows = client.select(
            Kept(
                "SELECT (SELECT pg_catalog.array_agg(s.tag ORDER BY k.n)
                     FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
                     LEFT JOIN sync.synced_column s ON s.relid = i.indrelid AND s.attnum = k.attnum)
             FROM pg_catalog.pg_index i
             WHERE i.indrelid = $1 AND NOT i.indisprimary AND i.indisvalid AND i.indexprs IS NULL AND i.indpred IS NULL
             ORDER BY i.indexrelid",
            ),
            None,
            &[table.relation.into()],
        )?;
        let mut indexes = Vec::new();
        for row in rows {
            let tags = row.get::<Vec<Option<i64>>>(1)?.unwrap_or_default();
            let positions: Option<Vec<u16>> = tags
                .iter()
                .map(|tag| table.columns.iter().position(|c| Some(i64::from(c.tag)) == *tag).map(|p| p as u16))
                .collect();
            indexes.extend(positions.filter(|p| !p.is_empty()));
        }
        indexes.dedup();
        Ok::<_, spi::Error>(indexes)
    });
    spi("reading indexes", read)
}

/// Foreign keys over sent columns to the whole primary key of another synced table, or of the same.
fn references(table: &SyncedTable) -> Vec<Reference> {
    let read = Spi::connect(|client| {
        // The other table's key in its order, and which of our columns stands for each part of it.
        let rows = client.select(
            Kept(
                "SELECT t.tag, (SELECT pg_catalog.array_agg(s.tag ORDER BY k.n)
                            FROM pg_catalog.unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k(attnum, n)
                            LEFT JOIN sync.synced_column s ON s.relid = c.conrelid
                                AND s.attnum = c.conkey[pg_catalog.array_position(c.confkey, k.attnum)])
             FROM pg_catalog.pg_constraint c
             JOIN sync.synced_table t ON t.relid = c.confrelid
             JOIN pg_catalog.pg_index i ON i.indrelid = c.confrelid AND i.indisprimary
             WHERE c.conrelid = $1 AND c.contype = 'f' AND pg_catalog.cardinality(c.confkey) = i.indnkeyatts
             ORDER BY c.conname",
            ),
            None,
            &[table.relation.into()],
        )?;
        let mut references = Vec::new();
        for row in rows {
            let tags = row.get::<Vec<Option<i64>>>(2)?.unwrap_or_default();
            let position =
                |tag: &Option<i64>| table.columns.iter().position(|c| Some(i64::from(c.tag)) == *tag).map(|p| p as u16);
            let columns: Option<Vec<u16>> = tags.iter().map(position).collect();
            let other = row.get::<i64>(1)?.unwrap_or_default() as Tag;
            references.extend(columns.map(|columns| Reference { columns, table: other }));
        }
        references.dedup();
        Ok::<_, spi::Error>(references)
    });
    spi("reading foreign keys", read)
}
