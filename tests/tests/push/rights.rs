//! Grants, policies and triggers decide, with the user's role and the session's settings.

use crate::phone::{delete, insert, int, short, text, update, Phone};
use postgres::Client;
use sync_shared::message::Verdict;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database, User};

/// A table whose rows belong to users, and a role for all of them.
fn documents(grants: &str) -> (Database<'static>, Client, String) {
    let db = Cluster::shared().database();
    let role = format!("app_{}_{}", db.name(), std::process::id());
    db.run(&format!("CREATE ROLE {role} NOLOGIN"));
    db.run(
        "CREATE TABLE doc (id int PRIMARY KEY, owner text NOT NULL, body text, secret text);
         ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON doc USING (owner = current_setting('request.jwt.claims')::json->>'sub');
         CREATE POLICY public ON doc FOR SELECT USING (body = 'public');
         INSERT INTO doc VALUES (1, 'ann', 'mine', 's'), (2, 'bob', 'hidden words', 's'), (3, 'bob', 'public', 's')",
    );
    db.run(&format!("GRANT {grants} ON doc TO {role}"));
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'doc', rls => 'rules_decide')");
    let server = db.connect();
    (db, server, role)
}

fn ann(role: &str) -> Phone {
    Phone::of(User::with_role("ann", role))
}

#[test]
fn row_level_security_decides() {
    let (_db, mut server, role) = documents("SELECT, INSERT, UPDATE, DELETE");
    let mut phone = ann(&role);
    let change = |id, old: &str| vec![update("doc", id, &[("body", text(old), text("changed"))])];
    let remove = |id, old: &str| vec![delete("doc", id, &[("body", text(old))])];
    let results = phone.send(
        &mut server,
        vec![
            change(1, "mine"),
            change(2, "hidden words"),
            change(3, "public"),
            remove(2, "hidden words"),
            remove(3, "public"),
            vec![insert("doc", 4, &[("owner", text("bob"))])],
            vec![insert("doc", 2, &[("owner", text("ann"))])],
            vec![update("doc", 1, &[("owner", text("ann"), text("bob"))])],
            vec![insert("doc", 5, &[("owner", text("ann"))])],
            remove(1, "changed"),
        ],
    );
    let denied = "rejected 42501";
    assert_eq!(
        short(&results),
        ["accepted", denied, denied, denied, denied, denied, "rejected 23505", denied, "accepted", "accepted"]
    );
    assert!(results.iter().all(|r| !format!("{r:?}").contains("hidden")), "what the user may not see is not told: {results:?}");
    assert_eq!(
        server_rows(&mut server, "SELECT id, body FROM doc ORDER BY id"),
        [["2", "hidden words"], ["3", "public"], ["5", "∅"]]
    );
}

#[test]
fn grants_on_columns_decide() {
    let (_db, mut server, role) = documents("SELECT (id, owner, body), INSERT (id, owner, body), UPDATE (body), DELETE");
    let mut phone = ann(&role);
    let results = phone.send(
        &mut server,
        vec![
            vec![update("doc", 1, &[("body", text("mine"), text("changed"))])],
            vec![update("doc", 1, &[("secret", text("s"), text("t"))])],
            vec![insert("doc", 4, &[("owner", text("ann")), ("secret", text("t"))])],
            vec![insert("doc", 4, &[("owner", text("ann"))])],
            vec![delete("doc", 1, &[("body", text("changed"))])],
        ],
    );
    assert_eq!(short(&results), ["accepted", "rejected 42501", "rejected 42501", "accepted", "accepted"]);
}

#[test]
fn deleting_needs_no_right_to_update() {
    let (_db, mut server, role) = documents("SELECT, DELETE");
    let mut phone = ann(&role);
    phone.accepted(&mut server, delete("doc", 1, &[("body", text("mine")), ("secret", text("s"))]));
    let result = phone.one(&mut server, insert("doc", 9, &[("owner", text("ann"))]));
    assert_eq!((result.verdict, result.code.as_str()), (Verdict::Rejected, "42501"));
}

#[test]
fn triggers_and_policies_see_the_users_session() {
    let (db, mut server, role) = documents("SELECT, INSERT, UPDATE, DELETE");
    db.run(&format!(
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO {role};
         CREATE TABLE app.seen (who text, path text, zone text, claim text); GRANT INSERT ON app.seen TO {role};
         CREATE FUNCTION app.mine(text) RETURNS boolean LANGUAGE sql AS 'SELECT $1 = ''ann''';
         CREATE FUNCTION app.allowed(owner text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN mine(owner); END $$;
         CREATE POLICY unqualified ON doc AS RESTRICTIVE USING (app.allowed(owner));
         CREATE FUNCTION app.look() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO seen VALUES (current_user, current_setting('search_path'), current_setting('TimeZone'),
                 current_setting('request.jwt.claims')::json->>'sub');
             SET TimeZone = 'Asia/Tokyo';
             PERFORM set_config('search_path', 'nowhere', false);
             RETURN NEW;
         END $$;
         CREATE TRIGGER look AFTER INSERT OR UPDATE ON doc FOR EACH ROW EXECUTE FUNCTION app.look()"
    ));
    server.batch_execute("SET search_path = app, public; SET TimeZone = 'Europe/Paris'").expect("settings");
    let mut phone = ann(&role);
    let results = phone.send(
        &mut server,
        vec![
            vec![insert("doc", 5, &[("owner", text("ann"))])],
            vec![update("doc", 1, &[("body", text("mine"), text("changed"))])],
        ],
    );
    assert_eq!(short(&results), ["accepted", "accepted"], "{results:?}");
    assert_eq!(
        server_rows(&mut db.connect(), "SELECT who, path, zone, claim FROM app.seen"),
        vec![vec![role.clone(), "app, public".into(), "Europe/Paris".into(), "ann".into()]; 2]
    );
    assert_eq!(server_value(&mut server, "SELECT current_setting('TimeZone')"), "Europe/Paris");
}

#[test]
fn nothing_that_a_user_plants_runs_with_other_rights() {
    let (db, _, role) = documents("SELECT, INSERT, UPDATE, DELETE");
    let transport = format!("web_{}_{}", db.name(), std::process::id());
    db.run(&format!(
        "CREATE ROLE {transport} LOGIN IN ROLE sync_transport; GRANT {role} TO {transport}; GRANT CREATE ON SCHEMA public TO {role};
         CREATE TABLE trace (who text); GRANT INSERT ON trace TO PUBLIC; GRANT CREATE ON DATABASE {} TO {role};
         SET ROLE {role};
         CREATE SCHEMA planted;
         CREATE FUNCTION planted.evil(uuid, uuid) RETURNS boolean LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO public.trace VALUES (current_user); RETURN true; END $$;
         CREATE OPERATOR planted.= (FUNCTION = planted.evil, LEFTARG = uuid, RIGHTARG = uuid);
         CREATE FUNCTION planted.evil(int, int) RETURNS boolean LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO public.trace VALUES (current_user); RETURN true; END $$;
         CREATE OPERATOR planted.= (FUNCTION = planted.evil, LEFTARG = int, RIGHTARG = int);
         CREATE FUNCTION planted.now() RETURNS timestamptz LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO public.trace VALUES (current_user); RETURN 'epoch'; END $$;
         CREATE DOMAIN planted.text AS pg_catalog.text; CREATE DOMAIN planted.jsonb AS pg_catalog.jsonb",
        db.name()
    ));
    let mut server = db.connect_as(&transport);
    server.batch_execute("SET search_path = planted, public, pg_catalog").expect("a setting");
    let mut phone = ann(&role);
    let changes = vec![
        vec![insert("doc", 5, &[("owner", text("ann"))])],
        vec![update("doc", 1, &[("body", text("old"), text("changed"))])],
        vec![delete("doc", 1, &[("body", text("changed"))])],
    ];
    assert_eq!(short(&phone.send(&mut server, changes)), ["accepted", "merged", "accepted"]);
    assert_eq!(server_value(&mut db.connect(), "SELECT count(*) FROM trace"), "0");
}

#[test]
fn deferred_triggers_do_not_outlive_the_users_rights() {
    let (db, mut server, role) = documents("SELECT, INSERT, UPDATE, DELETE");
    db.run(&format!(
        "CREATE TABLE trace (who text); GRANT INSERT ON trace TO PUBLIC;
         CREATE TABLE queue (id int); GRANT ALL ON queue TO {role};
         CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO trace VALUES (current_user); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON queue DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late();
         CREATE FUNCTION plant() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN SET CONSTRAINTS ALL DEFERRED; INSERT INTO queue VALUES (1); RETURN NULL; END $$;
         CREATE TRIGGER plant AFTER INSERT ON doc FOR EACH ROW EXECUTE FUNCTION plant();
         CREATE CONSTRAINT TRIGGER plant_late AFTER UPDATE ON doc DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION plant()"
    ));
    let mut phone = ann(&role);
    let results = phone.send(
        &mut server,
        vec![
            vec![insert("doc", 5, &[("owner", text("ann"))])],
            vec![update("doc", 1, &[("body", text("mine"), text("changed"))])],
        ],
    );
    assert_eq!(short(&results), ["accepted", "rejected 42501"]);
    assert_eq!(server_rows(&mut db.connect(), "SELECT who FROM trace"), [[role.as_str()]]);
}

#[test]
fn a_role_that_the_session_may_not_take_is_refused() {
    let (db, _, role) = documents("SELECT, INSERT, UPDATE, DELETE");
    let transport = format!("web_{}_{}", db.name(), std::process::id());
    db.run(&format!("CREATE ROLE {transport} LOGIN IN ROLE sync_transport"));
    let request = sync_shared::message::PushRequest {
        device: uuid::Uuid::new_v4(),
        batches: vec![],
        wants: vec![],
        held: vec![],
        differ: None,
    };
    let request = sync_shared::envelope::encode(&request).expect("a request");
    let mut server = db.connect_as(&transport);
    let error = sync_tests::device::server_push(&mut server, &User::with_role("ann", &role), &request).expect_err("an error");
    assert!(error.starts_with("42501"), "{error}");
    let error =
        sync_tests::device::server_push(&mut server, &User::with_role("ann", "postgres"), &request).expect_err("an error");
    assert!(error.starts_with("42501"), "{error}");
}

#[test]
fn the_server_lives_on_after_every_kind_of_push() {
    // Many pushes in one session: nothing leaks from one into the next.
    let (_db, mut server, role) = documents("SELECT, INSERT, UPDATE, DELETE");
    let mut phone = ann(&role);
    for round in 0..200 {
        let id = 100 + round;
        let results = phone.send(
            &mut server,
            vec![
                vec![insert("doc", id, &[("owner", text("ann")), ("body", text("a"))])],
                vec![insert("doc", id, &[("owner", int(5)), ("body", text("b"))])],
                vec![insert("doc", -id, &[("owner", text("bob"))])],
                vec![update("doc", id, &[("body", text("x"), text("c"))])],
            ],
        );
        assert_eq!(short(&results)[0], "accepted");
        assert_eq!(results[2].verdict, Verdict::Rejected);
    }
    assert_eq!(server_value(&mut server, "SELECT current_user || count(*) FROM sync.batch"), "postgres800");
}
