//! Many keys in few bytes: one behind the other, each after its length, UUIDs as their 16 bytes.
//!
//! A key is its values as [`row::put`] writes them. A text that is a UUID in its usual form is packed as MessagePack's fixext 16,
//! which no value uses: so packing needs no types and loses nothing. The server's op log keeps keys this way.

use crate::error::{Error, Result};
use crate::row;
use std::borrow::Cow;
use uuid::Uuid;

/// MessagePack: a string of 36 bytes; an extension of 16 bytes, ours.
const TEXT_36: [u8; 2] = [0xd9, 36];
const PACKED: [u8; 2] = [0xd8, 1];

/// Appends a key.
pub fn put(list: &mut Vec<u8>, key: &[u8]) {
    // Most keys are one UUID.
    if let Some(uuid) = uuid_of(key) {
        list.push(18);
        list.extend_from_slice(&PACKED);
        return list.extend_from_slice(uuid.as_bytes());
    }
    let key = pack(key);
    let mut length = key.len();
    while length >= 0x80 {
        list.push(length as u8 | 0x80);
        length >>= 7;
    }
    list.push(length as u8);
    list.extend_from_slice(&key);
}

/// Bytes that [`put`] appends, at most.
pub fn room(key: &[u8]) -> usize {
    5 + key.len()
}

/// Whether a key is in the list.
pub fn contains(list: &[u8], key: &[u8]) -> bool {
    let key = pack(key);
    Packed { rest: list }.any(|packed| matches!(packed, Ok(packed) if packed == &*key))
}

/// Every key of a list, as it was put in.
pub fn all(list: &[u8]) -> Result<Vec<Vec<u8>>> {
    Packed { rest: list }.map(|packed| unpack(packed?)).collect()
}

/// Walks a list.
struct Packed<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Packed<'a> {
    type Item = Result<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let cut = || Error::damaged("a list of keys is cut short");
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let Some((&byte, rest)) = self.rest.split_first().filter(|_| shift < 32) else {
                self.rest = &[];
                return Some(Err(cut()));
            };
            self.rest = rest;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        if length > self.rest.len() {
            self.rest = &[];
            return Some(Err(cut()));
        }
        let (key, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(Ok(key))
    }
}

/// What a hexadecimal digit stands for, in lower case; 0xff for anything else.
const DIGIT: [u8; 256] = {
    let mut digits = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};
/// Where a UUID's text has the digits of each byte.
const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// The UUID that a whole value is the usual text of.
fn uuid_of(value: &[u8]) -> Option<Uuid> {
    let text: &[u8; 36] = value.strip_prefix(&TEXT_36)?.try_into().ok()?;
    if [8, 13, 18, 23].iter().any(|&at| text[at] != b'-') {
        return None;
    }
    let mut bytes = [0; 16];
    let mut wrong = 0;
    for (byte, at) in bytes.iter_mut().zip(PLACES) {
        let (high, low) = (DIGIT[usize::from(text[at])], DIGIT[usize::from(text[at + 1])]);
        // Only what is no digit has its highest bit set.
        wrong |= high | low;
        *byte = high << 4 | low & 15;
    }
    (wrong < 0x80).then(|| Uuid::from_bytes(bytes))
}

fn pack(key: &[u8]) -> Cow<'_, [u8]> {
    // Too short to hold a UUID's text.
    if key.len() < TEXT_36.len() + 36 {
        return key.into();
    }
    let mut packed = Vec::with_capacity(key.len());
    let mut reader = row::Reader::new(key);
    let mut rest = key;
    while !rest.is_empty() {
        let Ok(_) = reader.value() else { return key.into() };
        let (value, behind) = rest.split_at(rest.len() - reader.rest().len());
        match uuid_of(value) {
            Some(uuid) => {
                packed.extend_from_slice(&PACKED);
                packed.extend_from_slice(uuid.as_bytes());
            }
            None => packed.extend_from_slice(value),
        }
        rest = behind;
    }
    packed.into()
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    let mut key = Vec::with_capacity(packed.len() + 20);
    let mut rest = packed;
    while !rest.is_empty() {
        if let Some((uuid, behind)) = rest.strip_prefix(&PACKED).and_then(|r| r.split_first_chunk::<16>()) {
            key.extend_from_slice(&TEXT_36);
            key.extend_from_slice(Uuid::from_bytes(*uuid).hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
            rest = behind;
        } else {
            let mut reader = row::Reader::new(rest);
            reader.value()?;
            let (value, behind) = rest.split_at(rest.len() - reader.rest().len());
            key.extend_from_slice(value);
            rest = behind;
        }
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;
    use proptest::prelude::*;

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            any::<u128>().prop_map(|n| Value::Text(Uuid::from_u128(n).to_string())),
            any::<u128>().prop_map(|n| Value::Text(Uuid::from_u128(n).to_string().to_uppercase())),
            ".{0,200}".prop_map(Value::Text),
            proptest::collection::vec(any::<u8>(), 0..60).prop_map(Value::Blob),
        ]
    }

    fn any_key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any_value(), 1..4).prop_map(|values| row::encode(&values))
    }

    proptest! {
        #[test]
        fn every_key_comes_back(keys in proptest::collection::vec(any_key(), 0..20), other in any_key()) {
            let mut list = Vec::new();
            keys.iter().for_each(|key| put(&mut list, key));
            prop_assert_eq!(&all(&list).unwrap(), &keys);
            prop_assert!(keys.iter().all(|key| contains(&list, key)));
            prop_assert_eq!(contains(&list, &other), keys.contains(&other));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = all(&bytes);
            let _ = contains(&bytes, &[1]);
        }
    }

    #[test]
    fn a_uuid_takes_nineteen_bytes() {
        let mut list = Vec::new();
        put(&mut list, &row::encode(&[Value::Text(Uuid::from_u128(7).to_string())]));
        assert_eq!(list.len(), 19);
    }
}
