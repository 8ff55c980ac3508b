//! `POST /sync/pull`, `POST /sync/push`, and what operators ask.

use crate::database::Call;
use crate::metrics::{Calls, Now};
use crate::refusal::Refusal;
use crate::{events, Gateway};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{header, HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::Router;
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::OwnedSemaphorePermit;

/// Longer ones Postgres refuses, too.
const TOKEN_BYTES: usize = 16 << 10;
/// What a body's room is counted in.
const ROOM: usize = 1 << 10;

/// What devices may ask for, with or without what operators may.
pub fn devices(gateway: Arc<Gateway>, with_operators: bool) -> Router {
    let router = Router::new()
        .route("/sync/pull", post(pull))
        .route("/sync/push", post(push))
        .route("/sync/events", get(events::events).post(events::events));
    let router = if with_operators { router.route("/metrics", get(metrics)) } else { router };
    router.route("/healthz", get(healthz)).fallback(unknown).with_state(gateway)
}

/// What operators may ask for.
pub fn operators(gateway: Arc<Gateway>) -> Router {
    Router::new().route("/metrics", get(metrics)).route("/healthz", get(healthz)).fallback(unknown).with_state(gateway)
}

async fn unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "there is only /sync/pull, /sync/push and /sync/events")
}

async fn healthz(State(gateway): State<Arc<Gateway>>) -> Response {
    if gateway.database.is_well().await {
        "ok\n".into_response()
    } else {
        Refusal::later("the database cannot be reached", 5).into_response()
    }
}

async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    let database = &gateway.database;
    let now = Now { streams: gateway.hub.len(), waiting: database.waiting(), database: database.connections() };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], gateway.metrics.text(&now)).into_response()
}

async fn pull(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    call(&gateway, Call::Pull, &gateway.metrics.pull, request).await
}

async fn push(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    call(&gateway, Call::Push, &gateway.metrics.push, request).await
}

async fn call(gateway: &Arc<Gateway>, call: Call, counted: &Calls, request: Request) -> Response {
    let begin = Instant::now();
    let mut received = 0;
    let answer = async {
        let token = token(request.headers())?;
        let (parts, body) = request.into_parts();
        let held = receive(gateway, &parts.headers, body, gateway.settings.max_body).await?;
        received = held.bytes.len();
        gateway.database.call(call, &token, &held.bytes).await
    };
    let (response, sent) = match answer.await {
        Ok(bytes) => {
            let sent = bytes.len();
            let kind = HeaderValue::from_static("application/octet-stream");
            (
                (([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]), bytes)
                    .into_response(),
                sent,
            )
        }
        Err(refusal) => (refusal.into_response(), 0),
    };
    counted.count(begin.elapsed(), response.status().as_u16(), received, sent);
    response
}

/// The bearer's token: the only thing that says who asks.
pub fn token(headers: &HeaderMap) -> Result<Arc<str>, Refusal> {
    let missing = || Refusal::new(StatusCode::UNAUTHORIZED, "the header \"Authorization: Bearer ...\" with a token is missing");
    let text = headers.get(header::AUTHORIZATION).and_then(|h| h.to_str().ok()).ok_or_else(missing)?;
    let (scheme, token) = text.split_once(' ').ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
        return Err(missing());
    }
    if token.len() > TOKEN_BYTES {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "the token is refused: it is too long"));
    }
    Ok(token.trim().into())
}

/// A body, and the room that it takes.
pub struct Held {
    /// All of it.
    pub bytes: Bytes,
    _room: Vec<OwnedSemaphorePermit>,
}

/// Receives a body within the limits: of its size, of all bodies' size, of time.
pub async fn receive(gateway: &Gateway, headers: &HeaderMap, mut body: Body, limit: usize) -> Result<Held, Refusal> {
    let too_large = || {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is over the limit of {limit} bytes: nothing of it was taken"),
        )
    };
    let told = headers.get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<usize>().ok());
    if told.is_some_and(|told| told > limit) {
        return Err(too_large());
    }
    let mut held = Held { bytes: Bytes::new(), _room: Vec::new() };
    let mut parts = Vec::new();
    let mut size = 0;
    let all = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the body ends before its end"))?;
            let Ok(data) = frame.into_data() else { continue };
            size += data.len();
            if size > limit {
                return Err(too_large());
            }
            let room = data.len().div_ceil(ROOM) as u32;
            let busy = |_| Refusal::later("too much is being received already: ask again later", 1);
            held._room.push(gateway.room.clone().try_acquire_many_owned(room).map_err(busy)?);
            parts.push(data);
        }
        Ok(())
    };
    let slow = |_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly");
    tokio::time::timeout(gateway.settings.timeout(), all).await.map_err(slow)??;
    held.bytes = if parts.len() == 1 { parts.swap_remove(0) } else { parts.concat().into() };
    Ok(held)
}

/// Permits for so many bytes.
pub fn room(bytes: usize) -> usize {
    (bytes / ROOM).clamp(1, tokio::sync::Semaphore::MAX_PERMITS)
}
