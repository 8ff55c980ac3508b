//! `POST /sync/pull`, `POST /sync/push`, and what operators ask.

use crate::bodies::{receive, Answer};
use crate::database::Call;
use crate::metrics::{Calls, Now};
use crate::refusal::Refusal;
use crate::{events, Gateway};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{header, HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::Router;
use std::sync::Arc;
use std::time::Instant;

/// Longer ones Postgres refuses, too.
const TOKEN_BYTES: usize = 16 << 10;

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
    let (streams, held) = (gateway.hub.len(), gateway.room.taken());
    let now = Now { streams, waiting: database.waiting(), database: database.connections(), held };
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
        let turn = gateway.turns.take(&token(request.headers())?)?;
        let limit = match call {
            Call::Pull => gateway.settings.max_pull,
            Call::Push => gateway.settings.max_body,
        };
        let (parts, body) = request.into_parts();
        let held = receive(gateway, &turn, &parts.headers, body, limit).await?;
        received = held.bytes.len();
        let row = gateway.database.call(call, &turn, held).await?;
        Answer::new(gateway, row, turn)
    };
    let (response, sent) = match answer.await {
        Ok(answer) => {
            let sent = answer.len();
            let kind = HeaderValue::from_static("application/octet-stream");
            let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
            ((headers, Body::new(answer)).into_response(), sent)
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
