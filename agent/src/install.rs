//! What a container runtime finds of Tortie on a node: the plugin, and the configuration that names it.
//! In: folders of the node. Out: files that appear whole; a configuration only while pods can be served.
//! Invariant: a runtime that reads the configuration finds an agent that has been ready; what is not ours is not touched.
//! Never: writes over another network's configuration.

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};
use std::{
    fs::{self, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The plugin's file name, which configurations call its type.
const PLUGIN: &str = "tortie-cni";

/// `tortie install`: puts the plugin that lies beside this program into `folder`. Says what it did.
pub fn plugin(folder: &Path) -> Result<String> {
    let own = std::env::current_exe()?;
    let from = own.with_file_name(PLUGIN);
    let content = fs::read(&from).map_err(|error| anyhow!("{}: the plugin is not there: {error}", from.display()))?;
    let to = folder.join(PLUGIN);
    if fs::read(&to).is_ok_and(|there| there == content) {
        return Ok(format!("current  {}", to.display()));
    }
    appear(&to, &content, 0o755)?;
    Ok(format!("written  {}", to.display()))
}

/// Takes the plugin away; one that is not there is gone.
pub fn remove_plugin(folder: &Path) -> Result<()> {
    gone(&folder.join(PLUGIN))
}

/// The configuration of a network list, for the runtime.
#[derive(Debug)]
pub struct Conflist {
    path: PathBuf,
    text: String,
}

impl Conflist {
    /// At `path`, for an agent that listens on `socket`.
    pub fn new(path: &Path, socket: &Path) -> Self {
        let network = json!({
            // Runtimes that do not know the list take the one version, which all of today's speak.
            "cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"],
            "name": "tortie",
            "plugins": [{
                "type": PLUGIN, "socket": socket, "ipam": { "type": "tortie" },
                "capabilities": { "portMappings": true },
            }],
        });
        Self { path: path.to_owned(), text: format!("{network:#}\n") }
    }

    /// Puts it there if it is not there as it should be. `false`: it was.
    pub fn put(&self) -> Result<bool> {
        match fs::read_to_string(&self.path) {
            Ok(there) if there == self.text => Ok(false),
            Ok(there) if !is_ours(&there) => {
                bail!("{}: is another network's; name a file of its own, or remove it", self.path.display())
            }
            _ => appear(&self.path, self.text.as_bytes(), 0o644).map(|()| true),
        }
    }
}

/// Takes a configuration of ours away; another's stays.
pub fn remove_conflist(path: &Path) -> Result<()> {
    match fs::read_to_string(path) {
        Ok(there) if !is_ours(&there) => bail!("{}: is another network's, and stays", path.display()),
        _ => gone(path),
    }
}

/// Whether one of its plugins is ours.
fn is_ours(text: &str) -> bool {
    let Ok(network) = serde_json::from_str::<Value>(text) else { return false };
    network["plugins"].as_array().into_iter().flatten().any(|plugin| plugin["type"] == PLUGIN)
}

fn gone(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => bail!("{}: {error}", path.display()),
        _ => Ok(()),
    }
}

/// Whoever looks sees the old file or the whole new one, after a crash of the machine too.
fn appear(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let name = path.file_name().with_context(|| format!("{}: is no file's path", path.display()))?;
    // Runtimes read files with certain ends alone: this has another.
    let beside = path.with_file_name(format!(".{}.new", name.display()));
    let write = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| anyhow!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("05-tortie.conflist");
        (folder, path)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("it is there");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_configuration_appears_whole_is_put_back_and_goes() {
        let (folder, path) = scene();
        let conflist = Conflist::new(&path, Path::new("/run/tortie/tortie.sock"));
        assert!(conflist.put().expect("written"));
        assert!(!conflist.put().expect("there"), "the second time it is there");
        let network: Value = serde_json::from_str(&fs::read_to_string(&path).expect("there")).expect("JSON");
        assert_eq!(network["plugins"][0]["socket"], "/run/tortie/tortie.sock");
        assert_eq!(names(folder.path()), ["05-tortie.conflist"], "nothing lies beside it");
        let elsewhere = Conflist::new(&path, Path::new("/elsewhere"));
        assert!(elsewhere.put().expect("written"), "an older one of ours is replaced");
        remove_conflist(&path).expect("ours");
        remove_conflist(&path).expect("gone is gone");
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[test]
    fn another_networks_configuration_is_neither_written_over_nor_removed() {
        let (_folder, path) = scene();
        let other = r#"{"name": "k8s-pod-network", "plugins": [{"type": "calico"}]}"#;
        for text in [other, "half of a f"] {
            fs::write(&path, text).expect("written");
            let said = Conflist::new(&path, Path::new("/s")).put().expect_err("it is not ours").to_string();
            assert!(said.contains("another network's"), "{said}");
            assert!(remove_conflist(&path).is_err());
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
        }
    }

    #[test]
    fn a_plugin_that_is_not_beside_this_program_is_named() {
        let (folder, _) = scene();
        let said = plugin(folder.path()).expect_err("tests have no plugin beside them").to_string();
        assert!(said.contains("tortie-cni: the plugin is not there"), "{said}");
        assert_eq!(names(folder.path()), [""; 0]);
    }
}
