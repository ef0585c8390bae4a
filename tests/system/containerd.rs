//! containerd and runc of Debian start containers on a node: `ctr run --cni`, as a user would.
//! In: a root of busybox. Out: what the container sees, who reaches it, and that its end leaves nothing.
//! Invariant: the same agent serves containers and the kit's pods; a policy does not tell them apart.
//! Never: the machine's own containerd.

use crate::story::{Story, story};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::net::IpAddr;
use tests::{
    Outcome,
    Probe::Ping,
    containerd::Containerd,
    probe::probe,
    wait::{PATIENCE, wait_until},
};

/// containerd 1.6 speaks CNI up to 1.0.0.
fn containerd(s: &Story) -> Result<Containerd<'_>> {
    let containerd = Containerd::start(&s.node, &s.cluster.directory().join("containerd"))?;
    let ours = json!({ "type": "tortie-cni", "socket": s.node.socket(), "ipam": { "type": "tortie" } });
    containerd.places.network("tortie", &json!([ours]), "1.0.0")?;
    Ok(containerd)
}

/// The addresses of the endpoint whose pod is called so, once there is one.
fn address_of(s: &Story, pod: &str) -> Result<Option<IpAddr>> {
    let endpoints = s.node.show("endpoints")?;
    let own = endpoints.as_array().into_iter().flatten().find(|endpoint| endpoint["pod"] == pod);
    let first = |endpoint: &Value| endpoint["addresses"][0].as_str().map(str::to_owned);
    own.and_then(first).map(|text| text.parse().with_context(|| text.clone())).transpose()
}

#[test]
fn cni_25_a_container_sees_its_addresses_and_routes_and_leaves_nothing() -> Result<()> {
    story(&[], |s| {
        let containerd = containerd(s)?;
        let links = || s.node.namespace().ip_json("link show type veth");
        let before = links()?;
        let said = containerd.run("web", &["/bin/sh", "-c", "ip address show eth0; ip route; ip -6 route"])?;
        for part in
            ["inet 10.65.", "/32", "inet6 fd00:65::", "default via 169.254.1.1 dev eth0", "fe80::ecee:eeff:feee:eeee"]
        {
            assert!(said.contains(part), "{part} is missing in {said}");
        }
        assert_eq!(s.node.show("endpoints")?, json!([]));
        assert_eq!(links()?, before);
        Ok(())
    })
}

#[test]
fn own_3_containers_and_pods_reach_each_other_as_policy_says() -> Result<()> {
    story(&["x/a"], |s| {
        let containerd = containerd(s)?;
        let server = containerd.start_container("web", &["/bin/sleep", "1000"])?;
        let mut found = None;
        wait_until("the container is an endpoint", PATIENCE, || {
            found = address_of(s, "default/default-web")?;
            Ok(found.is_some())
        })?;
        let (web, a) = (found.context("no address")?, s.pod("x/a")?.address().to_string());
        let from_a = |what| probe(s.pod("x/a")?.namespace(), web, what);
        wait_until("x/a reaches the container", PATIENCE, || Ok(from_a(Ping)? == Outcome::Allowed))?;
        let ping = ["/bin/ping", "-c", "1", "-W", "2", &a];
        containerd.run("client", &ping)?;
        s.policy("x/from-nobody", "{ podSelector: {}, policyTypes: [Ingress] }")?;
        s.policy("default/to-nobody", "{ podSelector: {}, policyTypes: [Ingress] }")?;
        wait_until("x/a is kept out", PATIENCE, || Ok(from_a(Ping)? == Outcome::Refused))?;
        assert!(containerd.run("client", &ping).is_err(), "a new container reaches x/a, which lets nobody in");
        server.end()?;
        assert_eq!(address_of(s, "default/default-web")?, None);
        Ok(())
    })
}
