//! What operators do to a running server: give it another configuration, take a backend out of use and put it back, hold a
//! user's logins, move a user. Here is the work itself; who may ask for it, and how, is the business of `admin/` and `cli/`.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use crate::backend::Backend;
use crate::config::{Config, Finding, Findings};
use crate::imap::UserName;
use crate::metrics::Metrics;
use crate::outcome::Ending;
use crate::process::Role;
use crate::server::{Order, State};

/// Sessions that are told to leave a backend are told so over this time, so that their clients do not all come back at once.
const SPREAD: Duration = Duration::from_secs(5);
/// Told to leave, a session is gone after this, whatever it was doing.
const LEAVING: Duration = Duration::from_secs(10);
/// A hold that nobody releases ends after this: nobody is locked out because somebody forgot.
pub const LONGEST_HOLD: Duration = Duration::from_mins(15);

/// Steers a running server. Cheap to clone.
#[derive(Clone)]
pub struct Steering {
    current: watch::Receiver<Arc<State>>,
    orders: mpsc::Sender<Order>,
}

/// What cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SteerError {
    /// The configuration names no such backend.
    #[error("no backend has the name {0:?}")]
    NoSuchBackend(String),
    /// Sessions are still there although they were told to leave.
    #[error("{0} sessions are still there")]
    StillThere(usize),
}

/// What became of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Sessions that were told to leave when patience was at its end.
    pub dismissed: usize,
}

/// What became of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Sessions that were told to leave.
    pub dismissed: usize,
}

impl Steering {
    pub(crate) fn new(current: watch::Receiver<Arc<State>>, orders: mpsc::Sender<Order>) -> Self {
        Self { current, orders }
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.current.borrow())
    }

    /// Reads the configuration file and all that it names anew, and puts it in place of what is there, all at once; gives what
    /// is worth a word. Sessions live on with what they began with. Log and metrics tell of it, too.
    ///
    /// # Errors
    /// Everything that is wrong with it; nothing has changed then.
    pub async fn reload(&self) -> Result<Findings, Findings> {
        let outcome = self.reload_quietly().await;
        self.state().metrics.life().reloaded(outcome.is_ok());
        match &outcome {
            Ok(warnings) => {
                for warning in warnings.shown() {
                    warn!("{warning}");
                }
                info!("the configuration was reloaded");
            }
            Err(findings) => {
                for finding in findings.shown() {
                    error!("{finding}");
                }
                error!("the configuration was not reloaded, nothing has changed");
            }
        }
        outcome
    }

    async fn reload_quietly(&self) -> Result<Findings, Findings> {
        let whole = |message: &str| {
            let finding = Finding { site: None, message: message.to_owned() };
            Findings::new("mailmux".into(), String::new(), vec![finding])
        };
        let Some(file) = self.state().config.file.clone() else {
            return Err(whole("was started without a configuration file; there is nothing to read anew"));
        };
        let path = file.clone();
        let read = spawn_blocking(move || (Config::load(&path), std::fs::read_to_string(&path).unwrap_or_default()));
        let (config, text) = read.await.map_err(|_| whole("reading failed: a fault of mailmux itself"))?;
        let shown = |findings| Findings::new(file, text, findings);
        match self.adopt(config?).await {
            Ok(warnings) => Ok(shown(warnings)),
            Err(findings) => Err(shown(findings)),
        }
    }

    /// Waits until another configuration is in place than when this was asked last.
    pub async fn reconfigured(&mut self) {
        if self.current.changed().await.is_err() {
            // The server has gone.
            std::future::pending::<()>().await;
        }
    }

    /// Puts another configuration in place; gives what is worth a word.
    ///
    /// # Errors
    /// Everything that is wrong with it; nothing has changed then.
    pub async fn adopt(&self, config: Config) -> Result<Vec<Finding>, Vec<Finding>> {
        let findings = config.what_cannot_change_since(&self.state().config);
        if !findings.is_empty() {
            return Err(findings);
        }
        self.order(|answer| Order::Adopt(Box::new(config), answer)).await
    }

    /// Reads the certificates anew, and nothing else. Log and metrics tell of it.
    pub async fn renew_certificates(&self) {
        let outcome = self.order(Order::Certificates).await;
        self.state().metrics.life().certificates_reloaded(outcome.is_ok());
        match outcome {
            Ok(warnings) => {
                for Finding { message, .. } in warnings {
                    warn!("{message}");
                }
                info!("certificates had changed and were reloaded");
            }
            Err(findings) => {
                for Finding { message, .. } in findings {
                    error!("{message}");
                }
                error!("certificates have changed and cannot be used; those of before serve on");
            }
        }
    }

    async fn order(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<Vec<Finding>, Vec<Finding>>>) -> Order,
    ) -> Result<Vec<Finding>, Vec<Finding>> {
        let (answer, answered) = oneshot::channel();
        let stopped = || vec![Finding { site: None, message: "mailmux has stopped".to_owned() }];
        self.orders.send(order(answer)).await.map_err(|_| stopped())?;
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Gives a backend no new sessions from now on, waits for those there to end, and tells the rest to leave after
    /// `patience`. It stays out of use until [`Steering::undrain`], also when this future is dropped.
    ///
    /// # Errors
    /// There is no such backend, or sessions did not leave.
    pub async fn drain(&self, backend: &str, patience: Duration) -> Result<Drained, SteerError> {
        let (state, backend) = (self.state(), self.backend(backend)?);
        backend.set_draining(true);
        let name = &backend.config.name;
        info!(backend = name, sessions = backend.sessions(), "draining");
        let is_empty = || backend.sessions() == 0;
        let mut dismissed = 0;
        if timeout(patience, state.sessions.until(|_| is_empty())).await.is_err() {
            dismissed = state.sessions.dismiss_backend(&backend, Ending::Moved, SPREAD).await;
            let last = state.sessions.until(|_| is_empty());
            if timeout(LEAVING, last).await.is_err() {
                return Err(SteerError::StillThere(backend.sessions()));
            }
        }
        info!(backend = name, dismissed, "drained");
        Ok(Drained { dismissed })
    }

    /// Puts a backend back in use.
    ///
    /// # Errors
    /// There is no such backend.
    pub fn undrain(&self, backend: &str) -> Result<(), SteerError> {
        let backend = self.backend(backend)?;
        backend.set_draining(false);
        info!(backend = backend.config.name, "in use again");
        Ok(())
    }

    /// Holds a user's logins back until [`Steering::release`], at most for [`LONGEST_HOLD`].
    pub fn hold(&self, user: &UserName) {
        self.state().sessions.hold(user, LONGEST_HOLD);
        info!(%user, "logins are held");
    }

    /// Lets a user's logins in again; false when they were not held.
    pub fn release(&self, user: &UserName) -> bool {
        let was_held = self.state().sessions.release(user);
        info!(%user, was_held, "logins are let in");
        was_held
    }

    /// Moves a user: holds new logins, tells the old sessions to leave and waits until they have, has `meanwhile` done (the
    /// last copying of mail, say), and then lets logins in, to the backend `to` where that is given, else to where the
    /// rules say by then; what lookups have said of the user is forgotten. Where a user was sent by `to` it goes until the
    /// server ends or it is moved again.
    ///
    /// # Errors
    /// There is no such backend, or sessions did not leave; the user is where it was then. Dropping the future lets logins
    /// in as well.
    pub async fn move_user<F: Future<Output = ()>>(
        &self,
        user: &UserName,
        to: Option<&str>,
        meanwhile: F,
    ) -> Result<Moved, SteerError> {
        let state = self.state();
        let to = to.map(|name| self.backend(name)).transpose()?;
        self.hold(user);
        let release = Release { steering: self, user };
        let dismissed = state.sessions.dismiss_user(user, Ending::Moved);
        // Logins under way are allowed to end; they are told to leave as soon as they are in.
        let patience = state.config.timeouts.backend_login + LEAVING;
        let gone = state.sessions.until(|sessions| sessions.of_user(user) == 0);
        if timeout(patience, gone).await.is_err() {
            return Err(SteerError::StillThere(state.sessions.of_user(user)));
        }
        state.pool.dismiss_user(user);
        meanwhile.await;
        // The rules may be others by now.
        self.state().router.moved(user, to.as_ref());
        drop(release);
        info!(%user, dismissed, to = to.as_ref().map(|backend| backend.config.name.as_str()), "moved");
        Ok(Moved { dismissed })
    }

    /// Tells a user's sessions to leave, and lets go of links that wait for it; says how many sessions. They may come back at
    /// once.
    pub fn kick(&self, user: &UserName) -> usize {
        let state = self.state();
        let dismissed = state.sessions.dismiss_user(user, Ending::Kicked);
        state.pool.dismiss_user(user);
        info!(%user, dismissed, "kicked");
        dismissed
    }

    /// All listening sockets once more, for who comes after this process.
    ///
    /// # Errors
    /// They cannot be had.
    pub async fn share(&self) -> io::Result<Vec<(Role, OwnedFd)>> {
        let (answer, answered) = oneshot::channel();
        let stopped = || io::Error::other("mailmux has stopped");
        self.orders.send(Order::Share(answer)).await.map_err(|_| stopped())?;
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Accepts nothing any more here, the admin port's included: somebody else does.
    pub async fn close(&self) {
        // Who has stopped has closed them.
        let _ = self.orders.send(Order::Close).await;
    }

    /// The metrics.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.state().metrics)
    }

    /// Tells all sessions to leave, the quiet ones first, spread over `time`; returns when that is over, with the number of those
    /// that are left; `told` hears it meanwhile. It does not keep new ones from coming.
    pub async fn see_off(&self, time: Duration, told: impl Fn(usize)) -> usize {
        let state = self.state();
        let told = |left| {
            state.metrics.life().draining(left);
            told(left);
        };
        state.sessions.see_off(Instant::now() + time, told).await;
        state.sessions.count()
    }

    /// How long a drain may take.
    pub fn drain_timeout(&self) -> Duration {
        self.state().config.server.drain_timeout
    }

    fn backend(&self, name: &str) -> Result<Arc<Backend>, SteerError> {
        self.state().router.backend(name).cloned().ok_or_else(|| SteerError::NoSuchBackend(name.to_owned()))
    }
}

/// Releases a hold however a move ends.
struct Release<'a> {
    steering: &'a Steering,
    user: &'a UserName,
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.steering.release(self.user);
    }
}
