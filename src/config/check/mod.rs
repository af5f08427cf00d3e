//! From what was written to what it means: names become indices, paths are taken from the file's folder, and the rules
//! about more than one key are checked, all of them, so that one run shows every mistake. What needs the world outside
//! of the file (is there such a file, is the address free) is found by the rooms that use it.

mod addresses;
mod backends;
mod lookups;
mod one_backend;
mod routes;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::file::{self, ClientCertificates, File, Section, Spanned, Written};
use super::{
    Admin, At, CertificateFiles, ClientAuth, Config, Finding, Limits, Listener, ListenerTls, Log, Masked, Pool,
    Pooling, Route, Server, Site, Timeouts, Tls,
};

pub(super) use one_backend::{one_backend, usual_backend};

/// Checks a whole file. `findings` are the mistakes of form that reading it has already shown.
pub(super) fn check(file: &File, folder: &Path, findings: Vec<Finding>) -> Result<Config, Vec<Finding>> {
    let mut check = Check { folder, findings };
    check.presence(file);
    check.addresses(file);
    check.catch_all(&file.routes);
    let config = check.config(file);
    match config {
        Some(config) if check.findings.is_empty() => Ok(config),
        _ => {
            // In the order of the file; what is about the file as a whole comes first.
            check.findings.sort_by_key(|finding| finding.site.as_ref().map(|site| site.span.start));
            Err(check.findings)
        }
    }
}

struct Check<'a> {
    folder: &'a Path,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn report(&mut self, site: Site, message: impl Into<String>) {
        self.findings.push(Finding { site: Some(site), message: message.into() });
    }

    /// A mandatory key, or a finding. `None` without one when the key is there but broken, which is reported already.
    fn need<'v, T, V>(&mut self, section: &Section<T>, key: &str, value: Option<&'v V>, what: &str) -> Option<&'v V> {
        if value.is_none() && !section.is_broken(key) {
            self.report(section.site_of_missing(key), format!("missing\nexpected {what}"));
        }
        value
    }

    /// A key that must not stand here.
    fn forbid<T>(&mut self, section: &Section<T>, key: &str, span: Option<Range<usize>>, why: &str) {
        if let Some(span) = span {
            self.report(section.site(key, &span), why);
        }
    }

    /// A path, taken from the folder of the file.
    fn path<T>(&self, section: &Section<T>, key: &str, path: &Written<PathBuf>) -> At<PathBuf> {
        At { value: self.folder.join(&path.value), site: section.site(key, &path.span) }
    }

    fn presence(&mut self, file: &File) {
        let whole = |what: &str| Finding { site: None, message: what.into() };
        let complains = |findings: &[Finding], name: &str| {
            findings.iter().filter_map(|finding| finding.site.as_ref()).any(|site| site.key.starts_with(name))
        };
        if file.listeners.is_empty() && !complains(&self.findings, "listener") {
            self.findings.push(whole("no [[listener]]: nobody could connect"));
        }
        if file.routes.is_empty() && !complains(&self.findings, "route") {
            self.findings.push(whole("no [[route]]: nobody could be sent anywhere"));
        }
    }

    fn config(&mut self, file: &File) -> Option<Config> {
        let listener_names = self.names(&file.listeners, |listener| listener.name.as_ref());
        let backend_names = self.names(&file.backends, |backend| backend.name.as_ref());
        let group_names = self.names(&file.groups, |group| group.name.as_ref());
        let lookup_names = self.names(&file.lookups, |lookup| lookup.name.as_ref());
        let listeners = all(file.listeners.iter().map(|listener| self.listener(listener)));
        let tls = self.tls(file);
        let backends = all(file.backends.iter().map(|backend| self.backend(backend)));
        let groups = all(file.groups.iter().map(|group| self.group(group, &backend_names)));
        let lookups = all(file.lookups.iter().map(|lookup| self.lookup(lookup, &backend_names, &group_names)));
        let mut rules = Vec::new();
        for route in &file.routes {
            self.condition(route, &listener_names);
            let target = self.target(route, [&backend_names, &group_names, &lookup_names]);
            let authenticate = self.authenticate(route, &lookup_names, &file.lookups);
            let login = self.login(route, file);
            rules.push(target.zip(login).map(|(target, login)| Route {
                when: routes::when(&route.keys),
                target,
                rewrite: route.keys.rewrite.as_ref().map(|rewrite| rewrite.value.clone()),
                login,
                authenticate,
                pool: route.keys.pool.value,
            }));
            self.pooling(route, file);
        }
        self.timeouts(&file.timeouts);
        self.pool(file);
        let admin = file.admin.as_ref().map(|admin| self.admin(admin));
        Some(Config {
            file: None,
            server: self.server(&file.server),
            listeners: listeners?,
            tls: tls?,
            backends: backends?,
            groups: groups?,
            lookups: lookups?,
            routes: all(rules.into_iter())?,
            limits: limits(&file.limits.keys),
            timeouts: timeouts(&file.timeouts.keys),
            pool: pool(&file.pool.keys),
            admin,
            log: log(&file.log.keys),
            shown: Masked::of(""),
        })
    }

    fn server(&mut self, section: &Section<file::Server>) -> Server {
        let keys = &section.keys;
        if let (None, Some(group)) = (&keys.user, &keys.group)
            && !section.is_broken("user")
        {
            self.report(section.site("group", &group.span), "needs user beside it");
        }
        let name = |key: &str, name: Option<&Written<file::Line>>| {
            name.map(|name| At { value: name.value.0.clone(), site: section.site(key, &name.span) })
        };
        Server {
            user: name("user", keys.user.as_ref()),
            group: name("group", keys.group.as_ref()),
            read: keys.read.iter().map(|path| self.path(section, "read", path)).collect(),
            ..server(keys)
        }
    }

    /// Names to places in the list; a name given twice is a mistake.
    fn names<'f, T>(
        &mut self,
        sections: &'f [Section<T>],
        name: impl Fn(&'f T) -> Option<&'f Written<file::Name>>,
    ) -> HashMap<&'f str, usize> {
        let mut names = HashMap::<&str, usize>::new();
        for (index, section) in sections.iter().enumerate() {
            let Some(name) = self.need(section, "name", name(&section.keys), "a name, for logs and metrics") else {
                continue;
            };
            if let Some(first) = names.get(name.value.0.as_str()) {
                let taken = sections.get(*first).map_or("", Section::path);
                self.report(section.site("name", &name.span), format!("{taken} has this name already"));
            } else {
                names.insert(&name.value.0, index);
            }
        }
        names
    }

    fn listener(&mut self, section: &Section<file::Listener>) -> Option<Listener> {
        let keys = &section.keys;
        let plain = keys.tls.0 == ListenerTls::None || section.is_broken("tls");
        if *keys.allow_plaintext.get_ref() && !plain {
            let site = section.site("allow_plaintext", &keys.allow_plaintext.span());
            self.report(site, "has a meaning only with tls = \"none\": here logins are always encrypted");
        }
        for (index, mechanism) in keys.mechanisms.iter().enumerate() {
            let before = keys.mechanisms.iter().take(index);
            if before.clone().any(|before| before.value == mechanism.value) {
                self.report(section.site("mechanisms", &mechanism.span), "named twice");
            }
        }
        let what = "an IP address and a port, such as \"[::]:993\"";
        let address = self.need(section, "address", keys.address.as_ref(), what)?;
        Some(Listener {
            name: keys.name.as_ref()?.value.0.clone(),
            address: At { value: address.value, site: section.site("address", &address.span) },
            tls: keys.tls.0,
            allow_plaintext: *keys.allow_plaintext.get_ref(),
            proxy_protocol_from: keys.proxy_protocol_from.iter().map(|network| network.0).collect(),
            id_from: keys.id_from.iter().map(|network| network.0).collect(),
            mechanisms: keys.mechanisms.iter().map(|mechanism| mechanism.value).collect(),
        })
    }

    fn tls(&mut self, file: &File) -> Option<Tls> {
        let section = &file.tls;
        let keys = &section.keys;
        let mut certificates = Vec::new();
        for (index, certificate) in keys.certificate.iter().enumerate() {
            certificates.push(self.certificate(section, index, certificate));
        }
        let none = keys.certificate.is_empty() && keys.directory.is_none();
        if none && !section.is_broken("certificate") && !section.is_broken("directory") {
            let encrypted = |listener: &&Section<file::Listener>| {
                listener.keys.tls.0 != ListenerTls::None && !listener.is_broken("tls")
            };
            if let Some(listener) = file.listeners.iter().find(encrypted) {
                let message = "has TLS, but there is no certificate for it\n\
                               expected [[tls.certificate]] with chain and key, or tls.directory (or tls = \"none\")";
                self.report(listener.own_site(), message);
            }
        }
        let client_auth = self.client_auth(section);
        Some(Tls {
            min_version: keys.min_version.0,
            client_auth: client_auth?,
            client_name: keys.client_name.0,
            certificates: all(certificates.into_iter())?,
            directory: keys.directory.as_ref().map(|path| self.path(section, "directory", path)),
            watch: keys.watch.0.0,
        })
    }

    fn certificate(
        &mut self,
        section: &Section<file::Tls>,
        index: usize,
        certificate: &Spanned<file::Certificate>,
    ) -> Option<CertificateFiles> {
        let mut part = |name: &str, value: Option<&Written<PathBuf>>, what: &str| {
            let key = format!("certificate[{index}].{name}");
            if value.is_none() && !section.is_broken(&key) {
                self.report(section.site(&key, &certificate.span()), format!("missing\nexpected {what}"));
            }
            value.map(|path| self.path(section, &key, path))
        };
        let chain = part("chain", certificate.get_ref().chain.as_ref(), "a PEM file, the leaf first");
        let key = part("key", certificate.get_ref().key.as_ref(), "a PEM file");
        Some(CertificateFiles { chain: chain?, key: key? })
    }

    fn client_auth(&mut self, section: &Section<file::Tls>) -> Option<ClientAuth> {
        let keys = &section.keys;
        if keys.client_auth.value == ClientCertificates::Off {
            if !section.is_broken("client_auth") {
                let span = keys.client_ca.as_ref().map(|path| path.span.clone());
                let why = "client certificates are off\nexpected client_auth = \"optional\" or \"required\" beside it";
                self.forbid(section, "client_ca", span, why);
            }
            return Some(ClientAuth::Off);
        }
        let Some(path) = &keys.client_ca else {
            if !section.is_broken("client_ca") {
                let message = "needs client_ca\nexpected client_ca = \"FILE\", the authorities that issue them";
                self.report(section.site("client_auth", &keys.client_auth.span), message);
            }
            return None;
        };
        let ca = self.path(section, "client_ca", path);
        Some(if keys.client_auth.value == ClientCertificates::Required {
            ClientAuth::Required { ca }
        } else {
            ClientAuth::Optional { ca }
        })
    }

    fn timeouts(&mut self, section: &Section<file::Timeouts>) {
        let keys = &section.keys;
        let all = [
            ("proxy_header", &keys.proxy_header),
            ("tls_handshake", &keys.tls_handshake),
            ("login", &keys.login),
            ("backend_connect", &keys.backend_connect),
            ("backend_login", &keys.backend_login),
            ("relay_idle", &keys.relay_idle),
            ("refusal_grid", &keys.refusal_grid),
        ];
        for (key, value) in all {
            if value.value.is_zero() {
                self.report(section.site(key, &value.span), "must be longer than nothing");
            }
        }
        let pairs = [
            ("backend_connect", &keys.backend_connect, "backend_login", &keys.backend_login),
            ("backend_login", &keys.backend_login, "login", &keys.login),
        ];
        for (inner, short, outer, long) in pairs {
            if short.value > long.value && !section.is_broken(inner) && !section.is_broken(outer) {
                // At the one that was written: the other may be a default.
                let (key, at) = if short.is_in_file() { (inner, short) } else { (outer, long) };
                let (short, long) = (humantime::format_duration(short.value), humantime::format_duration(long.value));
                let message = format!(
                    "{inner} ({short}) is longer than {outer} ({long}), of which it is a part\n\
                     expected backend_connect <= backend_login <= login"
                );
                self.report(section.site(key, &at.span), message);
            }
        }
    }

    fn pool(&mut self, file: &File) {
        let section = &file.pool;
        let is_used = |route: &Section<file::Route>| route.keys.pool.value != Pooling::Off || route.is_broken("pool");
        if section.keys.warm.get_ref().0 > 0 && file.lookups.is_empty() && !file.routes.iter().any(is_used) {
            let message = "no link would ever be taken\nexpected a [[route]] with pool = \"warm\" or \"reuse\"";
            self.report(section.site("warm", &section.keys.warm.span()), message);
        }
        let keys = &section.keys;
        let times =
            [("warm_ttl", &keys.warm_ttl), ("reuse_ttl", &keys.reuse_ttl), ("reuse_lifetime", &keys.reuse_lifetime)];
        for (key, time) in times {
            if time.value.is_zero() {
                self.report(section.site(key, &time.span), "must be longer than nothing");
            }
        }
    }

    fn admin(&mut self, section: &Section<file::Admin>) -> Admin {
        let keys = &section.keys;
        let address = &keys.address;
        let exposed = !address.value.ip().to_canonical().is_loopback();
        if exposed && keys.token_file.is_none() && !section.is_broken("token_file") && !section.is_broken("address") {
            let message = "is not loopback, so that token_file is needed\nexpected token_file = \"FILE\" beside it";
            self.report(section.site("address", &address.span), message);
        }
        for name in &keys.names {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            if name.get_ref().is_empty() || !name.get_ref().bytes().all(is_name) {
                let message = "is no host name\nexpected a name without a port, such as \"mail.example.org\"";
                self.report(section.site("names", &name.span()), message);
            }
        }
        Admin {
            names: keys.names.iter().map(|name| name.get_ref().clone()).collect(),
            address: At { value: address.value, site: section.site("address", &address.span) },
            token_file: keys.token_file.as_ref().map(|path| self.path(section, "token_file", path)),
            socket: keys.socket.as_ref().map(|path| self.path(section, "socket", path)),
        }
    }
}

/// What needs no place in a file.
fn server(keys: &file::Server) -> Server {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = match keys.workers.0 {
        0 => cores(),
        count => usize::try_from(count).unwrap_or(usize::MAX),
    };
    let name_servers = keys.name_servers.iter().map(|server| server.0).collect();
    Server {
        workers,
        drain_timeout: keys.drain_timeout.0,
        name_servers,
        user: None,
        group: None,
        confine: keys.confine,
        read: Vec::new(),
    }
}

fn limits(keys: &file::Limits) -> Limits {
    let count = |count: file::Count<0, { u32::MAX }>| usize::try_from(count.0).unwrap_or(usize::MAX);
    Limits {
        sessions: count(keys.sessions),
        sessions_per_network: count(keys.sessions_per_network),
        sessions_per_user: count(keys.sessions_per_user),
        connects_per_network: keys.connects_per_network.0,
        logins_per_user: keys.logins_per_user.0,
        failures_per_network: keys.failures_per_network.0,
        failures_per_user: keys.failures_per_user.0,
        exempt: keys.exempt.iter().map(|network| network.0).collect(),
        memory: keys.memory.0,
    }
}

fn log(keys: &file::Log) -> Log {
    Log { format: keys.format.0, level: keys.level.0 }
}

fn pool(keys: &file::Pool) -> Pool {
    let count = |count| usize::try_from(count).unwrap_or(usize::MAX);
    Pool {
        warm: count(keys.warm.get_ref().0),
        warm_ttl: keys.warm_ttl.value,
        reuse_ttl: keys.reuse_ttl.value,
        reuse_lifetime: keys.reuse_lifetime.value,
        reuse_max: count(keys.reuse_max.0),
        reuse_per_user: count(keys.reuse_per_user.0),
    }
}

fn timeouts(keys: &file::Timeouts) -> Timeouts {
    Timeouts {
        proxy_header: keys.proxy_header.value,
        tls_handshake: keys.tls_handshake.value,
        login: keys.login.value,
        backend_connect: keys.backend_connect.value,
        backend_login: keys.backend_login.value,
        relay_idle: keys.relay_idle.value,
        refusal_grid: keys.refusal_grid.value,
    }
}

/// All of them, or none; unlike `collect` it does not stop early, so that every element is checked.
fn all<T>(items: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    let items: Vec<_> = items.collect();
    items.into_iter().collect()
}
