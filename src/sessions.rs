//! Who is on its way in or logged in, by user: what it takes to hold a user's logins back, to tell its sessions to leave,
//! and to know when the last of them has gone. A login takes its place before it is routed, in one step with the question
//! whether its user is held; so no login that began before a hold goes unseen by who holds. Not here: IMAP, where users go.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep};

use crate::backend::Backend;
use crate::imap::UserName;
use crate::outcome::{Ending, Leave};
use crate::pulse::Pulse;

/// A session that is told to leave at once has so long until there is a moment for its BYE and the client has taken it.
const GRACE: Duration = Duration::from_secs(5);
/// Sessions that are seen off are told so in steps of so long.
const SHORTEST_STEP: Duration = Duration::from_millis(50);
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// A user's name, normalised.
type Name = Box<[u8]>;

/// All users with sessions, logins or holds.
#[derive(Debug, Default)]
pub struct Sessions {
    users: DashMap<Name, User>,
    /// Told whenever a place becomes free, and whenever a login leaves a backend for another.
    freed: Notify,
}

#[derive(Debug, Default)]
struct User {
    places: Vec<Arc<Place>>,
    /// There while logins are held back; dropping it lets them in.
    hold: Option<Held>,
}

#[derive(Debug)]
struct Held {
    until: Instant,
    released: watch::Sender<()>,
}

/// One login or session.
#[derive(Debug)]
struct Place {
    id: String,
    backend: Mutex<Option<Arc<Backend>>>,
    /// Gone when it has been told.
    leave: Mutex<Option<oneshot::Sender<Leave>>>,
    pulse: Arc<Pulse>,
}

/// A place taken. It becomes free when this is dropped.
#[derive(Debug)]
pub struct Ticket {
    sessions: Arc<Sessions>,
    user: Name,
    place: Arc<Place>,
    told: Option<oneshot::Receiver<Leave>>,
}

impl Sessions {
    /// Takes a place for a login, as soon as the user is not held. Dropping the future takes none.
    pub async fn enter(self: &Arc<Self>, user: &UserName, id: &str) -> Ticket {
        let user = user.normalised();
        loop {
            let (until, mut released) = {
                let mut entry = self.users.entry(user.clone()).or_default();
                let Some(hold) = entry.hold.as_ref().filter(|hold| hold.until > Instant::now()) else {
                    let (leave, told) = oneshot::channel();
                    let (backend, leave) = (Mutex::new(None), Mutex::new(Some(leave)));
                    let place = Arc::new(Place { id: id.to_owned(), backend, leave, pulse: Arc::default() });
                    entry.places.push(Arc::clone(&place));
                    return Ticket { sessions: Arc::clone(self), user: user.clone(), place, told: Some(told) };
                };
                (hold.until, hold.released.subscribe())
            };
            // An error says that the hold is over; so does time.
            let _ = tokio::time::timeout_at(until, released.changed()).await;
        }
    }

    /// Holds a user's logins back, for so long at most.
    pub fn hold(&self, user: &UserName, most: Duration) {
        let held = Held { until: Instant::now() + most, released: watch::channel(()).0 };
        self.users.entry(user.normalised()).or_default().hold = Some(held);
    }

    /// Lets a user's logins in again; false when they were not held.
    pub fn release(&self, user: &UserName) -> bool {
        let user = user.normalised();
        let was_held = self.users.get_mut(&user).is_some_and(|mut entry| entry.hold.take().is_some());
        self.forget(&user);
        was_held
    }

    /// Tells all sessions of a user to leave; says how many heard it for the first time.
    pub fn dismiss_user(&self, user: &UserName, ending: Ending) -> usize {
        let told = |entry: &User| entry.places.iter().filter(|place| place.tell(soon(ending))).count();
        self.users.get(&user.normalised()).map_or(0, |entry| told(&entry))
    }

    /// Tells all sessions at a backend to leave, one after the other, within `spread`: their clients are not all to come
    /// back at once. Says how many heard it for the first time.
    pub async fn dismiss_backend(&self, backend: &Arc<Backend>, ending: Ending, spread: Duration) -> usize {
        let mut places = Vec::new();
        for entry in &self.users {
            places.extend(entry.places.iter().filter(|place| place.is_at(backend)).cloned());
        }
        let pause = spread / u32::try_from(places.len().max(1)).unwrap_or(u32::MAX);
        let mut told = 0;
        for place in places {
            told += usize::from(place.tell(soon(ending)));
            drop(place);
            sleep(pause).await;
        }
        told
    }

    /// Tells all sessions to leave, the quietest first, spread over the time until `end`, and those that come meanwhile too;
    /// nobody in the middle of a command. Returns when the time is over. `left` hears now and then how many there are.
    pub async fn see_off(&self, end: Instant, left: impl Fn(usize)) {
        let time = end.saturating_duration_since(Instant::now());
        let step = (time / 100).clamp(SHORTEST_STEP, LONGEST_STEP);
        // What is told last is to have a moment, too.
        let last = end - time / 10;
        let mut due = 0.0;
        loop {
            let mut places: Vec<_> = self.users.iter().flat_map(|entry| entry.places.clone()).collect();
            left(places.len());
            let now = Instant::now();
            if now >= end {
                return;
            }
            places.retain(|place| !place.is_told());
            // In even steps; of few sessions none is due in most.
            let rest = last.saturating_duration_since(now).max(step);
            due += step.div_duration_f64(rest) * f64::from(u32::try_from(places.len()).unwrap_or(u32::MAX));
            places.sort_by_cached_key(|place| place.pulse.last());
            for place in &places {
                if due < 1.0 {
                    break;
                }
                due -= 1.0;
                place.tell(Leave { ending: Ending::Stopping, patience: (end - now) + LONGEST_STEP, gently: true });
            }
            sleep(step.min(end - now)).await;
        }
    }

    /// How many places are taken.
    pub fn count(&self) -> usize {
        self.users.iter().map(|entry| entry.places.len()).sum()
    }

    /// How many places a user has taken.
    pub fn of_user(&self, user: &UserName) -> usize {
        self.users.get(&user.normalised()).map_or(0, |entry| entry.places.len())
    }

    /// The ids of a user's sessions.
    pub fn ids(&self, user: &UserName) -> Vec<String> {
        let ids = |entry: &User| entry.places.iter().map(|place| place.id.clone()).collect();
        self.users.get(&user.normalised()).map_or_else(Vec::new, |entry| ids(&entry))
    }

    /// Waits until `is_done`, which is asked again each time a place has become free, or a backend was left.
    pub async fn until(&self, is_done: impl Fn(&Self) -> bool) {
        loop {
            // Registered before the question, so that nothing that happens behind it is missed.
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if is_done(self) {
                return;
            }
            freed.await;
        }
    }

    /// Forgets a user of whom there is nothing to know.
    fn forget(&self, user: &Name) {
        self.users.remove_if(user, |_, entry| entry.places.is_empty() && entry.hold.is_none());
    }
}

/// As soon as there is a moment for it.
fn soon(ending: Ending) -> Leave {
    Leave { ending, patience: GRACE, gently: false }
}

impl Place {
    /// False: it knows already, or has ended.
    fn tell(&self, what: Leave) -> bool {
        let leave = self.leave.lock().unwrap_or_else(PoisonError::into_inner).take();
        leave.is_some_and(|leave| leave.send(what).is_ok())
    }

    fn is_told(&self) -> bool {
        self.leave.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// By name: it may have been there before the backend's settings changed.
    fn is_at(&self, backend: &Backend) -> bool {
        let here = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
        here.as_ref().is_some_and(|here| here.config.name == backend.config.name)
    }
}

impl Ticket {
    /// The backend it goes to is known now.
    pub fn bound_for(&self, backend: &Arc<Backend>) {
        *self.place.backend.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(backend));
    }

    /// It has left its backend, of which its [`crate::backend::Presence`] is gone already, and looks for another.
    pub fn bound_nowhere(&self) {
        *self.place.backend.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.sessions.freed.notify_waiters();
    }

    /// Hears why the session is to leave, when it is. There is one who listens; what was said before is not lost.
    pub fn told(&mut self) -> Option<oneshot::Receiver<Leave>> {
        self.told.take()
    }

    /// Of the session.
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.place.pulse)
    }

    /// It has been told to leave, whether it has heard that or not.
    pub fn is_told(&self) -> bool {
        self.place.is_told()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(mut entry) = self.sessions.users.get_mut(&self.user) {
            entry.places.retain(|place| !Arc::ptr_eq(place, &self.place));
        }
        self.sessions.forget(&self.user);
        self.sessions.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn ann() -> UserName {
        UserName::new(&b"Ann"[..]).expect("a name")
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_user_waits_and_others_do_not() {
        let sessions = Arc::new(Sessions::default());
        sessions.hold(&ann(), Duration::from_mins(1));
        let bob = UserName::new(&b"bob"[..]).expect("a name");
        let _bob = sessions.enter(&bob, "1").await;
        assert!(timeout(Duration::from_secs(5), sessions.enter(&ann(), "2")).await.is_err());
        let ann = ann();
        let waiting = sessions.enter(&ann, "3");
        let release = async { sessions.release(&UserName::new(&b"ann"[..]).expect("a name")) };
        let (ticket, released) = tokio::join!(waiting, release);
        assert!(released);
        assert_eq!(sessions.of_user(&ann), 1);
        drop(ticket);
        assert_eq!(sessions.users.len(), 1, "only bob is known");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_that_nobody_releases_ends() {
        let sessions = Arc::new(Sessions::default());
        sessions.hold(&ann(), Duration::from_mins(1));
        let began = Instant::now();
        let _ticket = sessions.enter(&ann(), "1").await;
        assert_eq!(began.elapsed(), Duration::from_mins(1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_in_is_told_and_waited_for() {
        let sessions = Arc::new(Sessions::default());
        let mut tickets = [sessions.enter(&ann(), "1").await, sessions.enter(&ann(), "2").await];
        assert_eq!(sessions.ids(&ann()), ["1", "2"]);
        assert_eq!(sessions.dismiss_user(&ann(), Ending::Stopping), 2);
        assert_eq!(sessions.dismiss_user(&ann(), Ending::Kicked), 0, "once is enough");
        for ticket in &mut tickets {
            assert_eq!(ticket.told().expect("nobody listens yet").await, Ok(soon(Ending::Stopping)));
        }
        let gone = sessions.until(|sessions| sessions.of_user(&ann()) == 0);
        let leaving = async {
            for ticket in tickets {
                tokio::task::yield_now().await;
                drop(ticket);
            }
        };
        timeout(Duration::from_secs(1), async { tokio::join!(gone, leaving) }).await.expect("both are gone");
        assert!(sessions.users.is_empty());
    }

    /// Sessions of which each leaves as soon as it is told; when that was, in seconds.
    async fn seen_off(sessions: &Arc<Sessions>, count: u64, time: u64) -> Vec<(u64, u64)> {
        let began = Instant::now();
        let mut tickets = Vec::new();
        for number in 0..count {
            let user = UserName::new(format!("user{number}").as_bytes()).expect("a name");
            let mut ticket = sessions.enter(&user, "1").await;
            ticket.pulse().beat(began + Duration::from_millis(count - number));
            tickets.push((number, ticket.told().expect("nobody listens yet"), ticket));
        }
        let (left, mut leaving) = tokio::sync::mpsc::unbounded_channel();
        let everybody = tickets.into_iter().map(|(number, told, ticket)| {
            let left = left.clone();
            async move {
                let leave = told.await.expect("told");
                assert!(leave.gently && leave.ending == Ending::Stopping);
                left.send((number, began.elapsed().as_secs())).expect("heard");
                drop(ticket);
            }
        });
        let everybody: tokio::task::JoinSet<()> = everybody.collect();
        sessions.see_off(Instant::now() + Duration::from_secs(time), |_| ()).await;
        everybody.join_all().await;
        drop(left);
        let mut order = Vec::new();
        while let Some(event) = leaving.recv().await {
            order.push(event);
        }
        order
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_is_seen_off_in_even_steps_the_quietest_first() {
        let sessions = Arc::default();
        let order = seen_off(&sessions, 100, 100).await;
        // The last one moved longest ago.
        assert!(order.iter().map(|(number, _)| *number).eq((0..100).rev()), "{order:?}");
        for tenth in 0..9 {
            let then = order.iter().filter(|(_, at)| at / 10 == tenth).count();
            assert!((9..=13).contains(&then), "{then} in tenth {tenth}: {order:?}");
        }
        assert!(order.iter().all(|(_, at)| *at <= 91), "{order:?}");
        assert!(sessions.users.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_not_seen_off_at_once() {
        let order = seen_off(&Arc::default(), 2, 100).await;
        assert!(order[0].1 >= 30 && order[1].1 <= 91, "{order:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_leave_is_not_waited_for() {
        let sessions: Arc<Sessions> = Arc::default();
        let _ticket = sessions.enter(&ann(), "1").await;
        let began = Instant::now();
        sessions.see_off(began + Duration::from_secs(10), |left| assert_eq!(left, 1)).await;
        assert_eq!(began.elapsed().as_secs(), 10);
    }
}
