//! Keys that tokens are signed with: read from JWK or PEM, kept as JWK, each for one algorithm only.

use base64ct::{Base64UrlUnpadded, Encoding};
use hmac::{Hmac, Mac};
use rsa::pkcs8::DecodePublicKey;
use rsa::traits::PublicKeyParts;
use rsa::BigUint;
use serde_json::{json, Map, Value as Json};
use sha2::Sha256;

/// What a token may be signed with. A key says which one; a token's header must say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Hs256,
    Rs256,
    Es256,
    Es256k,
    EdDsa,
}

impl Algorithm {
    pub const ALL: [Algorithm; 5] = [Self::Hs256, Self::Rs256, Self::Es256, Self::Es256k, Self::EdDsa];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es256k => "ES256K",
            Self::EdDsa => "EdDSA",
        }
    }

    /// By its exact name: `none` and everything else is no algorithm.
    pub fn named(name: &str) -> Option<Algorithm> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }
}

/// Smallest secret of HS256, as RFC 7518 asks.
const SECRET_BYTES: usize = 32;
/// Sizes of an RSA modulus: shorter ones can be factored, longer ones only cost time.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=4_096;

/// A key that signatures are checked with.
pub enum Key {
    Secret(Vec<u8>),
    Rsa(Box<rsa::RsaPublicKey>),
    P256(Box<p256::ecdsa::VerifyingKey>),
    Secp256k1(Box<k256::ecdsa::VerifyingKey>),
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
}

impl Key {
    /// Reads a public key as PEM (`PUBLIC KEY`), a key as JWK, or any other text as the secret of HS256.
    pub fn read(text: &str, algorithm: Algorithm) -> Result<Key, String> {
        let trimmed = text.trim();
        let key = if trimmed.starts_with("-----BEGIN") {
            Key::from_pem(trimmed, algorithm)?
        } else if trimmed.starts_with('{') {
            let jwk: Json = serde_json::from_str(trimmed).map_err(|e| format!("the JWK is not JSON: {e}"))?;
            Key::from_jwk(&jwk)?
        } else if algorithm == Algorithm::Hs256 {
            Key::Secret(text.as_bytes().to_vec())
        } else {
            return Err("it is neither PEM (-----BEGIN PUBLIC KEY-----) nor a JWK ({...})".to_owned());
        };
        key.check()?;
        if key.algorithm() != algorithm {
            return Err(format!("it is a key for {}, not for {}", key.algorithm().name(), algorithm.name()));
        }
        Ok(key)
    }

    fn from_pem(pem: &str, algorithm: Algorithm) -> Result<Key, String> {
        if !pem.starts_with("-----BEGIN PUBLIC KEY-----") {
            return Err("it must be a PUBLIC KEY in PEM; give no private key to a server that only checks signatures".to_owned());
        }
        let wrong = |_| format!("the PEM does not hold a key for {}", algorithm.name());
        Ok(match algorithm {
            Algorithm::Hs256 => return Err("HS256 takes a secret, never a public key".to_owned()),
            Algorithm::Rs256 => Key::Rsa(Box::new(rsa::RsaPublicKey::from_public_key_pem(pem).map_err(wrong)?)),
            Algorithm::Es256 => Key::P256(Box::new(p256::ecdsa::VerifyingKey::from_public_key_pem(pem).map_err(wrong)?)),
            Algorithm::Es256k => Key::Secp256k1(Box::new(k256::ecdsa::VerifyingKey::from_public_key_pem(pem).map_err(wrong)?)),
            Algorithm::EdDsa => Key::Ed25519(Box::new(ed25519_dalek::VerifyingKey::from_public_key_pem(pem).map_err(wrong)?)),
        })
    }

    /// Reads a JWK (RFC 7517). One with private parts is refused.
    pub fn from_jwk(jwk: &Json) -> Result<Key, String> {
        let text = |name: &str| jwk.get(name).and_then(Json::as_str).unwrap_or_default();
        let bytes = |name: &str| match Base64UrlUnpadded::decode_vec(text(name)) {
            Ok(bytes) if !bytes.is_empty() => Ok(bytes),
            _ => Err(format!("the JWK has no \"{name}\" in base64url")),
        };
        if text("kty") != "oct" && jwk.get("d").is_some() {
            return Err("the JWK holds a private key (\"d\"); give only its public part".to_owned());
        }
        let key = match (text("kty"), text("crv")) {
            ("oct", _) => Key::Secret(bytes("k")?),
            ("RSA", _) => {
                let (n, e) = (BigUint::from_bytes_be(&bytes("n")?), BigUint::from_bytes_be(&bytes("e")?));
                let key = rsa::RsaPublicKey::new(n, e).map_err(|e| format!("the JWK's RSA key cannot be used: {e}"))?;
                Key::Rsa(Box::new(key))
            }
            ("EC", "P-256") => {
                Key::P256(Box::new(point(&bytes("x")?, &bytes("y")?, p256::ecdsa::VerifyingKey::from_sec1_bytes)?))
            }
            ("EC", "secp256k1") => {
                Key::Secp256k1(Box::new(point(&bytes("x")?, &bytes("y")?, k256::ecdsa::VerifyingKey::from_sec1_bytes)?))
            }
            ("OKP", "Ed25519") => {
                let key = <[u8; 32]>::try_from(bytes("x")?).ok().and_then(|x| ed25519_dalek::VerifyingKey::from_bytes(&x).ok());
                Key::Ed25519(Box::new(key.ok_or("the JWK's \"x\" is not a point of Ed25519")?))
            }
            (kty, crv) => {
                return Err(format!("a key of type \"{kty}\" {crv} is not known: RSA, EC P-256 or secp256k1, OKP Ed25519, oct"))
            }
        };
        key.check()?;
        Ok(key)
    }

    /// A point of one of the two curves, compressed.
    pub fn from_compressed(point: &[u8], algorithm: Algorithm) -> Option<Key> {
        match algorithm {
            _ if point.len() != 33 => None,
            Algorithm::Es256 => Some(Key::P256(Box::new(p256::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?))),
            Algorithm::Es256k => Some(Key::Secp256k1(Box::new(k256::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?))),
            _ => None,
        }
    }

    /// Whether a signature of a curve is the upper one of the two that say the same.
    pub fn is_high(&self, signature: &[u8]) -> bool {
        match self {
            Key::P256(_) => p256::ecdsa::Signature::from_slice(signature).is_ok_and(|s| s.normalize_s().is_some()),
            Key::Secp256k1(_) => k256::ecdsa::Signature::from_slice(signature).is_ok_and(|s| s.normalize_s().is_some()),
            _ => false,
        }
    }

    /// Refuses keys that are too weak, or too slow, to check anything with.
    fn check(&self) -> Result<(), String> {
        match self {
            Key::Secret(secret) if secret.len() < SECRET_BYTES => {
                Err(format!("the secret has {} bytes; HS256 needs at least {SECRET_BYTES}", secret.len()))
            }
            Key::Rsa(key) if !RSA_BITS.contains(&key.n().bits()) => {
                Err(format!("the RSA key has {} bits; {} to {} are taken", key.n().bits(), RSA_BITS.start(), RSA_BITS.end()))
            }
            Key::Ed25519(key) if key.is_weak() => Err("the Ed25519 key is one of the weak points".to_owned()),
            _ => Ok(()),
        }
    }

    /// The one algorithm that this key is for.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Key::Secret(_) => Algorithm::Hs256,
            Key::Rsa(_) => Algorithm::Rs256,
            Key::P256(_) => Algorithm::Es256,
            Key::Secp256k1(_) => Algorithm::Es256k,
            Key::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// The key as a JWK with nothing but the key in it.
    pub fn to_jwk(&self) -> Json {
        let text = |bytes: &[u8]| Json::String(Base64UrlUnpadded::encode_string(bytes));
        let curve =
            |crv: &str, point: &[u8]| json!({ "kty": "EC", "crv": crv, "x": text(&point[1..33]), "y": text(&point[33..65]) });
        match self {
            Key::Secret(secret) => json!({ "kty": "oct", "k": text(secret) }),
            Key::Rsa(key) => json!({ "kty": "RSA", "n": text(&key.n().to_bytes_be()), "e": text(&key.e().to_bytes_be()) }),
            Key::P256(key) => curve("P-256", key.to_encoded_point(false).as_bytes()),
            Key::Secp256k1(key) => curve("secp256k1", key.to_encoded_point(false).as_bytes()),
            Key::Ed25519(key) => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(key.as_bytes()) }),
        }
    }

    /// Whether `signature`, as JWS writes it, is this key's over `signed`.
    pub fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        use rsa::signature::Verifier;
        match self {
            Key::Secret(secret) => {
                let mac = Hmac::<Sha256>::new_from_slice(secret).map(|mac| mac.chain_update(signed));
                mac.is_ok_and(|mac| mac.verify_slice(signature).is_ok())
            }
            Key::Rsa(key) => {
                let key = rsa::pkcs1v15::VerifyingKey::<Sha256>::new((**key).clone());
                rsa::pkcs1v15::Signature::try_from(signature).is_ok_and(|s| key.verify(signed, &s).is_ok())
            }
            Key::P256(key) => p256::ecdsa::Signature::from_slice(signature).is_ok_and(|s| key.verify(signed, &s).is_ok()),
            // The other half of the curve's signatures, which JWS allows, is the same signature said differently.
            Key::Secp256k1(key) => k256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|s| key.verify(signed, &s.normalize_s().unwrap_or(s)).is_ok()),
            Key::Ed25519(key) => <&[u8; 64]>::try_from(signature)
                .is_ok_and(|s| key.verify_strict(signed, &ed25519_dalek::Signature::from_bytes(s)).is_ok()),
        }
    }
}

/// A point of a curve from its two coordinates.
fn point<K, E>(x: &[u8], y: &[u8], read: impl FnOnce(&[u8]) -> Result<K, E>) -> Result<K, String> {
    let wrong = "the JWK's \"x\" and \"y\" are not a point of its curve";
    if x.len() != 32 || y.len() != 32 {
        return Err(wrong.to_owned());
    }
    read(&[&[4], x, y].concat()).map_err(|_| wrong.to_owned())
}

/// The keys of a JWK set that can check signatures, with their names.
pub fn read_set(set: &Json) -> Result<Vec<(Option<String>, Key)>, String> {
    let Some(Json::Array(keys)) = set.get("keys") else {
        return Err("this is not a JWK set: it has no list \"keys\"".to_owned());
    };
    let mut found = Vec::new();
    for jwk in keys {
        let Json::Object(fields) = jwk else { return Err("a key of the set is not an object".to_owned()) };
        if is_for_other_things(fields) {
            continue;
        }
        let name = fields.get("kid").and_then(Json::as_str).map(str::to_owned);
        let named = |e: String| format!("key {}: {e}", name.as_deref().unwrap_or("without a kid"));
        if fields.get("kty").and_then(Json::as_str) == Some("oct") {
            return Err(named("a set that is published must not hold secrets; use sync.add_auth_key".to_owned()));
        }
        let key = Key::from_jwk(jwk).map_err(named)?;
        match fields.get("alg").map(|a| a.as_str().and_then(Algorithm::named)) {
            None => {}
            Some(Some(algorithm)) if algorithm == key.algorithm() => {}
            // RS512 and the like: a key for tokens that are refused anyway.
            Some(_) => continue,
        }
        found.push((name, key));
    }
    Ok(found)
}

/// Whether a key of a set is there to encrypt, or of a kind that no algorithm here uses.
fn is_for_other_things(jwk: &Map<String, Json>) -> bool {
    let text = |name: &str| jwk.get(name).and_then(Json::as_str);
    let known = matches!(
        (text("kty"), text("crv")),
        (Some("oct" | "RSA"), _) | (Some("EC"), Some("P-256" | "secp256k1")) | (Some("OKP"), Some("Ed25519"))
    );
    let verifies = |ops: &Json| ops.as_array().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    !known || text("use").is_some_and(|u| u != "sig") || jwk.get("key_ops").is_some_and(|ops| !verifies(ops))
}
