//! Numbers that both sides enforce before they allocate.

/// The wire version written by this library.
pub const WIRE_VERSION: u8 = 1;
/// The oldest wire version read by this library (N-1, once there is one).
pub const WIRE_VERSION_OLDEST: u8 = 1;

/// A message's body after decompression, in bytes.
pub const MESSAGE_BYTES: usize = 256 << 20;
/// The same of a push request: one batch of the largest size, and what goes with it.
pub const PUSH_REQUEST_BYTES: usize = BATCH_BYTES + PUSH_BYTES;
/// The same of a pull request: a million buckets with the sums of three parts each.
pub const PULL_REQUEST_BYTES: usize = 128 << 20;
/// The most values in a message's body, each array being one: a decoded one takes 32 bytes, and what it points to.
pub const MESSAGE_VALUES: usize = MESSAGE_BYTES / 8;
/// How many values a compressed body may have for each of its bytes.
pub const VALUES_EXPANSION: usize = 100;
/// A body may have so many values, however small its compressed form is.
pub const VALUES_FREE: usize = 1 << 18;
/// The most values of a push request. Small rows have about five bytes a value, with the names of their columns.
pub const PUSH_REQUEST_VALUES: usize = PUSH_REQUEST_BYTES / 4;
/// The same of one batch; the device refuses a larger one when it is sealed.
pub const BATCH_VALUES: usize = BATCH_BYTES / 4;
/// How many times larger than its compressed form a body may claim to be. zstd's own best on real rows is about 100.
pub const EXPANSION: usize = 2_000;
/// A body of up to this size may have any ratio, in bytes.
pub const EXPANSION_FREE: usize = 1 << 20;
/// Nesting of MessagePack containers. Messages nest five deep.
pub const DEPTH: usize = 16;

/// Batches in one push: the server caches 64 subtransaction ids per transaction.
pub const BATCHES_PER_PUSH: usize = 50;
/// Bytes of one batch on the wire; the device refuses a larger one when it is sealed.
pub const BATCH_BYTES: usize = 64 << 20;
/// Bytes of one row on the wire, without its NULLs. A larger one is in no bucket: what a device could not send back it does not get.
pub const ROW_BYTES: usize = BATCH_BYTES;
/// Bytes of batches in one push, unless a single one is larger.
pub const PUSH_BYTES: usize = 8 << 20;
/// Numbers for keys that one request may lease for one table.
pub const KEYS_PER_LEASE: u32 = 100_000;
/// Bytes of the application's note about one transaction.
pub const NOTE_BYTES: usize = 64 << 10;
/// Columns of one table. SQLite's own default limit is 2,000, Postgres's 1,600.
pub const COLUMNS: usize = 1_600;
/// Bytes of one page before compression, unless a single row is larger.
pub const PAGE_BYTES: u32 = 4 << 20;
/// Buckets that one device may hold.
pub const BUCKETS: usize = 1_000_000;
/// Subscriptions that one device may have: each costs a query.
pub const SUBSCRIPTIONS: usize = 10_000;
/// A part is compared in at most 2 to this power ranges of its keys.
pub const RANGE_BITS: u8 = 12;
/// Ranges of all parts in one request, unless there are more parts.
pub const RANGES: usize = 1 << 16;
/// How far ahead of the server's clock a device's edit may claim to be, in microseconds.
pub const CLOCK_SKEW_MICROS: i64 = 5 * 60 * 1_000_000;

/// Keys that the server signs an answer with, and keys that a device trusts.
pub const SIGNATURES: usize = 2;

/// Leases of an earlier history that one push may name.
pub const HELD_LEASES: usize = 1_000;
/// Parts that one push may say differ.
pub const DIFFER: usize = 100;
