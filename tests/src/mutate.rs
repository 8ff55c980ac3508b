//! Messages as nobody meant them: byte by byte, or field by field so that the envelope stays whole and what is behind it is reached.

use fastrand::Rng;
use rmpv::Value;
use sync_shared::envelope::{self, Kind, Message, HEADER};
use sync_shared::message::{Delta, Notice, PullRequest, PushReply, PushRequest};
use sync_shared::signed;

/// Nesting that is looked into; deeper bytes are taken for a blob.
const DEPTH: usize = 24;

/// Cuts, flips, fills, repeats and swaps bytes. The header stays whole most of the time.
pub fn bytes(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..rng.usize(1..4) {
        let from = if rng.u8(..) < 240 { HEADER.min(out.len()) } else { 0 };
        if out.len() <= from {
            out.push(rng.u8(..));
            continue;
        }
        let at = rng.usize(from..out.len());
        let end = (at + rng.usize(1..20)).min(out.len());
        match rng.u8(..8) {
            0 => out.truncate(at),
            1 => out[at] = rng.u8(..),
            2 => out[at] ^= 1 << rng.u8(..8),
            3 => out[at] = [0xc0, 0xc6, 0xdb, 0xdd, 0xdf, 0xcf, 0xd3, 0x90, 0xff][rng.usize(..9)],
            4 => {
                let piece = out[at..end].to_vec();
                out.splice(at..at, piece);
            }
            5 => out.swap(at, rng.usize(from..at + 1)),
            6 => drop(out.drain(at..end)),
            _ => out[at..end.min(at + 4)].fill(0xff),
        }
    }
    with_length(out)
}

/// Changes one to four fields of a message, wherever they are nested; pieces of `other`, a message too, may take their place.
/// Both without compression; one that cannot be read is changed byte by byte.
///
/// Of a signed answer mostly the message is changed, and the signatures stay in front of it.
pub fn fields(rng: &mut Rng, message: &[u8], other: &[u8]) -> Vec<u8> {
    if let Ok(Some(signed)) = signed::split(message) {
        if rng.u8(..4) == 0 {
            return bytes(rng, message);
        }
        let other = signed::split(other).ok().flatten().map_or(other, |other| other.message);
        let changed = fields(rng, signed.message, other);
        return signed::join(&signed.asked, &signed.signatures, &changed);
    }
    let (Some(mut body), Some(other)) = (tree(message), tree(other)) else { return bytes(rng, message) };
    for _ in 0..rng.usize(1..5) {
        change(rng, &mut body, &other);
    }
    let mut out = message[..HEADER].to_vec();
    // Writing to a Vec cannot fail.
    let _ = rmpv::encode::write_value(&mut out, &body);
    with_length(out)
}

/// The same message with its body as it is before compression; None if it is not one.
pub fn uncompressed(message: &[u8]) -> Option<Vec<u8>> {
    if let Some(signed) = signed::split(message).ok()? {
        return Some(signed::join(&signed.asked, &signed.signatures, &uncompressed(signed.message)?));
    }
    let body = match envelope::kind(message).ok()? {
        Kind::PullRequest => body(message, |_: &mut PullRequest| ()),
        Kind::PushRequest => body(message, |_: &mut PushRequest| ()),
        // Of no turn, or a device would look at the first only.
        Kind::Delta => body(message, |delta: &mut Delta| delta.turn = 0),
        Kind::PushReply => body(message, |_: &mut PushReply| ()),
        Kind::Notice => body(message, |notice: &mut Notice| notice.turn = 0),
    }?;
    let mut out = message[..4].to_vec();
    out.resize(HEADER, 0);
    out.extend_from_slice(&body);
    Some(with_length(out))
}

fn body<M: Message>(message: &[u8], change: impl Fn(&mut M)) -> Option<Vec<u8>> {
    let mut message = envelope::decode::<M>(message).ok()?;
    change(&mut message);
    rmp_serde::to_vec(&message).ok()
}

/// Sets the declared length and the checksum right, so that they are not what every mutation is refused for.
fn with_length(mut message: Vec<u8>) -> Vec<u8> {
    if message.len() >= HEADER && message[4] == 0 {
        let length = (message.len() - HEADER) as u32;
        message[5..9].copy_from_slice(&length.to_be_bytes());
    }
    envelope::seal(&mut message);
    message
}

fn tree(message: &[u8]) -> Option<Value> {
    let mut body = message.get(HEADER..)?;
    let value = rmpv::decode::read_value_with_max_depth(&mut body, DEPTH).ok()?;
    body.is_empty().then_some(value)
}

/// Bytes that are values one behind the other: rows, keys and tokens travel so.
fn sequence(mut bytes: &[u8]) -> Option<Vec<Value>> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        values.push(rmpv::decode::read_value_with_max_depth(&mut bytes, DEPTH).ok()?);
    }
    (!values.is_empty()).then_some(values)
}

fn change(rng: &mut Rng, value: &mut Value, other: &Value) {
    let inside = rng.u8(..) < 224;
    match value {
        Value::Array(items) if inside && !items.is_empty() => {
            let at = rng.usize(..items.len());
            change(rng, &mut items[at], other);
        }
        Value::Array(items) => reorder(rng, items, other),
        Value::Binary(bytes) => match sequence(bytes) {
            Some(mut items) if inside => {
                if rng.u8(..) < 192 {
                    let at = rng.usize(..items.len());
                    change(rng, &mut items[at], other);
                } else {
                    reorder(rng, &mut items, other);
                }
                bytes.clear();
                for item in &items {
                    let _ = rmpv::encode::write_value(bytes, item);
                }
            }
            _ => *value = leaf(rng, value, other),
        },
        _ => *value = leaf(rng, value, other),
    }
}

/// Takes away, repeats, swaps or adds items.
fn reorder(rng: &mut Rng, items: &mut Vec<Value>, other: &Value) {
    let at = rng.usize(..items.len().max(1));
    match rng.u8(..6) {
        0 if !items.is_empty() => drop(items.remove(at)),
        1 if !items.is_empty() => items.swap(0, at),
        2 if !items.is_empty() => items.insert(at, items[at].clone()),
        3 if !items.is_empty() => {
            let times = [2, 10, 60, 2_000][rng.usize(..4)];
            let item = items[at].clone();
            items.extend(std::iter::repeat_n(item, times));
        }
        4 => items.truncate(at),
        _ => items.insert(at.min(items.len()), piece(rng, other)),
    }
}

/// Another value for a field.
fn leaf(rng: &mut Rng, value: &Value, other: &Value) -> Value {
    const INTEGERS: [i64; 16] =
        [0, 1, -1, 2, 7, 63, 64, 127, 255, -129, 65_536, i32::MAX as i64, i32::MIN as i64, 1 << 40, i64::MAX, i64::MIN];
    const TEXTS: [&str; 10] =
        ["", "\0", "'\"; --", "NaN", "infinity", "{}", "9e999", "0001-01-01 BC", "\u{feff}é", "[2:3]={7,8}"];
    match rng.u8(..10) {
        0 => Value::from(INTEGERS[rng.usize(..INTEGERS.len())]),
        1 => Value::from(u64::MAX - rng.u64(..2)),
        2 => Value::from([0.0, -0.0, 1.5, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, 1e308][rng.usize(..7)]),
        3 => Value::from(TEXTS[rng.usize(..TEXTS.len())]),
        4 => Value::from("x".repeat([1, 300, 70_000][rng.usize(..3)])),
        5 => Value::Binary(vec![rng.u8(..); [0, 1, 15, 16, 17, 300][rng.usize(..6)]]),
        6 => [Value::Nil, Value::from(true), Value::Array(Vec::new())][rng.usize(..3)].clone(),
        7 => piece(rng, other),
        _ => near(rng, value),
    }
}

/// A value of the same kind, a little different.
fn near(rng: &mut Rng, value: &Value) -> Value {
    match value {
        Value::Integer(n) => Value::from(n.as_i64().unwrap_or(i64::MAX).wrapping_add([-1, 1, 1 << rng.u8(..63)][rng.usize(..3)])),
        Value::F64(x) => Value::from(-x),
        Value::String(text) => {
            let text: Vec<char> = text.as_str().unwrap_or("").chars().collect();
            let cut = rng.usize(..text.len() + 1);
            Value::from(text[..cut].iter().chain(&text[cut / 2..]).collect::<String>())
        }
        Value::Binary(bytes) if !bytes.is_empty() => {
            let mut bytes = bytes.clone();
            let at = rng.usize(..bytes.len());
            bytes[at] ^= 1 << rng.u8(..8);
            Value::Binary(bytes)
        }
        Value::Boolean(is) => Value::from(!is),
        other => Value::Array(vec![other.clone()]),
    }
}

/// A part of a tree, wherever it is nested.
fn piece(rng: &mut Rng, value: &Value) -> Value {
    match value {
        Value::Array(items) if !items.is_empty() && rng.u8(..) < 200 => {
            let at = rng.usize(..items.len());
            piece(rng, &items[at])
        }
        Value::Binary(bytes) if rng.bool() => match sequence(bytes) {
            Some(items) => items[rng.usize(..items.len())].clone(),
            None => value.clone(),
        },
        _ => value.clone(),
    }
}
