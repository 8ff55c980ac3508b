//! `sync.push` alone: messages made by hand, so that every rule is met without a device in between.

mod conflicts;
mod identity;
mod leases;
mod modes;
mod notes;
mod phone;
mod policies;
mod records;
mod refusals;
mod rights;
mod undone;
