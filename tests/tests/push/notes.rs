//! What an application says about its transaction, and what triggers may ask while it is applied.

use crate::phone::{insert, short, text, Phone};
use sync_shared::limits;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::Cluster;

#[test]
fn triggers_read_the_note_the_device_and_the_batch() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE item (id int PRIMARY KEY, body text); CREATE TABLE seen (id int, note jsonb, device uuid, number bigint);
         CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO seen VALUES (NEW.id, sync.note(), sync.device(), sync.batch_number()); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER look AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look();
         SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'item')",
    );
    let (mut server, mut phone) = (db.connect(), Phone::new("ann"));
    let mut noted = |id: i64, note: &str| {
        let mut batch = phone.batch(vec![insert("item", id, &[("body", text("x"))])]);
        batch.note = note.into();
        batch
    };
    let long = format!("\"{}\"", "x".repeat(limits::NOTE_BYTES));
    let batches = vec![
        noted(1, "{\"why\": \"import\", \"n\": 12345678901234567890.50}"),
        noted(2, "{\"why\": "),
        noted(3, &long),
        noted(4, "\"\\u0000\""),
        noted(5, ""),
    ];
    let results = phone.push(&mut server, batches).results;
    assert_eq!(short(&results), ["accepted", "rejected 22p02", "rejected 54000", "rejected 22p05", "accepted"]);
    assert!(results[1..4].iter().all(|r| r.subject == "note" && r.message.contains("note")), "{results:?}");
    let device = phone.device.to_string();
    assert_eq!(
        server_rows(&mut server, "SELECT id, note, device, number FROM seen ORDER BY id"),
        [["1", "{\"n\": 12345678901234567890.50, \"why\": \"import\"}", &device, "1"], ["5", "∅", &device, "5"],]
    );
    assert_eq!(
        server_rows(&mut server, "SELECT number, note ->> 'why', role FROM sync.batch WHERE number IN (1, 5) ORDER BY number"),
        [["1", "import", "postgres"], ["5", "∅", "postgres"]]
    );
    // Nothing is left behind, and nobody can pretend.
    server.batch_execute("SET sync.note = '{\"why\": \"forged\"}'").expect("a setting of no meaning");
    db.run("INSERT INTO item VALUES (9, 'plain')");
    assert_eq!(server_rows(&mut server, "SELECT note, device, number FROM seen WHERE id = 9"), [["∅", "∅", "∅"]]);
    assert_eq!(server_value(&mut server, "SELECT sync.note() IS NULL AND sync.device() IS NULL"), "t");
}
