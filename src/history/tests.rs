use std::cell::{Cell, RefCell};

use tokio::time::{sleep, timeout};

use super::*;
use crate::metrics::ListenerReadings;

/// A history that is kept for so many steps, from numbers that `now` makes of the step's.
async fn kept(steps: u32, now: impl Fn(u32) -> (Readings, Vec<BackendSample>)) -> History {
    let history = History::default();
    let step = Cell::new(0);
    let sample = || {
        step.set(step.get() + 1);
        now(step.get())
    };
    let time = STEP * steps + STEP / 2;
    assert!(timeout(time, history.keep(sample)).await.is_err(), "it has ended");
    history
}

fn backend(name: &str, sessions: usize) -> BackendSample {
    BackendSample { name: name.to_owned(), sessions, is_up: sessions.is_multiple_of(2) }
}

/// As if ten have logged in in each step, five of them at blue, and two have failed in every other.
fn busy(step: u32) -> Readings {
    let count = u64::from(step);
    let listener = ListenerReadings { sessions: count, preauth: 0, accepted: count };
    Readings {
        listeners: [("imaps".to_owned(), listener)].into(),
        logins: [("ok".to_owned(), 10 * count), ("no_route".to_owned(), 2 * (count / 2)), ("timeout".to_owned(), 0)]
            .into(),
        backend_logins: [("blue".to_owned(), 5 * count)].into(),
        bytes_to_client: 1000 * count,
        queue: 7,
        ..Readings::default()
    }
}

#[tokio::test(start_paused = true)]
async fn counts_become_rates_and_the_rest_stays_as_it_is() {
    let history = kept(3, |step| (busy(step), vec![backend("blue", step as usize)])).await;
    let shown = history.shown();
    assert_eq!(shown.sessions, [1, 2, 3]);
    assert_eq!(shown.queue, [7, 7, 7]);
    assert_eq!((shown.logins_ok, shown.logins_failed), (vec![1.0; 3], vec![0.0, 0.2, 0.0]));
    assert_eq!(shown.logins_failed_by, [("no_route", vec![0.0, 0.2, 0.0])].into(), "only what occurs");
    assert_eq!((shown.bytes_to_client, shown.bytes_to_backend), (vec![100.0; 3], vec![0.0; 3]));
    let blue = &shown.backends["blue"];
    assert_eq!((&blue.sessions[..], &blue.logins[..]), (&[1, 2, 3][..], &[0.5; 3][..]));
    assert_eq!(blue.is_up, [false, true, false]);
}

#[tokio::test(start_paused = true)]
async fn it_goes_back_an_hour_and_no_further() {
    let history = kept(400, |step| (busy(step), vec![backend("blue", step as usize)])).await;
    let shown = history.shown();
    assert_eq!((shown.sessions.len(), shown.sessions[0], shown.sessions[359]), (360, 41, 400));
    assert_eq!((shown.login_seconds.len(), shown.logins_ok.len(), shown.logins_failed.len()), (360, 360, 360));
    let blue = &shown.backends["blue"].sessions;
    assert_eq!((blue.len(), blue[0], blue[359]), (360, 41, 400));
    let kept = history.kept();
    assert!(kept.steps.len() <= LENGTH + MINUTE && kept.backends["blue"].len() == LENGTH);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_goes_is_forgotten_and_begins_anew_when_it_comes_back() {
    let green = |step| if step == 3 { vec![] } else { vec![backend("green", 1)] };
    let history = kept(5, |step| (busy(step), [vec![backend("blue", 1)], green(step)].concat())).await;
    let shown = history.shown();
    assert_eq!((shown.backends["blue"].sessions.len(), shown.backends["green"].sessions.len()), (5, 2));
    let history = kept(3, |step| (busy(step), green(step))).await;
    assert!(history.shown().backends.is_empty(), "{:?}", history.shown().backends);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_stood_still_makes_no_step_and_no_peak() {
    let history = History::default();
    let samples = RefCell::new(0);
    let keeping = history.keep(|| {
        *samples.borrow_mut() += 1;
        (busy(if *samples.borrow() == 1 { 1 } else { 7 }), Vec::new())
    });
    tokio::pin!(keeping);
    assert!(timeout(STEP + STEP / 2, &mut keeping).await.is_err());
    // Nobody looks at the clock for a minute.
    sleep(STEP * 5).await;
    assert!(timeout(STEP / 10, &mut keeping).await.is_err());
    assert_eq!(history.shown().logins_ok, [1.0, 1.09], "60 logins in 55 seconds");
}

/// One login in each step; those from the 100th step on take longer.
fn slower(step: u32) -> Readings {
    let fast = u64::from(step.min(99));
    let login_seconds = vec![(0.1, fast), (1.0, u64::from(step)), (f64::INFINITY, u64::from(step))];
    Readings { login_seconds, ..Readings::default() }
}

#[tokio::test(start_paused = true)]
async fn how_long_logins_take_is_said_of_what_is_recent() {
    let history = kept(110, |step| (slower(step), Vec::new())).await;
    let steps = history.shown().login_seconds;
    let p50 = |step: usize| steps[step - 1].expect("somebody logs in").p50;
    assert!(p50(1) < 0.1 && p50(99) < 0.1, "{} {}", p50(1), p50(99));
    assert!(p50(105) > 0.5, "a minute later nobody speaks of the fast ones: {}", p50(105));
    // Of five minutes, 30 steps, 11 were slow.
    let recent = history.recent_logins(&slower(110)).expect("somebody logs in");
    assert!(recent.p50 < 0.1 && recent.p95 > 0.5 && recent.p99 > recent.p95, "{recent:?}");
}

#[tokio::test(start_paused = true)]
async fn where_nobody_logs_in_nothing_is_said_of_how_long_it_takes() {
    let history = History::default();
    assert_eq!(history.recent_logins(&Readings::default()), None);
    assert!(history.recent_logins(&slower(3)).is_some(), "of the first seconds it is said at once");
    let history = kept(40, |_| (slower(50), Vec::new())).await;
    assert_eq!(history.recent_logins(&slower(50)), None, "that was more than five minutes ago");
    assert_eq!(history.shown().login_seconds[39], None);
}
