//! The reference transport: HTTP in front of `sync.pull` and `sync.push`, and events that tell devices when to ask.
//!
//! It holds no state: whatever it knows is known to the database or to the client at the other end. Killed at any moment it loses
//! nothing, and any number of them may run. The token that a client brings goes to `sync.authenticate`, and nothing else says who asks.
//!
//! # Layout
//! - [`settings`]: flags and variables
//! - [`serve`]: sockets, TLS, ending in good order; [`pace`]: clients that do not read what they are sent; [`lent`]: sockets that outlive
//!   HTTP on them
//! - [`routes`]: `/sync/pull`, `/sync/push`, `/healthz`, `/metrics`; [`events`]: `/sync/events`
//! - [`bodies`]: memory for what travels, and its limits; [`turns`], [`counts`]: how much one token, user or
//!   address may have
//! - [`address`]: where Postgres is; [`database`]: its connections; [`call`], [`cancel`]: what happens on one; [`refusal`]: what errors mean to clients
//! - [`hub`]: who is connected; [`watch`]: what was committed, and whom it concerns
//! - [`metrics`]: what is counted
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod address;
mod bodies;
mod call;
mod cancel;
mod counts;
mod database;
mod events;
mod hub;
mod lent;
mod metrics;
mod pace;
mod refusal;
mod routes;
pub mod serve;
pub mod settings;
mod turns;
mod watch;

use bodies::Room;
use database::Database;
use hub::Hub;
use metrics::Metrics;
use settings::Settings;
use std::sync::Arc;
use turns::Turns;

/// What all requests share.
struct Gateway {
    settings: Settings,
    database: Database,
    hub: Arc<Hub>,
    watch: watch::Watch,
    metrics: Metrics,
    room: Arc<Room>,
    turns: Arc<Turns>,
}

impl Gateway {
    fn new(settings: Settings) -> Result<Gateway, String> {
        let database = Database::new(&settings)?;
        let turns = Arc::new(Turns::new(settings.max_per_token, settings.pool, settings.queue));
        let room = Arc::new(Room::new(settings.max_buffered));
        let hub = Arc::new(Hub::new(settings.max_streams, room.clone()));
        Ok(Gateway { settings, database, hub, watch: Default::default(), metrics: Default::default(), room, turns })
    }
}
