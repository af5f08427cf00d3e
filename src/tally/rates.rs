//! Rates by a key, governor's cell rate algorithm over a store of our own: one that can be looked at without taking
//! anything, that forgives, and whose memory is bounded whatever keys an attacker makes up. Not here: what is counted.

use std::convert::Infallible;
use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::{DashMapStateStore, ShrinkableKeyedStateStore};
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

/// More keys than this are not told apart: newcomers share a few buckets until old keys can be forgotten.
pub const MOST_KEYS: usize = 1_000_000;
/// Which of them a newcomer gets is chosen by a keyed hash, so that an attacker cannot pick the one of a victim.
const SHARED: usize = 4096;
/// Forgetting looks at every key, so it is not done for each newcomer of a flood.
const FORGET_EVERY: Duration = Duration::from_secs(10);
/// However much was charged at once, a bucket is open again after this.
const LONGEST_DEBT: Duration = Duration::from_hours(1);

/// A rate by key.
pub struct Rates<K: Copy + Eq + Hash> {
    limiter: RateLimiter<Ask<K>, Shared<K>, Ticks, NoOpMiddleware<Nanos>>,
    store: Arc<Store<K>>,
    every: Duration,
    /// How far ahead of the clock a bucket may be that has one left, in nanoseconds.
    tolerance: u64,
    clock: Ticks,
    /// When keys were last forgotten because there were too many, in the clock's nanoseconds.
    forgot_at: AtomicU64,
}

/// A key that has nothing left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Empty<K> {
    /// The key.
    pub key: K,
    /// From then on there is one to take.
    pub until: Instant,
    /// So many were taken (and charged) that time has not given back yet.
    pub taken: u32,
}

/// What the store is asked; governor itself knows only taking.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Ask<K> {
    Take(K),
    Look(K),
}

/// The buckets.
struct Store<K: Copy + Eq + Hash> {
    own: DashMapStateStore<K>,
    shared: Box<[InMemoryState]>,
    hasher: RandomState,
    most: usize,
    /// A newcomer found no place of its own.
    is_crowded: AtomicBool,
}

/// The store as governor holds it.
struct Shared<K: Copy + Eq + Hash>(Arc<Store<K>>);

/// The one clock of the program, as governor wants it.
#[derive(Debug, Clone)]
struct Ticks {
    since: Instant,
}

impl<K: Copy + Eq + Hash> Rates<K> {
    /// Full buckets; `None` when `every` is zero, which is no rate.
    pub fn new(every: Duration, burst: NonZeroU32) -> Option<Self> {
        Self::with_most(every, burst, MOST_KEYS)
    }

    /// The same with a bound of its own on how many keys are told apart.
    pub fn with_most(every: Duration, burst: NonZeroU32, most: usize) -> Option<Self> {
        let clock = Ticks { since: Instant::now() };
        let store = Arc::new(Store {
            own: DashMapStateStore::default(),
            shared: std::iter::repeat_with(InMemoryState::default).take(SHARED).collect(),
            hasher: RandomState::new(),
            most,
            is_crowded: AtomicBool::new(false),
        });
        let quota = Quota::with_period(every)?.allow_burst(burst);
        let limiter = RateLimiter::new(quota, Shared(Arc::clone(&store)), clock.clone());
        let tolerance = nanos(every).saturating_mul(u64::from(burst.get() - 1));
        Some(Self { limiter, store, every, tolerance, clock, forgot_at: AtomicU64::new(0) })
    }

    /// Takes one, if there is one.
    pub fn take(&self, key: K) -> bool {
        let is_taken = self.limiter.check_key(&Ask::Take(key)).is_ok();
        self.make_room();
        is_taken
    }

    /// Whether there is one to take.
    pub fn has_one(&self, key: K) -> bool {
        self.limiter.check_key(&Ask::Look(key)).is_ok()
    }

    /// What there is to say of a key that has nothing left; of another, `None`. Takes nothing. Of those that share a bucket
    /// nothing can be said.
    pub fn empty(&self, key: K) -> Option<Empty<K>> {
        let state = state_of(&*self.store.own.get(&key)?);
        self.emptiness(key, state, nanos(self.clock.since.elapsed()))
    }

    /// Visits all keys that have nothing left, in no order, but those that share buckets. One part of the table after the
    /// other is locked meanwhile, against newcomers in it alone: `visit` must not come back here.
    pub fn each_empty(&self, mut visit: impl FnMut(Empty<K>)) {
        let now = nanos(self.clock.since.elapsed());
        for bucket in &self.store.own {
            if let Some(empty) = self.emptiness(*bucket.key(), state_of(bucket.value()), now) {
                visit(empty);
            }
        }
    }

    fn emptiness(&self, key: K, state: u64, now: u64) -> Option<Empty<K>> {
        let until = state.saturating_sub(self.tolerance);
        let taken = || u32::try_from(state.saturating_sub(now).div_ceil(nanos(self.every).max(1))).unwrap_or(u32::MAX);
        (until > now).then(|| Empty { key, until: self.clock.since + Duration::from_nanos(until), taken: taken() })
    }

    /// How long one takes to come back.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// Takes one even if there is none: the bucket stays empty for so much longer. Without that, whoever looks with many
    /// connections at once and only then takes would pay for one and get them all.
    pub fn charge(&self, key: K) {
        if !self.take(key) {
            let longest = nanos(self.clock.since.elapsed() + LONGEST_DEBT);
            self.store.owe(&key, nanos(self.every), longest);
        }
    }

    /// Fills the bucket.
    pub fn forgive(&self, key: K) {
        self.store.own.remove(&key);
    }

    /// Fills the buckets of all such keys; says how many were empty.
    pub fn forgive_all(&self, is_such: impl Fn(K) -> bool) -> usize {
        let now = nanos(self.clock.since.elapsed());
        let mut empty = 0;
        self.store.own.retain(|key, bucket| {
            let forgiven = is_such(*key);
            empty += usize::from(forgiven && self.emptiness(*key, state_of(bucket), now).is_some());
            !forgiven
        });
        empty
    }

    /// Forgets the keys whose buckets are full again.
    pub fn sweep(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }

    /// How many keys have a bucket of their own.
    pub fn len(&self) -> usize {
        self.limiter.len()
    }

    /// No key has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of these have nothing left. Looks at all of them, and takes nothing.
    pub fn exhausted(&self) -> usize {
        let mut count = 0;
        self.each_empty(|_| count += 1);
        count
    }

    fn make_room(&self) {
        if !self.store.is_crowded.load(Ordering::Relaxed) {
            return;
        }
        let (now, last) = (nanos(self.clock.since.elapsed()), self.forgot_at.load(Ordering::Relaxed));
        if now.saturating_sub(last) >= nanos(FORGET_EVERY)
            && self.forgot_at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.store.is_crowded.store(false, Ordering::Relaxed);
            self.sweep();
        }
    }
}

impl<K: Copy + Eq + Hash> Store<K> {
    /// Whether this key has a bucket of its own, or may get one.
    fn has_place(&self, key: &K) -> bool {
        let has_place = self.own.contains_key(key) || self.own.len() < self.most;
        if !has_place {
            self.is_crowded.store(true, Ordering::Relaxed);
        }
        has_place
    }

    fn shared_by(&self, key: &K) -> &InMemoryState {
        let [one, two, ..] = self.hasher.hash_one(key).to_le_bytes();
        &self.shared[usize::from(u16::from_le_bytes([one, two])) % SHARED]
    }

    fn owe(&self, key: &K, amount: u64, longest: u64) {
        let later = |until: Option<Nanos>| {
            let until = until.map_or(0, Nanos::as_u64);
            Ok::<_, Infallible>(((), Nanos::new(until.saturating_add(amount).min(longest.max(until)))))
        };
        let Ok(()) = if self.has_place(key) {
            self.own.measure_and_replace(key, later)
        } else {
            self.shared_by(key).measure_and_replace(&NotKeyed::NonKey, later)
        };
    }
}

impl<K: Copy + Eq + Hash> StateStore for Shared<K> {
    type Key = Ask<K>;

    fn measure_and_replace<T, F, E>(&self, ask: &Ask<K>, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let store = &*self.0;
        match ask {
            Ask::Take(key) if store.has_place(key) => store.own.measure_and_replace(key, decide),
            Ask::Take(key) => store.shared_by(key).measure_and_replace(&NotKeyed::NonKey, decide),
            Ask::Look(key) => {
                if let Some(bucket) = store.own.get(key) {
                    look(&bucket, decide)
                } else if store.own.len() < store.most {
                    decide(None).map(|(verdict, _)| verdict)
                } else {
                    look(store.shared_by(key), decide)
                }
            }
        }
    }
}

impl<K: Copy + Eq + Hash> ShrinkableKeyedStateStore<Ask<K>> for Shared<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        self.0.own.retain_recent(drop_below);
    }

    fn shrink_to_fit(&self) {
        self.0.own.shrink_to_fit();
    }

    fn len(&self) -> usize {
        self.0.own.len()
    }

    fn is_empty(&self) -> bool {
        self.0.own.is_empty()
    }
}

impl Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(nanos(self.since.elapsed()))
    }
}

/// The verdict without its effect: a bucket keeps what it has when the decision is handed to it as an error.
fn look<T, E>(bucket: &InMemoryState, decide: impl Fn(Option<Nanos>) -> Result<(T, Nanos), E>) -> Result<T, E> {
    let refuse = |state: Option<Nanos>| Err::<(Infallible, Nanos), _>(decide(state));
    match bucket.measure_and_replace(&NotKeyed::NonKey, refuse) {
        Ok(never) => match never {},
        Err(decision) => decision.map(|(verdict, _)| verdict),
    }
}

/// When the bucket is full again, in the clock's nanoseconds.
fn state_of(bucket: &InMemoryState) -> u64 {
    let tell = |state: Option<Nanos>| Err::<(Infallible, Nanos), _>(state.map_or(0, Nanos::as_u64));
    match bucket.measure_and_replace(&NotKeyed::NonKey, tell) {
        Ok(never) => match never {},
        Err(state) => state,
    }
}

/// Good for 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(6);

    fn rates(burst: u32, most: usize) -> Rates<u32> {
        Rates::with_most(EVERY, NonZeroU32::new(burst).expect("positive"), most).expect("a rate")
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_the_rate() {
        let rates = rates(2, 10);
        assert!(rates.take(1) && rates.take(1) && !rates.take(1));
        assert!(rates.take(2), "another key has its own bucket");
        tokio::time::advance(Duration::from_millis(5999)).await;
        assert!(!rates.take(1));
        assert_eq!((rates.len(), rates.exhausted()), (2, 1), "the other one has one left");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(rates.exhausted(), 0);
        assert!(rates.take(1) && !rates.take(1));
    }

    #[tokio::test(start_paused = true)]
    async fn looking_takes_nothing_and_remembers_nothing() {
        let rates = rates(1, 10);
        assert!((0..100).all(|_| rates.has_one(1)));
        assert_eq!(rates.len(), 0);
        assert!(rates.take(1) && !rates.has_one(1));
        tokio::time::advance(EVERY).await;
        assert!(rates.has_one(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_charged_beyond_the_burst_is_owed_but_not_for_ever() {
        let rates = rates(2, 10);
        for _ in 0..5 {
            rates.charge(1);
        }
        tokio::time::advance(EVERY * 3).await;
        assert!(!rates.has_one(1), "three were owed");
        tokio::time::advance(EVERY).await;
        assert!(rates.has_one(1));
        for _ in 0..100_000 {
            rates.charge(1);
        }
        tokio::time::advance(LONGEST_DEBT).await;
        assert!(rates.has_one(1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_forgiven_begins_anew() {
        let rates = rates(2, 10);
        for _ in 0..10 {
            rates.charge(1);
        }
        rates.forgive(1);
        assert!(rates.take(1) && rates.take(1) && !rates.take(1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_nothing_left_is_known_with_the_moment_at_which_that_ends() {
        let rates = rates(2, 10);
        let began = Instant::now();
        for (key, times) in [(1, 1), (2, 2), (3, 5)] {
            (0..times).for_each(|_| rates.charge(key));
        }
        let shown = |rates: &Rates<u32>| {
            let mut shown = Vec::new();
            rates.each_empty(|empty| shown.push((empty.key, (empty.until - began).as_secs(), empty.taken)));
            shown.sort_unstable();
            shown
        };
        assert_eq!(shown(&rates), [(2, 6, 2), (3, 24, 5)]);
        assert_eq!(rates.empty(3).map(|empty| empty.taken), Some(5));
        assert!(rates.empty(1).is_none() && rates.empty(4).is_none());
        // Just when it says, and looking has taken nothing.
        tokio::time::advance(Duration::from_millis(5999)).await;
        assert!(!rates.has_one(2));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(rates.has_one(2) && !rates.has_one(3));
        assert_eq!(shown(&rates), [(3, 24, 4)]);
        assert_eq!(rates.forgive_all(|key| key < 9), 1);
        assert!(shown(&rates).is_empty() && rates.has_one(3) && rates.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn full_buckets_are_forgotten_and_others_are_not() {
        let rates = rates(2, 10);
        assert!(rates.take(1));
        tokio::time::advance(EVERY * 3).await;
        assert!(rates.take(2) && rates.take(2));
        rates.sweep();
        assert_eq!(rates.len(), 1);
        assert!(!rates.take(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_keys_takes_no_more_memory_and_is_still_limited() {
        let rates = rates(1, 100);
        let taken = (0..100_000).filter(|key| rates.take(*key)).count();
        assert_eq!(rates.len(), 100);
        assert!(taken <= 100 + SHARED, "{taken} got through");
        assert!(!rates.take(5), "who has a bucket of its own keeps it");
        assert!((200_000..201_000).any(|key| !rates.has_one(key)), "newcomers look into shared buckets");
        tokio::time::advance(FORGET_EVERY + EVERY).await;
        // The first newcomer notices that there is no room, and makes it for those behind.
        rates.take(300_000);
        assert!(rates.take(300_001) && !rates.take(300_001));
        assert_eq!(rates.len(), 1);
    }
}
