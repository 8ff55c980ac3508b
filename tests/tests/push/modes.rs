//! What devices may do with a table: everything, only read, only insert, or only send.

use crate::phone::{delete, insert, int, short, text, update, Phone};
use sync_tests::compare::{server_rows, server_value};
use sync_tests::device::server_pull;
use sync_tests::{Cluster, Database, Device, User};

fn tables() -> Database<'static> {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE country (id int PRIMARY KEY, name text);
         CREATE TABLE event (id int PRIMARY KEY, name text);
         INSERT INTO country VALUES (1, 'Norway'); INSERT INTO event VALUES (1, 'start')",
    );
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'country'); SELECT sync.add_table('all', 'event')");
    db.run("SELECT sync.set_mode('country', 'read_only'); SELECT sync.set_mode('event', 'insert_only')");
    db
}

#[test]
fn the_mode_of_a_table_decides_which_changes_are_taken() {
    let db = tables();
    let mut server = db.connect();
    let mut phone = Phone::new("ann");
    let results = phone.send(
        &mut server,
        vec![
            vec![insert("country", 2, &[("name", text("Chile"))])],
            vec![update("country", 1, &[("name", text("Norway"), text("x"))])],
            vec![delete("country", 1, &[("name", text("Norway"))])],
            vec![insert("event", 2, &[("name", text("stop"))])],
            vec![update("event", 1, &[("name", text("start"), text("x"))])],
            vec![delete("event", 1, &[("name", text("start"))])],
            // The same row again is no change; another with its key is.
            vec![insert("event", 2, &[("name", text("stop"))])],
            vec![insert("event", 2, &[("name", text("other"))])],
        ],
    );
    let denied = "rejected 42501";
    assert_eq!(short(&results), [denied, denied, denied, "accepted", denied, denied, "accepted", "rejected 23505"]);
    assert!(results[0].message.contains("public.country is read_only"), "{}", results[0].message);
    assert!(results[4].message.contains("public.event is insert_only"), "{}", results[4].message);
    assert_eq!((results[0].subject.as_str(), results[7].subject.as_str()), ("country", "event_pkey"));
    assert_eq!(server_rows(&mut server, "SELECT id, name FROM event ORDER BY id"), [["1", "start"], ["2", "stop"]]);
    db.run("SELECT sync.set_mode('event', 'read_write')");
    phone.accepted(&mut server, update("event", 1, &[("name", text("start"), text("x"))]));
}

#[test]
fn a_mode_is_refused_where_it_means_nothing() {
    let db = tables();
    db.run("CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE log (id int PRIMARY KEY); SELECT sync.add_upload_table('log')");
    let says = |sql: &str, words: &str| {
        let error = db.try_run(sql).expect_err("refused");
        assert!(error.contains(words), "{sql}: {error}");
    };
    says("SELECT sync.set_mode('event', 'write_only')", "there is no mode \"write_only\"");
    says("SELECT sync.set_mode('event', NULL)", "there is no mode \"NULL\"");
    says("SELECT sync.set_mode('other', 'read_only')", "table public.other is not synced");
    says("SELECT sync.set_mode('log', 'read_only')", "is for uploads");
    says("SELECT sync.add_upload_table('event')", "is synced already");
    says("SELECT sync.add_upload_table('other', ARRAY['nothing'])", "there is no column \"nothing\"");
    says("CREATE TABLE keyless (id int); SELECT sync.add_upload_table('keyless')", "it has no primary key");
    says("SELECT sync.drop_upload_table('event')", "is not one for uploads");
    let role = format!("admin_{}_{}", db.name(), std::process::id());
    db.run(&format!("CREATE ROLE {role} LOGIN IN ROLE sync_admin"));
    let mut admin = db.connect_as(&role);
    for sql in ["SELECT sync.set_mode('event', 'read_only')", "SELECT sync.add_upload_table('other')"] {
        let error = admin.batch_execute(sql).expect_err("refused");
        assert_eq!(error.code().map(|c| c.code()), Some("42501"), "{sql}: {error}");
    }
    db.run(&format!("ALTER TABLE event OWNER TO {role}"));
    admin.batch_execute("SELECT sync.set_mode('event', 'read_only')").expect("its owner may");
}

#[test]
fn rows_of_an_upload_table_go_up_and_vanish_from_the_device() {
    let db = tables();
    db.run(
        "CREATE TABLE reading (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), celsius real NOT NULL CHECK (celsius > -274), secret text);
         SELECT sync.add_upload_table('reading', ARRAY['id', 'celsius'])",
    );
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    device.run("INSERT INTO reading (celsius) VALUES (20.5), (21)");
    assert_eq!(device.value("SELECT count(*) FROM reading"), "2");
    device.sync(&mut server);
    device.sync(&mut server);
    assert_eq!(server_rows(&mut server, "SELECT celsius FROM reading ORDER BY 1"), [["20.5"], ["21"]]);
    assert_eq!(device.value("SELECT count(*) FROM reading"), "0");
    assert_eq!(device.value("SELECT count(*) FROM sync_pending"), "0");
    device.run("INSERT INTO reading (celsius) VALUES (-300)");
    device.sync(&mut server);
    assert_eq!(device.rows("SELECT code FROM sync_rejected"), [["23514"]]);
    assert_eq!(device.value("SELECT count(*) FROM reading"), "0");
    // A column more, and one with another name; nothing of other devices comes down.
    db.run("ALTER TABLE reading RENAME celsius TO temperature");
    db.run("INSERT INTO reading (temperature) VALUES (1)");
    device.sync(&mut server);
    device.run("INSERT INTO reading (temperature) VALUES (22)");
    device.sync(&mut server);
    device.sync(&mut server);
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM reading"), "4");
    assert_eq!(device.value("SELECT count(*) FROM reading"), "0");
}

#[test]
fn an_upload_table_that_goes_leaves_the_devices() {
    let db = tables();
    db.run("CREATE TABLE log (id int PRIMARY KEY, line text); SELECT sync.add_upload_table('log')");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    assert_eq!(device.value("SELECT count(*) FROM log"), "0");
    // Also as a table of a rule, and back.
    db.run("INSERT INTO log VALUES (1, 'one')");
    db.run("SELECT sync.add_table('all', 'log')");
    device.sync(&mut server);
    assert_eq!(device.rows("SELECT line FROM log"), [["one"]]);
    db.run("SELECT sync.drop_table('all', 'log')");
    device.sync(&mut server);
    assert_eq!(device.value("SELECT count(*) FROM log"), "0");
    assert_eq!(
        server_rows(&mut server, "SELECT \"table\", mode, upload FROM sync.tables WHERE upload"),
        [["log", "insert_only", "t"]]
    );
    db.run("SELECT sync.drop_upload_table('log')");
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.tables"), "2");
    let mut phone = Phone::new("bob");
    assert_eq!(phone.one(&mut server, insert("log", 2, &[("line", text("two"))])).code, "42P01");
    db.run("SELECT sync.add_upload_table('log')");
    phone.accepted(&mut server, insert("log", 2, &[("line", text("two")), ("id", int(2))]));
    db.run("DROP TABLE log");
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.tables"), "2");
    device.sync(&mut server);
    // What cannot be uploaded into any longer does not stop anybody's ALTER TABLE.
    db.run("CREATE TABLE log (id int PRIMARY KEY, line text); SELECT sync.add_upload_table('log'); ALTER TABLE log DROP CONSTRAINT log_pkey");
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.tables"), "2");
}

#[test]
fn the_schema_tells_modes_references_and_keys_from_sequences() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE a (x int, y text, body text, PRIMARY KEY (y, x));
         CREATE TABLE b (id serial PRIMARY KEY, ax int, ay text, up int REFERENCES b, FOREIGN KEY (ax, ay) REFERENCES a (x, y));
         CREATE TABLE c (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body int UNIQUE);
         CREATE TABLE d (id int DEFAULT 7 PRIMARY KEY, body int REFERENCES c (body), hidden int REFERENCES c);
         CREATE SEQUENCE s; CREATE SEQUENCE turns CYCLE;
         CREATE TABLE e (id smallint PRIMARY KEY DEFAULT nextval('s'));
         CREATE TABLE f (id int PRIMARY KEY DEFAULT nextval('s') * 10);
         CREATE TABLE g (id int PRIMARY KEY DEFAULT nextval('turns'));
         CREATE TABLE h (id numeric PRIMARY KEY DEFAULT nextval('s'));
         SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'a'); SELECT sync.add_table('all', 'b');
         SELECT sync.add_table('all', 'c'); SELECT sync.add_table('all', 'd', columns => ARRAY['id', 'body']);
         SELECT sync.add_table('all', 'e'); SELECT sync.add_table('all', 'f'); SELECT sync.add_table('all', 'g'); SELECT sync.add_table('all', 'h');
         SELECT sync.set_mode('a', 'read_only')",
    );
    let (mut server, device) = (db.connect(), Device::new("ann"));
    let reply = server_pull(&mut server, &User::new("ann"), &device.pull_request()).expect("a page");
    let delta: sync_shared::message::Delta = sync_shared::envelope::decode(&reply).expect("a delta");
    let schema = delta.schema.expect("the schema");
    let told: Vec<String> = ["a", "b", "c", "d", "e", "f", "g", "h"]
        .iter()
        .map(|name| {
            let table = schema.tables.iter().find(|t| t.name == *name).expect("the table");
            let other = |tag| schema.tables.iter().find(|t| t.tag == tag).map_or("?", |t| t.name.as_str());
            let columns = |r: &sync_shared::message::Reference| {
                r.columns.iter().map(|&c| table.columns[usize::from(c)].name.as_str()).collect::<Vec<_>>().join(",")
            };
            let references: Vec<String> =
                table.references.iter().map(|r| format!("{}->{}", columns(r), other(r.table))).collect();
            format!("{name} {:?} {} {}", table.mode, references.join(" "), table.key_from_sequence)
        })
        .collect();
    assert_eq!(
        told,
        [
            "a ReadOnly  false",
            "b ReadWrite ay,ax->a up->b true",
            "c ReadWrite  true",
            "d ReadWrite  false",
            "e ReadWrite  true",
            "f ReadWrite  false",
            "g ReadWrite  false",
            "h ReadWrite  false",
        ]
    );
}
