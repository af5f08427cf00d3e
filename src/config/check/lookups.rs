//! `[[lookup]]` and `[[group]]`: which keys belong to which kind, and names that exist.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Range;

use ipnet::IpNet;

use super::Check;
use crate::config::file::{self, Line, LookupKind, MaybeCache, Section, Spanned, Written};
use crate::config::{
    Allow, At, Cache, DatabaseUrl, Glob, Group, HttpLookup, LdapLookup, LdapScope, Lookup, LookupSource, SqlLookup,
};

/// Keys that only some kinds have, and the kinds that have them.
const KEYS: [(&str, &[LookupKind]); 19] = [
    ("path", &[LookupKind::File]),
    ("url", &[LookupKind::Http, LookupKind::Sql, LookupKind::Ldap]),
    ("url_file", &[LookupKind::Sql]),
    ("headers", &[LookupKind::Http]),
    ("headers_file", &[LookupKind::Http]),
    ("pass_client_certificate", &[LookupKind::Http]),
    ("authenticate", &[LookupKind::Http, LookupKind::Sql, LookupKind::Ldap]),
    ("connections", &[LookupKind::Http, LookupKind::Sql, LookupKind::Ldap]),
    ("cache", &[LookupKind::Http, LookupKind::Sql, LookupKind::Ldap]),
    ("timeout", &[LookupKind::Http, LookupKind::Sql, LookupKind::Ldap]),
    ("ca", &[LookupKind::Http, LookupKind::Ldap]),
    ("query", &[LookupKind::Sql]),
    ("start_tls", &[LookupKind::Ldap]),
    ("bind_dn", &[LookupKind::Ldap]),
    ("bind_password_file", &[LookupKind::Ldap]),
    ("base", &[LookupKind::Ldap]),
    ("scope", &[LookupKind::Ldap]),
    ("filter", &[LookupKind::Ldap]),
    ("attributes", &[LookupKind::Ldap]),
];

impl Check<'_> {
    /// `backends` are their names and places; `groups` names alone.
    pub(super) fn lookup(
        &mut self,
        section: &Section<file::Lookup>,
        backends: &HashMap<&str, usize>,
        groups: &HashMap<&str, usize>,
    ) -> Option<Lookup> {
        let keys = &section.keys;
        let template =
            keys.template.as_ref().and_then(|name| self.resolve(section, "template", "backend", name, backends));
        let kind = self.need(section, "type", keys.r#type.as_ref(), "type = \"file\", \"http\", \"sql\" or \"ldap\"");
        let kind = kind?.value;
        self.foreign_keys(section, kind);
        let source = match kind {
            LookupKind::File => {
                let path = self.need(section, "path", keys.path.as_ref(), "the path of the map file");
                path.map(|path| LookupSource::File { path: self.path(section, "path", path) })
            }
            LookupKind::Http => self.http(section).map(LookupSource::Http),
            LookupKind::Sql => self.sql(section).map(LookupSource::Sql),
            LookupKind::Ldap => self.ldap(section).map(LookupSource::Ldap),
        };
        if keys.timeout.value.is_zero() {
            self.report(section.site("timeout", &keys.timeout.span), "must be longer than nothing");
        }
        Some(Lookup {
            name: keys.name.as_ref()?.value.0.clone(),
            source: source?,
            authenticate: *keys.authenticate.get_ref(),
            timeout: keys.timeout.value,
            cache: cache(keys, kind),
            allow: allow(keys, |name| backends.contains_key(name) || groups.contains_key(name)),
            template,
        })
    }

    /// Whoever writes a key that this kind has no use for believes that it does something.
    fn foreign_keys(&mut self, section: &Section<file::Lookup>, kind: LookupKind) {
        let written = written(&section.keys);
        for (key, kinds) in KEYS {
            if kinds.contains(&kind) {
                continue;
            }
            let span = written.get(key).cloned().filter(|span| !span.is_empty());
            self.forbid(section, key, span, "has no meaning for a lookup of this type");
        }
    }

    fn http(&mut self, section: &Section<file::Lookup>) -> Option<HttpLookup> {
        let keys = &section.keys;
        let url = self.url(section, "the responder's, such as \"http://127.0.0.1:9000/auth\"")?;
        let headers = keys.headers.as_ref().map(Spanned::get_ref);
        Some(HttpLookup {
            url,
            headers: headers.into_iter().flatten().map(|(name, value)| (name.clone(), value.0.0.clone())).collect(),
            headers_file: keys.headers_file.as_ref().map(|path| self.path(section, "headers_file", path)),
            pass_client_certificate: *keys.pass_client_certificate.get_ref(),
            ca: keys.ca.as_ref().map(|path| self.path(section, "ca", path)),
            connections: connections(keys),
        })
    }

    fn sql(&mut self, section: &Section<file::Lookup>) -> Option<SqlLookup> {
        let keys = &section.keys;
        let url = match (&keys.url, &keys.url_file) {
            (Some(url), Some(_)) => {
                let message = "excludes url_file\nexpected either of them";
                self.report(section.site("url", &url.span), message);
                None
            }
            (None, Some(path)) => Some(DatabaseUrl::File(self.path(section, "url_file", path))),
            (Some(url), None) => {
                let mut url = at(section, "url", url);
                url.value = self.database(&url.value);
                Some(DatabaseUrl::Written(url))
            }
            (None, None) => {
                let what = "url or url_file: \"sqlite:users.db\", \"postgres://...\" or \"mysql://...\"";
                self.need(section, "url", None::<&()>, what);
                None
            }
        };
        let query = self.need(section, "query", keys.query.as_ref(), "a SELECT with :user, :local or :domain in it")?;
        Some(SqlLookup {
            url: url?,
            query: At { value: query.value.0.clone(), site: section.site("query", &query.span) },
            connections: connections(keys),
        })
    }

    /// A database in a file is looked for from the folder of the configuration, like all files.
    fn database(&self, url: &str) -> String {
        let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"));
        match path.filter(|path| !path.starts_with([':', '/'])) {
            Some(path) => format!("sqlite:{}", self.folder.join(path).display()),
            None => url.to_owned(),
        }
    }

    fn ldap(&mut self, section: &Section<file::Lookup>) -> Option<LdapLookup> {
        let keys = &section.keys;
        let bind = match (&keys.bind_dn, &keys.bind_password_file) {
            (Some(name), Some(path)) => Some((name.value.0.clone(), self.path(section, "bind_password_file", path))),
            (None, None) => None,
            (name, path) => {
                let alone = [
                    (name.as_ref().map(|name| &name.span), "bind_dn", "bind_password_file"),
                    (path.as_ref().map(|path| &path.span), "bind_password_file", "bind_dn"),
                ];
                for (span, key, other) in alone {
                    if let Some(span) = span.filter(|_| !section.is_broken(other)) {
                        self.report(section.site(key, span), format!("needs {other} beside it"));
                    }
                }
                None
            }
        };
        let url = self.url(section, "the directory's, such as \"ldaps://ldap.example.org\"");
        let base = self.need(section, "base", keys.base.as_ref(), "where the search begins");
        let filter = self.need(section, "filter", keys.filter.as_ref(), "a filter such as \"(mail={user})\"");
        let what = "attributes and the fields that they are, such as { mailHost = \"host\" }";
        let attributes = self.need(section, "attributes", keys.attributes.as_ref(), what)?;
        Some(LdapLookup {
            url: url?,
            start_tls: *keys.start_tls.get_ref(),
            ca: keys.ca.as_ref().map(|path| self.path(section, "ca", path)),
            bind,
            base: base?.value.0.clone(),
            scope: keys.scope.as_ref().map_or(LdapScope::Sub, |scope| scope.value),
            filter: at(section, "filter", filter?),
            attributes: attributes.get_ref().iter().map(|(name, field)| (name.clone(), field.0.0.clone())).collect(),
            connections: connections(keys),
        })
    }

    fn url(&mut self, section: &Section<file::Lookup>, what: &str) -> Option<At<String>> {
        self.need(section, "url", section.keys.url.as_ref(), what).map(|url| at(section, "url", url))
    }

    pub(super) fn group(&mut self, section: &Section<file::Group>, backends: &HashMap<&str, usize>) -> Option<Group> {
        let keys = &section.keys;
        if let Some(name) = &keys.name
            && backends.contains_key(name.value.0.as_str())
        {
            self.report(section.site("name", &name.span), "a backend has this name already");
        }
        let what = "a list of backends' names";
        let members = self.need(section, "members", keys.members.as_ref(), what);
        if let Some(list) = members
            && list.get_ref().is_empty()
            && !section.is_broken("members")
        {
            self.report(section.site("members", &list.span()), "nobody is in it");
        }
        let choose =
            self.need(section, "choose", keys.choose.as_ref(), "\"hash\", \"least_sessions\" or \"first_healthy\"");
        let mut seen = Vec::new();
        let mut resolve = |check: &mut Self, key: &str, names: &[Written<file::Name>]| {
            let mut found = Vec::new();
            for name in names {
                let Some(index) = check.resolve(section, key, "backend", name, backends) else { continue };
                if seen.contains(&index) {
                    check.report(section.site(key, &name.span), "named twice in this group");
                }
                seen.push(index);
                found.push(index);
            }
            found
        };
        let members = members.map(|members| resolve(self, "members", members.get_ref()));
        let standby = resolve(self, "standby", &keys.standby);
        Some(Group { name: keys.name.as_ref()?.value.0.clone(), members: members?, standby, choose: choose?.0 })
    }
}

fn at(section: &Section<file::Lookup>, key: &str, line: &Written<Line>) -> At<String> {
    At { value: line.value.0.clone(), site: section.site(key, &line.span) }
}

fn connections(keys: &file::Lookup) -> NonZeroU32 {
    NonZeroU32::new(keys.connections.get_ref().0).unwrap_or(NonZeroU32::MIN)
}

/// A map is in memory already. Whether a password is right is remembered only where that was written.
fn cache(keys: &file::Lookup, kind: LookupKind) -> Option<Cache> {
    match keys.cache.as_ref().map(Spanned::get_ref) {
        Some(MaybeCache(cache)) => *cache,
        None if kind == LookupKind::File || *keys.authenticate.get_ref() => None,
        None => Some(MaybeCache::usual()),
    }
}

/// What is no network and no name of ours is a pattern for hosts.
fn allow(keys: &file::Lookup, is_ours: impl Fn(&str) -> bool) -> Allow {
    let Some(list) = &keys.allow else { return Allow::default() };
    let mut allow = Allow { names: Some(Vec::new()), ..Allow::default() };
    for Line(text) in list.iter().map(|line| &line.value) {
        match file::text::<IpNet>(text) {
            Ok(network) => allow.networks.push(network),
            Err(_) if is_ours(text) => allow.names.get_or_insert_default().push(text.clone()),
            Err(_) => allow.hosts.extend(file::text::<Glob>(text)),
        }
    }
    allow
}

/// Where keys stand that were written; those with defaults have an empty place when they were not.
fn written(keys: &file::Lookup) -> HashMap<&'static str, Range<usize>> {
    fn span<T>(value: Option<&Written<T>>) -> Range<usize> {
        value.map_or(0..0, |value| value.span.clone())
    }
    HashMap::from([
        ("path", span(keys.path.as_ref())),
        ("url", span(keys.url.as_ref())),
        ("url_file", span(keys.url_file.as_ref())),
        ("headers", keys.headers.as_ref().map_or(0..0, Spanned::span)),
        ("headers_file", span(keys.headers_file.as_ref())),
        ("pass_client_certificate", keys.pass_client_certificate.span()),
        ("authenticate", keys.authenticate.span()),
        ("connections", keys.connections.span()),
        ("cache", keys.cache.as_ref().map_or(0..0, Spanned::span)),
        ("timeout", span(Some(&keys.timeout))),
        ("ca", span(keys.ca.as_ref())),
        ("query", span(keys.query.as_ref())),
        ("start_tls", keys.start_tls.span()),
        ("bind_dn", span(keys.bind_dn.as_ref())),
        ("bind_password_file", span(keys.bind_password_file.as_ref())),
        ("base", span(keys.base.as_ref())),
        ("scope", span(keys.scope.as_ref())),
        ("filter", span(keys.filter.as_ref())),
        ("attributes", keys.attributes.as_ref().map_or(0..0, Spanned::span)),
    ])
}
