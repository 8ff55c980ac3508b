//! Tokens of the AT Protocol: an identifier's own key proves the identifier, and nothing else.

use crate::signer::{encode, now, Signer};
use postgres::Client;
use serde_json::{json, Value as Json};
use std::path::{Path, PathBuf};
use std::process::Command;
use sync_tests::cluster::describe;
use sync_tests::compare::server_value;
use sync_tests::{Cluster, Database};

const SERVICE: &str = "did:web:sync.example";
const METHOD: &str = "com.example.sync";
const PLC: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";

fn service() -> (Database<'static>, Client) {
    let db = Cluster::shared().database();
    db.run(&format!("SELECT sync.accept_dids('{SERVICE}', '{METHOD}')"));
    let client = db.connect();
    (db, client)
}

/// The claims that a token proves; or why it is refused.
fn proven(client: &mut Client, token: &str) -> Result<Json, String> {
    let mut transaction = client.build_transaction().read_only(true).start().expect("a transaction");
    let user: String = transaction.query_one("SELECT sync.authenticate($1)", &[&token]).map_err(|e| describe(&e))?.get(0);
    let claims: String = transaction.query_one("SELECT sync.claims()::text", &[]).expect("claims").get(0);
    let claims: Json = serde_json::from_str(&claims).expect("JSON");
    assert_eq!(claims["sub"], user.as_str());
    Ok(claims)
}

/// A public key in the form that identifiers and their documents use.
fn multikey(signer: &Signer) -> String {
    let point = signer.point();
    let prefix: &[u8] = if signer.algorithm == "ES256" { &[0x80, 0x24] } else { &[0xe7, 0x01] };
    let bytes = [prefix, &[2 + (point[63] & 1)], &point[..32]].concat();
    format!("z{}", bs58::encode(bytes).into_string())
}

fn document(did: &str, multikey: &str) -> Json {
    json!({
        "@context": ["https://www.w3.org/ns/did/v1"],
        "id": did,
        "verificationMethod": [
            { "id": format!("{did}#other"), "type": "Multikey", "controller": did, "publicKeyMultibase": "zSomethingElse" },
            { "id": format!("{did}#atproto"), "type": "Multikey", "controller": did, "publicKeyMultibase": multikey },
        ],
    })
}

fn put(client: &mut Client, document: &Json) -> Result<String, String> {
    client
        .query_one("SELECT sync.put_did_document($1::text::jsonb)", &[&document.to_string()])
        .map(|row| row.get(0))
        .map_err(|e| describe(&e))
}

fn claims(did: &str, more: Json) -> Json {
    let mut claims = json!({ "iss": did, "aud": SERVICE, "lxm": METHOD, "iat": now(), "exp": now() + 60, "jti": "x" });
    for (name, value) in more.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims
}

/// A token whose signature is the lower (or the upper) of the two that say the same.
fn signed(signer: &Signer, claims: &Json, low: bool) -> String {
    let header = json!({ "alg": signer.algorithm, "typ": "JWT" }).to_string();
    let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.to_string().as_bytes()));
    loop {
        let signature = signer.sign(signed.as_bytes());
        if (low && signature[32] < 0x7f) || (!low && signature[32] >= 0x80) {
            return format!("{signed}.{}", encode(&signature));
        }
    }
}

#[test]
fn a_did_key_proves_itself() {
    let (db, mut client) = service();
    for algorithm in ["ES256", "ES256K"] {
        let signer = Signer::new(algorithm);
        let did = format!("did:key:{}", multikey(&signer));
        let found = proven(&mut client, &signed(&signer, &claims(&did, json!({})), true)).expect("proven");
        assert_eq!((found["sub"].as_str(), found["role"].as_str()), (Some(did.as_str()), None));

        // Only the identifier is proven: who somebody else is, or what role to take, its owner cannot say.
        let bold = claims(&did, json!({ "sub": "admin", "role": "postgres", "team": 7 }));
        let found = proven(&mut client, &signed(&signer, &bold, true)).expect("proven");
        assert_eq!((found["sub"].as_str(), found.get("role"), found.get("team")), (Some(did.as_str()), None, None));

        let mut refused = |token: &str, why: &str| {
            let told = proven(&mut client, token).expect_err("refused");
            assert!(told.contains(why), "{told}");
        };
        refused(&signed(&signer, &claims(&did, json!({})), false), "its signature is not that of its identifier's key");
        refused(
            &signed(&Signer::new(algorithm), &claims(&did, json!({})), true),
            "its signature is not that of its identifier's key",
        );
        let mut other = Signer::new("ES256");
        other.algorithm = "ES256K";
        refused(&signed(&other, &claims(&did, json!({})), true), "its signature is not that of its identifier's key");
        refused(&signed(&signer, &claims(&did, json!({ "aud": "did:web:other.example" })), true), "another service (aud)");
        refused(&signed(&signer, &claims(&did, json!({ "lxm": "com.example.other" })), true), "another method (lxm)");
        refused(&signed(&signer, &claims(&did, json!({ "exp": now() - 120 })), true), "it has expired");
        for issuer in
            ["did:key:", "did:key:z", "did:key:zQ3", "did:example:1", "did:plc:short", "did:web:a/b", "did:", "did:key:zz0OIl"]
        {
            assert!(proven(&mut client, &signed(&signer, &claims(issuer, json!({})), true)).is_err(), "{issuer}");
        }
    }
    // A role for these people, and kinds that a service does not take.
    db.run(&format!("SELECT sync.accept_dids('{SERVICE}', '{METHOD}', '{{key}}', 'pg_read_all_data')"));
    let signer = Signer::new("ES256");
    let did = format!("did:key:{}", multikey(&signer));
    assert_eq!(
        proven(&mut client, &signed(&signer, &claims(&did, json!({})), true)).expect("proven")["role"],
        "pg_read_all_data"
    );
    let told = proven(&mut client, &signed(&signer, &claims(PLC, json!({})), true)).expect_err("refused");
    assert!(told.contains("identifiers of the kind did:plc are not taken"), "{told}");
    db.run(&format!("SELECT sync.refuse_dids('{SERVICE}', '{METHOD}')"));
    assert!(proven(&mut client, &signed(&signer, &claims(&did, json!({})), true)).is_err());
}

#[test]
fn documents_name_the_keys_of_other_identifiers() {
    let (db, mut client) = service();
    let (old, new) = (Signer::new("ES256K"), Signer::new("ES256"));
    for did in [PLC, "did:web:ann.example", "did:web:localhost%3A3000"] {
        let by_old = signed(&old, &claims(did, json!({})), true);
        let by_new = signed(&new, &claims(&format!("{did}#atproto_labeler"), json!({})), true);
        let told = proven(&mut client, &by_old).expect_err("unknown");
        assert!(told.starts_with("02000") && told.contains("sync.put_did_document()"), "{told}");
        assert_eq!(put(&mut client, &document(did, &multikey(&old))).as_deref(), Ok(did));
        assert_eq!(proven(&mut client, &by_old).expect("proven")["sub"], did);
        assert!(proven(&mut client, &by_new).is_err());
        // The identity got another key: the newer document alone counts.
        assert_eq!(put(&mut client, &document(did, &multikey(&new))).as_deref(), Ok(did));
        assert!(proven(&mut client, &by_old).is_err());
        assert_eq!(proven(&mut client, &by_new).expect("proven")["sub"], did);
        // Too old to be relied on; and not kept for ever.
        db.run(&format!("UPDATE sync.did_document SET fetched = now() - interval '2 days' WHERE did = '{did}'"));
        assert!(proven(&mut client, &by_new).expect_err("too old").starts_with("02000"));
        assert_eq!(put(&mut client, &document("did:web:other.example", &multikey(&new))).as_deref(), Ok("did:web:other.example"));
        assert_eq!(server_value(&mut client, &format!("SELECT count(*) FROM sync.did_document WHERE did = '{did}'")), "0");
    }
    let key = multikey(&new);
    let mut of_somebody_else = document(PLC, &key);
    of_somebody_else["verificationMethod"][1]["controller"] = json!("did:web:attacker.example");
    let mut of_another_kind = document(PLC, &key);
    of_another_kind["verificationMethod"][1]["type"] = json!("JsonWebKey2020");
    for (document, why) in [
        (json!({}), "it has no \"id\""),
        (json!([]), "it has no \"id\""),
        (document("did:key:z123", &key), "is not a did:plc or did:web"),
        (json!({ "id": PLC }), "names no key #atproto"),
        (json!({ "id": PLC, "verificationMethod": "x" }), "names no key #atproto"),
        (of_somebody_else, "names no key #atproto"),
        (of_another_kind, "is not a Multikey"),
        (document(PLC, "zzzz"), "no compressed point"),
        (document(PLC, &"z1".repeat(10_000)), "no compressed point"),
    ] {
        let told = put(&mut client, &document).expect_err("refused");
        assert!(told.contains(why), "{told}");
    }
}

/// The folder of the AT Protocol's packages, see `./dev setup`.
fn packages() -> PathBuf {
    PathBuf::from(std::env::var("SYNC_ATPROTO").expect("SYNC_ATPROTO names the folder of the packages: run ./dev test"))
}

#[test]
fn tokens_of_the_atproto_packages_are_taken() {
    let (_db, mut client) = service();
    let made = |issuer: &[&str]| -> Vec<Json> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("atproto/sign.mjs");
        let mut node = Command::new("node");
        let output =
            node.env("SYNC_ATPROTO", packages()).arg(script).args([SERVICE, METHOD]).args(issuer).output().expect("node");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let text = |token: &Json, name: &str| token[name].as_str().expect("text").to_owned();
    for token in made(&[]) {
        let found = proven(&mut client, &text(&token, "token")).expect("proven");
        assert_eq!(found["sub"], token["did"], "{}", token["algorithm"]);
        let whole = text(&token, "token");
        let (signed, signature) = whole.rsplit_once('.').expect("parts");
        let changed = if signature.starts_with('A') { signature.replacen('A', "B", 1) } else { format!("A{}", &signature[1..]) };
        assert!(proven(&mut client, &format!("{signed}.{changed}")).is_err(), "a changed signature");
    }
    for token in made(&[PLC]) {
        put(&mut client, &document(PLC, &text(&token, "multikey"))).expect("stored");
        assert_eq!(proven(&mut client, &text(&token, "token")).expect("proven")["sub"], PLC);
    }
}
