//! Addresses: of which IP version they are, and whether packets between sites can carry them.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// RFC 791.
    Ipv4,
    /// RFC 8200.
    Ipv6,
}

impl Family {
    /// An address's.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// Of the IP header of a flow's packets: without options and extension headers.
    #[must_use]
    pub const fn header_bytes(self) -> u16 {
        match self {
            Self::Ipv4 => 20,
            Self::Ipv6 => 40,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// What is allowed instead where packets between sites cannot carry this address; `None` if they can.
#[must_use]
pub fn allowed_instead(address: IpAddr) -> Option<&'static str> {
    const UNICAST: &str = "the unicast address of a host";
    if address.is_unspecified() || address.is_multicast() {
        return Some(UNICAST);
    }
    if address.is_loopback() {
        return Some("an address that other hosts can reach, not loopback");
    }
    match address {
        IpAddr::V4(address) => address.is_broadcast().then_some(UNICAST),
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => {
            Some("an IPv4 address written as one, not mapped into IPv6")
        }
        IpAddr::V6(address) => {
            address.is_unicast_link_local().then_some("an address that is routed, not a link-local one")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_hosts_are_allowed_and_no_others() {
        for good in ["10.0.0.1", "192.0.2.1", "169.254.0.1", "2001:db8::1", "fd00::1", "64:ff9b::a00:1"] {
            assert_eq!(allowed_instead(good.parse().unwrap()), None, "{good}");
        }
        let bad = [
            ("0.0.0.0", "unicast"),
            ("224.0.0.1", "unicast"),
            ("255.255.255.255", "unicast"),
            ("127.0.0.1", "loopback"),
            ("::", "unicast"),
            ("ff02::1", "unicast"),
            ("::1", "loopback"),
            ("fe80::1", "link-local"),
            ("::ffff:10.0.0.1", "mapped"),
        ];
        for (address, text) in bad {
            let allowed = allowed_instead(address.parse().unwrap());
            assert!(allowed.is_some_and(|allowed| allowed.contains(text)), "{address}: {allowed:?}");
        }
    }
}
