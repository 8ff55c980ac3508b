//! Each finding of `sync.doctor()`, provoked in a database where nothing else is wrong, and mended.

use postgres::Client;
use sync_tests::compare::server_rows;
use sync_tests::{Cluster, Database, Device, User};

/// What every throwaway server has wrong: see SETTINGS in cluster.rs.
const ALWAYS: &str = "setting fsync";

/// Severity and object, then what and remedy, of all findings but the one that is always there.
pub fn findings(server: &mut Client, patience: &str) -> Vec<[String; 4]> {
    let rows = server_rows(server, &format!("SELECT * FROM sync.doctor('{patience}')"));
    let all = rows.into_iter().map(|row| <[String; 4]>::try_from(row).expect("four columns"));
    all.filter(|[_, object, ..]| object != ALWAYS).collect()
}

/// Fails unless exactly these are found: severity, object, and a part of what it says.
#[track_caller]
pub fn assert_found(server: &mut Client, patience: &str, expected: &[(&str, &str, &str)], after: &str) {
    let found = findings(server, patience);
    let fits = |f: &[String; 4], e: &(&str, &str, &str)| f[0] == e.0 && f[1] == e.1 && f[2].contains(e.2);
    let same = found.len() == expected.len() && expected.iter().all(|e| found.iter().any(|f| fits(f, e)));
    assert!(same, "after: {after}\nexpected {expected:#?}\nfound {found:#?}");
    assert!(found.iter().all(|f| !f[3].is_empty()), "each says what to do: {found:#?}");
}

/// A database with rules, a device and a transport, in which nothing is wrong.
pub fn healthy(cluster: &Cluster) -> Database<'_> {
    let db = cluster.database();
    db.run(
        "DO $$ BEGIN
             CREATE ROLE gateway LOGIN IN ROLE sync_transport; CREATE ROLE person; CREATE ROLE ruler IN ROLE sync_admin;
             GRANT person TO gateway;
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
         END $$;
         GRANT CREATE ON SCHEMA public TO ruler;
         SET ROLE ruler;
         CREATE TABLE list (id integer PRIMARY KEY, owner text NOT NULL);
         CREATE TABLE task (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, list_id integer NOT NULL, n integer NOT NULL DEFAULT 1 CHECK (n > 0));
         CREATE INDEX ON task (list_id, id);
         CREATE TABLE event (id bigint, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
         CREATE TABLE event_a PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
         SELECT sync.create_bucket('list', $$SELECT id FROM public.list WHERE owner = sync.user_id()$$);
         SELECT sync.add_table('list', 'task', 'list_id');
         SELECT sync.create_bucket('all');
         SELECT sync.add_table('all', 'event');
         GRANT ALL ON list, task, event TO person;
         INSERT INTO list VALUES (1, 'ann');
         INSERT INTO task (list_id) VALUES (1), (1);
         RESET ROLE",
    );
    let device = Device::for_user(User::with_role("ann", "person"));
    let mut transport = db.connect_as("gateway");
    device.sync(&mut transport);
    device.run("INSERT INTO task (list_id, n) SELECT list_id, 5 FROM task LIMIT 1");
    device.sync(&mut transport);
    db.run("SELECT sync.maintain()");
    db
}

/// While the event triggers are off, as somebody might leave them.
fn unseen(sql: &str) -> String {
    let switch = |how| format!("ALTER EVENT TRIGGER sync_on_ddl {how}; ALTER EVENT TRIGGER sync_on_drop {how};");
    format!("{}{sql};{}", switch("DISABLE"), switch("ENABLE ALWAYS"))
}

/// How to provoke, what is found then, how to mend.
type Case = (String, Vec<(&'static str, &'static str, &'static str)>, &'static str);

/// Capture that does not fit its table any longer, and tables that cannot be captured.
fn of_capture() -> Vec<Case> {
    let verify = "SELECT * FROM sync.verify_table('task')";
    vec![
        (
            "ALTER EVENT TRIGGER sync_on_ddl DISABLE".into(),
            vec![("error", "event trigger sync_on_ddl", "disabled")],
            "ALTER EVENT TRIGGER sync_on_ddl ENABLE ALWAYS",
        ),
        (
            unseen("ALTER TABLE task DISABLE TRIGGER sync_capture_update"),
            vec![("error", "table public.task", "missing, disabled or altered")],
            verify,
        ),
        (
            unseen("ALTER TABLE task DISABLE TRIGGER sync_capture_update"),
            vec![("error", "table public.task", "missing, disabled or altered")],
            "SELECT sync.maintain()",
        ),
        (unseen("DROP TRIGGER sync_capture_insert ON task"), vec![("error", "table public.task", "missing")], verify),
        (unseen("ALTER TABLE task ADD COLUMN late text"), vec![("error", "table public.task", "column late")], verify),
        (
            unseen("ALTER TABLE task ALTER COLUMN late TYPE varchar(7)"),
            vec![("error", "table public.task", "of an older state")],
            "SELECT * FROM sync.verify_table('task'); SELECT sync.maintain()",
        ),
        (
            unseen("CREATE TABLE event_b PARTITION OF event FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')"),
            vec![("error", "table public.event_b", "partition without capture")],
            "SELECT * FROM sync.verify_table('event'); SELECT sync.maintain()",
        ),
        (
            unseen("ALTER TABLE task SET UNLOGGED"),
            vec![("error", "table public.task", "cannot be synced any longer: unlogged")],
            "ALTER TABLE task SET LOGGED; SELECT sync.maintain()",
        ),
        (
            "ALTER TABLE task DISABLE TRIGGER sync_capture_delete".into(),
            vec![("notice", "table public.task", "to be compared")],
            "SELECT sync.maintain()",
        ),
        (
            unseen("ALTER TABLE task DISABLE TRIGGER ALL") + "; INSERT INTO task (list_id) VALUES (1); SELECT sync.maintain()",
            vec![("warning", "table public.task", "changed past its triggers: 1 sums were set right")],
            "UPDATE sync.verified SET mended_at = mended_at - interval '31 days'",
        ),
    ]
}

/// Rules and what they need.
fn of_rules() -> Vec<Case> {
    vec![
        (
            "CREATE TABLE later (id integer PRIMARY KEY); SELECT sync.add_table('all', 'later')".into(),
            vec![("notice", "rule all, table public.later", "not known yet")],
            "SELECT sync.maintain()",
        ),
        (
            "ALTER TABLE later DROP COLUMN id".into(),
            vec![("error", "rule all, table public.later", "devices do not get it: it has no primary key")],
            "ALTER TABLE later ADD COLUMN id integer PRIMARY KEY; SELECT sync.maintain()",
        ),
        (
            "BEGIN; CREATE TABLE part (id integer PRIMARY KEY, n integer); INSERT INTO part VALUES (1, 0); COMMIT;
             SELECT sync.add_table('all', 'part', filter => '1 / n > 0'); SELECT sync.attend()"
                .into(),
            vec![
                ("error", "rule all, table public.part", "its sums are not known: "),
                ("error", "background worker", "failed, 1 in a row: "),
            ],
            "SELECT sync.drop_table('all', 'part'); SELECT sync.attend()",
        ),
        (
            "REVOKE SELECT ON list FROM ruler".into(),
            vec![("error", "rule list", "every pull fails: rule \"list\": members: permission denied for table list")],
            "GRANT SELECT ON list TO ruler",
        ),
        (
            "BEGIN; CREATE TABLE big (id integer PRIMARY KEY, list_id integer, body text);
             INSERT INTO big SELECT i, 1, repeat('x', 90) FROM generate_series(1, 20000) i;
             ANALYZE big; COMMIT; SELECT sync.add_table('list', 'big', 'list_id'); SELECT sync.maintain()"
                .into(),
            vec![("warning", "rule list, table public.big", "no index begins with the key list_id")],
            "CREATE INDEX ON big (list_id, id)",
        ),
        (
            "BEGIN; CREATE TABLE raw AS SELECT * FROM big; ALTER TABLE raw ADD PRIMARY KEY (id); COMMIT;
             SELECT sync.add_table('all', 'raw'); SELECT sync.maintain()"
                .into(),
            vec![("warning", "table public.raw", "never analyzed")],
            "ANALYZE raw",
        ),
        (
            "ALTER TABLE big SET (autovacuum_enabled = false)".into(),
            vec![("warning", "table public.big", "autovacuum is switched off")],
            "ALTER TABLE big RESET (autovacuum_enabled)",
        ),
    ]
}

/// The log and what a dump has brought.
fn of_the_log() -> Vec<Case> {
    vec![
        ("DELETE FROM sync.checkpoint".into(), vec![("warning", "sync.maintain()", "never called")], "SELECT sync.maintain()"),
        (
            "UPDATE sync.checkpoint SET at = at - interval '15 days'".into(),
            vec![("error", "sync.maintain()", "last called at")],
            "SELECT sync.maintain()",
        ),
        (
            "INSERT INTO sync.op (bucket, xid, hash, at, changed, op_id, entry, n, keys)
             SELECT md5(i::text)::uuid, pg_current_xact_id(), 0, 0, 0, i, 0, 0, '' FROM generate_series(1, 500000) i; ANALYZE sync.op"
                .into(),
            vec![("warning", "sync.op", "more than all synced tables together")],
            "TRUNCATE sync.op",
        ),
        (
            "INSERT INTO sync.carried (home, kind, name, content) VALUES ('another', 'table', 'public.gone', '{}')".into(),
            vec![("error", "database ", "pulls are refused")],
            "SELECT 1",
        ),
        (
            "SELECT sync.maintain()".into(),
            vec![("error", "table public.gone", "came with a dump and is not synced: there is no such table")],
            "DELETE FROM sync.carried WHERE problem IS NOT NULL",
        ),
    ]
}

/// Devices, and what they send.
fn of_devices() -> Vec<Case> {
    vec![
        (
            "UPDATE sync.device SET seen = seen - interval '15 days'".into(),
            vec![("notice", "sync.devices", "1 devices were last heard of more than the lease")],
            "UPDATE sync.device SET seen = now()",
        ),
        (
            "INSERT INTO sync.conflict (device, number, relid, key, reason) SELECT gen_random_uuid(), 1, 'task', '[1]', 'x' FROM generate_series(1, 10000)"
                .into(),
            vec![("warning", "sync.conflicts", "10000 conflicts are recorded, most of them of table public.task")],
            "DELETE FROM sync.conflict",
        ),
        (
            "SELECT setval('task_id_seq', 2147483647 - 100000)".into(),
            vec![("warning", "sequence public.task_id_seq", "keys of table public.task come to their end: 100000 are left")],
            "SELECT 1",
        ),
        (
            "SELECT setval('task_id_seq', 2147483647 - 9999)".into(),
            vec![("error", "sequence public.task_id_seq", "9999 are left")],
            "SELECT setval('task_id_seq', 100)",
        ),
        (
            "INSERT INTO sync.device (device, user_id) SELECT gen_random_uuid(), 'x' FROM generate_series(1, 1000)".into(),
            vec![("notice", "setting wal_keep_size", "1001 devices")],
            "DELETE FROM sync.device WHERE user_id = 'x'",
        ),
    ]
}

/// Roles, keys, settings, versions.
fn of_access() -> Vec<Case> {
    let key = "SELECT sync.add_auth_key(repeat('secret', 9), 'HS256', 'https://issuer.example', 'app'";
    vec![
        (
            "CREATE ROLE boss SUPERUSER LOGIN IN ROLE sync_transport".into(),
            vec![("warning", "role boss", "a transport and a superuser")],
            "DROP ROLE boss",
        ),
        (
            "ALTER ROLE gateway BYPASSRLS".into(),
            vec![("warning", "role gateway", "passes by row level security")],
            "ALTER ROLE gateway NOBYPASSRLS",
        ),
        (
            "GRANT sync_admin TO gateway".into(),
            vec![("warning", "role gateway", "may write rules")],
            "REVOKE sync_admin FROM gateway",
        ),
        (
            "ALTER TABLE event OWNER TO gateway".into(),
            vec![("warning", "role gateway", "owns the synced table public.event")],
            "ALTER TABLE event OWNER TO ruler",
        ),
        (
            "ALTER ROLE sync_transport LOGIN".into(),
            vec![("warning", "role sync_transport", "can log in")],
            "ALTER ROLE sync_transport NOLOGIN",
        ),
        (
            "UPDATE sync.batch SET role = 'postgres'".into(),
            vec![("warning", "role postgres", "a superuser, and 1 batches of devices")],
            "UPDATE sync.batch SET role = 'person'",
        ),
        (
            format!("{key}, retires => now() - interval '1 hour')"),
            vec![("error", "issuer https://issuer.example", "none of them is in force")],
            "SELECT 1",
        ),
        (
            format!("{key}, retires => now() + interval '3 days')"),
            vec![("warning", "issuer https://issuer.example", "the last of its keys retires at")],
            "SELECT sync.drop_auth_key(key_id) FROM sync.auth_keys",
        ),
        (
            "SET synchronous_commit = off".into(),
            vec![("notice", "setting synchronous_commit", "loses batches")],
            "RESET synchronous_commit",
        ),
        ("SET track_counts = off".into(), vec![("warning", "setting track_counts", "autovacuum")], "RESET track_counts"),
        (
            "SET allow_system_table_mods = on; UPDATE pg_extension SET extversion = '0.0.1' WHERE extname = 'pg_sync'".into(),
            vec![("error", "extension pg_sync", "what is in this database of 0.0.1")],
            "UPDATE pg_extension SET extversion = sync.library_version() WHERE extname = 'pg_sync'",
        ),
    ]
}

/// One after the other in one database: what is provoked is found alone, and gone when it is mended.
fn provoke(cases: Vec<Case>) {
    let cluster = Cluster::start("max_prepared_transactions = 2");
    let db = healthy(&cluster);
    let mut server = db.connect();
    assert_found(&mut server, "1 hour", &[], "nothing");
    for (provoke, expected, mend) in cases {
        server.batch_execute(&provoke).unwrap_or_else(|e| panic!("{provoke}: {}", sync_tests::cluster::describe(&e)));
        let name = format!("database {}", db.name());
        let named = |e: (&'static str, &'static str, &'static str)| (e.0.to_owned(), e.1.to_owned(), e.2);
        let expected: Vec<_> = expected.into_iter().map(named).collect();
        let expected: Vec<_> =
            expected.iter().map(|e| (e.0.as_str(), if e.1 == "database " { name.as_str() } else { &e.1 }, e.2)).collect();
        assert_found(&mut server, "1 hour", &expected, &provoke);
        server.batch_execute(mend).unwrap_or_else(|e| panic!("{mend}: {}", sync_tests::cluster::describe(&e)));
        if mend != "SELECT 1" {
            assert_found(&mut server, "1 hour", &[], mend);
        }
    }
}

#[test]
fn the_doctor_finds_capture_that_does_not_fit() {
    provoke(of_capture());
}

#[test]
fn the_doctor_finds_rules_that_lack_something_and_a_log_that_is_left_alone() {
    provoke(of_rules().into_iter().chain(of_the_log()).collect());
}

#[test]
fn the_doctor_finds_what_is_wrong_with_devices_roles_keys_and_settings() {
    provoke(of_devices().into_iter().chain(of_access()).collect());
}

#[test]
fn the_doctor_sees_rejected_batches_pile_up() {
    let db = healthy(Cluster::shared());
    let device = Device::for_user(User::with_role("ann", "person"));
    let mut transport = db.connect_as("gateway");
    device.sync(&mut transport);
    for _ in 0..100 {
        device.run("INSERT INTO task (id, list_id, n) VALUES ((SELECT coalesce(min(id), 0) - 1 FROM task WHERE id < 0), 1, -1)");
    }
    device.sync(&mut transport);
    let found = findings(&mut db.connect(), "1 hour");
    assert!(found.iter().any(|f| f[1] == "sync.rejected" && f[2].contains("100 batches were rejected")), "{found:#?}");
}

#[test]
fn the_doctor_is_for_administrators() {
    let db = healthy(Cluster::shared());
    let asked = |role: &str| db.try_run(&format!("SET ROLE {role}; SELECT * FROM sync.doctor()"));
    assert_eq!(asked("ruler"), Ok(()));
    assert!(asked("person").is_err_and(|e| e.starts_with("42501")));
}
