//! A node: a network namespace with an uplink, an agent in it, its own bpffs and state.
//! In: a [`NodeSpec`]. Out: a [`Node`] on which pods can be started.
//! Invariant: its bpffs lies outside /sys and is unmounted with it, which detaches every program of its agent.
//! Never: shares a path with another node, but for the datastore's directory.

use crate::{
    Agent, Cluster, NetNs, Pod, PodSpec, bird,
    expect::Actor,
    fabric,
    runtime::Runtime,
    wait::{self, PATIENCE},
};
use anyhow::{Context as _, Result, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Output,
    sync::Arc,
};

/// Smaller tables than a real node's: tests start many agents, one after the other and side by side.
const SMALL_TABLES: &[&str] =
    &["CONNTRACK=65536", "SPANS=65536", "ROWS=16384", "ADDRESSES=8192", "NETS=8192", "CLASSES=16384", "HITS=8192"];

/// What a node should be.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// Its place on the fabric: the last part of its addresses.
    pub number: u8,
    /// More arguments for its agent.
    pub arguments: Vec<String>,
    /// Tables of their default sizes, as on a real node.
    pub full_tables: bool,
    /// Its uplink.
    pub uplink: String,
    /// The agent's `--cgroup`; `None`: it is not given, as on a real node.
    pub cgroup: Option<String>,
}

impl NodeSpec {
    /// Node `number`.
    #[must_use]
    pub fn new(number: u8) -> Self {
        Self {
            name: format!("node{number}"),
            number,
            arguments: Vec::new(),
            full_tables: false,
            uplink: "eth0".to_owned(),
            cgroup: Some("off".to_owned()),
        }
    }

    /// With an uplink of the test's own making, of this name.
    #[must_use]
    pub fn uplink(self, name: &str) -> Self {
        Self { uplink: name.to_owned(), ..self }
    }

    /// With programs of sockets at this cgroup; `None`: at the one that the agent finds by itself.
    #[must_use]
    pub fn cgroup(self, path: Option<&Path>) -> Self {
        Self { cgroup: path.map(|path| path.display().to_string()), ..self }
    }

    /// With programs attached by clsact, as on a kernel before 6.6.
    #[must_use]
    pub fn by_clsact(self) -> Self {
        self.argument("--attach").argument("clsact")
    }

    /// With one more argument for the agent.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }
}

/// A node that stands.
#[derive(Debug)]
pub struct Node {
    /// Its agent.
    pub agent: Agent,
    spec: NodeSpec,
    stem: String,
    namespace: Arc<NetNs>,
    program: PathBuf,
    plugin: PathBuf,
    directory: PathBuf,
    datastore: Vec<OsString>,
    kept: bool,
}

impl Node {
    /// Makes namespace, uplink, directories and bpffs. The agent is not started.
    ///
    /// # Errors
    /// The kernel refuses one of them.
    pub fn create(cluster: &Cluster, spec: NodeSpec) -> Result<Self> {
        let namespace = Arc::new(NetNs::create(cluster.stem(), &spec.name)?);
        cluster.fabric().join(&namespace, spec.number)?;
        let directory = cluster.directory().join(&spec.name);
        let mounted = directory.join("bpf");
        for path in [&mounted, &directory.join("state"), &directory.join("run")] {
            fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
        }
        mount("bpf", &mounted, "bpf", MountFlags::empty(), None).context("mounting a bpffs")?;
        let program = cluster.binaries().agent.clone();
        let agent = Agent::new(Arc::clone(&namespace), &program, Vec::new(), directory.join("agent.log"));
        let mut node = Self {
            agent,
            spec,
            stem: cluster.stem().to_owned(),
            namespace,
            program,
            plugin: cluster.binaries().cni.clone(),
            directory,
            datastore: cluster.named(),
            kept: false,
        };
        node.agent.set_arguments(node.arguments());
        Ok(node)
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            ["run", "--node", &self.spec.name, "--uplink", &self.spec.uplink].map(Into::into).into();
        arguments.extend(self.datastore.iter().cloned());
        let mut option = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        option("--state-dir", self.directory.join("state").into());
        option("--socket", self.socket().into());
        option("--bpffs", self.bpffs().into());
        if let Some(cgroup) = &self.spec.cgroup {
            option("--cgroup", cgroup.into());
        }
        for entries in SMALL_TABLES.iter().filter(|_| !self.spec.full_tables) {
            option("--map-entries", entries.into());
        }
        arguments.extend(self.spec.arguments.iter().map(Into::into));
        arguments
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &NetNs {
        &self.namespace
    }

    /// Its addresses on the fabric.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        fabric::addresses(self.spec.number).iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// What `ip route` shows of the routes between nodes that its agent has made, of both families: destination, and the gateway or
    /// `blackhole`.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn routes(&self) -> Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        for family in ["-4", "-6"] {
            let listed = self.namespace().ip_json(&format!("{family} route show proto 85"))?;
            for route in listed.as_array().context("a list")? {
                let text = |field: &str| route[field].as_str().unwrap_or_default().to_owned();
                let via = if route["type"] == "blackhole" { "blackhole".to_owned() } else { text("gateway") };
                all.insert(text("dst"), via);
            }
        }
        Ok(all)
    }

    /// The socket of its agent.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("run/tortie.sock")
    }

    /// Where its bpffs is mounted.
    #[must_use]
    pub fn mounted(&self) -> PathBuf {
        self.directory.join("bpf")
    }

    /// The agent's own folder in it, as on a real node.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.mounted().join("tortie")
    }

    /// Where everything of it lies.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its agent's private state.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The agent's program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Where its agent writes its log.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.directory.join("agent.log")
    }

    /// A container runtime on it.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        Runtime::new(Arc::clone(&self.namespace), &self.plugin, &self.socket())
    }

    /// Starts the agent and waits until it serves.
    ///
    /// # Errors
    /// It ends, or does not serve in time; the end of its log is in the message.
    pub fn start(&mut self) -> Result<()> {
        self.agent.start()?;
        self.wait_ready()
    }

    /// Waits until the agent serves.
    ///
    /// # Errors
    /// It ends, or does not serve in time; the end of its log is in the message.
    pub fn wait_ready(&mut self) -> Result<()> {
        let runtime = self.runtime();
        let agent = &mut self.agent;
        let ended = |agent: &mut Agent| agent.ended().ok().flatten();
        let came = wait::wait_until("the agent serves", PATIENCE, || Ok(ended(agent).is_some() || runtime.ready()?));
        if let Some(status) = ended(agent) {
            bail!("the agent ended: {status}\n{}", agent.log_tail());
        }
        came.with_context(|| format!("the agent of {}\n{}", self.spec.name, self.agent.log_tail()))
    }

    /// Stops the agent and starts it again.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.agent.stop()?;
        self.start()
    }

    /// Writes the pod's object into the datastore and attaches it.
    ///
    /// # Errors
    /// ADD fails.
    pub fn pod(&self, cluster: &Cluster, spec: &PodSpec) -> Result<Pod> {
        cluster.pod_manifest(spec, &self.spec.name)?;
        Pod::start(&self.stem, spec, &self.runtime())
            .with_context(|| format!("agent's log:\n{}", self.agent.log_tail()))
    }

    /// Runs a command of `tortie` on the node; the socket is given.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn tortie(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.namespace.command(&self.program)?;
        command.args(arguments).arg("--socket").arg(self.socket());
        command.output().with_context(|| format!("starting {}", self.program.display()))
    }

    /// `tortie show TABLE --output json`.
    ///
    /// # Errors
    /// The command fails.
    pub fn show(&self, table: &str) -> Result<Value> {
        let output = self.tortie(&["show", table, "--output", "json"])?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("tortie show {table}: {} {}", out.trim(), err.trim());
        }
        serde_json::from_str(&out).with_context(|| format!("reading what show {table} said: {out}"))
    }

    /// `tortie cleanup` with the node's own paths.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn cleanup(&self) -> Result<Output> {
        self.cleanup_with(&[])
    }

    /// `tortie forget-cluster` with the node's own paths.
    ///
    /// # Errors
    /// It fails.
    pub fn forget_cluster(&self) -> Result<()> {
        let mut command = self.namespace.command(&self.program)?;
        command.arg("forget-cluster").arg("--state-dir").arg(self.state_dir());
        let done = command.output().context("starting tortie forget-cluster")?;
        ensure!(done.status.success(), "{done:?}");
        Ok(())
    }

    /// The same, with more arguments.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn cleanup_with(&self, more: &[&OsStr]) -> Result<Output> {
        let mut command = self.namespace.command(&self.program)?;
        command.arg("cleanup").args(more).arg("--socket").arg(self.socket());
        command.arg("--bpffs").arg(self.bpffs()).arg("--state-dir").arg(self.state_dir());
        command.output().context("starting tortie cleanup")
    }

    /// As a row and column of a table.
    #[must_use]
    pub fn actor(&self) -> Actor<'_> {
        Actor { name: self.spec.name.clone(), namespace: &self.namespace, addresses: self.addresses() }
    }

    /// Lets node and agent live on when the value is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
        self.agent.keep();
        self.namespace.keep();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // An agent that cannot be killed shows as a directory that cannot be removed.
        let _ = self.agent.kill();
        bird::kill_of_agent(&self.state_dir());
        detach(&self.mounted());
    }
}

/// Unmounts a bpffs; what it pinned goes with it.
pub fn detach(bpffs: &Path) {
    // Not mounted is unmounted.
    let _ = unmount(bpffs, UnmountFlags::DETACH);
}
