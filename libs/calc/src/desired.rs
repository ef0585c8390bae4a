//! What this node's kernel should hold.
//! In: made only by [`crate::desired`]. Out: data that reconcilers compare with what is there, and that people can read.
//! Invariant: complete; what is not in it is not wanted.
//! Never: kernel ids; reconcilers give those out.

use crate::masquerade::Masquerading;
use model::{AttachmentId, Cidr, IfaceName, Mac, NodeName, PodId, Vteps};
use policy::{Class, RuleSet};
use service::{Balance, Frontend};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

/// A local endpoint to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// The pod.
    pub pod: PodId,
    /// Host side of its veth pair.
    pub interface: IfaceName,
    /// MAC of its own side.
    pub mac: Mac,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Addresses that float to it, of which it knows nothing itself.
    pub floating: Vec<IpAddr>,
    /// Judges what it receives.
    pub ingress: Arc<RuleSet>,
    /// Judges what it sends.
    pub egress: Arc<RuleSet>,
    /// Asked of source addresses that are not its own; `None`: it sends by none.
    pub sources: Option<Arc<RuleSet>>,
    /// Allowed flows outlive a new deny.
    pub keep_established: bool,
    /// Outside of all pools it is this node: by IPv4, by IPv6.
    pub masqueraded: [bool; 2],
}

/// The rule sets of both directions; `None`: everything passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judges {
    /// Judges what comes in.
    pub ingress: Option<Arc<RuleSet>>,
    /// Judges what goes out.
    pub egress: Option<Arc<RuleSet>>,
}

impl Judges {
    /// The rule sets that are there.
    pub fn sets(&self) -> impl Iterator<Item = &Arc<RuleSet>> {
        self.ingress.iter().chain(&self.egress)
    }
}

/// An interface of this node's own that has a host endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEndpointSpec {
    /// Name of the host endpoint.
    pub name: String,
    /// The interface.
    pub interface: IfaceName,
    /// Asked first, packet by packet.
    pub untracked: Judges,
    /// Asked of flows that come in, before a service's address is translated.
    pub pre_dnat: Judges,
    /// Asked of flows that this node forwards.
    pub forward: Judges,
    /// Asked of flows of this node itself.
    pub local: Judges,
    /// Allowed flows outlive a new deny.
    pub keep_established: bool,
}

impl NodeSpec {
    /// The rule sets of both layers, and what is not outside.
    pub fn sets(&self) -> impl Iterator<Item = &Arc<RuleSet>> {
        let inside = self.masquerading.iter().map(|masquerading| &masquerading.inside);
        self.pre_dnat.sets().chain(self.forward.sets()).chain(inside)
    }
}

impl HostEndpointSpec {
    /// The rule sets of all its layers.
    pub fn sets(&self) -> impl Iterator<Item = &Arc<RuleSet>> {
        [&self.untracked, &self.pre_dnat, &self.forward, &self.local].into_iter().flat_map(Judges::sets)
    }
}

/// What another service proxy does in the host's stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Neighbour {
    /// There is none.
    #[default]
    None,
    /// Its rules are there, and carry what was opened by them. New flows are ours to serve.
    Rests,
    /// It serves.
    Serves,
}

/// What holds for the node as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSpec {
    /// What the host endpoint of all interfaces asks of flows that pods send, before all else (E2H-6).
    pub pre_dnat: Judges,
    /// What it asks of flows that pods send and receive (HEP-5, HEP-6).
    pub forward: Judges,
    /// A refused packet is answered.
    pub rejects: bool,
    /// What pods send to this node does not arrive, but for replies.
    pub refuses_workloads: bool,
    /// A foreign proxy translates services in the host's stack: what comes through it is judged where it comes out.
    pub translates: bool,
    /// A foreign proxy's rules are there, whoever translates.
    pub beside: bool,
    /// What it is for its pods outside of all pools; `None`: nothing.
    pub masquerading: Option<Masquerading>,
    /// The UDP port of tunnels between nodes, to which no pod sends; `None`: Calico's.
    pub vxlan_port: Option<u16>,
}

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A pod elsewhere.
    Elsewhere,
    /// This node.
    Host,
    /// The local endpoint.
    Endpoint(AttachmentId),
}

/// An address that resolves by exact lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressSpec {
    /// Its class, the networks over it included.
    pub class: Arc<Class>,
    /// Whose it is.
    pub owner: Owner,
}

/// Where packets to pods of other nodes go, or to a block of this one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeRoute {
    /// A block of this node: what no pod has goes nowhere.
    Blackhole,
    /// To another node, by its address, which is a neighbour at this interface.
    Via {
        /// The other node's address, of the family of what is sent there.
        gateway: IpAddr,
        /// This node's interface.
        interface: IfaceName,
    },
    /// To another node, wrapped by VXLAN.
    Tunnel(TunnelEnd),
    /// To another node, wrapped by IPIP: to the address that the outer header bears, by whatever way leads there.
    Ipip {
        /// The other node's address.
        remote: Ipv4Addr,
    },
    /// To that node, and there is no way.
    None(NodeName, Unroutable),
}

/// Where wrapped packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelEnd {
    /// The node's own address, which the outer header bears.
    pub remote: IpAddr,
    /// Its address on the tunnel device: the next hop.
    pub gateway: IpAddr,
    /// The MAC of that device.
    pub mac: Mac,
}

/// This node's end of its tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSpec {
    /// Its addresses on the device, and the device's MAC.
    pub own: Vteps,
    /// The addresses that the outer headers bear: one of each family, where the node has one.
    pub local: Vec<IpAddr>,
    /// Addresses of other nodes that may send such packets.
    pub peers: BTreeSet<IpAddr>,
    /// Networks of who is no node, and may.
    pub externals: BTreeSet<Cidr>,
    /// The device's MTU at most; `None`: what the uplink leaves.
    pub mtu: Option<u32>,
    /// The network that all tunnels are; `None`: Calico's.
    pub vni: Option<u32>,
    /// Their UDP port likewise.
    pub port: Option<u16>,
}

impl TunnelSpec {
    /// The device's MAC: that which IPv4 bears, for Calico has a device for each family, and there is one here.
    #[must_use]
    pub fn mac(&self) -> Option<Mac> {
        self.own.all().next().map(|end| end.mac)
    }

    /// The device's MTU over an uplink of this one.
    #[must_use]
    pub fn mtu_over(&self, uplink: u32) -> u32 {
        left(uplink, if self.is_v6() { VXLAN_V6 } else { VXLAN_V4 }, self.mtu)
    }

    /// Whether outer headers may be of IPv6, which are longer.
    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.own.v6.is_some()
    }
}

/// How this node sends and takes packets by IPIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpipSpec {
    /// The address that outer headers bear.
    pub local: Ipv4Addr,
    /// Its address within, from which its own packets come; `None`: it has none yet.
    pub own: Option<Ipv4Addr>,
    /// Addresses of other nodes that may send such packets.
    pub peers: BTreeSet<Ipv4Addr>,
    /// Networks of who is no node, and may.
    pub externals: BTreeSet<Cidr>,
    /// The MTU of its routes at most; `None`: what the uplink leaves.
    pub mtu: Option<u32>,
}

impl IpipSpec {
    /// The MTU of its routes over an uplink of this one.
    #[must_use]
    pub fn mtu_over(&self, uplink: u32) -> u32 {
        left(uplink, IPIP, self.mtu)
    }
}

/// What is added by VXLAN over IPv4 and over IPv6 (IP, UDP, VXLAN, Ethernet), and by IPIP (IP).
pub(crate) const VXLAN_V4: u32 = 50;
pub(crate) const VXLAN_V6: u32 = 70;
pub(crate) const IPIP: u32 = 20;

/// The largest packet that a tunnel lets pass: what is said, and no more than an uplink leaves.
pub(crate) fn left(uplink: u32, added: u32, said: Option<u32>) -> u32 {
    let left = uplink.saturating_sub(added);
    said.map_or(left, |said| said.min(left))
}

/// Why there is no way to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unroutable {
    /// Packets would have to be wrapped by VXLAN, which is switched off.
    NoVxlan,
    /// The same by IPIP.
    NoIpip,
    /// Packets of IPv6 would have to be wrapped by IPIP.
    Wrapped,
    /// Its tunnel has no end of the family.
    Endless,
    /// This node's own has none.
    OwnEndless,
    /// It is in no network of this node's.
    Far,
    /// Nor this, and it is left to BGP.
    Left,
    /// It has no address of the family.
    Addressless,
    /// This node's own has none.
    OwnAddressless,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Local endpoints.
    pub endpoints: BTreeMap<AttachmentId, EndpointSpec>,
    /// Local pods, this host, and pods elsewhere that a rule tells from their network.
    pub addresses: BTreeMap<IpAddr, AddressSpec>,
    /// Networks that rules name, and those of network sets and nodes that rules find; each with its own class, the wider networks over it included.
    pub nets: BTreeMap<Cidr, Arc<Class>>,
    /// Interfaces of this node's own that have a host endpoint.
    pub host_endpoints: BTreeMap<IfaceName, HostEndpointSpec>,
    /// What holds for the node as a whole.
    pub node: NodeSpec,
    /// Where services are reached, and what stands behind.
    pub services: BTreeMap<Frontend, Arc<Balance>>,
    /// Where packets to blocks go, and to pods elsewhere that are in none of their node's.
    pub routes: BTreeMap<Cidr, NodeRoute>,
    /// This node's end of its tunnels; `None`: it has no tunnel.
    pub tunnel: Option<Arc<TunnelSpec>>,
    /// How packets go by IPIP; `None`: none do.
    pub ipip: Option<Arc<IpipSpec>>,
}

impl Desired {
    /// Every rule set that judges anything.
    pub fn rule_sets(&self) -> impl Iterator<Item = &Arc<RuleSet>> {
        let of_workloads = self
            .endpoints
            .values()
            .flat_map(|endpoint| [&endpoint.ingress, &endpoint.egress].into_iter().chain(&endpoint.sources));
        of_workloads.chain(self.host_sets())
    }

    /// What a packet meets at an address, by a protocol and a port: what is there, else what floats there as a whole.
    #[must_use]
    pub fn led(&self, at: &Frontend) -> Option<&Arc<Balance>> {
        self.services.get(at).or_else(|| self.services.get(&Frontend::floating(at.address)))
    }

    /// Those that host endpoints ask.
    pub fn host_sets(&self) -> impl Iterator<Item = &Arc<RuleSet>> {
        self.host_endpoints.values().flat_map(HostEndpointSpec::sets).chain(self.node.sets())
    }
}
