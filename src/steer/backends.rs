//! Backends: how they are, taken out of use and put back, given more users or fewer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::info;

use super::{LEAVING, SteerError, Steering};
use crate::backend::{Backend, HealthReport, Turn};
use crate::config::{BackendTls, Config, Pooling, Target};
use crate::metrics::{BackendReading, quantile};
use crate::outcome::Ending;
use crate::server::State;

/// Sessions that are told to leave a backend are told so over this time, so that their clients do not all come back at once.
const SPREAD: Duration = Duration::from_secs(5);

/// What became of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Sessions that were told to leave when patience was at its end.
    pub dismissed: usize,
}

/// How a backend is.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendReport {
    /// Its name.
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// How it is spoken to: `implicit`, `starttls` or `none`.
    pub tls: &'static str,
    /// The groups that it is a member or standby of.
    pub groups: Vec<String>,
    /// Whether it gets no new sessions.
    pub is_draining: bool,
    /// Whether it is well, and why not.
    pub health: HealthReport,
    /// Its share of a group's users, now ...
    pub weight: u32,
    /// ... and as the configuration says.
    pub configured_weight: u32,
    /// Sessions there or on their way.
    pub sessions: usize,
    /// The most links that there may be; 0: any number.
    pub max_links: usize,
    /// How many there are.
    pub links: usize,
    /// What the rules that lead there say of the pool: `off`, `warm` or `reuse`. Of single users a lookup may say otherwise.
    pub pool_mode: &'static str,
    /// How long logins there took, in seconds: half of them, 95 and 99 in a hundred no longer than this; `None`: there were none.
    pub login_seconds: Option<[f64; 3]>,
    /// What its metrics show.
    pub reading: BackendReading,
}

impl Steering {
    /// How all backends are, in the order of the configuration.
    pub fn backends(&self) -> Vec<BackendReport> {
        let state = self.state();
        state.router.backends().iter().enumerate().map(|(index, backend)| report(&state, index, backend)).collect()
    }

    /// How one backend is, and the last changes of its health, oldest first.
    ///
    /// # Errors
    /// There is no such backend.
    pub fn backend_report(&self, name: &str) -> Result<(BackendReport, Vec<Turn>), SteerError> {
        let state = self.state();
        let backends = state.router.backends();
        let found = backends.iter().enumerate().find(|(_, backend)| backend.config.name == name);
        let (index, backend) = found.ok_or_else(|| SteerError::NoSuchBackend(name.to_owned()))?;
        Ok((report(&state, index, backend), backend.turns()))
    }

    /// Changes a backend's share of its groups' users, from the next login on: until it is changed again, a reload brings
    /// another weight, or the server ends. 0: it gets only users whom nobody else in a group takes, standby included, and those
    /// whom a rule, a lookup or an operator sends to it by name. `None`: what the configuration says. Sessions stay.
    ///
    /// # Errors
    /// There is no such backend.
    pub fn set_weight(&self, backend: &str, weight: Option<u32>) -> Result<(), SteerError> {
        let backend = self.backend(backend)?;
        backend.set_weight(weight);
        info!(backend = backend.config.name, weight = backend.weight(), "weight was set");
        Ok(())
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
}

fn report(state: &State, index: usize, backend: &Arc<Backend>) -> BackendReport {
    let config = &backend.config;
    let reading = backend.metrics.read();
    let took = |share| quantile(share, &reading.login_seconds);
    let groups =
        state.config.groups.iter().filter(|group| group.members.iter().chain(&group.standby).any(|at| *at == index));
    BackendReport {
        name: config.name.clone(),
        address: backend.address(),
        tls: match config.tls {
            BackendTls::Implicit(_) => "implicit",
            BackendTls::StartTls(_) => "starttls",
            BackendTls::None => "none",
        },
        groups: groups.map(|group| group.name.clone()).collect(),
        is_draining: backend.is_draining(),
        health: backend.health(),
        weight: backend.weight(),
        configured_weight: config.weight.get(),
        sessions: backend.sessions(),
        max_links: config.max_links,
        links: backend.links(),
        pool_mode: match pooling(&state.config, index) {
            Pooling::Off => "off",
            Pooling::Warm => "warm",
            Pooling::Reuse => "reuse",
        },
        login_seconds: took(0.5).zip(took(0.95)).zip(took(0.99)).map(|((p50, p95), p99)| [p50, p95, p99]),
        reading,
    }
}

/// The most that a rule which may lead to this backend has the pool do.
fn pooling(config: &Config, index: usize) -> Pooling {
    // A link on which a PROXY header was sent is one client's for good.
    if config.backends.get(index).is_none_or(|backend| backend.proxy_protocol.is_some()) {
        return Pooling::Off;
    }
    let leads_there = |target: &Target| match target {
        Target::Backend(at) => *at == index,
        Target::Group(group) => config
            .groups
            .get(*group)
            .is_some_and(|group| group.members.iter().chain(&group.standby).any(|at| *at == index)),
        Target::Lookup(_) => true,
        Target::Reject(_) => false,
    };
    let rules = config.routes.iter().filter(|route| leads_there(&route.target));
    rules.map(|route| route.pool).max().unwrap_or(Pooling::Off)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_the_pool_does_for_a_backend_is_what_the_rules_say_that_lead_there() {
        let backend =
            |name: &str| format!("[[backend]]\nname = \"{name}\"\naddress = \"127.0.0.1:143\"\ntls = \"none\"\n");
        let text = format!(
            "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n{}{}{}{}proxy_protocol = \"v1\"\n\
             [[group]]\nname = \"g\"\nmembers = [\"green\"]\nstandby = [\"red\"]\nchoose = \"hash\"\n\
             [[lookup]]\nname = \"users\"\ntype = \"file\"\npath = \"users.map\"\n\
             [[route]]\nlistener = \"a\"\nbackend = \"blue\"\n[[route]]\nlistener = \"a\"\ngroup = \"g\"\npool = \"reuse\"\n",
            backend("blue"),
            backend("green"),
            backend("red"),
            backend("grey"),
        );
        let modes = |text: &str| {
            let config = Config::parse(text, Path::new("x.toml")).unwrap_or_else(|findings| panic!("{findings}"));
            (0..4).map(|index| pooling(&config, index)).collect::<Vec<_>>()
        };
        let last = |pool: &str| modes(&format!("{text}[[route]]\nlookup = \"users\"\npool = \"{pool}\"\n"));
        assert_eq!(last("off"), [Pooling::Off, Pooling::Reuse, Pooling::Reuse, Pooling::Off]);
        assert_eq!(
            last("warm"),
            [Pooling::Warm, Pooling::Reuse, Pooling::Reuse, Pooling::Off],
            "a lookup leads anywhere"
        );
    }
}
