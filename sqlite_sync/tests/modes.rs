//! Tables that an application may only read, or only insert into; and those that are its own.

mod common;
use common::*;
use rusqlite::Connection;

/// A device whose notes (k1:a, k2:b) are in a mode.
fn in_mode(mode: TableMode) -> Device {
    let device = Device::new();
    let mut page = page(&[row(1, "a"), row(2, "b")]).with_schema().publish();
    page.0.schema.as_mut().unwrap().tables[0].mode = mode;
    device.apply(&page);
    device
}

/// A page that changes the mode.
fn to_mode(mode: TableMode) -> Page {
    let mut page = page(&[]).with_schema().publish().known();
    let schema = page.0.schema.as_mut().unwrap();
    schema.generation = 2;
    schema.tables[0].mode = mode;
    page
}

/// Whether each statement is refused, alike on every kind of connection, and what for.
fn refused(device: &Device, sql: &str) -> Option<String> {
    let plain = device.plain();
    let mut all = Vec::new();
    for db in [&device.db, &plain] as [&Connection; 2] {
        for recursive in ["ON", "OFF"] {
            db.execute_batch(&format!("PRAGMA recursive_triggers = {recursive}; PRAGMA trusted_schema = OFF; BEGIN")).unwrap();
            all.push(db.execute_batch(sql).err().map(|e| e.to_string()));
            db.execute_batch("ROLLBACK").unwrap();
        }
    }
    assert!(all.windows(2).all(|w| w[0].is_some() == w[1].is_some()), "{sql}: {all:?}");
    all.pop().unwrap()
}

const EXISTING: [&str; 8] = [
    "UPDATE notes SET title = 'x'",
    "UPDATE OR IGNORE notes SET title = 'x'",
    "UPDATE OR REPLACE notes SET id = 'k1' WHERE id = 'k2'",
    "UPDATE notes SET title = title",
    "DELETE FROM notes",
    "INSERT OR REPLACE INTO notes(id, title) VALUES ('k1', 'x')",
    "REPLACE INTO notes(id, title) VALUES ('k7', 'new'), ('k1', 'x')",
    "INSERT INTO notes(id, title) VALUES ('k1', 'x') ON CONFLICT DO UPDATE SET title = 'x'",
];

const NEW: [&str; 4] = [
    "INSERT INTO notes(id, title) VALUES ('k3', 'x')",
    "INSERT INTO notes(title) VALUES ('x')",
    "INSERT OR REPLACE INTO notes(id, title) VALUES ('k3', 'x')",
    "INSERT OR IGNORE INTO notes(id, title) VALUES ('k3', 'x')",
];

#[test]
fn a_read_only_table_refuses_every_write() {
    let device = in_mode(TableMode::ReadOnly);
    for sql in EXISTING.iter().chain(&NEW).chain(&["INSERT OR IGNORE INTO notes(id, title) VALUES ('k1', 'x')"]) {
        let error = refused(&device, sql).unwrap_or_else(|| panic!("{sql} is not refused"));
        assert!(error.contains("table \"notes\" is read only here"), "{sql}: {error}");
    }
    assert_eq!(device.titles(), ["1:a", "2:b"]);
    device.run("INSERT INTO numbers(x) VALUES (1)");
    assert_eq!(kinds(&device.push()), ["insert 1 (id, x)"], "others are as they were");
}

#[test]
fn an_insert_only_table_takes_new_rows_only() {
    let device = in_mode(TableMode::InsertOnly);
    for sql in EXISTING {
        let error = refused(&device, sql).unwrap_or_else(|| panic!("{sql} is not refused"));
        assert!(error.contains("table \"notes\" is insert only here"), "{sql}: {error}");
    }
    for sql in NEW {
        assert_eq!(refused(&device, sql), None, "{sql}");
    }
    for sql in [
        "INSERT OR IGNORE INTO notes(id, title) VALUES ('k1', 'x'), ('k4', 'd')",
        "INSERT INTO notes(id) VALUES ('k1') ON CONFLICT DO NOTHING",
    ] {
        assert_eq!(refused(&device, sql), None, "{sql}");
    }
    device.run("INSERT OR IGNORE INTO notes(id, title) VALUES ('k1', 'x'), ('k3', 'c')");
    assert_eq!(kinds(&device.push()), ["insert k3 (id, title)"]);
}

#[test]
fn a_publish_writes_in_every_mode() {
    for mode in [TableMode::ReadOnly, TableMode::InsertOnly] {
        let device = in_mode(mode);
        let now = [row(1, "A"), row(3, "c")];
        device.apply(&page(&now).gone(&[2]).publish().known().sum(&now));
        assert_eq!(device.titles(), ["1:A", "3:c"]);
        device.run("CREATE TRIGGER app AFTER UPDATE ON notes BEGIN UPDATE notes SET rank = 9; END");
        device.apply(&page(&[row(1, "B")]).publish().known());
        assert_eq!(device.titles(), ["1:B", "3:c"]);
        assert_eq!(device.number("SELECT count(*) FROM notes WHERE rank IS NOT NULL"), 0);
        assert_eq!(device.status("set_aside"), 0);
    }
}

#[test]
fn a_change_of_mode_replaces_the_triggers() {
    let device = in_mode(TableMode::ReadWrite);
    device.run("UPDATE notes SET title = 'waits' WHERE id = 'k1'");
    for (mode, insert, update) in [
        (TableMode::ReadOnly, true, true),
        (TableMode::InsertOnly, false, true),
        (TableMode::ReadWrite, false, false),
        (TableMode::ReadOnly, true, true),
    ] {
        device.apply(&to_mode(mode));
        assert_eq!(refused(&device, NEW[0]).is_some(), insert, "{mode:?}");
        assert_eq!(refused(&device, EXISTING[0]).is_some(), update, "{mode:?}");
        assert_eq!(device.titles(), ["1:waits", "2:b"]);
    }
    let batches = device.push();
    assert_eq!(kinds(&batches), ["update k1 (title)"], "what was written before is for the server to judge");
    device.answer(&batches, Verdict::Rejected);
    assert_eq!(device.titles(), ["1:a", "2:b"]);
    let error = device.db.query_row("SELECT sync_retry(1)", [], |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("is read only here"), "{error}");
    assert_eq!(device.number("SELECT count(*) FROM sync_rejected"), 1);
}

#[test]
fn names_with_quotes_are_refused_by_name() {
    let device = Device::new();
    let mut page = empty().with_schema().publish();
    let table = &mut page.0.schema.as_mut().unwrap().tables[0];
    table.name = "it's \"odd\" {id}".into();
    table.mode = TableMode::ReadOnly;
    device.apply(&page);
    let error = device.db.execute_batch("INSERT INTO \"it's \"\"odd\"\" {id}\"(id) VALUES ('k1')").unwrap_err();
    assert!(error.to_string().contains("table \"it's \"\"odd\"\" {id}\" is read only here"), "{error}");
}

#[test]
fn rows_of_an_upload_only_table_go_when_they_have_arrived() {
    // In the schema, and in no bucket: nothing of it ever comes down.
    let device = Device::new();
    let mut page = empty().with_schema().publish();
    page.0.schema.as_mut().unwrap().tables[0].mode = TableMode::InsertOnly;
    device.apply(&page);
    device.run("INSERT INTO notes(id, title) VALUES ('k1', 'telemetry'), ('k2', 'more')");
    let batches = device.push();
    device.answer(&batches, Verdict::Accepted);
    device.run("INSERT INTO notes(id, title) VALUES ('k3', 'not sent yet')");
    assert_eq!(device.titles().len(), 3);
    device.apply(&empty().publish().known().confirm(&batches[0]));
    assert_eq!(device.titles(), ["3:not sent yet"]);
    assert_eq!(device.number("SELECT count(*) FROM sync_shadow"), 1);
    let batches = device.push();
    device.answer(&batches, Verdict::Rejected);
    assert_eq!(device.titles(), [""; 0]);
    assert_eq!(device.number("SELECT count(*) FROM sync_rejected"), 1);
}

#[test]
fn tables_of_the_application_stay_on_the_device() {
    let device = in_mode(TableMode::ReadOnly);
    device.run("CREATE TABLE own(id INTEGER PRIMARY KEY, note TEXT); INSERT INTO own(note) VALUES ('k1'); DELETE FROM own; INSERT INTO own(note) VALUES ('k2')");
    assert!(device.push().is_empty());
    device.apply(&to_mode(TableMode::ReadWrite));
    assert_eq!(device.text("SELECT note FROM own"), "k2");
}
