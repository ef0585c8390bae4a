//! Chores that one agent does for all, on a real API server: what belonged to nodes that are gone, and addresses of pods that are.
//! In: nodes and pods that kubectl deletes while no agent gives anything back. Out: blocks, claims, handles as the server has them.
//! Invariant: agents have the rights that they are shipped with; what is waited for is a state, never a time.
//! Never: deletes an address by other hands than the agents'.

use crate::{
    story::{NATIVE, STORED},
    told::METRICS,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, time::Duration};
use tests::{
    Cluster, Node, NodeSpec, Pod, PodSpec, Scrape,
    wait::{self, PATIENCE},
};

/// One who holds the lease is followed after half a minute.
const LONG: Duration = Duration::from_secs(120);
/// Graces short enough to be waited for.
const CONTROLLERS: &str = "apiVersion: projectcalico.org/v3\nkind: KubeControllersConfiguration\nmetadata: { name: default }\n\
    spec: { controllers: { node: { leakGracePeriod: 3s } } }\n";

struct Scene {
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    cluster: Cluster,
}

/// So many nodes, each with one pod.
fn scene(numbers: &[u8], test: impl FnOnce(&mut Scene) -> Result<()>) -> Result<()> {
    let cluster = Cluster::served(NATIVE)?;
    cluster.namespace("x", &[])?;
    cluster.manifest("controllers", CONTROLLERS)?;
    let (mut nodes, mut pods) = (Vec::new(), Vec::new());
    for number in numbers {
        let mut node = cluster.node(NodeSpec::new(*number))?;
        node.start()?;
        pods.push(node.pod(&cluster, &PodSpec::new(&format!("x/p{number}")))?);
        nodes.push(node);
    }
    let mut scene = Scene { nodes, pods, cluster };
    let done = test(&mut scene);
    let tail = |node: &Node| format!("{}:\n{}\n", node.name(), node.agent.log_tail());
    done.with_context(|| scene.nodes.iter().map(tail).collect::<String>())
}

impl Scene {
    /// Which node does the chores; none: nobody has begun.
    fn holder(&self) -> Result<Option<String>> {
        let leases = self.cluster.get(&["leases", "-n", "tortie-system"])?;
        let mut all = leases["items"].as_array().context("a list")?.iter();
        let lease = all.find(|lease| lease["metadata"]["name"] == "chores");
        Ok(lease.and_then(|lease| lease["spec"]["holderIdentity"].as_str()).map(str::to_owned))
    }

    fn items(&self, kind: &str) -> Result<Vec<Value>> {
        Ok(self.cluster.get(&[kind])?["items"].as_array().context("a list")?.clone())
    }

    /// Addresses of each node's blocks that somebody has, and the nodes of all claims.
    fn blocks(&self) -> Result<Vec<(String, usize)>> {
        let of = |block: &Value| {
            let slots = block["spec"]["allocations"].as_array().into_iter().flatten();
            let owner = block["spec"]["affinity"].as_str().unwrap_or_default();
            (owner.trim_start_matches("host:").to_owned(), slots.filter(|slot| !slot.is_null()).count())
        };
        Ok(self.items("ipamblocks")?.iter().map(of).collect())
    }

    fn owners(&self) -> Result<BTreeSet<String>> {
        let claims = self.items("blockaffinities")?;
        let claims = claims.iter().map(|claim| claim["spec"]["node"].as_str().unwrap_or_default().to_owned());
        Ok(self.blocks()?.into_iter().map(|(owner, _)| owner).chain(claims).collect())
    }

    fn place(&self, node: &str) -> Result<usize> {
        self.nodes.iter().position(|own| own.name() == node).with_context(|| format!("there is no {node}"))
    }

    /// What a command of `tortie ipam` prints, with the rights of an agent.
    fn ipam(&self, arguments: &[&str]) -> Result<String> {
        said(&self.nodes[0], &self.cluster, arguments)
    }

    /// A pod's object goes, as when its node is lost: nobody takes its address back.
    fn lose(&self, pod: &str) -> Result<()> {
        self.cluster.kubectl(&["delete", "pod", "-n", "x", pod, "--force", "--grace-period=0"], "").map(drop)
    }
}

pub fn said(node: &Node, cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let place = cluster.named().into_iter().map(|part| part.to_string_lossy().into_owned()).collect::<Vec<_>>();
    let arguments: Vec<&str> =
        ["ipam"].into_iter().chain(arguments.iter().copied()).chain(place.iter().map(String::as_str)).collect();
    let output = node.tortie(&arguments)?;
    let text = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat();
    ensure!(output.status.success(), "{arguments:?}: {text}");
    Ok(text)
}

/// Nodes have host endpoints, or have none.
fn controllers(group: (&str, &str), are_wanted: bool) -> String {
    set_up(group, if are_wanted { "autoCreate: Enabled" } else { "autoCreate: Disabled" })
}

fn set_up(group: (&str, &str), hosts: &str) -> String {
    format!(
        "apiVersion: {}/{}\nkind: KubeControllersConfiguration\nmetadata: {{ name: default }}\n\
         spec: {{ controllers: {{ node: {{ hostEndpoint: {{ {hosts} }} }} }} }}\n",
        group.0, group.1
    )
}

#[test]
fn hep_13_nodes_have_host_endpoints_of_their_labels_while_the_cluster_says_so_and_those_of_others_stay() -> Result<()> {
    for group in [NATIVE, STORED] {
        let cluster = Cluster::served(group)?;
        let other = format!(
            "apiVersion: {}/{}\nkind: HostEndpoint\nmetadata: {{ name: by-hand }}\n\
             spec: {{ node: elsewhere, interfaceName: eth7 }}\n",
            group.0, group.1
        );
        cluster.manifest("by-hand", &other)?;
        cluster.manifest("controllers", &controllers(group, true))?;
        let mut node = cluster.node(NodeSpec::new(1))?;
        node.start()?;
        let kind = format!("hostendpoints.{}", group.0);
        let all = || Ok::<_, anyhow::Error>(cluster.get(&[&kind])?["items"].as_array().context("a list")?.clone());
        let made =
            || Ok::<_, anyhow::Error>(all()?.into_iter().find(|host| host["metadata"]["name"] == "node1-auto-hep"));
        let done = (|| -> Result<()> {
            let host = wait::wait_for("the node has a host endpoint", LONG, made)?;
            let spec = &host["spec"];
            ensure!(spec["node"] == "node1" && spec["interfaceName"] == "*", "{host}");
            ensure!(spec["profiles"] == json!(["projectcalico-default-allow"]), "{host}");
            ensure!(spec["expectedIPs"].as_array().is_some_and(|all| all.len() == 2), "{host}");
            ensure!(host["metadata"].to_string().contains("calico-kube-controllers"), "{host}");
            cluster.kubectl(&["label", "node", "node1", "role=edge"], "")?;
            let follows = || Ok(made()?.is_some_and(|host| host["metadata"].to_string().contains("edge")));
            wait::wait_until("it has the node's new label", LONG, follows)?;
            let shown = || Ok(node.show("hostendpoints")?.to_string().contains("node1-auto-hep"));
            wait::wait_until("it is in force", PATIENCE, shown)?;
            let problems = node.show("status")?["problems"].clone();
            ensure!(!problems.to_string().contains("auto-hep"), "{problems}");
            let template = "createDefaultHostEndpoint: Disabled, templates: [{ generateName: front, \
                interfaceCIDRs: [192.0.2.0/24], nodeSelector: role == 'edge', annotations: { who: we } }]";
            cluster.manifest("controllers", &set_up(group, &format!("autoCreate: Enabled, {template}")))?;
            let names = || {
                let name = |host: &Value| host["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                Ok::<BTreeSet<_>, anyhow::Error>(all()?.iter().map(name).collect())
            };
            let templated = BTreeSet::from(["by-hand".to_owned(), "node1-front-auto-hep".to_owned()]);
            wait::wait_until("a template's takes its place", LONG, || Ok(names()? == templated))?;
            let shown = || Ok(node.show("hostendpoints")?.to_string().contains("node1-front-auto-hep"));
            wait::wait_until("it is in force", PATIENCE, shown)?;
            let pattern =
                "createDefaultHostEndpoint: Disabled, templates: [{ generateName: if, interfacePattern: '^eth' }]";
            cluster.manifest("controllers", &set_up(group, &format!("autoCreate: Enabled, {pattern}")))?;
            let by_name = BTreeSet::from(["by-hand".to_owned(), "node1-if-eth0-auto-hep".to_owned()]);
            wait::wait_until("one of its interface takes its place", LONG, || Ok(names()? == by_name))?;
            let shown = || Ok(node.show("hostendpoints")?.to_string().contains("node1-if-eth0-auto-hep"));
            wait::wait_until("it is in force", PATIENCE, shown)?;
            cluster.manifest("controllers", &controllers(group, false))?;
            wait::wait_until("it is gone", LONG, || Ok(all()?.len() < 2))?;
            ensure!(all()?.len() == 1, "that of somebody else stays: {:?}", all()?);
            Ok(())
        })();
        done.with_context(|| node.agent.log_tail())?;
    }
    Ok(())
}

#[test]
fn etcd_hep_13_nodes_have_host_endpoints_there_too_of_all_interfaces_and_of_each_by_its_name() -> Result<()> {
    let mut cluster = Cluster::in_etcd(false)?;
    let mut node = cluster.node(NodeSpec::new(1).argument("--chores").argument("on"))?;
    let addresses: Vec<_> =
        node.addresses().iter().map(|address| json!({ "address": address, "type": "InternalIP" })).collect();
    let (etcd, at) = cluster.etcd()?;
    let labelled =
        |role: &str| json!({ "metadata": { "labels": { "role": role } }, "spec": { "addresses": addresses } });
    etcd.put(at, "nodes/node1", &labelled("web"))?;
    etcd.put(at, "hostendpoints/by-hand", &json!({ "spec": { "node": "elsewhere", "interfaceName": "eth7" } }))?;
    node.start()?;
    let place = "/calico/resources/v3/projectcalico.org/hostendpoints/";
    let mut want = |hosts: Value, expected: &[&str], says: &str| -> Result<()> {
        let (etcd, at) = cluster.etcd()?;
        let spec = json!({ "controllers": { "node": { "hostEndpoint": hosts } } });
        etcd.put(at, "kubecontrollersconfigurations/default", &json!({ "spec": spec }))?;
        wait::wait_until(&format!("there are {expected:?}, with {says}"), LONG, || {
            let all = etcd.all(at, place)?;
            let names: BTreeSet<_> = all.iter().filter_map(|(key, _)| key.strip_prefix(place)).collect();
            Ok(names == expected.iter().copied().collect()
                && all.iter().any(|(_, host)| host.to_string().contains(says)))
        })
    };
    let done = (|| -> Result<()> {
        want(json!({ "autoCreate": "Enabled" }), &["by-hand", "node1-auto-hep"], "calico-kube-controllers")?;
        let shown = |name: &str| {
            let is_shown = || Ok(node.show("hostendpoints")?.to_string().contains(name));
            wait::wait_until(&format!("{name} is in force"), PATIENCE, is_shown)
        };
        shown("node1-auto-hep")?;
        let template = json!({ "generateName": "if", "interfacePattern": "^eth", "nodeSelector": "role == 'web'" });
        let by_name =
            json!({ "autoCreate": "Enabled", "createDefaultHostEndpoint": "Disabled", "templates": [template] });
        want(by_name, &["by-hand", "node1-if-eth0-auto-hep"], "\"interfaceName\":\"eth0\"")?;
        shown("node1-if-eth0-auto-hep")?;
        want(json!({ "autoCreate": "Disabled" }), &["by-hand"], "eth7")
    })();
    done.with_context(|| node.agent.log_tail())
}

#[test]
fn a_cluster_that_nobody_has_named_gets_a_name_once_and_a_name_is_kept() -> Result<()> {
    for group in [NATIVE, STORED] {
        let cluster = Cluster::served(group)?;
        let mut node = cluster.node(NodeSpec::new(1))?;
        node.start()?;
        let kind = format!("clusterinformations.{}", group.0);
        let named = || Ok::<_, anyhow::Error>(cluster.get(&[&kind])?["items"][0]["spec"].clone());
        let done = (|| -> Result<()> {
            wait::wait_until("it has a name", LONG, || Ok(!named()?.is_null()))?;
            let made = named()?;
            ensure!(made["clusterGUID"].as_str().is_some_and(|name| name.len() == 32), "{made}");
            let controllers = format!("kubecontrollersconfigurations.{}", group.0);
            let are_set_up = || Ok(!cluster.get(&[&controllers])?["items"][0].is_null());
            wait::wait_until("its controllers are set up", LONG, are_set_up)?;
            ensure!(made["datastoreReady"] == true && made["calicoVersion"].is_null(), "{made}");
            let report = format!("{}/report.json", cluster.directory().display());
            said(&node, &cluster, &["check", "-o", &report])?;
            let report: Value = serde_json::from_str(&fs::read_to_string(&report)?)?;
            ensure!(report["clusterGUID"] == made["clusterGUID"], "{report}");
            // Who takes the chores over again looks whether there is one, and leaves it alone.
            let other = r#"{"spec":{"clusterGUID":"others","calicoVersion":"v3.31.0"}}"#;
            cluster.kubectl(&["patch", &kind, "default", "--type=merge", "-p", other], "")?;
            node.agent.stop()?;
            cluster.kubectl(&["delete", &controllers, "default"], "")?;
            node.start()?;
            wait::wait_until("it has looked, and made what was lacking", LONG, are_set_up)?;
            let kept = named()?;
            ensure!(kept["clusterGUID"] == "others" && kept["calicoVersion"] == "v3.31.0", "{kept}");
            Ok(())
        })();
        done.with_context(|| node.agent.log_tail())?;
    }
    Ok(())
}

#[test]
fn etcd_addresses_are_shown_checked_and_taken_back_there_too() -> Result<()> {
    let cluster = Cluster::in_etcd(false)?;
    let mut node = cluster.node(NodeSpec::new(1))?;
    node.start()?;
    let pods = [node.pod(&cluster, &PodSpec::new("x/a"))?, node.pod(&cluster, &PodSpec::new("x/b"))?];
    let address = pods[0].address().to_string();
    let ipam = |arguments: &[&str]| said(&node, &cluster, arguments);
    ensure!(ipam(&["show", "--ip", &address])?.contains("pod: a"), "it is shown");
    ensure!(ipam(&["check"])?.contains("Check complete; found 0 problems."), "{}", ipam(&["check", "--show-all-ips"])?);
    ensure!(ipam(&["release", "--ip", &address, "--force", "--yes"])?.contains("Successfully released"), "by force");
    let checked = ipam(&["check", "--show-problem-ips"])?;
    ensure!(checked.contains(&format!("{address} in use by Workload(x/a)")), "{checked}");
    Ok(())
}

#[test]
fn ipam_23_of_a_node_that_is_deleted_all_goes_and_nothing_of_the_others_and_one_follows_who_did_the_chores()
-> Result<()> {
    scene(&[1, 2, 3], |s| {
        let first = wait::wait_for("somebody does the chores", LONG, || s.holder())?;
        let lost = s.place(&first)?;
        s.nodes[lost].agent.kill()?;
        wait::wait_until("another follows", LONG, || Ok(s.holder()?.is_some_and(|holder| holder != first)))?;
        let before = s.blocks()?;
        ensure!(before.len() == 6 && s.owners()?.len() == 3, "both families of three nodes: {before:?}");
        // The node is away, and its pod is not: nobody may take anything.
        s.cluster.kubectl(&["delete", "node", &first], "")?;
        let others: BTreeSet<_> = before.iter().filter(|(owner, _)| *owner != first).cloned().collect();
        let own = s.nodes[lost].name().trim_start_matches("node").to_owned();
        s.lose(&format!("p{own}"))?;
        wait::wait_until("nothing is left of the node", LONG, || Ok(!s.owners()?.contains(&first)))?;
        let after: BTreeSet<_> = s.blocks()?.into_iter().collect();
        ensure!(after == others, "{after:?} is not {others:?}");
        wait::wait_until("its handle is gone, too", PATIENCE, || Ok(s.items("ipamhandles")?.len() == 2))?;
        ensure!(s.owners()?.len() == 2, "{:?}", s.owners()?);
        Ok(())
    })
}

#[test]
fn ipam_23_an_address_whose_pod_is_gone_is_taken_back_and_those_of_pods_stay_with_and_without_their_agent() -> Result<()>
{
    scene(&[1, 2], |s| {
        let first = wait::wait_for("somebody does the chores", LONG, || s.holder())?;
        let other = 1 - s.place(&first)?;
        let gone = s.nodes[other].pod(&s.cluster, &PodSpec::new("x/gone"))?;
        s.pods.push(gone);
        // Nobody is there to give it back.
        s.nodes[other].agent.kill()?;
        ensure!(s.cluster.held_addresses()? == 6, "{:?}", s.blocks()?);
        s.lose("gone")?;
        let checked = s.ipam(&["check", "--show-problem-ips"])?;
        ensure!(checked.contains("in use") && checked.contains("Check complete"), "{checked}");
        wait::wait_until("its addresses are free", LONG, || Ok(s.cluster.held_addresses()? == 4))?;
        let told = Scrape::of(s.nodes[1 - other].namespace(), METRICS.into())?;
        ensure!(told.value("tortie_chores_leader")? == 1.0, "{told:?}");
        ensure!(told.value("tortie_chores_taken_back_total{what=\"address\"}")? == 2.0, "{told:?}");
        let names = s.items("ipamhandles")?;
        ensure!(names.len() == 2, "{names:?}");
        ensure!(s.owners()?.len() == 2, "blocks stay: {:?}", s.blocks()?);
        let checked = s.ipam(&["check"])?;
        ensure!(checked.contains("Check complete; found 0 problems."), "{checked}");
        s.nodes[other].start()?;
        let shown = s.nodes[other].show("status")?;
        ensure!(shown["problems"].as_array().is_none_or(Vec::is_empty), "{shown}");
        Ok(())
    })
}
