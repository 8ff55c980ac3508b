//! A changed row comes without its large values that have not changed, where the device is known to have them.

use postgres::Client;
use sync_shared::envelope;
use sync_shared::message::{Delta, PullRequest};
use sync_tests::compare::{assert_alike, assert_same, assert_verified};
use sync_tests::device::server_pull;
use sync_tests::{Cluster, Database, Device};

const ALL: &str = "SELECT id, folder, title, n, length(body), substr(body, 1, 40) FROM doc";
/// A text that does not compress, of about 20 KB.
const BODY: &str = "(SELECT string_agg(md5(i::text || clock_timestamp()), '') FROM generate_series(1, 640) i)";

struct World {
    db: Database<'static>,
    server: Client,
    device: Device,
}

/// What a pull brought.
#[derive(Debug, Default, PartialEq)]
struct Came {
    short: u32,
    whole: u32,
    gone: u32,
    bytes: usize,
}

impl Came {
    fn rows(&self) -> (u32, u32) {
        (self.short, self.whole)
    }
}

/// One page as `request` asks for it.
fn page(server: &mut Client, device: &Device, request: &[u8], came: &mut Came) -> bool {
    let reply = server_pull(server, &device.user, request).expect("sync.pull answers");
    came.bytes += reply.len();
    for changes in envelope::decode::<Delta>(&reply).iter().flat_map(|delta| &delta.changes) {
        *if changes.columns.is_some() { &mut came.short } else { &mut came.whole } += changes.row_count;
        came.gone += changes.gone_count;
    }
    device.apply(&reply).expect("a delta is applied").more()
}

/// Pulls to the end; what the device has must add up at once, without anything being fetched again.
#[track_caller]
fn pull(server: &mut Client, device: &Device) -> Came {
    let mut came = Came::default();
    while page(server, device, &device.pull_request(), &mut came) {
        assert_eq!(device.value("SELECT count(*) FROM sync_bucket WHERE misses > 0 OR refetch > 0"), "0");
    }
    assert_verified(device);
    came
}

impl World {
    /// Documents in folders, and a device that holds all of them.
    fn new() -> World {
        World::with(
            "SELECT sync.create_bucket('folder', members => 'SELECT n FROM generate_series(1, 9) n');
             SELECT sync.add_table('folder', 'doc', key => 'folder')",
        )
    }

    fn with(rules: &str) -> World {
        let db = Cluster::shared().database();
        db.run("CREATE TABLE doc (id int PRIMARY KEY, folder int NOT NULL, title text, n int NOT NULL DEFAULT 0, body text)");
        db.run(&format!("INSERT INTO doc SELECT d, 1 + d % 3, 'doc ' || d, 0, {BODY} FROM generate_series(1, 12) d"));
        db.run(rules);
        db.run("SELECT sync.maintain()");
        let (mut server, device) = (db.connect(), Device::new("ann"));
        pull(&mut server, &device);
        World { db, server, device }
    }

    /// What a change on the server brings; afterwards the device has the same as the server.
    #[track_caller]
    fn after(&mut self, change: &str) -> Came {
        self.db.run(change);
        let came = pull(&mut self.server, &self.device);
        assert_alike(&self.device, ALL, &mut self.server, &format!("{ALL} WHERE folder < 10"));
        came
    }
}

#[test]
fn a_small_column_of_a_large_row_travels_without_the_large_one() {
    let mut w = World::new();
    for change in ["title = 'new'", "n = n + 1", "title = NULL", "title = 'a', n = 7"] {
        let came = w.after(&format!("UPDATE doc SET {change} WHERE id = 5"));
        assert_eq!(came.rows(), (1, 0));
        assert!(came.bytes < 600, "{came:?}");
    }
    // Several changes of one row, in one transaction and in several.
    let came = w.after("UPDATE doc SET title = 'b' WHERE id < 4; UPDATE doc SET n = 9 WHERE id < 7");
    assert_eq!(came.rows(), (6, 0));
    assert!(came.bytes < 1_000, "{came:?}");
    // The large one itself.
    let came = w.after("UPDATE doc SET body = reverse(body) WHERE id = 5");
    assert!(came.rows() == (0, 1) && came.bytes > 9_000, "{came:?}");
    let came = w.after("UPDATE doc SET body = body || 'x' WHERE id = 5; UPDATE doc SET title = 'c' WHERE id IN (5, 6)");
    assert_eq!(came.rows(), (1, 1));
    let came = w.after("UPDATE doc SET body = left(body, 400) WHERE id < 3");
    assert_eq!(came.rows(), (0, 2));
    assert_eq!(w.after("UPDATE doc SET n = 11 WHERE id < 3").rows(), (0, 2), "what would be left out is small");
}

#[test]
fn what_is_left_out_is_not_fetched_from_beside_its_row() {
    let mut w = World::new();
    // How many blocks of the table beside the table a pull reads.
    let mut fetched = |change: &str| -> i64 {
        w.db.run(change);
        let mut pull = w.server.transaction().expect("a transaction");
        let (claims, request) = (w.device.user.claims(), w.device.pull_request());
        pull.execute("SELECT set_config('request.jwt.claims', $1, true)", &[&claims]).expect("claims");
        let sql = "SELECT pg_stat_get_xact_blocks_fetched(reltoastrelid) FROM pg_class WHERE oid = 'doc'::regclass";
        let before: i64 = pull.query_one(sql, &[]).expect("a number").get(0);
        pull.query_one("SELECT sync.pull($1)", &[&request]).expect("sync.pull answers");
        pull.query_one(sql, &[]).expect("a number").get::<_, i64>(0) - before
    };
    assert_eq!(fetched("UPDATE doc SET n = n + 1"), 0);
    assert!(fetched("UPDATE doc SET body = body || 'x'") > 12);
}

#[test]
fn rows_that_enter_leave_or_move_come_whole() {
    let mut w = World::new();
    assert_eq!(w.after("UPDATE doc SET folder = 2 WHERE id = 3").rows(), (0, 1));
    assert_eq!(w.after("UPDATE doc SET folder = 1 WHERE id = 3; UPDATE doc SET folder = 2, n = 1 WHERE id = 3").rows(), (0, 1));
    let again = "UPDATE doc SET title = 'x' WHERE id = 3; CREATE TEMP TABLE kept AS SELECT * FROM doc WHERE id = 3;
                 DELETE FROM doc WHERE id = 3; INSERT INTO doc SELECT * FROM kept; UPDATE doc SET n = 40 WHERE id = 3";
    assert_eq!(w.after(again).rows(), (0, 1));
    assert_eq!(w.after("UPDATE doc SET id = 100 WHERE id = 3; UPDATE doc SET n = 41 WHERE id = 100").rows(), (0, 1));
    let came = w.after("UPDATE doc SET n = 42 WHERE id = 100; DELETE FROM doc WHERE id = 100");
    assert_eq!((came.rows(), came.gone), ((0, 0), 1));
    assert_eq!(w.after("UPDATE doc SET folder = 20, n = 1 WHERE id = 4; UPDATE doc SET n = 2 WHERE id = 4").gone, 1);
    assert_eq!(w.after("UPDATE doc SET folder = 1 WHERE id = 4").rows(), (0, 1));
}

#[test]
fn a_row_that_its_trigger_changes_again_is_right() {
    let mut w = World::new();
    w.after(
        "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN UPDATE doc SET title = title || '!' WHERE id = NEW.id; RETURN NULL; END $$;
         CREATE TRIGGER again AFTER UPDATE OF n ON doc FOR EACH ROW EXECUTE FUNCTION again()",
    );
    assert_eq!(w.after("UPDATE doc SET n = n + 1").rows(), (12, 0));
    assert_eq!(w.device.value("SELECT title FROM doc WHERE id = 7"), "doc 7!");
}

#[test]
fn a_transaction_that_began_first_and_commits_last_is_whole() {
    let mut w = World::new();
    let (mut early, mut late) = (w.db.connect(), w.db.connect());
    early.batch_execute("BEGIN; UPDATE doc SET n = 1 WHERE id = 1").expect("an update");
    late.batch_execute("INSERT INTO doc SELECT 50, 2, 'late', 0, body FROM doc WHERE id = 2").expect("an insert");
    early.batch_execute("UPDATE doc SET title = 'early' WHERE id = 50").expect("an update");
    assert_eq!(w.after("UPDATE doc SET n = 2 WHERE id = 5").rows(), (1, 1));
    early.batch_execute("COMMIT").expect("a commit");
    assert_eq!(w.after("SELECT 1").rows(), (2, 0));
    assert_eq!(w.device.value("SELECT title FROM doc WHERE id = 50"), "early");
}

#[test]
fn a_device_of_an_older_version_gets_whole_rows() {
    let mut w = World::new();
    w.db.run("UPDATE doc SET n = n + 1 WHERE id = 5");
    let request = w.device.pull_request();
    let asked: PullRequest = envelope::decode(&request).expect("a request");
    assert!(asked.completes);
    // As a library wrote it that did not know the field, which is the last: an array of one less.
    let plain = envelope::encode(&PullRequest { completes: false, ..asked }).expect("a request");
    let body = 13;
    assert_eq!((plain[4], plain[body], plain.last()), (0, 0x9c, Some(&0xc2)));
    let mut older = plain[..plain.len() - 1].to_vec();
    older[body] = 0x9b;
    let length = (older.len() - body) as u32;
    older[5..9].copy_from_slice(&length.to_be_bytes());
    envelope::seal(&mut older);
    let mut came = Came::default();
    page(&mut w.server, &w.device, &older, &mut came);
    assert!(came.rows() == (0, 1) && came.bytes > 9_000, "{came:?}");
    assert_same(&w.device, &mut w.server, ALL);
}

#[test]
fn pages_between_which_rows_change_again() {
    let mut w = World::new();
    w.db.run("UPDATE doc SET folder = 1");
    w.db.run(&format!("INSERT INTO doc SELECT d, 1 + d % 3, 'doc ' || d, 0, {BODY} FROM generate_series(101, 900) d"));
    pull(&mut w.server, &w.device);
    w.device.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
    w.db.run("UPDATE doc SET title = repeat('t', 100) || id");
    let mut came = Came::default();
    let changes = [
        "UPDATE doc SET n = n + 1 WHERE id % 2 = 0",
        "UPDATE doc SET body = body || 'x' WHERE id % 100 = 5",
        "DELETE FROM doc WHERE id % 50 = 3",
        "UPDATE doc SET folder = 1 + id % 2 WHERE id % 30 = 7",
        "UPDATE doc SET n = n + 1, title = 'last'",
    ];
    for change in changes {
        assert!(page(&mut w.server, &w.device, &w.device.pull_request(), &mut came), "there are more pages");
        w.db.run(change);
        assert_eq!(w.device.value("SELECT count(*) FROM doc WHERE n > 0 OR title = 'last'"), "0", "nothing is visible yet");
    }
    let rest = pull(&mut w.server, &w.device);
    assert!(came.short > 100 && rest.short > 500, "{came:?} {rest:?}");
    assert_same(&w.device, &mut w.server, ALL);
}

#[test]
fn rows_that_change_while_a_first_download_is_under_way() {
    let mut w = World::new();
    let fresh = Device::new("ann");
    fresh.pull_request();
    fresh.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
    let mut came = Came::default();
    for n in 1..=8 {
        assert!(page(&mut w.server, &fresh, &fresh.pull_request(), &mut came), "it goes on");
        w.db.run(&format!("UPDATE doc SET n = {n}, title = 'later' || id WHERE id % 2 = {}", n % 2));
    }
    assert_eq!(came.short, 0, "what is new comes whole");
    let rest = pull(&mut w.server, &fresh);
    assert!(rest.short >= 12, "{rest:?}");
    assert_same(&fresh, &mut w.server, ALL);
}

#[test]
fn a_row_in_several_rules_is_short_only_in_those_of_the_last_priority() {
    let mut w = World::with(
        "SELECT sync.create_bucket('folder', priority => 1, members => 'SELECT n FROM generate_series(1, 9) n');
         SELECT sync.add_table('folder', 'doc', key => 'folder');
         SELECT sync.create_bucket('all', priority => 2); SELECT sync.add_table('all', 'doc')",
    );
    assert_eq!(w.after("UPDATE doc SET n = 5 WHERE id = 5").rows(), (1, 1));
    w.db.run("SELECT sync.create_bucket('same', priority => 2); SELECT sync.add_table('same', 'doc', filter => 'id < 9')");
    w.after("SELECT sync.maintain()");
    assert_eq!(w.after("UPDATE doc SET n = 6 WHERE id = 5").rows(), (2, 1));
    // One that moves in one rule is logged as new in all.
    let came = w.after("UPDATE doc SET n = 7, folder = 2 WHERE id = 5");
    assert_eq!((came.short, came.gone), (0, 1));
    assert_eq!(w.after("UPDATE doc SET n = 8 WHERE id = 5").rows(), (2, 1));
}

#[test]
fn an_enforced_table_sends_whole_rows() {
    let mut w = World::with(
        "SELECT sync.create_bucket('folder', members => 'SELECT n FROM generate_series(1, 9) n');
         SELECT sync.add_table('folder', 'doc', key => 'folder', rls => 'enforce')",
    );
    let came = w.after("UPDATE doc SET n = 5 WHERE id IN (5, 7)");
    assert!(came.short == 0 && came.whole > 0, "{came:?}");
}

#[test]
fn rows_that_were_written_on_the_device_are_completed_from_the_servers() {
    let mut w = World::new();
    let other = Device::new("bob");
    pull(&mut w.server, &other);
    w.device.run(
        "UPDATE doc SET body = 'mine' WHERE id = 5; UPDATE doc SET title = 'my title' WHERE id = 6; DELETE FROM doc WHERE id = 7",
    );
    w.db.run("UPDATE doc SET n = 5 WHERE id IN (5, 6, 7); UPDATE doc SET body = 'theirs' WHERE id = 6");
    // Before its writes are sent.
    assert_eq!(pull(&mut w.server, &w.device).rows(), (2, 1));
    assert_eq!(w.device.value("SELECT title || n || body FROM doc WHERE id = 5"), "doc 55mine");
    assert_eq!(w.device.value("SELECT title || n || body FROM doc WHERE id = 6"), "my title5theirs");
    for device in [&w.device, &other, &w.device] {
        device.push(&mut w.server);
        pull(&mut w.server, device);
    }
    for device in [&w.device, &other] {
        assert_same(device, &mut w.server, ALL);
        assert_eq!(device.value("SELECT count(*) FROM sync_shadow"), "0");
    }
    // A change of another device's is as short.
    other.run("UPDATE doc SET title = 'theirs' WHERE id = 8");
    other.push(&mut w.server);
    assert_eq!(w.after("SELECT 1").rows(), (1, 0));
}

#[test]
fn values_that_devices_encrypt_are_left_out_as_ciphertext() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE note (id int PRIMARY KEY, n int, body bytea); SELECT sync.create_bucket('all');
            SELECT sync.add_table('all', 'note'); SELECT sync.set_encrypted('note', 'body')",
    );
    let mut server = db.connect();
    let (writer, reader, blind) = (Device::new("ann"), Device::new("ann"), Device::new("ann"));
    for device in [&writer, &reader] {
        device.rows(&format!("SELECT sync_set_key('{}')", "11".repeat(32)));
    }
    for device in [&writer, &reader, &blind] {
        pull(&mut server, device);
    }
    writer.run("INSERT INTO note VALUES (1, 1, hex(randomblob(4000))), (2, 1, 'small'), (3, 1, NULL)");
    writer.push(&mut server);
    for device in [&writer, &reader, &blind] {
        pull(&mut server, device);
    }
    for n in 2..4 {
        db.run(&format!("UPDATE note SET n = {n}"));
        for device in [&writer, &reader, &blind] {
            assert_eq!(pull(&mut server, device).rows(), (1, 2));
            assert_eq!(device.value(&format!("SELECT count(*) FROM note WHERE n = {n}")), "3");
        }
    }
    assert_eq!(writer.rows("SELECT * FROM note"), reader.rows("SELECT * FROM note"));
    blind.rows(&format!("SELECT sync_set_key('{}')", "11".repeat(32)));
    assert_eq!(writer.rows("SELECT * FROM note"), blind.rows("SELECT * FROM note"));
}

#[test]
fn columns_that_come_and_go_between_two_pulls() {
    let mut w = World::new();
    w.db.run("UPDATE doc SET n = 1; ALTER TABLE doc ADD COLUMN extra text; UPDATE doc SET extra = 'e' WHERE id < 4");
    let came = pull(&mut w.server, &w.device);
    assert_eq!(came.short, 0, "the device has just been told of the column");
    assert_same(&w.device, &mut w.server, "SELECT id, n, extra, body FROM doc");
    w.db.run("UPDATE doc SET extra = 'f' WHERE id < 3");
    assert_eq!(pull(&mut w.server, &w.device).rows(), (2, 0));
    w.db.run("ALTER TABLE doc RENAME COLUMN body TO content; UPDATE doc SET n = 2");
    pull(&mut w.server, &w.device);
    w.db.run("ALTER TABLE doc DROP COLUMN title; UPDATE doc SET n = 3 WHERE id = 1");
    pull(&mut w.server, &w.device);
    w.db.run("UPDATE doc SET n = 4 WHERE id = 1");
    assert_eq!(pull(&mut w.server, &w.device).rows(), (1, 0));
    assert_same(&w.device, &mut w.server, "SELECT id, n, extra, content FROM doc");
}

#[test]
fn what_changed_past_the_triggers_on_the_server_is_found_all_the_same() {
    let mut w = World::new();
    w.db.run(
        "BEGIN; ALTER EVENT TRIGGER sync_on_ddl DISABLE; ALTER TABLE doc DISABLE TRIGGER ALL;
         UPDATE doc SET body = 'behind' WHERE id = 5;
         ALTER TABLE doc ENABLE TRIGGER ALL; ALTER EVENT TRIGGER sync_on_ddl ENABLE ALWAYS; COMMIT",
    );
    w.db.run("UPDATE doc SET n = 1 WHERE id = 5");
    let mut came = Came::default();
    while page(&mut w.server, &w.device, &w.device.pull_request(), &mut came) {}
    w.db.run("SELECT sync.verify_table('doc')");
    while page(&mut w.server, &w.device, &w.device.pull_request(), &mut came) {}
    assert_same(&w.device, &mut w.server, ALL);
    assert_verified(&w.device);
    assert_eq!(w.device.value("SELECT count(*) FROM sync_bucket WHERE misses > 0 OR refetch > 0"), "0");
}
