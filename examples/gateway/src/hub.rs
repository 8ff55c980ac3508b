//! Who is connected, and which buckets concern whom. Nothing of it outlives the connections.

use bytes::Bytes;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Streams that are woken at once; of more, as many each time the pause is over: they all ask at once.
const AT_ONCE: usize = 200;
const PAUSE: Duration = Duration::from_millis(20);

/// All streams of events.
#[derive(Default)]
pub struct Hub {
    inner: Mutex<Inner>,
    /// Somebody came, where there was nobody.
    pub arrived: Notify,
}

#[derive(Default)]
struct Inner {
    next: u32,
    streams: HashMap<u32, Stream>,
    interested: HashMap<u128, Vec<u32>>,
}

struct Stream {
    bell: Arc<Bell>,
    asker: Asker,
    buckets: Box<[u128]>,
}

/// With what a stream's buckets are looked up.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Asker {
    /// The bearer's token.
    pub token: Arc<str>,
    /// What `pull_request()` made: the device's subscriptions.
    pub request: Option<Bytes>,
}

/// What a stream waits for. Rung any number of times before it looks, it has been rung once.
#[derive(Default)]
pub struct Bell {
    notify: Notify,
    over: std::sync::atomic::AtomicBool,
}

impl Bell {
    /// Waits. False: the stream is to end.
    pub async fn wait(&self) -> bool {
        self.notify.notified().await;
        !self.over.load(std::sync::atomic::Ordering::Acquire)
    }

    fn end(&self) {
        self.over.store(true, std::sync::atomic::Ordering::Release);
        self.notify.notify_one();
    }
}

/// A stream's place in the hub, which it leaves when this is dropped.
pub struct Place {
    hub: Arc<Hub>,
    id: u32,
    /// What it waits for.
    pub bell: Arc<Bell>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.hub.inner();
        if let Some(stream) = inner.streams.remove(&self.id) {
            inner.forget(self.id, &stream.buckets);
        }
    }
}

impl Inner {
    fn forget(&mut self, id: u32, buckets: &[u128]) {
        for bucket in buckets {
            if let Entry::Occupied(mut entry) = self.interested.entry(*bucket) {
                entry.get_mut().retain(|other| *other != id);
                if entry.get().is_empty() {
                    entry.remove();
                }
            }
        }
    }

    fn remember(&mut self, id: u32, buckets: &[u128]) {
        buckets.iter().for_each(|bucket| self.interested.entry(*bucket).or_default().push(id));
    }
}

impl Hub {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a stream in. What changes in its buckets from now on rings its bell.
    pub fn enter(self: &Arc<Self>, asker: Asker, mut buckets: Vec<u128>) -> Place {
        buckets.sort_unstable();
        buckets.dedup();
        let bell = Arc::new(Bell::default());
        let mut inner = self.inner();
        let id = inner.next;
        inner.next = inner.next.wrapping_add(1);
        inner.remember(id, &buckets);
        inner.streams.insert(id, Stream { bell: bell.clone(), asker, buckets: buckets.into() });
        self.arrived.notify_one();
        Place { hub: self.clone(), id, bell }
    }

    /// How many streams there are.
    pub fn len(&self) -> usize {
        self.inner().streams.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Wakes those who hold one of the buckets. Returns how many.
    pub fn wake(&self, buckets: impl Iterator<Item = u128>) -> usize {
        let inner = self.inner();
        let mut woken = HashSet::new();
        for bucket in buckets {
            woken.extend(inner.interested.get(&bucket).into_iter().flatten().copied());
        }
        let bells = woken.iter().filter_map(|id| Some(inner.streams.get(id)?.bell.clone()));
        ring(bells.collect())
    }

    /// Wakes everybody.
    pub fn wake_all(&self) -> usize {
        let bells = self.inner().streams.values().map(|s| s.bell.clone()).collect();
        ring(bells)
    }

    /// Ends these streams: their token counts no longer.
    pub fn end(&self, ids: &[u32]) {
        let inner = self.inner();
        ids.iter().filter_map(|id| inner.streams.get(id)).for_each(|s| s.bell.end());
    }

    /// Ends all streams.
    pub fn end_all(&self) {
        self.inner().streams.values().for_each(|s| s.bell.end());
    }

    /// Those who are connected, each once, with their streams.
    pub fn askers(&self) -> HashMap<Asker, Vec<u32>> {
        let mut askers: HashMap<Asker, Vec<u32>> = HashMap::new();
        self.inner().streams.iter().for_each(|(id, s)| askers.entry(s.asker.clone()).or_default().push(*id));
        askers
    }

    /// The buckets that these streams' asker may hold now: who held others is woken.
    pub fn settle(&self, ids: &[u32], mut buckets: Vec<u128>) -> usize {
        let mut inner = self.inner();
        buckets.sort_unstable();
        buckets.dedup();
        let mut bells = Vec::new();
        for &id in ids {
            let Some(stream) = inner.streams.get_mut(&id) else { continue };
            if *stream.buckets == *buckets {
                continue;
            }
            let before = std::mem::replace(&mut stream.buckets, buckets.as_slice().into());
            bells.push(stream.bell.clone());
            inner.forget(id, &before);
            inner.remember(id, &buckets);
        }
        drop(inner);
        ring(bells)
    }
}

/// Rings all, not all at once.
fn ring(bells: Vec<Arc<Bell>>) -> usize {
    let count = bells.len();
    if count <= AT_ONCE {
        bells.iter().for_each(|bell| bell.notify.notify_one());
        return count;
    }
    tokio::spawn(async move {
        for some in bells.chunks(AT_ONCE) {
            some.iter().for_each(|bell| bell.notify.notify_one());
            tokio::time::sleep(PAUSE).await;
        }
    });
    count
}
