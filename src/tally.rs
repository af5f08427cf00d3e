//! Things counted by a key for as long as they live, up to a maximum, and rates by a key. What nobody holds takes no
//! memory; what an attacker can make up is bounded.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use governor::clock::Clock;
use governor::middleware::{NoOpMiddleware, StateInformationMiddleware};
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

/// More keys than this are not told apart: the newcomers share one bucket until old ones can be forgotten.
pub const MOST_KEYS: usize = 1_000_000;
/// Forgetting looks at every key, so it is not done for each newcomer of a flood.
const FORGET_EVERY_MILLIS: u64 = 1000;

/// Counts by key.
#[derive(Debug)]
pub struct Tally<K: Eq + Hash> {
    counts: DashMap<K, usize>,
    /// 0: no maximum.
    most: usize,
}

/// One counted thing; gives its place back when it goes.
#[derive(Debug)]
pub struct Place<K: Eq + Hash + Clone>(Option<(Arc<Tally<K>>, K)>);

impl<K: Eq + Hash + Clone> Tally<K> {
    /// Nothing counted yet.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { counts: DashMap::new(), most })
    }

    /// Counts one more under this key; `None` when there are as many as there may be.
    pub fn enter(self: &Arc<Self>, key: K) -> Option<Place<K>> {
        if self.most == 0 {
            return Some(Place(None));
        }
        let mut count = self.counts.entry(key.clone()).or_insert(0);
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(count);
        Some(Place(Some((Arc::clone(self), key))))
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

/// The one clock of the program, as governor wants it.
#[derive(Debug, Clone)]
struct Ticks {
    since: Instant,
}

impl Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.since.elapsed().into()
    }
}

type Buckets<K> = RateLimiter<K, DashMapStateStore<K>, Ticks, StateInformationMiddleware>;

/// A rate by key.
pub struct Rates<K: Eq + Hash + Clone> {
    buckets: Buckets<K>,
    every: Duration,
    /// The bucket of those that are not told apart.
    others: K,
    clock: Ticks,
    forgot_at_millis: AtomicU64,
}

/// What a bucket says to one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It fits, and there is room for more.
    Fits,
    /// It fits, and was the last that does; so long until the next one does.
    Last(Duration),
    /// It does not fit; so long until one does.
    Over(Duration),
}

impl<K: Eq + Hash + Clone> Rates<K> {
    /// Full buckets. `others` is a key that no real one equals.
    pub fn new(every: Duration, burst: NonZeroU32, others: K) -> Option<Self> {
        let clock = Ticks { since: Instant::now() };
        let quota = Quota::with_period(every)?.allow_burst(burst);
        let store = DashMapStateStore::default();
        let buckets = RateLimiter::<K, _, Ticks, NoOpMiddleware<Nanos>>::new(quota, store, clock.clone());
        let buckets = buckets.with_middleware();
        Some(Self { buckets, every, others, clock, forgot_at_millis: AtomicU64::new(0) })
    }

    /// One more under this key.
    pub fn take(&self, key: &K) -> Verdict {
        let key = if self.is_full() { &self.others } else { key };
        match self.buckets.check_key(key) {
            Ok(state) if state.remaining_burst_capacity() > 0 => Verdict::Fits,
            Ok(_) => Verdict::Last(self.every),
            Err(until) => Verdict::Over(until.wait_time_from(self.clock.now())),
        }
    }

    /// Forgets the keys whose buckets are full again.
    pub fn sweep(&self) {
        self.buckets.retain_recent();
        self.buckets.shrink_to_fit();
    }

    fn is_full(&self) -> bool {
        if self.buckets.len() < MOST_KEYS {
            return false;
        }
        let now = u64::try_from(self.clock.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = self.forgot_at_millis.load(Ordering::Relaxed);
        if now.saturating_sub(last) >= FORGET_EVERY_MILLIS
            && self.forgot_at_millis.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.sweep();
        }
        self.buckets.len() >= MOST_KEYS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_and_leave_nothing() {
        let tally = Tally::new(2);
        let first = tally.enter("ann").expect("room");
        let second = tally.enter("ann").expect("room");
        assert!(tally.enter("ann").is_none());
        assert!(tally.enter("bob").is_some(), "another key has its own count");
        drop(first);
        let third = tally.enter("ann").expect("room again");
        drop((second, third));
        assert!(tally.is_empty());
    }

    #[test]
    fn zero_is_no_maximum_and_counts_nothing() {
        let tally = Tally::new(0);
        let places: Vec<_> = (0..1000).map(|_| tally.enter(1)).collect();
        assert!(places.iter().all(Option::is_some) && tally.is_empty());
    }

    #[test]
    fn threads_do_not_lose_places() {
        let tally = Tally::new(8);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        drop(tally.enter(round % 3));
                    }
                });
            }
        });
        assert!(tally.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_the_rate() {
        let rates = Rates::new(Duration::from_secs(6), NonZeroU32::new(2).expect("positive"), "").expect("a rate");
        assert_eq!(rates.take(&"ann"), Verdict::Fits);
        assert_eq!(rates.take(&"ann"), Verdict::Last(Duration::from_secs(6)));
        assert!(matches!(rates.take(&"ann"), Verdict::Over(wait) if wait <= Duration::from_secs(6)));
        assert_eq!(rates.take(&"bob"), Verdict::Fits);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(matches!(rates.take(&"ann"), Verdict::Last(_)));
        tokio::time::advance(Duration::from_secs(60)).await;
        rates.sweep();
        assert_eq!(rates.buckets.len(), 0, "full buckets are forgotten");
    }
}
