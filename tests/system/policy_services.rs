//! Services in Calico's rules, with real packets: CAL-36.
//! In: policies that name services, and slices that change under them. Out: tables before and after.
//! Invariant: every table differs from the one before it.
//! Never: waits for a change by time.

use crate::story::{Story, story};
use anyhow::{Result, ensure};
use tests::{
    Outcome,
    Probe::{Tcp, Udp},
};

/// Writes a policy of Calico's for all pods of namespace x.
fn policy(s: &Story, name: &str, spec: &str) -> Result<()> {
    let text = format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{ name: {name}, namespace: x }}\nspec: {spec}\n"
    );
    s.cluster.manifest(name, &text)
}

/// Writes the slice of a service of namespace y, of both families.
fn slices(s: &Story, name: &str, pods: &[&str], ports: &str) -> Result<()> {
    let mut text = String::new();
    for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
        let mut endpoints = Vec::new();
        for pod in pods {
            let own = s.pod(pod)?.addresses().iter().filter(|address| address.is_ipv4() == is_v4);
            endpoints
                .extend(own.map(|address| format!("{{ addresses: ['{address}'], conditions: {{ ready: false }} }}")));
        }
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: {name}-{}, namespace: 'y', \
             labels: {{ kubernetes.io/service-name: {name} }} }}\naddressType: {family}\nendpoints: [{}]\nports: [{ports}]\n",
            family.to_lowercase(),
            endpoints.join(", ")
        );
    }
    s.cluster.manifest(&format!("slices-{name}"), &text)
}

#[test]
fn cal_36_egress_to_a_service_follows_its_slices_endpoint_by_endpoint_and_port_by_port() -> Result<()> {
    story(&["x/a", "y/a", "y/b"], |s| {
        let to_shop = "{ action: Allow, destination: { services: { name: shop, namespace: 'y' } } }";
        policy(s, "p", &format!("{{ types: [Egress], egress: [{to_shop}] }}"))?;
        s.expect(Tcp(80), "y/a y/b\n x/a X X")?;
        slices(s, "shop", &["y/a"], "{ port: 80 }")?;
        s.expect(Tcp(80), "y/a y/b\n x/a . X")?;
        s.expect_now(Tcp(81), "y/a y/b\n x/a X X")?;
        s.expect_now(Udp(80), "y/a y/b\n x/a X X")?;
        let live = s.pod("x/a")?.connect(s.pod("y/a")?, 80)?;
        slices(s, "shop", &["y/a", "y/b"], "{ port: 81 }, { port: 80, protocol: UDP }")?;
        s.expect(Tcp(81), "y/a y/b\n x/a . .")?;
        s.expect_now(Udp(80), "y/a y/b\n x/a . .")?;
        s.expect_now(Tcp(80), "y/a y/b\n x/a X X")?;
        let mut live = live;
        ensure!(!live.answers()?, "the port went from the service, and with it its connections");
        slices(s, "shop", &["y/b"], "{ port: 81 }")?;
        s.expect(Tcp(81), "y/a y/b\n x/a X .")?;
        s.cluster.remove("slices-shop")?;
        s.expect(Tcp(81), "y/a y/b\n x/a X X")
    })
}

#[test]
fn cal_36_a_denied_service_in_a_tier_of_its_own_and_ingress_from_a_service() -> Result<()> {
    story(&["x/a", "y/a", "y/b"], |s| {
        slices(s, "shop", &["y/a"], "{ port: 80 }")?;
        s.cluster.manifest(
            "tier",
            "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: { name: first }\nspec: { order: 1, defaultAction: Pass }\n",
        )?;
        let service = "services: { name: shop, namespace: 'y' }";
        policy(
            s,
            "out",
            &format!("{{ tier: first, types: [Egress], egress: [{{ action: Deny, destination: {{ {service} }} }}] }}"),
        )?;
        s.expect(Tcp(80), "y/a y/b\n x/a X .")?;
        s.expect_now(Tcp(81), "y/a y/b\n x/a . .")?;
        policy(s, "in", &format!("{{ types: [Ingress], ingress: [{{ action: Allow, source: {{ {service} }} }}] }}"))?;
        s.expect(Tcp(81), "x/a\n y/a .\n y/b X")?;
        let told = s.node.tortie(&["explain", "--from", "x/a", "--to", "y/a", "--port", "80", "--proto", "tcp"])?;
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        ensure!(!told.status.success() && said.contains("x/out") && !said.contains("ALARM"), "{said}");
        Ok(())
    })
}

#[test]
fn cal_36_a_slice_that_becomes_unreadable_keeps_a_denied_endpoint_denied_over_a_restart_too() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        slices(s, "shop", &["y/a"], "{ port: 80 }")?;
        let deny = "{ action: Deny, destination: { services: { name: shop, namespace: 'y' } } }";
        policy(s, "p", &format!("{{ types: [Egress], egress: [{deny}, {{ action: Allow }}] }}"))?;
        s.expect(Tcp(80), "y/a\n x/a X")?;
        slices(s, "shop", &["y/a"], "{ port: 0 }")?;
        tests::wait::wait_until("the slice is named", tests::wait::PATIENCE, || {
            let said = s.node.show("status")?.to_string();
            Ok(said.contains("EndpointSlice y/shop-ipv4") && said.contains("ports[0].port"))
        })?;
        s.expect_now(Tcp(80), "y/a\n x/a X")?;
        s.node.agent.kill()?;
        s.node.start()?;
        s.wait_probe("x/a", "y/a", Tcp(81), Outcome::Allowed)?;
        s.expect_now(Tcp(80), "y/a\n x/a X")
    })
}
