//! From what was written to what it means: names become indices, paths are taken from the file's folder, and the rules
//! about more than one key are checked, all of them, so that one run shows every mistake. What needs the world outside
//! of the file (is there such a file, is the address free) is found by the rooms that use it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::file::{self, ClientCertificates, File, HostPort, PublicRoots, Section, Spanned, WhoseLogin, Written};
use super::{
    Admin, At, Backend, BackendTls, CertificateFiles, ClientAuth, Config, Finding, Glob, Limits, Listener, ListenerTls,
    Log, LoginAs, Lookup, LookupSource, Roots, Route, Server, Site, Target, Timeouts, Tls, TlsClient, When,
};

/// Threads beyond this are a slip of the pen.
const MOST_WORKERS: u16 = 1024;

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

/// See [`Config::for_one_backend`].
pub(super) fn one_backend(host: &str, port: u16) -> Config {
    let site = |key: &str| Site { key: key.into(), span: 0..0 };
    let listener = file::Listener::default();
    let backend = file::Backend::default();
    let client = TlsClient { name: host.into(), roots: Roots::WebPki, client: None, verify: backend.tls_verify() };
    let loopback = host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    Config {
        server: server(&file::Server::default()),
        listeners: vec![Listener {
            name: "imaps".into(),
            address: At { value: (Ipv4Addr::LOCALHOST, 1993).into(), site: site("listener[0].address") },
            tls: ListenerTls::Implicit,
            allow_plaintext: false,
            proxy_protocol_from: Vec::new(),
            id_from: Vec::new(),
            mechanisms: listener.mechanisms.iter().map(|mechanism| mechanism.value).collect(),
        }],
        tls: Tls {
            min_version: file::Tls::default().min_version.0,
            client_auth: ClientAuth::Off,
            client_name: file::Tls::default().client_name.0,
            certificates: Vec::new(),
            directory: None,
        },
        backends: vec![Backend {
            name: "backend".into(),
            host: host.into(),
            port,
            site: site("backend[0].address"),
            tls: match port {
                993 => BackendTls::Implicit(client),
                _ if loopback => BackendTls::None,
                _ => BackendTls::StartTls(client),
            },
            proxy_protocol: backend.proxy_protocol.0,
            forward_id: backend.forward_id,
            source: Vec::new(),
        }],
        lookups: Vec::new(),
        routes: vec![Route {
            when: When::default(),
            target: Target::Backend(0),
            rewrite: None,
            login: LoginAs::Passthrough,
        }],
        limits: limits(&file::Limits::default()),
        timeouts: timeouts(&file::Timeouts::default()),
        admin: Some(Admin {
            address: At { value: file::Admin::default().address.value, site: site("admin.address") },
            token_file: None,
        }),
        log: log(&file::Log::default()),
    }
}

struct Check<'a> {
    folder: &'a Path,
    findings: Vec<Finding>,
}

/// `[[backend]]`, `[[lookup]]` or `[[listener]]` by name.
type Names<'a> = HashMap<&'a str, usize>;

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
        let lookup_names = self.names(&file.lookups, |lookup| lookup.name.as_ref());
        let server = self.server(&file.server);
        let listeners = all(file.listeners.iter().map(|listener| self.listener(listener)));
        let tls = self.tls(file);
        let backends = all(file.backends.iter().map(|backend| self.backend(backend)));
        let lookups = all(file.lookups.iter().map(|lookup| self.lookup(lookup)));
        let mut routes = Vec::new();
        for route in &file.routes {
            self.condition(route, &listener_names);
            let target = self.target(route, &backend_names, &lookup_names);
            let login = self.login(route, &file.tls);
            routes.push(target.zip(login).map(|(target, login)| Route {
                when: when(&route.keys),
                target,
                rewrite: route.keys.rewrite.as_ref().map(|rewrite| rewrite.value.clone()),
                login,
            }));
        }
        self.timeouts(&file.timeouts);
        let admin = file.admin.as_ref().map(|admin| self.admin(admin));
        Some(Config {
            server,
            listeners: listeners?,
            tls: tls?,
            backends: backends?,
            lookups: lookups?,
            routes: all(routes.into_iter())?,
            limits: limits(&file.limits.keys),
            timeouts: timeouts(&file.timeouts.keys),
            admin,
            log: log(&file.log.keys),
        })
    }

    /// Names to places in the list; a name given twice is a mistake.
    fn names<'f, T>(
        &mut self,
        sections: &'f [Section<T>],
        name: impl Fn(&'f T) -> Option<&'f Written<file::Name>>,
    ) -> Names<'f> {
        let mut names = Names::new();
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

    fn server(&mut self, section: &Section<file::Server>) -> Server {
        let workers = &section.keys.workers;
        if *workers.get_ref() > MOST_WORKERS {
            let message = format!("too many threads\nexpected 0 (one per core) to {MOST_WORKERS}");
            self.report(section.site("workers", &workers.span()), message);
        }
        server(&section.keys)
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
                self.report(section.site(&format!("mechanisms[{index}]"), &mechanism.span), "named twice");
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

    fn backend(&mut self, section: &Section<file::Backend>) -> Option<Backend> {
        let keys = &section.keys;
        let what = "a host and a port, such as \"mail.example.org:993\"";
        let address = self.need(section, "address", keys.address.as_ref(), what);
        if let Some(address) = address {
            self.sources(section, &address.value);
        }
        let client = self.client_certificate(section);
        self.backend_tls_rules(section);
        let HostPort { host, port } = &address?.value;
        let tls_client = || TlsClient {
            name: keys.tls_name.as_ref().map_or_else(|| host.clone(), |name| name.value.0.clone()),
            roots: match &keys.ca {
                Some(path) => Roots::File(self.path(section, "ca", path)),
                None => match keys.roots() {
                    PublicRoots::WebPki => Roots::WebPki,
                    PublicRoots::System => Roots::System,
                },
            },
            client,
            verify: keys.tls_verify(),
        };
        Some(Backend {
            name: keys.name.as_ref()?.value.0.clone(),
            host: host.clone(),
            port: *port,
            site: section.site("address", &address?.span),
            tls: match keys.tls.0 {
                ListenerTls::None => BackendTls::None,
                ListenerTls::StartTls => BackendTls::StartTls(tls_client()),
                ListenerTls::Implicit => BackendTls::Implicit(tls_client()),
            },
            proxy_protocol: keys.proxy_protocol.0,
            forward_id: keys.forward_id,
            source: keys.source.get_ref().iter().map(|address| address.0).collect(),
        })
    }

    fn backend_tls_rules(&mut self, section: &Section<file::Backend>) {
        let keys = &section.keys;
        if let (Some(ca), Some(_)) = (&keys.ca, &keys.roots) {
            let message = "excludes roots\nexpected either ca (these authorities alone) or roots";
            self.report(section.site("ca", &ca.span), message);
        }
        if keys.tls.0 != ListenerTls::None || section.is_broken("tls") {
            return;
        }
        let why = "has no meaning with tls = \"none\"";
        let written = [
            ("tls_name", keys.tls_name.as_ref().map(|name| name.span.clone())),
            ("tls_verify", keys.tls_verify.as_ref().map(Spanned::span)),
            ("roots", keys.roots.as_ref().map(|roots| roots.span.clone())),
            ("ca", keys.ca.as_ref().map(|path| path.span.clone())),
            ("client_chain", keys.client_chain.as_ref().map(|path| path.span.clone())),
            ("client_key", keys.client_key.as_ref().map(|path| path.span.clone())),
        ];
        for (key, span) in written {
            self.forbid(section, key, span, why);
        }
    }

    fn client_certificate(&mut self, section: &Section<file::Backend>) -> Option<CertificateFiles> {
        let (chain, key) = (section.keys.client_chain.as_ref(), section.keys.client_key.as_ref());
        if let (Some(chain), Some(key)) = (chain, key) {
            let chain = self.path(section, "client_chain", chain);
            return Some(CertificateFiles { chain, key: self.path(section, "client_key", key) });
        }
        for (here, name, other) in [(chain, "client_chain", "client_key"), (key, "client_key", "client_chain")] {
            if let Some(path) = here.filter(|_| !section.is_broken(other)) {
                self.report(section.site(name, &path.span), format!("needs {other} beside it"));
            }
        }
        None
    }

    /// With a literal address every source may be of the other family, and would then silently never be used.
    fn sources(&mut self, section: &Section<file::Backend>, address: &HostPort) {
        let source = &section.keys.source;
        let Ok(destination) = address.host.parse::<IpAddr>() else { return };
        let fits = |source: &file::Text<IpAddr>| source.0.is_ipv6() == destination.is_ipv6();
        if !source.get_ref().is_empty() && !source.get_ref().iter().any(fits) {
            let family = if destination.is_ipv6() { "IPv6" } else { "IPv4" };
            let message = format!("none of these can be used towards {destination}\nexpected {family} addresses");
            self.report(section.site("source", &source.span()), message);
        }
    }

    fn lookup(&mut self, section: &Section<file::Lookup>) -> Option<Lookup> {
        let keys = &section.keys;
        let kind = self.need(section, "type", keys.r#type.as_ref(), "type = \"file\"");
        let path = self.need(section, "path", keys.path.as_ref(), "the path of the map file");
        let path = self.path(section, "path", path?);
        let source = match kind?.0 {
            file::LookupKind::File => LookupSource::File { path },
        };
        Some(Lookup { name: keys.name.as_ref()?.value.0.clone(), source })
    }

    fn condition(&mut self, section: &Section<file::Route>, listeners: &Names<'_>) {
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
        known: &Names<'_>,
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
    fn target(&mut self, section: &Section<file::Route>, backends: &Names<'_>, lookups: &Names<'_>) -> Option<Target> {
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
        backend.flatten().map(Target::Backend).or(lookup.flatten().map(Target::Lookup)).or(reject)
    }

    fn login(&mut self, section: &Section<file::Route>, tls: &Section<file::Tls>) -> Option<LoginAs> {
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
    fn catch_all(&mut self, routes: &[Section<file::Route>]) {
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
            let message = format!("can never match: {winner} takes everybody\nexpected before it");
            self.report(dead.own_site(), message);
        }
    }

    fn addresses(&mut self, file: &File) {
        let mut own: Vec<(SocketAddr, String)> = Vec::new();
        let listeners = file.listeners.iter().filter_map(|listener| {
            let address = listener.keys.address.as_ref()?;
            Some((address.value, listener.site("address", &address.span), listener.path()))
        });
        let admin = file.admin.iter().map(|admin| {
            let address = &admin.keys.address;
            (address.value, admin.site("address", &address.span), admin.path())
        });
        for (address, site, path) in listeners.chain(admin) {
            if let Some((other, holder)) = own.iter().find(|(other, _)| clash(address, *other)) {
                self.report(site, format!("{holder} listens on {other} already"));
            }
            own.push((address, path.into()));
        }
        for backend in &file.backends {
            let Some(address) = &backend.keys.address else { continue };
            if let Some((_, holder)) = own.iter().find(|(own, _)| reaches(&address.value, *own)) {
                let message = format!("leads back to mailmux itself: {holder} listens there");
                self.report(backend.site("address", &address.span), message);
            }
        }
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

    fn admin(&mut self, section: &Section<file::Admin>) -> Admin {
        let keys = &section.keys;
        let address = &keys.address;
        let exposed = !address.value.ip().to_canonical().is_loopback();
        if exposed && keys.token_file.is_none() && !section.is_broken("token_file") && !section.is_broken("address") {
            let message = "is not loopback, so that token_file is needed\nexpected token_file = \"FILE\" beside it";
            self.report(section.site("address", &address.span), message);
        }
        Admin {
            address: At { value: address.value, site: section.site("address", &address.span) },
            token_file: keys.token_file.as_ref().map(|path| self.path(section, "token_file", path)),
        }
    }
}

fn server(keys: &file::Server) -> Server {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = match *keys.workers.get_ref() {
        0 => cores(),
        count => count.into(),
    };
    Server { workers, drain_timeout: keys.drain_timeout.0 }
}

fn limits(keys: &file::Limits) -> Limits {
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    Limits {
        sessions: count(keys.sessions),
        sessions_per_network: count(keys.sessions_per_network),
        sessions_per_user: count(keys.sessions_per_user),
        connects_per_network: keys.connects_per_network.0,
        logins_per_user: keys.logins_per_user.0,
        failures_per_network: keys.failures_per_network.0,
        failures_per_user: keys.failures_per_user.0,
        exempt: keys.exempt.iter().map(|network| network.0).collect(),
    }
}

fn log(keys: &file::Log) -> Log {
    Log { format: keys.format.0, level: keys.level.0 }
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

fn when(keys: &file::Route) -> When {
    When {
        user: keys.user.as_ref().map(|user| user.0.clone()),
        domain: keys.domain.as_ref().map(|domain| domain.value.clone()),
        listener: keys.listener.as_ref().map(|name| name.value.0.clone()),
        server_name: keys.server_name.as_ref().map(|name| name.0.clone()),
        client: keys.client.iter().flat_map(Spanned::get_ref).map(|network| network.0).collect(),
    }
}

/// All of them, or none; unlike `collect` it does not stop early, so that every element is checked.
fn all<T>(items: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    let items: Vec<_> = items.collect();
    items.into_iter().collect()
}

/// Whether both cannot be listened on at once. Port 0 is the kernel's choice and never clashes.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.port() != 0 && (covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}

/// Whether a socket bound to `bound` hears what is sent to `address`: `[::]` hears IPv4 too.
fn covers(bound: IpAddr, address: IpAddr) -> bool {
    let (bound, address) = (bound.to_canonical(), address.to_canonical());
    bound == address || bound == Ipv6Addr::UNSPECIFIED || (bound == Ipv4Addr::UNSPECIFIED && address.is_ipv4())
}

/// Whether a connection to a backend's address certainly arrives at our own. Of a wildcard only loopback is known here to
/// be ours; the rest is looked at when dialling.
fn reaches(backend: &HostPort, own: SocketAddr) -> bool {
    if backend.port != own.port() {
        return false;
    }
    let name = backend.host.trim_end_matches('.');
    if name.eq_ignore_ascii_case("localhost") {
        return covers(own.ip(), Ipv4Addr::LOCALHOST.into()) || covers(own.ip(), Ipv6Addr::LOCALHOST.into());
    }
    // Connecting to the unspecified address means connecting to loopback.
    let destination = match name.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => Ipv4Addr::LOCALHOST.into(),
        Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => Ipv6Addr::LOCALHOST.into(),
        Ok(address) => address,
        Err(_) => return false,
    };
    destination == own.ip().to_canonical() || (destination.is_loopback() && covers(own.ip(), destination))
}
