//! The dialogue before login, as a machine without I/O: bytes in, answers and events out. It knows what may be said when,
//! every answer and every bound that is a number of tries; bounds in bytes are the framer's. It ends in a [`Login`] that
//! is accepted, or in an [`Ending`]. RFC 9051 sections 3.1, 6.1 and 6.2.

use std::{fmt, mem};

use zeroize::Zeroizing;

use super::command::{self, Command, Line, Name, Wrong};
use super::framer::{Frame, Framer};
use super::heard::{Heard, Mistake};
use super::sasl::{self, Exchange, Turn};
use super::transcript::{Before, Spoken};
use super::{Capabilities, Credentials, Login, Mechanism, Secret, UserName, Welcome, reply};
use crate::outcome::Ending;

/// Bad commands and failed logins, together, that a client has: enough for a person who mistypes, too few for a page in a
/// browser that was made to speak to us, or for guessing.
const ERRORS_MAX: u32 = 20;

const ABORTED: &[u8] = b"BAD Authentication aborted.";
const BAD_ARGUMENTS: &[u8] = b"BAD Invalid arguments.";
const PRIVACY_REQUIRED: &[u8] = b"NO [PRIVACYREQUIRED] Plaintext authentication is not allowed without TLS.";

/// What this listener allows at this moment. After STARTTLS there is another one, in another machine.
#[derive(Debug, Clone)]
pub struct Offer {
    /// STARTTLS is announced and obeyed.
    pub starttls: bool,
    /// Logins are allowed. When not: LOGINDISABLED, no AUTH=, every attempt answered `NO [PRIVACYREQUIRED]`, and never a
    /// `+` that would invite a secret on to the wire.
    pub login: bool,
    /// The SASL mechanisms, in the order of AUTH=.
    pub mechanisms: Vec<Mechanism>,
    /// The identity from a verified client certificate. With it, and only then, EXTERNAL is offered.
    pub certificate: Option<UserName>,
}

/// What the driver has to know or do.
pub enum Event {
    /// A whole attempt. The machine reads nothing more until [`Preauth::refuse`], [`Preauth::challenge`] or
    /// [`Preauth::accept`].
    Login(Login),
    /// The client's answer to [`Preauth::challenge`], decoded. `None`: it gave up with `*` or sent something malformed;
    /// it has its tagged BAD already and the machine waits for the next command.
    Answer(Option<Zeroizing<Vec<u8>>>),
    /// ID was received, and answered.
    Id(Vec<(Vec<u8>, Vec<u8>)>),
    /// STARTTLS was answered OK. The machine is of no more use.
    StartTls {
        /// False: something was pipelined behind it in clear. It must never count inside TLS (CVE-2011-0411 and its
        /// many children); close.
        clean: bool,
    },
    /// The session is over, once the answers are written. The untagged BYE, where there is one, is among them.
    End(Ending),
}

/// The machine.
#[derive(Debug)]
pub struct Preauth {
    offer: Offer,
    framer: Framer,
    state: State,
    errors: u32,
    heard: Heard,
    /// The client asked for capabilities, and so must hear of those that count after login.
    asked: bool,
    /// Only where somebody wants to see what is said.
    transcript: Option<Box<Before>>,
}

#[derive(Debug)]
enum State {
    /// Waits for a command.
    Idle,
    /// Waits for the next message of an AUTHENTICATE.
    Exchange { tag: Vec<u8>, exchange: Exchange },
    /// An attempt was handed out.
    Attempt { tag: Vec<u8>, mechanism: Mechanism },
    /// Waits for the answer to the driver's challenge.
    Challenged { tag: Vec<u8>, mechanism: Mechanism },
    /// Nothing more happens.
    Over,
}

impl Preauth {
    /// A machine at the start of a connection, or of its TLS.
    pub fn new(offer: Offer) -> Self {
        let scope = if offer.login { command::scope } else { command::scope_in_clear };
        let (state, heard) = (State::Idle, Heard::default());
        Self { offer, framer: Framer::new(scope), state, errors: 0, heard, asked: false, transcript: None }
    }

    /// The greeting. There is none after STARTTLS.
    pub fn greet(&self, out: &mut Vec<u8>) {
        reply::line(out, &[b"* OK [CAPABILITY ", self.capabilities().as_line(), b"] mailmux ready"]);
    }

    /// Takes bytes from the client. Push at most a few KiB, then `step` until `None`: what is pushed is held, and what it
    /// is answered with grows with it.
    pub fn push(&mut self, bytes: &[u8]) {
        self.framer.push(bytes);
    }

    /// Goes on until there is an event; `None` when more bytes are needed. Answers are appended to `out`; while the client
    /// does not take them, do not push.
    pub fn step(&mut self, out: &mut Vec<u8>) -> Option<Event> {
        loop {
            match self.state {
                State::Attempt { .. } | State::Over => return None,
                _ if self.errors >= ERRORS_MAX => return Some(self.end(Ending::TooManyErrors, out)),
                _ => {}
            }
            let frame = self.framer.pop()?;
            let before = out.len();
            if let Some(transcript) = &mut self.transcript {
                transcript.heard(&frame, self.framer.held());
            }
            let event = match frame {
                Frame::Command(bytes) => self.command(&bytes, out),
                Frame::Waits => {
                    self.literal(out);
                    None
                }
                Frame::Oversize(head) => {
                    self.bad(Mistake::Literal, Line::new(&head).tag, b"BAD Literal too long.", out);
                    None
                }
                Frame::Answer(text) => self.answer(&text, out),
                Frame::TooLong => Some(self.end(Ending::TooLong, out)),
                Frame::Foreign => Some(self.end(Ending::WrongProtocol, out)),
            };
            self.show(out.get(before..));
            if event.is_some() {
                return event;
            }
        }
    }

    /// Answers the attempt with `NO <reply>`. The client may try again, a bounded number of times.
    pub fn refuse(&mut self, reply: &[u8], out: &mut Vec<u8>) {
        if let State::Attempt { tag, .. } = mem::replace(&mut self.state, State::Idle) {
            self.errors += 1;
            let before = out.len();
            reply::line(out, &[&tag, b" NO ", reply]);
            self.show(out.get(before..));
        }
    }

    /// Passes a challenge on to the client; what it says to it comes as [`Event::Answer`].
    pub fn challenge(&mut self, data: &[u8], out: &mut Vec<u8>) {
        match mem::replace(&mut self.state, State::Idle) {
            State::Attempt { tag, mechanism } => {
                let before = out.len();
                self.invite(data, out);
                self.show(out.get(before..));
                self.state = State::Challenged { tag, mechanism };
            }
            state => self.state = state,
        }
    }

    /// Lets the client in, and gives back what it pipelined behind its login: the backend's, byte for byte.
    pub fn accept(self, ok: &Welcome, out: &mut Vec<u8>) -> Vec<u8> {
        if let State::Attempt { tag, .. } = &self.state {
            out.extend_from_slice(&ok.untagged);
            if (self.asked || !ok.ok_had_capabilities) && !ok.capabilities.is_empty() {
                reply::capabilities(out, &ok.capabilities);
            }
            reply::line(out, &[tag, b" OK ", &ok.text]);
        }
        self.framer.unread().to_vec()
    }

    /// What the client has said so far.
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    /// From now on what is said is written down, or no more.
    pub fn transcribe(&mut self, on: bool) {
        self.transcript = on.then(Box::default);
    }

    /// What was written down since this was asked last. Not the greeting, nor what [`Preauth::accept`] says.
    pub fn spoken(&mut self) -> Vec<Spoken> {
        self.transcript.as_mut().map_or_else(Vec::new, |transcript| transcript.take())
    }

    fn show(&mut self, said: Option<&[u8]>) {
        if let Some((transcript, said)) = self.transcript.as_mut().zip(said) {
            transcript.said(said);
        }
    }

    /// The bytes held.
    pub fn buffered(&self) -> usize {
        self.framer.buffered()
    }

    /// What is obeyed at this moment, and nothing else.
    fn capabilities(&self) -> Capabilities {
        let mut line = b"IMAP4rev1 SASL-IR LITERAL- ID ENABLE".to_vec();
        if self.offer.starttls {
            line.extend_from_slice(b" STARTTLS");
        }
        if !self.offer.login {
            line.extend_from_slice(b" LOGINDISABLED");
        }
        let chosen = self.offer.mechanisms.iter().filter(|mechanism| **mechanism != Mechanism::External);
        for mechanism in chosen.chain([&Mechanism::External]).filter(|mechanism| self.offers(**mechanism)) {
            line.extend_from_slice(b" AUTH=");
            line.extend_from_slice(mechanism.as_str().as_bytes());
        }
        Capabilities::parse(&line)
    }

    fn offers(&self, mechanism: Mechanism) -> bool {
        self.offer.login
            && match mechanism {
                Mechanism::LoginCommand => false,
                Mechanism::External => self.offer.certificate.is_some(),
                _ => self.offer.mechanisms.contains(&mechanism),
            }
    }

    fn command(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<Event> {
        let line = Line::new(bytes);
        let Some(tag) = line.tag else {
            self.bad(Mistake::Tag, None, b"BAD Invalid tag.", out);
            return None;
        };
        self.heard.command(line.name);
        if self.is_in_clear(line.name) {
            self.bad(Mistake::InClear, Some(tag), PRIVACY_REQUIRED, out);
            return None;
        }
        match line.parse() {
            Ok(Command::Capability) => {
                self.asked = true;
                reply::capabilities(out, &self.capabilities());
                reply::tagged(out, Some(tag), b"OK Capability completed.");
            }
            Ok(Command::Noop) => reply::tagged(out, Some(tag), b"OK Noop completed."),
            Ok(Command::Logout) => {
                reply::tagged(out, None, b"BYE Logging out.");
                reply::tagged(out, Some(tag), b"OK Logout completed.");
                return Some(self.end(Ending::ClientLogout, out));
            }
            Ok(Command::StartTls) => return self.start_tls(tag, out),
            Ok(Command::Id(pairs)) => {
                reply::tagged(out, None, b"ID (\"name\" \"mailmux\")");
                reply::tagged(out, Some(tag), b"OK ID completed.");
                return Some(Event::Id(pairs));
            }
            Ok(Command::Login { user, password }) => return self.login(tag, &user, password, out),
            Ok(Command::Authenticate { mechanism, initial }) => {
                return self.authenticate(tag, &mechanism, initial.as_deref().map(Vec::as_slice), out);
            }
            Err(wrong) => {
                let (mistake, text) = judged(wrong);
                self.bad(mistake, Some(tag), text, out);
            }
        }
        None
    }

    /// A literal waits. Its sender hears `+` only when its bytes are wanted, and in clear never: what a client sends then
    /// is its own mistake and nobody's invitation.
    fn literal(&mut self, out: &mut Vec<u8>) {
        let line = Line::new(self.framer.held());
        if self.offer.login && line.tag.is_some() && line.may_go_on() {
            reply::go_on(out, b"OK");
            return self.framer.permit();
        }
        let tag = line.tag.map(<[u8]>::to_vec);
        self.framer.abandon();
        if let Some(transcript) = &mut self.transcript {
            transcript.start_over();
        }
        let (mistake, text): (_, &[u8]) = match tag {
            Some(_) => (Mistake::Arguments, BAD_ARGUMENTS),
            None => (Mistake::Tag, b"BAD Invalid tag."),
        };
        self.bad(mistake, tag.as_deref(), text, out);
    }

    fn start_tls(&mut self, tag: &[u8], out: &mut Vec<u8>) -> Option<Event> {
        if !self.offer.starttls {
            self.bad(Mistake::Unknown, Some(tag), b"BAD STARTTLS is not available.", out);
            return None;
        }
        reply::tagged(out, Some(tag), b"OK Begin TLS negotiation now.");
        self.state = State::Over;
        Some(Event::StartTls { clean: self.framer.unread().is_empty() })
    }

    fn login(&mut self, tag: &[u8], user: &[u8], password: Zeroizing<Vec<u8>>, out: &mut Vec<u8>) -> Option<Event> {
        // A line break in either would be a command to whoever writes it into a line (command smuggling).
        let (Ok(user), Ok(password)) = (UserName::new(user), Secret::new(password)) else {
            self.bad(Mistake::Arguments, Some(tag), b"BAD Invalid user name or password.", out);
            return None;
        };
        let credentials = Credentials::Password(password);
        Some(self.attempt(tag.to_vec(), Login { mechanism: Mechanism::LoginCommand, user, authzid: None, credentials }))
    }

    fn authenticate(&mut self, tag: &[u8], name: &[u8], initial: Option<&[u8]>, out: &mut Vec<u8>) -> Option<Event> {
        let Some(mechanism) = sasl::mechanism(name).filter(|mechanism| self.offers(*mechanism)) else {
            self.bad(Mistake::Mechanism, Some(tag), b"NO Unsupported authentication mechanism.", out);
            return None;
        };
        let exchange = Exchange::new(mechanism);
        let Some(text) = initial else {
            self.invite(exchange.prompt(), out);
            self.state = State::Exchange { tag: tag.to_vec(), exchange };
            return None;
        };
        // An empty message is written "=" here, and only here (RFC 4959 section 3).
        let message = if text == b"=" { Some(Zeroizing::default()) } else { sasl::decode_base64(text) };
        self.hear(tag.to_vec(), exchange, message, out)
    }

    /// The next message of an exchange; `None` when it was no base64.
    fn hear(
        &mut self,
        tag: Vec<u8>,
        mut exchange: Exchange,
        message: Option<Zeroizing<Vec<u8>>>,
        out: &mut Vec<u8>,
    ) -> Option<Event> {
        let identity = self.offer.certificate.as_ref();
        match message.ok_or(sasl::Malformed).and_then(|message| exchange.hear(message, identity)) {
            Ok(Turn::Done(login)) => Some(self.attempt(tag, login)),
            Ok(Turn::Ask) => {
                self.invite(exchange.prompt(), out);
                self.state = State::Exchange { tag, exchange };
                None
            }
            Err(sasl::Malformed) => {
                self.bad(Mistake::Exchange, Some(&tag), b"BAD Invalid authentication message.", out);
                None
            }
        }
    }

    /// A line that answers a `+`.
    fn answer(&mut self, text: &[u8], out: &mut Vec<u8>) -> Option<Event> {
        let state = mem::replace(&mut self.state, State::Idle);
        let message = sasl::decode_base64(text);
        match state {
            State::Exchange { tag, .. } if text == b"*" => {
                self.bad(Mistake::Exchange, Some(&tag), ABORTED, out);
                None
            }
            State::Exchange { tag, exchange } => self.hear(tag, exchange, message, out),
            State::Challenged { tag, mechanism } => {
                let message = message.filter(|message| is_answer(mechanism, message));
                if message.is_some() {
                    self.state = State::Attempt { tag, mechanism };
                } else {
                    self.bad(Mistake::Exchange, Some(&tag), ABORTED, out);
                }
                Some(Event::Answer(message))
            }
            state => {
                self.state = state;
                None
            }
        }
    }

    fn attempt(&mut self, tag: Vec<u8>, login: Login) -> Event {
        self.state = State::Attempt { tag, mechanism: login.mechanism };
        Event::Login(login)
    }

    /// `+ <base64>`; the next line is the answer.
    fn invite(&mut self, data: &[u8], out: &mut Vec<u8>) {
        reply::go_on(out, &sasl::base64(data));
        self.framer.expect_answer();
    }

    /// Says no, and counts it.
    fn bad(&mut self, mistake: Mistake, tag: Option<&[u8]>, text: &[u8], out: &mut Vec<u8>) {
        self.errors += 1;
        self.heard.mistake(mistake);
        reply::tagged(out, tag, text);
    }

    fn end(&mut self, ending: Ending, out: &mut Vec<u8>) -> Event {
        self.state = State::Over;
        out.extend_from_slice(ending.bye().unwrap_or_default());
        Event::End(ending)
    }

    fn is_in_clear(&self, name: Name) -> bool {
        !self.offer.login && matches!(name, Name::Login | Name::Authenticate)
    }
}

/// An answer is shown by its length: it may be a proof.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Login(login) => write!(f, "{login:?}"),
            Self::Answer(answer) => write!(f, "Answer({:?} bytes)", answer.as_ref().map(|answer| answer.len())),
            Self::Id(pairs) => write!(f, "Id({} pairs)", pairs.len()),
            Self::StartTls { clean } => write!(f, "StartTls {{ clean: {clean} }}"),
            Self::End(ending) => write!(f, "End({ending:?})"),
        }
    }
}

/// Whether a client may say this to a challenge. To a token's failure there is one thing to say, and it is not a secret
/// (RFC 7628 3.2.3: one ^A; Google: nothing); SCRAM's answers are the backend's to judge.
fn is_answer(mechanism: Mechanism, message: &[u8]) -> bool {
    !matches!(mechanism, Mechanism::XOAuth2 | Mechanism::OAuthBearer) || matches!(message, b"" | b"\x01")
}

fn judged(wrong: Wrong) -> (Mistake, &'static [u8]) {
    match wrong {
        Wrong::Arguments => (Mistake::Arguments, BAD_ARGUMENTS),
        Wrong::TooEarly => (Mistake::TooEarly, b"BAD Log in first."),
        Wrong::Unknown => (Mistake::Unknown, b"BAD Unknown command."),
    }
}

#[cfg(test)]
mod tests;
