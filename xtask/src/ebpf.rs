//! The kernel programs' build: crate `ebpf` for the BPF target, its object where agent and tests look for it.
//! In: the crate. Out: `bpf/tortie.o` in the target folder.
//! Invariant: the object is replaced whole, and only when its bytes change, so that nothing rebuilds for nothing.
//! Never: changes how crates of the host are built.

use crate::{paths::Paths, step::Console};
use anyhow::{Context as _, Result};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};
use std::{fs, path::PathBuf, process::Command};

const TARGET: &str = "bpfel-unknown-none";

/// Builds the programs and says where the object is. `log`: with log records on the packet's way.
pub fn build(paths: &Paths, console: &Console, log: bool) -> Result<PathBuf> {
    console.run("kernel programs", &mut cargo_build(paths, log))?;
    let built = target_dir(paths).join(TARGET).join("release/tortie-ebpf");
    let object = paths.object();
    install(&built, &object)?;
    Ok(object)
}

/// A folder of its own: the host's builds and this one would otherwise wait for each other's lock.
fn target_dir(paths: &Paths) -> PathBuf {
    paths.target.join("bpf/build")
}

fn cargo_build(paths: &Paths, log: bool) -> Command {
    let mut command = paths.cargo(&["build", "--package", "ebpf", "--bin", "tortie-ebpf", "--release"]);
    command.args(["--target", TARGET, "-Zbuild-std=core"]).arg("--target-dir").arg(target_dir(paths));
    if log {
        command.args(["--features", "log"]);
    }
    let arch = std::env::consts::ARCH;
    let flags = [
        "-Clinker=bpf-linker",
        // aya-ebpf's bindings follow the machine whose kernel will load the programs.
        &format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // Else copies and zeroes are calls of a loop, byte by byte.
        "-Clink-arg=--disable-expand-memcpy-in-order",
        // Instructions that kernels from 5.12 on have.
        "-Ctarget-cpu=v3",
    ];
    command
        // build-std is not stable; it works with the pinned compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTFLAGS")
        // In parts the compiler keeps what the verifier has to see as one.
        .env_remove("CARGO_INCREMENTAL")
        // bpf-linker does the link-time optimisation; the host's settings would do half of it before.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
    command
}

/// Puts `built` at `object` by rename, unless the same bytes are there.
fn install(built: &PathBuf, object: &PathBuf) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("{}: cannot be read", built.display()))?;
    let bytes = without_dwarf(&bytes).with_context(|| format!("{}: cannot be taken apart", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let fresh = object.with_extension(format!("o.{}", std::process::id()));
    fs::write(&fresh, bytes).with_context(|| format!("{}: cannot be written", fresh.display()))?;
    fs::rename(&fresh, object).with_context(|| format!("{}: cannot be replaced", object.display()))
}

/// BTF is made of DWARF, which is three quarters of the object; nobody who loads the programs reads it.
fn without_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(object)?;
    for section in &mut elf.sections {
        section.delete = [".debug_", ".rel.debug_"].iter().any(|dwarf| section.name.starts_with(dwarf.as_bytes()));
    }
    // LLVM has one table for names of symbols and of sections; the writer wants two.
    let names = elf.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    elf.delete_orphans();
    let mut left = Vec::new();
    elf.write(&mut left)?;
    Ok(left)
}
