//! A shop, as somebody with kubectl has it on a whole node: web servers, a client and a stranger, a Service and a policy.
//! In: kubectl. Out: Deployments that are rolled out; who hears the service; what of their pods is left.
//! Invariant: who may be heard is asked by packets, from within the pods.
//! Never: knows who makes the network.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Cluster, Kubelet, Node, kubelet::IMAGE, wait};

/// Those of the shop.
pub const DEPLOYMENTS: [&str; 3] = ["web", "client", "stranger"];
const SERVE: &str = "mkdir /www && echo served > /www/index.html && exec httpd -f -p 8080 -h /www";
/// wget of a static busybox dies of looking names up.
const ASK: &str = r"printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 2 10.96.0.80 80";
/// Controllers and kubelets take their time.
pub const TIMEOUT: &str = "--timeout=90s";

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
pub struct Shop<'a> {
    pub cluster: &'a Cluster,
    pub node: &'a Node,
    pub kubelet: &'a Kubelet<'a>,
}

impl Shop<'_> {
    /// Makes its namespace and all that is in it, but for the policy.
    pub fn open(&self) -> Result<()> {
        self.cluster.namespace("shop", &[])?;
        let web = deployment("web", 2, Some(SERVE));
        [web, deployment("client", 1, None), deployment("stranger", 1, None), service()]
            .iter()
            .try_for_each(|object| self.apply(object))
    }

    /// The policy: the client alone may ask.
    pub fn police(&self) -> Result<()> {
        self.apply(&policy())
    }

    /// kubectl; a failure shows what the kubelet said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(arguments, "").with_context(|| format!("the kubelet says:\n{}", self.kubelet.said()))
    }

    fn apply(&self, object: &Value) -> Result<()> {
        self.cluster.kubectl(&["apply", "-f", "-"], &object.to_string()).map(drop)
    }

    /// Waits until all pods of all Deployments are ready.
    pub fn rolled_out(&self) -> Result<()> {
        let rolled = |name: &&str| {
            self.kubectl(&["rollout", "status", "-n", "shop", TIMEOUT, &format!("deployment/{name}")]).map(drop)
        };
        DEPLOYMENTS.iter().try_for_each(rolled)
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

    /// Waits until one hears the service, or does not any more.
    pub fn until(&self, who: &str, hears: bool) -> Result<()> {
        let what = format!("{who} {} the service", if hears { "hears" } else { "does not hear" });
        wait::wait_until(&what, wait::PATIENCE, || Ok(self.hears(who)? == hears))
    }

    /// Waits until the client hears the service, and the stranger does not.
    pub fn until_policed(&self) -> Result<()> {
        self.until("stranger", false)?;
        self.until("client", true)
    }

    /// The client hears the service, and the stranger does not, now.
    pub fn is_policed(&self) -> Result<()> {
        ensure!(!self.hears("stranger")?, "the stranger hears the service");
        ensure!(self.hears("client")?, "the client does not hear the service");
        Ok(())
    }

    /// Waits until nothing of its pods is left: containers, interfaces, addresses.
    pub fn until_nothing_is_left(&self) -> Result<()> {
        let interfaces = || -> Result<usize> {
            let links = self.node.namespace().ip_json("link show")?;
            let name = |link: &Value| link["ifname"].as_str().is_some_and(|name| name.starts_with("cali"));
            Ok(links.as_array().context("a list")?.iter().filter(|link| name(link)).count())
        };
        wait::wait_until("nothing is left of the pods", 3 * wait::PATIENCE, || {
            let containers = self.kubelet.containers_of("shop")?;
            Ok(containers.is_empty() && interfaces()? == 0 && self.cluster.held_addresses()? == 0)
        })
    }
}
