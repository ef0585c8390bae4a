//! Where things are: the tree, the target folder, what is built into it; and how cargo is called so that all agree.
//! In: the environment. Out: [`Paths`], commands with the project's environment set.
//! Invariant: the target folder is outside the tree unless CARGO_TARGET_DIR says otherwise, so a fresh clone reuses it.
//! Never: writes.

use anyhow::{Context as _, Result};
use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// The places every chore needs.
pub struct Paths {
    /// The root of the tree.
    pub root: PathBuf,
    /// The target folder of every build.
    pub target: PathBuf,
    /// What is fetched once and kept, whatever is built.
    pub cache: PathBuf,
    search: OsString,
}

impl Paths {
    /// Finds the tree and the target folder.
    pub fn find() -> Result<Self> {
        let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let here = env::var_os("CARGO_MANIFEST_DIR").map_or(manifest, PathBuf::from);
        let root = here.parent().context("xtask's manifest has no parent folder")?.to_owned();
        let cache = cache_dir()?;
        Ok(Self { root, target: target_dir(&cache)?, cache, search: search_path()? })
    }

    /// The kernel programs' object: what the agent embeds and the tests load.
    pub fn object(&self) -> PathBuf {
        self.target.join("bpf/tortie.o")
    }

    /// The folders in which programs are looked for.
    pub fn search_dirs(&self) -> impl Iterator<Item = PathBuf> {
        env::split_paths(&self.search)
    }

    /// A command that runs in the tree and sees the project's target folder and cargo's own binaries.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target).env("PATH", &self.search);
        // Cargo describes the package it runs (us) to it: for what we start, that would be a lie.
        for (name, _) in env::vars_os() {
            let own = name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_"));
            if own || name == "CARGO_MANIFEST_DIR" || name == "CARGO_MANIFEST_PATH" || name == "CARGO" {
                command.env_remove(name);
            }
        }
        command
    }

    /// `cargo` with these arguments.
    pub fn cargo(&self, args: &[&str]) -> Command {
        let mut command = self.command("cargo");
        command.args(args);
        command
    }
}

fn target_dir(cache: &Path) -> Result<PathBuf> {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::path::absolute(&dir).context("CARGO_TARGET_DIR is not a path"),
        None => Ok(cache.join("target")),
    }
}

fn cache_dir() -> Result<PathBuf> {
    let caches = match env::var_os("XDG_CACHE_HOME") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => home()?.join(".cache"),
    };
    Ok(caches.join("tortie"))
}

/// The search path with cargo's bin folder in it: `cargo install` puts bpf-linker there, wherever CARGO_HOME is.
fn search_path() -> Result<OsString> {
    let cargo_home = match env::var_os("CARGO_HOME") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => home()?.join(".cargo"),
    };
    let now = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&now).chain([cargo_home.join("bin")]);
    env::join_paths(dirs).context("CARGO_HOME cannot be put on PATH")
}

fn home() -> Result<PathBuf> {
    env::var_os("HOME").map(PathBuf::from).context("HOME is not set: set it, or CARGO_TARGET_DIR and CARGO_HOME")
}
