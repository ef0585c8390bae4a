//! FelixConfiguration: how Calico's agent is told to behave, as far as it means something here.
//! In: the object `default`, and one for each node that differs. Out: choices that were made; what was not chosen is `None`.
//! Invariant: a choice of the node's own object goes before that of one that selects it, and that before the default object's.
//! Never: this project's own defaults; whoever asks has them.

use crate::{Cidr, Created, NodeName, Protocol, Selector};
use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

/// What a refused packet meets (iptablesFilterDenyAction).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyAction {
    /// Silence.
    Drop,
    /// An answer that says so.
    Reject,
}

/// What becomes of what a pod sends to its own node, once its own rules have let it go (defaultEndpointToHostAction).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointToHost {
    /// Nothing arrives, but for replies.
    Drop,
    /// The host's own rules decide.
    Return,
    /// It arrives.
    Accept,
}

/// A port that no policy of a host endpoint can close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failsafe {
    /// Its protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// Only for peers in this network.
    pub net: Option<Cidr>,
}

/// What is logged (logSeverityScreen).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What did not work.
    Error,
    /// And what is not as it should be.
    Warn,
    /// And what happens.
    Info,
    /// And how.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// As the setting `log` has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// One object; by default one that chooses nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FelixConfiguration {
    /// Its name: [`Self::DEFAULT`], that of [`Self::of_node`], or any.
    pub name: String,
    /// Of one with another name: which nodes it is for. `None`: it is for none.
    pub selector: Option<Selector>,
    /// When it was made: of several that select a node the oldest is for it.
    pub created: Created,
    /// What a refused packet meets.
    pub deny_action: Option<DenyAction>,
    /// What becomes of what a pod sends to its own node.
    pub endpoint_to_host: Option<EndpointToHost>,
    /// Ports that stay open towards this node.
    pub failsafe_inbound: Option<Vec<Failsafe>>,
    /// Ports that stay open from this node.
    pub failsafe_outbound: Option<Vec<Failsafe>>,
    /// Nodes answer at their uplink for addresses of their pods (localSubnetL2Reachability: PodsAndLoadBalancers).
    pub answers_for_pods: Option<bool>,
    /// How often they say so unasked; zero: only once (localSubnetL2ReachabilityRefreshInterval).
    pub announces_every: Option<Duration>,
    /// What is logged.
    pub log: Option<LogLevel>,
    /// All fields that it sets, those that mean nothing here too.
    pub sets: BTreeSet<String>,
    /// Pods are reached at the floating addresses that they ask for (floatingIPs: Enabled).
    pub floating_ips: Option<bool>,
    /// Pods may send by other source addresses than their own, where they ask for it (workloadSourceSpoofing: Any).
    pub source_spoofing: Option<bool>,
    /// Pods of pools with `natOutgoing` reach nodes by their own addresses (natOutgoingExclusions: IPPoolsAndHostIPs).
    pub nat_excludes_nodes: Option<bool>,
    /// The IPv4 address by which a node stands for its pods outside (natOutgoingAddress).
    pub nat_address: Option<Ipv4Addr>,
    /// The first and the last port by which it does (natPortRange).
    pub nat_ports: Option<(u16, u16)>,
    /// The largest packet that goes through VXLAN over IPv4; where it is not said, what the uplink leaves (vxlanMTU).
    pub vxlan_mtu: Option<u32>,
    /// The same over IPv6 (vxlanMTUV6).
    pub vxlan_mtu_v6: Option<u32>,
    /// The same through IPIP (ipipMTU).
    pub ipip_mtu: Option<u32>,
    /// The network of VXLAN that all tunnels are (vxlanVNI).
    pub vxlan_vni: Option<u32>,
    /// Their UDP port (vxlanPort).
    pub vxlan_port: Option<u16>,
    /// Who is no node of the cluster, and may send wrapped packets (externalNodesList).
    pub external_nodes: Option<Box<[Cidr]>>,
    /// Tunnels by VXLAN are made where pools ask for them (vxlanEnabled).
    pub vxlan_enabled: Option<bool>,
    /// The same by IPIP (ipipEnabled).
    pub ipip_enabled: Option<bool>,
}

impl FelixConfiguration {
    /// The object for all nodes.
    pub const DEFAULT: &'static str = "default";

    /// The name of the object for one node alone.
    #[must_use]
    pub fn of_node(node: &NodeName) -> String {
        format!("node.{node}")
    }
}
