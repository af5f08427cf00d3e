//! Sessions: seen, and told to leave.

use tracing::info;

use super::Steering;
use crate::outcome::Ending;
use crate::sessions::{Dismissed, Filter, Page, Seen};

impl Steering {
    /// One page of the sessions that match and of logins under way, in the order in which they came; at most `most`, behind the
    /// one that the page before has named (0: from the first on).
    pub async fn sessions(&self, filter: &Filter, after: u64, most: usize) -> Page<Seen, u64> {
        self.state().sessions.page(filter, after, most).await
    }

    /// Tells all sessions that match to leave, and lets go of links that wait for their users; where nothing but a user is
    /// meant, also if it has no session. They may come back at once; who comes meanwhile is left in peace.
    pub async fn kick(&self, filter: &Filter) -> Dismissed {
        let state = self.state();
        let dismissed = state.sessions.dismiss(filter, Ending::Kicked).await;
        match &filter.user {
            Some(user) if *filter == Filter::of_user(user.clone()) => state.pool.dismiss_user(user),
            _ if dismissed.users.is_empty() => {}
            _ => state.pool.dismiss(|mailbox| dismissed.users.contains(mailbox)),
        }
        info!(
            user = filter.user.as_ref().map(ToString::to_string),
            network = filter.network.map(|network| network.to_string()),
            backend = filter.backend,
            session = filter.id,
            dismissed = dismissed.told,
            "kicked"
        );
        dismissed
    }
}
