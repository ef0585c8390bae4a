//! Addresses that two nodes say: named, for packets to both would come to one.
//! In: the nodes of a [`World`]. Out: which nodes have an address in common; who else says one of this node's.
//! Invariant: each such address is told once, with all who say it.
//! Never: decides whose it is.

use crate::World;
use model::NodeName;
use std::{collections::BTreeMap, net::IpAddr};

impl World {
    /// Nodes that say one address.
    #[must_use]
    pub fn doubled_addresses(&self) -> Vec<String> {
        let mut said: BTreeMap<IpAddr, Vec<&NodeName>> = BTreeMap::new();
        for node in self.nodes.values() {
            for address in node.reached_at() {
                said.entry(address).or_default().push(&node.name);
            }
        }
        let doubled = said.into_iter().filter(|(_, nodes)| nodes.len() > 1);
        doubled.map(|(address, nodes)| remark(address, &nodes)).collect()
    }

    /// Other nodes that say an address which this node has.
    pub fn claimants(&self) -> impl Iterator<Item = (IpAddr, &NodeName)> {
        let others = self.nodes.values().filter(|node| node.name != self.node);
        let all = others.flat_map(|node| node.reached_at().map(move |address| (address, &node.name)));
        all.filter(|(address, _)| self.host.contains(address))
    }
}

fn remark(address: IpAddr, nodes: &[&NodeName]) -> String {
    let nodes: Vec<_> = nodes.iter().map(|node| node.0.as_ref()).collect();
    let nodes = nodes.join(", ");
    format!(
        "Nodes {nodes} say the same address {address}: packets to their pods come to one of them; give each its own"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Labels, Node, NodeAddresses, Resource, ToldAddresses, Update, Vteps};

    fn node(name: &str, address: &str) -> Update {
        let (labels, pod_cidrs, vteps) = (Labels::default(), Vec::new(), Vteps::default());
        let addresses = vec![address.parse().expect("an address")];
        let told = ToldAddresses::default();
        Update::Set(Resource::Node(Node {
            name: name.into(),
            addresses,
            labels,
            pod_cidrs,
            vteps,
            told,
            bgp: Default::default(),
        }))
    }

    #[test]
    fn nodes_of_one_address_are_named_together_whether_they_say_it_or_it_was_found() {
        let mut world = World::new("n1".into(), false);
        world.set_host_addresses([[192, 0, 2, 1].into()].into());
        for (name, address) in [("n1", "192.0.2.1"), ("n2", "192.0.2.2"), ("n3", "192.0.2.3")] {
            world.apply(node(name, address));
        }
        assert_eq!(world.doubled_addresses(), [""; 0]);
        assert_eq!(world.claimants().count(), 0);
        let told = ToldAddresses { v4: Some("192.0.2.1/24".parse().expect("an address")), v6: None };
        world.apply(Update::Set(Resource::NodeAddresses(NodeAddresses { node: "n3".into(), told })));
        let found = world.doubled_addresses();
        assert!(found.len() == 1 && found[0].contains("n1, n3") && found[0].contains("192.0.2.1"), "{found:?}");
        assert_eq!(world.claimants().collect::<Vec<_>>(), [([192, 0, 2, 1].into(), &"n3".into())]);
        world.apply(Update::Gone(model::ResourceKey::NodeAddresses("n3".into())));
        assert_eq!(world.doubled_addresses(), [""; 0], "as it was");
    }
}
