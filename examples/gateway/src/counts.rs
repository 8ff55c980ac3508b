//! How many of something each has: streams of a user, connections of an address.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many for each, and no more.
pub struct Counts<K> {
    each: usize,
    counts: Mutex<HashMap<K, usize>>,
}

/// One of those that are counted, until it is dropped.
pub struct Counted<K: Hash + Eq>(Arc<Counts<K>>, K);

impl<K: Hash + Eq + Clone> Counts<K> {
    /// So many for each.
    pub fn new(each: u32) -> Counts<K> {
        Counts { each: each as usize, counts: Mutex::default() }
    }

    /// One more, if there may be.
    pub fn take(self: &Arc<Self>, key: K) -> Option<Counted<K>> {
        let mut counts = self.counts();
        let count = counts.entry(key.clone()).or_default();
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Counted(self.clone(), key))
    }
}

impl<K> Counts<K> {
    fn counts(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> Counted<K> {
    /// Whose it is.
    pub fn key(&self) -> &K {
        &self.1
    }
}

impl<K: Hash + Eq> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut counts = self.0.counts();
        // The borrowed key cannot give an entry.
        let left = counts.get_mut(&self.1).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            counts.remove(&self.1);
        }
    }
}

/// Who a client is taken for: of IPv6, where one machine has as many addresses as it likes, the network.
pub fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address) & !0 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::network;

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
