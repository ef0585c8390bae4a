//! Hands the terminal over to the demo or the benches.
//! In: the built programs and the user's arguments. Out: this process becomes that program.
//! Invariant: ctrl-C reaches the program itself, which cleans up.
//! Never: returns, unless the program could not be started.

use crate::{
    build::{self, Measured, Programs},
    golang,
    paths::Paths,
    setup::is_root,
    step::Console,
};
use anyhow::{Context as _, Result, ensure};
use std::{ffi::OsString, os::unix::process::CommandExt as _, path::Path};

/// Builds, then becomes the demo.
pub fn demo(paths: &Paths, console: &Console, args: &[OsString]) -> Result<()> {
    require_root()?;
    let Programs { agent, cni, demo } = build::build(paths, console)?;
    become_program(paths, &demo, &[("--agent", &agent), ("--cni", &cni)], args)
}

/// Builds what is measured, then becomes the benches.
pub fn bench(paths: &Paths, console: &Console, args: &[OsString]) -> Result<()> {
    require_root()?;
    // Other people's programs, which some of the benches have beside ours.
    let is_served = args.iter().any(|argument| argument == "--served");
    match args.first().and_then(|bench| bench.to_str()) {
        _ if is_served => golang::control_plane(paths, console)?,
        Some("served" | "mirror") => golang::control_plane(paths, console)?,
        Some("services") => golang::kube_proxy(paths, console)?,
        _ => {}
    }
    let Measured { agent, cni, bare, bench } = build::measured(paths, console)?;
    become_program(paths, &bench, &[("--agent", &agent), ("--cni", &cni), ("--bare", &bare)], args)
}

fn require_root() -> Result<()> {
    ensure!(is_root(), "this needs root: it makes network namespaces and loads kernel programs; run it again as root");
    Ok(())
}

fn become_program(paths: &Paths, program: &Path, programs: &[(&str, &Path)], args: &[OsString]) -> Result<()> {
    let mut command = paths.command(program.to_str().context("the target folder's path is not UTF-8")?);
    for (flag, path) in programs {
        command.arg(flag).arg(path);
    }
    command.env("TORTIE_KUBERNETES", golang::kubernetes_dir(paths));
    let error = command.args(args).exec();
    Err(error).with_context(|| format!("{}: cannot be started", program.display()))
}
