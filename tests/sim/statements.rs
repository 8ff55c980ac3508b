//! Random SQL, for the server and for devices.

use crate::world::{Facts, LEDGER, LISTS, USERS};
use fastrand::Rng;
use sync_tests::Device;

/// A text, now and then one so long that a few make a page, or that a row comes without it where it has not changed.
fn word(rng: &mut Rng, long: &str) -> String {
    let words = ["a", "b", "c", "d", "e", "f", "it''s", "é"];
    match rng.u8(..8) {
        0 => long.replace('?', words[rng.usize(..6)]),
        1 | 2 => format!("substr({}, 1, 700)", long.replace('?', words[rng.usize(..6)])),
        _ => format!("'{}'", words[rng.usize(..words.len())]),
    }
}

fn list(rng: &mut Rng) -> i64 {
    rng.i64(1..=LISTS)
}

/// What only one seat may have.
fn place(rng: &mut Rng) -> i64 {
    rng.i64(1..25)
}

fn user(rng: &mut Rng) -> &'static str {
    USERS[rng.usize(..USERS.len())]
}

pub fn server_transaction(rng: &mut Rng, facts: &Facts) -> String {
    let mut statements = server_statements(rng, facts);
    if rng.u8(..4) == 0 {
        let at = rng.usize(..statements.len());
        statements.insert(at, "SAVEPOINT s".into());
        statements.push(if rng.bool() { "ROLLBACK TO s" } else { "RELEASE s" }.into());
    }
    format!("BEGIN; {}; COMMIT", statements.join("; "))
}

pub fn server_statements(rng: &mut Rng, facts: &Facts) -> Vec<String> {
    (0..rng.usize(1..4)).map(|_| server_statement(rng, facts)).collect()
}

fn server_statement(rng: &mut Rng, facts: &Facts) -> String {
    let (id, from) = (rng.i64(1..40), rng.i64(1..40));
    let (list, other, owner) = (list(rng), list(rng), user(rng));
    let word = word(rng, "repeat('?', 2500)");
    let (color, text) = (facts.name_of("label", &["color", "shade"]), facts.name_of("news", &["body", "story"]));
    match rng.u8(..18) {
        0 => format!(
            "INSERT INTO task (id, list, owner, body, n) SELECT i, i % {LISTS} + 1, '{owner}', {word}, i \
             FROM generate_series({from}, {from} + 15) i ON CONFLICT DO NOTHING"
        ),
        1 => format!(
            "INSERT INTO task (id, list, owner, body, n) VALUES ({id}, {list}, '{owner}', {word}, 1) \
             ON CONFLICT (id) DO UPDATE SET body = excluded.body, list = {list}"
        ),
        2 => format!("UPDATE task SET id = {id} WHERE id = {from}"),
        3 => format!("DELETE FROM task WHERE id BETWEEN {from} AND {from} + 4"),
        4 => format!("UPDATE task SET hidden = NOT hidden WHERE id % 5 = {}", id % 5),
        5 => format!("UPDATE task SET list = {list}, owner = '{owner}' WHERE id BETWEEN {from} AND {from} + 6"),
        6 => format!("UPDATE label SET {color} = {word} WHERE list = {list}"),
        7 => format!("INSERT INTO label (list, name, {color}) VALUES ({list}, left({word}, 9), 'new') ON CONFLICT DO NOTHING"),
        8 => format!("UPDATE label SET list = {list} WHERE name = left({word}, 9) AND list = {other}"),
        9 => format!("DELETE FROM label WHERE list = {list}"),
        10 => {
            format!("INSERT INTO news (id, {text}) VALUES ({id}, {word}) ON CONFLICT (id) DO UPDATE SET {text} = excluded.{text}")
        }
        11 => format!("UPDATE news SET id = {id} WHERE id = {from} AND NOT EXISTS (SELECT FROM news WHERE id = {id})"),
        12 if rng.u8(..6) == 0 => "TRUNCATE news".into(),
        12 => format!("DELETE FROM news WHERE id = {id}"),
        13 => format!("UPDATE task SET n = n + 1 WHERE list = {list}"),
        16 => format!("UPDATE task SET n = coalesce(n, 0) + 1 WHERE id BETWEEN {from} AND {from} + 9"),
        14 => format!("INSERT INTO seat VALUES ({id}, {}, {from}) ON CONFLICT DO NOTHING", place(rng)),
        15 => format!("DELETE FROM seat WHERE id = {id} AND NOT EXISTS (SELECT FROM guest WHERE seat = {id})"),
        _ => format!("UPDATE task SET body = {word} WHERE id = {id}"),
    }
}

/// Moves an amount between two accounts: the sum stays zero.
pub fn ledger_transaction(rng: &mut Rng) -> String {
    let (from, to, amount) = (rng.i64(1..=LEDGER), rng.i64(1..=LEDGER), rng.i64(1..100));
    format!(
        "BEGIN; UPDATE ledger SET amount = amount - {amount} WHERE id = {from}; \
         UPDATE ledger SET amount = amount + {amount} WHERE id = {to}; COMMIT"
    )
}

pub fn membership(rng: &mut Rng) -> String {
    let (user, list) = (user(rng), list(rng));
    match rng.u8(..5) {
        0 => format!("DELETE FROM reader WHERE name = '{user}'"),
        1 | 2 => format!("DELETE FROM reader WHERE name = '{user}' AND list = {list}"),
        _ => format!("INSERT INTO reader VALUES ('{user}', {list}) ON CONFLICT DO NOTHING"),
    }
}

/// A transaction of a device, and whether it commits. `trace` names it in a synced table; `more` is done with it.
pub fn device_transaction(rng: &mut Rng, device: &Device, trace: &str, more: Option<String>) -> (String, bool) {
    let names = Names::of(device);
    let mut statements: Vec<_> = (0..rng.usize(1..4)).map(|_| device_statement(rng, &names)).collect();
    statements.extend(more);
    let begin = format!("BEGIN; INSERT INTO trace VALUES ('{trace}a'), ('{trace}b'); {}", statements.join("; "));
    match rng.u8(..8) {
        0 => (format!("{begin}; ROLLBACK"), false),
        1 => (format!("{begin}; SAVEPOINT s; {}; ROLLBACK TO s; COMMIT", device_statement(rng, &names)), true),
        _ => (format!("{begin}; COMMIT"), true),
    }
}

/// Columns that were renamed on the server, as this device knows them.
struct Names {
    color: String,
    text: String,
}

impl Names {
    fn of(device: &Device) -> Names {
        let first = |table: &str, names: &str, default: &str| {
            let found = device.rows(&format!("SELECT name FROM pragma_table_info('{table}') WHERE name IN ({names})"));
            found.first().map_or(default.to_owned(), |row| row[0].clone())
        };
        Names { color: first("label", "'color', 'shade'", "color"), text: first("news", "'body', 'story'", "body") }
    }
}

fn device_statement(rng: &mut Rng, Names { color, text }: &Names) -> String {
    let (id, from) = (rng.i64(1..60), rng.i64(1..60));
    let (list, owner) = (list(rng), user(rng));
    let word = word(rng, "replace(hex(zeroblob(1250)), '0', '?')");
    match rng.u8(..19) {
        0 => format!(
            "INSERT OR IGNORE INTO task (id, list, owner, body, n, hidden) VALUES ({id}, {list}, '{owner}', {word}, 1, 0)"
        ),
        1 => format!(
            "INSERT OR REPLACE INTO task (id, list, owner, body, n, hidden) VALUES ({id}, {list}, '{owner}', {word}, {}, 0)",
            rng.i64(-1..5)
        ),
        2 => format!("UPDATE OR IGNORE task SET id = {id} WHERE id = {from}"),
        3 => format!("DELETE FROM task WHERE id = {id}"),
        4 => format!("UPDATE task SET list = {list} WHERE id = {id}"),
        // Refused by the server where it makes n negative.
        5 => format!("UPDATE task SET n = n - 3 WHERE id BETWEEN {from} AND {from} + 3"),
        6 => format!("UPDATE task SET hidden = 1 - hidden WHERE id = {id}"),
        7 => format!("UPDATE OR IGNORE label SET {color} = {word} WHERE list = {list}"),
        8 => format!("INSERT OR IGNORE INTO label (list, name, {color}) VALUES ({list}, substr({word}, 1, 9), 'device')"),
        9 => format!("DELETE FROM label WHERE list = {list} AND name = substr({word}, 1, 9)"),
        10 => {
            format!("INSERT INTO news (id, {text}) VALUES ({id}, {word}) ON CONFLICT (id) DO UPDATE SET {text} = excluded.{text}")
        }
        11 => format!("DELETE FROM news WHERE id = {id}"),
        // Refused where somebody else has the place, or the seat is gone on the server, or still has guests.
        12 => format!("INSERT OR IGNORE INTO seat VALUES ({id}, {}, 1)", place(rng)),
        13 => format!("UPDATE seat SET place = {}, price = {from} - 3 WHERE id BETWEEN {id} AND {id} + 9", place(rng)),
        14 => format!("DELETE FROM seat WHERE id = {id} OR place = {}", place(rng)),
        15 => format!("INSERT OR IGNORE INTO guest SELECT {id}, id FROM seat WHERE id >= {from} ORDER BY id LIMIT 1"),
        16 => format!(
            "INSERT OR IGNORE INTO guest VALUES ({id}, {from}); INSERT OR IGNORE INTO seat VALUES ({from}, {}, 2)",
            place(rng)
        ),
        _ => format!("UPDATE task SET body = {word} WHERE id BETWEEN {from} AND {from} + 5"),
    }
}
