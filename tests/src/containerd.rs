//! containerd with runc, on one node: its own root, state, socket, CNI directories.
//! In: a node's namespace, the CNI binary, a network. Out: containers by `ctr run --cni`, from a root of busybox.
//! Invariant: no control groups, no snapshots, no image: what a container is made of is a directory of the test's.
//! Never: ends a process that it did not start.

use crate::{
    NetNs, Node, image,
    places::Places,
    process::{self, log_tail},
    wait,
};
use anyhow::{Context as _, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// What a container finds in `/bin`.
const APPLETS: [&str; 4] = ["ip", "ping", "sh", "sleep"];
/// What this containerd does without.
const DISABLED: &str = r#"["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]"#;

/// A running containerd.
#[derive(Debug)]
pub struct Containerd<'a> {
    child: Child,
    directory: PathBuf,
    namespace: &'a NetNs,
    /// Its CNI directories.
    pub places: Places,
}

/// A container in the foreground of its `ctr`.
#[derive(Debug)]
pub struct Running<'a> {
    containerd: &'a Containerd<'a>,
    name: String,
    child: Child,
}

impl<'a> Containerd<'a> {
    /// Starts it on `node`, in a directory of its own.
    ///
    /// # Errors
    /// Programs are missing, or it does not serve.
    pub fn start(node: &'a Node, directory: &Path) -> Result<Self> {
        let places = Places::create(directory, Some(node.runtime().plugin()))?;
        image::root(&directory.join("root"), &APPLETS)?;
        let config = format!(
            "version = 2\nroot = {:?}\nstate = \"/run/containerd\"\ndisabled_plugins = {DISABLED}\n[grpc]\naddress = {:?}\n",
            directory.join("content"),
            socket(directory)
        );
        fs::write(directory.join("config.toml"), config).context("writing containerd's configuration")?;
        let mut command = places.command(node.namespace(), Path::new("containerd"))?;
        command.arg("--config").arg(directory.join("config.toml"));
        let child = process::started(command, &directory.join("containerd.log"))?;
        let started = Self { child, directory: directory.to_owned(), namespace: node.namespace(), places };
        let serves = || Ok(started.ctr(&["version"])?.stderr(Stdio::null()).stdout(Stdio::null()).status()?.success());
        wait::wait_until("containerd serves", wait::PATIENCE, serves)
            .with_context(|| log_tail(&directory.join("containerd.log")))?;
        Ok(started)
    }

    /// `ctr` with these arguments, in containerd's own places.
    ///
    /// # Errors
    /// The namespace's handle cannot be duplicated.
    pub fn ctr(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.namespace.command(Path::new("nsenter"))?;
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.child.id())).args(["ctr", "--address"]);
        command.arg(socket(&self.directory)).args(arguments).stdin(Stdio::null());
        Ok(command)
    }

    fn run_command(&self, name: &str, command: &[&str]) -> Result<Command> {
        let mut run = self.ctr(&["run", "--rm", "--cni", "--cgroup", "", "--rootfs"])?;
        run.arg(self.directory.join("root")).arg(name).args(command);
        Ok(run)
    }

    /// Runs a container to its end, and says what it wrote.
    ///
    /// # Errors
    /// It cannot be run, or fails.
    pub fn run(&self, name: &str, command: &[&str]) -> Result<String> {
        let output = self.run_command(name, command)?.output().context("starting ctr")?;
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "ctr run {name}: {} {}", said.trim(), errors.trim());
        Ok(said.into_owned())
    }

    /// Starts a container that runs until it is ended.
    ///
    /// # Errors
    /// `ctr` cannot be started.
    pub fn start_container(&'a self, name: &str, command: &[&str]) -> Result<Running<'a>> {
        let mut run = self.run_command(name, command)?;
        let child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting ctr")?;
        Ok(Running { containerd: self, name: name.to_owned(), child })
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}

impl Running<'_> {
    /// Kills the container; its `ctr` then detaches it.
    ///
    /// # Errors
    /// It cannot be killed, or is not detached.
    pub fn end(mut self) -> Result<()> {
        let mut kill = self.containerd.ctr(&["task", "kill", "--signal", "SIGKILL", &self.name])?;
        ensure!(kill.status().context("starting ctr")?.success(), "the container {} cannot be killed", self.name);
        wait::wait_until("ctr ends", wait::PATIENCE, || Ok(self.child.try_wait()?.is_some()))?;
        Ok(())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // After `end` there is nothing to end any more.
        let kill = self.containerd.ctr(&["task", "kill", "--signal", "SIGKILL", &self.name]);
        let _ = kill.map(|mut kill| kill.stderr(Stdio::null()).status());
        let _ = wait::wait_until("ctr ends", wait::PATIENCE, || Ok(self.child.try_wait()?.is_some()));
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("containerd.sock")
}
