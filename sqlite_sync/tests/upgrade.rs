//! A file that an older library made is brought up to date by the first call, and loses nothing.

mod common;
use common::*;

/// A file of format 1 with three notes: k1 was refused, k2 waits to be sent, a number is not sealed yet.
fn old() -> Device {
    let device = Device::new();
    device.run(include_str!("format_1.sql"));
    device
}

/// Everything of the library's own that shows how a file is made, without white space.
fn made(device: &Device) -> Vec<String> {
    let own = "s.name LIKE 'sync%' AND s.name NOT LIKE 'sync_log%' AND s.sql IS NOT NULL";
    let tables = format!(
        "SELECT s.name || '.' || c.name || ' ' || c.type || ' ' || c.\"notnull\" || coalesce(c.dflt_value, '') || c.pk \
         FROM sqlite_schema s, pragma_table_info(s.name) c WHERE s.type = 'table' AND {own} ORDER BY s.name, c.cid"
    );
    let others = format!(
        "SELECT replace(replace(replace(sql, 'main.', ''), ' ', ''), char(10), '') FROM sqlite_schema s WHERE type <> 'table' AND {own} ORDER BY name"
    );
    let mut all = Vec::new();
    for sql in [tables, others, "SELECT name || value || what FROM sync_setting".into()] {
        let mut statement = device.db.prepare(&sql).unwrap();
        all.extend(statement.query_map([], |r| r.get::<_, String>(0)).unwrap().map(Result::unwrap));
    }
    all
}

#[test]
fn an_older_file_becomes_as_a_new_one() {
    let (device, new) = (old(), Device::with(&[]));
    assert_ne!(made(&device), made(&new));
    device.request();
    assert_eq!(made(&device), made(&new));
    assert_eq!(device.status("format"), 3);
}

#[test]
fn an_older_file_keeps_its_rows_and_writes() {
    let device = old();
    assert_eq!(device.titles(), ["1:a", "2:waits", "3:c"]);
    let batches = device.push();
    assert_eq!(kinds(&batches), ["update k2 (title)", "insert 1 (id, x)"]);
    assert_eq!(
        device.text("SELECT r.message || c.reason || c.policy FROM sync_rejected r JOIN sync_conflicts c ON c.batch = r.id"),
        "a reasonold"
    );
    assert_eq!(device.request().schema, 0, "the schema comes once more, with what the old library passed over");
    device.apply(&page(&[]).with_schema().publish().known());
    device.run("UPDATE notes SET title = 'on' WHERE id = 'k3'");
    assert_eq!(kinds(&device.push()[2..]), ["update k3 (title)"]);
}

#[test]
fn loading_alone_changes_nothing() {
    let device = old();
    let before = device.dump();
    let other = device.plain();
    load(&other);
    other.execute_batch("INSERT INTO sync_marker DEFAULT VALUES; DELETE FROM sync_marker").unwrap();
    assert_eq!(device.dump(), before);
}

#[test]
fn an_older_file_is_brought_up_to_date_also_inside_a_transaction() {
    let device = old();
    let before = device.dump();
    device.run("BEGIN");
    device.text("SELECT sync_retry(1)");
    device.run("ROLLBACK");
    assert_eq!(device.dump(), before);
    device.text("SELECT sync_retry(1)");
    assert_eq!(device.titles()[0], "1:refused");
}
