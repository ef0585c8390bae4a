//! Settings of the uplink, and of loopback where the node's own packets are led to services: what they need, and how it is given back.
//! In: the interface's name and the state directory. Out: settings that are made, the former ones in a file.
//! Invariant: a setting is written down before it is changed, and the first value written down stays.
//! Never: a setting of `all` or `default`; router advertisements that were accepted stay accepted.

use crate::{network::Network, programs::in_full};
use model::IfaceName;
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// What was there before: path below /proc/sys/net, and its value.
type Former = BTreeMap<String, String>;

/// Settings in the order they are made: their family and name, the value they are changed from (`None`: any other), and to.
pub type Settings = &'static [((&'static str, &'static str), Option<&'static str>, &'static str)];

/// What forwarding by route asks of the uplink. The stack turns router advertisements away from an interface that forwards, unless
/// `accept_ra` is 2.
pub const UPLINK: Settings = &[
    (("ipv6", "accept_ra"), Some("1"), "2"),
    (("ipv4", "forwarding"), None, "1"),
    (("ipv6", "forwarding"), None, "1"),
    // For pods' packets that the programs leave to the stack (see `host`); Linux 6.17 and later have it.
    (("ipv6", "force_forwarding"), None, "1"),
];

/// What loopback needs where the node's own packets are led to services: what comes in there again has a source of the node's own, or a
/// service's, which is routed elsewhere; and the way to a backend is asked as from there.
pub const LOOPBACK: Settings = &[
    (("ipv4", "accept_local"), None, "1"),
    (("ipv4", "rp_filter"), None, "2"),
    (("ipv4", "forwarding"), None, "1"),
    (("ipv6", "forwarding"), None, "1"),
];

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("sysctls.json")
}

/// Makes an interface's settings.
///
/// # Errors
/// In words: which setting or file, and why.
pub fn prepare(
    network: &mut impl Network,
    (interface, settings): (&IfaceName, Settings),
    state_dir: &Path,
) -> Result<(), String> {
    for (path, found, value) in to_change(network, (interface, settings))? {
        let mut former = read(state_dir)?;
        former.entry(path.clone()).or_insert(found);
        write(state_dir, &former).map_err(|error| format!("{}: {error}", file(state_dir).display()))?;
        network.set(&path, value).map_err(|error| in_full(&error))?;
    }
    Ok(())
}

/// What [`prepare`] would change, in words.
///
/// # Errors
/// In words: a setting cannot be read.
pub fn off(network: &impl Network, of: (&IfaceName, Settings)) -> Result<Vec<String>, String> {
    let off = to_change(network, of)?;
    Ok(off.into_iter().map(|(path, found, _)| format!("{path} was {found}")).collect())
}

/// Settings that are not as they should be: path, value found, value wanted.
fn to_change(
    network: &impl Network,
    (interface, settings): (&IfaceName, Settings),
) -> Result<Vec<(String, String, &'static str)>, String> {
    let mut off = Vec::new();
    for ((family, name), only_over, value) in settings {
        let path = format!("{family}/conf/{interface}/{name}");
        let Some(found) = setting_of(network, &path)? else { continue };
        if found != *value && only_over.is_none_or(|former| found == former) {
            off.push((path, found, *value));
        }
    }
    Ok(off)
}

/// Gives back what [`prepare`] changed, the last path first: `forwarding` before `accept_ra`, so that no router advertisement is turned
/// away between the two.
///
/// # Errors
/// What could not be given back.
pub fn give_back(network: &mut impl Network, state_dir: &Path) -> Result<(), String> {
    let former = read(state_dir)?;
    for (path, value) in former.iter().rev() {
        // An interface that is gone took its settings with it.
        if setting_of(network, path)?.is_some() {
            network.set(path, value).map_err(|error| in_full(&error))?;
        }
    }
    match fs::remove_file(file(state_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn setting_of(network: &impl Network, path: &str) -> Result<Option<String>, String> {
    network.setting(path).map_err(|error| in_full(&error))
}

fn read(state_dir: &Path) -> Result<Former, String> {
    let path = file(state_dir);
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| {
            let path = path.display();
            format!(
                "{path}: {error}; it holds the uplink's and loopback's former sysctls: mend it, or delete it to keep the present ones"
            )
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Former::new()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn write(state_dir: &Path, former: &Former) -> io::Result<()> {
    let path = file(state_dir);
    let fresh = path.with_extension("json.new");
    let mut out = fs::File::create(&fresh)?;
    out.write_all(serde_json::to_string_pretty(former)?.as_bytes())?;
    out.sync_all()?;
    fs::rename(fresh, path)
}
