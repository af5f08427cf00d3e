//! A rate by key, with notes on those who have used it up: whose key it is and since when. Notes are made when somebody fails
//! or is refused, never for a login that goes well, and their number is bounded. Not here: which limits there are.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::time::Instant;

use crate::config;
use crate::imap::UserName;
use crate::tally::{Empty, Rates};

/// Of more keys than this nothing is written down; they are held back all the same.
const MOST_NOTES: usize = 100_000;
/// Of a longer name only the beginning is written down.
const LONGEST_NAME: usize = 256;

/// A rate by key.
pub(super) struct Pace<K: Copy + Eq + Hash> {
    pub(super) rates: Rates<K>,
    notes: Notes<K>,
}

/// What is written down by key.
pub(super) struct Notes<K: Copy + Eq + Hash>(DashMap<K, Note>);

/// What is written down of one.
#[derive(Debug, Clone)]
pub(super) struct Note {
    /// The name as it is counted, where the key is a user's.
    pub(super) name: Option<Arc<[u8]>>,
    /// The network where that user is known; `None`: all others.
    pub(super) at: Option<IpAddr>,
    /// Since when it has been held back, with pauses in which one more was let through.
    pub(super) since: Instant,
    /// How often it has failed.
    pub(super) count: u32,
    /// Whoever comes later begins anew.
    lapses: Instant,
}

/// Whose a key is, where it is a user's: the name, and the network where that user is known.
pub(super) type Whose<'a> = Option<(&'a UserName, Option<IpAddr>)>;

impl<K: Copy + Eq + Hash> Pace<K> {
    pub(super) fn new(rate: config::Rate) -> Option<Self> {
        Some(Self { rates: Rates::new(rate.every, rate.burst)?, notes: Notes::default() })
    }

    /// To be called behind what may have used up what this key has: if so, that is written down.
    pub(super) fn note(&self, key: K, whose: Whose<'_>) {
        if let Some(empty) = self.rates.empty(key) {
            // One is let through at that moment. Whoever is refused again by when the next one would be was never at peace.
            self.notes.add(key, whose, empty.until + self.rates.every(), empty.taken);
        }
    }

    /// Visits all who are held back, with what is written down of them.
    pub(super) fn each(&self, mut visit: impl FnMut(Empty<K>, Option<&Note>)) {
        self.rates.each_empty(|empty| self.notes.with(empty.key, |note| visit(empty, note)));
    }

    /// Fills the bucket; whether it was empty.
    pub(super) fn pardon(&self, key: K) -> bool {
        let was_empty = self.rates.empty(key).is_some();
        self.rates.forgive(key);
        self.notes.0.remove(&key);
        was_empty
    }

    /// Fills the buckets of all such keys; how many were empty.
    pub(super) fn pardon_all(&self, is_such: impl Fn(K) -> bool) -> usize {
        let empty = self.rates.forgive_all(&is_such);
        self.notes.0.retain(|key, _| !is_such(*key));
        empty
    }

    pub(super) fn sweep(&self) {
        self.rates.sweep();
        self.notes.sweep();
    }
}

impl<K: Copy + Eq + Hash> Default for Notes<K> {
    fn default() -> Self {
        Self(DashMap::new())
    }
}

impl<K: Copy + Eq + Hash> Notes<K> {
    /// Writes down that this one has been refused, or has failed; `count` is how often, if it is the first time.
    pub(super) fn add(&self, key: K, whose: Whose<'_>, lapses: Instant, count: u32) {
        let is_full = self.0.len() >= MOST_NOTES;
        let now = Instant::now();
        match self.0.entry(key) {
            Entry::Occupied(mut entry) if now <= entry.get().lapses => {
                let note = entry.get_mut();
                note.count = note.count.saturating_add(1);
                note.lapses = lapses;
            }
            Entry::Vacant(_) if is_full => {}
            entry => {
                let name = whose.map(|(name, _)| {
                    let name = name.normalised();
                    name.get(..LONGEST_NAME).map_or_else(|| Arc::clone(&name), Arc::from)
                });
                entry.insert(Note { name, at: whose.and_then(|(_, at)| at), since: now, count, lapses });
            }
        }
    }

    /// What is written down of a key and has not lapsed.
    pub(super) fn with<T>(&self, key: K, see: impl FnOnce(Option<&Note>) -> T) -> T {
        let note = self.0.get(&key);
        see(note.as_deref().filter(|note| Instant::now() <= note.lapses))
    }

    pub(super) fn sweep(&self) {
        self.0.retain(|_, note| Instant::now() <= note.lapses);
        self.0.shrink_to_fit();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;

    const EVERY: Duration = Duration::from_secs(6);

    fn pace(burst: u32) -> Pace<u32> {
        Pace::new(config::Rate { every: EVERY, burst: NonZeroU32::new(burst).expect("positive") }).expect("a rate")
    }

    fn fail(pace: &Pace<u32>, key: u32) {
        pace.rates.charge(key);
        pace.note(key, None);
    }

    /// Since when, and how often.
    fn noted(pace: &Pace<u32>, key: u32) -> Option<(Instant, u32)> {
        pace.notes.with(key, |note| note.map(|note| (note.since, note.count)))
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_written_down_of_who_has_some_left() {
        let pace = pace(3);
        fail(&pace, 1);
        fail(&pace, 1);
        assert_eq!((noted(&pace, 1), pace.notes.len()), (None, 0));
        let began = Instant::now();
        fail(&pace, 1);
        assert_eq!(noted(&pace, 1), Some((began, 3)));
        fail(&pace, 1);
        assert_eq!(noted(&pace, 1), Some((began, 4)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_on_has_been_held_since_the_beginning_and_who_rests_begins_anew() {
        let pace = pace(1);
        let began = Instant::now();
        fail(&pace, 1);
        for _ in 0..5 {
            // Each time one is let through.
            tokio::time::advance(EVERY).await;
            assert!(pace.rates.has_one(1));
            fail(&pace, 1);
        }
        assert_eq!(noted(&pace, 1), Some((began, 6)));
        tokio::time::advance(EVERY * 2 + Duration::from_secs(1)).await;
        assert_eq!(noted(&pace, 1), None, "lapsed");
        fail(&pace, 1);
        assert_eq!(noted(&pace, 1), Some((Instant::now(), 1)));
        tokio::time::advance(EVERY * 2 + Duration::from_secs(1)).await;
        pace.sweep();
        assert_eq!(pace.notes.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_down_is_bounded() {
        let pace = pace(1);
        let long = UserName::new(vec![b'N'; 5000]).expect("a name");
        pace.rates.charge(0);
        pace.note(0, Some((&long, None)));
        let kept = |key| pace.notes.with(key, |note| note.and_then(|note| note.name.as_ref().map(|name| name.len())));
        assert_eq!(kept(0), Some(LONGEST_NAME));
        for key in 1..=u32::try_from(MOST_NOTES).expect("fits") {
            fail(&pace, key);
        }
        assert_eq!(pace.notes.len(), MOST_NOTES);
        let mut held = 0;
        pace.each(|_, _| held += 1);
        assert_eq!(held, MOST_NOTES + 1, "who is not written down is held all the same");
        fail(&pace, 0);
        assert_eq!(noted(&pace, 0).map(|(_, count)| count), Some(2), "and who is there stays");
    }
}
