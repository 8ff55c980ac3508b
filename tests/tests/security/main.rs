//! Who may see and write what: one test for each line of the checklist in SECURITY.md.

mod access;
mod checklist;
mod claims;
mod columns;
mod decoder;
mod devices;
mod dids;
mod encrypted;
mod enforce;
mod limits;
mod signed;
mod signer;
mod sql;
mod tokens;
