//! What pods ask of their addresses by annotations, on a real node: addresses, pools, families, MACs.
//! In: manifests with Calico's annotations. Out: what the pod's interface has, who reaches whom, which ADD fails and why.
//! Invariant: what a pod asks for it has, or it is not attached.
//! Never: waits for a change by time; the pod that is attached is the sign.

use crate::story::{Story, story};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::{
    Outcome, PodSpec,
    Probe::{Ping, Tcp},
    probe::probe,
};

const PREFIX: &str = "cni.projectcalico.org/";

fn asking(id: &str, key: &str, value: &str) -> PodSpec {
    PodSpec::new(id).annotation(&format!("{PREFIX}{key}"), value)
}

fn addresses(s: &Story, id: &str) -> Result<Vec<String>> {
    Ok(s.pod(id)?.addresses().iter().map(ToString::to_string).collect())
}

fn refused(s: &mut Story, spec: &PodSpec, said: &str) -> Result<()> {
    let error = match s.add(spec) {
        Ok(()) => anyhow::bail!("{} is attached", spec.id()),
        Err(error) => format!("{error:#}"),
    };
    ensure!(error.contains(said), "{error}");
    Ok(())
}

#[test]
fn calc_9_a_pod_has_the_addresses_that_it_names_is_reached_there_and_nobody_gets_them_too() -> Result<()> {
    story(&["x/a"], |s| {
        s.add(&asking("x/named", "ipAddrs", r#"["10.65.77.7", "fd00:65::77:7"]"#))?;
        ensure!(addresses(s, "x/named")? == ["10.65.77.7", "fd00:65::77:7"]);
        for address in s.pod("x/named")?.addresses() {
            for what in [Tcp(80), Ping] {
                let met = probe(s.pod("x/a")?.namespace(), *address, what)?;
                ensure!(met == Outcome::Allowed, "{address} {what}: {met}");
            }
        }
        refused(s, &asking("x/late", "ipAddrs", r#"["10.65.77.7"]"#), "10.65.77.7 is taken")?;
        refused(s, &asking("x/out", "ipAddrs", r#"["192.0.2.1"]"#), "lies in no enabled IPPool")?;
        refused(s, &asking("x/bad", "ipAddrs", "10.65.77.8"), "cni.projectcalico.org/ipAddrs")?;
        s.expect(Tcp(80), "x/a x/named\n x/a - .\n x/named . -")
    })
}

#[test]
fn calc_7_a_pod_gets_of_the_pools_that_it_or_its_namespace_names() -> Result<()> {
    story(&["x/a"], |s| {
        let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: own }\n\
                    spec: { cidr: 10.66.0.0/24, assignmentMode: Manual }\n";
        s.cluster.manifest("own", pool)?;
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: { name: z, annotations: { \
                         cni.projectcalico.org/ipv4pools: '[\"10.66.0.0/24\"]' } }\n";
        s.cluster.manifest("z", namespace)?;
        s.add(&asking("x/own", "ipv4pools", r#"["own"]"#))?;
        s.add(&PodSpec::new("z/b"))?;
        s.add(&asking("z/c", "ipv4pools", r#"["pool-v4"]"#))?;
        for (id, net) in [("x/a", "10.65."), ("x/own", "10.66."), ("z/b", "10.66."), ("z/c", "10.65.")] {
            let has = addresses(s, id)?;
            ensure!(has[0].starts_with(net) && has.len() == 2, "{id}: {has:?}");
        }
        refused(s, &asking("x/none", "ipv4pools", r#"["none"]"#), "IPPool none was asked for, and there is none")?;
        s.add(&asking("x/v4", "ipFamilies", r#"["IPv4"]"#))?;
        ensure!(addresses(s, "x/v4")?.len() == 1, "one family is what it asked for");
        s.expect(Tcp(80), "x/a x/own z/b\n x/a - . .\n x/own . - .\n z/b . . -")
    })
}

#[test]
fn calc_11_a_pod_has_the_mac_that_it_names_and_speaks_by_no_other() -> Result<()> {
    const MAC: &str = "0a:58:0a:41:00:77";
    story(&["x/a"], |s| {
        s.add(&asking("x/named", "hwAddr", MAC))?;
        let namespace = s.pod("x/named")?.namespace();
        let link = namespace.ip_json("link show dev eth0")?;
        ensure!(link[0]["address"] == json!(MAC), "{link}");
        s.expect(Tcp(80), "x/a x/named\n x/a - .\n x/named . -")?;
        // The node has it as the pod's, so that it asks nobody.
        let interface = s.pod("x/named")?.host_interface().to_owned();
        let known = s.node.namespace().ip_json(&format!("neigh show dev {interface}"))?;
        let all = known.as_array().context("a list")?;
        ensure!(all.len() == 2 && all.iter().all(|entry| entry["lladdr"] == json!(MAC)), "{known}");
        // Another is not taken for its own.
        s.pod("x/named")?.namespace().ip(&["link set dev eth0 address 0a:58:0a:41:00:78"])?;
        let to = s.pod("x/a")?.address();
        let met = probe(s.pod("x/named")?.namespace(), to, Tcp(80))?;
        ensure!(met != Outcome::Allowed, "it speaks by another MAC: {met}");
        refused(s, &asking("x/bad", "hwAddr", "01:00:5e:00:00:01"), "cni.projectcalico.org/hwAddr")
    })
}

#[test]
fn ipam_3_ipam_5_a_node_has_as_many_blocks_as_it_may_and_then_says_so() -> Result<()> {
    story(&["x/a"], |s| {
        let config = "apiVersion: projectcalico.org/v3\nkind: IPAMConfiguration\nmetadata: { name: default }\n\
                      spec: { strictAffinity: true, maxBlocksPerHost: 2 }\n";
        let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: small }\n\
                    spec: { cidr: 10.66.0.0/29, blockSize: 31 }\n";
        let reserved = "apiVersion: projectcalico.org/v3\nkind: IPReservation\nmetadata: { name: r }\n\
                        spec: { reservedCIDRs: [10.66.0.0/30] }\n";
        for (name, text) in [("config", config), ("small", pool), ("r", reserved)] {
            s.cluster.manifest(name, text)?;
        }
        // Its block of the first pool counts, too.
        for id in ["x/p1", "x/p2"] {
            s.add(&asking(id, "ipv4pools", r#"["small"]"#))?;
            let has = addresses(s, id)?;
            ensure!(["10.66.0.4", "10.66.0.5", "10.66.0.6", "10.66.0.7"].contains(&&*has[0]), "ipam_17: {has:?}");
        }
        refused(s, &asking("x/p3", "ipv4pools", r#"["small"]"#), "no address is left in IPPool small")?;
        s.expect(Tcp(80), "x/p1 x/p2\n x/p1 - .\n x/p2 . -")
    })
}
