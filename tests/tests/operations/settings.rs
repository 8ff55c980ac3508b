//! What can be set is listed in the documents, with its default.

use std::collections::BTreeMap;
use sync_tests::build::root;
use sync_tests::compare::server_rows;
use sync_tests::Cluster;

/// The rows of the table under "Settings" in docs/operations.md: name and default.
fn documented() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(root().join("docs/operations.md")).expect("the document");
    let section = text.split("\n## Settings\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section Settings");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `sync."));
    let cells = rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect::<Vec<_>>());
    cells.map(|cells| (format!("sync.{}", cells[0]), cells[1].clone())).collect()
}

#[test]
fn the_documents_list_every_setting_with_its_default() {
    let db = Cluster::shared().database();
    let mut server = db.connect();
    let sql = "SELECT sync.library_version(); SELECT name, boot_val || coalesce(unit, '') FROM pg_settings WHERE name LIKE 'sync.%' ORDER BY name";
    let defined: BTreeMap<_, _> = server_rows(&mut server, sql)
        .into_iter()
        .filter(|row| row.len() == 2)
        .map(|row| (row[0].clone(), if row[1].is_empty() { "empty".into() } else { row[1].clone() }))
        .collect();
    assert!(defined.len() > 5, "{defined:?}");
    assert_eq!(documented(), defined);
}

#[test]
fn settings_are_not_for_everybody_to_change() {
    let db = Cluster::shared().database();
    db.run("DO $$ BEGIN IF to_regrole('meddler') IS NULL THEN CREATE ROLE meddler LOGIN IN ROLE sync_transport; END IF; END $$");
    let mut session = db.connect_as("meddler");
    session.batch_execute("SET sync.keys_per_lease = 1000000; SELECT sync.user_id()").expect("a placeholder, then the library");
    let mut now =
        || session.query_one("SELECT current_setting('sync.keys_per_lease')", &[]).expect("a setting").get::<_, String>(0);
    assert_eq!(now(), "10000", "what was set before the library was loaded does not count");
    let refused = session.batch_execute("SET sync.lease = '0'").expect_err("refused");
    assert_eq!(refused.code().map(|c| c.code()), Some("42501"));
}

#[test]
fn the_library_is_of_the_version_that_is_installed() {
    let db = Cluster::shared().database();
    let versions = server_rows(
        &mut db.connect(),
        "SELECT sync.library_version(), default_version, installed_version FROM pg_available_extensions WHERE name = 'pg_sync'",
    );
    let version = sync_tests::build::version();
    assert_eq!(versions, [[version.clone(), version.clone(), version]]);
}
