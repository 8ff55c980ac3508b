//! Nobody takes everything: how much one token may have under way.

use crate::refusal::Refusal;
use std::collections::hash_map::Entry;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Who has requests under way. A token that is not looked at yet has turns too: they are its own and nobody else's.
pub struct Turns {
    /// Requests of one token, from their token to the last byte of their answer.
    each: usize,
    /// Connections to the database that one token may have.
    connections: usize,
    under_way: Mutex<HashMap<Arc<str>, Several>>,
}

struct Several {
    count: usize,
    connections: Arc<Semaphore>,
}

/// One request's turn.
pub struct Turn {
    turns: Arc<Turns>,
    /// Whose it is.
    pub token: Arc<str>,
    connections: Arc<Semaphore>,
}

impl Turns {
    /// So many requests of one token at once; of a pool's connections it has no more than half.
    pub fn new(each: u32, pool: u32) -> Turns {
        let connections = pool.div_ceil(2) as usize;
        Turns { each: each as usize, connections, under_way: Mutex::default() }
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Arc<str>, Several>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn, if there are not too many of this token already.
    pub fn take(self: &Arc<Self>, token: &Arc<str>) -> Result<Turn, Refusal> {
        let mut under_way = self.under_way();
        let new = || Several { count: 0, connections: Arc::new(Semaphore::new(self.connections)) };
        let several = under_way.entry(token.clone()).or_insert_with(new);
        if several.count >= self.each {
            return Err(Refusal::too_many("too many requests with this token are under way: ask again later", 1));
        }
        several.count += 1;
        Ok(Turn { turns: self.clone(), token: token.clone(), connections: several.connections.clone() })
    }
}

impl Turn {
    /// Leave to use a connection, waiting behind other requests of the same token.
    pub async fn connection(&self) -> Option<OwnedSemaphorePermit> {
        self.connections.clone().acquire_owned().await.ok()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Entry::Occupied(mut several) = self.turns.under_way().entry(self.token.clone()) {
            several.get_mut().count -= 1;
            if several.get().count == 0 {
                several.remove();
            }
        }
    }
}
