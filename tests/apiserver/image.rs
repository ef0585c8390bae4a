//! The image that is shipped: taken apart by other people's tools, and run.
//! In: the file that `cargo xtask image` makes. Out: what is in it, by whose digest, and what it says.
//! Invariant: nothing of this machine is within reach of what runs out of it.
//! Never: a registry.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The image.
pub fn path() -> Result<PathBuf> {
    env::var_os("TORTIE_IMAGE")
        .map(PathBuf::from)
        .context("TORTIE_IMAGE names no image: run `cargo xtask test apiserver`")
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("starting {program}"))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{program} {arguments:?}: {} {}", out.trim(), err.trim());
    Ok(out.into_owned())
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

/// An image, unpacked.
pub struct Unpacked {
    /// Its configuration.
    pub config: Value,
    /// What a container sees as its `/`.
    pub root: PathBuf,
}

/// Unpacks the image into this folder, and holds everything against its digest.
pub fn unpack(folder: &Path) -> Result<Unpacked> {
    let (layout, root) = (folder.join("layout"), folder.join("rootfs"));
    [&layout, &root].iter().try_for_each(fs::create_dir_all).context("making folders")?;
    let image = path()?;
    run("tar", &["-xf", &image.display().to_string(), "-C", &layout.display().to_string()])?;
    let index = read(&layout.join("index.json"))?;
    let blob = |descriptor: &Value| -> Result<PathBuf> {
        let digest = descriptor["digest"].as_str().and_then(|text| text.strip_prefix("sha256:")).context("a digest")?;
        let path = layout.join("blobs/sha256").join(digest);
        let sum = run("sha256sum", &[&path.display().to_string()])?;
        ensure!(sum.starts_with(digest), "{} has the sum {sum}", path.display());
        ensure!(descriptor["size"].as_u64() == Some(fs::metadata(&path)?.len()), "{descriptor} is of another size");
        Ok(path)
    };
    let manifest = read(&blob(&index["manifests"][0])?)?;
    let config = read(&blob(&manifest["config"])?)?;
    let layer = blob(&manifest["layers"][0])?;
    ensure!(config["rootfs"]["diff_ids"][0] == manifest["layers"][0]["digest"], "{config} has another layer");
    run("tar", &["-xf", &layer.display().to_string(), "-C", &root.display().to_string()])?;
    Ok(Unpacked { config, root })
}

#[test]
fn the_image_is_whole_and_runs_with_nothing_beside_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Unpacked { config, root } = unpack(folder.path())?;
    let mut names: Vec<_> = fs::read_dir(&root)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    names.sort();
    ensure!(names == ["tortie", "tortie-cni"], "{names:?}");
    ensure!(config["config"]["Entrypoint"] == serde_json::json!(["/tortie"]), "{config}");
    ensure!(config["config"]["Labels"]["org.opencontainers.image.version"].is_string(), "{config}");
    // No library, no shell, no file of this machine.
    let said = run("chroot", &[&root.display().to_string(), "/tortie", "version"])?;
    ensure!(said.starts_with("tortie "), "{said}");
    Ok(())
}
