//! Looks after one backend: opens a link as far as the greeting, or logs in to an account that is there for that, again and
//! again, and tells the backend's health what came of it. Not here: what that means (`backend/health.rs`).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::debug;
use zeroize::Zeroizing;

use crate::backend::{Aspect, Backend, LoginAs, Route};
use crate::config::{self, Finding};
use crate::imap::{Credentials, Login, Mechanism, Secret, UserName};
use crate::link::{Dialling, Link, LinkError, Progress};
use crate::metrics::BackendError;
use crate::random;
use crate::secret_file;

/// The first probes of all backends are spread over this, so that the state of things is known soon.
const FIRST: Duration = Duration::from_secs(1);

/// Who probes one backend.
pub struct Prober {
    backend: Arc<Backend>,
    login: Option<(UserName, Secret)>,
}

/// The same backend, looked at in the same way.
impl PartialEq for Prober {
    fn eq(&self, other: &Self) -> bool {
        let login = |prober: &Self| {
            prober.login.as_ref().map(|(user, password)| (user.clone(), Zeroizing::new(password.reveal().to_vec())))
        };
        Arc::ptr_eq(&self.backend, &other.backend) && login(self) == login(other)
    }
}

impl Prober {
    /// For a backend; reads the password of its account.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn new(backend: &Arc<Backend>) -> Result<Self, Finding> {
        let read = |(user, file): &(String, config::At<std::path::PathBuf>)| {
            let finding = |message| Finding { site: Some(file.site.clone()), message };
            let password = secret_file::read(&file.value).map_err(finding)?;
            let user = UserName::new(user.as_bytes()).map_err(|error| finding(error.to_string()))?;
            Ok((user, password))
        };
        let login = backend.config.health.login.as_ref().map(read).transpose()?;
        Ok(Self { backend: Arc::clone(backend), login })
    }

    /// Probes for as long as the future lives.
    pub async fn run(self: Arc<Self>, dialling: Arc<Dialling>) {
        sleep(FIRST.mul_f64(random::fraction())).await;
        loop {
            let Some(wait) = self.probe(&dialling).await else { return };
            // So that several of us do not come in step.
            sleep(wait.mul_f64(0.9 + 0.2 * random::fraction())).await;
        }
    }

    /// One probe; how long to wait until the next.
    async fn probe(&self, dialling: &Dialling) -> Option<Duration> {
        let time = self.backend.config.health.timeout;
        let mut aspect = Aspect::Reach;
        let result = timeout(time, self.look(dialling, time, &mut aspect)).await;
        let backend = &self.backend;
        let name = &backend.config.name;
        match result {
            Ok(Err(LinkError { kind: Some(BackendError::Local), detail: why, .. })) => {
                debug!(backend = name, why, "it could not be probed");
            }
            Ok(Ok(())) => {
                backend.metrics.probed("ok");
                if self.login.is_some() {
                    backend.succeeded(Aspect::Login);
                }
            }
            Ok(Err(LinkError { detail: why, .. })) => {
                debug!(backend = name, why, "probe failed");
                backend.metrics.probed("failed");
                backend.failed(aspect, None, &why);
            }
            Err(_) => {
                debug!(backend = name, why = "no answer in time", "probe failed");
                backend.metrics.probed("failed");
                backend.was_silent(aspect, None);
            }
        }
        backend.until_probe()
    }

    /// Notes in `aspect` how far it has come.
    async fn look(&self, dialling: &Dialling, time: Duration, aspect: &mut Aspect) -> Result<(), LinkError> {
        let backend = &self.backend;
        let link = Link::open(backend, dialling, None, time).await?;
        backend.succeeded(Aspect::Reach);
        *aspect = Aspect::Login;
        let Some((user, password)) = &self.login else {
            link.log_out().await;
            return Ok(());
        };
        let password = Secret::new(Zeroizing::new(password.reveal().to_vec()));
        let Ok(password) = password else { return Ok(()) };
        let login = Login {
            mechanism: Mechanism::Plain,
            user: user.clone(),
            authzid: None,
            credentials: Credentials::Password(password),
        };
        let route = Route::new(Arc::clone(backend), user.clone(), LoginAs::Client);
        if let Progress::Done(link, _) = link.log_in(&route, &login).await? {
            link.log_out().await;
        }
        Ok(())
    }
}
