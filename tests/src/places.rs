//! Runtimes whose paths cannot be told: they run where those paths are a test's own.
//! In: networks and plugins. Out: commands in a mount namespace of their own, in which `/etc/cni/net.d`, `/opt/cni/bin`,
//! `/var/lib` and `/run` are private.
//! Invariant: nothing of it is seen from outside; it goes with the directory.
//! Never: mounts anything in the caller's namespace.

use crate::{NetNs, runtime::PLUGINS};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

/// `/etc` keeps what it has, by links: some programs read it.
const SCRIPT: &str = r#"
set -e
dir=$1; shift
mount --bind /etc "$dir/below"
mount -t tmpfs etc "$dir/etc"
for entry in "$dir"/below/*; do ln -s "$entry" "$dir/etc/"; done
mkdir "$dir/etc/cni"
ln -s "$dir/net.d" "$dir/etc/cni/net.d"
mount --bind "$dir/etc" /etc
mount --bind "$dir/opt" /opt
mount --bind "$dir/lib" /var/lib
mount -t tmpfs run /run
exec "$@"
"#;

/// The places of one test.
#[derive(Debug)]
pub struct Places {
    directory: PathBuf,
}

impl Places {
    /// Makes them in a directory of the test's own, with the reference plugins and, if one is given, ours.
    ///
    /// # Errors
    /// A file cannot be made.
    pub fn create(directory: &Path, plugin: Option<&Path>) -> Result<Self> {
        let places = Self { directory: directory.to_owned() };
        for part in ["below", "etc", "net.d", "opt/cni/bin", "lib"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        }
        if let Some(plugin) = plugin {
            symlink(plugin, places.plugins().join("tortie-cni")).context("linking the CNI binary")?;
        }
        let reference = fs::read_dir(PLUGINS).with_context(|| format!("{PLUGINS}: run `cargo xtask setup`"))?;
        for entry in reference {
            let path = entry?.path();
            symlink(&path, places.plugins().join(path.file_name().unwrap_or_default()))?;
        }
        Ok(places)
    }

    /// What is `/opt/cni/bin` inside.
    #[must_use]
    pub fn plugins(&self) -> PathBuf {
        self.directory.join("opt/cni/bin")
    }

    /// What is `/etc/cni/net.d` inside.
    #[must_use]
    pub fn networks(&self) -> PathBuf {
        self.directory.join("net.d")
    }

    /// Writes a network.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn network(&self, name: &str, plugins: &Value, version: &str) -> Result<()> {
        let list = serde_json::json!({ "cniVersion": version, "name": name, "plugins": plugins });
        let path = self.networks().join(format!("10-{name}.conflist"));
        fs::write(&path, list.to_string()).with_context(|| format!("writing {}", path.display()))
    }

    /// A command inside, in a network namespace; its arguments are still to come.
    ///
    /// # Errors
    /// The namespace's handle cannot be duplicated.
    pub fn command(&self, namespace: &NetNs, program: &Path) -> Result<Command> {
        let mut command = namespace.command(Path::new("unshare"))?;
        command.args(["--mount", "sh", "-c", SCRIPT, "places"]).arg(&self.directory).arg(program);
        Ok(command)
    }
}
