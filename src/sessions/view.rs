//! What operators see of sessions: those that match a [`Filter`], page by page, in the order in which they came. A page is
//! gathered in pieces, between which others have their turn; who stays in meanwhile is on one page, and on one only. Not here:
//! how it is shown.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::place::Place;
use super::{Name, Sessions, soon};
use crate::imap::{Mechanism, UserName, escape};
use crate::outcome::Ending;
use crate::pulse::{Bytes, State};

/// So many places are looked at between two turns of others: some ten microseconds' work.
const PIECE: usize = 256;

/// Which sessions are meant: those for which all that is given holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Whose they are.
    pub user: Option<UserName>,
    /// Where their clients are.
    pub network: Option<IpNet>,
    /// The backend's name.
    pub backend: Option<String>,
    /// The listener's name.
    pub listener: Option<String>,
    /// What they do.
    pub state: Option<State>,
    /// The session's id.
    pub id: Option<String>,
}

/// Some of many, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, After> {
    /// How many there are in all.
    pub total: usize,
    /// Behind what the next page begins, where there is one.
    pub next: Option<After>,
    /// Those of this page.
    pub items: Vec<T>,
}

/// What is seen of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its id, as the log has it.
    pub id: Arc<str>,
    /// Whose it is, escaped.
    pub user: String,
    /// The client's address.
    pub client: SocketAddr,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The name of the backend that it is on its way to, or at.
    pub backend: Option<String>,
    /// How it logged in.
    pub mechanism: Mechanism,
    /// The version of TLS with the client; none in clear.
    pub tls: Option<&'static str>,
    /// What it does.
    pub state: State,
    /// When its login began.
    pub since: SystemTime,
    /// How long ago that was.
    pub lasted: Duration,
    /// How long nothing has moved.
    pub quiet: Duration,
    /// What has moved so far.
    pub bytes: Bytes,
}

/// Whom a dismissal has met.
#[derive(Debug, Default)]
pub struct Dismissed {
    /// How many sessions match, whether they had been told before or not.
    pub met: usize,
    /// How many heard it for the first time.
    pub told: usize,
    /// Whose they are, normalised.
    pub users: HashSet<Name>,
}

impl Filter {
    /// All sessions of one user.
    pub fn of_user(user: UserName) -> Self {
        Self { user: Some(user), ..Self::default() }
    }

    /// It says nothing: all are meant.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// All but the user, who is looked for by name.
    fn fits(&self, place: &Place) -> bool {
        self.id.as_ref().is_none_or(|id| **id == *place.id)
            && self.listener.as_ref().is_none_or(|listener| **listener == *place.listener)
            && self.network.is_none_or(|network| network.contains(&place.client().ip()))
            && self.state.is_none_or(|state| place.pulse.state() == state)
            && self.backend.as_ref().is_none_or(|backend| place.is_at(backend))
    }
}

impl Sessions {
    /// One page of those that match, at most `most`, behind the one that a page before has named.
    pub async fn page(&self, filter: &Filter, after: u64, most: usize) -> Page<Seen, u64> {
        let moment = (SystemTime::now(), Instant::now());
        let mut items = Vec::new();
        let (mut total, mut last, mut more) = (0, after, false);
        let mut take = |place: &Arc<Place>| {
            if items.len() < most {
                items.push(Seen::at(moment, place));
                last = place.number;
            } else {
                more = true;
            }
        };
        if filter.is_empty() {
            // Nobody else need be looked at.
            total = self.roll.len();
            let mut places = Vec::new();
            self.roll.read(after, u64::MAX, most.saturating_add(1), &mut places);
            places.iter().for_each(&mut take);
        } else {
            let look = |place: &Arc<Place>| {
                total += 1;
                if place.number > after {
                    take(place);
                }
            };
            self.each(filter, look).await;
        }
        Page { total, next: more.then_some(last), items }
    }

    /// Tells all that match to leave. Those that come meanwhile are not told: they would be, again and again.
    pub async fn dismiss(&self, filter: &Filter, ending: Ending) -> Dismissed {
        let mut dismissed = Dismissed::default();
        self.each(filter, |place| {
            dismissed.met += 1;
            dismissed.told += usize::from(place.tell(soon(ending)));
            if !dismissed.users.contains(&place.user) {
                dismissed.users.insert(place.user.clone());
            }
        })
        .await;
        dismissed
    }

    /// Looks at all that match and are there when this begins, in their order.
    pub(super) async fn each(&self, filter: &Filter, mut look: impl FnMut(&Arc<Place>)) {
        let mut look_at = |places: &[Arc<Place>]| places.iter().filter(|place| filter.fits(place)).for_each(&mut look);
        if let Some(user) = &filter.user {
            let places = self.users.get(&user.normalised()).map_or_else(Vec::new, |entry| entry.places.clone());
            look_at(&places);
            return;
        }
        let (end, mut after, mut places) = (self.roll.last(), 0, Vec::with_capacity(PIECE));
        loop {
            self.roll.read(after, end, PIECE, &mut places);
            let Some(last) = places.last() else { return };
            after = last.number;
            look_at(&places);
            yield_now().await;
        }
    }

    /// All places that are taken.
    pub(super) fn places(&self) -> Vec<Arc<Place>> {
        let end = self.roll.last();
        let (mut all, mut piece, mut after) = (Vec::new(), Vec::new(), 0);
        loop {
            self.roll.read(after, end, PIECE, &mut piece);
            let Some(last) = piece.last() else { return all };
            after = last.number;
            all.append(&mut piece);
        }
    }
}

impl Seen {
    fn at((now, moment): (SystemTime, Instant), place: &Place) -> Self {
        let lasted = moment.saturating_duration_since(place.pulse.born());
        Self {
            id: Arc::clone(&place.id),
            user: shown(&place.user),
            client: place.client(),
            listener: Arc::clone(&place.listener),
            backend: place.backend().map(|backend| backend.config.name.clone()),
            mechanism: place.mechanism,
            tls: place.tls.map(super::Tls::as_str),
            state: place.pulse.state(),
            since: now.checked_sub(lasted).unwrap_or(now),
            lasted,
            quiet: moment.saturating_duration_since(place.pulse.last()),
            bytes: place.pulse.moved(),
        }
    }
}

/// A name as it may be shown.
pub(super) fn shown(name: &Name) -> String {
    escape(name).to_string()
}
