//! Places for links: how many a backend may have at once, in all and for one user, and the queues for them. First come,
//! first served, and nobody waits without end. Who holds a link that merely waits for work hears when somebody queues, and
//! gives it up. How many there may be can change at any time: who has a place keeps it. Not here: links themselves.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::imap::UserName;
use crate::outcome::Limit;

/// A user's name at the backend, normalised.
type Name = Arc<[u8]>;

/// The places of one backend.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Queue>,
    users: Arc<Users>,
}

#[derive(Debug)]
struct Users {
    /// For each; 0: any number, and nobody is counted.
    each: AtomicUsize,
    /// Those who have or want one.
    queues: DashMap<Name, Arc<Queue>>,
}

/// A place for one link, taken until this is dropped.
#[derive(Debug, Default)]
pub struct Place {
    all: Option<Seat>,
    /// Boxed: users are seldom counted, and every session has a place.
    user: Option<Box<OfUser>>,
}

#[derive(Debug)]
struct OfUser {
    // Dropped before the queue is looked at.
    seat: Option<Seat>,
    name: Name,
    users: Arc<Users>,
}

#[derive(Debug)]
struct Seat {
    queue: Arc<Queue>,
    permit: Option<OwnedSemaphorePermit>,
}

/// A number of places, and who waits for one.
#[derive(Debug)]
struct Queue {
    free: Arc<Semaphore>,
    size: Mutex<Size>,
    waiting: AtomicUsize,
    /// Told for each who comes to wait; hears the one who has listened longest.
    wanted: Notify,
}

#[derive(Debug)]
struct Size {
    most: usize,
    /// Places that are taken and will not be free again: there are fewer than there were.
    owed: usize,
}

/// Somebody waits for as long as this lives.
struct Waiting<'q>(&'q Queue);

impl Places {
    /// With room for so many, and for so many of each user; 0: any number.
    pub(super) fn new(all: usize, each: usize) -> Self {
        let users = Users { each: AtomicUsize::new(each), queues: DashMap::new() };
        Self { all: Arc::new(Queue::new(all)), users: Arc::new(users) }
    }

    /// There is room for so many from now on. Nobody loses a place; who came while users were not counted is not counted now.
    pub(super) fn resize(&self, all: usize, each: usize) {
        self.all.resize(all);
        self.users.each.store(each, Ordering::Relaxed);
        for queue in &self.users.queues {
            queue.resize(each);
        }
    }

    /// How many are taken, of the backend's.
    pub(super) fn taken(&self) -> usize {
        let size = self.all.size();
        (size.most + size.owed).saturating_sub(self.all.free.available_permits())
    }

    /// A place for a link that is nobody's yet, if one is free and nobody waits for it.
    pub(super) fn spare(&self) -> Option<Place> {
        if self.all.is_wanted() {
            return None;
        }
        Some(Place { all: Some(self.all.try_take()?), user: None })
    }

    /// A place among this user's, as soon as there is one; not yet one among the backend's. Dropping the future leaves the
    /// queue.
    ///
    /// # Errors
    /// It had to wait until `deadline`.
    pub(super) async fn of_user(&self, user: &UserName, deadline: Instant) -> Result<Place, Limit> {
        let each = self.users.each.load(Ordering::Relaxed);
        if each == 0 {
            return Ok(Place::default());
        }
        // Dropped last, also when this future is: whoever leaves the queue forgets it if it was the last one.
        let mut of_user = OfUser { seat: None, name: user.normalised(), users: Arc::clone(&self.users) };
        let new = || Arc::new(Queue::new(each));
        let queue = Arc::clone(&self.users.queues.entry(of_user.name.clone()).or_insert_with(new));
        of_user.seat = queue.take(deadline).await;
        drop(queue);
        if of_user.seat.is_none() {
            return Err(Limit::MaxLinksPerUser);
        }
        Ok(Place { all: None, user: Some(Box::new(of_user)) })
    }

    /// Makes it one among the backend's too, as soon as one is free.
    ///
    /// # Errors
    /// It had to wait until `deadline`.
    pub(super) async fn complete(&self, place: &mut Place, deadline: Instant) -> Result<(), Limit> {
        place.all = Some(self.all.take(deadline).await.ok_or(Limit::MaxLinks)?);
        Ok(())
    }
}

impl Place {
    /// It belongs to the user of `place` from now on.
    pub fn give_to(&mut self, place: Self) {
        self.user = place.user;
    }

    /// It belongs to no user any more.
    pub fn disown(&mut self) {
        self.user = None;
    }

    /// Ready when somebody waits for it.
    pub fn wanted(&self) -> impl Future<Output = ()> + Send + use<> {
        let all = self.all.as_ref().map(|seat| Arc::clone(&seat.queue));
        let user = self.user.as_ref().and_then(|user| user.seat.as_ref()).map(|seat| Arc::clone(&seat.queue));
        async move {
            tokio::select! {
                () = wanted(all) => {}
                () = wanted(user) => {}
            }
        }
    }
}

async fn wanted(queue: Option<Arc<Queue>>) {
    let Some(queue) = queue else { return std::future::pending().await };
    while !queue.is_wanted() {
        queue.wanted.notified().await;
    }
}

impl Queue {
    /// With so many places; 0: as many as there can be.
    fn new(places: usize) -> Self {
        let most = bounded(places);
        let size = Mutex::new(Size { most, owed: 0 });
        Self { free: Arc::new(Semaphore::new(most)), size, waiting: AtomicUsize::new(0), wanted: Notify::new() }
    }

    fn resize(&self, places: usize) {
        let most = bounded(places);
        let mut size = self.size();
        if most > size.most {
            let more = most - size.most;
            let kept = more.min(size.owed);
            size.owed -= kept;
            self.free.add_permits(more - kept);
        } else {
            let fewer = size.most - most;
            size.owed += fewer - self.free.forget_permits(fewer);
        }
        size.most = most;
    }

    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    fn try_take(self: &Arc<Self>) -> Option<Seat> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(Seat { queue: Arc::clone(self), permit: Some(permit) })
    }

    async fn take(self: &Arc<Self>, deadline: Instant) -> Option<Seat> {
        if let Some(seat) = self.try_take() {
            return Some(seat);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(self);
        self.wanted.notify_one();
        let permit = timeout_at(deadline, Arc::clone(&self.free).acquire_owned()).await.ok()?.ok()?;
        Some(Seat { queue: Arc::clone(self), permit: Some(permit) })
    }
}

fn bounded(places: usize) -> usize {
    if places == 0 { Semaphore::MAX_PERMITS } else { places.min(Semaphore::MAX_PERMITS) }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut size = self.queue.size();
        if size.owed > 0 {
            size.owed -= 1;
            permit.forget();
        } else {
            // While nobody can change the size.
            drop(permit);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for OfUser {
    fn drop(&mut self) {
        self.seat = None;
        // One is the map's own: nobody else has a place or waits for one.
        self.users.queues.remove_if(&self.name, |_, queue| Arc::strong_count(queue) == 1);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn user(name: &str) -> UserName {
        UserName::new(name.as_bytes()).expect("a name")
    }

    fn waiting(places: &Places) -> usize {
        places.all.waiting.load(Ordering::Relaxed)
    }

    async fn take(places: &Places, name: &str) -> Result<Place, Limit> {
        let deadline = soon();
        let mut place = places.of_user(&user(name), deadline).await?;
        places.complete(&mut place, deadline).await.map(|()| place)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_waits_its_turn_and_not_for_ever() {
        let places = Places::new(1, 0);
        let first = take(&places, "ann").await.expect("free");
        let began = Instant::now();
        assert_eq!(take(&places, "bob").await.err(), Some(Limit::MaxLinks));
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        assert_eq!(waiting(&places), 0);
        let turns = Mutex::new(Vec::new());
        let turn = async |name: &'static str| {
            let place = take(&places, name).await.expect("in time");
            turns.lock().expect("whole").push(name);
            tokio::task::yield_now().await;
            drop(place);
        };
        let leave = async {
            tokio::task::yield_now().await;
            assert_eq!(waiting(&places), 3);
            drop(first);
        };
        tokio::join!(turn("bob"), turn("cid"), turn("dan"), leave);
        assert_eq!(*turns.lock().expect("whole"), ["bob", "cid", "dan"]);
        assert!(places.spare().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn each_user_has_so_many_and_keeps_nobody_else_waiting() {
        let places = Places::new(10, 2);
        let anns = [take(&places, "ann").await, take(&places, "Ann").await];
        assert!(anns.iter().all(Result::is_ok));
        assert_eq!(take(&places, "ANN").await.err(), Some(Limit::MaxLinksPerUser));
        let bob = take(&places, "bob").await;
        assert!(bob.is_ok());
        drop((anns, bob));
        assert!(places.users.queues.is_empty(), "nobody is remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_a_link_to_spare_hears_that_it_is_wanted() {
        let places = Places::new(2, 0);
        let links = [places.spare().expect("free"), places.spare().expect("free")];
        let wanted = links.each_ref().map(Place::wanted);
        let [mut first, mut second] = wanted.map(Box::pin);
        assert!(timeout(Duration::from_secs(1), async { tokio::join!(&mut first, &mut second) }).await.is_err());
        assert!(places.spare().is_none() && places.taken() == 2);
        let come = take(&places, "ann");
        let give = async {
            // Polled again after the newcomer: only the one that has waited longest is woken.
            first.await;
            let [first, _second] = links;
            drop(first);
        };
        let (place, ()) = tokio::join!(come, give);
        assert!(place.is_ok());
        assert!(timeout(Duration::from_secs(1), second).await.is_err(), "nobody waits any more");
    }

    #[tokio::test(start_paused = true)]
    async fn nobodys_place_can_become_a_users() {
        let places = Places::new(1, 1);
        let mut place = places.spare().expect("free");
        place.give_to(places.of_user(&user("ann"), soon()).await.expect("free"));
        assert_eq!(take(&places, "ann").await.err(), Some(Limit::MaxLinksPerUser));
        place.disown();
        assert!(places.users.queues.is_empty());
        assert_eq!(take(&places, "ann").await.err(), Some(Limit::MaxLinks));
    }

    #[tokio::test(start_paused = true)]
    async fn with_fewer_places_nobody_loses_one_and_with_more_who_waits_gets_one() {
        let places = Places::new(3, 0);
        let mut taken: Vec<_> =
            [take(&places, "ann").await, take(&places, "bob").await, take(&places, "cid").await].into();
        places.resize(1, 0);
        assert_eq!(places.taken(), 3, "more than there may be");
        taken.truncate(1);
        assert_eq!(places.taken(), 1);
        assert_eq!(
            take(&places, "dan").await.err(),
            Some(Limit::MaxLinks),
            "two of three are gone, and one is all there may be"
        );
        places.resize(2, 0);
        let dan = take(&places, "dan").await;
        assert!(dan.is_ok() && take(&places, "eve").await.is_err());
        let (eve, ()) = tokio::join!(take(&places, "eve"), async { places.resize(0, 0) });
        assert!(eve.is_ok(), "any number");
        places.resize(2, 0);
        assert!(take(&places, "fay").await.is_err());
        drop((taken, dan, eve));
        let both = [take(&places, "fay").await, take(&places, "gus").await];
        assert!(both.iter().all(Result::is_ok) && take(&places, "hal").await.is_err(), "nothing is owed any more");
    }

    #[tokio::test(start_paused = true)]
    async fn each_users_places_can_change_too() {
        let places = Places::new(0, 1);
        let first = take(&places, "ann").await.expect("free");
        assert_eq!(take(&places, "ann").await.err(), Some(Limit::MaxLinksPerUser));
        places.resize(0, 2);
        let second = take(&places, "ann").await.expect("one more");
        places.resize(0, 1);
        drop(second);
        assert!(take(&places, "ann").await.is_err());
        drop(first);
        assert!(places.users.queues.is_empty());
        assert!(take(&places, "ann").await.is_ok());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_is_not_remembered() {
        let places = Places::new(0, 1);
        let first = take(&places, "ann").await.expect("free");
        let mut waiter = Box::pin(take(&places, "ann"));
        assert!(std::future::poll_fn(|cx| Poll::Ready(waiter.as_mut().poll(cx).is_pending())).await);
        drop(first);
        drop(waiter);
        assert!(places.users.queues.is_empty());
    }
}
