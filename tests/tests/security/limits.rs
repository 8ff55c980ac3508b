//! Limits of the server: taken at the limit, refused in plain words one beyond it.

use sync_shared::message::{BatchRandom, Differ, KeyLease, PartSum, PullRequest, PushRequest, Subscription};
use sync_shared::{envelope, limits};
use sync_tests::cluster::describe;
use sync_tests::compare::server_value;
use sync_tests::{Cluster, Device};
use uuid::Uuid;

fn push(differ: Option<Differ>, held: Vec<KeyLease>) -> Vec<u8> {
    let request = PushRequest { device: Uuid::new_v4(), batches: vec![], wants: vec![], held, differ };
    envelope::encode(&request).expect("bytes")
}

#[test]
fn subscriptions_of_a_device() {
    let db = Cluster::shared().database();
    db.run("CREATE TABLE item (id int PRIMARY KEY); SELECT sync.create_bucket('all')");
    db.run("SELECT sync.add_table('all', 'item')");
    let mut server = db.connect();
    let request: PullRequest = envelope::decode(&Device::new("ann").pull_request()).expect("a request");
    let mut asked = |count: usize| {
        let subscription = |i| Subscription { rule: "another".into(), params: vec![("n".into(), format!("{i}"))] };
        let request = PullRequest { subscriptions: (0..count).map(subscription).collect(), ..request.clone() };
        let bytes = envelope::encode(&request).expect("bytes");
        ["SELECT sync.pull($1)", "SELECT sync.my_buckets($1)"]
            .map(|sql| server.query_one(sql, &[&bytes]).map(drop).map_err(|e| describe(&e)))
    };
    assert_eq!(asked(limits::SUBSCRIPTIONS), [Ok(()), Ok(())]);
    for refused in asked(limits::SUBSCRIPTIONS + 1) {
        let said = refused.expect_err("one too many");
        assert!(said.starts_with("54000 a device may have 10000 subscriptions, this one has 10001"), "{said}");
    }
}

#[test]
fn buckets_of_a_user() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE TABLE most (n int); INSERT INTO most VALUES (1000000); CREATE TABLE item (id int PRIMARY KEY, list int);
         SELECT sync.create_bucket('list', members => 'SELECT i FROM most m, generate_series(1, m.n) i')",
    );
    db.run("SELECT sync.add_table('list', 'item', key => 'list')");
    let mut server = db.connect();
    assert_eq!(server_value(&mut server, "SELECT cardinality(sync.my_buckets())"), limits::BUCKETS.to_string());
    db.run("UPDATE most SET n = n + 1");
    let request = Device::new("ann").pull_request();
    let refused = [
        server.query_one("SELECT sync.pull($1)", &[&request]).map(drop),
        server.query_one("SELECT sync.my_buckets()", &[]).map(drop),
    ];
    for said in refused.map(|refused| describe(&refused.expect_err("one too many"))) {
        assert!(said.starts_with("54000 rule \"list\": ") && said.contains("more than 1000000 buckets"), "{said}");
        assert!(said.contains("let its members give fewer keys"), "what to do: {said}");
    }
}

#[test]
fn leases_and_differences_that_a_push_names() {
    let db = Cluster::shared().database();
    let mut server = db.connect();
    let lease = KeyLease { table: 1, first: 1, step: 1, count: 1, proof: BatchRandom::default() };
    let part = PartSum { bucket: Default::default(), entry: 1, content: Default::default() };
    let differ = |count| Some(Differ { parts: vec![part; count], subscriptions: vec![] });
    let mut pushed = |bytes: Vec<u8>| server.query_one("SELECT sync.push($1)", &[&bytes]).map(drop).map_err(|e| describe(&e));
    assert_eq!(pushed(push(None, vec![lease; limits::HELD_LEASES])), Ok(()));
    let said = pushed(push(None, vec![lease; limits::HELD_LEASES + 1])).expect_err("one too many");
    assert!(said.starts_with("54000 a push may name 1000 leases, this one names 1001"), "{said}");
    assert_eq!(pushed(push(differ(limits::DIFFER), vec![])), Ok(()));
    let said = pushed(push(differ(limits::DIFFER + 1), vec![])).expect_err("one too many");
    assert!(said.starts_with("54000 a push may say of 100 parts"), "{said}");
}

#[test]
fn a_push_that_doubts_nothing_looks_nothing_up() {
    let db = Cluster::shared().database();
    db.run(
        "CREATE FUNCTION lists() RETURNS SETOF int LANGUAGE plpgsql STABLE AS $$ BEGIN RAISE EXCEPTION 'asked in %', current_database(); END $$;
         CREATE TABLE item (id int PRIMARY KEY, list int);
         SELECT sync.create_bucket('list', members => 'SELECT * FROM lists()')",
    );
    db.run("SELECT sync.add_table('list', 'item', key => 'list')");
    let mut server = db.connect();
    let mut asked = |parts: Vec<PartSum>| {
        let differ = Some(Differ { parts, subscriptions: vec![] });
        server.query_one("SELECT sync.push($1)", &[&push(differ, vec![])]).expect("an answer");
        // What a device says is no reason to refuse its push, so that an error of members is only in the log.
        db.cluster().log().contains(&format!("asked in {}", db.name()))
    };
    assert!(!asked(vec![]), "members are asked for nothing");
    assert!(asked(vec![PartSum { bucket: Default::default(), entry: 1, content: Default::default() }]));
}
