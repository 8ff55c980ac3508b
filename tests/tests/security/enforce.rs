//! `rls => 'enforce'`: of what the rules hand out, devices hold what the policies show to their user, and nothing of the rest leaves the
//! server.

use postgres::Client;
use sync_shared::envelope;
use sync_shared::message::Delta;
use sync_tests::compare::{assert_verified, server_rows, server_value};
use sync_tests::device::{server_pull, server_push};
use sync_tests::{Cluster, Database, Device, User};

/// Documents in folders. Everybody may hold folders 1 to 3; a policy looks up who may see which document.
struct Folders {
    db: Database<'static>,
    server: Client,
    role: String,
}

impl Folders {
    fn new(rls: &str) -> Folders {
        Folders::on(Cluster::shared(), rls)
    }

    fn on(cluster: &'static Cluster, rls: &str) -> Folders {
        let db = cluster.database();
        let role = format!("app_{}_{}", db.name(), std::process::id());
        db.run(&format!(
            "CREATE ROLE {role} NOLOGIN;
             CREATE TABLE doc (id int PRIMARY KEY, folder int, body text); CREATE INDEX ON doc (folder, id);
             CREATE TABLE allowed (doc int, name text, PRIMARY KEY (doc, name));
             INSERT INTO doc SELECT i, 1 + i % 3, 'body ' || i FROM generate_series(1, 30) i;
             INSERT INTO allowed SELECT i, 'ann' FROM generate_series(1, 20) i;
             GRANT SELECT, INSERT, UPDATE, DELETE ON doc TO {role}; GRANT SELECT ON allowed TO {role};
             ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
             CREATE POLICY looked_up ON doc FOR SELECT USING (EXISTS (SELECT FROM allowed a WHERE a.doc = id AND a.name = sync.user_id()));
             CREATE POLICY write ON doc FOR INSERT WITH CHECK (true); CREATE POLICY change ON doc FOR UPDATE USING (true);
             CREATE POLICY remove ON doc FOR DELETE USING (true);
             SELECT sync.create_bucket('folder', members => 'SELECT generate_series(1, 3)')"
        ));
        db.run(&format!("SELECT sync.add_table('folder', 'doc', key => 'folder', rls => '{rls}')"));
        db.run("SELECT sync.maintain()");
        let server = db.connect();
        Folders { db, server, role }
    }

    fn device(&self, user: &str) -> Device {
        Device::for_user(User::with_role(user, &self.role))
    }

    /// What a SELECT as the device's user shows, as sorted rows.
    fn shown(&mut self, user: &User, sql: &str) -> Vec<Vec<String>> {
        self.server.batch_execute("BEGIN READ ONLY").expect("a transaction");
        self.server.execute("SELECT set_config('request.jwt.claims', $1, true)", &[&user.claims()]).expect("claims");
        self.server.batch_execute(&format!("SET LOCAL ROLE {}", self.role)).expect("a role");
        let mut rows = server_rows(&mut self.server, sql);
        self.server.batch_execute("ROLLBACK").expect("the end");
        rows.sort();
        rows
    }

    /// The device has exactly what a SELECT as its user shows, and the sums agree.
    #[track_caller]
    fn check(&mut self, device: &Device) {
        let sql = "SELECT id, folder, body FROM doc WHERE folder BETWEEN 1 AND 3";
        let mut have = device.rows("SELECT id, folder, body FROM doc");
        have.sort();
        assert_eq!(have, self.shown(&device.user, sql));
        assert_verified(device);
        assert_eq!(device.value("SELECT count(*) FROM sync_bucket WHERE misses > 0 OR refetch > 0"), "0", "sums differ");
        // Nothing more comes.
        let answers = device.pull(&mut self.server);
        assert_eq!(answers.iter().map(|a| a.rows()).sum::<u64>(), 0, "{answers:?}");
    }

    /// Runs statements, syncs, and checks.
    #[track_caller]
    fn after(&mut self, device: &Device, sql: &str) {
        self.db.run(sql);
        device.sync(&mut self.server);
        self.check(device);
    }
}

fn ids(device: &Device) -> String {
    device.value("SELECT coalesce(group_concat(id, ' '), '') FROM (SELECT id FROM doc ORDER BY id)")
}

#[test]
fn adding_a_table_with_row_level_security_demands_a_choice() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE doc (id int PRIMARY KEY); ALTER TABLE doc ENABLE ROW LEVEL SECURITY; SELECT sync.create_bucket('all')");
    let told = db.try_run("SELECT sync.add_table('all', 'doc')").expect_err("refused");
    assert!(told.starts_with("22023 rule \"all\", table public.doc: row level security is enabled on it"), "{told}");
    assert!(told.contains("rules_decide: the rule's members") && told.contains("enforce: of these rows only those"), "{told}");
    let told = db.try_run("SELECT sync.add_table('all', 'doc', rls => 'maybe')").expect_err("refused");
    assert!(told.contains("there is no rls \"maybe\"") && told.contains("One of rules_decide, enforce"), "{told}");
    db.run("SELECT sync.add_table('all', 'doc', rls => 'rules_decide')");
    let mut server = db.connect();
    assert_eq!(server_rows(&mut server, "SELECT rls FROM sync.rules"), [["rules_decide"]]);
    // Enabled later: the rules go on deciding, and that is said.
    db.run("CREATE TABLE late (id int PRIMARY KEY); SELECT sync.create_bucket('late')");
    db.run("SELECT sync.add_table('late', 'late')");
    let open = "SELECT value FROM sync.status WHERE what = 'row level security without a choice'";
    assert_eq!(server_value(&mut server, open), "0");
    db.run("ALTER TABLE late ENABLE ROW LEVEL SECURITY");
    assert_eq!(server_value(&mut server, open), "1");
    assert_eq!(server_rows(&mut server, "SELECT rls FROM sync.rules WHERE bucket = 'late'"), [["not chosen: rules_decide"]]);
    let before = server_value(&mut server, "SELECT max(entry_id) FROM sync.entry");
    db.run("SELECT sync.set_rls('late', 'late', 'rules_decide')");
    assert_eq!(server_value(&mut server, "SELECT max(entry_id) FROM sync.entry"), before, "nothing is fetched again");
    assert_eq!(server_value(&mut server, open), "0");
    for (call, code) in
        [("'late', 'late', NULL", "22023"), ("'late', 'late', 'x'", "22023"), ("'late', 'doc', 'enforce'", "42704")]
    {
        let told = db.try_run(&format!("SELECT sync.set_rls({call})")).expect_err("refused");
        assert!(told.starts_with(code), "{call}: {told}");
    }
}

#[test]
fn a_row_goes_when_the_policys_lookup_table_changes_and_comes_back() {
    let mut folders = Folders::new("enforce");
    let device = folders.device("ann");
    device.sync(&mut folders.server);
    folders.check(&device);
    assert_eq!(device.value("SELECT count(*) FROM doc"), "20");
    folders.after(&device, "DELETE FROM allowed WHERE doc = 7");
    assert!(!ids(&device).contains(" 7 "));
    // It changes while it is hidden.
    folders.after(&device, "UPDATE doc SET body = 'changed' WHERE id = 7");
    folders.after(&device, "INSERT INTO allowed VALUES (7, 'ann')");
    assert_eq!(device.value("SELECT body FROM doc WHERE id = 7"), "changed");
    folders.after(&device, "UPDATE doc SET body = 'again', folder = 2 WHERE id = 7; DELETE FROM doc WHERE id = 8");
    folders.after(&device, "INSERT INTO doc VALUES (40, 1, 'hidden'), (41, 1, 'new'); INSERT INTO allowed VALUES (41, 'ann')");
    folders.after(&device, "DELETE FROM allowed");
    assert_eq!(ids(&device), "");
    folders.after(&device, "INSERT INTO allowed SELECT id, 'ann' FROM doc");
    assert_eq!(device.value("SELECT count(*) FROM doc"), server_value(&mut folders.server, "SELECT count(*) FROM doc"));
    // The policies themselves change, and the role's rights.
    folders.after(&device, "CREATE POLICY few ON doc AS RESTRICTIVE FOR SELECT USING (id % 2 = 0)");
    let role = folders.role.clone();
    folders.db.run(&format!("REVOKE SELECT ON doc FROM {role}; GRANT SELECT (id, folder) ON doc TO {role}"));
    device.sync(&mut folders.server);
    assert_eq!(ids(&device), "", "who may not read a column that is sent gets no row");
    folders.after(&device, &format!("GRANT SELECT ON doc TO {role}; DROP POLICY few ON doc"));
    folders.after(&device, "ALTER TABLE doc DISABLE ROW LEVEL SECURITY");
    folders.after(&device, "ALTER TABLE doc ENABLE ROW LEVEL SECURITY; DELETE FROM allowed WHERE doc % 5 = 0");
}

#[test]
fn users_of_one_bucket_hold_each_what_is_theirs() {
    let mut folders = Folders::new("enforce");
    folders.db.run("INSERT INTO allowed SELECT i, 'bob' FROM generate_series(15, 25) i");
    let devices = ["ann", "bob", "eve"].map(|user| folders.device(user));
    for round in 0..3 {
        for device in &devices {
            device.sync(&mut folders.server);
            folders.check(device);
        }
        folders.db.run(&format!(
            "UPDATE allowed SET name = CASE name WHEN 'ann' THEN 'bob' ELSE 'ann' END WHERE doc % 3 = {round} AND doc < 15"
        ));
    }
    assert_eq!(ids(&devices[2]), "");
}

/// Pulls message by message, and fails if one contains any of the given bytes.
#[track_caller]
fn pull_without(server: &mut Client, device: &Device, never: &[&[u8]]) {
    for _ in 0..1_000 {
        let request = device.pull_request();
        let reply = server_pull(server, &device.user, &request).expect("an answer");
        if envelope::kind(&reply).is_ok_and(|kind| kind == envelope::Kind::Delta) {
            let delta: Delta = envelope::decode(&reply).expect("a delta");
            let plain = rmp_serde::to_vec(&delta).expect("its bytes");
            for never in never {
                assert!(!plain.windows(never.len()).any(|bytes| bytes == *never), "{:?} travels", String::from_utf8_lossy(never));
            }
            assert_eq!(delta.expected_rows.unwrap_or(0), 0, "how many rows there are is not told");
        }
        if !device.apply(&reply).expect("applied").more() {
            return;
        }
    }
    panic!("the pull does not end");
}

#[test]
fn nothing_of_a_hidden_row_travels() {
    let mut folders = Folders::new("rules_decide");
    folders.db.run(
        "CREATE TABLE note (key text PRIMARY KEY, folder int, body text, shown boolean NOT NULL DEFAULT false); CREATE INDEX ON note (folder, key);
         ALTER TABLE note ENABLE ROW LEVEL SECURITY; CREATE POLICY shown ON note USING (shown);
         INSERT INTO note SELECT 'HIDDENKEY' || i, i % 3 + 1, 'HIDDENBODY' FROM generate_series(1, 400) i;
         INSERT INTO note SELECT 'key' || i, i % 3 + 1, repeat(md5(i::text), 20), true FROM generate_series(1, 400) i",
    );
    folders.db.run(&format!("GRANT SELECT ON note TO {}", folders.role));
    folders.db.run(
        "SELECT sync.add_table('folder', 'note', key => 'folder', rls => 'enforce'); SELECT sync.drop_table('folder', 'doc')",
    );
    let never: [&[u8]; 2] = [b"HIDDENKEY", b"HIDDENBODY"];
    let device = folders.device("ann");
    device.pull_request();
    device.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
    let pages = |folders: &mut Folders| pull_without(&mut folders.server, &device, &never);
    let shown = |folders: &mut Folders| {
        assert_eq!(
            device.value("SELECT count(*) FROM note"),
            server_value(&mut folders.server, "SELECT count(*) FROM note WHERE shown")
        );
        assert_verified(&device);
    };
    pages(&mut folders);
    shown(&mut folders);
    for change in [
        "UPDATE note SET body = body || 'HIDDENBODY' WHERE NOT shown AND key LIKE '%7'",
        "DELETE FROM note WHERE key LIKE 'HIDDENKEY1%'",
        "INSERT INTO note SELECT 'HIDDENKEY-' || i, 1, 'HIDDENBODY' FROM generate_series(1, 300) i",
        "UPDATE note SET key = 'HIDDENKEY+' || key, shown = false, body = 'HIDDENBODY' WHERE key LIKE 'key1%'",
        "UPDATE note SET body = 'HIDDENBODY', shown = false WHERE key LIKE 'key2%'",
        "UPDATE note SET folder = folder % 3 + 1 WHERE NOT shown",
        "DELETE FROM note WHERE NOT shown AND key LIKE '%5'",
        "SELECT sync.maintain()",
    ] {
        folders.db.run(change);
        pages(&mut folders);
        shown(&mut folders);
    }
    // Compared by sums of everything, and from nothing.
    device.run("UPDATE sync_meta SET value = value - 86400000000 WHERE name = 'verified_at'");
    device.pull(&mut folders.server);
    pages(&mut folders);
    device.run("UPDATE sync_meta SET value = x'' WHERE name = 'cursor'; INSERT INTO sync_meta (name, value) VALUES ('resync', 1) ON CONFLICT DO UPDATE SET value = 1");
    pages(&mut folders);
    shown(&mut folders);
    assert_eq!(device.value("SELECT count(*) FROM note WHERE key LIKE 'HIDDEN%'"), "0");
}

#[test]
fn writes_of_devices_go_on_working() {
    let mut folders = Folders::new("enforce");
    let device = folders.device("ann");
    device.sync(&mut folders.server);
    device.run(
        "UPDATE doc SET body = 'mine' WHERE id = 3; DELETE FROM doc WHERE id = 4; INSERT INTO doc VALUES (100, 1, 'unseen')",
    );
    device.run("UPDATE doc SET folder = 3 WHERE id = 6");
    device.sync(&mut folders.server);
    assert_eq!(device.value("SELECT count(*) FROM sync_rejected"), "0");
    // What its writer may not see is accepted, and gone from the device.
    assert_eq!(server_value(&mut folders.server, "SELECT body FROM doc WHERE id = 100"), "unseen");
    folders.check(&device);
    folders.after(&device, "INSERT INTO allowed VALUES (100, 'ann')");
    assert_eq!(device.value("SELECT body FROM doc WHERE id = 100"), "unseen");
    // A row is hidden while a write of it waits.
    device.run("UPDATE doc SET body = 'too late' WHERE id = 5");
    folders.db.run("DELETE FROM allowed WHERE doc = 5");
    device.pull(&mut folders.server);
    device.sync(&mut folders.server);
    folders.check(&device);
    assert_eq!(device.value("SELECT count(*) FROM doc WHERE id = 5"), "0");
}

#[test]
fn what_changes_between_pages_is_what_a_device_has_in_the_end() {
    for before in 0..6 {
        let mut folders = Folders::new("enforce");
        folders.db.run(
            "INSERT INTO doc SELECT i, 1 + i % 4, repeat(md5(i::text), 10) FROM generate_series(1001, 1800) i;
             INSERT INTO allowed SELECT i, 'ann' FROM generate_series(1001, 1800) i WHERE i % 4 > 0",
        );
        let (known, fresh) = (folders.device("ann"), folders.device("ann"));
        known.sync(&mut folders.server);
        for device in [&known, &fresh] {
            device.pull_request();
            device.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
        }
        folders.db.run("UPDATE doc SET body = body || 'x'; INSERT INTO allowed SELECT id, 'ann' FROM doc WHERE id % 16 = 0 ON CONFLICT DO NOTHING");
        let pages = |folders: &mut Folders, device: &Device, count: usize| {
            for _ in 0..count {
                let reply = server_pull(&mut folders.server, &device.user, &device.pull_request()).expect("a page");
                device.apply(&reply).expect("a page is applied");
            }
        };
        for device in [&known, &fresh] {
            pages(&mut folders, device, before);
        }
        folders.db.run("DELETE FROM allowed WHERE doc % 7 = 0; UPDATE doc SET folder = folder % 4 + 1 WHERE id % 11 = 0; DELETE FROM doc WHERE id % 13 = 0");
        for device in [&known, &fresh] {
            pages(&mut folders, device, 1);
        }
        folders.db.run("INSERT INTO allowed SELECT id, 'ann' FROM doc WHERE id % 14 = 0 ON CONFLICT DO NOTHING; UPDATE doc SET body = 'y' WHERE id % 17 = 0");
        for device in [&known, &fresh] {
            device.sync(&mut folders.server);
            folders.check(device);
        }
    }
}

#[test]
fn a_bucket_that_is_lost_and_comes_back_between_pages_is_whole() {
    for before in 1..5 {
        let mut folders = Folders::new("enforce");
        folders.db.run(
            "CREATE TABLE member (k int PRIMARY KEY); INSERT INTO member VALUES (1), (2), (3);
             INSERT INTO doc SELECT i, 1 + i % 3, repeat(md5(i::text), 10) FROM generate_series(1001, 1600) i;
             INSERT INTO allowed SELECT i, 'ann' FROM generate_series(1001, 1600) i WHERE i % 4 > 0;
             SELECT sync.drop_bucket('folder'); SELECT sync.create_bucket('folder', members => 'SELECT k FROM member')",
        );
        folders.db.run("SELECT sync.add_table('folder', 'doc', key => 'folder', rls => 'enforce')");
        let device = folders.device("ann");
        device.sync(&mut folders.server);
        device.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
        folders.db.run("UPDATE doc SET body = body || 'x'");
        for (change, count) in [
            ("SELECT 1", before),
            ("DELETE FROM member", 1),
            ("INSERT INTO member VALUES (1), (2), (3)", 1),
            ("DELETE FROM member WHERE k = 2", 1),
        ] {
            folders.db.run(change);
            for _ in 0..count {
                let reply = server_pull(&mut folders.server, &device.user, &device.pull_request()).expect("a page");
                device.apply(&reply).expect("a page is applied");
            }
        }
        folders.db.run("INSERT INTO member VALUES (2); UPDATE doc SET body = body || 'y' WHERE id % 5 = 0; DELETE FROM allowed WHERE doc % 3 = 0");
        device.sync(&mut folders.server);
        folders.check(&device);
    }
}

#[test]
fn random_changes_of_rows_and_of_what_is_seen() {
    let mut folders = Folders::new("enforce");
    folders.db.run("SELECT sync.create_bucket('some', priority => 3)");
    folders.db.run("SELECT sync.add_table('some', 'doc', filter => 'folder = 1', rls => 'enforce')");
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_130);
    let mut random = fastrand::Rng::with_seed(seed);
    let devices = ["ann", "ann", "bob"].map(|user| folders.device(user));
    for device in &devices {
        device.pull_request();
        device.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
    }
    for round in 0..60 {
        let (one, other) = (random.u32(1..40), random.u32(40..400));
        let sql = match random.u32(0..9) {
            0 => format!("INSERT INTO doc SELECT i, 1 + i % 4, repeat(md5(i::text), {}) FROM generate_series({one}, {other}) i ON CONFLICT DO NOTHING", random.u32(1..8)),
            1 => format!("DELETE FROM doc WHERE id % {one} = 0"),
            2 => format!("UPDATE doc SET body = 'b{round}' WHERE id % {one} = 0"),
            3 => format!("UPDATE doc SET folder = (folder + {one}) % 4 + 1 WHERE id < {other}"),
            4 => format!("DELETE FROM allowed WHERE doc % {one} = 0"),
            5 => format!("INSERT INTO allowed SELECT i, 'ann' FROM generate_series({one}, {other}) i ON CONFLICT DO NOTHING"),
            6 => format!("INSERT INTO allowed SELECT i, 'bob' FROM generate_series(1, {other}) i WHERE i % 3 = 0 ON CONFLICT DO NOTHING"),
            7 => "SELECT sync.maintain()".to_owned(),
            _ => format!("UPDATE doc SET id = id + 1000 WHERE id % {one} = 1 AND id < 400 AND NOT EXISTS (SELECT FROM doc d WHERE d.id = doc.id + 1000)"),
        };
        folders.db.run(&sql);
        let device = &devices[random.usize(0..3)];
        match random.u32(0..4) {
            0 => {
                let reply = server_pull(&mut folders.server, &device.user, &device.pull_request()).expect("a page");
                device.apply(&reply).unwrap_or_else(|e| panic!("SEED={seed} round {round}: {e}"));
            }
            1 => {
                let _ = device.try_run(&format!("UPDATE doc SET body = 'd{round}' WHERE id % {one} = 0"));
                device.sync(&mut folders.server);
            }
            2 => device.run("UPDATE sync_meta SET value = value - 86400000000 WHERE name = 'verified_at'"),
            _ => {
                device.sync(&mut folders.server);
                eprintln!("SEED={seed} round {round}");
                folders.check(device);
            }
        }
    }
    for device in &devices {
        device.sync(&mut folders.server);
        device.sync(&mut folders.server);
        folders.check(device);
    }
}

#[test]
fn after_the_lease_only_what_differs_comes() {
    let mut folders = Folders::new("enforce");
    folders.db.run("INSERT INTO doc SELECT i, 1, 'body' FROM generate_series(1001, 3000) i; INSERT INTO allowed SELECT i, 'ann' FROM generate_series(1001, 3000) i");
    let device = folders.device("ann");
    device.sync(&mut folders.server);
    folders.db.run("UPDATE doc SET body = 'changed' WHERE id = 1500; DELETE FROM allowed WHERE doc = 1600");
    device.run("UPDATE sync_meta SET value = x'' WHERE name = 'cursor'; INSERT INTO sync_meta (name, value) VALUES ('resync', 1) ON CONFLICT DO UPDATE SET value = 1");
    let rows: u64 = device.pull(&mut folders.server).iter().map(|a| a.rows()).sum();
    assert!(rows > 0 && rows < 500, "{rows}");
    folders.check(&device);
}

#[test]
fn a_choice_that_changes_changes_what_devices_hold() {
    let mut folders = Folders::new("rules_decide");
    let device = folders.device("ann");
    device.sync(&mut folders.server);
    assert_eq!(device.value("SELECT count(*) FROM doc"), "30");
    folders.after(&device, "SELECT sync.set_rls('folder', 'doc', 'enforce')");
    assert_eq!(device.value("SELECT count(*) FROM doc"), "20");
    // It outlives what gives the entry another number.
    folders.db.run("ALTER TABLE doc ALTER body TYPE varchar(100)");
    assert_eq!(server_rows(&mut folders.server, "SELECT rls FROM sync.rules"), [["enforce"]]);
    folders.after(&device, "SELECT sync.maintain()");
    folders.db.run("SELECT sync.set_rls('folder', 'doc', 'rules_decide'); SELECT sync.maintain()");
    device.sync(&mut folders.server);
    assert_eq!(device.value("SELECT count(*) FROM doc"), "30");
    assert_verified(&device);
}

#[test]
fn what_another_rule_hands_out_is_not_hidden_and_explain_says_so() {
    let mut folders = Folders::new("enforce");
    folders.db.run(
        "SELECT sync.create_bucket('news'); SELECT sync.add_table('news', 'doc', filter => 'id = 25', rls => 'rules_decide')",
    );
    let device = folders.device("ann");
    device.sync(&mut folders.server);
    assert_eq!(device.value("SELECT count(*) FROM doc"), "21");
    let role = folders.role.clone();
    let mut said = |id: u32, claims: &str| {
        let sql = format!("SELECT bucket, verdict, reason FROM sync.explain('doc', '{id}', '{claims}') ORDER BY bucket");
        server_rows(&mut folders.server, &sql)
    };
    let ann = format!(r#"{{"sub": "ann", "role": "{role}"}}"#);
    let hidden = format!("row level security hides it from role \"{role}\" with these claims (rls => 'enforce')");
    assert_eq!(said(25, &ann)[0], ["folder", "not held", hidden.as_str()]);
    assert_eq!(said(25, &ann)[1][..2], ["news", "held"]);
    let shown = format!("the user is a member of this bucket, and the policies show the row to role \"{role}\"");
    assert_eq!(said(1, &ann)[0], ["folder", "held", shown.as_str()]);
    assert_eq!(said(1, r#"{"sub": "ann"}"#)[0][1], "depends");
    // The audit lists what is handed out against the policies, and nothing that is held back.
    let audit = format!("SELECT bucket, key, kind FROM sync.audit('{ann}')");
    assert_eq!(server_rows(&mut folders.server, &audit), [["news", "{\"id\": 25}", "only by rules"]]);
}

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
