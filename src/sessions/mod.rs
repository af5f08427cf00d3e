//! Who is on its way in or logged in, by user: what it takes to hold a user's logins back, to tell sessions to leave, and to
//! know when the last of them has gone. A login takes its place before it is routed, in one step with the question whether its
//! user is held; so no login that began before a hold goes unseen by who holds. `place.rs` is one login or session, `roll.rs`
//! all of them in their order, `view.rs` and `users.rs` what operators see. Not here: IMAP, where users go.

mod place;
mod roll;
mod users;
mod view;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use self::place::Place;
pub use self::place::{Arrival, Tls};
use self::roll::Roll;
pub use self::users::{NoRank, Rank, SeenUser, Sort};
pub use self::view::{Dismissed, Filter, Page, Seen};
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
type Name = Arc<[u8]>;

/// All users with sessions, logins or holds.
#[derive(Debug, Default)]
pub struct Sessions {
    users: DashMap<Name, User>,
    /// All places of all users.
    roll: Roll,
    /// Who is held, or was until time was over.
    held: Mutex<HashSet<Name>>,
    /// Told whenever a place becomes free, and whenever a login leaves a backend for another.
    freed: Notify,
}

#[derive(Debug, Default)]
struct User {
    places: Vec<Arc<Place>>,
    /// There while logins are held back; dropping it lets them in. Boxed: seldom anybody's are.
    hold: Option<Box<Held>>,
}

#[derive(Debug)]
struct Held {
    until: Instant,
    released: watch::Sender<()>,
}

/// A place taken. It becomes free when this is dropped.
#[derive(Debug)]
pub struct Ticket {
    sessions: Arc<Sessions>,
    place: Arc<Place>,
}

impl Sessions {
    /// Takes a place for a login, as soon as the user is not held. Dropping the future takes none.
    pub async fn enter(self: &Arc<Self>, arrival: Arrival<'_>) -> Ticket {
        let user = arrival.user.normalised();
        loop {
            let (until, mut released) = {
                let mut entry = self.users.entry(user.clone()).or_default();
                let Some(hold) = entry.hold.as_ref().filter(|hold| hold.until > Instant::now()) else {
                    let place = self.roll.enter(|number| Place::new(number, user.clone(), &arrival));
                    if entry.places.is_empty() {
                        // Many users have one and no more.
                        entry.places.reserve_exact(1);
                    }
                    entry.places.push(Arc::clone(&place));
                    return Ticket { sessions: Arc::clone(self), place };
                };
                (hold.until, hold.released.subscribe())
            };
            // An error says that the hold is over; so does time.
            let _ = tokio::time::timeout_at(until, released.changed()).await;
        }
    }

    /// Holds a user's logins back, for so long at most.
    pub fn hold(&self, user: &UserName, most: Duration) {
        self.forget_old_holds();
        let held = Held { until: Instant::now() + most, released: watch::channel(()).0 };
        let user = user.normalised();
        let mut entry = self.users.entry(user.clone()).or_default();
        entry.hold = Some(Box::new(held));
        self.names_held().insert(user);
    }

    /// Lets a user's logins in again; false when they were not held.
    pub fn release(&self, user: &UserName) -> bool {
        let user = user.normalised();
        let was_held = self.users.get_mut(&user).is_some_and(|mut entry| {
            self.names_held().remove(&user);
            entry.hold.take().is_some()
        });
        self.forget(&user);
        was_held
    }

    /// Who is held.
    fn held(&self) -> Vec<Name> {
        self.forget_old_holds();
        self.names_held().iter().cloned().collect()
    }

    /// A hold that nobody released is over when its time is; who had it is forgotten here.
    fn forget_old_holds(&self) {
        let names: Vec<_> = self.names_held().iter().cloned().collect();
        for name in names {
            if let Some(mut entry) = self.users.get_mut(&name)
                && entry.hold.as_ref().is_some_and(|hold| hold.until <= Instant::now())
            {
                entry.hold = None;
                self.names_held().remove(&name);
            }
            self.forget(&name);
        }
    }

    /// Taken inside of an entry of a user, never around it.
    fn names_held(&self) -> MutexGuard<'_, HashSet<Name>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all sessions of a user to leave; says how many heard it for the first time.
    pub fn dismiss_user(&self, user: &UserName, ending: Ending) -> usize {
        let told = |entry: &User| entry.places.iter().filter(|place| place.tell(soon(ending))).count();
        self.users.get(&user.normalised()).map_or(0, |entry| told(&entry))
    }

    /// Tells all sessions at a backend to leave, one after the other, within `spread`: their clients are not all to come
    /// back at once. Says how many heard it for the first time.
    pub async fn dismiss_backend(&self, backend: &Arc<Backend>, ending: Ending, spread: Duration) -> usize {
        let mut places = self.places();
        places.retain(|place| place.is_at(&backend.config.name));
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
            let mut places = self.places();
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

    /// Tells all sessions that everything ends now.
    pub fn stop(&self) {
        for place in self.places() {
            place.pulse.notice().stop();
        }
    }

    /// How many places are taken.
    pub fn count(&self) -> usize {
        self.roll.len()
    }

    /// How many places a user has taken.
    pub fn of_user(&self, user: &UserName) -> usize {
        self.users.get(&user.normalised()).map_or(0, |entry| entry.places.len())
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

impl Ticket {
    /// The backend it goes to is known now.
    pub fn bound_for(&self, backend: &Arc<Backend>) {
        self.place.go_to(Some(Arc::clone(backend)));
    }

    /// It has left its backend, of which its [`crate::backend::Presence`] is gone already, and looks for another.
    pub fn bound_nowhere(&self) {
        self.place.go_to(None);
        self.sessions.freed.notify_waiters();
    }

    /// It is logged in now.
    pub fn let_in(&self) {
        self.place.pulse.let_in();
    }

    /// Of the session: what is seen of it, and what it is told.
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
        let user = &self.place.user;
        if let Some(mut entry) = self.sessions.users.get_mut(user) {
            entry.places.retain(|place| !Arc::ptr_eq(place, &self.place));
        }
        self.sessions.forget(user);
        self.sessions.roll.leave(self.place.number);
        self.sessions.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
