//! How often users may try, how often they and networks may fail, and how many sessions a user may have. It gives
//! verdicts; what is said to a client and when is not decided here.
//!
//! Failures are counted by distinct wrong secrets: a phone with an old password fails for days without harm. Who has
//! logged in from a network is known there: what others do to that user's name elsewhere does not lock it out. Secrets
//! are remembered as keyed hashes with a key that dies with the process.

use std::collections::VecDeque;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use dashmap::DashMap;
use ipnet::IpNet;
use tokio::time::Instant;

use crate::config;
use crate::imap::Login;
use crate::network::{is_in, network_of};
use crate::outcome::Limit;
use crate::tally::{MOST_KEYS, Place, Rates, Tally, Verdict};

/// Wrong secrets remembered per user and network, so that the same one does not count twice.
const REMEMBERED: usize = 10;
/// How long after its last use a wrong secret is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(60 * 60);
/// How long a user is known in a network where it has logged in.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// A user's name, normalised.
type User = Box<[u8]>;
/// Whose attempts are counted together: everybody who uses the name, or those in a network where it is known.
type Claim = (User, Option<IpAddr>);

/// What users and networks have done of late.
pub struct Limits {
    key: hmac::Key,
    sessions: Arc<Tally<User>>,
    logins: Option<Rates<Claim>>,
    network_failures: Option<Failures<IpAddr>>,
    user_failures: Option<Failures<Claim>>,
    known: DashMap<(User, IpAddr), Instant>,
    exempt: Vec<IpNet>,
}

/// Counts a session as its user's, until it is dropped.
#[derive(Debug)]
pub struct UserPermit(#[expect(dead_code, reason = "held for its Drop")] Place<User>);

/// Failures by key.
struct Failures<K: Eq + Hash + Clone> {
    rates: Rates<K>,
    pasts: DashMap<K, Past>,
}

/// What a key has done wrong.
struct Past {
    /// Hashes of wrong secrets, the latest last.
    wrong: VecDeque<u64>,
    blocked_until: Option<Instant>,
    touched: Instant,
}

impl Limits {
    /// Nothing has happened yet.
    ///
    /// # Errors
    /// There is no randomness for the key.
    pub fn new(limits: &config::Limits) -> Result<Self, aws_lc_rs::error::Unspecified> {
        let nobody = || (User::default(), None);
        let no_network = || Ipv6Addr::UNSPECIFIED.into();
        Ok(Self {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?,
            sessions: Tally::new(limits.sessions_per_user),
            logins: limits.logins_per_user.and_then(|rate| Rates::new(rate.every, rate.burst, nobody())),
            network_failures: limits.failures_per_network.and_then(|rate| Failures::new(rate, no_network())),
            user_failures: limits.failures_per_user.and_then(|rate| Failures::new(rate, nobody())),
            known: DashMap::new(),
            exempt: limits.exempt.clone(),
        })
    }

    /// Whether this attempt may be made.
    ///
    /// # Errors
    /// The limit that forbids it.
    pub fn check(&self, login: &Login, client: IpAddr) -> Result<(), Limit> {
        let claim = self.claim(login, client);
        if let Some(logins) = &self.logins
            && matches!(logins.take(&claim), Verdict::Over(_))
        {
            return Err(Limit::LoginsPerUser);
        }
        if is_in(client, &self.exempt) {
            return Ok(());
        }
        if let Some(failures) = &self.network_failures
            && failures.is_blocked(&network_of(client))
        {
            return Err(Limit::FailuresPerNetwork);
        }
        if let Some(failures) = &self.user_failures
            && failures.is_blocked(&claim)
        {
            return Err(Limit::FailuresPerUser);
        }
        Ok(())
    }

    /// The attempt was made with a wrong secret, or for a user that does not exist.
    pub fn failed(&self, login: &Login, client: IpAddr) {
        if is_in(client, &self.exempt) {
            return;
        }
        let fingerprint = self.fingerprint(login);
        if let Some(failures) = &self.network_failures {
            failures.count(network_of(client), fingerprint);
        }
        if let Some(failures) = &self.user_failures {
            failures.count(self.claim(login, client), fingerprint);
        }
    }

    /// The attempt succeeded: its network is forgiven, and the user is known there from now on.
    pub fn succeeded(&self, login: &Login, client: IpAddr) {
        let network = network_of(client);
        if let Some(failures) = &self.network_failures {
            failures.forgive(&network);
        }
        let user = login.user.normalised();
        if let Some(failures) = &self.user_failures {
            failures.forgive(&(user.clone(), Some(network)));
        }
        // A newcomer that cannot be remembered is merely not known.
        if self.known.len() < MOST_KEYS {
            self.known.insert((user, network), Instant::now());
        }
    }

    /// Counts a session as the user's whose mail it shows.
    ///
    /// # Errors
    /// It has as many as it may have.
    pub fn session(&self, login: &Login) -> Result<UserPermit, Limit> {
        let user = login.authzid.as_ref().unwrap_or(&login.user);
        self.sessions.enter(user.normalised()).map(UserPermit).ok_or(Limit::SessionsPerUser)
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
        self.known.retain(|_, since| since.elapsed() < KNOWN_FOR);
        self.known.shrink_to_fit();
    }

    fn claim(&self, login: &Login, client: IpAddr) -> Claim {
        let pair = (login.user.normalised(), network_of(client));
        let is_known = self.known.get(&pair).is_some_and(|since| since.elapsed() < KNOWN_FOR);
        (pair.0, is_known.then_some(pair.1))
    }

    fn fingerprint(&self, login: &Login) -> u64 {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&login.user.normalised());
        // Neither a name nor a secret can hold a NUL.
        context.update(&[0]);
        context.update(login.credentials.proof());
        let tag = context.sign();
        tag.as_ref().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
    }
}

impl<K: Eq + Hash + Clone> Failures<K> {
    fn new(rate: config::Rate, others: K) -> Option<Self> {
        Some(Self { rates: Rates::new(rate.every, rate.burst, others)?, pasts: DashMap::new() })
    }

    fn is_blocked(&self, key: &K) -> bool {
        self.pasts.get(key).is_some_and(|past| past.blocked_until.is_some_and(|until| Instant::now() < until))
    }

    fn count(&self, key: K, fingerprint: u64) {
        let now = Instant::now();
        if self.pasts.len() >= MOST_KEYS && !self.pasts.contains_key(&key) {
            self.sweep();
            if self.pasts.len() >= MOST_KEYS {
                return;
            }
        }
        let fresh = || Past { wrong: VecDeque::new(), blocked_until: None, touched: now };
        let mut past = self.pasts.entry(key.clone()).or_insert_with(fresh);
        past.touched = now;
        if past.wrong.contains(&fingerprint) {
            return;
        }
        if past.wrong.len() == REMEMBERED {
            past.wrong.pop_front();
        }
        past.wrong.push_back(fingerprint);
        if let Verdict::Last(wait) | Verdict::Over(wait) = self.rates.take(&key) {
            past.blocked_until = Some(now + wait);
        }
    }

    /// The block goes, and with it the memory of what led to it; the bucket fills up again at its own pace.
    fn forgive(&self, key: &K) {
        self.pasts.remove(key);
    }

    fn sweep(&self) {
        self.rates.sweep();
        self.pasts.retain(|_, past| past.touched.elapsed() < REMEMBERED_FOR);
        self.pasts.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use zeroize::Zeroizing;

    use super::*;
    use crate::imap::{Credentials, Mechanism, Secret, UserName};

    fn rate(burst: u32) -> Option<config::Rate> {
        Some(config::Rate { every: Duration::from_secs(6), burst: NonZeroU32::new(burst).expect("positive") })
    }

    fn limits() -> config::Limits {
        config::Limits {
            sessions: 0,
            sessions_per_network: 0,
            sessions_per_user: 2,
            connects_per_network: None,
            logins_per_user: None,
            failures_per_network: None,
            failures_per_user: None,
            exempt: vec!["127.0.0.0/8".parse().expect("a network")],
        }
    }

    fn login(user: &str, password: &str) -> Login {
        Login {
            mechanism: Mechanism::Plain,
            user: UserName::new(user.as_bytes()).expect("a name"),
            authzid: None,
            credentials: Credentials::Password(
                Secret::new(Zeroizing::new(password.as_bytes().to_vec())).expect("a secret"),
            ),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_user_has_so_many_sessions() {
        let limits = Limits::new(&limits()).expect("a key");
        let first = limits.session(&login("ann", "x")).expect("room");
        let second = limits.session(&login("ANN", "x")).expect("room");
        assert_eq!(limits.session(&login("Ann", "x")).err(), Some(Limit::SessionsPerUser), "case makes no difference");
        drop(first);
        let third = limits.session(&login("ann", "x")).expect("room again");
        drop((second, third));
        assert!(limits.sessions.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_have_a_rate() {
        let limits = Limits::new(&config::Limits { logins_per_user: rate(2), ..limits() }).expect("a key");
        let (ann, client) = (login("ann", "x"), ip("192.0.2.1"));
        assert_eq!(limits.check(&ann, client), Ok(()));
        assert_eq!(limits.check(&ann, client), Ok(()));
        assert_eq!(limits.check(&ann, client), Err(Limit::LoginsPerUser));
        assert_eq!(limits.check(&login("bob", "x"), client), Ok(()));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(limits.check(&ann, client), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_wrong_password_counts_once() {
        let limits = Limits::new(&config::Limits { failures_per_user: rate(3), ..limits() }).expect("a key");
        let client = ip("192.0.2.1");
        for _ in 0..100 {
            limits.failed(&login("ann", "old"), client);
        }
        assert_eq!(limits.check(&login("ann", "new"), client), Ok(()));
        limits.failed(&login("ann", "guess1"), client);
        assert_eq!(limits.check(&login("ann", "new"), client), Ok(()));
        limits.failed(&login("ann", "guess2"), client);
        assert_eq!(limits.check(&login("ann", "new"), client), Err(Limit::FailuresPerUser));
        assert_eq!(limits.check(&login("bob", "new"), client), Ok(()));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(limits.check(&login("ann", "new"), client), Ok(()), "blocked for as long as the rate says");
    }

    #[tokio::test(start_paused = true)]
    async fn others_do_not_lock_a_user_out_where_it_is_known() {
        let limits = Limits::new(&config::Limits { failures_per_user: rate(3), ..limits() }).expect("a key");
        let (home, attacker) = (ip("192.0.2.1"), ip("203.0.113.9"));
        limits.succeeded(&login("ann", "right"), home);
        for guess in 0..20 {
            limits.failed(&login("ann", &guess.to_string()), attacker);
        }
        assert_eq!(limits.check(&login("ann", "right"), attacker), Err(Limit::FailuresPerUser));
        assert_eq!(limits.check(&login("ann", "right"), home), Ok(()));
        for guess in 0..20 {
            limits.failed(&login("ann", &guess.to_string()), home);
        }
        assert_eq!(limits.check(&login("ann", "right"), home), Err(Limit::FailuresPerUser), "its own failures count");
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_is_forgiven_when_somebody_logs_in_from_it() {
        let limits = Limits::new(&config::Limits { failures_per_network: rate(3), ..limits() }).expect("a key");
        let (one, other) = (ip("2001:db8:1:2::1"), ip("2001:db8:1:2::2"));
        for user in ["ann", "bob", "cid"] {
            limits.failed(&login(user, "guess"), one);
        }
        assert_eq!(limits.check(&login("dan", "x"), other), Err(Limit::FailuresPerNetwork), "one /64");
        assert_eq!(limits.check(&login("dan", "x"), ip("2001:db8:1:3::1")), Ok(()));
        limits.succeeded(&login("dan", "x"), other);
        assert_eq!(limits.check(&login("ann", "x"), one), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_exempt_network_is_not_held_liable() {
        let all = config::Limits { failures_per_network: rate(1), failures_per_user: rate(1), ..limits() };
        let limits = Limits::new(&all).expect("a key");
        limits.failed(&login("ann", "a"), ip("127.0.0.1"));
        limits.failed(&login("ann", "b"), ip("127.0.0.1"));
        assert_eq!(limits.check(&login("ann", "x"), ip("127.0.0.1")), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_forgotten() {
        let all = config::Limits { failures_per_network: rate(2), failures_per_user: rate(2), ..limits() };
        let limits = Limits::new(&config::Limits { logins_per_user: rate(2), ..all }).expect("a key");
        for user in 0..50 {
            let login = login(&user.to_string(), "x");
            let client = ip(&format!("192.0.2.{user}"));
            limits.check(&login, client).expect("allowed");
            limits.failed(&login, client);
            limits.succeeded(&login, ip("203.0.113.1"));
        }
        tokio::time::advance(KNOWN_FOR + Duration::from_secs(1)).await;
        limits.sweep();
        let pasts = limits.user_failures.as_ref().map(|failures| failures.pasts.len());
        assert_eq!((limits.known.len(), pasts), (0, Some(0)));
    }
}
