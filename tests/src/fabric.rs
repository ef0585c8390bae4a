//! The network between nodes: one L2 segment, whose own addresses are a host outside the cluster.
//! In: nodes that join. Out: an uplink `eth0` in each, with an address of both families.
//! Invariant: nothing is routed here unless a test says so: no default route, no forwarding.
//! Never: knows pods; a test routes to them by hand where no routing daemon does.

use crate::NetNs;
use anyhow::Result;
use std::net::IpAddr;

/// Address of the outside host, IPv4 (RFC 5737).
pub const OUTSIDE_V4: &str = "192.0.2.254";
/// Address of the outside host, IPv6 (RFC 3849).
pub const OUTSIDE_V6: &str = "2001:db8::fe";

/// The segment.
#[derive(Debug)]
pub struct Fabric {
    namespace: NetNs,
}

impl Fabric {
    /// Makes it.
    ///
    /// # Errors
    /// The kernel refuses a namespace or a bridge.
    pub fn create(stem: &str) -> Result<Self> {
        let namespace = NetNs::create(stem, "outside")?;
        namespace.ip(&[
            // Else it would change with every port, and those that know the host would look for it where it was.
            "link add br0 address 02:00:00:00:00:fe type bridge forward_delay 0 mcast_snooping 0",
            &format!("address add {OUTSIDE_V4}/24 dev br0"),
            &format!("address add {OUTSIDE_V6}/64 dev br0 nodad"),
            "link set br0 up",
        ])?;
        Ok(Self { namespace })
    }

    /// The outside host.
    #[must_use]
    pub fn outside(&self) -> &NetNs {
        &self.namespace
    }

    /// Gives `node` its uplink, with the addresses that belong to `number`.
    ///
    /// # Errors
    /// The node has an `eth0` already.
    pub fn join(&self, node: &NetNs, number: u8) -> Result<()> {
        self.namespace.ip(&[
            &format!("link add uplink{number} type veth peer name eth0 netns {}", node.name()),
            &format!("link set uplink{number} master br0 up"),
        ])?;
        let [v4, v6] = addresses(number);
        node.sysctl("ipv6/conf/eth0/accept_dad", "0")?;
        node.ip(&[
            &format!("address add {v4}/24 dev eth0"),
            &format!("address add {v6}/64 dev eth0 nodad"),
            "link set eth0 up",
        ])?;
        node.wait_link("eth0")
    }

    /// Routes `destination` over node `number`, in `from`.
    ///
    /// # Errors
    /// The route cannot be made.
    pub fn route(from: &NetNs, destination: IpAddr, number: u8) -> Result<()> {
        let [v4, v6] = addresses(number);
        let via = if destination.is_ipv4() { v4 } else { v6 };
        from.ip(&[&format!("route replace {destination} via {via}")])
    }
}

/// The addresses of node `number`, IPv4 and IPv6.
#[must_use]
pub fn addresses(number: u8) -> [String; 2] {
    [format!("192.0.2.{number}"), format!("2001:db8::{number:x}")]
}
