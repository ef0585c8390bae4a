//! What `deploy` says, on a real API server, and its containers on a node.
//! In: the files as they are shipped, the image. Out: objects that are taken; a node that serves pods, and is clean again.
//! Invariant: the agent has the rights of its DaemonSet and of its service account, and no others.
//! Never: a kubelet: a container is what its template says, by hand.

use crate::{
    balancers,
    container::Host,
    deploy::{DEPLOY, SETTINGS, api_server, config, kustomized, objects},
    image,
    story::STORED,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};
use tests::{Cluster, Node, NodeSpec, PodSpec, Probe::Tcp, Table, frame::FrameSocket, wait};

const CONFLIST: &str = "05-tortie.conflist";

#[test]
fn every_overlay_is_taken_and_the_one_file_is_that_for_a_cluster_without_calico() -> Result<()> {
    let cluster = Cluster::served(STORED)?;
    let flat = fs::read_to_string(format!("{DEPLOY}/tortie.yaml"))?;
    ensure!(objects(&flat)? == objects(&kustomized(&cluster, "overlays/alone")?)?, "tortie.yaml is another");
    let overlays =
        ["alone", "beside-calico", "without-kube-proxy", "remove-beside-calico"].map(|name| format!("overlays/{name}"));
    for folder in overlays.iter().map(String::as_str).chain(["remove"]) {
        let text = kustomized(&cluster, folder)?;
        let apply = [
            "apply",
            "--server-side",
            "--field-manager=tortie",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            "-",
        ];
        cluster.kubectl(&apply, &text).with_context(|| folder.to_owned())?;
    }
    let beside = objects(&kustomized(&cluster, "overlays/beside-calico")?)?;
    ensure!(!beside.keys().any(|(kind, _)| kind == "CustomResourceDefinition"), "Calico's definitions are left alone");
    Ok(())
}

#[test]
fn definitions_that_others_wrote_are_not_written_over_by_a_server_side_apply() -> Result<()> {
    let cluster = Cluster::served(STORED)?;
    let flat = fs::read_to_string(format!("{DEPLOY}/tortie.yaml"))?;
    let changed = flat.replace("size(self.metadata.name) <= 63", "size(self.metadata.name) <= 62");
    let refused = cluster.kubectl(&["apply", "--server-side", "--field-manager=tortie", "-f", "-"], &changed);
    let said = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(said.contains("conflict"), "expected a conflict: {said}");
    let kept = cluster.kubectl(&["get", "crd", "tiers.crd.projectcalico.org", "-o", "yaml"], "")?;
    ensure!(kept.contains("<= 63"), "it was written over");
    Ok(())
}

/// The pod's template of a DaemonSet.
fn template(file: &str, name: &str) -> Result<Value> {
    let all = objects(&fs::read_to_string(format!("{DEPLOY}/{file}"))?)?;
    let set = all.get(&("DaemonSet".to_owned(), name.to_owned())).with_context(|| format!("no DaemonSet {name}"))?;
    Ok(set["spec"]["template"]["spec"].clone())
}

/// What a kubelet gives a pod to speak with the API server.
fn account(cluster: &Cluster, folder: &Path) -> Result<BTreeMap<String, String>> {
    let token = cluster.kubectl(&["create", "token", "tortie", "--namespace", "tortie-system"], "")?;
    let config = config(cluster)?;
    let authority = config["certificate-authority"].as_str().context("an authority")?;
    fs::create_dir_all(folder)?;
    fs::write(folder.join("token"), token.trim())?;
    fs::write(folder.join("namespace"), "tortie-system")?;
    fs::copy(authority, folder.join("ca.crt")).context("copying the authority")?;
    let (host, port) = api_server(cluster)?;
    let pairs = [("KUBERNETES_SERVICE_HOST", &*host), ("KUBERNETES_SERVICE_PORT", &*port)];
    Ok(pairs.into_iter().chain(SETTINGS).map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

#[test]
fn the_containers_of_the_install_serve_a_node_with_their_rights_alone_and_leave_it_clean() -> Result<()> {
    let mut cluster = Cluster::served(STORED)?;
    let node = cluster.node(NodeSpec::new(1))?;
    let folder = cluster.directory().join("install");
    let root = image::unpack(&folder.join("image"))?.root;
    cluster.kubectl(&["apply", "-f", &format!("{DEPLOY}/tortie.yaml")], "")?;
    let variables = account(&cluster, &folder.join("account"))?;
    let host = Host { node: &node, account: folder.join("account"), folder, root, variables };
    let (pod, removal) = (template("tortie.yaml", "tortie")?, template("remove/cleanup.yaml", "tortie-cleanup")?);

    host.run(&pod, "install")?;
    let (plugin, conflist) =
        (host.path("/opt/cni/bin")?.join("tortie-cni"), host.path("/etc/cni/net.d")?.join(CONFLIST));
    ensure!(fs::read(&plugin)? == fs::read(host.root.join("tortie-cni"))?, "another plugin");

    cluster.kill_apiserver()?;
    let agent = host.start(&pod, "agent")?;
    let shown = |problem: anyhow::Error| problem.context(agent.log());
    wait::wait_until("the agent listens", wait::PATIENCE, || Ok(node.socket().exists())).map_err(shown)?;
    ensure!(!conflist.exists(), "runtimes are invited before the node can be served");
    cluster.start_apiserver()?;
    wait::wait_until("runtimes are invited", 3 * wait::PATIENCE, || Ok(conflist.exists())).map_err(shown)?;
    ensure!(node.runtime().ready()?, "and now pods can be served");
    let network: Value = serde_json::from_str(&fs::read_to_string(&conflist)?)?;
    ensure!(
        network["plugins"][0]["type"] == "tortie-cni" && network["plugins"][0]["ipam"]["type"] == "tortie",
        "{network}"
    );
    cluster.namespace("x", &[])?;
    announces(&cluster).map_err(shown)?;
    serves_pods(&cluster, &node).map_err(shown)?;
    let said = format!("{:#}\n{}", node.show("status")?, agent.whole_log()?);
    for lack in ["ermission denied", "not permitted", "is not called out"] {
        ensure!(!said.contains(lack), "{lack}: {said}");
    }
    agent.stop()?;

    host.run(&removal, "cleanup")?;
    ensure!(!conflist.exists() && !plugin.exists(), "runtimes still find what nobody serves");
    ensure!(!node.bpffs().exists() && !node.socket().exists(), "pins or the socket are left");
    let done = host.start(&removal, "done")?;
    wait::wait_until("the last container waits for its end", wait::PATIENCE, || done.hears_term())
        .with_context(|| done.log())?;
    done.stop()
}

/// A load balancer's address is given, and asked for outside.
fn announces(cluster: &Cluster) -> Result<()> {
    cluster.manifest("lb", &balancers::POOL.replace("projectcalico.org/v3", &format!("{}/{}", STORED.0, STORED.1)))?;
    cluster.manifest("shop", balancers::SERVICE)?;
    let outside = FrameSocket::open(cluster.outside(), "br0")?;
    let address = wait::wait_for("an address is given", wait::PATIENCE, || {
        let service = cluster.get(&["service", "-n", "x", "shop"])?;
        Ok(service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().and_then(|text| text.parse().ok()))
    })?;
    let answers = || Ok(outside.arp(balancers::OUTSIDE, address)?.is_some());
    wait::wait_until(&format!("somebody answers for {address}"), wait::PATIENCE, answers)?;
    cluster.remove("shop")
}

/// Two pods, and a policy between them; they end before this does.
fn serves_pods(cluster: &Cluster, node: &Node) -> Result<()> {
    let mut pods = ["x/a", "x/b"].iter().map(|id| node.pod(cluster, &PodSpec::new(id))).collect::<Result<Vec<_>>>()?;
    let expect = |table: &str| {
        let actors: Vec<_> = pods.iter().map(tests::Pod::actor).chain([node.actor()]).collect();
        Table::parse(table)?.expect(&actors, Tcp(80))
    };
    expect("x/a\n x/b .")?;
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: shut, namespace: x }\n\
                  spec: { podSelector: {}, policyTypes: [Ingress] }\n";
    cluster.manifest("shut", policy)?;
    expect("x/a\n x/b X")?;
    pods.iter_mut().try_for_each(tests::Pod::delete)
}
