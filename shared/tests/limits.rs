//! Each limit of a message: taken at the limit, refused in plain words one beyond it.

use serde::{Deserialize, Serialize};
use sync_shared::count::values;
use sync_shared::envelope::{self, Kind, Message};
use sync_shared::hash::tag;
use sync_shared::message::{Batch, BatchId, BatchRandom, Change, ChangeKind, Delta, PullRequest, PushRequest};
use sync_shared::ranges::{RangeSums, Ranges};
use sync_shared::{limits, row, Error, Value, ValueRef};

/// Arrays in arrays.
#[derive(Serialize, Deserialize)]
struct Nest(Vec<Nest>);

impl Message for Nest {
    const KIND: Kind = Kind::Notice;
}

/// A push request with this header and body.
fn message(codec: u8, declared: usize, body: &[u8]) -> Vec<u8> {
    of_kind(Kind::PushRequest, codec, declared, body)
}

fn of_kind(kind: Kind, codec: u8, declared: usize, body: &[u8]) -> Vec<u8> {
    let mut bytes = [b"SY\x01".as_slice(), &[kind as u8, codec], &(declared as u32).to_be_bytes(), &[0; 4], body].concat();
    envelope::seal(&mut bytes);
    bytes
}

fn refusal(bytes: &[u8]) -> String {
    // It may have millions of values, which are not to be shown.
    let Err(error) = envelope::decode::<PushRequest>(bytes) else { panic!("it is no request") };
    error.to_string()
}

#[test]
fn bytes_of_a_message() {
    let said = |kind: Kind, declared: usize| {
        let bytes = of_kind(kind, 0, declared, b"short");
        let error = match kind {
            Kind::PullRequest => envelope::decode::<PullRequest>(&bytes).expect_err("refused"),
            Kind::PushRequest => envelope::decode::<PushRequest>(&bytes).expect_err("refused"),
            _ => envelope::decode::<Delta>(&bytes).expect_err("refused"),
        };
        format!("{}: {error}", error.code())
    };
    let kinds = [
        (Kind::PullRequest, limits::PULL_REQUEST_BYTES),
        (Kind::PushRequest, limits::PUSH_REQUEST_BYTES),
        (Kind::Delta, limits::MESSAGE_BYTES),
    ];
    for (kind, most) in kinds {
        let at = said(kind, most);
        assert!(at.contains("not the declared one"), "looked into: {at}");
        assert_eq!(said(kind, most + 1), format!("SY004: the message declares {} bytes, the limit is {most}", most + 1));
    }
}

/// A push request whose only change has so many NULLs, and how many values that makes: each is a byte here, and 32 where it is decoded.
fn nulls(count: usize) -> (Vec<u8>, usize) {
    let mut change = Change {
        table: tag("t"),
        kind: ChangeKind::Insert,
        key: vec![Value::Integer(1)],
        columns: vec![],
        old: vec![],
        new: vec![Value::Null; 1 << 16],
        rest: None,
        below: vec![],
    };
    let pack = |change: &Change| {
        let id = BatchId { number: 1, random: BatchRandom::new([1; 16]) };
        let batches =
            vec![Batch { id, edited: 0, user: "ann".into(), changes: vec![change.clone()], note: String::new(), whole: false }];
        let device = uuid::Uuid::from_bytes([7; 16]);
        rmp_serde::to_vec(&PushRequest { device, batches, wants: vec![], held: vec![], differ: None }).expect("encodes")
    };
    let body = pack(&change);
    change.new.clear();
    let others = values(&pack(&change));
    // The array of NULLs, with another length.
    let head = [&[0xdd_u8][..], &(1_u32 << 16).to_be_bytes()].concat();
    let at = body.windows(head.len()).position(|bytes| bytes == head).expect("the array") + 1;
    let mut body = [&body[..at], &(count as u32).to_be_bytes(), &body[at + 4..]].concat();
    let nulls = at + 4;
    body.splice(nulls..nulls + (1 << 16), std::iter::repeat_n(0xc0, count));
    let values = others + count;
    (body, values)
}

#[test]
fn values_of_a_message() {
    let most = limits::PUSH_REQUEST_VALUES;
    let others = nulls(1 << 16).1 - (1 << 16);
    let (at, values) = nulls(most - others);
    assert_eq!(values, most);
    let request = envelope::decode::<PushRequest>(&message(0, at.len(), &at)).expect("as many as may be");
    assert_eq!(request.batches[0].changes[0].new.len(), most - others);
    drop(request);
    let (beyond, _) = nulls(most - others + 1);
    assert!(beyond.len() < limits::PUSH_REQUEST_BYTES / 2, "its bytes are few enough");
    let said = |limit: usize| format!("the message declares {} values, the limit is {limit}", limit + 1);
    assert_eq!(refusal(&message(0, beyond.len(), &beyond)), said(most));
    // A few bytes that are many values.
    let packed = |body: &[u8]| message(1, body.len(), &zstd::bulk::compress(body, 1).expect("compresses"));
    let (free, _) = nulls(limits::VALUES_FREE - others);
    assert!(packed(&free).len() < 1000);
    assert!(envelope::decode::<PushRequest>(&packed(&free)).is_ok());
    let (many, _) = nulls(limits::VALUES_FREE - others + 1);
    assert_eq!(refusal(&packed(&many)), said(limits::VALUES_FREE));
    // They may be sent, at the length that they have.
    let request: PushRequest = envelope::decode(&message(0, many.len(), &many)).expect("a request");
    let sent = envelope::encode(&request).expect("encodes");
    assert!(sent.len() > many.len() && envelope::decode::<PushRequest>(&sent).expect("arrives") == request);
}

#[test]
fn expansion_of_a_message() {
    // One blob, since there is a limit of values, too.
    let zeros = |n: usize| {
        let head = [&[0xc6][..], &(n as u32 - 5).to_be_bytes()].concat();
        zstd::bulk::compress(&[head, vec![0; n - 5]].concat(), 1).expect("zeros compress")
    };
    let (packed, free) = (zeros(limits::EXPANSION_FREE), limits::EXPANSION_FREE);
    assert!(packed.len() * limits::EXPANSION < free);
    assert!(refusal(&message(1, free, &packed)).contains("damaged"), "unpacked, and no request");
    assert!(refusal(&message(1, free + 1, &packed)).contains("the limit is 1048576"));
    // Beyond what is free the size of what came counts.
    let noise: Vec<u8> = (0..600_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let most = noise.len() * limits::EXPANSION;
    assert!(refusal(&message(1, most, &noise)).contains("damaged"));
    assert!(matches!(envelope::decode::<PushRequest>(&message(1, most + 1, &noise)), Err(Error::TooLarge { .. })));
}

#[test]
fn depth_of_a_message() {
    // On the wire each level is one array of the struct and one of its list.
    let nest = |levels: usize| (1..levels).fold(Nest(Vec::new()), |inner, _| Nest(vec![inner]));
    let deepest = (1..40)
        .take_while(|levels| envelope::decode::<Nest>(&envelope::encode(&nest(*levels)).expect("encodes")).is_ok())
        .count();
    assert!((limits::DEPTH / 2 - 1..=limits::DEPTH).contains(&deepest), "{deepest} levels");
    let error = envelope::decode::<Nest>(&envelope::encode(&nest(deepest + 1)).expect("encodes")).err().expect("too deep");
    assert!(error.to_string().contains("depth"), "{error}");
}

#[test]
fn bits_of_ranges() {
    let with = |bits: u8| {
        let bytes =
            rmp_serde::to_vec(&(bits, serde_bytes::ByteBuf::from(vec![0; (1_usize << bits).div_ceil(8)]))).expect("encodes");
        rmp_serde::from_slice::<Ranges>(&bytes).expect("decodes").check()
    };
    assert!(with(limits::RANGE_BITS).is_ok());
    assert!(with(limits::RANGE_BITS + 1).expect_err("too many").to_string().contains("13 bits of ranges"));
    assert_eq!(RangeSums::new(limits::RANGE_BITS + 1).bits(), limits::RANGE_BITS);
    assert_eq!(RangeSums::bits_for(i64::MAX), limits::RANGE_BITS);
}

#[test]
fn bytes_of_a_row() {
    let row = |text: usize, nulls: usize| {
        let mut bytes = Vec::new();
        row::put(&mut bytes, ValueRef::Blob(&vec![0; text]));
        (0..nulls).for_each(|_| row::put(&mut bytes, ValueRef::Null));
        bytes
    };
    // A blob of this size has five bytes in front.
    let most = limits::ROW_BYTES - 5;
    assert!(!row::is_too_large(&row(most, 0)));
    assert!(!row::is_too_large(&row(most, 100)), "NULLs do not count");
    assert!(row::is_too_large(&row(most + 1, 0)));
}
