//! What an attacker does with the rights of a table's owner or of nobody: nobody gains any.

use crate::everything::{assert_captured, Everything, TASKS};
use postgres::Client;
use sync_tests::compare::{assert_alike, server_rows, server_value};
use sync_tests::device::{server_pull, server_push};
use sync_tests::{Cluster, Device};

// Rights --------------------------------------------------------------------------------------------------------------------

/// Runs statements one by one, whether they work or not.
fn attempt(client: &mut Client, statements: &[&str]) {
    for sql in statements {
        let _ = client.batch_execute(sql);
    }
}

fn is_superuser(server: &mut Client, role: &str) -> bool {
    server_value(server, &format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'")) == "t"
}

/// The SQLSTATE that a statement fails with; empty when it works.
fn code(client: &mut Client, sql: &str) -> String {
    match client.batch_execute(sql) {
        Ok(()) => String::new(),
        Err(e) => e.code().map_or_else(|| e.to_string(), |c| c.code().to_owned()),
    }
}

#[test]
fn a_trigger_forged_by_a_tables_owner_changes_no_rule() {
    // Its own server: the fault that this is about could take all sessions down.
    let cluster = Cluster::start("");
    let db = cluster.database();
    db.run(
        "CREATE ROLE bob LOGIN; CREATE SCHEMA bob AUTHORIZATION bob;
         CREATE TABLE secret (id int PRIMARY KEY, body text); INSERT INTO secret SELECT i, 'secret' FROM generate_series(1, 10) i",
    );
    db.run("SELECT sync.create_bucket('secret'); SELECT sync.add_table('secret', 'secret', filter => 'id > 5')");
    let mut bob = db.connect_as("bob");
    bob.batch_execute(
        "CREATE TABLE bob.t (id int PRIMARY KEY, x int); INSERT INTO bob.t VALUES (1, 1), (2, 2);
         CREATE FUNCTION bob.evil() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
         BEGIN
             ALTER ROLE bob SUPERUSER;
             RETURN true;
         EXCEPTION WHEN OTHERS THEN
             RETURN true;
         END $$;
         CREATE TABLE bob.nodes (x boolean DEFAULT bob.evil());
         CREATE FUNCTION bob.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
    )
    .expect("bob's own things");
    db.run("SELECT sync.add_table('secret', 'bob.t', filter => 'x > 0')");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    let rules = |server: &mut Client| {
        server_rows(server, "SELECT bucket, \"table\", key, filter, state = 'broken' FROM sync.rules ORDER BY 2")
    };
    let before = rules(&mut server);
    let evil = server_value(&mut server, "SELECT adbin::text FROM pg_attrdef WHERE adrelid = 'bob.nodes'::regclass");
    let wild = "{CONST :consttype 25 :consttypmod -1 :constcollid 100 :constlen -1 :constbyval true :constisnull false :location -1 :constvalue 8 [ 64 0 0 0 0 0 0 0 ]}";
    let ids = server_rows(&mut server, "SELECT entry_id FROM sync.entry");
    let mut change = 0;
    for node in [evil.as_str(), wild] {
        for id in &ids {
            let forged = serde_json::json!({
                "table": 1, "columns": [],
                "entries": [{ "id": id[0].parse::<i32>().expect("an id"), "key": "<>", "filter": format!("({node})") }],
            });
            let argument = forged.to_string().replace('\'', "''");
            for name in ["sync_capture_insert", "sync_capture_update", "forged"] {
                change += 1;
                let event = if name == "sync_capture_update" { "UPDATE" } else { "INSERT" };
                let make =
                    format!("TRIGGER {name} AFTER {event} ON bob.t FOR EACH STATEMENT EXECUTE FUNCTION bob.f('{argument}')");
                attempt(
                    &mut bob,
                    &[
                        &format!("DROP TRIGGER {name} ON bob.t"),
                        &format!("CREATE {make}"),
                        &format!("ALTER TABLE bob.t ADD y{change} int"),
                        &format!("CREATE OR REPLACE {make}"),
                        &format!("ALTER TABLE bob.t RENAME y{change} TO z{change}"),
                        // All in one transaction, with nothing in between that could mend it.
                        &format!("BEGIN; DROP TRIGGER {name} ON bob.t; CREATE {make}; ALTER TABLE bob.t DROP z{change}; COMMIT"),
                        "ROLLBACK",
                    ],
                );
                assert!(!bob.is_closed(), "the server went down");
            }
        }
    }
    db.run("SELECT sync.maintain()");
    bob.batch_execute("INSERT INTO bob.t VALUES (3, 3), (4, -1)").expect("a writer never fails");
    db.run("INSERT INTO secret VALUES (4711, 'new'), (-1, 'hidden')");
    device.sync(&mut server);
    assert_eq!(rules(&mut server), before);
    assert!(!is_superuser(&mut server, "bob"));
    assert_alike(&device, "SELECT * FROM secret", &mut server, "SELECT * FROM secret WHERE id > 5");
    assert_alike(&device, "SELECT id, x FROM bob_t", &mut server, "SELECT id, x FROM bob.t WHERE x > 0");
    assert_captured(&mut server, "bob.t");
    // Nobody can make a trigger of the real function with arguments of his own.
    for name in ["sync_capture_insert", "mine"] {
        let sql = format!(
            "CREATE OR REPLACE TRIGGER {name} AFTER INSERT ON bob.t FOR EACH STATEMENT EXECUTE FUNCTION sync.capture('x')"
        );
        assert_eq!(code(&mut bob, &sql), "42501");
    }
}

#[test]
fn a_filters_function_never_runs_as_anybody_but_the_tables_owner() {
    let cluster = Cluster::start("");
    let db = cluster.database();
    db.run(
        "CREATE ROLE mal LOGIN IN ROLE sync_admin; CREATE SCHEMA mal AUTHORIZATION mal;
         CREATE ROLE writer LOGIN; GRANT USAGE ON SCHEMA mal TO writer",
    );
    let mut mal = db.connect_as("mal");
    // The first is folded while a query is planned, the second runs for each row.
    mal.batch_execute(
        "CREATE FUNCTION mal.act() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
         BEGIN
             IF current_user <> 'mal' THEN
                 BEGIN
                     ALTER ROLE mal SUPERUSER;
                 EXCEPTION WHEN OTHERS THEN
                     NULL;
                 END;
                 RAISE EXCEPTION 'ran as %', current_user;
             END IF;
         END $$;
         CREATE FUNCTION mal.evil(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM mal.act(); RETURN x; END $$;
         CREATE FUNCTION mal.inlined(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT mal.evil(x)';
         CREATE TABLE mal.t (id int PRIMARY KEY, x int);
         CREATE TABLE mal.k (id int PRIMARY KEY, x int);
         CREATE TABLE mal.g (id int PRIMARY KEY, x int);
         INSERT INTO mal.g VALUES (1, 1), (2, 2);
         INSERT INTO mal.t SELECT i, i FROM generate_series(1, 10) i;
         INSERT INTO mal.k SELECT i, i FROM generate_series(1, 10) i;
         GRANT INSERT, UPDATE, DELETE, SELECT, TRUNCATE ON mal.t, mal.k, mal.g TO writer",
    )
    .expect("mal's own things");
    mal.batch_execute(
        "SELECT sync.create_bucket('m');
         SELECT sync.add_table('m', 'mal.t', filter => 'x <> mal.evil(1) AND mal.evil(x) > 0 AND mal.inlined(2) <> x');
         SELECT sync.create_bucket('key', members => 'SELECT mal.evil(g) FROM generate_series(1, 3) g');
         SELECT sync.add_table('key', 'mal.k', key => 'mal.evil(x)')",
    )
    .expect("a sync_admin adds tables of its own");
    // Into the rule of a superuser: the rule's owner's rights are not lent to the filter.
    db.run("SELECT sync.create_bucket('of superuser', members => 'SELECT g FROM generate_series(1, 2) g')");
    mal.batch_execute("SELECT sync.add_table('of superuser', 'mal.g', key => 'mal.evil(x)', filter => 'mal.evil(id) < 100')")
        .expect("a table of its own");
    let (mut server, mut writer, device) = (db.connect(), db.connect_as("writer"), Device::new("ann"));
    let mut check = |server: &mut Client, mal: &mut Client, change: &str| {
        if !change.is_empty() {
            mal.batch_execute(change).unwrap_or_else(|e| panic!("{}\nin: {change}", sync_tests::cluster::describe(&e)));
        }
        // As the superuser, and as somebody with hardly any rights.
        server.batch_execute("SELECT sync.maintain()").expect("maintenance");
        for client in [&mut *server, &mut writer] {
            let write = "INSERT INTO mal.t SELECT max(id) + 1, max(id) + 1 FROM mal.t; UPDATE mal.t SET x = x + 1 WHERE id = 5;
                         DELETE FROM mal.t WHERE id = (SELECT max(id) FROM mal.t WHERE id < 5);
                         INSERT INTO mal.k SELECT max(id) + 1, 2 FROM mal.k;
                         INSERT INTO mal.g SELECT max(id) + 1, 2 FROM mal.g; UPDATE mal.g SET x = 1 WHERE id = 2; UPDATE mal.k SET x = x % 4 + 1 WHERE id = 5";
            client.batch_execute(write).unwrap_or_else(|e| panic!("a writer failed: {}", sync_tests::cluster::describe(&e)));
        }
        device.run("UPDATE mal_g SET x = 3 - x WHERE id = 1; INSERT INTO mal_g (id, x) SELECT max(id) + 1, 1 FROM mal_g");
        device.sync(server);
        // From nothing, so that the tables are read and not the log.
        Device::new("bob").sync(server);
        assert!(!is_superuser(server, "mal"), "after {change}");
        let broken = server_rows(server, "SELECT relid, problem FROM sync.entry WHERE state = 'broken'");
        assert!(broken.is_empty(), "after {change}: {broken:?}");
        assert_alike(&device, "SELECT id, x FROM mal_g", server, "SELECT id, x FROM mal.g");
        assert_alike(&device, "SELECT id, x FROM mal_t", server, "SELECT id, x FROM mal.t WHERE x NOT IN (1, 2)");
        assert_alike(&device, "SELECT id, x FROM mal_k", server, "SELECT id, x FROM mal.k WHERE x BETWEEN 1 AND 3");
    };
    device.sync(&mut server);
    check(&mut server, &mut mal, "");
    check(&mut server, &mut mal, "ALTER TABLE mal.t ADD y int; ALTER TABLE mal.k ADD y int");
    check(&mut server, &mut mal, "DROP TRIGGER sync_capture_insert ON mal.t; ALTER TABLE mal.t ADD z int");
    check(&mut server, &mut mal, "ALTER TABLE mal.t DISABLE TRIGGER ALL; ALTER TABLE mal.k RENAME y TO w");
    check(&mut server, &mut mal, "ALTER TABLE mal.t ALTER y TYPE text; ALTER TABLE mal.k ALTER w TYPE bigint");
    db.run("ALTER TABLE mal.t ADD by_superuser int");
    check(&mut server, &mut mal, "");
    // What is stored is what was written, not what it was folded to.
    let filter = server_value(&mut server, "SELECT filter FROM sync.rules WHERE bucket = 'm'");
    assert!(filter.contains("evil(1)") && filter.contains("inlined(2)"), "{filter}");
}

#[test]
fn a_rules_owner_cannot_be_changed_and_members_run_with_its_rights() {
    let cluster = Cluster::start("");
    let db = cluster.database();
    db.run(
        "CREATE ROLE mal LOGIN IN ROLE sync_admin; CREATE SCHEMA mal AUTHORIZATION mal; CREATE TABLE hidden (id int PRIMARY KEY)",
    );
    let mut mal = db.connect_as("mal");
    mal.batch_execute(
        "CREATE FUNCTION mal.vol() RETURNS int LANGUAGE plpgsql VOLATILE AS $$
         BEGIN
             ALTER ROLE mal SUPERUSER;
             RETURN 1;
         EXCEPTION WHEN OTHERS THEN
             RETURN 1;
         END $$;
         CREATE FUNCTION mal.members() RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN mal.vol(); END $$;
         CREATE TABLE mal.t (id int PRIMARY KEY, k int); INSERT INTO mal.t VALUES (1, 1)",
    )
    .expect("things of its own");
    mal.batch_execute(
        "SELECT sync.create_bucket('m', members => 'SELECT mal.members()'); SELECT sync.add_table('m', 'mal.t', key => 'k')",
    )
    .expect("a rule of its own");
    assert_eq!(code(&mut mal, "UPDATE sync.rule SET owner = 'postgres'"), "42501");
    assert_eq!(code(&mut mal, "UPDATE sync.entry SET filter = 'mal.vol() = 1'"), "42501");
    assert_eq!(code(&mut mal, "SELECT sync.add_table('m', 'hidden', key => 'id')"), "42501");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    // A transport may well ask in a transaction that can write.
    server.query_one("SELECT sync.pull($1)", &[&device.pull_request()]).expect("a page");
    device.sync(&mut server);
    assert!(!is_superuser(&mut server, "mal"));
    assert_eq!(server_value(&mut server, "SELECT owner FROM sync.rule"), "mal");
    assert_eq!(device.rows("SELECT * FROM mal_t"), [["1", "1"]]);
}

#[test]
fn who_may_do_what_in_the_schema_sync() {
    let db = Cluster::shared().database();
    let name = |what: &str| format!("{what}_{}_{}", db.name(), std::process::id());
    let (admin, plain, transport) = (name("admin"), name("plain"), name("transport"));
    db.run(&format!(
        "CREATE ROLE {admin} LOGIN IN ROLE sync_admin; CREATE ROLE {plain} LOGIN; CREATE ROLE {transport} LOGIN IN ROLE sync_transport;
         CREATE SCHEMA own AUTHORIZATION {admin}; CREATE SCHEMA other AUTHORIZATION {plain};
         CREATE TABLE foreign_table (id int PRIMARY KEY); GRANT ALL ON foreign_table TO {admin}, {plain}"
    ));
    let mut server = db.connect();
    let (mut by_admin, mut by_plain) = (db.connect_as(&admin), db.connect_as(&plain));
    by_admin.batch_execute("CREATE TABLE own.t (id int PRIMARY KEY); INSERT INTO own.t VALUES (1)").expect("a table");
    by_plain.batch_execute("CREATE TABLE other.t (id int PRIMARY KEY)").expect("a table");

    // An administrator of rules.
    for sql in [
        "SELECT sync.create_bucket('r')",
        "SELECT sync.add_table('r', 'own.t')",
        "INSERT INTO own.t VALUES (2)",
        "SELECT sync.maintain()",
        "SELECT * FROM sync.rules",
        "SELECT * FROM sync.status",
    ] {
        assert_eq!(code(&mut by_admin, sql), "", "{sql}");
    }
    let device = Device::new("ann");
    device.sync(&mut server);
    assert_eq!(device.rows("SELECT id FROM own_t ORDER BY id"), [["1"], ["2"]]);
    assert_eq!(code(&mut by_admin, "SELECT sync.add_table('r', 'foreign_table')"), "42501");
    let tables = server_rows(
        &mut server,
        "SELECT oid::regclass, relkind FROM pg_class WHERE relnamespace = 'sync'::regnamespace AND relkind IN ('r', 'v')",
    );
    assert!(tables.len() > 10);
    for table in tables {
        let [table, kind] = &table[..] else { panic!("two columns") };
        // Who knows the secret could forge what only the server may have said.
        let expected = if ["sync.secret", "sync.auth_key", "sync.signing_key"].contains(&table.as_str()) { "42501" } else { "" };
        assert_eq!(code(&mut by_admin, &format!("SELECT * FROM {table} LIMIT 1")), expected, "{table}");
        if kind == "r" {
            assert_eq!(code(&mut by_admin, &format!("DELETE FROM {table}")), "42501", "{table}");
        }
        assert_eq!(code(&mut by_plain, &format!("SELECT * FROM {table} LIMIT 1")), "42501", "{table}");
        let rights = format!(
            "SELECT r, p FROM unnest(ARRAY['{admin}', '{plain}', '{transport}']) r, unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p
             WHERE has_table_privilege(r, '{table}', p) OR p IN ('INSERT', 'UPDATE') AND has_any_column_privilege(r, '{table}', p)"
        );
        assert_eq!(server_rows(&mut server, &rights), Vec::<Vec<String>>::new(), "{table}");
    }
    for sql in ["SELECT sync.drop_table('r', 'own.t')", "SELECT sync.drop_bucket('r')"] {
        assert_eq!(code(&mut by_admin, sql), "", "{sql}");
    }

    // Functions: exactly these.
    let asking = ["batch_number", "claims", "device", "note", "note_text", "param", "user_id"];
    let rules = "accept_dids add_auth_key admit_device add_table add_upload_table as_of audit base_type batch_images batch_json check_reach constraint_test create_bucket current_row
        discard discard_conflict doctor drop_auth_key drop_bucket drop_history drop_policy drop_signing_key drop_table drop_upload_table explain fresh_key history history_key home
        keep_devices keep_history keep_records key_condition keys_per_lease lease library_version load_jwks maintain make_signing_key name_device policies_of refuse_dids restore_batch restore_row restore_statements
        retire_auth_key retry revoke_device row_at set_delete_policy set_encrypted set_mode set_policy set_rls start_worker stop_worker verify_every verify_table worker_lock worker_pid";
    let rules: Vec<&str> = rules.split_whitespace().collect();
    let transporting =
        ["authenticate", "changed_since", "head", "my_buckets", "pull", "push", "put_did_document", "wake_channel"];
    for (role, more) in [(&admin, &rules[..]), (&plain, &[]), (&transport, &transporting)] {
        let mut wanted: Vec<_> = asking.iter().chain(more).map(|f| vec![(*f).to_owned()]).collect();
        wanted.sort();
        let sql = format!(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'sync'::regnamespace AND has_function_privilege('{role}', oid, 'EXECUTE')
             ORDER BY proname COLLATE \"C\""
        );
        assert_eq!(server_rows(&mut server, &sql), wanted, "what {role} may call");
    }
    assert_eq!(code(&mut by_admin, "SELECT sync.install_capture('own.t')"), "42501");
    let forged = "CREATE TRIGGER x AFTER INSERT ON own.t FOR EACH STATEMENT EXECUTE FUNCTION sync.capture('{}')";
    assert_eq!(code(&mut by_admin, forged), "42501");
    for sql in [
        "SELECT sync.create_bucket('p')",
        "SELECT sync.add_table('p', 'other.t')",
        "SELECT sync.drop_table('p', 'other.t')",
        "SELECT sync.drop_bucket('p')",
        "SELECT sync.maintain()",
        "SELECT sync.install_capture('other.t')",
        r"SELECT sync.pull('\x')",
        r"SELECT sync.push('\x')",
    ] {
        assert_eq!(code(&mut by_plain, sql), "42501", "{sql}");
    }
    assert_eq!(code(&mut by_plain, "SELECT sync.user_id(), sync.claims(), sync.param('x')"), "");
}

// Bytes ---------------------------------------------------------------------------------------------------------------------

#[test]
fn malformed_bytes_are_an_error_of_data_and_not_of_the_connection() {
    let all = Everything::new(TASKS, &["task"]);
    let mut client = all.db.connect();
    all.device.run("INSERT INTO task VALUES (100, 'waits')");
    let (request, batches) = (all.device.pull_request(), all.device.pending_ops().expect("something waits"));
    let cut = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let newer = |bytes: &[u8]| [&bytes[..2], &[99], &bytes[3..]].concat();
    for bytes in [Vec::new(), b"S".to_vec(), b"no message at all".to_vec(), cut(&request), newer(&request), batches.clone()] {
        let error = server_pull(&mut client, &all.device.user, &bytes).expect_err("refused");
        assert!(error.starts_with("22P03 "), "pull: {error}");
    }
    for bytes in [Vec::new(), b"S".to_vec(), b"no message at all".to_vec(), cut(&batches), newer(&batches), request.clone()] {
        let error = server_push(&mut client, &all.device.user, &bytes).expect_err("refused");
        assert!(error.starts_with("22P03 "), "push: {error}");
    }
    assert!(!client.is_closed());
}
