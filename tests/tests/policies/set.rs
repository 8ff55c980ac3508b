//! Arrays and JSON arrays as sets: what either side added or removed.

use super::pair::Pair;
use crate::phone::{insert, short, text, update, Phone};
use sync_shared::message::Verdict;
use sync_shared::Value;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database};

const TABLE: &str = "CREATE TABLE note (id int PRIMARY KEY, tags text[], ids int[], list jsonb, plain json, times timestamptz[]);
    SELECT sync.set_policy('note', 'set', c) FROM unnest('{tags,ids,list,plain,times}'::text[]) c";

fn sets(values: &str) -> (Database<'static>, postgres::Client) {
    let db = Cluster::shared().database();
    db.run(TABLE);
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note')");
    db.run(&format!("INSERT INTO note VALUES (1, {values})"));
    let server = db.connect();
    (db, server)
}

#[test]
fn what_two_devices_add_and_remove_is_added_and_removed_on_both() {
    let mut pair = Pair::new(&format!(
        "{TABLE}; INSERT INTO note (id, tags, list) VALUES (1, '{{red,green,blue}}', '[1, {{\"a\": 1}}, \"x\"]')"
    ));
    pair.ann.run(r#"UPDATE note SET tags = '["red","blue","ann"]', list = '[1, "x", "ann"]'"#);
    pair.bob.run(r#"UPDATE note SET tags = '["green","blue","bob","ann"]', list = '[{"a": 1}, "x", 2.50]'"#);
    pair.sync();
    pair.check("id, list");
    for device in [&pair.ann, &pair.bob] {
        assert_eq!(device.value("SELECT tags FROM note"), r#"["blue","ann","bob"]"#);
    }
    assert_eq!(pair.rows("SELECT array_to_string(tags, ','), list FROM note"), [[r#"blue,ann,bob"#, r#"["x", "ann", 2.50]"#]]);
    assert_eq!(pair.recorded(), [["set", "tags"], ["set", "list"]]);
    assert!(pair.bob.value("SELECT reason FROM sync_conflicts LIMIT 1").contains("added or removed"));
}

#[test]
fn elements_are_compared_as_the_server_writes_them() {
    let (db, mut server) = sets("'{}', '{1,2}', NULL, '[1.0]', '{2024-01-01 00:00Z}'");
    db.run("UPDATE note SET ids = '{1,2,3}', plain = '[1.0, 3]', times = times || '2024-02-02 00:00Z'::timestamptz");
    let change = update(
        "note",
        1,
        &[
            ("ids", text("[1,2]"), text("[2, 3, 4]")),
            ("plain", text("[1.0]"), text(r#"[1, "a"]"#)),
            ("times", text(r#"["2024-01-01T00:00:00+00:00"]"#), text(r#"["2024-01-01T01:00:00+01:00", "2024-03-03T00:00:00Z"]"#)),
        ],
    );
    let result = Phone::new("ann").one(&mut server, change);
    assert_eq!(result.verdict, Verdict::Merged, "{result:?}");
    assert_eq!(
        server_rows(&mut server, "SELECT ids, plain::jsonb, cardinality(times) FROM note"),
        [["{2,3,4}", "[1.0, 3, \"a\"]", "3"]]
    );
}

#[test]
fn null_is_the_empty_set() {
    let (db, mut server) = sets("NULL, '{1}', NULL, NULL, NULL");
    let mut phone = Phone::new("ann");
    db.run("UPDATE note SET tags = '{a}', ids = NULL");
    phone.one(&mut server, update("note", 1, &[("tags", Value::Null, text(r#"["b"]"#)), ("ids", text("[1]"), text("[1,2]"))]));
    assert_eq!(server_rows(&mut server, "SELECT tags, ids FROM note"), [["{a,b}", "{2}"]]);
    // The device clears it, while somebody adds: only what it had goes.
    db.run("UPDATE note SET tags = '{a,b,c}', ids = '{}'");
    phone.one(&mut server, update("note", 1, &[("tags", text(r#"["a","b"]"#), Value::Null), ("ids", text("[2]"), Value::Null)]));
    assert_eq!(server_rows(&mut server, "SELECT tags, ids FROM note"), [["{c}", "∅"]]);
}

#[test]
fn batches_of_one_device_build_on_each_other() {
    let (db, mut server) = sets("'{a}', NULL, NULL, NULL, NULL");
    db.run("UPDATE note SET tags = '{a,theirs}'");
    let tags = |old: &str, new: &str| vec![update("note", 1, &[("tags", text(old), text(new))])];
    let mut phone = Phone::new("ann");
    let batches = vec![tags(r#"["a"]"#, r#"["a","b"]"#), tags(r#"["a","b"]"#, r#"["b"]"#), tags(r#"["b"]"#, r#"["b","c"]"#)];
    let results = phone.send(&mut server, batches);
    assert_eq!(short(&results), ["merged", "merged", "merged"]);
    assert_eq!(server_value(&mut server, "SELECT tags FROM note"), "{theirs,b,c}");
}

#[test]
fn two_inserts_of_one_row_are_united() {
    let (_db, mut server) = sets("NULL, NULL, NULL, NULL, NULL");
    Phone::new("ann").accepted(&mut server, insert("note", 2, &[("tags", text(r#"["a"]"#))]));
    Phone::new("bob").one(&mut server, insert("note", 2, &[("tags", text(r#"["b","a"]"#))]));
    assert_eq!(server_value(&mut server, "SELECT tags FROM note WHERE id = 2"), "{a,b}");
}

#[test]
fn json_that_is_no_array_is_decided_by_the_later_edit() {
    let (db, mut server) = sets("NULL, NULL, '[1]', NULL, NULL");
    db.run(r#"UPDATE note SET list = '{"now": "an object"}'"#);
    let mut phone = Phone::new("ann");
    phone.clock = Some(0);
    let result = phone.one(&mut server, update("note", 1, &[("list", text("[1]"), text("[1, 2]"))]));
    assert!(result.message.contains("is not later"), "{result:?}");
    assert_eq!(result.conflicts[0].policy, "set");
    assert_eq!(server_value(&mut server, "SELECT list->>'now' FROM note"), "an object");
}
