//! What a test outside both databases needs.
//!
//! # Layout
//! - [`cluster`]: a throwaway Postgres server with the extension, and databases in it
//! - [`device`]: a SQLite file with the extension loaded, and the sync loop
//! - [`gateway`]: the gateway as a process, and an HTTP client
//! - [`conversations`]: the example for the desktop, and its commands as a process
//! - [`compare`]: whether a device holds what a query on the server says
//! - [`replica`]: standbys, base backups, restores to a point in time
//! - [`tools`]: pg_dump, pg_restore and pg_upgrade
//! - [`mutate`]: messages as nobody meant them
//! - [`token`]: tokens, as an issuer of the application's would sign them
//! - [`vfs`]: a disk that fails, stops, or loses power; [`memory`]: an allocator that fails
//! - [`build`]: where the built extensions are
//! - [`suite`]: the runner of regression and isolation files
#![warn(missing_docs)]

pub mod build;
pub mod cluster;
pub mod compare;
pub mod conversations;
pub mod device;
pub mod gateway;
pub mod memory;
pub mod mutate;
pub mod replica;
pub mod suite;
pub mod token;
pub mod tools;
pub mod vfs;

pub use cluster::{Cluster, Database};
pub use device::{Answer, Device, User};

/// Says that the running test does not apply to this server or machine, and why: `./dev test` counts these lines, and takes them from
/// the number of tests that passed. The test must return then.
pub fn skipped(reason: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    // Not by `println!`, which the runner of tests keeps back.
    let _ = writeln!(std::io::stdout(), "\nskipped: {}: {reason}", thread.name().unwrap_or("a test"));
}
