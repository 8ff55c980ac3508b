//! Waits for what is committed, and wakes whom it concerns.
//!
//! One connection waits inside of `sync.changed_since`. A stream is entered before its device asks for the first time, so what is
//! committed later than that rings its bell; after anything that may have hidden a change everybody is woken. Who may hold what is
//! looked up again when the tables that decide it were written to, and from time to time: about a tenth of the time goes there. Nobody's
//! lookups keep others from theirs: each ends soon, who was slow comes last and then not at all, and the pause has an end.

use crate::database::Bucket;
use crate::metrics::add;
use crate::Gateway;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::Client;

/// One wait, in milliseconds: the snapshot that it holds keeps vacuum back for as long.
const WAIT_MS: i32 = 2_000;
/// Between two tries to connect.
const RETRY: std::ops::Range<Duration> = Duration::from_millis(100)..Duration::from_secs(5);
/// Lookups that are under way at once.
const LOOKUPS: usize = 2;
/// What one lookup counts for, at most, when the pause is measured out.
const USUAL: Duration = Duration::from_millis(50);
/// What a round spends on those who were slow.
const FOR_SLOW: Duration = Duration::from_secs(4);
/// At least so long between two rounds of lookups, and at most.
const BETWEEN: std::ops::Range<Duration> = Duration::from_millis(100)..Duration::from_secs(30);

/// What the two loops tell each other.
#[derive(Default)]
pub struct Watch {
    members: Notify,
    moved: AtomicBool,
}

/// Runs until the process ends.
pub async fn run(gateway: Arc<Gateway>) {
    let mut pause = RETRY.start;
    loop {
        while gateway.hub.is_empty() {
            gateway.hub.arrived.notified().await;
        }
        let begin = Instant::now();
        match gateway.database.watcher().await {
            Ok(client) => match watch(&gateway, &client).await {
                Ok(()) => continue,
                Err(e) => eprintln!("sync-gateway: waiting for changes: {}", told(&e)),
            },
            Err(e) => eprintln!("sync-gateway: waiting for changes: no connection: {}", told(&e)),
        }
        add(&gateway.metrics.watch_lost, 1);
        if begin.elapsed() > RETRY.end {
            pause = RETRY.start;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.end);
    }
}

/// What an error says, with what Postgres said.
fn told(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |db| format!("{} {}", db.code().code(), db.message().escape_debug()))
}

/// Ends when nobody is connected any more.
async fn watch(gateway: &Gateway, client: &Client) -> Result<(), tokio_postgres::Error> {
    let sql = "SELECT head, buckets, members, everyone FROM sync.changed_since($1, $2)";
    let mut head: Option<String> = None;
    while !gateway.hub.is_empty() {
        let what: [(&(dyn ToSql + Sync), Type); 2] = [(&head, Type::TEXT), (&WAIT_MS, Type::INT4)];
        let limit = Duration::from_millis(WAIT_MS as u64) + gateway.settings.timeout();
        let Ok(rows) = tokio::time::timeout(limit, client.query_typed(sql, &what)).await else {
            eprintln!("sync-gateway: waiting for changes: no answer");
            return Ok(());
        };
        let rows = rows?;
        let Some(row) = rows.first() else { return Ok(()) };
        let next: String = row.try_get(0)?;
        let (buckets, members, everyone): (Vec<Bucket>, bool, bool) = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        if head.as_ref() != Some(&next) {
            gateway.watch.moved.store(true, Ordering::Relaxed);
        }
        let woken = if everyone { gateway.hub.wake_all() } else { gateway.hub.wake(buckets.into_iter().map(|b| b.0)) };
        add(&gateway.metrics.woken, woken as u64);
        if members {
            gateway.watch.members.notify_one();
        }
        head = Some(next);
    }
    Ok(())
}

/// Looks up who may hold what; runs until the process ends.
pub async fn look_up(gateway: Arc<Gateway>) {
    let every = Duration::from_secs(gateway.settings.members_every.into());
    loop {
        let told = tokio::time::timeout(every, gateway.watch.members.notified()).await.is_ok();
        let moved = gateway.watch.moved.swap(false, Ordering::Relaxed);
        if !told && !moved || gateway.hub.is_empty() {
            continue;
        }
        let took = round(&gateway).await;
        add(&gateway.metrics.looked_up, 1);
        tokio::time::sleep((took * 9).clamp(BETWEEN.start, BETWEEN.end)).await;
    }
}

/// Looks everybody up once. Returns how long that usually takes: who is slow does not lengthen the pause of all.
async fn round(gateway: &Arc<Gateway>) -> Duration {
    let mut askers = gateway.hub.askers().into_iter();
    let mut under_way = tokio::task::JoinSet::new();
    let (mut took, mut for_slow) = (Duration::ZERO, None);
    loop {
        while under_way.len() < LOOKUPS {
            let Some((asker, ids)) = askers.next() else { break };
            if gateway.hub.is_slow(&ids) && for_slow.get_or_insert_with(Instant::now).elapsed() > FOR_SLOW {
                gateway.watch.members.notify_one();
                continue;
            }
            let gateway = gateway.clone();
            under_way.spawn(async move {
                let begin = Instant::now();
                match gateway.database.buckets(&asker, None).await {
                    Ok((_, buckets)) => add(&gateway.metrics.woken, gateway.hub.settle(&ids, buckets) as u64),
                    Err(refusal) if refusal.retry_after.is_none() => gateway.hub.end(&ids),
                    // The next round will tell.
                    Err(refusal) => {
                        if refusal.slow {
                            gateway.hub.strike(&ids);
                        }
                        gateway.watch.members.notify_one();
                    }
                }
                begin.elapsed().min(USUAL)
            });
        }
        match under_way.join_next().await {
            Some(one) => took += one.unwrap_or_default(),
            None => return took / LOOKUPS as u32,
        }
    }
}
