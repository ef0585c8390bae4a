//! Node ports: at which of this node's addresses they are (kube-proxy's `nodePortAddresses`).
//! In: the setting, the node's addresses. Out: those at which node ports are served.
//! Invariant: of a family that the setting has no network of, all addresses are meant.
//! Never: an address that this host does not have.

use crate::World;
use model::{Cidr, Family};
use std::{collections::BTreeSet, net::IpAddr};

/// The setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// Those in one of these networks.
    Within(Vec<Cidr>),
    /// The first of each family that the Node object has: internal ones come before external ones.
    Primary,
}

impl Default for NodePortAddresses {
    fn default() -> Self {
        Self::Within(Vec::new())
    }
}

impl NodePortAddresses {
    /// Whether every address of a family is meant.
    #[must_use]
    pub fn are_all(&self, family: Family) -> bool {
        match self {
            Self::Within(nets) => {
                let mut own = nets.iter().filter(|net| net.family() == family).peekable();
                own.peek().is_none() || own.any(|net| net.prefix_len() == 0)
            }
            Self::Primary => false,
        }
    }
}

impl World {
    /// This node's addresses at which node ports are served.
    #[must_use]
    pub fn node_port_addresses(&self) -> BTreeSet<IpAddr> {
        let primary = |family: Family| {
            let addresses = self.nodes.get(&self.node).map(|node| &node.addresses).into_iter().flatten();
            addresses.copied().find(|address| Family::of(*address) == family)
        };
        let is_meant = |address: &IpAddr| match &self.node_ports {
            NodePortAddresses::Within(nets) => {
                self.node_ports.are_all(Family::of(*address)) || nets.iter().any(|net| net.contains(*address))
            }
            NodePortAddresses::Primary => primary(Family::of(*address)) == Some(*address),
        };
        self.host.iter().copied().filter(is_meant).collect()
    }

    /// Whether node ports are at every address of a family, those included that the host gets later.
    #[must_use]
    pub fn has_node_ports_everywhere(&self, family: Family) -> bool {
        self.node_ports.are_all(family)
    }

    /// What is wrong with the setting: nobody says which addresses are meant.
    #[must_use]
    pub fn node_port_remark(&self) -> Option<String> {
        let is_unknown = self.node_ports == NodePortAddresses::Primary && self.node_port_addresses().is_empty();
        let has_any =
            || self.services.values().any(|service| service.ports.iter().any(|port| port.node_port.is_some()));
        (is_unknown && has_any()).then(|| {
            format!(
                "nodePortAddresses: primary: the Node object {} names no address that this host has; node ports are served nowhere",
                self.node
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Node, Resource, Update};

    fn world(own: &[&str]) -> World {
        let mut world = World::new("n1".into(), false);
        world.set_host_addresses(own.iter().map(|text| text.parse().expect("an address")).collect());
        world
    }

    fn served(world: &World) -> Vec<String> {
        world.node_port_addresses().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn node_ports_are_where_the_setting_says_family_by_family() {
        let mut world = world(&["192.168.7.1", "10.0.0.1", "fd00::1", "2001:db8::1"]);
        for (nets, expected) in [
            (&[][..], &["10.0.0.1", "192.168.7.1", "2001:db8::1", "fd00::1"][..]),
            (&["10.0.0.0/8"], &["10.0.0.1", "2001:db8::1", "fd00::1"]),
            (&["fd00::/8"], &["10.0.0.1", "192.168.7.1", "fd00::1"]),
            (&["10.0.0.0/8", "fd00::/8", "172.16.0.0/12"], &["10.0.0.1", "fd00::1"]),
            (&["10.0.0.0/8", "0.0.0.0/0"], &["10.0.0.1", "192.168.7.1", "2001:db8::1", "fd00::1"]),
        ] {
            let nets: Vec<Cidr> = nets.iter().map(|net| net.parse().expect("a network")).collect();
            world.set_node_ports(NodePortAddresses::Within(nets.clone()));
            assert_eq!(served(&world), expected, "{nets:?}");
        }
    }

    #[test]
    fn the_primary_address_of_each_family_is_the_first_that_the_node_object_has() {
        let mut world = world(&["192.168.7.1", "10.0.0.1", "fd00::1"]);
        world.set_node_ports(NodePortAddresses::Primary);
        assert_eq!(served(&world), [""; 0], "nobody has said it");
        let addresses = ["10.0.0.1", "192.168.7.1", "fd00::2", "fd00::1"];
        let addresses = addresses.map(|text| text.parse().expect("an address")).into();
        let node = Node {
            name: "n1".into(),
            addresses,
            labels: Default::default(),
            pod_cidrs: vec![],
            bgp: Default::default(),
            vteps: Default::default(),
            told: Default::default(),
        };
        world.apply(Update::Set(Resource::Node(node)));
        assert_eq!(served(&world), ["10.0.0.1"], "the first of IPv6 is not this host's");
        assert!(!world.has_node_ports_everywhere(Family::V4));
    }
}
