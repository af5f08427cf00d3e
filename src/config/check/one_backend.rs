//! The configuration without a file: `mailmux serve --backend HOST:PORT`.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;

use super::{limits, log, pool, server, timeouts};
use crate::config::{
    Admin, At, Backend, BackendTls, ClientAuth, Config, Health, Listener, ListenerTls, LoginAs, Masked, Pooling, Roots,
    Route, Site, Target, Tls, TlsClient, When, file,
};

/// See [`Config::for_one_backend`].
pub(in crate::config) fn one_backend(host: &str, port: u16) -> Config {
    let site = |key: &str| Site { key: key.into(), span: 0..0 };
    let listener = file::Listener::default();
    let client = usual_client(host);
    let loopback = host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    let tls = match port {
        993 => BackendTls::Implicit(client),
        _ if loopback => BackendTls::None,
        _ => BackendTls::StartTls(client),
    };
    Config {
        shown: Masked::of(&as_a_file(host, port, &tls)),
        file: None,
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
            watch: None,
        },
        backends: vec![Backend { name: "backend".into(), host: host.into(), port, tls, ..usual_backend() }],
        groups: Vec::new(),
        lookups: Vec::new(),
        routes: vec![Route {
            when: When::default(),
            target: Target::Backend(0),
            rewrite: None,
            login: LoginAs::Passthrough,
            authenticate: None,
            pool: Pooling::Off,
        }],
        limits: limits(&file::Limits::default()),
        timeouts: timeouts(&file::Timeouts::default()),
        pool: pool(&file::Pool::default()),
        admin: Some(Admin {
            address: At { value: file::Admin::default().address.value, site: site("admin.address") },
            token_file: None,
            socket: None,
            names: Vec::new(),
        }),
        log: log(&file::Log::default()),
    }
}

/// The same, as far as a file can say it.
fn as_a_file(host: &str, port: u16, tls: &BackendTls) -> String {
    let tls = match tls {
        BackendTls::None => "none",
        BackendTls::StartTls(_) => "starttls",
        BackendTls::Implicit(_) => "implicit",
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!(
        "[[listener]]\nname = \"imaps\"\naddress = \"127.0.0.1:1993\"\n\n[[backend]]\nname = \"backend\"\n\
         address = \"{host}:{port}\"\ntls = \"{tls}\"\nhealth = \"off\"\n\n[[route]]\nbackend = \"backend\"\n\n[admin]\n"
    )
}

/// See [`Backend::usual`].
pub(in crate::config) fn usual_backend() -> Backend {
    let keys = file::Backend::default();
    Backend {
        name: String::new(),
        host: String::new(),
        port: 993,
        tls: BackendTls::Implicit(usual_client("")),
        proxy_protocol: keys.proxy_protocol.0,
        forward_id: keys.forward_id,
        source: Vec::new(),
        max_links: 0,
        max_links_per_user: 0,
        weight: NonZeroU32::MIN,
        health: Health::unprobed(),
    }
}

fn usual_client(host: &str) -> TlsClient {
    TlsClient {
        name: host.trim_end_matches('.').into(),
        roots: Roots::WebPki,
        client: None,
        verify: file::Backend::default().tls_verify(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_towards_the_one_backend_goes_by_its_port() {
        let tls = |host, port| Config::for_one_backend(host, port).backends.remove(0).tls;
        assert!(matches!(tls("mail.example.org", 993), BackendTls::Implicit(client) if client.verify));
        assert!(
            matches!(tls("mail.example.org", 143), BackendTls::StartTls(client) if client.name == "mail.example.org")
        );
        assert!(matches!(tls("127.0.0.1", 993), BackendTls::Implicit(_)));
        for host in ["127.0.0.1", "::1", "localhost"] {
            assert!(matches!(tls(host, 14301), BackendTls::None), "{host}");
        }
    }

    #[test]
    fn one_backend_has_the_defaults_of_a_file() {
        let file = "[[listener]]\nname = \"imaps\"\naddress = \"127.0.0.1:1993\"\n[tls]\ndirectory = \"x\"\n\
                    [[backend]]\nname = \"backend\"\naddress = \"127.0.0.1:143\"\ntls = \"none\"\n\
                    [[route]]\nbackend = \"backend\"\n[admin]\n";
        let from_file = Config::parse(file, std::path::Path::new("x.toml")).expect("good");
        let config = Config::for_one_backend("127.0.0.1", 143);
        assert_eq!(format!("{:?}", config.limits), format!("{:?}", from_file.limits));
        assert_eq!(format!("{:?}", config.timeouts), format!("{:?}", from_file.timeouts));
        assert_eq!(format!("{:?}", config.pool), format!("{:?}", from_file.pool));
        assert_eq!(format!("{:?}", config.server), format!("{:?}", from_file.server));
        assert_eq!(config.listeners[0].mechanisms, from_file.listeners[0].mechanisms);
        assert_eq!(config.listeners[0].address.value, from_file.listeners[0].address.value);
        assert_eq!(config.admin.map(|admin| admin.address.value), from_file.admin.map(|admin| admin.address.value));
    }
}
