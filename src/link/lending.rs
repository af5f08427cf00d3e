//! A link between sessions: lent to a relay, handed back, made as it was right behind its login, kept, checked, given to
//! the same user again. What a session leaves behind and how it is undone is RFC 9051 section 6.4 and RFC 3691 (UNSELECT,
//! never CLOSE, which expunges), RFC 2177 (DONE), RFC 8437 (UNAUTHENTICATE). In doubt the link is closed, which is what
//! every error here does. Not here: whose turn it is.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::wire::{Answer, Aside, Keep, Tag, Wire, capabilities_in};
use super::{Caller, Greeted, Link, LinkError, LoggedIn};
use crate::backend::Place;
use crate::imap::response::{self, Code, Response, Status};
use crate::imap::{Capabilities, Reset, UserName, Welcome};
use crate::random;
use crate::stream::Buffered;

/// What is known of a link whose stream is lent to a relay.
#[derive(Debug)]
pub struct Lent {
    user: UserName,
    since: Instant,
    capabilities: Capabilities,
    welcome: Welcome,
    place: Place,
    told: Option<Vec<u8>>,
}

/// Handed back by a session, with what that has left behind.
#[derive(Debug)]
pub struct Used {
    user: UserName,
    since: Instant,
    welcome: Welcome,
    reset: Reset,
}

impl<State, S> Link<State, S> {
    /// The place that it takes up at its backend.
    pub fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    /// Lets it take up this place.
    #[must_use]
    pub fn in_place(mut self, place: Place) -> Self {
        self.place = place;
        self
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<LoggedIn, S> {
    /// What a client hears that gets this link, as if it had logged in itself.
    pub fn welcome(&self) -> &Welcome {
        &self.state.welcome
    }

    /// Who is logged in, by the backend's name for it.
    pub fn user(&self) -> &UserName {
        &self.state.user
    }

    /// When the backend let it in.
    pub fn logged_in(&self) -> Instant {
        self.state.since
    }

    /// The stream, for a relay, what the backend said behind its answer first; and what it takes to have the link back.
    pub fn lend(self) -> (Buffered<S>, Lent) {
        let LoggedIn { user, since, welcome } = self.state;
        let lent = Lent { user, since, welcome, capabilities: self.capabilities, place: self.place, told: self.told };
        (self.wire.into_buffered(), lent)
    }

    /// NOOP: whether it still answers. All that was said before is behind us then.
    ///
    /// # Errors
    /// [`LinkError`]; also when there was an alert, which its user will see on a link of its own.
    pub async fn check(mut self) -> Result<Self, LinkError> {
        let tag = Tag::new();
        self.wire.send(&tag.command(b"NOOP")).await?;
        match self.wire.answer(&tag, Keep::Alerts, &mut self.aside).await? {
            Answer::Ok(_) => self.at_rest(),
            _ => Err(LinkError::protocol("no OK for NOOP")),
        }
    }

    /// Tells the backend about the client that gets it, if it is another than the one before.
    ///
    /// # Errors
    /// As [`Link::check`].
    pub async fn introduce(mut self, caller: &Caller<'_>, forward: bool) -> Result<Self, LinkError> {
        self.identify(caller, forward).await?;
        self.at_rest()
    }

    /// Whether [`Link::unauthenticate`] makes sense.
    pub fn can_unauthenticate(&self) -> bool {
        self.capabilities.has("UNAUTHENTICATE")
    }

    /// UNAUTHENTICATE: it becomes nobody's again, with nothing left of the login (RFC 8437 section 3).
    ///
    /// # Errors
    /// [`LinkError`]; anything but the tagged OK is the end of the link.
    pub async fn unauthenticate(mut self) -> Result<Link<Greeted, S>, LinkError> {
        // Alone: what stood behind it would be read in another state.
        let Answer::Ok(text) = self.wire.ask(b"UNAUTHENTICATE", Keep::Alerts, &mut self.aside).await? else {
            return Err(LinkError::protocol("no OK for UNAUTHENTICATE"));
        };
        let link = self.at_rest()?;
        let Self { mut wire, mut aside, mut place, .. } = link;
        aside.capabilities = None;
        place.disown();
        let capabilities = match capabilities_in(&text) {
            Some(capabilities) => capabilities,
            None => wire.capabilities(Keep::Alerts, &mut aside).await?,
        };
        Ok(Link { wire, capabilities, aside, place, told: None, state: Greeted(()) })
    }

    /// Nothing unsaid, nothing unheard.
    fn at_rest(self) -> Result<Self, LinkError> {
        if self.wire.bye {
            return Err(LinkError::closed("it said BYE"));
        }
        if !self.aside.untagged.is_empty() || !self.wire.is_quiet() {
            return Err(LinkError::protocol("it said something that its user has not seen"));
        }
        Ok(self)
    }
}

impl<State, S: AsyncRead + AsyncWrite + Unpin> Link<State, S> {
    /// Waits until the backend ends the link, or says what is meant for somebody. Small talk is not, while nobody has a
    /// mailbox open. The future may be dropped at any time.
    pub async fn watch(&mut self) -> LinkError {
        loop {
            let line = match self.wire.next().await {
                Ok(line) => line,
                Err(error) => return error,
            };
            match response::read(&line) {
                Response::Status { tag: None, status: Status::Ok | Status::No, text }
                    if Code::of(text).is_none_or(|code| !code.is("ALERT")) => {}
                Response::Data | Response::Capability(_) => {}
                _ => return LinkError::closed("it said something to nobody"),
            }
        }
    }
}

impl Lent {
    /// Its place alone, where the link is not to come back.
    pub fn into_place(self) -> Place {
        self.place
    }

    /// Who has it, by the backend's name.
    pub fn user(&self) -> &UserName {
        &self.user
    }

    /// The link again, from the stream that the relay has given back.
    pub fn returned<S: AsyncRead + AsyncWrite + Unpin>(self, stream: Buffered<S>, reset: Reset) -> Link<Used, S> {
        let Self { user, since, capabilities, welcome, place, told } = self;
        let state = Used { user, since, welcome, reset };
        Link { wire: Wire::resumed(stream), capabilities, aside: Aside::default(), place, told, state }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<Used, S> {
    /// Undoes what the session has left behind. All that was meant for that session is behind us then: the last command is
    /// answered under a tag that was never used before.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn reset(mut self) -> Result<Link<LoggedIn, S>, LinkError> {
        let Reset { done, unselect, identified } = self.state.reset;
        if identified {
            // Something, and nothing that we would say.
            self.told = Some(Vec::new());
        }
        let tag = Tag::new();
        let by_unselect = self.capabilities.has("UNSELECT") || self.capabilities.has("IMAP4rev2");
        let command = match (unselect, by_unselect) {
            (false, _) => b"NOOP".to_vec(),
            (true, true) => b"UNSELECT".to_vec(),
            // RFC 3501 section 6.3.1: an attempt that fails leaves no mailbox selected.
            (true, false) => format!("EXAMINE mailmux-{}", random::word(16)).into_bytes(),
        };
        let mut said = if done { b"DONE\r\n".to_vec() } else { Vec::new() };
        said.extend_from_slice(&tag.command(&command));
        self.wire.send(&said).await?;
        if done {
            // Under the tag of the client that is gone. If there was none, ours would be taken for it, and missed then.
            self.wire.any_answer(&mut self.aside).await?;
        }
        match (self.wire.answer(&tag, Keep::Alerts, &mut self.aside).await?, unselect && !by_unselect) {
            (Answer::Ok(_), false) | (Answer::Refused(Status::No, _), true) => {}
            _ => return Err(LinkError::protocol("the mailbox cannot be left")),
        }
        let Self { wire, capabilities, aside, place, told, state: Used { user, since, welcome, .. } } = self;
        Link { wire, capabilities, aside, place, told, state: LoggedIn { user, since, welcome } }.at_rest()
    }
}
