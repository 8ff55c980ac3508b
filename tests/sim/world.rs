//! The tables, the rules, and what each device must hold at the end.

use fastrand::Rng;
use postgres::Client;
use sync_tests::compare::{assert_alike, assert_verified};
use sync_tests::{Database, Device};

/// Users' names: a device each, sometimes two devices for one user.
pub const USERS: [&str; 4] = ["ann", "bob", "cid", "dot"];
/// Lists that rows may be in.
pub const LISTS: i64 = 5;
/// Rows of `ledger`, whose amounts add up to zero after each transaction of the server.
pub const LEDGER: i64 = 6;

const TABLES: &str = "
    CREATE TABLE reader (name text, list int, PRIMARY KEY (name, list));
    CREATE TABLE task (id int PRIMARY KEY, list int, owner text, body text, n int CHECK (n >= 0), hidden boolean NOT NULL DEFAULT false);
    CREATE INDEX ON task (list, id);
    CREATE INDEX ON task (owner, id);
    CREATE TABLE label (list int NOT NULL, name text NOT NULL, color text, PRIMARY KEY (list, name));
    CREATE TABLE news (id int PRIMARY KEY, body text);
    CREATE TABLE ledger (id int PRIMARY KEY, amount int NOT NULL);
";

/// Creates tables, some rows, and rules; which of them exist and with which priority depends on the seed.
pub fn install(db: &Database<'_>, rng: &mut Rng) {
    db.run(TABLES);
    if rng.bool() {
        db.run("DROP TABLE news");
        db.run(
            "CREATE TABLE news (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
             CREATE TABLE news_low PARTITION OF news FOR VALUES FROM (MINVALUE) TO (20);
             CREATE TABLE news_high PARTITION OF news FOR VALUES FROM (20) TO (MAXVALUE)",
        );
    }
    if rng.u8(..4) == 0 {
        // A row that changes again after the statement that changed it.
        db.run(
            "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 UPDATE task SET list = NEW.list % 5 + 1, n = coalesce(NEW.n, 0) + 1 WHERE id = NEW.id;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER again AFTER INSERT OR UPDATE ON task FOR EACH ROW
                 WHEN (pg_trigger_depth() = 0 AND NEW.id % 7 = 0) EXECUTE FUNCTION again()",
        );
    }
    db.run(&format!(
        "INSERT INTO task SELECT i, i % {LISTS} + 1, (ARRAY['ann', 'bob', 'cid', 'dot'])[i % 4 + 1], 'task ' || i, i FROM generate_series(1, 20) i;
         INSERT INTO label SELECT l, c, 'red' FROM generate_series(1, {LISTS}) l, unnest('{{a,b}}'::text[]) c;
         INSERT INTO news SELECT i * 5, 'news ' || i FROM generate_series(1, 8) i;
         INSERT INTO ledger SELECT i, 0 FROM generate_series(1, {LEDGER}) i;
         INSERT INTO reader SELECT u, l FROM unnest('{{ann,bob,cid,dot}}'::text[]) u, generate_series(1, {LISTS}) l WHERE (ascii(u) + l) % 2 = 0"
    ));
    let priority = |rng: &mut Rng| rng.u8(0..3);
    db.run(&format!(
        "SELECT sync.create_bucket('list', priority => {}, members => 'SELECT list FROM reader WHERE name = sync.user_id()');
         SELECT sync.add_table('list', 'task', key => 'list', filter => 'NOT hidden');
         SELECT sync.add_table('list', 'label', key => 'list');
         SELECT sync.create_bucket('owner', priority => {}, members => 'SELECT sync.user_id()');
         SELECT sync.add_table('owner', 'task', key => 'owner');
         SELECT sync.create_bucket('everybody', priority => {});
         SELECT sync.add_table('everybody', 'news');
         SELECT sync.add_table('everybody', 'ledger')",
        priority(rng),
        priority(rng),
        priority(rng)
    ));
}

/// Fails unless the device holds exactly what its user may hold, with the right sums, and nothing waits.
pub fn check(device: &Device, server: &mut Client) {
    let user = &device.user.id;
    let lists = format!("SELECT list FROM reader WHERE name = '{user}'");
    let columns = "id, list, owner, body, n";
    assert_alike(
        device,
        &format!("SELECT {columns}, hidden FROM task"),
        server,
        &format!("SELECT {columns}, hidden::int FROM task WHERE owner = '{user}' OR NOT hidden AND list IN ({lists})"),
    );
    assert_alike(device, "SELECT * FROM label", server, &format!("SELECT * FROM label WHERE list IN ({lists})"));
    for table in ["news", "ledger"] {
        let all = format!("SELECT * FROM {table}");
        assert_alike(device, &all, server, &all);
    }
    assert_verified(device);
    let waiting = device.value("SELECT count(*) FROM sync_pending");
    assert_eq!(waiting, "0", "batches wait though everything was synced");
}

/// Fails if a bucket's content was found to differ from the server's sums: it would be fetched again and so hide a fault.
pub fn check_sums(device: &Device) {
    let differing = device.rows("SELECT rule, key_json FROM sync_bucket WHERE misses > 0");
    assert!(differing.is_empty(), "a publish did not add up to the server's sums: {differing:?}");
}

/// Fails if the device shows a part of a server transaction: the ledger's amounts always add up to zero.
pub fn check_snapshot(device: &Device) {
    if device.rows("SELECT name FROM sqlite_schema WHERE name = 'ledger'").is_empty() {
        return;
    }
    let row = &device.rows("SELECT count(*), coalesce(sum(amount), 0) FROM ledger")[0];
    let count: i64 = row[0].parse().expect("a number");
    assert!((count == 0 || count == LEDGER) && row[1] == "0", "a server transaction is visible in part: {row:?}");
}
