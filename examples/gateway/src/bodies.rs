//! Memory for what travels: bodies that come, answers that go, and what streams keep. All of it together is `--max-buffered`.
//!
//! It has shares, so that none of them starves another: small bodies and answers have room that large ones cannot take, and what is
//! received before the token is looked at has only the share of small bodies.

use crate::refusal::Refusal;
use crate::turns::Turn;
use crate::Gateway;
use axum::body::{Body, HttpBody};
use axum::http::{header, HeaderMap, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_postgres::Row;

/// What room is counted in.
const UNIT: usize = 1 << 10;
/// A body up to this size is received before its token is looked at, and has room of its own; so has such an answer.
const SMALL: usize = 64 << 10;
/// A small body comes in as long, or not at all.
const PATIENCE: Duration = Duration::from_secs(15);
/// An answer is handed on in parts of this size.
const PART: usize = 64 << 10;

/// The shares of `--max-buffered`, in eighths.
pub struct Room {
    /// Bodies up to [`SMALL`].
    small: Arc<Semaphore>,
    /// Larger ones, of users that are known.
    large: Arc<Semaphore>,
    /// Answers up to [`SMALL`] that are not sent yet.
    small_answers: Arc<Semaphore>,
    /// Larger ones.
    answers: Arc<Semaphore>,
    /// What streams keep.
    streams: Arc<Semaphore>,
    eighth: usize,
}

/// What some bytes of memory are taken from; given back when it is dropped.
#[derive(Default)]
pub struct Taken(Vec<OwnedSemaphorePermit>);

impl Room {
    /// Room for so many bytes.
    pub fn new(bytes: usize) -> Room {
        let eighth = (bytes / UNIT / 8).clamp(1, Semaphore::MAX_PERMITS / 8);
        let share = |eighths| Arc::new(Semaphore::new(eighth * eighths));
        Room { small: share(1), large: share(3), small_answers: share(1), answers: share(2), streams: share(1), eighth }
    }

    /// Bytes that are taken: of bodies, of answers, of streams.
    pub fn taken(&self) -> [usize; 3] {
        let left = |share: &Semaphore| share.available_permits();
        [
            self.eighth * 4 - left(&self.small) - left(&self.large),
            self.eighth * 3 - left(&self.small_answers) - left(&self.answers),
            self.eighth - left(&self.streams),
        ]
        .map(|units| units * UNIT)
    }

    /// Room for what a stream keeps.
    pub fn stream(&self, bytes: usize) -> Option<Taken> {
        let mut taken = Taken::default();
        taken.grow(&self.streams, bytes).then_some(taken)
    }

    fn answer(&self, bytes: usize) -> Option<Taken> {
        let mut taken = Taken::default();
        let fits = (bytes <= SMALL && taken.grow(&self.small_answers, bytes)) || taken.grow(&self.answers, bytes);
        fits.then_some(taken)
    }
}

impl Taken {
    /// Takes more, so that it is enough for so many bytes in all. False: there is not so much, and nothing was taken.
    fn grow(&mut self, share: &Arc<Semaphore>, bytes: usize) -> bool {
        let has: usize = self.0.iter().map(OwnedSemaphorePermit::num_permits).sum();
        let units = u32::try_from(bytes.div_ceil(UNIT).saturating_sub(has)).unwrap_or(u32::MAX);
        let Ok(permit) = share.clone().try_acquire_many_owned(units) else { return false };
        match self.0.last_mut() {
            Some(last) if Arc::ptr_eq(last.semaphore(), share) => last.merge(permit),
            _ => self.0.push(permit),
        }
        true
    }
}

/// A body, and the room that it takes.
pub struct Held {
    /// All of it.
    pub bytes: Bytes,
    _room: Taken,
}

impl From<Bytes> for Held {
    /// What somebody else has counted.
    fn from(bytes: Bytes) -> Held {
        Held { bytes, _room: Taken::default() }
    }
}

/// Receives a body within the limits: of its size, of the size of all, of time. Before more than a little of it the token must count.
pub async fn receive(gateway: &Gateway, turn: &Turn, headers: &HeaderMap, mut body: Body, limit: usize) -> Result<Held, Refusal> {
    let too_large = || {
        let message = format!("the body is over the limit of {limit} bytes: nothing of it was taken");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let told = headers.get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<usize>().ok());
    if told.is_some_and(|told| told > limit) {
        return Err(too_large());
    }
    let (mut bytes, mut taken) = (Vec::new(), Taken::default());
    let mut large = told.is_some_and(|told| told > SMALL);
    let mut deadline = Instant::now() + PATIENCE.min(gateway.settings.timeout());
    if large {
        gateway.database.knows(turn).await?;
        deadline = Instant::now() + gateway.settings.timeout();
    }
    loop {
        let frame = tokio::time::timeout_at(deadline, body.frame()).await;
        let frame = frame.map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly"))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the body ends before its end"))?;
        let Ok(data) = frame.into_data() else { continue };
        let size = bytes.len() + data.len();
        if size > limit {
            return Err(too_large());
        }
        if !large && (size > SMALL || !taken.grow(&gateway.room.small, size)) {
            // Larger than it said, or strangers have taken all of their share.
            gateway.database.knows(turn).await?;
            deadline = Instant::now() + gateway.settings.timeout();
            (large, taken) = (true, Taken::default());
        }
        if large && !taken.grow(&gateway.room.large, size) {
            return Err(Refusal::later("too much is being received already: ask again later", 1));
        }
        if large {
            // All that is to come: growing step by step may take twice as much.
            bytes.reserve_exact(told.unwrap_or(0).saturating_sub(bytes.len()));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Held { bytes: bytes.into(), _room: taken })
}

/// What Postgres answered, with the room that it takes for as long as any part of it is not sent.
struct Owned {
    row: Row,
    _room: Taken,
    _large: Option<OwnedSemaphorePermit>,
    _turn: Turn,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        // Asked before, and answered.
        self.row.try_get(0).unwrap_or_default()
    }
}

/// The body of an answer. It goes out part by part, so that no copy of all of it waits for a client that is slow.
pub struct Answer(Bytes);

impl Answer {
    /// The one column of a row.
    pub fn new(gateway: &Gateway, row: Row, turn: Turn) -> Result<Answer, Refusal> {
        let size = row.try_get::<_, &[u8]>(0).map_err(|e| Refusal::of(&e))?.len();
        // A push that was applied and is not answered is sent again, and known.
        let large = if size > SMALL {
            let leave = turn.large();
            Some(leave.ok_or_else(|| Refusal::too_many("take the answers that wait for this token first, then ask again", 2))?)
        } else {
            None
        };
        let room = gateway.room.answer(size);
        let room = room.ok_or_else(|| Refusal::later("too many answers wait to be taken: ask again later", 2))?;
        Ok(Answer(Bytes::from_owner(Owned { row, _room: room, _large: large, _turn: turn })))
    }

    /// Bytes of all of it.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let size = self.0.len().min(PART);
        Poll::Ready((size > 0).then(|| Ok(Frame::data(self.0.split_to(size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}
