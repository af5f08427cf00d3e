//! Logging in at a backend, by whatever it offers: PLAIN, AUTHENTICATE LOGIN, the LOGIN command, tokens, and SCRAM relayed
//! challenge by challenge. RFC 9051 section 6.2, RFC 4959 (initial responses), RFC 7888 (literals). What SASL messages
//! hold is written in `imap/sasl/`. Not here: retries, what the client hears (`outcome.rs`).

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::wire::{Answer, Keep, Tag, capabilities_in};
use super::{Authenticating, Greeted, Link, LinkError, LoggedIn, Progress, id};
use crate::backend::{LoginAs, Prescribed, Route};
use crate::config::MasterForm;
use crate::imap::response::{Code, Status};
use crate::imap::{Capabilities, Credentials, Login, Mechanism, Secret, UserName, Welcome, sasl};
use crate::metrics::BackendError;
use crate::outcome::Refusal;

/// The longest line on which an initial response goes out; longer ones (tokens) wait for the `+`, since servers bound
/// command lines more tightly than SASL answers.
const INITIAL_LINE: usize = 4000;
/// RFC 7888 section 5: all that LITERAL- allows without being asked.
const LITERAL_MINUS: usize = 4096;
/// The longest quoted string; what is longer goes as a literal.
const QUOTED: usize = 1000;
/// Challenges relayed to the client in one exchange. SCRAM has two, OAuth one.
const CHALLENGES: u8 = 4;

/// A SASL exchange that is under way.
pub(super) struct Exchange {
    tag: Tag,
    user: UserName,
    kind: Kind,
    challenges: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The client's answers are passed on.
    Scram,
    /// The only challenge is the reason for a failure; this is the answer that acknowledges it.
    Token(&'static [u8]),
}

/// How to log in, decided before anything is written.
enum Plan {
    /// One message, complete in itself: mechanism, message, and for tokens how a failure is acknowledged.
    Message(&'static str, Zeroizing<Vec<u8>>, Option<Kind>),
    /// AUTHENTICATE LOGIN.
    Prompts(Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>),
    /// The LOGIN command.
    Command(Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<Greeted, S> {
    /// Logs in. The link is closed by every error.
    ///
    /// # Errors
    /// [`LinkError`]: what the backend said, or that it cannot do what this login needs.
    pub async fn log_in(mut self, route: &Route, login: &Login) -> Result<Progress<S>, LinkError> {
        let user = route.user.clone();
        match plan(&self.capabilities, route, login)? {
            Plan::Message(mechanism, message, kind) => self.authenticate(mechanism, &message, kind, user).await,
            Plan::Prompts(name, password) => {
                let answer = self.answer_prompts(&name, &password).await?;
                self.finish(answer, user).await
            }
            Plan::Command(name, password) => {
                let answer = self.login_command(&name, &password).await?;
                self.finish(answer, user).await
            }
        }
    }

    /// AUTHENTICATE with one message, sent along where SASL-IR is offered and the line stays short.
    async fn authenticate(
        mut self,
        mechanism: &str,
        message: &[u8],
        kind: Option<Kind>,
        user: UserName,
    ) -> Result<Progress<S>, LinkError> {
        let tag = Tag::new();
        let message = encoded(message);
        let initial = message.strip_suffix(b"\r\n").unwrap_or_default();
        let mut command = Zeroizing::new(format!("AUTHENTICATE {mechanism}").into_bytes());
        if self.capabilities.has("SASL-IR") && initial.len() <= INITIAL_LINE {
            command.reserve_exact(initial.len() + 2);
            command.push(b' ');
            // RFC 4959: an empty initial response is written "=".
            command.extend_from_slice(if initial.is_empty() { b"=" } else { initial });
            self.wire.send(&tag.command(&command)).await?;
        } else {
            self.wire.send(&tag.command(&command)).await?;
            self.expect_prompt(&tag).await?;
            self.wire.send(&message).await?;
        }
        let answer = self.wire.answer(&tag, Keep::All, &mut self.aside).await?;
        match (kind, answer) {
            (Some(kind), Answer::Continue(challenge)) => {
                let exchange = Exchange { tag, user, kind, challenges: 0 };
                self.into_state(Authenticating(exchange)).challenged(&challenge)
            }
            // The client's proof has not been sent yet, so this cannot be the answer to it.
            (Some(Kind::Scram), Answer::Ok(_)) => Err(LinkError::protocol("OK in the middle of a SCRAM exchange")),
            (_, answer) => self.finish(answer, user).await,
        }
    }

    /// AUTHENTICATE LOGIN: two prompts, whose words differ from server to server and are not looked at.
    async fn answer_prompts(&mut self, name: &[u8], password: &[u8]) -> Result<Answer, LinkError> {
        let tag = Tag::new();
        self.wire.send(&tag.command(b"AUTHENTICATE LOGIN")).await?;
        for message in [name, password] {
            self.expect_prompt(&tag).await?;
            self.wire.send(&encoded(message)).await?;
        }
        self.wire.answer(&tag, Keep::All, &mut self.aside).await
    }

    /// The LOGIN command: quoted strings or literals, whichever the bytes need.
    async fn login_command(&mut self, name: &[u8], password: &[u8]) -> Result<Answer, LinkError> {
        let tag = Tag::new();
        let mut line = tag.command(b"LOGIN");
        let without_end = line.len() - 2;
        line.truncate(without_end);
        for argument in [name, password] {
            // What is pushed stays below this, so that growing leaves no copy of a password behind.
            let mut grown = Zeroizing::new(Vec::with_capacity(line.len() + argument.len() * 2 + 32));
            grown.extend_from_slice(&line);
            grown.push(b' ');
            line = grown;
            if is_quotable(argument) {
                id::quote(&mut line, argument);
                continue;
            }
            let at_once = self.capabilities.has("LITERAL+")
                || (self.capabilities.has("LITERAL-") && argument.len() <= LITERAL_MINUS);
            let plus = if at_once { "+" } else { "" };
            line.extend_from_slice(format!("{{{}{plus}}}\r\n", argument.len()).as_bytes());
            if !at_once {
                self.wire.send(&line).await?;
                self.expect_prompt(&tag).await?;
                line.clear();
            }
            line.extend_from_slice(argument);
        }
        line.extend_from_slice(b"\r\n");
        self.wire.send(&line).await?;
        self.wire.answer(&tag, Keep::All, &mut self.aside).await
    }

    /// Waits for the `+` that asks for the rest of a command.
    async fn expect_prompt(&mut self, tag: &Tag) -> Result<(), LinkError> {
        match self.wire.answer(tag, Keep::All, &mut self.aside).await? {
            Answer::Continue(_) => Ok(()),
            Answer::Refused(status, text) => Err(refused(status, &text)),
            // An answer counts only when the whole command was written.
            Answer::Ok(_) => Err(LinkError::protocol("OK before the command was whole")),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<Authenticating, S> {
    /// Passes on the client's answer to a challenge; `None`: it gave up.
    ///
    /// # Errors
    /// As [`Link::log_in`].
    pub async fn answer(mut self, answer: Option<&[u8]>) -> Result<Progress<S>, LinkError> {
        let line = match (answer, self.state.0.kind) {
            (None, _) => Zeroizing::new(b"*\r\n".to_vec()),
            (Some(answer), Kind::Scram) => encoded(answer),
            // Each token mechanism has its own way to acknowledge a failure; the client's may be the other one.
            (Some(_), Kind::Token(acknowledgement)) => encoded(acknowledgement),
        };
        self.wire.send(&line).await?;
        match self.wire.answer(&self.state.0.tag, Keep::All, &mut self.aside).await? {
            Answer::Ok(_) if answer.is_none() => Err(LinkError::protocol("OK for an exchange that was given up")),
            Answer::Continue(_) if answer.is_none() => {
                Err(LinkError::protocol("a + for an exchange that was given up"))
            }
            Answer::Continue(challenge) => self.challenged(&challenge),
            Answer::Ok(_) if matches!(self.state.0.kind, Kind::Token(_)) => {
                Err(LinkError::protocol("OK behind the reason for a failure"))
            }
            answer => {
                let user = self.state.0.user.clone();
                self.finish(answer, user).await
            }
        }
    }

    fn challenged(mut self, challenge: &[u8]) -> Result<Progress<S>, LinkError> {
        self.state.0.challenges += 1;
        if self.state.0.challenges > CHALLENGES {
            return Err(LinkError::protocol("challenges without end"));
        }
        let Some(challenge) = sasl::decode_base64(challenge) else {
            return Err(LinkError::protocol("a challenge that is no base64"));
        };
        Ok(Progress::Challenge(self, challenge.to_vec()))
    }
}

impl<State, S: AsyncRead + AsyncWrite + Unpin> Link<State, S> {
    fn into_state<Next>(self, state: Next) -> Link<Next, S> {
        Link {
            wire: self.wire,
            capabilities: self.capabilities,
            aside: self.aside,
            place: self.place,
            told: self.told,
            state,
        }
    }

    /// The last answer: the user is in, or is not.
    async fn finish(mut self, answer: Answer, user: UserName) -> Result<Progress<S>, LinkError> {
        let text = match answer {
            Answer::Ok(text) => text,
            Answer::Refused(status, text) => return Err(refused(status, &text)),
            Answer::Continue(_) => return Err(LinkError::protocol("a + behind the whole login")),
        };
        if self.wire.bye {
            return Err(LinkError::closed("it said BYE"));
        }
        let announced = capabilities_in(&text);
        let ok_had_capabilities = announced.is_some();
        let capabilities = match announced.or_else(|| self.aside.capabilities.take()) {
            Some(capabilities) => capabilities,
            // It may have others now than before the login, and the client must not go on with a stale list.
            None => self.wire.capabilities(Keep::All, &mut self.aside).await?,
        };
        self.capabilities = capabilities.clone();
        let untagged = std::mem::take(&mut self.aside.untagged);
        // The next one on this link hears what this one hears, but for what was said besides.
        let again = Welcome { untagged: Vec::new(), text, ok_had_capabilities, capabilities };
        let welcome = Welcome { untagged, ..again.clone() };
        Ok(Progress::Done(self.into_state(LoggedIn { user, since: Instant::now(), welcome: again }), welcome))
    }
}

fn plan(offered: &Capabilities, route: &Route, login: &Login) -> Result<Plan, LinkError> {
    match (&route.login, &login.credentials) {
        // mailmux itself has seen who the client is.
        (LoginAs::Master { user, password, form: MasterForm::Authzid, .. }, _) => {
            if !offered.auth("PLAIN") {
                return Err(LinkError::unsupported("a master user needs AUTH=PLAIN"));
            }
            Ok(Plan::Message("PLAIN", sasl::encode_plain(Some(&route.user), user, password), None))
        }
        (LoginAs::Master { user, password, form: MasterForm::Starred, .. }, _) => {
            let name = UserName::new([route.user.as_bytes(), b"*", user.as_bytes()].concat());
            let name = name.map_err(|error| LinkError::unsupported(error.to_string()))?;
            by_name_and_password(offered, route.prescribed, &name, password)
        }
        (LoginAs::Given { password, .. }, _) => by_name_and_password(offered, route.prescribed, &route.user, password),
        (LoginAs::Client, Credentials::Certificate) => {
            Err(LinkError::unsupported("a client's certificate proves nothing to a backend"))
        }
        (LoginAs::Client, Credentials::Password(password)) => with_password(offered, route, login, password),
        (LoginAs::Client, Credentials::ScramFirst(first)) => with_scram(offered, route, login, first),
        (LoginAs::Client, _) if login.authzid.is_some() => {
            Err(LinkError::unsupported("acting as somebody else needs PLAIN"))
        }
        (LoginAs::Client, Credentials::Token(token)) => with_token(offered, route, login, token),
    }
}

fn with_password(offered: &Capabilities, route: &Route, login: &Login, password: &Secret) -> Result<Plan, LinkError> {
    let Some(authzid) = &login.authzid else {
        return by_name_and_password(offered, route.prescribed, &route.user, password);
    };
    if !offered.auth("PLAIN") {
        // Dropping it would log the client in as somebody else than it asked for.
        return Err(LinkError::unsupported("acting as somebody else needs AUTH=PLAIN"));
    }
    // The route speaks of the user whose mail is opened. Who acts for another keeps its own name.
    let name = if *authzid == login.user { &route.user } else { &login.user };
    Ok(Plan::Message("PLAIN", sasl::encode_plain(Some(&route.user), name, password), None))
}

/// By the best way that is offered, or by the one that was prescribed.
fn by_name_and_password(
    offered: &Capabilities,
    prescribed: Option<Prescribed>,
    name: &UserName,
    password: &Secret,
) -> Result<Plan, LinkError> {
    let bytes = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
    let may = |mechanism, word| prescribed.is_none_or(|only| only == mechanism) && offered.auth(word);
    if may(Prescribed::Plain, "PLAIN") {
        Ok(Plan::Message("PLAIN", sasl::encode_plain(None, name, password), None))
    } else if may(Prescribed::Login, "LOGIN") {
        Ok(Plan::Prompts(bytes(name.as_bytes()), bytes(password.reveal())))
    } else if prescribed.is_some() {
        Err(LinkError::unsupported("it does not offer the mechanism that the lookup prescribes"))
    } else if offered.has("LOGINDISABLED") {
        Err(LinkError::misconfigured(BackendError::Protocol, "it takes no passwords (LOGINDISABLED): TLS?"))
    } else {
        Ok(Plan::Command(bytes(name.as_bytes()), bytes(password.reveal())))
    }
}

/// The client's own mechanism if it is offered, else the other one.
fn with_token(offered: &Capabilities, route: &Route, login: &Login, token: &Secret) -> Result<Plan, LinkError> {
    let bearer_first = login.mechanism == Mechanism::OAuthBearer;
    if offered.auth("OAUTHBEARER") && (bearer_first || !offered.auth("XOAUTH2")) {
        // RFC 7628 section 3.2.3
        let kind = Kind::Token(b"\x01");
        Ok(Plan::Message("OAUTHBEARER", sasl::encode_oauthbearer(&route.user, token), Some(kind)))
    } else if offered.auth("XOAUTH2") {
        Ok(Plan::Message("XOAUTH2", sasl::encode_xoauth2(&route.user, token), Some(Kind::Token(b""))))
    } else {
        Err(LinkError::unsupported("it takes no tokens"))
    }
}

fn with_scram(offered: &Capabilities, route: &Route, login: &Login, first: &Secret) -> Result<Plan, LinkError> {
    let mechanism = login.mechanism.as_str();
    if !offered.auth(mechanism) {
        return Err(LinkError::unsupported(format!("it does not offer {mechanism}")));
    }
    // Both names are in the message that is passed on (mbsync, for one, sends them both).
    if route.user != *login.authzid.as_ref().unwrap_or(&login.user) {
        return Err(LinkError::unsupported("the user name is part of what SCRAM signs and cannot be rewritten"));
    }
    Ok(Plan::Message(mechanism, Zeroizing::new(first.reveal().to_vec()), Some(Kind::Scram)))
}

/// A SASL message as a line. Made in one piece: a buffer that grows leaves a copy behind that nobody wipes.
fn encoded(message: &[u8]) -> Zeroizing<Vec<u8>> {
    let base64 = sasl::base64(message);
    let mut line = Zeroizing::new(Vec::with_capacity(base64.len() + 2));
    line.extend_from_slice(&base64);
    line.extend_from_slice(b"\r\n");
    line
}

/// Printable ASCII only: 8-bit bytes in quoted strings are UTF-8 to some and an error to others (RFC 9051 section 4.3).
fn is_quotable(bytes: &[u8]) -> bool {
    bytes.len() <= QUOTED && bytes.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// What a tagged NO or BAD means. Nothing of its text goes into the log: some servers repeat what they were sent.
fn refused(status: Status, text: &[u8]) -> LinkError {
    meant(status, text).saying(text)
}

fn meant(status: Status, text: &[u8]) -> LinkError {
    let code = Code::of(text);
    let word = if status == Status::Bad { "BAD" } else { "NO" };
    let detail = code.map_or_else(|| word.to_owned(), |code| format!("{word} [{}]", code.name()));
    let is = |name| code.is_some_and(|code| code.is(name));
    if is("UNAVAILABLE") {
        LinkError::down(Some(BackendError::Unavailable), detail)
    } else if is("SERVERBUG") {
        LinkError::misconfigured(BackendError::ServerBug, detail)
    } else if is("REFERRAL") {
        // Not for the client's eyes: it names machines behind us. Whoever cannot follow it has a backend that is down.
        let referral = code.and_then(|code| code.referral());
        LinkError { referral, ..LinkError::down(Some(BackendError::Unavailable), detail) }
    } else if is("AUTHENTICATIONFAILED") || is("AUTHORIZATIONFAILED") {
        LinkError::new(None, Refusal::BadCredentials, detail)
    } else if code.is_some() && !is("CAPABILITY") {
        LinkError::new(None, Refusal::Coded(text.to_vec()), detail)
    } else if status == Status::Bad {
        LinkError::unsupported(detail)
    } else {
        // Without a code the text may say which users exist.
        LinkError::new(None, Refusal::BadCredentials, detail)
    }
}
