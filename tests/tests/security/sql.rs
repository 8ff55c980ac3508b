//! What somebody with a login of the database and nothing else can do: nothing.

use postgres::Client;
use sync_shared::hash::{bucket_id, SetDigest};
use sync_shared::message::{Delta, Differ, Notice, PartRanges, PartSum, PullRequest, PushReply, PushRequest, PushState};
use sync_shared::ranges::RangeSums;
use sync_shared::{envelope, row, Value};
use sync_tests::compare::{assert_alike, server_rows, server_value};
use sync_tests::device::server_pull;
use sync_tests::{Cluster, Device, User};

#[test]
fn nobody_can_stop_maintenance_by_holding_a_lock() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE note (id int PRIMARY KEY, body text); SELECT sync.create_bucket('all')");
    let mal = format!("mal_{}_{}", db.name(), std::process::id());
    db.run(&format!("CREATE ROLE {mal} LOGIN"));
    let mut mal = db.connect_as(&mal);
    // Every lock that any SQL user may take and that the extension's tables could be thought to give a name to.
    mal.batch_execute("SELECT pg_advisory_lock(oid::bigint) FROM pg_class WHERE relnamespace = 'sync'::regnamespace")
        .expect("locked");
    for table in ["sync.horizon", "sync.base", "sync.op", "sync.device"] {
        let denied = mal.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN ACCESS SHARE MODE; COMMIT")).expect_err("denied");
        assert_eq!(denied.code().map(|c| c.code().to_owned()).as_deref(), Some("42501"), "{table}");
        mal.batch_execute("ROLLBACK").expect("rolled back");
    }
    db.run("SELECT sync.add_table('all', 'note')");
    let mut server = db.connect();
    server
        .batch_execute("SET lock_timeout = '5s'; SELECT sync.maintain(); SELECT * FROM sync.verify_table('note')")
        .expect("maintained");
    assert_eq!(server_value(&mut server, "SELECT string_agg(state, ' ') FROM sync.rules"), "ready");
}

/// A transport may keep the transaction of a push open for ever, and whoever may write to a table may lock it.
#[test]
fn a_transaction_that_is_kept_open_does_not_stop_maintenance() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE note (id int PRIMARY KEY, body text); CREATE TABLE page (id int PRIMARY KEY); CREATE TABLE late (id int PRIMARY KEY)");
    db.run("INSERT INTO note VALUES (1, 'x'); SELECT sync.create_bucket('all')");
    db.run("SELECT sync.add_table('all', 'note'), sync.add_table('all', 'page')");
    db.run("SELECT sync.maintain(); UPDATE sync.verified SET at = now() - interval '2 days'");
    let (mut server, mut holder, mut push) = (db.connect(), db.connect(), db.connect());
    let entry =
        server_value(&mut server, "SELECT entry_id FROM sync.entry WHERE relid = 'note'::regclass").parse().expect("a number");
    let parts = vec![PartSum { bucket: bucket_id("all", &[]), entry, content: Default::default() }];
    let differ = Some(Differ { subscriptions: vec![], parts });
    let request = PushRequest { device: uuid::Uuid::new_v4(), batches: vec![], wants: vec![], held: vec![], differ };
    push.batch_execute("BEGIN").expect("begun");
    push.execute("SELECT sync.push($1)", &[&envelope::encode(&request).expect("bytes")]).expect("an answer");
    assert_eq!(server_value(&mut push, "SELECT count(*) FROM sync.verified WHERE at = '-infinity'"), "1", "it is in doubt there");
    // Both are due; the sums of a third table are not known yet, and somebody keeps it and `page` locked.
    db.run("UPDATE sync.verified SET at = now() - interval '40 days' WHERE relid = 'page'::regclass; SELECT sync.add_table('all', 'late')");
    holder.batch_execute("BEGIN; LOCK TABLE late, page IN ACCESS EXCLUSIVE MODE").expect("locked");
    server
        .batch_execute("SET statement_timeout = '20s'; SET sync.verify_every = '1 day'; SELECT sync.maintain()")
        .expect("maintained");
    let states = "SELECT e.relid::regclass, e.state, e.problem IS NULL FROM sync.entry e ORDER BY e.entry_id";
    assert_eq!(server_rows(&mut server, states), [["note", "ready", "t"], ["page", "ready", "t"], ["late", "building", "t"]]);
    let log = "SELECT count(*) > 1 FROM sync.checkpoint";
    assert_eq!(server_value(&mut server, log), "t", "it came to its end");
    for client in [&mut holder, &mut push] {
        client.batch_execute("COMMIT").expect("an end");
    }
    server.batch_execute("SELECT sync.maintain(), sync.maintain()").expect("maintained");
    assert_eq!(server_value(&mut server, "SELECT count(*) FROM sync.verified WHERE at < now() - interval '1 day'"), "0");
    assert_eq!(server_value(&mut server, "SELECT string_agg(DISTINCT state, ' ') FROM sync.entry"), "ready");
}

/// The first push after a restore reads the rules again: its transaction may be kept open as well.
#[test]
fn a_first_push_after_a_restore_that_is_kept_open_does_not_stop_maintenance() {
    let cluster = Cluster::shared();
    let db = cluster.database();
    db.run("CREATE TABLE note (id int PRIMARY KEY, body text); INSERT INTO note VALUES (1, 'x')");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note'); SELECT sync.maintain()");
    let copy = format!("{}_copy", db.name());
    let mut postgres = cluster.connect("postgres", "postgres");
    postgres.batch_execute(&format!("CREATE DATABASE {copy} TEMPLATE {}", db.name())).expect("copied");
    let [mut server, mut push, mut other] = [(); 3].map(|()| cluster.connect(&copy, "postgres"));
    let request = || {
        let device = uuid::Uuid::new_v4();
        envelope::encode(&PushRequest { device, batches: vec![], wants: vec![], held: vec![], differ: None }).expect("bytes")
    };
    let state = |client: &mut Client| {
        let reply: Vec<u8> = client.query_one("SELECT sync.push($1)", &[&request()]).expect("an answer").get(0);
        envelope::decode::<PushReply>(&reply).expect("a reply").state
    };
    assert_eq!(server_value(&mut server, "SELECT sync.has_moved()"), "t");
    push.batch_execute("BEGIN").expect("begun");
    assert_eq!(state(&mut push), PushState::Taken);
    assert_eq!(server_value(&mut push, "SELECT sync.has_moved()"), "f", "it was done there");
    for client in [&mut server, &mut other] {
        client.batch_execute("SET statement_timeout = '20s'").expect("a limit");
    }
    server.batch_execute("SELECT sync.maintain()").expect("maintenance comes to an end");
    assert_eq!(state(&mut other), PushState::NotNow, "and so do the pushes of others");
    // Whoever keeps it open gives up, or is ended.
    push.batch_execute("ROLLBACK").expect("an end");
    server.batch_execute("SELECT sync.maintain()").expect("maintained");
    assert_eq!(server_value(&mut server, "SELECT sync.has_moved()"), "f");
    assert_eq!(state(&mut other), PushState::Taken);
    drop((server, push, other));
    postgres.batch_execute(&format!("DROP DATABASE {copy} WITH (FORCE)")).expect("dropped");
}

#[test]
fn only_a_superuser_installs_the_extension_and_it_stays_in_its_schema() {
    let mut server = Cluster::shared().database().connect();
    let control =
        "SELECT superuser, trusted, relocatable FROM pg_available_extension_versions WHERE name = 'pg_sync' AND installed";
    assert_eq!(server_rows(&mut server, control), [["t", "f", "f"]]);
    server.batch_execute("CREATE SCHEMA elsewhere").expect("a schema");
    let moved = server.batch_execute("ALTER EXTENSION pg_sync SET SCHEMA elsewhere").expect_err("refused");
    assert_eq!(moved.code().map(|c| c.code()), Some("0A000"), "{moved}");
    let db = Cluster::shared().empty_database();
    let owner = format!("owner_{}_{}", db.name(), std::process::id());
    db.run(&format!("CREATE ROLE {owner} LOGIN; ALTER DATABASE {} OWNER TO {owner}", db.name()));
    let denied = db.connect_as(&owner).batch_execute("CREATE EXTENSION pg_sync").expect_err("denied");
    assert_eq!(denied.code().map(|c| c.code()), Some("42501"), "{denied}");
}

#[test]
fn a_bucket_of_somebody_else_is_not_had_by_naming_it() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE diary (id int PRIMARY KEY, owner text, body text); INSERT INTO diary VALUES (1, 'ann', 'hers'), (2, 'bob', 'SECRETBODY');
         SELECT sync.create_bucket('own', members => 'SELECT sync.user_id()')",
    );
    db.run("SELECT sync.add_table('own', 'diary', key => 'owner'); SELECT sync.maintain()");
    let (mut server, ann) = (db.connect(), Device::new("ann"));
    ann.sync(&mut server);
    let bobs = bucket_id("own", &row::encode(&[Value::Text("bob".into())]));
    let entry = server_value(&mut server, "SELECT entry_id FROM sync.entry").parse().expect("a number");
    let honest: PullRequest = envelope::decode(&ann.pull_request()).expect("a request");
    let ranges = vec![PartRanges { bucket: bobs, entry, sums: RangeSums::new(0) }];
    let sums = vec![PartSum { bucket: bobs, entry, content: Default::default() }];
    let held = |request: PullRequest| PullRequest { held: SetDigest::of(&[bobs]), held_list: Some(vec![bobs]), ..request };
    let anew = |request: PullRequest| PullRequest { cursor: Default::default(), held: Default::default(), ..request };
    let forged = [
        held(honest.clone()),
        held(anew(honest.clone())),
        PullRequest { ranges: ranges.clone(), ..honest.clone() },
        PullRequest { ranges, ..anew(honest.clone()) },
        PullRequest { sums: Some(sums), ..honest },
    ];
    for request in forged {
        let reply = server_pull(&mut server, &ann.user, &envelope::encode(&request).expect("bytes")).expect("an answer");
        if let Ok(delta) = envelope::decode::<Delta>(&reply) {
            let plain = rmp_serde::to_vec(&delta).expect("its bytes");
            assert!(!plain.windows(6).any(|bytes| bytes == b"SECRET"), "{request:?}");
            assert!(!delta.buckets.iter().any(|bucket| bucket.id == bobs), "{request:?}");
            assert!(!delta.sums.iter().any(|sum| sum.bucket == bobs), "{request:?}");
        } else {
            let notice: Notice = envelope::decode(&reply).expect("a notice");
            assert!(!notice.keep.contains(&bobs), "{request:?}");
        }
    }
}

#[test]
fn a_pull_that_is_cancelled_stops() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE wide (id int PRIMARY KEY, body text); INSERT INTO wide SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, 50000) i");
    db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'wide')");
    let (mut server, device) = (db.connect(), Device::new("ann"));
    device.pull_request();
    device.run("UPDATE sync_setting SET value = 4194304 WHERE name = 'page_bytes'");
    let request = device.pull_request();
    server.batch_execute("SET statement_timeout = '5ms'").expect("a setting");
    let told = server_pull(&mut server, &device.user, &request).expect_err("cancelled");
    assert!(told.starts_with("57014"), "{told}");
    // The connection goes on as if nothing had been.
    server.batch_execute("RESET statement_timeout").expect("a setting");
    assert_eq!(server_value(&mut server, "SELECT current_user"), "postgres");
    let reply = server_pull(&mut server, &device.user, &request).expect("an answer");
    device.apply(&reply).expect("applied");
    assert_ne!(device.value("SELECT count(*) FROM sync_stage"), "0");
}

#[test]
fn names_with_quotes_newlines_and_63_bytes_are_names() {
    let db = Cluster::shared().database();
    let role = format!("app_{}_{}", db.name(), std::process::id());
    let long = |start: &str| format!("{start}{}", "x".repeat(63 - start.len()));
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let [schema, table, key, column] = ["s'\"; --", "t\n\"'$$", "k\\'\"", "c%s'\"\n"].map(|name| quote(&long(name)));
    let (rule, name) = (literal(&table), literal(&format!("{schema}.{table}")));
    db.run(&format!(
        "CREATE ROLE {role} NOLOGIN; CREATE SCHEMA {schema}; GRANT USAGE ON SCHEMA {schema} TO {role};
         CREATE TABLE {schema}.{table} ({key} text PRIMARY KEY, {column} text);
         INSERT INTO {schema}.{table} VALUES ('a''\"', 'b'), ('hidden', 'b'), ('other', 'c');
         GRANT ALL ON {schema}.{table} TO {role}; ALTER TABLE {schema}.{table} ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON {schema}.{table} USING ({key} <> 'hidden');
         SELECT sync.create_bucket({rule}, members => $$ SELECT 'b' $$)"
    ));
    let bucket = literal(&format!("lower({column})"));
    db.run(&format!("SELECT sync.add_table({rule}, {name}, key => {bucket}, rls => 'enforce')"));
    let (mut server, device) = (db.connect(), Device::for_user(User::with_role("ann", &role)));
    device.sync(&mut server);
    let here = quote(&device.value("SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 's''%'"));
    device.run(&format!("INSERT INTO {here} VALUES ('new', 'B')"));
    device.sync(&mut server);
    assert_eq!(device.rows("SELECT code, message FROM sync_rejected"), Vec::<Vec<String>>::new());
    let shown = format!("SELECT {key}, {column} FROM {schema}.{table} WHERE {key} IN ('a''\"', 'new')");
    assert_alike(&device, &format!("SELECT {key}, {column} FROM {here}"), &mut server, &shown);
    let audit =
        format!(r#"SELECT key ->> {}, kind FROM sync.audit('{{"sub": "ann", "role": "{role}"}}')"#, literal(&long("k\\'\"")));
    assert_eq!(server_rows(&mut server, &audit), [["other", "only by policies"]]);
}

/// A function that members or a filter call may set anything, and label itself STABLE or IMMUTABLE all the same.
#[test]
fn what_a_function_of_members_or_a_filter_sets_ends_with_it() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE SCHEMA planted;
         CREATE FUNCTION planted.eq(uuid, uuid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'planted ran as %', current_user; END $$;
         CREATE FUNCTION planted.eq(oid, oid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'planted ran as %', current_user; END $$;
         CREATE OPERATOR planted.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = planted.eq);
         CREATE OPERATOR planted.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = planted.eq);
         CREATE FUNCTION planted.lists() RETURNS SETOF int LANGUAGE plpgsql STABLE AS
             $$ BEGIN PERFORM set_config('search_path', 'planted, pg_catalog', false); RETURN QUERY SELECT 1; END $$;
         CREATE FUNCTION planted.shown(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN PERFORM set_config('search_path', 'planted, pg_catalog', false); RETURN true; END $$;
         CREATE TABLE item (id int PRIMARY KEY, list int, body text); INSERT INTO item SELECT i, 1, 'x' FROM generate_series(1, 200) i;
         SELECT sync.create_bucket('list', members => 'SELECT * FROM planted.lists()')",
    );
    db.run("SELECT sync.add_table('list', 'item', key => 'list', filter => 'planted.shown(id)')");
    let (mut server, ann) = (db.connect(), Device::new("ann"));
    ann.sync(&mut server);
    db.run("SELECT sync.maintain(); UPDATE item SET body = 'y' WHERE id <= 100; SELECT * FROM sync.explain('item', '1', '{\"sub\": \"ann\"}')");
    ann.sync(&mut server);
    ann.run("UPDATE item SET body = 'z' WHERE id = 200");
    ann.sync(&mut server);
    assert_alike(&ann, "SELECT id, list, body FROM item", &mut server, "SELECT id, list, body FROM item");
    assert_eq!(server_value(&mut server, "SHOW search_path"), "\"$user\", public", "nothing is left in the session");
}

#[test]
fn who_owns_a_table_is_not_decided_by_the_callers_operators() {
    let db = Cluster::shared().database();
    let mal = format!("mal_own_{}_{}", db.name(), std::process::id());
    db.run(&format!(
        "CREATE TABLE victim (id int PRIMARY KEY, body text); SELECT sync.create_bucket('all');
         CREATE ROLE {mal} LOGIN IN ROLE sync_admin; CREATE SCHEMA mine AUTHORIZATION {mal}"
    ));
    let mut mal = db.connect_as(&mal);
    mal.batch_execute(
        "CREATE TABLE mine.own (id int PRIMARY KEY);
         CREATE FUNCTION mine.eq(oid, oid) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT $1 OPERATOR(pg_catalog.=) 'mine.own'::regclass::oid $$;
         CREATE OPERATOR mine.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = mine.eq);
         SET search_path = mine, pg_catalog",
    )
    .expect("her own");
    let denied = mal.batch_execute("SELECT sync.add_table('all', 'public.victim')").expect_err("denied");
    assert_eq!(denied.code().map(|c| c.code()), Some("42501"), "{denied}");
}
