//! Links to one backend that are connected, greeted and nobody's yet. One after the other is opened until there are enough,
//! slowly at first when the backend has been away, and each is replaced before the backend loses patience with it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::jittered;
use super::shelf::{Shelf, Taken};
use crate::backend::{Aspect, Backend};
use crate::config;
use crate::link::{Dialling, Greeted, Link};
use crate::metrics::{BackendError, Eviction};

/// Between the first two links to a backend that has been away. Halved from one to the next.
const SLOW_START: Duration = Duration::from_millis(500);
/// Below this there is no pause any more.
const SHORTEST: Duration = Duration::from_millis(10);
/// Between attempts that fail: at most this.
const LONGEST: Duration = Duration::from_mins(1);
/// A link that ends before has not been of use to anybody: the backend does not want it.
const EARLY: Duration = Duration::from_secs(5);
/// How often it is looked whether the backend is back, or has a place to spare.
const LOOK: Duration = Duration::from_secs(1);

/// The links of one backend.
#[derive(Debug)]
pub(super) struct Stock {
    backend: Arc<Backend>,
    terms: watch::Sender<Terms>,
    /// Somebody fills it.
    begun: AtomicBool,
    shelf: Shelf<Link<Greeted>>,
    /// Told when there is one fewer.
    taken: Notify,
    /// Since the last look at this the backend has ended a link that it had just greeted.
    ended_early: AtomicBool,
}

/// What the configuration says of it now.
#[derive(Debug, Clone, Copy)]
struct Terms {
    /// 0: it is closed for good.
    most: usize,
    ttl: Duration,
    connect: Duration,
}

impl Terms {
    fn new(settings: &config::Pool, connect: Duration) -> Self {
        Self { most: settings.warm, ttl: settings.warm_ttl, connect }
    }
}

impl Stock {
    pub(super) fn new(backend: &Arc<Backend>, settings: &config::Pool, connect: Duration) -> Self {
        Self {
            backend: Arc::clone(backend),
            terms: watch::channel(Terms::new(settings, connect)).0,
            begun: AtomicBool::new(false),
            shelf: Shelf::default(),
            taken: Notify::new(),
            ended_early: AtomicBool::new(false),
        }
    }

    pub(super) fn is_of(&self, backend: &Arc<Backend>) -> bool {
        Arc::ptr_eq(&self.backend, backend)
    }

    /// These are its terms from now on; those of links that wait already stay.
    pub(super) fn adopt(&self, settings: &config::Pool, connect: Duration) {
        self.terms.send_replace(Terms::new(settings, connect));
        self.taken.notify_one();
    }

    /// Lets all links go and takes no more, for good.
    pub(super) fn close(&self) {
        self.terms.send_modify(|terms| terms.most = 0);
        self.taken.notify_one();
    }

    /// True once, for whoever is to fill it.
    pub(super) fn begins(&self) -> bool {
        !self.begun.swap(true, Ordering::Relaxed)
    }

    pub(super) fn is_full(&self) -> bool {
        self.shelf.len() >= self.terms.borrow().most
    }

    fn is_closed(&self) -> bool {
        self.terms.borrow().most == 0
    }

    async fn closed(&self) {
        // The sender is ours, so that there is no error.
        let _ = self.terms.subscribe().wait_for(|terms| terms.most == 0).await;
    }

    /// A link that was alive a moment ago.
    pub(super) async fn take(&self) -> Option<Link<Greeted>> {
        loop {
            let taken = self.shelf.take(|()| true).await;
            self.taken.notify_one();
            match taken {
                Taken::Link(link) => return Some(link),
                Taken::Dead => {}
                Taken::NoneFits | Taken::Empty => return None,
            }
        }
    }

    /// Keeps the stock full until it is closed. Dropping the future closes all links of it that wait.
    pub(super) async fn fill(self: Arc<Self>, dialling: Arc<Dialling>) {
        let mut keepers = JoinSet::new();
        let mut pause = SLOW_START;
        loop {
            let mut taken = pin!(self.taken.notified());
            taken.as_mut().enable();
            while keepers.try_join_next().is_some() {}
            if self.is_closed() {
                // They say goodbye.
                while keepers.join_next().await.is_some() {}
                return;
            }
            if self.ended_early.swap(false, Ordering::Relaxed) {
                // Four times, since the link that has ended had halved it.
                pause = longer(pause * 4);
                sleep(jittered(pause)).await;
            }
            if self.backend.is_draining() || !self.backend.is_up() {
                pause = SLOW_START;
                sleep(LOOK).await;
                continue;
            }
            if self.is_full() {
                taken.await;
                continue;
            }
            let Some(place) = self.backend.spare_place() else {
                sleep(LOOK).await;
                continue;
            };
            let connect = self.terms.borrow().connect;
            pause = match Link::open(&self.backend, &dialling, None, connect).await {
                Ok(link) => {
                    self.backend.succeeded(Aspect::Reach);
                    keepers.spawn(Arc::clone(&self).keep(link.in_place(place)));
                    if pause > SHORTEST { pause / 2 } else { Duration::ZERO }
                }
                Err(error) => {
                    let kind = error.kind.unwrap_or(BackendError::Connect);
                    self.backend.metrics.error(kind);
                    if kind != BackendError::Local {
                        self.backend.failed(Aspect::Reach, None, &error.detail);
                    }
                    longer(pause * 2)
                }
            };
            sleep(jittered(pause)).await;
        }
    }

    /// Keeps a link until somebody takes it, or it is to go for another reason.
    pub(super) async fn keep(self: Arc<Self>, mut link: Link<Greeted>) {
        let Terms { most, ttl, .. } = *self.terms.borrow();
        let Some((slot, wanted)) = self.shelf.offer((), most) else { return link.log_out().await };
        let born = Instant::now();
        let waiting = self.backend.metrics.warm();
        let place_wanted = link.place().wanted();
        let leftover = tokio::select! {
            // First of all whether it lives.
            biased;
            error = link.watch() => {
                debug!(backend = self.backend.config.name, why = error.detail, "a warm link has ended");
                self.backend.metrics.evicted(Eviction::Dead);
                self.ended_early.fetch_or(born.elapsed() < EARLY, Ordering::Relaxed);
                None
            }
            taker = wanted => {
                if let Ok(taker) = taker {
                    // Who wanted it may have gone away; the link goes too then.
                    drop(taker.send(link));
                }
                None
            }
            () = place_wanted => Some((link, Eviction::Wanted)),
            () = self.backend.closes() => Some((link, Eviction::Closing)),
            () = self.closed() => Some((link, Eviction::Closing)),
            () = sleep(jittered(ttl)) => Some((link, Eviction::Age)),
        };
        drop(waiting);
        self.shelf.withdraw(slot);
        self.taken.notify_one();
        if let Some((link, why)) = leftover {
            self.backend.metrics.evicted(why);
            link.log_out().await;
        }
    }
}

fn longer(pause: Duration) -> Duration {
    pause.clamp(SLOW_START, LONGEST)
}
