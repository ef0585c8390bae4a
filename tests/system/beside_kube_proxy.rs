//! Beside a real kube-proxy: it is there, sees the cluster's services, and translates.
//! In: manifests, a node, kube-proxy in each of its modes. Out: what programs on the node and in pods meet.
//! Invariant: kube-proxy and the agent read the same directory.
//! Never: waits for kube-proxy's rules by time.

use crate::story::{Story, story};
use anyhow::{Context as _, Result};
use std::net::IpAddr;
use tests::{
    Outcome,
    Probe::{self, Tcp, Udp},
    kube_proxy::{KubeProxy, Mode},
    probe::probe,
    wait,
};

const MODES: [Mode; 2] = [Mode::Nftables, Mode::Iptables];

/// Without a route nobody sends to an address, whoever translates it later.
const DEFAULT_ROUTES: [&str; 2] = ["route add default via 192.0.2.254", "route add ::/0 via 2001:db8::fe"];

/// Where the shop is.
fn vips() -> [IpAddr; 2] {
    [[10, 96, 0, 10].into(), [0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10].into()]
}

/// The service `x/shop`: TCP 443 and UDP 53, behind which are ports 80 of these addresses.
fn shop(s: &Story, backends: &[IpAddr]) -> Result<()> {
    let [v4, v6] = vips();
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: shop, namespace: x, creationTimestamp: '2026-01-01T00:00:00Z' }}\n\
         spec: {{ type: NodePort, clusterIP: '{v4}', clusterIPs: ['{v4}', '{v6}'], ipFamilies: [IPv4, IPv6], \
         ports: [{{ name: web, port: 443, targetPort: 80, nodePort: 30443 }}, \
         {{ name: dns, port: 53, targetPort: 80, nodePort: 30053, protocol: UDP }}] }}\n"
    );
    for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
        let own = backends.iter().filter(|address| address.is_ipv4() == is_v4);
        let endpoints: Vec<_> =
            own.map(|address| format!("{{ addresses: ['{address}'], conditions: {{ ready: true }} }}")).collect();
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: shop-{}, namespace: x, \
             labels: {{ kubernetes.io/service-name: shop }} }}\naddressType: {family}\nendpoints: [{}]\n\
             ports: [{{ name: web, port: 80 }}, {{ name: dns, port: 80, protocol: UDP }}]\n",
            family.to_lowercase(),
            endpoints.join(", ")
        );
    }
    s.cluster.manifest("shop", &text)
}

#[test]
fn the_nodes_own_processes_reach_services_through_kube_proxy_in_both_modes() -> Result<()> {
    for mode in MODES {
        story(&["x/b"], |s| {
            shop(s, s.pod("x/b")?.addresses())?;
            s.node.namespace().ip(&DEFAULT_ROUTES)?;
            let proxy = KubeProxy::start(&s.cluster, &s.node, mode)?;
            for what in [Tcp(443), Udp(53)] {
                met(s.node.namespace(), what, Outcome::Allowed).with_context(|| proxy.log_tail())?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Waits until this is met at the shop, at every address.
fn met(from: &tests::NetNs, what: Probe, wanted: Outcome) -> Result<()> {
    wait::wait_until(&format!("{what} from {}: {wanted}", from.name()), wait::PATIENCE, || {
        let met = vips().map(|vip| probe(from, vip, what));
        Ok(met.into_iter().all(|met| met.is_ok_and(|met| met == wanted)))
    })
}
