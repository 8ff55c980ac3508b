//! How many values a body has, before anything is decoded: one of a byte on the wire takes 32 bytes and more in memory.

/// The values of MessagePack, each array and map being one of them. Of what is no MessagePack it is some number up to that of its bytes.
pub fn values(body: &[u8]) -> usize {
    let (mut at, mut count) = (0_usize, 0);
    while let Some(&marker) = body.get(at) {
        count += 1;
        let length = |bytes: usize| {
            let digits = body.get(at + 1..at + 1 + bytes).unwrap_or_default();
            digits.iter().fold(0_usize, |length, digit| length << 8 | usize::from(*digit))
        };
        at = at.saturating_add(match marker {
            // Texts, blobs and extensions, with their lengths and types in front.
            0xa0..=0xbf => 1 + usize::from(marker & 0x1f),
            0xc4 | 0xd9 => 2 + length(1),
            0xc5 | 0xda => 3 + length(2),
            0xc6 | 0xdb => length(4).saturating_add(5),
            0xc7 => 3 + length(1),
            0xc8 => 4 + length(2),
            0xc9 => length(4).saturating_add(6),
            0xd4..=0xd8 => 2 + (1 << (marker - 0xd4)),
            // Numbers.
            0xcc | 0xd0 => 2,
            0xcd | 0xd1 => 3,
            0xca | 0xce | 0xd2 => 5,
            0xcb | 0xcf | 0xd3 => 9,
            // The heads of long arrays and maps.
            0xdc | 0xde => 3,
            0xdd | 0xdf => 5,
            // Everything that is one byte: small numbers, NULL, booleans, the heads of short arrays and maps.
            _ => 1,
        });
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{row, ValueRef};

    #[test]
    fn each_value_counts_once_whatever_its_form() {
        let mut numbers = vec![ValueRef::Null, ValueRef::Real(0.5)];
        numbers.extend((0..63).flat_map(|bit| [ValueRef::Integer(1 << bit), ValueRef::Integer(-1 << bit)]));
        let long = "x".repeat(1 << 17);
        for bytes in [0, 1, 31, 32, 255, 256, 65_535, 65_536, 1 << 17] {
            numbers.extend([ValueRef::Text(&long[..bytes]), ValueRef::Blob(&long.as_bytes()[..bytes])]);
        }
        let mut body = Vec::new();
        row::put_all(&mut body, numbers.iter().copied());
        assert_eq!(values(&body), numbers.len());
        for length in [0, 15, 16, 65_535, 65_536] {
            assert_eq!(values(&rmp_serde::to_vec(&vec![1_u8; length]).unwrap()), length + 1);
        }
        let extensions: [&[u8]; 4] = [&[0xd4, 1, 0], &[0xd8, 1], &[0xc7, 2, 1, 0, 0], &[0xc9, 0, 0, 0, 1, 1, 0]];
        let extension = |bytes: &[u8]| if bytes[0] == 0xd8 { [bytes, &[0; 16]].concat() } else { bytes.to_vec() };
        assert_eq!(values(&extensions.map(extension).concat()), 4);
        assert!(values(&[0xdb, 0xff, 0xff, 0xff, 0xff, 0]) == 1, "cut short");
    }
}
