//! Networks, ports, protocols and interfaces.
//! In: text or numbers. Out: canonical values, or an error that names the text.
//! Invariant: a `Cidr` has no host bits; a `PortRange` is never empty.
//! Never: resolves names; talks to the kernel.

use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, str::FromStr};

/// Text that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct InvalidNet {
    /// What was found.
    pub text: String,
    /// What was expected, with an example.
    pub expected: &'static str,
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A network without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr(ipnet::IpNet);

impl Cidr {
    /// The network of `prefix_len` bits that `address` lies in.
    ///
    /// # Errors
    /// The prefix is longer than the address.
    pub fn new(address: IpAddr, prefix_len: u8) -> Result<Self, InvalidNet> {
        ipnet::IpNet::new(address, prefix_len).map(|net| Self(net.trunc())).map_err(|_| InvalidNet {
            text: format!("{address}/{prefix_len}"),
            expected: "a network such as 10.0.0.0/8",
        })
    }

    /// The network that holds only `address`.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self(address.into())
    }

    /// Whether `address` lies in it. Never across families.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether every address of `other` lies in it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }

    /// Itself and every network over it: at most 33 or 129.
    pub fn supernets(&self) -> impl Iterator<Item = Self> + use<> {
        let (address, longest) = (self.network(), self.prefix_len());
        (0..=longest).filter_map(move |length| Self::new(address, length).ok())
    }

    /// First address.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        self.0.network()
    }

    /// Last address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        self.0.broadcast()
    }

    /// Prefix length in the network's own family.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Every address of a family.
    #[must_use]
    pub fn all(family: Family) -> Self {
        match family {
            Family::V4 => Self(ipnet::IpNet::V4(ipnet::Ipv4Net::default())),
            Family::V6 => Self(ipnet::IpNet::V6(ipnet::Ipv6Net::default())),
        }
    }

    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        if self.is_v4() { Family::V4 } else { Family::V6 }
    }

    /// Whether it is an IPv4 network.
    #[must_use]
    pub fn is_v4(&self) -> bool {
        matches!(self.0, ipnet::IpNet::V4(_))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cidr {
    type Err = InvalidNet;

    /// `address/length`; host bits are cut off, as Calico does.
    fn from_str(text: &str) -> Result<Self, InvalidNet> {
        text.parse::<ipnet::IpNet>()
            .map(|net| Self(net.trunc()))
            .map_err(|_| InvalidNet { text: text.to_owned(), expected: "a network such as 10.0.0.0/8" })
    }
}

impl TryFrom<String> for Cidr {
    type Error = InvalidNet;

    fn try_from(text: String) -> Result<Self, InvalidNet> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = InvalidNet;

    fn from_str(text: &str) -> Result<Self, InvalidNet> {
        let invalid = || InvalidNet { text: text.to_owned(), expected: "a MAC address such as 0a:58:0a:41:00:02" };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(invalid)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() { Err(invalid()) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = InvalidNet;

    fn try_from(text: String) -> Result<Self, InvalidNet> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// The kernel's number of an interface, within one network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ifindex(pub u32);

/// An interface name: 1 to 15 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IfaceName(pub String);

impl fmt::Display for IfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An IP protocol by its number; prints by name where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// The protocols whose packets carry ports: TCP, UDP, SCTP, UDPLite.
    pub const WITH_PORTS: [Self; 4] = [Self::TCP, Self::UDP, Self::SCTP, Self(136)];
    const NAMES: [(Self, &str); 6] = [
        (Self::TCP, "TCP"),
        (Self::UDP, "UDP"),
        (Self::SCTP, "SCTP"),
        (Self::ICMP, "ICMP"),
        (Self::ICMPV6, "ICMPv6"),
        (Self(136), "UDPLite"),
    ];

    /// Whether its packets carry ports.
    #[must_use]
    pub fn has_ports(self) -> bool {
        Self::WITH_PORTS.contains(&self)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(protocol, _)| protocol == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl TryFrom<String> for Protocol {
    type Error = InvalidNet;

    fn try_from(text: String) -> Result<Self, InvalidNet> {
        text.parse()
    }
}

impl From<Protocol> for String {
    fn from(protocol: Protocol) -> Self {
        protocol.to_string()
    }
}

impl FromStr for Protocol {
    type Err = InvalidNet;

    /// A name, whatever its case, or a number from 1 to 255.
    fn from_str(text: &str) -> Result<Self, InvalidNet> {
        let named = Self::NAMES.iter().find(|(_, name)| name.eq_ignore_ascii_case(text)).map(|(protocol, _)| *protocol);
        named.or_else(|| text.parse().ok().filter(|number| *number > 0).map(Self)).ok_or_else(|| InvalidNet {
            text: text.to_owned(),
            expected: "a protocol: TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite or a number from 1 to 255",
        })
    }
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// # Errors
    /// `last` is smaller than `first`.
    pub fn new(first: u16, last: u16) -> Result<Self, InvalidNet> {
        if first <= last {
            Ok(Self { first, last })
        } else {
            Err(InvalidNet {
                text: format!("{first}-{last}"),
                expected: "a port range whose end is not below its start",
            })
        }
    }

    /// One port.
    #[must_use]
    pub fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// First port.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// Last port.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cidr_loses_its_host_bits_and_never_matches_the_other_family() {
        let cidr: Cidr = "10.1.2.3/8".parse().expect("a valid network");
        assert_eq!(cidr.to_string(), "10.0.0.0/8");
        let all: Cidr = "0.0.0.0/0".parse().expect("a valid network");
        assert!(!all.contains("fd00::1".parse().expect("a valid address")));
    }

    #[test]
    fn protocols_read_names_in_any_case_and_numbers() {
        assert_eq!("tcp".parse(), Ok(Protocol::TCP));
        assert_eq!("132".parse(), Ok(Protocol::SCTP));
        assert!("0".parse::<Protocol>().is_err());
    }
}
