//! Lines of the checklist in SECURITY.md that no other test here is about.

use sync_shared::envelope::{self, Kind};
use sync_shared::limits;
use sync_shared::message::{Delta, PushRequest, PushState};
use sync_tests::build::install_script;
use sync_tests::cluster::describe;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::device::{server_pull, server_push};
use sync_tests::{Cluster, Device, User};

#[test]
fn the_install_script_replaces_nothing_and_quotes_no_placeholder() {
    let script = install_script();
    assert!(script.len() > 50_000 && !script.contains("@extschema"));
    // What begins a line is a statement of the script itself; what functions do later is theirs.
    let statements = script.lines().filter(|line| ["CREATE ", "ALTER ", "DROP "].iter().any(|word| line.starts_with(word)));
    let statements: Vec<&str> = statements.collect();
    for line in &statements {
        // What is there already belongs to somebody else.
        assert!(!["OR REPLACE", "IF NOT EXISTS", "IF EXISTS"].iter().any(|words| line.contains(words)), "{line}");
    }
    for line in statements.iter().filter(|line| line.starts_with("CREATE ")) {
        let outside = ["CREATE SCHEMA sync;", "CREATE EVENT TRIGGER sync_"];
        assert!(line.contains(" sync.") || outside.iter().any(|start| line.starts_with(start)), "in the schema sync: {line}");
    }
}

#[test]
fn nothing_is_granted_to_public_and_functions_pin_their_search_path() {
    let mut server = Cluster::shared().database().connect();
    let granted = "SELECT proname FROM pg_proc WHERE pronamespace = 'sync'::regnamespace
            AND EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0)
        UNION ALL SELECT relname FROM pg_class WHERE relnamespace = 'sync'::regnamespace AND relkind IN ('r', 'v', 'S')
            AND EXISTS (SELECT FROM aclexplode(coalesce(relacl, acldefault('r', relowner))) WHERE grantee = 0) ORDER BY 1";
    let asking = ["batch_number", "claims", "device", "note", "note_text", "param", "user_id"];
    assert_eq!(server_rows(&mut server, granted), asking.map(|name| vec![name.to_owned()]), "only who one is, is anybody's");
    // Of functions in C only those that take other rights of their own accord.
    let loose = "SELECT proname FROM pg_proc p JOIN pg_language l ON l.oid = prolang WHERE pronamespace = 'sync'::regnamespace
        AND (lanname <> 'c' OR prosecdef)
        AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)";
    assert_eq!(server_rows(&mut server, loose), Vec::<Vec<String>>::new());
}

#[test]
fn a_switch_of_user_is_undone_by_an_error() {
    let db = Cluster::shared().database();
    let keeper = format!("keeper_{}_{}", db.name(), std::process::id());
    db.run(&format!(
        "CREATE ROLE {keeper}; CREATE TABLE item (id int PRIMARY KEY, list int); ALTER TABLE item OWNER TO {keeper};
         CREATE FUNCTION broken(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 1 / (n - 7); END $$;
         SELECT sync.create_bucket('list', members => 'SELECT broken(current_setting(''test.n'')::int)')"
    ));
    db.run("SELECT sync.add_table('list', 'item', key => 'broken(list)')");
    let mut server = db.connect();
    server.batch_execute("SET search_path = public, pg_temp; SET \"test.n\" = '7'").expect("settings");
    let now =
        "SELECT current_user || ' ' || current_setting('search_path') || ' ' || current_setting('transaction_read_only') || ' '
        || current_setting('TimeZone')";
    let before = server_value(&mut server, now);
    let device = Device::new("ann");
    for call in ["SELECT sync.pull($1)", "SELECT sync.my_buckets($1)"] {
        let mut transaction = server.transaction().expect("a transaction");
        transaction.batch_execute("SAVEPOINT here").expect("a savepoint");
        let error = transaction.query_one(call, &[&device.pull_request()]).expect_err("an error");
        assert!(describe(&error).starts_with("22012"), "{}", describe(&error));
        transaction.batch_execute("ROLLBACK TO here").expect("rolled back");
        assert_eq!(transaction.query_one(now, &[]).expect("a row").get::<_, String>(0), before, "{call}");
        transaction.commit().expect("a commit");
    }
    // And where a filter or a key fails in the writer's own statement.
    server.batch_execute("INSERT INTO item VALUES (1, 7)").expect_err("no key");
    assert_eq!(server_value(&mut server, now), before);
}

#[test]
fn uploads_run_as_the_end_users_role() {
    let db = Cluster::shared().database();
    let role = format!("end_user_{}_{}", db.name(), std::process::id());
    db.run(&format!(
        "CREATE ROLE {role}; CREATE TABLE item (id int PRIMARY KEY, owner text, who text, secret text);
         ALTER TABLE item ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON item USING (owner = sync.user_id());
         CREATE FUNCTION sign() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.who := current_user; RETURN NEW; END $$;
         CREATE TRIGGER sign BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION sign();
         GRANT SELECT, INSERT (id, owner, who), UPDATE (owner), DELETE ON item TO {role}; SELECT sync.create_bucket('all')"
    ));
    db.run("SELECT sync.add_table('all', 'item', rls => 'enforce')");
    let (mut server, device) = (db.connect(), Device::for_user(User::with_role("ann", &role)));
    device.sync(&mut server);
    for values in ["(1, 'ann', NULL)", "(2, 'bob', NULL)", "(3, 'ann', 'a column that is not granted')"] {
        device.run(&format!("INSERT INTO item (id, owner, secret) VALUES {values}"));
    }
    device.sync(&mut server);
    assert_eq!(server_rows(&mut server, "SELECT id, owner, who FROM item"), [["1", "ann", &role]]);
    assert_eq!(device.rows("SELECT code FROM sync_rejected ORDER BY number"), [["42501"], ["42501"]]);
}

#[test]
fn tombstones_carry_only_the_key() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE item (id int PRIMARY KEY, list int, body text); INSERT INTO item SELECT i, 1, 'SECRET' || i FROM generate_series(1, 3) i");
    db.run("SELECT sync.create_bucket('list', members => 'SELECT 1'); SELECT sync.add_table('list', 'item', key => 'list')");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    // One is deleted, one leaves the bucket with another text.
    db.run("UPDATE item SET body = 'SECRET, too', list = 2 WHERE id = 2; DELETE FROM item WHERE id = 1");
    let reply = server_pull(&mut server, &device.user, &device.pull_request()).expect("an answer");
    let delta: Delta = envelope::decode(&reply).expect("a delta");
    assert_eq!(delta.changes.iter().map(|c| c.gone.len()).sum::<usize>(), 2, "two keys of one byte");
    assert!(delta.changes.iter().all(|c| c.rows.is_empty()));
    let plain = rmp_serde::to_vec(&delta).expect("bytes");
    assert!(!plain.windows(6).any(|bytes| bytes == b"SECRET"), "nothing of what they were, or are");
    device.apply(&reply).expect("applied");
    assert_eq!(device.rows("SELECT id FROM item"), [["3"]]);
    let log = "SELECT count(*) FROM sync.op o WHERE position('SECRET'::bytea IN o.keys) > 0";
    assert_eq!(server_value(&mut server, log), "0", "nor has the log it");
}

#[test]
fn the_decoder_bounds_length_count_depth_and_ratio() {
    let db = Cluster::shared().database();
    let mut server = db.connect();
    let message = |kind: Kind, codec: u8, declared: usize, body: &[u8]| {
        let head = [b"SY\x01".as_slice(), &[kind as u8, codec], &(declared as u32).to_be_bytes(), &[0; 4]].concat();
        let mut bytes = [head, body.to_vec()].concat();
        envelope::seal(&mut bytes);
        bytes
    };
    let deep = vec![0x91; 100_000];
    for (sql, kind, most) in [
        ("SELECT sync.push($1)", Kind::PushRequest, limits::PUSH_REQUEST_BYTES),
        ("SELECT sync.pull($1)", Kind::PullRequest, limits::PULL_REQUEST_BYTES),
    ] {
        let bad = [
            (message(kind, 0, most + 1, b"x"), "bytes, the limit is"),
            (message(kind, 0, u32::MAX as usize, b"x"), "bytes, the limit is"),
            // An array of four billion, of which nothing comes.
            (message(kind, 0, 5, &[0xdd, 0xff, 0xff, 0xff, 0xff]), "damaged"),
            (message(kind, 0, deep.len(), &deep), "damaged"),
            // A few bytes that say that they are a hundred million.
            (message(kind, 1, 64 << 20, b"few bytes"), "bytes, the limit is 1048576"),
        ];
        for (bytes, why) in bad {
            let said = describe(&server.query_one(sql, &[&bytes]).expect_err("refused"));
            assert!(said.starts_with("22P03") && said.contains(why), "{said}");
        }
    }
    assert_eq!(server_value(&mut server, "SELECT 1"), "1", "the connection goes on");
}

#[test]
fn numbers_of_devices_only_grow_and_a_cloned_device_is_noticed() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE item (id int PRIMARY KEY, body text); SELECT sync.create_bucket('all')");
    db.run("SELECT sync.add_table('all', 'item')");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.sync(&mut server);
    device.run("INSERT INTO item VALUES (1, 'before')");
    device.sync(&mut server);
    let clone = device.copy();
    let id = |device: &Device| device.value("SELECT value FROM sync_status WHERE name = 'device'");
    assert_eq!(id(&device), id(&clone));
    device.run("INSERT INTO item VALUES (2, 'the device')");
    clone.run("INSERT INTO item VALUES (3, 'its clone')");
    device.sync(&mut server);
    // The number is somebody else's batch already.
    let batches = clone.pending_ops().expect("something waits");
    let request: PushRequest = envelope::decode(&batches).expect("a request");
    let last = "SELECT max(last_number) FROM sync.device";
    assert_eq!(server_value(&mut server, last), request.batches[0].id.number.to_string());
    let reply = server_push(&mut server, &clone.user, &batches).expect("an answer");
    let told: sync_shared::message::PushReply = envelope::decode(&reply).expect("a reply");
    assert_eq!(told.state, PushState::Fork);
    clone.apply(&reply).expect("applied");
    clone.sync(&mut server);
    device.sync(&mut server);
    assert_ne!(id(&device), id(&clone), "it has taken another identity");
    for one in [&device, &clone] {
        assert_eq!(one.rows("SELECT id FROM item ORDER BY id"), [["1"], ["2"], ["3"]]);
    }
    // An old number with other random bytes is no new batch.
    let mut old = request;
    old.device = id(&device).parse().expect("an id");
    old.batches[0].id.number = 1;
    old.batches[0].id.random = sync_shared::message::BatchRandom::new([7; 16]);
    let reply = server_push(&mut server, &device.user, &envelope::encode(&old).expect("bytes")).expect("an answer");
    assert_eq!(envelope::decode::<sync_shared::message::PushReply>(&reply).expect("a reply").state, PushState::Fork);
}
