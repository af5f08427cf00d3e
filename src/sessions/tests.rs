//! Who is in, who is held back, who is told to leave, and what is seen of them.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::config::{self, Config};
use crate::imap::Mechanism;
use crate::metrics::Metrics;
use crate::notice::Told;
use crate::pulse::{Bytes, State};

fn ann() -> UserName {
    user("Ann")
}

fn user(name: &str) -> UserName {
    UserName::new(name.as_bytes()).expect("a name")
}

/// Takes a place, as a client at 192.0.2.1 does.
async fn enter(sessions: &Arc<Sessions>, name: &str, id: &str) -> Ticket {
    enter_from(sessions, name, id, "192.0.2.1:4000").await
}

async fn enter_from(sessions: &Arc<Sessions>, name: &str, id: &str, client: &str) -> Ticket {
    let (id, listener) = (id.into(), "imaps".into());
    let arrival = Arrival {
        user: &user(name),
        id: &id,
        listener: &listener,
        client: client.parse().expect("an address"),
        mechanism: Mechanism::Plain,
        tls: Some(Tls::of("TLSv1.2")),
    };
    sessions.enter(arrival).await
}

/// The ids of those who match.
async fn ids(sessions: &Sessions, filter: &Filter) -> Vec<String> {
    let page = sessions.page(filter, 0, 1000).await;
    assert_eq!((page.total, page.next), (page.items.len(), None));
    page.items.iter().map(|seen| seen.id.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_held_user_waits_and_others_do_not() {
    let sessions = Arc::new(Sessions::default());
    sessions.hold(&ann(), Duration::from_mins(1));
    let _bob = enter(&sessions, "bob", "1").await;
    assert!(timeout(Duration::from_secs(5), enter(&sessions, "Ann", "2")).await.is_err());
    let waiting = enter(&sessions, "Ann", "3");
    let release = async { sessions.release(&user("ann")) };
    let (ticket, released) = tokio::join!(waiting, release);
    assert!(released);
    assert_eq!(sessions.of_user(&ann()), 1);
    drop(ticket);
    assert_eq!(sessions.users.len(), 1, "only bob is known");
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_nobody_releases_ends() {
    let sessions = Arc::new(Sessions::default());
    sessions.hold(&ann(), Duration::from_mins(1));
    let began = Instant::now();
    let _ticket = enter(&sessions, "ann", "1").await;
    assert_eq!(began.elapsed(), Duration::from_mins(1));
}

#[tokio::test(start_paused = true)]
async fn who_is_in_is_told_and_waited_for() {
    let sessions = Arc::new(Sessions::default());
    let tickets = [enter(&sessions, "Ann", "1").await, enter(&sessions, "Ann", "2").await];
    assert_eq!(sessions.dismiss_user(&ann(), Ending::Stopping), 2);
    assert_eq!(sessions.dismiss_user(&ann(), Ending::Kicked), 0, "once is enough");
    for ticket in &tickets {
        assert_eq!(told(ticket).await, Told::Leave(soon(Ending::Stopping)));
    }
    let gone = sessions.until(|sessions| sessions.of_user(&ann()) == 0);
    let leaving = async {
        for ticket in tickets {
            tokio::task::yield_now().await;
            drop(ticket);
        }
    };
    timeout(Duration::from_secs(1), async { tokio::join!(gone, leaving) }).await.expect("both are gone");
    assert!(sessions.users.is_empty());
}

/// What a session is told next.
async fn told(ticket: &Ticket) -> Told {
    let pulse = ticket.pulse();
    poll_fn(|cx| pulse.notice().hear(cx).map_or(Poll::Pending, Poll::Ready)).await
}

/// Sessions of which each leaves as soon as it is told; when that was, in seconds.
async fn seen_off(sessions: &Arc<Sessions>, count: u64, time: u64) -> Vec<(u64, u64)> {
    let began = Instant::now();
    let mut tickets = Vec::new();
    for number in 0..count {
        let ticket = enter(sessions, &format!("user{number}"), "1").await;
        ticket.pulse().beat(began + Duration::from_millis(count - number), Bytes::default(), false);
        tickets.push((number, ticket));
    }
    let (left, mut leaving) = tokio::sync::mpsc::unbounded_channel();
    let everybody = tickets.into_iter().map(|(number, ticket)| {
        let left = left.clone();
        async move {
            let Told::Leave(leave) = told(&ticket).await else { panic!("told to stop") };
            assert!(leave.gently && leave.ending == Ending::Stopping);
            left.send((number, began.elapsed().as_secs())).expect("heard");
            drop(ticket);
        }
    });
    let everybody: tokio::task::JoinSet<()> = everybody.collect();
    sessions.see_off(Instant::now() + Duration::from_secs(time), |_| ()).await;
    everybody.join_all().await;
    drop(left);
    let mut order = Vec::new();
    while let Some(event) = leaving.recv().await {
        order.push(event);
    }
    order
}

#[tokio::test(start_paused = true)]
async fn everybody_is_seen_off_in_even_steps_the_quietest_first() {
    let sessions = Arc::default();
    let order = seen_off(&sessions, 100, 100).await;
    // The last one moved longest ago.
    assert!(order.iter().map(|(number, _)| *number).eq((0..100).rev()), "{order:?}");
    for tenth in 0..9 {
        let then = order.iter().filter(|(_, at)| at / 10 == tenth).count();
        assert!((9..=13).contains(&then), "{then} in tenth {tenth}: {order:?}");
    }
    assert!(order.iter().all(|(_, at)| *at <= 91), "{order:?}");
    assert!(sessions.users.is_empty());
}

#[tokio::test(start_paused = true)]
async fn few_are_not_seen_off_at_once() {
    let order = seen_off(&Arc::default(), 2, 100).await;
    assert!(order[0].1 >= 30 && order[1].1 <= 91, "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_leave_is_not_waited_for() {
    let sessions: Arc<Sessions> = Arc::default();
    let _ticket = enter(&sessions, "ann", "1").await;
    let began = Instant::now();
    sessions.see_off(began + Duration::from_secs(10), |left| assert_eq!(left, 1)).await;
    assert_eq!(began.elapsed().as_secs(), 10);
}

/// A backend that nobody speaks to.
fn backend(name: &str) -> Arc<Backend> {
    let file = format!(
        "[[listener]]\nname = \"imaps\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n[[backend]]\nname = \"{name}\"\n\
         address = \"127.0.0.1:1\"\ntls = \"none\"\n[[route]]\nbackend = \"{name}\"\n"
    );
    let config = Config::parse(&file, "mailmux.toml".as_ref()).unwrap_or_else(|findings| panic!("{findings}"));
    let metrics = Metrics::new().expect("no name twice");
    let settings: config::Backend = config.backends[0].clone();
    Arc::new(Backend::new(settings, None, metrics.backend(name)))
}

#[tokio::test(start_paused = true)]
async fn a_session_is_seen_as_it_is() {
    let sessions = Arc::default();
    let ticket = enter_from(&sessions, "J\u{f6}RG\t", "abc", "[2001:db8::7]:4000").await;
    let seen = async || sessions.page(&Filter::default(), 0, 1).await.items.remove(0);
    let first = seen().await;
    assert_eq!((&*first.id, first.user.as_str()), ("abc", r"j\xc3\xb6rg\t"), "as in the log");
    assert_eq!((first.client.to_string().as_str(), &*first.listener), ("[2001:db8::7]:4000", "imaps"));
    assert_eq!((first.mechanism, first.tls, first.backend), (Mechanism::Plain, Some("1.2"), None));
    assert_eq!((first.state, first.bytes), (State::LoggingIn, Bytes::default()));
    ticket.bound_for(&backend("blue"));
    ticket.let_in();
    tokio::time::advance(Duration::from_secs(30)).await;
    let second = seen().await;
    assert_eq!((second.state, second.backend.as_deref()), (State::Active, Some("blue")));
    assert_eq!((second.lasted, second.quiet), (Duration::from_secs(30), Duration::from_secs(30)));
    let moved = Bytes { to_backend: 7, to_client: 8 };
    ticket.pulse().beat(Instant::now(), moved, true);
    tokio::time::advance(Duration::from_secs(5)).await;
    let third = seen().await;
    assert_eq!((third.state, third.bytes), (State::Idle, moved));
    assert_eq!((third.lasted, third.quiet), (Duration::from_secs(35), Duration::from_secs(5)));
    ticket.bound_nowhere();
    assert_eq!(seen().await.backend, None);
}

#[tokio::test]
async fn all_that_is_given_must_match() {
    let sessions = Arc::default();
    let (blue, green) = (backend("blue"), backend("green"));
    let one = enter_from(&sessions, "ann", "1", "192.0.2.1:1").await;
    let two = enter_from(&sessions, "Ann", "2", "192.0.2.9:2").await;
    let three = enter_from(&sessions, "bob", "3", "192.0.2.1:3").await;
    let four = enter_from(&sessions, "cid", "4", "[2001:db8::1]:4").await;
    one.bound_for(&blue);
    two.bound_for(&green);
    three.bound_for(&blue);
    four.let_in();
    let network = |text: &str| Some(config::network(text).expect("a network"));
    let some = |text: &str| Some(text.to_owned());
    let all = Filter::default();
    for (filter, expected) in [
        (all.clone(), &["1", "2", "3", "4"][..]),
        (Filter::of_user(ann()), &["1", "2"]),
        (Filter { network: network("192.0.2.0/29"), ..all.clone() }, &["1", "3"]),
        (Filter { network: network("192.0.2.9"), ..all.clone() }, &["2"]),
        (Filter { network: network("2001:db8::/32"), ..all.clone() }, &["4"]),
        (Filter { backend: some("blue"), ..all.clone() }, &["1", "3"]),
        (Filter { listener: some("imaps"), ..all.clone() }, &["1", "2", "3", "4"]),
        (Filter { listener: some("imap"), ..all.clone() }, &[]),
        (Filter { state: Some(State::Active), ..all.clone() }, &["4"]),
        (Filter { id: some("3"), ..all.clone() }, &["3"]),
        (Filter { backend: some("blue"), network: network("192.0.2.1"), ..Filter::of_user(ann()) }, &["1"]),
        (Filter { id: some("3"), ..Filter::of_user(ann()) }, &[]),
        (Filter::of_user(user("nobody")), &[]),
    ] {
        assert_eq!(ids(&sessions, &filter).await, expected, "{filter:?}");
    }
    let filter = Filter { backend: some("blue"), ..Filter::of_user(ann()) };
    let dismissed = sessions.dismiss(&filter, Ending::Kicked).await;
    assert_eq!((dismissed.met, dismissed.told), (1, 1));
    assert!(dismissed.users.iter().eq([&Arc::from(*b"ann")]));
    assert_eq!([&one, &two, &three, &four].map(Ticket::is_told), [true, false, false, false]);
    let again = sessions.dismiss(&filter, Ending::Kicked).await;
    assert_eq!((again.met, again.told), (1, 0));
}

#[tokio::test]
async fn whoever_comes_while_others_are_told_to_leave_stays() {
    let sessions: Arc<Sessions> = Arc::default();
    let mut tickets = Vec::new();
    for number in 0..1000 {
        tickets.push(enter(&sessions, &format!("user{number}"), "1").await);
    }
    let all = Filter { listener: Some("imaps".to_owned()), ..Filter::default() };
    let dismissing = sessions.dismiss(&all, Ending::Kicked);
    // It has its turn between two pieces.
    let comes = async { enter(&sessions, "ann", "new").await };
    let (dismissed, new) = tokio::join!(dismissing, comes);
    assert_eq!((dismissed.told, dismissed.users.len()), (1000, 1000));
    assert!(!new.is_told());
}

#[tokio::test]
async fn pages_show_everybody_once_while_others_come_and_go() {
    let sessions: Arc<Sessions> = Arc::default();
    let filters = [Filter::default(), Filter { listener: Some("imaps".to_owned()), ..Filter::default() }];
    let (mut stay, mut go) = (Vec::new(), Vec::new());
    for number in 0..2000 {
        let ticket = enter(&sessions, &format!("user{}", number % 700), &number.to_string()).await;
        if number % 2 == 0 { stay.push(ticket) } else { go.push(ticket) }
    }
    for filter in filters {
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let page = sessions.page(&filter, after, 97).await;
            assert_eq!(page.total, sessions.count());
            seen.extend(page.items.iter().map(|seen| seen.id.parse::<usize>().expect("a number")));
            let Some(next) = page.next else { break };
            assert_eq!(page.items.len(), 97);
            after = next;
            go.truncate(go.len().saturating_sub(40));
            go.push(enter(&sessions, "late", &(5000 + go.len()).to_string()).await);
        }
        assert!(seen.is_sorted_by(|one, other| one < other || *one >= 5000), "in the order in which they came");
        let stayed: Vec<_> = seen.into_iter().filter(|number| *number < 2000 && number % 2 == 0).collect();
        assert!(stayed.into_iter().eq((0..2000).step_by(2)));
    }
    drop((stay, go));
    assert_eq!((sessions.count(), sessions.users.len()), (0, 0));
}

/// Names and numbers of sessions of all pages of so many.
async fn users(sessions: &Sessions, sort: Sort, known: &[&str], most: usize) -> Vec<(String, usize)> {
    let (mut after, mut all) = (None, Vec::new());
    loop {
        let known = known.iter().map(|name| name.as_bytes().into()).collect();
        let page = sessions.users(sort, false, known, after, most).await;
        all.extend(page.items.iter().map(|seen| (seen.shown(), seen.sessions)));
        let Some(next) = page.next else {
            assert_eq!(page.total, all.len());
            return all;
        };
        assert_eq!(page.items.len(), most);
        after = Some(next.to_string().parse().expect("what it was"));
    }
}

#[tokio::test(start_paused = true)]
async fn users_are_ranked() {
    let sessions: Arc<Sessions> = Arc::default();
    let mut tickets = Vec::new();
    for (name, bytes) in [("cid", 5), ("ann", 30), ("bob", 40), ("Ann", 30), ("dan", 0)] {
        let ticket = enter(&sessions, name, "1").await;
        ticket.pulse().beat(Instant::now(), Bytes { to_backend: bytes, to_client: 1 }, false);
        tickets.push(ticket);
    }
    sessions.hold(&user("eve"), Duration::from_mins(1));
    sessions.hold(&ann(), Duration::from_mins(2));
    let known = ["ann", "eve", "fay"];
    for most in [1, 2, 3, 6, 7] {
        let rows = users(&sessions, Sort::Name, &known, most).await;
        let by_name = [("ann", 2), ("bob", 1), ("cid", 1), ("dan", 1), ("eve", 0), ("fay", 0)];
        assert_eq!(rows, by_name.map(|(name, sessions)| (name.to_owned(), sessions)));
        let names = async |sort| users(&sessions, sort, &known, most).await.into_iter().map(|(name, _)| name);
        assert!(names(Sort::Bytes).await.eq(["ann", "bob", "cid", "dan", "eve", "fay"]));
        assert!(names(Sort::Sessions).await.eq(["ann", "bob", "cid", "dan", "eve", "fay"]));
    }
    tickets[2].pulse().beat(Instant::now(), Bytes { to_backend: 70, to_client: 0 }, false);
    assert_eq!(users(&sessions, Sort::Bytes, &[], 1).await[0].0, "bob");

    let held = sessions.users(Sort::Name, true, vec![b"fay"[..].into()], None, 10).await;
    let left = |seen: &SeenUser| seen.held_until.expect("held").duration_since(std::time::SystemTime::now());
    let names: Vec<_> = held.items.iter().map(SeenUser::shown).collect();
    assert_eq!((held.total, names), (2, vec!["ann".to_owned(), "eve".to_owned()]));
    assert!((Duration::from_secs(110)..=Duration::from_mins(2)).contains(&left(&held.items[0]).expect("later")));
    let seen = sessions.user(&ann()).expect("known");
    assert_eq!((seen.sessions, seen.bytes), (2, Bytes { to_backend: 60, to_client: 2 }));
    assert_eq!(sessions.user(&user("fay")), None);

    tokio::time::advance(Duration::from_mins(1)).await;
    assert_eq!(sessions.user(&user("eve")), None, "the hold is over");
    assert_eq!(sessions.users(Sort::Name, true, Vec::new(), None, 10).await.total, 1);
    assert!(!sessions.users.contains_key(&user("eve").normalised()), "and forgotten");
}

#[test]
fn what_is_no_users_place_is_refused() {
    for text in ["", "-", "x-61", "1", "1-6", "1-6g", "-1-61", "1-+1", "99999999999999999999-61"] {
        assert_eq!(text.parse::<Rank>(), Err(NoRank), "{text}");
    }
    assert_eq!("12-00ff".parse::<Rank>().map(|rank| rank.to_string()).as_deref(), Ok("12-00ff"));
}
