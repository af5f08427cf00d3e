//! One attempt to log in: limits, routing, link, backend login; with the tries that a failing backend is worth, within
//! one budget of time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use crate::backend::{Aspect, Backend, Place, Presence, Route};
use crate::config::Pooling;
use crate::dialogue::Dialogue;
use crate::imap::{Login, UserName, Welcome};
use crate::limits::UserPermit;
use crate::link::{Caller, Greeted, Link, LinkError, LoggedIn, Progress};
use crate::metrics::{BackendError, BackendLogin, Checkout};
use crate::origin::Origin;
use crate::outcome::{Ending, Refusal};
use crate::pool::{HANDOVER, Owner, Stake};
use crate::routing::{Asker, NoRoute, Router};
use crate::server::{Door, State};
use crate::sessions::{Arrival, Ticket, Tls};
use crate::tls::{Facts, Stream};

/// How often a backend is tried before the client hears that it is away, or another one of its group is tried.
const TRIES: u32 = 3;
/// How long to wait between tries, give or take a quarter.
const PAUSE: Duration = Duration::from_secs(1);
/// How many referrals of a backend are followed.
const REFERRALS: u32 = 3;

/// Everything one attempt needs.
pub(super) struct Attempt<'a> {
    server: &'a State,
    door: &'a Door,
    client: &'a Client<'a>,
    login: &'a Login,
    session: String,
    began: Instant,
}

/// Who makes it.
pub(super) struct Client<'a> {
    pub(super) origin: &'a Origin,
    pub(super) tls: Option<&'a Facts>,
    /// This one included.
    pub(super) attempts: u32,
    /// The session's id.
    pub(super) session: &'a Arc<str>,
}

/// A login that succeeded.
pub(super) struct Admitted {
    pub(super) link: Link<LoggedIn>,
    pub(super) welcome: Welcome,
    pub(super) route: Route,
    /// Its user may have the link again.
    pub(super) stake: Option<Stake>,
    /// Counts the session as its user's.
    pub(super) user: UserPermit,
    /// Its place among the user's sessions, by which it is told to leave.
    pub(super) ticket: Ticket,
    /// Counts it as the backend's.
    pub(super) presence: Presence,
}

/// What came of a try.
struct Entered {
    link: Link<LoggedIn>,
    welcome: Welcome,
    stake: Option<Stake>,
}

/// Why there is no login.
pub(super) enum Stop {
    /// The client is told NO; the words are for our log alone.
    Refused(Refusal, Option<String>),
    /// The client gave up in the middle and has been answered.
    GivenUp,
    /// The session is over.
    Ended(Ending),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal, None)
    }
}

impl From<Ending> for Stop {
    fn from(ending: Ending) -> Self {
        Self::Ended(ending)
    }
}

/// Why one try at a backend failed.
enum Failed {
    /// The link or the backend; whether the client has already taken part in it, after which there is no second try.
    Link(LinkError, bool),
    /// The backend's time is up.
    Late,
    Client(Stop),
}

impl<'a> Attempt<'a> {
    pub(super) fn new(server: &'a State, door: &'a Door, client: &'a Client<'a>, login: &'a Login) -> Self {
        let session = client.origin.session.clone().unwrap_or_else(|| client.session.to_string());
        Self { server, door, client, login, session, began: Instant::now() }
    }

    /// When it began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// How long it has taken so far.
    pub(super) fn took(&self) -> Duration {
        self.began.elapsed()
    }

    /// Makes it. Dropping the future drops the link.
    pub(super) async fn run(&self, dialogue: &mut Dialogue<Stream>) -> Result<Admitted, Stop> {
        let (login, client) = (self.login, self.client.origin.client.ip());
        self.server.limits.check(login, client).map_err(Refusal::Limited)?;
        if self.client.origin.ttl <= 1 {
            warn!(session = %self.session, "a login came round to us again: refused as a loop");
            return Err(Refusal::Loop.into());
        }
        // Before the way is looked up: who moves the user must know of everybody who goes the old one.
        let arrival = Arrival {
            user: self.mailbox(),
            id: self.client.session,
            listener: &self.door.name,
            client: self.client.origin.client,
            mechanism: login.mechanism,
            tls: self.client.tls.map(|facts| Tls::of(facts.protocol)),
        };
        let ticket = self.server.sessions.enter(arrival).await;
        // Not before: while it was held its user may have been moved, and the rules with it.
        let router = Arc::clone(&self.server.routing.borrow());
        let outcome = match self.route(&router).await {
            Ok(route) => self.enter(route, &router, dialogue, &ticket).await,
            Err(refusal) => Err(refusal.into()),
        };
        match &outcome {
            Ok(_) => self.server.limits.succeeded(login, client),
            Err(Stop::Refused(refusal, _)) if refusal.is_failure() => {
                for limit in self.server.limits.failed(login, client).into_iter().flatten() {
                    self.server.metrics.held(limit);
                }
            }
            Err(_) => {}
        }
        let (Entered { link, welcome, stake }, route, presence) = outcome?;
        // Not before the backend has said OK: strangers could use the user's places up with attempts.
        let user = self.server.limits.session(login).map_err(Refusal::Limited)?;
        Ok(Admitted { link, welcome, route, stake, user, ticket, presence })
    }

    async fn route(&self, router: &Router) -> Result<Route, Refusal> {
        let asker = Asker {
            login: self.login,
            listener: &self.door.name,
            origin: self.client.origin,
            tls: self.client.tls,
            attempt: self.client.attempts,
        };
        let warn = |why: &str| warn!(session = %self.session, why, "a lookup failed");
        router.route(&asker).await.map_err(|no| match no {
            NoRoute::Unmatched => Refusal::NoRoute,
            NoRoute::Rejected(text) => Refusal::Rejected(text),
            NoRoute::WrongPassword(text, wait) => Refusal::WrongPassword(text, wait),
            NoRoute::Unproven(why) => {
                warn!(session = %self.session, why, "this login cannot be used here");
                Refusal::Unsupported
            }
            NoRoute::LookupFailed(why) => {
                warn(&why);
                Refusal::LookupFailed
            }
            NoRoute::GroupDown(group) => {
                warn!(session = %self.session, group, "no backend of this group is well");
                Refusal::BackendDown
            }
        })
    }

    /// Logs in at the route's backend, or at the one it refers to, trying again where that makes sense.
    async fn enter(
        &self,
        mut route: Route,
        router: &Router,
        dialogue: &mut Dialogue<Stream>,
        ticket: &Ticket,
    ) -> Result<(Entered, Route, Presence), Stop> {
        let most = self.server.config.timeouts.backend_login;
        // From now, not from the attempt: a login that was held back has its whole time.
        let mut budget = Instant::now() + route.budget.unwrap_or(most).min(most);
        let (mut failures, mut referrals) = (0, 0);
        loop {
            let backend = Arc::clone(&route.backend);
            let presence = backend.enter();
            ticket.bound_for(&backend);
            // Asked once we are counted and named, so that who drains it either sees us here or is seen by us.
            if backend.is_draining() {
                drop(presence);
                ticket.bound_nowhere();
                route.backend = self.elsewhere(&route).ok_or(Refusal::BackendDown)?;
                continue;
            }
            let (error, client_took_part) = match self.try_once(&route, dialogue, &mut budget).await {
                Ok(entered) => return Ok((entered, route, presence)),
                Err(Failed::Client(stop)) => return Err(stop),
                Err(Failed::Late) => return Err(Refusal::Timeout.into()),
                Err(Failed::Link(error, client_took_part)) => (error, client_took_part),
            };
            if client_took_part {
                return Err(Stop::Refused(error.refusal, Some(error.detail)));
            }
            if let Some(next) = referred(router, &error) {
                referrals += 1;
                if referrals > REFERRALS || Arc::ptr_eq(&next, &backend) {
                    return Err(Refusal::Loop.into());
                }
                route.backend = next;
                continue;
            }
            failures += 1;
            if !error.refusal.is_retryable() || Instant::now() >= budget {
                return Err(Stop::Refused(error.refusal, Some(error.detail)));
            }
            drop(presence);
            ticket.bound_nowhere();
            let mut next = self.elsewhere(&route);
            if next.is_none() {
                let pause = jittered(PAUSE);
                if failures >= TRIES || Instant::now() + pause >= budget {
                    return Err(Stop::Refused(error.refusal, Some(error.detail)));
                }
                sleep(pause).await;
                next = self.elsewhere(&route);
            }
            backend.metrics.retried();
            // One that has just been found to be down has no tries left; who stands in for it has them all.
            if let Some(next) = next {
                (route.backend, failures) = (next, 0);
            }
        }
    }

    /// Another member of the route's group, once its backend is known to be down or is drained. Only one that is well for
    /// certain: who has failed once does not find out for others whether somebody is back.
    fn elsewhere(&self, route: &Route) -> Option<Arc<Backend>> {
        let group = route.group.as_ref().filter(|_| !route.backend.is_up() || route.backend.is_draining())?;
        group.well(&self.mailbox().normalised()).cloned()
    }

    /// The user whose mail is to be opened.
    fn mailbox(&self) -> &UserName {
        self.login.authzid.as_ref().unwrap_or(&self.login.user)
    }

    /// One try. `budget` is the backend's time: what the client takes to answer a challenge is added to it.
    async fn try_once(
        &self,
        route: &Route,
        dialogue: &mut Dialogue<Stream>,
        budget: &mut Instant,
    ) -> Result<Entered, Failed> {
        let pool = &self.server.pool;
        let owner = pool.owner(route, self.login, self.client.origin.client.ip());
        let reuses = pooling(route) == Pooling::Reuse;
        let mut checkout = Checkout::Miss;
        if let Some(owner) = owner.as_ref().filter(|_| reuses) {
            let began = Instant::now();
            let taken = Box::pin(self.take(owner, dialogue.id()));
            let taken = timeout_at((began + HANDOVER).min(*budget), taken).await;
            match taken.unwrap_or(Err(Checkout::Dead)) {
                Ok((link, stake)) => {
                    route.backend.metrics.checked_out(Checkout::Hit);
                    let welcome = link.welcome().clone();
                    return Ok(Entered { link, welcome, stake: Some(stake) });
                }
                Err(why) => checkout = why,
            }
            // A link that hangs takes nothing from the time that a new one has.
            *budget += began.elapsed();
        }
        let Some(pending) = route.backend.attempt() else {
            return Err(Failed::Client(Refusal::BackendDown.into()));
        };
        let mut aspect = Aspect::Reach;
        let entering = async {
            // First, so that nobody holds a link of the stock while it waits for its turn.
            let mut place = self.place(route).await?;
            if let Some(mut link) = self.take_warm(route, dialogue.id()).await {
                aspect = Aspect::Login;
                link.place().give_to(place);
                match link.log_in(route, self.login).await {
                    // Closed in the moment in which it was taken, perhaps: that says nothing of the login yet.
                    Err(error) if error.kind == Some(BackendError::Closed) => {
                        aspect = Aspect::Reach;
                        place = self.place(route).await?;
                    }
                    done => {
                        checkout = Checkout::Warm;
                        return done;
                    }
                }
            }
            let link = self.open(route, place, dialogue.id()).await?;
            route.backend.succeeded(Aspect::Reach);
            aspect = Aspect::Login;
            link.log_in(route, self.login).await
        };
        // Boxed, as what is long and waits: whoever waits for it need not be as large.
        let entered = timeout_at(*budget, Box::pin(entering)).await;
        let mut progress = self.judged(route, aspect, entered, false)?;
        // It has answered: others need not wait to see whether it does.
        drop(pending);
        loop {
            match progress {
                Progress::Done(link, welcome) => {
                    route.backend.succeeded(Aspect::Login);
                    route.backend.metrics.answered(BackendLogin::Ok);
                    if pooling(route) != Pooling::Off {
                        route.backend.metrics.checked_out(checkout);
                    }
                    let stake = owner.and_then(|owner| {
                        if reuses {
                            return Some(pool.enrol(owner));
                        }
                        pool.proven(&owner);
                        None
                    });
                    return Ok(Entered { link, welcome, stake });
                }
                Progress::Challenge(link, challenge) => {
                    let asked = Instant::now();
                    let answer =
                        dialogue.challenge(&challenge).await.map_err(|ending| Failed::Client(Stop::Ended(ending)))?;
                    // Else anybody could have a backend taken for dead by not answering.
                    *budget += asked.elapsed();
                    let gave_up = answer.is_none();
                    let next = timeout_at(*budget, link.answer(answer.as_ref().map(|answer| answer.as_slice()))).await;
                    if gave_up {
                        return Err(Failed::Client(Stop::GivenUp));
                    }
                    progress = self.judged(route, Aspect::Login, next, true)?;
                }
            }
        }
    }

    /// What came of a step, and what that says of the backend.
    fn judged(
        &self,
        route: &Route,
        aspect: Aspect,
        result: Result<Result<Progress, LinkError>, Elapsed>,
        client_took_part: bool,
    ) -> Result<Progress, Failed> {
        let backend = &route.backend;
        let Ok(result) = result else {
            backend.metrics.error(BackendError::Timeout);
            if aspect == Aspect::Login {
                backend.metrics.answered(BackendLogin::Timeout);
            }
            backend.was_silent(aspect, Some(&self.login.user));
            return Err(Failed::Late);
        };
        result.map_err(|error| {
            if aspect == Aspect::Login {
                backend.metrics.answered(error.as_login());
            }
            // A refusal that is not the backend's fault is in the line about the login, and only there.
            if let Some(kind) = error.kind {
                let (session, name) = (&self.session, &backend.config.name);
                backend.metrics.error(kind);
                warn!(%session, backend = name, kind = kind.as_str(), why = error.detail, "backend failed");
                if kind != BackendError::Local {
                    backend.failed(aspect, Some(&self.login.user), &error.detail);
                }
            } else if aspect == Aspect::Login {
                backend.succeeded(Aspect::Login);
            }
            Failed::Link(error, client_took_part)
        })
    }

    /// A link that waits for this very user.
    async fn take(&self, owner: &Owner, id: &[(Vec<u8>, Vec<u8>)]) -> Result<(Link<LoggedIn>, Stake), Checkout> {
        loop {
            let (link, stake) = self.server.pool.take(owner).await?;
            // One that has died meanwhile is not the last, perhaps; and the password may have been changed meanwhile.
            if let Ok(link) = link.introduce(&self.caller(id), owner.backend().config.forward_id).await
                && stake.is_proven()
            {
                return Ok((link, stake));
            }
        }
    }

    /// A link that waits for anybody.
    async fn take_warm(&self, route: &Route, id: &[(Vec<u8>, Vec<u8>)]) -> Option<Link<Greeted>> {
        if pooling(route) == Pooling::Off {
            return None;
        }
        let mut link = self.server.pool.take_warm(&route.backend).await?;
        link.announce(&self.caller(id), route.backend.config.forward_id);
        Some(link)
    }

    /// A place among the user's.
    async fn place(&self, route: &Route) -> Result<Place, LinkError> {
        route.backend.place_of(&route.user, self.patience()).await.map_err(LinkError::limited)
    }

    async fn open(
        &self,
        route: &Route,
        mut place: Place,
        id: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<Link<Greeted>, LinkError> {
        let backend = &route.backend;
        backend.complete(&mut place, self.patience()).await.map_err(LinkError::limited)?;
        let caller = self.caller(id);
        let link =
            Link::open(backend, &self.server.dialling, Some(&caller), self.server.config.timeouts.backend_connect)
                .await?;
        Ok(link.in_place(place))
    }

    /// How long a place at the backend is waited for.
    fn patience(&self) -> Instant {
        Instant::now() + self.server.config.timeouts.backend_connect
    }

    /// `id`: what the client has said of itself.
    fn caller<'c>(&'c self, id: &'c [(Vec<u8>, Vec<u8>)]) -> Caller<'c> {
        let origin = self.client.origin;
        Caller {
            session: &self.session,
            client: origin.client,
            local: origin.local,
            secure: origin.secure,
            server_name: origin.server_name.as_deref(),
            ttl: origin.ttl - 1,
            id,
        }
    }
}

/// The backend a referral names, if the configuration names it too.
fn referred(router: &Router, error: &LinkError) -> Option<Arc<Backend>> {
    let (host, port) = error.referral.as_ref()?;
    router.backend_at(host, *port).cloned()
}

/// What the pool may do for a route. A link on which a PROXY header was sent is one client's for good.
fn pooling(route: &Route) -> Pooling {
    if route.backend.config.proxy_protocol.is_some() { Pooling::Off } else { route.pool }
}

/// Between three and five quarters of `pause`, so that clients that failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + 0.5 * crate::random::fraction())
}
