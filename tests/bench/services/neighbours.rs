//! The neighbours: a node on which kube-proxy translates and the kernel routes, with no agent and no policy.
//! In: a way of translating, and how many services. Out: a way to the service that is asked.
//! Invariant: the same manifests, servers and addresses as on a node of Tortie; nothing runs beside the measurement.
//! Never: tunes kube-proxy.

use super::place::{all, until};
use crate::{manifests::service_address, progress, setups::Setup};
use ::tests::{
    Binaries, Cluster, NetNs, Node, NodeSpec,
    kube_proxy::{KubeProxy, Mode},
    netns::STEM,
    traffic::Way,
};
use anyhow::{Context as _, Result};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process,
    time::{Duration, Instant},
};

/// Services of which one is asked: the one whose rule of iptables is nearest to the middle, where it costs what one costs at the mean.
const CANDIDATES: usize = 16;
/// How long kube-proxy may take until it has gone through all services once: by iptables a rule costs all that are there.
const FIRST_PASS: Duration = Duration::from_secs(600);

/// It stands.
pub struct Neighbour {
    name: &'static str,
    asked: IpAddr,
    client: NetNs,
    servers: Vec<(NetNs, IpAddr)>,
    // Dropped in this order.
    _node: Node,
    _cluster: Cluster,
}

impl Neighbour {
    /// Leaves kube-proxy's rules, and not kube-proxy: its own work is not measured here.
    pub fn create(mode: Mode, count: usize, backends: usize, binaries: &Binaries) -> Result<Self> {
        let stem = format!("{STEM}{}-{}{count}", process::id(), mode.as_str());
        progress(&format!("kube-proxy, {}, {count} services", mode.as_str()));
        let cluster = Cluster::with_stem(&stem, binaries.clone())?;
        let node = cluster.node(NodeSpec::new(1))?;
        node.namespace().sysctl("ipv4/ip_forward", "1")?;
        // Where nobody has a route, nobody is translated.
        node.namespace().ip(&["route add default via 192.0.2.254", "route add ::/0 via 2001:db8::fe"])?;
        let client = wired(&node, &stem, "client", address(0))?;
        let mut servers = Vec::new();
        for number in 0..backends {
            let at = address(number + 1);
            servers.push((wired(&node, &stem, &format!("server{number}"), at)?, IpAddr::from(at)));
        }
        let own: Vec<_> = servers.iter().map(|(_, address)| *address).collect();
        let candidates: Vec<_> = (0..count).step_by(count.div_ceil(CANDIDATES)).collect();
        cluster.manifest("all", &all(count, backends, &own, &candidates))?;
        let begun = Instant::now();
        let proxy = KubeProxy::start_within(&cluster, &node, mode, FIRST_PASS)?;
        progress(&format!("kube-proxy, {}, {count} services: ready in {:.0?}", mode.as_str(), begun.elapsed()));
        let mut neighbour =
            Self { name: "", asked: service_address(0), client, servers, _node: node, _cluster: cluster };
        until(&neighbour.way(), true, Instant::now()).with_context(|| proxy.log_tail())?;
        drop(proxy);
        let mut place = String::new();
        if mode == Mode::Iptables {
            let asked = candidates.iter().map(|candidate| service_address(*candidate)).collect();
            let (rule, of);
            (neighbour.asked, rule, of) = neighbour.middle(&asked)?;
            place = format!(", rule {rule} of {of}");
        }
        neighbour.name = format!("kube-proxy, {}, one of {count}{place}", mode.as_str()).leak();
        Ok(neighbour)
    }

    /// Whose rule is nearest to the middle of them all, which are gone through one by one in an order that is chance; which
    /// rule it is, and how many there are.
    fn middle(&self, asked: &BTreeSet<IpAddr>) -> Result<(IpAddr, usize, usize)> {
        let mut command = self._node.namespace().command(Path::new("iptables-save"))?;
        let said = command.args(["-t", "nat"]).output().context("starting iptables-save")?;
        let said = String::from_utf8_lossy(&said.stdout);
        let rules: Vec<_> = said.lines().filter(|line| line.starts_with("-A KUBE-SERVICES")).collect();
        let address = |rule: &str| rule.split_once(" -d ")?.1.split_once('/')?.0.parse::<IpAddr>().ok();
        let ours = rules.iter().enumerate().filter(|(_, rule)| rule.contains(" -p tcp ")).filter_map(|(at, rule)| {
            address(rule).filter(|address| asked.contains(address)).map(|address| (address, at + 1))
        });
        let (address, rule) =
            ours.min_by_key(|(_, rule)| rule.abs_diff(rules.len() / 2)).context("iptables has none of our services")?;
        Ok((address, rule, rules.len()))
    }
}

impl Setup for Neighbour {
    fn name(&self) -> &'static str {
        self.name
    }

    fn way(&self) -> Way<'_> {
        let servers = self.servers.iter().map(|(namespace, address)| (namespace, *address)).collect();
        Way { client: &self.client, servers, to: vec![self.asked] }
    }
}

/// Within the network that kube-proxy takes for the pods'.
fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 65, 9, u8::try_from(number + 1).unwrap_or(u8::MAX))
}

/// A pod as Calico wires it.
fn wired(node: &Node, stem: &str, name: &str, at: Ipv4Addr) -> Result<NetNs> {
    let (pod, host) = (NetNs::create(stem, name)?, format!("c{name}"));
    node.namespace().ip(&[
        &format!("link add {host} type veth peer name eth0 netns {}", pod.name()),
        &format!("link set {host} address ee:ee:ee:ee:ee:ee up"),
        &format!("route add {at}/32 dev {host}"),
    ])?;
    node.namespace().sysctl(&format!("ipv4/conf/{host}/proxy_arp"), "1")?;
    pod.ip(&[
        &format!("address add {at}/32 dev eth0"),
        "link set eth0 up",
        "route add 169.254.1.1 dev eth0 scope link",
        "route add default via 169.254.1.1",
        "neighbour add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0",
    ])?;
    node.namespace().wait_link(&host)?;
    Ok(pod)
}
