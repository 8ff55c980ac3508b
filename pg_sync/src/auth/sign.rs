//! Answers signed with the keys of `sync.signing_key`, so that nothing between here and a device can alter them.

use crate::error::{raise, spi};
use crate::query::Kept;
use ed25519_dalek::{Signer, SigningKey};
use pgrx::prelude::*;
use sync_shared::signed;

/// The keys that answers are signed with; read with the rights of the owner of the schema.
pub fn keys() -> Vec<SigningKey> {
    let read = Spi::connect(|c| {
        let rows = c.select(Kept("SELECT seed FROM sync.signing_key ORDER BY made, public_key"), None, &[])?;
        rows.map(|row| row.get::<Vec<u8>>(1)).collect::<spi::Result<Vec<_>>>()
    });
    let seeds = spi("reading sync.signing_key", read).into_iter().flatten();
    seeds.filter_map(|seed| Some(SigningKey::from_bytes(&seed.try_into().ok()?))).collect()
}

/// An answer to a request, signed with each key; as it is where there are none.
pub fn signed(keys: &[SigningKey], request: &[u8], answer: Vec<u8>) -> Vec<u8> {
    if keys.is_empty() {
        return answer;
    }
    let asked = signed::asked(request);
    let bytes = signed::signed_bytes(&asked, &answer);
    let of = |key: &SigningKey| (key.verifying_key().to_bytes(), key.sign(&bytes).to_bytes());
    signed::join(&asked, &keys.iter().map(of).collect::<Vec<_>>(), &answer)
}

/// The public key that belongs to 32 secret bytes.
#[pg_extern(immutable, strict, parallel_safe)]
fn public_key_of(seed: &[u8]) -> Vec<u8> {
    let wrong = |_| raise(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "a signing key has 32 secret bytes");
    SigningKey::from_bytes(&seed.try_into().unwrap_or_else(wrong)).verifying_key().to_bytes().to_vec()
}
