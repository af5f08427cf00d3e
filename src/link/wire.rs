//! Lines to a backend and responses from it, while it is not logged in to: bounded in all that it may say, with a fresh
//! random tag for every command. Not here: what is said, and what follows from an answer.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::{Zeroize, Zeroizing};

use super::{LinkError, id};
use crate::imap::Capabilities;
use crate::imap::response::{self, Code, Response, Responses, Status};
use crate::random;
use crate::stream::Buffered;

/// All that a backend may say until the login is answered; without it one that never stops talking would cost CPU until
/// the deadline.
const SAID: usize = 256 * 1024;
/// Untagged lines kept for the client.
const KEPT: usize = 64 * 1024;

/// A backend's stream and what was read of it.
pub(super) struct Wire<S> {
    stream: S,
    responses: Responses,
    said: usize,
    /// It said BYE: whatever it still answers, it will hang up.
    pub(super) bye: bool,
    /// In what words.
    last_words: Vec<u8>,
    /// A command that is not worth a round trip of its own: it goes out in one write with the next one.
    ahead: Option<(Tag, Zeroizing<Vec<u8>>)>,
    /// It has gone out; its answer is expected before the next one's.
    unanswered: Option<Tag>,
}

/// The tag of one command: 80 random bits. An answer that was sent before its question cannot carry it, so it cannot be
/// taken for one.
pub(super) struct Tag(String);

/// The answer that ends a command, or that it waits for.
#[derive(Debug)]
pub(super) enum Answer {
    /// `tag OK`, and what stands behind it.
    Ok(Vec<u8>),
    /// `tag NO` or `tag BAD`, and what stands behind it.
    Refused(Status, Vec<u8>),
    /// `+`, and what stands behind it.
    Continue(Zeroizing<Vec<u8>>),
}

/// What was said besides the answer.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// Untagged lines for the client.
    pub(super) untagged: Vec<u8>,
    /// The last `* CAPABILITY`.
    pub(super) capabilities: Option<Capabilities>,
}

/// Which untagged lines are meant for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Before the login: only `[ALERT]`s (RFC 9051 section 7.1: they must be shown).
    Alerts,
    /// While logging in: all that is not about the link itself.
    All,
    /// None, and none may come: the next thing said must be the answer (STARTTLS).
    Forbidden,
}

impl Tag {
    pub(super) fn new() -> Self {
        Self(random::word(16))
    }

    /// Whether this is it.
    pub(super) fn is(&self, tag: &[u8]) -> bool {
        self.0.as_bytes() == tag
    }

    /// `<tag> <command>CRLF`
    pub(super) fn command(&self, command: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut line = Zeroizing::new(Vec::with_capacity(self.0.len() + command.len() + 3));
        line.extend_from_slice(self.0.as_bytes());
        line.push(b' ');
        line.extend_from_slice(command);
        line.extend_from_slice(b"\r\n");
        line
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            responses: Responses::default(),
            said: 0,
            bye: false,
            last_words: Vec::new(),
            ahead: None,
            unanswered: None,
        }
    }

    /// A wire on which a session has talked; what of that was read and not seen is at its front.
    pub(super) fn resumed(stream: Buffered<S>) -> Self {
        let (stream, head) = stream.into_parts();
        let mut wire = Self::new(stream);
        wire.responses.push(&head);
        wire
    }

    /// Gives the stream back for a TLS handshake.
    ///
    /// # Errors
    /// When there are bytes behind the last answer: they were sent in clear and must not count inside TLS.
    pub(super) fn into_clear(self) -> Result<S, LinkError> {
        if !self.responses.rest().is_empty() {
            return Err(LinkError::protocol("more bytes in clear behind the answer to STARTTLS"));
        }
        Ok(self.stream)
    }

    /// What it says from here on is counted anew: it is the answer to another command.
    pub(super) fn count_anew(&mut self) {
        self.said = 0;
    }

    /// Whether nothing was read that was not looked at.
    pub(super) fn is_quiet(&self) -> bool {
        self.responses.rest().is_empty()
    }

    /// The stream, with what was already read in front.
    pub(super) fn into_buffered(self) -> Buffered<S> {
        Buffered::new(self.stream, self.responses.into_rest())
    }

    /// Sends ID together with the next command.
    pub(super) fn send_ahead(&mut self, command: &[u8]) {
        let tag = Tag::new();
        let line = tag.command(command);
        self.ahead = Some((tag, line));
    }

    /// Writes and flushes all of it.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        let both = self.ahead.take().map(|(tag, first)| {
            self.unanswered = Some(tag);
            Zeroizing::new([&first, bytes].concat())
        });
        let bytes = both.as_ref().map_or(bytes, |both| both);
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        written.await.map_err(|error| LinkError::closed(format!("while writing: {error}")))
    }

    /// The next whole response.
    pub(super) async fn next(&mut self) -> Result<Vec<u8>, LinkError> {
        loop {
            match self.responses.pop() {
                Ok(Some(response)) => {
                    self.said = self.said.saturating_add(response.len());
                    if self.said > SAID {
                        return Err(LinkError::protocol("more than 256 KiB before the login"));
                    }
                    return Ok(response);
                }
                Ok(None) => {}
                Err(broken) => return Err(LinkError::protocol(broken.to_string())),
            }
            let mut chunk = [0; 2048];
            match self.stream.read(&mut chunk).await {
                Ok(0) => return Err(LinkError::closed("it closed the connection").saying(&self.last_words)),
                Ok(n) => {
                    let read = chunk.get_mut(..n).unwrap_or_default();
                    self.responses.push(read);
                    // A challenge may be a secret.
                    read.zeroize();
                }
                Err(error) => return Err(LinkError::closed(format!("while reading: {error}"))),
            }
        }
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn ask(&mut self, command: &[u8], keep: Keep, aside: &mut Aside) -> Result<Answer, LinkError> {
        let tag = Tag::new();
        self.send(&tag.command(command)).await?;
        self.answer(&tag, keep, aside).await
    }

    /// Waits for the answer to a command that was written, and before it for that to the one that went ahead.
    pub(super) async fn answer(&mut self, tag: &Tag, keep: Keep, aside: &mut Aside) -> Result<Answer, LinkError> {
        if let Some(ahead) = self.unanswered.take() {
            id::heard(&self.next_answer(&ahead, Keep::Alerts, aside).await?)?;
        }
        self.next_answer(tag, keep, aside).await
    }

    /// The next answer, which must be to this one.
    async fn next_answer(&mut self, tag: &Tag, keep: Keep, aside: &mut Aside) -> Result<Answer, LinkError> {
        loop {
            let response = self.next().await?;
            match response::read(&response) {
                Response::Continue(data) => return Ok(Answer::Continue(Zeroizing::new(data.to_vec()))),
                Response::Status { tag: Some(answered), status, text } if answered == tag.0.as_bytes() => {
                    return match status {
                        Status::Ok => Ok(Answer::Ok(text.to_vec())),
                        Status::No | Status::Bad => Ok(Answer::Refused(status, text.to_vec())),
                        Status::Bye | Status::PreAuth => Err(LinkError::protocol("a tagged BYE or PREAUTH")),
                    };
                }
                Response::Status { tag: Some(_), .. } => {
                    return Err(LinkError::protocol("an answer to a command that was not sent"));
                }
                Response::Garbage => return Err(LinkError::protocol("a line that is no IMAP")),
                _ if keep == Keep::Forbidden => {
                    return Err(LinkError::protocol("an untagged line where only an answer may stand"));
                }
                untagged => self.untagged(untagged, &response, keep, aside)?,
            }
        }
    }

    /// Waits for the answer to a command, whatever its tag is.
    pub(super) async fn any_answer(&mut self, aside: &mut Aside) -> Result<(), LinkError> {
        loop {
            let response = self.next().await?;
            match response::read(&response) {
                Response::Status { tag: Some(_), .. } => return Ok(()),
                Response::Continue(_) | Response::Garbage => return Err(LinkError::protocol("no answer")),
                untagged => self.untagged(untagged, &response, Keep::Alerts, aside)?,
            }
        }
    }

    /// An untagged line, which is about the link itself or meant for the client.
    fn untagged(&mut self, read: Response<'_>, line: &[u8], keep: Keep, aside: &mut Aside) -> Result<(), LinkError> {
        match read {
            Response::Status { status: Status::Bye, text, .. } => {
                self.bye = true;
                self.last_words = text.to_vec();
            }
            Response::Status { status: Status::PreAuth, .. } => {
                return Err(LinkError::protocol("PREAUTH behind the greeting"));
            }
            Response::Status { text, .. } => {
                if let Some(list) = capabilities_in(text) {
                    aside.capabilities = Some(list);
                } else if keep == Keep::All || Code::of(text).is_some_and(|code| code.is("ALERT")) {
                    aside.keep(line)?;
                }
            }
            Response::Capability(list) => aside.capabilities = Some(Capabilities::parse(list)),
            Response::Data if keep == Keep::All => aside.keep(line)?,
            Response::Data | Response::Id | Response::Continue(_) | Response::Garbage => {}
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// CAPABILITY. A backend that refuses it has none to tell; the LOGIN command may still work there.
    pub(super) async fn capabilities(&mut self, keep: Keep, aside: &mut Aside) -> Result<Capabilities, LinkError> {
        aside.capabilities = None;
        let answer = self.ask(b"CAPABILITY", keep, aside).await?;
        let untagged = aside.capabilities.take();
        match answer {
            Answer::Ok(text) => Ok(untagged.or_else(|| capabilities_in(&text)).unwrap_or_default()),
            Answer::Refused(..) => Ok(untagged.unwrap_or_default()),
            Answer::Continue(_) => Err(LinkError::protocol("a + for CAPABILITY")),
        }
    }
}

/// The list in a status line's `[CAPABILITY ...]`.
pub(super) fn capabilities_in(text: &[u8]) -> Option<Capabilities> {
    let code = Code::of(text).filter(|code| code.is("CAPABILITY"))?;
    Some(Capabilities::parse(code.arguments()))
}

impl Aside {
    fn keep(&mut self, response: &[u8]) -> Result<(), LinkError> {
        if self.untagged.len().saturating_add(response.len()) > KEPT {
            return Err(LinkError::protocol("more than 64 KiB of untagged lines"));
        }
        self.untagged.extend_from_slice(response);
        Ok(())
    }
}
