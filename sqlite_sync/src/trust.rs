//! `sync_trust`: the server's public keys, pinned in the file. From then on only what one of them has signed is applied, and only
//! as the answer to this file's own last question.

use crate::error::{Error, Result};
use crate::host::{Answer, Db};
use crate::transaction::transaction;
use crate::{file, meta};
use ed25519_dalek::{Signature, VerifyingKey};
use sync_shared::signed::{self, Signed};
use sync_shared::{limits, Error as Wire, ValueRef};

/// Where the keys stand, as hexadecimal digits with a space between two of them.
const KEYS: &str = "trusted_keys";
/// Digests of the last questions.
const PULLED: &str = "pulled";
const PUSHED: &str = "pushed";

/// Pins keys in place of those that were pinned before; none: everything is believed again.
pub fn trust(db: Db<'_>, keys: &[ValueRef<'_>]) -> Result<Answer> {
    let keys = keys.iter().filter(|key| **key != ValueRef::Null).map(read).collect::<Result<Vec<_>>>()?;
    let texts: Vec<String> = keys.iter().map(|key| key.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    transaction(db, || {
        if !file::present(db)? {
            file::create(db)?;
        }
        if texts.is_empty() {
            return db.run("DELETE FROM main.sync_meta WHERE name IN ('trusted_keys', 'pulled', 'pushed')", &[]);
        }
        meta::set(db, KEYS, ValueRef::Text(&texts.join(" ")))
    })?;
    Ok(Answer::Integer(keys.len() as i64))
}

fn read(key: &ValueRef<'_>) -> Result<[u8; 32]> {
    let wrong = || {
        Error::plain("sync_trust takes one or two public keys as sync.make_signing_key() returns them: 64 hexadecimal digits; NULL trusts everything again")
    };
    let ValueRef::Text(text) = key else { return Err(wrong()) };
    let bytes = bytes_of(text).ok_or_else(wrong)?;
    let is_weak = VerifyingKey::from_bytes(&bytes).map_or(true, |key| key.is_weak());
    if is_weak {
        return Err(Error::plain(
            "this is no key that anything can be signed with: sync_trust takes what sync.make_signing_key() returned",
        ));
    }
    Ok(bytes)
}

/// 32 bytes as hexadecimal digits.
pub fn bytes_of(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// The keys that are pinned. What cannot be read trusts nobody: it is a key that signs nothing.
fn pinned(db: Db<'_>) -> Result<Vec<[u8; 32]>> {
    let text = meta::text(db, KEYS)?;
    let keys = text.split(' ').filter(|key| !key.is_empty()).take(limits::SIGNATURES);
    Ok(keys.map(|key| bytes_of(key).unwrap_or_default()).collect())
}

/// Remembers a question that is about to be asked, where its answer will have to be signed.
fn remember(db: Db<'_>, name: &str, request: &[u8]) -> Result<()> {
    if meta::text(db, KEYS)?.is_empty() {
        return Ok(());
    }
    meta::set(db, name, ValueRef::Blob(&signed::asked(request)))
}

/// The same of a pull.
pub fn pulls(db: Db<'_>, request: &[u8]) -> Result<()> {
    remember(db, PULLED, request)
}

/// The same of a push.
pub fn pushes(db: Db<'_>, request: &[u8]) -> Result<()> {
    remember(db, PUSHED, request)
}

/// Whether an answer is to this file's own last question. Where keys are pinned one of them must have signed it.
pub fn check(db: Db<'_>, signed: Option<&Signed<'_>>) -> Result<bool> {
    let keys = pinned(db)?;
    if keys.is_empty() {
        return Ok(true);
    }
    let signed = signed.ok_or(Wire::Untrusted("is not signed, and this file believes only what is"))?;
    let Some((key, signature)) = signed.signatures.iter().find(|(key, _)| keys.contains(key)) else {
        return Err(Wire::Untrusted("is signed with a key that this file does not trust").into());
    };
    let content = signed::signed_bytes(&signed.asked, signed.message);
    let is_theirs =
        VerifyingKey::from_bytes(key).is_ok_and(|key| key.verify_strict(&content, &Signature::from_bytes(signature)).is_ok());
    if !is_theirs {
        return Err(Wire::Untrusted("is not what its signature is for").into());
    }
    Ok(meta::blob(db, PULLED)? == signed.asked || meta::blob(db, PUSHED)? == signed.asked)
}
