//! Every message, field by field. Structs travel as MessagePack arrays in field order; new fields are only ever added at the
//! end, with a default. Field names are documentation: they do not travel.

use crate::clock::EditTime;
use crate::envelope::{Kind, Message};
use crate::hash::{BucketId, ContentSum, SetDigest, Tag};
use crate::limits;
use crate::ranges::{RangeSums, Ranges};
use crate::value::Value;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use uuid::Uuid;

/// An enum that travels as one small number.
macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(into = "u8", try_from = "u8")]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $code,)+ }

        impl From<$name> for u8 {
            fn from(value: $name) -> u8 {
                value as u8
            }
        }

        impl TryFrom<u8> for $name {
            type Error = String;
            fn try_from(code: u8) -> Result<Self, String> {
                match code {
                    $($code => Ok($name::$variant),)+
                    other => Err(format!("{} {other} is unknown", stringify!($name))),
                }
            }
        }
    };
}

/// Identifies an entry (one `add_table`) as it is now. A changed entry gets a new id.
pub type EntryId = i32;

/// 16 random bytes made with a batch: duplicates are recognised by them, also across device identities.
pub type BatchRandom = serde_bytes::ByteArray<16>;

// ---------------------------------------------------------------------------------------------------- pull, device to server

/// What changed for me?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PullRequest {
    /// The database file that asks.
    pub device: Uuid,
    /// The cursor of the last publish, as the server gave it. Empty: from nothing.
    pub cursor: ByteBuf,
    /// Where the unfinished pass goes on, as the server gave it. Empty: a new pass begins.
    pub pass: ByteBuf,
    /// Generation of the schema that the device has; 0 for none.
    pub schema: i64,
    /// Digest of the buckets that the device holds, published or staged completely.
    pub held: SetDigest,
    /// The same as a list: only after the server asked for it ([`NoticeKind::NeedHeld`]).
    pub held_list: Option<Vec<BucketId>>,
    /// The device's own sums of all its parts: after [`NoticeKind::Resync`], and from time to time. The answer is
    /// [`NoticeKind::Verified`].
    pub sums: Option<Vec<PartSum>>,
    /// Buckets of rules with parameters that the application wants.
    pub subscriptions: Vec<Subscription>,
    /// Bytes of a page before compression that the device would like; the server bounds it.
    pub page_bytes: u32,
    /// Random, new after every page or notice that the device took: the reply brings it back, so that a reply which comes late or
    /// twice is known and left. 0: nothing is compared.
    #[serde(default)]
    pub turn: i64,
    /// Parts that the device has of buckets which it does not claim to hold, since they differ from the server's: the pass that begins
    /// brings only what differs.
    #[serde(default)]
    pub ranges: Vec<PartRanges>,
    /// The device understands rows without the columns that have not changed, see [`PartChanges::columns`].
    #[serde(default)]
    pub completes: bool,
}

/// Sums of one part by ranges of its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartRanges {
    /// The bucket.
    pub bucket: BucketId,
    /// The entry.
    pub entry: EntryId,
    /// What the device has stored.
    pub sums: RangeSums,
}

/// One set of parameters for a rule whose members read `sync.param('name')`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    /// The rule's name.
    pub rule: String,
    /// Parameter names and values.
    pub params: Vec<(String, String)>,
}

/// Sum of one part: one entry's rows in one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSum {
    /// The bucket.
    pub bucket: BucketId,
    /// The entry.
    pub entry: EntryId,
    /// Sum and count of its rows.
    pub content: ContentSum,
}

// ---------------------------------------------------------------------------------------------------- pull, server to device

/// One page of a delta.
///
/// The device stages every page; a page with `publish` makes what is staged visible, in one transaction, in the order received.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The cursor to store when this page has been published. Empty on a page that does not publish.
    pub cursor: ByteBuf,
    /// To be sent with the next request. Empty on a page that publishes.
    pub pass: ByteBuf,
    /// Everything up to this priority is now at this page's snapshot: publish it. None: only stage.
    pub publish: Option<u8>,
    /// Every priority is at this page's snapshot.
    pub complete: bool,
    /// Ask again at once.
    pub more: bool,
    /// The user that the server takes the device for.
    pub user: String,
    /// The server's clock, in microseconds since 1970 UTC.
    pub server_time: EditTime,
    /// The schema, if the device's generation is not the current one. Applied at once, before the page.
    pub schema: Option<Schema>,
    /// Buckets that this page speaks of; `changes` refer to them by position.
    pub buckets: Vec<Bucket>,
    /// Buckets that the device must not hold any longer.
    pub gone_buckets: Vec<BucketId>,
    /// Entries that no longer exist: their parts go, with their rows.
    pub gone_entries: Vec<EntryId>,
    /// The changes, in the order in which they are to be applied.
    pub changes: Vec<PartChanges>,
    /// Positions in `buckets` of those whose parts have now all been read to their end.
    pub whole: Vec<u32>,
    /// On a page that publishes: the sums that the named parts must now have. Parts not ready for verification are left out.
    pub sums: Vec<PartSum>,
    /// The last batch of this device that this page's snapshot includes.
    pub last_batch: Option<BatchId>,
    /// Rows that the whole pass is expected to bring, for progress only.
    pub expected_rows: Option<u64>,
    /// The request's.
    #[serde(default)]
    pub turn: i64,
}

/// A bucket, as a page names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// Its id.
    pub id: BucketId,
    /// The rule's name.
    pub rule: String,
    /// The key's values; empty for a global bucket.
    pub key: Vec<Value>,
    /// Lower is sent first.
    pub priority: u8,
}

/// Changes of one part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartChanges {
    /// Position in the page's `buckets`.
    pub bucket: u32,
    /// The entry.
    pub entry: EntryId,
    /// The table, by its tag in the schema.
    pub table: Tag,
    /// The part starts from empty: what the device had of it goes unless it is sent again.
    pub from_empty: bool,
    /// Number of rows in `rows`.
    pub row_count: u32,
    /// Rows that are in the part: the columns of the schema in its order, as `row::put` writes them.
    pub rows: ByteBuf,
    /// Number of keys in `gone`.
    pub gone_count: u32,
    /// Keys that are not in the part (any more): the key columns in key order.
    pub gone: ByteBuf,
    /// These ranges of the part start from empty: what the device had in them goes unless it is sent again.
    #[serde(default)]
    pub ranges: Option<Ranges>,
    /// The columns that `rows` have, those of the key among them: ascending positions in the table's columns. The others are as in the row
    /// that the part has on the device. None: all columns. Only for a device that says that it [`completes`](PullRequest::completes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<u16>>,
}

impl PartChanges {
    /// How many values each row has, of a table with so many columns.
    pub fn width(&self, columns: usize) -> usize {
        self.columns.as_ref().map_or(columns, Vec::len)
    }
}

/// All tables that a device may hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// Changes whenever the schema does.
    pub generation: i64,
    /// The tables.
    pub tables: Vec<Table>,
}

/// A table on the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Its name on the device.
    pub name: String,
    /// Identifies it for ever.
    pub tag: Tag,
    /// In the order of their tags, which is the order of values in rows.
    pub columns: Vec<Column>,
    /// Plain indexes: positions in `columns`.
    pub indexes: Vec<Vec<u16>>,
    /// What the application on a device may do with it.
    #[serde(default)]
    pub mode: TableMode,
    /// Foreign keys to other tables of the schema: never enforced on the device, but what a batch depends on.
    #[serde(default)]
    pub references: Vec<Reference>,
    /// Its key is a single integer that the server takes from a sequence: a device uses leased ones (see [`KeyLease`]).
    #[serde(default)]
    pub key_from_sequence: bool,
    /// Positions in `columns` of those whose values devices encrypt, see [`crate::encrypted`].
    #[serde(default)]
    pub encrypted: Vec<u16>,
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Positions in the table's `columns`.
    pub columns: Vec<u16>,
    /// The other table's tag. The columns there are its primary key, in key order.
    pub table: Tag,
}

/// A column on the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Identifies it for ever.
    pub tag: Tag,
    /// The storage class that its values have on the device.
    pub affinity: Affinity,
    /// The Postgres type, for people and tools: `timestamp with time zone`.
    pub pg_type: String,
    /// 1-based position in the primary key; 0 for other columns.
    pub key: u16,
    /// Its place among the table's columns, 1-based, with gaps where columns are not sent.
    pub position: u16,
    /// Postgres refuses NULL, and so may the device.
    pub not_null: bool,
    /// Computed by the server (GENERATED): a device's own value is never sent.
    pub generated: bool,
    /// What a local insert without this column gets.
    pub default: ColumnDefault,
    /// For [`ColumnDefault::Literal`].
    pub literal: Value,
}

coded! {
    /// What the application on a device may do with a table.
    #[derive(Default)]
    TableMode {
        /// Everything.
        #[default]
        ReadWrite = 0,
        /// Only read it: reference data.
        ReadOnly = 1,
        /// Insert rows, but neither change nor delete them: telemetry, audit.
        InsertOnly = 2,
    }
}

coded! {
    /// A SQLite column type.
    Affinity {
        /// INTEGER
        Integer = 1,
        /// REAL
        Real = 2,
        /// TEXT
        Text = 3,
        /// BLOB
        Blob = 4,
    }
}

coded! {
    /// Defaults that mean the same on both sides.
    ColumnDefault {
        /// None.
        Nothing = 0,
        /// A random UUID in its text form.
        Uuid = 1,
        /// The current time, in the text form of the column's type.
        Now = 2,
        /// A constant.
        Literal = 3,
    }
}

/// The server needs something else first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// What.
    pub kind: NoticeKind,
    /// In plain words.
    pub message: String,
    /// For [`NoticeKind::Verified`]: where the kept buckets stand.
    pub cursor: ByteBuf,
    /// For [`NoticeKind::Verified`]: buckets whose content is the same on both sides.
    pub keep: Vec<BucketId>,
    /// The request's.
    #[serde(default)]
    pub turn: i64,
}

coded! {
    /// What a notice asks of the device.
    NoticeKind {
        /// Ask again at once with `held_list`.
        NeedHeld = 1,
        /// The cursor cannot be continued, since it is older than the log: forget cursor and pass, keep rows and unsent writes,
        /// put batches that were already sent back into the queue, ask again at once with `sums`.
        Resync = 2,
        /// The answer to `sums`: hold `keep` at `cursor`, fetch the other buckets again, ask again at once.
        Verified = 3,
        /// This server has not caught up with what the device has seen: ask later, or another one.
        Behind = 4,
        /// A table was rewritten under the snapshot, or is locked: ask again at once, but not without end.
        Retry = 5,
        /// The server lost history that the device has seen, or is another one: as Resync, and what the server does not have any
        /// more is kept for the application.
        Restored = 6,
        /// The device was revoked: nothing is sent to it any longer. Rows and unsent writes stay where they are.
        Revoked = 7,
        /// The device was revoked, and is to remove everything that it has synced.
        Wipe = 8,
    }
}

// ---------------------------------------------------------------------------------------------------- push, device to server

/// What I wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PushRequest {
    /// The database file that sends.
    pub device: Uuid,
    /// In order of their numbers, at most [`crate::limits::BATCHES_PER_PUSH`]. None only registers and renews the lease.
    pub batches: Vec<Batch>,
    /// Numbers that the device wants for keys of rows that it will insert.
    #[serde(default)]
    pub wants: Vec<KeyWant>,
    /// Leases of a history that the server has left, as it gave them: it may have forgotten them, and would give the numbers again.
    #[serde(default)]
    pub held: Vec<KeyLease>,
    /// Where the server's sums seem to be wrong; said once a day at most.
    #[serde(default)]
    pub differ: Option<Differ>,
}

/// Parts of buckets that the server's rows were compared with, and whose sums are still others than the server's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Differ {
    /// The device's sums, of at most [`crate::limits::DIFFER`] parts.
    pub parts: Vec<PartSum>,
    /// As in [`PullRequest`]: without them the server cannot tell whether the buckets are the user's.
    pub subscriptions: Vec<Subscription>,
}

/// So many numbers from the sequence of a table's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyWant {
    /// The table's tag; see [`Table::key_from_sequence`].
    pub table: Tag,
    /// How many, at most [`crate::limits::KEYS_PER_LEASE`].
    pub count: u32,
}

/// Numbers that the server will give to nobody else: `first`, `first + step`, ... `count` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLease {
    /// The table's tag.
    pub table: Tag,
    /// The first number.
    pub first: i64,
    /// The distance between two; never 0.
    pub step: i64,
    /// How many.
    pub count: u32,
    /// Shows that this server gave them to this user, see [`crate::hash::proof`].
    #[serde(default)]
    pub proof: serde_bytes::ByteArray<16>,
}

/// Names a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchId {
    /// 1, 2, 3 ... on one device.
    pub number: i64,
    /// Made with the batch.
    pub random: BatchRandom,
}

/// One local transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Its name.
    pub id: BatchId,
    /// When it was made.
    pub edited: EditTime,
    /// The user it was made under; empty before the device has learnt it.
    pub user: String,
    /// Each key at most once, in the order in which the keys were first touched.
    pub changes: Vec<Change>,
    /// The application's own JSON about this transaction; empty for none.
    #[serde(default)]
    pub note: String,
    /// The server has asked for whole rows, and `rest` holds what the device knows of them: there is nothing more to ask for.
    #[serde(default)]
    pub whole: bool,
}

/// What a batch does to one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The table's tag.
    pub table: Tag,
    /// What is done.
    pub kind: ChangeKind,
    /// The key, in key order.
    pub key: Vec<Value>,
    /// Tags of the columns that `old` and `new` speak of. Insert: the columns with a value. Update: the changed ones, never
    /// those of the key. Delete: all columns.
    pub columns: Vec<Tag>,
    /// What the device had before; empty for an insert.
    pub old: Vec<Value>,
    /// What it has now; empty for a delete.
    pub new: Vec<Value>,
    /// Update of a row that was deleted on the server: the row's other columns that are not NULL, so that it can be put back. None:
    /// not known.
    #[serde(default)]
    pub rest: Option<Vec<Cell>>,
    /// Where a rejected batch came before: what the server had in columns of which the device had something else, or nothing.
    #[serde(default)]
    pub below: Vec<Cell>,
}

/// A column's tag and its value.
pub type Cell = (Tag, Value);

impl Change {
    /// What the server had in a column, where that is not what the device says it started from.
    pub fn below(&self, column: Tag) -> Option<&Value> {
        self.below.iter().find(|(tag, _)| *tag == column).map(|(_, value)| value)
    }
}

coded! {
    /// What is done to a row.
    ChangeKind {
        /// It is new.
        Insert = 1,
        /// Columns change.
        Update = 2,
        /// It goes.
        Delete = 3,
    }
}

// ---------------------------------------------------------------------------------------------------- push, server to device

/// What became of the batches. Advisory until a delta's `last_batch` confirms it: the reply may precede the commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PushReply {
    /// Whether the server could take batches at all.
    pub state: PushState,
    /// In plain words, unless all is well.
    pub message: String,
    /// The last batch of this device that the server has.
    pub last: Option<BatchId>,
    /// The user that the server takes the device for.
    pub user: String,
    /// One for each batch that was looked at, in order.
    pub results: Vec<BatchResult>,
    /// Numbers for keys that the device asked for.
    #[serde(default)]
    pub leases: Vec<KeyLease>,
}

coded! {
    /// Whether a push was looked at.
    PushState {
        /// Yes.
        Taken = 1,
        /// The number is taken by another batch: this file is a copy. Take a new device id, number the unconfirmed batches
        /// from 1, keep their random bytes and send again.
        Fork = 2,
        /// Batches are missing: send from `last` + 1.
        Gap = 3,
        /// The device belongs to another user.
        Refused = 4,
        /// The device was revoked: it may not sync any longer. Its next pull is told whether it is to keep what it has.
        Revoked = 5,
        /// Nothing was looked at, for a passing reason of the server: send again later, or to another one.
        NotNow = 6,
    }
}

/// What became of one batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchResult {
    /// Which.
    pub id: BatchId,
    /// What.
    pub verdict: Verdict,
    /// SQLSTATE, unless accepted.
    pub code: String,
    /// In plain words, unless accepted.
    pub message: String,
    /// The constraint, table or column that refused it, if any.
    pub subject: String,
    /// Merges and conflicts decided on the way.
    pub conflicts: Vec<Conflict>,
    /// Beside the verdict later: positions of updates whose rows were deleted on the server. Send the batch again with their `rest`.
    #[serde(default)]
    pub whole: Vec<u32>,
}

coded! {
    /// What became of a batch.
    Verdict {
        /// Applied as it was.
        Accepted = 1,
        /// Applied, with conflicts decided.
        Merged = 2,
        /// Not applied, and will not be.
        Rejected = 3,
        /// Not applied now for a passing reason: this batch and those behind it wait.
        Later = 4,
        /// Made under another user: kept on the device until that user is back.
        Held = 5,
    }
}

/// One decided conflict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conflict {
    /// The table's tag.
    pub table: Tag,
    /// The key.
    pub key: Vec<Value>,
    /// The column's tag; None where the whole row was at stake.
    pub column: Option<Tag>,
    /// What the device started from.
    pub base: Value,
    /// What the server had.
    pub theirs: Value,
    /// What the device wrote.
    pub mine: Value,
    /// What it is now.
    pub result: Value,
    /// In plain words.
    pub reason: String,
    /// The policy that decided: its name as `sync.set_policy` takes it; `constraint` for rows that a constraint kept out.
    #[serde(default)]
    pub policy: String,
}

impl Message for PullRequest {
    const KIND: Kind = Kind::PullRequest;
    const BYTES: usize = limits::PULL_REQUEST_BYTES;
}
impl Message for PushRequest {
    const KIND: Kind = Kind::PushRequest;
    const BYTES: usize = limits::PUSH_REQUEST_BYTES;
    const VALUES: usize = limits::PUSH_REQUEST_VALUES;
}
impl Message for Delta {
    const KIND: Kind = Kind::Delta;
}
impl Message for PushReply {
    const KIND: Kind = Kind::PushReply;
}
impl Message for Notice {
    const KIND: Kind = Kind::Notice;
}
