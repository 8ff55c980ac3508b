//! Functions of members and policies read settings that anybody may set: while rules are evaluated, these say what is believed.

use postgres::Client;
use serde_json::json;
use sync_shared::envelope;
use sync_shared::hash::{bucket_id, BucketId};
use sync_shared::message::{Delta, Differ, PartSum, PullRequest, PushRequest};
use sync_shared::{row, Value};
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{token, Cluster, Database, Device};
use uuid::Uuid;

const SECRET: &str = "a secret of at least thirty-two bytes";

/// A diary for each user, told apart by a function as Supabase has it; a transport that is no member of `sync_transport`, and its name.
fn diaries() -> (Database<'static>, Client, String) {
    let db = Cluster::shared().database();
    db.run(
        "CREATE SCHEMA auth; GRANT USAGE ON SCHEMA auth TO PUBLIC;
         CREATE FUNCTION auth.uid() RETURNS text LANGUAGE sql STABLE AS $$
             SELECT coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''),
                 nullif(coalesce(nullif(current_setting('request.jwt.claim', true), ''), current_setting('request.jwt.claims', true)), '')::jsonb ->> 'sub') $$;
         CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS $$
             SELECT coalesce(nullif(current_setting('request.jwt.claim.role', true), ''), 'nobody') $$;
         CREATE TABLE diary (id int PRIMARY KEY, owner text, body text);
         CREATE TABLE office (id int PRIMARY KEY, part text);
         INSERT INTO diary VALUES (1, 'ann', 'hers'), (2, 'bob', 'his'); INSERT INTO office VALUES (1, 'boss'), (2, 'nobody');
         SELECT sync.create_bucket('own', members => 'SELECT auth.uid()'), sync.create_bucket('office', members => 'SELECT auth.role()')",
    );
    db.run("SELECT sync.add_table('own', 'diary', key => 'owner'), sync.add_table('office', 'office', key => 'part'); SELECT sync.maintain()");
    db.run(&format!("SELECT sync.add_auth_key('{SECRET}', 'HS256', issuer => 'a', audience => 'b')"));
    let relay = format!("relay_{}_{}", db.name(), std::process::id());
    db.run(&format!(
        "CREATE ROLE {relay} LOGIN; GRANT USAGE ON SCHEMA sync TO {relay};
         GRANT EXECUTE ON FUNCTION sync.authenticate(text), sync.pull(bytea), sync.push(bytea), sync.my_buckets(bytea) TO {relay}"
    ));
    let server = db.connect_as(&relay);
    (db, server, relay)
}

/// Everything in which a session could say that it is somebody else.
const FORGED: &str = r#"SET "request.jwt.claims" = '{"sub": "bob", "role": "boss"}'; SET "request.jwt.claim" = '{"sub": "bob"}';
    SET "request.jwt.claim.sub" = 'bob'; SET "request.jwt.claim.role" = 'boss'"#;

fn bucket(rule: &str, key: &str) -> BucketId {
    bucket_id(rule, &row::encode(&[Value::Text(key.into())]))
}

fn pulled(server: &mut Client, token: Option<&str>, request: &[u8]) -> Vec<BucketId> {
    let mut transaction = server.build_transaction().read_only(true).start().expect("a transaction");
    if let Some(token) = token {
        transaction.execute("SELECT sync.authenticate($1)", &[&token]).expect("authenticated");
        transaction.batch_execute(FORGED).expect("forged");
    }
    let reply: Vec<u8> = transaction.query_one("SELECT sync.pull($1)", &[&request]).expect("an answer").get(0);
    let own: Vec<String> = transaction.query_one("SELECT sync.my_buckets()::text[]", &[]).expect("buckets").get(0);
    assert_eq!(
        transaction.query_one("SELECT auth.uid()", &[]).expect("a name").get::<_, Option<String>>(0).as_deref(),
        Some("bob")
    );
    transaction.commit().expect("committed");
    let mut buckets: Vec<BucketId> =
        envelope::decode::<Delta>(&reply).expect("a delta").buckets.into_iter().map(|b| b.id).collect();
    buckets.sort_unstable();
    let mut own: Vec<BucketId> = own.iter().map(|id| BucketId(*id.parse::<Uuid>().expect("an id").as_bytes())).collect();
    own.sort_unstable();
    assert_eq!(own, buckets, "sync.my_buckets() and sync.pull()");
    buckets
}

fn sorted(mut buckets: Vec<BucketId>) -> Vec<BucketId> {
    buckets.sort_unstable();
    buckets
}

#[test]
fn what_a_session_says_of_itself_is_not_seen_by_functions_of_members() {
    let (_db, mut server, _) = diaries();
    let request = Device::new("ann").pull_request();
    server.batch_execute(FORGED).expect("settings");
    // Nobody is believed: auth.uid() knows no user.
    assert_eq!(pulled(&mut server, None, &request), [bucket("office", "nobody")]);
    let token = token::hs256(SECRET, &token::claims("ann", "a", "b", json!({})), json!({ "alg": "HS256", "typ": "JWT" }));
    assert_eq!(
        pulled(&mut server, Some(&token), &request),
        sorted(vec![bucket("own", "ann"), bucket("office", "nobody")]),
        "what a token proved"
    );
}

#[test]
fn what_a_device_doubts_is_looked_up_with_believed_claims() {
    let (db, mut server, _) = diaries();
    db.run("UPDATE sync.verified SET at = now() - interval '2 days'");
    let mut admin = db.connect();
    let entry = server_value(&mut admin, "SELECT entry_id FROM sync.entry e WHERE e.relid = 'diary'::regclass")
        .parse()
        .expect("a number");
    let mut doubt = |owner: &str| {
        let parts = vec![PartSum { bucket: bucket("own", owner), entry, content: Default::default() }];
        let differ = Some(Differ { subscriptions: vec![], parts });
        let request = PushRequest { device: Uuid::new_v4(), batches: vec![], wants: vec![], held: vec![], differ };
        server.batch_execute(FORGED).expect("settings");
        server.execute("SELECT sync.push($1)", &[&envelope::encode(&request).expect("bytes")]).expect("an answer");
        server_value(&mut admin, "SELECT count(*) FROM sync.verified WHERE at = '-infinity'")
    };
    assert_eq!(doubt("bob"), "0", "the diary of somebody who was only named");
}

#[test]
fn explain_and_audit_ask_as_the_user_that_is_named() {
    let (db, _, _) = diaries();
    let reader = format!("reader_{}_{}", db.name(), std::process::id());
    db.run(&format!("CREATE ROLE {reader}; GRANT SELECT ON diary, office TO {reader}"));
    let mut admin = db.connect();
    admin.batch_execute(FORGED).expect("settings");
    let held = |id: u8| format!("SELECT verdict FROM sync.explain('diary', '{id}', '{{\"sub\": \"ann\"}}')");
    assert_eq!(server_rows(&mut admin, &held(1)), [["held"]]);
    assert_eq!(server_rows(&mut admin, &held(2)), [["not held"]]);
    let audit = format!("SELECT \"table\"::regclass, key ->> 'id', kind FROM sync.audit('{{\"sub\": \"ann\", \"role\": \"{reader}\"}}') ORDER BY 1, 2");
    assert_eq!(
        server_rows(&mut admin, &audit),
        [["diary", "2", "only by policies"], ["office", "1", "only by policies"], ["office", "2", "only by policies"]]
    );
    assert_eq!(server_value(&mut admin, "SELECT auth.uid()"), "bob", "the session's own settings are as they were");
}

#[test]
fn believed_claims_are_seen_wherever_functions_look_for_them() {
    let (db, _, _) = diaries();
    let mut server = db.connect();
    let ann = Device::new("ann");
    // What was set before by somebody else who used the connection.
    server.batch_execute(r#"SET "request.jwt.claim.sub" = 'bob'"#).expect("a setting");
    ann.sync(&mut server);
    assert_eq!(ann.rows("SELECT body FROM diary"), [["hers"]]);
    assert_eq!(server_value(&mut server, "SHOW \"request.jwt.claim.sub\""), "bob");
    let request: PullRequest = envelope::decode(&ann.pull_request()).expect("a request");
    assert_eq!(request.held.count, 2);
}
