//! Tokens as an issuer of the application's makes them: signed by the program `openssl`, so that no code of ours checks itself.

use serde_json::{json, Value as Json};
use std::io::Write;
use std::process::{Command, Stdio};

/// What `openssl` answers to these arguments with `input` in its hands.
pub fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl");
    child.stdin.take().expect("its input").write_all(input).expect("written");
    let output = child.wait_with_output().expect("its end");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// base64url without padding.
pub fn encode(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for i in 0..=chunk.len() {
            text.push(char::from(LETTERS[(bits >> (18 - 6 * i)) as usize & 63]));
        }
    }
    text
}

/// Seconds since 1970.
pub fn now() -> i64 {
    i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs())
        .expect("soon")
}

/// Claims of `user` that hold for an hour, from `issuer` for `audience`, with others over them.
pub fn claims(user: &str, issuer: &str, audience: &str, more: Json) -> Json {
    let mut claims = json!({ "sub": user, "iss": issuer, "aud": audience, "iat": now(), "exp": now() + 3600 });
    for (name, value) in more.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims
}

/// A token signed with a shared secret.
pub fn hs256(secret: &str, claims: &Json, header: Json) -> String {
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let hex: String = secret.bytes().map(|b| format!("{b:02x}")).collect();
    let mac = openssl(&["dgst", "-sha256", "-mac", "HMAC", "-macopt", &format!("hexkey:{hex}"), "-binary"], signed.as_bytes());
    format!("{signed}.{}", encode(&mac))
}
