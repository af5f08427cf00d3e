//! Answers that are kept: fresh ones serve, stale ones serve while the source is down, and who asks what somebody is asking
//! already waits for that answer. Bounded; time is tokio's, so that tests stop it. Not here: what answers are, who is asked.

use std::cell::Cell;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::Instant;

use crate::config;

/// After a failure the source is left alone for so long by all who have a stale answer.
const PAUSE: Duration = Duration::from_secs(1);

/// Answers by key.
pub(super) struct Cache<K, V> {
    times: config::Cache,
    entries: quick_cache::sync::Cache<K, Entry<V>>,
    flights: DashMap<K, Arc<Flight>>,
    failed: Mutex<Option<Instant>>,
    /// How often something was to be forgotten.
    forgotten: AtomicU64,
}

/// How an answer came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It was kept and is as good as new.
    Hit,
    /// The source gave it.
    Miss,
    /// Somebody else had asked.
    Shared,
    /// The source is down; this is what it last said.
    Stale,
}

#[derive(Clone)]
struct Entry<V> {
    value: V,
    since: Instant,
    fresh_for: Duration,
}

/// Somebody is asking. Who waits for the lock finds the last failure in it.
type Flight = tokio::sync::Mutex<Option<(Instant, String)>>;

impl<K: Hash + Eq + Clone, V: Clone> Cache<K, V> {
    pub(super) fn new(times: config::Cache) -> Self {
        Self {
            times,
            entries: quick_cache::sync::Cache::new(times.entries),
            flights: DashMap::new(),
            failed: Mutex::new(None),
            forgotten: AtomicU64::new(0),
        }
    }

    /// The answer kept under this key, or what `ask` says. `negative` answers are kept for their own time. Dropping the
    /// future stops nobody else: whoever waits next asks in its place.
    ///
    /// # Errors
    /// Those of `ask`, where there is no stale answer.
    pub(super) async fn answer<F>(&self, key: &K, negative: fn(&V) -> bool, ask: F) -> Result<(V, Way), String>
    where
        F: Future<Output = Result<V, String>>,
    {
        let began = Instant::now();
        if let Some(value) = self.fresh(key) {
            return Ok((value, Way::Hit));
        }
        if self.failed_lately()
            && let Some(value) = self.stale(key)
        {
            return Ok((value, Way::Stale));
        }
        let flight = Boarding::new(&self.flights, key);
        let mut last_failure = flight.flight.lock().await;
        if let Some(value) = self.fresh(key) {
            return Ok((value, Way::Shared));
        }
        let forgotten = self.forgotten.load(Ordering::SeqCst);
        let said = match &*last_failure {
            // Else everybody who waits would fail in turn, each after the source's whole time.
            Some((at, why)) if *at >= began => Err(why.clone()),
            _ => ask.await,
        };
        match said {
            Ok(value) => {
                self.keep(key, &value, negative(&value), forgotten);
                Ok((value, Way::Miss))
            }
            Err(why) => {
                *last_failure = Some((Instant::now(), why.clone()));
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                self.stale(key).map(|value| (value, Way::Stale)).ok_or(why)
            }
        }
    }

    /// Has the source asked next time. While it is down, what was kept serves on.
    pub(super) fn outdate(&self, key: &K) {
        let forgotten = self.forgotten.load(Ordering::SeqCst);
        if let Some(entry) = self.entries.get(key) {
            let fresh_for = entry.fresh_for.min(entry.since.elapsed());
            self.put(key, Entry { fresh_for, ..entry }, forgotten);
        }
    }

    /// Forgets what was kept under such keys; says how many answers that were. What is being asked now is not kept, either.
    pub(super) fn forget_all(&self, is_such: impl Fn(&K) -> bool) -> usize {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        let count = Cell::new(0);
        self.entries.retain(|key, _| {
            let is_such = is_such(key);
            count.set(count.get() + usize::from(is_such));
            !is_such
        });
        count.get()
    }

    /// How many answers are kept, old ones included.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Since when an answer is kept.
    pub(super) fn age(&self, key: &K) -> Option<Duration> {
        self.entries.get(key).map(|entry| entry.since.elapsed())
    }

    fn keep(&self, key: &K, value: &V, negative: bool, forgotten: u64) {
        let fresh_for = if negative { self.times.negative_ttl } else { self.times.ttl };
        self.put(key, Entry { value: value.clone(), since: Instant::now(), fresh_for }, forgotten);
    }

    /// Keeps what was found out when so much had been forgotten; if more has been since, it may be just that.
    fn put(&self, key: &K, entry: Entry<V>, forgotten: u64) {
        let is_current = || self.forgotten.load(Ordering::SeqCst) == forgotten;
        if is_current() {
            self.entries.insert(key.clone(), entry);
            // Whoever forgets counts first and then looks: either it has seen this entry, or this sees its count.
            if !is_current() {
                self.entries.remove(key);
            }
        }
    }

    fn fresh(&self, key: &K) -> Option<V> {
        self.entries.get(key).filter(|entry| entry.since.elapsed() < entry.fresh_for).map(|entry| entry.value)
    }

    fn stale(&self, key: &K) -> Option<V> {
        let serves = |entry: &Entry<V>| entry.since.elapsed() < entry.fresh_for.saturating_add(self.times.stale);
        self.entries.get(key).filter(serves).map(|entry| entry.value)
    }

    fn failed_lately(&self) -> bool {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < PAUSE)
    }
}

/// A part in a flight; the last one to leave forgets it.
struct Boarding<'c, K: Hash + Eq + Clone> {
    flights: &'c DashMap<K, Arc<Flight>>,
    key: K,
    flight: Arc<Flight>,
}

impl<'c, K: Hash + Eq + Clone> Boarding<'c, K> {
    fn new(flights: &'c DashMap<K, Arc<Flight>>, key: &K) -> Self {
        let flight = Arc::clone(&flights.entry(key.clone()).or_default());
        Self { flights, key: key.clone(), flight }
    }
}

impl<K: Hash + Eq + Clone> Drop for Boarding<'_, K> {
    fn drop(&mut self) {
        // The map's own, and ours.
        self.flights.remove_if(&self.key, |_, flight| Arc::strong_count(flight) <= 2);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::{advance, sleep};

    use super::*;

    const TIMES: config::Cache = config::Cache {
        ttl: Duration::from_mins(1),
        negative_ttl: Duration::from_secs(5),
        stale: Duration::from_mins(10),
        entries: 100,
    };

    fn cache() -> Cache<&'static str, Option<u32>> {
        Cache::new(TIMES)
    }

    async fn ask(
        cache: &Cache<&'static str, Option<u32>>,
        answer: Result<Option<u32>, &str>,
    ) -> Result<(Option<u32>, Way), String> {
        cache.answer(&"ann", Option::is_none, async { answer.map_err(str::to_owned) }).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_serves_for_its_time() {
        let cache = cache();
        assert_eq!(ask(&cache, Ok(Some(1))).await, Ok((Some(1), Way::Miss)));
        advance(Duration::from_secs(59)).await;
        assert_eq!(ask(&cache, Ok(Some(2))).await, Ok((Some(1), Way::Hit)));
        advance(Duration::from_secs(2)).await;
        assert_eq!(ask(&cache, Ok(Some(2))).await, Ok((Some(2), Way::Miss)));
    }

    #[tokio::test(start_paused = true)]
    async fn that_there_is_no_such_user_is_forgotten_sooner() {
        let cache = cache();
        assert_eq!(ask(&cache, Ok(None)).await, Ok((None, Way::Miss)));
        advance(Duration::from_secs(4)).await;
        assert_eq!(ask(&cache, Ok(Some(1))).await, Ok((None, Way::Hit)));
        advance(Duration::from_secs(2)).await;
        assert_eq!(ask(&cache, Ok(Some(1))).await, Ok((Some(1), Way::Miss)));
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_source_is_down_old_answers_serve_on_but_not_for_ever() {
        let cache = cache();
        assert_eq!(ask(&cache, Ok(Some(1))).await, Ok((Some(1), Way::Miss)));
        advance(Duration::from_secs(100)).await;
        assert_eq!(ask(&cache, Err("down")).await, Ok((Some(1), Way::Stale)));
        // It is not asked again at once.
        assert_eq!(ask(&cache, Ok(Some(2))).await, Ok((Some(1), Way::Stale)));
        advance(PAUSE).await;
        assert_eq!(ask(&cache, Ok(Some(2))).await, Ok((Some(2), Way::Miss)));
        advance(Duration::from_secs(661)).await;
        assert_eq!(ask(&cache, Err("down")).await, Err("down".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_doubts_an_answer_takes_it_from_nobody_while_the_source_is_down() {
        let cache = cache();
        assert_eq!(ask(&cache, Ok(Some(1))).await, Ok((Some(1), Way::Miss)));
        advance(Duration::from_secs(10)).await;
        cache.outdate(&"ann");
        assert_eq!(ask(&cache, Err("down")).await, Ok((Some(1), Way::Stale)));
        advance(PAUSE).await;
        assert_eq!(ask(&cache, Ok(Some(2))).await, Ok((Some(2), Way::Miss)));
        assert_eq!(ask(&cache, Ok(Some(3))).await, Ok((Some(2), Way::Hit)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_many_want_to_know_is_asked_once() {
        let (cache, asked) = (cache(), AtomicUsize::new(0));
        let one = || {
            cache.answer(&"ann", Option::is_none, async {
                asked.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_secs(1)).await;
                Ok(Some(7))
            })
        };
        let (a, b, c) = tokio::join!(one(), one(), one());
        assert_eq!([a, b, c].map(|answer| answer.expect("an answer").0), [Some(7); 3]);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(cache.flights.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_everybodys_who_waited_for_it() {
        let (cache, asked) = (cache(), AtomicUsize::new(0));
        let one = || {
            cache.answer(&"ann", Option::is_none, async {
                asked.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_secs(5)).await;
                Err("down".to_owned())
            })
        };
        let began = Instant::now();
        let (a, b) = tokio::join!(one(), one());
        assert_eq!((a.is_err(), b.is_err(), asked.load(Ordering::Relaxed)), (true, true, 1));
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_while_asking_leaves_the_question_to_the_next() {
        let cache = cache();
        let slow = cache.answer(&"ann", Option::is_none, async {
            sleep(Duration::from_mins(1)).await;
            Ok(Some(1))
        });
        let gone = tokio::time::timeout(Duration::from_secs(1), slow);
        let next = async {
            sleep(Duration::from_millis(500)).await;
            ask(&cache, Ok(Some(2))).await
        };
        let (gone, next) = tokio::join!(gone, next);
        assert!(gone.is_err());
        assert_eq!(next, Ok((Some(2), Way::Miss)));
        assert!(cache.flights.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_is_asked_for_again_also_when_it_is_being_asked_for() {
        let cache = cache();
        assert_eq!(ask(&cache, Ok(Some(1))).await, Ok((Some(1), Way::Miss)));
        assert_eq!((cache.forget_all(|key| *key == "bob"), cache.len()), (0, 1));
        assert_eq!(ask(&cache, Ok(Some(2))).await, Ok((Some(1), Way::Hit)));
        assert_eq!((cache.forget_all(|key| *key == "ann"), cache.len()), (1, 0));
        // What was asked before is answered behind the next flush, with what was true before it.
        let slow = cache.answer(&"ann", Option::is_none, async {
            sleep(Duration::from_secs(2)).await;
            Ok(Some(3))
        });
        let waiting = async {
            sleep(Duration::from_secs(1)).await;
            assert_eq!(cache.forget_all(|_| true), 0);
            ask(&cache, Ok(Some(4))).await
        };
        let (slow, waiting) = tokio::join!(slow, waiting);
        assert_eq!((slow, waiting), (Ok((Some(3), Way::Miss)), Ok((Some(4), Way::Miss))));
        assert_eq!(ask(&cache, Ok(Some(5))).await, Ok((Some(4), Way::Hit)));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_answers_are_kept_than_was_said() {
        let cache: Cache<usize, usize> = Cache::new(TIMES);
        for key in 0..10_000 {
            cache.answer(&key, |_| false, async { Ok(key) }).await.expect("an answer");
        }
        assert!(cache.entries.len() <= 110, "{}", cache.entries.len());
    }
}
