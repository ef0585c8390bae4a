//! Services, where Calico's objects are in etcd: the API server beside it says them, as it says what pods are.
//! In: Services and EndpointSlices by kubectl, policies in etcd, an API server that dies. Out: who answers at a service's address.
//! Invariant: the pods that ask know the service's address alone; agents have the rights that they are shipped with.
//! Never: waits for a change by time.

use crate::{
    balancers::SERVICE,
    etcd::{Story, story_on},
    story::NATIVE,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr};
use tests::{
    Cluster, Outcome, PodSpec,
    Probe::Tcp,
    probe::probe,
    wait::{self, PATIENCE},
};

const SHOP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// One node with `x/a`, which serves, and `x/b`, which asks.
fn served(test: impl FnOnce(&mut Story) -> Result<()>) -> Result<()> {
    let cluster = Cluster::served(NATIVE)?.with_etcd((1, false))?;
    cluster.namespace("x", &[])?;
    story_on(cluster, PodSpec::new, &[&["x/a", "x/b"]], test)
}

/// The service, behind which is port 80 of `x/a`.
fn open(s: &Story) -> Result<()> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "x", "name": "shop" },
        "spec": { "clusterIP": SHOP, "ports": [{ "port": 443, "targetPort": 80 }] },
    });
    s.cluster.manifest("shop", &service.to_string())?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "namespace": "x", "name": "shop-1", "labels": { "kubernetes.io/service-name": "shop" } },
        "ports": [{ "name": "", "port": 80, "protocol": "TCP" }],
        "endpoints": [{ "addresses": [s.pods["x/a"].address()], "conditions": { "ready": true } }],
    });
    s.cluster.manifest("shop-slice", &slice.to_string())
}

/// What `x/b` meets at the service's address.
fn met(s: &Story) -> Result<Outcome> {
    probe(s.pods["x/b"].namespace(), IpAddr::V4(SHOP), Tcp(443))
}

fn until(s: &Story, what: &str, is_met: impl Fn(Outcome) -> bool) -> Result<()> {
    wait::wait_until(what, PATIENCE, || Ok(is_met(met(s)?)))
}

fn until_served(s: &Story) -> Result<()> {
    until(s, "the service answers", |outcome| outcome == Outcome::Allowed)
}

#[test]
fn etcd_a_service_of_the_api_server_is_served_and_a_policy_of_etcd_judges_what_reaches_it() -> Result<()> {
    served(|s| {
        open(s)?;
        until_served(s)?;
        s.refuse("p", "a", "pod == 'b'")?;
        until(s, "the policy refuses it", |outcome| outcome != Outcome::Allowed)?;
        s.remove("globalnetworkpolicies/p")?;
        until_served(s)?;
        s.cluster.remove("shop-slice")?;
        until(s, "nobody is behind it", |outcome| outcome != Outcome::Allowed)
    })
}

#[test]
fn etcd_an_agent_that_starts_while_the_api_server_is_away_keeps_services_and_has_policies_in_force() -> Result<()> {
    served(|s| {
        open(s)?;
        until_served(s)?;
        let kept = s.nodes[0].state_dir().join("last-good/EndpointSlice.x/shop-1");
        wait::wait_until("the slice is written down", PATIENCE, || Ok(kept.is_file()))?;
        s.cluster.kill_apiserver()?;
        s.nodes[0].agent.stop()?;
        s.refuse("p", "b", "pod == 'a'")?;
        s.nodes[0].agent.start()?;
        s.nodes[0].wait_ready()?;
        s.expect(Tcp(80), "x/b\n x/a X")?;
        s.problem("those count that were in force before this start")?;
        ensure!(met(s)? == Outcome::Allowed, "the service went with the API server");
        s.cluster.start_apiserver()?;
        wait::wait_until("the API server is heard again", 3 * PATIENCE, || {
            Ok(!s.nodes[0].show("status")?["problems"].to_string().contains("were in force before this start"))
        })?;
        ensure!(met(s)? == Outcome::Allowed, "the service went with the list");
        s.cluster.remove("shop")?;
        until(s, "the service is gone", |outcome| outcome != Outcome::Allowed)
    })
}

#[test]
fn etcd_a_load_balancer_has_an_address_of_a_pool_of_etcd_in_its_status() -> Result<()> {
    served(|s| {
        let spec = json!({ "cidr": "192.0.2.128/28", "blockSize": 28, "allowedUses": ["LoadBalancer"] });
        s.put("ippools/lb", &json!({ "spec": spec }))?;
        s.cluster.manifest("shop", SERVICE)?;
        let given = wait::wait_for("the status says an address", PATIENCE, || {
            let service = s.cluster.get(&["service", "-n", "x", "shop"])?;
            Ok(service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned))
        })?;
        ensure!(given.starts_with("192.0.2."), "{given}");
        let is_held = |s: &mut Story| {
            let blocks = s.all("/calico/ipam/v2/assignment/ipv4/block/192.0.2.128-28")?;
            let (_, block) = blocks.into_iter().next().context("its block")?;
            let slots = block["allocations"].as_array().cloned().unwrap_or_default();
            anyhow::Ok(slots.iter().any(|slot| !slot.is_null()))
        };
        ensure!(is_held(s)?, "no block says that it is held");
        s.cluster.remove("shop")?;
        wait::wait_until("it is taken back", PATIENCE, || Ok(!is_held(s)?))
    })
}
