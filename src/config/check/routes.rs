//! `[[route]]`: conditions that can match, one target that exists, credentials that can be used.

use std::collections::HashMap;

use super::Check;
use crate::config::file::{self, ClientCertificates, File, Section, Spanned, WhoseLogin, Written};
use crate::config::{Glob, LoginAs, MasterForm, Pooling, Target, When};

impl Check<'_> {
    pub(super) fn condition(&mut self, section: &Section<file::Route>, listeners: &HashMap<&str, usize>) {
        if let Some(name) = &section.keys.listener {
            self.resolve(section, "listener", "listener", name, listeners);
        }
        if let Some(domain) = &section.keys.domain
            && domain.value.0.iter().any(|piece| piece.contains(&b'@'))
        {
            let message = "can never match: the domain is what stands behind the @\nexpected it without, or user = ...";
            self.report(section.site("domain", &domain.span), message);
        }
        if let Some(networks) = &section.keys.client
            && networks.get_ref().is_empty()
            && !section.is_broken("client")
        {
            self.report(section.site("client", &networks.span()), "can never match: no network is in it");
        }
    }

    /// The place in its list of what a key names.
    pub(super) fn resolve<T>(
        &mut self,
        section: &Section<T>,
        key: &str,
        kind: &str,
        name: &Written<file::Name>,
        known: &HashMap<&str, usize>,
    ) -> Option<usize> {
        let found = known.get(name.value.0.as_str()).copied();
        if found.is_none() {
            let mut names: Vec<_> = known.keys().copied().collect();
            names.sort_unstable();
            let expected = match names.as_slice() {
                [] => format!("expected a [[{kind}]] of this name, and there is none at all"),
                names => format!("expected one of: {}", names.join(", ")),
            };
            self.report(section.site(key, &name.span), format!("no such {kind}\n{expected}"));
        }
        found
    }

    /// Exactly one of `backend`, `group`, `lookup`, `reject`. The names are those of backends, groups and lookups.
    pub(super) fn target(
        &mut self,
        section: &Section<file::Route>,
        [backends, groups, lookups]: [&HashMap<&str, usize>; 3],
    ) -> Option<Target> {
        let keys = &section.keys;
        let mut find = |key: &str, name: &Option<Written<file::Name>>, known| {
            name.as_ref().map(|name| self.resolve(section, key, key, name, known))
        };
        let backend = find("backend", &keys.backend, backends);
        let group = find("group", &keys.group, groups);
        let lookup = find("lookup", &keys.lookup, lookups);
        let given = [backend.is_some(), group.is_some(), lookup.is_some(), keys.reject.is_some()];
        let given = given.into_iter().filter(|given| *given).count();
        let broken = ["backend", "group", "lookup", "reject"].iter().any(|key| section.is_broken(key));
        if given > 1 || (given == 0 && !broken) {
            let problem = if given == 0 { "leads nowhere" } else { "leads to more than one place" };
            let message = format!("{problem}\nexpected exactly one of: backend, group, lookup, reject");
            self.report(section.own_site(), message);
            return None;
        }
        if keys.reject.is_some() {
            let why = "has no meaning beside reject";
            self.forbid(section, "rewrite", keys.rewrite.as_ref().map(|rewrite| rewrite.span.clone()), why);
            self.forbid(section, "login", Some(keys.login.span.clone()).filter(|_| keys.login.is_in_file()), why);
        }
        let reject = keys.reject.as_ref().map(|text| Target::Reject(text.value.0.clone()));
        let backend = backend.flatten().map(Target::Backend);
        let group = group.flatten().map(Target::Group);
        backend.or(group).or_else(|| lookup.flatten().map(Target::Lookup)).or(reject)
    }

    /// The lookup that says whether a password is right.
    pub(super) fn authenticate(
        &mut self,
        section: &Section<file::Route>,
        names: &HashMap<&str, usize>,
        lookups: &[Section<file::Lookup>],
    ) -> Option<usize> {
        let name = section.keys.authenticate.as_ref()?;
        let index = self.resolve(section, "authenticate", "lookup", name, names)?;
        if lookups.get(index).is_some_and(|lookup| !is_authenticating(lookup)) {
            let message = "this lookup says nothing of passwords\nexpected one with authenticate = true";
            self.report(section.site("authenticate", &name.span), message);
        }
        Some(index)
    }

    pub(super) fn login(&mut self, section: &Section<file::Route>, file: &File) -> Option<LoginAs> {
        let keys = &section.keys;
        let site = || section.site("login", &keys.login.span);
        let master = [
            ("master_user", keys.master_user.as_ref().map(|user| user.span.clone())),
            ("master_password_file", keys.master_password_file.as_ref().map(|path| path.span.clone())),
            ("master_form", keys.master_form.as_ref().map(|form| form.span.clone())),
        ];
        if keys.login.value == WhoseLogin::Passthrough {
            if !section.is_broken("login") {
                for (key, span) in master {
                    self.forbid(section, key, span, "has a meaning only with login = \"master\"");
                }
            }
            return Some(LoginAs::Passthrough);
        }
        if !Self::can_prove(section, file) {
            let message = "nobody could use it: a master user acts only for clients whose identity was proven to mailmux\n\
                           expected authenticate = \"LOOKUP\" beside it, or client certificates in [tls]";
            self.report(site(), message);
        }
        for (key, span) in master.iter().take(2) {
            if span.is_none() && !section.is_broken(key) {
                self.report(site(), format!("needs {key} beside it"));
            }
        }
        let path = keys.master_password_file.as_ref()?;
        Some(LoginAs::Master {
            user: keys.master_user.as_ref()?.value.0.clone(),
            password_file: self.path(section, "master_password_file", path),
            form: keys.master_form.as_ref().map_or(MasterForm::Authzid, |form| form.value),
        })
    }

    /// Links of a backend that is told each client's address in a PROXY header are one client's for good.
    pub(super) fn pooling(&mut self, section: &Section<file::Route>, file: &File) {
        let keys = &section.keys;
        if keys.pool.value == Pooling::Off || section.is_broken("pool") {
            return;
        }
        let word = |name: &Written<file::Name>| name.value.0.clone();
        let mut names: Vec<_> = keys.backend.iter().map(word).collect();
        let is_ours = |group: &&Section<file::Group>| {
            keys.group.as_ref().zip(group.keys.name.as_ref()).is_some_and(|(ours, name)| ours.value == name.value)
        };
        for group in file.groups.iter().filter(is_ours) {
            let members = group.keys.members.iter().flat_map(Spanned::get_ref);
            names.extend(members.chain(&group.keys.standby).map(word));
        }
        for backend in &file.backends {
            let Some(name) = backend.keys.name.as_ref().filter(|name| names.contains(&name.value.0)) else { continue };
            if backend.keys.proxy_protocol.0.is_some() {
                let message = format!(
                    "backend {} is told each client's address in a PROXY header, so that its links are one client's for \
                     good\nexpected pool = \"off\", or proxy_protocol = \"off\" there",
                    name.value.0
                );
                self.report(section.site("pool", &keys.pool.span), message);
            }
        }
    }

    /// Whether there is a way for clients to prove to us who they are: certificates, or a lookup that is told passwords.
    fn can_prove(section: &Section<file::Route>, file: &File) -> bool {
        let certificates =
            file.tls.keys.client_auth.value != ClientCertificates::Off || file.tls.is_broken("client_auth");
        let named = |name: &file::Name| {
            let is_it =
                |lookup: &&Section<file::Lookup>| lookup.keys.name.as_ref().is_some_and(|known| known.value == *name);
            file.lookups.iter().find(is_it).is_none_or(is_authenticating)
        };
        let target = section.keys.lookup.as_ref().is_some_and(|name| named(&name.value));
        certificates || section.keys.authenticate.is_some() || section.is_broken("authenticate") || target
    }

    /// Rules behind one that takes everybody are dead; whoever wrote them thinks they work.
    pub(super) fn catch_all(&mut self, routes: &[Section<file::Route>]) {
        let conditions = ["user", "domain", "listener", "server_name", "client"];
        let takes_everybody = |route: &&Section<file::Route>| {
            let keys = &route.keys;
            let any = |pattern: &Glob| pattern.0.iter().all(|piece| piece.is_empty()) && pattern.0.len() > 1;
            let user = keys.user.as_ref().is_none_or(|user| any(&user.0));
            let others = keys.domain.is_some()
                || keys.listener.is_some()
                || keys.server_name.is_some()
                || keys.client.is_some()
                || conditions.iter().any(|condition| route.is_broken(condition));
            let target =
                keys.lookup.is_none() && (keys.backend.is_some() || keys.group.is_some() || keys.reject.is_some());
            user && !others && target
        };
        let Some(first) = routes.iter().position(|route| takes_everybody(&route)) else { return };
        let winner = routes.get(first).map_or("", Section::path);
        for dead in routes.iter().skip(first + 1) {
            let message = format!("can never match: {winner} takes everybody\nexpected before that one");
            self.report(dead.own_site(), message);
        }
    }
}

pub(super) fn when(keys: &file::Route) -> When {
    When {
        user: keys.user.as_ref().map(|user| user.0.clone()),
        domain: keys.domain.as_ref().map(|domain| domain.value.clone()),
        listener: keys.listener.as_ref().map(|name| name.value.0.clone()),
        server_name: keys.server_name.as_ref().map(|name| name.0.clone()),
        client: keys.client.iter().flat_map(Spanned::get_ref).map(|network| network.0).collect(),
    }
}

fn is_authenticating(lookup: &Section<file::Lookup>) -> bool {
    *lookup.keys.authenticate.get_ref() || lookup.is_broken("authenticate")
}
