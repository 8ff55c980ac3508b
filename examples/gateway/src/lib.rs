//! The reference transport: HTTP in front of `sync.pull` and `sync.push`, and events that tell devices when to ask.
//!
//! It holds no state: whatever it knows is known to the database or to the client at the other end. Killed at any moment it loses
//! nothing, and any number of them may run. The token that a client brings goes to `sync.authenticate`, and nothing else says who asks.
//!
//! # Layout
//! - [`settings`]: flags and variables
//! - [`serve`]: sockets, TLS, ending in good order
//! - [`routes`]: `/sync/pull`, `/sync/push`, `/healthz`, `/metrics`; [`events`]: `/sync/events`
//! - [`database`]: calls to Postgres; [`refusal`]: what errors mean to clients
//! - [`hub`]: who is connected; [`watch`]: what was committed, and whom it concerns
//! - [`metrics`]: what is counted
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod database;
mod events;
mod hub;
mod metrics;
mod refusal;
mod routes;
pub mod serve;
pub mod settings;
mod watch;

use database::Database;
use hub::Hub;
use metrics::Metrics;
use settings::Settings;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What all requests share.
struct Gateway {
    settings: Settings,
    database: Database,
    hub: Arc<Hub>,
    watch: watch::Watch,
    metrics: Metrics,
    /// Room for bodies that are being received.
    room: Arc<Semaphore>,
}

impl Gateway {
    fn new(settings: Settings) -> Result<Gateway, String> {
        let database = Database::new(&settings)?;
        let room = Arc::new(Semaphore::new(routes::room(settings.max_buffered)));
        Ok(Gateway { settings, database, hub: Arc::default(), watch: Default::default(), metrics: Default::default(), room })
    }
}
