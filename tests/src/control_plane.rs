//! A real control plane: etcd and kube-apiserver, as they are, in a namespace of the test's.
//! In: a namespace, an address of it, a folder. Out: an API server that is ready, and kubectl for it.
//! Invariant: it listens in that namespace alone; what it knows goes with the folder; its processes die with the test.
//! Never: ends a process that it did not start.

use crate::{
    NetNs, binaries,
    cluster::{NATIVE, STORED},
    process::{kubeconfig, log_tail, started},
    wait,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::{
    env, fs,
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Where the API server listens.
const PORT: u16 = 6443;
/// Who may do everything, by this token.
const ADMIN: &str = "admin";
/// Who the agents are.
pub const AGENT: &str = "tortie";
/// Who mirrors are.
pub const MIRROR: &str = "tortie-mirror";

/// What runs, and where.
#[derive(Debug)]
pub struct ControlPlane {
    directory: PathBuf,
    address: IpAddr,
    etcd: Child,
    apiserver: Option<Child>,
    /// Without them nobody makes service accounts.
    controllers: Vec<Child>,
}

impl ControlPlane {
    /// Starts both and waits until the API server is ready.
    ///
    /// # Errors
    /// One of them is not built, or does not come.
    pub fn start(namespace: &NetNs, address: IpAddr, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).context("making the control plane's folder")?;
        let token = |who: &str, groups: &str| format!("{who}-token,{who},{who}{groups}\n");
        let tokens = token(ADMIN, ",\"system:masters\"") + &token(AGENT, "") + &token(MIRROR, "");
        fs::write(directory.join("tokens.csv"), tokens).context("writing tokens")?;
        openssl(
            directory,
            &["genpkey", "-quiet", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "sa.key"],
        )?;
        openssl(directory, &["pkey", "-in", "sa.key", "-pubout", "-out", "sa.pub"])?;
        let etcd = etcd(namespace, directory)?;
        let mut control_plane =
            Self { directory: directory.to_owned(), address, etcd, apiserver: None, controllers: Vec::new() };
        control_plane.kubeconfig(ADMIN)?;
        control_plane.kubeconfig(AGENT)?;
        control_plane.kubeconfig(MIRROR)?;
        control_plane.start_apiserver(namespace)?;
        Ok(control_plane)
    }

    /// Starts the API server, which does not run.
    ///
    /// # Errors
    /// It does not come.
    pub fn start_apiserver(&mut self, namespace: &NetNs) -> Result<()> {
        let path = |name: &str| self.directory.join(name).display().to_string();
        let address = self.address;
        let unasked = if self.controllers.is_empty() { "ServiceAccount" } else { "" };
        let mut command = namespace.command(&binaries::kubernetes("kube-apiserver")?)?;
        command.args([
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            format!("--bind-address={address}"),
            format!("--advertise-address={address}"),
            format!("--secure-port={PORT}"),
            format!("--cert-dir={}", path("certs")),
            format!("--token-auth-file={}", path("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", path("sa.pub")),
            format!("--service-account-signing-key-file={}", path("sa.key")),
            format!("--disable-admission-plugins={unasked}"),
            "--runtime-config=api/all=true".to_owned(),
            // Nobody here knows nodes by their names.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ]);
        self.apiserver = Some(started(command, &self.directory.join("apiserver.log"))?);
        let ready = || Ok(self.kubectl(namespace, &["get", "--raw", "/readyz"], "")? == "ok");
        wait::wait_until("the API server is ready", 3 * wait::PATIENCE, ready)
            .with_context(|| log_tail(&self.directory.join("apiserver.log")))
    }

    /// Starts the controllers and the scheduler: whoever makes pods of a Deployment, and places them. From then on the API server asks
    /// of every pod that its service account is there, and gives it the account's token.
    ///
    /// # Errors
    /// One of them is not built, or the API server does not come again.
    pub fn start_controllers(&mut self, namespace: &NetNs) -> Result<()> {
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig_path(ADMIN).display());
        let key = format!("--service-account-private-key-file={}", self.directory.join("sa.key").display());
        let authority = format!("--root-ca-file={}", self.authority().display());
        for (program, more) in [("kube-controller-manager", vec![key, authority]), ("kube-scheduler", Vec::new())] {
            let mut command = namespace.command(&binaries::kubernetes(program)?)?;
            command.args([&kubeconfig, "--leader-elect=false", "--bind-address=127.0.0.1"]).args(more);
            self.controllers.push(started(command, &self.directory.join(format!("{program}.log")))?);
        }
        self.kill_apiserver()?;
        self.start_apiserver(namespace)
    }

    /// Kills the API server on the spot; etcd lives on.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_apiserver(&mut self) -> Result<()> {
        let mut apiserver = self.apiserver.take().context("the API server does not run")?;
        apiserver.kill().context("killing the API server")?;
        apiserver.wait().context("waiting for the API server's end")?;
        Ok(())
    }

    /// Runs kubectl as the administrator, with this on its standard input.
    ///
    /// # Errors
    /// It fails; what it says is in the message.
    pub fn kubectl(&self, namespace: &NetNs, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = namespace.command(&binaries::kubernetes("kubectl")?)?;
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig_path(ADMIN))
            .arg("--cache-dir")
            .arg(self.directory.join("cache"));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting kubectl")?;
        child
            .stdin
            .take()
            .context("kubectl has no input")?
            .write_all(input.as_bytes())
            .context("writing to kubectl")?;
        let output = child.wait_with_output().context("waiting for kubectl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {arguments:?}: {}", said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The processes of its etcd and its API server.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        [&self.etcd].into_iter().chain(&self.apiserver).map(Child::id).collect()
    }

    /// Where the agents' kubeconfig lies.
    #[must_use]
    pub fn agents_kubeconfig(&self) -> PathBuf {
        self.kubeconfig_path(AGENT)
    }

    /// Where the mirrors' lies.
    #[must_use]
    pub fn mirrors_kubeconfig(&self) -> PathBuf {
        self.kubeconfig_path(MIRROR)
    }

    /// Where the administrator's lies.
    #[must_use]
    pub fn administrators_kubeconfig(&self) -> PathBuf {
        self.kubeconfig_path(ADMIN)
    }

    /// Whose word it is that this is the API server: its own.
    fn authority(&self) -> PathBuf {
        self.directory.join("certs/apiserver.crt")
    }

    fn kubeconfig_path(&self, who: &str) -> PathBuf {
        self.directory.join(format!("{who}.kubeconfig"))
    }

    fn kubeconfig(&self, who: &str) -> Result<()> {
        let address = match self.address {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        let server = format!("https://{address}:{PORT}");
        let cluster = json!({ "server": server, "certificate-authority": self.authority() });
        let text = kubeconfig(&cluster, &json!({ "token": format!("{who}-token") }));
        fs::write(self.kubeconfig_path(who), text.to_string()).context("writing a kubeconfig")
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for child in self.controllers.iter_mut().chain(&mut self.apiserver).chain([&mut self.etcd]) {
            // Already ended is ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn openssl(directory: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new("openssl").current_dir(directory).args(arguments).output().context("starting openssl")?;
    ensure!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn etcd(namespace: &NetNs, directory: &Path) -> Result<Child> {
    const CLIENTS: &str = "http://127.0.0.1:2379";
    const PEERS: &str = "http://127.0.0.1:2380";
    let mut command = namespace.command(&binaries::kubernetes("etcd")?)?;
    // Nothing of it has to outlive a crash of the machine.
    command.args(["--unsafe-no-fsync", "--log-level", "warn", "--data-dir"]).arg(directory.join("etcd"));
    command.args(["--listen-client-urls", CLIENTS, "--advertise-client-urls", CLIENTS, "--listen-peer-urls", PEERS]);
    command.args(["--initial-advertise-peer-urls", PEERS, "--initial-cluster", &format!("default={PEERS}")]);
    started(command, &directory.join("etcd.log"))
}

/// Definitions of Calico's kinds as they are shipped, in this group; Calico's own instead, where `TORTIE_CALICO` names its sources.
///
/// # Errors
/// They cannot be read.
pub fn calicos_kinds(group: &str, version: &str) -> Result<String> {
    let of_calico = if group == NATIVE.0 { "api/config/crd" } else { "libcalico-go/config/crd" };
    let (folder, is_ours) = match env::var_os("TORTIE_CALICO") {
        Some(sources) => (Path::new(&sources).join(of_calico), false),
        None => (Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds"), true),
    };
    let mut all = String::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        if !text.contains("kind: CustomResourceDefinition")
            || !text.contains(&format!("group: {}", if is_ours { STORED.0 } else { group }))
        {
            continue;
        }
        let text = match (is_ours, group == NATIVE.0) {
            (true, true) => {
                natively(&text.replace(STORED.0, group).replace("- name: v1\n", &format!("- name: {version}\n")))
            }
            _ => text,
        };
        all += &format!("---\n{text}");
    }
    Ok(all)
}

/// As Calico defines it in its newer group, where that differs: whether a claim is deleted is a boolean there.
fn natively(text: &str) -> String {
    let Some((before, after)) = text.split_once(" deleted:").filter(|_| text.contains("kind: BlockAffinity")) else {
        return text.to_owned();
    };
    format!("{before} deleted:{}", after.replacen("type: string", "type: boolean", 1))
}
