//! What operators see of users: who has sessions, how much these have moved, whose logins are held. They are counted up one
//! after the other, between which others have their turn, and no more of them are kept than a page holds. Not here: where
//! users were moved, which routing knows.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use tokio::task::yield_now;
use tokio::time::Instant;

use super::view::{Filter, Page, shown};
use super::{Name, Sessions, User};
use crate::imap::UserName;
use crate::pulse::Bytes;

/// So many users without sessions are looked at between two turns of others.
const PIECE: usize = 256;

/// In which order users are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sort {
    /// By name.
    #[default]
    Name,
    /// Whose sessions have moved most comes first.
    Bytes,
    /// Who has most sessions comes first.
    Sessions,
}

/// A user's place in an order: what counts, most first, and then the name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    value: Reverse<u64>,
    name: Name,
}

/// What is seen of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenUser {
    /// The name, normalised.
    pub name: Name,
    /// How many sessions there are, and logins under way.
    pub sessions: usize,
    /// What these have moved so far.
    pub bytes: Bytes,
    /// Until when logins are held.
    pub held_until: Option<SystemTime>,
}

impl Sessions {
    /// One page of users, at most `most`: those with sessions, with a hold, and those `known` otherwise; or `held_only`. Where
    /// they are not sorted by name, who moves between two pages may be on both or on none.
    pub async fn users(
        &self,
        sort: Sort,
        held_only: bool,
        known: Vec<Name>,
        after: Option<Rank>,
        most: usize,
    ) -> Page<SeenUser, Rank> {
        let mut ranking = Ranking { sort, after, most, total: 0, rows: BTreeMap::new() };
        let mut absent: BTreeSet<Name> = self.held().into_iter().collect();
        if !held_only {
            // Everybody is counted once, when the first of his places is looked at.
            self.each(&Filter::default(), |place| {
                if let Some(entry) = self.users.get(&place.user)
                    && entry.places.first().is_some_and(|first| first.number == place.number)
                {
                    ranking.offer(&place.user, Tally::of(&entry));
                }
            })
            .await;
            absent.extend(known);
        }
        for (at, name) in absent.iter().enumerate() {
            let tally = self.users.get(name).map_or_else(Tally::default, |entry| Tally::of(&entry));
            if held_only || tally.sessions == 0 {
                ranking.offer(name, tally);
            }
            if at % PIECE == PIECE - 1 {
                yield_now().await;
            }
        }
        ranking.into_page(|name| self.held_until(name))
    }

    /// One user, if there are sessions or a hold.
    pub fn user(&self, user: &UserName) -> Option<SeenUser> {
        let name = user.normalised();
        let tally = self.users.get(&name).map(|entry| Tally::of(&entry))?;
        let held_until = self.held_until(&name);
        (tally.sessions > 0 || held_until.is_some()).then(|| tally.seen(name, held_until))
    }

    fn held_until(&self, name: &Name) -> Option<SystemTime> {
        let until = self.users.get(name)?.hold.as_ref()?.until;
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        SystemTime::now().checked_add(left)
    }
}

impl SeenUser {
    /// Nothing is known here of a user of this name.
    pub fn absent(user: &UserName) -> Self {
        Tally::default().seen(user.normalised(), None)
    }

    /// The name as it may be shown.
    pub fn shown(&self) -> String {
        shown(&self.name)
    }
}

/// What one user's sessions come to.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    sessions: usize,
    bytes: Bytes,
}

impl Tally {
    fn of(entry: &User) -> Self {
        let mut bytes = Bytes::default();
        for place in &entry.places {
            let moved = place.pulse.moved();
            bytes.to_backend = bytes.to_backend.saturating_add(moved.to_backend);
            bytes.to_client = bytes.to_client.saturating_add(moved.to_client);
        }
        Self { sessions: entry.places.len(), bytes }
    }

    fn seen(self, name: Name, held_until: Option<SystemTime>) -> SeenUser {
        SeenUser { name, sessions: self.sessions, bytes: self.bytes, held_until }
    }
}

/// The best of those who are offered, behind a certain one.
struct Ranking {
    sort: Sort,
    after: Option<Rank>,
    most: usize,
    total: usize,
    /// One more than fit on the page, at most.
    rows: BTreeMap<Rank, Tally>,
}

impl Ranking {
    fn offer(&mut self, name: &Name, tally: Tally) {
        self.total += 1;
        let value = Reverse(match self.sort {
            Sort::Name => 0,
            Sort::Bytes => tally.bytes.to_backend.saturating_add(tally.bytes.to_client),
            Sort::Sessions => tally.sessions as u64,
        });
        let stands_behind = |rank: &Rank| (rank.value, &rank.name) < (value, name);
        let is_full = self.rows.len() > self.most;
        if self.after.as_ref().is_some_and(|after| !stands_behind(after))
            || (is_full && self.rows.last_key_value().is_some_and(|(last, _)| stands_behind(last)))
        {
            return;
        }
        self.rows.insert(Rank { value, name: name.clone() }, tally);
        if self.rows.len() > self.most + 1 {
            self.rows.pop_last();
        }
    }

    fn into_page(self, held_until: impl Fn(&Name) -> Option<SystemTime>) -> Page<SeenUser, Rank> {
        let Self { most, total, rows, .. } = self;
        let more = rows.len() > most;
        let (mut next, mut names, mut items) = (None, HashSet::new(), Vec::new());
        for (rank, tally) in rows.into_iter().take(most) {
            // Whose first session ended while everybody was counted was counted twice, perhaps.
            if names.insert(rank.name.clone()) {
                items.push(tally.seen(rank.name.clone(), held_until(&rank.name)));
            }
            next = Some(rank);
        }
        Page { total, next: next.filter(|_| more), items }
    }
}

impl Sort {
    /// The order of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "name" => Some(Self::Name),
            "bytes" => Some(Self::Bytes),
            "sessions" => Some(Self::Sessions),
            _ => None,
        }
    }
}

/// In a form that stands in a URL: `value-name`, the name in hexadecimal.
impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.value.0)?;
        self.name.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// That is no such place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRank;

impl FromStr for Rank {
    type Err = NoRank;

    fn from_str(text: &str) -> Result<Self, NoRank> {
        let (value, name) = text.split_once('-').ok_or(NoRank)?;
        let value = Reverse(value.parse().map_err(|_| NoRank)?);
        let (pairs, rest) = name.as_bytes().as_chunks::<2>();
        let byte = |pair: &[u8; 2]| {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()
        };
        let name = pairs.iter().map(byte).collect::<Option<_>>().filter(|_| rest.is_empty()).ok_or(NoRank)?;
        Ok(Self { value, name })
    }
}
