//! All places in the order in which they were taken. It is read in pieces, between which whoever comes or goes has his turn:
//! looking at a hundred thousand sessions holds nobody up. Not here: whose they are, what is seen of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::place::Place;

/// The places that are taken, by number.
#[derive(Debug, Default)]
pub(super) struct Roll(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    /// The number that was given last.
    last: u64,
    places: BTreeMap<u64, Arc<Place>>,
}

impl Roll {
    /// Gives a place the next number. Nobody who has read so far finds a place in front of that later.
    pub(super) fn enter(&self, place: impl FnOnce(u64) -> Place) -> Arc<Place> {
        let mut entries = self.entries();
        entries.last += 1;
        let number = entries.last;
        let place = Arc::new(place(number));
        entries.places.insert(number, Arc::clone(&place));
        place
    }

    pub(super) fn leave(&self, number: u64) {
        let place = self.entries().places.remove(&number);
        // Without the lock.
        drop(place);
    }

    /// The number that was given last.
    pub(super) fn last(&self) -> u64 {
        self.entries().last
    }

    /// How many places are taken.
    pub(super) fn len(&self) -> usize {
        self.entries().places.len()
    }

    /// The first `most` places behind `after` and up to `end`, in their order, in place of what `piece` held.
    pub(super) fn read(&self, after: u64, end: u64, most: usize, piece: &mut Vec<Arc<Place>>) {
        piece.clear();
        if after < end {
            let entries = self.entries();
            piece.extend(entries.places.range(after + 1..=end).take(most).map(|(_, place)| Arc::clone(place)));
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
