//! A whole node: containerd and a kubelet beside the agent, or with one in a container, which start the pods that a scheduler
//! places there.
//! In: a node, its cluster's API server. Out: a node that is ready, or waits for a network, whose pods are real containers.
//! Invariant: what is written by them lies in places of their own, the machine's sysctls among them; their containers end with
//! them.
//! Never: ends a process that it did not start.

use crate::{
    Cluster, NetNs, Node, binaries, image,
    places::Places,
    process::{end, log_tail, started},
    wait,
};
use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// The one image that there is: busybox. A container of it sleeps, unless it is told to do something else.
pub const IMAGE: &str = "localhost/box:1";
/// Under these names.
const APPLETS: [&str; 6] = ["httpd", "mkdir", "nc", "printf", "sh", "sleep"];

/// A node's first pods may wait for images and caches.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a kubelet sets for the whole machine is bound over; what it mounts reaches its containers.
const PREPARE: &str = r#"
set -e
dir=$1; shift
mount --make-rshared /
mkdir -p "$dir/log" "$dir/sysctl" /run/lock
mount --bind "$dir/log" /var/log
for name in vm/overcommit_memory kernel/panic kernel/panic_on_oops; do
  file="$dir/sysctl/$(basename "$name")"
  cat "/proc/sys/$name" > "$file"
  mount --bind "$file" "/proc/sys/$name"
done
mount -t bpf bpf /sys/fs/bpf
exec "$@"
"#;

/// containerd and a kubelet.
#[derive(Debug)]
pub struct Kubelet<'a> {
    kubelet: Option<Child>,
    containerd: Child,
    directory: PathBuf,
    namespace: &'a NetNs,
}

impl<'a> Kubelet<'a> {
    /// Starts both on `node`, whose network is that of the agent beside them, and waits until the node is ready.
    ///
    /// # Errors
    /// A program is missing, or the node does not become ready; what the kubelet said last is in the message.
    pub fn start(cluster: &Cluster, node: &'a Node) -> Result<Self> {
        let places = Places::create(&directory(node), Some(node.runtime().plugin()))?;
        let ours = json!({ "type": "tortie-cni", "socket": node.socket(), "ipam": { "type": "tortie" } });
        places.network("tortie", &json!([ours]), "1.1.0")?;
        Self::ready(cluster, node, &places)
    }

    /// The same on a node whose network is somebody else's: of reference plugins, under this name.
    ///
    /// # Errors
    /// As [`Kubelet::start`].
    pub fn on_another_network(cluster: &Cluster, node: &'a Node, name: &str, plugins: &Value) -> Result<Self> {
        let places = Places::create(&directory(node), None)?;
        places.network(name, plugins, "1.0.0")?;
        Self::ready(cluster, node, &places)
    }

    fn ready(cluster: &Cluster, node: &'a Node, places: &Places) -> Result<Self> {
        let started = Self::begin(cluster, node, places)?;
        started.until(cluster, node, "it is ready", |status, _| status == "True")?;
        Ok(started)
    }

    /// The same on a node that has no network yet: no agent, no plugin, no configuration. Waits until the kubelet says so.
    ///
    /// # Errors
    /// A program is missing, or the kubelet does not come.
    pub fn without_network(cluster: &Cluster, node: &'a Node) -> Result<Self> {
        let started = Self::begin(cluster, node, &Places::create(&directory(node), None)?)?;
        let missing = |status: &str, message: &str| status == "False" && message.contains("NetworkPluginNotReady");
        started.until(cluster, node, "it waits for a network", missing)?;
        Ok(started)
    }

    fn begin(cluster: &Cluster, node: &'a Node, places: &Places) -> Result<Self> {
        let directory = directory(node);
        let containerd = containerd(places, node.namespace(), &directory)?;
        let mut started = Self { kubelet: None, containerd, directory, namespace: node.namespace() };
        let serves = || started.ctr(&["version"]).map(|_| true);
        wait::wait_until("containerd serves", wait::PATIENCE, serves)
            .with_context(|| log_tail(&started.log("containerd")))?;
        let packed = image::pack(&started.directory.join("image"), IMAGE, &APPLETS)?;
        started.import(&packed)?;
        started.kubelet = Some(started.start_kubelet(cluster, node)?);
        Ok(started)
    }

    /// Waits until the node's condition `Ready`, its status and its message, is such a one.
    fn until(&self, cluster: &Cluster, node: &Node, what: &str, is: impl Fn(&str, &str) -> bool) -> Result<()> {
        let look = || {
            let node = cluster.get(&["node", node.name()])?;
            let ready =
                node["status"]["conditions"].as_array().into_iter().flatten().find(|one| one["type"] == "Ready");
            Ok(ready.is_some_and(|one| is(one["status"].as_str().unwrap_or(""), one["message"].as_str().unwrap_or(""))))
        };
        wait::wait_until(&format!("the node says that {what}"), PATIENCE, look).with_context(|| self.said())
    }

    /// Brings an image to the node: an archive of an OCI layout, which names it.
    ///
    /// # Errors
    /// containerd does not take it.
    pub fn import(&self, image: &Path) -> Result<()> {
        self.ctr(&["images", "import", &image.display().to_string()]).map(drop)
    }

    /// Where a path of the node is, as containerd, the kubelet and `hostPath` see it.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.containerd.id().to_string()).join("root").join(path.trim_start_matches('/'))
    }

    /// What the kubelet said last.
    #[must_use]
    pub fn said(&self) -> String {
        log_tail(&self.log("kubelet"))
    }

    /// Containers that containerd knows, pods' sandboxes among them.
    ///
    /// # Errors
    /// It does not answer.
    pub fn containers(&self) -> Result<Vec<String>> {
        Ok(self.ctr(&["containers", "list", "--quiet"])?.split_whitespace().map(str::to_owned).collect())
    }

    /// Those of the pods of one namespace.
    ///
    /// # Errors
    /// As [`Kubelet::containers`].
    pub fn containers_of(&self, namespace: &str) -> Result<Vec<String>> {
        let filter = format!("labels.\"io.kubernetes.pod.namespace\"=={namespace}");
        let said = self.ctr(&["containers", "list", "--quiet", &filter])?;
        Ok(said.split_whitespace().map(str::to_owned).collect())
    }

    fn start_kubelet(&self, cluster: &Cluster, node: &Node) -> Result<Child> {
        let config = self.directory.join("kubelet.json");
        fs::write(&config, self.configuration().to_string()).context("writing the kubelet's configuration")?;
        let kubeconfig = cluster.administrator().context("there is no API server")?;
        let addresses: Vec<_> = node.addresses().iter().map(ToString::to_string).collect();
        let mut command = self.inside(&binaries::kubernetes("kubelet")?)?;
        command.arg("--config").arg(config).arg("--kubeconfig").arg(kubeconfig);
        command.arg("--cert-dir").arg(self.directory.join("certs"));
        command.args(["--root-dir=/var/lib/kubelet", "--hostname-override", node.name()]);
        command.args(["--node-ip", &addresses.join(",")]);
        started(command, &self.log("kubelet"))
    }

    /// It asks nobody's control groups but the containers' own, and puts no rule of iptables anywhere.
    fn configuration(&self) -> Value {
        let nothing = json!({ "memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%" });
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
            "authorization": { "mode": "AlwaysAllow" },
            "containerRuntimeEndpoint": format!("unix://{}", socket(&self.directory).display()),
            "cgroupDriver": "cgroupfs", "cgroupsPerQOS": false, "enforceNodeAllocatable": [],
            "failCgroupV1": false, "failSwapOn": false, "localStorageCapacityIsolation": false,
            "evictionHard": nothing, "makeIPTablesUtilChains": false, "resolvConf": "",
            "fileCheckFrequency": "1s", "syncFrequency": "5s", "nodeStatusUpdateFrequency": "2s",
        })
    }

    /// `ctr` among the kubelet's containers: what it says.
    fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.inside(&binaries::kubernetes("ctr")?)?;
        command.arg("--address").arg(socket(&self.directory)).args(["--namespace", "k8s.io"]);
        let output = command.args(arguments).stdin(Stdio::null()).output().context("starting ctr")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ctr {arguments:?}: {}", said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A command where containerd's mounts are.
    fn inside(&self, program: &Path) -> Result<Command> {
        let mut command = self.namespace.command(Path::new("nsenter"))?;
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.containerd.id())).arg(program);
        Ok(command)
    }

    fn log(&self, of: &str) -> PathBuf {
        self.directory.join(format!("{of}.log"))
    }

    /// Ends all containers, and their shims, which outlive whoever started them: each carries this containerd's socket in its
    /// arguments.
    fn end_containers(&self) {
        for container in &self.containers().unwrap_or_default() {
            // One that has ended cannot be killed.
            let _ = self.ctr(&["tasks", "kill", "--signal", "SIGKILL", container]);
            let _ = self.ctr(&["tasks", "delete", "--force", container]);
            let _ = self.ctr(&["containers", "delete", container]);
        }
        let address = socket(&self.directory).display().to_string();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let arguments = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
            let is_ours = arguments.contains("containerd-shim") && arguments.split('\0').any(|word| word == address);
            let pid = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            if let Some(pid) = pid.filter(|_| is_ours) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// The folders of control groups that hold containers, where nobody has any: of cgroup v2, and of each hierarchy of v1.
fn remove_empty_groups() {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|hierarchy| hierarchy.path());
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        // One that is in use stays.
        let _ = fs::remove_dir(hierarchy.join("k8s.io"));
    }
}

impl Drop for Kubelet<'_> {
    fn drop(&mut self) {
        if let Some(mut kubelet) = self.kubelet.take() {
            end(&mut kubelet);
        }
        self.end_containers();
        end(&mut self.containerd);
        remove_empty_groups();
    }
}

fn directory(node: &Node) -> PathBuf {
    node.directory().join("kubelet")
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("containerd.sock")
}

fn containerd(places: &Places, namespace: &NetNs, directory: &Path) -> Result<Child> {
    let program = binaries::kubernetes("containerd")?;
    let config = format!(
        r#"
version = 3
root = {root:?}
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
address = {socket:?}
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/opt/cni/bin"]
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "runc"
SystemdCgroup = false
"#,
        root = directory.join("content"),
        socket = socket(directory),
    );
    fs::write(directory.join("containerd.toml"), config).context("writing containerd's configuration")?;
    let mut command = places.command(namespace, Path::new("sh"))?;
    command.args(["-c", PREPARE, "prepare"]).arg(directory).arg(&program);
    command.arg("--config").arg(directory.join("containerd.toml"));
    // It finds its shim beside itself.
    let path = env::join_paths(
        program
            .parent()
            .map(Path::to_owned)
            .into_iter()
            .chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    )?;
    command.env("PATH", path);
    started(command, &directory.join("containerd.log"))
}
