//! FelixConfiguration: how Calico's agent is told to behave, as far as it means something here.
//! In: the object `default`, and one for each node that differs. Out: choices that were made; what was not chosen is `None`.
//! Invariant: a choice of the node's own object goes before the default object's.
//! Never: this project's own defaults; whoever asks has them.

use crate::{Cidr, NodeName, Protocol};
use std::time::Duration;

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

/// One object; by default one that chooses nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FelixConfiguration {
    /// Its name: [`Self::DEFAULT`], or that of [`Self::of_node`].
    pub name: String,
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
