//! `rls => 'enforce'`: of what the rules hand out, devices hold what the policies show to their user, and nothing of the rest leaves the
//! server.

mod changes;
mod functions;

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
