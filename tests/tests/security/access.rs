//! Who gets which rows: `sync.explain` and `sync.audit` say it, and devices agree.

use postgres::Client;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database, Device};

/// Lists with members, tasks in them, and a role for everybody that row level security knows.
fn lists() -> (Database<'static>, Client, String) {
    let db = Cluster::shared().database();
    let role = format!("app_{}_{}", db.name(), std::process::id());
    db.run(&format!(
        "CREATE ROLE {role} NOLOGIN;
         CREATE TABLE list (id int PRIMARY KEY, title text);
         CREATE TABLE member (list_id int, name text, PRIMARY KEY (list_id, name));
         CREATE TABLE task (list_id int, n int, body text, draft boolean NOT NULL DEFAULT false, PRIMARY KEY (n));
         INSERT INTO list SELECT i, 'list' FROM generate_series(1, 4) i;
         INSERT INTO member VALUES (1, 'ann'), (2, 'ann'), (2, 'bob'), (3, 'bob');
         INSERT INTO task SELECT nullif(i % 5, 0), i, 'task', i % 3 = 0 FROM generate_series(1, 40) i;
         GRANT SELECT ON list, task TO {role};
         SELECT sync.create_bucket('list', members => 'SELECT list_id FROM member WHERE name = sync.user_id()')"
    ));
    db.run("SELECT sync.add_table('list', 'list', key => 'id')");
    db.run("SELECT sync.add_table('list', 'task', key => 'list_id', filter => 'NOT draft')");
    let server = db.connect();
    (db, server, role)
}

/// `bucket key verdict: reason` of what `sync.explain` says.
fn explain(server: &mut Client, table: &str, key: &str, claims: &str) -> Vec<String> {
    let sql = format!(
        "SELECT coalesce(bucket, '-') || ' ' || coalesce(bucket_key::text, '-') || ' ' || verdict || ': ' || reason
         FROM sync.explain('{table}', '{key}', '{claims}')"
    );
    server_rows(server, &sql).into_iter().map(|mut row| row.swap_remove(0)).collect()
}

#[test]
fn explain_says_why_a_row_is_or_is_not_on_a_device() {
    let (db, mut server, _) = lists();
    let ann = r#"{"sub": "ann"}"#;
    let mut is = |table: &str, key: &str, claims: &str, lines: &[&str]| {
        assert_eq!(explain(&mut server, table, key, claims), lines, "{table} {key} {claims}");
    };
    let member = "list [1] held: user \"ann\" is a member of this bucket";
    is("task", "1", ann, &[&format!("{member}; its sums are not known yet, sync.maintain() makes them known")]);
    db.run("SELECT sync.maintain()");
    is("task", "1", ann, &[member]);
    is("task", r#"{"n": 1}"#, ann, &[member]);
    is("task", "999", ann, &["- - not held: table public.task has no row with the key 999"]);
    is("task", "3", ann, &["list - not held: the filter is not true for this row: (NOT draft)"]);
    is("task", "5", ann, &["list - not held: the bucket's key is NULL, so the row is in no bucket: list_id"]);
    let stranger =
        |name| format!("list [4] not held: user \"{name}\" is no member of this bucket: the rule's members do not give its key");
    is("task", "4", ann, &[&stranger("ann")]);
    is("task", "4", r#"{"sub": 7}"#, &[&stranger("7")]);
    is("member", "1", ann, &["- - not held: table public.member is not synced: sync.add_table puts a table into a rule"]);

    // Every rule that the table is in, in the order in which they are served.
    db.run("SELECT sync.create_bucket('all', priority => 5); SELECT sync.add_table('all', 'task', filter => 'n < 10')");
    db.run("SELECT sync.create_bucket('some', members => 'SELECT sync.param(''n'')::int'); SELECT sync.add_table('some', 'task', key => 'n')");
    db.run("SELECT sync.maintain()");
    is(
        "task",
        "4",
        ann,
        &[
            "all - held: the rule has no members, so its one bucket is everybody's",
            &stranger("ann"),
            "some [4] depends: the members read sync.param(): it depends on what the device subscribes to",
        ],
    );
    db.run("UPDATE sync.entry SET state = 'broken', problem = 'it fell down' FROM sync.rule r WHERE r.rule_id = entry.rule_id AND r.name = 'all'");
    let lines = explain(&mut server, "task", "4", ann);
    assert_eq!(
        lines.last().expect("a line"),
        "all - not held: the table is broken in this rule and not served, until that is mended: it fell down"
    );
}

#[test]
fn explain_takes_odd_keys_and_names_partitions_and_uploads() {
    let db = Cluster::shared().database();
    db.run(
        r#"CREATE TABLE "odd ""table
" ("a'b" text, "day" date, PRIMARY KEY ("a'b", "day")) PARTITION BY LIST ("day");
           CREATE TABLE part PARTITION OF "odd ""table
" DEFAULT;
           INSERT INTO part VALUES ('x"y', '2026-01-02'); CREATE TABLE report (id int PRIMARY KEY);
           SELECT sync.create_bucket('all')"#,
    );
    db.run("SELECT sync.add_upload_table('report')");
    db.run("SELECT sync.add_table('all', oid) FROM pg_class WHERE relname LIKE 'odd%' AND relkind = 'p'");
    let mut server = db.connect();
    let sql = |key: &str| {
        format!("SELECT e.verdict FROM pg_class c, sync.explain(c.oid, $k${key}$k$, '{{\"sub\": \"ann\"}}') e WHERE relname LIKE 'odd%' AND relkind = 'p'")
    };
    assert_eq!(server_value(&mut server, &sql(r#"{"a'b": "x\"y", "day": "2026-01-02"}"#)), "held");
    assert_eq!(server_value(&mut server, &sql(r#"{"a'b": "x", "day": "2026-01-02"}"#)), "not held");
    for key in ["x", r#"{"a'b": "x"}"#, "{}", "{nonsense"] {
        let error = db.try_run(&sql(key)).expect_err(key);
        assert!(error.starts_with("22023") && error.contains("the key must give a'b, day"), "{error}");
    }
    let part = explain(&mut server, "part", "1", r#"{"sub": "ann"}"#);
    assert!(part[0].contains("it is a partition, ask for public.\"odd \"\"table"), "{part:?}");
    let report = explain(&mut server, "report", "1", r#"{"sub": "ann"}"#);
    assert_eq!(report, ["- - not held: table public.report is in no rule: devices may insert into it, and hold nothing of it"]);
}

#[test]
fn explain_agrees_with_what_devices_hold() {
    let (_db, mut server, _) = lists();
    for user in ["ann", "bob", "eve"] {
        let device = Device::new(user);
        device.sync(&mut server);
        // Whoever asks has claims of their own, which do not count.
        server.batch_execute(r#"SET request.jwt.claims = '{"sub": "bob", "role": "nobody"}'"#).expect("a setting");
        let sql = format!(
            "SELECT t.n FROM task t, sync.explain('task', t.n::text, '{{\"sub\": \"{user}\"}}') e WHERE e.verdict = 'held' ORDER BY t.n"
        );
        assert_eq!(server_rows(&mut server, &sql), device.rows("SELECT n FROM task ORDER BY n"), "{user}");
        assert_eq!(server_value(&mut server, "SELECT sync.user_id()"), "bob", "who asks is the same as before");
        server.batch_execute("RESET request.jwt.claims").expect("a setting");
    }
}

/// The SQLSTATE that a statement fails with; empty when it works.
fn code(client: &mut Client, sql: &str) -> String {
    match client.batch_execute(sql) {
        Ok(()) => String::new(),
        Err(e) => e.code().map_or_else(|| e.to_string(), |c| c.code().to_owned()),
    }
}

#[test]
fn explain_and_audit_are_for_administrators_and_refuse_what_names_nobody() {
    let (db, _, role) = lists();
    let [admin, plain, transport] = ["admin", "plain", "web"].map(|r| format!("{r}_{}_{}", db.name(), std::process::id()));
    db.run(&format!(
        "CREATE ROLE {admin} LOGIN IN ROLE sync_admin; CREATE ROLE {plain} LOGIN; CREATE ROLE {transport} LOGIN IN ROLE sync_transport;
         GRANT {role} TO {transport}"
    ));
    let ask = |claims: &str| format!("SELECT * FROM sync.explain('task', '1', '{claims}')");
    let audit = |claims: &str| format!("SELECT * FROM sync.audit('{claims}')");
    let as_role = |role: &str| format!(r#"{{"sub": "ann", "role": "{role}"}}"#);
    for user in [&plain, &transport] {
        let mut client = db.connect_as(user);
        assert_eq!(code(&mut client, &ask(&as_role(&role))), "42501", "{user}");
        assert_eq!(code(&mut client, &audit(&as_role(&role))), "42501", "{user}");
    }
    let mut client = db.connect_as(&admin);
    for claims in ["null", "[]", "{}", r#"{"sub": ""}"#, r#"{"sub": true}"#] {
        assert_eq!(code(&mut client, &ask(claims)), "22023", "{claims}");
        assert_eq!(code(&mut client, &audit(claims)), "22023", "{claims}");
    }
    assert_eq!(code(&mut client, &ask(r#"{"sub": "ann"}"#)), "");
    // Functions of policies run as the role, which an administrator must not choose freely.
    assert_eq!(code(&mut client, &audit(r#"{"sub": "ann"}"#)), "22023");
    assert_eq!(code(&mut client, &audit(&as_role("no_such_role"))), "42704");
    assert_eq!(code(&mut client, &audit(&as_role(&role))), "42501");
    assert_eq!(code(&mut client, &audit(&as_role("postgres"))), "42501");
    assert_eq!(code(&mut db.connect(), &audit(&as_role("postgres"))), "42501");
    db.run(&format!("GRANT {role} TO {admin}"));
    assert_eq!(code(&mut client, &audit(&as_role(&role))), "");
}

/// `table key kind` of what `sync.audit` lists.
fn audit(server: &mut Client, user: &str, role: &str) -> Vec<String> {
    let sql = format!(
        r#"SELECT a."table" || ' ' || a.key || ' ' || coalesce(a.bucket || a.bucket_key, '-') || ' ' || a.kind
           FROM sync.audit('{{"sub": "{user}", "role": "{role}"}}') a ORDER BY 1"#
    );
    server_rows(server, &sql).into_iter().map(|mut row| row.swap_remove(0)).collect()
}

#[test]
fn audit_lists_every_row_in_the_difference() {
    let (db, mut server, role) = lists();
    // Without policies the role sees everything.
    let all = audit(&mut server, "ann", &role);
    let others = "SELECT count(*) FROM task WHERE draft OR list_id IS NULL OR list_id NOT IN (1, 2)";
    assert_eq!(all.len().to_string(), server_value(&mut server, &format!("SELECT 2 + ({others})")));
    assert!(all.iter().all(|line| line.ends_with("- only by policies")), "{all:?}");
    // Policies that say the same as the rules: nothing is listed.
    db.run(
        "CREATE FUNCTION is_mine(list int) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
             RETURN EXISTS (SELECT FROM member m WHERE m.list_id = list AND m.name = current_setting('request.jwt.claims')::json ->> 'sub');
         ALTER TABLE task ENABLE ROW LEVEL SECURITY; ALTER TABLE list ENABLE ROW LEVEL SECURITY;
         CREATE POLICY mine ON task USING (is_mine(list_id) AND NOT draft); CREATE POLICY mine ON list USING (is_mine(id))",
    );
    for user in ["ann", "bob", "eve"] {
        assert_eq!(audit(&mut server, user, &role), Vec::<String>::new(), "{user}");
    }
    // The rules hand out more, and the policies show more.
    db.run("CREATE POLICY few ON task AS RESTRICTIVE USING (n <> 1); CREATE POLICY more ON task USING (n = 3 OR n = 5)");
    assert_eq!(
        audit(&mut server, "ann", &role),
        ["task {\"n\": 1} list[1] only by rules", "task {\"n\": 3} - only by policies", "task {\"n\": 5} - only by policies"]
    );
    assert_eq!(audit(&mut server, "bob", &role), ["task {\"n\": 3} - only by policies", "task {\"n\": 5} - only by policies"]);
    // Without the right to read it, a table shows nothing; with the right to read a part of its columns neither.
    db.run(&format!("REVOKE SELECT ON list FROM {role}; GRANT SELECT (id) ON list TO {role}"));
    let lists = |lines: Vec<String>| lines.into_iter().filter(|line| line.starts_with("list")).collect::<Vec<_>>();
    assert_eq!(
        lists(audit(&mut server, "ann", &role)),
        ["list {\"id\": 1} list[1] only by rules", "list {\"id\": 2} list[2] only by rules"]
    );
    db.run(&format!("GRANT SELECT (title) ON list TO {role}"));
    assert_eq!(lists(audit(&mut server, "ann", &role)), Vec::<String>::new());
}

#[test]
fn two_roles_in_one_session_see_what_is_theirs() {
    let (db, mut server, role) = lists();
    let other = format!("{role}_other");
    db.run(&format!(
        "CREATE ROLE {other} NOLOGIN; GRANT SELECT ON task, list TO {other};
         ALTER TABLE task ENABLE ROW LEVEL SECURITY;
         CREATE POLICY one ON task TO {role} USING (n = 1); CREATE POLICY other ON task TO {other} USING (n = 2)"
    ));
    let hidden =
        |lines: Vec<String>| lines.into_iter().filter(|l| l.contains("list[1] only by rules") && l.starts_with("task")).count();
    let all = server_value(&mut server, "SELECT count(*) FROM task WHERE list_id = 1 AND NOT draft")
        .parse::<usize>()
        .expect("a number");
    // The plan that the session keeps for one role serves no other.
    for _ in 0..3 {
        assert_eq!(hidden(audit(&mut server, "ann", &role)), all - 1);
        assert_eq!(hidden(audit(&mut server, "ann", &other)), all);
    }
}

#[test]
fn what_policies_call_in_an_audit_can_do_no_harm() {
    let (db, mut server, role) = lists();
    let (owner, admin) = (format!("{role}_owner"), format!("{role}_admin"));
    db.run(&format!(
        "CREATE ROLE {owner} LOGIN; CREATE ROLE {admin} LOGIN IN ROLE sync_admin; GRANT {role} TO {admin}; ALTER TABLE task OWNER TO {owner};
         CREATE TABLE trace (who text); GRANT ALL ON trace TO PUBLIC; ALTER TABLE task ENABLE ROW LEVEL SECURITY;
         CREATE SCHEMA evil AUTHORIZATION {owner}; GRANT USAGE ON SCHEMA evil TO PUBLIC"
    ));
    let mut by_owner = db.connect_as(&owner);
    let mut by_admin = db.connect_as(&admin);
    let mut tried = |act: &str| {
        by_owner
            .batch_execute(&format!(
                "CREATE OR REPLACE FUNCTION evil.f() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN {act}; RETURN true; END $$;
                 DROP POLICY IF EXISTS evil ON task; CREATE POLICY evil ON task USING (evil.f())"
            ))
            .expect("a policy of the owner's");
        let claims = format!(r#"{{"sub": "ann", "role": "{role}"}}"#);
        let told = by_admin
            .batch_execute(&format!("SELECT * FROM sync.audit('{claims}')"))
            .map_err(|e| sync_tests::cluster::describe(&e));
        // Whatever happened, the session is who it was.
        assert_eq!(server_value(&mut by_admin, "SELECT current_user"), admin);
        assert_eq!(server_value(&mut by_admin, "SELECT sync.user_id()"), admin);
        assert_eq!(server_value(&mut by_admin, "SELECT coalesce(current_setting('request.jwt.claims', true), '')"), "");
        told
    };
    let denied = |told: Result<(), String>, code: &str| assert!(told.as_ref().is_err_and(|e| e.starts_with(code)), "{told:?}");
    // Nothing is written, nobody else is become, and it is the user's role that runs.
    denied(tried("INSERT INTO trace VALUES (current_user)"), "25006");
    denied(tried(&format!("EXECUTE 'SET ROLE {admin}'")), "42501");
    denied(tried("PERFORM set_config('transaction_read_only', 'off', true)"), "25001");
    denied(tried("RESET ROLE"), "42501");
    denied(tried("RESET SESSION AUTHORIZATION"), "42501");
    denied(tried("PERFORM sync.create_bucket('evil')"), "42501");
    assert_eq!(tried(&format!("IF current_user <> '{role}' THEN RAISE EXCEPTION 'ran as %', current_user; END IF")), Ok(()));
    assert_eq!(tried("PERFORM set_config('request.jwt.claims', '{\"sub\": \"postgres\"}', false)"), Ok(()));
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM trace"), "0");
}
