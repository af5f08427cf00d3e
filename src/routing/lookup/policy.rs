//! Where a source may send users: `allow`. A broken or captured source must not be able to send passwords elsewhere. A
//! host that the configuration names is that backend, with its settings and its state.

use std::net::IpAddr;

use super::fields::{Host, Place};
use crate::config::{self, Allow, Config, ListenerTls};
use crate::network::is_in;
use crate::routing::{is_same_host, rule};

/// What one source may say.
#[derive(PartialEq)]
pub(super) struct Policy {
    allow: Allow,
    /// Host and port of each backend.
    backends: Vec<(String, u16)>,
    /// Names in the configuration's order.
    names: (Vec<String>, Vec<String>),
}

impl Policy {
    pub(super) fn new(allow: &Allow, config: &Config) -> Self {
        Self {
            allow: allow.clone(),
            backends: config.backends.iter().map(|backend| (backend.host.clone(), backend.port)).collect(),
            names: (
                config.backends.iter().map(|backend| backend.name.clone()).collect(),
                config.groups.iter().map(|group| group.name.clone()).collect(),
            ),
        }
    }

    /// The place, if users may be sent there.
    ///
    /// # Errors
    /// What is wrong with it, for the log.
    pub(super) fn admit(&self, place: Place) -> Result<Place, String> {
        let place = match place {
            // Where it stands is in the list; the name that it has here need not be.
            Place::Host(host) if self.is_allowed(&host) => return Ok(self.known(host)),
            Place::Host(host) => self.known(host),
            place => place,
        };
        let name = match &place {
            Place::Backend(index) => self.names.0.get(*index),
            Place::Group(index) => self.names.1.get(*index),
            Place::Host(host) => {
                return Err(format!("{} is neither a backend nor in this lookup's allow", host.name));
            }
        };
        match (name, &self.allow.names) {
            (Some(name), Some(names)) if !names.contains(name) => Err(format!("{name} is not in this lookup's allow")),
            _ => Ok(place),
        }
    }

    /// The backend of this host and port, if there is one.
    fn known(&self, host: Host) -> Place {
        let port = host.port();
        let found = self.backends.iter().position(|(name, known)| *known == port && is_same_host(name, &host.name));
        match found {
            // Another address than the configuration's would be another host.
            Some(index) if host.address.is_none() && host.source.is_none() => Place::Backend(index),
            _ => Place::Host(host),
        }
    }

    /// A name must be in the list, and so must the address to dial where the source gives one.
    fn is_allowed(&self, host: &Host) -> bool {
        let Allow { hosts, networks, .. } = &self.allow;
        match (host.name.parse::<IpAddr>(), host.address) {
            (Ok(address), None) => is_in(address.to_canonical(), networks),
            (Ok(address), Some(other)) => {
                is_in(address.to_canonical(), networks) && is_in(other.to_canonical(), networks)
            }
            (Err(_), other) => {
                hosts.iter().any(|glob| rule::matches(glob, host.name.as_bytes()))
                    && other.is_none_or(|address| is_in(address.to_canonical(), networks))
            }
        }
    }
}

impl Host {
    /// The host with this address, on this port.
    pub(super) fn at(address: std::net::SocketAddr) -> Self {
        Self {
            name: address.ip().to_string(),
            address: None,
            port: Some(address.port()),
            tls: None,
            any_certificate: false,
            forward_id: true,
            source: None,
        }
    }

    /// The port, or the usual one.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(match self.tls {
            None | Some(ListenerTls::Implicit) => 993,
            Some(ListenerTls::StartTls | ListenerTls::None) => 143,
        })
    }

    /// What a backend's settings are for this host, after a template.
    ///
    /// # Errors
    /// It wants less protection than the template gives.
    pub fn config(&self, template: &config::Backend) -> Result<config::Backend, String> {
        use config::BackendTls;
        let mut config = template.clone();
        let client = match &template.tls {
            BackendTls::Implicit(client) | BackendTls::StartTls(client) => Some(client.clone()),
            BackendTls::None => None,
        };
        let client = || {
            let usual =
                config::TlsClient { name: String::new(), roots: config::Roots::WebPki, client: None, verify: true };
            let mut client = client.unwrap_or(usual);
            self.name.trim_end_matches('.').clone_into(&mut client.name);
            // The source alone cannot switch verification off, nor does it stay off for hosts that are to be verified.
            client.verify |= !self.any_certificate;
            client
        };
        config.tls = match self.tls {
            None => match &template.tls {
                BackendTls::None => BackendTls::None,
                BackendTls::StartTls(_) => BackendTls::StartTls(client()),
                BackendTls::Implicit(_) => BackendTls::Implicit(client()),
            },
            Some(ListenerTls::Implicit) => BackendTls::Implicit(client()),
            Some(ListenerTls::StartTls) => BackendTls::StartTls(client()),
            Some(ListenerTls::None) if matches!(template.tls, BackendTls::None) => BackendTls::None,
            Some(ListenerTls::None) => {
                return Err(format!("{} is to be spoken to in clear, which its template does not allow", self.name));
            }
        };
        let port = self.port.unwrap_or(match config.tls {
            BackendTls::Implicit(_) => 993,
            BackendTls::StartTls(_) | BackendTls::None => 143,
        });
        config.name = format!("{}:{port}", self.name);
        config.host = self.address.map_or_else(|| self.name.clone(), |address| address.to_string());
        config.port = port;
        config.forward_id &= self.forward_id;
        if let Some(source) = self.source {
            config.source = vec![source];
        }
        // Nobody probes it; logins tell.
        config.health.interval = None;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Glob;

    /// One backend, "backend" at 10.0.0.1:143, and this list.
    fn policy(names: Option<&[&str]>, hosts: &[&str], networks: &[&str]) -> Policy {
        let allow = Allow {
            names: names.map(|names| names.iter().map(|&name| name.to_owned()).collect()),
            hosts: hosts
                .iter()
                .map(|host| Glob(host.split('*').map(|piece| piece.as_bytes().into()).collect()))
                .collect(),
            networks: networks.iter().map(|network| network.parse().expect("a network")).collect(),
        };
        Policy::new(&allow, &Config::for_one_backend("10.0.0.1", 143))
    }

    fn host(name: &str, port: u16) -> Host {
        Host { name: name.to_owned(), ..Host::at(([0, 0, 0, 0], port).into()) }
    }

    fn admitted(policy: &Policy, host: Host) -> Option<Place> {
        policy.admit(Place::Host(host)).ok()
    }

    #[test]
    fn without_a_list_only_what_the_configuration_names() {
        let policy = policy(None, &[], &[]);
        assert!(policy.admit(Place::Backend(0)).is_ok());
        assert_eq!(admitted(&policy, host("10.0.0.1", 143)), Some(Place::Backend(0)), "the same in other words");
        assert_eq!(admitted(&policy, host("::ffff:10.0.0.1", 143)), Some(Place::Backend(0)));
        for other in [host("10.0.0.1", 144), host("10.0.0.2", 143), host("localhost", 143)] {
            let error = policy.admit(Place::Host(other)).expect_err("not in the configuration");
            assert!(error.ends_with("is neither a backend nor in this lookup's allow"), "{error}");
        }
    }

    #[test]
    fn a_list_is_all_there_is() {
        let names = policy(Some(&["other"]), &[], &[]);
        let error = names.admit(Place::Backend(0)).expect_err("not in the list");
        assert_eq!(error, "backend is not in this lookup's allow");
        assert!(admitted(&names, host("10.0.0.1", 143)).is_none());
        assert!(policy(Some(&["backend"]), &[], &[]).admit(Place::Backend(0)).is_ok());
    }

    #[test]
    fn a_network_holds_backends_and_others() {
        let policy = policy(Some(&[]), &[], &["10.0.0.0/24", "2001:db8::/32"]);
        assert_eq!(admitted(&policy, host("10.0.0.1", 143)), Some(Place::Backend(0)), "with its own settings");
        assert!(admitted(&policy, host("10.0.0.2", 143)).is_some());
        assert!(admitted(&policy, host("::ffff:10.0.0.2", 143)).is_some());
        assert!(admitted(&policy, host("2001:db8::1", 993)).is_some());
        for outside in ["10.0.1.1", "2001:db9::1", "mail.example.org", "10.0.0.2.example.org"] {
            assert!(admitted(&policy, host(outside, 143)).is_none(), "{outside}");
        }
        assert!(policy.admit(Place::Backend(0)).is_err(), "by its name it was not listed");
    }

    #[test]
    fn an_address_beside_a_name_must_be_listed_too() {
        let policy = policy(Some(&[]), &["*.mail.example.org"], &["10.0.0.0/24"]);
        let at = |name: &str, address: &str| Host { address: address.parse().ok(), ..host(name, 993) };
        assert!(admitted(&policy, host("a.mail.example.org", 993)).is_some());
        assert!(admitted(&policy, at("a.mail.example.org", "10.0.0.7")).is_some());
        assert!(admitted(&policy, at("a.mail.example.org", "192.0.2.7")).is_none());
        assert!(admitted(&policy, at("10.0.0.7", "192.0.2.7")).is_none());
        assert!(admitted(&policy, host("a.mail.example.org.evil", 993)).is_none());
        // Another address than the configuration's is no backend of it.
        assert!(matches!(admitted(&policy, at("10.0.0.1", "10.0.0.7")), Some(Place::Host(_))));
    }
}
