//! What the log and the metrics keep of a session: one line when it ends, once, whatever happened, and one line for each
//! login that was refused. Nothing a peer sent enters a line unescaped, so nobody can forge a line or a field of one.
//! Not here: where the log goes and how it looks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Level, debug, event, field, info};

use crate::backend::{Backend, Route};
use crate::imap::{Login, Mechanism, UserName, escape};
use crate::metrics::Metrics;
use crate::outcome::{Ending, Refusal};

/// One session's record. It is filled in as things become known and written when it is dropped: with what
/// [`Record::close`] was told, or, when a panic or a cancellation kept that from happening, as [`Ending::Internal`].
#[derive(Debug)]
pub struct Record {
    /// The session's id.
    pub session: Arc<str>,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The client; whoever connected until a PROXY header or a trusted ID says otherwise.
    client: SocketAddr,
    /// Who connected, if that is not the client.
    balancer: Option<Box<SocketAddr>>,
    /// TLS version and cipher.
    pub tls: Option<(&'static str, &'static str)>,
    /// As whom the client logged in.
    pub user: Option<UserName>,
    /// How it logged in.
    pub mechanism: Option<Mechanism>,
    /// Where it was sent.
    pub backend: Option<Arc<Backend>>,
    /// How long the login took that succeeded; none takes weeks.
    login_ms: Option<u32>,
    /// Bytes relayed to the backend.
    pub to_backend: u64,
    /// Bytes relayed to the client.
    pub to_client: u64,
    started: Instant,
    ending: Ending,
    metrics: Arc<Metrics>,
}

impl Record {
    /// A session begins.
    pub fn new(metrics: Arc<Metrics>, session: Arc<str>, listener: Arc<str>, peer: SocketAddr) -> Self {
        Self {
            session,
            listener,
            client: peer,
            balancer: None,
            tls: None,
            user: None,
            mechanism: None,
            backend: None,
            login_ms: None,
            to_backend: 0,
            to_client: 0,
            started: Instant::now(),
            ending: Ending::Internal,
            metrics,
        }
    }

    /// Whoever connected says that the client is this one.
    pub fn speaks_for(&mut self, client: SocketAddr) {
        if client != self.client {
            self.balancer.get_or_insert_with(|| Box::new(self.client));
            self.client = client;
        }
    }

    /// The session has ended.
    pub fn close(mut self, ending: Ending) {
        self.ending = ending;
    }

    /// A login succeeded; `took` counts from the client's command to the backend's OK.
    pub fn logged_in(&mut self, login: &Login, route: &Route, took: Duration) {
        self.metrics.login(login.mechanism, "ok");
        route.backend.metrics.logged_in(took);
        self.user = Some(login.user.clone());
        self.mechanism = Some(login.mechanism);
        self.backend = Some(Arc::clone(&route.backend));
        self.login_ms = u32::try_from(took.as_millis()).ok();
    }

    /// A login was refused. The line begins with what programs that ban addresses look for; `detail` is for operators
    /// alone.
    pub fn refused(&self, login: &Login, refusal: &Refusal, detail: Option<&str>) {
        self.metrics.login(login.mechanism, refusal.label());
        let limit = match refusal {
            Refusal::Limited(limit) => Some(limit.as_str()),
            _ => None,
        };
        // Whom a rule turns away has done nothing wrong, which the outcome does not tell.
        let rule = matches!(refusal, Refusal::Rejected(_)).then_some("reject");
        info!(
            client = %self.client.ip(),
            reason = %refusal.label(),
            rule = rule.map(field::display),
            limit = limit.map(field::display),
            mechanism = %login.mechanism.as_str(),
            listener = %self.listener,
            session = %self.session,
            user = login.user.to_string(),
            detail = detail.map(|detail| escape(detail.as_bytes()).to_string()),
            "login refused"
        );
    }

    /// The client broke a login off, or went away in the middle of it.
    pub fn aborted(&self, login: &Login) {
        self.metrics.login(login.mechanism, "aborted");
        debug!(
            client = %self.client.ip(),
            mechanism = %login.mechanism.as_str(),
            listener = %self.listener,
            session = %self.session,
            user = login.user.to_string(),
            "login aborted"
        );
    }

    /// Trusted words are shown bare (as `Display`), all others as strings, which the text format quotes.
    fn write(&self, lasted: Duration) {
        // The level is part of what tracing compiles in, so the same line stands there once for each.
        macro_rules! line {
            ($level:expr) => {
                event!(
                    $level,
                    session = %self.session,
                    listener = %self.listener,
                    peer = %self.balancer.as_deref().unwrap_or(&self.client),
                    client = %self.client,
                    tls = self.tls.map(|(version, _)| field::display(version)),
                    cipher = self.tls.map(|(_, cipher)| field::display(cipher)),
                    user = self.user.as_ref().map(ToString::to_string),
                    mechanism = self.mechanism.map(|mechanism| field::display(mechanism.as_str())),
                    backend = self.backend.as_ref().map(|backend| field::display(&backend.config.name)),
                    login_ms = self.login_ms,
                    duration_ms = milliseconds(lasted),
                    to_backend = self.to_backend,
                    to_client = self.to_client,
                    side = %self.ending.side().as_str(),
                    reason = %self.ending.label(),
                    "session closed"
                )
            };
        }
        match self.ending.level() {
            Level::ERROR => line!(Level::ERROR),
            Level::WARN => line!(Level::WARN),
            Level::INFO => line!(Level::INFO),
            _ => line!(Level::DEBUG),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let lasted = self.started.elapsed();
        self.metrics.session_closed(self.ending);
        if let (Some(backend), Some(_)) = (&self.backend, &self.user) {
            backend.metrics.session_ended(lasted);
        }
        self.write(lasted);
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
