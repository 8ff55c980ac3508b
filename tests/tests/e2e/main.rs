//! End to end: one Postgres server with the extension, devices with theirs, and nothing between them but bytes.

mod app;
mod attacked;
mod basics;
mod constraints;
mod crash;
mod device;
mod docs;
mod dump;
mod hostile;
mod lists;
mod offline;
mod pull;
mod push;
mod statements;
mod transactions;
mod types;
