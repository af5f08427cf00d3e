//! Users: seen, held back, let in, moved.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::info;

use super::{LEAVING, SteerError, Steering};
use crate::imap::{ForbiddenByte, UserName};
use crate::outcome::Ending;
use crate::sessions::{Page, Rank, SeenUser, Sort};

/// A hold that nobody releases ends after this: nobody is locked out because somebody forgot.
pub const LONGEST_HOLD: Duration = Duration::from_mins(15);

/// What became of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Sessions that were told to leave.
    pub dismissed: usize,
}

/// What is known of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownUser {
    /// Sessions and holds.
    pub seen: SeenUser,
    /// The name of the backend that it was moved to by hand.
    pub moved_to: Option<String>,
}

impl Steering {
    /// One page of the users who have sessions, are held or were moved by hand, or `held_only`; at most `most`.
    pub async fn users(&self, sort: Sort, held_only: bool, after: Option<Rank>, most: usize) -> Page<KnownUser, Rank> {
        let state = self.state();
        let moved = if held_only {
            Vec::new()
        } else {
            let router = self.state();
            // Operators may have moved everybody, one after the other.
            spawn_blocking(move || router.router.all_moved()).await.unwrap_or_default()
        };
        let Page { total, next, items } = state.sessions.users(sort, held_only, moved, after, most).await;
        let known = |seen: SeenUser| KnownUser { moved_to: state.router.moved_to(&seen.name), seen };
        Page { total, next, items: items.into_iter().map(known).collect() }
    }

    /// One user, if anything is known of it.
    pub fn user(&self, user: &UserName) -> Option<KnownUser> {
        let state = self.state();
        let moved_to = state.router.moved_to(&user.normalised());
        let seen = state.sessions.user(user);
        if seen.is_none() && moved_to.is_none() {
            return None;
        }
        Some(KnownUser { seen: seen.unwrap_or_else(|| SeenUser::absent(user)), moved_to })
    }

    /// The user whom somebody means who has read or typed this name: the one of this very name, or, where nothing is known of
    /// that one, the one whom log and answers show so.
    ///
    /// # Errors
    /// No user can have it.
    pub fn whom(&self, name: &str) -> Result<UserName, ForbiddenByte> {
        let user = UserName::new(name.as_bytes())?;
        if self.user(&user).is_some() {
            return Ok(user);
        }
        Ok(UserName::from_shown(name).filter(|shown| self.user(shown).is_some()).unwrap_or(user))
    }

    /// Holds a user's logins back until [`Steering::release`], at most for [`LONGEST_HOLD`].
    pub fn hold(&self, user: &UserName) {
        self.state().sessions.hold(user, LONGEST_HOLD);
        info!(%user, "logins are held");
    }

    /// Lets a user's logins in again; false when they were not held.
    pub fn release(&self, user: &UserName) -> bool {
        let was_held = self.state().sessions.release(user);
        info!(%user, was_held, "logins are let in");
        was_held
    }

    /// Moves a user: holds new logins, tells the old sessions to leave and waits until they have, has `meanwhile` done (the
    /// last copying of mail, say), and then lets logins in, to the backend `to` where that is given, else to where the
    /// rules say by then; what lookups have said of the user is forgotten. Where a user was sent by `to` it goes until the
    /// server ends or it is moved again.
    ///
    /// # Errors
    /// There is no such backend, or sessions did not leave; the user is where it was then. Dropping the future lets logins
    /// in as well.
    pub async fn move_user<F: Future<Output = ()>>(
        &self,
        user: &UserName,
        to: Option<&str>,
        meanwhile: F,
    ) -> Result<Moved, SteerError> {
        let state = self.state();
        let to = to.map(|name| self.backend(name)).transpose()?;
        self.hold(user);
        let release = Release { steering: self, user };
        let dismissed = state.sessions.dismiss_user(user, Ending::Moved);
        // Logins under way are allowed to end; they are told to leave as soon as they are in.
        let patience = state.config.timeouts.backend_login + LEAVING;
        let gone = state.sessions.until(|sessions| sessions.of_user(user) == 0);
        if timeout(patience, gone).await.is_err() {
            return Err(SteerError::StillThere(state.sessions.of_user(user)));
        }
        state.pool.dismiss_user(user);
        meanwhile.await;
        // The rules may be others by now.
        self.state().router.moved(user, to.as_ref());
        drop(release);
        info!(%user, dismissed, to = to.as_ref().map(|backend| backend.config.name.as_str()), "moved");
        Ok(Moved { dismissed })
    }
}

/// Releases a hold however a move ends.
struct Release<'a> {
    steering: &'a Steering,
    user: &'a UserName,
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.steering.release(self.user);
    }
}
