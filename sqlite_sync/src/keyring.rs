//! Keys of encrypted columns, as long as their connection is open, and what is done with them.
//!
//! The same value at the same place under the same key is always the same bytes: the nonce is made of all three. So two devices that
//! write the same do not differ, and what is sent twice is the same.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::sync::{Mutex, PoisonError};
use sync_shared::encrypted::{self, KEY_ID, MAGIC, NONCE};
use zeroize::Zeroizing;

/// Bytes of a key.
pub const KEY: usize = 32;
/// Keys that a connection may have.
pub const KEYS: usize = 16;

struct Key {
    id: [u8; KEY_ID],
    cipher: Zeroizing<[u8; KEY]>,
    nonce: Zeroizing<[u8; KEY]>,
}

/// The keys of one connection, the newest first.
#[derive(Default)]
pub struct Keyring(Mutex<Vec<Key>>);

/// What an encrypted value turned out to be.
pub enum Opened {
    /// The value.
    Plain(Vec<u8>),
    /// The key is not known.
    Unknown,
    /// It was made for another place, or changed.
    Wrong,
}

/// HMAC-SHA256 over several parts.
fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // A key of any length will do.
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).unwrap_or_else(|_| unreachable!());
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

impl Key {
    fn new(secret: &[u8; KEY]) -> Key {
        let mut id = [0; KEY_ID];
        id.copy_from_slice(&mac(secret, &[b"pg_sync column key id 1"])[..KEY_ID]);
        Key {
            id,
            cipher: Zeroizing::new(mac(secret, &[b"pg_sync column cipher 1"])),
            nonce: Zeroizing::new(mac(secret, &[b"pg_sync column nonce 1"])),
        }
    }

    fn encrypt(&self, place: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let nonce = &mac(&*self.nonce, &[place, plain])[..NONCE];
        let payload = Payload { msg: plain, aad: place };
        let hidden = XChaCha20Poly1305::new((&*self.cipher).into()).encrypt(XNonce::from_slice(nonce), payload).ok()?;
        Some([&MAGIC[..], &self.id, nonce, &hidden].concat())
    }
}

impl Keyring {
    fn keys(&self) -> std::sync::MutexGuard<'_, Vec<Key>> {
        // Whoever panicked left the list as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes these keys in place of those before, the newest first.
    pub fn set(&self, secrets: &[Zeroizing<[u8; KEY]>]) {
        *self.keys() = secrets.iter().map(|secret| Key::new(secret)).collect();
    }

    /// A value for a place under the newest key; None: there is no key.
    pub fn encrypt(&self, place: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        self.keys().first()?.encrypt(place, plain)
    }

    /// What is in an encrypted value.
    pub fn open(&self, place: &[u8], bytes: &[u8]) -> Opened {
        let Some((id, nonce, hidden)) = encrypted::parts(bytes) else { return Opened::Wrong };
        let keys = self.keys();
        let Some(key) = keys.iter().find(|key| key.id == id) else { return Opened::Unknown };
        let cipher = XChaCha20Poly1305::new((&*key.cipher).into());
        match cipher.decrypt(XNonce::from_slice(nonce), Payload { msg: hidden, aad: place }) {
            Ok(plain) => Opened::Plain(plain),
            Err(_) => Opened::Wrong,
        }
    }
}
