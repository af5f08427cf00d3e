//! Addresses against each other: two sockets on one address, and backends that are mailmux itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Check;
use crate::config::file::{File, HostPort};

impl Check<'_> {
    pub(super) fn addresses(&mut self, file: &File) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_clash_when_one_hears_what_is_meant_for_the_other() {
        let clash = |a: &str, b: &str| {
            let (a, b) = (a.parse().expect("address"), b.parse().expect("address"));
            assert_eq!(clash(a, b), clash(b, a), "{a} {b}");
            clash(a, b)
        };
        assert!(clash("127.0.0.1:143", "127.0.0.1:143"));
        assert!(clash("0.0.0.0:143", "127.0.0.1:143"));
        assert!(clash("[::]:143", "0.0.0.0:143"));
        assert!(clash("[::]:143", "[::1]:143"));
        assert!(!clash("0.0.0.0:143", "[::1]:143"));
        assert!(!clash("127.0.0.1:143", "127.0.0.1:144"));
        assert!(!clash("127.0.0.1:143", "127.0.0.2:143"));
        assert!(!clash("127.0.0.1:0", "127.0.0.1:0"), "the kernel chooses two");
    }

    #[test]
    fn a_backend_is_ourselves_only_where_that_is_certain() {
        let reaches =
            |host: &str, port, own: &str| reaches(&HostPort { host: host.into(), port }, own.parse().expect("address"));
        assert!(reaches("127.0.0.1", 143, "[::]:143"));
        assert!(reaches("127.9.9.9", 143, "0.0.0.0:143"));
        assert!(reaches("::1", 143, "[::]:143"));
        assert!(reaches("localhost.", 143, "[::1]:143"));
        assert!(reaches("::", 143, "[::1]:143"));
        assert!(reaches("192.0.2.1", 143, "192.0.2.1:143"));
        assert!(!reaches("127.0.0.1", 144, "[::]:143"));
        assert!(!reaches("::1", 143, "0.0.0.0:143"));
        assert!(!reaches("192.0.2.1", 143, "[::]:143"), "another host, for all that is known here");
        assert!(!reaches("mail.example.org", 143, "[::]:143"));
        assert!(!reaches("localhost", 143, "192.0.2.1:143"));
    }
}
