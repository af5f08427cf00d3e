//! In which networks users have logged in of late: [`Known`]. Kept small, for there is an entry for every user. Not here: what
//! follows from being known.

use std::net::IpAddr;
use std::slice;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::time::Instant;

use super::User;
use crate::tally::MOST_KEYS;

/// How long a user is known in a network where it has logged in.
pub(super) const KNOWN_FOR: Duration = Duration::from_hours(24);
/// In how many networks a user is known, the latest ones; so one account cannot take the room of all others.
pub(super) const MOST_NETWORKS: usize = 32;

/// Where users are known.
pub(super) struct Known {
    born: Instant,
    users: DashMap<User, Networks>,
}

/// Where one is, the latest network at the end. Most users are in one.
enum Networks {
    One(Seen),
    More(Box<[Seen]>),
}

#[derive(Clone, Copy)]
struct Seen {
    network: IpAddr,
    /// Seconds since everything began.
    at: u32,
}

impl Known {
    /// Nobody is known yet.
    pub(super) fn new() -> Self {
        Self { born: Instant::now(), users: DashMap::new() }
    }

    /// Whether this user has logged in from there of late.
    pub(super) fn is_in(&self, user: &User, network: IpAddr) -> bool {
        let is_there = |seen: &Seen| seen.network == network && self.is_fresh(seen);
        self.users.get(user).is_some_and(|networks| networks.all().iter().any(is_there))
    }

    /// It has now. A newcomer that cannot be remembered is merely not known.
    pub(super) fn learn(&self, user: User, network: IpAddr) {
        // How many there are is asked of every part of the table, so not for each login.
        if !self.users.contains_key(&user) && self.users.len() >= MOST_KEYS {
            return;
        }
        let seen = Seen { network, at: self.now() };
        match self.users.entry(user) {
            Entry::Vacant(entry) => {
                entry.insert(Networks::One(seen));
            }
            Entry::Occupied(mut entry) => {
                let others = |other: &&Seen| other.network != network && self.is_fresh(other);
                let mut all: Vec<_> = entry.get().all().iter().filter(others).copied().collect();
                if all.len() == MOST_NETWORKS {
                    all.remove(0);
                }
                all.push(seen);
                entry.insert(Networks::of(all));
            }
        }
    }

    /// Where a user has logged in from, of late or longer ago.
    pub(super) fn networks_of(&self, user: &User) -> Vec<IpAddr> {
        self.users.get(user).map_or_else(Vec::new, |known| known.all().iter().map(|seen| seen.network).collect())
    }

    /// Forgets what was too long ago.
    pub(super) fn sweep(&self) {
        self.users.retain(|_, networks| {
            if !networks.all().iter().all(|seen| self.is_fresh(seen)) {
                *networks = Networks::of(networks.all().iter().filter(|seen| self.is_fresh(seen)).copied().collect());
            }
            !networks.all().is_empty()
        });
        self.users.shrink_to_fit();
    }

    fn is_fresh(&self, seen: &Seen) -> bool {
        u64::from(self.now().saturating_sub(seen.at)) < KNOWN_FOR.as_secs()
    }

    fn now(&self) -> u32 {
        // Good for 136 years.
        u32::try_from(self.born.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }
}

impl Networks {
    fn of(all: Vec<Seen>) -> Self {
        if let [one] = all[..] { Self::One(one) } else { Self::More(all.into()) }
    }

    fn all(&self) -> &[Seen] {
        match self {
            Self::One(seen) => slice::from_ref(seen),
            Self::More(seen) => seen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_takes_no_memory_of_its_own() {
        assert_eq!(size_of::<Networks>(), 24);
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_is_known_where_it_was_of_late() {
        let (known, ann) = (Known::new(), [1; 16]);
        let network = |n: u8| IpAddr::from([192, 0, 2, n]);
        known.learn(ann, network(0));
        tokio::time::advance(KNOWN_FOR / 2).await;
        (0..40).for_each(|n| known.learn(ann, network(n)));
        assert_eq!(known.networks_of(&ann), (8..40).map(network).collect::<Vec<_>>(), "the latest ones");
        known.learn(ann, network(10));
        assert!(
            known.is_in(&ann, network(10)) && !known.is_in(&ann, network(7)) && !known.is_in(&[2; 16], network(10))
        );
        tokio::time::advance(KNOWN_FOR / 2).await;
        known.learn(ann, network(8));
        tokio::time::advance(KNOWN_FOR / 2).await;
        assert!(known.is_in(&ann, network(8)) && !known.is_in(&ann, network(9)));
        known.sweep();
        assert_eq!(known.networks_of(&ann), [network(8)]);
        tokio::time::advance(KNOWN_FOR / 2).await;
        known.sweep();
        assert_eq!(known.len(), 0);
    }
}
