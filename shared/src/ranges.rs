//! Parts compared by ranges of their keys, so that only ranges that differ are exchanged.
//!
//! Both sides put keys in the order of a hash: the order of texts differs between the two databases, and this way ranges hold about
//! equally many rows without either side knowing the other's keys.

use crate::error::{Error, Result};
use crate::hash::{ContentSum, RowHash};
use crate::limits::RANGE_BITS;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};

/// Rows of a range, about, unless the part has more than [`RANGE_BITS`] allows for.
const ROWS: i64 = 128;

/// Where a key stands: the first 2 bytes (big endian) of SHA-256 over its values as [`crate::row::put`] writes them.
fn place(key: &[u8]) -> usize {
    let digest = Sha256::digest(key);
    usize::from(u16::from_be_bytes([digest[0], digest[1]]))
}

fn range(bits: u8, key: &[u8]) -> usize {
    place(key) >> (16 - u32::from(bits))
}

/// Sums of a part's ranges: range i holds the keys whose place begins with `bits` bits that are i.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeSums {
    bits: u8,
    sums: Vec<ContentSum>,
}

impl RangeSums {
    /// No rows yet, in 2 ^ `bits` ranges.
    pub fn new(bits: u8) -> Self {
        let bits = bits.min(RANGE_BITS);
        RangeSums { bits, sums: vec![ContentSum::default(); 1 << bits] }
    }

    /// The bits that give ranges of a good size for so many rows.
    pub fn bits_for(rows: i64) -> u8 {
        (0..RANGE_BITS).find(|bits| rows >> bits <= ROWS).unwrap_or(RANGE_BITS)
    }

    /// How many ranges there are.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Refuses what does not have the ranges that it says.
    pub fn check(&self) -> Result<()> {
        if self.bits <= RANGE_BITS && self.sums.len() == 1 << self.bits {
            return Ok(());
        }
        Err(Error::damaged(format_args!("{} sums do not make {} bits of ranges", self.sums.len(), self.bits)))
    }

    /// A row with this key.
    pub fn add(&mut self, key: &[u8], row: RowHash) {
        self.sums[range(self.bits, key)].add(row);
    }

    /// Sum and count of all rows.
    pub fn total(&self) -> ContentSum {
        self.sums.iter().fold(ContentSum::default(), |total, sum| ContentSum {
            sum: total.sum.wrapping_add(sum.sum),
            count: total.count.wrapping_add(sum.count),
        })
    }

    /// The sums of all that is not in the given ranges, in 2 ^ `bits` ranges: neither may have more than there are here.
    pub fn outside(&self, ranges: &Ranges, bits: u8) -> RangeSums {
        let bits = bits.min(self.bits);
        let mut sums = RangeSums::new(bits);
        let named = |i: usize| ranges.has(i >> (self.bits.saturating_sub(ranges.bits)));
        for (i, mine) in self.sums.iter().enumerate().filter(|(i, mine)| **mine != ContentSum::default() && !named(*i)) {
            let sum = &mut sums.sums[i >> (self.bits - bits)];
            sum.sum = sum.sum.wrapping_add(mine.sum);
            sum.count = sum.count.wrapping_add(mine.count);
        }
        sums
    }

    /// The same in 2 ^ `bits` ranges, no more than there are.
    pub fn coarser(&self, bits: u8) -> RangeSums {
        self.outside(&Ranges::none(0), bits)
    }

    /// The ranges that are not the same in `theirs`, which has as many, and how many rows they have here.
    pub fn differing(&self, theirs: &RangeSums) -> (Ranges, i64) {
        let mut ranges = Ranges::none(self.bits);
        let mut rows = 0;
        for (i, mine) in self.sums.iter().enumerate().filter(|(i, mine)| theirs.sums.get(*i) != Some(mine)) {
            ranges.set[i / 8] |= 1 << (i % 8);
            rows += mine.count;
        }
        (ranges, rows)
    }
}

/// Some of a part's ranges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    bits: u8,
    /// Range i is bit i % 8 of byte i / 8.
    set: ByteBuf,
}

impl Ranges {
    /// None of 2 ^ `bits` ranges.
    pub fn none(bits: u8) -> Self {
        Ranges { bits, set: ByteBuf::from(vec![0; (1_usize << bits).div_ceil(8)]) }
    }

    /// Refuses what does not have the size that it says.
    pub fn check(&self) -> Result<()> {
        if self.bits <= RANGE_BITS && self.set.len() == (1_usize << self.bits).div_ceil(8) {
            return Ok(());
        }
        Err(Error::damaged(format_args!("{} bytes do not name {} bits of ranges", self.set.len(), self.bits)))
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.set.len()
    }

    /// Whether it is none.
    pub fn is_empty(&self) -> bool {
        self.set.iter().all(|byte| *byte == 0)
    }

    /// Whether the row with this key is in one of them.
    pub fn contain(&self, key: &[u8]) -> bool {
        self.has(range(self.bits, key))
    }

    fn has(&self, range: usize) -> bool {
        self.set.get(range / 8).is_some_and(|byte| byte & 1 << (range % 8) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::digest;
    use crate::row;
    use crate::value::Value;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn sums(bits: u8, rows: &BTreeMap<i64, i64>) -> RangeSums {
        let mut sums = RangeSums::new(bits);
        for (key, value) in rows {
            let row = row::encode(&[Value::Integer(*key), Value::Integer(*value)]);
            sums.add(&row::encode(&[Value::Integer(*key)]), digest(&row));
        }
        sums
    }

    proptest! {
        #[test]
        fn what_differs_is_in_a_range_that_differs(
            ours in proptest::collection::btree_map(0..500i64, 0..3i64, 0..200),
            theirs in proptest::collection::btree_map(0..500i64, 0..3i64, 0..200),
            bits in 0..=RANGE_BITS,
        ) {
            let (ranges, rows) = sums(bits, &ours).differing(&sums(bits, &theirs));
            let contain = |key: &i64| ranges.contain(&row::encode(&[Value::Integer(*key)]));
            for key in 0..500 {
                prop_assert!(ours.get(&key) == theirs.get(&key) || contain(&key));
            }
            prop_assert_eq!(rows as usize, ours.keys().filter(|key| contain(key)).count());
            prop_assert!(ours != theirs || ranges.is_empty());
        }

        #[test]
        fn what_is_outside_of_ranges_is_what_is_not_in_them(
            rows in proptest::collection::btree_map(0..500i64, 0..3i64, 0..200),
            theirs in proptest::collection::btree_map(0..500i64, 0..3i64, 0..200),
            fine in 0..=RANGE_BITS,
            (coarse, bits) in (0..=RANGE_BITS, 0..=RANGE_BITS),
        ) {
            let (coarse, bits) = (coarse.min(fine), bits.min(fine));
            let (ranges, _) = sums(coarse, &rows).differing(&sums(coarse, &theirs));
            let inside = |key: &i64| ranges.contain(&row::encode(&[Value::Integer(*key)]));
            let rest: BTreeMap<i64, i64> = rows.iter().filter(|(key, _)| !inside(key)).map(|(k, v)| (*k, *v)).collect();
            prop_assert_eq!(sums(fine, &rows).outside(&ranges, bits), sums(bits, &rest));
            prop_assert_eq!(sums(fine, &rows).coarser(bits), sums(bits, &rows));
        }

        #[test]
        fn sizes_are_checked(bits in any::<u8>(), count in 0..5_000usize) {
            let sums = RangeSums { bits, sums: vec![ContentSum::default(); count] };
            prop_assert_eq!(sums.check().is_ok(), bits <= RANGE_BITS && count == 1 << bits);
            let ranges = Ranges { bits, set: ByteBuf::from(vec![0; count]) };
            prop_assert_eq!(ranges.check().is_ok(), bits <= RANGE_BITS && count == (1usize << bits).div_ceil(8));
        }
    }

    #[test]
    fn ranges_have_about_a_hundred_rows() {
        assert_eq!([0, 128, 129, 100_000, i64::MAX].map(RangeSums::bits_for), [0, 0, 1, 10, RANGE_BITS]);
    }

    #[test]
    fn a_range_is_as_the_protocol_says() {
        // Computed with Python's hashlib: SHA-256 of the byte 0x2a begins with 68 48.
        let key = row::encode(&[Value::Integer(42)]);
        assert_eq!([0, 1, 8, 12].map(|bits| range(bits, &key)), [0, 0, 0x68, 0x684]);
    }
}
