//! The relay: moves bytes between a client and its backend until one of them is done or it is told to leave. It alters
//! none and adds none, but for one BYE at its own end, where the [`Follower`] vouches for the moment. Not here: users,
//! configuration, counters (the streams count themselves), what the bytes mean.

mod copy;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::imap::follower::Follower;
use crate::imap::{Remains, Reset, Spoken, Voice, said};
use crate::notice::Told;
use crate::outcome::{Ending, Leave};
use crate::pulse::{Bytes, Pulse};
use crate::trace::Tap;
use copy::{Found, Half, Heard};

/// How much is read at once, and so the most that one direction can come to hold.
const SCRATCH: usize = 64 * 1024;

/// Once one side has ended, so long without a byte ends the session: what is on its way may still arrive, as long as it moves.
const HALF_CLOSED: Duration = Duration::from_secs(30);

/// A peer that takes nothing for so long while bytes wait for it ends the session.
const WRITE: Duration = Duration::from_mins(5);

/// A session that can be told nothing and is to leave gently does so when nothing has moved for so long.
const QUIET: Duration = Duration::from_secs(1);

/// Longer than any process runs; keeps additions to an [`Instant`] from overflowing.
const FOREVER: Duration = Duration::from_hours(30 * 365 * 24);

thread_local! {
    /// One buffer per worker, lent to whichever session is being polled.
    static WORKER_SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What a relay is to do besides.
#[derive(Debug)]
pub struct Terms<F> {
    /// No byte in either direction for so long ends the session.
    pub idle: Duration,
    /// How long the client of a backend that has died is kept from knowing.
    pub spread: F,
    /// Whether the link is to outlive the session, where it can: what the backend is told is then followed.
    pub keep: bool,
    /// Beats whenever something moves, and is told how much has.
    pub pulse: Arc<Pulse>,
    /// Hears what may be heard of what moves, while somebody wants that.
    pub tap: Tap,
}

/// A link that has outlived its session: nothing on it is unanswered, unread or unwritten.
#[derive(Debug)]
pub struct Kept<B> {
    /// Its stream.
    pub stream: B,
    /// What undoes what the session has left behind.
    pub reset: Reset,
    /// All but what only UNAUTHENTICATE undoes.
    pub marked: bool,
}

/// What became of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// How it ended; what happened first counts.
    pub ending: Ending,
    /// Bytes that the backend's stream took.
    pub to_backend: u64,
    /// Bytes that the client's stream took.
    pub to_client: u64,
    /// LOGOUT or BYE went before: if the backend closed, it has not died. False also where that could not be seen.
    pub logged_out: bool,
}

/// Moves bytes both ways until both directions have ended, a bound is reached, or the session is told to go
/// (`terms.pulse` has its [`crate::notice::Notice`]). Both streams are gone afterwards, but for a backend's that is kept.
///
/// With `terms.keep`, a client that goes away or says LOGOUT leaves its link behind if the [`Follower`] says that it can be
/// used again; the LOGOUT is then answered here and does not reach the backend, which hears nothing of the end.
///
/// [`Told::Leave`] ends the session with that ending and its BYE, as soon as there is a moment for it (see
/// [`Follower::vouches`], or, gently, [`Follower::rests`]) and everything that was read before has been taken; without a word
/// when patience is at its end, or where there can be no such moment any more: at once then, or, gently, when nothing moves.
/// [`Told::Stop`] does the same without waiting for anything.
///
/// A backend that goes without a word has died, most likely with many sessions at once: the client's end is then closed
/// only after the time that `terms.spread` says, so that not all clients come back in one moment.
///
/// Dropping the future closes both connections; bytes that one side had not taken yet are lost.
// Not an `async fn`: that would hold its arguments twice.
pub fn relay<C, B, F>(
    client: C,
    backend: B,
    terms: Terms<F>,
) -> impl Future<Output = (Report, Option<Kept<B>>)> + use<C, B, F>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
    F: Fn() -> Duration,
{
    let mut pair = Pair::new(client, backend, terms);
    async move {
        let mut alarm = pin!(sleep_until(pair.deadline().0));
        let report = poll_fn(|cx| {
            match pair.pulse.notice().hear(cx) {
                None => {}
                Some(Told::Leave(Leave { ending, patience, gently })) => {
                    let until = after(Instant::now(), patience);
                    pair.leaving = Some(Box::new(Leaving { ending, until, gently, said: false }));
                }
                Some(Told::Stop) => return Poll::Ready(pair.stop(cx)),
            }
            if let Poll::Ready(ending) = pair.poll(cx) {
                return Poll::Ready(pair.part(cx, ending));
            }
            poll_deadline(cx, alarm.as_mut(), &pair).map(|ending| pair.part(cx, ending))
        })
        .await;
        (report, pair.into_kept())
    }
}

/// Both streams and both directions between them.
#[derive(Debug)]
struct Pair<C, B, F> {
    client: C,
    backend: B,
    to_backend: Half,
    to_client: Half,
    idle: Duration,
    /// The first thing that happened to either side.
    ending: Option<Ending>,
    /// Hears what is read, not what is taken: each byte in one piece, before the other side can answer it.
    follower: Follower,
    /// Boxed: most never are.
    leaving: Option<Box<Leaving>>,
    /// The backend has died; until then the client is not told. Boxed: few ever do.
    bereft: Option<Box<Instant>>,
    spread: F,
    keeping: Keeping,
    /// Beats when a byte was taken by either side, or a side has ended.
    pulse: Arc<Pulse>,
    tap: Tap,
}

/// Whether the link outlives the session.
#[derive(Debug, Clone, Copy)]
enum Keeping {
    /// No.
    Off,
    /// If it can be used again when the client has gone.
    Hoped,
    /// Yes: nothing is read from it or written to it any more.
    Sure { reset: Reset, marked: bool },
}

/// It was told to leave.
#[derive(Debug)]
struct Leaving {
    ending: Ending,
    until: Instant,
    gently: bool,
    /// The BYE is on its way.
    said: bool,
}

impl<C, B, F> Pair<C, B, F>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
    F: Fn() -> Duration,
{
    fn new(client: C, backend: B, terms: Terms<F>) -> Self {
        let Terms { idle, spread, keep, pulse, tap } = terms;
        pulse.beat(Instant::now(), Bytes::default(), false);
        let mut follower = if keep { Follower::tracking() } else { Follower::default() };
        follower.transcribe(tap.is_wanted());
        Self {
            pulse,
            tap,
            client,
            backend,
            to_backend: if keep { Half::withholding_end() } else { Half::default() },
            to_client: Half::withholding_end(),
            idle,
            ending: None,
            follower,
            leaving: None,
            bereft: None,
            spread,
            keeping: if keep { Keeping::Hoped } else { Keeping::Off },
        }
    }

    /// Ready: both directions have ended, or the leave is taken.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        let mut scratch = WORKER_SCRATCH.take();
        if scratch.is_empty() {
            scratch = vec![0; SCRATCH];
        }
        let before = (self.to_backend.moved(), self.to_client.moved(), self.ending);
        if let Some(wanted) = self.tap.turn() {
            self.follower.transcribe(wanted);
            self.tap.hear(self.follower.spoken());
        }
        let done = loop {
            let hear = |bytes: &[u8]| {
                let passed = self.follower.from_client(bytes);
                self.tap.hear(self.follower.spoken());
                Heard { passed, stop: self.follower.logout() }
            };
            let to_backend = self.to_backend.poll(cx, &mut self.client, &mut self.backend, &mut scratch, hear);
            let hear = |bytes: &[u8]| {
                self.follower.from_backend(bytes);
                self.tap.hear(self.follower.spoken());
                Heard { passed: bytes.len(), stop: false }
            };
            let to_client = self.to_client.poll(cx, &mut self.backend, &mut self.client, &mut scratch, hear);
            if !self.learn() && !self.mourn() && !self.settle() && !self.take_leave() {
                break to_backend.is_ready() && to_client.is_ready();
            }
        };
        WORKER_SCRATCH.set(scratch);
        if (self.to_backend.moved(), self.to_client.moved(), self.ending) != before {
            let moved = Bytes { to_backend: self.to_backend.moved(), to_client: self.to_client.moved() };
            self.pulse.beat(Instant::now(), moved, self.follower.idles());
        }
        match (self.ending, self.leaving.as_deref()) {
            (Some(ending), _) if done || self.is_settled() => Poll::Ready(ending),
            (ending, Some(leaving)) if self.has_left(leaving) => Poll::Ready(ending.unwrap_or(leaving.ending)),
            _ => Poll::Pending,
        }
    }

    /// Passes the backend's end on, at once where it was to be expected. True: the halves should be polled once more.
    fn mourn(&mut self) -> bool {
        if self.to_client.found().is_none() {
            return false;
        }
        let died = matches!(self.ending, Some(Ending::BackendClosed | Ending::BackendReset));
        if !died || self.follower.logged_out() || self.to_backend.found() == Some(Found::End) {
            return self.to_client.pass_end();
        }
        let now = Instant::now();
        let spread = &self.spread;
        let until = self.bereft.get_or_insert_with(|| Box::new(now + spread()));
        **until <= now && self.to_client.pass_end()
    }

    /// Where the link is to be kept: once the client has gone or wants to, decides whether it can be. True: the halves should
    /// be polled once more.
    fn settle(&mut self) -> bool {
        if !matches!(self.keeping, Keeping::Hoped) {
            return false;
        }
        let gone = matches!(self.to_backend.found(), Some(Found::End | Found::ReadFailed));
        let broken = self.to_backend.found() == Some(Found::ReadFailed);
        // The backend has ended, or the client takes nothing any more, and what it would have been told is not heard either.
        if self.to_client.found().is_some() || self.leaving.is_some() || self.to_backend.is_over() {
            return self.give_up_link();
        }
        if !gone && !self.follower.logout() {
            return false;
        }
        let (reset, marked) = match self.follower.remains() {
            Remains::Clean(reset) => (reset, false),
            Remains::Marked(reset) => (reset, true),
            // The answers may still come, and then it is another question.
            Remains::Dirty(_) if self.follower.in_flight() && !broken && !(gone && self.follower.is_in_command()) => {
                return false;
            }
            Remains::Dirty(_) => return self.give_up_link(),
        };
        if self.to_backend.is_held_up() || !(self.to_client.is_clear() || broken) {
            return false;
        }
        // Also a client that has only ended its own side is still to hear all of the last answer.
        let last = match self.follower.logout_tag() {
            Some(tag) => {
                if self.tap.is_wanted() {
                    self.tap.hear(vec![Spoken::new(Voice::Client, &[tag, b" LOGOUT"].concat())]);
                }
                [b"* BYE Logging out\r\n", tag, b" OK Logout completed.\r\n"].concat()
            }
            None => Vec::new(),
        };
        self.say_last(&last);
        self.ending.get_or_insert(Ending::ClientLogout);
        self.keeping = Keeping::Sure { reset, marked };
        true
    }

    /// The backend hears from now on all that the client says, its LOGOUT and its end too.
    fn give_up_link(&mut self) -> bool {
        self.keeping = Keeping::Off;
        self.follower.release_logout();
        self.to_backend.resume();
        self.to_backend.pass_end();
        true
    }

    /// The link is kept, and the client has heard all or cannot hear any more.
    fn is_settled(&self) -> bool {
        let broken = self.to_backend.found() == Some(Found::ReadFailed);
        matches!(self.keeping, Keeping::Sure { .. }) && (broken || self.to_client.is_over())
    }

    fn into_kept(self) -> Option<Kept<B>> {
        match self.keeping {
            Keeping::Sure { reset, marked } if self.leaving.is_none() => {
                Some(Kept { stream: self.backend, reset, marked })
            }
            _ => None,
        }
    }

    /// Goes on with leaving, if that was asked for. True: the halves should be polled once more.
    fn take_leave(&mut self) -> bool {
        let Some(leaving) = &mut self.leaving else { return false };
        if leaving.said {
            // Bytes of the client that are still unread would make the close a reset, which may overtake the BYE.
            return self.to_client.is_done() && self.to_backend.is_held_up() && self.to_backend.lose_writer();
        }
        // After a BYE of the backend's the end comes by itself.
        let is_moment = if leaving.gently { self.follower.rests() } else { self.follower.vouches() };
        if !self.to_client.is_clear() || !is_moment || self.follower.said_bye() {
            return false;
        }
        leaving.said = true;
        let bye = leaving.ending.bye().unwrap_or_default();
        self.say_last(bye);
        true
    }

    /// The client hears this, and then the end.
    fn say_last(&mut self, words: &[u8]) {
        if self.tap.is_wanted() {
            self.tap.hear(said(words).collect());
        }
        self.to_client.end_with(words);
    }

    /// Nothing is left to wait for.
    fn has_left(&self, leaving: &Leaving) -> bool {
        if leaving.said {
            self.to_client.is_done() && (self.to_backend.is_done() || !self.to_backend.is_over())
        } else {
            (self.follower.doubts() && !leaving.gently) || self.to_client.is_over()
        }
    }

    /// Leaves now: says BYE if this happens to be a moment for it and the client takes it at once.
    fn stop(&mut self, cx: &mut Context<'_>) -> Report {
        let leaving = Leaving { ending: Ending::Stopping, until: self.pulse.last(), gently: false, said: false };
        self.leaving.get_or_insert_with(|| Box::new(leaving)).gently = false;
        if self.take_leave() {
            // Whether the client took it is its own affair.
            let _ = self.to_client.poll_end(cx, &mut self.client);
        }
        let told = self.leaving.as_ref().is_some_and(|leaving| leaving.said);
        self.part(cx, if told { Ending::Stopping } else { Ending::CutOff })
    }

    /// Notes who ended first. A connection that cannot be read any more cannot be written either: true when the other
    /// half had to be told so and should be polled once more.
    fn learn(&mut self) -> bool {
        let from_client = self.to_backend.found();
        let from_backend = self.to_client.found();
        let first = match (from_client, from_backend) {
            (Some(Found::End), _) => Some(Ending::ClientClosed),
            (Some(Found::ReadFailed), _) | (_, Some(Found::WriteFailed)) => Some(Ending::ClientReset),
            (_, Some(Found::End)) => Some(Ending::BackendClosed),
            (_, Some(Found::ReadFailed)) | (Some(Found::WriteFailed), _) => Some(Ending::BackendReset),
            (None, None) => None,
        };
        self.ending = self.ending.or(first);
        // Where the link may be kept, nothing is read from it unheard.
        let hoped = matches!(self.keeping, Keeping::Hoped);
        let client_gone = from_client == Some(Found::ReadFailed) && !hoped && self.to_client.lose_writer();
        let backend_gone = from_backend == Some(Found::ReadFailed) && self.to_backend.lose_writer();
        client_gone || backend_gone
    }

    /// The next moment at which patience ends, and what the session has then come to.
    fn deadline(&self) -> (Instant, Ending) {
        let progress = self.pulse.last();
        let quiet = match self.ending {
            // Its LOGOUT is held back until a command is answered, which the backend has no reason to hurry.
            None if self.follower.logout() => (after(progress, HALF_CLOSED), Ending::ClientLogout),
            None => (after(progress, self.idle), Ending::IdleTimeout),
            Some(ending) => (after(progress, HALF_CLOSED), ending),
        };
        let quiet = match self.leaving.as_deref() {
            Some(leaving) if leaving.gently && self.follower.doubts() => {
                (leaving.until.min(progress + QUIET), self.ending.unwrap_or(leaving.ending))
            }
            Some(leaving) if leaving.until < quiet.0 => (leaving.until, self.ending.unwrap_or(leaving.ending)),
            _ => quiet,
        };
        let quiet = match self.bereft.as_deref().copied().zip(self.ending) {
            Some((until, ending)) if self.to_client.awaits_end() && until < quiet.0 => (until, ending),
            _ => quiet,
        };
        let stalled = [&self.to_backend, &self.to_client].into_iter().filter_map(Half::stalled).min();
        match stalled.map(|since| after(since, WRITE)) {
            Some(at) if at < quiet.0 => (at, Ending::WriteTimeout),
            _ => quiet,
        }
    }

    /// Takes leave of whoever is still there.
    fn part(&mut self, cx: &mut Context<'_>, ending: Ending) -> Report {
        if !matches!(self.keeping, Keeping::Sure { .. }) {
            self.to_backend.part(cx, &mut self.backend);
        }
        self.to_client.part(cx, &mut self.client);
        Report {
            ending,
            to_backend: self.to_backend.moved(),
            to_client: self.to_client.moved(),
            logged_out: self.follower.logged_out(),
        }
    }
}

/// One timer for all bounds. It is set forward when a bound comes nearer, and put off only when it has fired: progress
/// costs no timer.
fn poll_deadline<C, B, F>(cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>, pair: &Pair<C, B, F>) -> Poll<Ending>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
    F: Fn() -> Duration,
{
    let (at, ending) = pair.deadline();
    if at < timer.deadline() {
        timer.as_mut().reset(at);
    }
    while timer.as_mut().poll(cx).is_ready() {
        if at <= Instant::now() {
            return Poll::Ready(ending);
        }
        timer.as_mut().reset(at);
    }
    Poll::Pending
}

fn after(instant: Instant, time: Duration) -> Instant {
    instant + time.min(FOREVER)
}

#[cfg(test)]
mod tests;
