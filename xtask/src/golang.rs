//! Programs in Go that the tests run: other people's, built from their modules.
//! In: a version that is pinned here. Out: a program in the cache, beside all target folders.
//! Invariant: what was built once is not built again.
//! Never: part of what Tortie is made of.

use crate::{paths::Paths, step::Console};
use anyhow::{Context as _, Result, bail};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The reference runtime's command line.
const CNITOOL: &str = "github.com/containernetworking/cni/cnitool";
const CNITOOL_VERSION: &str = "v1.3.0";
/// Kubernetes, and what is built of it.
const KUBERNETES_VERSION: &str = "v1.36.1";
const KUBE_PROXY: [(&str, &str); 1] = [("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy")];
const CONTROL_PLANE: [(&str, &str); 3] = [
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ("etcd", "go.etcd.io/etcd/server/v3"),
];
const NODE: [(&str, &str); 6] = [
    ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
    ("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
    ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
];
/// Parts of containerd that ask for headers of C.
const WITHOUT: &str = "no_btrfs,no_devmapper,no_zfs";
/// The modules that it is made of, each by its checksum. Its own `go.mod` names parts of its tree that no module has.
const KUBERNETES: [(&str, &str); 2] =
    [("go.mod", include_str!("../kubernetes/go.mod")), ("go.sum", include_str!("../kubernetes/go.sum"))];
/// What those modules ask for: the minor version of Go 1.
const GO_MINOR: u32 = 26;
/// A newer Go, as the module in which Go itself fetches its successors. Debian 12's is too old.
const TOOLCHAIN: &str = "golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64";
/// Where Go's own archive is unpacked by custom.
pub const CUSTOM: &str = "/usr/local/go/bin";

/// Where `cnitool` is, or will be.
pub fn cnitool_path(paths: &Paths) -> PathBuf {
    paths.cache.join("go").join(CNITOOL_VERSION).join("cnitool")
}

/// Builds `cnitool`, if it is not there.
pub fn cnitool(paths: &Paths, console: &Console) -> Result<()> {
    let program = cnitool_path(paths);
    let name = format!("cnitool {CNITOOL_VERSION}");
    if program.is_file() {
        console.nothing_to_do(&name);
        return Ok(());
    }
    let go = go(paths, console)?;
    let folder = program.parent().context("a program lies in a folder")?;
    let mut install = paths.command(&go.to_string_lossy());
    install.args(["install", &format!("{CNITOOL}@{CNITOOL_VERSION}")]).env("GOBIN", folder).env("CGO_ENABLED", "0");
    install.env("GOTOOLCHAIN", "local");
    console.run(&name, &mut install)?;
    Ok(())
}

/// Where Kubernetes' programs are, or will be.
pub fn kubernetes_dir(paths: &Paths) -> PathBuf {
    paths.cache.join("go").join(format!("kubernetes-{KUBERNETES_VERSION}"))
}

/// Builds `kube-proxy`, if it is not there: minutes, the first time.
pub fn kube_proxy(paths: &Paths, console: &Console) -> Result<()> {
    of_kubernetes(paths, console, &KUBE_PROXY)
}

/// Builds an API server, its store and its client, if they are not there: minutes, the first time.
pub fn control_plane(paths: &Paths, console: &Console) -> Result<()> {
    of_kubernetes(paths, console, &CONTROL_PLANE)
}

/// Builds what a whole node runs, with those who give it work, if they are not there: minutes, the first time.
pub fn whole_node(paths: &Paths, console: &Console) -> Result<()> {
    of_kubernetes(paths, console, &NODE)
}

fn of_kubernetes(paths: &Paths, console: &Console, programs: &[(&str, &str)]) -> Result<()> {
    let folder = kubernetes_dir(paths);
    for (program, package) in programs {
        let (place, name) = (folder.join(program), format!("{program}, for Kubernetes {KUBERNETES_VERSION}"));
        if place.is_file() {
            console.nothing_to_do(&name);
            continue;
        }
        let go = go(paths, console)?;
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        for (file, text) in KUBERNETES {
            fs::write(folder.join(file), text).with_context(|| format!("writing {file} into {}", folder.display()))?;
        }
        let version = format!("-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}");
        let beside = place.with_extension("new");
        let mut build = paths.command(&go.to_string_lossy());
        build
            .current_dir(&folder)
            .args(["build", "-mod=mod", "-trimpath", "-tags", WITHOUT, "-ldflags", &version, "-o"])
            .arg(&beside);
        build.arg(package).env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local");
        console.run(&name, &mut build)?;
        fs::rename(&beside, &place).with_context(|| format!("putting {} in its place", place.display()))?;
    }
    Ok(())
}

/// A Go that is new enough; an older one fetches it.
fn go(paths: &Paths, console: &Console) -> Result<PathBuf> {
    let candidates = paths.search_dirs().chain([Path::new(CUSTOM).to_owned()]).map(|dir| dir.join("go"));
    let all: Vec<_> = candidates.filter(|go| go.is_file()).collect();
    let new_enough = |go: &&PathBuf| {
        let output = paths.command(&go.to_string_lossy()).arg("version").output();
        output.is_ok_and(|output| minor_of(&String::from_utf8_lossy(&output.stdout)) >= Some(GO_MINOR))
    };
    match (all.iter().find(new_enough), all.first()) {
        (Some(go), _) => Ok(go.clone()),
        (None, Some(old)) => fetch(paths, console, old),
        (None, None) => bail!("no Go on PATH or in {CUSTOM}: install one; the tests run programs of Kubernetes"),
    }
}

fn fetch(paths: &Paths, console: &Console, old: &Path) -> Result<PathBuf> {
    let mut download = paths.command(&old.to_string_lossy());
    let said = console.run("Go toolchain", download.args(["mod", "download", "-json", TOOLCHAIN]))?;
    let folder = said.iter().find_map(|line| line.trim().strip_prefix("\"Dir\": \"")?.split('"').next());
    let folder = Path::new(folder.context("Go does not say where its toolchain is")?);
    // A module has no programs: Go marks them when it fetches a toolchain for itself.
    for part in ["bin", "pkg/tool/linux_amd64"] {
        for entry in fs::read_dir(folder.join(part)).with_context(|| format!("reading {}", folder.display()))? {
            fs::set_permissions(entry?.path(), Permissions::from_mode(0o555))?;
        }
    }
    Ok(folder.join("bin/go"))
}

/// Of what `go version` says: `go version go1.26.8 linux/amd64`.
fn minor_of(said: &str) -> Option<u32> {
    let version = said.split_whitespace().find_map(|word| word.strip_prefix("go1."))?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_version_is_read_out_of_what_it_says() {
        assert_eq!(minor_of("go version go1.26.8 linux/amd64"), Some(26));
        assert_eq!(minor_of("go version go1.21 linux/arm64"), Some(21));
        assert_eq!(minor_of("gcc (Debian) 12.2.0"), None);
    }
}
