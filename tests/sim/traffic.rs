//! No needless download: what a page brings is bounded by what has changed.

use std::collections::HashSet;
use sync_shared::message::Delta;
use sync_tests::Device;

#[derive(Default)]
pub struct Traffic {
    /// Changes in the server's log when this device was last brought up to date.
    ops: u64,
}

impl Traffic {
    /// Fails if the page brings a bucket whole that the device holds, or more rows of held buckets than there were changes.
    /// `ops` is how many changes the server has logged by now.
    pub fn count(&mut self, device: &Device, delta: &Delta, ops: u64) {
        let held = "SELECT hex(bucket) FROM sync_bucket WHERE published AND staged = 0 AND refetch = 0";
        let known = !device.rows("SELECT 1 FROM sqlite_schema WHERE name = 'sync_bucket'").is_empty();
        let held: HashSet<String> = if known { device.rows(held).concat().into_iter().collect() } else { HashSet::new() };
        let mut rows = 0;
        let mut which = Vec::new();
        for changes in &delta.changes {
            let bucket = &delta.buckets[changes.bucket as usize];
            let id: String = bucket.id.0.iter().map(|b| format!("{b:02X}")).collect();
            if held.contains(&id) {
                assert!(!changes.from_empty, "bucket {} {:?}, which the device holds, came whole again", bucket.rule, bucket.key);
                rows += u64::from(changes.row_count + changes.gone_count);
                which.push((&bucket.rule, &bucket.key, changes.entry, changes.row_count, changes.gone_count));
            }
        }
        let changed = ops - self.ops;
        // A row that moves to a bucket of lower priority comes with its leaving and with its entering.
        assert!(
            rows <= 2 * changed,
            "{rows} rows came, though only {changed} changes were logged since the last time: {which:?}"
        );
        if delta.complete {
            self.ops = ops;
        }
    }
}
