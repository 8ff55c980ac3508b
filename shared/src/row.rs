//! Rows as bare MessagePack values one behind the other: no length, no names, no copy.
//!
//! A row's columns stand in the order of the table's column tags (see [`crate::hash`]), so the bytes that travel are the
//! bytes that are hashed.

use crate::error::{Error, Result};
use crate::value::{Value, ValueRef};

/// Appends one value in its only form: the smallest integer, reals always as 8 bytes.
pub fn put(out: &mut Vec<u8>, value: ValueRef<'_>) {
    // Writing to a Vec cannot fail.
    match value {
        ValueRef::Null => out.push(0xc0),
        ValueRef::Integer(i) => {
            let _ = rmp::encode::write_sint(out, i);
        }
        ValueRef::Real(r) => {
            // -0.0 equals 0.0 in both databases, so both must hash alike.
            let r = if r == 0.0 { 0.0 } else { r };
            let _ = rmp::encode::write_f64(out, r);
        }
        ValueRef::Text(s) => put_text(out, s.as_bytes()),
        ValueRef::Blob(b) => {
            let _ = rmp::encode::write_bin(out, b);
        }
    }
}

/// Appends a text given as bytes that are known to be UTF-8.
pub fn put_text(out: &mut Vec<u8>, utf8: &[u8]) {
    match utf8.len() {
        n @ 0..=31 => out.push(0xa0 | n as u8),
        n @ 32..=0xff => out.extend_from_slice(&[0xd9, n as u8]),
        n => {
            // Writing to a Vec cannot fail.
            let _ = rmp::encode::write_str_len(out, n as u32);
        }
    }
    out.extend_from_slice(utf8);
}

/// Appends a row or a key.
pub fn put_all<'a>(out: &mut Vec<u8>, values: impl IntoIterator<Item = ValueRef<'a>>) {
    for value in values {
        put(out, value);
    }
}

/// Whether one value's bytes are those of NULL.
pub fn is_null(value: &[u8]) -> bool {
    value == [0xc0]
}

/// Whether a row's bytes are more than a device takes. NULLs do not count, so a column added without a value changes nothing.
pub fn is_too_large(row: &[u8]) -> bool {
    if row.len() <= crate::limits::ROW_BYTES {
        return false;
    }
    let (mut reader, mut size) = (Reader::new(row), row.len());
    while let (false, Ok(value)) = (reader.is_empty(), reader.value()) {
        size -= usize::from(value == ValueRef::Null);
    }
    size > crate::limits::ROW_BYTES
}

/// Walks values in bytes written by [`put`].
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// Whether every byte was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The bytes not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.rest.len() {
            return Err(Error::damaged("a value is cut short"));
        }
        let (head, rest) = self.rest.split_at(n);
        self.rest = rest;
        Ok(head)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn text(&mut self, n: usize) -> Result<ValueRef<'a>> {
        let bytes = self.take(n)?;
        std::str::from_utf8(bytes).map(ValueRef::Text).map_err(|_| Error::damaged("a text is not UTF-8"))
    }

    /// The next value.
    pub fn value(&mut self) -> Result<ValueRef<'a>> {
        let marker = self.take(1)?[0];
        Ok(match marker {
            0x00..=0x7f => ValueRef::Integer(i64::from(marker)),
            0xe0..=0xff => ValueRef::Integer(i64::from(marker as i8)),
            0xc0 => ValueRef::Null,
            0xcc => ValueRef::Integer(i64::from(self.number::<1>()?[0])),
            0xcd => ValueRef::Integer(i64::from(u16::from_be_bytes(self.number()?))),
            0xce => ValueRef::Integer(i64::from(u32::from_be_bytes(self.number()?))),
            0xcf => {
                let u = u64::from_be_bytes(self.number()?);
                ValueRef::Integer(i64::try_from(u).map_err(|_| Error::damaged("an integer is over 64 bits"))?)
            }
            0xd0 => ValueRef::Integer(i64::from(i8::from_be_bytes(self.number()?))),
            0xd1 => ValueRef::Integer(i64::from(i16::from_be_bytes(self.number()?))),
            0xd2 => ValueRef::Integer(i64::from(i32::from_be_bytes(self.number()?))),
            0xd3 => ValueRef::Integer(i64::from_be_bytes(self.number()?)),
            0xcb => ValueRef::Real(f64::from_be_bytes(self.number()?)),
            0xa0..=0xbf => self.text(usize::from(marker & 0x1f))?,
            0xd9 => {
                let n = self.number::<1>()?[0];
                self.text(usize::from(n))?
            }
            0xda => {
                let n = u16::from_be_bytes(self.number()?);
                self.text(usize::from(n))?
            }
            0xdb => {
                let n = u32::from_be_bytes(self.number()?);
                self.text(n as usize)?
            }
            0xc4 => {
                let n = self.number::<1>()?[0];
                ValueRef::Blob(self.take(usize::from(n))?)
            }
            0xc5 => {
                let n = u16::from_be_bytes(self.number()?);
                ValueRef::Blob(self.take(usize::from(n))?)
            }
            0xc6 => {
                let n = u32::from_be_bytes(self.number()?);
                ValueRef::Blob(self.take(n as usize)?)
            }
            other => return Err(Error::damaged(format_args!("0x{other:02x} is not a value"))),
        })
    }

    /// The next `n` values into `row`, which is cleared first. One allocation serves all rows of a page.
    pub fn row(&mut self, n: usize, row: &mut Vec<ValueRef<'a>>) -> Result<()> {
        row.clear();
        for _ in 0..n {
            row.push(self.value()?);
        }
        Ok(())
    }
}

/// A key or a row, owned, from bytes that hold nothing else.
pub fn decode(bytes: &[u8]) -> Result<Vec<Value>> {
    let mut reader = Reader::new(bytes);
    let mut values = Vec::new();
    while !reader.is_empty() {
        values.push(reader.value()?.to_owned());
    }
    Ok(values)
}

/// The bytes of a key or a row.
pub fn encode(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    put_all(&mut out, values.iter().map(Value::as_ref));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            (-200i64..70_000).prop_map(Value::Integer),
            any::<f64>().prop_filter("NaN travels as text", |r| !r.is_nan()).prop_map(Value::Real),
            ".{0,300}".prop_map(Value::Text),
            proptest::collection::vec(any::<u8>(), 0..300).prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn every_row_comes_back(row in proptest::collection::vec(any_value(), 0..20)) {
            prop_assert_eq!(decode(&encode(&row)).unwrap(), row);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn minus_zero_is_zero() {
        assert_eq!(encode(&[Value::Real(-0.0)]), encode(&[Value::Real(0.0)]));
    }

    #[test]
    fn a_cut_value_is_refused() {
        let bytes = encode(&[Value::Text("hello".into())]);
        for n in 1..bytes.len() {
            assert!(decode(&bytes[..n]).is_err());
        }
    }
}
