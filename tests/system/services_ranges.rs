//! Source ranges of a load balancer, with real sockets: who may ask at its addresses, and who hears nothing.
//! In: a Service with `loadBalancerSourceRanges` over pods of one node. Out: what a host outside, a pod and the node meet.
//! Invariant: its cluster IPs and node ports are open to everybody whatever the ranges say, as kube-proxy has it.
//! Never: waits for a change by time; who answers is the sign.

use crate::{
    services::{READY, slices, vips},
    story::{Story, story_on},
};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::net::IpAddr;
use tests::{
    Fabric, NetNs, NodeSpec, Outcome,
    Probe::{self, Tcp, Udp},
    cgroup::Cgroup,
    fabric,
    flow::Connection,
    probe::probe,
    wait::{PATIENCE, wait_until},
};

/// Addresses of the load balancer, routed over the node.
const BALANCED: [&str; 2] = ["198.51.100.10", "2001:db8:1::10"];
const NODE_PORT: u16 = 30080;

fn serve(s: &Story, ranges: &str) -> Result<()> {
    let ([lb4, lb6], [v4, v6]) = (BALANCED, vips());
    s.cluster.manifest(
        "shop",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: shop, namespace: x, creationTimestamp: '2026-01-01T00:00:00Z' }}\n\
             spec: {{ type: LoadBalancer, clusterIP: '{v4}', clusterIPs: ['{v4}', '{v6}'], ipFamilies: [IPv4, IPv6], \
             loadBalancerSourceRanges: [{ranges}], ports: [{{ name: web, port: 443, targetPort: 80, nodePort: {NODE_PORT} }}, \
             {{ name: dns, port: 443, targetPort: 80, protocol: UDP }}] }}\n\
             status: {{ loadBalancer: {{ ingress: [{{ ip: '{lb4}' }}, {{ ip: '{lb6}' }}] }} }}\n"
        ),
    )
}

fn balanced() -> Result<Vec<IpAddr>> {
    BALANCED.iter().map(|text| Ok(text.parse()?)).collect()
}

/// Who asks, by name.
fn namespace<'a>(s: &'a Story, who: &str) -> Result<&'a NetNs> {
    Ok(match who {
        "outside" => s.cluster.outside(),
        "node" => s.node.namespace(),
        pod => s.pod(pod)?.namespace(),
    })
}

const ASKERS: [&str; 4] = ["outside", "node", "x/a", "x/b"];

/// Waits until exactly these are answered at the load balancer's addresses, and the others hear nothing.
fn only(s: &Story, cgroup: &Cgroup, answered: &[&str]) -> Result<()> {
    for who in ASKERS {
        let wanted = if answered.contains(&who) { Outcome::Allowed } else { Outcome::Refused };
        let from = namespace(s, who)?;
        for (address, what) in balanced()?.into_iter().flat_map(|address| [(address, Tcp(443)), (address, Udp(443))]) {
            // A datagram that is dropped on its way out is refused at the call itself.
            let wanted_here = |met: Result<Outcome>| match met {
                Ok(met) => met == wanted,
                Err(error) => {
                    who == "node" && wanted == Outcome::Refused && format!("{error:#}").contains("(os error 1)")
                }
            };
            wait_until(&format!("{who} asks {address} by {what}: {wanted}"), PATIENCE, || {
                Ok(wanted_here(asks(from, who, cgroup, (address, what))))
            })?;
        }
    }
    Ok(())
}

fn asks(from: &NetNs, who: &str, cgroup: &Cgroup, (address, what): (IpAddr, Probe)) -> Result<Outcome> {
    if who == "node" { cgroup.inside(|| probe(from, address, what)) } else { probe(from, address, what) }
}

/// Neither cluster IP nor node port asks who it is.
fn elsewhere_all_are_answered(s: &Story, cgroup: &Cgroup) -> Result<()> {
    for who in ["node", "x/a", "x/b"] {
        for vip in vips() {
            let met = asks(namespace(s, who)?, who, cgroup, (vip, Tcp(443)))?;
            ensure!(met == Outcome::Allowed, "{who} at {vip}: {met}");
        }
    }
    for node in fabric::addresses(1) {
        let met = asks(namespace(s, "outside")?, "outside", cgroup, (node.parse()?, Tcp(NODE_PORT)))?;
        ensure!(met == Outcome::Allowed, "a node port: {met}");
    }
    Ok(())
}

/// `a/32` of IPv4, `a/128` of IPv6, for each.
fn hosts(addresses: &[String]) -> String {
    let host = |address: &String| format!("'{address}/{}'", if address.contains(':') { 128 } else { 32 });
    addresses.iter().map(host).collect::<Vec<_>>().join(", ")
}

fn explained(s: &Story, more: &[&str]) -> Result<(bool, Value)> {
    let question = ["explain", "--from", "x/a", "--to", BALANCED[0], "--port", "443", "--output", "json"];
    let told = s.node.tortie(&[&question[..], more].concat())?;
    let said = serde_json::from_slice(&told.stdout);
    Ok((told.status.success(), said.with_context(|| String::from_utf8_lossy(&told.stderr).into_owned())?))
}

#[test]
fn source_ranges_hold_at_a_load_balancers_addresses_for_who_is_outside_for_pods_and_for_the_node() -> Result<()> {
    let cgroup = Cgroup::create()?;
    story_on(NodeSpec::new(1).cgroup(Some(cgroup.path())), &["x/a", "x/b", "x/c"], |s| {
        for address in balanced()? {
            Fabric::route(s.cluster.outside(), address, 1)?;
        }
        slices(s, &[("x/c", READY)])?;
        serve(s, "")?;
        only(s, &cgroup, &ASKERS)?;
        let outside = [fabric::OUTSIDE_V4, fabric::OUTSIDE_V6].map(str::to_owned);
        let pod: Vec<_> = s.pod("x/a")?.addresses().iter().map(ToString::to_string).collect();
        let mut live = Connection::open(s.pod("x/a")?.namespace(), balanced()?[0], 443)?;
        for (ranges, answered) in [
            (hosts(&outside), &["outside"][..]),
            (hosts(&pod), &["x/a"]),
            (hosts(&fabric::addresses(1)), &["node"]),
            ("192.0.2.0/24, 10.0.0.0/8, 'fd00::/8', '2001:db8::/32'".to_owned(), &ASKERS),
            ("203.0.113.0/24, '2001:db8:ffff::/48'".to_owned(), &[]),
        ] {
            serve(s, &ranges)?;
            only(s, &cgroup, answered)?;
            elsewhere_all_are_answered(s, &cgroup)?;
            let (passes, said) = explained(s, &[])?;
            let is_in = answered.contains(&"x/a");
            let why = said["why"].as_str().unwrap_or_default();
            ensure!(passes == is_in && said["ALARM"].is_null(), "{said:#}");
            ensure!(is_in || why.contains("is in none of the source ranges"), "{said:#}");
        }
        ensure!(live.answers()?, "a connection that is there is not asked again");

        // One that cannot be read: said once, and the ranges stay that were.
        serve(s, &format!("{}, 10.0.0.0/33", hosts(&outside)))?;
        wait_until("it is told of", PATIENCE, || {
            let said = s.node.show("status")?["problems"].to_string();
            Ok(said.matches("spec.loadBalancerSourceRanges[2]").count() == 1)
        })?;
        only(s, &cgroup, &[])?;
        serve(s, &hosts(&outside))?;
        only(s, &cgroup, &["outside"])?;
        s.node.agent.kill()?;
        only(s, &cgroup, &["outside"])?;
        s.node.start()?;
        only(s, &cgroup, &["outside"])
    })
}
