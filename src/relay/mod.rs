//! The relay: moves bytes between a client and its backend until one of them is done. It does not look at them. Not
//! here: users, configuration, counters (the streams count themselves), IMAP.

mod copy;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::outcome::Ending;
use crate::process::Phase;
use copy::{Found, Half};

/// How much is read at once, and so the most that one direction can come to hold.
const SCRATCH: usize = 64 * 1024;

/// Longer than any process runs; keeps additions to an [`Instant`] from overflowing.
const FOREVER: Duration = Duration::from_hours(30 * 365 * 24);

thread_local! {
    /// One buffer per worker, lent to whichever session is being polled.
    static WORKER_SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The bounds on a relay's patience.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// No byte in either direction for so long ends the session.
    pub idle: Duration,
    /// The same once one side has ended: what is on its way may still arrive, as long as it moves.
    pub half_closed: Duration,
    /// A peer that takes nothing for so long while bytes wait for it ends the session.
    pub write: Duration,
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
}

/// Moves bytes both ways until both directions have ended, a bound is reached, or `stop` says [`Phase::Stopped`]. Both
/// streams are gone afterwards. Draining is of no interest here: without reading IMAP there is no moment at which
/// ending a session would be polite.
///
/// Dropping the future closes both connections; bytes that one side had not taken yet are lost.
// Not an `async fn`: that would hold its arguments twice.
pub fn relay<C, B>(
    client: C,
    backend: B,
    times: Times,
    stop: watch::Receiver<Phase>,
) -> impl Future<Output = Report> + use<C, B>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut pair = Pair::new(client, backend, times);
    async move {
        let mut alarm = pin!(sleep_until(pair.deadline().0));
        let mut stopped = pin!(stopped(&stop));
        let mut known_to: Option<Waker> = None;
        poll_fn(|cx| {
            // Polling a watch takes a lock that all sessions share. It is enough to do so once for each waker, which
            // is once for each task, and when the phase has changed.
            let known = known_to.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
            if !known || stop.has_changed().unwrap_or(false) {
                if stopped.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(pair.part(cx, Ending::Stopping));
                }
                known_to = Some(cx.waker().clone());
            }
            if let Poll::Ready(ending) = pair.poll(cx) {
                return Poll::Ready(pair.part(cx, ending));
            }
            poll_deadline(cx, alarm.as_mut(), &pair).map(|ending| pair.part(cx, ending))
        })
        .await
    }
}

/// Both streams and both directions between them.
#[derive(Debug)]
struct Pair<C, B> {
    client: C,
    backend: B,
    to_backend: Half,
    to_client: Half,
    times: Times,
    /// The last time that a byte was taken by either side, or that a side ended.
    progress: Instant,
    /// The first thing that happened to either side.
    ending: Option<Ending>,
}

impl<C, B> Pair<C, B>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    fn new(client: C, backend: B, times: Times) -> Self {
        Self {
            client,
            backend,
            to_backend: Half::default(),
            to_client: Half::default(),
            times,
            progress: Instant::now(),
            ending: None,
        }
    }

    /// Ready: both directions have ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        let mut scratch = WORKER_SCRATCH.take();
        if scratch.is_empty() {
            scratch = vec![0; SCRATCH];
        }
        let before = (self.to_backend.moved(), self.to_client.moved(), self.ending);
        let done = loop {
            let to_backend = self.to_backend.poll(cx, &mut self.client, &mut self.backend, &mut scratch);
            let to_client = self.to_client.poll(cx, &mut self.backend, &mut self.client, &mut scratch);
            if !self.learn() {
                break to_backend.is_ready() && to_client.is_ready();
            }
        };
        WORKER_SCRATCH.set(scratch);
        if (self.to_backend.moved(), self.to_client.moved(), self.ending) != before {
            self.progress = Instant::now();
        }
        match self.ending {
            Some(ending) if done => Poll::Ready(ending),
            _ => Poll::Pending,
        }
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
        let client_gone = from_client == Some(Found::ReadFailed) && self.to_client.lose_writer();
        let backend_gone = from_backend == Some(Found::ReadFailed) && self.to_backend.lose_writer();
        client_gone || backend_gone
    }

    /// The next moment at which patience ends, and what the session has then come to.
    fn deadline(&self) -> (Instant, Ending) {
        let quiet = match self.ending {
            None => (after(self.progress, self.times.idle), Ending::IdleTimeout),
            Some(ending) => (after(self.progress, self.times.half_closed), ending),
        };
        let stalled = [&self.to_backend, &self.to_client].into_iter().filter_map(Half::stalled).min();
        match stalled.map(|since| after(since, self.times.write)) {
            Some(at) if at < quiet.0 => (at, Ending::WriteTimeout),
            _ => quiet,
        }
    }

    /// Takes leave of whoever is still there.
    fn part(&mut self, cx: &mut Context<'_>, ending: Ending) -> Report {
        self.to_backend.part(cx, &mut self.backend);
        self.to_client.part(cx, &mut self.client);
        Report { ending, to_backend: self.to_backend.moved(), to_client: self.to_client.moved() }
    }
}

/// One timer for all bounds. It is set forward when a bound comes nearer, and put off only when it has fired: progress
/// costs no timer.
fn poll_deadline<C, B>(cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>, pair: &Pair<C, B>) -> Poll<Ending>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
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

/// Ready when everything ends now. Whoever has dropped the sender cannot say so any more.
async fn stopped(phase: &watch::Receiver<Phase>) {
    if phase.clone().wait_for(|phase| *phase == Phase::Stopped).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
