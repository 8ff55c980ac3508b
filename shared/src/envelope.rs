//! The versioned header around a message.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0-1 | `SY` |
//! | 2 | wire version |
//! | 3 | kind, see [`Kind`] |
//! | 4 | codec: 0 none, 1 zstd |
//! | 5-8 | length of the body before compression, big endian |
//! | 9-12 | CRC-32 (zlib's) of bytes 0 to 8 and of what follows, big endian |
//! | 13.. | the body: MessagePack, structs as arrays |

use crate::count;
use crate::error::{Error, Result};
use crate::limits;
use serde::{de::DeserializeOwned, Serialize};
use std::io::Read;

/// What every message begins with.
pub(crate) const MAGIC: [u8; 2] = *b"SY";
/// Bytes before the body.
pub const HEADER: usize = 13;
/// Where the checksum stands.
const CHECKSUM: std::ops::Range<usize> = 9..13;
const CODEC_NONE: u8 = 0;
const CODEC_ZSTD: u8 = 1;
/// Bodies below this size are not worth compressing, in bytes.
const COMPRESS_FROM: usize = 256;
/// What other levels need is not built: see .cargo/config.toml.
const ZSTD_LEVEL: i32 = 1;

/// What a message is. The numbers are the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Device to server: what changed for me?
    PullRequest = 1,
    /// Device to server: what I wrote.
    PushRequest = 2,
    /// Server to device: one page of a delta.
    Delta = 3,
    /// Server to device: what became of the batches.
    PushReply = 4,
    /// Server to device: send me something first, or ask again.
    Notice = 5,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::PullRequest, Kind::PushRequest, Kind::Delta, Kind::PushReply, Kind::Notice];

    /// The name used in errors and in `apply_delta`'s answer.
    pub fn name(self) -> &'static str {
        match self {
            Kind::PullRequest => "pull request",
            Kind::PushRequest => "push request",
            Kind::Delta => "delta",
            Kind::PushReply => "push reply",
            Kind::Notice => "notice",
        }
    }
}

/// A type that travels as the body of one kind of message.
pub trait Message: Serialize + DeserializeOwned {
    /// The kind in the header.
    const KIND: Kind;
    /// The most bytes of a body.
    const BYTES: usize = limits::MESSAGE_BYTES;
    /// The most values of a body.
    const VALUES: usize = limits::MESSAGE_VALUES;
}

/// Refuses a body of too many values. Only one that has as many bytes is looked at.
fn check_values(body: &[u8], limit: usize) -> Result<()> {
    let found = if body.len() > limit { count::values(body) } else { 0 };
    if found > limit {
        return Err(Error::TooLarge { what: "values", found: found as u64, limit: limit as u64 });
    }
    Ok(())
}

/// How many values a compressed body may have.
fn values_limit<M: Message>(packed: usize) -> usize {
    M::VALUES.min(limits::VALUES_FREE.max(packed.saturating_mul(limits::VALUES_EXPANSION)))
}

/// The bytes of a message, compressed where it helps.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>> {
    let body = rmp_serde::to_vec(message).map_err(Error::damaged)?;
    if body.len() > M::BYTES {
        return Err(Error::TooLarge { what: "bytes", found: body.len() as u64, limit: M::BYTES as u64 });
    }
    check_values(&body, M::VALUES)?;
    let packed = if body.len() >= COMPRESS_FROM {
        // A body that shrinks more than a receiver allows travels as it is.
        Some(zstd::bulk::compress(&body, ZSTD_LEVEL).map_err(Error::damaged)?)
            .filter(|packed| packed.len() < body.len() && body.len() <= expanded_limit(packed.len()))
            .filter(|packed| check_values(&body, values_limit::<M>(packed.len())).is_ok())
    } else {
        None
    };
    let (codec, content) = match &packed {
        Some(packed) => (CODEC_ZSTD, packed),
        None => (CODEC_NONE, &body),
    };
    let mut out = Vec::with_capacity(HEADER + content.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[limits::WIRE_VERSION, M::KIND as u8, codec]);
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(content);
    seal(&mut out);
    Ok(out)
}

/// Sets the checksum right: for who changes a message's bytes on purpose, such as a test. Too short ones stay as they are.
pub fn seal(message: &mut [u8]) {
    if message.len() >= HEADER {
        let sum = checksum(message);
        message[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Of a message that has a whole header.
fn checksum(message: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&message[..CHECKSUM.start]);
    hasher.update(&message[HEADER..]);
    hasher.finalize()
}

/// How large a compressed body may claim to be.
fn expanded_limit(packed: usize) -> usize {
    limits::MESSAGE_BYTES.min(limits::EXPANSION_FREE.max(packed.saturating_mul(limits::EXPANSION)))
}

/// How many bytes the body has before compression, as the header declares it; 0 without a header.
pub fn declared(bytes: &[u8]) -> usize {
    bytes.get(5..9).and_then(|length| length.try_into().ok()).map_or(0, u32::from_be_bytes) as usize
}

/// The kind that the header declares; the body is not looked at.
pub fn kind(bytes: &[u8]) -> Result<Kind> {
    let header = bytes.get(..HEADER).ok_or(Error::NotAMessage)?;
    if header[..2] != MAGIC {
        return Err(Error::NotAMessage);
    }
    if !(limits::WIRE_VERSION_OLDEST..=limits::WIRE_VERSION).contains(&header[2]) {
        return Err(Error::Version(header[2]));
    }
    Kind::ALL.into_iter().find(|k| *k as u8 == header[3]).ok_or_else(|| Error::damaged("an unknown kind"))
}

/// Reads a message of one kind. Sizes are checked before anything is allocated, nesting before anything is decoded.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M> {
    let found = kind(bytes)?;
    if found != M::KIND {
        return Err(Error::Kind { found: found.name(), expected: M::KIND.name() });
    }
    if bytes[CHECKSUM] != checksum(bytes).to_be_bytes() {
        return Err(Error::damaged("its checksum does not fit"));
    }
    let content = &bytes[HEADER..];
    let declared = declared(bytes);
    let limit = if bytes[4] == CODEC_NONE { M::BYTES } else { expanded_limit(content.len()).min(M::BYTES) };
    if declared > limit {
        return Err(Error::TooLarge { what: "bytes", found: declared as u64, limit: limit as u64 });
    }
    let unpacked;
    let body: &[u8] = match bytes[4] {
        CODEC_NONE => content,
        CODEC_ZSTD => {
            let decoder = zstd::stream::read::Decoder::with_buffer(content).map_err(Error::damaged)?;
            let mut body = Vec::with_capacity(declared);
            // One byte more than declared, so that a longer body shows.
            decoder.take(declared as u64 + 1).read_to_end(&mut body).map_err(Error::damaged)?;
            unpacked = body;
            &unpacked
        }
        other => return Err(Error::damaged(format_args!("codec {other} is unknown"))),
    };
    if body.len() != declared {
        return Err(Error::damaged("its length is not the declared one"));
    }
    check_values(body, if bytes[4] == CODEC_NONE { M::VALUES } else { values_limit::<M>(content.len()) })?;
    let mut decoder = rmp_serde::Deserializer::new(std::io::Cursor::new(body));
    decoder.set_max_depth(limits::DEPTH);
    let message = M::deserialize(&mut decoder).map_err(Error::damaged)?;
    if decoder.position() != body.len() as u64 {
        return Err(Error::damaged("bytes behind its end"));
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::PushRequest;

    #[test]
    fn a_message_comes_back_and_one_with_bytes_behind_it_does_not() {
        let message =
            PushRequest { device: uuid::Uuid::from_bytes([7; 16]), batches: vec![], wants: vec![], held: vec![], differ: None };
        let mut bytes = encode(&message).unwrap();
        assert_eq!(decode::<PushRequest>(&bytes).unwrap(), message);
        bytes.push(0);
        bytes[8] += 1;
        seal(&mut bytes);
        assert!(decode::<PushRequest>(&bytes).is_err());
    }

    #[test]
    fn a_message_with_any_bit_changed_is_refused() {
        let batch = crate::message::Batch {
            id: crate::message::BatchId { number: 1, random: crate::message::BatchRandom::new([1; 16]) },
            edited: 0,
            user: "ann".repeat(200),
            changes: vec![],
            note: String::new(),
            whole: false,
        };
        for batches in [vec![], vec![batch]] {
            let bytes = encode(&PushRequest {
                device: uuid::Uuid::from_bytes([7; 16]),
                batches,
                wants: vec![],
                held: vec![],
                differ: None,
            })
            .unwrap();
            for bit in 0..bytes.len() * 8 {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(decode::<PushRequest>(&changed).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn what_compresses_too_well_to_be_believed_still_arrives() {
        let id = crate::message::BatchId { number: 1, random: crate::message::BatchRandom::new([1; 16]) };
        let user = "é1".repeat(1_500_000);
        let batch = crate::message::Batch { id, edited: 0, user, changes: vec![], note: String::new(), whole: false };
        let message = PushRequest {
            device: uuid::Uuid::from_bytes([7; 16]),
            batches: vec![batch],
            wants: vec![],
            held: vec![],
            differ: None,
        };
        assert_eq!(decode::<PushRequest>(&encode(&message).unwrap()).unwrap(), message);
    }

    #[test]
    fn a_body_that_claims_to_be_huge_is_refused_before_it_is_unpacked() {
        let message =
            PushRequest { device: uuid::Uuid::from_bytes([7; 16]), batches: vec![], wants: vec![], held: vec![], differ: None };
        let mut bytes = encode(&message).unwrap();
        bytes[4] = CODEC_ZSTD;
        bytes[5..9].copy_from_slice(&u32::MAX.to_be_bytes());
        seal(&mut bytes);
        assert!(matches!(decode::<PushRequest>(&bytes), Err(Error::TooLarge { .. })));
    }
}
