//! What a client is told when it does not get what it asked for: a status and a sentence, and nothing of the inside.

use axum::http::{header, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio_postgres::error::DbError;

/// An answer that is none.
#[derive(Debug)]
pub struct Refusal {
    /// What HTTP calls it.
    pub status: StatusCode,
    /// A sentence for whoever reads the client's log.
    pub message: String,
    /// Seconds after which it is worth asking again.
    pub retry_after: Option<u32>,
    /// Whether it was the call itself that took too long.
    pub slow: bool,
}

impl Refusal {
    /// A refusal that stands.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into(), retry_after: None, slow: false }
    }

    /// One that passes.
    pub fn later(message: impl Into<String>, seconds: u32) -> Refusal {
        Refusal { retry_after: Some(seconds), ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// One that passes, of a client that asks too much at once.
    pub fn too_many(message: impl Into<String>, seconds: u32) -> Refusal {
        Refusal { retry_after: Some(seconds), ..Refusal::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }

    /// The call took too long.
    pub fn slow() -> Refusal {
        Refusal { slow: true, ..Refusal::later("the server took too long: ask again later", 5) }
    }

    /// What an error of Postgres means to a client. What it says is passed on only where it was written for clients.
    pub fn of(error: &tokio_postgres::Error) -> Refusal {
        match error.as_db_error() {
            Some(db) => Refusal::of_database(db),
            None => {
                eprintln!("sync-gateway: the connection to the database: {error}");
                Refusal::later("the database cannot be reached: ask again later", 2)
            }
        }
    }

    fn of_database(error: &DbError) -> Refusal {
        let code = error.code().code();
        // Written by pg_sync for whoever sent the token or the message.
        let said = ["the token is refused: ", "sync.pull: ", "sync.push: ", "sync.my_buckets: ", "not a push request: "];
        let own = said.iter().any(|s| error.message().starts_with(s));
        let say = |otherwise: &str| if own { error.message().to_owned() } else { otherwise.to_owned() };
        match (&code[..2], code) {
            ("28", _) => Refusal::new(StatusCode::UNAUTHORIZED, say("the token is refused")),
            (_, "02000") => {
                Refusal::new(StatusCode::UNAUTHORIZED, "the token's key is in a document that this server does not have")
            }
            (_, "42501") => Refusal::new(StatusCode::FORBIDDEN, "this user may not do that"),
            (_, "22P03" | "22023") => {
                Refusal::new(StatusCode::BAD_REQUEST, say("the body is not a message of the device's library"))
            }
            ("54", _) => Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, say("the message is over a limit of the server")),
            (_, "57014") => Refusal::slow(),
            (_, "25006") => Refusal::later("this server only answers pulls: send again later", 5),
            ("40", _) | (_, "55P03" | "25P02") => Refusal::later("the server is busy with the same rows: ask again", 1),
            ("53" | "57" | "58" | "08", _) => Refusal::later("the database cannot be used now: ask again later", 2),
            _ => {
                // It may carry what a user wrote, which is to begin no line of its own.
                eprintln!("sync-gateway: {code} {}", error.message().escape_debug());
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed: its log says why")
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.message + "\n").into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
