//! The install by a kubelet: what `docs/operate.md` has somebody type, on a node that has no network yet, until it has none again.
//! In: the files under `deploy`, the image. Out: pods that wait, are served and policed, before and after an upgrade; a clean node.
//! Invariant: the DaemonSets' containers are the kubelet's; of their templates tests set the agent's uplink, cgroup and tables,
//! and where the API server is; what else, `moves` says.
//! Never: runs a program of ours itself.

use crate::{
    deploy::{DEPLOY, SETTINGS, api_server, kustomized, objects},
    image,
    shop::{Shop, TIMEOUT},
    story::STORED,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Cluster, Kubelet, NodeSpec, wait};

/// As the page says.
pub const APPLY: [&str; 3] = ["apply", "--server-side", "--field-manager=tortie"];
/// What the install puts on a node and its removal takes away.
const PLACES: [&str; 4] =
    ["/etc/cni/net.d/05-tortie.conflist", "/opt/cni/bin/tortie-cni", "/sys/fs/bpf/tortie", "/run/tortie/tortie.sock"];

/// kubectl in the namespace of the agents.
pub fn kubectl(shop: &Shop, arguments: &[&str]) -> Result<String> {
    shop.kubectl(&[&["--namespace", "tortie-system"], arguments].concat())
}

/// Waits until a DaemonSet's pods are ready.
pub fn rolled_out(shop: &Shop, name: &str) -> Result<()> {
    kubectl(shop, &["rollout", "status", "daemonset", name, TIMEOUT]).map(drop)
}

/// The install for a cluster without kube-proxy, edited as it asks for.
fn install(cluster: &Cluster) -> Result<String> {
    let (host, port) = api_server(cluster)?;
    let text = kustomized(cluster, "overlays/without-kube-proxy")?.replace("api.example.org", &host);
    for_tests(&text.replace("\"6443\"", &format!("{port:?}")), &[])
}

/// What the tests set otherwise, and this, put into a text with the DaemonSet.
pub fn for_tests(text: &str, more: &[(&str, &str)]) -> Result<String> {
    let mut all = objects(text)?;
    let set = all.get_mut(&("DaemonSet".to_owned(), "tortie".to_owned())).context("no DaemonSet")?;
    let variables = set["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut().context("variables")?;
    for (name, value) in SETTINGS.iter().chain(more) {
        // A server-side apply refuses two of one name.
        variables.retain(|variable| variable["name"] != *name);
        variables.push(json!({ "name": name, "value": value }));
    }
    let items: Vec<_> = all.into_values().collect();
    Ok(json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string())
}

/// A cluster with controllers, whose agents will have the rights of the install alone.
pub fn cluster() -> Result<Cluster> {
    let mut cluster = Cluster::served(STORED)?;
    // Of agents that tests start by hand; the install has bindings of these names.
    cluster.kubectl(&["delete", "clusterrolebinding/tortie"], "")?;
    cluster.kubectl(&["delete", "-n", "tortie-system", "rolebinding/tortie"], "")?;
    cluster.start_controllers()?;
    Ok(cluster)
}

/// What a failure shows: pods of the agents, and what those say.
pub fn said(shop: &Shop) -> String {
    let ask = |arguments: &[&str]| kubectl(shop, arguments).unwrap_or_else(|error| format!("{error:#}"));
    let logs = ask(&["logs", "daemonset/tortie", "--all-containers", "--tail=20"]);
    format!("{}\nthe agent says:\n{logs}", ask(&["describe", "pods"]))
}

#[test]
fn pods_wait_for_the_daemonset_are_served_and_policed_over_its_upgrade_and_its_removal_leaves_the_node_clean()
-> Result<()> {
    let cluster = cluster()?;
    let node = cluster.node(NodeSpec::new(1))?;
    let kubelet = Kubelet::without_network(&cluster, &node)?;
    kubelet.import(&image::path()?)?;
    let shop = Shop { cluster: &cluster, node: &node, kubelet: &kubelet };
    waits(&shop)?;
    is_served(&shop).with_context(|| said(&shop))?;
    is_clean_after(&shop).with_context(|| said(&shop))
}

/// Without a network no pod of the shop begins.
fn waits(shop: &Shop) -> Result<()> {
    shop.open()?;
    shop.police()?;
    wait::wait_until("four pods are asked for", wait::PATIENCE, || {
        let pods = shop.cluster.get(&["pods", "-n", "shop"])?;
        let pods = pods["items"].as_array().context("a list")?;
        Ok(pods.len() == 4 && pods.iter().all(|pod| pod["status"]["phase"] == "Pending"))
    })?;
    let begun = shop.kubelet.containers_of("shop")?;
    ensure!(begun.is_empty(), "begun without a network: {begun:?}");
    let early: Vec<_> = PLACES.iter().filter(|place| shop.kubelet.path(place).exists()).collect();
    ensure!(early.is_empty(), "there before anything was applied: {early:?}");
    Ok(())
}

/// With the install it does, under the policy that was there before; an upgrade changes nothing.
fn is_served(shop: &Shop) -> Result<()> {
    shop.cluster.kubectl(&[&APPLY[..], &["-f", "-"]].concat(), &install(shop.cluster)?)?;
    rolled_out(shop, "tortie")?;
    shop.rolled_out()?;
    shop.until_policed()?;
    for place in PLACES {
        ensure!(shop.kubelet.path(place).exists(), "{place} is not there");
    }
    let said = kubectl(shop, &["exec", "daemonset/tortie", "--", "/tortie", "show", "endpoints", "--output", "json"])?;
    let endpoints: Value = serde_json::from_str(&said)?;
    ensure!(endpoints.as_array().map(Vec::len) == Some(4), "{endpoints:#}");

    kubectl(shop, &["rollout", "restart", "daemonset", "tortie"])?;
    shop.is_policed()?;
    rolled_out(shop, "tortie")?;
    shop.is_policed()?;
    shop.kubectl(&["scale", "-n", "shop", "deployment/web", "--replicas=3"])?;
    shop.rolled_out()?;
    shop.until_policed()
}

/// "Remove it from a cluster".
fn is_clean_after(shop: &Shop) -> Result<()> {
    shop.kubectl(&["delete", "namespace", "shop", TIMEOUT])?;
    shop.until_nothing_is_left()?;
    let (remove, base) = (format!("{DEPLOY}/remove"), format!("{DEPLOY}/base"));
    kubectl(shop, &["delete", "daemonset", "tortie", "--cascade=foreground", TIMEOUT])?;
    shop.kubectl(&[&APPLY[..], &["-k", &remove]].concat())?;
    rolled_out(shop, "tortie-cleanup")?;
    let left: Vec<_> = PLACES.iter().filter(|place| shop.kubelet.path(place).exists()).collect();
    ensure!(left.is_empty(), "left on the node: {left:?}");
    shop.kubectl(&["delete", "-k", &remove, TIMEOUT])?;
    shop.kubectl(&["delete", "-k", &base, "--ignore-not-found", TIMEOUT])?;
    wait::wait_until("no container is left", 3 * wait::PATIENCE, || Ok(shop.kubelet.containers()?.is_empty()))
}
