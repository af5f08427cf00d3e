//! Backends: taken out of use and put back.

use std::time::Duration;

use tokio::time::timeout;
use tracing::info;

use super::{LEAVING, SteerError, Steering};
use crate::outcome::Ending;

/// Sessions that are told to leave a backend are told so over this time, so that their clients do not all come back at once.
const SPREAD: Duration = Duration::from_secs(5);

/// What became of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Sessions that were told to leave when patience was at its end.
    pub dismissed: usize,
}

impl Steering {
    /// Gives a backend no new sessions from now on, waits for those there to end, and tells the rest to leave after
    /// `patience`. It stays out of use until [`Steering::undrain`], also when this future is dropped.
    ///
    /// # Errors
    /// There is no such backend, or sessions did not leave.
    pub async fn drain(&self, backend: &str, patience: Duration) -> Result<Drained, SteerError> {
        let (state, backend) = (self.state(), self.backend(backend)?);
        backend.set_draining(true);
        let name = &backend.config.name;
        info!(backend = name, sessions = backend.sessions(), "draining");
        let is_empty = || backend.sessions() == 0;
        let mut dismissed = 0;
        if timeout(patience, state.sessions.until(|_| is_empty())).await.is_err() {
            dismissed = state.sessions.dismiss_backend(&backend, Ending::Moved, SPREAD).await;
            let last = state.sessions.until(|_| is_empty());
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
}
