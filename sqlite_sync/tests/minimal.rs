//! The smallest whole: a schema arrives, rows appear, local writes go out and come back.

mod common;
use common::*;

#[test]
fn a_delta_makes_the_table_and_its_rows() {
    let device = Device::new();
    let reply = device.apply(&page(&[row(1, "a"), row(2, "b")]).with_schema().publish());
    assert_eq!(reply["rows"], 2);
    assert_eq!(reply["tables"][0], "notes");
    assert_eq!(device.titles(), ["1:a", "2:b"]);
    let request = device.request();
    assert_eq!(request.cursor.as_ref(), b"cursor");
    assert_eq!(request.schema, 1);
    assert_eq!(request.held.count, 1);
}

#[test]
fn an_insert_an_update_and_a_delete_go_out() {
    let device = Device::new();
    device.apply(&page(&[row(1, "a"), row(2, "b")]).with_schema().publish());
    device.run("INSERT INTO notes(id, title) VALUES ('k3', 'c')");
    device.run("UPDATE notes SET title = 'A' WHERE id = 'k1'");
    device.run("DELETE FROM notes WHERE id = 'k2'");
    let batches = device.push();
    assert_eq!(batches.len(), 3);
    assert_eq!(kinds(&batches), ["insert k3 (id, title)", "update k1 (title)", "delete k2 (id, rank, title, body)"]);
    device.answer(&batches, Verdict::Accepted);
    assert!(device.push().is_empty(), "nothing waits any more");
    assert_eq!(device.titles(), ["1:A", "3:c"]);
    device.apply(&page(&[row(1, "A"), row(3, "c")]).gone(&[2]).publish().confirm(&batches[2]));
    assert_eq!(device.titles(), ["1:A", "3:c"]);
    assert_eq!(device.number("SELECT count(*) FROM sync_shadow"), 0);
}
