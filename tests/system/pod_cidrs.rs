//! Nodes' own networks in the place of pools, as where flannel was: host-local gives addresses, the agent has the routes.
//! In: two nodes with `spec.podCIDRs`, no pools. Out: who reaches whom, which routes there are, who gets no address.
//! Invariant: there is neither a pool nor a block.
//! Never: routes to pods by hand.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tests::{
    Cluster, NetNs, Node, NodeSpec, Pod, PodSpec, Table, fabric,
    routed::reach_each_other,
    runtime::Call,
    server::Listen,
    wait::{PATIENCE, wait_until},
};

struct Networks {
    pods: BTreeMap<String, Pod>,
    nodes: [Node; 2],
    cluster: Cluster,
}

/// As kube-controller-manager would have it.
fn describe(cluster: &Cluster, number: u8, cidrs: [&str; 2]) -> Result<()> {
    let address = |address: String| json!({ "type": "InternalIP", "address": address });
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": format!("node{number}") },
        "spec": { "podCIDR": cidrs[0], "podCIDRs": cidrs },
        "status": { "addresses": fabric::addresses(number).map(address) },
    });
    cluster.manifest(&format!("node-node{number}"), &node.to_string())
}

const CIDRS: [[&str; 2]; 2] = [["10.244.1.0/24", "fd00:244:1::/64"], ["10.244.2.0/24", "fd00:244:2::/64"]];

fn networks(how: &str) -> Result<Networks> {
    super::need_root()?;
    let cluster = Cluster::create()?;
    cluster.remove("pools")?;
    for namespace in ["x", "y"] {
        cluster.namespace(namespace, &[("ns", namespace)])?;
    }
    let node = |number: u8| {
        let conflist = cluster.directory().join(format!("10-{number}.conflist"));
        let spec = NodeSpec::new(number).argument("--pod-cidrs").argument(how);
        let node = cluster.node(spec.argument("--cni-conf").argument(&conflist.display().to_string()))?;
        describe(&cluster, number, CIDRS[usize::from(number) - 1]).map(|()| node)
    };
    let mut nodes = [node(1)?, node(2)?];
    for node in &mut nodes {
        // Without a pool it says that it has no address for a pod: that it serves is seen by what runtimes find.
        node.agent.start()?;
    }
    Ok(Networks { pods: BTreeMap::new(), nodes, cluster })
}

impl Networks {
    /// What a runtime would find on the node, with leases of the test's own.
    fn conf(&self, number: usize) -> Result<Value> {
        let path = self.cluster.directory().join(format!("10-{number}.conflist"));
        wait_until("runtimes are told", PATIENCE, || Ok(path.exists()))?;
        let list: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        let mut ipam = list["plugins"][0]["ipam"].clone();
        assert_eq!(ipam["type"], "host-local", "{list}");
        ipam["dataDir"] = json!(self.cluster.directory().join(format!("leases-{number}")));
        Ok(json!({ "cniVersion": list["cniVersion"], "ipam": ipam }))
    }

    fn add_pods(&mut self) -> Result<()> {
        for (id, number) in [("x/a", 1), ("y/a", 1), ("x/b", 2), ("y/b", 2)] {
            let spec = PodSpec { conf: self.conf(number)?, ..PodSpec::new(id) }.listen(Listen::Sctp(80));
            let pod = self.nodes[number - 1].pod(&self.cluster, &spec)?;
            self.pods.insert(id.to_owned(), pod);
        }
        Ok(())
    }

    fn reach_each_other(&self) -> Result<()> {
        let logs = self.nodes.iter().map(|node| format!("{}:\n{}\n", node.name(), node.agent.log_tail()));
        let actors: Vec<_> = self.pods.values().map(Pod::actor).collect();
        reach_each_other(|what, table| Table::parse(table)?.expect(&actors, what))
            .with_context(|| logs.collect::<String>())
    }
}

fn expected(via: [&str; 2]) -> BTreeMap<String, String> {
    let own = CIDRS[0].map(|cidr| (cidr.to_owned(), "blackhole".to_owned()));
    let other = CIDRS[1].into_iter().zip(via).map(|(cidr, via)| (cidr.to_owned(), via.to_owned()));
    own.into_iter().chain(other).collect()
}

#[test]
fn pods_of_nodes_own_networks_reach_each_other_by_plain_routes() -> Result<()> {
    let mut t = networks("direct")?;
    t.add_pods()?;
    let expected = expected(["192.0.2.2", "2001:db8::2"]);
    wait_until("the routes are there", PATIENCE, || Ok(t.nodes[0].routes()? == expected))
        .with_context(|| format!("{:?}", t.nodes[0].routes()))?;
    let addresses: Vec<_> = t.pods["x/a"].addresses().iter().map(ToString::to_string).collect();
    assert!(addresses[0].starts_with("10.244.1.") && addresses[1].starts_with("fd00:244:1::"), "{addresses:?}");
    t.reach_each_other()?;
    let shared = t.cluster.datastore().join(".tortie");
    assert!(!shared.join("IPAMBlock").exists(), "nothing is assigned");
    // As many nodes lose theirs at once: routes go, what is own stays own.
    describe(&t.cluster, 2, ["10.244.9.0/24", "fd00:244:9::/64"])?;
    wait_until("the route follows", PATIENCE, || {
        let routes = t.nodes[0].routes()?;
        Ok(routes.contains_key("10.244.9.0/24") && !routes.contains_key("10.244.2.0/24"))
    })
}

#[test]
fn pods_of_nodes_own_networks_reach_each_other_by_vxlan() -> Result<()> {
    let mut t = networks("vxlan")?;
    let expected = expected(["10.244.2.0", "fd00:244:2::"]);
    wait_until("the routes are there", PATIENCE, || Ok(t.nodes[0].routes()? == expected))
        .with_context(|| format!("{:?} {}", t.nodes[0].routes(), t.nodes[0].agent.log_tail()))?;
    t.add_pods()?;
    t.reach_each_other()
}

#[test]
fn calc_24_a_network_that_two_nodes_have_is_named_and_gives_no_address_to_a_new_pod() -> Result<()> {
    let t = networks("direct")?;
    describe(&t.cluster, 2, CIDRS[0])?;
    for node in &t.nodes {
        wait_until("it is named", PATIENCE, || {
            let said = node.show("status")?.to_string();
            Ok(said.contains("Nodes node1 (10.244.1.0/24) and node2 (10.244.1.0/24) have the same addresses"))
        })?;
    }
    for (index, node) in t.nodes.iter().enumerate() {
        let namespace = NetNs::create(t.cluster.stem(), &format!("late{index}"))?;
        let call = Call {
            container: format!("late-{index}"),
            netns: Some(namespace.path()),
            interface: "eth0".to_owned(),
            args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=x;K8S_POD_NAME=late{index}"),
            conf: t.conf(index + 1)?,
        };
        let refused = node.runtime().call("ADD", &call)?;
        assert!(refused.exit != Some(0), "{refused:?}");
        assert!(format!("{refused:?}").contains("has the same addresses"), "{refused:?}");
    }
    describe(&t.cluster, 2, CIDRS[1])?;
    wait_until("nothing is wrong any more", PATIENCE, || {
        Ok(!t.nodes[1].show("status")?.to_string().contains("have the same addresses"))
    })?;
    let spec = PodSpec { conf: t.conf(2)?, ..PodSpec::new("x/b") };
    t.nodes[1].pod(&t.cluster, &spec).map(drop)
}
