//! Network namespaces: made, entered by one thread or one process at a time, and removed.
//! In: a name's stem and a role. Out: a handle through which commands and closures run inside.
//! Invariant: a name carries the pid of its maker, so that a later run can remove what a killed one left.
//! Never: changes the namespace of a caller's thread; uses `ip netns exec`, which hides the bpffs in /sys.

use crate::wait;
use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    io::Write as _,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// Where iproute2 keeps named namespaces.
const DIRECTORY: &str = "/run/netns";
/// What the names of namespaces, directories and mounts of test runs begin with; the maker's pid follows.
pub const STEM: &str = "tt";

/// A network namespace that this process made.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    file: File,
    kept: AtomicBool,
}

/// What every test with namespaces needs: it fails at once, and clearly, where this is missing.
///
/// # Errors
/// Somebody else than root runs it.
pub fn need_root() -> Result<()> {
    ensure!(rustix::process::getuid().is_root(), "these tests make network namespaces: run them as root");
    Ok(())
}

impl NetNs {
    /// Makes `STEM-ROLE`, with loopback up.
    ///
    /// # Errors
    /// The namespace exists, or the process lacks the right.
    pub fn create(stem: &str, role: &str) -> Result<Self> {
        let name = format!("{stem}-{role}");
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let path = Path::new(DIRECTORY).join(&name);
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let made = Self { name, file, kept: AtomicBool::new(false) };
        made.ip(&["link set lo up"])?;
        Ok(made)
    }

    /// Its name, as `ip -n` takes it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path, as a container runtime names it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// The same by this process' own handle: good also where `/run` is another.
    #[must_use]
    pub fn held_path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Leaves it behind when dropped.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Runs `work` on a thread of its own inside. Sockets it returns stay in the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `work` fails.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("entering namespace {}", self.name))?;
            work()
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// What makes the thread that calls it one of this namespace.
    ///
    /// # Errors
    /// The handle cannot be duplicated.
    pub fn entering(&self) -> Result<impl FnOnce() -> Result<()> + Send + use<>> {
        let (namespace, name) = (self.file.try_clone().context("duplicating a namespace handle")?, self.name.clone());
        Ok(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("entering namespace {name}"))
        })
    }

    /// A command that will run inside, in the caller's mount namespace.
    ///
    /// # Errors
    /// The handle cannot be duplicated.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let namespace = self.file.try_clone().context("duplicating a namespace handle")?;
        let mut command = Command::new(program);
        let enter =
            move || move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(Into::into);
        // SAFETY: between fork and exec the closure makes one system call on a handle that it owns; it neither
        // allocates nor takes a lock.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }

    /// Runs iproute2 commands inside, one a line, in one process.
    ///
    /// # Errors
    /// One of them fails; its line and the kernel's word for it are in the message.
    pub fn ip(&self, lines: &[&str]) -> Result<()> {
        let batch = lines.join("\n") + "\n";
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting ip; install iproute2")?;
        child.stdin.take().context("ip has no input")?.write_all(batch.as_bytes()).context("writing to ip")?;
        let output = child.wait_with_output().context("waiting for ip")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "in {}: ip {:?}: {}", self.name, lines, errors.trim());
        Ok(())
    }

    /// What `ip -json ARGS` says inside.
    ///
    /// # Errors
    /// The command fails or its output is not JSON.
    pub fn ip_json(&self, args: &str) -> Result<serde_json::Value> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-json", "-details"]).args(args.split_whitespace());
        let text = run(&mut command)?;
        if text.trim().is_empty() {
            return Ok(serde_json::Value::Array(Vec::new()));
        }
        serde_json::from_str(&text).with_context(|| format!("reading what ip {args} said"))
    }

    /// Waits until `interface` has its carrier and its IPv6 addresses are in use: the kernel takes up to a second
    /// after the other side came up.
    ///
    /// # Errors
    /// It stays without.
    pub fn wait_link(&self, interface: &str) -> Result<()> {
        let what = format!("{interface} of {} is up", self.name);
        wait::wait_until(&what, wait::PATIENCE, || {
            let links = self.ip_json(&format!("address show dev {interface}"))?;
            let addresses = links[0]["addr_info"].as_array().context("no addresses")?;
            let tentative = addresses.iter().any(|address| address["tentative"] == true);
            Ok(links[0]["operstate"] == "UP" && !tentative && addresses.iter().any(|a| a["scope"] == "link"))
        })
    }

    /// Reads a file of `/proc/net` or `/proc/sys/net` as this namespace sees it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, path: &str) -> Result<String> {
        let path = path.replace("/proc/net/", "/proc/thread-self/net/");
        self.inside(|| fs::read_to_string(&path).with_context(|| format!("reading {path}")))
    }

    /// Writes a sysctl, named by its path below `/proc/sys/net`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.inside(|| fs::write(&path, value).with_context(|| format!("writing {path}")))
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed) {
            remove(&self.name);
        }
    }
}

/// Removes the namespace of this name, if there is one.
pub fn remove(name: &str) {
    // A namespace that is already gone is what was wanted.
    let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
}

/// Removes the namespaces of test runs whose process is gone.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        if maker_is_gone(&name) {
            remove(&name);
        }
    }
}

/// Whether `name` was given by a test run whose process is gone.
#[must_use]
pub fn maker_is_gone(name: &str) -> bool {
    let pid = name.strip_prefix(STEM).and_then(|rest| rest.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Runs a command to its end and returns what it said.
///
/// # Errors
/// It cannot be started or fails; the message has its own words.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {} {} {}", output.status, said.trim(), errors.trim());
    Ok(said.into_owned())
}
