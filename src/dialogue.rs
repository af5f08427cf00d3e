//! Drives the pre-auth machine of [`imap`](crate::imap) over a client's stream: greeting, logins, refusals, and the hand-over to the relay.
//! It knows the client alone; backends, routes and limits are not its business.
//!
//! Every wait here ends at one absolute deadline, which is set at accept and not renewed by anything a client does, and
//! when mailmux begins to stop.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::{Zeroize, Zeroizing};

use crate::imap::{Event, Heard, Login, Offer, Preauth, UserName, Welcome, said};
use crate::outcome::Ending;
use crate::process::Phase;
use crate::stream::Buffered;
use crate::trace::Tap;

/// What is read at once. The machine is stepped until it has used it up before more is read, so this bounds what a
/// client can make us answer before it has to read.
const READ: usize = 4096;
/// How long a closing session is given to take its last words.
const FAREWELL: Duration = Duration::from_secs(1);
/// What is still read from a client that we have said goodbye to, so that the kernel does not answer unread bytes with a
/// reset that overtakes the goodbye.
const FAREWELL_BYTES: usize = 64 * 1024;

/// A client that has not logged in yet.
pub struct Dialogue<S> {
    stream: S,
    machine: Preauth,
    /// Answers not written yet.
    out: Vec<u8>,
    /// Wiped as soon as the machine has it.
    input: Box<[u8]>,
    id: Vec<(Vec<u8>, Vec<u8>)>,
    deadline: Instant,
    phase: watch::Receiver<Phase>,
    tap: Tap,
    /// The machine has ended, and has said its own goodbye.
    ended: bool,
}

/// What a client wants.
#[derive(Debug)]
pub enum Asked {
    /// To be let in.
    Login(Login),
    /// To go on under TLS; it has been told OK.
    StartTls,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Dialogue<S> {
    /// A dialogue that has not said anything yet; `tap` hears what may be heard of it.
    pub fn new(stream: S, offer: Offer, deadline: Instant, phase: watch::Receiver<Phase>, tap: Tap) -> Self {
        let input = vec![0; READ].into();
        Self {
            stream,
            machine: Preauth::new(offer),
            out: Vec::new(),
            input,
            id: Vec::new(),
            deadline,
            phase,
            tap,
            ended: false,
        }
    }

    /// Says the greeting. Not after STARTTLS, where the client speaks next.
    pub async fn greet(&mut self) -> Result<(), Ending> {
        self.listen();
        self.machine.greet(&mut self.out);
        self.tap.hear(if self.tap.is_wanted() { said(&self.out).collect() } else { Vec::new() });
        self.flush().await
    }

    /// Answers the client until it wants something that is not ours to give.
    pub async fn next(&mut self) -> Result<Asked, Ending> {
        loop {
            match self.event().await? {
                Event::Login(login) => {
                    self.flush().await?;
                    return Ok(Asked::Login(login));
                }
                Event::StartTls { clean: true } => {
                    self.flush().await?;
                    return Ok(Asked::StartTls);
                }
                // What was pipelined in clear would otherwise be taken for what was said under TLS (CVE-2011-0411 and its kin).
                Event::StartTls { clean: false } => return Err(Ending::StartTlsInjection),
                Event::Id(pairs) => self.id = pairs,
                Event::End(ending) => return Err(self.end(ending).await),
                Event::Answer(_) => return Err(Ending::Internal),
            }
        }
    }

    /// Passes a backend's SASL challenge to the client and gives its answer; `None` when it gave up, which it has then
    /// been told.
    pub async fn challenge(&mut self, challenge: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Ending> {
        self.machine.challenge(challenge, &mut self.out);
        match self.event().await? {
            Event::Answer(Some(answer)) => Ok(Some(answer)),
            Event::Answer(None) => {
                // The backend takes its time to hear of it; the client need not wait for that.
                self.flush().await?;
                Ok(None)
            }
            Event::End(ending) => Err(self.end(ending).await),
            Event::Login(_) | Event::StartTls { .. } | Event::Id(_) => Err(Ending::Internal),
        }
    }

    /// Says NO to the login that [`next`](Self::next) gave; the client may try again.
    pub async fn refuse(&mut self, reply: &[u8]) -> Result<(), Ending> {
        self.machine.refuse(reply, &mut self.out);
        if self.tap.is_nobodys_again() {
            self.machine.transcribe(self.tap.is_wanted());
        }
        self.flush().await
    }

    /// This user wants to be let in: who looks at its sessions looks at this one.
    pub fn known_as(&mut self, user: &UserName) {
        self.listen();
        self.tap.known_as(user);
        // Nobody may be looking any more, and somebody may have begun to.
        self.machine.transcribe(self.tap.is_wanted());
    }

    /// Says OK to the login and gives up the client: its stream, with what it pipelined behind the login in front.
    pub async fn hand_over(mut self, welcome: &Welcome) -> Result<(Buffered<S>, Tap), Ending> {
        let before = self.out.len();
        let pipelined = self.machine.accept(welcome, &mut self.out);
        if self.tap.is_wanted() {
            self.tap.hear(said(self.out.get(before..).unwrap_or_default()).collect());
        }
        match timeout_at(self.deadline, write(&mut self.stream, &self.out)).await {
            Ok(Ok(())) => Ok((Buffered::new(self.stream, pipelined), self.tap)),
            Ok(Err(ending)) => Err(ending),
            Err(_) => Err(Ending::LoginTimeout),
        }
    }

    /// What the client has said so far, counted.
    pub fn heard(&self) -> &Heard {
        self.machine.heard()
    }

    /// The stream below.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Gives up the stream for a TLS handshake. Nothing that was said or read in clear goes with it.
    pub fn into_stream(self) -> S {
        self.stream
    }

    /// What the client said of itself (RFC 2971); the last one counts.
    pub fn id(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.id
    }

    /// Says goodbye and closes.
    pub async fn close(mut self, ending: Ending) {
        let words = if self.ended { None } else { ending.bye() };
        farewell(&mut self.stream, words.unwrap_or_default()).await;
    }

    /// The next event. Answers are written before more is read: a client that does not read is not read from.
    ///
    /// Not cancel safe: what was half written is lost with the future, and the dialogue with it.
    async fn event(&mut self) -> Result<Event, Ending> {
        loop {
            self.listen();
            let event = self.machine.step(&mut self.out);
            self.tap.hear(self.machine.spoken());
            if let Some(event) = event {
                return Ok(event);
            }
            self.flush().await?;
            let read = tokio::select! {
                biased;
                _ = self.phase.wait_for(|phase| *phase >= Phase::Draining) => return Err(Ending::Stopping),
                read = timeout_at(self.deadline, self.stream.read(&mut self.input)) => read,
            };
            match read {
                Ok(Ok(0)) => return Err(Ending::ClientClosed),
                Ok(Ok(n)) => {
                    let read = &mut self.input[..n];
                    self.machine.push(read);
                    read.zeroize();
                }
                Ok(Err(error)) => return Err(broken(&error)),
                Err(_) => return Err(Ending::LoginTimeout),
            }
        }
    }

    /// Asks whether somebody looks at this session, or may.
    fn listen(&mut self) {
        if let Some(wanted) = self.tap.turn() {
            self.machine.transcribe(wanted);
        }
    }

    async fn flush(&mut self) -> Result<(), Ending> {
        self.tap.hear(self.machine.spoken());
        if self.out.is_empty() {
            return Ok(());
        }
        match timeout_at(self.deadline, write(&mut self.stream, &self.out)).await {
            Ok(Ok(())) => {
                self.out.clear();
                Ok(())
            }
            Ok(Err(ending)) => Err(ending),
            Err(_) => Err(Ending::LoginTimeout),
        }
    }

    /// The machine has ended: writes what it still had to say.
    async fn end(&mut self, ending: Ending) -> Ending {
        self.ended = true;
        match self.flush().await {
            Ok(()) => ending,
            Err(worse) => worse,
        }
    }
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Result<(), Ending> {
    stream.write_all(bytes).await.map_err(|error| broken(&error))?;
    stream.flush().await.map_err(|error| broken(&error))
}

/// Last words on a stream that nobody has taken over: write, close our side, and read on for a moment.
pub async fn farewell<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, words: &[u8]) {
    let parting = async {
        if !words.is_empty() {
            write(stream, words).await.ok()?;
        }
        stream.shutdown().await.ok()?;
        let mut sink = [0; 512];
        let mut left = FAREWELL_BYTES;
        while left > 0 {
            let n = stream.read(&mut sink).await.ok().filter(|n| *n > 0)?;
            left = left.saturating_sub(n);
        }
        Some(())
    };
    // Whether the peer took it is its own affair.
    let _ = timeout(FAREWELL, parting).await;
}

fn broken(error: &std::io::Error) -> Ending {
    // A peer that goes away without close_notify has closed; anything else is a broken connection.
    if error.kind() == std::io::ErrorKind::UnexpectedEof { Ending::ClientClosed } else { Ending::ClientReset }
}
