//! Things counted by a key for as long as they live, up to a maximum; what nobody holds takes no memory. Rates by a key
//! stand in `rates.rs`. Not here: whose keys they are and what follows from a verdict.

mod rates;

use std::hash::Hash;
use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

pub use rates::{Empty, MOST_KEYS, Rates};

/// Counts by key.
#[derive(Debug)]
pub struct Tally<K: Eq + Hash> {
    counts: DashMap<K, usize>,
}

impl<K: Eq + Hash> Default for Tally<K> {
    fn default() -> Self {
        Self { counts: DashMap::new() }
    }
}

/// One counted thing; gives its place back when it goes.
#[derive(Debug)]
pub struct Place<K: Eq + Hash + Clone>(Option<(Arc<Tally<K>>, K)>);

impl<K: Eq + Hash + Clone> Tally<K> {
    /// Counts one more under this key; `None` when there are as many as there may be. With a maximum of 0 there may be any
    /// number; they are counted all the same, for the maximum may be another one tomorrow.
    pub fn enter(self: &Arc<Self>, key: K, most: usize) -> Option<Place<K>> {
        let mut count = self.counts.entry(key.clone()).or_insert(0);
        if most > 0 && *count >= most {
            return None;
        }
        *count += 1;
        drop(count);
        Some(Place(Some((Arc::clone(self), key))))
    }

    /// How many are counted under this key.
    pub fn count(&self, key: &K) -> usize {
        self.counts.get(key).map_or(0, |count| *count)
    }

    /// Visits all keys with their counts, in no order. One part of the table after the other is locked meanwhile, against
    /// who enters and leaves there alone: `visit` must not come back here.
    pub fn each(&self, mut visit: impl FnMut(&K, usize)) {
        for entry in &self.counts {
            visit(entry.key(), *entry.value());
        }
    }

    /// How many keys are counted under.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Nothing is counted.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

impl<K: Eq + Hash + Clone> Place<K> {
    /// A place that is counted nowhere.
    pub fn uncounted() -> Self {
        Self(None)
    }
}

impl<K: Eq + Hash + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        let Some((tally, key)) = self.0.take() else { return };
        // The entry is locked from the look to the removal: nobody can have entered in between.
        if let Entry::Occupied(mut entry) = tally.counts.entry(key) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn places_are_given_back_and_leave_nothing() {
        let tally: Arc<Tally<&str>> = Arc::default();
        let first = tally.enter("ann", 2).expect("room");
        let second = tally.enter("ann", 2).expect("room");
        assert!(tally.enter("ann", 2).is_none());
        assert!(tally.enter("bob", 2).is_some(), "another key has its own count");
        drop(first);
        let third = tally.enter("ann", 2).expect("room again");
        drop((second, third));
        assert!(tally.is_empty());
    }

    #[test]
    fn zero_is_no_maximum_until_there_is_one() {
        let tally: Arc<Tally<u8>> = Arc::default();
        let places: Vec<_> = (0..1000).map(|_| tally.enter(1, 0)).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(tally.enter(1, 1000).is_none() && tally.enter(1, 1001).is_some());
    }

    #[test]
    fn threads_lose_no_place_and_take_none_too_many() {
        let (tally, inside) = (Arc::<Tally<&str>>::default(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let Some(place) = tally.enter("ann", 2) else { continue };
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 2, "more inside than may be");
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(place);
                    }
                });
            }
        });
        assert!(tally.is_empty());
    }
}
