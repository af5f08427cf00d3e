//! One session's life, top to bottom: the only room that knows the order of the steps. It calls them, holds the
//! deadline, and turns what they say into the session's one record. It does not parse, dial, copy or count.

mod attempt;
mod grid;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::debug;

use self::attempt::{Admitted, Attempt, Client, Stop};
pub use self::grid::Grid;
use crate::admission::{Entry, Permit};
use crate::backend::Place;
use crate::config::ListenerTls;
use crate::dialogue::{Asked, Dialogue, farewell};
use crate::imap::{Offer, UserName};
use crate::link::Lent;
use crate::listener::read_proxy_header;
use crate::metrics::{Counted, Eviction, Present};
use crate::origin::Origin;
use crate::outcome::{Ending, Limit, Refusal, Side};
use crate::pool::{Pool, Return, Stake};
use crate::process::Phase;
use crate::random;
use crate::record::Record;
use crate::relay::{Kept, Terms, relay};
use crate::server::{Door, State};
use crate::sessions::Ticket;
use crate::stream::Buffered;
use crate::tls::{Handshake, HandshakeError, Stream};
use crate::trace::Tap;

/// How long a connection over the limits of its network is held before it is closed, so that trying again at once does
/// not pay.
const TURNED_AWAY_AFTER: Duration = Duration::from_secs(1);

/// Characters of a session's id: no two sessions of a lifetime share one.
const SESSION_ID: usize = 16;

/// One client connection, from accept to close.
pub struct Session {
    server: Arc<State>,
    door: Arc<Door>,
    record: Record,
    origin: Origin,
    /// The end of all waiting before login; set at accept, renewed by nothing.
    deadline: Instant,
    phase: watch::Receiver<Phase>,
    /// A balancer speaks for itself.
    is_check: bool,
}

impl Session {
    /// A session that begins now.
    pub fn new(server: Arc<State>, door: Arc<Door>, origin: Origin, phase: watch::Receiver<Phase>) -> Self {
        let id = random::word(SESSION_ID);
        let record = Record::new(Arc::clone(&server.metrics), id.into(), Arc::clone(&door.name), origin.peer);
        let deadline = Instant::now() + server.config.timeouts.login;
        Self { server, door, record, origin, deadline, phase, is_check: false }
    }

    /// Its life; `held` is let go when that is over.
    pub fn run<H: Send + 'static>(self, tcp: TcpStream, entry: Entry, held: H) -> Life {
        Life(Box::pin(self.come_in(tcp, entry, held)))
    }

    /// What is left of the session's life, or nothing.
    async fn come_in<H: Send + 'static>(mut self, tcp: TcpStream, entry: Entry, held: H) -> Option<Life> {
        let opened = self.door.metrics.opened();
        match self.log_in(tcp, entry).await {
            Ok(inside) => Some(Life(Box::pin(inside.relay(self, opened, held)))),
            Err(ending) => {
                drop(opened);
                // A balancer that looks whether we live goes away as soon as it knows.
                let checked = self.is_check && ending.side() == Side::Client;
                self.record.close(if checked { Ending::HealthCheck } else { ending });
                None
            }
        }
    }

    async fn log_in(&mut self, mut tcp: TcpStream, entry: Entry) -> Result<Inside, Ending> {
        let preauth = self.door.metrics.preauth();
        self.meet_balancer(&mut tcp).await?;
        let permit = self.admit(&mut tcp, entry).await?;
        let mut dialogue = self.open_dialogue(tcp).await?;
        let conversed = self.converse(&mut dialogue).await;
        self.server.metrics.heard(dialogue.heard());
        let admitted = match conversed {
            Ok(admitted) => admitted,
            Err(ending) => {
                dialogue.close(ending).await;
                return Err(ending);
            }
        };
        let (client, tap) = dialogue.hand_over(&admitted.welcome).await?;
        drop(preauth);
        Ok(Inside { client, tap, admitted, _permit: permit })
    }

    /// Reads the PROXY header of a peer that must send one.
    async fn meet_balancer(&mut self, tcp: &mut TcpStream) -> Result<(), Ending> {
        if !self.door.config.proxy_protocol_from.iter().any(|net| net.contains(&self.origin.peer.ip())) {
            return Ok(());
        }
        let deadline = self.deadline.min(Instant::now() + self.server.config.timeouts.proxy_header);
        let Ok(Ok(header)) = timeout_at(deadline, read_proxy_header(tcp)).await else {
            self.server.metrics.proxy_header("bad");
            return Err(Ending::BadProxyHeader);
        };
        self.server.metrics.proxy_header(if header.version == 1 { "v1" } else { "v2" });
        self.is_check = header.local;
        self.origin.behind(header);
        self.record.speaks_for(self.origin.client);
        Ok(())
    }

    /// Counts the session in, or turns it away before it has cost a handshake.
    async fn admit(&mut self, tcp: &mut TcpStream, entry: Entry) -> Result<Permit, Ending> {
        match self.server.admission.enter_network(entry, self.origin.client.ip()) {
            Ok(permit) => Ok(permit),
            Err(limit) => {
                self.server.metrics.limited(limit);
                sleep(TURNED_AWAY_AFTER).await;
                turn_away(&self.door, tcp, limit).await;
                Err(Ending::Limited(limit))
            }
        }
    }

    /// Greets the client and, where it must be, gets it under TLS first: the dialogue that may end in a login.
    async fn open_dialogue(&mut self, tcp: TcpStream) -> Result<Dialogue<Stream>, Ending> {
        let (stream, identity) = match self.door.config.tls {
            ListenerTls::Implicit => self.handshake(tcp).await.map(|done| (done.stream, done.identity))?,
            ListenerTls::None => (Stream::Plain(tcp), None),
            ListenerTls::StartTls => {
                let tcp = self.await_starttls(tcp).await?;
                let done = self.handshake(tcp).await?;
                // A new dialogue with a new machine: nothing that was said in clear is known to it, and it does not greet.
                return Ok(self.dialogue(done.stream, done.identity));
            }
        };
        let mut dialogue = self.dialogue(stream, identity);
        match dialogue.greet().await {
            Ok(()) => Ok(dialogue),
            Err(ending) => {
                dialogue.close(ending).await;
                Err(ending)
            }
        }
    }

    fn dialogue(&self, stream: Stream, certificate: Option<UserName>) -> Dialogue<Stream> {
        let login = self.origin.secure || self.door.config.allow_plaintext || self.origin.client.ip().is_loopback();
        let offer = Offer { starttls: false, login, mechanisms: self.door.mechanisms.clone(), certificate };
        let tap = Tap::new(&self.server.traces, &self.record.session);
        Dialogue::new(stream, offer, self.deadline, self.phase.clone(), tap)
    }

    /// Talks in clear, without logins, until the client wants TLS.
    async fn await_starttls(&mut self, tcp: TcpStream) -> Result<TcpStream, Ending> {
        let offer = Offer { starttls: true, login: false, mechanisms: Vec::new(), certificate: None };
        // Nothing that is worth looking at is said here.
        let mut dialogue = Dialogue::new(tcp, offer, self.deadline, self.phase.clone(), Tap::default());
        let asked = match dialogue.greet().await {
            Ok(()) => dialogue.next().await,
            Err(ending) => Err(ending),
        };
        self.server.metrics.heard(dialogue.heard());
        let ending = match asked {
            Ok(Asked::StartTls) => return Ok(dialogue.into_stream()),
            Ok(Asked::Login(_)) => Ending::Internal,
            Err(ending) => ending,
        };
        dialogue.close(ending).await;
        Err(ending)
    }

    async fn handshake(&mut self, tcp: TcpStream) -> Result<Handshake, Ending> {
        let began = Instant::now();
        let deadline = self.deadline.min(began + self.server.config.timeouts.tls_handshake);
        let Some(acceptor) = &self.server.acceptor else { return Err(Ending::Internal) };
        let done = tokio::select! {
            done = timeout_at(deadline, acceptor.accept(tcp)) => done,
            // A drain waits: it can be told under TLS alone.
            _ = self.phase.wait_for(|phase| *phase == Phase::Stopped) => return Err(Ending::Stopping),
        };
        match done {
            Ok(Ok(done)) => {
                self.door.metrics.handshake(done.version, done.resumed, began.elapsed());
                self.record.tls = Some((done.version, done.cipher));
                self.origin.secure = true;
                self.origin.server_name.clone_from(&done.server_name);
                Ok(done)
            }
            Ok(Err(HandshakeError::AlpnRefused)) => {
                self.door.metrics.handshake_failed("alpn_refused");
                Err(Ending::AlpnRefused)
            }
            Ok(Err(HandshakeError::Failed(why))) => {
                self.door.metrics.handshake_failed("failed");
                debug!(session = %self.record.session, client = %self.origin.client, why, "TLS handshake failed");
                Err(Ending::TlsFailed)
            }
            Err(_) => {
                self.door.metrics.handshake_failed("timeout");
                Err(Ending::LoginTimeout)
            }
        }
    }

    /// Lets the client try to log in until it succeeds or the dialogue ends.
    async fn converse(&mut self, dialogue: &mut Dialogue<Stream>) -> Result<Admitted, Ending> {
        // What a client says of itself never makes it trusted, nor less so the next time.
        let met = self.origin.clone();
        let trusted = self.door.config.id_from.iter().any(|net| net.contains(&met.client.ip()));
        let tls = dialogue.stream().facts(self.server.asks_for_certificates());
        let mut attempts = 0;
        loop {
            let Asked::Login(login) = dialogue.next().await? else { return Err(Ending::Internal) };
            self.origin.clone_from(&met);
            self.origin.identified(dialogue.id(), trusted);
            self.record.speaks_for(self.origin.client);
            attempts += 1;
            dialogue.known_as(login.authzid.as_ref().unwrap_or(&login.user));
            let client = Client { origin: &self.origin, tls: tls.as_ref(), attempts, session: &self.record.session };
            let attempt = Attempt::new(&self.server, &self.door, &client, &login);
            let tried = tokio::select! {
                tried = timeout_at(self.deadline, Box::pin(attempt.run(dialogue))) => tried.unwrap_or(Err(Stop::Ended(Ending::LoginTimeout))),
                _ = self.phase.wait_for(|phase| *phase == Phase::Stopped) => Err(Stop::Ended(Ending::Stopping)),
            };
            let took = attempt.took();
            match tried {
                Ok(admitted) => {
                    // Before the client can know of it.
                    admitted.ticket.let_in();
                    self.record.logged_in(&login, &admitted.route, took);
                    return Ok(admitted);
                }
                Err(Stop::Refused(refusal, detail)) => {
                    if let Refusal::Limited(limit) = refusal {
                        self.server.metrics.limited(limit);
                    }
                    self.record.refused(&login, &refusal, detail.as_deref());
                    self.wait_for_grid(attempt.began(), &refusal).await?;
                    dialogue.refuse(&refusal.reply()).await?;
                }
                Err(Stop::GivenUp) => self.record.aborted(&login),
                Err(Stop::Ended(ending)) => {
                    self.record.aborted(&login);
                    return Err(ending);
                }
            }
        }
    }

    /// Refusals go out at fixed moments after the attempt, so that the time they took does not tell an unknown user
    /// from a wrong password.
    async fn wait_for_grid(&self, began: Instant, refusal: &Refusal) -> Result<(), Ending> {
        let moment = self.server.refusals.moment(began, refusal);
        if moment >= self.deadline {
            sleep_until(self.deadline).await;
            return Err(Ending::LoginTimeout);
        }
        sleep_until(moment).await;
        Ok(())
    }
}

/// A session's life: one stage, and then the next. A client is logged in within seconds and stays for days: what it takes to log
/// in is put away before the relay begins, so that a session that is in holds nothing of it.
pub struct Life(Pin<Box<dyn Future<Output = Option<Self>> + Send>>);

impl Future for Life {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(next) = ready!(self.0.as_mut().poll(cx)) {
            *self = next;
        }
        Poll::Ready(())
    }
}

/// A session that is logged in.
struct Inside {
    client: Buffered<Stream>,
    tap: Tap,
    admitted: Admitted,
    /// Counts it until it is over.
    _permit: Permit,
}

impl Inside {
    /// Moves bytes until that is over. What only logging in needed is let go before: a session may last for days, and the
    /// configuration of its beginning with all its users is not to last as long.
    // Not an `async fn`: that would hold all of its arguments, and twice, for as long.
    fn relay<H>(self, session: Session, opened: Present, held: H) -> impl Future<Output = Option<Life>> + use<H> {
        let Session { server, mut record, phase, .. } = session;
        let Self { client, mut tap, admitted, _permit: permit } = self;
        let Admitted { link, welcome: _, route, stake, user, ticket, presence } = admitted;
        let backend = route.backend;
        let idle = server.config.timeouts.relay_idle;
        tap.note(format_args!("logged in at {}", backend.config.name));
        let active = backend.metrics.active();
        let client = backend.metrics.counted_client(client);
        let (stream, lent) = link.lend();
        let link = backend.metrics.counted_backend(stream);
        if *phase.borrow() == Phase::Stopped {
            // Who told everybody may have been here before its place was taken.
            ticket.pulse().notice().stop();
        }
        let keep = stake.is_some();
        let holder = match stake {
            Some(stake) => Holder::Lent(Box::new(Loan { stake, lent, pool: Arc::clone(&server.pool) })),
            None => Holder::Taken(lent.into_place()),
        };
        let counted = (permit, user, presence);
        let spread = move || backend.spread();
        let terms = Terms { idle, spread, keep, pulse: ticket.pulse(), tap };
        let relaying = Box::pin(relay(client, link, terms));
        async move {
            let (report, kept) = relaying.await;
            drop(active);
            match (kept, holder) {
                (Some(kept), Holder::Lent(loan)) => loan.give_back(kept, &ticket),
                (None, Holder::Lent(loan)) if report.ending.side() == Side::Client => {
                    loan.stake.backend().metrics.evicted(Eviction::Dirty);
                }
                _ => {}
            }
            drop((ticket, counted, opened));
            (record.to_backend, record.to_client) = (report.to_backend, report.to_client);
            record.close(report.ending);
            drop(held);
            None
        }
    }
}

/// What holds the link's place at its backend.
enum Holder {
    /// The link ends with the session.
    Taken(#[expect(dead_code, reason = "held for its Drop")] Place),
    /// It may outlive it. Boxed: not every session pools.
    Lent(Box<Loan>),
}

/// A link that may outlive the session.
struct Loan {
    stake: Stake,
    lent: Lent,
    pool: Arc<Pool>,
}

impl Loan {
    fn give_back(self, kept: Kept<Counted<Buffered<Stream>>>, ticket: &Ticket) {
        let Self { stake, lent, pool } = self;
        let Kept { stream, reset, marked } = kept;
        let link = lent.returned(stream.into_inner(), reset);
        let dismissals = pool.dismissals();
        // In that order: whoever sends the user away tells its sessions first.
        if !ticket.is_told() {
            pool.give_back(Return { stake, link, marked, dismissals });
        }
    }
}

/// A client on a port that is not TLS from the first byte can be told; another would have to be shaken hands with.
async fn turn_away(door: &Door, tcp: &mut TcpStream, limit: Limit) {
    if door.config.tls != ListenerTls::Implicit {
        farewell(tcp, Ending::Limited(limit).bye().unwrap_or_default()).await;
    }
}
