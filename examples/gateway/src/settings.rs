//! What the gateway is told when it starts: flags, or variables of the environment.

use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// HTTP in front of sync.pull and sync.push.
#[derive(Debug, Clone, Parser)]
#[command(name = "sync-gateway", version, max_term_width = 120)]
pub struct Settings {
    /// Where Postgres is: a URL or `key=value` pairs. Its user needs no rights but those that README.md lists
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database: String,
    /// Where the one connection goes that waits for changes, if not through the pooler of the others
    #[arg(long, env = "WATCH_DATABASE_URL", hide_env_values = true)]
    pub watch_database: Option<String>,
    /// Address to listen on
    #[arg(long, env = "SYNC_LISTEN", default_value = "127.0.0.1:8787")]
    pub listen: SocketAddr,
    /// Address for /metrics and /healthz alone; without it they are served on the first one
    #[arg(long, env = "SYNC_METRICS_LISTEN")]
    pub metrics_listen: Option<SocketAddr>,
    /// Certificates, PEM, the server's own first
    #[arg(long, env = "SYNC_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, env = "SYNC_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Serve plain HTTP to other machines too: behind a proxy that does TLS
    #[arg(long, env = "SYNC_INSECURE_HTTP")]
    pub insecure_http: bool,
    /// Certificates of authorities that Postgres's certificate may be of, PEM; without it those of the web
    #[arg(long, env = "SYNC_DATABASE_CA")]
    pub database_ca: Option<PathBuf>,
    /// Speak to a Postgres on another machine without TLS: where nobody is in between
    #[arg(long, env = "SYNC_INSECURE_DATABASE")]
    pub insecure_database: bool,
    /// Connections to Postgres for requests
    #[arg(long, env = "SYNC_POOL", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub pool: u32,
    /// Requests that may wait for one of them; more are answered with 503
    #[arg(long, env = "SYNC_QUEUE", default_value_t = 1000)]
    pub queue: u32,
    /// Requests of one token at once; more are answered with 429
    #[arg(long, env = "SYNC_MAX_PER_TOKEN", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_per_token: u32,
    /// Streams of events of one user; more are answered with 429
    #[arg(long, env = "SYNC_MAX_STREAMS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_streams: u32,
    /// Seconds a request may wait for a connection, its call may take, and a client may take nothing of an answer
    #[arg(long, env = "SYNC_TIMEOUT", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub timeout: u32,
    /// Bytes of one push's body
    #[arg(long, env = "SYNC_MAX_BODY", default_value_t = 72 << 20)]
    pub max_body: usize,
    /// Bytes of one pull's body
    #[arg(long, env = "SYNC_MAX_PULL", default_value_t = 16 << 20)]
    pub max_pull: usize,
    /// Bytes of all bodies, of answers that are not sent yet and of what streams keep, together; more are answered with 503
    #[arg(long, env = "SYNC_MAX_BUFFERED", default_value_t = 512 << 20)]
    pub max_buffered: usize,
    /// Connections of clients; more wait to be accepted
    #[arg(long, env = "SYNC_MAX_CONNECTIONS", default_value_t = 20_000)]
    pub max_connections: usize,
    /// Connections of one address, or one network of IPv6; more are closed. Without it 1000 with --tls-cert, else as many as there are: behind a
    /// proxy all have one address
    #[arg(long, env = "SYNC_MAX_PER_ADDRESS", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_per_address: Option<u32>,
    /// Seconds between signs of life on a stream of events
    #[arg(long, env = "SYNC_HEARTBEAT", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub heartbeat: u32,
    /// Seconds after which everybody's buckets are looked up again, where anything was written
    #[arg(long, env = "SYNC_MEMBERS_EVERY", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub members_every: u32,
    /// Seconds that requests under way get when the gateway is told to end
    #[arg(long, env = "SYNC_DRAIN", default_value_t = 10)]
    pub drain: u32,
}

impl Settings {
    /// What may not be: plain HTTP for other machines by accident, and bodies that never have room.
    pub fn check(&self) -> Result<(), String> {
        if self.tls_cert.is_none() && !self.insecure_http && !self.listen.ip().is_loopback() {
            return Err(format!(
                "{} can be reached from other machines, and tokens would travel readable: give --tls-cert and --tls-key, or \
                 --insecure-http where a proxy in front does TLS",
                self.listen
            ));
        }
        let large = self.max_body.max(self.max_pull);
        if self.max_buffered / 8 * 3 < large {
            return Err(format!(
                "--max-buffered must be at least {}, since three eighths of it are for large bodies, and --max-body and --max-pull allow \
                 one of {large} bytes",
                large.div_ceil(3) * 8
            ));
        }
        Ok(())
    }

    pub(crate) fn max_per_address(&self) -> u32 {
        self.max_per_address.unwrap_or(if self.tls_cert.is_some() { 1000 } else { u32::MAX })
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}
