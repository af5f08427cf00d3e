//! One direction of a session, cut into lines: [`Lines`] finds where they end, what literals they announce (RFC 9051
//! section 4.3, RFC 7888) and skips these by their count. Holds the two ends of a line that comes in pieces, no more. Not
//! here: what a line means.

use std::fmt;

use memchr::{memchr, memrchr};

use super::Doubt;

/// A line beyond it is none: another protocol, or compressed. The `* SEARCH` of millions of messages stays below.
const LINE: u64 = 16 * 1024 * 1024;
/// A literal beyond it is none.
const LITERAL: u64 = 1 << 40;
/// What is kept of the start of a line that comes in pieces: a tag, a blank and the longest word that matters.
const HEAD: usize = 64;
/// What is kept of its end: the announcement of any literal that a `u64` can count.
const TAIL: usize = 24;

/// One direction: finds where its lines end and skips its literals.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// So much of a literal is still to come.
    pub(super) literal: u64,
    /// What has come of a line that has not ended.
    part: Option<Box<Part>>,
}

impl Lines {
    /// The next line that ends in `bytes`, if one does; they are then what stands behind it.
    pub(super) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Line<'a>>, Doubt> {
        let skipped = usize::try_from(self.literal).unwrap_or(usize::MAX).min(bytes.len());
        self.literal -= skipped as u64;
        let fresh = &bytes[skipped..];
        let Some(end) = memchr(b'\n', fresh) else {
            *bytes = &[];
            if fresh.is_empty() {
                return Ok(None);
            }
            let part = self.part.get_or_insert_default();
            part.push(fresh);
            return if part.length > LINE { Err(Doubt) } else { Ok(None) };
        };
        *bytes = &fresh[end + 1..];
        let line = match self.part.take() {
            None => Line::Whole(&fresh[..end]),
            Some(mut part) => {
                part.push(&fresh[..end]);
                Line::Pieced(part)
            }
        };
        if line.length() > LINE { Err(Doubt) } else { Ok(Some(line)) }
    }

    /// Passes over the lines at the beginning of `bytes` that begin like `* 1 FETCH` and announce no literal: most of what a
    /// busy backend says, and nothing that has to be looked at more closely.
    pub(super) fn skip_data(&self, bytes: &mut &[u8]) {
        while self.is_at_start()
            && bytes.starts_with(b"* ")
            && bytes.get(2).is_some_and(u8::is_ascii_digit)
            && let Some(end) = memchr(b'\n', bytes)
            && let Some([byte, b'\r']) = bytes[..end].last_chunk()
            && *byte != b'}'
            && end as u64 <= LINE
        {
            *bytes = &bytes[end + 1..];
        }
    }

    /// Neither inside a literal nor inside a line.
    pub(super) fn is_at_start(&self) -> bool {
        self.literal == 0 && self.part.is_none()
    }
}

/// What is kept of a line that comes in pieces, on the heap: lines rarely do, and not while a session is idle.
pub(super) struct Part {
    head: [u8; HEAD],
    tail: [u8; TAIL],
    length: u64,
}

impl Default for Part {
    fn default() -> Self {
        Self { head: [0; HEAD], tail: [0; TAIL], length: 0 }
    }
}

impl Part {
    fn push(&mut self, bytes: &[u8]) {
        if let Some(room) = usize::try_from(self.length).ok().and_then(|length| self.head.get_mut(length..)) {
            let n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
        }
        // The tail stands at the end of its array.
        let last = &bytes[bytes.len().saturating_sub(TAIL)..];
        self.tail.copy_within(last.len().., 0);
        self.tail[TAIL - last.len()..].copy_from_slice(last);
        self.length = self.length.saturating_add(bytes.len() as u64);
    }
}

/// Its length only: it may be a piece of somebody's mail.
impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.length)
    }
}

/// A line without its LF.
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    Pieced(Box<Part>),
}

/// A literal that a line announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Literal {
    pub(super) size: u64,
    /// Its sender waits for leave to send it, if it is a client.
    pub(super) waits: bool,
}

impl Line<'_> {
    fn length(&self) -> u64 {
        match self {
            Self::Whole(line) => line.len() as u64,
            Self::Pieced(part) => part.length,
        }
    }

    /// Its first bytes, without its CR.
    pub(super) fn head(&self) -> &[u8] {
        let head = match self {
            Self::Whole(line) => &line[..line.len().min(HEAD)],
            Self::Pieced(part) => &part.head[..short(part.length, HEAD)],
        };
        let is_all = head.len() as u64 == self.length();
        head.strip_suffix(b"\r").filter(|_| is_all).unwrap_or(head)
    }

    /// Its last bytes.
    fn tail(&self) -> &[u8] {
        match self {
            Self::Whole(line) => &line[line.len().saturating_sub(TAIL)..],
            Self::Pieced(part) => &part.tail[TAIL - short(part.length, TAIL)..],
        }
    }

    pub(super) fn ends_in_crlf(&self) -> bool {
        self.tail().ends_with(b"\r")
    }

    /// It is this word, which is short, and nothing else.
    pub(super) fn is(&self, word: &[u8]) -> bool {
        self.head().eq_ignore_ascii_case(word)
    }

    /// The literal that it ends by announcing: `{n}` or `{n+}`, whatever stands before it (RFC 3516: `~`). What looks
    /// like an announcement and is none, or one of something absurd, is in doubt.
    pub(super) fn literal(&self) -> Result<Option<Literal>, Doubt> {
        let tail = self.tail();
        let Some(inner) = tail.strip_suffix(b"\r").unwrap_or(tail).strip_suffix(b"}") else { return Ok(None) };
        let Some(open) = memrchr(b'{', inner) else {
            let is_cut = self.length() > TAIL as u64 && inner.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'+'));
            return if is_cut { Err(Doubt) } else { Ok(None) };
        };
        let count = &inner[open + 1..];
        let digits = count.strip_suffix(b"+").unwrap_or(count);
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(Doubt);
        }
        let size =
            digits.iter().fold(0, |sum: u64, digit| sum.saturating_mul(10).saturating_add((digit - b'0').into()));
        if size > LITERAL { Err(Doubt) } else { Ok(Some(Literal { size, waits: digits.len() == count.len() })) }
    }
}

fn short(length: u64, most: usize) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX).min(most)
}
