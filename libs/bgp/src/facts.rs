//! Facts: everything that a configuration is made of.
//! In: the last known objects, as the agent holds them. Out: lookups that several parts need.
//! Invariant: of an object that one node has for itself alone, this node's counts before the cluster's.
//! Never: reads anything.

use model::{
    AsNumber, BgpConfiguration, BgpFilter, BgpPeer, Cidr, EndpointSlice, IpPool, Node, NodeName, Password, SecretKey,
    Service, Truth, Wrapping,
};
use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, sync::Arc};

/// What is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// This node.
    pub node: String,
    /// All nodes.
    pub nodes: BTreeMap<NodeName, Node>,
    /// How they speak.
    pub configurations: BTreeMap<String, BgpConfiguration>,
    /// With whom.
    pub peers: BTreeMap<String, BgpPeer>,
    /// What is asked of routes.
    pub filters: BTreeMap<String, BgpFilter>,
    /// Where pods' addresses come from.
    pub pools: Vec<IpPool>,
    /// Blocks of this node.
    pub blocks: Vec<Cidr>,
    /// Networks that this node is in.
    pub networks: Vec<Cidr>,
    /// Somebody else makes the routes to nodes of these networks, too.
    pub leaves_routes: bool,
    /// Services, where one may be told by itself.
    pub services: Vec<Arc<Service>>,
    /// Who stands behind them.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Passwords that are asked for, or why there is none.
    pub passwords: BTreeMap<SecretKey, Result<Password, String>>,
    /// Where BIRD writes what it says.
    pub log: PathBuf,
}

/// A configuration.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// For BIRD. It holds passwords.
    pub text: String,
    /// What could not be made so, and what holds instead.
    pub problems: Vec<String>,
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written").field("problems", &self.problems).finish_non_exhaustive()
    }
}

impl Facts {
    /// This node, if anybody described it.
    pub(crate) fn own(&self) -> Option<&Node> {
        self.nodes.get(&NodeName::from(&*self.node))
    }

    /// What is chosen for a node: by its own configuration, else by the cluster's.
    pub(crate) fn chosen<T>(&self, node: &str, choice: impl Fn(&BgpConfiguration) -> Option<T>) -> Option<T> {
        let named = |name: &str| self.configurations.get(name).and_then(&choice);
        named(&format!("node.{node}")).or_else(|| named(BgpConfiguration::DEFAULT))
    }

    /// What the cluster's says.
    pub(crate) fn cluster(&self) -> Option<&BgpConfiguration> {
        self.configurations.get(BgpConfiguration::DEFAULT)
    }

    /// The AS of a node.
    pub(crate) fn as_of(&self, node: &Node) -> AsNumber {
        let cluster = || self.cluster().and_then(|cluster| cluster.as_number);
        node.bgp.as_number.or_else(cluster).unwrap_or(AsNumber::DEFAULT)
    }

    /// The port of a node; `None`: BGP's own.
    pub(crate) fn port_of(&self, node: &Node) -> Option<u16> {
        self.chosen(&node.name.0, |configuration| configuration.listen_port)
    }

    /// By which address a node speaks: one that was found for it goes before those that it says.
    pub(crate) fn address_of(node: &Node, is_v4: bool) -> Option<IpAddr> {
        node.reached_at().find(|address| address.is_ipv4() == is_v4)
    }

    /// Whether a node has the labels that are asked for.
    pub(crate) fn has(node: &Node, selector: &model::Selector) -> bool {
        selector.matches(&node.labels) == Truth::Yes
    }

    /// Pools of a family, by their networks.
    pub(crate) fn pools(&self, is_v4: bool) -> Vec<&IpPool> {
        let mut pools: Vec<_> = self.pools.iter().filter(|pool| pool.cidr.is_v4() == is_v4).collect();
        pools.sort_by_key(|pool| (pool.cidr, pool.name.clone()));
        pools
    }

    /// Whether the agent itself has the ways between nodes of a pool: packets are wrapped there.
    pub(crate) fn is_wrapped(pool: &IpPool) -> bool {
        pool.wrapping != Wrapping::Never
    }
}
