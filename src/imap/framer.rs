//! Finds where a client's command ends: lines and literals, counted and bounded, before anybody parses a word of them.
//! Here sits every bound on what a client can make mailmux hold before login. No meaning of commands lives here; which
//! of them are worth keeping is asked from outside. RFC 9051 section 2.2.1, RFC 7888 (literals that do not wait).

use std::{fmt, mem};

use zeroize::{Zeroize, Zeroizing};

/// A command without its literals, line ends included.
pub const LINE_MAX: usize = 8 * 1024;
/// One SASL message in base64, as an answer or behind AUTHENTICATE.
pub const SASL_MAX: usize = 64 * 1024;
/// All literals of one command together.
pub const LITERALS_MAX: u64 = 8 * 1024;
/// One literal that does not wait; this is what LITERAL- promises.
pub const LITERAL_MINUS_MAX: u64 = 4096;
/// What is read past, by count, of literals that do not wait and were not wanted.
pub const SWALLOW_MAX: u64 = 1024 * 1024;
/// The longest tag.
pub const TAG_MAX: usize = 64;
/// A tag, a blank, the longest command name, a blank.
const HEAD_MAX: usize = TAG_MAX + 1 + b"AUTHENTICATE".len() + 1;

/// What the first bytes of a PROXY v2 header are; they begin with what is an empty line in IMAP.
const PROXY_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// How other protocols begin: a TLS handshake record, a PROXY v1 header, HTTP (a browser sent here by somebody else's
/// page: the ALPACA class of attacks).
const FOREIGN: [&[u8]; 12] = [
    b"\x16\x03",
    b"PROXY ",
    b"GET ",
    b"POST ",
    b"PUT ",
    b"HEAD ",
    b"OPTIONS ",
    b"CONNECT ",
    b"DELETE ",
    b"PATCH ",
    b"TRACE ",
    b"PRI *",
];

/// How much of a command is worth holding; told by its head, which is its tag and its name with the blank behind each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of it; the text, without literals, may be this long.
    Whole(usize),
    /// The head alone; the rest is counted and forgotten.
    Head,
}

/// What was found.
#[derive(PartialEq, Eq)]
pub enum Frame {
    /// A command is complete. Line ends and literals inside it are as they were sent (a line end always CR LF), the last
    /// line end is taken off. Under [`Scope::Head`] it is the head alone.
    Command(Zeroizing<Vec<u8>>),
    /// The command so far, in [`Framer::held`], ends with a literal whose sender waits. [`Framer::permit`] and
    /// [`Framer::abandon`] are the two answers; nothing is read before one is given.
    Waits,
    /// A command with more literal bytes than there may be. It was read to its end, and its head is what is left of it.
    Oversize(Zeroizing<Vec<u8>>),
    /// The line asked for by [`Framer::expect_answer`], without its line end.
    Answer(Zeroizing<Vec<u8>>),
    /// A bound was passed behind which nobody knows where the next command starts. Nothing more is read.
    TooLong,
    /// Another protocol is spoken. Nothing more is read.
    Foreign,
}

/// Cuts a stream of bytes, in whatever pieces they arrive, into commands.
pub struct Framer {
    input: Zeroizing<Vec<u8>>,
    /// How much of `input` has been read.
    at: usize,
    /// Nothing has been read yet: the one moment for a PROXY header.
    fresh: bool,
    state: State,
    scope_of: fn(&[u8]) -> Scope,
    held: Zeroizing<Vec<u8>>,
    marker: Marker,
    /// The byte before this one in the same line; zero at its start and behind a literal.
    last: u8,
    /// What the current command has cost so far.
    text: usize,
    literals: u64,
    swallowed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the head of a command.
    Head,
    /// In a command's text; `end` is how long its head is.
    Text { end: usize, scope: Scope, oversize: bool },
    /// A literal of this size waits for permission.
    Waiting { end: usize, scope: Scope, size: u64 },
    /// In a literal that is kept.
    Literal { end: usize, scope: Scope, left: u64 },
    /// In a literal that is not.
    Swallow { end: usize, oversize: bool, left: u64 },
    /// In the answer to a challenge.
    Answer,
    /// Nothing more is read.
    Closed,
}

impl Framer {
    /// A framer at the start of a connection. `scope_of` says of a head how much of its command is to be held.
    pub fn new(scope_of: fn(&[u8]) -> Scope) -> Self {
        Self {
            input: Zeroizing::default(),
            at: 0,
            fresh: true,
            state: State::Head,
            scope_of,
            held: Zeroizing::default(),
            marker: Marker::None,
            last: 0,
            text: 0,
            literals: 0,
            swallowed: 0,
        }
    }

    /// Takes bytes from the peer. They are all held until `pop` has read them, so that the caller pushes a bounded piece
    /// and then pops until `None`.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.state == State::Closed {
            return;
        }
        if self.at > 0 {
            self.input = Zeroizing::new(self.unread().to_vec());
            self.at = 0;
        }
        append(&mut self.input, bytes);
    }

    /// The next frame; `None` when more bytes are needed first. What was read is wiped before this returns: a password
    /// is then in the frame alone.
    pub fn pop(&mut self) -> Option<Frame> {
        let from = self.at;
        let frame = self.find();
        if self.at == self.input.len() {
            self.input = Zeroizing::default();
            self.at = 0;
        } else if let Some(read) = self.input.get_mut(from..self.at) {
            read.zeroize();
        }
        frame
    }

    fn find(&mut self) -> Option<Frame> {
        if self.fresh && !self.is_past_proxy_header()? {
            return Some(self.close(Frame::Foreign));
        }
        loop {
            match self.state {
                State::Waiting { .. } | State::Closed => return None,
                State::Literal { end, scope, left: 0 } => self.state = State::Text { end, scope, oversize: false },
                State::Swallow { end, oversize, left: 0 } => {
                    self.state = State::Text { end, scope: Scope::Head, oversize };
                }
                State::Literal { end, scope, left } => {
                    let (from, to) = self.take(left)?;
                    append(&mut self.held, &self.input[from..to]);
                    self.state = State::Literal { end, scope, left: left - (to - from) as u64 };
                }
                State::Swallow { end, oversize, left } => {
                    let (from, to) = self.take(left)?;
                    self.state = State::Swallow { end, oversize, left: left - (to - from) as u64 };
                }
                State::Head | State::Text { .. } | State::Answer => {
                    self.read_plain();
                    let byte = *self.input.get(self.at)?;
                    self.at += 1;
                    if let Some(frame) = self.read(byte) {
                        return Some(frame);
                    }
                }
            }
        }
    }

    /// The command as far as it was kept, when [`Frame::Waits`] was found.
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// Lets the literal that waits be read.
    pub fn permit(&mut self) {
        if let State::Waiting { end, scope, size } = self.state {
            self.literals = self.literals.saturating_add(size);
            self.state = State::Literal { end, scope, left: size };
        }
    }

    /// Ends the command whose literal waits: its sender will not send it (RFC 9051 2.2.1). What comes next is a command.
    pub fn abandon(&mut self) {
        if matches!(self.state, State::Waiting { .. }) {
            self.reset();
        }
    }

    /// The next line is the answer to a challenge, not a command.
    pub fn expect_answer(&mut self) {
        self.reset();
        self.state = State::Answer;
    }

    /// What has been pushed and not read. This is what was pipelined.
    pub fn unread(&self) -> &[u8] {
        self.input.get(self.at..).unwrap_or_default()
    }

    /// All bytes in memory.
    pub fn buffered(&self) -> usize {
        self.unread().len() + self.held.len()
    }

    /// `None`: a PROXY v2 header is still possible. `Some(false)`: here it is.
    fn is_past_proxy_header(&mut self) -> Option<bool> {
        let unread = self.unread();
        if unread.starts_with(PROXY_V2) {
            return Some(false);
        }
        if PROXY_V2.starts_with(unread) {
            return None;
        }
        self.fresh = false;
        Some(true)
    }

    /// At most `most` bytes of the input, as a range that is now read; `None` when there are none.
    fn take(&mut self, most: u64) -> Option<(usize, usize)> {
        let from = self.at;
        let count = self.unread().len().min(usize::try_from(most).unwrap_or(usize::MAX));
        self.at += count;
        (count > 0).then_some((from, self.at))
    }

    /// How long the text of a command, or an answer, may be here.
    fn cap(&self) -> usize {
        match self.state {
            State::Text { scope: Scope::Whole(cap), .. } => cap,
            State::Answer => SASL_MAX + 2,
            _ => LINE_MAX,
        }
    }

    /// What stands behind a head up to where a line ends, or may announce a literal, at once: tokens are long.
    fn read_plain(&mut self) {
        if self.state == State::Head || self.marker != Marker::None {
            return;
        }
        let room = self.cap().saturating_sub(self.text + 1);
        let fresh = self.unread();
        let fresh = &fresh[..fresh.len().min(room)];
        let count = fresh.iter().position(|byte| matches!(byte, b'\n' | b'{')).unwrap_or(fresh.len());
        let Some(last) = fresh[..count].last() else { return };
        self.last = *last;
        if matches!(self.state, State::Text { scope: Scope::Whole(_), .. } | State::Answer) {
            append(&mut self.held, &self.input[self.at..self.at + count]);
        }
        self.at += count;
        self.text += count;
    }

    /// One byte of a line.
    fn read(&mut self, byte: u8) -> Option<Frame> {
        self.text += 1;
        let last = mem::replace(&mut self.last, byte);
        if byte == b'\n' {
            // Not a CR that is the last byte of a literal.
            if last == b'\r' && self.held.last() == Some(&b'\r') {
                self.held.pop();
            }
            return self.end_line();
        }
        // The line end counts, and is at least one byte more.
        if self.text >= self.cap() {
            return Some(self.close(Frame::TooLong));
        }
        self.marker.read(byte);
        match self.state {
            State::Head => {
                append(&mut self.held, &[byte]);
                if FOREIGN.contains(&self.held.as_slice()) {
                    return Some(self.close(Frame::Foreign));
                }
                if self.held.len() == HEAD_MAX || (byte == b' ' && self.held.split(|byte| *byte == b' ').count() == 3) {
                    let (end, scope) = self.head();
                    self.state = State::Text { end, scope, oversize: false };
                }
            }
            State::Text { scope: Scope::Whole(_), .. } | State::Answer => append(&mut self.held, &[byte]),
            _ => {}
        }
        None
    }

    /// How long the head is, and how much is to be held behind it.
    fn head(&self) -> (usize, Scope) {
        (self.held.len(), (self.scope_of)(&self.held))
    }

    /// The line is at its end; whether the command is depends on what the line ended with.
    fn end_line(&mut self) -> Option<Frame> {
        self.last = 0;
        let announced = mem::replace(&mut self.marker, Marker::None).announced();
        let (end, scope, oversize) = match self.state {
            State::Answer => return Some(Frame::Answer(self.reset())),
            State::Text { end, scope, oversize } => (end, scope, oversize),
            _ => {
                let (end, scope) = self.head();
                (end, scope, false)
            }
        };
        match announced {
            Some(literal) => self.literal(literal, end, scope, oversize),
            None if oversize => Some(Frame::Oversize(self.reset())),
            None => Some(Frame::Command(self.reset())),
        }
    }

    /// Decides on a literal before any byte of it is read, and before its sender is told to send it.
    fn literal(&mut self, literal: Literal, end: usize, scope: Scope, oversize: bool) -> Option<Frame> {
        let room = LITERALS_MAX - self.literals.min(LITERALS_MAX);
        let limit = if literal.waits { room } else { room.min(LITERAL_MINUS_MAX) };
        let oversize = oversize || (scope != Scope::Head && literal.size > limit);
        if scope != Scope::Head && !oversize {
            append(&mut self.held, b"\r\n");
            self.state = State::Waiting { end, scope, size: literal.size };
            if literal.waits {
                return Some(Frame::Waits);
            }
            self.permit();
            return None;
        }
        cut(&mut self.held, end);
        if literal.waits {
            // Its sender waits for a "+" that does not come, and starts over behind the answer.
            let held = self.reset();
            return Some(if oversize { Frame::Oversize(held) } else { Frame::Command(held) });
        }
        self.swallowed = self.swallowed.saturating_add(literal.size);
        if self.swallowed > SWALLOW_MAX {
            return Some(self.close(Frame::TooLong));
        }
        self.state = State::Swallow { end, oversize, left: literal.size };
        None
    }

    /// Back to the start of a command; gives what was held of the last one.
    fn reset(&mut self) -> Zeroizing<Vec<u8>> {
        self.state = State::Head;
        self.marker = Marker::None;
        self.last = 0;
        (self.text, self.literals, self.swallowed) = (0, 0, 0);
        mem::take(&mut self.held)
    }

    fn close(&mut self, frame: Frame) -> Frame {
        self.reset();
        self.state = State::Closed;
        self.at = self.input.len();
        frame
    }
}

/// Lengths only: what is held may be a password.
impl fmt::Debug for Framer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Framer({:?}, {} held, {} unread)", self.state, self.held.len(), self.unread().len())
    }
}

/// Lengths only, as above.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(held) => write!(f, "Command({} bytes)", held.len()),
            Self::Waits => f.write_str("Waits"),
            Self::Oversize(held) => write!(f, "Oversize({} bytes)", held.len()),
            Self::Answer(held) => write!(f, "Answer({} bytes)", held.len()),
            Self::TooLong => f.write_str("TooLong"),
            Self::Foreign => f.write_str("Foreign"),
        }
    }
}

/// The announcement of a literal at the end of a line, followed byte by byte so that a line need not be held for it:
/// `{`, digits, perhaps `+`, `}`, perhaps CR. No sign, no blank, at least one digit; a number too great saturates, and
/// nothing that great is ever let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    None,
    Open,
    Digits(u64),
    Plus(u64),
    Closed(Literal),
    ClosedCr(Literal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Literal {
    size: u64,
    /// The sender waits for a `+` before it sends the bytes.
    waits: bool,
}

impl Marker {
    fn read(&mut self, byte: u8) {
        let digit = || u64::from(byte - b'0');
        *self = match (*self, byte) {
            (_, b'{') => Self::Open,
            (Self::Open, b'0'..=b'9') => Self::Digits(digit()),
            (Self::Digits(size), b'0'..=b'9') => Self::Digits(size.saturating_mul(10).saturating_add(digit())),
            (Self::Digits(size), b'+') => Self::Plus(size),
            (Self::Digits(size), b'}') => Self::Closed(Literal { size, waits: true }),
            (Self::Plus(size), b'}') => Self::Closed(Literal { size, waits: false }),
            (Self::Closed(literal), b'\r') => Self::ClosedCr(literal),
            _ => Self::None,
        };
    }

    fn announced(self) -> Option<Literal> {
        match self {
            Self::Closed(literal) | Self::ClosedCr(literal) => Some(literal),
            _ => None,
        }
    }
}

/// Appends without leaving a copy of the bytes behind: a vector that grows by itself moves and does not wipe.
fn append(buffer: &mut Zeroizing<Vec<u8>>, bytes: &[u8]) {
    let needed = buffer.len().saturating_add(bytes.len());
    if needed > buffer.capacity() {
        let mut grown = Zeroizing::new(Vec::with_capacity(needed.max(buffer.capacity().saturating_mul(2)).max(64)));
        grown.extend_from_slice(buffer);
        *buffer = grown;
    }
    buffer.extend_from_slice(bytes);
}

/// Shortens and wipes what is cut off.
fn cut(buffer: &mut Zeroizing<Vec<u8>>, len: usize) {
    if let Some(tail) = buffer.get_mut(len..) {
        tail.zeroize();
        buffer.truncate(len);
    }
}

#[cfg(test)]
mod tests;
