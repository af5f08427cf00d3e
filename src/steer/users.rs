//! Users: held back, let in, told to leave, moved.

use std::time::Duration;

use tokio::time::timeout;
use tracing::info;

use super::{LEAVING, SteerError, Steering};
use crate::imap::UserName;
use crate::outcome::Ending;

/// A hold that nobody releases ends after this: nobody is locked out because somebody forgot.
pub const LONGEST_HOLD: Duration = Duration::from_mins(15);

/// What became of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Sessions that were told to leave.
    pub dismissed: usize,
}

impl Steering {
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

    /// Tells a user's sessions to leave, and lets go of links that wait for it; says how many sessions. They may come back at
    /// once.
    pub fn kick(&self, user: &UserName) -> usize {
        let state = self.state();
        let dismissed = state.sessions.dismiss_user(user, Ending::Kicked);
        state.pool.dismiss_user(user);
        info!(%user, dismissed, "kicked");
        dismissed
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
