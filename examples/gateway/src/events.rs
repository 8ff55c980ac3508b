//! `GET /sync/events`: tells a device when to ask, as server-sent events or over a WebSocket.
//!
//! The first event comes at once, when the stream has its place: what the device's next pull does not bring yet will be told. An event
//! says nothing but that; the pull decides. A device whose rules have subscriptions sends what `pull_request()` made: as the body of
//! `POST /sync/events`, or as a message of up to 64 KiB on the WebSocket, again when they change.

use crate::bodies::receive;
use crate::hub::{Asker, Place};
use crate::lent::{Lent, Socket};
use crate::metrics::add;
use crate::refusal::Refusal;
use crate::routes::token;
use crate::turns::Turn;
use crate::Gateway;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{header, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use httpdate::HttpDate;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const CHANGED: &[u8] = b"event: changed\ndata: {}\n\n";
const ALIVE: &[u8] = b":\n\n";
/// Proxies that gather what they pass on would keep events to themselves.
const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\nx-accel-buffering: no\r\nconnection: close\r\n";
/// Clocks differ; Postgres takes a token for as long after its end.
const LEEWAY: Duration = Duration::from_secs(60);
/// Of what a stream keeps: a device's pull request is small.
const REQUEST_BYTES: usize = 4 << 20;
/// The same in a message; a larger one comes with `POST`.
const MESSAGE_BYTES: usize = 64 << 10;

pub async fn events(State(gateway): State<Arc<Gateway>>, request: Request) -> Result<Response, Refusal> {
    if request.method() == Method::HEAD {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "events have no end, and so no head without them"));
    }
    let token = token(request.headers())?;
    let turn = gateway.turns.take(&token)?;
    let (mut parts, body) = request.into_parts();
    // Some clients ask for other things in this place, such as h2c, which the answer may leave aside.
    let upgrade = parts.headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if upgrade.is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &gateway);
        let upgrade = upgrade.await.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "that is no WebSocket's beginning"))?;
        let place = enter(&gateway, &turn, None).await?;
        let upgrade = upgrade.max_message_size(MESSAGE_BYTES).max_frame_size(MESSAGE_BYTES);
        let upgrade = upgrade.read_buffer_size(1024).write_buffer_size(0).max_write_buffer_size(MESSAGE_BYTES);
        return Ok(upgrade.on_upgrade(move |socket| talk(gateway, token, socket, place)));
    }
    let held = receive(&gateway, &turn, &parts.headers, body, REQUEST_BYTES).await?;
    let place = enter(&gateway, &turn, (!held.bytes.is_empty()).then(|| held.bytes.clone())).await?;
    // From here on what it keeps is counted where it is kept.
    drop((held, turn));
    let socket = parts.extensions.get::<Lent>().and_then(Lent::take_back);
    let socket =
        socket.ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "take the answers that wait on this connection first"))?;
    let listening = Listening { place, end: end_of(&token), alive: alive(&gateway), first: true };
    tokio::spawn(stream(socket, listening));
    // Nobody sees it: the connection is the stream's.
    Ok(StatusCode::OK.into_response())
}

async fn enter(gateway: &Arc<Gateway>, turn: &Turn, request: Option<Bytes>) -> Result<Place, Refusal> {
    let asker = Asker { token: turn.token.clone(), request };
    let (user, buckets) = gateway.database.buckets(&asker, Some(turn)).await?;
    let place = gateway.hub.enter(user.into(), asker, buckets)?;
    add(&gateway.metrics.streams, 1);
    Ok(place)
}

fn alive(gateway: &Gateway) -> Duration {
    Duration::from_secs(gateway.settings.heartbeat.into())
}

/// One stream of events.
struct Listening {
    place: Place,
    end: Instant,
    alive: Duration,
    first: bool,
}

impl Listening {
    /// What to send next; None at the stream's end.
    async fn next(&mut self) -> Option<&'static [u8]> {
        if std::mem::take(&mut self.first) {
            return Some(CHANGED);
        }
        tokio::select! {
            goes_on = self.place.bell.wait() => goes_on.then_some(CHANGED),
            () = tokio::time::sleep_until(self.end.min(Instant::now() + self.alive)) => (Instant::now() < self.end).then_some(ALIVE),
        }
    }
}

/// Server-sent events, until somebody ends them. The connection ends with them, so that no form is needed that says where they end.
async fn stream(mut socket: Box<dyn Socket>, mut listening: Listening) -> io::Result<()> {
    socket.write_all(format!("{HEAD}date: {}\r\n\r\n", HttpDate::from(SystemTime::now())).as_bytes()).await?;
    let mut said = [0; 64];
    loop {
        tokio::select! {
            chunk = listening.next() => {
                let Some(chunk) = chunk else { return socket.shutdown().await };
                socket.write_all(chunk).await?;
                socket.flush().await?;
            }
            // What a client may still say has no answer.
            length = socket.read(&mut said) => if length? == 0 {
                return Ok(());
            }
        }
    }
}

async fn talk(gateway: Arc<Gateway>, token: Arc<str>, mut socket: WebSocket, place: Place) {
    let mut listening = Listening { place, end: end_of(&token), alive: alive(&gateway), first: true };
    loop {
        tokio::select! {
            chunk = listening.next() => {
                let Some(chunk) = chunk else { break };
                let message = if chunk == ALIVE { Message::Ping(Bytes::new()) } else { Message::Text("changed".into()) };
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            message = socket.recv() => match message {
                Some(Ok(Message::Binary(request))) => {
                    // What changes until it has its new place is told by the first event there.
                    let Listening { place, end, alive, .. } = listening;
                    drop(place);
                    // Boxed: it is seldom, and larger than all that a WebSocket keeps.
                    match Box::pin(again(&gateway, &token, &request)).await {
                        Ok(place) => listening = Listening { place, end, alive, first: true },
                        Err(refusal) => {
                            let _gone = socket.send(Message::Text(format!("refused: {}", refusal.message).into())).await;
                            break;
                        }
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
    let _gone = socket.send(Message::Close(None)).await;
}

/// A place for other subscriptions.
async fn again(gateway: &Arc<Gateway>, token: &Arc<str>, request: &[u8]) -> Result<Place, Refusal> {
    // A copy, since the message is part of a larger piece of memory.
    enter(gateway, &gateway.turns.take(token)?, Some(Bytes::copy_from_slice(request))).await
}

/// When a token that Postgres has verified ends. It is asked about nothing else here.
fn end_of(token: &str) -> Instant {
    let far = Duration::from_secs(24 * 3600);
    let payload = token.split('.').nth(1).map(decode).unwrap_or_default();
    let claims: serde_json::Value = serde_json::from_slice(&payload).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let left = claims["exp"].as_f64().map_or(far, |exp| {
        Duration::from_secs_f64((exp + LEEWAY.as_secs_f64() - now.as_secs_f64()).clamp(0.0, far.as_secs_f64()))
    });
    Instant::now() + left
}

/// base64url without padding; what is no letter of it is left out.
fn decode(text: &str) -> Vec<u8> {
    let letter = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    };
    let letters: Vec<u32> = text.bytes().filter_map(letter).map(u32::from).collect();
    let mut out = Vec::with_capacity(letters.len() * 3 / 4);
    for group in letters.chunks(4) {
        let bits = group.iter().enumerate().fold(0, |bits, (at, letter)| bits | letter << (18 - 6 * at));
        out.extend(bits.to_be_bytes()[1..].iter().take(group.len() * 3 / 4));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn what_a_token_says_is_read() {
        assert_eq!(decode("eyJleHAiOjF9"), b"{\"exp\":1}");
        assert_eq!(decode("YQ"), b"a");
        assert_eq!(decode("YWI"), b"ab");
        assert_eq!(decode(""), b"");
    }
}
