//! Whether a backend is well: a machine without clock or I/O. Two things must be: that it is reached (TCP, TLS, greeting),
//! of which probes and logins tell, and that logins on it come to an answer, of which logins tell and probes that log in.
//! A backend that greets and then fails everybody is down too.
//!
//! So many failures in a row bring it down, so many successes up again. While it is down, probes that are set find out when
//! it is back; of what no probe looks at, one login now and then does (half-open).

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use crate::config;
use crate::imap::UserName;

/// While it is down it is tried ever more rarely, up to this many times the interval ...
const RAREST: u32 = 8;
/// ... and at least this often.
const SELDOM: Duration = Duration::from_secs(30);
/// The first wait before a login may try it again, where no probe does.
const FIRST_TRIAL: Duration = Duration::from_secs(1);

/// What can be wrong with a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aspect {
    /// TCP, TLS, greeting.
    Reach,
    /// What comes behind.
    Login,
}

/// What is known of one backend's health.
#[derive(Debug)]
pub(super) struct Health {
    rise: NonZeroU32,
    fall: NonZeroU32,
    interval: Option<Duration>,
    /// Whether probes look at it.
    login_is_probed: bool,
    reach: Track,
    login: Track,
    /// Whose logins have failed since one came to an answer. One user's broken mailbox is not the backend's end.
    blamed: Vec<u64>,
    hashes: RandomState,
}

#[derive(Debug, Default)]
struct Track {
    failures: u32,
    successes: u32,
    down: Option<Down>,
}

#[derive(Debug)]
struct Down {
    since: Instant,
    /// What was wrong with it last.
    why: String,
    /// The next login that may try it, and the wait that was before it.
    trial: Instant,
    wait: Duration,
    /// One does, or did.
    is_tried: bool,
    /// So many probes have failed since.
    failed_probes: u32,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It is well again, after so long.
    Up(Duration),
    /// It is down; why.
    Down(String),
}

impl Health {
    pub(super) fn new(config: &config::Health) -> Self {
        Self {
            rise: config.rise,
            fall: config.fall,
            interval: config.interval,
            login_is_probed: config.interval.is_some() && config.login.is_some(),
            reach: Track::default(),
            login: Track::default(),
            blamed: Vec::new(),
            hashes: RandomState::new(),
        }
    }

    /// The same backend is judged by other rules from now on.
    pub(super) fn adapt(&mut self, config: &config::Health) {
        self.rise = config.rise;
        self.fall = config.fall;
        self.interval = config.interval;
        self.login_is_probed = config.interval.is_some() && config.login.is_some();
    }

    pub(super) fn is_up(&self) -> bool {
        self.down().is_none()
    }

    /// Since when it is down.
    pub(super) fn down_since(&self) -> Option<Instant> {
        self.down().map(|down| down.since)
    }

    /// Whether a login may try it now although it is down, to find out whether it is back; the next may after some time.
    pub(super) fn claim_trial(&mut self, now: Instant) -> bool {
        if !self.may_be_tried(now) {
            return false;
        }
        for down in [&mut self.reach, &mut self.login].into_iter().filter_map(|track| track.down.as_mut()) {
            down.trial = now + down.wait;
            down.is_tried = true;
        }
        true
    }

    /// Whether a login that came now could do that.
    pub(super) fn may_be_tried(&self, now: Instant) -> bool {
        // What probes look at, they tell.
        let is_probed = [self.interval.is_some(), self.login_is_probed];
        let may =
            |(track, is_probed): (&Track, bool)| track.down.as_ref().is_none_or(|down| !is_probed && now >= down.trial);
        !self.is_up() && [&self.reach, &self.login].into_iter().zip(is_probed).all(may)
    }

    /// What was wrong with it last, while it is down.
    pub(super) fn why_down(&self) -> Option<&str> {
        self.down().map(|down| down.why.as_str())
    }

    /// Something went well.
    pub(super) fn succeeded(&mut self, aspect: Aspect, now: Instant) -> Option<Change> {
        let before = self.down_since();
        let rise = self.rise.get();
        let track = self.track(aspect);
        track.failures = 0;
        if track.down.is_some() {
            track.successes += 1;
            if track.successes >= rise {
                *track = Track::default();
            }
        }
        if aspect == Aspect::Login {
            self.blamed.clear();
        }
        let since = before.filter(|_| self.is_up())?;
        Some(Change::Up(now.saturating_duration_since(since)))
    }

    /// Something failed, for the backend's sake. `user`: in whose login; `None`: in a probe.
    pub(super) fn failed(
        &mut self,
        aspect: Aspect,
        user: Option<&UserName>,
        why: &str,
        now: Instant,
    ) -> Option<Change> {
        let was_up = self.is_up();
        let fall = self.fall.get();
        let is_news = aspect == Aspect::Reach || user.is_none_or(|user| self.blame(user));
        let track = self.track(aspect);
        // Whoever tried it. Many may fail at the moment it goes down; they were no trial.
        if let Some(down) = track.down.as_mut().filter(|down| down.is_tried) {
            down.is_tried = false;
            down.wait = (down.wait * 2).min(SELDOM);
            down.trial = now + down.wait;
        }
        if !is_news {
            return None;
        }
        if let Some(down) = &mut track.down {
            why.clone_into(&mut down.why);
            down.failed_probes = down.failed_probes.saturating_add(user.is_none().into());
        }
        track.successes = 0;
        track.failures = track.failures.saturating_add(1);
        if track.down.is_none() && track.failures >= fall {
            let (why, trial) = (why.to_owned(), now + FIRST_TRIAL);
            track.down = Some(Down { since: now, why, trial, wait: FIRST_TRIAL, is_tried: false, failed_probes: 0 });
        }
        (was_up && !self.is_up()).then(|| Change::Down(why.to_owned()))
    }

    /// Whether this user's failed login says anything that was not known.
    fn blame(&mut self, user: &UserName) -> bool {
        let user = self.hashes.hash_one(user.normalised());
        if self.blamed.contains(&user) {
            return false;
        }
        if self.blamed.len() < usize::try_from(self.fall.get()).unwrap_or(usize::MAX) {
            self.blamed.push(user);
        }
        true
    }

    /// How long to wait until the next probe; `None`: there are none.
    pub(super) fn until_probe(&self) -> Option<Duration> {
        let interval = self.interval?;
        let looked_at = [Some(&self.reach), self.login_is_probed.then_some(&self.login)];
        let idle = looked_at.into_iter().flatten().filter(|track| track.successes == 0);
        let Some(extra) = idle.filter_map(|track| track.down.as_ref()).map(|down| down.failed_probes).max() else {
            return Some(interval);
        };
        let times = 1_u32.checked_shl(extra.min(16)).unwrap_or(RAREST).min(RAREST);
        Some((interval * times).min(SELDOM.max(interval)))
    }

    fn down(&self) -> Option<&Down> {
        let downs = [&self.reach, &self.login].map(|track| track.down.as_ref());
        downs.into_iter().flatten().min_by_key(|down| down.since)
    }

    fn track(&mut self, aspect: Aspect) -> &mut Track {
        match aspect {
            Aspect::Reach => &mut self.reach,
            Aspect::Login => &mut self.login,
        }
    }
}

/// For people.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.down() {
            None => f.write_str("up"),
            Some(down) => write!(f, "down for {} s: {}", down.since.elapsed().as_secs(), down.why),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn health(interval: Option<u64>, login: bool) -> Health {
        let count = |count| NonZeroU32::new(count).expect("not nothing");
        let site = config::Site { key: String::new(), span: 0..0 };
        let login = login.then(|| ("probe".to_owned(), config::At { value: "x".into(), site }));
        let interval = interval.map(Duration::from_secs);
        Health::new(&config::Health {
            interval,
            timeout: Duration::from_secs(1),
            rise: count(2),
            fall: count(3),
            login,
        })
    }

    fn user(name: &str) -> UserName {
        UserName::new(name.as_bytes()).expect("a name")
    }

    #[test]
    fn three_failures_in_a_row_and_two_successes() {
        let (mut health, now) = (health(Some(5), false), Instant::now());
        for _ in 0..5 {
            assert_eq!(health.failed(Aspect::Reach, None, "refused", now), None);
            assert_eq!(health.failed(Aspect::Reach, None, "refused", now), None);
            assert_eq!(health.succeeded(Aspect::Reach, now), None);
        }
        assert_eq!(health.failed(Aspect::Reach, None, "one", now), None);
        assert_eq!(health.failed(Aspect::Reach, None, "two", now), None);
        assert_eq!(health.failed(Aspect::Reach, None, "three", now), Some(Change::Down("three".to_owned())));
        assert_eq!(health.why_down(), Some("three"));
        assert_eq!(health.failed(Aspect::Reach, None, "four", now), None);
        assert_eq!(health.why_down(), Some("four"), "what is wrong now, not what was first");
        assert_eq!(health.succeeded(Aspect::Reach, now), None);
        assert_eq!(
            health.failed(Aspect::Reach, None, "five", now),
            None,
            "one success between failures raises nothing"
        );
        assert_eq!(health.succeeded(Aspect::Reach, now), None);
        let later = now + Duration::from_secs(9);
        assert_eq!(health.succeeded(Aspect::Reach, later), Some(Change::Up(Duration::from_secs(9))));
        assert!(health.is_up() && health.why_down().is_none());
    }

    #[test]
    fn a_backend_that_greets_and_fails_every_login_is_down() {
        let (mut health, now) = (health(Some(5), false), Instant::now());
        for name in ["ann", "bob", "cid"] {
            health.succeeded(Aspect::Reach, now);
            health.failed(Aspect::Login, Some(&user(name)), "EOF", now);
        }
        assert!(!health.is_up());
        for _ in 0..10 {
            health.succeeded(Aspect::Reach, now);
        }
        assert!(!health.is_up(), "probes that only look at the greeting do not raise it");
        assert!(!health.claim_trial(now));
        let later = now + FIRST_TRIAL;
        assert!(health.claim_trial(later) && !health.claim_trial(later), "one login finds out");
        health.succeeded(Aspect::Login, later);
        assert!(health.claim_trial(later + FIRST_TRIAL));
        assert!(matches!(health.succeeded(Aspect::Login, later), Some(Change::Up(_))));
    }

    #[test]
    fn one_users_broken_mailbox_is_not_the_backends_end() {
        let (mut health, now) = (health(None, false), Instant::now());
        for _ in 0..100 {
            health.failed(Aspect::Login, Some(&user("ann")), "[UNAVAILABLE]", now);
        }
        assert!(health.is_up());
        health.failed(Aspect::Login, Some(&user("bob")), "[UNAVAILABLE]", now);
        health.failed(Aspect::Login, Some(&user("cid")), "[UNAVAILABLE]", now);
        assert!(!health.is_up());
    }

    #[test]
    fn what_probes_look_at_no_login_tries() {
        let (mut probed, mut unprobed, now) = (health(Some(5), false), health(None, false), Instant::now());
        for health in [&mut probed, &mut unprobed] {
            for _ in 0..3 {
                health.failed(Aspect::Reach, None, "refused", now);
            }
        }
        let much_later = now + Duration::from_hours(1);
        assert!(!probed.claim_trial(much_later));
        assert!(unprobed.claim_trial(much_later));
    }

    #[test]
    fn trials_become_rarer_and_only_by_trials() {
        let (mut health, now) = (health(None, false), Instant::now());
        for name in ["ann", "bob", "cid", "dan", "eve", "fay"] {
            health.failed(Aspect::Login, Some(&user(name)), "EOF", now);
        }
        let mut last = now;
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            let trial = last + Duration::from_secs(expected);
            assert!(!health.claim_trial(trial.checked_sub(Duration::from_millis(1)).expect("later")), "{expected}");
            assert!(health.claim_trial(trial), "{expected}");
            // Also one whose failure is known already.
            health.failed(Aspect::Login, Some(&user("ann")), "EOF", trial);
            last = trial;
        }
    }

    #[test]
    fn trials_and_probes_become_rarer_up_to_a_bound() {
        let (mut health, now) = (health(Some(5), false), Instant::now());
        let secs = |health: &Health| health.until_probe().expect("probed").as_secs();
        assert_eq!(secs(&health), 5);
        let mut waits = Vec::new();
        for _ in 0..7 {
            health.failed(Aspect::Reach, None, "refused", now);
            waits.push(secs(&health));
        }
        assert_eq!(waits, [5, 5, 5, 10, 20, 30, 30]);
        health.succeeded(Aspect::Reach, now);
        assert_eq!(secs(&health), 5, "it may be back");
        let mut busy = self::health(Some(5), false);
        for _ in 0..100 {
            busy.failed(Aspect::Reach, Some(&user("ann")), "refused", now);
        }
        assert_eq!(secs(&busy), 5, "that many fail at the moment it goes says nothing of how long it is away");
        assert_eq!(self::health(None, false).until_probe(), None);
    }

    /// The rule for one aspect, looked up in the whole history.
    fn by_the_book(history: &[bool]) -> bool {
        let mut up = true;
        for end in 1..=history.len() {
            let last =
                |count: usize, what: bool| end >= count && history[end - count..end].iter().all(|ok| *ok == what);
            if up && last(3, false) {
                up = false;
            } else if !up && last(2, true) {
                up = true;
            }
        }
        up
    }

    proptest! {
        #[test]
        fn as_the_book_says(reach in prop::collection::vec(any::<bool>(), 0..40), login in prop::collection::vec(any::<bool>(), 0..40)) {
            let (mut health, now) = (health(Some(5), true), Instant::now());
            let mut told_up = true;
            let mut tell = |change: Option<Change>, is_up: bool| {
                match change {
                    Some(Change::Up(_)) => told_up = true,
                    Some(Change::Down(_)) => told_up = false,
                    None => {}
                }
                assert_eq!(told_up, is_up, "each change is told, once");
            };
            for (aspect, history) in [(Aspect::Reach, &reach), (Aspect::Login, &login)] {
                for ok in history {
                    let change = if *ok { health.succeeded(aspect, now) } else { health.failed(aspect, None, "x", now) };
                    tell(change, health.is_up());
                }
            }
            prop_assert_eq!(health.is_up(), by_the_book(&reach) && by_the_book(&login));
        }
    }
}
