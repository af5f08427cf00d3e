//! `[[backend]]`: where it is, and TLS towards it.

use std::net::IpAddr;
use std::num::NonZeroU32;

use super::Check;
use crate::config::file::{self, Count, HostPort, PublicRoots, Section, Spanned};
use crate::config::{Backend, BackendTls, CertificateFiles, Health, ListenerTls, Roots, TlsClient};

impl Check<'_> {
    pub(super) fn backend(&mut self, section: &Section<file::Backend>) -> Option<Backend> {
        let keys = &section.keys;
        let what = "a host and a port, such as \"mail.example.org:993\"";
        let address = self.need(section, "address", keys.address.as_ref(), what);
        if let Some(address) = address {
            self.sources(section, &address.value);
        }
        // The other rules are looked at without an address too.
        let host = address.map_or("", |address| &address.value.host);
        let tls = match keys.tls.0 {
            ListenerTls::Implicit => BackendTls::Implicit(self.tls_client(section, host)),
            ListenerTls::StartTls => BackendTls::StartTls(self.tls_client(section, host)),
            ListenerTls::None => {
                self.no_tls_keys(section);
                BackendTls::None
            }
        };
        let address = address?;
        Some(Backend {
            name: keys.name.as_ref()?.value.0.clone(),
            host: address.value.host.clone(),
            port: address.value.port,
            tls,
            proxy_protocol: keys.proxy_protocol.0,
            forward_id: keys.forward_id,
            source: keys.source.get_ref().iter().map(|address| address.0).collect(),
            max_links: places(keys.max_links),
            max_links_per_user: places(keys.max_links_per_user),
            weight: count(keys.weight),
            health: self.health(section)?,
        })
    }

    fn health(&mut self, section: &Section<file::Backend>) -> Option<Health> {
        let file::Health { interval, keys } = section.keys.health.get_ref();
        let site = |key: &str| section.site(&format!("health.{key}"), &section.keys.health.span());
        for (key, time) in [("interval", keys.interval.0), ("timeout", keys.timeout.0)] {
            if time.is_zero() {
                self.report(site(key), "must be longer than nothing");
            }
        }
        let login = match (&keys.user, &keys.password_file) {
            (Some(user), Some(path)) => Some((user.value.0.clone(), self.path(section, "health.password_file", path))),
            (None, None) => None,
            (user, _) => {
                let (key, other) = if user.is_some() { ("user", "password_file") } else { ("password_file", "user") };
                self.report(site(key), format!("needs {other} beside it"));
                return None;
            }
        };
        Some(Health {
            interval: *interval,
            timeout: keys.timeout.0,
            rise: count(keys.rise),
            fall: count(keys.fall),
            login,
        })
    }

    /// Whoever writes these believes that there is TLS.
    fn no_tls_keys(&mut self, section: &Section<file::Backend>) {
        let keys = &section.keys;
        let written = [
            ("tls_name", keys.tls_name.as_ref().map(|name| name.span.clone())),
            ("tls_verify", keys.tls_verify.as_ref().map(Spanned::span)),
            ("roots", keys.roots.as_ref().map(|roots| roots.span.clone())),
            ("ca", keys.ca.as_ref().map(|path| path.span.clone())),
            ("client_chain", keys.client_chain.as_ref().map(|path| path.span.clone())),
            ("client_key", keys.client_key.as_ref().map(|path| path.span.clone())),
        ];
        for (key, span) in written {
            self.forbid(section, key, span, "has no meaning with tls = \"none\"");
        }
    }

    fn tls_client(&mut self, section: &Section<file::Backend>, host: &str) -> TlsClient {
        let keys = &section.keys;
        if let (Some(ca), Some(_)) = (&keys.ca, &keys.roots) {
            let message = "excludes roots\nexpected either ca (these authorities alone) or roots";
            self.report(section.site("ca", &ca.span), message);
        }
        let roots = match (&keys.ca, keys.roots()) {
            (Some(path), _) => Roots::File(self.path(section, "ca", path)),
            (None, PublicRoots::WebPki) => Roots::WebPki,
            (None, PublicRoots::System) => Roots::System,
        };
        let name = keys.tls_name.as_ref().map_or(host, |name| &name.value.0);
        TlsClient {
            // A DNS name may end in a dot, one in a certificate does not.
            name: name.trim_end_matches('.').into(),
            roots,
            client: self.client_certificate(section),
            verify: keys.tls_verify(),
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
}

fn places(count: Count<0, { u32::MAX }>) -> usize {
    usize::try_from(count.0).unwrap_or(usize::MAX)
}

/// A count that starts at one.
fn count<const MOST: u32>(count: Count<1, MOST>) -> NonZeroU32 {
    NonZeroU32::new(count.0).unwrap_or(NonZeroU32::MIN)
}
