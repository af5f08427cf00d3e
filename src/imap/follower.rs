//! Follows both directions of a session after login and says at which moments an untagged line of ours may be put
//! between what the backend says, and, if asked to track, what the session leaves behind: [`Follower`]. It reads line ends,
//! literals' lengths and the first words of lines, alters nothing, and holds next to nothing; where it cannot know, it is
//! in doubt for ever. RFC 9051 sections 2.2.1, 4.3 and 7, RFC 2177 (IDLE), RFC 4978 (COMPRESS), RFC 7888 (literals that do
//! not wait). Not here: what commands do to the connection (that is `tracker.rs`), mailboxes, messages, I/O.

mod lines;

use std::mem;

use super::response::{Status, status_line};
use super::tag::{self, Tag};
use super::tracker::{Dirt, Farewell, Tracker};
use super::transcript::{Spoken, Transcript, Voice};
use lines::{Line, Lines};

pub use super::tracker::{Remains, Reset};

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
    /// Whether that was answered.
    answer: Answer,
    /// The backend is in the middle of a response, behind a literal's announcement.
    responding: bool,
    /// A `+` is due that is an IDLE's and no literal's.
    owed: bool,
    doubt: bool,
    said: Said,
    /// Only where somebody will ask what remains.
    tracker: Option<Box<Tracker>>,
    /// Only while somebody wants to see what is said.
    transcript: Option<Box<Transcript>>,
}

/// What was said of the session's end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    #[default]
    Nothing,
    Logout,
    Bye,
}

/// To the last command.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Answer {
    #[default]
    Given,
    Due,
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
#[derive(Debug)]
struct Doubt;

impl Follower {
    /// One that also keeps in mind what the session would leave behind ([`Follower::remains`]), and holds the client's
    /// LOGOUT back, since a backend that hears it closes the link.
    pub fn tracking() -> Self {
        Self { tracker: Some(Box::default()), ..Self::default() }
    }

    /// Takes bytes that the client sent, and says how many of them may go on to the backend: all of them, unless it is
    /// tracking. What is left then was not taken in, and the backend must not get it either. It is
    /// - a LOGOUT, whole, and whatever stands behind it, if [`Follower::logout`]; to be offered again only after
    ///   [`Follower::release_logout`];
    /// - or else the beginning of a line that may become one, at most 64 bytes, to be offered again with more behind it
    ///   (or, since doubt holds nothing back, once [`Follower::doubts`]). If nothing more comes, it was never said: the
    ///   backend knows nothing of it, and no trace of it remains.
    pub fn from_client(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !self.doubt && !rest.is_empty() {
            if self.talk == Talk::Command && self.client.is_at_start() && self.holds_back(rest) {
                return bytes.len() - rest.len();
            }
            let heard = match self.talk {
                // The literal it did not wait with, or a command? The backend's answer decides, and may decide for either.
                Talk::Waiting => Err(Doubt),
                _ => self.next_line(&mut rest).and_then(|line| line.map_or(Ok(()), |line| self.hear_client(&line))),
            };
            if heard.is_err() {
                self.give_up();
            }
        }
        bytes.len()
    }

    /// Takes bytes that the backend sent.
    pub fn from_backend(&mut self, mut bytes: &[u8]) {
        while !self.doubt && !bytes.is_empty() {
            if !self.responding && self.transcript.is_none() {
                self.backend.skip_data(&mut bytes);
            }
            let (before, literal) = (bytes, self.backend.literal);
            let line = self.backend.next(&mut bytes);
            if let Some(transcript) = &mut self.transcript {
                transcript.hear(Voice::Backend, parts(before, bytes, literal).1);
            }
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

    /// The same, and nobody is in the middle of anything: the last command was answered, or is an IDLE.
    pub fn rests(&self) -> bool {
        let asks = self.answer == Answer::Due && self.talk != Talk::Idling;
        self.vouches() && !asks && !self.is_in_command()
    }

    /// The client is in IDLE, and that is certain.
    pub fn idles(&self) -> bool {
        !self.doubt && self.talk == Talk::Idling
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

    /// The client has said LOGOUT and it was held back.
    pub fn logout(&self) -> bool {
        self.logout_tag().is_some()
    }

    /// The tag of the LOGOUT that was held back: 1 to 32 bytes of printable ASCII.
    pub fn logout_tag(&self) -> Option<&[u8]> {
        self.tracker.as_ref()?.logout_tag()
    }

    /// From now on LOGOUT goes on to the backend like any other command: the link cannot be kept. What was left is to be
    /// offered again.
    pub fn release_logout(&mut self) {
        if let Some(tracker) = &mut self.tracker {
            tracker.release_logout();
        }
    }

    /// It is worth waiting: a command is under way, or a line or literal is half sent, by either side; and once that has
    /// come to its end the link may be clean. Never without tracking, nor when the link is dirty for good.
    pub fn in_flight(&self) -> bool {
        let Some(tracker) = self.tracker.as_ref().filter(|tracker| tracker.dirt().is_none()) else { return false };
        let ended = self.said == Said::Bye;
        !ended && (tracker.in_flight() || self.is_in_command() || self.is_in_response())
    }

    /// What the link is, should the session end now. Without tracking it is dirty.
    pub fn remains(&self) -> Remains {
        let Some(tracker) = &self.tracker else { return Remains::Dirty(Dirt::Untracked.words()) };
        let dirt = match tracker.dirt() {
            Some(dirt) => dirt,
            None if self.said == Said::Bye => Dirt::Bye,
            None if self.is_in_command() => Dirt::HalfCommand,
            None if self.is_in_response() => Dirt::HalfResponse,
            None => return tracker.remains(),
        };
        Remains::Dirty(dirt.words())
    }

    /// From now on what is said is written down, or no more: of each side from the next command or response on.
    pub fn transcribe(&mut self, on: bool) {
        self.transcript = on.then(|| Box::new(Transcript::new(self.is_in_command(), self.is_in_response())));
        if self.doubt
            && let Some(transcript) = &mut self.transcript
        {
            transcript.doubt();
        }
    }

    /// Whether what is said is written down.
    pub fn is_transcribed(&self) -> bool {
        self.transcript.is_some()
    }

    /// What was written down since this was asked last.
    pub fn spoken(&mut self) -> Vec<Spoken> {
        self.transcript.as_mut().map_or_else(Vec::new, |transcript| transcript.take())
    }

    /// The client is inside a command, or inside its DONE.
    pub fn is_in_command(&self) -> bool {
        matches!(self.talk, Talk::Within | Talk::Waiting) || !self.client.is_at_start()
    }

    /// The backend is inside a response.
    fn is_in_response(&self) -> bool {
        self.responding || !self.backend.is_at_start()
    }

    /// What the client says next, at the start of a command, is a LOGOUT to be held back, or may become one.
    fn holds_back(&mut self, bytes: &[u8]) -> bool {
        match self.tracker.as_mut().map(|tracker| tracker.begin(bytes)) {
            None | Some(Farewell::No) => false,
            Some(Farewell::Perhaps) => true,
            Some(Farewell::Yes) => {
                self.said = self.said.max(Said::Logout);
                true
            }
        }
    }

    /// The client's next line, if it ends in `bytes`. The tracker sees every byte, even of lines that come in pieces.
    fn next_line<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Line<'a>>, Doubt> {
        let (before, literal) = (*bytes, self.client.literal);
        let line = self.client.next(bytes)?;
        if self.tracker.is_some() || self.transcript.is_some() {
            let (literal, text) = parts(before, bytes, literal);
            if let Some(tracker) = &mut self.tracker {
                tracker.hear_literal(literal);
                tracker.hear_text(text);
            }
            if let Some(transcript) = &mut self.transcript {
                transcript.hear(Voice::Client, text);
            }
        }
        Ok(line)
    }

    fn give_up(&mut self) {
        self.doubt = true;
        (self.client, self.backend) = (Lines::default(), Lines::default());
        if let Some(tracker) = &mut self.tracker {
            tracker.soil(Dirt::Doubt);
        }
        if let Some(transcript) = &mut self.transcript {
            transcript.doubt();
        }
    }

    fn hear_client(&mut self, line: &Line<'_>) -> Result<(), Doubt> {
        let idles = match self.talk {
            Talk::Command => self.hear_command(line)?,
            Talk::Within => false,
            Talk::Idling if line.is(b"DONE") => false,
            Talk::Idling | Talk::Waiting => return Err(Doubt),
        };
        let literal = line.literal()?;
        if let Some(tracker) = &mut self.tracker {
            tracker.hear_line(self.talk == Talk::Idling, literal.map(|literal| literal.waits));
        }
        self.talk = match literal {
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
        if let Some(transcript) = &mut self.transcript {
            transcript.end_line(Voice::Client, literal.map(|literal| (literal.size, literal.waits)));
        }
        Ok(())
    }

    /// The first line of a command. True: it is an IDLE.
    fn hear_command(&mut self, line: &Line<'_>) -> Result<bool, Doubt> {
        // An empty line too many, or the DONE to an IDLE that the backend has ended by itself.
        if line.is(b"") || line.is(b"DONE") {
            if let Some(tracker) = &mut self.tracker {
                tracker.soil(Dirt::StrayLine);
            }
            return Ok(false);
        }
        let (tag, rest) = tag_and_rest(line.head())?;
        let name = name(rest)?;
        self.tag = Tag::new(tag).ok_or(Doubt)?;
        self.answer = Answer::Due;
        if let Some(tracker) = &mut self.tracker {
            tracker.hear_command(self.tag, rest);
        }
        if let Some(transcript) = &mut self.transcript {
            transcript.hear_command(tag, name);
        }
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
        if let Some(transcript) = &mut self.transcript {
            transcript.end_line(Voice::Backend, literal.map(|literal| (literal.size, literal.waits)));
        }
        Ok(())
    }

    /// The first line of a response. True: it ends in text for people.
    fn hear_response(&mut self, head: &[u8]) -> Result<bool, Doubt> {
        if head.first() == Some(&b'+') {
            self.hear_continuation()?;
            return Ok(true);
        }
        // As in `Lines::skip_data`.
        if head.starts_with(b"* ") && head.get(2).is_some_and(u8::is_ascii_digit) {
            return Ok(false);
        }
        let status = status_line(head);
        if let Some(tracker) = &mut self.tracker {
            match status {
                Some((Some(tag), status, _)) => tracker.hear_answer(tag, status),
                Some((None, status, _)) => tracker.hear_status(status),
                None => tracker.hear_data(head),
            }
        }
        match status {
            Some((None, status, _)) => {
                if status == Status::Bye {
                    self.said = Said::Bye;
                }
                Ok(true)
            }
            Some((Some(tag), status @ (Status::Ok | Status::No | Status::Bad), _))
                if (1..=tag::LONGEST).contains(&tag.len()) =>
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
        if let Some(tracker) = &mut self.tracker {
            tracker.hear_continuation();
        }
        Ok(())
    }

    fn hear_answer(&mut self, tag: &[u8], status: Status) -> Result<(), Doubt> {
        if self.tag.is(tag) {
            self.answer = Answer::Given;
        }
        match self.talk {
            Talk::Waiting | Talk::Idling if !self.tag.is(tag) => {}
            Talk::Waiting if status == Status::Ok => return Err(Doubt),
            // The literal will not come.
            Talk::Waiting => {
                (self.talk, self.client.literal) = (Talk::Command, 0);
                if let Some(transcript) = &mut self.transcript {
                    transcript.start_over();
                }
            }
            // Refused, or ended before its DONE.
            Talk::Idling => (self.talk, self.owed) = (Talk::Command, false),
            Talk::Command | Talk::Within => {}
        }
        Ok(())
    }
}

/// What was taken of `before` to leave `after`: of a literal of which so much was to come, and of the line behind it.
fn parts<'a>(before: &'a [u8], after: &[u8], literal: u64) -> (&'a [u8], &'a [u8]) {
    let taken = before.get(..before.len().saturating_sub(after.len())).unwrap_or_default();
    taken.split_at(usize::try_from(literal).unwrap_or(usize::MAX).min(taken.len()))
}

/// The tag of a command and what stands behind its blank.
fn tag_and_rest(head: &[u8]) -> Result<(&[u8], &[u8]), Doubt> {
    let blank = head.iter().position(|byte| *byte == b' ').ok_or(Doubt)?;
    let (tag, rest) = (&head[..blank], &head[blank + 1..]);
    if !tag.is_empty() && tag.iter().all(u8::is_ascii_graphic) { Ok((tag, rest)) } else { Err(Doubt) }
}

/// The name of a command, right behind the blank: servers differ in what else they take.
fn name(rest: &[u8]) -> Result<&[u8], Doubt> {
    let end = rest.iter().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(rest.len());
    if end == 0 { Err(Doubt) } else { Ok(&rest[..end]) }
}

#[cfg(test)]
mod tests;
