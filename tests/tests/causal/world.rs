//! A hundred registers in two tables, their rules, and the record of what the server wrote.

use crate::history::{Key, Loss, Value, Version};
use postgres::Client;
use sync_tests::{Database, Device};

/// Registers in all.
pub const KEYS: usize = 100;
const TABLES: [&str; 2] = ["red", "blue"];
/// Two registers to a row.
const COLUMNS: [&str; 2] = ["a", "b"];

/// The trigger notes each value while the row is locked: for each register that is the order in which the server wrote.
const SQL: &str = "
    CREATE TABLE red (id int PRIMARY KEY, hue int NOT NULL, a bigint NOT NULL DEFAULT 0, b bigint NOT NULL DEFAULT 0);
    CREATE INDEX ON red (hue, id);
    CREATE TABLE blue (id int PRIMARY KEY, hue int NOT NULL, a bigint NOT NULL DEFAULT 0, b bigint NOT NULL DEFAULT 0);
    INSERT INTO red SELECT i, i % 5 FROM generate_series(0, 24) i;
    INSERT INTO blue SELECT i, i % 5 FROM generate_series(0, 24) i;
    CREATE TABLE written (n bigserial, register int, value bigint, xid xid8 DEFAULT pg_current_xact_id());
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE first int := TG_ARGV[0]::int + 2 * NEW.id;
    BEGIN
        IF NEW.a <> OLD.a THEN INSERT INTO written (register, value) VALUES (first, NEW.a); END IF;
        IF NEW.b <> OLD.b THEN INSERT INTO written (register, value) VALUES (first + 1, NEW.b); END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER UPDATE ON red FOR EACH ROW EXECUTE FUNCTION note(0);
    CREATE TRIGGER note AFTER UPDATE ON blue FOR EACH ROW EXECUTE FUNCTION note(50);
";

/// One table in buckets, the other in one for everybody, all of one priority: what is published is published together.
const RULES: &str = "
    SELECT sync.create_bucket('hue', members => 'SELECT generate_series(0, 4)');
    SELECT sync.add_table('hue', 'red', key => 'hue');
    SELECT sync.create_bucket('everybody');
    SELECT sync.add_table('everybody', 'blue');
";

/// Who decides conflicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policies {
    /// Each column by itself: the later edit in one table, in the other the server's in one column and the device's in the other.
    Columns,
    /// The server's value stays.
    ServerWins,
    /// The device's is taken.
    ClientWins,
    /// The later edit gets all that the device changed in the row.
    LastWriter,
    /// A conflict rejects the whole transaction.
    Reject,
    /// In one table the later edit gets the row and the other version is kept in the record, in the other a function decides: whose
    /// value of the first column in conflict is odd.
    Rows,
    /// The greater value stays, of one column the smaller.
    Extremes,
}

/// What is answered does not depend on when the values were written.
const HANDLER: &str = "
    CREATE FUNCTION odd(conflict jsonb) RETURNS jsonb LANGUAGE sql AS $$
        SELECT jsonb_build_object('action', CASE WHEN (value ->> 'mine')::bigint % 2 = 1 THEN 'mine' ELSE 'theirs' END, 'reason', 'odd')
        FROM jsonb_each(conflict -> 'columns') WHERE (value ->> 'conflict')::boolean ORDER BY key LIMIT 1
    $$;
";

pub fn install(db: &Database<'_>, policies: Policies) {
    db.run(SQL);
    db.run(RULES);
    let of_tables = |policy| format!("SELECT sync.set_policy('red', '{policy}'), sync.set_policy('blue', '{policy}')");
    db.run(&match policies {
        Policies::Columns => {
            "SELECT sync.set_policy('red', 'server_wins', 'a'), sync.set_policy('red', 'client_wins', 'b')".to_owned()
        }
        Policies::ServerWins => of_tables("server_wins"),
        Policies::ClientWins => of_tables("client_wins"),
        Policies::LastWriter => of_tables("last_writer"),
        Policies::Reject => of_tables("reject"),
        Policies::Rows => format!(
            r#"{HANDLER} SELECT sync.set_policy('red', 'keep_both', options => '{{"as": "record"}}'),
                sync.set_policy('blue', 'custom', handler => 'odd(jsonb)')"#
        ),
        Policies::Extremes => "SELECT sync.set_policy('red', 'max', 'a'), sync.set_policy('red', 'min', 'b'),
            sync.set_policy('blue', 'max', 'a'), sync.set_policy('blue', 'max', 'b')"
            .to_owned(),
    });
}

/// Reads all registers, on either side.
pub const READ: &str =
    "SELECT a, b FROM (SELECT 0 AS t, id, a, b FROM red UNION ALL SELECT 1, id, a, b FROM blue) x ORDER BY t, id";

/// Sets a register, on either side.
pub fn write(key: Key, value: Value) -> String {
    let (table, row, column) = (TABLES[key / 50], key % 50 / 2, COLUMNS[key % 2]);
    format!("UPDATE {table} SET {column} = {value} WHERE id = {row}")
}

fn register(table: &str, row: i64, column: &str) -> Key {
    let place =
        |names: [&str; 2], name: &str| names.iter().position(|n| *n == name.trim_start_matches("public.")).expect("a name");
    place(TABLES, table) * 50 + row as usize * 2 + place(COLUMNS, column)
}

/// For each register, what the server wrote, in order.
pub fn versions(server: &mut Client) -> Vec<Vec<Version>> {
    let mut versions = vec![Vec::new(); KEYS];
    let rows = server.query("SELECT register, value, xid::text::bigint FROM written ORDER BY n", &[]).expect("the record");
    for row in rows {
        versions[row.get::<_, i32>(0) as usize].push(Version { value: row.get(1), xid: row.get(2) });
    }
    versions
}

/// Policies that decide about all that a device changed in a row.
const OF_ROWS: &str = "('last_writer', 'keep_both', 'custom')";

/// Values that lost a conflict, as the server recorded it: over a column, or over a row whose policy is for all of it. Conflicts that
/// come with a rejection are of neither kind.
pub fn losses(server: &mut Client) -> Vec<Loss> {
    let sql = format!(
        "SELECT c.relname::text, (f.key->>0)::bigint, x.name, x.mine::bigint, x.theirs::bigint, x.clashes
               FROM sync.conflict f JOIN pg_class c ON c.oid = f.relid
               CROSS JOIN LATERAL (
                   SELECT f.column_name::text, f.mine::text, f.theirs::text, f.result::text, true WHERE f.column_name IS NOT NULL
                   UNION ALL
                   SELECT m.key, m.value, f.theirs->>m.key, f.result->>m.key, f.base->m.key IS DISTINCT FROM f.theirs->m.key
                   FROM jsonb_each_text(CASE WHEN f.column_name IS NULL AND f.policy IN {OF_ROWS} THEN f.mine ELSE '{{}}' END) m
               ) AS x (name, mine, theirs, result, clashes)
               WHERE x.mine <> x.result"
    );
    let rows = server.query(&sql, &[]).expect("the server's conflicts");
    let to = |row: &postgres::Row| row.get::<_, bool>(5).then(|| row.get(4));
    rows.iter().map(|row| Loss { key: register(row.get(0), row.get(1), row.get(2)), value: row.get(3), to: to(row) }).collect()
}

/// How many conflicts the server has recorded.
pub fn conflicts(server: &mut Client) -> u64 {
    server.query_one("SELECT count(*) FROM sync.conflict", &[]).expect("a number").get::<_, i64>(0) as u64
}

/// What a device's rejected transactions wrote.
pub fn rejected_on(device: &Device) -> Vec<Value> {
    let sql = "SELECT v.value FROM sync_rejected, json_each(batch) change, json_each(change.value, '$.new') v";
    device.rows(sql).iter().map(|row| row[0].parse().expect("a number")).collect()
}

/// The same as a device recorded them.
pub fn losses_on(device: &Device) -> Vec<Loss> {
    let rows = device.rows(&format!(
        "SELECT table_name, json_extract(key, '$[0]'), column_name, mine, theirs, 1 FROM sync_conflicts
         WHERE column_name IS NOT NULL AND result <> mine
         UNION ALL
         SELECT c.table_name, json_extract(c.key, '$[0]'), m.key, m.value, json_extract(c.theirs, m.fullkey),
             json_extract(c.base, m.fullkey) IS NOT json_extract(c.theirs, m.fullkey)
         FROM sync_conflicts c, json_each(CASE WHEN c.column_name IS NULL AND c.policy IN {OF_ROWS} THEN c.mine ELSE '{{}}' END) m
         WHERE json_extract(c.result, m.fullkey) <> m.value",
    ));
    let number = |text: &str| text.parse::<i64>().expect("a number");
    let loss = |row: &Vec<String>| Loss {
        key: register(&row[0], number(&row[1]), &row[2]),
        value: number(&row[3]),
        to: (row[5] == "1").then(|| number(&row[4])),
    };
    rows.iter().map(loss).collect()
}
