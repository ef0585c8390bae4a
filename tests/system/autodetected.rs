//! Nodes whose addresses their agents find by themselves, as Calico's node does.
//! In: two nodes whose Node objects name addresses that lead nowhere. Out: what each tells of itself, and routes by that.
//! Invariant: without what was found there is no way between the nodes.
//! Never: an address of one node under the name of another.

use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use tests::{
    Cluster, Node, NodeSpec, Pod, PodSpec,
    Probe::Tcp,
    Table, cluster,
    routed::reach_each_other,
    server::Listen,
    wait::{PATIENCE, wait_until},
};

struct Found {
    pods: BTreeMap<String, Pod>,
    nodes: [Node; 2],
    cluster: Cluster,
}

/// A Node that says an address in a network of nobody.
fn describe(cluster: &Cluster, name: &str, address: &str) -> Result<()> {
    let text = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{ name: {name} }}\n\
         status: {{ addresses: [{{ type: InternalIP, address: {address} }}] }}\n"
    );
    cluster.manifest(&format!("node-{name}"), &text)
}

fn found(methods: [&[&str]; 2], before: impl Fn(&[Node; 2]) -> Result<()>) -> Result<Found> {
    super::need_root()?;
    let cluster = Cluster::create()?;
    for namespace in ["x", "y"] {
        cluster.namespace(namespace, &[("ns", namespace)])?;
    }
    let node = |number: u8| {
        let spec =
            methods[usize::from(number) - 1].iter().fold(NodeSpec::new(number), |spec, word| spec.argument(word));
        let node = cluster.node(spec)?;
        describe(&cluster, node.name(), &format!("203.0.113.{number}")).map(|()| node)
    };
    let mut nodes = [node(1)?, node(2)?];
    before(&nodes)?;
    for node in &mut nodes {
        node.start()?;
    }
    Ok(Found { pods: BTreeMap::new(), nodes, cluster })
}

impl Found {
    fn add_pods(&mut self) -> Result<()> {
        for (id, number) in [("x/a", 1), ("y/a", 1), ("x/b", 2), ("y/b", 2)] {
            let spec = PodSpec::new(id).listen(Listen::Sctp(80));
            let pod = self.nodes[number - 1].pod(&self.cluster, &spec)?;
            self.pods.insert(id.to_owned(), pod);
        }
        Ok(())
    }

    /// What the agent of a node has told of it.
    fn told(&self, node: &Node) -> String {
        let file = self.cluster.datastore().join(".tortie/NodeAddresses").join(format!("{}.yaml", node.name()));
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// By which addresses a node reaches pods elsewhere.
    fn gateways(&self, node: &Node) -> Result<Vec<String>> {
        let via = node.routes()?.into_values().filter(|via| via != "blackhole");
        Ok(via.collect::<std::collections::BTreeSet<_>>().into_iter().collect())
    }

    fn logs(&self) -> String {
        self.nodes.iter().map(|node| format!("{}:\n{}\n", node.name(), node.agent.log_tail())).collect()
    }
}

const BY_INTERFACE: &[&str] =
    &["--ip-autodetection", "interface=nothing,^eth", "--ip6-autodetection", "cidr=2001:db8::/64"];
const BY_REACH: &[&str] = &["--ip-autodetection", "can-reach=192.0.2.254", "--ip6-autodetection", "first-found"];

#[test]
fn nodes_are_reached_by_the_addresses_that_their_agents_have_found_and_follow_them() -> Result<()> {
    let mut t = found([BY_INTERFACE, BY_REACH], |_| Ok(()))?;
    t.add_pods()?;
    let logs = t.logs();
    let all = || -> Result<()> {
        for (node, other) in [(0, 2), (1, 1)] {
            let expected = [format!("192.0.2.{other}"), format!("2001:db8::{other}")];
            wait_until("routes lead there", PATIENCE, || Ok(t.gateways(&t.nodes[node])? == expected))?;
        }
        assert!(t.told(&t.nodes[0]).contains("192.0.2.1/24"), "{}", t.told(&t.nodes[0]));
        reach_each_other(|what, table| {
            let actors: Vec<_> = t.pods.values().map(Pod::actor).collect();
            Table::parse(table)?.expect(&actors, what)
        })?;
        // Another address than before: the others hear of it.
        let second = t.nodes[1].namespace();
        second.ip(&["address del 192.0.2.2/24 dev eth0", "address add 192.0.2.22/24 dev eth0"])?;
        wait_until("the route follows", PATIENCE, || Ok(t.gateways(&t.nodes[0])? == ["192.0.2.22", "2001:db8::2"]))?;
        let actors: Vec<_> = t.pods.values().map(Pod::actor).collect();
        Table::parse("x/a x/b\n x/a - .\n x/b . -")?.expect(&actors, Tcp(80))
    };
    all().context(logs)
}

#[test]
fn an_address_that_another_node_says_is_not_told_and_is_named_by_both() -> Result<()> {
    // The second finds at an interface of its own what is the first's.
    let by_second = &["--ip-autodetection", "interface=^second$"];
    let mut t = found([BY_INTERFACE, by_second], |[_, second]| {
        second.namespace().ip(&["link add second type bridge", "link set second up"])
    })?;
    wait_until("the first has told its own", PATIENCE, || Ok(t.told(&t.nodes[0]).contains("192.0.2.1/24")))?;
    t.nodes[1].namespace().ip(&["address add 192.0.2.1/24 dev second"])?;
    let named = "which node node1 says is its own";
    wait_until("it is named", PATIENCE, || Ok(t.nodes[1].show("status")?.to_string().contains(named)))
        .with_context(|| t.logs())?;
    assert!(t.nodes[1].agent.log_tail().contains(named), "in the log, too");
    assert_eq!(t.told(&t.nodes[1]), "", "it is the first's");
    assert!(t.told(&t.nodes[0]).contains("192.0.2.1/24"));
    // As two Nodes would say it, whoever wrote them.
    describe(&t.cluster, "node2", "192.0.2.1")?;
    for node in &t.nodes {
        wait_until("both are named", PATIENCE, || {
            Ok(node.show("status")?.to_string().contains("Nodes node1, node2 say the same address 192.0.2.1"))
        })?;
    }
    // With another it is told.
    t.nodes[1].namespace().ip(&["address del 192.0.2.1/24 dev second", "address add 192.0.2.122/24 dev second"])?;
    wait_until("its own is told", PATIENCE, || Ok(t.told(&t.nodes[1]).contains("192.0.2.122/24")))?;
    t.nodes[1].agent.stop()
}

#[test]
fn where_nothing_is_found_it_is_named_and_what_the_node_says_counts() -> Result<()> {
    let mut t = found([&["--ip-autodetection", "interface=^none$"], &[]], |_| Ok(()))?;
    t.cluster.manifest("pools", &cluster::pools(26, 122))?;
    describe(&t.cluster, "node2", "192.0.2.2")?;
    wait_until("it is named", PATIENCE, || {
        let said = t.nodes[0].show("status")?.to_string();
        Ok(said.contains("no address is found for this node by interface=^none$") && said.contains("eth0"))
    })?;
    assert_eq!([t.told(&t.nodes[0]), t.told(&t.nodes[1])], ["", ""], "who looks for nothing tells nothing");
    t.add_pods()?;
    wait_until("the Node's own leads there", PATIENCE, || Ok(t.gateways(&t.nodes[0])? == ["192.0.2.2"]))
}
