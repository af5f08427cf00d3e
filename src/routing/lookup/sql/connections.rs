//! A few connections to one database, each used by one question at a time. Not here: what is asked.
//!
//! sqlx's own pool is not used: it waits out its whole time limit when the database is down, instead of saying so; it
//! needs a runtime to be made; and it takes back a connection whose question was given up half way. Here a connection
//! comes back only from a question that was answered to its end. Any other is closed, so that no answer can reach the
//! wrong asker.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{self, Instant};

/// The longest wait for a place and a new connection together. A lookup's own time limit may be shorter.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A connection that nobody used for so long may have been forgotten by a firewall on the way.
const LONGEST_IDLE: Duration = Duration::from_mins(1);

pub(super) struct Connections<C: Connection> {
    options: C::Options,
    places: Semaphore,
    /// The one used last is taken first, so that those that are not needed grow old.
    idle: Mutex<Vec<(C, Instant)>>,
}

/// A connection that was taken out, with the place it takes up.
pub(super) struct Taken<'a, C: Connection> {
    pub(super) connection: C,
    /// Whether it has served before: then it may have died since.
    pub(super) was_kept: bool,
    place: SemaphorePermit<'a>,
}

/// Why there is no connection.
pub(super) enum Unconnected {
    /// None came free, or none came up in time.
    Late,
    /// The database does not want us, or is not there.
    Failed(sqlx::Error),
}

impl<C: Connection> Connections<C> {
    pub(super) fn new(options: C::Options, most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self { options, places: Semaphore::new(most), idle: Mutex::default() }
    }

    pub(super) async fn take(&self) -> Result<Taken<'_, C>, Unconnected> {
        let taking = async {
            let place = self.places.acquire().await.map_err(|_| Unconnected::Late)?;
            match self.kept() {
                Some(connection) => Ok(Taken { connection, was_kept: true, place }),
                None => self.connect(place).await,
            }
        };
        time::timeout(LONGEST_WAIT, taking).await.unwrap_or(Err(Unconnected::Late))
    }

    /// The same place with a connection that is new.
    pub(super) async fn renew<'a>(&'a self, taken: Taken<'a, C>) -> Result<Taken<'a, C>, Unconnected> {
        let Taken { connection, place, .. } = taken;
        drop(connection);
        // What was kept as long as this one has most likely gone the same way.
        self.lock().clear();
        time::timeout(LONGEST_WAIT, self.connect(place)).await.unwrap_or(Err(Unconnected::Late))
    }

    /// Takes back a connection on which nothing is under way. One that does not come back is closed.
    pub(super) fn put_back(&self, taken: Taken<'_, C>) {
        self.lock().push((taken.connection, Instant::now()));
    }

    #[cfg(test)]
    pub(super) fn free_places(&self) -> usize {
        self.places.available_permits()
    }

    #[cfg(test)]
    pub(super) fn kept_now(&self) -> usize {
        self.lock().len()
    }

    async fn connect<'a>(&'a self, place: SemaphorePermit<'a>) -> Result<Taken<'a, C>, Unconnected> {
        let connection = self.options.connect().await.map_err(Unconnected::Failed)?;
        Ok(Taken { connection, was_kept: false, place })
    }

    fn kept(&self) -> Option<C> {
        let mut idle = self.lock();
        idle.retain(|(_, since)| since.elapsed() < LONGEST_IDLE);
        idle.pop().map(|(connection, _)| connection)
    }

    /// Nothing panics while it is held; if it did, the connections in it would still be whole.
    fn lock(&self) -> MutexGuard<'_, Vec<(C, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
