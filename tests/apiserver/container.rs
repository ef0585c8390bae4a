//! A container as a kubelet and containerd would make it of a DaemonSet, run by runc on a node of the tests.
//! In: a pod's template out of `deploy`, a container's name. Out: a process with its mounts and its rights, and no others.
//! Invariant: what the template does not give is not there: capabilities, files of the machine, a writable root or `/proc/sys`.
//! Never: reads a field of the template that it does not obey.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};
use tests::{
    Node,
    process::{log_tail, started},
    wait,
};

/// As containerd has them for every container that is not privileged.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 6] = ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The machine that a pod of the tests finds where a real one finds its node.
pub struct Host<'a> {
    /// The node.
    pub node: &'a Node,
    /// Where its folders are that the node of the tests does not have anyway.
    pub folder: PathBuf,
    /// The image, unpacked.
    pub root: PathBuf,
    /// What a kubelet adds, and what tests set otherwise.
    pub variables: BTreeMap<String, String>,
    /// The service account's token and authority.
    pub account: PathBuf,
}

/// A container that runs.
pub struct Running {
    name: String,
    state: PathBuf,
    log: PathBuf,
    child: Child,
}

impl Host<'_> {
    /// Where a path of the node is.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        let place = match path {
            "/sys/fs/bpf" => self.node.mounted(),
            "/sys/fs/cgroup" | "/proc/sys/net" => path.into(),
            "/run/tortie" => self.node.socket().parent().context("a socket lies in a folder")?.to_owned(),
            "/var/lib/tortie" => self.node.state_dir(),
            other => self.folder.join(other.trim_start_matches('/')),
        };
        fs::create_dir_all(&place).with_context(|| format!("making {}", place.display()))?;
        Ok(place)
    }

    /// Starts the container of this name of a pod.
    pub fn start(&self, pod: &Value, name: &str) -> Result<Running> {
        let (bundle, state) = (self.folder.join("bundles").join(name), self.folder.join("runc"));
        fs::create_dir_all(&bundle)?;
        fs::write(bundle.join("config.json"), self.spec(pod, name)?.to_string())
            .context("writing a container's spec")?;
        let (name, log) = (format!("{}-{name}", self.node.namespace().name()), self.folder.join(format!("{name}.log")));
        let mut command = Command::new("runc");
        command.arg("--root").arg(&state).args(["run", "--bundle"]).arg(&bundle).arg(&name);
        Ok(Running { child: started(command, &log)?, name, state, log })
    }

    /// Runs one that ends.
    pub fn run(&self, pod: &Value, name: &str) -> Result<()> {
        let mut running = self.start(pod, name)?;
        let ended = wait::wait_for("the container ends", wait::PATIENCE, || Ok(running.child.try_wait()?))?;
        ensure!(ended.success(), "{name}: {ended}\n{}", log_tail(&running.log));
        Ok(())
    }

    fn spec(&self, pod: &Value, name: &str) -> Result<Value> {
        let all = ["initContainers", "containers"].map(|list| pod[list].as_array()).into_iter().flatten().flatten();
        let container = all.clone().find(|one| one["name"] == name).with_context(|| format!("no container {name}"))?;
        let security = &container["securityContext"];
        ensure!(security["readOnlyRootFilesystem"] == true && security["privileged"].is_null(), "{security}");
        let added = security["capabilities"]["add"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let rights: Vec<_> = added.map(|right| format!("CAP_{right}")).collect();
        let mut arguments = vec![json!("/tortie")];
        arguments.extend(container["args"].as_array().into_iter().flatten().cloned());
        let mut namespaces = vec![json!({ "type": "mount" }), json!({ "type": "ipc" }), json!({ "type": "uts" })];
        ensure!(pod["hostNetwork"] == true, "the node's network is the agent's");
        namespaces.push(json!({ "type": "network", "path": self.node.namespace().path() }));
        if pod["hostPID"] != true {
            namespaces.push(json!({ "type": "pid" }));
        }
        Ok(json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": security["runAsUser"], "gid": 0 }, "args": arguments, "cwd": "/", "env": self.environment(container)?,
                "capabilities": { "bounding": rights, "effective": rights, "permitted": rights },
                "noNewPrivileges": security["allowPrivilegeEscalation"] == false,
            },
            "root": { "path": self.root, "readonly": true },
            "mounts": self.mounts(pod, container)?,
            "linux": { "namespaces": namespaces, "maskedPaths": MASKED, "readonlyPaths": READ_ONLY },
        }))
    }

    fn environment(&self, container: &Value) -> Result<Vec<String>> {
        let mut all = BTreeMap::from([("PATH".to_owned(), "/".to_owned())]);
        for variable in container["env"].as_array().into_iter().flatten() {
            let value = match (variable["value"].as_str(), &variable["valueFrom"]["fieldRef"]["fieldPath"]) {
                (Some(value), _) => value.to_owned(),
                (None, field) if field == "spec.nodeName" => self.node.name().to_owned(),
                _ => bail!("{variable} is nothing that a kubelet of the tests knows"),
            };
            all.insert(variable["name"].as_str().context("a name")?.to_owned(), value);
        }
        all.extend(self.variables.clone());
        Ok(all.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    fn mounts(&self, pod: &Value, container: &Value) -> Result<Vec<Value>> {
        let mut all = vec![
            json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
            json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] }),
            json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] }),
        ];
        let bind = |from: &Path, to: &str, propagation: &str, access: &str| {
            let options = json!(["rbind", propagation, access]);
            json!({ "destination": to, "type": "bind", "source": from, "options": options })
        };
        if pod["automountServiceAccountToken"] != false {
            all.push(bind(&self.account, "/var/run/secrets/kubernetes.io/serviceaccount", "rprivate", "ro"));
        }
        let volumes = pod["volumes"].as_array().context("volumes")?;
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
            let path = volume.and_then(|volume| volume["hostPath"]["path"].as_str());
            let from = self.path(path.with_context(|| format!("no volume for {mount}"))?)?;
            let propagation = if mount["mountPropagation"] == "HostToContainer" { "rslave" } else { "rprivate" };
            let access = if mount["readOnly"] == true { "ro" } else { "rw" };
            all.push(bind(&from, mount["mountPath"].as_str().context("a path")?, propagation, access));
        }
        Ok(all)
    }
}

impl Running {
    /// What it wrote.
    pub fn log(&self) -> String {
        log_tail(&self.log)
    }

    /// All that it wrote.
    pub fn whole_log(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("reading {}", self.log.display()))
    }

    /// Whether it runs, and has come as far as to hear SIGTERM: to the first process of a container it means nothing by itself.
    pub fn hears_term(&self) -> Result<bool> {
        let state: Value = serde_json::from_str(&tests::netns::run(self.runc().args(["state", &self.name]))?)?;
        let status = fs::read_to_string(format!("/proc/{}/status", state["pid"]))?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).context("which signals it hears")?;
        let term = rustix::process::Signal::TERM.as_raw();
        Ok(state["status"] == "running" && u64::from_str_radix(caught.trim(), 16)? >> (term - 1) & 1 == 1)
    }

    /// As a kubelet ends it: it goes, and says that all is well.
    pub fn stop(mut self) -> Result<()> {
        self.signal("TERM")?;
        let ended = wait::wait_for("the container ends", wait::PATIENCE, || Ok(self.child.try_wait()?))?;
        ensure!(ended.success(), "{}: {ended}\n{}", self.name, log_tail(&self.log));
        Ok(())
    }

    fn runc(&self) -> Command {
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(&self.state);
        runc
    }

    fn signal(&self, signal: &str) -> Result<()> {
        tests::netns::run(self.runc().args(["kill", &self.name, signal])).map(drop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        let mut ended = || {
            // Not while it is being made, nor when it has ended meanwhile.
            let _ = self.signal("KILL");
            Ok(self.child.try_wait()?.is_some())
        };
        if wait::wait_until("the container ends", wait::PATIENCE, &mut ended).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
