//! End to end: one Postgres server with the extension, devices with theirs, and nothing between them but bytes.

mod altered;
mod app;
mod basics;
mod between_pages;
mod compared;
mod constraints;
mod crash;
mod device;
mod docs;
mod dump;
mod everything;
mod hostile;
mod large;
mod late;
mod lists;
mod locks;
mod offline;
mod pull;
mod push;
mod repair;
mod rights;
mod statements;
mod transactions;
mod triggers;
mod types;
mod years;
