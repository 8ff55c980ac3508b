//! Devices that are told when to ask: what the server offers for it, and the gateway.

mod desktop;
mod direct;
mod ends;
mod gateway;
mod gone;
mod greedy;
mod head;
mod limits;
mod listen;
mod pooler;
mod postgres;
mod rpc;
mod stream;
mod tls;
mod wakes;

use std::time::{Duration, Instant};
use sync_tests::gateway::{Events, Gateway};
use sync_tests::Device;

/// Long enough for a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Syncs with each event until the device's query answers what it should.
pub fn until(gateway: &Gateway, events: &Events, device: &Device, token: &str, sql: &str, wanted: &str) {
    let deadline = Instant::now() + SOON;
    loop {
        gateway.sync(device, token).unwrap_or_else(|e| panic!("{e}"));
        if device.value(sql) == wanted {
            return;
        }
        assert!(events.next(deadline.saturating_duration_since(Instant::now())), "no event told of it: {sql}");
    }
}
