//! One direction of a relay: [`Half`]. It borrows the reader, the writer and a scratch buffer for one poll and owns
//! bytes only while the writer does not take them. Not here: time limits, how a session ends, anything that knows IMAP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// After so many bytes of one direction the other sessions of this worker get their turn. Far more than a socket buffer
/// holds, so that an ordinary transfer ends its turn by waiting; about a millisecond's work with TLS.
const TURN: usize = 1024 * 1024;

/// Moves bytes from a reader to a writer. Nothing is read while anything waits to be written: a peer that stops taking
/// bytes thereby stops the other one from sending, and what is held never exceeds one scratch buffer.
#[derive(Debug, Default)]
pub(super) struct Half {
    stage: Stage,
    found: Option<Found>,
    moved: u64,
    unflushed: bool,
    /// The reader's end is not passed on yet.
    withholds_end: bool,
    turnstile: Turnstile,
    /// There while something waits: an idle session owns no buffer, and no room for one.
    delayed: Option<Box<Delayed>>,
}

/// What waits in a half.
#[derive(Debug, Default)]
struct Delayed {
    /// Read, but not taken by the writer.
    held: Vec<u8>,
    /// How much of that it has taken after all.
    sent: usize,
    /// Since when the writer takes nothing.
    stalled: Option<Instant>,
    /// Read, but not let through by who hears it.
    withheld: Box<[u8]>,
}

/// Whether more is read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Turnstile {
    #[default]
    Free,
    /// Not until somebody says so.
    Stopped,
    /// What was withheld is to be offered again first.
    Released,
}

/// What becomes of bytes that were heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    /// So many go on to the writer. The others are offered again in front of what is read next.
    pub(super) passed: usize,
    /// Nothing is read any more until [`Half::resume`].
    pub(super) stop: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Reading and writing.
    #[default]
    Open,
    /// The reader has ended: what is held is written, then the end is passed on.
    Closing,
    /// The writer is gone. What still arrives is read and dropped: closing a socket with unread bytes in it resets the
    /// connection, and that reset can destroy the last bytes that were sent to that peer.
    Discarding,
    /// Nothing will happen any more.
    Done,
}

/// What put an end to a half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The reader's end.
    End,
    /// An error of the reader.
    ReadFailed,
    /// An error of the writer.
    WriteFailed,
}

impl Half {
    /// One that passes its reader's end on only when it is told to.
    pub(super) fn withholding_end() -> Self {
        Self { withholds_end: true, ..Self::default() }
    }

    /// Moves what can be moved now, and lets `hear` have it as it was read, before the writer gets it. Ready: this half is
    /// done. It keeps all its state in itself, so a poll may be the last one at any time; what was held is then lost.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        scratch: &mut [u8],
        hear: impl FnMut(&[u8]) -> Heard,
    ) -> Poll<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if matches!(self.stage, Stage::Open | Stage::Closing) {
            let moved = self.poll_move(cx, reader, writer, scratch, hear);
            self.delayed.take_if(|delayed| delayed.is_nothing());
            if ready!(moved).is_err() {
                self.found.get_or_insert(Found::WriteFailed);
                self.lose_writer();
            }
        }
        if self.stage == Stage::Discarding {
            ready!(poll_discard(cx, reader, scratch));
            self.stage = Stage::Done;
        }
        Poll::Ready(())
    }

    /// The first thing that put an end to it; there may be bytes left to write.
    pub(super) fn found(&self) -> Option<Found> {
        self.found
    }

    /// Bytes that the writer took.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Since when something waits for a writer that takes nothing.
    pub(super) fn stalled(&self) -> Option<Instant> {
        self.delayed.as_ref().and_then(|delayed| delayed.stalled)
    }

    /// The writer has taken everything that was read, and can be given more.
    pub(super) fn is_clear(&self) -> bool {
        self.stage == Stage::Open && !self.is_held_up()
    }

    /// Nothing will be written any more.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Discarding | Stage::Done)
    }

    /// Nothing will happen any more.
    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// The writer has everything but the end, which is withheld.
    pub(super) fn awaits_end(&self) -> bool {
        self.withholds_end && self.stage == Stage::Closing && !self.is_held_up()
    }

    /// Lets the end be passed on; false: that is no news.
    pub(super) fn pass_end(&mut self) -> bool {
        std::mem::take(&mut self.withholds_end)
    }

    /// Goes on reading, and offers again what was withheld.
    pub(super) fn resume(&mut self) {
        self.turnstile = Turnstile::Released;
    }

    /// Something waits for the writer.
    pub(super) fn is_held_up(&self) -> bool {
        self.delayed.as_ref().is_some_and(|delayed| !delayed.held.is_empty())
    }

    /// Gives the writer these words and then the end, instead of what its reader may still have.
    pub(super) fn end_with(&mut self, words: &[u8]) {
        self.hold(words);
        self.withholds_end = false;
        self.stage = Stage::Closing;
    }

    /// The memory it owns.
    #[cfg(test)]
    pub(super) fn owned(&self) -> usize {
        self.delayed
            .as_ref()
            .map_or(0, |delayed| size_of::<Delayed>() + delayed.held.capacity() + delayed.withheld.len())
    }

    /// The writer is gone, as was seen here or elsewhere. False: that is no news.
    pub(super) fn lose_writer(&mut self) -> bool {
        if let Some(delayed) = &mut self.delayed {
            delayed.hold(&[]);
            delayed.stalled = None;
        }
        let next = match self.stage {
            Stage::Open => Stage::Discarding,
            Stage::Closing => Stage::Done,
            same @ (Stage::Discarding | Stage::Done) => same,
        };
        std::mem::replace(&mut self.stage, next) != next
    }

    /// Tells the writer's peer that nothing more comes (TLS: `close_notify`), as far as that goes without waiting; not
    /// in the middle of something.
    pub(super) fn part<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, writer: &mut W) {
        if matches!(self.stage, Stage::Open | Stage::Closing) && !self.is_held_up() {
            // Whatever comes of it, the stream is dropped next.
            let _ = Pin::new(writer).poll_shutdown(cx);
        }
        self.stage = Stage::Done;
    }

    /// Ready: the end was passed on (Done), or the writer failed.
    fn poll_move<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        scratch: &mut [u8],
        mut hear: impl FnMut(&[u8]) -> Heard,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut turn = TURN;
        while self.stage == Stage::Open {
            ready!(self.poll_clear(cx, writer))?;
            if turn == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.poll_next(cx, reader, scratch) {
                Poll::Ready(Ok(0)) => self.close(Found::End),
                Poll::Ready(Ok(n)) => {
                    turn = turn.saturating_sub(n);
                    let Heard { passed, stop } = hear(&scratch[..n]);
                    let (through, rest) = scratch[..n].split_at(passed.min(n));
                    self.withhold(rest);
                    self.turnstile = if stop { Turnstile::Stopped } else { Turnstile::Free };
                    self.write_through(cx, writer, through)?;
                }
                Poll::Ready(Err(error)) if is_end(&error) => self.close(Found::End),
                Poll::Ready(Err(_)) => self.close(Found::ReadFailed),
                Poll::Pending => {
                    // A TLS stream may still hold the last record; nobody else would send it on.
                    ready!(self.poll_flush(cx, writer))?;
                    return Poll::Pending;
                }
            }
        }
        self.poll_end(cx, writer)
    }

    /// What was withheld and what is read now, together at the beginning of `scratch`.
    fn poll_next<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        scratch: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.turnstile == Turnstile::Stopped {
            return Poll::Pending;
        }
        let withheld = self.delayed.as_ref().map_or(&[][..], |delayed| &delayed.withheld);
        let start = withheld.len().min(scratch.len());
        scratch[..start].copy_from_slice(&withheld[..start]);
        if self.turnstile == Turnstile::Released && start > 0 {
            self.turnstile = Turnstile::Free;
            return Poll::Ready(Ok(start));
        }
        match ready!(poll_read(cx, reader, &mut scratch[start..]))? {
            0 => Poll::Ready(Ok(0)),
            n => Poll::Ready(Ok(start + n)),
        }
    }

    /// Writes what is held, then the end. Ready: done, or the writer failed.
    pub(super) fn poll_end<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_clear(cx, writer))?;
        if self.withholds_end {
            ready!(self.poll_flush(cx, writer))?;
            return Poll::Pending;
        }
        // Flushes first, whatever the writer is.
        let shut = Pin::new(writer).poll_shutdown(cx);
        ready!(self.stall_unless_ready(shut))?;
        self.stage = Stage::Done;
        Poll::Ready(Ok(()))
    }

    /// Ready: the writer has everything, and no flush that was begun is unfinished.
    fn poll_clear<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, writer: &mut W) -> Poll<io::Result<()>> {
        while let Some(delayed) = self.delayed.as_ref().filter(|delayed| !delayed.held.is_empty()) {
            let wrote = poll_write(cx, writer, &delayed.held[delayed.sent..]);
            let n = ready!(self.stall_unless_ready(wrote))?;
            self.count(n);
            if let Some(delayed) = &mut self.delayed {
                delayed.sent(n);
            }
        }
        if self.stalled().is_some() { self.poll_flush(cx, writer) } else { Poll::Ready(Ok(())) }
    }

    /// Writes what the writer takes at once and holds the rest.
    fn write_through<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        mut bytes: &[u8],
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            let wrote = poll_write(cx, writer, bytes);
            let Poll::Ready(n) = self.stall_unless_ready(wrote)? else {
                self.hold(bytes);
                break;
            };
            self.count(n);
            bytes = &bytes[n..];
        }
        Ok(())
    }

    fn poll_flush<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, writer: &mut W) -> Poll<io::Result<()>> {
        if self.unflushed {
            let flushed = Pin::new(writer).poll_flush(cx);
            ready!(self.stall_unless_ready(flushed))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn hold(&mut self, bytes: &[u8]) {
        self.delayed.get_or_insert_default().hold(bytes);
    }

    fn withhold(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() || self.delayed.is_some() {
            self.delayed.get_or_insert_default().withheld = bytes.into();
        }
    }

    fn count(&mut self, n: usize) {
        self.moved = self.moved.saturating_add(n as u64);
        self.unflushed = true;
    }

    /// Notes whether the writer makes us wait.
    fn stall_unless_ready<T>(&mut self, poll: Poll<T>) -> Poll<T> {
        if poll.is_ready() {
            if let Some(delayed) = &mut self.delayed {
                delayed.stalled = None;
            }
        } else {
            self.delayed.get_or_insert_default().stalled.get_or_insert_with(Instant::now);
        }
        poll
    }

    fn close(&mut self, found: Found) {
        self.found.get_or_insert(found);
        self.stage = Stage::Closing;
    }
}

impl Delayed {
    /// The writer has taken so many more of the bytes that are held.
    fn sent(&mut self, n: usize) {
        self.sent += n;
        if self.sent >= self.held.len() {
            self.hold(&[]);
        }
    }

    fn hold(&mut self, bytes: &[u8]) {
        (self.held, self.sent) = (bytes.to_vec(), 0);
    }

    fn is_nothing(&self) -> bool {
        self.held.is_empty() && self.stalled.is_none() && self.withheld.is_empty()
    }
}

/// A TLS peer that closed without `close_notify`, as many mail programs do.
fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

fn poll_read<R: AsyncRead + Unpin>(
    cx: &mut Context<'_>,
    reader: &mut R,
    scratch: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(scratch);
    ready!(Pin::new(reader).poll_read(cx, &mut buf))?;
    Poll::Ready(Ok(buf.filled().len()))
}

/// Never ready with nothing written.
fn poll_write<W: AsyncWrite + Unpin>(cx: &mut Context<'_>, writer: &mut W, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(writer).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        n => Poll::Ready(Ok(n.min(bytes.len()))),
    }
}

/// Ready: the reader has ended, one way or the other.
fn poll_discard<R: AsyncRead + Unpin>(cx: &mut Context<'_>, reader: &mut R, scratch: &mut [u8]) -> Poll<()> {
    let mut turn = TURN;
    while turn > 0 {
        match ready!(poll_read(cx, reader, scratch)) {
            Ok(0) | Err(_) => return Poll::Ready(()),
            Ok(n) => turn = turn.saturating_sub(n),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}
