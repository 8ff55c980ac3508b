//! Faults on the device: its process ends, its power goes, its disk fails, its memory is used up, at every point of every call.
//!
//! `./dev test faults` runs a selection of the points where there are thousands; `FAULTS=all ./dev test faults` all of them.
//! docs/reliability.md says what must stay true.
//!
//! # Layout
//! - [`world`]: a server, a device, and the scenes: a file, and the call that is made with it
//! - [`stop`]: the process ends after the n-th call that writes; or the power goes there
//! - [`errors`]: the n-th call of SQLite to the disk fails
//! - [`memory`]: the n-th allocation fails
//! - [`files`]: a file that was saved comes back
//! - [`kill`]: an application is killed at any moment, again and again

mod errors;
mod files;
mod kill;
mod memory;
mod stop;
mod world;

/// Whether every point is to be tried, however long it takes.
fn all() -> bool {
    std::env::var("FAULTS").is_ok_and(|v| v == "all")
}

/// How long a test that goes on and on may take, where `FAULTS_SECONDS` says so.
fn seconds() -> Option<u64> {
    std::env::var("FAULTS_SECONDS").ok()?.parse().ok()
}

/// The points to try out of so many: on other days `some` of them, spread evenly, with the last ones, around the commit; and one that is never
/// reached.
fn points(total: u32, some: u32) -> Vec<u32> {
    if all() {
        return (0..=total + 1).collect();
    }
    let last = total.saturating_sub(some / 6);
    (0..last).step_by((total / some).max(1) as usize).chain(last..=total + 1).collect()
}
