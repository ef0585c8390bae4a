//! Autodetection: by which of its addresses a node is reached by the others, chosen as Calico's node chooses it.
//! In: a method in Calico's words, the node's interfaces in the kernel's order, which source the kernel takes. Out: an address with its prefix.
//! Invariant: the same interfaces give the same address, whatever was chosen before.
//! Never: an address of loopback, link-local or multicast; one that no interface has.

use crate::World;
use model::{Cidr, Family, IfaceName, Prefixed};
use regex_lite::Regex;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
};

/// Interfaces that are not looked at unless they are named, by how their names begin
/// (node/pkg/lifecycle/startup/autodetection/autodetection_linux.go).
const EXCLUDED: [&str; 17] = [
    "docker",
    "cbr",
    "dummy",
    "virbr",
    "lxcbr",
    "veth",
    "lo",
    "cali",
    "tunl",
    "flannel",
    "kube-ipvs",
    "cni",
    "vxlan.calico",
    "vxlan-v6.calico",
    "wireguard.cali",
    "wg-v6.cali",
    "nodelocaldns",
];

fn is_excluded(IfaceName(name): &IfaceName) -> bool {
    EXCLUDED.iter().any(|start| name.starts_with(start))
}

impl World {
    /// The node's own interfaces, but for those that others make for workloads, with their addresses.
    #[must_use]
    pub fn own_interfaces(&self) -> BTreeMap<IfaceName, BTreeSet<IpAddr>> {
        let own = self.interfaces.iter().filter(|(name, _)| !is_excluded(name));
        own.map(|(name, addresses)| (name.clone(), addresses.clone())).collect()
    }
}

const FIRST_FOUND: &str = "first-found";
const INTERNAL_IP: &str = "kubernetes-internal-ip";
const KNOWN: &str = "give kubernetes-internal-ip, first-found, interface=REGEX[,…], skip-interface=REGEX[,…], can-reach=HOST or cidr=CIDR[,…]";

/// How a node's address is found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// It is what the Node says: nothing is to be found.
    #[default]
    InternalIp,
    /// The first of the first interface that is not excluded.
    FirstFound,
    /// The first of the first interface with such a name.
    Interface(Patterns),
    /// The first of the first interface that is neither excluded nor has such a name.
    SkipInterface(Patterns),
    /// The source of what is sent to this host, by name or address.
    CanReach(String),
    /// The first address in one of these networks.
    Within(Vec<Cidr>),
}

/// Regular expressions, of which one is found in an interface's name.
#[derive(Clone, Debug)]
pub struct Patterns(Vec<Regex>);

/// A method that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {problem}")]
pub struct InvalidMethod {
    text: String,
    problem: String,
}

/// Why a method finds nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// No interface that it looks at has an address of the family.
    #[error("no interface that it looks at has an address of the family; there are {0}")]
    Nowhere(String),
    /// The kernel's source is no interface's.
    #[error("packets to {0} would bear {1}, which no interface has")]
    Unowned(String, IpAddr),
    /// There is no way there.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, String),
}

/// An interface of the node, with its addresses in the kernel's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: IfaceName,
    /// Its addresses.
    pub addresses: Vec<Prefixed>,
}

impl Patterns {
    fn read(list: &str) -> Result<Self, String> {
        let read = |text: &str| match text.trim() {
            "" => Err("an expression is empty, and would be found in every name".to_owned()),
            text => Regex::new(text).map_err(|error| format!("{text:?} is no regular expression: {error}")),
        };
        list.split(',').map(read).collect::<Result<_, _>>().map(Self)
    }

    fn are_in(&self, name: &IfaceName) -> bool {
        self.0.iter().any(|pattern| pattern.is_match(&name.0))
    }
}

impl PartialEq for Patterns {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().map(Regex::as_str).eq(other.0.iter().map(Regex::as_str))
    }
}

impl Eq for Patterns {}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(Regex::as_str).collect::<Vec<_>>().join(","))
    }
}

/// In Calico's words (`IP_AUTODETECTION_METHOD`).
impl FromStr for Method {
    type Err = InvalidMethod;

    fn from_str(text: &str) -> Result<Self, InvalidMethod> {
        let found = match (text, text.split_once('=')) {
            (FIRST_FOUND, _) => Ok(Self::FirstFound),
            (INTERNAL_IP, _) => Ok(Self::InternalIp),
            (_, Some(("interface", list))) => Patterns::read(list).map(Self::Interface),
            (_, Some(("skip-interface", list))) => Patterns::read(list).map(Self::SkipInterface),
            (_, Some(("can-reach", host))) if host.trim().is_empty() => Err("it names no host".to_owned()),
            (_, Some(("can-reach", host))) => Ok(Self::CanReach(host.trim().to_owned())),
            (_, Some(("cidr", list))) => {
                let read = |text: &str| text.trim().parse::<Cidr>().map_err(|error| error.to_string());
                list.split(',').map(read).collect::<Result<_, _>>().map(Self::Within)
            }
            _ => Err(format!("there is no such way to find an address; {KNOWN}")),
        };
        found.map_err(|problem| InvalidMethod { text: text.to_owned(), problem })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InternalIp => f.write_str(INTERNAL_IP),
            Self::FirstFound => f.write_str(FIRST_FOUND),
            Self::Interface(patterns) => write!(f, "interface={patterns}"),
            Self::SkipInterface(patterns) => write!(f, "skip-interface={patterns}"),
            Self::CanReach(host) => write!(f, "can-reach={host}"),
            Self::Within(nets) => {
                let nets: Vec<_> = nets.iter().map(ToString::to_string).collect();
                write!(f, "cidr={}", nets.join(","))
            }
        }
    }
}

impl Method {
    /// The same, for a family of which it can find an address.
    ///
    /// # Errors
    /// All its networks are of the other.
    pub fn of(self, family: Family) -> Result<Self, InvalidMethod> {
        match &self {
            Self::Within(nets) if nets.iter().all(|net| net.family() != family) => Err(InvalidMethod {
                text: self.to_string(),
                problem: "none of its networks is of this family".to_owned(),
            }),
            _ => Ok(self),
        }
    }

    /// The host of which somebody has to ask the kernel.
    #[must_use]
    pub fn destination(&self) -> Option<&str> {
        if let Self::CanReach(host) = self { Some(host) } else { None }
    }

    /// The address; `reached`: the source that the kernel takes towards [`Self::destination`]. `None`: it is what the Node says.
    ///
    /// # Errors
    /// There is none.
    pub fn find(
        &self,
        family: Family,
        interfaces: &[Interface],
        reached: Result<IpAddr, String>,
    ) -> Result<Option<Prefixed>, NotFound> {
        let found = match self {
            Self::InternalIp => return Ok(None),
            Self::CanReach(host) => {
                let source = reached.map_err(|why| NotFound::Unreachable(host.clone(), why))?;
                let own = interfaces.iter().flat_map(|interface| &interface.addresses);
                let found = own.copied().find(|address| address.address() == source);
                return found.map(Some).ok_or_else(|| NotFound::Unowned(host.clone(), source));
            }
            Self::FirstFound => first(family, interfaces, |name| !is_excluded(name), |_| true),
            Self::Interface(patterns) => first(family, interfaces, |name| patterns.are_in(name), |_| true),
            Self::SkipInterface(patterns) => {
                first(family, interfaces, |name| !is_excluded(name) && !patterns.are_in(name), |_| true)
            }
            Self::Within(nets) => {
                first(family, interfaces, |_| true, |address| nets.iter().any(|net| net.contains(address)))
            }
        };
        found.map(Some).ok_or_else(|| NotFound::Nowhere(names(interfaces)))
    }
}

/// Calico looks at the interface that came last first.
fn first(
    family: Family,
    interfaces: &[Interface],
    looks_at: impl Fn(&IfaceName) -> bool,
    takes: impl Fn(IpAddr) -> bool,
) -> Option<Prefixed> {
    let looked_at = interfaces.iter().rev().filter(|interface| looks_at(&interface.name));
    let usable = |address: IpAddr| Family::of(address) == family && is_global(address) && takes(address);
    looked_at.flat_map(|interface| &interface.addresses).copied().find(|found| usable(found.address()))
}

fn is_global(address: IpAddr) -> bool {
    let is_special = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !is_special && !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

fn names(interfaces: &[Interface]) -> String {
    let with_addresses = interfaces.iter().filter(|interface| !interface.addresses.is_empty());
    let names: Vec<_> = with_addresses.map(|interface| interface.name.0.as_str()).collect();
    if names.is_empty() { "none with any".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        Interface { name: IfaceName(name.to_owned()), addresses }
    }

    /// In the kernel's order.
    fn node() -> Vec<Interface> {
        vec![
            interface("lo", &["127.0.0.1/8", "::1/128", "203.0.113.1/32"]),
            interface("eth0", &["169.254.7.7/16", "192.0.2.1/24", "192.0.2.9/24", "fe80::1/64", "2001:db8::1/64"]),
            interface("eth1", &["198.51.100.1/25", "2001:db8:1::1/56"]),
            interface("docker0", &["172.17.0.1/16"]),
            interface("cali1234", &["10.9.9.9/32"]),
            interface("vxlan.calico", &["10.65.0.0/32"]),
        ]
    }

    fn found_with(method: &str, family: Family, reached: Result<IpAddr, String>) -> Result<String, String> {
        let method: Method = method.parse().map_err(|error: InvalidMethod| error.to_string())?;
        let found = method.find(family, &node(), reached).map_err(|error| error.to_string())?;
        Ok(found.map_or("as the Node says".to_owned(), |address| address.to_string()))
    }

    fn found(method: &str, family: Family) -> Result<String, String> {
        found_with(method, family, Err("nobody asked".to_owned()))
    }

    #[test]
    fn each_method_finds_the_address_that_calicos_node_finds() {
        for (method, v4, v6) in [
            ("first-found", "198.51.100.1/25", "2001:db8:1::1/56"),
            ("interface=eth0", "192.0.2.1/24", "2001:db8::1/64"),
            ("interface=nothing, eth[0]$", "192.0.2.1/24", "2001:db8::1/64"),
            ("interface=eth.*", "198.51.100.1/25", "2001:db8:1::1/56"),
            ("skip-interface=eth1", "192.0.2.1/24", "2001:db8::1/64"),
            ("cidr=192.0.2.8/29,2001:db8::/64", "192.0.2.9/24", "2001:db8::1/64"),
            ("kubernetes-internal-ip", "as the Node says", "as the Node says"),
        ] {
            assert_eq!(found(method, Family::V4).as_deref(), Ok(v4), "{method}");
            assert_eq!(found(method, Family::V6).as_deref(), Ok(v6), "{method}");
        }
        // A name alone is looked at even where it would be excluded.
        assert_eq!(found("interface=docker0", Family::V4).as_deref(), Ok("172.17.0.1/16"));
        assert_eq!(found("interface=lo", Family::V4).as_deref(), Ok("203.0.113.1/32"), "not of loopback");
    }

    #[test]
    fn can_reach_is_the_source_that_the_kernel_takes_where_an_interface_has_it() {
        let reached =
            |text: &str| found_with("can-reach=example.org", Family::V4, Ok(text.parse().expect("an address")));
        assert_eq!(reached("192.0.2.9").as_deref(), Ok("192.0.2.9/24"));
        assert!(reached("192.0.2.77").is_err_and(|error| error.contains("192.0.2.77, which no interface has")));
        let none = found("can-reach=example.org", Family::V4);
        assert!(none.is_err_and(|error| error.contains("example.org cannot be reached: nobody asked")));
    }

    #[test]
    fn where_nothing_is_found_the_interfaces_are_named() {
        let error = found("skip-interface=eth", Family::V6).expect_err("nothing");
        assert!(error.contains("eth0, eth1, docker0"), "{error}");
        let none = Method::FirstFound.find(Family::V4, &[], Ok([0, 0, 0, 0].into()));
        assert!(none.is_err_and(|error| error.to_string().contains("none with any")));
    }

    #[test]
    fn what_is_no_method_is_refused_with_what_would_be_one() {
        for (text, part) in [
            ("", "first-found"),
            ("firstfound", "can-reach=HOST"),
            ("interface=", "empty"),
            ("interface=eth0,", "empty"),
            ("interface=eth(", "\"eth(\" is no regular expression"),
            ("skip-interface=[", "regular expression"),
            ("can-reach=", "no host"),
            ("cidr=", "10.0.0.0/8"),
            ("cidr=192.0.2.0/24,here", "\"here\""),
        ] {
            let error = text.parse::<Method>().expect_err(text).to_string();
            assert!(error.contains(part) && error.contains(&format!("{text:?}")), "{error}");
        }
        let v4: Method = "cidr=192.0.2.0/24".parse().expect("a method");
        assert!(v4.clone().of(Family::V4).is_ok());
        assert!(v4.of(Family::V6).is_err_and(|error| error.to_string().contains("of this family")));
    }

    #[test]
    fn a_method_is_told_in_the_words_in_which_it_was_given() {
        for text in [
            "first-found",
            "kubernetes-internal-ip",
            "interface=eth0,bond.*",
            "skip-interface=br-",
            "can-reach=192.0.2.254",
            "cidr=192.0.2.0/24,2001:db8::/64",
        ] {
            assert_eq!(text.parse::<Method>().expect("a method").to_string(), text);
        }
    }
}
