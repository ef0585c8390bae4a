//! Calls the CNI binary as a container runtime does: environment, configuration on stdin, answer on stdout.
//! In: a command and what it is about. Out: exit code and JSON.
//! Invariant: runs in the host's namespace, like a runtime.
//! Never: looks into the answer; a test does.

use crate::NetNs;
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

/// Where Debian puts the reference plugins.
pub const PLUGINS: &str = "/usr/lib/cni";

/// A runtime on one node.
#[derive(Clone, Debug)]
pub struct Runtime {
    host: Option<Arc<NetNs>>,
    plugin: PathBuf,
    conf: Value,
    /// Variables beside CNI's own.
    variables: Vec<(&'static str, String)>,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`; `None`: unset.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// Members added to the network configuration, or put in the place of its own.
    pub conf: Value,
}

/// What the binary said.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Exit code; `None` if a signal ended it.
    pub exit: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Answer {
    /// The JSON of a success.
    ///
    /// # Errors
    /// It was none, or is not JSON.
    pub fn success(&self) -> Result<Value> {
        if self.exit != Some(0) {
            bail!("tortie-cni: exit {:?}: {} {}", self.exit, self.out.trim(), self.err.trim());
        }
        if self.out.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&self.out).with_context(|| format!("reading {:?}", self.out))
    }

    /// Code and message of a failure.
    ///
    /// # Errors
    /// It was none, or not said as the specification wants (CNI-2).
    pub fn failure(&self) -> Result<(u64, String)> {
        if self.exit == Some(0) {
            bail!("expected a failure, got {}", self.out.trim());
        }
        let said: Value = serde_json::from_str(&self.out).with_context(|| format!("reading {:?}", self.out))?;
        let code = said["code"].as_u64().with_context(|| format!("no code in {said}"))?;
        Ok((code, format!("{} {}", said["msg"].as_str().unwrap_or_default(), said["details"].as_str().unwrap_or(""))))
    }
}

impl Runtime {
    /// A runtime on `host` that uses `plugin`, whose agent listens on `socket`.
    #[must_use]
    pub fn new(host: Arc<NetNs>, plugin: &Path, socket: &Path) -> Self {
        let conf = json!({
            "cniVersion": "1.1.0",
            "name": "tortie",
            "type": "tortie-cni",
            "socket": socket,
            "ipam": { "type": "tortie" },
        });
        Self { host: Some(host), plugin: plugin.to_owned(), conf, variables: Vec::new() }
    }

    /// The same runtime, for threads that are on its host: their calls are started without a copy of this process.
    #[must_use]
    pub fn from_here(&self) -> Self {
        Self { host: None, ..self.clone() }
    }

    /// The same runtime, with one more variable for the binary.
    #[must_use]
    pub fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// The network configuration, as the binary gets it.
    #[must_use]
    pub fn conf(&self) -> &Value {
        &self.conf
    }

    /// The binary.
    #[must_use]
    pub fn plugin(&self) -> &Path {
        &self.plugin
    }

    /// The same runtime, calling another plugin.
    #[must_use]
    pub fn other(&self, plugin: &Path) -> Self {
        Self { plugin: plugin.to_owned(), ..self.clone() }
    }

    /// `CNI_COMMAND` = `command`.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn call(&self, command: &str, call: &Call) -> Result<Answer> {
        end(self.begin(command, call)?)
    }

    /// The same, begun only.
    ///
    /// # Errors
    /// The binary cannot be started.
    pub fn begin(&self, command: &str, call: &Call) -> Result<Child> {
        let mut conf = self.conf.clone();
        if let (Some(members), Some(more)) = (conf.as_object_mut(), call.conf.as_object()) {
            members.extend(more.clone());
        }
        let mut variables = vec![
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", call.container.clone()),
            ("CNI_IFNAME", call.interface.clone()),
            ("CNI_ARGS", call.args.clone()),
            ("CNI_PATH", PLUGINS.to_owned()),
        ];
        variables.extend(self.variables.iter().cloned());
        if let Some(netns) = &call.netns {
            variables.push(("CNI_NETNS", netns.display().to_string()));
        }
        self.spawn(&variables, &conf.to_string())
    }

    /// Runs the binary with exactly these variables and this input.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn run(&self, variables: &[(&str, String)], input: &str) -> Result<Answer> {
        end(self.spawn(variables, input)?)
    }

    fn spawn(&self, variables: &[(&str, String)], input: &str) -> Result<Child> {
        let mut command = match &self.host {
            Some(host) => host.command(&self.plugin)?,
            None => Command::new(&self.plugin),
        };
        command.env_clear().envs(variables.iter().map(|(name, value)| (*name, value)));
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().with_context(|| format!("starting {}", self.plugin.display()))?;
        // A binary that does not read its input has an answer all the same.
        let _ = child.stdin.take().context("the CNI binary has no input")?.write_all(input.as_bytes());
        Ok(child)
    }

    /// Whether an ADD could be served now.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn ready(&self) -> Result<bool> {
        let variables = [("CNI_COMMAND", "STATUS".to_owned()), ("CNI_PATH", PLUGINS.to_owned())];
        Ok(self.run(&variables, &self.conf.to_string())?.exit == Some(0))
    }
}

/// Waits for a call that was begun.
///
/// # Errors
/// The kernel does not say how it ended.
pub fn end(child: Child) -> Result<Answer> {
    let output = child.wait_with_output().context("waiting for the CNI binary")?;
    Ok(Answer {
        exit: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
