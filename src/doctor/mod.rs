//! `mailmux doctor`: the way of a login walked, from the listeners to the backends and into a mailbox, and what is wrong with it
//! told in plain words, with what to do. A page for each stretch: `machine.rs` (files, clock), `running.rs` (the mailmux that
//! runs; `ask.rs` asks it), `user.rs` (routing, limits), `way.rs` (to a server and its capabilities; `certificate.rs` judges TLS),
//! `mailbox.rs` (login and behind), `verdict.rs` (who refuses). `words.rs` and `normal.rs` know what failures and times mean,
//! `report.rs` holds what was found. Here is the order, and who is walked to. Not here: dialling and IMAP, which is
//! `link/examine.rs` and so the same as for sessions.

mod ask;
mod certificate;
mod machine;
mod mailbox;
mod normal;
mod report;
mod running;
mod user;
mod verdict;
mod way;
mod words;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::backend::{Backend, LoginAs, Route};
use crate::config::{
    self, At, BackendTls, ClientAuth, Config, Findings, Listener, ListenerTls, ProxyVersion, Roots, Site, TlsClient,
};
use crate::imap::{Secret, UserName};
use crate::link::Names;
use crate::metrics::Metrics;
use crate::server::Plan;
use crate::tls::{Certificates, Examiner};

use mailbox::{Account, Outcome, forms};
pub use report::Report;
use report::Section;
use running::Running;
use verdict::Logins;
use way::{Goal, Way};

/// So many servers are walked to at a time.
const SIDE_BY_SIDE: usize = 16;
/// Through mailmux a login may take this much longer than at the backend.
const BEYOND: Duration = Duration::from_secs(5);

/// How to look, and at what.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The bound on each step.
    pub timeout: Duration,
    /// How long IDLE is held.
    pub idle: Duration,
    /// This backend alone.
    pub backend: Option<String>,
    /// This listener alone.
    pub listener: Option<String>,
    /// The name that mail programs use for mailmux; `None`: one that the default certificate is for.
    pub server_name: Option<String>,
    /// Whom mail programs trust; `None`: the machine's own store.
    pub ca: Option<PathBuf>,
}

/// Who has troubles.
#[derive(Debug)]
pub struct Patient {
    /// The user, as typed into a mail program.
    pub user: UserName,
    /// The password; without one nobody logs in.
    pub password: Option<Secret>,
}

/// Looks at everything, or at what one user's login touches.
///
/// # Errors
/// A listener or backend was named that there is none of.
pub async fn examine(config: Config, settings: Settings, patient: Option<Patient>) -> Result<Report, String> {
    named(settings.listener.as_ref(), config.listeners.iter().map(|listener| &listener.name), "listener")?;
    named(settings.backend.as_ref(), config.backends.iter().map(|backend| &backend.name), "backend")?;
    let mut report = Report::default();
    let (mut section, plan) = machine::look(&config);
    let metrics = Metrics::new().map_err(|error| error.to_string())?;
    let names = machine::names(&mut section, &config);
    report.add(section);
    let (running, section) = Running::look(&config, settings.timeout).await;
    report.add(section);
    let own: Arc<[SocketAddr]> = config.listeners.iter().map(|listener| listener.address.value).collect();
    let doctor = Arc::new(Doctor { config, settings, running, names, own });

    let door = doctor.door();
    let through = doctor.listeners(&mut report, plan.as_ref(), &metrics, patient.as_ref(), &door).await;
    let Some(patient) = patient else {
        let goals = doctor.backends(&metrics, |_| true);
        doctor.visit(&mut report, goals).await;
        return Ok(report);
    };
    let mut section = Section::new("user", patient.user.to_string(), format!("coming to listener {door}"));
    let route = if let Some(plan) = &plan {
        user::route(&mut section, plan.router(), &patient, &door).await
    } else {
        section.skip("route", "the configuration cannot be used");
        None
    };
    user::known(&mut section, &doctor.running, &doctor.config, &patient.user, &door).await;
    report.add(section);

    let route = doctor.destination(&metrics, &patient, route);
    let backend = route.as_ref().map(|route| (route.backend.config.name.clone(), route.user.to_string()));
    let goals = doctor.destinations(&metrics, &patient, route);
    let direct = doctor.visit(&mut report, goals).await;
    if patient.password.is_some() {
        let user = patient.user.to_string();
        let backend = backend.as_ref().map(|(backend, name)| (backend.as_str(), name.clone()));
        let logins = Logins { user: &user, through: &through, direct: &direct, listener: &door, backend };
        report.add(logins.compare());
    } else {
        let mut section = Section::new("login", patient.user.to_string(), "");
        section.skip("compared", "without --password-file nobody logs in");
        report.add(section);
    }
    Ok(report)
}

/// What there is to tell where there is no configuration.
pub fn without_configuration(findings: &Findings) -> Report {
    let mut report = Report::default();
    report.add(machine::unreadable(findings.shown().into_iter()));
    report
}

fn named<'a>(wanted: Option<&String>, mut all: impl Iterator<Item = &'a String>, what: &str) -> Result<(), String> {
    match wanted {
        Some(name) if !all.any(|one| one == name) => Err(format!("no {what} has the name {name:?}")),
        _ => Ok(()),
    }
}

/// What all walks share.
struct Doctor {
    config: Config,
    settings: Settings,
    running: Running,
    names: Names,
    own: Arc<[SocketAddr]>,
}

/// A walk, with a login at its end or not.
type Visit = (Goal, Option<Account>);

impl Doctor {
    /// The listener that a login goes through.
    fn door(&self) -> String {
        let listeners = &self.config.listeners;
        let safe = listeners.iter().find(|listener| listener.tls != ListenerTls::None);
        let first = safe.or_else(|| listeners.first()).map(|listener| listener.name.clone());
        self.settings.listener.clone().or(first).unwrap_or_default()
    }

    /// All listeners, one after the other; a login through one of them.
    async fn listeners(
        self: &Arc<Self>,
        report: &mut Report,
        plan: Option<&Plan>,
        metrics: &Metrics,
        patient: Option<&Patient>,
        door: &str,
    ) -> Outcome {
        let mut outcome = Outcome::NotTried;
        let wanted = |listener: &&Listener| self.settings.listener.as_ref().is_none_or(|name| *name == listener.name);
        let host = plan.and_then(Plan::certificates).and_then(Certificates::default_host);
        for listener in self.config.listeners.iter().filter(wanted) {
            if listener.address.value.port() == 0 {
                let mut section = Section::new("listener", listener.name.clone(), "");
                section.skip("connect", "its port is chosen by the kernel");
                report.add(section);
                continue;
            }
            let goal = self.listener(listener, host.as_deref(), metrics);
            let account = patient.filter(|_| listener.name == door).and_then(|patient| {
                let route = Route::new(Arc::clone(&goal.backend), patient.user.clone(), LoginAs::Client);
                self.account(patient, route, self.config.timeouts.backend_login + BEYOND)
            });
            let (section, came) = self.walk(&goal, account.as_ref()).await;
            report.add(section);
            if listener.name == door {
                outcome = came;
            }
        }
        outcome
    }

    /// A listener as a mail program on this machine meets it.
    fn listener(&self, listener: &Listener, host: Option<&str>, metrics: &Metrics) -> Goal {
        let address = listener.address.value;
        let ip = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
        let name = self.settings.server_name.as_deref().or(host).unwrap_or("localhost").to_owned();
        let tls = match listener.tls {
            ListenerTls::None => BackendTls::None,
            ListenerTls::StartTls => BackendTls::StartTls(self.client(&name)),
            ListenerTls::Implicit => BackendTls::Implicit(self.client(&name)),
        };
        let is_balancer = listener.proxy_protocol_from.iter().any(|network| network.contains(&ip));
        let config = config::Backend {
            name: listener.name.clone(),
            host: ip.to_string(),
            port: address.port(),
            tls,
            proxy_protocol: is_balancer.then_some(ProxyVersion::V2),
            forward_id: false,
            ..config::Backend::usual()
        };
        let backend = Arc::new(Backend::new(config, None, metrics.backend(&listener.name)));
        let demands_certificate =
            listener.tls != ListenerTls::None && matches!(self.config.tls.client_auth, ClientAuth::Required { .. });
        Goal { backend, listener: Some(listener.clone()), own: Arc::clone(&self.own), demands_certificate }
    }

    /// What a mail program trusts.
    fn client(&self, name: &str) -> TlsClient {
        let with = |roots| TlsClient { name: name.to_owned(), roots, client: None, verify: true };
        if let Some(ca) = &self.settings.ca {
            let site = Site { key: "--ca".to_owned(), span: 0..0 };
            return with(Roots::File(At { value: ca.clone(), site }));
        }
        // A machine without a store of its own trusts whom mailmux trusts.
        let system = with(Roots::System);
        if Examiner::new(&system).is_ok() { system } else { with(Roots::WebPki) }
    }

    /// Those of the configuration.
    fn backends(&self, metrics: &Metrics, wanted: impl Fn(&config::Backend) -> bool) -> Vec<Visit> {
        let named =
            |backend: &&config::Backend| self.settings.backend.as_ref().is_none_or(|name| *name == backend.name);
        let backends = self.config.backends.iter().filter(named).filter(|backend| wanted(backend));
        let goal = |backend: &config::Backend| {
            let backend = Backend::new(backend.clone(), None, metrics.backend(&backend.name));
            (self.goal(Arc::new(backend)), None)
        };
        backends.map(goal).collect()
    }

    fn goal(&self, backend: Arc<Backend>) -> Goal {
        Goal { backend, listener: None, own: Arc::clone(&self.own), demands_certificate: false }
    }

    /// Where the user's login goes: what routing says, or as it is to the backend that was named.
    fn destination(&self, metrics: &Metrics, patient: &Patient, route: Option<Route>) -> Option<Route> {
        let Some(name) = &self.settings.backend else { return route };
        let (goal, _) = self.backends(metrics, |_| true).pop()?;
        let found = route.filter(|route| route.backend.config.name == *name);
        found.or_else(|| Some(Route::new(goal.backend, patient.user.clone(), LoginAs::Client)))
    }

    /// That one, with a login, and the others of its group, which may serve the user too.
    fn destinations(&self, metrics: &Metrics, patient: &Patient, route: Option<Route>) -> Vec<Visit> {
        let Some(route) = route else { return Vec::new() };
        let chosen = route.backend.config.name.clone();
        let group = route.group.as_ref().map(|group| group.name.clone());
        let group = self.config.groups.iter().find(|one| Some(&one.name) == group.as_ref());
        let members: Vec<_> = group.into_iter().flat_map(|group| group.members.iter().chain(&group.standby)).collect();
        let members: Vec<_> = members.into_iter().filter_map(|at| self.config.backends.get(*at)).collect();
        let goal = self.goal(Arc::clone(&route.backend));
        let patience = route.budget.unwrap_or(self.config.timeouts.backend_login);
        let mut visits = vec![(goal, self.account(patient, route, patience))];
        visits.extend(self.backends(metrics, |backend| {
            backend.name != chosen && members.iter().any(|member| member.name == backend.name)
        }));
        visits
    }

    fn account(&self, patient: &Patient, route: Route, patience: Duration) -> Option<Account> {
        let password = patient.password.as_ref()?;
        let mut secrets: Vec<_> = forms(patient.user.as_bytes(), password.reveal()).into();
        secrets.extend(forms(route.user.as_bytes(), password.reveal()));
        match &route.login {
            LoginAs::Client => {}
            LoginAs::Given { password, .. } => secrets.extend(forms(route.user.as_bytes(), password.reveal())),
            LoginAs::Master { user, password, .. } => secrets.extend(forms(user.as_bytes(), password.reveal())),
        }
        let patience = patience.max(self.settings.timeout);
        Some(Account { route, login: user::login(patient), secrets, patience })
    }

    /// Walks to all of them side by side; what came of the first one's login.
    async fn visit(self: &Arc<Self>, report: &mut Report, visits: Vec<Visit>) -> Outcome {
        let places = Arc::new(Semaphore::new(SIDE_BY_SIDE));
        let mut walks = JoinSet::new();
        for (at, (goal, account)) in visits.into_iter().enumerate() {
            let (doctor, places) = (Arc::clone(self), Arc::clone(&places));
            walks.spawn(async move {
                let _place = places.acquire().await;
                let (section, outcome) = doctor.walk(&goal, account.as_ref()).await;
                (at, section, outcome)
            });
        }
        let mut all = walks.join_all().await;
        all.sort_by_key(|(at, ..)| *at);
        let mut first = Outcome::NotTried;
        for (at, section, outcome) in all {
            report.add(section);
            if at == 0 {
                first = outcome;
            }
        }
        first
    }

    async fn walk(&self, goal: &Goal, account: Option<&Account>) -> (Section, Outcome) {
        let config = &goal.backend.config;
        let tls = match config.tls {
            BackendTls::None => "in clear",
            BackendTls::StartTls(_) => "STARTTLS",
            BackendTls::Implicit(_) => "implicit TLS",
        };
        let kind = if goal.listener.is_some() { "listener" } else { "backend" };
        let host = if config.host.contains(':') { format!("[{}]", config.host) } else { config.host.clone() };
        let mut section = Section::new(kind, config.name.clone(), format!("{host}:{}, {tls}", config.port));
        if goal.listener.is_none() {
            self.running.judge(&mut section, &config.name).await;
        }
        let mut way = Way { goal, settings: &self.settings, section };
        let outcome = match (way.walk(&self.names).await, account) {
            (None, None) => Outcome::NotTried,
            (None, Some(_)) => Outcome::NotReached,
            (Some(link), Some(account)) => way.enter(link, account).await,
            (Some(link), None) => {
                let (_, took) = way.step(link.log_out()).await;
                way.section.took("logout", "left", took);
                Outcome::NotTried
            }
        };
        (way.section, outcome)
    }
}
