//! Running a server: what `sync.doctor()` finds, updates of the extension, settings.
//!
//! # Layout
//! - [`doctor`]: each finding is provoked, found alone, and mended; [`holding`]: what takes a second session or server to provoke
//! - [`update`]: ALTER EXTENSION pg_sync UPDATE; [`settings`]: that the documents list them all; [`versions`]: what newer servers have;
//!   [`sqlites`]: the newest SQLite; [`compiled`]: what queries must not cost

mod compiled;
mod doctor;
mod holding;
mod settings;
mod sqlites;
mod update;
mod versions;
