//! Lookups: how they do, and answers that are to be forgotten.

use tokio::task::spawn_blocking;
use tracing::info;

use super::{SteerError, Steering};
use crate::imap::UserName;

pub use crate::routing::LookupState;

impl Steering {
    /// How each lookup does, in the configuration's order.
    pub fn lookups(&self) -> Vec<LookupState> {
        self.router().lookups()
    }

    /// Has one lookup, or all, forget the answers that they keep of a user, or of everybody; says how many that were. Maps are
    /// not read anew by this: that is a reload.
    ///
    /// # Errors
    /// There is no such lookup.
    pub async fn flush(&self, lookup: Option<&str>, user: Option<&UserName>) -> Result<usize, SteerError> {
        let router = self.router();
        if let Some(name) = lookup.filter(|name| !router.has_lookup(name)) {
            return Err(SteerError::NoSuchLookup(name.to_owned()));
        }
        let (name, normalised) = (lookup.map(str::to_owned), user.map(UserName::normalised));
        // Millions of answers take a moment.
        let flush = move || router.forget(name.as_deref(), normalised.as_deref());
        let flushed = spawn_blocking(flush).await.unwrap_or_default();
        info!(lookup, user = user.map(tracing::field::display), flushed, "answers of lookups are forgotten");
        Ok(flushed)
    }
}
