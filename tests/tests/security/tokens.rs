//! Tokens: who is believed, what is refused, and for how long.

use crate::signer::{claims, encode, hs256, now, Signer};
use postgres::Client;
use serde_json::{json, Value as Json};
use sync_tests::cluster::describe;
use sync_tests::compare::{server_rows, server_value};
use sync_tests::{Cluster, Database};

const ISSUER: &str = "https://issuer.example/auth";
const AUDIENCE: &str = "app";
const SECRET: &str = "a secret of at least thirty-two bytes";

/// Who asks after a token, in a transaction of its own; or why it is refused.
fn user_of(client: &mut Client, token: &str) -> Result<String, String> {
    let mut transaction = client.build_transaction().read_only(true).start().expect("a transaction");
    transaction.query_one("SELECT sync.authenticate($1)", &[&token]).map_err(|e| describe(&e))?;
    Ok(transaction.query_one("SELECT sync.user_id()", &[]).expect("a user").get(0))
}

fn refusal(client: &mut Client, token: &str) -> String {
    let refused = user_of(client, token).expect_err("refused");
    assert!(refused.contains("the token is refused: "), "{refused}");
    refused.split("the token is refused: ").nth(1).expect("why").to_owned()
}

/// A database that knows a key, and a session of somebody who is nobody but may authenticate.
fn with_key(key: &str, algorithm: &str, kid: Option<&str>) -> (Database<'static>, Client) {
    let db = Cluster::shared().database();
    add_key(&db, key, algorithm, kid);
    let role = format!("gate_{}_{}", db.name(), std::process::id());
    db.run(&format!("CREATE ROLE {role} LOGIN; GRANT EXECUTE ON FUNCTION sync.authenticate(text) TO {role}"));
    let client = db.connect_as(&role);
    (db, client)
}

fn add_key(db: &Database, key: &str, algorithm: &str, kid: Option<&str>) {
    db.connect()
        .execute("SELECT sync.add_auth_key($1, $2, $3, $4, $5)", &[&key, &algorithm, &ISSUER, &AUDIENCE, &kid])
        .expect("a key");
}

fn of_ann(more: Json) -> Json {
    claims("ann", ISSUER, AUDIENCE, more)
}

#[test]
fn a_token_of_each_algorithm_says_who_asks() {
    let db = Cluster::shared().database();
    let mut client = db.connect();
    for algorithm in ["RS256", "ES256", "ES256K", "EdDSA"] {
        let signer = Signer::new(algorithm);
        add_key(&db, &signer.pem(), algorithm, Some(algorithm));
        let token = signer.token(&claims(algorithm, ISSUER, AUDIENCE, json!({})), json!({ "kid": algorithm }));
        assert_eq!(user_of(&mut client, &token).as_deref(), Ok(algorithm));
        // Without the name of its key, too.
        let token = signer.token(&claims(algorithm, ISSUER, AUDIENCE, json!({})), json!({}));
        assert_eq!(user_of(&mut client, &token).as_deref(), Ok(algorithm));
        // Another key of the same kind signs nothing.
        let forged = Signer::new(algorithm).token(&of_ann(json!({})), json!({ "kid": algorithm }));
        assert_eq!(refusal(&mut client, &forged), "its signature is not that of a key in force");
    }
    add_key(&db, SECRET, "HS256", None);
    let token = hs256(SECRET, &of_ann(json!({})), json!({ "alg": "HS256" }));
    assert_eq!(user_of(&mut client, &token).as_deref(), Ok("ann"));
    let forged = hs256("another secret of at least 32 bytes..", &of_ann(json!({})), json!({ "alg": "HS256" }));
    assert_eq!(refusal(&mut client, &forged), "its signature is not that of a key in force");
}

#[test]
fn no_part_of_a_token_can_be_changed() {
    let signer = Signer::new("ES256");
    let (_db, mut client) = with_key(&signer.pem(), "ES256", None);
    let token = signer.token(&of_ann(json!({})), json!({}));
    assert_eq!(user_of(&mut client, &token).as_deref(), Ok("ann"));
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).expect("text");
        assert!(user_of(&mut client, &changed).is_err(), "byte {at}");
    }
    for cut in 0..token.len() {
        assert!(user_of(&mut client, &token[..cut]).is_err(), "cut at {cut}");
    }
    for changed in [format!("{token}="), format!("{token}A"), format!("{token}."), format!(" {token}"), token.replace('.', "..")]
    {
        assert!(user_of(&mut client, &changed).is_err(), "{changed}");
    }
    assert_eq!(refusal(&mut client, &"x".repeat(20_000)), "it has 20000 bytes, more than 16384");
}

#[test]
fn an_algorithm_is_pinned_to_its_key() {
    let signer = Signer::new("RS256");
    let (_db, mut client) = with_key(&signer.pem(), "RS256", Some("k"));
    // The public key, known to all, used as if it were a secret.
    let confused = hs256(&signer.pem(), &of_ann(json!({})), json!({ "alg": "HS256", "kid": "k" }));
    assert!(refusal(&mut client, &confused).starts_with("no key for HS256 with the kid \"k\" is in force"), "confusion");
    let body = encode(of_ann(json!({})).to_string().as_bytes());
    for alg in ["none", "None", "NONE", "", "HS512", "RS512", "hs256", "null"] {
        let header = encode(json!({ "alg": alg, "kid": "k" }).to_string().as_bytes());
        assert_eq!(
            refusal(&mut client, &format!("{header}.{body}.")),
            "its algorithm is none of HS256, RS256, ES256, ES256K, EdDSA"
        );
    }
    let header = encode(json!({ "alg": "RS256", "kid": "k" }).to_string().as_bytes());
    assert_eq!(refusal(&mut client, &format!("{header}.{body}.")), "its signature is not that of a key in force");
    // A signature by a curve's key under the name of RS256.
    let mut other = Signer::new("ES256");
    other.algorithm = "RS256";
    assert_eq!(refusal(&mut client, &other.token(&of_ann(json!({})), json!({}))), "its signature is not that of a key in force");
}

#[test]
fn a_token_that_brings_its_own_key_is_refused() {
    let signer = Signer::new("ES256");
    let (_db, mut client) = with_key(&signer.pem(), "ES256", Some("known"));
    let attacker = Signer::new("ES256");
    for header in [
        json!({ "jwk": attacker.jwk("known") }),
        json!({ "jku": "https://attacker.example/jwks.json", "kid": "known" }),
        json!({ "x5u": "https://attacker.example/cert.pem" }),
        json!({ "x5c": ["MIIB"] }),
        json!({ "crit": ["exp"] }),
        json!({ "b64": false }),
    ] {
        let why = refusal(&mut client, &signer.token(&of_ann(json!({})), header));
        assert!(why.starts_with("its header brings or points to a key of its own"), "{why}");
    }
    assert!(refusal(&mut client, &signer.token(&of_ann(json!({})), json!({ "kid": "unknown" })))
        .starts_with("no key for ES256 with the kid \"unknown\" is in force"));
    assert!(refusal(&mut client, &signer.token(&of_ann(json!({})), json!({ "kid": "' OR true --" }))).starts_with("no key"));
    assert_eq!(
        refusal(&mut client, &signer.token(&of_ann(json!({})), json!({ "typ": "dpop+jwt" }))),
        "its type (typ) is another than JWT"
    );
    assert_eq!(
        user_of(&mut client, &signer.token(&of_ann(json!({})), json!({ "typ": "at+jwt", "kid": "known" }))).as_deref(),
        Ok("ann")
    );
}

#[test]
fn times_issuer_and_audience_are_checked() {
    let signer = Signer::new("EdDSA");
    let (_db, mut client) = with_key(&signer.pem(), "EdDSA", None);
    let mut told = |more: Json| match user_of(&mut client, &signer.token(&of_ann(more), json!({}))) {
        Ok(user) => user,
        Err(why) => why.split("the token is refused: ").nth(1).expect("why").to_owned(),
    };
    let expired = "it has expired: get a new one";
    assert_eq!(told(json!({ "exp": now() - 120 })), expired);
    assert_eq!(told(json!({ "exp": now() - 20 })), "ann", "clocks differ a little");
    assert_eq!(told(json!({ "exp": 0 })), expired);
    assert_eq!(told(json!({ "exp": -1e300 })), expired);
    assert_eq!(told(json!({ "exp": null })), "its claim \"exp\" is not a time");
    assert_eq!(told(json!({ "exp": "2099-01-01" })), "its claim \"exp\" is not a time");
    assert_eq!(told(json!({ "nbf": now() + 120 })), "it is not valid yet (nbf): compare the clocks");
    assert_eq!(told(json!({ "nbf": now() + 20 })), "ann");
    assert_eq!(told(json!({ "iat": now() + 120 })), "it was issued in the future (iat): compare the clocks");
    assert_eq!(told(json!({ "iss": "https://other.example" })), "it is from another issuer (iss) than its key");
    assert_eq!(told(json!({ "iss": [ISSUER] })), "it is from another issuer (iss) than its key");
    assert_eq!(told(json!({ "aud": "other" })), "it is meant for another audience (aud)");
    assert_eq!(told(json!({ "aud": ["other", AUDIENCE] })), "ann");
    assert_eq!(told(json!({ "aud": {"app": "app"} })), "it is meant for another audience (aud)");
    assert_eq!(told(json!({ "sub": "" })), "it names no user: the claim \"sub\" is missing or empty");
    assert_eq!(told(json!({ "sub": null })), "it names no user: the claim \"sub\" is missing or empty");
    assert_eq!(told(json!({ "sub": 4711 })), "4711");
    let mut endless = of_ann(json!({}));
    endless.as_object_mut().expect("an object").remove("exp");
    assert_eq!(refusal(&mut client, &signer.token(&endless, json!({}))), "it never expires: the claim \"exp\" is missing");
    for claims in [json!([1]), json!("ann"), json!(null)] {
        assert_eq!(refusal(&mut client, &signer.token(&claims, json!({}))), "its claims are not a JSON object");
    }
}

#[test]
fn claims_end_with_their_transaction() {
    let signer = Signer::new("ES256");
    let (db, mut client) = with_key(&signer.pem(), "ES256", None);
    let role = server_value(&mut client, "SELECT session_user");
    let ann = signer.token(&of_ann(json!({ "team": 7 })), json!({}));
    let bob = signer.token(&claims("bob", ISSUER, AUDIENCE, json!({})), json!({}));
    let asking = "SELECT sync.user_id(), sync.claims()->>'team', coalesce(current_setting('request.jwt.claims', true), '')";
    let nobody = vec![vec![role.clone(), "∅".to_owned(), String::new()]];

    client.batch_execute(&format!("BEGIN; SELECT sync.authenticate('{ann}')")).expect("authenticated");
    let asked = server_rows(&mut client, asking);
    assert_eq!((asked[0][0].as_str(), asked[0][1].as_str()), ("ann", "7"));
    assert_eq!(serde_json::from_str::<Json>(&asked[0][2]).expect("claims")["team"], 7, "policies of the application see them");
    // What the session says of itself afterwards proves nothing.
    client.batch_execute(r#"SET LOCAL request.jwt.claims = '{"sub": "eve"}'"#).expect("set");
    assert_eq!(server_value(&mut client, "SELECT sync.user_id()"), "ann");
    client.batch_execute("COMMIT").expect("committed");
    assert_eq!(server_rows(&mut client, asking), nobody);

    client.batch_execute(&format!("BEGIN; SELECT sync.authenticate('{ann}'); ROLLBACK")).expect("rolled back");
    assert_eq!(server_rows(&mut client, asking), nobody);

    // A subtransaction that is rolled back takes its proof along, also from within another.
    client
        .batch_execute(&format!("BEGIN; SAVEPOINT a; SAVEPOINT b; SELECT sync.authenticate('{ann}'); RELEASE b; ROLLBACK TO a"))
        .expect("savepoints");
    assert_eq!(server_rows(&mut client, asking), nobody);
    client.batch_execute(&format!("SELECT sync.authenticate('{bob}'); SAVEPOINT c; SELECT 1; ROLLBACK TO c")).expect("kept");
    assert_eq!(server_value(&mut client, "SELECT sync.user_id()"), "bob");
    client.batch_execute("COMMIT").expect("committed");

    // A refused one changes nothing, and a session of its own starts with nothing.
    client.batch_execute(&format!("SELECT sync.authenticate('{ann}')")).expect("a transaction of one statement");
    assert_eq!(server_rows(&mut client, asking), nobody);
    let mut fresh = db.connect_as(&role);
    assert_eq!(server_value(&mut fresh, "SELECT sync.user_id()"), role);
}

#[test]
fn keys_are_rotated() {
    let (old, new) = (Signer::new("ES256"), Signer::new("EdDSA"));
    let db = Cluster::shared().database();
    let mut client = db.connect();
    let load = |client: &mut Client, set: Json| {
        client
            .query_one("SELECT sync.load_jwks($1::text::jsonb, $2, $3)", &[&set.to_string(), &ISSUER, &AUDIENCE])
            .map(|r| r.get::<_, i32>(0))
            .map_err(|e| describe(&e))
    };
    assert_eq!(load(&mut client, json!({ "keys": [old.jwk("a")] })), Ok(1));
    let by_old = old.token(&of_ann(json!({})), json!({ "kid": "a" }));
    let by_new = new.token(&of_ann(json!({})), json!({ "kid": "b" }));
    assert_eq!(user_of(&mut client, &by_old).as_deref(), Ok("ann"));
    assert!(user_of(&mut client, &by_new).is_err());
    // Both are published for a while; then the old one is gone. Loading the same again changes nothing.
    for _ in 0..2 {
        assert_eq!(
            load(
                &mut client,
                json!({ "keys": [old.jwk("a"), new.jwk("b"), {"kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"}] })
            ),
            Ok(2)
        );
    }
    assert_eq!(server_value(&mut client, "SELECT count(*) FROM sync.auth_keys WHERE in_force"), "2");
    assert_eq!((user_of(&mut client, &by_old).is_ok(), user_of(&mut client, &by_new).is_ok()), (true, true));
    assert_eq!(load(&mut client, json!({ "keys": [new.jwk("b")] })), Ok(1));
    assert!(user_of(&mut client, &by_old).is_err());
    assert_eq!(user_of(&mut client, &by_new).as_deref(), Ok("ann"));
    // A set of another issuer touches none of these.
    client.execute("SELECT sync.load_jwks('{\"keys\": []}', 'https://other.example', $1)", &[&AUDIENCE]).expect("loaded");
    assert_eq!(user_of(&mut client, &by_new).as_deref(), Ok("ann"));
    for (set, why) in [
        (json!({}), "this is not a JWK set"),
        (json!({ "keys": [{"kty": "oct", "kid": "s", "k": encode(SECRET.as_bytes())}] }), "must not hold secrets"),
        (json!({ "keys": [{"kty": "EC", "crv": "P-256", "kid": "e", "x": "AA", "y": "AA"}] }), "key e: the JWK's"),
    ] {
        let told = load(&mut client, set).expect_err("refused");
        assert!(told.contains(why), "{told}");
    }

    // By hand: not before, and from when on no more.
    let later = Signer::new("ES256K");
    client
        .execute(
            "SELECT sync.add_auth_key($1, 'ES256K', $2, $3, 'later', not_before => now() + '1 hour')",
            &[&later.pem(), &ISSUER, &AUDIENCE],
        )
        .expect("a key");
    let by_later = later.token(&of_ann(json!({})), json!({ "kid": "later" }));
    assert!(refusal(&mut client, &by_later).starts_with("no key for ES256K"));
    db.run("UPDATE sync.auth_key SET not_before = now() - interval '1 hour' WHERE kid = 'later'");
    assert_eq!(user_of(&mut client, &by_later).as_deref(), Ok("ann"));
    db.run("SELECT sync.retire_auth_key(key_id) FROM sync.auth_keys WHERE kid = 'later'");
    assert!(user_of(&mut client, &by_later).is_err());
    db.run("SELECT sync.retire_auth_key(key_id, NULL) FROM sync.auth_keys WHERE kid = 'later'");
    assert_eq!(user_of(&mut client, &by_later).as_deref(), Ok("ann"));
    db.run("SELECT sync.drop_auth_key(key_id) FROM sync.auth_keys WHERE kid = 'later'");
    assert!(user_of(&mut client, &by_later).is_err());
    assert!(db.try_run("SELECT sync.drop_auth_key(gen_random_uuid())").expect_err("unknown").contains("there is no key"));
}

#[test]
fn keys_and_services_travel_in_a_dump() {
    let signer = Signer::new("ES256");
    let (db, _) = with_key(&signer.pem(), "ES256", Some("k"));
    db.run("SELECT sync.accept_dids('did:web:sync.example', 'com.example.sync')");
    let token = signer.token(&of_ann(json!({})), json!({ "kid": "k" }));
    let restored = Cluster::shared().empty_database();
    restored.load(&db.dump(&[]));
    let mut client = restored.connect();
    assert_eq!(user_of(&mut client, &token).as_deref(), Ok("ann"));
    assert_eq!(server_value(&mut client, "SELECT count(*) FROM sync.did_service"), "1");
    // Another key can be added there.
    add_key(&restored, &signer.pem(), "ES256", Some("other"));
}

#[test]
fn keys_that_prove_nothing_are_refused() {
    let db = Cluster::shared().database();
    let mut client = db.connect();
    let mut told = |key: &str, algorithm: &str| {
        let added = client.execute("SELECT sync.add_auth_key($1, $2, $3, $4)", &[&key, &algorithm, &ISSUER, &AUDIENCE]);
        describe(&added.expect_err("refused"))
    };
    let (curve, rsa) = (Signer::new("ES256"), Signer::new("RS256"));
    assert!(told("short", "HS256").contains("the secret has 5 bytes; HS256 needs at least 32"));
    assert!(told(SECRET, "RS256").contains("it is neither PEM"));
    assert!(told(&curve.pem(), "RS256").contains("the PEM does not hold a key for RS256"));
    assert!(told(&rsa.pem(), "HS256").contains("HS256 takes a secret, never a public key"));
    assert!(told(&curve.jwk("a").to_string(), "EdDSA").contains("it is a key for ES256, not for EdDSA"));
    assert!(told(&rsa.private_pem(), "RS256").contains("give no private key"));
    let mut private = curve.jwk("a");
    private["d"] = json!("AAAA");
    assert!(told(&private.to_string(), "ES256").contains("the JWK holds a private key"));
    let weak = Signer::made("RS256", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    assert!(told(&weak.pem(), "RS256").contains("the RSA key has 1024 bits; 2048 to 4096 are taken"));
    assert!(told(&rsa.pem(), "none").contains("algorithm \"none\" is not known"));
    // The weak points of Ed25519, under which one signature fits many messages.
    let zero = json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(&[0; 32]) });
    assert!(told(&zero.to_string(), "EdDSA").contains("the key cannot be used"));
    // A point that is not on the curve.
    let mut off = curve.jwk("a");
    off["y"] = json!(encode(&[7; 32]));
    assert!(told(&off.to_string(), "ES256").contains("are not a point of its curve"));
}
