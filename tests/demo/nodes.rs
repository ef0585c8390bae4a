//! The story of two nodes in two networks: how their pods come to each other, under policy, and to the outside.
//! In: the built programs. Out: what happened, said as it happens.
//! Invariant: the router between the networks knows no pod; whatever reaches one went by a tunnel.
//! Never: prints what it did not see.

use crate::story::{is_gone, no_rules, say, step};
use anyhow::{Context as _, Result, ensure};
use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process, thread,
    time::Instant,
};
use tests::{
    Binaries, Cluster, Node, NodeSpec, Outcome, Pod, PodSpec, Probe,
    fabric::{self, OUTSIDE_V4, OUTSIDE_V6},
    netns::{self, STEM},
    probe::probe,
    server::Listen,
    subnets, wait,
};

/// Where the web server listens.
const WEB: u16 = 80;

/// Names of pods, the place of each one's node, and what it serves.
const CAST: [(&str, usize, &[u16]); 3] = [("shop/client", 0, &[]), ("other/stranger", 0, &[]), ("shop/web", 1, &[WEB])];

/// The policy of the story, as a user would write it.
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: web-from-shop }
spec:
  podSelector: { matchLabels: { pod: web } }
  ingress:
  - from: [{ podSelector: {} }]
";

/// Everything. Dropped in this order.
struct Two {
    pods: Vec<Pod>,
    nodes: [Node; 2],
    cluster: Cluster,
}

/// Tells it.
pub fn tell(binaries: Binaries) -> Result<()> {
    step("Two nodes in two networks; the router between them knows no pod")?;
    let mut two = create(binaries)?;
    let told = two.tell().with_context(|| {
        let logs = two.nodes.iter().map(|node| format!("{}:\n{}\n", node.name(), node.agent.log_tail()));
        format!("the agents' logs end so:\n{}", logs.collect::<String>())
    });
    told?;
    close(two)
}

fn create(binaries: Binaries) -> Result<Two> {
    let cluster = Cluster::with_stem(&format!("{STEM}{}-demo", process::id()), binaries).context("making the stage")?;
    cluster.manifest("pools", &pools(""))?;
    for namespace in ["shop", "other"] {
        cluster.namespace(namespace, &[])?;
    }
    subnets::make_router(&cluster)?;
    let mut nodes = [cluster.node(NodeSpec::new(1))?, cluster.node(NodeSpec::new(2))?];
    subnets::stay(nodes[0].namespace())?;
    subnets::move_away(nodes[1].namespace(), 2)?;
    for (node, addresses) in nodes.iter_mut().zip([fabric::addresses(1), subnets::far(2)]) {
        describe(&cluster, node.name(), &addresses)?;
        node.start()?;
        say(&format!("{} in namespace {}, eth0 has {}", node.name(), node.namespace().name(), addresses.join(" and ")));
    }
    Ok(Two { pods: Vec::new(), nodes, cluster })
}

/// Says who a node is, as its kubelet would.
fn describe(cluster: &Cluster, name: &str, [v4, v6]: &[String; 2]) -> Result<()> {
    let text = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{ name: {name} }}\nstatus:\n  addresses:\n  \
         - {{ type: InternalIP, address: {v4} }}\n  - {{ type: InternalIP, address: '{v6}' }}\n"
    );
    cluster.manifest(&format!("node-{name}"), &text)
}

/// The cluster's pools, with more in each.
fn pools(more: &str) -> String {
    let pool = |name: &str, cidr: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{ name: {name} }}\n\
             spec: {{ cidr: '{cidr}'{more} }}\n"
        )
    };
    format!("{}---\n{}", pool("pool-v4", "10.65.0.0/16"), pool("pool-v6", "fd00:65::/64"))
}

impl Two {
    fn tell(&mut self) -> Result<()> {
        step("Pods come up on both nodes, through tortie-cni")?;
        self.enter()?;
        step("Without a tunnel there is no way, and the agent says to whom and why")?;
        self.has_no_way()?;
        step("The pools are told to use VXLAN where networks are crossed")?;
        self.gets_a_way()?;
        step("A policy of the one node's pod asks about pods of the other")?;
        self.policy()?;
        step("The agent of the web server's node is killed and started again under a running connection")?;
        self.kill()?;
        step("The pools are told `natOutgoing`: who is outside sees the node")?;
        self.goes_outside()?;
        step("No rule of nftables or iptables is on the way, on either node")?;
        self.nodes.iter().try_for_each(no_rules)
    }

    fn pod(&self, id: &str) -> Result<&Pod> {
        self.pods.iter().find(|pod| pod.id() == id).with_context(|| format!("no pod {id}"))
    }

    fn enter(&mut self) -> Result<()> {
        for (id, place, ports) in CAST {
            let node = &self.nodes[place];
            let spec = ports.iter().fold(PodSpec::new(id).silent(), |spec, port| spec.listen(Listen::Tcp(*port)));
            let pod = node.pod(&self.cluster, &spec)?;
            let addresses: Vec<_> = pod.addresses().iter().map(ToString::to_string).collect();
            say(&format!("{id:15} on {}  {}", node.name(), addresses.join(" ")));
            self.pods.push(pod);
        }
        Ok(())
    }

    /// Waits until this pod's calls of the web server, of both families, come to this.
    fn calls(&self, from: &str, wanted: Outcome) -> Result<()> {
        let (client, web) = (self.pod(from)?, self.pod("shop/web")?);
        for address in web.addresses() {
            wait::wait_until(&format!("{from} to shop/web ({address}) is {wanted}"), wait::PATIENCE, || {
                Ok(probe(client.namespace(), *address, Probe::Tcp(WEB))? == wanted)
            })?;
        }
        say(&format!("{from:15} to shop/web  port {WEB}  {wanted}"));
        Ok(())
    }

    fn has_no_way(&self) -> Result<()> {
        let (client, web) = (self.pod("shop/client")?, self.pod("shop/web")?);
        for address in web.addresses() {
            let met = probe(client.namespace(), *address, Probe::Tcp(WEB))?;
            ensure!(met != Outcome::Allowed, "{address} is reached without a tunnel");
        }
        let problem = || -> Result<Option<String>> {
            let status = self.nodes[0].show("status")?;
            let problems = status["problems"].as_array().into_iter().flatten().filter_map(|problem| problem.as_str());
            Ok(problems.map(str::to_owned).find(|problem| problem.contains("node2")))
        };
        wait::wait_until("the agent names the other node", wait::PATIENCE, || Ok(problem()?.is_some()))?;
        say(&format!("{:15} to shop/web  port {WEB}  no answer", "shop/client"));
        say("$ tortie show status");
        say(&format!("  {}", problem()?.context("it is named")?));
        Ok(())
    }

    fn gets_a_way(&self) -> Result<()> {
        let asked = Instant::now();
        self.cluster.manifest("pools", &pools(", vxlanMode: CrossSubnet"))?;
        for from in ["shop/client", "other/stranger"] {
            self.calls(from, Outcome::Allowed)?;
        }
        say(&format!("both by IPv4 and IPv6, {} ms after the pools were saved", asked.elapsed().as_millis()));
        say("$ ip route show proto 85");
        let mut show = self.nodes[0].namespace().command("ip".as_ref())?;
        show.args(["route", "show", "proto", "85"]);
        let routes = netns::run(&mut show)?;
        ensure!(routes.contains("vxlan.calico"), "no route leads to the tunnel: {routes}");
        say(&routes);
        Ok(())
    }

    fn policy(&self) -> Result<()> {
        say(POLICY);
        self.cluster.manifest("policy", POLICY)?;
        self.calls("other/stranger", Outcome::Refused)?;
        self.calls("shop/client", Outcome::Allowed)
    }

    fn kill(&mut self) -> Result<()> {
        let stream = self.pod("shop/client")?.tcp_stream(self.pod("shop/web")?, WEB)?;
        self.nodes[1].agent.kill()?;
        self.calls("other/stranger", Outcome::Refused)?;
        self.nodes[1].start()?;
        let ends = [self.pod("shop/client")?.namespace(), self.pod("shop/web")?.namespace()];
        let repeated = stream.sent_again(ends)?;
        let report = stream.stop()?;
        say(&format!(
            "the stream from client to web: {} words and answers, {} lost, {repeated} TCP segments sent again",
            report.sent,
            report.lost()
        ));
        ensure!(report.lost() == 0 && repeated == 0, "packets were lost");
        Ok(())
    }

    fn goes_outside(&self) -> Result<()> {
        self.cluster.manifest("pools", &pools(", vxlanMode: CrossSubnet, natOutgoing: true"))?;
        let client = self.pod("shop/client")?;
        for (to, own) in [OUTSIDE_V4, OUTSIDE_V6].into_iter().zip(fabric::addresses(1)) {
            let (to, own): (IpAddr, IpAddr) = (to.parse()?, own.parse()?);
            wait::wait_until("who is outside hears the pod", wait::PATIENCE, || {
                Ok(probe(client.namespace(), to, Probe::Ping)? == Outcome::Allowed)
            })?;
            let seen = self.seen(client, SocketAddr::new(to, WEB))?;
            ensure!(seen.ip() == own, "{to} sees {seen}");
            say(&format!("{:15} to {to}: it sees {seen}, node1's", "shop/client"));
        }
        Ok(())
    }

    /// Whom the host outside sees when this pod connects.
    fn seen(&self, client: &Pod, to: SocketAddr) -> Result<SocketAddr> {
        let listener = self.cluster.outside().inside(|| Ok(TcpListener::bind(to)?))?;
        let accepts = thread::spawn(move || listener.accept().map(|(_, from)| from));
        let _stream = client.namespace().inside(|| Ok(TcpStream::connect_timeout(&to, wait::PATIENCE)?))?;
        Ok(accepts.join().ok().context("it accepts")??)
    }
}

/// Takes everything down, and looks that it is gone.
fn close(mut two: Two) -> Result<()> {
    step("Everything is removed again")?;
    let (stem, directory) = (two.cluster.stem().to_owned(), two.cluster.directory().to_owned());
    for pod in &mut two.pods {
        pod.delete()?;
    }
    for node in &mut two.nodes {
        node.agent.stop()?;
        let cleaned = node.cleanup()?;
        ensure!(cleaned.status.success(), "tortie cleanup: {}", String::from_utf8_lossy(&cleaned.stderr));
        let left = node.namespace().ip_json("link show type vxlan")?;
        ensure!(left.as_array().is_none_or(Vec::is_empty), "a device is left: {left}");
    }
    drop(two);
    is_gone(&stem, &directory)
}
