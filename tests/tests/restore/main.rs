//! Servers that go back in time, fail over, are copied, and are killed: devices notice, converge, and lose nothing.

#[allow(dead_code)]
#[path = "../e2e/lists.rs"]
mod lists;

mod back;
mod backfill;
mod evidence;
mod kill;
mod losses;
mod standby;
mod started;
mod wander;
mod writers;

use sync_tests::Cluster;

/// Tests need a server that lives as long as the process.
pub fn leaked(cluster: Cluster) -> &'static Cluster {
    Box::leak(Box::new(cluster))
}
