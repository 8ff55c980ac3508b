//! The canonical hash of a row, sums of them, tags and bucket ids.
//!
//! `row hash = first 8 bytes (big endian) of SHA-256(table tag, then for each non-NULL column in tag order: column tag,
//! MessagePack value)`. Tags are 4 bytes, big endian. NULL columns leave no trace, so adding a nullable column changes no hash.

use crate::error::Result;
use crate::row;
use crate::value::ValueRef;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Identifies a table or a column for ever, also after it was renamed: assigned once, from its first name.
pub type Tag = u32;

/// The tag of a table (its schema-qualified name) or a column (its name) that is seen for the first time.
pub fn tag(first_name: &str) -> Tag {
    let digest = Sha256::digest(first_name.as_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// Hash of a row's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowHash(pub i64);

/// Hashes a row given as MessagePack values in tag order; reads exactly `columns.len()` values.
///
/// `scratch` is cleared and reused, so that a page costs one allocation.
pub fn row_hash(table: Tag, columns: &[Tag], values: &mut row::Reader<'_>, scratch: &mut Vec<u8>) -> Result<RowHash> {
    scratch.clear();
    scratch.extend_from_slice(&table.to_be_bytes());
    for column in columns {
        let before = values.rest();
        let value = values.value()?;
        if value == ValueRef::Null {
            continue;
        }
        scratch.extend_from_slice(&column.to_be_bytes());
        scratch.extend_from_slice(&before[..before.len() - values.rest().len()]);
    }
    Ok(digest(scratch))
}

/// Hashes a row given as values in tag order.
pub fn row_hash_of<'a>(
    table: Tag,
    columns: &[Tag],
    values: impl IntoIterator<Item = ValueRef<'a>>,
    scratch: &mut Vec<u8>,
) -> RowHash {
    scratch.clear();
    scratch.extend_from_slice(&table.to_be_bytes());
    for (column, value) in columns.iter().zip(values) {
        if value != ValueRef::Null {
            scratch.extend_from_slice(&column.to_be_bytes());
            row::put(scratch, value);
        }
    }
    digest(scratch)
}

/// The hash over canonical bytes that the caller has laid out itself (table tag, then tag and value of each column).
pub fn digest(canonical: &[u8]) -> RowHash {
    let digest = Sha256::digest(canonical);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    RowHash(i64::from_be_bytes(first))
}

/// Sum and number of the rows of one part (one entry's rows in one bucket). Order does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContentSum {
    /// Wrapping sum of the row hashes.
    pub sum: i64,
    /// Number of rows.
    pub count: i64,
}

impl ContentSum {
    /// A row entered.
    pub fn add(&mut self, row: RowHash) {
        self.sum = self.sum.wrapping_add(row.0);
        self.count = self.count.wrapping_add(1);
    }

    /// A row left.
    pub fn remove(&mut self, row: RowHash) {
        self.sum = self.sum.wrapping_sub(row.0);
        self.count = self.count.wrapping_sub(1);
    }
}

/// First 16 bytes of SHA-256 over the rule's name and the key's values: the same everywhere, without a table of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct BucketId(pub [u8; 16]);

impl Serialize for BucketId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        serde_bytes::Bytes::new(&self.0).serialize(s)
    }
}

impl<'de> Deserialize<'de> for BucketId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        serde_bytes::ByteArray::<16>::deserialize(d).map(|b| BucketId(b.into_array()))
    }
}

/// Makes the bytes that name a batch for ever, from the device's id, which is random, and from all that the batch says. Two copies
/// of a file thereby give the same name to a transaction that was made before the file was copied, and only to such a one: the
/// time of its edit is a part of it.
pub struct BatchName(Sha256);

impl BatchName {
    /// Of a batch of this device, made at this time.
    pub fn new(device: uuid::Uuid, edited: i64) -> Self {
        BatchName(Sha256::new().chain_update(device.as_bytes()).chain_update(edited.to_be_bytes()))
    }

    /// Adds a part of what the batch says.
    pub fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    /// The name.
    pub fn finish(self) -> [u8; 16] {
        let mut name = [0; 16];
        name.copy_from_slice(&self.0.finalize()[..16]);
        name
    }
}

/// The id of the bucket of `rule` whose key is `key`: values as [`row::put`] writes them.
pub fn bucket_id(rule: &str, key: &[u8]) -> BucketId {
    let mut hash = Sha256::new();
    hash.update((rule.len() as u32).to_be_bytes());
    hash.update(rule.as_bytes());
    hash.update(key);
    let digest = hash.finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    BucketId(id)
}

/// A set of buckets in 24 bytes, whatever the order: equal sets have equal digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SetDigest {
    /// Wrapping sum of the ids' first 8 bytes (big endian).
    pub high: u64,
    /// Wrapping sum of the ids' last 8 bytes (big endian).
    pub low: u64,
    /// Number of buckets.
    pub count: u64,
}

impl SetDigest {
    /// The digest of the given buckets, each of which must occur once.
    pub fn of<'a>(buckets: impl IntoIterator<Item = &'a BucketId>) -> Self {
        let mut set = SetDigest::default();
        for BucketId(id) in buckets {
            let (high, low) = id.split_at(8);
            let number = |b: &[u8]| b.iter().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
            set.high = set.high.wrapping_add(number(high));
            set.low = set.low.wrapping_add(number(low));
            set.count += 1;
        }
        set
    }
}

/// What only who knows the secret can have said: the first half of an HMAC-SHA-256.
pub fn proof(secret: &[u8; 32], said: &[u8]) -> [u8; 16] {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(secret).for_each(|(b, s)| *b ^= s);
        Sha256::new().chain_update(block)
    };
    let inner = pad(0x36).chain_update(said).finalize();
    let outer = pad(0x5c).chain_update(inner).finalize();
    std::array::from_fn(|i| outer[i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    #[test]
    fn a_null_column_leaves_no_trace() {
        let mut scratch = Vec::new();
        let short = row_hash_of(7, &[1], [ValueRef::Integer(5)], &mut scratch);
        let long = row_hash_of(7, &[1, 2], [ValueRef::Integer(5), ValueRef::Null], &mut scratch);
        assert_eq!(short, long);
        assert_ne!(short, row_hash_of(8, &[1], [ValueRef::Integer(5)], &mut scratch));
        assert_ne!(short, row_hash_of(7, &[2], [ValueRef::Integer(5)], &mut scratch));
    }

    #[test]
    fn bytes_and_values_hash_alike() {
        let values = [Value::Integer(-3), Value::Null, Value::Text("é".into()), Value::Real(-0.0), Value::Blob(vec![])];
        let bytes = row::encode(&values);
        let tags = [1, 2, 3, 4, 5];
        let mut scratch = Vec::new();
        let of_bytes = row_hash(9, &tags, &mut row::Reader::new(&bytes), &mut scratch).unwrap();
        assert_eq!(of_bytes, row_hash_of(9, &tags, values.iter().map(Value::as_ref), &mut scratch));
    }

    #[test]
    fn sums_do_not_depend_on_order() {
        let (a, b) = (RowHash(i64::MAX), RowHash(77));
        let mut one = ContentSum::default();
        one.add(a);
        one.add(b);
        one.remove(a);
        let mut other = ContentSum::default();
        other.add(b);
        assert_eq!(one, other);
    }

    #[test]
    fn a_rule_and_a_key_do_not_run_into_each_other() {
        assert_ne!(bucket_id("ab", b"c"), bucket_id("a", b"bc"));
    }

    #[test]
    fn a_proof_is_an_hmac() {
        // Made with Python's hmac.
        let secret = std::array::from_fn(|i| i as u8);
        let hex: String = proof(&secret, b"ann 1 2 3").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "21f713964c035009c60114600434dc7a");
    }
}
