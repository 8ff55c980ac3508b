//! Identity proven in the database: a signed token, checked against the keys of `sync.auth_key`, says who asks for the rest of the
//! transaction.
//!
//! - [`key`]: keys and their algorithms
//! - [`token`]: what a token says, and whether it holds now
//! - [`did`]: tokens of the AT Protocol, signed with the key of a decentralized identifier
//!
//! The other way round, [`sign`]: answers that devices know to be this server's.

pub mod did;
pub mod key;
pub mod sign;
pub mod token;

use crate::error::{raise, spi};
use crate::identity::{as_owner, owner};
use crate::query::Kept;
use crate::render::pinned;
use key::{Algorithm, Key};
use pgrx::callbacks::{register_subxact_callback, register_xact_callback, PgSubXactCallbackEvent, PgXactCallbackEvent};
use pgrx::prelude::*;
use pgrx::JsonB;
use serde_json::Value as Json;
use std::cell::RefCell;
use token::Token;

/// Keys that may be tried on one token.
const KEYS_TRIED: i64 = 16;

/// Claims that were proven in this transaction, and the subtransaction that they were proven in.
struct Proven {
    claims: Json,
    within: u32,
}

thread_local! {
    static PROVEN: RefCell<Option<Proven>> = const { RefCell::new(None) };
}

/// The claims that [`authenticate`] proved in this transaction.
pub fn proven_claims() -> Option<Json> {
    PROVEN.with(|proven| proven.borrow().as_ref().map(|p| p.claims.clone()))
}

/// Remembers proven claims until this transaction ends, or the subtransaction that they were proven in is rolled back.
fn remember(claims: Json) {
    let within = crate::identity::current_subtransaction();
    if PROVEN.with(|proven| proven.borrow_mut().replace(Proven { claims, within })).is_some() {
        return;
    }
    let forget = || PROVEN.with(|proven| *proven.borrow_mut() = None);
    register_xact_callback(PgXactCallbackEvent::Commit, forget);
    register_xact_callback(PgXactCallbackEvent::Abort, forget);
    register_xact_callback(PgXactCallbackEvent::Prepare, forget);
    // Numbers of subtransactions grow, and only the innermost ends: one that is not smaller was made within.
    register_subxact_callback(PgSubXactCallbackEvent::AbortSub, |ended, _| {
        PROVEN.with(|proven| {
            let mut proven = proven.borrow_mut();
            if proven.as_ref().is_some_and(|p| p.within >= ended) {
                *proven = None;
            }
        });
    });
}

fn refuse(why: &str) -> ! {
    raise(PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, format!("the token is refused: {why}"))
}

/// Seconds since 1970, by the server's clock.
fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64())
}

/// A key of `sync.auth_key` that a token may have been signed with.
struct Candidate {
    key: Key,
    issuer: Option<String>,
    audience: Option<String>,
}

/// The keys in force that fit a token's algorithm and key name.
fn candidates(token: &Token<'_>) -> Vec<Candidate> {
    const SQL: &str = "SELECT jwk, issuer, audience FROM sync.auth_key
        WHERE algorithm = $1 AND ($2 IS NULL OR kid = $2) AND (not_before IS NULL OR not_before <= pg_catalog.clock_timestamp())
            AND (retires IS NULL OR retires > pg_catalog.clock_timestamp())
        ORDER BY added DESC LIMIT $3";
    let found = pinned(|| {
        as_owner(owner(), || {
            Spi::connect(|c| {
                let rows =
                    c.select(Kept(SQL), None, &[token.algorithm.name().into(), token.kid.as_deref().into(), KEYS_TRIED.into()])?;
                let mut found = Vec::new();
                for row in rows {
                    let jwk = row.get::<JsonB>(1)?.map(|j| j.0).unwrap_or_default();
                    if let Ok(key) = Key::from_jwk(&jwk) {
                        found.push(Candidate { key, issuer: row.get(2)?, audience: row.get(3)? });
                    }
                }
                Ok::<_, pgrx::spi::Error>(found)
            })
        })
    });
    spi("reading the keys of tokens", found)
}

/// The claims of a token that one of the keys in force signed, for the issuer and the audience of that key.
fn by_key(token: Token<'_>) -> Json {
    let candidates = candidates(&token);
    if candidates.is_empty() {
        let kid = token.kid.map_or(String::new(), |kid| format!(" with the kid \"{kid}\""));
        refuse(&format!(
            "no key for {}{kid} is in force: see sync.auth_keys, sync.add_auth_key, sync.load_jwks",
            token.algorithm.name()
        ));
    }
    let signed: Vec<_> = candidates
        .iter()
        .filter(|c| c.key.algorithm() == token.algorithm && c.key.verifies(token.signed, &token.signature))
        .collect();
    if signed.is_empty() {
        refuse("its signature is not that of a key in force");
    }
    // The same key may be there for several issuers or audiences.
    let issued: Vec<_> = signed.iter().filter(|c| c.issuer.as_deref().is_none_or(|i| token::is_from(&token.claims, i))).collect();
    if issued.is_empty() {
        refuse("it is from another issuer (iss) than its key");
    }
    if !issued.iter().any(|c| c.audience.as_deref().is_none_or(|a| token::is_for(&token.claims, a))) {
        refuse("it is meant for another audience (aud)");
    }
    Json::Object(token.claims)
}

/// Verifies a token and makes its user the one who asks, until the transaction ends. Returns the user. Writes nothing, so that it
/// works on a standby.
#[pg_extern(volatile, strict, parallel_unsafe)]
fn authenticate(token: &str) -> String {
    let token = match token::read(token) {
        Ok(token) => token,
        Err(why) => refuse(&why),
    };
    let mut claims = if did::is_one(&token) { did::by_did(token) } else { by_key(token) };
    if let Err(why) = claims.as_object().map_or(Ok(()), |claims| token::check_times(claims, now())) {
        refuse(&why);
    }
    let user = match claims.get("sub") {
        Some(Json::String(sub)) if !sub.is_empty() => sub.clone(),
        Some(Json::Number(sub)) => sub.to_string(),
        _ => refuse("it names no user: the claim \"sub\" is missing or empty"),
    };
    claims["sub"] = Json::String(user.clone());
    crate::render::set_local(c"request.jwt.claims", &claims.to_string());
    remember(claims);
    user
}

/// A key as `sync.auth_key` keeps it, from PEM, JWK or the text of a secret.
#[pg_extern(immutable, strict, parallel_safe)]
fn jwk_of(key: &str, algorithm: &str) -> JsonB {
    let Some(known) = Algorithm::named(algorithm) else {
        let names: Vec<_> = Algorithm::ALL.iter().map(|a| a.name()).collect();
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("algorithm \"{algorithm}\" is not known; these are: {}", names.join(", ")),
        )
    };
    match Key::read(key, known) {
        Ok(key) => JsonB(key.to_jwk()),
        Err(why) => raise(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("the key cannot be used: {why}")),
    }
}

/// The keys of a JWK set that tokens can be checked with.
#[pg_extern(immutable, strict, parallel_safe)]
fn keys_of_set(jwks: JsonB) -> TableIterator<'static, (name!(kid, Option<String>), name!(algorithm, String), name!(jwk, JsonB))> {
    match key::read_set(&jwks.0) {
        Ok(keys) => {
            TableIterator::new(keys.into_iter().map(|(kid, key)| (kid, key.algorithm().name().to_owned(), JsonB(key.to_jwk()))))
        }
        Err(why) => raise(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("the keys cannot be used: {why}")),
    }
}
