//! Pools under way where an API server or etcd keeps them: split while they are locked, and how nodes take blocks.
//! In: commands of `tortie ipam`, with the rights of an administrator. Out: what the server has then, and what pods get.
//! Invariant: nothing is split that is not locked, where a lock is heeded.
//! Never: waits for a change by time; the pod that is attached is the sign.

use crate::story::{NATIVE, STORED};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Cluster, Node, NodeSpec, Pod, PodSpec, wait};

/// What a command of `tortie ipam` prints, and whether it went well.
fn ipam(node: &Node, cluster: &Cluster, arguments: &[&str]) -> Result<(bool, String)> {
    let mut place: Vec<_> = cluster.named().into_iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if let Some(path) = cluster.administrator() {
        place.retain(|part| part != "--kubeconfig" && !part.ends_with(".kubeconfig"));
        place.extend(["--kubeconfig".to_owned(), path.display().to_string()]);
    }
    let arguments: Vec<&str> =
        ["ipam"].into_iter().chain(arguments.iter().copied()).chain(place.iter().map(String::as_str)).collect();
    let output = node.tortie(&arguments)?;
    let text = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat();
    Ok((output.status.success(), text))
}

fn done(node: &Node, cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let (is_done, text) = ipam(node, cluster, arguments)?;
    ensure!(is_done, "{arguments:?}: {text}");
    Ok(text)
}

/// A pod, once its agent has heard that addresses are given.
fn once_given(node: &Node, cluster: &Cluster, spec: &PodSpec) -> Result<Pod> {
    wait::wait_for("a pod gets an address", wait::PATIENCE, || node.pod(cluster, spec).map(Some))
}

fn networks(pools: &[Value]) -> Vec<String> {
    let mut all: Vec<_> =
        pools.iter().map(|pool| pool["spec"]["cidr"].as_str().unwrap_or_default().to_owned()).collect();
    all.sort();
    all
}

const PARTS: [&str; 3] = ["10.65.0.0/17", "10.65.128.0/17", "fd00:65::/64"];

#[test]
fn a_pool_of_an_api_server_is_split_and_how_nodes_take_blocks_is_kept_there() -> Result<()> {
    for group in [NATIVE, STORED] {
        let cluster = Cluster::served(group)?;
        cluster.namespace("x", &[])?;
        // Else who does the chores makes one, before the split or after it.
        let lock = |is_ready: bool| {
            let text = format!(
                "apiVersion: {}/{}\nkind: ClusterInformation\nmetadata: {{ name: default }}\n\
                 spec: {{ datastoreReady: {is_ready} }}\n",
                group.0, group.1
            );
            cluster.manifest("information", &text)
        };
        lock(true)?;
        let mut node = cluster.node(NodeSpec::new(1))?;
        node.start()?;
        let first = node.pod(&cluster, &PodSpec::new("x/a"))?;
        let command = ["split", "--name", "pool-v4", "2", "--yes"];
        let (is_done, refused) = ipam(&node, &cluster, &command)?;
        ensure!(!is_done && refused.contains("the datastore is not locked"), "{refused}");
        lock(false)?;
        let split = done(&node, &cluster, &command)?;
        ensure!(split.contains("successfully split into 2"), "{split}");
        lock(true)?;
        let pools = cluster.get(&["ippools"])?["items"].as_array().context("a list")?.clone();
        ensure!(networks(&pools) == PARTS && pools.iter().all(|pool| pool["spec"]["disabled"] != true), "{pools:?}");
        let late = once_given(&node, &cluster, &PodSpec::new("x/late"))?;
        ensure!(late.addresses().len() == 2 && late.address() != first.address());
        // The kit's native group has the stored one's names.
        if group == NATIVE {
            continue;
        }
        done(&node, &cluster, &["configure", "--strictaffinity=true", "--kubevirt-ip-persistence=Disabled", "--yes"])?;
        let config = cluster.get(&["ipamconfigs", "default"])?["spec"].clone();
        ensure!(config["strictAffinity"] == true && config["autoAllocateBlocks"] == true, "{config}");
        ensure!(config["kubeVirtVMAddressPersistence"] == "Disabled", "{config}");
    }
    Ok(())
}

#[test]
fn etcd_a_pool_is_split_while_calicos_objects_are_locked_and_never_before() -> Result<()> {
    let mut cluster = Cluster::in_etcd(false)?;
    let mut node = cluster.node(NodeSpec::new(1))?;
    node.start()?;
    let first = node.pod(&cluster, &PodSpec::new("x/a"))?;
    let lock = |cluster: &mut Cluster, is_ready: bool| {
        let (etcd, at) = cluster.etcd()?;
        etcd.put(at, "clusterinformations/default", &json!({ "spec": { "datastoreReady": is_ready } }))
    };
    lock(&mut cluster, true)?;
    let command = ["split", "--name", "pool-v4", "2"];
    let dry = done(&node, &cluster, &command)?;
    ensure!(dry.contains("not locked") && dry.contains("Nothing was done"), "{dry}");
    let (is_done, refused) = ipam(&node, &cluster, &[&command[..], &["--yes"]].concat())?;
    ensure!(!is_done && refused.contains("the datastore is not locked"), "{refused}");
    lock(&mut cluster, false)?;
    done(&node, &cluster, &[&command[..], &["--yes"]].concat())?;
    lock(&mut cluster, true)?;
    let (etcd, at) = cluster.etcd()?;
    let pools: Vec<_> = etcd.all(at, "/calico/resources/v3/projectcalico.org/ippools/")?;
    let pools: Vec<_> = pools.into_iter().map(|(_, pool)| pool).collect();
    ensure!(networks(&pools) == PARTS, "{pools:?}");
    ensure!(pools.iter().filter(|pool| pool["metadata"]["uid"].is_string()).count() == 2, "{pools:?}");
    done(&node, &cluster, &["configure", "--strictaffinity=true", "--yes"])?;
    let (etcd, at) = cluster.etcd()?;
    let config = etcd.all(at, "/calico/ipam/v2/config")?;
    ensure!(
        config
            == [(
                "/calico/ipam/v2/config".to_owned(),
                json!({ "strict_affinity": true, "auto_allocate_blocks": true, "maxBlocksPerHost": 0 })
            )],
        "{config:?}"
    );
    ensure!(once_given(&node, &cluster, &PodSpec::new("x/late"))?.address() != first.address());
    Ok(())
}

#[test]
fn nodes_own_networks_come_to_blocks_on_an_api_server_and_a_host_local_pod_keeps_its_address() -> Result<()> {
    let cluster = Cluster::served(STORED)?;
    cluster.namespace("x", &[])?;
    let mut node = cluster.node(NodeSpec::new(1))?;
    node.start()?;
    let own = json!({ "spec": { "podCIDR": "10.88.0.0/24", "podCIDRs": ["10.88.0.0/24"] } }).to_string();
    cluster.kubectl(&["patch", "node", node.name(), "--type=merge", "--patch", &own], "")?;
    let conf = json!({ "cniVersion": "1.0.0", "ipam": {
        "type": "host-local", "dataDir": cluster.directory().join("leases"), "ranges": [[{ "subnet": "10.88.0.0/24" }]],
    } });
    let old = node.pod(&cluster, &PodSpec { conf, ..PodSpec::new("x/old") })?;
    let dry = done(&node, &cluster, &["migrate", "pod-cidrs"])?;
    ensure!(dry.contains(&format!("{} of pod x/old on node1", old.address())), "{dry}");
    ensure!(dry.contains("1 pools, 1 blocks and 1 addresses to write"), "{dry}");
    done(&node, &cluster, &["migrate", "pod-cidrs", "--yes"])?;
    let block = cluster.get(&["ipamblocks", "10-88-0-0-24"])?["spec"].clone();
    ensure!(block["affinity"] == "host:node1", "{block}");
    ensure!(block["attributes"][0]["secondary"]["pod"] == "old", "{block}");
    let pool = cluster.get(&["ippools", "podcidr-10-88-0-0-24"])?["spec"].clone();
    ensure!(pool["disabled"] == true, "nothing is given before all is written: {pool}");
    let finished = done(&node, &cluster, &["migrate", "pod-cidrs", "--finish", "--settle", "0", "--yes"])?;
    ensure!(finished.contains("Pools are enabled"), "{finished}");
    let asks = PodSpec::new("x/new").annotation("cni.projectcalico.org/ipv4pools", r#"["podcidr-10-88-0-0-24"]"#);
    let new = once_given(&node, &cluster, &asks)?;
    ensure!(new.address() != old.address() && new.address().to_string().starts_with("10.88.0."), "{}", new.address());
    let checked = done(&node, &cluster, &["check", "--show-problem-ips"])?;
    ensure!(checked.contains("found 0 problems"), "{checked}");
    Ok(())
}
