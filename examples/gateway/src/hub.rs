//! Who is connected, and which buckets concern whom. Nothing of it outlives the connections.

use crate::bodies::{Room, Taken};
use crate::counts::{Counted, Counts};
use crate::refusal::Refusal;
use bytes::Bytes;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Streams that are woken at once; of more, as many each time the pause is over: they all ask at once.
const AT_ONCE: usize = 200;
const PAUSE: Duration = Duration::from_millis(20);

/// What a stream keeps of each of its buckets, with its share of the table of all, in bytes.
const OF_A_BUCKET: usize = 112;
/// Lookups of a user that took too long, one after the other: then the streams end, and the devices may open other ones.
const STRIKES: u8 = 3;

/// All streams of events.
pub struct Hub {
    inner: Mutex<Inner>,
    users: Arc<Counts<User>>,
    room: Arc<Room>,
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
    user: Counted<User>,
    buckets: Box<[u128]>,
    /// Of what it keeps.
    room: Taken,
    strikes: u8,
}

/// Whose a stream is, as Postgres said.
type User = Arc<str>;

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
    /// It is rung, or will be.
    rung: AtomicBool,
    over: AtomicBool,
}

impl Bell {
    /// Waits. False: the stream is to end.
    pub async fn wait(&self) -> bool {
        self.notify.notified().await;
        // What is committed from here on rings again; what was before, the device's next pull brings.
        self.rung.store(false, Ordering::SeqCst);
        !self.over.load(Ordering::Acquire)
    }

    fn end(&self) {
        self.over.store(true, Ordering::Release);
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

impl Asker {
    /// Bytes that a stream keeps.
    fn keeps(&self, buckets: &[u128]) -> usize {
        self.token.len() + self.request.as_ref().map_or(0, Bytes::len) + buckets.len() * OF_A_BUCKET
    }
}

impl Hub {
    /// With so many streams of one user, and room for what streams keep.
    pub fn new(each: u32, room: Arc<Room>) -> Hub {
        Hub { inner: Mutex::default(), users: Arc::new(Counts::new(each)), room, arrived: Notify::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a stream in. What changes in its buckets from now on rings its bell.
    pub fn enter(self: &Arc<Self>, user: User, asker: Asker, mut buckets: Vec<u128>) -> Result<Place, Refusal> {
        buckets.sort_unstable();
        buckets.dedup();
        let room = self.room.stream(asker.keeps(&buckets));
        let room = room.ok_or_else(|| Refusal::later("too many streams are open: ask again later", 30))?;
        let user = self.users.take(user);
        let too_many = || Refusal::too_many("too many streams of this user are open: close one, or ask again later", 30);
        let user = user.ok_or_else(too_many)?;
        let bell = Arc::new(Bell::default());
        let mut inner = self.inner();
        let id = inner.next;
        inner.next = inner.next.wrapping_add(1);
        inner.remember(id, &buckets);
        let stream = Stream { bell: bell.clone(), asker, user, buckets: buckets.into(), room, strikes: 0 };
        inner.streams.insert(id, stream);
        self.arrived.notify_one();
        Ok(Place { hub: self.clone(), id, bell })
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

    /// Those who are connected, each once, with their streams: last those whose lookups took too long.
    pub fn askers(&self) -> Vec<(Asker, Vec<u32>)> {
        let mut askers: HashMap<Asker, (u8, Vec<u32>)> = HashMap::new();
        for (id, stream) in &self.inner().streams {
            let (strikes, ids) = askers.entry(stream.asker.clone()).or_default();
            *strikes = stream.strikes.max(*strikes);
            ids.push(*id);
        }
        let mut askers: Vec<_> = askers.into_iter().collect();
        askers.sort_by_key(|(_, (strikes, _))| *strikes);
        askers.into_iter().map(|(asker, (_, ids))| (asker, ids)).collect()
    }

    /// A lookup for these streams took too long, which counts for all streams of the user. Ends those where that was so a few times.
    pub fn strike(&self, ids: &[u32]) {
        let mut inner = self.inner();
        let users: HashSet<User> = ids.iter().filter_map(|id| Some(inner.streams.get(id)?.user.key().clone())).collect();
        for stream in inner.streams.values_mut().filter(|stream| users.contains(stream.user.key())) {
            stream.strikes = stream.strikes.saturating_add(1);
            if stream.strikes >= STRIKES {
                stream.bell.end();
            }
        }
    }

    /// Whether a lookup took too long, and none since then was in time.
    pub fn is_slow(&self, ids: &[u32]) -> bool {
        let inner = self.inner();
        ids.iter().filter_map(|id| inner.streams.get(id)).any(|stream| stream.strikes > 0)
    }

    /// The buckets that these streams' asker may hold now: who held others is woken.
    pub fn settle(&self, ids: &[u32], mut buckets: Vec<u128>) -> usize {
        let mut inner = self.inner();
        buckets.sort_unstable();
        buckets.dedup();
        let mut bells = Vec::new();
        for &id in ids {
            let Some(stream) = inner.streams.get_mut(&id) else { continue };
            stream.strikes = 0;
            if *stream.buckets == *buckets {
                continue;
            }
            // Where there is no room for more it ends, and is refused or not when it comes again.
            match self.room.stream(stream.asker.keeps(&buckets)) {
                Some(room) => stream.room = room,
                None => {
                    stream.bell.end();
                    continue;
                }
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

/// Rings all, not all at once. One that is to be rung already is not rung twice, however often something changes meanwhile.
fn ring(mut bells: Vec<Arc<Bell>>) -> usize {
    bells.retain(|bell| !bell.rung.swap(true, Ordering::SeqCst));
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
