//! How often users may try, how often they and networks may fail, and how many sessions a user may have. It gives
//! verdicts; what is said to a client and when is not decided here.
//!
//! Failures are counted by distinct wrong secrets: a phone with an old password fails for days without harm. Who has
//! logged in from a network is known there, and only what fails there under that name counts against it there: neither
//! strangers elsewhere nor neighbours behind the same address lock it out.
//!
//! Names and secrets are kept as keyed hashes, with a key that dies with the process: so all keys have one small size,
//! whatever strangers make up, and memory tells nothing about passwords. Only of who is held back the name is written down
//! (`limits/pace.rs`), so that operators can be told (`limits/held.rs`).

mod held;
mod known;
mod pace;

use std::collections::VecDeque;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use dashmap::DashMap;
use tokio::time::Instant;

use crate::config;
use crate::imap::{Login, UserName};
use crate::network::{is_in, network_of};
use crate::outcome::Limit;
use crate::tally::{Place, Tally};

pub use held::{Held, Who};
use known::Known;
use pace::{Notes, Pace, Whose};

/// Wrong secrets remembered per user and network, so that the same one does not count twice.
const REMEMBERED: usize = 10;
/// How long after its last use a wrong secret is remembered.
const REMEMBERED_FOR: Duration = Duration::from_hours(1);
/// Of more users and networks than this, wrong secrets are not remembered: each time counts then, also the same one's.
const MOST_PASTS: usize = 100_000;
/// How long after the last refusal a user who has all sessions that it may have counts as held back.
const FULL_FOR: Duration = Duration::from_mins(10);

/// A user's name, normalised and hashed.
type User = [u8; 16];
/// Whose attempts are counted together: everybody who uses the name (it is the user then), or those in a network where it is
/// known (it is a hash of both). Every user who logs in has one.
type Claim = [u8; 16];

/// What users and networks have done of late.
pub struct Limits {
    config: config::Limits,
    key: hmac::Key,
    sessions: Arc<Tally<User>>,
    /// Who has wanted more sessions than it may have.
    full: Arc<Notes<Claim>>,
    logins: Option<Arc<Pace<Claim>>>,
    network_failures: Option<Arc<Failures<IpAddr>>>,
    user_failures: Option<Arc<Failures<Claim>>>,
    known: Arc<Known>,
}

/// Counts a session as its user's, until it is dropped.
#[derive(Debug)]
pub struct UserPermit(#[expect(dead_code, reason = "held for its Drop")] Place<User>);

/// Failures by key.
struct Failures<K: Copy + Eq + Hash> {
    pace: Pace<K>,
    pasts: DashMap<K, Past>,
}

/// What a key has done wrong.
struct Past {
    /// Hashes of wrong secrets, the one used last at the end.
    wrong: VecDeque<u64>,
    touched: Instant,
}

impl Limits {
    /// Nothing has happened yet.
    ///
    /// # Errors
    /// There is no randomness for the key.
    pub fn new(limits: &config::Limits) -> Result<Self, aws_lc_rs::error::Unspecified> {
        Ok(Self {
            config: limits.clone(),
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?,
            sessions: Arc::default(),
            full: Arc::default(),
            logins: pace(limits.logins_per_user),
            network_failures: limits.failures_per_network.and_then(Failures::new),
            user_failures: limits.failures_per_user.and_then(Failures::new),
            known: Arc::new(Known::new()),
        })
    }

    /// The same with other limits: what users and networks have done counts on, where the rate is the same.
    #[must_use]
    pub fn renewed(&self, limits: &config::Limits) -> Self {
        let old = &self.config;
        Self {
            config: limits.clone(),
            key: self.key.clone(),
            sessions: Arc::clone(&self.sessions),
            full: Arc::clone(&self.full),
            logins: if limits.logins_per_user == old.logins_per_user {
                self.logins.clone()
            } else {
                pace(limits.logins_per_user)
            },
            network_failures: if limits.failures_per_network == old.failures_per_network {
                self.network_failures.clone()
            } else {
                limits.failures_per_network.and_then(Failures::new)
            },
            user_failures: if limits.failures_per_user == old.failures_per_user {
                self.user_failures.clone()
            } else {
                limits.failures_per_user.and_then(Failures::new)
            },
            known: Arc::clone(&self.known),
        }
    }

    /// Whether this attempt may be made; to be asked before any backend is.
    ///
    /// # Errors
    /// The limit that forbids it.
    pub fn check(&self, login: &Login, client: IpAddr) -> Result<(), Limit> {
        let network = network_of(client);
        let (claim, known_at) = self.claim(login, network);
        if !is_in(client, &self.config.exempt) {
            if known_at.is_none()
                && self.network_failures.as_ref().is_some_and(|failures| failures.are_too_many(network))
            {
                return Err(Limit::FailuresPerNetwork);
            }
            if self.user_failures.as_ref().is_some_and(|failures| failures.are_too_many(claim)) {
                return Err(Limit::FailuresPerUser);
            }
        }
        // By claim too: else anybody could use up a user's attempts with one and the same wrong password.
        if let Some(logins) = &self.logins
            && !logins.rates.take(claim)
        {
            logins.note(claim, Some((&login.user, known_at)));
            return Err(Limit::LoginsPerUser);
        }
        Ok(())
    }

    /// The attempt was made with a wrong secret, or for a user that does not exist. Gives the limits that are reached now, and
    /// were not before.
    pub fn failed(&self, login: &Login, client: IpAddr) -> [Option<Limit>; 2] {
        if is_in(client, &self.config.exempt) {
            return [None, None];
        }
        let (network, fingerprint) = (network_of(client), self.fingerprint(login));
        let network_is_held =
            self.network_failures.as_ref().is_some_and(|failures| failures.count(network, fingerprint, None));
        let user_is_held = self.user_failures.as_ref().is_some_and(|failures| {
            let (claim, known_at) = self.claim(login, network);
            failures.count(claim, fingerprint, Some((&login.user, known_at)))
        });
        [network_is_held.then_some(Limit::FailuresPerNetwork), user_is_held.then_some(Limit::FailuresPerUser)]
    }

    /// The attempt succeeded: its network is forgiven, and the user is known there from now on.
    pub fn succeeded(&self, login: &Login, client: IpAddr) {
        let network = network_of(client);
        let user = self.hashed(&login.user);
        if let Some(failures) = &self.network_failures {
            failures.pace.rates.forgive(network);
        }
        if let Some(failures) = &self.user_failures {
            failures.pace.rates.forgive(self.claim_at(user, network));
        }
        self.known.learn(user, network);
    }

    /// Counts a session as the user's whose mail it shows.
    ///
    /// # Errors
    /// It has as many as it may have.
    pub fn session(&self, login: &Login) -> Result<UserPermit, Limit> {
        let name = login.authzid.as_ref().unwrap_or(&login.user);
        let user = self.hashed(name);
        self.sessions.enter(user, self.config.sessions_per_user).map(UserPermit).ok_or_else(|| {
            self.full.add(user, Some((name, None)), Instant::now() + FULL_FOR, 0);
            Limit::SessionsPerUser
        })
    }

    /// How many users or networks each limit remembers, and how many of these are held back because they failed too often;
    /// `None`: it is off.
    pub fn remembered(&self) -> [(Limit, Option<(usize, usize)>); 4] {
        let networks =
            self.network_failures.as_ref().map(|failures| (failures.pace.rates.len(), failures.pace.rates.exhausted()));
        let users =
            self.user_failures.as_ref().map(|failures| (failures.pace.rates.len(), failures.pace.rates.exhausted()));
        let sessions = (self.config.sessions_per_user > 0).then(|| (self.sessions.len(), 0));
        [
            (Limit::SessionsPerUser, sessions),
            (Limit::LoginsPerUser, self.logins.as_ref().map(|logins| (logins.rates.len(), 0))),
            (Limit::FailuresPerNetwork, networks),
            (Limit::FailuresPerUser, users),
        ]
    }

    /// Forgets what need not be remembered; to be called now and then.
    pub fn sweep(&self) {
        if let Some(logins) = &self.logins {
            logins.sweep();
        }
        if let Some(failures) = &self.network_failures {
            failures.sweep();
        }
        if let Some(failures) = &self.user_failures {
            failures.sweep();
        }
        self.full.sweep();
        self.known.sweep();
    }

    /// The claim, and the network if it is for that one only.
    fn claim(&self, login: &Login, network: IpAddr) -> (Claim, Option<IpAddr>) {
        let user = self.hashed(&login.user);
        if self.known.is_in(&user, network) { (self.claim_at(user, network), Some(network)) } else { (user, None) }
    }

    fn claim_at(&self, user: User, network: IpAddr) -> Claim {
        let mut context = hmac::Context::with_key(&self.key);
        // As long for every user; what follows is told apart by its length.
        context.update(&user);
        match network {
            IpAddr::V4(v4) => context.update(&v4.octets()),
            IpAddr::V6(v6) => context.update(&v6.octets()),
        }
        beginning(&context.sign())
    }

    fn hashed(&self, user: &UserName) -> User {
        beginning(&hmac::sign(&self.key, &user.normalised()))
    }

    fn fingerprint(&self, login: &Login) -> u64 {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&login.user.normalised());
        // Neither a name nor a secret can hold a NUL.
        context.update(&[0]);
        context.update(login.credentials.proof());
        u64::from_be_bytes(beginning(&context.sign()))
    }
}

impl<K: Copy + Eq + Hash> Failures<K> {
    fn new(rate: config::Rate) -> Option<Arc<Self>> {
        Some(Arc::new(Self { pace: Pace::new(rate)?, pasts: DashMap::new() }))
    }

    fn are_too_many(&self, key: K) -> bool {
        !self.pace.rates.has_one(key)
    }

    /// True: there are too many now, and were not before.
    fn count(&self, key: K, fingerprint: u64, whose: Whose<'_>) -> bool {
        if !self.is_new(key, fingerprint) {
            return false;
        }
        let were_too_many = self.are_too_many(key);
        self.pace.rates.charge(key);
        self.pace.note(key, whose);
        !were_too_many && self.are_too_many(key)
    }

    /// Whether this secret was not among the last ones; from now on it is.
    fn is_new(&self, key: K, fingerprint: u64) -> bool {
        if !self.pasts.contains_key(&key) && self.pasts.len() >= MOST_PASTS {
            return true;
        }
        let now = Instant::now();
        let mut past = self.pasts.entry(key).or_insert_with(|| Past { wrong: VecDeque::new(), touched: now });
        if now.duration_since(past.touched) >= REMEMBERED_FOR {
            past.wrong.clear();
        }
        past.touched = now;
        let known = past.wrong.iter().position(|wrong| *wrong == fingerprint);
        if let Some(at) = known {
            // To the end: guesses that come in between do not push out what is used again and again.
            past.wrong.remove(at);
        } else if past.wrong.len() == REMEMBERED {
            past.wrong.pop_front();
        }
        past.wrong.push_back(fingerprint);
        known.is_none()
    }

    fn sweep(&self) {
        self.pace.sweep();
        self.pasts.retain(|_, past| past.touched.elapsed() < REMEMBERED_FOR);
        self.pasts.shrink_to_fit();
    }
}

/// A tag of HMAC-SHA-256, cut; there are 32 bytes.
fn beginning<const N: usize>(tag: &hmac::Tag) -> [u8; N] {
    tag.as_ref().first_chunk().copied().unwrap_or([0; N])
}

fn pace(rate: Option<config::Rate>) -> Option<Arc<Pace<Claim>>> {
    rate.and_then(Pace::new).map(Arc::new)
}

#[cfg(test)]
mod tests;
