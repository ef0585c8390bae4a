//! Hands the terminal over to the demo or the benches.
//! In: the built programs and the user's arguments. Out: this process becomes that program.
//! Invariant: ctrl-C reaches the program itself, which cleans up.
//! Never: returns, unless the program could not be started.

use crate::{
    build::{self, Programs},
    paths::Paths,
    setup::is_root,
    step::Console,
};
use anyhow::{Context as _, Result, ensure};
use std::{ffi::OsString, os::unix::process::CommandExt as _, path::Path};

/// Builds, then becomes the demo.
pub fn demo(paths: &Paths, console: &Console, args: &[OsString]) -> Result<()> {
    become_program(paths, console, args, |programs| &programs.demo)
}

/// Builds, then becomes the benches.
pub fn bench(paths: &Paths, console: &Console, args: &[OsString]) -> Result<()> {
    become_program(paths, console, args, |programs| &programs.bench)
}

fn become_program(paths: &Paths, console: &Console, args: &[OsString], which: fn(&Programs) -> &Path) -> Result<()> {
    ensure!(is_root(), "this needs root: it makes network namespaces and loads kernel programs; run it again as root");
    let programs = build::build(paths, console)?;
    let program = which(&programs);
    let mut command = paths.command(program.to_str().context("the target folder's path is not UTF-8")?);
    command.arg("--agent").arg(&programs.agent).arg("--cni").arg(&programs.cni).args(args);
    let error = command.exec();
    Err(error).with_context(|| format!("{}: cannot be started", program.display()))
}
