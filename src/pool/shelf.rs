//! A shelf of links that wait. Each is held by a task of its own, which watches it; on the shelf stands only the way to ask
//! for it. So a link has one owner at any moment, and one that has died is not there to be taken.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// What a link's keeper hears: who wants it. An error: it was sent away.
pub(super) type Wanted<L> = oneshot::Receiver<oneshot::Sender<L>>;

/// Links of one kind.
#[derive(Debug)]
pub(super) struct Shelf<L, Label = ()> {
    offers: Mutex<Vec<Offer<L, Label>>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Offer<L, Label> {
    number: u64,
    label: Label,
    ask: oneshot::Sender<oneshot::Sender<L>>,
}

/// A link's place on the shelf, which its keeper gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(u64);

impl<L, Label> Default for Shelf<L, Label> {
    fn default() -> Self {
        Self { offers: Mutex::default(), next: AtomicU64::new(0) }
    }
}

impl<L, Label> Shelf<L, Label> {
    /// Offers a link, unless so many are there already.
    pub(super) fn offer(&self, label: Label, most: usize) -> Option<(Slot, Wanted<L>)> {
        let mut offers = self.offers();
        if offers.len() >= most {
            return None;
        }
        let (ask, wanted) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        offers.push(Offer { number, label, ask });
        Some((Slot(number), wanted))
    }

    /// It is not offered any more.
    pub(super) fn withdraw(&self, slot: Slot) {
        self.offers().retain(|offer| offer.number != slot.0);
    }

    /// The link that has come last among those that fit, so that the others can grow old. `None` when there is none, or its
    /// keeper has given up on it; the offer is gone then all the same, so this may be called again until it is empty.
    pub(super) async fn take(&self, fits: impl Fn(&Label) -> bool) -> Taken<L> {
        let offer = {
            let mut offers = self.offers();
            if offers.is_empty() {
                return Taken::Empty;
            }
            let Some(last) = offers.iter().rposition(|offer| fits(&offer.label)) else { return Taken::NoneFits };
            offers.remove(last)
        };
        let (give, given) = oneshot::channel();
        if offer.ask.send(give).is_err() {
            return Taken::Dead;
        }
        given.await.map_or(Taken::Dead, Taken::Link)
    }

    /// Sends links away.
    pub(super) fn dismiss(&self, which: impl Fn(&Label) -> bool) {
        // Dropping the sender is what its keeper hears.
        self.offers().retain(|offer| !which(&offer.label));
    }

    pub(super) fn len(&self) -> usize {
        self.offers().len()
    }

    fn offers(&self) -> MutexGuard<'_, Vec<Offer<L, Label>>> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken<L> {
    Link(L),
    /// There was one, and it is no more.
    Dead,
    /// There are some, for others.
    NoneFits,
    Empty,
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn keep(link: &'static str, wanted: Wanted<&'static str>) {
        if let Ok(give) = wanted.await {
            let _ = give.send(link);
        }
    }

    #[tokio::test]
    async fn the_last_that_fits_is_given_once() {
        let shelf = Shelf::default();
        let (_, first) = shelf.offer(1, 3).expect("room");
        let (_, second) = shelf.offer(1, 3).expect("room");
        let (_, other) = shelf.offer(2, 3).expect("room");
        assert!(shelf.offer(1, 3).is_none(), "no more than that");
        let takes = async {
            let taken = [shelf.take(|label| *label == 1).await, shelf.take(|label| *label == 1).await];
            assert_eq!(taken, [Taken::Link("second"), Taken::Link("first")]);
            assert_eq!(shelf.take(|label| *label == 1).await, Taken::NoneFits);
            assert_eq!(shelf.take(|label| *label == 2).await, Taken::Link("other"));
            assert_eq!(shelf.take(|label| *label == 2).await, Taken::Empty);
        };
        tokio::join!(keep("first", first), keep("second", second), keep("other", other), takes);
    }

    #[tokio::test]
    async fn who_is_sent_away_hears_so_and_who_has_left_is_not_given() {
        let shelf = Shelf::<(), _>::default();
        let (slot, wanted) = shelf.offer('a', 9).expect("room");
        shelf.dismiss(|label| *label == 'a');
        assert!(wanted.await.is_err());
        shelf.withdraw(slot);
        let (_, wanted) = shelf.offer('b', 9).expect("room");
        drop(wanted);
        assert_eq!(shelf.take(|_| true).await, Taken::Dead);
        assert_eq!(shelf.len(), 0);
    }
}
