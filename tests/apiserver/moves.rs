//! Moving from Calico, as `docs/operate.md` has somebody type it: a node goes over to Tortie, and back.
//! In: a node on another network, a DaemonSet under the name of Calico's, blocks as Calico writes them. Out: who serves its pods.
//! Invariant: every step is one of the page, in its order, but for the reboots; what Calico's agent would write back, the test does.
//! Never: Calico's own programs.

use crate::{
    daemonset::{APPLY, cluster, for_tests, rolled_out, said},
    deploy::{DEPLOY, api_server, kustomized},
    image,
    shop::{Shop, TIMEOUT},
};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::{fs, net::Ipv4Addr};
use tests::{Kubelet, NodeSpec, kubelet::IMAGE, wait};

const CALICO: &str = "/etc/cni/net.d/10-calico.conflist";
const TORTIE: &str = "/etc/cni/net.d/05-tortie.conflist";
const PLUGIN: &str = "/opt/cni/bin/tortie-cni";
/// A block of the node's, of which somebody holds the first addresses.
const BLOCK: &str = "10.65.3.0/26";
const HELD: usize = 3;

/// Stands in for Calico's agents.
fn calico_node() -> Value {
    let labels = json!({ "k8s-app": "calico-node" });
    let container = json!({ "name": "calico-node", "image": IMAGE, "imagePullPolicy": "Never" });
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "namespace": "kube-system", "name": "calico-node" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "hostNetwork": true, "terminationGracePeriodSeconds": 0, "tolerations": [{ "operator": "Exists" }],
                    "containers": [container],
                },
            },
        },
    })
}

/// What Calico wrote down for this node.
fn written() -> Value {
    let object = |kind: &str, name: &str, spec: Value| json!({ "apiVersion": "crd.projectcalico.org/v1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    let slot = |ordinal: usize| if ordinal < HELD { json!(0) } else { Value::Null };
    let of = json!({ "node": "node1", "namespace": "elsewhere", "pod": "static" });
    let block = json!({
        "cidr": BLOCK, "affinity": "host:node1", "allocations": (0..64).map(slot).collect::<Vec<_>>(),
        "unallocated": (HELD..64).collect::<Vec<_>>(), "attributes": [{ "handle_id": "k8s-pod-network.static", "secondary": of }],
        "sequenceNumber": 17, "sequenceNumberForAllocation": {}, "deleted": false, "strictAffinity": false,
    });
    let affinity = json!({ "cidr": BLOCK, "node": "node1", "state": "confirmed", "type": "host", "deleted": "false" });
    let handle = json!({ "handleID": "k8s-pod-network.static", "block": { BLOCK: HELD }, "deleted": false });
    let items = [
        object("IPAMBlock", "10-65-3-0-26", block),
        object("BlockAffinity", "node1-10-65-3-0-26", affinity),
        object("IPAMHandle", "k8s-pod-network.static", handle),
    ];
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

/// The addresses that pods of the shop have.
fn addresses(shop: &Shop) -> Result<Vec<Ipv4Addr>> {
    let pods = shop.cluster.get(&["pods", "-n", "shop"])?;
    let ip = |pod: &Value| pod["status"]["podIP"].as_str().and_then(|text| text.parse().ok()).context("an address");
    pods["items"].as_array().context("a list")?.iter().map(ip).collect()
}

fn drained(shop: &Shop) -> Result<()> {
    shop.kubectl(&["drain", "node1", "--ignore-daemonsets", "--delete-emptydir-data", TIMEOUT]).map(drop)
}

/// Waits until no pod of these is on the node.
fn gone(shop: &Shop, namespace: &str, label: &str) -> Result<()> {
    let here = "--field-selector=spec.nodeName=node1";
    shop.kubectl(&["wait", "-n", namespace, "--for=delete", "pod", "-l", label, here, TIMEOUT]).map(drop)
}

#[test]
fn a_node_moves_from_another_network_with_its_blocks_and_back() -> Result<()> {
    let cluster = cluster()?;
    let node = cluster.node(NodeSpec::new(1))?;
    let kubelet = {
        let routes = json!([{ "dst": "0.0.0.0/0" }]);
        let ipam = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.77.0.0/24" }]], "routes": routes });
        Kubelet::on_another_network(&cluster, &node, "calico", &json!([{ "type": "ptp", "ipam": ipam }]))?
    };
    kubelet.import(&image::path()?)?;
    let shop = Shop { cluster: &cluster, node: &node, kubelet: &kubelet };
    for object in [calico_node(), written()] {
        cluster.kubectl(&["apply", "-f", "-"], &object.to_string())?;
    }
    shop.open()?;
    shop.police()?;
    shop.rolled_out()?;
    let network = fs::read_to_string(kubelet.path(CALICO))?;
    goes_over(&shop).with_context(|| said(&shop))?;
    goes_back(&shop, &network).with_context(|| said(&shop))
}

fn goes_over(shop: &Shop) -> Result<()> {
    let (host, port) = api_server(shop.cluster)?;
    // There is no kube-proxy here that leads to the API server.
    let api = [("TORTIE_SERVICES", "tortie"), ("KUBERNETES_SERVICE_HOST", &*host), ("KUBERNETES_SERVICE_PORT", &*port)];
    let install = for_tests(&kustomized(shop.cluster, "overlays/beside-calico")?, &api)?;
    shop.cluster.kubectl(&[&APPLY[..], &["-f", "-"]].concat(), &install)?;
    let patch = format!("{DEPLOY}/overlays/beside-calico/calico-node.yaml");
    shop.kubectl(&["-n", "kube-system", "patch", "daemonset", "calico-node", "--patch-file", &patch])?;
    shop.kubectl(&["-n", "kube-system", "rollout", "status", "daemonset", "calico-node", TIMEOUT])?;
    ensure!(shop.kubelet.containers_of("tortie-system")?.is_empty(), "an agent where nobody asked for one");

    drained(shop)?;
    shop.kubectl(&["label", "node", "node1", "tortie.dev/agent=enabled"])?;
    gone(shop, "kube-system", "k8s-app=calico-node")?;
    fs::remove_file(shop.kubelet.path(CALICO))?;
    rolled_out(shop, "tortie")?;
    shop.kubectl(&["uncordon", "node1"])?;
    shop.rolled_out()?;
    shop.until_policed()?;
    let given = addresses(shop)?;
    let of_the_block = |address: &Ipv4Addr| {
        let [a, b, c, d] = address.octets();
        [a, b, c] == [10, 65, 3] && (HELD..64).contains(&usize::from(d))
    };
    ensure!(given.len() == 4 && given.iter().all(of_the_block), "{given:?} are of another block, or another's");
    Ok(())
}

fn goes_back(shop: &Shop, network: &str) -> Result<()> {
    drained(shop)?;
    // Pods that end at once are gone for the API server before they are for their node.
    wait::wait_until("all addresses but the held ones are free", 3 * wait::PATIENCE, || {
        Ok(shop.kubelet.containers_of("shop")?.is_empty() && shop.cluster.held_addresses()? == HELD)
    })?;
    shop.kubectl(&["label", "node", "node1", "tortie.dev/agent-"])?;
    gone(shop, "tortie-system", "app.kubernetes.io/name=tortie")?;
    [TORTIE, PLUGIN].iter().try_for_each(|path| fs::remove_file(shop.kubelet.path(path)))?;
    fs::remove_dir_all(shop.kubelet.path("/var/lib/tortie"))?;
    // Calico's agent does that.
    shop.kubectl(&["-n", "kube-system", "rollout", "status", "daemonset", "calico-node", TIMEOUT])?;
    fs::write(shop.kubelet.path(CALICO), network)?;
    shop.kubectl(&["uncordon", "node1"])?;
    shop.rolled_out()?;
    let given = addresses(shop)?;
    ensure!(given.len() == 4 && given.iter().all(|address| address.octets()[..3] == [10, 77, 0]), "{given:?}");
    Ok(())
}
