//! End to end: one Postgres server with the extension, devices with theirs, and nothing between them but bytes.

mod basics;
