//! Policies see what they would see in the user's session, and can do no harm; owners, standbys and what it costs.

use super::*;

#[test]
fn policies_see_the_users_claims_settings_and_nobody_elses() {
    let folders = Folders::new("enforce");
    let (role, transport) = (folders.role.clone(), format!("{}_web", folders.role));
    folders.db.run(&format!(
        "CREATE ROLE {transport} LOGIN IN ROLE sync_transport; GRANT {role} TO {transport};
         CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO {role};
         CREATE FUNCTION app.limit_of() RETURNS int LANGUAGE sql STABLE AS 'SELECT 3';
         CREATE FUNCTION app.allowed(id int) RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN
             RETURN id < limit_of() AND current_user = '{role}' AND current_setting('TimeZone') = 'Asia/Tokyo'
                 AND (current_setting('request.jwt.claims')::json ->> 'sub') = 'ann' AND sync.user_id() = 'ann';
         END $$;
         CREATE POLICY session ON doc AS RESTRICTIVE FOR SELECT USING (app.allowed(id))"
    ));
    let mut web = folders.db.connect_as(&transport);
    web.batch_execute("SET search_path = app, public; SET TimeZone = 'Asia/Tokyo'").expect("settings");
    let device = folders.device("ann");
    device.pull(&mut web);
    assert_eq!(ids(&device), "1 2");
    for setting in ["search_path", "TimeZone"] {
        assert_ne!(server_value(&mut web, &format!("SHOW {setting}")), "UTC");
    }
    assert_eq!(
        server_value(&mut web, "SELECT current_user || coalesce(current_setting('request.jwt.claims', true), '')"),
        transport
    );
    // A login that nobody vouches for may set what it likes: it is not looked at.
    let login = format!("{role}_login");
    folders.db.run(&format!(
        "CREATE ROLE {login} LOGIN; GRANT EXECUTE ON FUNCTION sync.pull(bytea) TO {login}; GRANT {role} TO {login};
         DROP POLICY session ON doc; DROP POLICY looked_up ON doc;
         CREATE POLICY claimed ON doc FOR SELECT USING (nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub' = 'ann')"
    ));
    let mut forged = folders.db.connect_as(&login);
    let device = Device::for_user(User::with_role("ann", &role));
    device.pull(&mut forged);
    assert_eq!(device.value("SELECT count(*) FROM doc"), "0");
    let device = folders.device("ann");
    device.pull(&mut web);
    assert_eq!(device.value("SELECT count(*) FROM doc"), "30");
}

#[test]
fn what_policies_call_in_a_pull_writes_nothing_and_becomes_nobody() {
    let folders = Folders::new("enforce");
    let role = &folders.role;
    folders.db.run(&format!(
        "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO {role}; CREATE TABLE trace (who text); GRANT ALL ON trace TO PUBLIC"
    ));
    let transport = format!("{role}_web");
    folders.db.run(&format!("CREATE ROLE {transport} LOGIN IN ROLE sync_transport; GRANT {role} TO {transport}"));
    let (mut web, device) = (folders.db.connect_as(&transport), folders.device("ann"));
    let request = device.pull_request();
    let mut tried = |act: &str| {
        folders.db.run(&format!(
            "CREATE OR REPLACE FUNCTION evil.f() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN {act}; RETURN true; END $$;
             DROP POLICY IF EXISTS evil ON doc; CREATE POLICY evil ON doc AS RESTRICTIVE FOR SELECT USING (evil.f())"
        ));
        // In a transaction that could write.
        let mut transaction = web.transaction().expect("a transaction");
        transaction.execute("SELECT set_config('request.jwt.claims', $1, true)", &[&device.user.claims()]).expect("claims");
        let told =
            transaction.query_one("SELECT sync.pull($1)", &[&request]).map(|_| ()).map_err(|e| sync_tests::cluster::describe(&e));
        if told.is_ok() {
            let row = transaction
                .query_one("SELECT pg_current_xact_id_if_assigned()::text, current_user::text", &[])
                .expect("the state");
            assert_eq!((row.get::<_, Option<String>>(0), row.get::<_, String>(1)), (None, transport.clone()));
        }
        drop(transaction);
        assert_eq!(server_value(&mut web, "SELECT current_user"), transport);
        told
    };
    for (act, code) in [
        ("INSERT INTO public.trace VALUES (current_user)", "25006"),
        ("PERFORM set_config('transaction_read_only', 'off', true)", "25001"),
        ("RESET ROLE", "42501"),
        ("RAISE EXCEPTION 'no'", "P0001"),
        ("PERFORM 1 / 0", "22012"),
    ] {
        let told = tried(act);
        assert!(told.as_ref().is_err_and(|e| e.starts_with(code)), "{act}: {told:?}");
    }
    assert_eq!(tried(&format!("IF current_user <> '{role}' THEN RAISE EXCEPTION 'ran as %', current_user; END IF")), Ok(()));
}

#[test]
fn row_level_security_that_is_forced_on_owners_hides_no_rows_from_the_rules() {
    for (rls, count) in [("rules_decide", "30"), ("enforce", "20")] {
        let mut folders = Folders::new(rls);
        let owner = format!("{}_owner", folders.role);
        folders.db.run(&format!(
            "CREATE ROLE {owner} NOLOGIN; ALTER TABLE doc OWNER TO {owner}; ALTER TABLE doc FORCE ROW LEVEL SECURITY"
        ));
        let device = folders.device("ann");
        device.sync(&mut folders.server);
        assert_eq!(device.value("SELECT count(*) FROM doc"), count, "{rls}");
        folders.db.run("UPDATE doc SET body = 'changed' WHERE id = 3; SELECT * FROM sync.verify_table('doc')");
        device.sync(&mut folders.server);
        assert_eq!(device.value("SELECT body FROM doc WHERE id = 3"), "changed");
        assert_verified(&device);
    }
}

/// The common set-up of one role for the whole application. Enough rows that some are looked at while others are read.
#[test]
fn a_role_that_owns_its_tables_is_shown_what_forced_policies_show() {
    let mut folders = Folders::new("enforce");
    let role = folders.role.clone();
    folders.db.run(&format!(
        "INSERT INTO doc SELECT i, 1, 'hidden' FROM generate_series(1001, 4000) i;
         ALTER TABLE doc OWNER TO {role}; ALTER TABLE doc FORCE ROW LEVEL SECURITY"
    ));
    let device = folders.device("ann");
    device.sync(&mut folders.server);
    assert_eq!(device.value("SELECT count(*) FROM doc"), "20");
    folders.check(&device);
}

#[test]
fn a_standby_enforces_as_the_primary_does() {
    let primary: &'static Cluster = Box::leak(Box::new(Cluster::start("")));
    let mut folders = Folders::on(primary, "enforce");
    let standby = primary.standby("");
    let device = folders.device("ann");
    let replica = || standby.connect(folders.db.name(), "postgres");
    primary.wait_for(&standby);
    device.pull(&mut replica());
    assert_eq!(device.value("SELECT count(*) FROM doc"), "20");
    folders.db.run("DELETE FROM allowed WHERE doc < 11");
    primary.wait_for(&standby);
    device.pull(&mut replica());
    assert_eq!(device.value("SELECT count(*) FROM doc"), "10");
    folders.check(&device);
    drop(standby);
    primary.stop();
}

/// `ENFORCE_ROWS=100000 ./dev test what_an_enforced_pull_costs` prints what docs/access.md says.
#[test]
fn what_an_enforced_pull_costs() {
    let rows: u64 = std::env::var("ENFORCE_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(2_000);
    let mut folders = Folders::new("enforce");
    folders.db.run(&format!(
        "INSERT INTO doc SELECT i, 1, repeat(md5(i::text), 4) FROM generate_series(1001, 1000 + {rows}) i;
         INSERT INTO allowed SELECT i, 'ann' FROM generate_series(1001, 1000 + {rows}) i WHERE i % 10 > 0; ANALYZE doc; ANALYZE allowed"
    ));
    let device = folders.device("ann");
    device.sync(&mut folders.server);
    folders.check(&device);
    let pid = server_value(&mut folders.server, "SELECT pg_backend_pid()");
    // Clock ticks of the backend, of which there are 100 in a second.
    let spent = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the server's process");
        let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
        fields[11].parse::<u64>().expect("ticks") + fields[12].parse::<u64>().expect("ticks")
    };
    let request = device.pull_request();
    let select = "SELECT count(body) FROM (SELECT id, folder, body FROM doc WHERE folder BETWEEN 1 AND 3 OFFSET 0) d";
    let (mut pulls, mut selects, rounds) = (0, 0, 5);
    for _ in 0..rounds {
        let before = spent(&pid);
        let reply = server_pull(&mut folders.server, &device.user, &request).expect("an answer");
        let between = spent(&pid);
        assert!(reply.len() < 1_000 + rows as usize, "{}", reply.len());
        folders.shown(&device.user, select);
        (pulls, selects) = (pulls + between - before, selects + spent(&pid) - between);
    }
    let per_second = |ticks: u64| (rows * rounds * 100).checked_div(ticks).unwrap_or(0);
    eprintln!(
        "{rows} rows: an idle pull reads {} a second of the server's time, a SELECT as the user {}; the request has {} bytes",
        per_second(pulls),
        per_second(selects),
        request.len()
    );
}

#[test]
fn a_token_for_the_server_that_a_client_made_up_is_an_answer_or_an_error() {
    let mut folders = Folders::new("enforce");
    let device = folders.device("ann");
    device.sync(&mut folders.server);
    let mut random = fastrand::Rng::with_seed(7);
    let cursor = device
        .connection()
        .query_row("SELECT value FROM sync_meta WHERE name = 'cursor'", [], |r| r.get::<_, Vec<u8>>(0))
        .expect("a cursor");
    for _ in 0..300 {
        let mut forged = cursor.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..forged.len());
            forged[at] = random.u8(..);
        }
        device.connection().execute("UPDATE sync_meta SET value = ? WHERE name = 'cursor'", [&forged]).expect("changed");
        // Rows that the user may see are all that there is to get.
        if let Ok(reply) = server_pull(&mut folders.server, &device.user, &device.pull_request()) {
            assert!(!reply.windows(7).any(|bytes| bytes == b"body 25"));
        }
        assert!(!folders.server.is_closed());
    }
    device.connection().execute("UPDATE sync_meta SET value = ? WHERE name = 'cursor'", [&cursor]).expect("put back");
    device.sync(&mut folders.server);
    folders.check(&device);
    let empty = device.pull_request();
    assert!(server_push(&mut folders.server, &device.user, &empty).is_err(), "a pull request is no push");
}
