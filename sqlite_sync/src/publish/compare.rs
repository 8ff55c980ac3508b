//! The sums of what is stored against the server's.

use crate::error::Result;
use crate::host::Db;
use crate::meta;
use std::collections::HashMap;
use sync_shared::hash::{BucketId, ContentSum};
use sync_shared::message::PartSum;
use sync_shared::ValueRef;

/// A bucket is no longer fetched again after this many wrong sums in a row.
pub const MISSES: i64 = 3;

/// Compares the sums. Answers whether a bucket is to be fetched again at once.
pub fn compare(db: Db<'_>, sums: &[PartSum]) -> Result<bool> {
    let mut wrong: HashMap<BucketId, bool> = HashMap::new();
    let mut find = db.prepare("SELECT p.sum, p.count FROM main.sync_part p JOIN main.sync_bucket b ON b.id = p.bucket WHERE b.bucket = ?1 AND p.entry = ?2")?;
    for sum in sums {
        let mine = find.first(&[ValueRef::Blob(&sum.bucket.0), ValueRef::Integer(i64::from(sum.entry))], |r| {
            Ok(ContentSum { sum: r.integer(0), count: r.integer(1) })
        })?;
        *wrong.entry(sum.bucket).or_default() |= mine.unwrap_or_default() != sum.content;
    }
    for (bucket, wrong) in wrong {
        let id = [ValueRef::Blob(&bucket.0), ValueRef::Integer(MISSES)];
        if wrong {
            db.run("UPDATE main.sync_bucket SET misses = misses + 1, refetch = misses + 1 < ?2 WHERE bucket = ?1", &id)?;
        } else {
            db.run("UPDATE main.sync_bucket SET misses = 0 WHERE bucket = ?1 AND misses > 0", &id[..1])?;
        }
    }
    let again = db.number("SELECT EXISTS (SELECT 1 FROM main.sync_bucket WHERE refetch > 0 AND published)", &[])? != 0;
    if again {
        meta::set(db, "notice", ValueRef::Text("a bucket's content differed from the server's: what differs is fetched again"))?;
    }
    Ok(again)
}
