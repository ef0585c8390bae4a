//! The uplink's settings: what forwarding by route asks of it, and how it gets back what it had.
//! In: the interface's name and the state directory. Out: forwarding on it, its former settings in a file.
//! Invariant: a setting is written down before it is changed, and the first value written down stays.
//! Never: a setting of `all` or `default`; router advertisements that were accepted stay accepted.

use crate::programs::in_full;
use model::IfaceName;
use netlink::sysctl::{self, SysctlError};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// What was there before: path below /proc/sys/net, and its value.
type Former = BTreeMap<String, String>;

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("sysctls.json")
}

/// Lets the uplink forward.
///
/// # Errors
/// In words: which setting or file, and why.
pub fn prepare(uplink: &IfaceName, state_dir: &Path) -> Result<(), String> {
    let mut former = read(state_dir)?;
    // The stack turns advertisements away from an interface that forwards, unless accept_ra is 2.
    let accepts = setting(&format!("ipv6/conf/{uplink}/accept_ra"))?.is_some_and(|value| value == "1");
    let wanted = [
        ("ipv6", "accept_ra", if accepts { "2" } else { "" }),
        ("ipv4", "forwarding", "1"),
        ("ipv6", "forwarding", "1"),
    ];
    for (family, name, value) in wanted {
        let path = format!("{family}/conf/{uplink}/{name}");
        let Some(found) = setting(&path)? else { continue };
        if value.is_empty() || found == value {
            continue;
        }
        former.entry(path.clone()).or_insert(found);
        write(state_dir, &former).map_err(|error| format!("{}: {error}", file(state_dir).display()))?;
        sysctl::write(&path, value).map_err(|error| in_full(&error))?;
    }
    Ok(())
}

/// Gives back what [`prepare`] changed, in the reverse of its order, since forwarding resets other settings.
///
/// # Errors
/// What could not be given back.
pub fn give_back(state_dir: &Path) -> Result<(), String> {
    let former = read(state_dir)?;
    for (path, value) in former.iter().rev() {
        // An interface that is gone took its settings with it.
        if setting(path)?.is_some() {
            sysctl::write(path, value).map_err(|error| in_full(&error))?;
        }
    }
    match fs::remove_file(file(state_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// A setting's value; `None`: there is no such setting (no IPv6, or the interface is gone).
fn setting(path: &str) -> Result<Option<String>, String> {
    match sysctl::read(path) {
        Ok(value) => Ok(Some(value)),
        Err(SysctlError::Access { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(in_full(&error)),
    }
}

fn read(state_dir: &Path) -> Result<Former, String> {
    let path = file(state_dir);
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| {
            let path = path.display();
            format!(
                "{path}: {error}; it holds the uplink's former sysctls: mend it, or delete it to keep the present ones"
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
