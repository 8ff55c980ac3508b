//! What became of every write. Each transaction of a device leaves two rows in `trace`: at the end both are on the server, or both
//! in a rejected batch that was kept. Each batch that a device has is on the server under its random bytes, once, with the verdict
//! that the device was told.

use crate::peer::Peer;
use crate::server::Server;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use sync_shared::envelope::decode;
use sync_shared::message::PushRequest;
use sync_shared::Value;
use sync_tests::Device;

#[derive(Default)]
pub struct History {
    /// Transactions that a device has committed, by their name in `trace`.
    writes: BTreeMap<String, Write>,
    /// Verdicts that devices were told, by the batch's random bytes, each with how often the server had lost something before.
    told: HashMap<String, BTreeMap<String, usize>>,
    /// How often the server has lost something: what it had told of batches before may be gone, and they are judged anew.
    losses: usize,
    /// One of these was a disk that was put back: all that it had taken since the copy is gone.
    pub went_back: bool,
}

struct Write {
    peer: usize,
    /// The file it was made in was replaced by an older copy: it may be gone.
    may_be_gone: bool,
}

impl History {
    pub fn wrote(&mut self, peer: usize, trace: &str) {
        self.writes.insert(trace.to_owned(), Write { peer, may_be_gone: false });
    }

    /// A device's file was replaced: what was only in it is gone.
    pub fn replaced(&mut self, peer: usize) {
        self.writes.values_mut().filter(|w| w.peer == peer).for_each(|w| w.may_be_gone = true);
    }

    /// The server crashed before it had flushed everything.
    pub fn crashed(&mut self) {
        self.losses += 1;
    }

    /// Its disk was put back.
    pub fn went_back(&mut self) {
        self.losses += 1;
        self.went_back = true;
    }

    /// Whether it may have lost anything.
    pub fn lost(&self) -> bool {
        self.losses > 0
    }

    /// Whether the server may have lost a verdict since it was told.
    fn may_have_lost(&self, random: &str, verdict: &str) -> bool {
        let since = self.told.get(random).and_then(|told| told.get(verdict));
        since.is_some_and(|since| *since < self.losses)
    }

    /// A verdict that was told stays, unless the server lost it.
    pub fn look(&mut self, device: &Device) {
        self.look_back(device, self.losses);
    }

    /// The same, where the device has just heard what the server said when it had lost something so many times.
    pub fn look_back(&mut self, device: &Device, losses: usize) {
        if device.rows("SELECT 1 FROM sqlite_schema WHERE name = 'sync_batch'").is_empty() {
            return;
        }
        let told = "SELECT hex(random), verdict FROM sync_batch WHERE verdict IN ('accepted', 'merged', 'rejected') AND state IN (1, 2, 3)";
        for row in device.rows(told) {
            let known = self.told.entry(row[0].clone()).or_default();
            let since = *known.entry(row[1].clone()).or_insert(losses);
            let other = known.iter().find(|(verdict, at)| **verdict != row[1] && **at == since);
            assert!(other.is_none(), "batch {} was {other:?}, now it is {}", row[0], row[1]);
        }
    }

    /// Everything is accounted for. Returns what `trace` has on the server.
    pub fn check(&mut self, server: &mut Server<'_>, peers: &[Peer]) -> BTreeSet<String> {
        self.check_batches(server, peers);
        let there: BTreeSet<String> = server.rows("SELECT id FROM trace").into_iter().map(|row| row[0].clone()).collect();
        let rejected = rejected(server, peers);
        for (trace, write) in &self.writes {
            let [a, b] = ["a", "b"].map(|half| trace.clone() + half);
            assert_eq!(there.contains(&a), there.contains(&b), "transaction {trace} was applied in part");
            assert_eq!(rejected.contains(&a), rejected.contains(&b), "transaction {trace} was rejected in part");
            let (applied, refused) = (there.contains(&a), rejected.contains(&a));
            assert!(applied || refused || write.may_be_gone, "transaction {trace} of device {} was lost", write.peer);
            // A server that went back may judge anew what it had rejected, when another copy of the device sends it.
            assert!(!(applied && refused) || self.went_back, "transaction {trace} was applied and also rejected");
        }
        let unknown = there.iter().find(|id| id.starts_with('w') && !self.writes.contains_key(&id[..id.len() - 1]));
        assert!(unknown.is_none(), "{unknown:?} is on the server, but no device has committed it");
        there
    }

    fn check_batches(&self, server: &mut Server<'_>, peers: &[Peer]) {
        let rows = server.rows("SELECT upper(replace(random::text, '-', '')), verdict FROM sync.batch WHERE NOT repeats");
        let known: HashMap<_, _> = rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
        assert_eq!(known.len(), rows.len(), "a batch was taken twice");
        for peer in peers {
            let own =
                peer.device.rows("SELECT hex(random), verdict, state FROM sync_batch WHERE coalesce(code, '') <> 'too_large'");
            for batch in own {
                match known.get(batch[0].as_str()) {
                    Some(verdict) => {
                        let lost = self.went_back && self.may_have_lost(&batch[0], &batch[1]);
                        assert!(*verdict == batch[1] || lost, "the server says {verdict} of {batch:?}")
                    }
                    // A rejection needs no server any more: the device keeps it.
                    None => {
                        let lost = self.may_have_lost(&batch[0], &batch[1]);
                        assert!(lost && batch[2] == "3", "the server does not know batch {batch:?}")
                    }
                }
            }
        }
    }
}

/// Traces in batches that were rejected and kept, on either side.
fn rejected(server: &mut Server<'_>, peers: &[Peer]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let kept = "SELECT content FROM sync.batch WHERE verdict = 'rejected' AND NOT repeats";
    for row in server.client().query(kept, &[]).expect("a query") {
        let push: PushRequest = decode(row.get(0)).expect("a rejected batch is kept and can be read");
        for change in push.batches.iter().flat_map(|b| &b.changes) {
            if let [Value::Text(key)] = &change.key[..] {
                found.insert(key.clone());
            }
        }
    }
    for peer in peers {
        for row in peer.device.rows("SELECT batch FROM sync_rejected") {
            let batch: serde_json::Value = serde_json::from_str(&row[0]).expect("a rejected batch is JSON");
            for change in batch.as_array().expect("a list of changes") {
                if let Some(key) = change["key"][0].as_str() {
                    found.insert(key.to_owned());
                }
            }
        }
    }
    found
}
