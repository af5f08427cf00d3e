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

/// The network as limits count it, if these addresses are all of one.
pub fn the_one(networks: &IpNet) -> Option<IpAddr> {
    let least = if networks.addr().is_ipv4() { 32 } else { 64 };
    (networks.prefix_len() >= least).then(|| network_of(networks.addr()))
}

/// The network of limits that this address stands for, as people write it.
pub fn written(network: IpAddr) -> String {
    match network {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("{address}/64"),
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
    fn addresses_that_are_all_of_one_network() {
        let one = |networks: &str| the_one(&networks.parse().expect("networks")).map(written);
        assert_eq!(one("192.0.2.1/32").as_deref(), Some("192.0.2.1"));
        assert_eq!(one("2001:db8:1:2::/64").as_deref(), Some("2001:db8:1:2::/64"));
        assert_eq!(one("2001:db8:1:2::7/128").as_deref(), Some("2001:db8:1:2::/64"));
        assert_eq!((one("192.0.2.0/31"), one("2001:db8:1:2::/63")), (None, None));
    }

    #[test]
    fn a_mapped_address_is_in_its_ipv4_network() {
        let networks = ["10.0.0.0/8".parse().expect("a network")];
        assert!(is_in(ip("::ffff:10.1.2.3"), &networks));
        assert!(!is_in(ip("11.0.0.1"), &networks));
    }
}
