//! Limits: who is held back, in order and page by page, and pardons.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::SystemTime;

use ipnet::IpNet;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::info;

use super::Steering;
use crate::imap::{UserName, escape};
use crate::limits::{Held, Who};
use crate::network::written;
use crate::outcome::Limit;
use crate::server::State;

/// A place in the list of who is held back, behind one of them: by limit, then by network or name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    limit: usize,
    key: Box<[u8]>,
}

/// Some of those who are held back.
#[derive(Debug, Clone)]
pub struct HeldPage {
    /// How many there are in all.
    pub total: usize,
    /// Where the next ones begin, if there are more.
    pub next: Option<Mark>,
    /// These.
    pub held: Vec<HeldBack>,
}

/// One who is held back.
#[derive(Debug, Clone)]
pub struct HeldBack {
    /// `network` or `user`.
    pub kind: &'static str,
    /// The network or the user.
    pub key: String,
    /// By which limit.
    pub limit: &'static str,
    /// How often it has failed, for limits on failures.
    pub failures: Option<u32>,
    /// Since when, as far as that is known.
    pub since: Option<SystemTime>,
    /// Until when, where time alone ends it.
    pub until: Option<SystemTime>,
    /// Why, in words.
    pub reason: String,
}

/// What is kept of one until it is known which ones are shown.
#[derive(Debug, Clone)]
struct Kept {
    limit: Limit,
    /// The network, or where the user is known.
    network: Option<IpAddr>,
    /// `None`: a network.
    user: Option<Box<[u8]>>,
    failures: Option<u32>,
    since: Option<Instant>,
    until: Option<Instant>,
}

impl Steering {
    /// Who is held back at the moment, at most `most` of them, behind this mark. Logins do not wait for this.
    pub async fn held(&self, most: usize, after: Option<Mark>) -> HeldPage {
        let state = self.state();
        let walked = spawn_blocking(move || walk(&state, most, after.as_ref()));
        // It fails where mailmux stops.
        walked.await.unwrap_or_else(|_| HeldPage { total: 0, next: None, held: Vec::new() })
    }

    /// Forgets the failures of networks, and how often they have come; says how many times one of them was held back.
    pub async fn pardon_networks(&self, networks: IpNet) -> usize {
        let state = self.state();
        let pardon = move || state.limits.pardon_networks(&networks) + state.admission.pardon_networks(&networks);
        let pardoned = spawn_blocking(pardon).await.unwrap_or_default();
        info!(%networks, pardoned, "failures are forgotten");
        pardoned
    }

    /// Forgets the failures of a user, and how often it has tried; says how many times it was held back.
    pub fn pardon_user(&self, user: &UserName) -> usize {
        let pardoned = self.state().limits.pardon_user(user);
        info!(%user, pardoned, "failures are forgotten");
        pardoned
    }
}

/// Looks at all of them and keeps those that are shown; memory is taken for these alone.
fn walk(state: &State, most: usize, after: Option<&Mark>) -> HeldPage {
    let (mut total, mut behind) = (0, 0);
    let mut kept = BTreeMap::new();
    let mut consider = |held: Held<'_>| {
        total += 1;
        let mark = Mark::of(&held);
        if after.is_some_and(|after| mark <= *after) {
            return;
        }
        behind += 1;
        if kept.len() == most && kept.last_key_value().is_some_and(|(last, _)| mark > *last) {
            return;
        }
        kept.insert(mark, Kept::of(&held));
        if kept.len() > most {
            kept.pop_last();
        }
    };
    state.limits.each_held(&mut consider);
    state.admission.each_held(|limit, network, until| {
        consider(Held { limit, who: Who::Network(network), failures: None, since: None, until });
    });
    let next = kept.last_key_value().filter(|_| behind > kept.len()).map(|(mark, _)| mark.clone());
    let now = (Instant::now(), SystemTime::now());
    HeldPage { total, next, held: kept.into_values().map(|kept| kept.shown(now)).collect() }
}

impl Mark {
    fn of(held: &Held<'_>) -> Self {
        let limit = Limit::ALL.iter().position(|limit| *limit == held.limit).unwrap_or_default();
        let mut key = Vec::with_capacity(32);
        match held.who {
            Who::Network(network) => add(&mut key, network),
            Who::User { name, hash, at } => {
                // Names hold no NUL; those that are not known stand behind the others.
                match name {
                    Some(name) => key.extend_from_slice(name),
                    None => key.push(u8::MAX),
                }
                key.push(0);
                key.extend_from_slice(&hash);
                if let Some(network) = at {
                    add(&mut key, network);
                }
            }
        }
        Self { limit, key: key.into() }
    }

    /// Reads one that was written.
    pub fn read(text: &str) -> Option<Self> {
        let (limit, hex) = text.split_once('.')?;
        let (digits, rest) = hex.as_bytes().as_chunks::<2>();
        let byte = |digits: &[u8; 2]| {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            u8::try_from(16 * digit(digits[0])? + digit(digits[1])?).ok()
        };
        let key = digits.iter().map(byte).collect::<Option<Vec<_>>>()?;
        let limit = limit.parse().ok().filter(|limit| *limit < Limit::ALL.len())?;
        rest.is_empty().then(|| Self { limit, key: key.into() })
    }

    /// As it is handed out.
    pub fn write(&self) -> String {
        let mut text = format!("{}.", self.limit);
        for byte in &self.key {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

/// IPv4 before IPv6.
fn add(key: &mut Vec<u8>, network: IpAddr) {
    match network {
        IpAddr::V4(address) => {
            key.push(4);
            key.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            key.push(6);
            key.extend_from_slice(&address.octets());
        }
    }
}

impl Kept {
    fn of(held: &Held<'_>) -> Self {
        let (network, user) = match held.who {
            Who::Network(network) => (Some(network), None),
            Who::User { name, at, .. } => (at, Some(name.unwrap_or_default().into())),
        };
        let Held { limit, failures, since, until, .. } = *held;
        Self { limit, network, user, failures, since, until }
    }

    fn shown(self, now: (Instant, SystemTime)) -> HeldBack {
        // Moments of the one clock, in those of the other.
        let moment = |at: Instant| {
            let ahead = at.saturating_duration_since(now.0);
            now.1 + ahead - now.0.saturating_duration_since(at)
        };
        let reason = self.reason();
        let network = self.network.map(written);
        let (kind, key) = match self.user {
            Some(name) if name.is_empty() => ("user", "(name not kept)".to_owned()),
            Some(name) => ("user", escape(&name).to_string()),
            None => ("network", network.unwrap_or_default()),
        };
        let (since, until) = (self.since.map(moment), self.until.map(moment));
        HeldBack { kind, key, limit: self.limit.as_str(), failures: self.failures, since, until, reason }
    }

    fn reason(&self) -> String {
        let failures = self.failures.unwrap_or_default();
        let passwords = if failures == 1 { "wrong password" } else { "distinct wrong passwords" };
        let place = match (&self.user, self.network) {
            (Some(_), Some(network)) => format!(" at {}, where it is known", written(network)),
            _ => String::new(),
        };
        match self.limit {
            Limit::FailuresPerNetwork => format!("{failures} {passwords} from this network"),
            Limit::FailuresPerUser => format!("{failures} {passwords} for this user{place}"),
            Limit::LoginsPerUser => format!("more attempts to log in than the rate allows{place}"),
            Limit::ConnectsPerNetwork => "more connections than the rate allows".to_owned(),
            Limit::SessionsPerNetwork => "has all the connections that it may have".to_owned(),
            Limit::SessionsPerUser => "wants more sessions than the ones that it may have and has".to_owned(),
            // Nobody in particular is held back by these.
            Limit::Sessions | Limit::MaxLinks | Limit::MaxLinksPerUser | Limit::Memory => {
                self.limit.as_str().to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark(limit: Limit, who: Who<'_>) -> Mark {
        Mark::of(&Held { limit, who, failures: None, since: None, until: None })
    }

    #[test]
    fn marks_stand_in_the_order_of_limits_networks_and_names() {
        let network = |address: &str| Who::Network(address.parse().expect("an address"));
        let user = |name, last, at: Option<&str>| Who::User {
            name,
            hash: [last; 16],
            at: at.map(|at| at.parse().expect("an address")),
        };
        let marks = [
            mark(Limit::ConnectsPerNetwork, network("203.0.113.9")),
            mark(Limit::FailuresPerNetwork, network("9.0.0.1")),
            mark(Limit::FailuresPerNetwork, network("10.0.0.1")),
            mark(Limit::FailuresPerNetwork, network("2001:db8::")),
            mark(Limit::FailuresPerUser, user(Some(b"ann"), 2, None)),
            mark(Limit::FailuresPerUser, user(Some(b"ann"), 2, Some("192.0.2.1"))),
            mark(Limit::FailuresPerUser, user(Some(b"ann"), 3, None)),
            mark(Limit::FailuresPerUser, user(Some(b"anna"), 1, None)),
            mark(Limit::FailuresPerUser, user(None, 0, None)),
            mark(Limit::FailuresPerUser, user(None, 1, None)),
        ];
        assert!(marks.is_sorted_by(|one, other| one < other), "{marks:#?}");
        for mark in marks {
            assert_eq!(Mark::read(&mark.write()), Some(mark));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_as_a_mark_was_one(text in "[0-9]{0,2}\\.?[0-9a-fé]{0,9}") {
            if let Some(mark) = Mark::read(&text) {
                prop_assert!(mark.limit < Limit::ALL.len());
                prop_assert_eq!(Mark::read(&mark.write()), Some(mark));
            }
        }
    }
}
