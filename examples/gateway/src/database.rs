//! Calls to Postgres: each is one transaction that says who asks, calls one function, and ends.
//!
//! Nothing stays in a session: no prepared statement with a name, no setting outside of its transaction. So any session will do, also
//! one that a pooler in transaction mode lends. All statements of a call are sent at once: a call is one round trip. Where the first
//! of them fails, Postgres refuses those behind it.

use crate::refusal::Refusal;
use crate::settings::Settings;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, Timeouts};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;
use tokio_postgres::config::Host;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The pool, and how to make connections beside it.
pub struct Database {
    pool: Pool,
    queue: usize,
    timeout: Duration,
    tls: MakeRustlsConnect,
    watch: Config,
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
        let read = |url: &str| Config::from_str(url).map_err(|e| format!("the database's address cannot be read: {e}"));
        let mut config = read(&settings.database)?;
        config.connect_timeout(Duration::from_secs(5));
        if config.get_application_name().is_none() {
            config.application_name("sync-gateway");
        }
        let watch = match &settings.watch_database {
            Some(url) => read(url)?,
            None => config.clone(),
        };
        let tls = MakeRustlsConnect::new(tls(settings.database_ca.as_deref())?);
        let recycle = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = if is_local(&config) {
            Manager::from_config(config, NoTls, recycle)
        } else {
            Manager::from_config(config, tls.clone(), recycle)
        };
        let timeouts = Timeouts {
            wait: Some(settings.timeout()),
            create: Some(Duration::from_secs(6)),
            recycle: Some(Duration::from_secs(5)),
        };
        let pool = Pool::builder(manager).max_size(settings.pool as usize).timeouts(timeouts).runtime(Runtime::Tokio1).build();
        let pool = pool.map_err(|e| format!("no pool can be made: {e}"))?;
        Ok(Database { pool, queue: settings.queue as usize, timeout: settings.timeout(), tls, watch })
    }

    /// A connection of the pool, if not too many wait for one.
    async fn connection(&self) -> Result<Object, Refusal> {
        if self.waiting() >= self.queue {
            return Err(Refusal::later("too many wait already: ask again later", 1));
        }
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
    pub async fn call(&self, call: Call, token: &str, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (only_reads, sql) = match call {
            Call::Pull => (true, "SELECT sync.pull($1)"),
            Call::Push => (false, "SELECT sync.push($1)"),
        };
        self.as_user(only_reads, token, sql, Some(message)).await?.try_get(0).map_err(|e| Refusal::of(&e))
    }

    /// The buckets that the token's user may hold; `request` says what the device subscribes to.
    pub async fn buckets(&self, token: &str, request: Option<&[u8]>) -> Result<Vec<u128>, Refusal> {
        let row = self.as_user(true, token, "SELECT sync.my_buckets($1)", request).await?;
        let buckets: Vec<Bucket> = row.try_get(0).map_err(|e| Refusal::of(&e))?;
        Ok(buckets.into_iter().map(|id| id.0).collect())
    }

    async fn as_user(&self, only_reads: bool, token: &str, sql: &str, message: Option<&[u8]>) -> Result<Row, Refusal> {
        let client = self.connection().await?;
        let limit = self.timeout.as_millis();
        let begin = format!("BEGIN{}; SET LOCAL statement_timeout = {limit}", if only_reads { " READ ONLY" } else { "" });
        let transaction = async {
            let who = [(&token as &(dyn ToSql + Sync), Type::TEXT)];
            let what = [(&message as &(dyn ToSql + Sync), Type::BYTEA)];
            tokio::join!(
                client.batch_execute(&begin),
                client.query_typed("SELECT sync.authenticate($1)", &who),
                client.query_typed(sql, &what),
                client.batch_execute("COMMIT"),
            )
        };
        // The server itself ends what takes too long; this is for one that does not answer.
        let Ok((begun, known, answered, ended)) = tokio::time::timeout(self.timeout + Duration::from_secs(5), transaction).await
        else {
            drop(Object::take(client));
            return Err(Refusal::later("the server does not answer: ask again later", 5));
        };
        let failed = |e| {
            if client.is_closed() {
                // The server has ended the connection, and says why on it or not at all.
                eprintln!("sync-gateway: a connection to the database was lost");
            }
            Refusal::of(&e)
        };
        begun.map_err(failed)?;
        known.map_err(failed)?;
        let row = answered.map_err(failed)?.into_iter().next();
        // Only what is committed is answered.
        ended.map_err(failed)?;
        row.ok_or_else(|| Refusal::later("the server gave no answer: ask again later", 1))
    }

    /// Whether a connection can be had and the extension answers.
    pub async fn is_well(&self) -> bool {
        let ask = async { self.connection().await.ok()?.query_typed("SELECT sync.head()", &[]).await.ok() };
        tokio::time::timeout(Duration::from_secs(3), ask).await.ok().flatten().is_some()
    }

    /// A connection of its own, for waiting.
    pub async fn watcher(&self) -> Result<Client, tokio_postgres::Error> {
        if is_local(&self.watch) {
            let (client, connection) = self.watch.connect(NoTls).await?;
            // What goes wrong is told to whoever uses the client.
            tokio::spawn(async move { drop(connection.await) });
            return Ok(client);
        }
        let (client, connection) = self.watch.connect(self.tls.clone()).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }
}

/// Within a machine there is no name to check a certificate against, and no need to.
fn is_local(config: &Config) -> bool {
    config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)))
}

/// TLS towards Postgres, used where `sslmode` in the address asks for it.
fn tls(authorities: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(file) = authorities {
        roots = RootCertStore::empty();
        let refuse = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
        for certificate in CertificateDer::pem_file_iter(file).map_err(|e| refuse(&e))? {
            roots.add(certificate.map_err(|e| refuse(&e))?).map_err(|e| refuse(&e))?;
        }
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}
