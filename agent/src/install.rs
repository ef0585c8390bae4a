//! What a container runtime finds of Tortie on a node: the plugin, and the configuration that names it.
//! In: folders of the node. Out: files that appear whole; a configuration only once pods can be served.
//! Invariant: a runtime that reads the configuration finds an agent that has been ready; what is not ours is not touched.
//! Never: writes over another network's configuration, over one that leads to this agent, whatever else was edited in it, or over
//! what it could not read.

use anyhow::{Context as _, Result, anyhow, bail};
use calc::{PodCidrs, World};
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
    install(&std::env::current_exe()?.with_file_name(PLUGIN), folder)
}

fn install(from: &Path, folder: &Path) -> Result<String> {
    let content = fs::read(from).map_err(|error| anyhow!("{}: the plugin is not there: {error}", from.display()))?;
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
#[derive(Clone, Debug)]
pub struct Conflist {
    path: PathBuf,
    socket: PathBuf,
    text: String,
}

impl Conflist {
    /// At `path`, for an agent that listens on `socket`.
    pub fn new(path: &Path, socket: &Path) -> Self {
        Self::with_ipam(path, socket, &json!({ "type": "tortie" }))
    }

    /// The same, where pods have addresses of the node's own networks: those are host-local's to give.
    ///
    /// # Errors
    /// The node has none yet.
    pub fn of(&self, world: &World) -> Result<Self> {
        if world.pod_cidrs() == PodCidrs::Off {
            return Ok(self.clone());
        }
        let own = world.own_node().map(|node| &*node.pod_cidrs).unwrap_or_default();
        let of = |v4: bool, name: &str| own.iter().any(|cidr| cidr.is_v4() == v4).then(|| json!([{ "subnet": name }]));
        let ranges: Vec<_> = [of(true, "usePodCidr"), of(false, "usePodCidrIPv6")].into_iter().flatten().collect();
        if ranges.is_empty() {
            bail!("this node has no network in spec.podCIDRs yet");
        }
        Ok(Self::with_ipam(&self.path, &self.socket, &json!({ "type": "host-local", "ranges": ranges })))
    }

    fn with_ipam(path: &Path, socket: &Path, ipam: &Value) -> Self {
        // Debian's plugins, which give the addresses, speak CNI up to 1.0.0.
        let versions = if ipam["type"] == "tortie" { json!(["1.0.0", "1.1.0"]) } else { json!(["1.0.0"]) };
        let network = json!({
            // Runtimes that do not know the list take the one version, which all of today's speak.
            "cniVersion": "1.0.0", "cniVersions": versions,
            "name": "tortie",
            "plugins": [{
                "type": PLUGIN, "socket": socket, "ipam": ipam,
                "capabilities": { "portMappings": true },
            }],
        });
        Self { path: path.to_owned(), socket: socket.to_owned(), text: format!("{network:#}\n") }
    }

    /// Puts it there, unless one is there by which runtimes come here. `false`: it was.
    ///
    /// # Errors
    /// Another network's is there, or the file can be neither read nor written.
    pub fn put(&self) -> Result<bool> {
        match read(&self.path)?.map(|there| own_socket(&there)) {
            Some(Some(socket)) if socket == self.socket => Ok(false),
            Some(None) => bail!("{}: is another network's; name a file of its own, or remove it", self.path.display()),
            // There is none, or ours for an agent elsewhere.
            None | Some(Some(_)) => appear(&self.path, self.text.as_bytes(), 0o644).map(|()| true),
        }
    }
}

/// Takes a configuration of ours away. `false`: another's is there, and stays.
///
/// # Errors
/// It can be neither read nor removed.
pub fn remove_conflist(path: &Path) -> Result<bool> {
    match read(path)?.map(|there| own_socket(&there)) {
        Some(None) => Ok(false),
        Some(Some(_)) => gone(path).map(|()| true),
        None => Ok(true),
    }
}

/// `None`: there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(there) => Ok(Some(there)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            bail!(
                "{}: cannot be read, so nobody knows whose it is: {error}; make it readable, or remove it",
                path.display()
            )
        }
    }
}

/// Where the first of its plugins that is ours finds the agent; `None`: none is.
fn own_socket(text: &[u8]) -> Option<PathBuf> {
    let network: Value = serde_json::from_slice(text).ok()?;
    let own = network["plugins"].as_array()?.iter().find(|plugin| plugin["type"] == PLUGIN)?;
    Some(own["socket"].as_str().unwrap_or(cni::client::DEFAULT_SOCKET).into())
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
    use std::{
        os::unix::fs::MetadataExt as _,
        process::{Command, Stdio},
    };

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
    fn calc_25_a_configuration_appears_whole_under_the_name_that_is_chosen_is_put_back_and_goes() {
        let (folder, path) = scene();
        let conflist = Conflist::new(&path, Path::new("/run/tortie/tortie.sock"));
        assert!(conflist.put().expect("written"));
        assert!(!conflist.put().expect("there"), "the second time it is there");
        let network: Value = serde_json::from_str(&fs::read_to_string(&path).expect("there")).expect("JSON");
        assert_eq!(network["plugins"][0]["socket"], "/run/tortie/tortie.sock");
        assert_eq!(names(folder.path()), ["05-tortie.conflist"], "nothing lies beside it");
        let elsewhere = Conflist::new(&path, Path::new("/elsewhere"));
        assert!(elsewhere.put().expect("written"), "by one of ours that leads elsewhere nobody comes here");
        assert!(remove_conflist(&path).expect("ours"));
        assert!(remove_conflist(&path).expect("gone is gone"));
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[test]
    fn calc_25_another_networks_configuration_or_one_that_is_no_json_is_neither_written_over_nor_removed() {
        let (_folder, path) = scene();
        let other = r#"{"name": "k8s-pod-network", "plugins": [{"type": "calico"}]}"#;
        for text in [other.as_bytes(), b"half of a f", b"\xff\xfe"] {
            fs::write(&path, text).expect("written");
            let said = Conflist::new(&path, Path::new("/s")).put().expect_err("it is not ours").to_string();
            assert!(said.contains("another network's"), "{said}");
            assert!(!remove_conflist(&path).expect("it is left"));
            assert_eq!(fs::read(&path).expect("there"), text);
        }
    }

    #[test]
    fn one_that_leads_to_this_agent_stays_as_somebody_edited_it() {
        let (_folder, path) = scene();
        let edited =
            r#"{"name": "mine", "plugins": [{"type": "bandwidth"}, {"type": "tortie-cni", "mtu": 1400SOCKET}]}"#;
        let (default, own) = (edited.replace("SOCKET", ""), edited.replace("SOCKET", r#", "socket": "/run/own.sock""#));
        for (text, socket) in [(default, cni::client::DEFAULT_SOCKET), (own, "/run/own.sock")] {
            fs::write(&path, &text).expect("written");
            assert!(!Conflist::new(&path, Path::new(socket)).put().expect("it is there"), "{text}");
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
        }
    }

    #[test]
    fn what_cannot_be_read_is_neither_written_over_nor_removed_and_is_named() {
        let (folder, path) = scene();
        fs::create_dir(&path).expect("a folder in its place");
        let said = [Conflist::new(&path, Path::new("/s")).put(), remove_conflist(&path)];
        for said in said.map(|said| said.expect_err("it is no file").to_string()) {
            assert!(said.contains("05-tortie.conflist: cannot be read") && said.contains("remove it"), "{said}");
        }
        assert_eq!(names(folder.path()), ["05-tortie.conflist"]);
    }

    #[test]
    fn calc_25_a_plugin_that_is_running_is_replaced_whole_and_a_current_one_is_left() {
        let (folder, _) = scene();
        let from = folder.path().join("new");
        fs::write(&from, "of the next version").expect("written");
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).expect("a folder");
        let to = bin.join(PLUGIN);
        // Copied by another program: a descriptor of ours that another test's child has inherited would keep it from running.
        assert!(Command::new("cp").args([Path::new("/bin/cat"), &to]).status().expect("cp runs").success());
        let mut running = Command::new(&to).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
        assert!(install(&from, &bin).expect("replaced").starts_with("written"));
        assert_eq!(fs::read_to_string(&to).expect("there"), "of the next version");
        assert_eq!(fs::metadata(&to).expect("there").permissions().mode() & 0o777, 0o755);
        running.stdin.take().expect("piped").write_all(b"still here").expect("it reads");
        assert_eq!(running.wait_with_output().expect("it ends").stdout, b"still here");
        let before = fs::metadata(&to).expect("there").ino();
        assert!(install(&from, &bin).expect("there").starts_with("current"));
        assert_eq!(fs::metadata(&to).expect("there").ino(), before, "not written again");
        assert_eq!(names(&bin), [PLUGIN]);
    }

    #[test]
    fn calc_25_a_folder_that_cannot_be_written_fails_the_install_and_is_named() {
        let (folder, _) = scene();
        let from = folder.path().join("new");
        fs::write(&from, "of the next version").expect("written");
        for folder in [Path::new("/proc"), &folder.path().join("there-is-none")] {
            let said = install(&from, folder).expect_err("nobody writes there").to_string();
            assert!(said.contains(&*folder.join(PLUGIN).to_string_lossy()), "{said}");
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
