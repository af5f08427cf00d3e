//! How often users may try, how often they and networks may fail, and how many sessions a user may have. It gives
//! verdicts; what is said to a client and when is not decided here.
//!
//! Failures are counted by distinct wrong secrets: a phone with an old password fails for days without harm. Who has
//! logged in from a network is known there, and only what fails there under that name counts against it there: neither
//! strangers elsewhere nor neighbours behind the same address lock it out.
//!
//! Names and secrets are kept as keyed hashes, with a key that dies with the process: so all keys have one small size,
//! whatever strangers make up, and memory tells nothing about passwords.

use std::collections::VecDeque;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use dashmap::DashMap;
use ipnet::IpNet;
use tokio::time::Instant;

use crate::config;
use crate::imap::{Login, UserName};
use crate::network::{is_in, network_of};
use crate::outcome::Limit;
use crate::tally::{MOST_KEYS, Place, Rates, Tally};

/// Wrong secrets remembered per user and network, so that the same one does not count twice.
const REMEMBERED: usize = 10;
/// How long after its last use a wrong secret is remembered.
const REMEMBERED_FOR: Duration = Duration::from_hours(1);
/// Of more users and networks than this, wrong secrets are not remembered: each time counts then, also the same one's.
const MOST_PASTS: usize = 100_000;
/// How long a user is known in a network where it has logged in.
const KNOWN_FOR: Duration = Duration::from_hours(24);
/// In how many networks a user is known, the latest ones; so one account cannot take the room of all others.
const MOST_NETWORKS: usize = 32;

/// A user's name, normalised and hashed.
type User = [u8; 16];
/// Whose attempts are counted together: everybody who uses the name, or those in a network where it is known.
type Claim = (User, Option<IpAddr>);

/// What users and networks have done of late.
pub struct Limits {
    key: hmac::Key,
    sessions: Arc<Tally<User>>,
    logins: Option<Rates<Claim>>,
    network_failures: Option<Failures<IpAddr>>,
    user_failures: Option<Failures<Claim>>,
    known: DashMap<User, Vec<(IpAddr, Instant)>>,
    exempt: Vec<IpNet>,
}

/// Counts a session as its user's, until it is dropped.
#[derive(Debug)]
pub struct UserPermit(#[expect(dead_code, reason = "held for its Drop")] Place<User>);

/// Failures by key.
struct Failures<K: Copy + Eq + Hash> {
    rates: Rates<K>,
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
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?,
            sessions: Tally::new(limits.sessions_per_user),
            logins: limits.logins_per_user.and_then(|rate| Rates::new(rate.every, rate.burst)),
            network_failures: limits.failures_per_network.and_then(Failures::new),
            user_failures: limits.failures_per_user.and_then(Failures::new),
            known: DashMap::new(),
            exempt: limits.exempt.clone(),
        })
    }

    /// Whether this attempt may be made; to be asked before any backend is.
    ///
    /// # Errors
    /// The limit that forbids it.
    pub fn check(&self, login: &Login, client: IpAddr) -> Result<(), Limit> {
        let network = network_of(client);
        let claim = self.claim(login, network);
        if !is_in(client, &self.exempt) {
            let is_known = claim.1.is_some();
            if !is_known && self.network_failures.as_ref().is_some_and(|failures| failures.are_too_many(network)) {
                return Err(Limit::FailuresPerNetwork);
            }
            if self.user_failures.as_ref().is_some_and(|failures| failures.are_too_many(claim)) {
                return Err(Limit::FailuresPerUser);
            }
        }
        // By claim too: else anybody could use up a user's attempts with one and the same wrong password.
        if self.logins.as_ref().is_some_and(|logins| !logins.take(claim)) {
            return Err(Limit::LoginsPerUser);
        }
        Ok(())
    }

    /// The attempt was made with a wrong secret, or for a user that does not exist.
    pub fn failed(&self, login: &Login, client: IpAddr) {
        if is_in(client, &self.exempt) {
            return;
        }
        let network = network_of(client);
        let fingerprint = self.fingerprint(login);
        if let Some(failures) = &self.network_failures {
            failures.count(network, fingerprint);
        }
        if let Some(failures) = &self.user_failures {
            failures.count(self.claim(login, network), fingerprint);
        }
    }

    /// The attempt succeeded: its network is forgiven, and the user is known there from now on.
    pub fn succeeded(&self, login: &Login, client: IpAddr) {
        let network = network_of(client);
        let user = self.hashed(&login.user);
        if let Some(failures) = &self.network_failures {
            failures.rates.forgive(network);
        }
        if let Some(failures) = &self.user_failures {
            failures.rates.forgive((user, Some(network)));
        }
        // A newcomer that cannot be remembered is merely not known.
        if self.known.contains_key(&user) || self.known.len() < MOST_KEYS {
            let mut networks = self.known.entry(user).or_default();
            networks.retain(|(other, since)| *other != network && since.elapsed() < KNOWN_FOR);
            if networks.len() == MOST_NETWORKS {
                networks.remove(0);
            }
            networks.push((network, Instant::now()));
        }
    }

    /// Counts a session as the user's whose mail it shows.
    ///
    /// # Errors
    /// It has as many as it may have.
    pub fn session(&self, login: &Login) -> Result<UserPermit, Limit> {
        let user = self.hashed(login.authzid.as_ref().unwrap_or(&login.user));
        self.sessions.enter(user).map(UserPermit).ok_or(Limit::SessionsPerUser)
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
        self.known.retain(|_, networks| {
            networks.retain(|(_, since)| since.elapsed() < KNOWN_FOR);
            !networks.is_empty()
        });
        self.known.shrink_to_fit();
    }

    fn claim(&self, login: &Login, network: IpAddr) -> Claim {
        let user = self.hashed(&login.user);
        let is_known = self.known.get(&user).is_some_and(|networks| {
            networks.iter().any(|(known, since)| *known == network && since.elapsed() < KNOWN_FOR)
        });
        (user, is_known.then_some(network))
    }

    fn hashed(&self, user: &UserName) -> User {
        let tag = hmac::sign(&self.key, &user.normalised());
        tag.as_ref().first_chunk().copied().unwrap_or_default()
    }

    fn fingerprint(&self, login: &Login) -> u64 {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&login.user.normalised());
        // Neither a name nor a secret can hold a NUL.
        context.update(&[0]);
        context.update(login.credentials.proof());
        let tag = context.sign();
        u64::from_be_bytes(tag.as_ref().first_chunk().copied().unwrap_or_default())
    }
}

impl<K: Copy + Eq + Hash> Failures<K> {
    fn new(rate: config::Rate) -> Option<Self> {
        Some(Self { rates: Rates::new(rate.every, rate.burst)?, pasts: DashMap::new() })
    }

    fn are_too_many(&self, key: K) -> bool {
        !self.rates.has_one(key)
    }

    fn count(&self, key: K, fingerprint: u64) {
        if self.is_new(key, fingerprint) {
            self.rates.charge(key);
        }
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

    fn rate(burst: u32) -> config::Rate {
        config::Rate { every: Duration::from_secs(6), burst: NonZeroU32::new(burst).expect("positive") }
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
        let limits = Limits::new(&config::Limits { logins_per_user: Some(rate(2)), ..limits() }).expect("a key");
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
        let limits = Limits::new(&config::Limits { failures_per_user: Some(rate(3)), ..limits() }).expect("a key");
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
        let limits = Limits::new(&config::Limits { failures_per_user: Some(rate(3)), ..limits() }).expect("a key");
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
        let limits = Limits::new(&config::Limits { failures_per_network: Some(rate(3)), ..limits() }).expect("a key");
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
        let all = config::Limits { failures_per_network: Some(rate(1)), failures_per_user: Some(rate(1)), ..limits() };
        let limits = Limits::new(&all).expect("a key");
        limits.failed(&login("ann", "a"), ip("127.0.0.1"));
        limits.failed(&login("ann", "b"), ip("127.0.0.1"));
        assert_eq!(limits.check(&login("ann", "x"), ip("127.0.0.1")), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_forgotten() {
        let all = config::Limits { failures_per_network: Some(rate(2)), failures_per_user: Some(rate(2)), ..limits() };
        let limits = Limits::new(&config::Limits { logins_per_user: Some(rate(2)), ..all }).expect("a key");
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

    #[tokio::test(start_paused = true)]
    async fn many_guesses_at_once_are_paid_for_one_by_one() {
        let limits = Limits::new(&config::Limits { failures_per_network: Some(rate(3)), ..limits() }).expect("a key");
        let client = ip("192.0.2.1");
        let guesses: Vec<_> = (0..50).map(|guess| login("ann", &guess.to_string())).collect();
        assert!(guesses.iter().all(|guess| limits.check(guess, client).is_ok()), "none has failed yet");
        for guess in &guesses {
            limits.failed(guess, client);
        }
        tokio::time::advance(Duration::from_secs(6 * 47)).await;
        assert_eq!(limits.check(&guesses[0], client), Err(Limit::FailuresPerNetwork));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(limits.check(&guesses[0], client), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_password_between_guesses_stays_known() {
        let limits = Limits::new(&config::Limits { failures_per_user: Some(rate(30)), ..limits() }).expect("a key");
        let client = ip("192.0.2.1");
        for guess in 0..29 {
            limits.failed(&login("ann", &guess.to_string()), client);
            limits.failed(&login("ann", "old"), client);
        }
        assert_eq!(
            limits.check(&login("ann", "x"), client),
            Err(Limit::FailuresPerUser),
            "29 guesses and one old password"
        );
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(limits.check(&login("ann", "x"), client), Ok(()), "but no more than that");
    }

    #[tokio::test(start_paused = true)]
    async fn neighbours_behind_one_address_do_not_lock_a_known_user_out() {
        let both = config::Limits { failures_per_network: Some(rate(3)), failures_per_user: Some(rate(3)), ..limits() };
        let limits = Limits::new(&both).expect("a key");
        let shared = ip("192.0.2.1");
        limits.succeeded(&login("ann", "right"), shared);
        for guess in 0..20 {
            limits.failed(&login("bob", &guess.to_string()), shared);
        }
        assert_eq!(limits.check(&login("bob", "x"), shared), Err(Limit::FailuresPerNetwork));
        assert_eq!(limits.check(&login("ann", "right"), shared), Ok(()));
        tokio::time::advance(KNOWN_FOR).await;
        for guess in 20..40 {
            limits.failed(&login("bob", &guess.to_string()), shared);
        }
        assert_eq!(limits.check(&login("ann", "right"), shared), Err(Limit::FailuresPerNetwork), "known for a day");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_cannot_use_up_the_attempts_of_a_known_user() {
        let limits = Limits::new(&config::Limits { logins_per_user: Some(rate(2)), ..limits() }).expect("a key");
        let (home, attacker) = (ip("2001:db8:1:2::1"), ip("203.0.113.9"));
        limits.succeeded(&login("ann", "right"), home);
        while limits.check(&login("Ann", "one wrong password"), attacker).is_ok() {}
        assert_eq!(limits.check(&login("ann", "right"), ip("2001:db8:1:2::ffff")), Ok(()), "the same /64");
        assert_eq!(limits.check(&login("ann", "right"), ip("2001:db8:1:3::1")), Err(Limit::LoginsPerUser));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_mapped_into_ipv6_is_the_ipv4_address() {
        let limits = Limits::new(&config::Limits { failures_per_network: Some(rate(1)), ..limits() }).expect("a key");
        limits.failed(&login("ann", "guess"), ip("::ffff:192.0.2.1"));
        assert_eq!(limits.check(&login("bob", "x"), ip("192.0.2.1")), Err(Limit::FailuresPerNetwork));
        limits.failed(&login("ann", "guess"), ip("::ffff:127.0.0.1"));
        assert_eq!(limits.check(&login("bob", "x"), ip("127.0.0.1")), Ok(()), "exempt");
    }

    #[test]
    fn sessions_count_for_the_user_whose_mail_they_show() {
        let limits = Limits::new(&limits()).expect("a key");
        let acting_for = |user: &str| Login {
            authzid: Some(UserName::new(user.as_bytes()).expect("a name")),
            ..login("admin", "x")
        };
        let _both =
            (limits.session(&acting_for("ann")).expect("room"), limits.session(&login("ann", "x")).expect("room"));
        assert_eq!(limits.session(&acting_for("ann")).err(), Some(Limit::SessionsPerUser));
        assert!(limits.session(&acting_for("bob")).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_strangers_make_up_takes_bounded_memory() {
        let all = config::Limits { failures_per_network: Some(rate(2)), failures_per_user: Some(rate(2)), ..limits() };
        let limits = Limits::new(&all).expect("a key");
        for n in 0..=MOST_PASTS {
            let key = (n as u128).to_be_bytes().last_chunk().copied().unwrap_or_default();
            let failures = limits.user_failures.as_ref().expect("configured");
            failures.count(([0; 16], Some(std::net::Ipv4Addr::from_bits(u32::from_be_bytes(key)).into())), 1);
        }
        let failures = limits.user_failures.as_ref().expect("configured");
        assert_eq!(failures.pasts.len(), MOST_PASTS);
        let (stranger, client) = (login("zoe", "guess"), ip("203.0.113.9"));
        limits.failed(&stranger, client);
        limits.failed(&stranger, client);
        assert_eq!(limits.check(&stranger, client), Err(Limit::FailuresPerUser), "counted all the same");
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_is_known_in_its_latest_networks() {
        let limits = Limits::new(&config::Limits { failures_per_user: Some(rate(1)), ..limits() }).expect("a key");
        let ann = login("ann", "right");
        for last in 0..=MOST_NETWORKS {
            limits.succeeded(&ann, ip(&format!("192.0.2.{last}")));
        }
        limits.failed(&ann, ip("203.0.113.9"));
        assert_eq!(limits.check(&ann, ip("192.0.2.0")), Err(Limit::FailuresPerUser), "too long ago");
        assert_eq!(limits.check(&ann, ip("192.0.2.1")), Ok(()));
    }

    #[test]
    fn threads_do_not_wait_for_one_another_for_ever() {
        let all = config::Limits { failures_per_network: Some(rate(2)), failures_per_user: Some(rate(2)), ..limits() };
        let limits = Limits::new(&config::Limits { logins_per_user: Some(rate(2)), ..all }).expect("a key");
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let limits = &limits;
                scope.spawn(move || {
                    for round in 0..500 {
                        let (login, client) = (login("ann", &round.to_string()), ip(&format!("192.0.2.{}", round % 3)));
                        let _ = limits.check(&login, client);
                        drop(limits.session(&login));
                        limits.failed(&login, client);
                        if round % 7 == thread {
                            limits.succeeded(&login, client);
                            limits.sweep();
                        }
                    }
                });
            }
        });
        assert!(limits.sessions.is_empty());
    }
}
