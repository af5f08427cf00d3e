//! Who is held back at the moment, and how that ends before its time. A walk through all that limits remember, one part of a
//! table after the other, so that nobody who logs in waits for it. Not here: order, pages, words (`steer/`).

use std::net::IpAddr;

use ipnet::IpNet;
use tokio::time::Instant;

use super::pace::{Note, Pace};
use super::{Claim, Limits};
use crate::imap::UserName;
use crate::network::is_in;
use crate::outcome::Limit;
use crate::tally::Empty;

/// One who is held back.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// By which limit.
    pub limit: Limit,
    /// Who.
    pub who: Who<'a>,
    /// How often it has failed, for limits on failures.
    pub failures: Option<u32>,
    /// Since when, as far as that is known.
    pub since: Option<Instant>,
    /// Until when, where time alone ends it.
    pub until: Option<Instant>,
}

/// Who is held back.
#[derive(Debug, Clone, Copy)]
pub enum Who<'a> {
    /// An IPv4 address, or the first of an IPv6 /64.
    Network(IpAddr),
    /// A user.
    User {
        /// Its name as it is counted, perhaps cut; `None` when there was no room to write it down.
        name: Option<&'a [u8]>,
        /// What tells those apart who have no name.
        hash: [u8; 16],
        /// In this network, where it is known; `None`: everywhere else, or there was no room to write that down.
        at: Option<IpAddr>,
    },
}

impl Limits {
    /// Visits all who are held back, in no order. Keys that are more than can be told apart are not among them. `visit` must
    /// not come back here.
    pub fn each_held(&self, mut visit: impl FnMut(Held<'_>)) {
        if let Some(failures) = &self.network_failures {
            failures.pace.each(|empty, note| {
                // It may have been exempted since.
                if !is_in(empty.key, &self.config.exempt) {
                    visit(held(Limit::FailuresPerNetwork, Who::Network(empty.key), Some(&empty), note));
                }
            });
        }
        if let Some(failures) = &self.user_failures {
            failures
                .pace
                .each(|empty, note| visit(held(Limit::FailuresPerUser, user(empty.key, note), Some(&empty), note)));
        }
        if let Some(logins) = &self.logins {
            logins.each(|empty, note| visit(held(Limit::LoginsPerUser, user(empty.key, note), Some(&empty), note)));
        }
        let most = self.config.sessions_per_user;
        self.sessions.each(|key, count| {
            if most > 0 && count >= most {
                self.full.with(*key, |note| {
                    // Whoever has not wanted more is not held back.
                    if note.is_some() {
                        visit(held::<Claim>(Limit::SessionsPerUser, user(*key, note), None, note));
                    }
                });
            }
        });
    }

    /// Forgets the failures of networks; says how many were held back.
    pub fn pardon_networks(&self, networks: &IpNet) -> usize {
        let Some(failures) = &self.network_failures else { return 0 };
        match crate::network::the_one(networks) {
            Some(network) => usize::from(failures.pace.pardon(network)),
            None => failures.pace.pardon_all(|network| networks.contains(&network)),
        }
    }

    /// Forgets the failures of a user, and how often it has tried, wherever it is known; says how often it was held back.
    pub fn pardon_user(&self, user: &UserName) -> usize {
        let user = self.hashed(user);
        let mut claims = vec![user];
        claims.extend(self.known.networks_of(&user).into_iter().map(|network| self.claim_at(user, network)));
        let pardon = |pace: &Pace<Claim>| claims.iter().filter(|claim| pace.pardon(**claim)).count();
        let failures = self.user_failures.as_ref().map_or(0, |failures| pardon(&failures.pace));
        failures + self.logins.as_ref().map_or(0, |logins| pardon(logins))
    }
}

fn held<'a, K>(limit: Limit, who: Who<'a>, empty: Option<&Empty<K>>, note: Option<&Note>) -> Held<'a> {
    let counts = matches!(limit, Limit::FailuresPerNetwork | Limit::FailuresPerUser);
    let failures = empty.filter(|_| counts).map(|empty| note.map_or(empty.taken, |note| note.count));
    Held { limit, who, failures, since: note.map(|note| note.since), until: empty.map(|empty| empty.until) }
}

fn user(hash: Claim, note: Option<&Note>) -> Who<'_> {
    Who::User { name: note.and_then(|note| note.name.as_deref()), hash, at: note.and_then(|note| note.at) }
}
