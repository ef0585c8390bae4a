//! A cluster: a directory of manifests, and the network between its nodes.
//! In: manifests as text. Out: files that appear whole, as a careful editor saves them.
//! Invariant: everything of one cluster carries one stem, and goes with it.
//! Never: writes below `.tortie/`; that is the agents' own.

use crate::{
    Binaries, ControlPlane, Etcd, Fabric, NetNs, Node, NodeSpec, PodSpec, control_plane, fabric,
    netns::{self, STEM, maker_is_gone},
    node,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

/// Calico's kinds as the cluster's own API server serves them.
pub const NATIVE: (&str, &str) = ("projectcalico.org", "v3");
/// The same as Calico's API server, or calicoctl, keeps them.
pub const STORED: (&str, &str) = ("crd.projectcalico.org", "v1");

/// Pools of both families, with blocks of these sizes.
#[must_use]
pub fn pools(block_v4: u8, block_v6: u8) -> String {
    format!(
        "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {{ name: pool-v4 }}
spec: {{ cidr: 10.65.0.0/16, blockSize: {block_v4} }}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {{ name: pool-v6 }}
spec: {{ cidr: 'fd00:65::/64', blockSize: {block_v6} }}
"
    )
}

/// A cluster.
#[derive(Debug)]
pub struct Cluster {
    fabric: Fabric,
    binaries: Binaries,
    stem: String,
    directory: PathBuf,
    control_plane: Option<ControlPlane>,
    etcd: Option<Etcd>,
    kept: bool,
}

impl Cluster {
    /// An empty cluster with two pools, under a name of its own.
    ///
    /// # Errors
    /// The binaries are not built, or the process lacks the right.
    pub fn create() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::with_stem(&format!("{STEM}{}-{count}", process::id()), Binaries::find()?)
    }

    /// The same, under this name.
    ///
    /// # Errors
    /// As [`Cluster::create`].
    pub fn with_stem(stem: &str, binaries: Binaries) -> Result<Self> {
        static SWEEP: Once = Once::new();
        ensure!(rustix::process::getuid().is_root(), "a cluster is made of network namespaces: run this as root");
        SWEEP.call_once(sweep);
        let directory = env::temp_dir().join(stem);
        let (fabric, stem) = (Fabric::create(stem)?, stem.to_owned());
        let cluster = Self { fabric, binaries, stem, directory, control_plane: None, etcd: None, kept: false };
        fs::create_dir_all(cluster.datastore()).context("making the datastore's directory")?;
        cluster.manifest("pools", &pools(26, 122))?;
        Ok(cluster)
    }

    /// One whose objects a real API server keeps, at the outside host, Calico's in this group; in the directory lies what was
    /// applied. Its agents have the rights that they are shipped with.
    ///
    /// # Errors
    /// The API server does not come, or refuses what belongs to every cluster.
    pub fn served(group: (&str, &str)) -> Result<Self> {
        let cluster = Self::create()?.serve()?;
        cluster.define(group, &pools(26, 122))?;
        Ok(cluster)
    }

    /// The same of this cluster, without Calico's kinds and pools: [`Cluster::define`] gives them.
    ///
    /// # Errors
    /// As [`Cluster::served`].
    pub fn serve(self) -> Result<Self> {
        let mut cluster = self;
        let address = fabric::OUTSIDE_V4.parse().context("the outside host's address")?;
        let folder = cluster.directory.join("control-plane");
        cluster.control_plane = Some(ControlPlane::start(cluster.outside(), address, &folder)?);
        cluster.grant()?;
        let (agents, user) = (control_plane::AGENT, format!("--user={}", control_plane::AGENT));
        cluster.kubectl(&["create", "clusterrolebinding", agents, "--clusterrole=tortie", &user], "")?;
        let own = ["create", "rolebinding", agents, "--role=tortie", "--namespace=tortie-system", &user];
        cluster.kubectl(&own, "")?;
        Ok(cluster)
    }

    /// Gives an API server Calico's kinds, in this group, and these pools ([`pools`]).
    ///
    /// # Errors
    /// It does not take them.
    pub fn define(&self, (group, version): (&str, &str), pools: &str) -> Result<()> {
        self.apply(&control_plane::calicos_kinds(group, version)?)?;
        self.kubectl(&["wait", "--for=condition=Established", "--all", "crd", "--timeout=30s"], "")?;
        self.apply(&pools.replace("projectcalico.org/v3", &format!("{group}/{version}")))
    }

    /// One whose objects are in an etcd, at the outside host, in Calico's layout; without Kubernetes.
    ///
    /// # Errors
    /// etcd does not come.
    pub fn in_etcd(is_secured: bool) -> Result<Self> {
        Self::create()?.with_etcd((1, is_secured))
    }

    /// The same of this cluster, with so many members: its API server, if it has one, is asked what pods are.
    ///
    /// # Errors
    /// As [`Cluster::in_etcd`].
    pub fn with_etcd(self, kind: (usize, bool)) -> Result<Self> {
        let mut cluster = self;
        let address = fabric::OUTSIDE_V4.parse().context("the outside host's address")?;
        let etcd = Etcd::start(cluster.outside(), address, &cluster.directory.join("etcd"), kind)?;
        for (name, cidr, size) in [("pool-v4", "10.65.0.0/16", 26), ("pool-v6", "fd00:65::/64", 122)] {
            let pool = json!({ "spec": { "cidr": cidr, "blockSize": size } });
            etcd.put(cluster.outside(), &format!("ippools/{name}"), &pool)?;
        }
        cluster.etcd = Some(etcd);
        Ok(cluster)
    }

    /// Its etcd, and where that runs.
    ///
    /// # Errors
    /// It has none.
    pub fn etcd(&mut self) -> Result<(&mut Etcd, &NetNs)> {
        let Self { etcd, fabric, .. } = self;
        Ok((etcd.as_mut().context("this cluster is not in etcd")?, fabric.outside()))
    }

    /// Starts the controllers and the scheduler of Kubernetes, as [`ControlPlane::start_controllers`].
    ///
    /// # Errors
    /// There is no API server, or one of them is not built.
    pub fn start_controllers(&mut self) -> Result<()> {
        let Self { control_plane, fabric, .. } = self;
        control_plane.as_mut().context("this cluster has no API server")?.start_controllers(fabric.outside())
    }

    /// Kills the API server; etcd lives on.
    ///
    /// # Errors
    /// There is none.
    pub fn kill_apiserver(&mut self) -> Result<()> {
        self.control_plane.as_mut().context("this cluster has no API server")?.kill_apiserver()
    }

    /// Starts the API server again.
    ///
    /// # Errors
    /// It does not come.
    pub fn start_apiserver(&mut self) -> Result<()> {
        let Self { control_plane, fabric, .. } = self;
        control_plane.as_mut().context("this cluster has no API server")?.start_apiserver(fabric.outside())
    }

    /// kubectl as the administrator.
    ///
    /// # Errors
    /// There is no API server, or kubectl fails.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        let control_plane = self.control_plane.as_ref().context("this cluster has no API server")?;
        control_plane.kubectl(self.outside(), arguments, input)
    }

    /// What `kubectl get -o json` says.
    ///
    /// # Errors
    /// There is no API server, or kubectl fails.
    pub fn get(&self, what: &[&str]) -> Result<Value> {
        let arguments: Vec<_> = ["get", "-o", "json"].iter().chain(what).copied().collect();
        serde_json::from_str(&self.kubectl(&arguments, "")?).with_context(|| format!("kubectl get {what:?}"))
    }

    /// How many addresses somebody holds, by the blocks that the API server keeps.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub fn held_addresses(&self) -> Result<usize> {
        let blocks = self.get(&["ipamblocks"])?;
        let items = blocks["items"].as_array().context("a list")?;
        let slots = items.iter().flat_map(|block| block["spec"]["allocations"].as_array().into_iter().flatten());
        Ok(slots.filter(|slot| !slot.is_null()).count())
    }

    /// Gives its agents the rights that they are shipped with.
    ///
    /// # Errors
    /// There is no API server, or kubectl fails.
    pub fn grant(&self) -> Result<()> {
        self.apply(include_str!("../../deploy/base/rbac.yaml"))
    }

    /// Gives mirrors the rights that they are shipped with, and says by which kubeconfig they come.
    ///
    /// # Errors
    /// There is no API server, or kubectl fails.
    pub fn grant_mirrors(&self) -> Result<PathBuf> {
        self.apply(include_str!("../../deploy/mirror/rbac.yaml"))?;
        let (who, user) = (control_plane::MIRROR, format!("--user={}", control_plane::MIRROR));
        let role = format!("--clusterrole={who}");
        self.kubectl(&["create", "clusterrolebinding", "mirror", &role, &user], "")?;
        let own = ["create", "rolebinding", "mirror", "--role=tortie-mirror", "--namespace=tortie-system", &user];
        self.kubectl(&own, "")?;
        Ok(self.control_plane.as_ref().context("this cluster has no API server")?.mirrors_kubeconfig())
    }

    /// The processes of its API server and that one's etcd.
    #[must_use]
    pub fn control_plane_pids(&self) -> Vec<u32> {
        self.control_plane.as_ref().map(ControlPlane::pids).unwrap_or_default()
    }

    /// The administrator's kubeconfig, where there is an API server.
    #[must_use]
    pub fn administrator(&self) -> Option<PathBuf> {
        self.control_plane.as_ref().map(ControlPlane::administrators_kubeconfig)
    }

    fn apply(&self, text: &str) -> Result<()> {
        self.kubectl(&["apply", "-f", "-"], text).map(drop)
    }

    /// The datastore, as an agent is told of it.
    #[must_use]
    pub fn named(&self) -> Vec<OsString> {
        if let Some(etcd) = &self.etcd {
            let asked =
                self.control_plane.iter().flat_map(|served| ["--kubeconfig".into(), served.agents_kubeconfig().into()]);
            return etcd.named().into_iter().chain(asked).collect();
        }
        match &self.control_plane {
            None => vec!["--datastore".into(), format!("file:{}", self.datastore().display()).into()],
            Some(served) => {
                let path = served.agents_kubeconfig().into();
                vec!["--datastore".into(), "kubernetes".into(), "--kubeconfig".into(), path]
            }
        }
    }

    /// What all its names begin with.
    #[must_use]
    pub fn stem(&self) -> &str {
        &self.stem
    }

    /// The network between the nodes.
    #[must_use]
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// A host outside the cluster.
    #[must_use]
    pub fn outside(&self) -> &NetNs {
        self.fabric.outside()
    }

    /// Where everything of it lies.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory of manifests.
    #[must_use]
    pub fn datastore(&self) -> PathBuf {
        self.directory.join("manifests")
    }

    /// The programs under test.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// A node with its object in the datastore; its agent is not started.
    ///
    /// # Errors
    /// As [`Node::create`].
    pub fn node(&self, spec: NodeSpec) -> Result<Node> {
        let [v4, v6] = fabric::addresses(spec.number);
        let address = |address: String| json!({ "type": "InternalIP", "address": address });
        let object = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": spec.name },
            "status": { "addresses": [address(v4), address(v6)] },
        });
        self.manifest(&format!("node-{}", spec.name), &object.to_string())?;
        Node::create(self, spec)
    }

    /// Writes `NAME.yaml` beside and renames it into place.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn manifest(&self, name: &str, text: &str) -> Result<()> {
        let beside = self.datastore().join(format!(".{name}.new"));
        fs::write(&beside, text).with_context(|| format!("writing {}", beside.display()))?;
        let path = self.datastore().join(format!("{name}.yaml"));
        fs::rename(&beside, &path).with_context(|| format!("renaming to {}", path.display()))?;
        if self.control_plane.is_some() { self.apply(text) } else { Ok(()) }
    }

    /// Writes over `NAME.yaml` in place, as a plain editor does.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn overwrite(&self, name: &str, text: &str) -> Result<()> {
        let path = self.datastore().join(format!("{name}.yaml"));
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Removes `NAME.yaml`.
    ///
    /// # Errors
    /// It is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.datastore().join(format!("{name}.yaml"));
        if self.control_plane.is_some() {
            let file = path.display().to_string();
            self.kubectl(&["delete", "--now", "-f", &file], "")?;
        }
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }

    /// Writes a namespace's object.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        let labels: serde_json::Map<_, _> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
        self.manifest(&format!("namespace-{name}"), &object.to_string())
    }

    /// Writes, or writes again, a pod's object.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn pod_manifest(&self, spec: &PodSpec, node: &str) -> Result<()> {
        let text = spec.manifest(node).to_string();
        self.manifest(&format!("pod-{}-{}", spec.namespace, spec.name), &text)
    }

    /// Leaves everything when the value is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
        self.fabric.outside().keep();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is swept by the next run.
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// Removes mounts, namespaces and directories of runs whose process is gone.
fn sweep() {
    netns::sweep();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let left = |path: &&str| Path::new(path).strip_prefix(env::temp_dir()).is_ok_and(is_left);
    for path in mounts.lines().filter_map(|line| line.split_whitespace().nth(1)).filter(left) {
        node::detach(Path::new(path));
    }
    let Ok(entries) = fs::read_dir(env::temp_dir()) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.file_name().is_some_and(|name| is_left(Path::new(name))) {
            // Somebody else's sweep may have been faster.
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Whether the first part of `path` is the name of a run whose process is gone.
fn is_left(path: &Path) -> bool {
    path.iter().next().and_then(|name| name.to_str()).is_some_and(maker_is_gone)
}
