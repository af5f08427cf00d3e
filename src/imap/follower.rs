//! Follows both directions of a session after login and says at which moments an untagged line of ours may be put
//! between what the backend says: [`Follower`]. It reads line ends, literals' lengths and the first words of lines, alters
//! nothing, and holds next to nothing; where it cannot know, it is in doubt for ever. RFC 9051 sections 2.2.1, 4.3 and 7,
//! RFC 2177 (IDLE), RFC 4978 (COMPRESS), RFC 7888 (literals that do not wait). Not here: mailboxes, messages, I/O.

use std::{fmt, mem};

use memchr::{memchr, memrchr};

use super::response::{Status, status_line};

/// A line beyond it is none: another protocol, or compressed. The `* SEARCH` of millions of messages stays below.
const LINE: u64 = 16 * 1024 * 1024;
/// A literal beyond it is none.
const LITERAL: u64 = 1 << 40;
/// A tag beyond it is not remembered.
const TAG: usize = 32;
/// What is kept of the start of a line that comes in pieces: a tag, a blank and the longest word that matters.
const HEAD: usize = 64;
/// What is kept of its end: the announcement of any literal that a `u64` can count.
const TAIL: usize = 24;

/// After these the stream is another one.
const REFRAMING: [&[u8]; 4] = [b"COMPRESS", b"STARTTLS", b"AUTHENTICATE", b"UNAUTHENTICATE"];

/// Both directions of one session, from right behind its login. What is fed must be what was read, in the order in which
/// it was read, and before the other side gets it: an answer is then never seen before its question.
#[derive(Debug, Default)]
pub struct Follower {
    client: Lines,
    backend: Lines,
    talk: Talk,
    /// Of the last command that the client has begun.
    tag: Tag,
    /// The backend is in the middle of a response, behind a literal's announcement.
    responding: bool,
    /// A `+` is due that is an IDLE's and no literal's.
    owed: bool,
    doubt: bool,
    said: Said,
}

/// What was said of the session's end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    #[default]
    Nothing,
    Logout,
    Bye,
}

/// Where the client stands, when it is not inside a literal.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Talk {
    /// Between commands or in the first line of one.
    #[default]
    Command,
    /// In a command, behind a literal.
    Within,
    /// It has announced a literal and waits for leave to send it; how long it is stands in its [`Lines`] already.
    Waiting,
    /// In IDLE: the next line is its DONE.
    Idling,
}

/// It cannot be known what the next bytes are.
struct Doubt;

/// stub
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    Clean(Reset),
    Marked(Reset),
    Dirty(&'static str),
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reset {
    pub done: bool,
    pub unselect: bool,
}

impl Follower {
    pub fn tracking() -> Self {
        Self::default()
    }
    pub fn logout(&self) -> bool {
        false
    }
    pub fn logout_tag(&self) -> Option<&[u8]> {
        None
    }
    pub fn release_logout(&mut self) {}
    pub fn in_flight(&self) -> bool {
        false
    }
    pub fn remains(&self) -> Remains {
        Remains::Dirty("untracked")
    }
    /// Takes bytes that the client sent.
    pub fn from_client(&mut self, mut bytes: &[u8]) -> usize {
        let all = bytes.len();
        while !self.doubt && !bytes.is_empty() {
            let heard = match self.talk {
                // The literal it did not wait with, or a command? The backend's answer decides, and may decide for either.
                Talk::Waiting => Err(Doubt),
                _ => self.client.next(&mut bytes).and_then(|line| line.map_or(Ok(()), |line| self.hear_client(&line))),
            };
            if heard.is_err() {
                self.give_up();
            }
        }
        all
    }

    /// Takes bytes that the backend sent.
    pub fn from_backend(&mut self, mut bytes: &[u8]) {
        while !self.doubt && !bytes.is_empty() {
            let line = self.backend.next(&mut bytes);
            let heard = line.and_then(|line| line.map_or(Ok(()), |line| self.hear_backend(&line)));
            if heard.is_err() {
                self.give_up();
            }
        }
    }

    /// What the backend has sent so far ends with a complete response (or is nothing), and that is certain: a whole
    /// untagged line may stand behind it.
    pub fn vouches(&self) -> bool {
        !self.doubt && !self.responding && self.backend.is_at_start()
    }

    /// It will not vouch for anything any more.
    pub fn doubts(&self) -> bool {
        self.doubt
    }

    /// The backend has said BYE: there is nothing to add.
    pub fn said_bye(&self) -> bool {
        self.said == Said::Bye
    }

    /// The client has said LOGOUT or the backend BYE, as far as that was seen before any doubt: when the backend closes
    /// now, it has not died.
    pub fn logged_out(&self) -> bool {
        self.said != Said::Nothing
    }

    fn give_up(&mut self) {
        self.doubt = true;
        (self.client, self.backend) = (Lines::default(), Lines::default());
    }

    fn hear_client(&mut self, line: &Line<'_>) -> Result<(), Doubt> {
        let idles = match self.talk {
            Talk::Command => self.hear_command(line)?,
            Talk::Within => false,
            Talk::Idling if line.is(b"DONE") => false,
            Talk::Idling | Talk::Waiting => return Err(Doubt),
        };
        self.talk = match line.literal()? {
            None if idles => Talk::Idling,
            None => Talk::Command,
            Some(_) if idles => return Err(Doubt),
            // Some servers end lines at a bare LF and some do not.
            Some(_) if !line.ends_in_crlf() => return Err(Doubt),
            // Whether the next `+` is the literal's or an IDLE's would be a guess.
            Some(literal) if literal.waits && self.owed => return Err(Doubt),
            Some(literal) => {
                self.client.literal = literal.size;
                if literal.waits { Talk::Waiting } else { Talk::Within }
            }
        };
        Ok(())
    }

    /// The first line of a command. True: it is an IDLE.
    fn hear_command(&mut self, line: &Line<'_>) -> Result<bool, Doubt> {
        // An empty line too many, or the DONE to an IDLE that the backend has ended by itself.
        if line.is(b"") || line.is(b"DONE") {
            return Ok(false);
        }
        let (tag, name) = command(line.head())?;
        self.tag = Tag::new(tag)?;
        if REFRAMING.iter().any(|word| name.eq_ignore_ascii_case(word)) {
            return Err(Doubt);
        }
        if name.eq_ignore_ascii_case(b"LOGOUT") {
            self.said = self.said.max(Said::Logout);
        }
        let idles = name.eq_ignore_ascii_case(b"IDLE");
        if idles && mem::replace(&mut self.owed, true) {
            return Err(Doubt);
        }
        Ok(idles)
    }

    fn hear_backend(&mut self, line: &Line<'_>) -> Result<(), Doubt> {
        if !line.ends_in_crlf() {
            return Err(Doubt);
        }
        let literal = line.literal()?;
        if !self.responding && self.hear_response(line.head())? && literal.is_some() {
            // Words for people that end like a literal, or a response code that holds one?
            return Err(Doubt);
        }
        self.responding = literal.is_some();
        self.backend.literal = match literal {
            Some(literal) if !literal.waits => return Err(Doubt),
            literal => literal.map_or(0, |literal| literal.size),
        };
        Ok(())
    }

    /// The first line of a response. True: it ends in text for people.
    fn hear_response(&mut self, head: &[u8]) -> Result<bool, Doubt> {
        if head.first() == Some(&b'+') {
            self.hear_continuation()?;
            return Ok(true);
        }
        // Most of what a busy backend says: `* 1 FETCH`.
        if head.starts_with(b"* ") && head.get(2).is_some_and(u8::is_ascii_digit) {
            return Ok(false);
        }
        match status_line(head) {
            Some((None, status, _)) => {
                if status == Status::Bye {
                    self.said = Said::Bye;
                }
                Ok(true)
            }
            Some((Some(tag), status @ (Status::Ok | Status::No | Status::Bad), _))
                if (1..=TAG).contains(&tag.len()) =>
            {
                self.hear_answer(tag, status)?;
                Ok(true)
            }
            None if head.starts_with(b"* ") => Ok(false),
            _ => Err(Doubt),
        }
    }

    fn hear_continuation(&mut self) -> Result<(), Doubt> {
        match self.talk {
            Talk::Waiting => self.talk = Talk::Within,
            _ if self.owed => self.owed = false,
            // Whatever asked for it, what the client sends next need not be a command.
            _ => return Err(Doubt),
        }
        Ok(())
    }

    fn hear_answer(&mut self, tag: &[u8], status: Status) -> Result<(), Doubt> {
        match self.talk {
            Talk::Waiting | Talk::Idling if !self.tag.is(tag) => {}
            Talk::Waiting if status == Status::Ok => return Err(Doubt),
            // The literal will not come.
            Talk::Waiting => (self.talk, self.client.literal) = (Talk::Command, 0),
            // Refused, or ended before its DONE.
            Talk::Idling => (self.talk, self.owed) = (Talk::Command, false),
            Talk::Command | Talk::Within => {}
        }
        Ok(())
    }
}

/// The tag and the name of a command. Exactly one blank between them: servers differ in what else they take.
fn command(head: &[u8]) -> Result<(&[u8], &[u8]), Doubt> {
    let blank = memchr(b' ', head).ok_or(Doubt)?;
    let (tag, rest) = (&head[..blank], &head[blank + 1..]);
    let end = rest.iter().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let name = &rest[..end];
    let is_plain = !tag.is_empty() && tag.iter().all(u8::is_ascii_graphic);
    if is_plain && !name.is_empty() { Ok((tag, name)) } else { Err(Doubt) }
}

#[derive(Default, Clone, Copy)]
struct Tag {
    bytes: [u8; TAG],
    length: u8,
}

impl Tag {
    fn new(tag: &[u8]) -> Result<Self, Doubt> {
        let mut bytes = [0; TAG];
        bytes.get_mut(..tag.len()).ok_or(Doubt)?.copy_from_slice(tag);
        Ok(Self { bytes, length: u8::try_from(tag.len()).map_err(|_| Doubt)? })
    }

    fn is(&self, tag: &[u8]) -> bool {
        self.bytes.get(..self.length.into()) == Some(tag)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.length)
    }
}

/// One direction: finds where its lines end and skips its literals.
#[derive(Debug, Default)]
struct Lines {
    /// So much of a literal is still to come.
    literal: u64,
    /// What has come of a line that has not ended.
    part: Option<Box<Part>>,
}

impl Lines {
    /// The next line that ends in `bytes`, if one does; they are then what stands behind it.
    fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Line<'a>>, Doubt> {
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

    /// Neither inside a literal nor inside a line.
    fn is_at_start(&self) -> bool {
        self.literal == 0 && self.part.is_none()
    }
}

/// What is kept of a line that comes in pieces, on the heap: lines rarely do, and not while a session is idle.
struct Part {
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
enum Line<'a> {
    Whole(&'a [u8]),
    Pieced(Box<Part>),
}

/// A literal that a line announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Literal {
    size: u64,
    /// Its sender waits for leave to send it, if it is a client.
    waits: bool,
}

impl Line<'_> {
    fn length(&self) -> u64 {
        match self {
            Self::Whole(line) => line.len() as u64,
            Self::Pieced(part) => part.length,
        }
    }

    /// Its first bytes, without its CR.
    fn head(&self) -> &[u8] {
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

    fn ends_in_crlf(&self) -> bool {
        self.tail().ends_with(b"\r")
    }

    /// It is this word, which is short, and nothing else.
    fn is(&self, word: &[u8]) -> bool {
        self.head().eq_ignore_ascii_case(word)
    }

    /// The literal that it ends by announcing: `{n}` or `{n+}`, whatever stands before it (RFC 3516: `~`). What looks
    /// like an announcement and is none, or one of something absurd, is in doubt.
    fn literal(&self) -> Result<Option<Literal>, Doubt> {
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

#[cfg(test)]
mod tests;
