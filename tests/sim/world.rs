//! The tables, the rules, and what each device must hold at the end.

use crate::server::Server;
use fastrand::Rng;
use std::collections::BTreeMap;
use sync_tests::compare::{assert_alike, assert_verified};
use sync_tests::Device;

/// Users' names: a device each, sometimes two devices for one user.
pub const USERS: [&str; 4] = ["ann", "bob", "cid", "dot"];
/// Lists that rows may be in.
pub const LISTS: i64 = 5;
/// Rows of `ledger`, whose amounts add up to zero after each transaction of the server.
pub const LEDGER: i64 = 6;

/// `trace` takes two rows from every transaction of a device: they tell what became of it.
const TABLES: &str = "
    CREATE TABLE reader (name text, list int, PRIMARY KEY (name, list));
    CREATE TABLE task (id int PRIMARY KEY, list int, owner text, body text, n int CHECK (n >= 0), hidden boolean NOT NULL DEFAULT false);
    CREATE INDEX ON task (list, id);
    CREATE INDEX ON task (owner, id);
    CREATE TABLE label (list int NOT NULL, name text NOT NULL, color text, PRIMARY KEY (list, name));
    CREATE TABLE news (id int PRIMARY KEY, body text);
    CREATE TABLE ledger (id int PRIMARY KEY, amount int NOT NULL);
    CREATE TABLE trace (id text PRIMARY KEY);
    CREATE TABLE tally (id int PRIMARY KEY, hits int NOT NULL DEFAULT 0, tags jsonb NOT NULL DEFAULT '[]', best int NOT NULL DEFAULT 0,
        least int NOT NULL DEFAULT 0, body text NOT NULL DEFAULT '', strict text NOT NULL DEFAULT '');
    CREATE TABLE note (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), body text NOT NULL, copy_of uuid);
    CREATE TABLE seat (id int PRIMARY KEY, place int NOT NULL UNIQUE, price int CHECK (price >= 0));
";

/// A rule by name, with what makes its tables part of it.
pub fn rule(name: &str, priority: u8) -> String {
    let (members, tables): (_, &[&str]) = match name {
        "list" => (", members => 'SELECT list FROM reader WHERE name = sync.user_id()'", &["task", "label"]),
        "owner" => (", members => 'SELECT sync.user_id()'", &["task"]),
        _ => ("", &["news", "ledger", "trace", "tally", "note", "seat", "guest"]),
    };
    let tables: String = tables.iter().map(|table| entry(name, table) + ";\n").collect();
    format!("SELECT sync.create_bucket('{name}', priority => {priority}{members});\n{tables}")
}

/// A table of a rule.
pub fn entry(rule: &str, table: &str) -> String {
    let how = match (rule, table) {
        ("list", "task") => ", key => 'list', filter => 'NOT hidden'",
        ("list", _) => ", key => 'list'",
        ("owner", _) => ", key => 'owner'",
        _ => "",
    };
    format!("SELECT sync.add_table('{rule}', '{table}'{how})")
}

/// Creates tables, some rows, and rules; details depend on the seed.
pub fn install(server: &mut Server<'_>, rng: &mut Rng) {
    let mut run = |sql: &str| server.run(sql).unwrap_or_else(|e| panic!("{e}\nin: {sql:.400}"));
    run(TABLES);
    let reference = ["", "ON DELETE CASCADE", "DEFERRABLE INITIALLY DEFERRED"][rng.usize(..3)];
    run(&format!("CREATE TABLE guest (id int PRIMARY KEY, seat int NOT NULL REFERENCES seat {reference})"));
    if rng.bool() {
        run("DROP TABLE news");
        run("CREATE TABLE news (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
             CREATE TABLE news_low PARTITION OF news FOR VALUES FROM (MINVALUE) TO (20);
             CREATE TABLE news_high PARTITION OF news FOR VALUES FROM (20) TO (MAXVALUE)");
    }
    if rng.u8(..4) == 0 {
        // A row that changes again after the statement that changed it.
        run("CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 UPDATE task SET list = NEW.list % 5 + 1, n = coalesce(NEW.n, 0) + 1 WHERE id = NEW.id;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER again AFTER INSERT OR UPDATE ON task FOR EACH ROW
                 WHEN (pg_trigger_depth() = 0 AND NEW.id % 7 = 0) EXECUTE FUNCTION again()");
    }
    run(&format!(
        "INSERT INTO task SELECT i, i % {LISTS} + 1, (ARRAY['ann', 'bob', 'cid', 'dot'])[i % 4 + 1], 'task ' || i || repeat('.', 700 * (i % 3)), i FROM generate_series(1, 20) i;
         INSERT INTO label SELECT l, c, 'red' FROM generate_series(1, {LISTS}) l, unnest('{{a,b}}'::text[]) c;
         INSERT INTO news SELECT i * 5, 'news ' || i FROM generate_series(1, 8) i;
         INSERT INTO seat SELECT i, i, i FROM generate_series(1, 4) i;
         INSERT INTO ledger SELECT i, 0 FROM generate_series(1, {LEDGER}) i;
         INSERT INTO reader SELECT u, l FROM unnest('{{ann,bob,cid,dot}}'::text[]) u, generate_series(1, {LISTS}) l WHERE (ascii(u) + l) % 2 = 0"
    ));
    for name in ["list", "owner", "everybody"] {
        run(&rule(name, rng.u8(0..3)));
    }
}

/// The rules and columns as they are now: scripts change them, crashes and restores take changes back.
#[derive(Default)]
pub struct Facts {
    /// Rule and table, and whether the rule leaves hidden rows out.
    pub entries: Vec<(String, String, bool)>,
    /// Of each table, with their types.
    pub columns: BTreeMap<String, Vec<(String, String)>>,
    pub partitioned: bool,
}

impl Facts {
    pub fn read(server: &mut Server<'_>) -> Facts {
        let broken = server.rows("SELECT * FROM sync.rules WHERE state = 'broken'");
        assert!(broken.is_empty(), "an entry broke: {broken:?}");
        let entries = server.rows("SELECT bucket, \"table\", filter IS NOT NULL FROM sync.rules WHERE \"table\" IS NOT NULL");
        let mut columns: BTreeMap<String, Vec<_>> = BTreeMap::new();
        let sql = "SELECT attrelid::regclass, attname, format_type(atttypid, NULL) FROM pg_attribute
                   WHERE attrelid::regclass::text = ANY ('{task,label,news,ledger,trace,tally,note,seat,guest}') AND attnum > 0 AND NOT attisdropped ORDER BY 1, attnum";
        for row in server.rows(sql) {
            columns.entry(row[0].clone()).or_default().push((row[1].clone(), row[2].clone()));
        }
        let entries = entries.into_iter().map(|row| (row[0].clone(), row[1].clone(), row[2] == "t")).collect();
        let partitioned = server.value("SELECT relkind = 'p' FROM pg_class WHERE oid = 'news'::regclass") == "t";
        Facts { entries, columns, partitioned }
    }

    pub fn has(&self, rule: &str, table: &str) -> bool {
        self.entries.iter().any(|(r, t, _)| r == rule && t == table)
    }

    /// The first of some names that a table has as a column.
    pub fn name_of(&self, table: &str, names: &[&'static str]) -> &'static str {
        let columns = self.columns.get(table);
        let found = names.iter().find(|name| columns.is_some_and(|c| c.iter().any(|(known, _)| known == **name)));
        found.unwrap_or(&names[0])
    }

    /// Which rows of a table a user may hold.
    fn condition(&self, table: &str, user: &str) -> String {
        let mut any = vec!["false".to_owned()];
        for (rule, of, filtered) in &self.entries {
            if of == table {
                any.push(match (rule.as_str(), filtered) {
                    ("owner", _) => format!("owner = '{user}'"),
                    ("everybody", _) => "true".into(),
                    (_, true) => format!("NOT hidden AND list IN (SELECT list FROM reader WHERE name = '{user}')"),
                    (_, false) => format!("list IN (SELECT list FROM reader WHERE name = '{user}')"),
                });
            }
        }
        any.join(" OR ")
    }
}

/// Fails unless the device holds exactly what its user may hold, with the right sums, and nothing waits.
pub fn check(device: &Device, server: &mut Server<'_>, facts: &Facts) {
    for (table, columns) in &facts.columns {
        let names: Vec<_> = columns.iter().map(|(name, _)| name.as_str()).collect();
        let values: Vec<_> =
            columns.iter().map(|(name, kind)| if kind == "boolean" { format!("{name}::int") } else { name.clone() }).collect();
        let condition = facts.condition(table, &device.user.id);
        let there = has_table(device, table);
        let on_device = if there { format!("SELECT {} FROM {table}", names.join(", ")) } else { "SELECT 1 WHERE false".into() };
        let on_server = format!("SELECT {} FROM {table} WHERE {condition}", values.join(", "));
        assert_alike(device, &on_device, server.client(), &on_server);
    }
    assert_verified(device);
    let waiting = device.value("SELECT count(*) FROM sync_pending");
    assert_eq!(waiting, "0", "batches wait though everything was synced");
    let aside = device.rows("SELECT value FROM sync_status WHERE name = 'problem'");
    assert!(aside.is_empty(), "something could not be shown: {aside:?}");
}

/// Whether the device has the table.
pub fn has_table(device: &Device, table: &str) -> bool {
    !device.rows(&format!("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '{table}'")).is_empty()
}

/// Fails if a bucket's content was found to differ from the server's sums: it would be fetched again and so hide a fault.
pub fn check_sums(device: &Device) {
    let differing = device.rows("SELECT rule, key_json FROM sync_bucket WHERE misses > 0");
    assert!(differing.is_empty(), "a publish did not add up to the server's sums: {differing:?}");
}

/// Fails if the device shows a part of a server transaction: the ledger's amounts always add up to zero.
pub fn check_snapshot(device: &Device) {
    if !has_table(device, "ledger") {
        return;
    }
    let row = &device.rows("SELECT count(*), coalesce(sum(amount), 0) FROM ledger")[0];
    let count: i64 = row[0].parse().expect("a number");
    assert!((count == 0 || count == LEDGER) && row[1] == "0", "a server transaction is visible in part: {row:?}");
}
