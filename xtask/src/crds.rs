//! What is applied to a cluster and written by no hand: definitions of kinds, and one file with everything.
//! In: the crate that reads the kinds, and the kustomizations. Out: `deploy/crds`, `deploy/tortie.yaml`.
//! Invariant: what is written twice is the same; a test of that crate, and the house rules, say when it is old. What does not build
//! or run leaves the old definitions as they were.
//! Never: edits what people write.

use crate::{paths::Paths, sources, step::Console, tidy::deploy};
use anyhow::{Context as _, Result, anyhow};
use std::{fs, path::Path};

/// Writes all of it.
pub fn write(paths: &Paths, console: &Console) -> Result<()> {
    let (folder, beside) = (paths.root.join("deploy/crds"), paths.target.join("crds"));
    empty(&beside)?;
    let mut run = paths.cargo(&["run", "--quiet", "--package", "datastore", "--example", "crds", "--"]);
    console.run("definitions of kinds", run.arg(&beside))?;
    let mut names: Vec<_> = fs::read_dir(&beside)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    names.sort();
    empty(&folder)?;
    for name in &names {
        fs::copy(beside.join(name), folder.join(name)).with_context(|| format!("writing {}", name.display()))?;
    }
    let names: String = names.iter().map(|name| format!("  - {}\n", name.display())).collect();
    let text = format!(
        "# Written by `cargo xtask crds`.\napiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{names}"
    );
    fs::write(folder.join("kustomization.yaml"), text).context("writing the kustomization of definitions")?;
    let flat = deploy::flat(&sources::read(paths)?).map_err(|reason| anyhow!(reason))?;
    fs::write(paths.root.join(deploy::FLAT), flat).context("writing the file with everything")
}

/// Makes a folder of files, and takes away those that are there.
fn empty(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}
