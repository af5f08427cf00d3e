//! The pool: links to backends that wait. *Warm* ones (`warm.rs`) are connected and nobody's. Logged-in ones wait for their
//! own user's next session, for whom a link was cleaned by [`Link::reset`] and who has the same credentials ([`Owner`]).
//! Each waiting link has a task that holds it, watches it and closes it when its time is over (`shelf.rs`). A link is given
//! from hand to hand by value: there is no moment at which two could write to it, and whatever goes wrong drops it, which
//! closes it. Not here: what makes a link clean, limits, routes.

mod owner;
mod shelf;
mod warm;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use dashmap::DashMap;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::backend::{Backend, Route};
use crate::config;
use crate::imap::{Login, UserName};
use crate::link::{Dialling, Greeted, Link, LoggedIn, Used};
use crate::metrics::{Checkout, Eviction};
use crate::random;

use owner::{Account, Fingerprint};
use shelf::{Shelf, Taken};
use warm::Stock;

pub use owner::Owner;

/// How long a backend has to undo what a session has left behind.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it has to show that a link still lives; a new one is opened then.
pub const HANDOVER: Duration = Duration::from_secs(2);
/// A link that was heard from since then need not be asked whether it lives.
const FRESH: Duration = Duration::from_secs(3);
/// So many links may have come back and not been looked at yet.
const RETURNS: usize = 4096;

/// All links that wait.
#[derive(Debug)]
pub struct Pool {
    terms: RwLock<Arc<Terms>>,
    /// Told when these have changed.
    changed: Notify,
    key: hmac::Key,
    users: DashMap<Account, Arc<Links>>,
    /// How many of these wait, in all.
    idle: AtomicUsize,
    returned: mpsc::Sender<Return>,
    /// How often links were sent away: those that were on their way here then are not kept either.
    dismissals: AtomicU64,
}

/// What the configuration says of it now.
#[derive(Debug)]
struct Terms {
    settings: config::Pool,
    stocks: Vec<Arc<Stock>>,
}

/// Those of one account that wait.
#[derive(Debug, Default)]
struct Links {
    shelf: Shelf<Link<LoggedIn>, Label>,
    /// What the backend has accepted last.
    proven: Mutex<Option<Fingerprint>>,
}

/// Somebody is logged in who may leave a link behind, or has left one.
#[derive(Debug)]
pub struct Stake {
    // Dropped before it is asked who else has them.
    links: Arc<Links>,
    visit: Visit,
}

/// When this is dropped the account is forgotten, unless somebody else has a stake in it.
#[derive(Debug)]
struct Visit {
    pool: Arc<Pool>,
    owner: Owner,
}

/// What tells the links of one account apart.
#[derive(Debug)]
struct Label {
    credentials: Fingerprint,
    client: Option<IpAddr>,
    mailbox: Arc<[u8]>,
}

/// Counts a link as waiting.
struct Counted<'p>(&'p AtomicUsize);

/// Where links come back that may be used again.
#[derive(Debug)]
pub struct Returns(mpsc::Receiver<Return>);

/// A link that may be used again.
#[derive(Debug)]
pub struct Return {
    /// By whom.
    pub stake: Stake,
    /// The link.
    pub link: Link<Used>,
    /// It cannot be used by its user again, only by nobody.
    pub marked: bool,
    /// [`Pool::dismissals`], from before it was certain that its user was not sent away.
    pub dismissals: u64,
}

impl Pool {
    /// An empty pool without terms: see [`Pool::adopt`].
    ///
    /// # Errors
    /// When there is no randomness on this machine.
    pub fn new(settings: config::Pool) -> Result<(Self, Returns), aws_lc_rs::error::Unspecified> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())?;
        let (returned, returns) = mpsc::channel(RETURNS);
        let pool = Self {
            terms: RwLock::new(Arc::new(Terms { settings, stocks: Vec::new() })),
            changed: Notify::new(),
            key,
            users: DashMap::new(),
            idle: AtomicUsize::new(0),
            returned,
            dismissals: AtomicU64::new(0),
        };
        Ok((pool, Returns(returns)))
    }

    /// This is what the configuration says from now on. `backends` are its; `connect` is how long a link may take to be
    /// opened. Links that wait live on; those that only the old terms wanted are let go.
    pub fn adopt(&self, settings: config::Pool, connect: Duration, backends: &[Arc<Backend>]) {
        let mut terms = self.terms.write().unwrap_or_else(PoisonError::into_inner);
        let can_be_warm = |backend: &&Arc<Backend>| settings.warm > 0 && backend.config.proxy_protocol.is_none();
        let stock = |backend: &Arc<Backend>| match terms.stock(backend) {
            Some(stock) => {
                stock.adopt(&settings, connect);
                Arc::clone(stock)
            }
            None => Arc::new(Stock::new(backend, &settings, connect)),
        };
        let stocks: Vec<_> = backends.iter().filter(can_be_warm).map(stock).collect();
        for old in &terms.stocks {
            if !stocks.iter().any(|kept| Arc::ptr_eq(kept, old)) {
                old.close();
            }
        }
        *terms = Arc::new(Terms { settings, stocks });
        drop(terms);
        self.changed.notify_one();
    }

    fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.terms.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whose the link of this login is; `None`: it is not for anybody's use again.
    pub fn owner(&self, route: &Route, login: &Login, client: IpAddr) -> Option<Owner> {
        Owner::new(&self.key, route, login, client)
    }

    /// A link that its owner may have, alive a moment ago; or why there is none.
    ///
    /// # Errors
    /// What to call it.
    pub async fn take(self: &Arc<Self>, owner: &Owner) -> Result<(Link<LoggedIn>, Stake), Checkout> {
        if !self.users.contains_key(&owner.account) {
            return Err(Checkout::Miss);
        }
        let stake = self.stake(owner.clone());
        let mut why = Checkout::Miss;
        loop {
            match stake.links.shelf.take(|label| label.fits(owner)).await {
                // Said once more by the link itself: whatever the shelf held, it is this user's.
                Taken::Link(link) if *link.user() == owner.user => return Ok((link, stake)),
                Taken::Link(_) | Taken::Dead => why = Checkout::Dead,
                Taken::NoneFits if why == Checkout::Miss && !stake.is_proven() => {
                    return Err(Checkout::WrongCredential);
                }
                Taken::NoneFits | Taken::Empty => return Err(why),
            }
        }
    }

    /// A link to this backend that is nobody's.
    pub async fn take_warm(&self, backend: &Arc<Backend>) -> Option<Link<Greeted>> {
        let terms = self.terms();
        terms.stock(backend)?.take().await
    }

    /// Somebody whose link can be used again has just been let in by the backend.
    pub fn enrol(self: &Arc<Self>, owner: Owner) -> Stake {
        let stake = self.stake(owner);
        stake.links.prove(&stake.visit.owner.credentials);
        stake
    }

    /// Somebody has just been let in by the backend whose link will not be used again. That of others may be there.
    pub fn proven(&self, owner: &Owner) {
        if let Some(links) = self.users.get(&owner.account) {
            links.prove(&owner.credentials);
        }
    }

    fn stake(self: &Arc<Self>, owner: Owner) -> Stake {
        let links = Arc::clone(&self.users.entry(owner.account.clone()).or_default());
        Stake { links, visit: Visit { pool: Arc::clone(self), owner } }
    }

    /// Ends the links of a user, by the client's name, wherever they lead.
    pub fn dismiss_user(&self, user: &UserName) {
        let user = user.normalised();
        self.dismiss(|mailbox| *mailbox == *user);
    }

    /// Ends the links of all users that are meant, by the client's name, normalised; wherever they lead.
    pub fn dismiss(&self, is_meant: impl Fn(&[u8]) -> bool) {
        self.dismissals.fetch_add(1, Ordering::SeqCst);
        for links in &self.users {
            links.shelf.dismiss(|label| is_meant(&label.mailbox));
        }
    }

    /// How often links were sent away. Who gives one back asks this first, and then whether its user was sent away.
    pub fn dismissals(&self) -> u64 {
        self.dismissals.load(Ordering::SeqCst)
    }

    /// Takes a link back. Where more come than can be looked after, it is closed.
    pub fn give_back(&self, returned: Return) {
        if let Err(mpsc::error::TrySendError::Full(returned) | mpsc::error::TrySendError::Closed(returned)) =
            self.returned.try_send(returned)
        {
            returned.stake.backend().metrics.evicted(Eviction::Full);
        }
    }

    /// Looks after all links that wait, for ever. Dropping the future closes them.
    pub async fn run(self: Arc<Self>, mut returns: Returns, dialling: Arc<Dialling>) {
        let mut tasks = JoinSet::new();
        loop {
            for stock in &self.terms().stocks {
                if stock.begins() {
                    tasks.spawn(Arc::clone(stock).fill(Arc::clone(&dialling)));
                }
            }
            tokio::select! {
                () = self.changed.notified() => {}
                Some(returned) = returns.0.recv() => {
                    tasks.spawn(Arc::clone(&self).keep(returned));
                }
                Some(_) = tasks.join_next() => {}
                else => return,
            }
        }
    }

    /// Cleans a link and keeps it until it is taken or its time is over.
    async fn keep(self: Arc<Self>, returned: Return) {
        let Return { stake, link, marked, dismissals } = returned;
        let backend = Arc::clone(stake.backend());
        let (resetting, began) = (backend.metrics.resetting(), Instant::now());
        let link = match timeout(PATIENCE, link.reset()).await {
            Ok(Ok(link)) => link,
            failed => {
                let why = if let Ok(Err(error)) = failed { error.detail } else { "no answer in time".to_owned() };
                debug!(backend = backend.config.name, why, "a link cannot be used again");
                backend.metrics.evicted(Eviction::ResetFailed);
                return;
            }
        };
        drop(resetting);
        backend.metrics.reset(began.elapsed());
        let leftover =
            if marked { Some((link, Eviction::Dirty)) } else { self.shelve(link, &stake, dismissals, &backend).await };
        drop(stake);
        if let Some((link, why)) = leftover {
            self.let_go(link, &backend, why).await;
        }
    }

    /// Offers a link to its user until it is taken. What is given back is to be let go.
    async fn shelve(
        &self,
        link: Link<LoggedIn>,
        stake: &Stake,
        dismissals: u64,
        backend: &Arc<Backend>,
    ) -> Option<(Link<LoggedIn>, Eviction)> {
        let Some(_counted) = self.count() else { return Some((link, Eviction::Full)) };
        let Some((slot, wanted)) = stake.offer(self.terms().settings.reuse_per_user) else {
            return Some((link, Eviction::Full));
        };
        // Asked once it is there to be sent away: whoever sends links away now, sees this one.
        let leftover = if stake.is_proven() && self.dismissals() == dismissals {
            let _idle = backend.metrics.idle();
            self.hold(link, wanted, backend).await
        } else {
            Some((link, Eviction::Credential))
        };
        stake.links.shelf.withdraw(slot);
        leftover
    }

    /// Holds a link until somebody takes it, or it is to go for another reason.
    async fn hold(
        &self,
        mut link: Link<LoggedIn>,
        wanted: shelf::Wanted<Link<LoggedIn>>,
        backend: &Arc<Backend>,
    ) -> Option<(Link<LoggedIn>, Eviction)> {
        let since = Instant::now();
        let settings = &self.terms().settings;
        let (waits, lives) = (jittered(settings.reuse_ttl), jittered(settings.reuse_lifetime));
        let time = waits.min(lives.saturating_sub(link.logged_in().elapsed()));
        let place_wanted = link.place().wanted();
        let taker = tokio::select! {
            // First of all whether it lives: what it has said is read before it is given to anybody.
            biased;
            error = link.watch() => {
                debug!(backend = backend.config.name, why = error.detail, "a link has ended while it waited");
                backend.metrics.evicted(Eviction::Dead);
                return None;
            }
            taker = wanted => match taker {
                Ok(taker) => taker,
                Err(_) => return Some((link, Eviction::Credential)),
            },
            () = place_wanted => return Some((link, Eviction::Wanted)),
            () = backend.closes() => return Some((link, Eviction::Closing)),
            () = sleep(time) => return Some((link, Eviction::Age)),
        };
        let checked = if since.elapsed() < FRESH {
            Some(link)
        } else {
            timeout(HANDOVER, link.check()).await.ok().and_then(Result::ok)
        };
        match checked {
            // Who wanted it may have gone away meanwhile; the link goes too then.
            Some(link) => {
                backend.metrics.has_waited(since.elapsed());
                drop(taker.send(link));
            }
            None => backend.metrics.evicted(Eviction::Dead),
        }
        None
    }

    /// Lets a link go: to be nobody's again, where the backend can do that and too few are, else by LOGOUT.
    async fn let_go(&self, link: Link<LoggedIn>, backend: &Arc<Backend>, why: Eviction) {
        backend.metrics.evicted(why);
        let stays = !matches!(why, Eviction::Wanted | Eviction::Closing);
        let terms = self.terms();
        match terms.stock(backend).filter(|stock| stays && !stock.is_full() && link.can_unauthenticate()) {
            Some(stock) => {
                if let Ok(Ok(link)) = timeout(PATIENCE, link.unauthenticate()).await {
                    Arc::clone(stock).keep(link).await;
                }
            }
            None => link.log_out().await,
        }
    }

    fn count(&self) -> Option<Counted<'_>> {
        let counted = Counted(&self.idle);
        (self.idle.fetch_add(1, Ordering::Relaxed) < self.terms().settings.reuse_max).then_some(counted)
    }
}

impl Terms {
    fn stock(&self, backend: &Arc<Backend>) -> Option<&Arc<Stock>> {
        self.stocks.iter().find(|stock| stock.is_of(backend))
    }
}

impl Links {
    /// The backend has just accepted these credentials. Links that were made with others end, now or when their sessions do:
    /// the password may have been changed because somebody else knew it.
    fn prove(&self, credentials: &Fingerprint) {
        let mut proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        *proven = Some(credentials.clone());
        self.shelf.dismiss(|label| !label.credentials.is(credentials));
    }
}

impl Label {
    fn fits(&self, owner: &Owner) -> bool {
        self.client == owner.client && self.credentials.is(&owner.credentials)
    }
}

impl Stake {
    fn offer(&self, most: usize) -> Option<(shelf::Slot, shelf::Wanted<Link<LoggedIn>>)> {
        let Owner { credentials, client, mailbox, .. } = &self.visit.owner;
        let label = Label { credentials: credentials.clone(), client: *client, mailbox: mailbox.clone() };
        self.links.shelf.offer(label, most)
    }

    /// The backend has accepted no other credentials since.
    pub fn is_proven(&self) -> bool {
        let proven = self.links.proven.lock().unwrap_or_else(PoisonError::into_inner);
        proven.as_ref().is_some_and(|proven| proven.is(&self.visit.owner.credentials))
    }

    /// Where its link leads.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.visit.owner.account.backend
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        // The map's own alone: nobody else is there.
        self.pool.users.remove_if(&self.owner.account, |_, links| Arc::strong_count(links) == 1);
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Between nine tenths and the whole of a time, so that what began together does not end together.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.9 + 0.1 * random::fraction())
}
