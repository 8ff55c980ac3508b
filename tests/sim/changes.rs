//! Random changes of rules and of the tables themselves.

use crate::world::{entry, rule, Facts};
use fastrand::Rng;

/// Tables leave and enter rules; rules are dropped and made again.
pub fn of_rules(rng: &mut Rng, facts: &Facts) -> String {
    if rng.bool() {
        let all = [("list", "task"), ("list", "label"), ("owner", "task"), ("everybody", "news")];
        let (of, table) = all[rng.usize(..all.len())];
        if facts.has(of, table) {
            return format!("SELECT sync.drop_table('{of}', '{table}')");
        }
        if facts.entries.iter().any(|(known, ..)| known == of) {
            return entry(of, table);
        }
    }
    let name = ["list", "owner", "everybody"][rng.usize(..3)];
    format!("SELECT sync.drop_bucket('{name}'); {}", rule(name, rng.u8(0..3)))
}

/// Columns come, go, and change; tables are emptied, rewritten, and made anew.
pub fn of_schema(rng: &mut Rng, facts: &Facts) -> String {
    let table = ["task", "label", "news"][rng.usize(..3)];
    let extra = facts.columns[table].iter().find(|(name, _)| name.starts_with('x')).map(|(name, _)| name.clone());
    let new = format!("x{}", rng.u16(..));
    match rng.u8(..13) {
        0 | 1 => format!("ALTER TABLE {table} ADD COLUMN {new} int"),
        2 => format!("ALTER TABLE {table} ADD COLUMN {new} text DEFAULT 'z'"),
        3 => format!("ALTER TABLE {table} ADD COLUMN {new} int NOT NULL DEFAULT 7"),
        4 => match extra {
            Some(name) => format!("ALTER TABLE {table} DROP COLUMN {name}"),
            None => format!("ALTER TABLE {table} ADD COLUMN {new} numeric"),
        },
        5 => match extra {
            Some(name) => format!("UPDATE {table} SET {name} = DEFAULT; ALTER TABLE {table} RENAME {name} TO {new}"),
            None => format!("ALTER TABLE {table} ADD COLUMN {new} boolean; ALTER TABLE {table} RENAME {new} TO {new}y"),
        },
        6 => match facts.name_of("label", &["color", "shade"]) {
            "color" => "ALTER TABLE label RENAME color TO shade".into(),
            _ => "ALTER TABLE label RENAME shade TO color".into(),
        },
        7 => match facts.name_of("news", &["body", "story"]) {
            "body" => "ALTER TABLE news RENAME body TO story".into(),
            _ => "ALTER TABLE news RENAME story TO body".into(),
        },
        8 => format!("ALTER TABLE task ALTER n TYPE {}", if rng.bool() { "bigint" } else { "int" }),
        9 => format!("TRUNCATE {table}"),
        10 => format!("BEGIN; UPDATE {table} SET {0} = {0}; ALTER TABLE {table} ADD COLUMN {new} int DEFAULT 1; DELETE FROM {table} WHERE {new} > 1; COMMIT",
            facts.columns[table][1].0),
        11 if facts.partitioned => "BEGIN; ALTER TABLE news DETACH PARTITION news_high; DELETE FROM news_high WHERE id % 2 = 0; \
             ALTER TABLE news ATTACH PARTITION news_high FOR VALUES FROM (20) TO (MAXVALUE); COMMIT"
            .into(),
        _ if facts.has("everybody", "news") => "BEGIN; DROP TABLE news; CREATE TABLE news (id int PRIMARY KEY, body text); \
             INSERT INTO news VALUES (1, 'anew'), (30, 'anew'); COMMIT; SELECT sync.add_table('everybody', 'news')"
            .into(),
        _ => "CREATE INDEX ON news (id)".into(),
    }
}

/// What a change counts as, in the shares that a run tells.
pub fn kind(sql: &str) -> &'static str {
    let parts = [
        ("drop_bucket", "a rule dropped and made again"),
        ("CREATE TABLE", "a table made anew"),
        ("drop_table", "a table leaves a rule"),
        ("add_table", "a table enters a rule"),
        ("PARTITION", "partitions"),
        ("ADD COLUMN", "a column added"),
        ("RENAME", "a column renamed"),
        ("DROP COLUMN", "a column dropped"),
        ("TYPE", "another type"),
        ("TRUNCATE", "a table emptied"),
    ];
    parts.iter().find(|(part, _)| sql.contains(part)).map_or("others", |(_, kind)| kind)
}
