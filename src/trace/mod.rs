//! What a user's sessions say and hear, shown to an operator while it happens: [`Traces`] knows who is looked at, a [`Tap`]
//! (`tap.rs`) is a session's end of it, a [`Trace`] the operator's. It is bounded in time, in size, in number, and in what waits
//! for a slow reader: who does not read loses lines, and no session ever waits. What of a line may be shown is decided in
//! `imap/transcript.rs`; nothing else comes here.

mod tap;

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::info;

use crate::imap::UserName;

pub use tap::Tap;

/// Traces at once.
const MOST: usize = 8;
/// Bytes that wait for one reader.
const WAITING: usize = 1024 * 1024;
/// What a line costs besides its text.
const OVERHEAD: usize = 64;

/// All traces of a server.
#[derive(Debug, Default)]
pub struct Traces {
    /// Another one whenever a trace begins or ends; all that a session looks at while nobody looks at it.
    turn: AtomicU64,
    open: Mutex<Vec<Arc<Sink>>>,
}

/// There are as many traces as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

/// The operator's end: lines as they come. Dropping it ends the trace.
#[derive(Debug)]
pub struct Trace {
    traces: Arc<Traces>,
    sink: Arc<Sink>,
    lines: UnboundedReceiver<String>,
    end: Pin<Box<Sleep>>,
    time: Duration,
    most: u64,
    shown: u64,
    at: At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Beginning,
    Middle,
    End,
}

/// Where the sessions' lines go.
#[derive(Debug)]
struct Sink {
    user: UserName,
    until: Instant,
    lines: UnboundedSender<String>,
    /// Bytes that were sent and not read yet.
    waiting: AtomicUsize,
    /// Lines that found no room since the last one that did.
    lost: AtomicU64,
}

impl Traces {
    /// Begins to show what a user's sessions say, for so long and so many bytes.
    ///
    /// # Errors
    /// There are too many traces.
    pub fn begin(self: &Arc<Self>, user: &UserName, time: Duration, most: u64) -> Result<Trace, TooMany> {
        let (sender, lines) = unbounded_channel();
        let until = Instant::now() + time;
        let sink = Arc::new(Sink {
            user: user.clone(),
            until,
            lines: sender,
            waiting: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
        });
        let mut open = self.open();
        // One that has ended without anybody reading that.
        open.retain(|sink| sink.until > Instant::now());
        if open.len() >= MOST {
            return Err(TooMany);
        }
        open.push(Arc::clone(&sink));
        drop(open);
        self.turn.fetch_add(1, Ordering::Release);
        let end = Box::pin(sleep_until(until));
        Ok(Trace { traces: Arc::clone(self), sink, lines, end, time, most, shown: 0, at: At::Beginning })
    }

    fn open(&self) -> MutexGuard<'_, Vec<Arc<Sink>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who look at this user.
    fn of(&self, user: &UserName) -> Vec<Arc<Sink>> {
        let name = user.normalised();
        self.open().iter().filter(|sink| sink.user.normalised() == name).cloned().collect()
    }
}

impl Trace {
    /// The next lines, with their ends; `None` behind the last one, which says why it is.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<String>> {
        match self.at {
            At::Beginning => {
                self.at = At::Middle;
                let (user, time, most) = (&self.sink.user, self.time.as_secs_f64(), self.most);
                let words = format!("# the sessions of {user}, for {time} s or {most} bytes\n");
                return Poll::Ready(Some(words));
            }
            At::Middle => {}
            At::End => return Poll::Ready(None),
        }
        // First: lines that never end must not put it off.
        if self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(self.end_since("its time is over")));
        }
        let Poll::Ready(line) = self.lines.poll_recv(cx) else { return Poll::Pending };
        let Some(line) = line else { return Poll::Ready(Some(self.end_since("mailmux has ended"))) };
        self.sink.waiting.fetch_sub(line.len() + OVERHEAD, Ordering::AcqRel);
        let size = line.len() as u64;
        if self.shown.saturating_add(size) > self.most {
            return Poll::Ready(Some(self.end_since("so many bytes were asked for")));
        }
        self.shown += size;
        Poll::Ready(Some(line))
    }

    fn end_since(&mut self, why: &str) -> String {
        self.at = At::End;
        format!("{}# the end: {why}\n", lost(self.sink.lost.load(Ordering::Acquire)))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.traces.open().retain(|sink| !Arc::ptr_eq(sink, &self.sink));
        self.traces.turn.fetch_add(1, Ordering::Release);
        info!(user = %self.sink.user, bytes = self.shown, "audit: a trace has ended");
    }
}

impl Sink {
    /// It would have no room for anything.
    fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Acquire) >= WAITING
    }

    /// Never waits: a line without room is lost, and counted.
    fn take(&self, line: &str) {
        let before = self.lost.swap(0, Ordering::AcqRel);
        let words = lost(before);
        let cost = line.len() + words.len() + OVERHEAD;
        if self.waiting.fetch_add(cost, Ordering::AcqRel) + cost > WAITING {
            self.waiting.fetch_sub(cost, Ordering::AcqRel);
            self.lose(before + 1);
            return;
        }
        // Whoever read may have gone.
        let _ = self.lines.send(words + line);
    }

    fn lose(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::AcqRel);
    }
}

fn lost(lines: u64) -> String {
    match lines {
        0 => String::new(),
        1 => "… 1 line lost\n".to_owned(),
        lines => format!("… {lines} lines lost\n"),
    }
}

#[cfg(test)]
mod tests;
