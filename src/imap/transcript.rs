//! What may be shown of a session's wire, line by line: credentials masked, of literals their length alone, long lines cut,
//! whatever is not printable escaped. Two write it: [`Before`] what is said before login, from the frames that the machine of
//! `preauth.rs` reads, and [`Transcript`] what is said after it, from the lines that the [`Follower`](super::follower::Follower)
//! finds. A line is shown when it is whole and understood; in doubt nothing is. Not here: where lines go, clocks.

use std::fmt::{self, Write as _};
use std::mem;

use zeroize::Zeroize;

use super::command::{Line, Name};
use super::framer::Frame;
use super::sasl;

/// So much of a line is shown, escapes included.
const SHOWN: usize = 1000;
/// In place of what may be a secret.
const MASK: &str = "***";
/// After these the rest of the command is.
const SECRET: [&[u8]; 2] = [b"LOGIN", b"AUTHENTICATE"];

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// The client.
    Client,
    /// The backend.
    Backend,
    /// We, to the client.
    Mailmux,
    /// Nobody: a word about the session.
    Note,
}

/// A line that may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoken {
    /// Who says it.
    pub voice: Voice,
    /// What, in printable ASCII but for our own marks.
    pub text: String,
}

impl Spoken {
    /// A line of which everything may be shown.
    pub fn new(voice: Voice, bytes: &[u8]) -> Self {
        let mut text = Text::default();
        text.push(bytes);
        Self { voice, text: text.take() }
    }
}

/// The lines of bytes that mailmux says before login.
pub fn said(bytes: &[u8]) -> impl Iterator<Item = Spoken> + '_ {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| match line.strip_suffix(b"\r").unwrap_or(line) {
        // A challenge.
        [b'+', b' ', data @ ..] if !data.is_empty() && data != b"OK" => masked(Voice::Mailmux, &["+"]),
        line => Spoken::new(Voice::Mailmux, line),
    })
}

/// Writes what is said before login.
#[derive(Debug, Default)]
pub(super) struct Before {
    spoken: Vec<Spoken>,
    /// What the client said last was no command, perhaps a secret in the wrong place; our answer repeats its first word.
    nameless: bool,
    /// The command that is read now has been shown in part: it had a literal to wait with.
    begun: bool,
}

impl Before {
    /// The client said this; `held` is what there is of the command when it waits with a literal.
    pub(super) fn heard(&mut self, frame: &Frame, held: &[u8]) {
        self.nameless = false;
        let begun = mem::replace(&mut self.begun, matches!(frame, Frame::Waits));
        let spoken = match frame {
            Frame::Command(bytes) | Frame::Oversize(bytes) if !begun => self.command(bytes),
            Frame::Waits if !begun => self.command(held),
            // Giving up is no secret.
            Frame::Answer(text) if text.as_slice() == b"*" => Spoken::new(Voice::Client, b"*"),
            Frame::Command(_) | Frame::Oversize(_) | Frame::Waits | Frame::Answer(_) => masked(Voice::Client, &[]),
            Frame::TooLong => Spoken::new(Voice::Note, b"the client's line or literal is too long"),
            Frame::Foreign => Spoken::new(Voice::Note, b"the client speaks another protocol"),
        };
        self.spoken.push(spoken);
    }

    /// The literal that the client waited with does not come: what it says next is a command.
    pub(super) fn start_over(&mut self) {
        self.begun = false;
    }

    fn command(&mut self, bytes: &[u8]) -> Spoken {
        let mut words = bytes.splitn(3, |byte| *byte == b' ');
        let (name, rest) = (words.nth(1).unwrap_or_default(), words.next().unwrap_or_default());
        let line = Line::new(bytes);
        let Some(tag) = line.tag.filter(|_| line.name != Name::Unknown) else {
            self.nameless = true;
            return masked(Voice::Client, &[]);
        };
        let (tag, name) = (String::from_utf8_lossy(tag), String::from_utf8_lossy(name));
        match line.name {
            Name::Id if !rest.contains(&b'\n') => Spoken::new(Voice::Client, bytes),
            Name::Authenticate => {
                let (mechanism, initial) = match rest.iter().position(|byte| *byte == b' ') {
                    Some(at) => (&rest[..at], true),
                    None => (rest, false),
                };
                match sasl::mechanism(mechanism) {
                    Some(mechanism) if initial => masked(Voice::Client, &[&tag, &name, mechanism.as_str()]),
                    Some(mechanism) => {
                        Spoken { voice: Voice::Client, text: format!("{tag} {name} {}", mechanism.as_str()) }
                    }
                    None => masked(Voice::Client, &[&tag, &name]),
                }
            }
            Name::Login | Name::Id => masked(Voice::Client, &[&tag, &name]),
            _ => Spoken { voice: Voice::Client, text: format!("{tag} {name}") },
        }
    }

    /// We answered this.
    pub(super) fn said(&mut self, bytes: &[u8]) {
        for mut line in said(bytes) {
            if self.nameless && !line.text.starts_with("* ") {
                let rest = line.text.split_once(' ').map_or("", |(_, rest)| rest);
                line.text = format!("{MASK} {rest}");
            }
            self.spoken.push(line);
        }
    }

    /// What was written since this was asked last.
    pub(super) fn take(&mut self) -> Vec<Spoken> {
        mem::take(&mut self.spoken)
    }
}

/// Writes what is said after login.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    client: Column,
    backend: Column,
    /// The client's command holds credentials.
    secret: bool,
    /// Its tag and its name, until they are shown.
    head: String,
    spoken: Vec<Spoken>,
}

/// One side's.
#[derive(Debug, Default)]
struct Column {
    /// Of the command or response that is under way.
    text: Text,
    /// It began before the transcript did.
    skips: bool,
}

impl Transcript {
    /// One that begins now, while each side may be in the middle of something.
    pub(super) fn new(client_is_within: bool, backend_is_within: bool) -> Self {
        let column = |skips| Column { text: Text::default(), skips };
        Self { client: column(client_is_within), backend: column(backend_is_within), ..Self::default() }
    }

    /// A piece of a line, of what is no literal.
    pub(super) fn hear(&mut self, voice: Voice, bytes: &[u8]) {
        let column = self.column(voice);
        if !column.skips {
            column.text.push(bytes);
        }
    }

    /// What the client says now is the first line of a command with this tag and name.
    pub(super) fn hear_command(&mut self, tag: &[u8], name: &[u8]) {
        self.secret = SECRET.iter().any(|secret| name.eq_ignore_ascii_case(secret));
        if self.secret {
            self.head = masked(Voice::Client, &[&String::from_utf8_lossy(tag), &String::from_utf8_lossy(name)]).text;
        }
    }

    /// The line is at its end: with a literal of so many bytes behind it, which its sender waits with or not, or with the
    /// command or response.
    pub(super) fn end_line(&mut self, voice: Voice, literal: Option<(u64, bool)>) {
        let waits = voice == Voice::Client && literal.is_some_and(|(_, waits)| waits);
        let secret = voice == Voice::Client && self.secret;
        let column = self.column(voice);
        if column.skips {
            column.skips = literal.is_some();
            self.secret = secret && literal.is_some();
            return;
        }
        if secret {
            column.text.wipe();
        }
        match literal {
            Some(_) if secret && !waits => return,
            Some((size, _)) if !waits => return column.text.mark(format_args!(" ‹{size} bytes›")),
            _ => {}
        }
        let mut text = column.text.take();
        if secret {
            text = if self.head.is_empty() { MASK.to_owned() } else { mem::take(&mut self.head) };
            self.secret = literal.is_some();
        } else if let Some((size, _)) = literal {
            // What was announced, and then comes.
            column.text.mark(format_args!("{{{size}}} ‹{size} bytes›"));
        }
        self.spoken.push(Spoken { voice, text });
    }

    /// The literal that the client waited with does not come: what it says next is a command.
    pub(super) fn start_over(&mut self) {
        self.client = Column::default();
        (self.secret, self.head) = (false, String::new());
    }

    /// Nobody knows any more what is what.
    pub(super) fn doubt(&mut self) {
        self.client.text.wipe();
        self.backend.text.wipe();
        (self.client, self.backend) = (Column::default(), Column::default());
        let why = b"from here on it cannot be told what is what (compressed, or no plain IMAP): not shown";
        self.spoken.push(Spoken::new(Voice::Note, why));
    }

    /// What was written since this was asked last.
    pub(super) fn take(&mut self) -> Vec<Spoken> {
        mem::take(&mut self.spoken)
    }

    fn column(&mut self, voice: Voice) -> &mut Column {
        if voice == Voice::Client { &mut self.client } else { &mut self.backend }
    }
}

/// A line as it is shown, in the making.
#[derive(Default)]
struct Text {
    shown: String,
    /// Bytes that found no room.
    cut: u64,
    /// A CR, of which it is not known yet whether it is the line end's.
    cr: bool,
}

impl Text {
    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if mem::take(&mut self.cr) && *byte != b'\n' {
                self.put(b'\r');
            }
            match byte {
                b'\r' => self.cr = true,
                b'\n' => {}
                byte => self.put(*byte),
            }
        }
    }

    fn put(&mut self, byte: u8) {
        if self.cut > 0 || self.shown.len() >= SHOWN {
            self.cut = self.cut.saturating_add(1);
        } else if matches!(byte, b' '..=b'~') {
            self.shown.push(char::from(byte));
        } else {
            // A String takes everything.
            let _ = write!(self.shown, "\\x{byte:02x}");
        }
    }

    /// A mark of ours.
    fn mark(&mut self, mark: fmt::Arguments<'_>) {
        // Behind what was cut off there may be many.
        if self.shown.len() < 2 * SHOWN {
            let _ = self.shown.write_fmt(mark);
        }
    }

    fn wipe(&mut self) {
        self.shown.zeroize();
        *self = Self::default();
    }

    fn take(&mut self) -> String {
        let Self { mut shown, cut, .. } = mem::take(self);
        if cut > 0 {
            let _ = write!(shown, " … {cut} bytes more");
        }
        shown
    }
}

/// Its length only: it may be a secret that is not masked yet.
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.shown.len())
    }
}

/// These words and the mask.
fn masked(voice: Voice, words: &[&str]) -> Spoken {
    let mut text = Text::default();
    for word in words {
        text.push(word.as_bytes());
        text.push(b" ");
    }
    text.mark(format_args!("{MASK}"));
    Spoken { voice, text: text.take() }
}

#[cfg(test)]
mod tests;
