//! Values that devices encrypt and the server only stores: how they look.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0-3 | `SYE` and 1, the format |
//! | 4-11 | which key |
//! | 12-35 | the nonce of XChaCha20-Poly1305 |
//! | 36... | the value as it travels otherwise, encrypted, with 16 bytes that prove it |
//!
//! What proves it also proves the place: [`place`]. Keys are the device's business.

use crate::hash::Tag;
use crate::row;
use crate::value::Value;

/// What an encrypted value begins with.
pub const MAGIC: [u8; 4] = *b"SYE\x01";
/// Bytes of the number of a key.
pub const KEY_ID: usize = 8;
/// Bytes of the nonce.
pub const NONCE: usize = 24;
/// Bytes before the ciphertext.
const FRONT: usize = 4 + KEY_ID + NONCE;
/// Bytes that encryption adds to a value.
pub const OVERHEAD: usize = FRONT + 16;

/// Number of a key, nonce and ciphertext of an encrypted value; None: these bytes are none.
pub fn parts(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    // At least one byte is encrypted: that of NULL, which never is.
    if bytes.len() <= OVERHEAD || bytes[..4] != MAGIC {
        return None;
    }
    let (front, rest) = bytes.split_at(FRONT);
    Some((&front[4..4 + KEY_ID], &front[4 + KEY_ID..], rest))
}

/// Whether a value may stand in an encrypted column.
pub fn is_encrypted(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Blob(bytes) => parts(bytes).is_some(),
        _ => false,
    }
}

/// What an encrypted value is bound to: its table, its column, the key of its row.
pub fn place(table: Tag, column: Tag, key: &[Value]) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    out.extend_from_slice(&table.to_be_bytes());
    out.extend_from_slice(&column.to_be_bytes());
    row::put_all(&mut out, key.iter().map(Value::as_ref));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_short_or_begins_otherwise_is_not_encrypted() {
        let good = [&MAGIC[..], &[7; KEY_ID], &[8; NONCE], &[9; 17]].concat();
        let (key, nonce, rest) = parts(&good).unwrap();
        assert_eq!((key, nonce, rest), (&[7; KEY_ID][..], &[8; NONCE][..], &[9; 17][..]));
        assert!(parts(&good[..good.len() - 1]).is_none() && parts(&[&[0], &good[1..]].concat()).is_none());
        assert!(is_encrypted(&Value::Blob(good)) && is_encrypted(&Value::Null));
        assert!(!is_encrypted(&Value::Blob(vec![1])) && !is_encrypted(&Value::Integer(1)));
    }

    #[test]
    fn places_differ_by_table_column_and_key() {
        let (one, two) = ([Value::Integer(1)], [Value::Text("1".into())]);
        let places = [place(1, 2, &one), place(2, 1, &one), place(1, 2, &two), place(1, 2, &[one[0].clone(), two[0].clone()])];
        for (at, place) in places.iter().enumerate() {
            assert!(places[..at].iter().all(|other| other != place));
        }
    }
}
