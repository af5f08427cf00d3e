//! Addresses as limits see them. One household or server has one IPv4 address but a whole IPv6 /64, and can pick a new
//! address in it for every connection.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// The network an address is counted under: itself for IPv4 (mapped into IPv6 or not), its /64 for IPv6.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Whether an address is in one of these networks.
pub fn is_in(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_network_each() {
        assert_eq!(network_of(ip("192.0.2.1")), ip("192.0.2.1"));
        assert_eq!(network_of(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert_eq!(network_of(ip("2001:db8:1:2:3:4:5:6")), ip("2001:db8:1:2::"));
        assert_eq!(network_of(ip("2001:db8:1:2::ffff")), ip("2001:db8:1:2::"));
        assert_ne!(network_of(ip("2001:db8:1:3::1")), ip("2001:db8:1:2::"));
    }

    #[test]
    fn a_mapped_address_is_in_its_ipv4_network() {
        let networks = ["10.0.0.0/8".parse().expect("a network")];
        assert!(is_in(ip("::ffff:10.1.2.3"), &networks));
        assert!(!is_in(ip("11.0.0.1"), &networks));
    }
}
