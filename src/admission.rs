//! Who is let in at all: sessions in all and per network, and the rate of new ones. Cheap, and before TLS. Not here:
//! anything about users (`limits.rs`), what is said to those who are turned away.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::time::Instant;

use crate::config;
use crate::network::{is_in, network_of, the_one};
use crate::outcome::Limit;
use crate::tally::{Place, Rates, Tally};

/// Counts sessions.
pub struct Admission {
    limits: config::Limits,
    all: Arc<Tally<()>>,
    by_network: Arc<Tally<IpAddr>>,
    connects: Option<Arc<Rates<IpAddr>>>,
}

/// A connection that is counted among all.
#[derive(Debug)]
pub struct Entry(#[expect(dead_code, reason = "held for its Drop")] Place<()>);

/// A connection that is counted among all and among its network's. Dropping it counts it out.
#[derive(Debug)]
pub struct Permit {
    _all: Entry,
    _network: Place<IpAddr>,
}

impl Admission {
    /// Nobody is in yet.
    pub fn new(limits: &config::Limits) -> Self {
        let connects = rates(limits.connects_per_network);
        Self { limits: limits.clone(), all: Arc::default(), by_network: Arc::default(), connects }
    }

    /// The same with other limits: who is in stays counted, and so do those who came of late, unless it is their rate that
    /// has changed.
    #[must_use]
    pub fn renewed(&self, limits: &config::Limits) -> Self {
        let is_same = limits.connects_per_network == self.limits.connects_per_network;
        Self {
            limits: limits.clone(),
            all: Arc::clone(&self.all),
            by_network: Arc::clone(&self.by_network),
            connects: if is_same { self.connects.clone() } else { rates(limits.connects_per_network) },
        }
    }

    /// How many connections there are.
    pub fn sessions(&self) -> usize {
        self.all.count(&())
    }

    /// Counts a connection among all, before anything is known of it.
    pub fn enter(&self) -> Result<Entry, Limit> {
        self.all.enter((), self.limits.sessions).map(Entry).ok_or(Limit::Sessions)
    }

    /// Counts it among its network's, once its client's address is known.
    pub fn enter_network(&self, entry: Entry, client: IpAddr) -> Result<Permit, Limit> {
        if is_in(client, &self.limits.exempt) {
            return Ok(Permit { _all: entry, _network: Place::uncounted() });
        }
        let network = network_of(client);
        if let Some(connects) = &self.connects
            && !connects.take(network)
        {
            return Err(Limit::ConnectsPerNetwork);
        }
        let most = self.limits.sessions_per_network;
        let place = self.by_network.enter(network, most).ok_or(Limit::SessionsPerNetwork)?;
        Ok(Permit { _all: entry, _network: place })
    }

    /// Visits all networks that are held back, in no order: by which limit, and until when, where time alone ends it. `visit`
    /// must not come back here.
    pub fn each_held(&self, mut visit: impl FnMut(Limit, IpAddr, Option<Instant>)) {
        let is_exempt = |network| is_in(network, &self.limits.exempt);
        if let Some(connects) = &self.connects {
            connects.each_empty(|empty| {
                if !is_exempt(empty.key) {
                    visit(Limit::ConnectsPerNetwork, empty.key, Some(empty.until));
                }
            });
        }
        let most = self.limits.sessions_per_network;
        self.by_network.each(|network, count| {
            if most > 0 && count >= most && !is_exempt(*network) {
                visit(Limit::SessionsPerNetwork, *network, None);
            }
        });
    }

    /// Forgets how often networks have come of late; says how many were held back for it.
    pub fn pardon_networks(&self, networks: &IpNet) -> usize {
        let Some(connects) = &self.connects else { return 0 };
        match the_one(networks) {
            Some(network) => {
                let was_held = connects.empty(network).is_some();
                connects.forgive(network);
                usize::from(was_held)
            }
            None => connects.forgive_all(|network| networks.contains(&network)),
        }
    }

    /// Forgets what need not be remembered; to be called now and then.
    pub fn sweep(&self) {
        if let Some(connects) = &self.connects {
            connects.sweep();
        }
    }
}

fn rates(rate: Option<config::Rate>) -> Option<Arc<Rates<IpAddr>>> {
    rate.and_then(|rate| Rates::new(rate.every, rate.burst)).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;

    fn limits() -> config::Limits {
        config::Limits {
            sessions: 3,
            sessions_per_network: 2,
            sessions_per_user: 0,
            connects_per_network: None,
            logins_per_user: None,
            failures_per_network: None,
            failures_per_user: None,
            exempt: vec!["127.0.0.0/8".parse().expect("a network")],
            memory: config::Memory::Off,
        }
    }

    fn come(admission: &Admission, from: &str) -> Result<Permit, Limit> {
        admission.enter_network(admission.enter()?, from.parse().expect("an address"))
    }

    #[test]
    fn networks_and_all_are_bounded_and_given_back() {
        let admission = Admission::new(&limits());
        let first = come(&admission, "2001:db8::1").expect("room");
        let second = come(&admission, "2001:db8::2").expect("room");
        assert_eq!(come(&admission, "2001:db8::3").err(), Some(Limit::SessionsPerNetwork), "one /64");
        let third = come(&admission, "192.0.2.1").expect("another network");
        assert_eq!(come(&admission, "192.0.2.2").err(), Some(Limit::Sessions));
        drop((first, second, third));
        assert!(admission.all.is_empty() && admission.by_network.is_empty());
    }

    #[test]
    fn an_exempt_network_counts_only_among_all() {
        let admission = Admission::new(&limits());
        let in_at_once: Vec<_> = (0..3).map(|_| come(&admission, "127.0.0.1").expect("room")).collect();
        assert_eq!(come(&admission, "127.0.0.1").err(), Some(Limit::Sessions));
        drop(in_at_once);
    }

    #[test]
    fn other_limits_count_who_is_in() {
        let admission = Admission::new(&config::Limits { sessions: 0, sessions_per_network: 0, ..limits() });
        let inside = [come(&admission, "192.0.2.1").expect("room"), come(&admission, "192.0.2.1").expect("room")];
        let stricter = admission.renewed(&limits());
        assert_eq!(come(&stricter, "192.0.2.1").err(), Some(Limit::SessionsPerNetwork));
        let third = come(&stricter, "192.0.2.2").expect("room");
        assert_eq!(come(&stricter, "192.0.2.3").err(), Some(Limit::Sessions));
        drop((inside, third));
        assert!(admission.all.is_empty() && stricter.by_network.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn connects_have_a_rate() {
        let rate = config::Rate { every: Duration::from_millis(50), burst: NonZeroU32::new(2).expect("positive") };
        let admission = Admission::new(&config::Limits { connects_per_network: Some(rate), ..limits() });
        drop(come(&admission, "192.0.2.1").expect("first"));
        drop(come(&admission, "192.0.2.1").expect("second"));
        assert_eq!(come(&admission, "192.0.2.1").err(), Some(Limit::ConnectsPerNetwork));
        drop(come(&admission, "192.0.2.2").expect("another network"));
        tokio::time::advance(Duration::from_millis(50)).await;
        drop(come(&admission, "192.0.2.1").expect("time has passed"));
        assert!(admission.all.is_empty(), "whoever is turned away is counted out");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_held_back_is_shown_and_can_be_pardoned() {
        let rate = config::Rate { every: Duration::from_secs(5), burst: NonZeroU32::new(3).expect("positive") };
        let admission = Admission::new(&config::Limits { connects_per_network: Some(rate), sessions: 0, ..limits() });
        let shown = || {
            let mut shown = Vec::new();
            admission.each_held(|limit, network, until| {
                let left = until.map_or_else(String::new, |until| format!(" {}", (until - Instant::now()).as_secs()));
                shown.push(format!("{} {network}{left}", limit.as_str()));
            });
            shown.sort();
            shown
        };
        let inside = [come(&admission, "192.0.2.1").expect("first"), come(&admission, "192.0.2.1").expect("second")];
        assert_eq!(shown(), ["sessions_per_network 192.0.2.1"]);
        assert!(come(&admission, "192.0.2.1").is_err());
        assert_eq!(shown(), ["connects_per_network 192.0.2.1 5", "sessions_per_network 192.0.2.1"]);
        drop(inside);
        assert_eq!(come(&admission, "192.0.2.1").err(), Some(Limit::ConnectsPerNetwork));
        assert_eq!(admission.pardon_networks(&"192.0.0.0/16".parse().expect("a network")), 1);
        assert_eq!(admission.pardon_networks(&"192.0.2.1/32".parse().expect("a network")), 0);
        drop(come(&admission, "192.0.2.1").expect("heard again"));
        assert_eq!(shown(), [""; 0]);
    }
}
