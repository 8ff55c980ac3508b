//! What the documents say, executed: blocks marked `-- Postgres` on a server, blocks marked `-- SQLite` on a device that synced.

use sync_tests::build::root;
use sync_tests::{Cluster, Device, User};

/// The SQL blocks of a document in order: whether it is the device's, and the SQL.
fn blocks(document: &str) -> Vec<(bool, String)> {
    let text = std::fs::read_to_string(root().join(document)).expect("the document");
    let fenced = text.split("```").skip(1).step_by(2);
    fenced
        .filter_map(|block| block.strip_prefix("sql\n"))
        .map(|sql| (sql.starts_with("-- SQLite"), sql.to_owned()))
        .inspect(|(device, sql)| assert!(*device || sql.starts_with("-- Postgres"), "{document}: say whose SQL this is: {sql}"))
        .collect()
}

/// Runs a document's blocks in a database without the extension, which the document installs itself. Ann's device syncs through a
/// transport that logs in as `login`, and writes as `role`.
fn run(document: &str, login: &str, role: &str) -> (Device, postgres::Client) {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let mut server = database.connect();
    server.batch_execute("DROP EXTENSION pg_sync").expect("the document installs it");
    let device = Device::for_user(User::with_role("ann", role));
    for (on_device, sql) in blocks(document) {
        if on_device {
            device.sync(&mut database.connect_as(login));
            device.run(&sql);
        } else {
            server.batch_execute(&sql).unwrap_or_else(|e| panic!("{document}: {}\nin {sql}", sync_tests::cluster::describe(&e)));
        }
    }
    (device, server)
}

#[test]
fn the_documents_tour_in_the_readme_does_what_it_says() {
    let (device, mut server) = run("README.md", "todo_server", "todo_user");
    let tasks = sync_tests::compare::server_rows(&mut server, "SELECT body, done FROM task ORDER BY body");
    assert_eq!(tasks, [["Bread", "f"], ["Milk", "t"]]);
    assert_eq!(device.rows("SELECT code FROM sync_rejected"), [["23514"]]);
}

#[test]
fn the_documents_about_operations_do_what_they_say() {
    run("docs/operations.md", "gateway", "device_user");
}

#[test]
fn the_documents_about_identity_do_what_they_say() {
    run("docs/identity.md", "relay", "person");
}

#[test]
fn the_documents_about_encrypted_columns_do_what_they_say() {
    let (device, mut server) = run("docs/encrypted.md", "diary_server", "diary_user");
    device.sync(&mut server);
    let entries = sync_tests::compare::server_rows(&mut server, "SELECT substr(entry, 1, 4), length(entry) > 60 FROM diary");
    assert_eq!(entries, [["\\x53594501", "t"]]);
    assert_eq!(device.value("SELECT entry FROM diary"), "Only my own devices can read this.");
}

#[test]
fn the_documents_about_access_do_what_they_say() {
    let (device, mut server) = run("docs/access.md", "ward_server", "staff");
    device.sync(&mut server);
    assert_eq!(device.rows("SELECT id FROM patient"), [["1"]]);
    let said = |id: u32| format!(r#"SELECT verdict FROM sync.explain('patient', '{id}', '{{"sub": "ann", "role": "staff"}}')"#);
    assert_eq!([1, 2, 3].map(|id| sync_tests::compare::server_value(&mut server, &said(id))), ["held", "not held", "not held"]);
    let audit = r#"SELECT key, kind FROM sync.audit('{"sub": "ann", "role": "staff"}')"#;
    assert_eq!(sync_tests::compare::server_rows(&mut server, audit), [["{\"id\": 3}", "only by policies"]]);
}

#[test]
fn the_documents_about_transports_do_what_they_say() {
    run("docs/transports.md", "nobody", "nobody");
    run("examples/gateway/README.md", "nobody", "nobody");
}

#[test]
fn the_documents_example_application_installs() {
    let database = Cluster::shared().database();
    database.run("DROP EXTENSION pg_sync");
    crate::app::install(&database);
}

#[test]
fn the_documents_about_the_device_do_what_they_say() {
    let (device, mut server) = run("docs/device.md", "sales_server", "sales_rep");
    device.sync(&mut server);
    let names = sync_tests::compare::server_rows(&mut server, "SELECT name FROM customer ORDER BY name");
    assert_eq!(names, [["Baker"], ["Miller"], ["Smith"], ["Smith & Sons"]]);
    let visits = "SELECT c.name, v.report FROM visit v JOIN customer c ON c.id = v.customer_id";
    sync_tests::compare::assert_same(&device, &mut server, visits);
    assert_eq!(device.rows(visits), [["Miller", "first visit"]]);
    let tracks = sync_tests::compare::server_value(&mut server, "SELECT count(*) FROM track");
    assert_eq!((tracks.as_str(), device.value("SELECT count(*) FROM track")), ("1", "0".into()));
    assert_eq!(device.rows("SELECT code, message FROM sync_rejected"), Vec::<Vec<String>>::new());
}

#[test]
fn the_documents_about_history_do_what_they_say() {
    let (_device, mut server) = run("docs/history.md", "nobody", "nobody");
    let recipes = sync_tests::compare::server_rows(&mut server, "SELECT id, title FROM recipe ORDER BY id");
    assert_eq!(recipes, [["1", "Bread"], ["2", "Soup"]]);
    let operations = sync_tests::compare::server_rows(&mut server, "SELECT operation FROM sync.history('recipe', '2')");
    assert_eq!(operations, [["delete"], ["insert"]]);
}
