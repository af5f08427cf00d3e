//! `[[route]]`: conditions that can match, one target that exists, credentials that can be used.

use std::collections::HashMap;

use super::Check;
use crate::config::file::{self, ClientCertificates, Section, Spanned, WhoseLogin, Written};
use crate::config::{Glob, LoginAs, Target, When};

impl Check<'_> {
    pub(super) fn condition(&mut self, section: &Section<file::Route>, listeners: &HashMap<&str, usize>) {
        if let Some(name) = &section.keys.listener {
            self.resolve(section, "listener", name, listeners);
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

    fn resolve(
        &mut self,
        section: &Section<file::Route>,
        key: &str,
        name: &Written<file::Name>,
        known: &HashMap<&str, usize>,
    ) -> Option<usize> {
        let found = known.get(name.value.0.as_str()).copied();
        if found.is_none() {
            let mut names: Vec<_> = known.keys().copied().collect();
            names.sort_unstable();
            let expected = match names.as_slice() {
                [] => format!("expected a [[{key}]] of this name, and there is none at all"),
                names => format!("expected one of: {}", names.join(", ")),
            };
            self.report(section.site(key, &name.span), format!("no such {key}\n{expected}"));
        }
        found
    }

    /// Exactly one of `backend`, `lookup`, `reject`.
    pub(super) fn target(
        &mut self,
        section: &Section<file::Route>,
        backends: &HashMap<&str, usize>,
        lookups: &HashMap<&str, usize>,
    ) -> Option<Target> {
        let keys = &section.keys;
        let backend = keys.backend.as_ref().map(|name| self.resolve(section, "backend", name, backends));
        let lookup = keys.lookup.as_ref().map(|name| self.resolve(section, "lookup", name, lookups));
        let given = usize::from(backend.is_some()) + usize::from(lookup.is_some()) + usize::from(keys.reject.is_some());
        let broken = ["backend", "lookup", "reject"].iter().any(|key| section.is_broken(key));
        if given > 1 || (given == 0 && !broken) {
            let problem = if given == 0 { "leads nowhere" } else { "leads to more than one place" };
            let message = format!("{problem}\nexpected exactly one of: backend, lookup, reject");
            self.report(section.own_site(), message);
            return None;
        }
        if keys.reject.is_some() {
            let why = "has no meaning beside reject";
            self.forbid(section, "rewrite", keys.rewrite.as_ref().map(|rewrite| rewrite.span.clone()), why);
            self.forbid(section, "login", Some(keys.login.span.clone()).filter(|_| keys.login.is_in_file()), why);
        }
        let reject = keys.reject.as_ref().map(|text| Target::Reject(text.value.0.clone()));
        backend.flatten().map(Target::Backend).or_else(|| lookup.flatten().map(Target::Lookup)).or(reject)
    }

    pub(super) fn login(&mut self, section: &Section<file::Route>, tls: &Section<file::Tls>) -> Option<LoginAs> {
        let keys = &section.keys;
        let site = || section.site("login", &keys.login.span);
        if keys.login.value == WhoseLogin::Passthrough {
            if !section.is_broken("login") {
                let why = "has a meaning only with login = \"master\"";
                self.forbid(section, "master_user", keys.master_user.as_ref().map(|user| user.span.clone()), why);
                let file = keys.master_password_file.as_ref().map(|path| path.span.clone());
                self.forbid(section, "master_password_file", file, why);
            }
            return Some(LoginAs::Passthrough);
        }
        // Acting for somebody whose password nobody has looked at needs proof of another kind.
        if tls.keys.client_auth.value == ClientCertificates::Off && !tls.is_broken("client_auth") {
            let message = "nobody could use it: a master user acts only for clients with a verified certificate\n\
                           expected client_auth = \"optional\" or \"required\" in [tls]";
            self.report(site(), message);
        }
        for (key, given) in
            [("master_user", keys.master_user.is_some()), ("master_password_file", keys.master_password_file.is_some())]
        {
            if !given && !section.is_broken(key) {
                self.report(site(), format!("needs {key} beside it"));
            }
        }
        let path = keys.master_password_file.as_ref()?;
        Some(LoginAs::Master {
            user: keys.master_user.as_ref()?.value.0.clone(),
            password_file: self.path(section, "master_password_file", path),
        })
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
            let target = keys.lookup.is_none() && (keys.backend.is_some() || keys.reject.is_some());
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
