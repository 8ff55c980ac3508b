//! `pull_request`: what the device has, so that the server can say what changed.

use crate::answer;
use crate::error::Result;
use crate::file;
use crate::host::{Answer, Db};
use crate::meta;
use crate::staged;
use crate::store::Store;
use crate::sums;
use crate::transaction::transaction;
use crate::trust;
use crate::wipe;
use serde_bytes::ByteBuf;
use sync_shared::envelope;
use sync_shared::hash::{BucketId, SetDigest};
use sync_shared::limits;
use sync_shared::message::{PullRequest, Subscription};
use sync_shared::ValueRef;

/// The bytes of the next pull.
pub fn pull_request(db: Db<'_>) -> Result<Answer> {
    transaction(db, || {
        if !file::present(db)? {
            file::create(db)?;
        }
        wipe::refuse_wiped(db)?;
        // The next round may push again.
        db.run(
            "DELETE FROM main.sync_meta WHERE name IN ('stalls', 'asked', 'keys_asked') OR name = 'deferred' AND value = ?1",
            &[ValueRef::Integer(answer::DEFERRED)],
        )?;
        let pass = meta::blob(db, "pass")?;
        if pass.is_empty() {
            // From this pass on their coming is expected: one that does not come is not ours any more.
            db.run("UPDATE main.sync_bucket SET refetch = 2 WHERE refetch = 1", &[])?;
        }
        let held = held(db)?;
        let compared = meta::number(db, "resync")? != 0 || sums::due(db)?;
        let (mut sums, mut ranges) = (None, Vec::new());
        if compared || pass.is_empty() {
            let mut store = Store::open(db)?;
            // Without a pass only what an earlier one has left is staged.
            let staged = if pass.is_empty() { staged::parts(&store)? } else { staged::Parts::new() };
            match compared {
                true => sums = Some(sums::for_server(&mut store, &staged)?),
                false => ranges = sums::ranges(&mut store, &staged)?,
            }
        }
        if meta::number(db, "turn")? == 0 {
            meta::next_turn(db)?;
        }
        let request = PullRequest {
            device: meta::device(db)?,
            cursor: ByteBuf::from(meta::blob(db, "cursor")?),
            pass: ByteBuf::from(pass),
            schema: meta::number(db, "generation")?,
            held: SetDigest::of(&held),
            held_list: (meta::number(db, "need_held")? != 0).then_some(held),
            sums,
            subscriptions: subscriptions(db)?,
            page_bytes: u32::try_from(meta::setting(db, "page_bytes", 1 << 20)?)
                .unwrap_or(limits::PAGE_BYTES)
                .min(limits::PAGE_BYTES),
            turn: meta::number(db, "turn")?,
            ranges,
            completes: true,
        };
        let bytes = envelope::encode(&request)?;
        trust::pulls(db, &bytes)?;
        Answer::blob(&bytes)
    })
}

/// Buckets that the device holds: published or staged completely, and neither leaving nor asked for again.
fn held(db: Db<'_>) -> Result<Vec<BucketId>> {
    let sql =
        "SELECT bucket FROM main.sync_bucket WHERE staged = 1 OR (published AND staged = 0 AND refetch < 2) ORDER BY bucket";
    db.all(sql, &[], |r| Ok(BucketId(r.blob(0).try_into().unwrap_or_default())))
}

/// What the application wants of rules with parameters.
pub fn subscriptions(db: Db<'_>) -> Result<Vec<Subscription>> {
    db.all("SELECT rule, params FROM main.sync_subscription ORDER BY rule, params", &[], |r| {
        let params: std::collections::BTreeMap<String, String> = serde_json::from_str(&r.text(1)).unwrap_or_default();
        Ok(Subscription { rule: r.text(0), params: params.into_iter().collect() })
    })
}
