//! PodCidrs: nodes' own networks (`spec.podCIDRs`) in the place of pools and blocks, as flannel has them.
//! In: nodes as they are told, and how packets between them go. Out: a block and a pool for each network, beside those that are told.
//! Invariant: a node's network is that node's alone, or it is named with all who say it, and no new pod gets an address of it.
//! Never: gives out addresses; another IPAM plugin does (host-local).

use crate::World;
use model::{BlockClaim, Cidr, IpPool, NodeName, PoolUses, Wrapper, Wrapping};
use std::{collections::BTreeSet, net::IpAddr};

/// How nodes' own networks are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodCidrs {
    /// They are nothing to the routes.
    #[default]
    Off,
    /// As they are.
    Direct,
    /// By VXLAN.
    Vxlan,
    /// By VXLAN, where the node is no neighbour.
    CrossSubnet,
}

/// No object's name has a space.
const POOL: &str = "podCIDR ";

/// Whether a pool stands for a node's own network.
pub(crate) fn is_of_node(pool: &IpPool) -> bool {
    pool.name.starts_with(POOL)
}

fn name(cidr: Cidr, node: &NodeName) -> String {
    format!("{POOL}{cidr} {node}")
}

/// Addresses of it are the node's to give, and outside of all of them its pods are their node.
fn pool(how: PodCidrs, cidr: Cidr, node: &NodeName) -> IpPool {
    let wrapping = match how {
        PodCidrs::Off | PodCidrs::Direct => Wrapping::Never,
        PodCidrs::Vxlan => Wrapping::Always,
        PodCidrs::CrossSubnet => Wrapping::CrossSubnet,
    };
    let uses = PoolUses { workload: false, load_balancer: false, tunnel: false };
    let pool = IpPool::of_pods(&name(cidr, node), cidr, cidr.prefix_len());
    IpPool { uses, wrapping, wrapper: Wrapper::Vxlan, nat_outgoing: true, ..pool }
}

impl World {
    /// Nodes' own networks are routed; before anything is told.
    pub fn use_pod_cidrs(&mut self, how: PodCidrs) {
        self.pod_cidrs = how;
    }

    /// How they are.
    #[must_use]
    pub fn pod_cidrs(&self) -> PodCidrs {
        self.pod_cidrs
    }

    /// A node's networks, where they are routed.
    pub(crate) fn routed_cidrs(&self, node: &NodeName) -> Vec<Cidr> {
        let known = self.nodes.get(node).filter(|_| self.pod_cidrs != PodCidrs::Off);
        known.map(|node| node.pod_cidrs.clone()).unwrap_or_default()
    }

    /// They are the node's, before it is another or gone.
    pub(crate) fn unclaim_cidrs(&mut self, node: &NodeName) {
        for cidr in self.routed_cidrs(node) {
            self.blocks.remove(&name(cidr, node));
            self.pools.remove(&name(cidr, node));
        }
    }

    /// They are the node's, now that it is told.
    pub(crate) fn claim_cidrs(&mut self, node: &NodeName) {
        for cidr in self.routed_cidrs(node) {
            self.blocks.put(BlockClaim { name: name(cidr, node), cidr, node: node.clone() });
            self.pools.insert(name(cidr, node), pool(self.pod_cidrs, cidr, node));
        }
    }

    /// Whether a network is this node's own, whoever else says it.
    pub(crate) fn has_own_cidr(&self, cidr: Cidr) -> bool {
        self.routed_cidrs(&self.node).contains(&cidr)
    }

    /// The addresses of this node's tunnels, where its own networks are reached by them: the first of each family, which no pod gets.
    pub fn tunnel_addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let is_wrapped = matches!(self.pod_cidrs, PodCidrs::Vxlan | PodCidrs::CrossSubnet);
        let own = if is_wrapped { self.routed_cidrs(&self.node) } else { Vec::new() };
        let first = |v4: bool| own.iter().find(|cidr| cidr.is_v4() == v4).map(Cidr::network);
        [first(true), first(false)].into_iter().flatten()
    }

    /// Another node that has some of a network of this one.
    #[must_use]
    pub fn other_with(&self, cidr: Cidr) -> Option<&NodeName> {
        let others = self.nodes.values().filter(|node| node.name != self.node);
        let overlaps = |other: &Cidr| other.covers(&cidr) || cidr.covers(other);
        others.into_iter().find(|node| node.pod_cidrs.iter().any(overlaps)).map(|node| &node.name)
    }

    /// What is wrong with nodes' own networks, where they are routed.
    #[must_use]
    pub fn pod_cidr_remarks(&self) -> Vec<String> {
        if self.pod_cidrs == PodCidrs::Off {
            return Vec::new();
        }
        let own = self.nodes.get(&self.node).filter(|node| node.pod_cidrs.is_empty());
        let none = own.map(|node| {
            format!(
                "Node {}: it has no network in spec.podCIDRs, and its pods get no addresses: have the cluster give it one \
                 (kube-controller-manager --allocate-node-cidrs --cluster-cidr)",
                node.name
            )
        });
        none.into_iter().chain(self.overlapping()).collect()
    }

    /// In order, a network that has some of another comes before it.
    fn overlapping(&self) -> Vec<String> {
        let all = self.nodes.values().flat_map(|node| node.pod_cidrs.iter().map(move |cidr| (*cidr, &node.name)));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(cidr, node)| (cidr.is_v4(), cidr.network(), cidr.prefix_len(), *node));
        let mut widest: Option<(Cidr, &NodeName)> = None;
        let mut told = BTreeSet::new();
        for (cidr, node) in all {
            match widest.filter(|(wider, _)| wider.covers(&cidr)) {
                Some((_, holder)) if holder == node => {}
                Some((wider, holder)) => drop(told.insert((wider, holder, cidr, node))),
                None => widest = Some((cidr, node)),
            }
        }
        let said = |(wider, holder, cidr, node): (Cidr, &NodeName, Cidr, &NodeName)| {
            format!(
                "Nodes {holder} ({wider}) and {node} ({cidr}) have the same addresses for their pods (spec.podCIDRs): neither \
                 gives one to a new pod; give one of them another network"
            )
        };
        told.into_iter().map(said).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Live, desired::NodeRoute};
    use model::{IfaceName, Labels, Mac, Node, Resource, ResourceKey, ToldAddresses, Update, Vtep, Vteps};
    use std::collections::BTreeMap;

    fn net(text: &str) -> Cidr {
        text.parse().expect("a network")
    }

    fn node(number: u8, cidrs: &[&str]) -> Update {
        let address = if number < 3 { [192, 0, 2, number] } else { [198, 51, 100, number] };
        let end = cidrs.first().map(|cidr| Vtep { address: net(cidr).network(), mac: Mac([2, 0, 0, 0, 0, number]) });
        Update::Set(Resource::Node(Node {
            name: format!("n{number}").as_str().into(),
            addresses: vec![address.into()],
            labels: Labels::default(),
            pod_cidrs: cidrs.iter().map(|cidr| net(cidr)).collect(),
            vteps: Vteps { v4: end, ..Vteps::default() },
            told: ToldAddresses::default(),
            bgp: Default::default(),
        }))
    }

    /// n1 is here, n2 near, n3 behind a router.
    fn live(how: PodCidrs) -> Live {
        let mut live = Live::new("n1".into(), false);
        live.use_pod_cidrs(how);
        live.set_host_addresses([[192, 0, 2, 1].into()].into());
        live.set_host_networks([(IfaceName("eth0".into()), [net("192.0.2.0/24")].into())].into());
        for (number, cidr) in [(1, "10.244.1.0/24"), (2, "10.244.2.0/24"), (3, "10.244.3.0/24")] {
            live.apply(node(number, &[cidr]));
        }
        live.apply(Update::InSync);
        live
    }

    fn routes(live: &mut Live) -> BTreeMap<String, String> {
        let fresh = crate::desired(live.in_sync().expect("in sync")).routes;
        let kept = live.desired().expect("in sync").routes.clone();
        assert_eq!(fresh, kept, "what is kept is what is worked out anew");
        let said = |route: NodeRoute| match route {
            NodeRoute::Blackhole => "blackhole".to_owned(),
            NodeRoute::Via { gateway, .. } => gateway.to_string(),
            NodeRoute::Tunnel(end) => format!("tunnel {} {}", end.remote, end.gateway),
            NodeRoute::Ipip { remote } => format!("ipip {remote}"),
            NodeRoute::None(_, why) => format!("{why:?}"),
        };
        kept.into_iter().map(|(cidr, route)| (cidr.to_string(), said(route))).collect()
    }

    fn expected(near: &str, far: &str) -> BTreeMap<String, String> {
        [("10.244.1.0/24", "blackhole"), ("10.244.2.0/24", near), ("10.244.3.0/24", far)]
            .map(|(cidr, route)| (cidr.to_owned(), route.to_owned()))
            .into()
    }

    #[test]
    fn nodes_own_networks_lead_to_them_and_this_nodes_nowhere() {
        let (near, far) = ("tunnel 192.0.2.2 10.244.2.0", "tunnel 198.51.100.3 10.244.3.0");
        assert_eq!(routes(&mut live(PodCidrs::Direct)), expected("192.0.2.2", "Far"));
        assert_eq!(routes(&mut live(PodCidrs::Vxlan)), expected(near, far));
        assert_eq!(routes(&mut live(PodCidrs::CrossSubnet)), expected("192.0.2.2", far));
        assert_eq!(routes(&mut live(PodCidrs::Off)), BTreeMap::new());
    }

    #[test]
    fn a_network_comes_and_goes_with_its_node_and_no_pool_is_told_of() {
        let mut live = live(PodCidrs::Direct);
        assert_eq!((live.pools().count(), live.status().pools), (0, 0), "nobody assigns addresses of them");
        live.apply(node(2, &["10.244.9.0/24", "fd00:244:9::/64"]));
        let found = routes(&mut live);
        assert_eq!(found["10.244.9.0/24"], "192.0.2.2");
        assert!(!found.contains_key("10.244.2.0/24"), "{found:?}");
        live.apply(Update::Gone(ResourceKey::Node("n2".into())));
        assert!(!routes(&mut live).contains_key("10.244.9.0/24"));
    }

    #[test]
    fn tunnels_end_at_the_first_address_of_the_nodes_own_network() {
        assert_eq!(live(PodCidrs::Vxlan).tunnel_addresses().collect::<Vec<_>>(), [IpAddr::from([10, 244, 1, 0])]);
        assert_eq!(live(PodCidrs::Direct).tunnel_addresses().count(), 0);
    }

    #[test]
    fn a_network_that_two_nodes_say_is_named_and_stays_this_nodes_own_here() {
        let mut live = live(PodCidrs::Direct);
        assert_eq!((live.pod_cidr_remarks(), live.other_with(net("10.244.1.0/24"))), (Vec::new(), None));
        // By name the other would come first.
        live.apply(node(0, &["10.244.1.0/24"]));
        live.apply(node(2, &["10.244.3.128/25"]));
        let remarks = live.pod_cidr_remarks();
        assert_eq!(remarks.len(), 2, "{remarks:?}");
        assert!(remarks[0].contains("n0 (10.244.1.0/24) and n1 (10.244.1.0/24)"), "{remarks:?}");
        assert!(remarks[1].contains("n3 (10.244.3.0/24) and n2 (10.244.3.128/25)"), "{remarks:?}");
        assert_eq!(live.other_with(net("10.244.1.0/24")), Some(&"n0".into()));
        assert_eq!(routes(&mut live)["10.244.1.0/24"], "blackhole");
        live.apply(node(1, &[]));
        assert!(live.pod_cidr_remarks()[0].contains("no network in spec.podCIDRs"));
    }
}
