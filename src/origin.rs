//! Where a client comes from: what the socket says, what a trusted balancer's PROXY header says, and what a trusted
//! webmail says by RFC 2971 ID. Each of the latter two is believed only from the networks the listener names.

use std::net::{IpAddr, SocketAddr};
use std::str;

use crate::proxy_header::Proxied;

/// The hops a login may pass before it is taken for a loop; the first proxy on the way counts down from here.
const FIRST_TTL: u8 = 7;
/// The longest session id taken over from a trusted peer.
const LONGEST_SESSION_ID: usize = 64;

/// Where a client comes from, as far as it is known.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The other end of the socket.
    pub peer: SocketAddr,
    /// The client itself; what limits and logs go by.
    pub client: SocketAddr,
    /// The address the client connected to.
    pub local: SocketAddr,
    /// Whether the client's connection is encrypted, by us or by the balancer.
    pub secure: bool,
    /// The name it asked for, by SNI.
    pub server_name: Option<String>,
    /// How many more proxies may follow.
    pub ttl: u8,
    /// The session's id, if a trusted proxy before us gave one.
    pub session: Option<String>,
    /// What a balancer's PROXY header said: the client's address, and the one it connected to.
    pub proxied: Option<(SocketAddr, SocketAddr)>,
}

impl Origin {
    /// What the socket says.
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        let peer = canonical(peer);
        Self {
            peer,
            client: peer,
            local: canonical(local),
            secure: false,
            server_name: None,
            ttl: FIRST_TTL,
            session: None,
            proxied: None,
        }
    }

    /// What a trusted balancer says.
    pub fn behind(&mut self, header: Proxied) {
        self.proxied = header.source.zip(header.destination);
        if let Some(source) = header.source {
            self.client = canonical(source);
        }
        if let Some(destination) = header.destination {
            self.local = canonical(destination);
        }
        self.secure |= header.secure;
        self.server_name = header.server_name.or_else(|| self.server_name.take());
    }

    /// What the client's ID says. The number of hops is listened to from everybody, since it can only shorten the
    /// speaker's own way; the rest only when the speaker is `trusted`. What is malformed is not believed.
    pub fn identified(&mut self, id: &[(Vec<u8>, Vec<u8>)], trusted: bool) {
        let value = |key: &str| {
            let (_, value) = id.iter().find(|(name, _)| name.eq_ignore_ascii_case(key.as_bytes()))?;
            str::from_utf8(value).ok()
        };
        if let Some(ttl) = value("x-proxy-ttl") {
            self.ttl = ttl.parse().map_or(0, |ttl: u8| ttl.min(FIRST_TTL));
        }
        if !trusted {
            return;
        }
        if let Some(ip) = value("x-originating-ip").and_then(|ip| ip.parse::<IpAddr>().ok()) {
            let port = value("x-originating-port").and_then(|port| port.parse().ok()).unwrap_or(0);
            self.client = canonical(SocketAddr::new(ip, port));
        }
        self.session = value("x-session-id")
            .or_else(|| value("x-session-ext-id"))
            .filter(|id| (1..=LONGEST_SESSION_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()))
            .map(str::to_owned);
    }
}

/// An IPv4 client on a dual-stack socket is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin::new("[::ffff:192.0.2.7]:4000".parse().expect("address"), "[::1]:993".parse().expect("address"))
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
        pairs.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_mapped_address_is_shown_as_ipv4() {
        assert_eq!(origin().client.to_string(), "192.0.2.7:4000");
    }

    #[test]
    fn a_stranger_can_only_shorten_its_own_way() {
        let mut origin = origin();
        let id = pairs(&[("x-originating-ip", "203.0.113.9"), ("X-Proxy-TTL", "3"), ("x-session-id", "abc")]);
        origin.identified(&id, false);
        assert_eq!((origin.client.to_string().as_str(), origin.ttl), ("192.0.2.7:4000", 3));
        assert_eq!(origin.session, None);
    }

    #[test]
    fn a_trusted_webmail_names_its_client() {
        let mut origin = origin();
        let id = pairs(&[("X-Originating-IP", "203.0.113.9"), ("x-originating-port", "99"), ("x-session-id", "abc")]);
        origin.identified(&id, true);
        assert_eq!(origin.client.to_string(), "203.0.113.9:99");
        assert_eq!(origin.session.as_deref(), Some("abc"));
    }

    #[test]
    fn a_broken_count_of_hops_is_no_way_around_the_loop_guard() {
        for (ttl, expected) in [("0", 0), ("-1", 0), ("x", 0), ("300", 0), ("250", 7), ("2", 2)] {
            let mut origin = origin();
            origin.identified(&pairs(&[("x-proxy-ttl", ttl)]), false);
            assert_eq!(origin.ttl, expected, "{ttl}");
        }
    }

    #[test]
    fn malformed_words_of_a_trusted_peer_change_nothing() {
        let mut origin = origin();
        let long = "x".repeat(65);
        origin.identified(&pairs(&[("x-originating-ip", "not an address"), ("x-session-id", &long)]), true);
        assert_eq!(origin.client.to_string(), "192.0.2.7:4000");
        assert_eq!(origin.session, None);
    }
}
