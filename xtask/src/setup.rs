//! From a machine that has only rustup, cargo, gcc, git, make and apt to one that builds and tests the project.
//! In: what is installed. Out: what was missing, installed; or the command to run by hand.
//! Invariant: a second run finds nothing to do, and needs neither a network nor root.
//! Never: touches a package, toolchain or tool that is good enough as it is.

use crate::{bird, golang, paths::Paths, step::Console};
use anyhow::{Context as _, Result, bail};
use std::{
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
};

const LINKER_VERSION: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";
const MUSL: &str = "x86_64-unknown-linux-musl";

/// A Debian package: installed where `proof` is not found.
struct Package {
    name: &'static str,
    proof: &'static str,
    reason: &'static str,
}

/// Every Debian package the project needs. `proof` is a program on the search path, or a file.
const PACKAGES: &[Package] = &[
    Package {
        name: "llvm-22-dev",
        proof: "/usr/lib/llvm-22/bin/llvm-config",
        reason: "bpf-linker is built against it",
    },
    Package { name: "g++", proof: "c++", reason: "libFuzzer is built with it" },
    Package { name: "iproute2", proof: "ip", reason: "the demo and tests look at the kernel with it" },
    Package { name: "nftables", proof: "nft", reason: "the demo and tests show that no rule is there" },
    Package { name: "iptables", proof: "iptables-save", reason: "the demo and tests show that no rule is there" },
    Package { name: "tcpdump", proof: "tcpdump", reason: "to watch the demo's packets" },
    Package { name: "bpftool", proof: "bpftool", reason: "to look into programs and maps" },
    Package { name: "valgrind", proof: "valgrind", reason: "it counts what a packet's way costs" },
    Package { name: "procps", proof: "ps", reason: "the demo shows what runs" },
    Package { name: "qemu-system-x86", proof: "qemu-system-x86_64", reason: "other kernels run in it" },
    Package {
        name: "busybox-static",
        proof: "busybox",
        reason: "other kernels boot into it, the tests' containers run it",
    },
    Package { name: "xz-utils", proof: "xz", reason: "other kernels' modules are packed with it" },
    Package {
        name: "containernetworking-plugins",
        proof: "/usr/lib/cni/host-local",
        reason: "the tests chain the reference plugins and take addresses from them",
    },
    Package { name: "golang-go", proof: "go", reason: "the tests run programs of Kubernetes" },
    Package { name: "openssl", proof: "openssl", reason: "the tests' API server signs with a key that it makes" },
    Package { name: "containerd", proof: "containerd", reason: "the tests start containers with it" },
    Package { name: "runc", proof: "runc", reason: "containerd starts containers with it" },
    Package {
        name: "libssh-gcrypt-4",
        proof: "/usr/lib/x86_64-linux-gnu/libssh-gcrypt.so.4",
        reason: "BIRD is linked with it; the tests speak BGP by BIRD",
    },
];

/// Installs what is missing.
pub fn setup(paths: &Paths, console: &Console) -> Result<()> {
    toolchain(paths, console)?;
    packages(paths, console)?;
    linker(paths, console)?;
    bird::bird(paths, console)?;
    golang::cnitool(paths, console)?;
    golang::kube_proxy(paths, console)
}

/// Whether this process may do what needs root.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

fn toolchain(paths: &Paths, console: &Console) -> Result<()> {
    let name = "Rust toolchain: rust-src, clippy, rustfmt, musl target";
    let targets = output(&mut rustup(paths, &["target", "list", "--installed"]));
    let components = output(&mut rustup(paths, &["component", "list", "--installed"]));
    let has = |wanted: &str| components.lines().any(|line| line.starts_with(wanted));
    if targets.lines().any(|line| line == MUSL) && ["rust-src", "clippy", "rustfmt"].into_iter().all(has) {
        console.nothing_to_do(name);
        return Ok(());
    }
    let mut install = rustup(paths, &["toolchain", "install", "--no-self-update"]);
    console.run(name, &mut install).context("run by hand, in the tree: rustup toolchain install --no-self-update")?;
    Ok(())
}

/// `rustup` for the toolchain of the tree: the one that runs us may be another.
fn rustup(paths: &Paths, args: &[&str]) -> Command {
    let mut command = paths.command("rustup");
    command.args(args).env_remove("RUSTUP_TOOLCHAIN");
    command
}

fn packages(paths: &Paths, console: &Console) -> Result<()> {
    let missing: Vec<&Package> = PACKAGES.iter().filter(|package| !is_there(paths, package.proof)).collect();
    if missing.is_empty() {
        console.nothing_to_do("Debian packages");
        return Ok(());
    }
    for package in &missing {
        println!("        {} is missing: {}", package.name, package.reason);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    let by_hand = format!("run by hand, as root: apt-get update && apt-get install -y {}", names.join(" "));
    if !is_root() {
        bail!("Debian packages are missing and this is not root; {by_hand}");
    }
    let hint = || format!("{by_hand} (llvm-22-dev is in the security suite of Debian 12)");
    console.run("Debian packages: lists", &mut apt(paths, &["update"])).with_context(hint)?;
    let mut install = apt(paths, &["install", "-y", "--no-install-recommends"]);
    console.run("Debian packages: install", install.args(&names)).with_context(hint)?;
    Ok(())
}

pub fn apt(paths: &Paths, args: &[&str]) -> Command {
    let mut command = paths.command("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn linker(paths: &Paths, console: &Console) -> Result<()> {
    let name = format!("bpf-linker {LINKER_VERSION}");
    if output(paths.command("bpf-linker").arg("--version")).trim() == name {
        console.nothing_to_do(&name);
        return Ok(());
    }
    let args = ["install", "bpf-linker", "--version", LINKER_VERSION, "--no-default-features", "--features", "llvm-22"];
    let mut install = paths.cargo(&args);
    install.arg("--force").arg("--target-dir").arg(paths.target.join("setup")).env("LLVM_PREFIX", LLVM);
    console
        .run(&name, &mut install)
        .with_context(|| format!("run by hand: LLVM_PREFIX={LLVM} cargo {}", args.join(" ")))?;
    Ok(())
}

/// What the command writes; nothing if it cannot be run, which counts as not installed.
fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Whether a file exists, or a program is on the search path, where Debian keeps root's programs, or where Go is put.
fn is_there(paths: &Paths, proof: &str) -> bool {
    if proof.starts_with('/') {
        return Path::new(proof).exists();
    }
    paths.search_dirs().any(|dir| dir.join(proof).is_file())
        || ["/usr/sbin", "/sbin", golang::CUSTOM].iter().any(|dir| Path::new(dir).join(proof).is_file())
}
