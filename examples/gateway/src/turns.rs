//! Nobody takes everything: how much one token may have under way, and how much those whose tokens nobody knows yet.

use crate::refusal::Refusal;
use std::collections::hash_map::{Entry, RandomState};
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Tokens that are remembered are between so many and twice as many.
const KNOWN: usize = 100_000;

/// Large answers of one token that are not sent yet: a device takes one after the other.
const LARGE: usize = 4;

/// Who has requests under way. A token that is not looked at yet has turns too: they are its own and nobody else's.
pub struct Turns {
    /// Requests of one token, until the last byte of their answer.
    each: usize,
    /// Connections to the database that one token may have.
    connections: usize,
    under_way: Mutex<HashMap<Arc<str>, Several>>,
    /// Tokens that Postgres has taken, lately and before. It says only who waits in which line, and nothing of who they are.
    known: Mutex<[HashSet<u64>; 2]>,
    hash: RandomState,
    /// Places and connections of those that are not among them.
    strangers: [Arc<Semaphore>; 2],
}

struct Several {
    count: usize,
    connections: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// One request's turn.
pub struct Turn {
    turns: Arc<Turns>,
    /// Whose it is.
    pub token: Arc<str>,
    connections: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// Leave to wait for a connection, or to use one.
pub struct Leave {
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turns {
    /// So many requests of one token at once. One token has no more than half of the pool; strangers have no more than three quarters of it,
    /// and of the places of those who wait for it.
    pub fn new(each: u32, pool: u32, queue: u32) -> Turns {
        let most = |n: u32| n.saturating_sub((n / 4).max(1)).max(1) as usize;
        let strangers = [most(pool.saturating_add(queue)), most(pool)].map(|n| Arc::new(Semaphore::new(n)));
        Turns {
            each: each as usize,
            connections: pool.div_ceil(2) as usize,
            under_way: Mutex::default(),
            known: Mutex::default(),
            hash: RandomState::new(),
            strangers,
        }
    }

    /// A turn, if there are not too many of this token already.
    pub fn take(self: &Arc<Self>, token: &Arc<str>) -> Result<Turn, Refusal> {
        let mut under_way = lock(&self.under_way);
        let share = |n| Arc::new(Semaphore::new(n));
        let new = || Several { count: 0, connections: share(self.connections), large: share(LARGE) };
        let several = under_way.entry(token.clone()).or_insert_with(new);
        if several.count >= self.each {
            return Err(Refusal::too_many("too many requests with this token are under way: ask again later", 1));
        }
        several.count += 1;
        Ok(Turn {
            turns: self.clone(),
            token: token.clone(),
            connections: several.connections.clone(),
            large: several.large.clone(),
        })
    }
}

impl Turn {
    /// Postgres has taken the token.
    pub fn is_known(&self) {
        let [lately, before] = &mut *lock(&self.turns.known);
        lately.insert(self.turns.hash.hash_one(&*self.token));
        if lately.len() >= KNOWN {
            *before = std::mem::take(lately);
        }
    }

    fn known(&self) -> bool {
        let hash = self.turns.hash.hash_one(&*self.token);
        lock(&self.turns.known).iter().any(|some| some.contains(&hash))
    }

    /// Leave to have a large answer, if there are not too many of this token already.
    pub fn large(&self) -> Option<OwnedSemaphorePermit> {
        self.large.clone().try_acquire_owned().ok()
    }

    /// Leave to wait, if not too many strangers do.
    pub fn place(&self) -> Option<Leave> {
        if self.known() {
            return Some(Leave { _permits: [None, None] });
        }
        let place = self.turns.strangers[0].clone().try_acquire_owned().ok()?;
        Some(Leave { _permits: [Some(place), None] })
    }

    /// Leave to use a connection, behind other requests of the same token and behind other strangers.
    pub async fn connection(&self) -> Option<Leave> {
        let own = self.connections.clone().acquire_owned().await.ok()?;
        let strangers = match self.known() {
            true => None,
            false => Some(self.turns.strangers[1].clone().acquire_owned().await.ok()?),
        };
        Some(Leave { _permits: [Some(own), strangers] })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Entry::Occupied(mut several) = lock(&self.turns.under_way).entry(self.token.clone()) {
            several.get_mut().count -= 1;
            if several.get().count == 0 {
                several.remove();
            }
        }
    }
}
