//! What pods ask of their addresses by annotations, where an API server knows the pods: addresses in its objects, or in an etcd.
//! In: pods and namespaces with Calico's annotations, as the server has them. Out: what the pod's interface has, which ADD fails and why.
//! Invariant: both datastores give the same.
//! Never: tells the agent of a pod by anything but the server.

use crate::story::NATIVE;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tests::{Cluster, Node, NodeSpec, PodSpec};

const PREFIX: &str = "cni.projectcalico.org/";

fn asking(id: &str, key: &str, value: &str) -> PodSpec {
    PodSpec::new(id).annotation(&format!("{PREFIX}{key}"), value)
}

fn asks_are_met(cluster: &Cluster, node: &Node) -> Result<()> {
    let of = |spec: &PodSpec| {
        let pod = node.pod(cluster, spec)?;
        let addresses: Vec<_> = pod.addresses().iter().map(ToString::to_string).collect();
        anyhow::Ok((pod, addresses))
    };
    let refused = |spec: &PodSpec, said: &str| match node.pod(cluster, spec) {
        Ok(_) => bail!("{} is attached", spec.id()),
        Err(error) => {
            let error = format!("{error:#}");
            ensure!(error.contains(said), "{error}");
            Ok(())
        }
    };
    let wanted = r#"["10.65.77.7", "fd00:65::77:7"]"#;
    let (_named, has) = of(&asking("x/named", "ipAddrs", wanted))?;
    ensure!(has == ["10.65.77.7", "fd00:65::77:7"], "{has:?}");
    refused(&asking("x/late", "ipAddrs", r#"["10.65.77.7"]"#), "10.65.77.7 is taken")?;
    let (_v4, has) = of(&asking("x/v4", "ipFamilies", r#"["IPv4"]"#))?;
    ensure!(has.len() == 1 && has[0].starts_with("10.65."), "{has:?}");
    let (pod, _) = of(&asking("x/mac", "hwAddr", "0a:58:0a:41:00:77"))?;
    let link = pod.namespace().ip_json("link show dev eth0")?;
    ensure!(link[0]["address"] == json!("0a:58:0a:41:00:77"), "{link}");
    let (_own, has) = of(&PodSpec::new("z/b"))?;
    ensure!(has.len() == 2 && has[0].starts_with("10.66."), "its namespace names the pool: {has:?}");
    let (_back, has) = of(&asking("z/c", "ipv4pools", r#"["pool-v4"]"#))?;
    ensure!(has[0].starts_with("10.65."), "its own word comes first: {has:?}");
    refused(&asking("x/none", "ipv4pools", r#"["none"]"#), "IPPool none was asked for, and there is none")
}

/// Namespaces of which one names a pool.
fn namespaces(cluster: &Cluster) -> Result<()> {
    cluster.namespace("x", &[])?;
    cluster.namespace("z", &[])?;
    let pools = format!("{PREFIX}ipv4pools=[\"own\"]");
    cluster.kubectl(&["annotate", "namespace", "z", &pools], "").map(drop)
}

#[test]
fn calc_7_calc_9_calc_11_what_a_pod_asks_of_an_api_server_it_has() -> Result<()> {
    let cluster = Cluster::served(NATIVE)?;
    let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: own }\n\
                spec: { cidr: 10.66.0.0/24, assignmentMode: Manual }\n";
    cluster.manifest("own", pool)?;
    namespaces(&cluster)?;
    let mut node = cluster.node(NodeSpec::new(1))?;
    node.start()?;
    asks_are_met(&cluster, &node).with_context(|| node.agent.log_tail())
}

#[test]
fn etcd_calc_7_calc_9_calc_11_what_a_pod_asks_it_has_there_too() -> Result<()> {
    let mut cluster = Cluster::served(NATIVE)?.with_etcd((1, false))?;
    namespaces(&cluster)?;
    let (etcd, place) = cluster.etcd().context("there is no etcd")?;
    let pool = json!({ "spec": { "cidr": "10.66.0.0/24", "assignmentMode": "Manual" } });
    etcd.put(place, "ippools/own", &pool)?;
    for namespace in ["x", "z"] {
        etcd.put(place, &format!("profiles/kns.{namespace}"), &json!({ "spec": {} }))?;
    }
    let mut node = cluster.node(NodeSpec::new(1))?;
    node.start()?;
    asks_are_met(&cluster, &node).with_context(|| node.agent.log_tail())
}
