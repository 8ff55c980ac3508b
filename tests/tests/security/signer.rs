//! Somebody else who makes keys and tokens: the program `openssl`, so that no code of ours checks itself.

use serde_json::{json, Value as Json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use sync_tests::token::openssl;
pub use sync_tests::token::{claims, encode, hs256, now};

static MADE: AtomicUsize = AtomicUsize::new(0);

/// A private key in a file of its own.
pub struct Signer {
    pub algorithm: &'static str,
    file: PathBuf,
}

impl Drop for Signer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Signer {
    /// A new key for an algorithm.
    pub fn new(algorithm: &'static str) -> Signer {
        let arguments: &[&str] = match algorithm {
            "RS256" => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            "ES256" => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            "ES256K" => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"],
            "EdDSA" => &["-algorithm", "ED25519"],
            _ => panic!("{algorithm}"),
        };
        Signer::made(algorithm, arguments)
    }

    /// A new key, made with `openssl genpkey` and these arguments.
    pub fn made(algorithm: &'static str, arguments: &[&str]) -> Signer {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("pg_sync_key_{}_{number}.pem", std::process::id()));
        std::fs::write(&file, openssl(&[&["genpkey"], arguments].concat(), b"")).expect("written");
        Signer { algorithm, file }
    }

    fn path(&self) -> &str {
        self.file.to_str().expect("a path")
    }

    /// Its public key as PEM.
    pub fn pem(&self) -> String {
        String::from_utf8(openssl(&["pkey", "-in", self.path(), "-pubout"], b"")).expect("text")
    }

    /// The private key as PEM.
    pub fn private_pem(&self) -> String {
        std::fs::read_to_string(&self.file).expect("read")
    }

    /// The public key's raw bytes: x and y of a curve, or the point of Ed25519.
    pub fn point(&self) -> Vec<u8> {
        let der = openssl(&["pkey", "-in", self.path(), "-pubout", "-outform", "DER"], b"");
        der[der.len() - if self.algorithm == "EdDSA" { 32 } else { 64 }..].to_vec()
    }

    /// Its public key as JWK, with a name; not for RSA.
    pub fn jwk(&self, kid: &str) -> Json {
        let point = self.point();
        let (kty, crv) = match self.algorithm {
            "ES256" => ("EC", "P-256"),
            "ES256K" => ("EC", "secp256k1"),
            "EdDSA" => ("OKP", "Ed25519"),
            other => panic!("{other}"),
        };
        let mut jwk =
            json!({ "kty": kty, "crv": crv, "kid": kid, "use": "sig", "alg": self.algorithm, "x": encode(&point[..32]) });
        if point.len() == 64 {
            jwk["y"] = json!(encode(&point[32..]));
        }
        jwk
    }

    /// The signature as JWS writes it.
    pub fn sign(&self, signed: &[u8]) -> Vec<u8> {
        if self.algorithm == "EdDSA" {
            let input = self.file.with_extension("input");
            std::fs::write(&input, signed).expect("written");
            let signature =
                openssl(&["pkeyutl", "-sign", "-inkey", self.path(), "-rawin", "-in", input.to_str().expect("a path")], b"");
            let _ = std::fs::remove_file(input);
            return signature;
        }
        let signature = openssl(&["dgst", "-sha256", "-sign", self.path()], signed);
        if self.algorithm.starts_with("ES") {
            two_numbers(&signature)
        } else {
            signature
        }
    }

    /// A token with these claims; `more` goes into its header.
    pub fn token(&self, claims: &Json, more: Json) -> String {
        let mut header = json!({ "alg": self.algorithm, "typ": "JWT" });
        for (name, value) in more.as_object().expect("an object") {
            header[name] = value.clone();
        }
        let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        format!("{signed}.{}", encode(&self.sign(signed.as_bytes())))
    }
}

/// The two numbers of an ECDSA signature in DER, 32 bytes each.
fn two_numbers(der: &[u8]) -> Vec<u8> {
    let number = |at: usize| (&der[at + 2..at + 2 + usize::from(der[at + 1])], at + 2 + usize::from(der[at + 1]));
    let (r, next) = number(2);
    let (s, _) = number(next);
    let mut bytes = vec![0; 64];
    for (number, end) in [(r, 32), (s, 64)] {
        let digits = &number[number.len().saturating_sub(32)..];
        bytes[end - digits.len()..end].copy_from_slice(digits);
    }
    bytes
}
