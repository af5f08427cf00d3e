//! The way of a login gone step by step, for whoever looks for a fault: each step is the one that [`Link::open`] and a session
//! take, but each is taken alone, so that it can be timed and its failure told from the others'. Not here: what a failure means,
//! deadlines (the caller's).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::connect::{ask_for_tls, connect_to, greeting, proxy_header};
use super::wire::{Answer, Aside, Keep, Tag, Wire, capabilities_in};
use super::{Caller, Greeted, Link, LinkError, LoggedIn, Progress};
use crate::backend::{Place, Route};
use crate::config::ProxyVersion;
use crate::imap::response::{self, Response, Status};
use crate::imap::{Capabilities, Login, escape};
use crate::tls::{Examiner, Seen, Stream, Unshaken};

/// The most of an answer's words that are told.
const SHOWN: usize = 300;

/// A connection on which nothing was said yet.
#[derive(Debug)]
pub struct Opening(TcpStream);

/// Why TLS did not come about on a connection that had been greeted.
#[derive(Debug)]
pub enum Unopened {
    /// STARTTLS is not offered, or was refused.
    Link(LinkError),
    /// The handshake failed.
    Tls(Unshaken),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// OK, not NO or BAD.
    pub is_ok: bool,
    /// What stood behind that, escaped.
    pub text: String,
    /// How many untagged lines stood before it.
    pub lines: usize,
}

/// How an IDLE went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Idled {
    /// It began with a `+`, held, and ended with DONE.
    Well,
    /// No `+` but an answer, in these words.
    Unopened(String),
    /// It broke after so long.
    Broke(Duration, String),
    /// DONE was answered with NO or BAD.
    Refused(String),
}

impl Opening {
    /// Dials, from this address if one is given.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn dial(address: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        connect_to(source, address).await.map(Self)
    }

    /// The addresses of both ends.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn ends(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.0.local_addr()?, self.0.peer_addr()?))
    }

    /// Sends a PROXY header that names this caller.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn introduce(&mut self, version: ProxyVersion, caller: &Caller<'_>) -> io::Result<()> {
        self.0.write_all(&proxy_header(version, Some(caller))).await
    }

    /// TLS from the first byte.
    ///
    /// # Errors
    /// [`Unshaken`].
    pub async fn shake(self, examiner: &Examiner) -> Result<(Stream, Seen), Unshaken> {
        examiner.shake(self.0).await
    }

    /// None.
    pub fn in_clear(self) -> Stream {
        Stream::Plain(self.0)
    }
}

impl Link<Greeted> {
    /// Hears the greeting, in which capabilities may stand; gives its words, escaped.
    ///
    /// # Errors
    /// [`LinkError`]: it is no OK, or does not come.
    pub async fn greeted(stream: Stream) -> Result<(Self, String), LinkError> {
        let mut wire = Wire::new(stream);
        let text = greeting(&mut wire).await?;
        let capabilities = capabilities_in(&text).unwrap_or_default();
        Ok((Self::made(wire, capabilities), shown(&text)))
    }

    fn made(wire: Wire<Stream>, capabilities: Capabilities) -> Self {
        Self { wire, capabilities, aside: Aside::default(), place: Place::default(), told: None, state: Greeted(()) }
    }

    /// Asks for the capabilities, unless the greeting held them.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn ask_capabilities(&mut self) -> Result<&Capabilities, LinkError> {
        if self.capabilities.is_empty() {
            self.capabilities = self.wire.capabilities(Keep::Alerts, &mut self.aside).await?;
        }
        Ok(&self.capabilities)
    }

    /// STARTTLS and the handshake. Nothing that was said before is known afterwards.
    ///
    /// # Errors
    /// [`Unopened`].
    pub async fn secure(self, examiner: &Examiner) -> Result<(Self, Seen), Unopened> {
        let stream = ask_for_tls(self.wire, &self.capabilities).await.map_err(Unopened::Link)?;
        let Stream::Plain(tcp) = stream else { return Err(Unopened::Tls(Unshaken::NotTls)) };
        let (stream, seen) = examiner.shake(tcp).await.map_err(Unopened::Tls)?;
        Ok((Self::made(Wire::new(stream), Capabilities::default()), seen))
    }

    /// Asks something and hears the answer.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn said(&mut self, command: &str) -> Result<Said, LinkError> {
        said(&mut self.wire, command).await
    }

    /// Logs in where the client has nothing more to say.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn entered(self, route: &Route, login: &Login) -> Result<Link<LoggedIn>, LinkError> {
        match self.log_in(route, login).await? {
            Progress::Done(link, _) => Ok(link),
            Progress::Challenge(..) => Err(LinkError::protocol("a challenge where none belongs")),
        }
    }
}

impl Link<LoggedIn> {
    /// What it announced with the login, or after it.
    pub fn announced(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Asks something and hears the answer.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn said(&mut self, command: &str) -> Result<Said, LinkError> {
        said(&mut self.wire, command).await
    }

    /// IDLE for so long, and DONE (RFC 2177). The `+` must come within `patience`, and so must the answer to DONE.
    ///
    /// # Errors
    /// [`LinkError`]: no `+` came, or no answer to DONE.
    pub async fn idle(&mut self, hold: Duration, patience: Duration) -> Result<Idled, LinkError> {
        self.wire.count_anew();
        let tag = Tag::new();
        self.wire.send(&tag.command(b"IDLE")).await?;
        let late = |what: &str| LinkError::closed(format!("no {what} within {} s", patience.as_secs_f32()));
        let began = self.wire.answer(&tag, Keep::Alerts, &mut self.aside);
        match timeout_at(Instant::now() + patience, began).await.map_err(|_| late("+ for IDLE"))?? {
            Answer::Continue(_) => {}
            Answer::Ok(text) | Answer::Refused(_, text) => return Ok(Idled::Unopened(shown(&text))),
        }
        let since = Instant::now();
        while let Ok(heard) = timeout_at(since + hold, self.wire.next()).await {
            let broke = |why: String| Ok(Idled::Broke(since.elapsed(), why));
            match heard {
                Err(error) => return broke(error.detail),
                Ok(line) => match response::read(&line) {
                    Response::Status { tag: None, status: Status::Bye, text } => {
                        return broke(format!("BYE {}", shown(text)));
                    }
                    Response::Status { tag: Some(_), text, .. } => return broke(shown(text)),
                    _ => {}
                },
            }
        }
        self.wire.send(b"DONE\r\n").await?;
        let ended = self.wire.answer(&tag, Keep::Alerts, &mut self.aside);
        match timeout_at(Instant::now() + patience, ended).await.map_err(|_| late("answer to DONE"))? {
            Ok(Answer::Ok(_)) => Ok(Idled::Well),
            Ok(Answer::Refused(_, text)) => Ok(Idled::Refused(shown(&text))),
            Ok(Answer::Continue(_)) => Err(LinkError::protocol("a + for DONE")),
            Err(error) => Ok(Idled::Broke(since.elapsed(), error.detail)),
        }
    }
}

async fn said(wire: &mut Wire<Stream>, command: &str) -> Result<Said, LinkError> {
    wire.count_anew();
    let tag = Tag::new();
    wire.send(&tag.command(command.as_bytes())).await?;
    let mut lines = 0;
    loop {
        let line = wire.next().await?;
        match response::read(&line) {
            Response::Status { tag: Some(answered), status, text } if tag.is(answered) => {
                return Ok(Said { is_ok: status == Status::Ok, text: shown(text), lines });
            }
            Response::Status { tag: Some(_), .. } => {
                return Err(LinkError::protocol("an answer to a command that was not sent"));
            }
            Response::Continue(_) => return Err(LinkError::protocol("a + where none was asked for")),
            Response::Garbage => return Err(LinkError::protocol("a line that is no IMAP")),
            _ => lines += 1,
        }
    }
}

fn shown(text: &[u8]) -> String {
    escape(text.get(..SHOWN).unwrap_or(text)).to_string()
}
