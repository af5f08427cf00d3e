//! What a group promises: shares by weight, nobody moved without need, and the same choice wherever it is made.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::backend::{Aspect, Presence};
use crate::config;
use crate::metrics::Metrics;

const USERS: usize = 10_000;

/// Probed, so that no login tries one that is down.
fn backend(name: &str, weight: u32) -> Arc<Backend> {
    // One set for all: making one takes longer than all that is tested here.
    static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::new().expect("distinct names"));
    let config = config::Backend {
        name: name.to_owned(),
        weight: NonZeroU32::new(weight).expect("a weight"),
        health: config::Health { interval: Some(Duration::from_secs(5)), ..config::Health::unprobed() },
        ..config::Backend::usual()
    };
    Arc::new(Backend::new(config, None, METRICS.backend(name)))
}

fn backends(members: &[(&str, u32)]) -> Vec<Arc<Backend>> {
    members.iter().map(|(name, weight)| backend(name, *weight)).collect()
}

fn group(choose: Choose, members: &[(&str, u32)], standby: &[(&str, u32)]) -> Group {
    Group::new("eu".to_owned(), backends(members), backends(standby), choose)
}

fn by_hash(members: &[(&str, u32)]) -> Group {
    group(Choose::Hash, members, &[])
}

/// What happens to a backend.
type Change = fn(&Backend);

fn bring_down(backend: &Backend) {
    for _ in 0..3 {
        backend.failed(Aspect::Reach, None, "refused");
    }
    assert!(!backend.is_up());
}

fn bring_up(backend: &Backend) {
    backend.succeeded(Aspect::Reach);
    assert!(backend.is_up());
}

fn named<'a>(group: &'a Group, name: &str) -> &'a Arc<Backend> {
    group.backends().find(|backend| backend.config.name == name).expect("one of the group")
}

fn chosen(group: &Group, user: &str) -> String {
    group.choose(user.as_bytes()).map_or_else(|| "nobody".to_owned(), |backend| backend.config.name.clone())
}

fn order(group: &Group, user: &str) -> Vec<String> {
    group.ranked(user.as_bytes()).into_iter().map(|backend| backend.config.name.clone()).collect()
}

fn user(number: usize) -> String {
    format!("user{number}@example.org")
}

/// Where everybody is.
fn everybody(group: &Group) -> Vec<String> {
    (0..USERS).map(|number| chosen(group, &user(number))).collect()
}

/// Each backend has the share of its weight among these, give or take two per cent of all.
fn assert_shares<'a>(places: impl Iterator<Item = &'a String>, weights: &[(&str, u32)]) {
    let mut counts: HashMap<&str, u32> = HashMap::new();
    places.for_each(|name| *counts.entry(name).or_default() += 1);
    let all = f64::from(counts.values().sum::<u32>());
    let sum = f64::from(weights.iter().map(|(_, weight)| weight).sum::<u32>());
    for (name, weight) in weights {
        let share = f64::from(counts.remove(name).unwrap_or(0)) / all;
        let due = f64::from(*weight) / sum;
        assert!((share - due).abs() < 0.02, "{name} has {share:.3} instead of {due:.3}");
    }
    assert!(counts.is_empty(), "nobody is elsewhere: {counts:?}");
}

#[test]
fn shares_are_by_weight() {
    for weights in [
        &[("blue", 1), ("green", 1)][..],
        &[("blue", 1), ("green", 2), ("red", 5)],
        &[("blue", 100), ("green", 100), ("red", 100), ("grey", 300)],
        &[("blue", 1), ("green", 1000)],
    ] {
        assert_shares(everybody(&by_hash(weights)).iter(), weights);
    }
}

#[test]
fn similar_names_are_spread_all_the_same() {
    let weights = [("imap1", 1), ("imap2", 1), ("imap3", 1)];
    let group = by_hash(&weights);
    let places: Vec<_> = (0..USERS).map(|number| chosen(&group, &format!("{number:05}"))).collect();
    assert_shares(places.iter(), &weights);
}

/// Reckoned by another program from the same definition. Were a choice to change, a release would move everybody's mail.
#[test]
fn the_choice_never_changes() {
    let group = by_hash(&[("blue", 1), ("green", 2), ("red", 3)]);
    for (user, expected) in EXPECTED {
        assert_eq!(order(&group, user), *expected, "{user}");
    }
}

const EXPECTED: &[(&str, [&str; 3])] = &[
    ("ann@example.org", ["green", "red", "blue"]),
    ("bob@example.org", ["red", "green", "blue"]),
    ("cid@example.org", ["green", "red", "blue"]),
    ("dan", ["red", "blue", "green"]),
    ("eve", ["green", "red", "blue"]),
    ("fay@mail.example", ["green", "red", "blue"]),
    ("jörg@example.org", ["red", "green", "blue"]),
    ("gil", ["red", "blue", "green"]),
    ("jim", ["blue", "red", "green"]),
];

#[test]
fn who_leaves_takes_nobody_along() {
    let weights = [("blue", 1), ("green", 2), ("red", 3)];
    let group = by_hash(&weights);
    let red = named(&group, "red");
    let before = everybody(&group);
    let ways: [(Change, Change); 2] =
        [(bring_down, bring_up), (|backend| backend.set_draining(true), |backend| backend.set_draining(false))];
    for (leave, come_back) in ways {
        leave(red);
        let without = everybody(&group);
        let moved = before.iter().zip(&without).filter(|(before, without)| before != without);
        assert!(moved.clone().all(|(before, _)| before == "red"));
        assert_shares(moved.map(|(_, without)| without), &weights[..2]);
        come_back(red);
        assert_eq!(everybody(&group), before, "and all of them come back");
    }
    let gone = by_hash(&weights[..2]);
    red.set_draining(true);
    assert_eq!(everybody(&gone), everybody(&group), "as if it had never been in the file");
}

#[test]
fn a_weight_counts_at_once_and_sends_away_only_whom_it_must() {
    let group = by_hash(&[("blue", 1), ("green", 2), ("red", 3)]);
    let red = named(&group, "red");
    let before = everybody(&group);
    red.set_weight(Some(1));
    let after = everybody(&group);
    assert_shares(after.iter(), &[("blue", 1), ("green", 2), ("red", 1)]);
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || before == "red"));
    assert_eq!(after, everybody(&by_hash(&[("blue", 1), ("green", 2), ("red", 1)])), "as if the file said so");
    red.set_weight(Some(0));
    assert_eq!(everybody(&group), everybody(&by_hash(&[("blue", 1), ("green", 2)])), "as if it were not in the file");
    red.set_weight(None);
    assert_eq!(everybody(&group), before, "and all of them come back");
}

#[test]
fn one_without_weight_gets_whom_nobody_else_takes() {
    for choose in [Choose::Hash, Choose::LeastSessions, Choose::FirstHealthy] {
        let group = group(choose, &[("blue", 1), ("green", 1)], &[("spare", 1), ("last", 1)]);
        let all_at = |name: &str| (0..100).all(|number| chosen(&group, &user(number)) == name);
        named(&group, "blue").set_weight(Some(0));
        assert!(all_at("green"), "{choose:?}");
        bring_down(named(&group, "green"));
        assert!(all_at("spare"), "{choose:?}: standby first");
        named(&group, "spare").set_weight(Some(0));
        assert!(all_at("last"), "{choose:?}");
        named(&group, "last").set_draining(true);
        assert!(all_at("blue"), "{choose:?}");
        assert!((0..100).all(|number| group.well(user(number).as_bytes()).is_some_and(|at| at.config.name == "blue")));
        bring_down(named(&group, "blue"));
        assert!(all_at("spare"), "{choose:?}");
        for name in ["blue", "green"] {
            bring_up(named(&group, name));
            named(&group, name).set_weight(Some(0));
        }
        named(&group, "spare").set_draining(true);
        if choose != Choose::FirstHealthy {
            assert_shares(everybody(&group).iter(), &[("blue", 1), ("green", 1)]);
        }
    }
}

#[test]
fn a_newcomer_gets_its_share_and_nobody_else_moves() {
    let before = everybody(&by_hash(&[("blue", 1), ("green", 2)]));
    let after = everybody(&by_hash(&[("blue", 1), ("green", 2), ("red", 1)]));
    let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
    assert!(moved.iter().all(|(_, after)| *after == "red"));
    assert!((2300..2700).contains(&moved.len()), "a quarter: {}", moved.len());
    assert_shares(moved.into_iter().map(|(before, _)| before), &[("blue", 1), ("green", 2)]);
}

const NAMES: [&str; 6] = ["blue", "green", "red", "grey", "imap-1", "imap-2"];

/// Two to six members, in any order.
fn some_members() -> impl Strategy<Value = Vec<(&'static str, u32)>> {
    let members = |weights: Vec<u32>| NAMES.into_iter().zip(weights).collect::<Vec<_>>();
    prop::collection::vec(1_u32..100, 2..=NAMES.len()).prop_map(members).prop_shuffle()
}

proptest! {
    #[test]
    fn the_order_in_the_file_does_not_matter(members in some_members(), user in "[a-z.]{1,12}(@[a-z]{1,8})?") {
        let mut sorted = members.clone();
        sorted.sort_unstable();
        prop_assert_eq!(order(&by_hash(&members), &user), order(&by_hash(&sorted), &user));
    }

    #[test]
    fn the_others_keep_their_order(members in some_members(), which in any::<prop::sample::Index>(), user in "[a-z]{1,12}") {
        let mut fewer = members.clone();
        let (gone, _) = fewer.remove(which.index(members.len()));
        let all = by_hash(&members);
        let mut expected = order(&all, &user);
        expected.retain(|name| name != gone);
        prop_assert_eq!(&order(&by_hash(&fewer), &user), &expected, "out of the file");
        bring_down(named(&all, gone));
        prop_assert_eq!(chosen(&all, &user), expected[0].as_str(), "down");
    }

    #[test]
    fn more_weight_draws_users_and_sends_none_away(members in some_members(), which in any::<prop::sample::Index>(), more in 1_u32..100, user in "[a-z]{1,12}") {
        let mut heavier = members.clone();
        let which = which.index(members.len());
        heavier[which].1 += more;
        let (before, after) = (chosen(&by_hash(&members), &user), chosen(&by_hash(&heavier), &user));
        prop_assert!(after == before || after == heavier[which].0);
    }

    #[test]
    fn the_one_with_the_fewest_sessions_for_its_weight(members in some_members(), sessions in prop::collection::vec(0_usize..6, NAMES.len()), user in "[a-z]{1,12}") {
        let group = group(Choose::LeastSessions, &members, &[]);
        let _there: Vec<Vec<Presence>> =
            group.members.iter().zip(&sessions).map(|(member, count)| (0..*count).map(|_| member.enter()).collect()).collect();
        let chosen = group.choose(user.as_bytes()).expect("all are well");
        let load = |backend: &Backend| (backend.sessions() as u64, u64::from(backend.config.weight.get()));
        let (sessions, weight) = load(chosen);
        for (others, other_weight) in group.members.iter().map(|member| load(member)) {
            prop_assert!(sessions * other_weight <= others * weight, "without fractions");
        }
    }
}

#[test]
fn sessions_grow_by_weight() {
    let group = group(Choose::LeastSessions, &[("blue", 1), ("green", 2), ("red", 3)], &[]);
    let mut there = Vec::new();
    for number in 0..600 {
        there.push(group.choose(user(number).as_bytes()).expect("all are well").enter());
    }
    let sessions = |name: &str| named(&group, name).sessions();
    assert_eq!((sessions("blue"), sessions("green"), sessions("red")), (100, 200, 300));
    drop(there);
    assert_eq!(sessions("red"), 0);
}

#[test]
fn the_first_of_many_idle_ones_does_not_get_all_newcomers() {
    let weights = [("blue", 1), ("green", 1), ("red", 1)];
    let idle = group(Choose::LeastSessions, &weights, &[]);
    assert_shares(everybody(&idle).iter(), &weights);
}

#[test]
fn the_least_busy_that_is_down_is_passed_over() {
    let group = group(Choose::LeastSessions, &[("blue", 1), ("green", 1)], &[]);
    let _busy = [named(&group, "blue").enter(), named(&group, "blue").enter()];
    assert_eq!(chosen(&group, "ann"), "green");
    bring_down(named(&group, "green"));
    assert_eq!(chosen(&group, "ann"), "blue");
}

#[test]
fn the_first_that_is_well() {
    // Weights and names do not matter here, the order does.
    let group = group(Choose::FirstHealthy, &[("red", 1), ("blue", 9), ("green", 5)], &[]);
    let all_at = |name: &str| (0..100).all(|number| chosen(&group, &user(number)) == name);
    assert!(all_at("red"));
    named(&group, "red").set_draining(true);
    assert!(all_at("blue"));
    bring_down(named(&group, "blue"));
    assert!(all_at("green"));
    named(&group, "red").set_draining(false);
    assert!(all_at("red"));
}

#[test]
fn standby_steps_in_when_no_member_is_well_and_in_its_order() {
    for choose in [Choose::Hash, Choose::LeastSessions, Choose::FirstHealthy] {
        let group = group(choose, &[("blue", 1), ("green", 1)], &[("spare", 1), ("last", 9)]);
        assert!((0..100).all(|number| ["blue", "green"].contains(&chosen(&group, &user(number)).as_str())));
        bring_down(named(&group, "blue"));
        assert!((0..100).all(|number| chosen(&group, &user(number)) == "green"), "{choose:?}");
        named(&group, "green").set_draining(true);
        let _busy = named(&group, "spare").enter();
        assert!((0..100).all(|number| chosen(&group, &user(number)) == "spare"), "{choose:?}");
        bring_down(named(&group, "spare"));
        assert_eq!(chosen(&group, "ann"), "last", "{choose:?}");
        bring_down(named(&group, "last"));
        assert_eq!(chosen(&group, "ann"), "nobody", "{choose:?}");
        bring_up(named(&group, "blue"));
        assert_eq!(chosen(&group, "ann"), "blue", "{choose:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_down_and_not_probed_is_tried_by_one_user_now_and_then() {
    for choose in [Choose::Hash, Choose::LeastSessions, Choose::FirstHealthy] {
        let mut members = backends(&[("blue", 1), ("green", 1)]);
        let config = config::Backend { health: config::Health::unprobed(), ..members[0].config.clone() };
        let metrics = Metrics::new().expect("distinct names").backend("blue");
        members[0] = Arc::new(Backend::new(config, None, metrics));
        let group = Group::new("eu".to_owned(), members, Vec::new(), choose);
        bring_down(named(&group, "blue"));
        let tries = || everybody(&group).into_iter().filter(|name| name == "blue").count();
        assert_eq!(tries(), 0, "{choose:?}");
        tokio::time::advance(Duration::from_secs(1)).await;
        let well = |number| group.well(user(number).as_bytes()).map(|backend| backend.config.name.as_str());
        assert!((0..100).all(|number| well(number) == Some("green")), "{choose:?}");
        let would = || {
            let asked = (0..100).filter_map(|number| group.would_choose(user(number).as_bytes()));
            asked.filter(|backend| backend.config.name == "blue").count()
        };
        let asked = would();
        assert!(asked > 0, "{choose:?}: whoever asks hears where the next one goes");
        assert_eq!(would(), asked, "{choose:?}: however often");
        assert_eq!(tries(), 1, "{choose:?}: it is still there for who really comes");
        assert_eq!((would(), tries()), (0, 0), "{choose:?}");
        named(&group, "green").set_draining(true);
        assert_eq!(well(0), None, "{choose:?}");
    }
}
