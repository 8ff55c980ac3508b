//! A signed token (RFC 7519 in the compact form of RFC 7515): taken apart, and its claims checked. Pure: no clock, no database.

use super::key::Algorithm;
use base64ct::{Base64UrlUnpadded, Encoding};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

/// Longest token that is looked at, in bytes.
const TOKEN_BYTES: usize = 16 * 1024;
/// How far the clocks of the one who signed and of this server may be apart, in seconds.
pub const LEEWAY: f64 = 60.0;

/// What the header may say. Fields that would choose a key (`jwk`, `jku`, `x5u`, `x5c`) or change the rules (`crit`) are refused.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    jwk: Option<Json>,
    jku: Option<Json>,
    x5u: Option<Json>,
    x5c: Option<Json>,
    crit: Option<Json>,
    b64: Option<Json>,
}

/// A token taken apart; nothing in it is proven yet.
pub struct Token<'a> {
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    /// What was signed.
    pub signed: &'a [u8],
    pub signature: Vec<u8>,
    /// What it claims: only to be believed once a key has verified the signature.
    pub claims: Map<String, Json>,
}

/// Takes a token apart.
pub fn read(token: &str) -> Result<Token<'_>, String> {
    if token.len() > TOKEN_BYTES {
        return Err(format!("it has {} bytes, more than {TOKEN_BYTES}", token.len()));
    }
    let shape = || "it is not three parts in base64url with dots between them".to_owned();
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(shape());
    };
    let signed = &token.as_bytes()[..header.len() + 1 + payload.len()];
    let decode = |part: &str| Base64UrlUnpadded::decode_vec(part).map_err(|_| shape());
    let header: Header =
        serde_json::from_slice(&decode(header)?).map_err(|_| "its header is not what a token begins with".to_owned())?;
    if [&header.jwk, &header.jku, &header.x5u, &header.x5c, &header.crit, &header.b64].into_iter().any(Option::is_some) {
        return Err(
            "its header brings or points to a key of its own, or changes the rules (jwk, jku, x5u, x5c, crit, b64)".to_owned()
        );
    }
    if header.typ.is_some_and(|typ| !["JWT", "AT+JWT", "APPLICATION/AT+JWT"].contains(&typ.to_ascii_uppercase().as_str())) {
        return Err("its type (typ) is another than JWT".to_owned());
    }
    let Some(algorithm) = Algorithm::named(&header.alg) else {
        return Err("its algorithm is none of HS256, RS256, ES256, ES256K, EdDSA".to_owned());
    };
    let claims = serde_json::from_slice(&decode(payload)?).map_err(|_| "its claims are not a JSON object".to_owned())?;
    Ok(Token { algorithm, kid: header.kid, signed, signature: decode(signature)?, claims })
}

/// Whether verified claims hold at `now`, in seconds since 1970.
pub fn check_times(claims: &Map<String, Json>, now: f64) -> Result<(), String> {
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().filter(|t| t.is_finite()).map(Some).ok_or(format!("its claim \"{name}\" is not a time")),
    };
    match time("exp")? {
        None => return Err("it never expires: the claim \"exp\" is missing".to_owned()),
        Some(exp) if exp + LEEWAY <= now => return Err("it has expired: get a new one".to_owned()),
        Some(_) => {}
    }
    if time("nbf")?.is_some_and(|nbf| nbf - LEEWAY > now) {
        return Err("it is not valid yet (nbf): compare the clocks".to_owned());
    }
    if time("iat")?.is_some_and(|iat| iat - LEEWAY > now) {
        return Err("it was issued in the future (iat): compare the clocks".to_owned());
    }
    Ok(())
}

/// Whether verified claims come from `issuer`.
pub fn is_from(claims: &Map<String, Json>, issuer: &str) -> bool {
    claims.get("iss").and_then(Json::as_str) == Some(issuer)
}

/// Whether verified claims are meant for `audience`, alone or among others.
pub fn is_for(claims: &Map<String, Json>, audience: &str) -> bool {
    match claims.get("aud") {
        Some(Json::String(one)) => one == audience,
        Some(Json::Array(several)) => several.iter().any(|one| one == audience),
        _ => false,
    }
}
