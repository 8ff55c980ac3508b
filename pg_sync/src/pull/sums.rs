//! Content sums of parts in this snapshot: `base + all ops of the part that are visible`. No order is needed.

use crate::query::{ids, Query};
use pgrx::prelude::*;
use std::collections::HashMap;
use sync_shared::hash::{BucketId, ContentSum};
use sync_shared::message::EntryId;
use sync_shared::{row, ValueRef};

const SQL: &str = "
    SELECT pg_catalog.uuid_send(p.bucket), p.entry, pg_catalog.sum(p.sum)::text, pg_catalog.sum(p.count)::text
    FROM (SELECT bucket, entry, sum, count FROM sync.base WHERE bucket = ANY ($1)
          UNION ALL SELECT bucket, entry, hash, n FROM sync.op WHERE bucket = ANY ($1)) AS p
    GROUP BY p.bucket, p.entry";

/// The sums of all parts of the given buckets; a part that is not named has no rows and sum 0.
pub fn of(buckets: &[BucketId]) -> HashMap<(BucketId, EntryId), ContentSum> {
    let mut sums = HashMap::new();
    if buckets.is_empty() {
        return sums;
    }
    Spi::connect(|_| {
        let arguments = [ids(buckets.iter())];
        let mut query = Query::kept("summing buckets", SQL, &[arguments[0].0]);
        query.each(&arguments, |mut row| {
            let mut bytes = Vec::new();
            (0..4).for_each(|i| row.put(i, &mut bytes));
            sums.extend(parse(&bytes));
            true
        })
    });
    sums
}

fn parse(bytes: &[u8]) -> Option<((BucketId, EntryId), ContentSum)> {
    let mut values = row::Reader::new(bytes);
    let mut next = || values.value().ok();
    match (next()?, next()?, next()?, next()?) {
        (ValueRef::Blob(bucket), ValueRef::Integer(entry), ValueRef::Text(sum), ValueRef::Text(count)) => {
            // The database adds exactly; both sides wrap at 64 bits.
            let sum = sum.parse::<i128>().ok()? as i64;
            Some((
                (BucketId(bucket.try_into().ok()?), entry as i32),
                ContentSum { sum, count: count.parse::<i128>().ok()? as i64 },
            ))
        }
        _ => None,
    }
}
