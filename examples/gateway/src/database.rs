//! Calls to Postgres: each is one transaction that says who asks, calls one function, and ends.
//!
//! Nothing stays in a session: no prepared statement with a name, no setting outside of its transaction. So any session will do, also
//! one that a pooler in transaction mode lends. What happens on a connection is in [`crate::call`].

use crate::address::Address;
use crate::bodies::Held;
use crate::call::{self, Answer, Ask};
use crate::hub::Asker;
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::turns::Turn;
use deadpool_postgres::{Object, Pool, PoolError, Runtime, Timeouts};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, Mutex, Semaphore};
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, Row};

/// How long it may take to look up what one user may hold: a user whose rules take longer has no streams.
const LOOKUP: Duration = Duration::from_secs(2);
/// How long an answer about the database's health counts: whoever asks more often costs nothing.
const HEALTH: Duration = Duration::from_secs(1);

/// Where no connection is free, the last answer says that the database is well, if it is not older than this, in seconds.
const BUSY: u64 = 10;

/// The pool, and how to make connections beside it.
pub struct Database {
    pool: Pool,
    /// Places of requests: on a connection, or waiting for one.
    places: Arc<Semaphore>,
    timeout: Duration,
    address: Address,
    watch: Address,
    began: Instant,
    /// When a call last had an answer, in seconds since then.
    answered: AtomicU64,
    /// When somebody last asked, and what came of it.
    health: Arc<Mutex<Option<(Instant, bool)>>>,
}

/// One of the functions that answer bytes with bytes.
#[derive(Clone, Copy)]
pub enum Call {
    /// `sync.pull`
    Pull,
    /// `sync.push`
    Push,
}

/// A bucket's id, a uuid.
pub struct Bucket(pub u128);

impl<'a> FromSql<'a> for Bucket {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Bucket(u128::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::UUID
    }
}

impl Database {
    /// Connects to nothing yet.
    pub fn new(settings: &Settings) -> Result<Database, String> {
        let (address, watch) = Address::both(settings)?;
        let timeouts = Timeouts {
            wait: Some(settings.timeout()),
            create: Some(Duration::from_secs(6)),
            recycle: Some(Duration::from_secs(5)),
        };
        let pool = Pool::builder(address.manager()).max_size(settings.pool as usize).timeouts(timeouts);
        let pool = pool.runtime(Runtime::Tokio1).build().map_err(|e| format!("no pool can be made: {e}"))?;
        let places = Arc::new(Semaphore::new(settings.pool as usize + settings.queue as usize));
        Ok(Database {
            pool,
            places,
            timeout: settings.timeout(),
            address,
            watch,
            began: Instant::now(),
            answered: AtomicU64::new(0),
            health: Arc::default(),
        })
    }

    /// A connection of the pool. Whoever stops waiting for it has taken nothing.
    async fn connection(&self) -> Result<Object, Refusal> {
        self.pool.get().await.map_err(|e| match e {
            PoolError::Backend(e) => Refusal::of(&e),
            PoolError::Timeout(_) => Refusal::later("too many wait already: ask again later", 2),
            other => {
                eprintln!("sync-gateway: the pool: {other}");
                Refusal::later("the database cannot be reached: ask again later", 2)
            }
        })
    }

    /// Requests that wait for a connection.
    pub fn waiting(&self) -> usize {
        self.pool.status().waiting
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.pool.status().size
    }

    /// Calls a function with the token's rights.
    pub async fn call(&self, call: Call, turn: &Turn, message: Held) -> Result<Row, Refusal> {
        let (only_reads, sql) = match call {
            Call::Pull => (true, "SELECT sync.pull($1)"),
            Call::Push => (false, "SELECT sync.push($1)"),
        };
        let ask = Ask { only_reads, token: turn.token.clone(), sql, message: Some(message), limit: self.timeout };
        self.as_user(ask, Some(turn)).await.map(|answer| answer.row)
    }

    /// The token's user, and the buckets that this user may hold.
    pub async fn buckets(&self, asker: &Asker, turn: Option<&Turn>) -> Result<(String, Vec<u128>), Refusal> {
        let (sql, message) = ("SELECT sync.my_buckets($1)", asker.request.clone().map(Held::from));
        let ask = Ask { only_reads: true, token: asker.token.clone(), sql, message, limit: self.timeout.min(LOOKUP) };
        let Answer { user, row } = self.as_user(ask, turn).await?;
        let buckets: Vec<Bucket> = row.try_get(0).map_err(|e| Refusal::of(&e))?;
        Ok((user, buckets.into_iter().map(|id| id.0).collect()))
    }

    /// Whether a token counts.
    pub async fn knows(&self, turn: &Turn) -> Result<(), Refusal> {
        let (token, sql) = (turn.token.clone(), "SELECT $1");
        let ask = Ask { only_reads: true, token, sql, message: None, limit: self.timeout };
        self.as_user(ask, Some(turn)).await.map(|_| ())
    }

    async fn as_user(&self, ask: Ask, turn: Option<&Turn>) -> Result<Answer, Refusal> {
        let busy = |seconds| Refusal::later("too many wait already: ask again later", seconds);
        let place = self.places.clone().try_acquire_owned().map_err(|_| busy(1))?;
        let (mut place, mut leave) = ((place, None), None);
        if let Some(turn) = turn {
            place.1 = Some(turn.place().ok_or_else(|| busy(1))?);
            leave = tokio::time::timeout(self.timeout, turn.connection()).await.map_err(|_| busy(2))?;
        }
        let client = self.connection().await?;
        // A task of its own: when whoever asked is gone, this future is dropped, and what is half done must not be.
        let (asker, gone) = oneshot::channel::<()>();
        let address = self.address.clone();
        let task = tokio::spawn(async move {
            let answer = call::run(client, &address, ask, gone).await;
            drop((leave, place));
            answer
        });
        let answer = task.await.unwrap_or_else(|_| Err(Refusal::later("the gateway failed: ask again later", 2)));
        drop(asker);
        if answer.is_ok() {
            turn.inspect(|turn| turn.is_known());
            self.answered.store(self.began.elapsed().as_secs(), Ordering::Relaxed);
        }
        answer
    }

    /// Whether a connection can be had and the extension answers: asked once a second at most, by one for all.
    pub async fn is_well(&self) -> bool {
        let mut known = self.health.clone().lock_owned().await;
        if let Some((_, well)) = known.filter(|(at, _)| at.elapsed() < HEALTH) {
            return well;
        }
        // That all connections are busy is no illness while there are answers.
        let answers = self.began.elapsed().as_secs().saturating_sub(self.answered.load(Ordering::Relaxed)) < BUSY;
        let pool = self.pool.clone();
        // A task of its own, as for calls.
        let asked = tokio::spawn(async move {
            let client = tokio::time::timeout(Duration::from_secs(3), pool.get()).await;
            let well = match client {
                Ok(Ok(client)) => call::is_well(client).await,
                Ok(Err(_)) => false,
                Err(_) => answers,
            };
            *known = Some((Instant::now(), well));
            well
        });
        asked.await.unwrap_or(false)
    }

    /// A connection of its own, for waiting.
    pub async fn watcher(&self) -> Result<Client, tokio_postgres::Error> {
        self.watch.connect().await
    }
}
