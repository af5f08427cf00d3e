//! Where a user goes: rules in order, and the lookups they ask. `rule.rs` says whether a rule applies and what name the
//! user gets, `lookup/` holds the sources. Not here: sockets to backends, replies to clients.
//!
//! The user who is routed is the one whose mail is to be opened: SASL's authorization identity where the client gave
//! one, else the name it logs in with. The mailbox is what lives on a backend, not whoever holds the password.
//! [`Route::user`] stands for the same user at the backend; whose password it is, the link takes from the login.

mod lookup;
mod rule;

use std::net::IpAddr;
use std::sync::Arc;

use self::lookup::Lookup;
use self::rule::Rule;
use crate::backend::{Backend, LoginAs, Route};
use crate::config::{self, Config, Finding, Target};
use crate::imap::{Login, UserName};
use crate::metrics::Metrics;
use crate::secret_file;

pub use self::lookup::{Answer, Map, MapError};

/// Who asks for a route, and from where.
#[derive(Debug)]
pub struct Asker<'a> {
    /// The attempt to log in.
    pub login: &'a Login,
    /// The listener's name.
    pub listener: &'a str,
    /// The name the client asked for by SNI.
    pub server_name: Option<&'a str>,
    /// The client's address.
    pub client: IpAddr,
}

/// Why there is no route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoute {
    /// No rule knows the user.
    Unmatched,
    /// A rule says `reject`, with this text.
    Rejected(String),
    /// A source did not answer; why, for the log.
    LookupFailed(String),
}

/// All rules, and what they lead to.
pub struct Router {
    rules: Vec<Rule>,
    lookups: Vec<Lookup>,
    backends: Vec<Arc<Backend>>,
}

impl Asker<'_> {
    /// The user whose mail is to be opened.
    pub fn user(&self) -> &UserName {
        self.login.authzid.as_ref().unwrap_or(&self.login.user)
    }
}

impl Router {
    /// Loads what the rules need: maps, master passwords. `backends` are those of the configuration, in its order.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn new(config: &Config, backends: Vec<Arc<Backend>>, metrics: &Metrics) -> Result<Self, Vec<Finding>> {
        let mut findings = Vec::new();
        let mut lookups = Vec::new();
        for lookup in &config.lookups {
            match Lookup::load(lookup, &config.backends, metrics) {
                Ok(lookup) => lookups.push(lookup),
                Err(more) => findings.extend(more),
            }
        }
        let mut rules = Vec::new();
        for route in &config.routes {
            match login_as(&route.login) {
                Ok(login) => rules.push(Rule::new(route, login)),
                Err(finding) => findings.push(finding),
            }
        }
        if findings.is_empty() { Ok(Self { rules, lookups, backends }) } else { Err(findings) }
    }

    /// The first rule that applies and yields a target wins. Nothing is kept between awaits: the future may be dropped.
    ///
    /// # Errors
    /// [`NoRoute`].
    pub async fn route(&self, asker: &Asker<'_>) -> Result<Route, NoRoute> {
        for rule in self.rules.iter().filter(|rule| rule.applies(asker)) {
            let (backend, user) = match &rule.target {
                Target::Reject(text) => return Err(NoRoute::Rejected(text.clone())),
                Target::Backend(index) => (*index, None),
                Target::Lookup(index) => {
                    let Some(lookup) = self.lookups.get(*index) else { continue };
                    match lookup.ask(asker.user()).await.map_err(NoRoute::LookupFailed)? {
                        Some(answer) => (answer.backend, answer.user),
                        None => continue,
                    }
                }
            };
            let Some(backend) = self.backends.get(backend) else { continue };
            // What a lookup says of one user counts for more than what a rule says of many. A rewrite that leaves nothing
            // of the name (`{domain}` of one without) ends the search all the same: the rule was meant for this user,
            // and the next one's backend is not to see the password because of that.
            let user = user.or_else(|| rule.renamed(asker.user())).ok_or(NoRoute::Unmatched)?;
            return Ok(Route { backend: Arc::clone(backend), user, login: rule.login.clone() });
        }
        Err(NoRoute::Unmatched)
    }

    /// The backend with this address, for referrals: those that the configuration does not name are not followed.
    pub fn backend_at(&self, host: &str, port: u16) -> Option<&Arc<Backend>> {
        self.backends.iter().find(|backend| backend.config.port == port && is_same_host(&backend.config.host, host))
    }
}

/// Names of hosts are the same in any case and with or without the root's dot, addresses however they are written.
fn is_same_host(one: &str, other: &str) -> bool {
    let plain = |host: &str| host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    let (one, other) = (plain(one), plain(other));
    match (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => one.to_canonical() == other.to_canonical(),
        _ => one == other,
    }
}

fn login_as(login: &config::LoginAs) -> Result<LoginAs, Finding> {
    match login {
        config::LoginAs::Passthrough => Ok(LoginAs::Client),
        config::LoginAs::Master { user, password_file } => {
            let finding = |message| Finding { site: Some(password_file.site.clone()), message };
            let password = secret_file::read(&password_file.value).map_err(finding)?;
            let user = UserName::new(user.as_bytes()).map_err(|error| finding(error.to_string()))?;
            Ok(LoginAs::Master { user, password: Arc::new(password) })
        }
    }
}

#[cfg(test)]
mod tests;
