//! The server's schema becomes tables, and follows it.

mod common;
use common::*;
use sync_shared::hash;

fn sql_of(device: &Device, name: &str) -> String {
    device.text(&format!("SELECT sql FROM sqlite_schema WHERE name = '{name}'"))
}

fn with(change: impl FnOnce(&mut Schema)) -> Page {
    let mut page = empty().publish().known();
    let mut schema = schema();
    schema.generation = 2;
    change(&mut schema);
    for table in &mut schema.tables {
        table.columns.sort_by_key(|c| c.tag);
    }
    page.0.schema = Some(schema);
    page
}

fn extra(name: &str, position: u16) -> Column {
    let mut column = schema().tables[0].columns.iter().find(|c| c.name == "body").unwrap().clone();
    column.name = name.into();
    column.tag = hash::tag(name);
    column.position = position;
    column
}

#[test]
fn tables_are_ordinary_ones() {
    let device = Device::with(&[]);
    assert!(sql_of(&device, "notes").starts_with(r#"CREATE TABLE "notes" ("id" TEXT NOT NULL DEFAULT (lower(hex(randomblob(4))"#));
    assert!(sql_of(&device, "notes").ends_with(r#""title" TEXT, "body" TEXT, "rank" INTEGER, PRIMARY KEY ("id"))"#));
    assert_eq!(sql_of(&device, "numbers"), r#"CREATE TABLE "numbers" ("id" INTEGER PRIMARY KEY, "x" REAL)"#);
    assert!(sql_of(&device, "pairs").ends_with(r#"PRIMARY KEY ("a", "b"))"#));
}

#[test]
fn a_column_is_added_and_rows_stay() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'mine'");
    device.apply(&with(|s| s.tables[0].columns.push(extra("added", 9))));
    assert_eq!(device.text("SELECT title || coalesce(added, '-') FROM notes"), "mine-");
    device.run("UPDATE notes SET added = 'x'");
    let batches = device.push();
    assert_eq!(batches.len(), 2);
    assert_eq!(batches[1].changes[0].columns, [hash::tag("added")]);
    assert_eq!(device.request().schema, 2);
    device.answer(&batches, Verdict::Rejected);
    assert_eq!(device.titles(), ["1:a"]);
}

#[test]
fn a_table_that_changes_otherwise_is_rebuilt() {
    let device = Device::with(&[row(1, "a"), row(2, "b")]);
    device.run("CREATE INDEX own ON notes(title); CREATE TABLE log(x); CREATE TRIGGER app AFTER INSERT ON notes BEGIN INSERT INTO log VALUES (new.title); END");
    device.apply(&with(|s| {
        let title = s.tables[0].columns.iter_mut().find(|c| c.name == "title").unwrap();
        title.not_null = true;
        s.tables[0].columns.retain(|c| c.name != "body");
        let mut first = extra("first", 0);
        first.not_null = true;
        s.tables[0].columns.push(first);
        s.tables[0].indexes = vec![vec![1]];
    }));
    assert_eq!(device.titles(), ["1:a", "2:b"]);
    assert_eq!(device.number("SELECT count(*) FROM sqlite_schema WHERE name IN ('own', 'app', 'sync_index_1_0')"), 3);
    assert_eq!(device.number("SELECT count(*) FROM sqlite_schema WHERE name GLOB 'sync_moved_[0-9]*'"), 0);
    device.run("UPDATE notes SET title = 'x' WHERE id = 'k1'");
    assert_eq!(kinds(&device.push()), ["update k1 (title)"]);
}

#[test]
fn a_rebuild_does_not_cascade_into_the_applications_tables() {
    let device = Device::with(&[row(1, "a")]);
    device.run("PRAGMA foreign_keys = ON; CREATE TABLE own(note TEXT REFERENCES notes(id) ON DELETE CASCADE); INSERT INTO own VALUES ('k1')");
    device.apply(&with(|s| s.tables[0].columns.retain(|c| c.name != "body")));
    assert_eq!(device.number("SELECT count(*) FROM own"), 1);
    assert_eq!(device.number("SELECT foreign_keys FROM pragma_foreign_keys"), 1);
    device.apply(&page(&[]).gone(&[1]).publish().known());
    assert_eq!(device.number("SELECT count(*) FROM own"), 0, "a row that leaves cascades as any");
}

#[test]
fn an_indexed_table_is_widened_in_place() {
    let indexed = |s: &mut Schema| {
        let title = s.tables[0].columns.iter().position(|c| c.name == "title").unwrap();
        s.tables[0].indexes = vec![vec![title as u16]];
    };
    let device = Device::with(&[row(1, "a")]);
    device.apply(&with(indexed));
    let before = device.number("SELECT rootpage FROM sqlite_schema WHERE name = 'notes'");
    let mut wider = with(|s| {
        s.tables[0].columns.push(extra("added", 9));
        s.tables[0].columns.sort_by_key(|c| c.tag);
        indexed(s);
    });
    wider.0.schema.as_mut().unwrap().generation = 3;
    device.apply(&wider);
    assert_eq!(device.number("SELECT rootpage FROM sqlite_schema WHERE name = 'notes'"), before);
    assert_eq!(device.number("SELECT added IS NULL FROM notes"), 1);
}

#[test]
fn tables_and_columns_are_renamed() {
    let device = Device::with(&[row(1, "a")]);
    device.apply(&with(|s| {
        s.tables[0].name = "numbers".into();
        s.tables[1].name = "notes".into();
        s.tables[0].columns.iter_mut().find(|c| c.name == "title").unwrap().name = "heading".into();
    }));
    assert_eq!(device.text("SELECT heading FROM numbers"), "a");
    device.run("UPDATE numbers SET heading = 'b'");
    assert_eq!(device.push()[0].changes[0].columns, [hash::tag("title")]);
}

#[test]
fn a_table_with_unsent_writes_stays_until_they_are_through() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'x'");
    device.apply(&with(|s| {
        s.tables.remove(0);
    }));
    assert_eq!(device.titles(), ["1:x"]);
    let batches = device.push();
    device.answer(&batches, Verdict::Accepted);
    let mut last = with(|s| {
        s.tables.remove(0);
    })
    .confirm(&batches[0]);
    last.0.schema = None;
    device.apply(&last);
    assert_eq!(device.number("SELECT count(*) FROM sqlite_schema WHERE name = 'notes'"), 0);
}

#[test]
fn names_that_are_taken_or_reserved_are_refused() {
    let device = Device::new();
    device.run("CREATE TABLE Notes(mine)");
    let error = device.apply_bytes(&page(&[]).with_schema().publish().bytes()).unwrap_err();
    assert!(error.to_string().contains("rename or drop it"), "{error}");
    assert_eq!(device.number("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'sync%'"), 0);
    for name in ["sqlite_x", "Sync_x", ""] {
        let device = Device::new();
        assert!(device.apply_bytes(&with(|s| s.tables[0].name = name.into()).bytes()).is_err());
    }
}

#[test]
fn names_that_sqlite_tells_apart_are_not_taken() {
    let device = Device::new();
    device.apply(&with(|s| s.tables[0].columns.extend([extra("é", 5), extra("É", 6)])));
    device.run("INSERT INTO notes (id, é, É) VALUES ('k1', 'small', 'large')");
    assert_eq!(device.text("SELECT é || ' ' || É FROM notes"), "small large");
    let device = Device::new();
    assert!(device.apply_bytes(&with(|s| s.tables[0].columns.push(extra("TITLE", 5))).bytes()).is_err());
}

#[test]
fn names_are_never_sql() {
    let device = Device::new();
    let name = "a\"b'; DROP TABLE sync_meta; --\n\n{id} {moved}";
    let page = with(|s| {
        s.tables[0].name = name.into();
        for column in &mut s.tables[0].columns {
            column.name = format!("{} \" {{new_key}} {{all}}\n\n]", column.name);
        }
        s.tables[0].columns[0].default = ColumnDefault::Literal;
        s.tables[0].columns[0].literal = Value::Text("'); DROP TABLE sync_meta; --".into());
    });
    device.apply(&page);
    assert_eq!(device.number(&format!("SELECT count(*) FROM \"{}\"", name.replace('"', "\"\""))), 0);
    device.run(&format!("INSERT INTO \"{}\"(\"id \"\" {{new_key}} {{all}}\n\n]\") VALUES ('k1')", name.replace('"', "\"\"")));
    assert_eq!(device.push().len(), 1);
}

#[test]
fn a_newer_file_is_refused_untouched() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE sync_meta SET value = 99 WHERE name = 'format'");
    let before = device.dump();
    let error = device.db.query_row("SELECT pull_request()", [], |r| r.get::<_, Vec<u8>>(0)).unwrap_err();
    assert!(error.to_string().contains("newer sqlite_sync"), "{error}");
    assert!(device.apply_bytes(&page(&[]).publish().bytes()).is_err());
    assert_eq!(device.dump(), before);
}

#[test]
fn signing_out_leaves_nothing_readable() {
    let secret = "a secret that nobody may read later";
    let device = Device::with(&[row(1, secret), row(2, secret)]);
    device.run("CREATE TABLE own(x); INSERT INTO own VALUES ('mine')");
    device.run(&format!(
        "UPDATE notes SET title = '{secret} changed'; DELETE FROM notes WHERE id = 'k2'; PRAGMA wal_checkpoint(TRUNCATE)"
    ));
    device.push();
    let report = device.text("SELECT sync_sign_out('wipe')");
    assert!(report.contains("VACUUM"), "{report}");
    for end in ["", "-wal"] {
        let bytes = std::fs::read(format!("{}{end}", device.path.display())).unwrap_or_default();
        assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "found in the file{end}");
    }
    assert_eq!(device.text("SELECT x FROM own"), "mine");
    assert_eq!(device.number("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'sync%' OR name = 'notes'"), 0);
    let request = device.request();
    assert_eq!(request.cursor.len(), 0);
    device.apply(&page(&[row(1, "again")]).with_schema().publish());
    device.run("UPDATE notes SET title = 'x'");
    assert_eq!(device.push().len(), 1);
}

#[test]
fn signing_out_may_keep_rows_and_unsent_writes() {
    let device = Device::with(&[row(1, "a")]);
    device.run("UPDATE notes SET title = 'x'");
    assert_eq!(device.text("SELECT sync_sign_out('keep')"), r#"{"kept":true,"pending":1}"#);
    assert_eq!(device.titles(), ["1:x"]);
    let request = device.request();
    assert_eq!((request.cursor.len(), request.held.count), (0, 0));
    assert_eq!(device.push()[0].user, "anna");
}

#[test]
fn subscriptions_go_out() {
    let device = Device::new();
    device.run(r#"SELECT sync_subscribe('room', '{"b":"2","a":1}'); SELECT sync_subscribe('room', '{"a":"1","b":"2"}')"#);
    let request = device.request();
    assert_eq!(request.subscriptions.len(), 1);
    assert_eq!(request.subscriptions[0].params, [("a".into(), "1".into()), ("b".into(), "2".into())]);
    assert_eq!(device.number("SELECT sync_unsubscribe('room')"), 1);
    assert!(device.request().subscriptions.is_empty());
}
