//! `ALTER EXTENSION pg_sync UPDATE`: whatever version a database began with, it ends with what a fresh install has, and with its data.
//!
//! Versions that were released are in `sql/released`, as `./dev release` has kept them. Until there is one, and besides, a version that never
//! was stands in: the present script with some things taken back, and the script that brings them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use sync_tests::build::{self, root};
use sync_tests::compare::{assert_same, server_rows, server_value};
use sync_tests::device::server_pull;
use sync_tests::{Cluster, Database, Device};

const BEFORE: &str = "0.0.1";

/// What is taken back: in the present script, in the older one, and what brings it.
const CHANGES: [(&str, &str, &str); 5] = [
    // A function's body.
    ("'sync.keep_devices', true), ''), '1 year')", "'sync.keep_devices', true), ''), '2 years')", KEEP_DEVICES),
    // A comment.
    (
        "COMMENT ON VIEW sync.tables IS 'Every table that devices know, and what they may do with it.';",
        "COMMENT ON VIEW sync.tables IS 'Tables.';",
        "COMMENT ON VIEW sync.tables IS 'Every table that devices know, and what they may do with it.';",
    ),
    // A column, with its comment.
    (
        "    wipe        boolean NOT NULL DEFAULT false,\n    name        text\n",
        "    wipe        boolean NOT NULL DEFAULT false\n",
        NAME,
    ),
    ("COMMENT ON COLUMN sync.device.name IS 'What people call it, see sync.name_device().';", "", ""),
    // A grant.
    (
        "GRANT SELECT ON ALL TABLES IN SCHEMA sync TO sync_admin;",
        "GRANT SELECT ON ALL TABLES IN SCHEMA sync TO sync_admin; REVOKE ALL ON sync.rules FROM sync_admin;",
        "GRANT SELECT ON sync.rules TO sync_admin;",
    ),
];
const KEEP_DEVICES: &str = "CREATE OR REPLACE FUNCTION sync.keep_devices() RETURNS interval
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(nullif(current_setting('sync.keep_devices', true), ''), '1 year')::interval
$$;";
const NAME: &str = "DROP VIEW sync.devices;
ALTER TABLE sync.device ADD COLUMN name text;
COMMENT ON COLUMN sync.device.name IS 'What people call it, see sync.name_device().';";

/// The view that has the column, in both versions.
fn devices_view(script: &str) -> (String, String) {
    let begin = script.find("CREATE VIEW sync.devices AS").expect("the view");
    let length = script[begin..].find("CREATE FUNCTION sync.name_device").expect("what follows it");
    let now = &script[begin..begin + length];
    (now.to_owned(), now.replacen("SELECT device, name, user_id", "SELECT device, user_id", 1))
}

/// The older install script, and the parts of the update.
fn older() -> (String, Vec<String>) {
    let mut script = build::install_script();
    let mut update = Vec::new();
    let (view, view_before) = devices_view(&script);
    script = script.replacen(&view, &view_before, 1);
    for (now, before, brings) in CHANGES {
        assert!(script.contains(now), "the script has {now}");
        script = script.replacen(now, before, 1);
        if !brings.is_empty() {
            update.push(brings.to_owned());
        }
    }
    let whole_view = format!("{view}\nGRANT SELECT ON sync.devices TO sync_admin;");
    let place = update.iter().position(|part| part == NAME).expect("the column's part");
    update.insert(place + 1, whole_view);
    (script, update)
}

/// Everything that the extension has made, as text: what a fresh install and an updated one must have in common.
fn objects(db: &Database<'_>) -> BTreeSet<String> {
    let sql = "
        WITH acl AS (SELECT 'pg_class'::regclass AS classid, oid AS objid, relacl AS acl FROM pg_class UNION ALL
            SELECT 'pg_proc'::regclass, oid, proacl FROM pg_proc UNION ALL SELECT 'pg_namespace'::regclass, oid, nspacl FROM pg_namespace)
        SELECT concat_ws(E'\\t', 'member', d.type, d.identity, obj_description(e.objid, e.classid::regclass::text),
            (SELECT string_agg(i::text, ' ' ORDER BY i::text) FROM unnest(a.acl) i))
        FROM pg_depend e CROSS JOIN LATERAL pg_identify_object(e.classid, e.objid, 0) d LEFT JOIN acl a ON a.classid = e.classid AND a.objid = e.objid
        WHERE e.refclassid = 'pg_extension'::regclass AND e.deptype = 'e' AND e.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_sync')
        UNION ALL
        SELECT concat_ws(E'\\t', 'function', pg_get_functiondef(p.oid), p.proconfig) FROM pg_proc p WHERE p.pronamespace = 'sync'::regnamespace
        UNION ALL
        SELECT concat_ws(E'\\t', 'column', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
            a.attgenerated, a.attstorage, pg_get_expr(f.adbin, f.adrelid), col_description(a.attrelid, a.attnum), a.attacl)
        FROM pg_attribute a JOIN pg_class k ON k.oid = a.attrelid LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
        WHERE k.relnamespace = 'sync'::regnamespace AND k.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT concat_ws(E'\\t', 'relation', k.oid::regclass, k.relkind, k.relpersistence, k.reloptions, pg_get_viewdef(k.oid))
        FROM pg_class k WHERE k.relnamespace = 'sync'::regnamespace AND k.relkind <> 'S'
        UNION ALL
        SELECT concat_ws(E'\\t', 'sequence', s.seqrelid::regclass, s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcache, s.seqcycle)
        FROM pg_sequence s JOIN pg_class k ON k.oid = s.seqrelid WHERE k.relnamespace = 'sync'::regnamespace
        UNION ALL
        SELECT concat_ws(E'\\t', 'constraint', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid))
        FROM pg_constraint c WHERE c.connamespace = 'sync'::regnamespace
        UNION ALL
        SELECT 'index ' || pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class k ON k.oid = i.indrelid WHERE k.relnamespace = 'sync'::regnamespace
        UNION ALL
        SELECT concat_ws(E'\\t', 'event trigger', evtname, evtevent, evtenabled, evtfoid::regproc, evttags) FROM pg_event_trigger
        UNION ALL
        SELECT concat_ws(E'\\t', 'carried by pg_dump', c.relid::regclass, c.condition)
        FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS c (relid, condition) WHERE e.extname = 'pg_sync'
        UNION ALL
        SELECT concat_ws(E'\\t', 'version', extversion, extrelocatable, extnamespace::regnamespace) FROM pg_extension WHERE extname = 'pg_sync'";
    server_rows(&mut db.connect(), sql).into_iter().map(|row| row[0].clone()).collect()
}

/// What one database has and the other has not, shortened.
fn differences(a: &BTreeSet<String>, b: &BTreeSet<String>) -> Vec<String> {
    a.symmetric_difference(b).map(|object| object.chars().take(300).collect()).collect()
}

/// A database that began with an older version and holds rules, rows and a device.
fn began_with<'c>(cluster: &'c Cluster, version: &str) -> Database<'c> {
    let db = cluster.empty_database();
    db.run(&format!("CREATE EXTENSION pg_sync VERSION '{version}'"));
    db.run("CREATE TABLE note (id int PRIMARY KEY, body text); INSERT INTO note VALUES (1, 'first')");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note')");
    db
}

#[test]
fn an_update_from_any_version_leads_to_what_a_fresh_install_has() {
    let cluster = Cluster::start("");
    let (script, update) = older();
    cluster.add_script(&format!("pg_sync--{BEFORE}.sql"), &script);
    cluster.add_script(&format!("pg_sync--{BEFORE}--{}.sql", build::version()), &update.join("\n"));
    let fresh = objects(&cluster.database());
    let name = |path: &PathBuf| path.file_stem().and_then(|n| n.to_str()?.strip_prefix("pg_sync--").map(str::to_owned));
    let released = build::scripts("released");
    for version in released.iter().filter_map(name).chain([BEFORE.to_owned()]).filter(|v| *v != build::version()) {
        let db = began_with(&cluster, &version);
        assert_ne!(differences(&objects(&db), &fresh), Vec::<String>::new(), "{version} is another version");
        let device = Device::new("ann");
        let mut server = db.connect();

        // The library is the new one already.
        let refused = server_pull(&mut server, &device.user, &device.pull_request()).expect_err("two versions");
        assert!(refused.starts_with("55000 ") && refused.contains("ALTER EXTENSION pg_sync UPDATE"), "{refused}");
        db.run("INSERT INTO note VALUES (2, 'while the versions differ')");

        db.run("ALTER EXTENSION pg_sync UPDATE");
        assert_eq!(differences(&objects(&db), &fresh), Vec::<String>::new(), "from {version}");
        // The same session goes on, which has seen both.
        device.sync(&mut server);
        device.sync(&mut server);
        assert_same(&device, &mut server, "SELECT id, body FROM note");
        assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.device"), "1");
        server.batch_execute("SELECT sync.maintain()").expect("maintained");
    }
}

#[test]
fn an_update_that_forgets_something_is_noticed() {
    let cluster = Cluster::start("");
    let (script, update) = older();
    cluster.add_script(&format!("pg_sync--{BEFORE}.sql"), &script);
    let fresh = objects(&cluster.database());
    // Of the column and its view neither goes without the other.
    for forgotten in (0..update.len()).filter(|&i| !update[i].contains("sync.device")) {
        let rest = update.iter().enumerate().filter(|(i, _)| *i != forgotten).map(|(_, part)| part.as_str());
        cluster.add_script(&format!("pg_sync--{BEFORE}--{}.sql", build::version()), &rest.collect::<Vec<_>>().join("\n"));
        let db = cluster.empty_database();
        db.run(&format!("CREATE EXTENSION pg_sync VERSION '{BEFORE}'; ALTER EXTENSION pg_sync UPDATE"));
        assert_eq!(differences(&objects(&db), &fresh).len(), 2, "was and is, without {}", update[forgotten]);
    }
}

/// What is wrong with a folder of released scripts: files that are not what they were, or not on the list.
fn changed_since_release(sql: &Path) -> Vec<String> {
    let sums = sql.join("released/SHA256SUMS");
    if !sums.exists() {
        return Vec::new();
    }
    let checked =
        Command::new("sha256sum").args(["--check", "--quiet", "--strict"]).arg("released/SHA256SUMS").current_dir(sql).output();
    let checked = checked.expect("sha256sum runs");
    let mut wrong: Vec<String> = String::from_utf8_lossy(&checked.stdout).lines().map(str::to_owned).collect();
    let list = std::fs::read_to_string(sums).expect("the list");
    let names = |folder: &str| std::fs::read_dir(sql.join(folder)).into_iter().flatten().flatten().map(|e| e.file_name());
    let released: Vec<_> = names("released").filter_map(|n| n.into_string().ok()).filter(|n| n.ends_with(".sql")).collect();
    let leads_to_released = |n: &String| released.iter().any(|r| n.ends_with(&r["pg_sync".len()..]));
    let upgrades =
        names("upgrade").filter_map(|n| n.into_string().ok()).filter(leads_to_released).map(|n| format!("upgrade/{n}"));
    wrong.extend(released.iter().map(|n| format!("released/{n}")).chain(upgrades).filter(|n| !list.contains(n.as_str())));
    wrong
}

#[test]
fn released_scripts_are_not_edited() {
    assert_eq!(changed_since_release(&root().join("sql")), Vec::<String>::new());
    let this = root().join(format!("sql/released/pg_sync--{}.sql", build::version()));
    if let Ok(released) = std::fs::read_to_string(this) {
        let message = "this version was released: raise default_version in pg_sync.control and version in Cargo.toml, and write sql/upgrade";
        assert!(released == build::install_script(), "{message}");
    }

    // And an edit would be noticed.
    let sql = std::env::temp_dir().join(format!("pg_sync_released.{}", std::process::id()));
    for (folder, file) in
        [("released", "pg_sync--0.0.1.sql"), ("released", "pg_sync--0.0.2.sql"), ("upgrade", "pg_sync--0.0.1--0.0.2.sql")]
    {
        std::fs::create_dir_all(sql.join(folder)).expect("a folder");
        std::fs::write(sql.join(folder).join(file), "SELECT 1;\n").expect("a script");
    }
    let sums =
        Command::new("sh").args(["-c", "sha256sum released/*.sql upgrade/*.sql >released/SHA256SUMS"]).current_dir(&sql).status();
    assert!(sums.is_ok_and(|s| s.success()));
    assert_eq!(changed_since_release(&sql), Vec::<String>::new());
    std::fs::write(sql.join("upgrade/pg_sync--0.0.2--0.0.3.sql"), "not released yet").expect("a script");
    assert_eq!(changed_since_release(&sql), Vec::<String>::new());
    std::fs::write(sql.join("upgrade/pg_sync--0.0.1--0.0.2.sql"), "SELECT 2;\n").expect("an edit");
    std::fs::write(sql.join("released/pg_sync--0.0.3.sql"), "not listed").expect("a script");
    let wrong = changed_since_release(&sql);
    assert_eq!(wrong.len(), 3, "an edited one, and two that are not on the list: {wrong:?}");
    std::fs::remove_dir_all(sql).expect("removed");
}
