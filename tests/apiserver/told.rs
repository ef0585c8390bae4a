//! What is written back: conditions of objects, this node's condition and annotations, events; and that it is written once.
//! In: objects that can and cannot be read, by kubectl. Out: statuses and events as kubectl shows them.
//! Invariant: that something stands still is looked at over another write of the same agents, which came later.
//! Never: waits for a change by time.

use crate::story::{NATIVE, STORED, story};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use tests::{
    Cluster, Node, NodeSpec, PodSpec,
    Probe::Tcp,
    Scrape,
    cluster::pools,
    wait::{self, PATIENCE},
};

pub const METRICS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9091);

fn tier(cluster: &Cluster, name: &str, spec: &str) -> Result<()> {
    let text = format!(
        "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {{ name: {name} }}\nspec: {{ order: 10, {spec} }}\n"
    );
    cluster.manifest(&format!("tier-{name}"), &text)
}

/// Status, reason and message of a condition.
fn condition(object: &Value, kind: &str) -> Option<(bool, String, String)> {
    let found = object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Some((found["status"] == "True", text("reason"), text("message")))
}

/// Waits until an object says so, and gives it.
fn says(cluster: &Cluster, what: &[&str], kind: &str, status: bool, reason: &str) -> Result<Value> {
    wait::wait_for(&format!("{what:?} is {kind}: {status}, {reason}"), PATIENCE, || {
        let object = cluster.get(what)?;
        let is_so = condition(&object, kind).is_some_and(|said| (said.0, &*said.1) == (status, reason));
        Ok(is_so.then_some(object))
    })
}

fn events(cluster: &Cluster, name: &str) -> Result<Vec<Value>> {
    let of = format!("involvedObject.name={name}");
    Ok(cluster.get(&["events", "-A", "--field-selector", &of])?["items"].as_array().cloned().unwrap_or_default())
}

/// Writes of one sort, of an agent since it began.
fn writes(node: &Node, of: &str) -> Result<f64> {
    Scrape::of(node.namespace(), METRICS.into())?.value(&format!("tortie_datastore_writes_total{{of=\"{of}\"}}"))
}

#[test]
fn tiers_and_pools_say_whether_they_can_be_used_and_are_written_once() -> Result<()> {
    story(&[], |s| {
        let mut second = s.cluster.node(NodeSpec::new(2))?;
        second.start()?;
        tier(&s.cluster, "first", "defaultAction: Deny")?;
        let first = says(&s.cluster, &["tier", "first"], "Ready", true, "Ready")?;
        let pool = says(&s.cluster, &["ippool", "pool-v4"], "Allocatable", true, "OK")?;
        tier(&s.cluster, "broken", "unheardOf: 1")?;
        let broken = says(&s.cluster, &["tier", "broken"], "Ready", false, "Invalid")?;
        let (_, _, message) = condition(&broken, "Ready").context("it has one")?;
        ensure!(message.contains("spec.unheardOf"), "it names the field: {message}");
        tier(&s.cluster, "broken", "defaultAction: Pass")?;
        says(&s.cluster, &["tier", "broken"], "Ready", true, "Ready")?;
        // Two agents wrote all that since; what was said before stands still.
        ensure!(s.cluster.get(&["tier", "first"])? == first, "it is written again");
        ensure!(s.cluster.get(&["ippool", "pool-v4"])? == pool, "it is written again");
        let written = writes(&s.node, "condition")?;
        ensure!(written <= 5.0, "one agent wrote {written} times of five verdicts");
        let disabled = r#"{"spec":{"disabled":true}}"#;
        s.cluster.kubectl(&["patch", "ippool", "pool-v6", "--type=merge", "-p", disabled], "")?;
        says(&s.cluster, &["ippool", "pool-v6"], "Allocatable", false, "PoolDisabled")?;
        Ok(())
    })
}

#[test]
fn a_verdict_that_somebody_else_overwrites_is_not_fought_for() -> Result<()> {
    story(&[], |s| {
        tier(&s.cluster, "first", "defaultAction: Deny")?;
        says(&s.cluster, &["tier", "first"], "Ready", true, "Ready")?;
        let theirs = json!({ "status": { "conditions": [
            { "type": "Ready", "status": "False", "reason": "Theirs", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
        let patch = ["patch", "tier", "first", "--subresource=status", "--type=merge", "-p", &theirs.to_string()];
        s.cluster.kubectl(&patch, "")?;
        tier(&s.cluster, "second", "defaultAction: Deny")?;
        says(&s.cluster, &["tier", "second"], "Ready", true, "Ready")?;
        says(&s.cluster, &["tier", "first"], "Ready", false, "Theirs")?;
        Ok(())
    })
}

#[test]
fn agt_10_a_node_says_where_its_tunnels_end_as_calico_does_and_takes_it_back_when_no_pool_asks() -> Result<()> {
    story(&[], |s| {
        let annotation = |cluster: &Cluster, name: &str| -> Result<Value> {
            let node = cluster.get(&["node", "node1"])?;
            Ok(node["metadata"]["annotations"][format!("projectcalico.org/{name}")].clone())
        };
        let mode = |mode: &str| {
            let patch = json!({ "spec": { "vxlanMode": mode } }).to_string();
            s.cluster.kubectl(&["patch", "ippool", "pool-v4", "--type=merge", "-p", &patch], "")
        };
        mode("Always")?;
        let address = wait::wait_for("its end is told", PATIENCE, || {
            Ok(annotation(&s.cluster, "IPv4VXLANTunnelAddr")?.as_str().map(str::to_owned))
        })?;
        ensure!(address.starts_with("10.65."), "{address}");
        let mac = annotation(&s.cluster, "VXLANTunnelMACAddr")?;
        ensure!(mac.as_str().is_some_and(|mac| mac.starts_with("66:")), "{mac}");
        wait::wait_until("the device has it", PATIENCE, || {
            let shown = s.node.namespace().ip_json("address show dev vxlan.calico").unwrap_or_default();
            Ok(shown.to_string().contains(&address))
        })?;
        mode("Never")?;
        wait::wait_until(
            "it is taken back",
            PATIENCE,
            || Ok(annotation(&s.cluster, "IPv4VXLANTunnelAddr")?.is_null()),
        )?;
        wait::wait_until("the device is gone", PATIENCE, || {
            Ok(!s.node.namespace().ip_json("link show")?.to_string().contains("vxlan.calico"))
        })
    })
}

#[test]
fn a_node_says_that_pods_may_come_and_which_addresses_it_has_and_is_left_alone_then() -> Result<()> {
    story(&[], |s| {
        let node = says(&s.cluster, &["node", "node1"], "NetworkUnavailable", false, "TortieIsUp")?;
        let annotation = |name: &str| node["metadata"]["annotations"][format!("projectcalico.org/{name}")].clone();
        ensure!(annotation("IPv4Address") == "192.0.2.1/24", "{}", annotation("IPv4Address"));
        ensure!(annotation("IPv6Address") == "2001:db8::1/64", "{}", annotation("IPv6Address"));
        // An agent that ends, and one that begins, change nothing: traffic goes on meanwhile.
        s.node.restart()?;
        tier(&s.cluster, "first", "defaultAction: Deny")?;
        says(&s.cluster, &["tier", "first"], "Ready", true, "Ready")?;
        ensure!(s.cluster.get(&["node", "node1"])? == node, "it is written again");
        ensure!(writes(&s.node, "node")? == 0.0, "the second agent wrote");
        let theirs = json!({ "status": { "conditions": [{ "type": "NetworkUnavailable", "status": "True", "reason": "CalicoIsDown" }] } });
        let patch = ["patch", "node", "node1", "--subresource=status", "--type=strategic", "-p", &theirs.to_string()];
        s.cluster.kubectl(&patch, "")?;
        says(&s.cluster, &["node", "node1"], "NetworkUnavailable", false, "TortieIsUp")?;
        Ok(())
    })
}

#[test]
fn an_object_without_a_status_that_cannot_be_read_has_one_event_that_says_why() -> Result<()> {
    story(&[], |s| {
        let mut second = s.cluster.node(NodeSpec::new(2))?;
        second.start()?;
        let policy = |selector: &str| {
            format!(
                "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{ name: default.odd }}\n\
                 spec: {{ tier: default, selector: \"{selector}\", types: [Ingress] }}\n"
            )
        };
        s.cluster.manifest("odd", &policy("pod == "))?;
        wait::wait_until("an event says why", PATIENCE, || Ok(!events(&s.cluster, "default.odd")?.is_empty()))?;
        wait::wait_until("both agents have remarked it", PATIENCE, || {
            Ok(writes(&s.node, "event")? + writes(&second, "event")? >= 2.0)
        })?;
        let found = events(&s.cluster, "default.odd")?;
        ensure!(found.len() == 1, "{found:?}");
        let (kind, reason) = (&found[0]["involvedObject"]["kind"], &found[0]["reason"]);
        ensure!(kind == "GlobalNetworkPolicy" && reason == "Unreadable", "{found:?}");
        ensure!(found[0]["message"].as_str().is_some_and(|text| text.contains("spec.selector")), "{found:?}");
        let uid =
            s.cluster.get(&["globalnetworkpolicies.projectcalico.org", "default.odd"])?["metadata"]["uid"].clone();
        ensure!(found[0]["involvedObject"]["uid"] == uid, "kubectl describe finds it by its UID");
        Ok(())
    })
}

#[test]
fn calc_18_while_calicos_objects_are_locked_no_pod_comes_or_goes_and_all_stays_as_it_was() -> Result<()> {
    story(&["x/a", "x/b", "x/d"], |s| {
        let mut leaving = s.pods.remove("x/d").context("a pod")?;
        let lock = |ready: bool| {
            let text = format!(
                "apiVersion: {}/{}\nkind: ClusterInformation\nmetadata: {{ name: default }}\nspec: {{ datastoreReady: {ready} }}\n",
                NATIVE.0, NATIVE.1
            );
            s.cluster.manifest("information", &text)
        };
        let is_said = |wanted: bool| {
            wait::wait_until(&format!("it is said: {wanted}"), PATIENCE, || {
                Ok(s.node.show("status")?["problems"].to_string().contains("datastoreReady") == wanted)
            })
        };
        lock(false)?;
        is_said(true)?;
        s.policy("x/p", "{ podSelector: {}, policyTypes: [Ingress] }")?;
        let refused = s.node.pod(&s.cluster, &PodSpec::new("x/c")).err().context("a pod was given an address")?;
        ensure!(format!("{refused:#}").contains("datastoreReady"), "{refused:#}");
        for (command, code) in [("DEL", 11), ("STATUS", 50)] {
            let (refused, said) = s.node.runtime().call(command, leaving.call())?.failure()?;
            ensure!(refused == code && said.contains("datastoreReady"), "{command}: {refused}: {said}");
        }
        s.expect(Tcp(80), "x/a\n x/b .")?;
        lock(true)?;
        is_said(false)?;
        leaving.delete()?;
        s.node.runtime().call("STATUS", leaving.call())?.success()?;
        s.expect(Tcp(80), "x/a\n x/b X")
    })
}

#[test]
fn an_agent_under_the_name_of_another_machine_ends_with_one_error_and_the_one_that_is_it_starts() -> Result<()> {
    let cluster = Cluster::served(NATIVE)?;
    let mut node = cluster.node(NodeSpec::new(1))?;
    let is = |boot: &str| {
        let status = json!({ "status": { "nodeInfo": {
            "bootID": boot, "machineID": "", "systemUUID": "", "kernelVersion": "", "osImage": "", "containerRuntimeVersion": "",
            "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "", "architecture": "" } } });
        cluster
            .kubectl(&["patch", "node", "node1", "--subresource=status", "--type=merge", "-p", &status.to_string()], "")
    };
    is("8c7a1f0e-0000-4000-8000-000000000000")?;
    node.agent.start()?;
    wait::wait_until("the agent ends", 3 * PATIENCE, || Ok(node.agent.ended()?.is_some_and(|how| !how.success())))?;
    let log = node.agent.log();
    let said = log.lines().filter(|line| line.contains("the Node node1 is another machine"));
    // As a problem when it is met, and as what ended the agent.
    ensure!(said.count() == 2 && log.contains("--node"), "{log}");
    ensure!(!cluster.get(&["node", "node1"])?.to_string().contains("TortieIsUp"), "it speaks for the node");
    node.agent.stop()?;
    is(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim())?;
    node.start()
}

#[test]
fn calicos_kinds_that_come_after_the_agent_are_taken_up_while_it_runs_in_either_group() -> Result<()> {
    for group in [NATIVE, STORED] {
        let cluster = Cluster::create()?.serve()?;
        let mut node = cluster.node(NodeSpec::new(1))?;
        node.agent.start()?;
        let heard = || Ok(node.agent.log().contains("the datastore has said everything it has"));
        wait::wait_until("there is nothing of Calico's, and all is heard", PATIENCE, heard)?;
        cluster.define(group, &pools(26, 122))?;
        node.wait_ready()?;
        let pools = format!("ippools.{}", group.0);
        says(&cluster, &[&pools, "pool-v4"], "Allocatable", true, "OK")?;
        cluster.namespace("x", &[])?;
        let _pod = node.pod(&cluster, &PodSpec::new("x/a"))?;
        let blocks = cluster.get(&[&format!("ipamblocks.{}", group.0)])?;
        ensure!(blocks["items"].as_array().is_some_and(|blocks| blocks.len() == 2), "{group:?}: {blocks}");
        ensure!(node.agent.ended()?.is_none(), "it runs on");
    }
    Ok(())
}
