//! What happens on a connection. All statements of a call are sent at once: a call is one round trip. Where the first of them fails,
//! Postgres refuses those behind it.
//!
//! A call runs to its end here, whatever becomes of whoever asked: a connection goes back to the pool only when nothing is under way on
//! it. What nobody waits for any more, and what takes too long, Postgres is asked to stop.

use crate::address::Address;
use crate::bodies::Held;
use crate::refusal::Refusal;
use deadpool_postgres::Object;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{timeout, Instant};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

/// The server itself ends a statement that takes too long; so much later the gateway does it.
const GRACE: Duration = Duration::from_secs(1);
/// From then on a server has so long to let go.
const LET_GO: Duration = Duration::from_secs(5);
/// What was not stopped is asked to stop again.
const AGAIN: Duration = Duration::from_millis(500);

/// A connection over which more than this was sent is not used again.
const LARGE: usize = 4 << 20;

/// What is asked in a token's name.
pub struct Ask {
    /// Whether the transaction is `READ ONLY`.
    pub only_reads: bool,
    /// The bearer's token.
    pub token: Arc<str>,
    /// The call, of one argument.
    pub sql: &'static str,
    /// Its argument, with the room that it takes.
    pub message: Option<Held>,
    /// How long it may take.
    pub limit: Duration,
}

/// What Postgres answered.
pub struct Answer {
    /// Whose token it is.
    pub user: String,
    /// What the call answered.
    pub row: Row,
}

/// Runs a call to its end. When the other end of `gone` is dropped, nobody waits for it.
pub async fn run(client: Object, address: &Address, ask: Ask, gone: oneshot::Receiver<()>) -> Result<Answer, Refusal> {
    let deadline = Instant::now() + ask.limit + GRACE;
    let mut asked = Box::pin(transaction(&client, &ask));
    let late = tokio::select! {
        answer = &mut asked => {
            drop(asked);
            let answer = answer.map_err(|e| failed(&client, &e));
            if ask.message.is_some_and(|held| held.bytes.len() > LARGE) {
                // The driver would keep that much memory for each connection.
                drop(Object::take(client));
            }
            return answer?.ok_or_else(|| Refusal::later("the server gave no answer: ask again later", 1));
        }
        () = tokio::time::sleep_until(deadline) => true,
        _ = gone => false,
    };
    // Until the server has let go, its connection counts as one of the pool's.
    let end = deadline.max(Instant::now()) + LET_GO;
    let mut ended = false;
    while !ended && Instant::now() < end {
        if let Err(e) = timeout(LET_GO, address.cancel(&client)).await.unwrap_or(Ok(())) {
            eprintln!("sync-gateway: a call cannot be cancelled: {e}");
        }
        // One that comes between two statements stops neither.
        ended = timeout(AGAIN, &mut asked).await.is_ok();
    }
    drop(asked);
    // Not for the next one: what cancels comes on another connection, and may come late.
    drop(Object::take(client));
    if late && !ended {
        eprintln!("sync-gateway: the database does not answer");
    }
    Err(Refusal::slow())
}

async fn transaction(client: &Client, ask: &Ask) -> Result<Option<Answer>, Error> {
    let (limit, idle) = (ask.limit.as_millis(), (ask.limit + GRACE).as_millis());
    let begin = format!(
        "BEGIN{}; SET LOCAL statement_timeout = {limit}; SET LOCAL idle_in_transaction_session_timeout = {idle}",
        if ask.only_reads { " READ ONLY" } else { "" }
    );
    let (token, message) = (&*ask.token, ask.message.as_ref().map(|held| &*held.bytes));
    let who = [(&token as &(dyn ToSql + Sync), Type::TEXT)];
    let what = [(&message as &(dyn ToSql + Sync), Type::BYTEA)];
    let (begun, known, answered, ended) = tokio::join!(
        client.batch_execute(&begin),
        client.query_typed("SELECT sync.authenticate($1)", &who),
        client.query_typed(ask.sql, &what),
        client.batch_execute("COMMIT"),
    );
    begun?;
    let (known, answered) = (known?.into_iter().next(), answered?.into_iter().next());
    // Only what is committed is answered.
    ended?;
    let (Some(known), Some(row)) = (known, answered) else { return Ok(None) };
    Ok(Some(Answer { user: known.try_get(0)?, row }))
}

fn failed(client: &Client, error: &Error) -> Refusal {
    if client.is_closed() {
        // The server has ended the connection, and says why on it or not at all.
        eprintln!("sync-gateway: a connection to the database was lost");
    }
    Refusal::of(error)
}

/// Whether the extension answers.
pub async fn is_well(client: Object) -> bool {
    let well = timeout(Duration::from_secs(3), client.query_typed("SELECT sync.head()", &[])).await;
    if well.is_err() {
        drop(Object::take(client));
    }
    matches!(well, Ok(Ok(_)))
}
