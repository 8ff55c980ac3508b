//! Tokens between services of the AT Protocol: signed by the person's own key, which the identifier itself (`did:key`) or its
//! document (`did:plc`, `did:web`) names. Such a token proves the identifier and nothing else: no other claim of it is believed.

use super::key::{Algorithm, Key};
use super::refuse;
use super::token::Token;
use crate::error::{raise, spi};
use crate::identity::{as_owner, owner};
use crate::query::Kept;
use crate::render::pinned;
use pgrx::prelude::*;
use pgrx::JsonB;
use serde_json::{json, Value as Json};

/// Longest identifier, as the AT Protocol bounds it.
const DID_BYTES: usize = 2_048;
/// What stands before the bytes of a compressed point, by its curve.
const SECP256K1: [u8; 2] = [0xe7, 0x01];
const P256: [u8; 2] = [0x80, 0x24];

/// Whether a token is issued by an identifier rather than by a service with keys of its own.
pub fn is_one(token: &Token<'_>) -> bool {
    issuer(token).starts_with("did:")
}

fn issuer<'a>(token: &'a Token<'_>) -> &'a str {
    token.claims.get("iss").and_then(Json::as_str).unwrap_or_default()
}

/// What a valid token proves: the identifier, and the role that people of the asked service write as.
pub fn by_did(token: Token<'_>) -> Json {
    // A part of the identity may speak for it: did:plc:abc#atproto_labeler. The user is the identity.
    let did = issuer(&token).split('#').next().unwrap_or_default().to_owned();
    let Some(method) = method(&did) else { refuse("its issuer is no identifier of the kinds did:key, did:plc, did:web") };
    let text = |name: &str| token.claims.get(name).and_then(Json::as_str).map(str::to_owned);
    let Some((methods, role)) = service(text("aud").as_deref(), text("lxm").as_deref()) else {
        refuse("it is meant for another service (aud) or another method (lxm): see sync.did_service")
    };
    if !methods.iter().any(|m| m == method) {
        refuse(&format!("identifiers of the kind did:{method} are not taken by this service: see sync.did_service"));
    }
    let key = match did.strip_prefix("did:key:") {
        Some(multikey) => read_multikey(multikey).unwrap_or_else(|why| refuse(&why)),
        None => documented_key(&did),
    };
    // Only one of the two halves of a curve's signatures is taken, so that nobody can say a token in a second way.
    if key.algorithm() != token.algorithm || !key.verifies(token.signed, &token.signature) || key.is_high(&token.signature) {
        refuse("its signature is not that of its identifier's key");
    }
    let mut claims = json!({ "sub": did });
    for name in ["iss", "aud", "lxm", "exp", "nbf", "iat", "jti"] {
        if let Some(value) = token.claims.get(name) {
            claims[name] = value.clone();
        }
    }
    if let Some(role) = role {
        claims["role"] = Json::String(role);
    }
    claims
}

/// The kind of an identifier that is well formed.
fn method(did: &str) -> Option<&'static str> {
    if did.len() > DID_BYTES {
        return None;
    }
    let (method, id) = did.strip_prefix("did:")?.split_once(':')?;
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    match method {
        "key" if id.starts_with('z') => Some("key"),
        "plc" if id.len() == 24 && id.chars().all(|c| matches!(c, 'a'..='z' | '2'..='7')) => Some("plc"),
        // A whole host only, with a port where it is not the usual one.
        "web" if !id.is_empty() && id.replacen("%3A", "", 1).chars().all(is_name) => Some("web"),
        _ => None,
    }
}

/// The kinds of identifiers that a service takes and the role that its people write as; None: there is no such service here.
fn service(audience: Option<&str>, lxm: Option<&str>) -> Option<(Vec<String>, Option<String>)> {
    const SQL: &str = "SELECT methods, role::text FROM sync.did_service WHERE audience = $1 AND (lxm IS NULL OR lxm = $2)
        ORDER BY lxm NULLS LAST LIMIT 1";
    let found = pinned(|| {
        as_owner(owner(), || {
            Spi::connect(|c| {
                let rows = c.select(Kept(SQL), Some(1), &[audience.into(), lxm.into()])?;
                match rows.into_iter().next() {
                    Some(row) => Ok::<_, pgrx::spi::Error>(Some((row.get(1)?.unwrap_or_default(), row.get(2)?))),
                    None => Ok(None),
                }
            })
        })
    });
    spi("reading the services that take identifiers", found)
}

/// The signing key that the stored document of `did` names.
fn documented_key(did: &str) -> Key {
    const SQL: &str = "SELECT document FROM sync.did_document
        WHERE did = $1 AND fetched > pg_catalog.clock_timestamp() - sync.did_document_age()";
    let found = pinned(|| {
        as_owner(owner(), || {
            Spi::connect(|c| {
                let rows = c.select(Kept(SQL), Some(1), &[did.into()])?;
                rows.into_iter().next().map_or(Ok(None), |row| row.get::<JsonB>(1))
            })
        })
    });
    let Some(document) = spi("reading the document of an identifier", found) else {
        raise(
            PgSqlErrorCode::ERRCODE_NO_DATA,
            format!("there is no recent document of {did}: fetch it, give it to sync.put_did_document(), authenticate again"),
        )
    };
    read_document(did, &document.0).unwrap_or_else(|why| refuse(&why))
}

/// The key `#atproto` of a document.
fn read_document(did: &str, document: &Json) -> Result<Key, String> {
    if document.get("id").and_then(Json::as_str) != Some(did) {
        return Err(format!("the document is not that of {did}"));
    }
    let methods = document.get("verificationMethod").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
    let is_ours = |m: &&Json| {
        let id = m.get("id").and_then(Json::as_str).unwrap_or_default();
        id.strip_prefix(did).unwrap_or(id) == "#atproto" && m.get("controller").and_then(Json::as_str) == Some(did)
    };
    let Some(method) = methods.iter().find(is_ours) else { return Err(format!("the document of {did} names no key #atproto")) };
    if method.get("type").and_then(Json::as_str) != Some("Multikey") {
        return Err(format!("the key #atproto of {did} is not a Multikey"));
    }
    read_multikey(method.get("publicKeyMultibase").and_then(Json::as_str).unwrap_or_default())
}

/// A key in the form of `did:key`: base58btc, with the curve in front.
fn read_multikey(text: &str) -> Result<Key, String> {
    let wrong = || "the identifier's key is no compressed point of P-256 or secp256k1 in base58btc".to_owned();
    // 35 bytes take 48 characters; nothing longer is decoded.
    let bytes =
        text.strip_prefix('z').filter(|t| t.len() <= 64).and_then(|t| bs58::decode(t).into_vec().ok()).ok_or_else(wrong)?;
    let algorithm = match bytes.get(..2) {
        Some(prefix) if prefix == SECP256K1 => Algorithm::Es256k,
        Some(prefix) if prefix == P256 => Algorithm::Es256,
        _ => return Err(wrong()),
    };
    Key::from_compressed(&bytes[2..], algorithm).ok_or_else(wrong)
}

/// The identifier that a document is of, if a token of it could be verified.
#[pg_extern(immutable, strict, parallel_safe)]
fn did_of_document(document: JsonB) -> String {
    let refuse = |why: String| -> ! {
        raise(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("the DID document is refused: {why}"))
    };
    let Some(did) = document.0.get("id").and_then(Json::as_str) else { refuse("it has no \"id\"".to_owned()) };
    if !matches!(method(did), Some("plc" | "web")) {
        refuse(format!("\"{}\" is not a did:plc or did:web", did.chars().take(100).collect::<String>()));
    }
    match read_document(did, &document.0) {
        Ok(_) => did.to_owned(),
        Err(why) => refuse(why),
    }
}
