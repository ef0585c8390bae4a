//! Definitions of kinds for a cluster, written from the types by which the kinds are read.
//! In: the crate that reads them. Out: `deploy/crds`, with a kustomization.
//! Invariant: what is written twice is the same; a test of that crate says when it is old.
//! Never: edits what people write.

use crate::{paths::Paths, step::Console};
use anyhow::{Context as _, Result};
use std::fs;

/// Writes all of it.
pub fn write(paths: &Paths, console: &Console) -> Result<()> {
    let folder = paths.root.join("deploy/crds");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        fs::remove_file(entry?.path()).context("removing a definition")?;
    }
    let mut run = paths.cargo(&["run", "--quiet", "--package", "datastore", "--example", "crds", "--"]);
    console.run("definitions of kinds", run.arg(&folder))?;
    let mut names: Vec<_> = fs::read_dir(&folder)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    names.sort();
    let names: String = names.iter().map(|name| format!("  - {}\n", name.display())).collect();
    let text = format!(
        "# Written by `cargo xtask crds`.\napiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{names}"
    );
    fs::write(folder.join("kustomization.yaml"), text).context("writing the kustomization of definitions")
}
