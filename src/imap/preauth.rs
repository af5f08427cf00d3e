//! The dialogue before login, as a machine: bytes in, bytes out, and events. It knows seven commands and the mechanisms
//! its listener offers; RFC 9051 sections 6.1 and 6.2, RFC 2971 (ID), RFC 4959 (SASL-IR), RFC 7888 (LITERAL-).
//!
//! Nothing a client sends is given back to it but its tag. The bounds are here and in `framer.rs`: a client that passes
//! them is told so and the dialogue ends.

use zeroize::Zeroizing;

use super::command::{self, Part, Verb};
use super::framer::{Announced, Framer, LONGEST_LINE, LONGEST_SASL_LINE, Line, announced};
use super::sasl;
use super::{Credentials, Login, Mechanism, Secret, UserName, Welcome};
use crate::outcome::Ending;

/// Bad commands and failed logins, together.
const MOST_ERRORS: u32 = 20;
/// What LITERAL- lets a client send without asking (RFC 7888 section 5).
const LITERAL_MINUS: u64 = 4096;
/// Literals that nobody asked for are read past, so that their bytes are not taken for commands; up to here.
const MOST_SKIPPED: u64 = 1024 * 1024;

const MALFORMED: &[u8] = b"BAD Malformed command.";
const TOO_BIG: &[u8] = b"BAD [TOOBIG] Literal too big.";
const NOT_NOW: &[u8] = b"BAD Log in first.";
const PRIVACY: &[u8] = b"NO [PRIVACYREQUIRED] Use TLS before you log in.";
const FORBIDDEN: &[u8] = b"BAD CR, LF and NUL are not allowed here.";

/// What this listener, at this point, offers.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    /// STARTTLS.
    pub starttls: bool,
    /// Logging in. Where it is not offered, secrets are not invited either.
    pub login: bool,
    /// What AUTH= announces, EXTERNAL aside.
    pub mechanisms: Vec<Mechanism>,
    /// Whom the client's verified certificate names; EXTERNAL is offered where there is one.
    pub certificate: Option<UserName>,
}

/// Something the machine cannot deal with alone.
#[derive(Debug)]
pub enum Event {
    /// A whole attempt to log in. The machine reads nothing more until it is told how it went: by `refuse`, `challenge` or
    /// `accept`.
    Login(Login),
    /// The client's answer to a challenge, decoded; `None` when it gave up, which has been answered.
    Answer(Option<Zeroizing<Vec<u8>>>),
    /// The client said who it is (RFC 2971), and was answered.
    Id(Vec<(Vec<u8>, Vec<u8>)>),
    /// STARTTLS was answered with OK; `clean` when nothing was pipelined behind it.
    StartTls {
        /// Nothing of what comes under TLS was sent in clear.
        clean: bool,
    },
    /// The dialogue is over. What was said last is still to be written.
    End(Ending),
}

/// The machine.
pub struct Preauth {
    offer: Offer,
    framer: Framer,
    state: State,
    errors: u32,
    /// The client has seen a list of capabilities that the backend's will not be.
    asked: bool,
    /// Nothing has been read yet.
    fresh: bool,
}

enum State {
    /// A command begins.
    Command,
    /// Within a command that takes literals.
    Arguments(Gathering),
    /// Reading past what is left of a command that is refused.
    Past { tag: Vec<u8>, reply: &'static [u8], skipped: u64 },
    /// A SASL message is awaited.
    Sasl { tag: Vec<u8>, mechanism: Mechanism, user: Option<UserName> },
    /// A login has been given out.
    Given { tag: Vec<u8> },
    /// The client's answer to a challenge is awaited.
    Challenged { tag: Vec<u8> },
    /// Over.
    Ended,
}

struct Gathering {
    tag: Vec<u8>,
    verb: Verb,
    parts: Vec<Part>,
    /// Bytes gathered, so that many literals are not more than one.
    size: usize,
    /// The literal that comes next.
    literal: Option<usize>,
}

/// What one step came to.
enum Step {
    Event(Event),
    Again,
    NeedsBytes,
}

impl Preauth {
    /// A machine that has read nothing.
    pub fn new(offer: Offer) -> Self {
        Self { offer, framer: Framer::default(), state: State::Command, errors: 0, asked: false, fresh: true }
    }

    /// The greeting.
    pub fn greet(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"* OK [CAPABILITY ");
        self.write_capabilities(out);
        out.extend_from_slice(b"] mailmux ready\r\n");
    }

    /// Takes in what the client sent. To be stepped until it needs bytes before it is given more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.framer.push(bytes);
    }

    /// Bytes held.
    pub fn buffered(&self) -> usize {
        self.framer.held().len()
    }

    /// Goes on until something happens or bytes are missing (`None`). Answers are appended to `out`.
    pub fn step(&mut self, out: &mut Vec<u8>) -> Option<Event> {
        loop {
            if self.errors >= MOST_ERRORS && matches!(self.state, State::Command) {
                return Some(self.end(Ending::TooManyErrors, b"* BYE Too many errors.\r\n", out));
            }
            match self.advance(out) {
                Step::Event(event) => return Some(event),
                Step::Again => {}
                Step::NeedsBytes => return None,
            }
        }
    }

    /// The login was refused, with these words behind NO. The client may try again.
    pub fn refuse(&mut self, reply: &[u8], out: &mut Vec<u8>) {
        if let State::Given { tag } = std::mem::replace(&mut self.state, State::Command) {
            self.errors += 1;
            for piece in [&tag[..], b" NO ", reply, b"\r\n"] {
                out.extend_from_slice(piece);
            }
        }
    }

    /// The backend wants something only the client can say.
    pub fn challenge(&mut self, data: &[u8], out: &mut Vec<u8>) {
        if let State::Given { tag } = std::mem::replace(&mut self.state, State::Ended) {
            write_challenge(data, out);
            self.state = State::Challenged { tag };
        }
    }

    /// The login succeeded: answers it, and gives what the client has pipelined behind it.
    pub fn accept(self, welcome: &Welcome, out: &mut Vec<u8>) -> Vec<u8> {
        if let State::Given { tag } = &self.state {
            welcome.write(tag, self.asked, out);
        }
        self.framer.into_held()
    }

    fn advance(&mut self, out: &mut Vec<u8>) -> Step {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Command => self.command(out),
            State::Arguments(gathering) => self.gather(gathering, out),
            State::Past { tag, reply, skipped } => self.read_past(tag, reply, skipped, out),
            State::Sasl { tag, mechanism, user } => self.sasl(tag, mechanism, user, out),
            State::Challenged { tag } => self.answered(tag, out),
            waiting @ (State::Given { .. } | State::Ended) => {
                self.state = waiting;
                Step::NeedsBytes
            }
        }
    }

    /// Puts a state back that has to wait.
    fn wait(&mut self, state: State) -> Step {
        self.state = state;
        Step::NeedsBytes
    }

    fn too_long(&mut self, out: &mut Vec<u8>) -> Step {
        Step::Event(self.end(Ending::TooLong, b"* BYE Input too long.\r\n", out))
    }

    fn end(&mut self, ending: Ending, words: &[u8], out: &mut Vec<u8>) -> Event {
        out.extend_from_slice(words);
        self.state = State::Ended;
        Event::End(ending)
    }

    /// Answers a command and is ready for the next.
    fn reply(&mut self, tag: &[u8], reply: &[u8], out: &mut Vec<u8>) -> Step {
        if !reply.starts_with(b"OK") {
            self.errors += 1;
        }
        for piece in [tag, b" ", reply, b"\r\n"] {
            out.extend_from_slice(piece);
        }
        self.state = State::Command;
        Step::Again
    }

    fn command(&mut self, out: &mut Vec<u8>) -> Step {
        if command::is_other_protocol(self.framer.held()) && self.fresh {
            return Step::Event(self.end(Ending::WrongProtocol, b"", out));
        }
        let line = match self.framer.line(LONGEST_LINE) {
            Some(Line::Whole(line)) => line,
            Some(Line::TooLong) => return self.too_long(out),
            None => return self.wait(State::Command),
        };
        // A header of PROXY version 2 begins with line ends; it is known by then or never.
        self.fresh &= line.is_empty();
        let Some(head) = command::head(&line) else {
            return self.refuse_rest(b"*", b"BAD Malformed command.", &line, out);
        };
        let (tag, rest) = (head.tag.to_vec(), head.rest);
        match head.verb {
            Some(Verb::Login) if !self.offer.login => self.refuse_rest(&tag, PRIVACY, &line, out),
            Some(verb @ (Verb::Login | Verb::Id)) => {
                let gathering = Gathering { tag, verb, parts: Vec::new(), size: 0, literal: None };
                self.gathered_line(gathering, rest, out)
            }
            Some(Verb::Authenticate) if announced(&line).is_none() => self.authenticate(&tag, rest, out),
            Some(Verb::Capability | Verb::Noop | Verb::Logout | Verb::StartTls) if !rest.is_empty() => {
                self.refuse_rest(&tag, MALFORMED, &line, out)
            }
            Some(Verb::Capability) => {
                self.asked = true;
                out.extend_from_slice(b"* CAPABILITY ");
                self.write_capabilities(out);
                out.extend_from_slice(b"\r\n");
                self.reply(&tag, b"OK Capability completed.", out)
            }
            Some(Verb::Noop) => self.reply(&tag, b"OK Nothing done.", out),
            Some(Verb::Logout) => {
                out.extend_from_slice(b"* BYE Logging out.\r\n");
                self.reply(&tag, b"OK Logged out.", out);
                Step::Event(self.end(Ending::ClientLogout, b"", out))
            }
            Some(Verb::StartTls) => self.starttls(&tag, out),
            Some(Verb::Other) => self.refuse_rest(&tag, NOT_NOW, &line, out),
            Some(Verb::Authenticate) | None => self.refuse_rest(&tag, MALFORMED, &line, out),
        }
    }

    fn starttls(&mut self, tag: &[u8], out: &mut Vec<u8>) -> Step {
        if !self.offer.starttls {
            return self.reply(tag, b"BAD There is no STARTTLS here.", out);
        }
        self.reply(tag, b"OK Begin TLS now.", out);
        self.state = State::Ended;
        Step::Event(Event::StartTls { clean: self.framer.held().is_empty() })
    }

    /// Refuses a command whose first line ends like this. A literal that the client waits to send is thereby not invited;
    /// one that comes anyway is read past first.
    fn refuse_rest(&mut self, tag: &[u8], reply: &'static [u8], line: &[u8], out: &mut Vec<u8>) -> Step {
        match announced(line) {
            Some(Announced { waits: false, length, .. }) => self.skip(tag.to_vec(), reply, (0, length), out),
            _ => self.reply(tag, reply, out),
        }
    }

    fn skip(&mut self, tag: Vec<u8>, reply: &'static [u8], (so_far, length): (u64, u64), out: &mut Vec<u8>) -> Step {
        let skipped = so_far.saturating_add(length);
        if skipped > MOST_SKIPPED {
            return self.too_long(out);
        }
        self.framer.skip(length);
        self.state = State::Past { tag, reply, skipped };
        Step::Again
    }

    fn read_past(&mut self, tag: Vec<u8>, reply: &'static [u8], skipped: u64, out: &mut Vec<u8>) -> Step {
        match self.framer.line(LONGEST_LINE) {
            None => self.wait(State::Past { tag, reply, skipped }),
            Some(Line::TooLong) => self.too_long(out),
            Some(Line::Whole(line)) => match announced(&line) {
                Some(Announced { waits: false, length, .. }) => self.skip(tag, reply, (skipped, length), out),
                _ => self.reply(&tag, reply, out),
            },
        }
    }

    /// Waits for the literal or the line that comes next in a command that takes literals.
    fn gather(&mut self, mut gathering: Gathering, out: &mut Vec<u8>) -> Step {
        if let Some(length) = gathering.literal {
            let Some(literal) = self.framer.literal(length) else {
                return self.wait(State::Arguments(gathering));
            };
            gathering.parts.push(Part::Literal(literal));
            gathering.literal = None;
        }
        match self.framer.line(LONGEST_LINE) {
            None => self.wait(State::Arguments(gathering)),
            Some(Line::TooLong) => self.too_long(out),
            Some(Line::Whole(line)) => self.gathered_line(gathering, &line, out),
        }
    }

    fn gathered_line(&mut self, mut gathering: Gathering, line: &[u8], out: &mut Vec<u8>) -> Step {
        let literal = announced(line);
        let text = &line[..literal.map_or(line.len(), |literal| literal.text)];
        gathering.size += text.len();
        gathering.parts.push(Part::Text(Zeroizing::new(text.to_vec())));
        let Some(Announced { length, waits, .. }) = literal else {
            return self.complete(gathering, out);
        };
        let room = LONGEST_LINE.saturating_sub(gathering.size);
        let fits = usize::try_from(length).ok().filter(|length| *length <= room);
        match fits {
            Some(length) if waits || length as u64 <= LITERAL_MINUS => {
                if waits {
                    out.extend_from_slice(b"+ Go ahead.\r\n");
                }
                gathering.size += length;
                gathering.literal = Some(length);
                self.state = State::Arguments(gathering);
                Step::Again
            }
            _ if waits => self.reply(&gathering.tag, TOO_BIG, out),
            _ => self.skip(gathering.tag, TOO_BIG, (0, length), out),
        }
    }

    fn complete(&mut self, gathering: Gathering, out: &mut Vec<u8>) -> Step {
        let Gathering { tag, verb, parts, .. } = gathering;
        if verb == Verb::Id {
            let Ok(pairs) = command::id_arguments(&parts) else { return self.reply(&tag, MALFORMED, out) };
            out.extend_from_slice(b"* ID (\"name\" \"mailmux\")\r\n");
            self.reply(&tag, b"OK Pleased to meet you.", out);
            return Step::Event(Event::Id(pairs));
        }
        let Ok((user, password)) = command::login_arguments(&parts) else {
            return self.reply(&tag, MALFORMED, out);
        };
        let (Ok(user), Ok(password)) = (UserName::new(user.as_slice()), Secret::new(password)) else {
            return self.reply(&tag, FORBIDDEN, out);
        };
        self.give(tag, Mechanism::LoginCommand, user, Credentials::Password(password))
    }

    fn give(&mut self, tag: Vec<u8>, mechanism: Mechanism, user: UserName, credentials: Credentials) -> Step {
        self.give_for(tag, Login { mechanism, user, authzid: None, credentials })
    }

    fn give_for(&mut self, tag: Vec<u8>, login: Login) -> Step {
        self.state = State::Given { tag };
        Step::Event(Event::Login(login))
    }

    fn authenticate(&mut self, tag: &[u8], rest: &[u8], out: &mut Vec<u8>) -> Step {
        if !self.offer.login {
            return self.reply(tag, PRIVACY, out);
        }
        let Ok((name, initial)) = command::authenticate_arguments(rest) else {
            return self.reply(tag, MALFORMED, out);
        };
        let Some(mechanism) = self.offered().find(|offered| name.eq_ignore_ascii_case(offered.as_str().as_bytes()))
        else {
            return self.reply(tag, b"NO [CANNOT] Mechanism not offered.", out);
        };
        let (tag, user) = (tag.to_vec(), None);
        match initial {
            // RFC 4959: a response of no bytes is written "=".
            Some(b"=") => self.sasl_message(tag, mechanism, user, Zeroizing::new(Vec::new()), out),
            Some(initial) => self.sasl_text(tag, mechanism, user, initial, out),
            None => {
                write_challenge(if mechanism == Mechanism::Login { sasl::USER_PROMPT } else { b"" }, out);
                self.state = State::Sasl { tag, mechanism, user };
                Step::Again
            }
        }
    }

    fn sasl(&mut self, tag: Vec<u8>, mechanism: Mechanism, user: Option<UserName>, out: &mut Vec<u8>) -> Step {
        match self.framer.line(LONGEST_SASL_LINE) {
            None => self.wait(State::Sasl { tag, mechanism, user }),
            Some(Line::TooLong) => self.too_long(out),
            Some(Line::Whole(line)) if *line == b"*" => self.reply(&tag, b"BAD Authentication cancelled.", out),
            Some(Line::Whole(line)) => self.sasl_text(tag, mechanism, user, &line, out),
        }
    }

    fn sasl_text(
        &mut self,
        tag: Vec<u8>,
        mechanism: Mechanism,
        user: Option<UserName>,
        text: &[u8],
        out: &mut Vec<u8>,
    ) -> Step {
        match sasl::decode_base64(text) {
            Some(message) => self.sasl_message(tag, mechanism, user, message, out),
            None => self.reply(&tag, b"BAD Malformed base64.", out),
        }
    }

    fn sasl_message(
        &mut self,
        tag: Vec<u8>,
        mechanism: Mechanism,
        user: Option<UserName>,
        message: Zeroizing<Vec<u8>>,
        out: &mut Vec<u8>,
    ) -> Step {
        if mechanism == Mechanism::Login && user.is_none() {
            let Ok(user) = UserName::new(message.as_slice()) else { return self.reply(&tag, FORBIDDEN, out) };
            write_challenge(sasl::PASSWORD_PROMPT, out);
            self.state = State::Sasl { tag, mechanism, user: Some(user) };
            return Step::Again;
        }
        match self.read_sasl(mechanism, user, message) {
            Ok(login) => self.give_for(tag, login),
            Err(reply) => self.reply(&tag, reply, out),
        }
    }

    /// The login that a mechanism's last message makes, or what is said to it.
    fn read_sasl(
        &self,
        mechanism: Mechanism,
        user: Option<UserName>,
        message: Zeroizing<Vec<u8>>,
    ) -> Result<Login, &'static [u8]> {
        let malformed = |_| &b"BAD Malformed SASL message."[..];
        let login = |user, authzid, credentials| Login { mechanism, user, authzid, credentials };
        match mechanism {
            Mechanism::Plain => {
                let plain = sasl::parse_plain(&message).map_err(malformed)?;
                Ok(login(plain.user, plain.authzid, Credentials::Password(plain.password)))
            }
            Mechanism::Login => {
                let user = user.ok_or(MALFORMED)?;
                Ok(login(user, None, Credentials::Password(Secret::new(message).map_err(|_| FORBIDDEN)?)))
            }
            Mechanism::XOAuth2 | Mechanism::OAuthBearer => {
                let parse = if mechanism == Mechanism::XOAuth2 { sasl::parse_xoauth2 } else { sasl::parse_oauthbearer };
                let bearer = parse(&message).map_err(malformed)?;
                Ok(login(bearer.user, None, Credentials::Token(bearer.token)))
            }
            Mechanism::ScramSha1 | Mechanism::ScramSha256 => {
                let first = sasl::parse_scram_first(&message).map_err(malformed)?;
                Ok(login(first.user, first.authzid, Credentials::ScramFirst(first.message)))
            }
            Mechanism::External => {
                let asked = sasl::parse_external(&message).map_err(malformed)?;
                let user = self.offer.certificate.clone().ok_or(MALFORMED)?;
                // A certificate speaks for the one it names, and for nobody else.
                match asked {
                    Some(other) if other.normalised() != user.normalised() => {
                        Err(b"NO [AUTHORIZATIONFAILED] The certificate is not this user's.")
                    }
                    _ => Ok(login(user, None, Credentials::Certificate)),
                }
            }
            Mechanism::LoginCommand => Err(MALFORMED),
        }
    }

    fn answered(&mut self, tag: Vec<u8>, out: &mut Vec<u8>) -> Step {
        let line = match self.framer.line(LONGEST_SASL_LINE) {
            None => return self.wait(State::Challenged { tag }),
            Some(Line::TooLong) => return self.too_long(out),
            Some(Line::Whole(line)) => line,
        };
        let reply = if *line == b"*" {
            &b"BAD Authentication cancelled."[..]
        } else if let Some(answer) = sasl::decode_base64(&line) {
            self.state = State::Given { tag };
            return Step::Event(Event::Answer(Some(answer)));
        } else {
            b"BAD Malformed base64."
        };
        self.reply(&tag, reply, out);
        Step::Event(Event::Answer(None))
    }

    fn offered(&self) -> impl Iterator<Item = Mechanism> {
        let external = self.offer.certificate.as_ref().map(|_| Mechanism::External);
        let offered = |mechanism: &Mechanism| !matches!(mechanism, Mechanism::LoginCommand | Mechanism::External);
        self.offer.mechanisms.iter().copied().filter(offered).chain(external)
    }

    /// What is obeyed here, and nothing more: LITERAL- and not LITERAL+, no mechanism with channel binding.
    fn write_capabilities(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"IMAP4rev1 SASL-IR LITERAL- ID ENABLE");
        if self.offer.starttls {
            out.extend_from_slice(b" STARTTLS");
        }
        if !self.offer.login {
            out.extend_from_slice(b" LOGINDISABLED");
            return;
        }
        for mechanism in self.offered() {
            out.extend_from_slice(b" AUTH=");
            out.extend_from_slice(mechanism.as_str().as_bytes());
        }
    }
}

fn write_challenge(data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"+ ");
    out.extend_from_slice(&sasl::base64(data));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
