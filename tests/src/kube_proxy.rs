//! A real kube-proxy as the neighbour of an agent, on one node.
//! In: a node, the cluster's manifests, a way of translating. Out: a process whose rules are in the node's namespace.
//! Invariant: it sees the Services, EndpointSlices and Nodes of the cluster's directory, as the agent does.
//! Never: ends a process that it did not start; its rules outlive it, as they do on a real node.

use crate::{
    Cluster, Node,
    apiserver::ApiServer,
    process::{self, kubeconfig, log_tail, started},
    wait,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

/// How it translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By iptables.
    Iptables,
    /// By nftables.
    Nftables,
}

impl Mode {
    /// As its configuration has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// Where its metrics are asked, in the node's namespace.
const METRICS: &str = "127.0.0.1:10249";

/// A running kube-proxy.
#[derive(Debug)]
pub struct KubeProxy {
    child: Child,
    log: PathBuf,
    _api: ApiServer,
}

impl KubeProxy {
    /// Starts it on `node`, and waits until its rules are there.
    ///
    /// # Errors
    /// It is not built, or its rules do not come.
    pub fn start(cluster: &Cluster, node: &Node, mode: Mode) -> Result<Self> {
        Self::start_within(cluster, node, mode, wait::PATIENCE)
    }

    /// The same where its first pass may take as long as this.
    ///
    /// # Errors
    /// As [`KubeProxy::start`].
    pub fn start_within(cluster: &Cluster, node: &Node, mode: Mode, patience: Duration) -> Result<Self> {
        let program = crate::binaries::kubernetes("kube-proxy")?;
        let directory = cluster.directory().join(format!("kube-proxy-{}", node.name()));
        fs::create_dir_all(&directory).context("making kube-proxy's directory")?;
        let api = ApiServer::start(node.namespace(), &cluster.datastore())?;
        let config = directory.join("config.yaml");
        fs::write(directory.join("kubeconfig"), kubeconfig(&json!({ "server": api.url() }), &json!({})).to_string())
            .context("writing a kubeconfig")?;
        fs::write(&config, configuration(&directory, node.name(), mode).to_string())
            .context("writing kube-proxy's configuration")?;
        let log = directory.join("kube-proxy.log");
        let mut command = node.namespace().command(&program)?;
        command.arg("--config").arg(&config);
        let child = started(command, &log)?;
        let proxy = Self { child, log, _api: api };
        wait::wait_until("kube-proxy's first pass", patience, || has_passed(node)).with_context(|| proxy.log_tail())?;
        wait::wait_until("kube-proxy's rules", patience, || is_there(node, mode)).with_context(|| proxy.log_tail())?;
        Ok(proxy)
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }

    /// Takes its rules away, as its operator does before a node is given to another.
    ///
    /// # Errors
    /// Its own command for that fails.
    pub fn clean(self, node: &Node) -> Result<()> {
        drop(self);
        let mut command = node.namespace().command(&crate::binaries::kubernetes("kube-proxy")?)?;
        let output = command.arg("--cleanup").output().context("starting kube-proxy --cleanup")?;
        ensure!(output.status.success(), "kube-proxy --cleanup: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}

/// Whether it says of itself that it has gone through all services once: asking for its rules takes long where they are many.
fn has_passed(node: &Node) -> Result<bool> {
    const PASSED: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
    let said = node.namespace().inside(|| {
        let mut asked = TcpStream::connect(METRICS).context("asking kube-proxy")?;
        asked.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(asked, "GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut said = Vec::new();
        asked.read_to_end(&mut said)?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    })?;
    let mut times = said.lines().filter(|line| line.starts_with(PASSED)).peekable();
    let is_set =
        |line: &str| line.rsplit(' ').next().and_then(|time| time.parse().ok()).is_some_and(|time: f64| time > 0.0);
    Ok(times.peek().is_some() && times.all(is_set))
}

/// Whether the rules of a first pass are there, of both families.
fn is_there(node: &Node, mode: Mode) -> Result<bool> {
    let says = |program: &str, arguments: &[&str], word: &str| -> Result<bool> {
        let mut command: Command = node.namespace().command(Path::new(program))?;
        let output = command.args(arguments).output().with_context(|| format!("starting {program}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).contains(word))
    };
    match mode {
        Mode::Nftables => Ok(["ip", "ip6"]
            .iter()
            .all(|family| says("nft", &["list", "table", family, "kube-proxy"], "map service-ips").unwrap_or(false))),
        Mode::Iptables => Ok(["iptables-save", "ip6tables-save"]
            .iter()
            .all(|save| says(save, &["-t", "nat"], "-j KUBE-SERVICES").unwrap_or(false))),
    }
}

fn configuration(directory: &Path, node: &str, mode: Mode) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": mode.as_str(), "hostnameOverride": node,
        "clientConnection": {
            "kubeconfig": directory.join("kubeconfig"), "contentType": "application/json",
            "acceptContentTypes": "application/json",
        },
        "clusterCIDR": "10.65.0.0/16,fd00:65::/64",
        "healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": METRICS,
        // The machine's own limits are not a namespace's to set.
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
        "iptables": { "minSyncPeriod": "0s" }, "nftables": { "minSyncPeriod": "0s" },
    })
}
