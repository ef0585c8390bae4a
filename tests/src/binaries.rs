//! Where the built programs are.
//! In: `TORTIE_AGENT` and `TORTIE_CNI`, else the target directory. Out: two paths that exist.
//! Invariant: a missing program is an error that names the command that builds it.
//! Never: builds anything.

use anyhow::{Result, ensure};
use std::{env, fs, path::PathBuf};

/// The programs under test.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `tortie`.
    pub agent: PathBuf,
    /// `tortie-cni`.
    pub cni: PathBuf,
}

impl Binaries {
    /// As the environment says, else as `cargo xtask build` leaves them.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn find() -> Result<Self> {
        let target = target_dir();
        let path = |variable, built: &str| env::var_os(variable).map_or_else(|| target.join(built), PathBuf::from);
        Self::at(path("TORTIE_AGENT", "debug/tortie"), path("TORTIE_CNI", "x86_64-unknown-linux-musl/cni/tortie-cni"))
    }

    /// These.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn at(agent: PathBuf, cni: PathBuf) -> Result<Self> {
        for path in [&agent, &cni] {
            ensure!(path.is_file(), "{} is not there; run `cargo xtask build` first", path.display());
        }
        Ok(Self { agent, cni })
    }
}

/// The reference runtime's command line: as `TORTIE_CNITOOL` says, else the one that the chores built.
///
/// # Errors
/// There is none.
pub fn cnitool() -> Result<PathBuf> {
    there(env::var_os("TORTIE_CNITOOL").map_or_else(|| in_go("cnitool"), PathBuf::from), "cnitool")
}

/// A program of Kubernetes, such as `kube-proxy` or `kubectl`: in the folder that `TORTIE_KUBERNETES` names, else the one that the
/// chores built.
///
/// # Errors
/// There is none.
pub fn kubernetes(program: &str) -> Result<PathBuf> {
    match env::var_os("TORTIE_KUBERNETES") {
        Some(folder) => there(PathBuf::from(folder).join(program), program),
        None => there(in_go(program), program),
    }
}

/// BIRD 2: as `TORTIE_BIRD` says, else as the chores have unpacked it.
///
/// # Errors
/// It is not there.
pub fn bird() -> Result<PathBuf> {
    let versions = || fs::read_dir(cache_dir()).into_iter().flatten().flatten();
    let is_birds = |folder: &fs::DirEntry| folder.file_name().to_string_lossy().starts_with("bird-");
    let found = || versions().filter(is_birds).map(|folder| folder.path().join("bird")).find(|path| path.is_file());
    there(env::var_os("TORTIE_BIRD").map(PathBuf::from).or_else(found).unwrap_or_default(), "bird")
}

/// Where the chores built it.
fn in_go(program: &str) -> PathBuf {
    let versions = fs::read_dir(cache_dir().join("go")).into_iter().flatten().flatten();
    versions.map(|version| version.path().join(program)).find(|path| path.is_file()).unwrap_or_default()
}

fn there(path: PathBuf, program: &str) -> Result<PathBuf> {
    ensure!(path.is_file(), "{program} is not there; `cargo xtask test` builds it");
    Ok(path)
}

/// `CARGO_TARGET_DIR`, else where the chores put it.
fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| cache_dir().join("target"), PathBuf::from)
}

fn cache_dir() -> PathBuf {
    let cache = || env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache");
    cache().unwrap_or_else(home).join("tortie")
}
