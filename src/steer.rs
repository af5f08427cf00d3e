//! What operators do to a running server: take a backend out of use and put it back, hold a user's logins, move a user.
//! Here is the work itself; who may ask for it, and how, is the business of `admin/` and `cli/`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::info;

use crate::backend::Backend;
use crate::imap::UserName;
use crate::outcome::Ending;
use crate::server::State;

/// Sessions that are told to leave a backend are told so over this time, so that their clients do not all come back at once.
const SPREAD: Duration = Duration::from_secs(5);
/// Told to leave, a session is gone after this, whatever it was doing.
const LEAVING: Duration = Duration::from_secs(10);
/// A hold that nobody releases ends after this: nobody is locked out because somebody forgot.
pub const LONGEST_HOLD: Duration = Duration::from_mins(15);

/// Steers a running server. Cheap to clone.
#[derive(Clone)]
pub struct Steering(pub(crate) Arc<State>);

/// What cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SteerError {
    /// The configuration names no such backend.
    #[error("no backend has the name {0:?}")]
    NoSuchBackend(String),
    /// Sessions are still there although they were told to leave.
    #[error("{0} sessions are still there")]
    StillThere(usize),
}

/// What became of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Sessions that were told to leave when patience was at its end.
    pub dismissed: usize,
}

/// What became of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Sessions that were told to leave.
    pub dismissed: usize,
}

impl Steering {
    /// Gives a backend no new sessions from now on, waits for those there to end, and tells the rest to leave after
    /// `patience`. It stays out of use until [`Steering::undrain`], also when this future is dropped.
    ///
    /// # Errors
    /// There is no such backend, or sessions did not leave.
    pub async fn drain(&self, backend: &str, patience: Duration) -> Result<Drained, SteerError> {
        let backend = self.backend(backend)?;
        backend.set_draining(true);
        let name = &backend.config.name;
        info!(backend = name, sessions = backend.sessions(), "draining");
        let is_empty = || backend.sessions() == 0;
        let mut dismissed = 0;
        if timeout(patience, self.0.sessions.until(|_| is_empty())).await.is_err() {
            dismissed = self.0.sessions.dismiss_backend(&backend, Ending::Moved, SPREAD).await;
            let last = self.0.sessions.until(|_| is_empty());
            if timeout(LEAVING, last).await.is_err() {
                return Err(SteerError::StillThere(backend.sessions()));
            }
        }
        info!(backend = name, dismissed, "drained");
        Ok(Drained { dismissed })
    }

    /// Puts a backend back in use.
    ///
    /// # Errors
    /// There is no such backend.
    pub fn undrain(&self, backend: &str) -> Result<(), SteerError> {
        let backend = self.backend(backend)?;
        backend.set_draining(false);
        info!(backend = backend.config.name, "in use again");
        Ok(())
    }

    /// Holds a user's logins back until [`Steering::release`], at most for [`LONGEST_HOLD`].
    pub fn hold(&self, user: &UserName) {
        self.0.sessions.hold(user, LONGEST_HOLD);
        info!(%user, "logins are held");
    }

    /// Lets a user's logins in again; false when they were not held.
    pub fn release(&self, user: &UserName) -> bool {
        let was_held = self.0.sessions.release(user);
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
        let to = to.map(|name| self.backend(name)).transpose()?;
        self.hold(user);
        let release = Release { steering: self, user };
        let dismissed = self.0.sessions.dismiss_user(user, Ending::Moved);
        // Logins under way are allowed to end; they are told to leave as soon as they are in.
        let patience = self.0.timeouts.backend_login + LEAVING;
        let gone = self.0.sessions.until(|sessions| sessions.of_user(user) == 0);
        if timeout(patience, gone).await.is_err() {
            return Err(SteerError::StillThere(self.0.sessions.of_user(user)));
        }
        self.0.pool.dismiss_user(user);
        meanwhile.await;
        self.0.router.moved(user, to.as_ref());
        drop(release);
        info!(%user, dismissed, to = to.as_ref().map(|backend| backend.config.name.as_str()), "moved");
        Ok(Moved { dismissed })
    }

    /// Tells a user's sessions to leave, and lets go of links that wait for it; says how many sessions. They may come back at
    /// once.
    pub fn kick(&self, user: &UserName) -> usize {
        let dismissed = self.0.sessions.dismiss_user(user, Ending::Kicked);
        self.0.pool.dismiss_user(user);
        info!(%user, dismissed, "kicked");
        dismissed
    }

    fn backend(&self, name: &str) -> Result<Arc<Backend>, SteerError> {
        self.0.router.backend(name).cloned().ok_or_else(|| SteerError::NoSuchBackend(name.to_owned()))
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
