//! An answer that the server has signed, as it travels around the message.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0-1 | `SY` |
//! | 2 | wire version |
//! | 3 | 6: signed |
//! | 4 | how many signatures, 1 or 2 |
//! | 5-36 | SHA-256 of the request that is answered, as the device sent it |
//! | 96 for each signature | a public key of Ed25519 (32 bytes), and its signature (64 bytes) over [`signed_bytes`] |
//! | the rest | the message, with its own header |
//!
//! Keys and signatures are the two extensions' own business: this is only where they stand.

use crate::envelope::MAGIC;
use crate::error::{Error, Result};
use crate::limits;
use sha2::{Digest, Sha256};

/// The kind in the header; see [`crate::envelope::Kind`] for the others.
const SIGNED: u8 = 6;
/// What a signature of ours is about, so that one made for something else is never taken for it.
const CONTEXT: &[u8; 24] = b"pg_sync signed answer 1\0";
const FRONT: usize = 37;
const PAIR: usize = 96;

/// A digest of a request, as it is signed.
pub type Asked = [u8; 32];

/// A public key and what it signed.
pub type Signature = ([u8; 32], [u8; 64]);

/// A signed answer, taken apart; nothing is verified yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    /// Digest of the request that is answered.
    pub asked: Asked,
    /// One for each key that the server signs with.
    pub signatures: Vec<Signature>,
    /// The message as it was before it was signed.
    pub message: &'a [u8],
}

/// The digest of a request's bytes.
pub fn asked(request: &[u8]) -> Asked {
    Sha256::digest(request).into()
}

/// What is signed: what it is about, the request, and the whole message.
pub fn signed_bytes(asked: &Asked, message: &[u8]) -> [u8; 88] {
    let mut out = [0; 88];
    out[..24].copy_from_slice(CONTEXT);
    out[24..56].copy_from_slice(asked);
    out[56..].copy_from_slice(&Sha256::digest(message));
    out
}

/// Puts signatures in front of a message.
pub fn join(asked: &Asked, signatures: &[Signature], message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRONT + PAIR * signatures.len() + message.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[limits::WIRE_VERSION, SIGNED, signatures.len() as u8]);
    out.extend_from_slice(asked);
    for (key, signature) in signatures {
        out.extend_from_slice(key);
        out.extend_from_slice(signature);
    }
    out.extend_from_slice(message);
    out
}

/// Takes a signed answer apart; None for any other message.
pub fn split(bytes: &[u8]) -> Result<Option<Signed<'_>>> {
    let is_signed = bytes.len() > 3 && bytes[..2] == MAGIC && bytes[3] == SIGNED;
    if !is_signed {
        return Ok(None);
    }
    if !(limits::WIRE_VERSION_OLDEST..=limits::WIRE_VERSION).contains(&bytes[2]) {
        return Err(Error::Version(bytes[2]));
    }
    let short = || Error::damaged("its signatures are not whole");
    let count = usize::from(*bytes.get(4).ok_or_else(short)?);
    if !(1..=limits::SIGNATURES).contains(&count) {
        return Err(Error::damaged("it has no signature, or too many"));
    }
    let (front, message) = bytes.split_at_checked(FRONT + PAIR * count).ok_or_else(short)?;
    let mut signatures = Vec::with_capacity(count);
    for pair in front[FRONT..].chunks_exact(PAIR) {
        let (key, signature) = pair.split_at(32);
        signatures.push((key.try_into().map_err(|_| short())?, signature.try_into().map_err(|_| short())?));
    }
    Ok(Some(Signed { asked: front[5..FRONT].try_into().map_err(|_| short())?, signatures, message }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_apart_as_it_was_put_together_and_a_cut_one_does_not() {
        let (one, two) = (([1; 32], [2; 64]), ([3; 32], [4; 64]));
        let asked = asked(b"a request");
        for signatures in [vec![one], vec![one, two]] {
            let bytes = join(&asked, &signatures, b"SY message");
            let found = split(&bytes).unwrap().unwrap();
            assert_eq!(found, Signed { asked, signatures: signatures.clone(), message: b"SY message" });
            for end in 4..bytes.len() - b"SY message".len() {
                assert!(split(&bytes[..end]).is_err(), "{end}");
            }
        }
        for count in [0, 3, 255] {
            let mut bytes = join(&asked, &[one, two], b"SY message");
            bytes[4] = count;
            assert!(split(&bytes).is_err());
        }
        for other in [b"".as_slice(), b"SY", b"SY\x01\x03", b"no message"] {
            assert_eq!(split(other), Ok(None));
        }
    }

    #[test]
    fn what_is_signed_differs_with_the_request_and_the_message() {
        let all = [(b"a", b"b"), (b"b", b"a"), (b"a", b"a")].map(|(q, m)| signed_bytes(&asked(q), m));
        assert_ne!(all[0], all[1]);
        assert_ne!(all[0], all[2]);
        assert_ne!(all[1], all[2]);
    }
}
