//! Every metric, its labels and its guards. Rooms hold guards and call verbs; none of them sees a counter. There is no
//! global registry: a [`Metrics`] belongs to one server, so that two servers in one process do not meet.
//!
//! Labels come from the configuration or from closed lists, never from what a peer sends. Every series exists from the
//! start, so that a rate over it is right from its first event on, and goes when the configuration does not name it any
//! more and its last session has ended (`named.rs`). Each thing has a page of its own here; `readings.rs` reads them for people.
//! What is not counted but looked at (weights, kept answers ...) is told by whoever is asked for a scrape, just before
//! [`Metrics::render`].

mod admin;
mod backend;
mod backends;
mod certificates;
mod counted;
mod errors;
mod families;
mod life;
mod limits;
mod listeners;
mod logins;
mod lookups;
mod named;
mod pool;
mod present;
mod quantile;
mod readings;
mod standing;

use std::collections::HashMap;
use std::fmt;

use prometheus::{Encoder, IntCounter, IntGauge, Opts, Registry, TextEncoder};

use crate::imap::{Heard, Mechanism};
use crate::outcome::{Ending, Limit};

pub use admin::AdminMetrics;
pub use backend::{BackendMetrics, BackendReading};
use backends::Backends;
pub use backends::ProbeKind;
use certificates::Certificates;
pub use counted::Counted;
pub use errors::{BackendError, BackendLogin};
use families::Families;
pub use life::Life;
use limits::Limits;
pub use limits::Remembered;
pub use listeners::ListenerMetrics;
use listeners::Listeners;
use logins::Logins;
pub use lookups::LookupMetrics;
use lookups::Lookups;
pub use pool::{Checkout, Eviction};
pub use present::{Present, Timed};
pub use quantile::quantile;
pub use readings::{Counts, ListenerReadings, Readings};
pub use standing::{BackendStanding, GroupStanding};

/// All metrics of one server.
pub struct Metrics {
    registry: Registry,
    listeners: Listeners,
    logins: Logins,
    limits: Limits,
    lookups: Lookups,
    backends: Backends,
    certificates: Certificates,
    life: Life,
    admin: AdminMetrics,
    internal_errors: IntCounter,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// A fresh set. Fails only if two metrics here had one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        registry.register(Box::new(build_info()?))?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let families = Families(&registry);
        Ok(Self {
            listeners: Listeners::new(&families)?,
            logins: Logins::new(&families)?,
            limits: Limits::new(&families)?,
            lookups: Lookups::new(&families)?,
            backends: Backends::new(&families)?,
            certificates: Certificates::new(&families)?,
            life: Life::new(&families)?,
            admin: AdminMetrics::new(&families)?,
            internal_errors: families
                .counter("mailmux_internal_errors_total", "Faults of mailmux itself; each is a bug.")?,
            registry,
        })
    }

    /// The metrics of a listener, present from now on.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        self.listeners.of(name)
    }

    /// The metrics of a backend, present from now on.
    pub fn backend(&self, name: &str) -> BackendMetrics {
        self.backends.of(name)
    }

    /// The metrics of a source of routes, present from now on.
    pub fn lookup(&self, name: &str) -> LookupMetrics {
        self.lookups.of(name)
    }

    /// An attempt to log in has ended; `outcome` is one of [`crate::outcome::LOGIN_OUTCOMES`].
    pub fn login(&self, mechanism: Mechanism, outcome: &'static str) {
        self.logins.attempts.with_label_values(&[mechanism.as_str(), outcome]).inc();
    }

    /// What a client has said before its login, or before it went.
    pub fn heard(&self, heard: &Heard) {
        self.logins.heard(heard);
    }

    /// A limit refused something.
    pub fn limited(&self, limit: Limit) {
        self.limits.limited.with_label_values(&[limit.as_str()]).inc();
    }

    /// A network or a user has failed so often that it is held back from now on.
    pub fn held(&self, limit: Limit) {
        self.limits.held(limit);
    }

    /// A session has ended.
    pub fn session_closed(&self, ending: Ending) {
        self.logins.sessions_closed.with_label_values(&[ending.side().as_str(), ending.label()]).inc();
        if ending == Ending::Internal {
            self.internal_errors.inc();
        }
    }

    /// A trusted balancer's PROXY header: `v1`, `v2` or `bad`.
    pub fn proxy_header(&self, outcome: &'static str) {
        self.listeners.proxy_headers.with_label_values(&[outcome]).inc();
    }

    /// `accept` failed.
    pub fn accept_error(&self) {
        self.listeners.accept_errors.inc();
    }

    /// Those of the process's own life.
    pub fn life(&self) -> &Life {
        &self.life
    }

    /// These certificates are in use, until then (seconds since 1970), and no others.
    pub fn certificates<'c>(&self, expiries: impl Iterator<Item = (&'c str, i64)>) {
        self.certificates.only(expiries);
    }

    /// Those of the admin port.
    pub fn admin(&self) -> &AdminMetrics {
        &self.admin
    }

    /// The configuration names these backends, and no others.
    pub fn only_backends<'b>(&self, names: impl Iterator<Item = &'b str>) {
        self.backends.only(names);
    }

    /// The same for listeners.
    pub fn only_listeners<'l>(&self, names: impl Iterator<Item = &'l str>) {
        self.listeners.only(names);
    }

    /// The same for sources of routes.
    pub fn only_lookups<'l>(&self, names: impl Iterator<Item = &'l str>) {
        self.lookups.only(names);
    }

    /// How a backend of the configuration is.
    pub fn backend_stands(&self, name: &str, standing: BackendStanding) {
        self.backends.standings.backend(name, standing);
    }

    /// How all groups are.
    pub fn groups_stand<'g>(&self, groups: impl Iterator<Item = (&'g str, GroupStanding)>) {
        self.backends.standings.groups(groups);
    }

    /// How many answers of a source are kept; `None`: none ever are.
    pub fn lookup_keeps(&self, name: &str, entries: Option<usize>) {
        self.lookups.kept(name, entries);
    }

    /// What a limit remembers; `None`: it is off.
    pub fn limit_remembers(&self, limit: Limit, remembered: Option<Remembered>) {
        self.limits.seen(limit, remembered);
    }

    /// How many client connections there may be; 0: any number.
    pub fn sessions_limit(&self, most: usize) {
        self.limits.sessions_limit(most);
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        self.listeners.forget();
        self.lookups.forget();
        self.backends.forget();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// What is running; the revision where whoever built it has said so.
fn build_info() -> Result<IntGauge, prometheus::Error> {
    let mut labels = HashMap::from([("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
    labels.extend(option_env!("MAILMUX_REVISION").map(|revision| ("revision".to_owned(), revision.to_owned())));
    let info = IntGauge::with_opts(Opts::new("mailmux_build_info", "What is running; always 1.").const_labels(labels))?;
    info.set(1);
    Ok(info)
}
