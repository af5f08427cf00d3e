//! What operators do to a running server: see who is in and what they say, give it another configuration, take a backend out of
//! use and put it back, hold a user's logins, move a user, tell sessions to leave. Here is the work itself, on a page for each
//! thing; who may ask for it, and how, is the business of `admin/` and `cli/`.

mod backends;
mod certificates;
mod config;
mod limits;
mod lookups;
mod metrics;
mod routes;
mod sessions;
mod status;
mod traces;
mod users;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::backend::Backend;
use crate::config::{Config, Finding, Findings};
use crate::metrics::Metrics;
use crate::process::Role;
use crate::routing::Router;
use crate::server::{Order, State};

pub use backends::{BackendReport, Drained};
pub use certificates::ServedCertificate;
pub use config::ShownConfig;
pub use limits::{HeldBack, HeldPage, Mark};
pub use lookups::LookupState;
pub use routes::{Destination, Explained, Whence};
pub use status::{ListenerStatus, Status};
pub use users::{KnownUser, LONGEST_HOLD, Moved};

pub use crate::history::{Quantiles, STEP as HISTORY_STEP, Shown};
pub use crate::sessions::{Dismissed, Filter, Page, Rank, Seen, SeenUser, Sort};

/// Told to leave, a session is gone after this, whatever it was doing.
const LEAVING: Duration = Duration::from_secs(10);

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
    /// The configuration names no such listener.
    #[error("no listener has the name {0:?}")]
    NoSuchListener(String),
    /// The configuration names no such lookup.
    #[error("no lookup has the name {0:?}")]
    NoSuchLookup(String),
    /// A server inside another program has no log of its own.
    #[error("this server has no log of its own")]
    NoLog,
    /// Sessions are still there although they were told to leave.
    #[error("{0} sessions are still there")]
    StillThere(usize),
    /// Others look already.
    #[error("there are as many traces as there may be at once; wait until one has ended")]
    TooManyTraces,
}

impl Steering {
    pub(crate) fn new(current: watch::Receiver<Arc<State>>, orders: mpsc::Sender<Order>) -> Self {
        Self { current, orders }
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.current.borrow())
    }

    fn router(&self) -> Arc<Router> {
        Arc::clone(&self.state().router)
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
