//! End to end: one Postgres server with the extension, devices with theirs, and nothing between them but bytes.

mod app;
mod attacked;
mod basics;
mod crash;
mod docs;
mod hostile;
mod lists;
mod offline;
mod pull;
mod push;
mod statements;
mod types;
