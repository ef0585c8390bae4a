//! BGP where Calico's objects are in etcd: who asks there how a node's BGP is, and passwords from Secrets of the API server beside it.
//! In: objects in etcd, Secrets by kubectl, a real BIRD. Out: statuses as etcd has them; sessions.
//! Invariant: agents have the rights that they are shipped with, and that to the Secrets which users give.
//! Never: waits for a change by time.

use crate::{
    bgp::{PASSWORD, let_read, problems, router, secret, session, spec},
    story::NATIVE,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{
    Cluster, Node, NodeSpec,
    wait::{self, PATIENCE},
};

const STATUSES: &str = "/calico/resources/v3/projectcalico.org/caliconodestatuses/";

fn put(cluster: &mut Cluster, name: &str, object: &Value) -> Result<()> {
    let (etcd, at) = cluster.etcd()?;
    etcd.put(at, name, object)
}

/// Calico's Node.
fn tell_node(cluster: &mut Cluster, node: &Node) -> Result<()> {
    let addresses: Vec<_> = node.addresses().iter().map(|address| json!({ "address": address })).collect();
    put(cluster, &format!("nodes/{}", node.name()), &json!({ "spec": { "addresses": addresses } }))
}

#[test]
fn etcd_a_node_answers_who_asks_how_its_bgp_is_there_too_and_nobody_elses_question() -> Result<()> {
    let mut cluster = Cluster::in_etcd(false)?;
    let mut node = cluster.node(NodeSpec::new(1))?;
    tell_node(&mut cluster, &node)?;
    node.start()?;
    let done = (|| -> Result<()> {
        let asked = |node: &str, uid: &str| {
            json!({ "metadata": { "name": node, "uid": uid },
                    "spec": { "node": node, "classes": ["Agent", "BGP"], "updatePeriodSeconds": 1 } })
        };
        put(&mut cluster, "caliconodestatuses/other", &asked("node9", "o"))?;
        put(&mut cluster, "caliconodestatuses/mine", &asked("node1", "m"))?;
        let all = |cluster: &mut Cluster| {
            let (etcd, at) = cluster.etcd()?;
            etcd.all(at, STATUSES)
        };
        let of = |all: &[(String, Value)], name: &str| {
            all.iter().find(|(key, _)| key.ends_with(name)).map(|(_, object)| object.clone()).context("it is there")
        };
        let answered = wait::wait_for("it is answered", PATIENCE, || {
            let mine = of(&all(&mut cluster)?, "/mine")?;
            Ok((mine["status"]["agent"]["birdV4"]["state"] == "NotReady").then_some(mine))
        })?;
        ensure!(answered["spec"] == asked("node1", "m")["spec"] && answered["metadata"]["uid"] == "m", "{answered}");
        let at = |object: &Value| object["status"]["lastUpdated"].to_string();
        wait::wait_until("and again", PATIENCE, || Ok(at(&of(&all(&mut cluster)?, "/mine")?) != at(&answered)))?;
        ensure!(of(&all(&mut cluster)?, "/other")?["status"].is_null(), "nobody answers for another node");
        ensure!(problems(&node)?.is_empty(), "{:?}", problems(&node)?);
        Ok(())
    })();
    done.with_context(|| node.agent.log_tail())
}

#[test]
fn etcd_a_session_has_its_password_from_the_secret_of_the_api_server_beside_it() -> Result<()> {
    let mut cluster = Cluster::served(NATIVE)?.with_etcd((1, false))?;
    let mut node = cluster.node(spec(1)?)?;
    tell_node(&mut cluster, &node)?;
    let _router = router(&cluster)?;
    let key = json!({ "secretKeyRef": { "name": "bgp-secrets", "key": "router" } });
    let peer = json!({ "spec": { "peerIP": "192.0.2.254", "asNumber": 65000, "password": key } });
    put(&mut cluster, "bgppeers/router", &peer)?;
    secret(&cluster, "bgp-secrets", PASSWORD)?;
    node.start()?;
    session(&node, None, Some("forbidden"))?;
    let_read(&cluster)?;
    session(&node, Some("Established"), None)?;
    cluster.kubectl(&["delete", "secret", "bgp-secrets", "--namespace=tortie-system"], "")?;
    session(&node, None, Some("there is no such Secret in the namespace tortie-system"))
}
