//! Where a user goes: rules in order, and the lookups they ask. `rule.rs` says whether a rule applies and what name the
//! user gets, `lookup/` holds the sources, `hosts.rs` the hosts that only they name, `password.rs` checks hashes. Not here:
//! sockets to backends, replies to clients.
//!
//! The user who is routed is the one whose mail is to be opened: SASL's authorization identity where the client gave
//! one, else the name it logs in with. The mailbox is what lives on a backend, not whoever holds the password.
//! [`Route::user`] stands for the same user at the backend; whose password it is, the link takes from the login.

mod hosts;
mod kept;
mod lookup;
mod password;
mod rule;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;

use self::hosts::Hosts;
use self::lookup::{Lookup, Verdict};
use self::rule::Rule;
use crate::backend::{Backend, Group, LoginAs, Proof, Route};
use crate::config::{self, Config, Finding, Target};
use crate::imap::{Credentials, Login, UserName};
use crate::metrics::Metrics;
use crate::network::is_in;
use crate::origin::Origin;
use crate::secret_file;
use crate::tls::Facts;

pub use self::lookup::{Answer, Host, LookupState, Map, MapError, Place, Places};

/// Who asks for a route, and from where.
#[derive(Debug)]
pub struct Asker<'a> {
    /// The attempt to log in.
    pub login: &'a Login,
    /// The listener's name.
    pub listener: &'a str,
    /// Where the client comes from.
    pub origin: &'a Origin,
    /// Its TLS connection, if that ends here.
    pub tls: Option<&'a Facts>,
    /// Which attempt on this connection it is, from 1.
    pub attempt: u32,
}

/// Why there is no route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoute {
    /// No rule knows the user.
    Unmatched,
    /// A rule says `reject`, or a source that the user is not to be let in; with this text.
    Rejected(String),
    /// A source says that the password is wrong; what it wants the client to be told, and how long that should take.
    WrongPassword(Option<String>, Duration),
    /// Only who has proven to mailmux who it is can go on, and this way to log in proves nothing to it.
    Unproven(&'static str),
    /// A source did not answer; why, for the log.
    LookupFailed(String),
    /// All of a group are down.
    GroupDown(String),
}

/// All rules, and what they lead to.
pub struct Router {
    rules: Vec<Rule>,
    lookups: Vec<Arc<Lookup>>,
    backends: Vec<Arc<Backend>>,
    groups: Vec<Arc<Group>>,
    hosts: Vec<Arc<Hosts>>,
    /// Users that were moved by hand, by normalised name; and where to, by name, since backends come and go. The same for all
    /// routers of a server.
    moved: Arc<DashMap<Arc<[u8]>, String>>,
}

impl Asker<'_> {
    /// The user whose mail is to be opened.
    pub fn user(&self) -> &UserName {
        self.login.authzid.as_ref().unwrap_or(&self.login.user)
    }
}

impl Router {
    /// Loads what the rules need: maps, master passwords. `backends` are those of the configuration, in its order. What has
    /// not changed since `before` is taken over from there, with what is known of it.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn new(
        config: &Config,
        backends: Vec<Arc<Backend>>,
        metrics: &Metrics,
        before: Option<&Self>,
    ) -> Result<Self, Vec<Finding>> {
        let mut findings = Vec::new();
        let names = (config.backends.iter(), config.groups.iter());
        let places =
            Places::new(names.0.map(|backend| backend.name.as_str()), names.1.map(|group| group.name.as_str()));
        let places = Arc::new(places);
        let mut lookups = Vec::new();
        for lookup in &config.lookups {
            match Lookup::load(lookup, config, &places, metrics, before.and_then(|before| before.lookup(&lookup.name)))
            {
                Ok(lookup) => lookups.push(lookup),
                Err(more) => findings.extend(more),
            }
        }
        let mut rules = Vec::new();
        for route in &config.routes {
            match master(&route.login) {
                Ok(master) => rules.push(Rule::new(route, master)),
                Err(finding) => findings.push(finding),
            }
        }
        if !findings.is_empty() {
            return Err(findings);
        }
        let pick = |indices: &[usize]| indices.iter().filter_map(|index| backends.get(*index)).cloned().collect();
        let group = |group: &config::Group| {
            Arc::new(Group::new(group.name.clone(), pick(&group.members), pick(&group.standby), group.choose))
        };
        let groups = config.groups.iter().map(group).collect();
        let hosts = config.lookups.iter().map(|lookup| {
            let before = before.and_then(|before| before.hosts_of(&lookup.name));
            Hosts::new(lookup, &backends, metrics, before)
        });
        let hosts = hosts.collect();
        let moved = before.map_or_else(Arc::default, |before| Arc::clone(&before.moved));
        Ok(Self { rules, lookups, backends, groups, hosts, moved })
    }

    /// This one has been taken out of use for `next`: what only it led to is given up.
    pub fn retire(&self, next: &Self) {
        for old in &self.backends {
            if !next.backends.iter().any(|kept| Arc::ptr_eq(kept, old)) {
                old.retire();
            }
        }
        for old in &self.hosts {
            if !next.hosts.iter().any(|kept| Arc::ptr_eq(kept, old)) {
                old.retire();
            }
        }
    }

    fn lookup(&self, name: &str) -> Option<&Arc<Lookup>> {
        self.lookups.iter().find(|lookup| lookup.name() == name)
    }

    fn hosts_of(&self, lookup: &str) -> Option<&Arc<Hosts>> {
        self.lookups.iter().zip(&self.hosts).find(|(known, _)| known.name() == lookup).map(|(_, hosts)| hosts)
    }

    /// The first rule that applies and yields a target wins. Nothing is kept between awaits: the future may be dropped.
    ///
    /// # Errors
    /// [`NoRoute`].
    pub async fn route(&self, asker: &Asker<'_>) -> Result<Route, NoRoute> {
        self.search(asker, Group::choose, &mut |_| ()).await
    }

    /// The same for who only wants to know, and each step of the way told in words. Lookups are asked, but no backend that is
    /// down takes it for a login that tries whether it is back.
    ///
    /// # Errors
    /// [`NoRoute`].
    pub async fn explained(&self, asker: &Asker<'_>, tell: &mut (dyn FnMut(String) + Send)) -> Result<Route, NoRoute> {
        self.search(asker, Group::would_choose, tell).await
    }

    async fn search(
        &self,
        asker: &Asker<'_>,
        choose: Choice,
        tell: &mut (dyn FnMut(String) + Send),
    ) -> Result<Route, NoRoute> {
        for (index, rule) in self.rules.iter().enumerate() {
            if !rule.applies(asker) {
                tell(format!("route[{index}]: does not apply"));
                continue;
            }
            let (answer, proven, lookup) = match &rule.target {
                Target::Reject(text) => {
                    tell(format!("route[{index}]: rejects"));
                    return Err(NoRoute::Rejected(text.clone()));
                }
                Target::Backend(backend) => (Answer::at(Place::Backend(*backend)), false, None),
                Target::Group(group) => (Answer::at(Place::Group(*group)), false, None),
                Target::Lookup(number) => {
                    let Some(lookup) = self.lookups.get(*number) else { continue };
                    match self.ask(lookup, asker).await? {
                        Verdict::Unknown => {
                            tell(format!("route[{index}]: lookup {} does not know the user", lookup.name()));
                            continue;
                        }
                        Verdict::Refused(text, wait) => {
                            tell(format!("route[{index}]: lookup {} refuses the user", lookup.name()));
                            return Err(NoRoute::WrongPassword(text, wait));
                        }
                        Verdict::Found(answer, proven) => {
                            tell(format!("route[{index}]: lookup {} knows the user", lookup.name()));
                            (answer, proven, Some(*number))
                        }
                    }
                }
            };
            if lookup.is_none() {
                tell(format!("route[{index}]: applies"));
            }
            let proof = self.proof(rule, asker, proven).await?;
            return self.follow(rule, asker, (answer, lookup), proof, choose, tell);
        }
        Err(NoRoute::Unmatched)
    }

    async fn ask(&self, lookup: &Lookup, asker: &Asker<'_>) -> Result<Verdict, NoRoute> {
        let failed = |why| NoRoute::LookupFailed(format!("{}: {why}", lookup.name()));
        if lookup.authenticates() {
            match &asker.login.credentials {
                Credentials::Password(_) if acts_for_another(asker) => {
                    return Err(NoRoute::Unproven("whose password is checked here acts for nobody else"));
                }
                Credentials::Password(_) | Credentials::Certificate => {}
                Credentials::Token(_) | Credentials::ScramFirst(_) => {
                    return Err(NoRoute::Unproven("only passwords and certificates can be checked here"));
                }
            }
        }
        // Boxed: sources are as large as their libraries make them, and every session would hold room for one.
        Box::pin(lookup.ask(asker)).await.map_err(failed)
    }

    /// Whether the client has proven to us who it is.
    async fn proof(&self, rule: &Rule, asker: &Asker<'_>, proven: bool) -> Result<Option<Proof>, NoRoute> {
        // A handshake proves a certificate's owner, and nobody else.
        if matches!(asker.login.credentials, Credentials::Certificate) {
            return Ok((!acts_for_another(asker)).then(Proof::seen));
        }
        let Some(lookup) = rule.authenticate.and_then(|index| self.lookups.get(index)) else {
            return Ok(proven.then(Proof::seen));
        };
        match self.ask(lookup, asker).await? {
            Verdict::Found(_, true) => Ok(Some(Proof::seen())),
            Verdict::Found(_, false) => Err(NoRoute::Unproven("only passwords and certificates can be checked here")),
            Verdict::Unknown => Err(NoRoute::WrongPassword(None, Duration::ZERO)),
            Verdict::Refused(text, wait) => Err(NoRoute::WrongPassword(text, wait)),
        }
    }

    /// From an answer to a route. `said` is the answer, and the lookup that gave it.
    fn follow(
        &self,
        rule: &Rule,
        asker: &Asker<'_>,
        (answer, lookup): (Answer, Option<usize>),
        proof: Option<Proof>,
        choose: Choice,
        tell: &mut (dyn FnMut(String) + Send),
    ) -> Result<Route, NoRoute> {
        if !answer.allow_nets.is_empty() && !is_in(asker.origin.client.ip(), &answer.allow_nets) {
            tell("the client is in none of allow_nets".to_owned());
            return Err(NoRoute::Unmatched);
        }
        if let Some(text) = answer.refused {
            tell(format!("nologin: {text}"));
            return Err(NoRoute::Rejected(text));
        }
        // What a lookup says of one user counts for more than what a rule says of many. A rewrite that leaves nothing of
        // the name (`{domain}` of one without) ends the search all the same: the rule was meant for this user, and the next
        // one's backend is not to see the password because of that.
        let user = answer.user.or_else(|| rule.renamed(asker.user())).ok_or(NoRoute::Unmatched)?;
        let moved = self.moved.get(&asker.user().normalised()).and_then(|name| self.backend(&name).cloned());
        let (backend, group) = match (moved, answer.place) {
            // Before a group is asked, which may have nobody left.
            (Some(moved), _) => {
                tell(format!("was moved by hand to {}", moved.config.name));
                (Some(moved), None)
            }
            (None, None) => return Err(NoRoute::LookupFailed("the answer names no backend".to_owned())),
            (None, Some(Place::Backend(index))) => (self.backends.get(index).cloned(), None),
            (None, Some(Place::Group(index))) => {
                let group = self.groups.get(index).ok_or(NoRoute::Unmatched)?;
                for backend in group.ranked(&asker.user().normalised()) {
                    tell(format!("group {}: {}", group.name, backend.condition()));
                }
                let chosen = choose(group, &asker.user().normalised()).cloned();
                (Some(chosen.ok_or_else(|| NoRoute::GroupDown(group.name.clone()))?), Some(Arc::clone(group)))
            }
            (None, Some(Place::Host(host))) => {
                let hosts = lookup.and_then(|index| self.hosts.get(index)).ok_or(NoRoute::Unmatched)?;
                (Some(hosts.backend(&host).map_err(NoRoute::LookupFailed)?), None)
            }
        };
        let given = answer.password.map(|password| match answer.master {
            Some(user) => rule::Given::Master(user, password),
            None => rule::Given::Own(password),
        });
        let login = match (given, &rule.master, proof) {
            (None, None, _) => LoginAs::Client,
            (Some(rule::Given::Own(password)), _, Some(proof)) => LoginAs::Given { password, proof },
            (Some(rule::Given::Master(user, password)), _, Some(proof)) => {
                LoginAs::Master { user, password, form: config::MasterForm::Authzid, proof }
            }
            (None, Some(master), Some(proof)) => LoginAs::Master {
                user: master.user.clone(),
                password: Arc::clone(&master.password),
                form: master.form,
                proof,
            },
            (_, _, None) => return Err(NoRoute::Unproven("nobody has checked who this client is")),
        };
        let backend = backend.ok_or(NoRoute::Unmatched)?;
        let pool = answer.pool.unwrap_or(rule.pool);
        let (prescribed, budget) = (answer.mechanism, answer.budget);
        Ok(Route { group, prescribed, budget, pool, ..Route::new(backend, user, login) })
    }

    /// From now on this user is at that backend, whatever the rules say, or again where they say; and what lookups have
    /// said of it is forgotten.
    pub fn moved(&self, user: &UserName, to: Option<&Arc<Backend>>) {
        let user = user.normalised();
        self.forget(None, Some(&user));
        match to {
            Some(backend) => self.moved.insert(user, backend.config.name.clone()),
            None => self.moved.remove(&user).map(|(_, backend)| backend),
        };
    }

    /// Where a user was sent by hand, by the backend's name, which the configuration may not know any more.
    pub fn moved_to(&self, user: &[u8]) -> Option<String> {
        self.moved.get(user).map(|to| to.clone())
    }

    /// The users who were sent somewhere by hand, normalised. There may be many.
    pub fn all_moved(&self) -> Vec<Arc<[u8]>> {
        self.moved.iter().map(|entry| entry.key().clone()).collect()
    }

    /// The backend with this address, for referrals: those that the configuration does not name are not followed.
    pub fn backend_at(&self, host: &str, port: u16) -> Option<&Arc<Backend>> {
        self.backends.iter().find(|backend| backend.config.port == port && is_same_host(&backend.config.host, host))
    }

    /// The backends of the configuration, in its order.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// The groups of the configuration, in its order.
    pub fn groups(&self) -> &[Arc<Group>] {
        &self.groups
    }

    /// The sources by name, with the number of answers that are kept of each; `None`: none ever are.
    pub fn kept_answers(&self) -> impl Iterator<Item = (&str, Option<usize>)> {
        self.lookups.iter().map(|lookup| (lookup.name(), lookup.entries()))
    }

    /// The backend of this name.
    pub fn backend(&self, name: &str) -> Option<&Arc<Backend>> {
        self.backends.iter().find(|backend| backend.config.name == name)
    }
}

/// How one of a group is chosen.
type Choice = for<'g> fn(&'g Group, &[u8]) -> Option<&'g Arc<Backend>>;

/// For people.
impl fmt::Display for NoRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmatched => f.write_str("no rule sends this user anywhere"),
            Self::Rejected(text) => write!(f, "rejected: {text}"),
            Self::WrongPassword(None, _) => f.write_str("the password is wrong"),
            Self::WrongPassword(Some(text), _) => write!(f, "refused by the source: {text}"),
            Self::Unproven(why) => f.write_str(why),
            Self::LookupFailed(why) => write!(f, "lookup {why}"),
            Self::GroupDown(group) => write!(f, "no backend of group {group} takes users"),
        }
    }
}

/// Whether the client wants to open another user's mail than its own.
fn acts_for_another(asker: &Asker<'_>) -> bool {
    asker.login.authzid.as_ref().is_some_and(|authzid| *authzid != asker.login.user)
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

/// The master user of a rule, with its password.
fn master(login: &config::LoginAs) -> Result<Option<rule::Master>, Finding> {
    let config::LoginAs::Master { user, password_file, form } = login else { return Ok(None) };
    let finding = |message| Finding { site: Some(password_file.site.clone()), message };
    let password = secret_file::read(&password_file.value).map_err(finding)?;
    let user = UserName::new(user.as_bytes()).map_err(|error| finding(error.to_string()))?;
    Ok(Some(rule::Master { user, password: Arc::new(password), form: *form }))
}

#[cfg(test)]
mod tests;
