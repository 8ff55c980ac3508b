//! Everything that an application may use is in docs/device.md, and nothing appears or vanishes unnoticed.

mod common;
use common::*;

fn names(device: &Device, sql: &str) -> Vec<String> {
    let mut statement = device.db.prepare(sql).unwrap();
    let rows = statement.query_map([], |r| r.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

const FUNCTIONS: &str = "SELECT DISTINCT name || '/' || narg FROM pragma_function_list \
    WHERE name LIKE 'sync\\_%' ESCAPE '\\' OR name IN ('pull_request', 'pending_ops', 'apply_delta') ORDER BY 1";

#[test]
fn every_function_is_known() {
    let device = Device::with(&[]);
    let expected = [
        "apply_delta/1",
        "pending_ops/0",
        "pull_request/0",
        "sync_discard/1",
        "sync_discard_conflict/1",
        "sync_discard_lost/1",
        "sync_next_id/1",
        "sync_note/1",
        "sync_priority/1",
        "sync_restore_lost/1",
        "sync_retry/1",
        "sync_retry/2",
        "sync_set_key/-1",
        "sync_sign_out/1",
        "sync_subscribe/2",
        "sync_trust/1",
        "sync_trust/2",
        "sync_unsubscribe/1",
        "sync_unsubscribe/2",
        "sync_verify/0",
        "sync_verify/1",
        "sync_version/0",
    ];
    assert_eq!(names(&device, FUNCTIONS), expected);
}

#[test]
fn the_document_names_every_function_view_and_setting() {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/device.md")).unwrap();
    let device = Device::with(&[]);
    let functions = names(&device, FUNCTIONS).into_iter().map(|f| format!("{}(", f.split('/').next().unwrap()));
    let views = names(&device, "SELECT name FROM sqlite_schema WHERE type = 'view' AND name LIKE 'sync%'");
    let tables = ["sync_conflicts", "sync_lost", "sync_moved_key", "sync_lease", "sync_guard", "sync_marker", "sync_setting"]
        .map(String::from);
    let settings = names(&device, "SELECT '| `' || name || '` |' FROM sync_setting");
    for name in functions.chain(views).chain(tables).chain(settings) {
        assert!(document.contains(&name), "docs/device.md says nothing of {name}");
    }
}
