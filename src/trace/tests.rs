use std::future::poll_fn;

use super::*;
use crate::imap::{Spoken, Voice};

fn user(name: &str) -> UserName {
    UserName::new(name.as_bytes()).expect("a name")
}

fn line(text: &str) -> Vec<Spoken> {
    vec![Spoken::new(Voice::Client, text.as_bytes())]
}

async fn next(trace: &mut Trace) -> Option<String> {
    poll_fn(|cx| trace.poll_next(cx)).await
}

/// The next lines, up to the end of the trace; without their times, which are the machine's.
async fn rest(trace: &mut Trace) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(text) = next(trace).await {
        lines.extend(text.lines().map(|line| line.split_once("Z ").map_or(line, |(_, line)| line).to_owned()));
    }
    lines
}

fn begin(traces: &Arc<Traces>, most: u64) -> Trace {
    traces.begin(&user("Ann"), Duration::from_mins(5), most).expect("room")
}

#[tokio::test(start_paused = true)]
async fn a_trace_shows_its_user_from_its_first_word_and_nobody_else_and_ends_in_time() {
    let traces = Arc::default();
    let mut early = Tap::new(&traces, &"early".into());
    assert_eq!(early.turn(), None, "nobody looks");
    early.known_as(&user("ann"));
    let mut trace = begin(&traces, 10_000);
    let mut ann = Tap::new(&traces, &"s1".into());
    let mut bob = Tap::new(&traces, &"s2".into());
    for tap in [&mut ann, &mut bob] {
        assert_eq!(tap.turn(), Some(true), "it may become anybody's");
        tap.hear(line("a LOGIN ***"));
    }
    ann.known_as(&user("ANN"));
    bob.known_as(&user("bob"));
    assert!(ann.is_wanted() && !bob.is_wanted());
    ann.hear(line("b NOOP"));
    bob.hear(line("b SELECT secrets"));
    drop((ann, bob));
    assert_eq!(early.turn(), Some(true));
    early.hear(line("c NOOP"));
    let began = Instant::now();
    assert_eq!(
        rest(&mut trace).await,
        [
            "# the sessions of Ann, for 300 s or 10000 bytes",
            "s1 client→ a LOGIN ***",
            "s1 client→ b NOOP",
            "s1 — no more of this session",
            "early client→ c NOOP",
            "# the end: its time is over",
        ]
    );
    assert_eq!(began.elapsed(), Duration::from_mins(5));
    drop(trace);
    assert_eq!(early.turn(), Some(false), "nobody looks any more");
}

#[tokio::test(start_paused = true)]
async fn it_is_bounded_in_size() {
    let traces = Arc::default();
    let mut trace = begin(&traces, 200);
    let mut tap = Tap::new(&traces, &"s1".into());
    tap.known_as(&user("ann"));
    for _ in 0..10 {
        tap.hear(line("a NOOP"));
    }
    let began = Instant::now();
    let lines = rest(&mut trace).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(lines.last().expect("a line"), "# the end: so many bytes were asked for");
    assert!((3..10).contains(&lines.len()), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_costs_lines_and_nothing_else() {
    let traces = Arc::default();
    let mut trace = begin(&traces, u64::MAX);
    let mut tap = Tap::new(&traces, &"s1".into());
    tap.known_as(&user("ann"));
    let all = 100_000_u64;
    for _ in 0..all {
        tap.hear(line("a NOOP"));
    }
    assert!(trace.sink.waiting.load(Ordering::Acquire) <= WAITING);
    assert!(next(&mut trace).await.is_some_and(|line| line.starts_with('#')));
    let mut seen = 0;
    while trace.sink.waiting.load(Ordering::Acquire) > 0 {
        assert!(next(&mut trace).await.is_some_and(|line| line.ends_with("client→ a NOOP\n")));
        seen += 1;
    }
    tap.hear(line("b NOOP"));
    let behind = next(&mut trace).await.expect("a line");
    let words = format!("… {} lines lost\n", all - seen);
    assert!(behind.starts_with(&words) && behind.ends_with("client→ b NOOP\n"), "{behind} for {words}");
}

#[tokio::test(start_paused = true)]
async fn there_are_so_many_at_once_and_one_that_is_over_makes_room() {
    let traces: Arc<Traces> = Arc::default();
    let begun: Vec<_> = (0..MOST).map(|_| begin(&traces, 1)).collect();
    let next = || traces.begin(&user("bob"), Duration::from_mins(1), 1);
    assert_eq!(next().err(), Some(TooMany));
    drop(begun);
    let _unread: Vec<_> = (0..MOST).map(|_| begin(&traces, 1)).collect();
    tokio::time::advance(Duration::from_mins(5)).await;
    assert!(next().is_ok(), "nobody reads that they are over, but they are");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_tries_another_name_is_another_users() {
    let traces = Arc::default();
    let mut trace = begin(&traces, 10_000);
    let mut tap = Tap::new(&traces, &"s1".into());
    tap.known_as(&user("bob"));
    tap.hear(line("a not shown"));
    tap.known_as(&user("ann"));
    tap.hear(line("b shown"));
    tap.known_as(&user("cid"));
    tap.hear(line("c not shown"));
    let shown = rest(&mut trace).await;
    assert_eq!(shown[1..3], ["s1 client→ b shown", "s1 — no more of this session"]);
    assert_eq!(shown.len(), 4, "{shown:?}");
}
