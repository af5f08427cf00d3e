//! Traces: what a user's sessions say, shown while it happens.

use std::time::Duration;

use super::{SteerError, Steering};
use crate::imap::UserName;
use crate::trace::Trace;

impl Steering {
    /// Begins to show what a user's sessions say, for so long and so many bytes.
    ///
    /// # Errors
    /// There are too many traces.
    pub fn trace(&self, user: &UserName, time: Duration, most: u64) -> Result<Trace, SteerError> {
        self.state().traces.begin(user, time, most).map_err(|_| SteerError::TooManyTraces)
    }
}
