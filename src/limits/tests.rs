//! Limits as a login meets them; time stands still but where a test moves it.

use std::num::NonZeroU32;

use zeroize::Zeroizing;

use super::known::{KNOWN_FOR, MOST_NETWORKS};
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
        memory: config::Memory::Off,
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
    let acting_for =
        |user: &str| Login { authzid: Some(UserName::new(user.as_bytes()).expect("a name")), ..login("admin", "x") };
    let _both = (limits.session(&acting_for("ann")).expect("room"), limits.session(&login("ann", "x")).expect("room"));
    assert_eq!(limits.session(&acting_for("ann")).err(), Some(Limit::SessionsPerUser));
    assert!(limits.session(&acting_for("bob")).is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_strangers_make_up_takes_bounded_memory() {
    let all = config::Limits { failures_per_network: Some(rate(2)), failures_per_user: Some(rate(2)), ..limits() };
    let limits = Limits::new(&all).expect("a key");
    for n in 0..=MOST_PASTS {
        let failures = limits.user_failures.as_ref().expect("configured");
        failures.count((n as u128).to_be_bytes(), 1, None);
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

/// Who is held back, as lines: limit, who, failures, for how long yet.
fn shown(limits: &Limits) -> Vec<String> {
    let mut shown = Vec::new();
    limits.each_held(|held| {
        let who = match held.who {
            Who::Network(network) => network.to_string(),
            Who::User { name, at, .. } => format!("{} at {at:?}", String::from_utf8_lossy(name.expect("a name"))),
        };
        let left = held.until.map(|until| (until - Instant::now()).as_secs());
        shown.push(format!("{} {who} {:?} {left:?}", held.limit.as_str(), held.failures));
    });
    shown.sort();
    shown
}

#[tokio::test(start_paused = true)]
async fn who_is_held_back_is_known_by_name_and_can_be_pardoned() {
    let all = config::Limits { failures_per_network: Some(rate(3)), failures_per_user: Some(rate(2)), ..limits() };
    let limits = Limits::new(&config::Limits { logins_per_user: Some(rate(1)), ..all }).expect("a key");
    let (home, elsewhere) = (ip("2001:db8::1"), ip("192.0.2.1"));
    limits.succeeded(&login("ann", "right"), home);
    limits.failed(&login("Ann", "1"), elsewhere);
    assert_eq!(shown(&limits), [""; 0], "one failure holds nobody back");
    limits.failed(&login("ANN", "2"), elsewhere);
    limits.failed(&login("bob", "1"), elsewhere);
    limits.failed(&login("ann", "1"), home);
    limits.failed(&login("ann", "2"), home);
    let (network, strangers, own) = (
        "failures_per_network 192.0.2.1 Some(3) Some(6)",
        "failures_per_user ann at None Some(2) Some(6)",
        "failures_per_user ann at Some(2001:db8::) Some(2) Some(6)",
    );
    assert_eq!(shown(&limits), [network, strangers, own]);
    assert_eq!(limits.check(&login("bob", "x"), ip("192.0.2.2")), Ok(()));
    assert_eq!(limits.check(&login("bob", "x"), ip("192.0.2.2")), Err(Limit::LoginsPerUser));
    let attempts = "logins_per_user bob at None None Some(6)";
    assert_eq!(shown(&limits), [network, strangers, own, attempts]);

    assert_eq!(limits.pardon_user(&UserName::new(&b"aNN"[..]).expect("a name")), 2, "at home and elsewhere");
    assert_eq!(shown(&limits), [network, attempts]);
    assert_eq!(limits.pardon_user(&UserName::new(&b"bob"[..]).expect("a name")), 1);
    assert_eq!(limits.pardon_networks(&"192.0.2.2".parse::<IpAddr>().expect("an address").into()), 0);
    assert_eq!(limits.check(&login("ann", "right"), elsewhere), Err(Limit::FailuresPerNetwork));
    assert_eq!(limits.pardon_networks(&"192.0.2.1/32".parse().expect("a network")), 1);
    assert_eq!(shown(&limits), [""; 0]);
    assert_eq!(limits.check(&login("ann", "right"), elsewhere), Ok(()));
    assert_eq!(limits.check(&login("bob", "right"), ip("192.0.2.2")), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn whole_networks_are_pardoned_at_once_and_whoever_is_exempt_is_not_shown() {
    let limits = Limits::new(&config::Limits { failures_per_network: Some(rate(1)), ..limits() }).expect("a key");
    for client in ["192.0.2.1", "192.0.2.200", "198.51.100.1", "2001:db8:1:2::77", "2001:db8:1:3::77"] {
        limits.failed(&login("ann", client), ip(client));
    }
    assert_eq!(limits.pardon_networks(&"2001:db8:1:2::/64".parse().expect("a network")), 1);
    assert_eq!(limits.pardon_networks(&"2001:db8:1:3::4711/128".parse().expect("a network")), 1, "all of its /64");
    assert_eq!(limits.pardon_networks(&"192.0.2.0/24".parse().expect("a network")), 2);
    assert_eq!(shown(&limits), ["failures_per_network 198.51.100.1 Some(1) Some(6)"]);
    let milder = config::Limits { exempt: vec!["198.51.100.0/24".parse().expect("a network")], ..limits.config };
    assert_eq!(shown(&limits.renewed(&milder)), [""; 0]);
    assert_eq!(limits.pardon_networks(&"::/0".parse().expect("a network")), 0);
    assert_eq!(limits.pardon_networks(&"0.0.0.0/0".parse().expect("a network")), 1);
}

#[tokio::test(start_paused = true)]
async fn a_user_with_all_its_sessions_is_held_back_once_it_has_wanted_more() {
    let limits = Limits::new(&limits()).expect("a key");
    let ann = login("Ann", "x");
    let (first, _second) = (limits.session(&ann).expect("room"), limits.session(&ann).expect("room"));
    assert_eq!(shown(&limits), [""; 0]);
    assert!(limits.session(&ann).is_err());
    assert_eq!(shown(&limits), ["sessions_per_user ann at None None None"]);
    drop(first);
    assert_eq!(shown(&limits), [""; 0], "there is room again");
    let _third = limits.session(&ann).expect("room");
    tokio::time::advance(FULL_FOR + Duration::from_secs(1)).await;
    assert_eq!(shown(&limits), [""; 0], "long ago");
    limits.sweep();
    assert_eq!(limits.full.len(), 0);
}
