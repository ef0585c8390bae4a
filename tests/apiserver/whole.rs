//! The whole way: controllers, scheduler, kubelet, containerd and runc, tortie-cni. A Deployment from its first pod to its last.
//! In: kubectl, as a user types it. Out: what one pod hears from another, and what is left at the end.
//! Invariant: every program is the one that clusters run; none of them knows that this is a test.
//! Never: asks the agent what a packet can show.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::{Cluster, Kubelet, Node, NodeSpec, cluster::NATIVE, kubelet::IMAGE, wait};

const SERVE: &str = "mkdir /www && echo served > /www/index.html && exec httpd -f -p 8080 -h /www";
/// wget of a static busybox dies of looking names up.
const ASK: &str = r"printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 2 10.96.0.80 80";
/// Controllers and kubelets take their time.
const TIMEOUT: &str = "--timeout=90s";

/// A Deployment of one container; without a command it sleeps.
fn deployment(name: &str, replicas: u32, command: Option<&str>) -> Value {
    let mut container = json!({ "name": "box", "image": IMAGE, "imagePullPolicy": "Never" });
    if let Some(command) = command {
        container["command"] = json!(["/bin/sh", "-c", command]);
        container["readinessProbe"] = json!({ "tcpSocket": { "port": 8080 }, "periodSeconds": 1 });
    }
    let labels = json!({ "app": name });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "namespace": "shop", "name": name },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [container], "terminationGracePeriodSeconds": 0 },
            },
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "shop", "name": "web" },
        "spec": { "clusterIP": "10.96.0.80", "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    })
}

fn policy() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "namespace": "shop", "name": "web" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "web" } },
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "client" } } }] }],
        },
    })
}

/// The cluster, as somebody with kubectl sees it.
struct Shop<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
    kubelet: &'a Kubelet<'a>,
}

impl Shop<'_> {
    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(arguments, "").with_context(|| format!("the kubelet says:\n{}", self.kubelet.said()))
    }

    fn apply(&self, object: &Value) -> Result<()> {
        self.cluster.kubectl(&["apply", "-f", "-"], &object.to_string()).map(drop)
    }

    fn rolled_out(&self, name: &str) -> Result<()> {
        self.kubectl(&["rollout", "status", "-n", "shop", TIMEOUT, &format!("deployment/{name}")]).map(drop)
    }

    /// Whether a pod of this Deployment hears the service.
    fn hears(&self, who: &str) -> Result<bool> {
        let from = format!("deployment/{who}");
        match self.cluster.kubectl(&["exec", "-n", "shop", &from, "--", "sh", "-c", ASK], "") {
            Ok(said) => Ok(said.contains("served")),
            // nc's own word for it.
            Err(error) if format!("{error:#}").contains("timed out") => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn until(&self, who: &str, hears: bool) -> Result<()> {
        let what = format!("{who} {} the service", if hears { "hears" } else { "does not hear" });
        wait::wait_until(&what, wait::PATIENCE, || Ok(self.hears(who)? == hears))
            .with_context(|| format!("the agent's log ends so:\n{}", self.node.agent.log_tail()))
    }

    fn endpoints(&self) -> Result<usize> {
        self.node.show("endpoints")?.as_array().map(Vec::len).context("a list")
    }

    /// Nothing of a pod is left: containers, endpoints, interfaces, addresses.
    fn until_nothing_is_left(&self) -> Result<()> {
        let interfaces = || -> Result<usize> {
            let links = self.node.namespace().ip_json("link show")?;
            let name = |link: &Value| link["ifname"].as_str().is_some_and(|name| name.starts_with("cali"));
            Ok(links.as_array().context("a list")?.iter().filter(|link| name(link)).count())
        };
        wait::wait_until("nothing is left of the pods", 3 * wait::PATIENCE, || {
            let held = self.cluster.held_addresses()?;
            Ok(self.endpoints()? == 0 && self.kubelet.containers()?.is_empty() && interfaces()? == 0 && held == 0)
        })
    }
}

#[test]
fn a_deployment_is_rolled_out_policed_scaled_drained_and_deleted_and_nothing_is_left() -> Result<()> {
    let mut cluster = Cluster::served(NATIVE)?;
    cluster.start_controllers()?;
    let mut node = cluster.node(NodeSpec::new(1))?;
    node.start()?;
    let kubelet = Kubelet::start(&cluster, &node)?;
    cluster.namespace("shop", &[])?;
    let shop = Shop { cluster: &cluster, node: &node, kubelet: &kubelet };

    for object in
        [deployment("web", 2, Some(SERVE)), deployment("client", 1, None), deployment("stranger", 1, None), service()]
    {
        shop.apply(&object)?;
    }
    ["web", "client", "stranger"].iter().try_for_each(|name| shop.rolled_out(name))?;
    shop.until("client", true)?;
    shop.until("stranger", true)?;

    shop.apply(&policy())?;
    shop.until("stranger", false)?;
    shop.until("client", true)?;

    // New pods are policed from their first packet on; the kubelet's probes are let in.
    shop.kubectl(&["set", "env", "-n", "shop", "deployment/web", "ROUND=2"])?;
    shop.rolled_out("web")?;
    shop.until("client", true)?;
    shop.until("stranger", false)?;

    shop.kubectl(&["scale", "-n", "shop", "deployment/web", "--replicas=4"])?;
    shop.rolled_out("web")?;
    wait::wait_until("the agent knows six pods", wait::PATIENCE, || Ok(shop.endpoints()? == 6))?;

    shop.kubectl(&["drain", node.name(), "--force", "--ignore-daemonsets", TIMEOUT])?;
    shop.until_nothing_is_left()?;
    shop.kubectl(&["uncordon", node.name()])?;
    ["web", "client", "stranger"].iter().try_for_each(|name| shop.rolled_out(name))?;
    shop.until("client", true)?;
    shop.until("stranger", false)?;

    shop.kubectl(&["delete", "namespace", "shop", TIMEOUT])?;
    shop.until_nothing_is_left()
}
