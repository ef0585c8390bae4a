//! An image, packed by hand: busybox under some of its names, as an archive of an OCI layout.
//! In: a folder, the image's name. Out: a file that `ctr image import` takes.
//! Invariant: each blob is named by its own sum (OCI image specification 1.1, image layout).
//! Never: asks a registry.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

const BUSYBOX: &str = "/usr/bin/busybox";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What a container sees as its `/`: busybox under these names.
///
/// # Errors
/// busybox is not there, or a file cannot be made.
pub fn root(root: &Path, applets: &[&str]) -> Result<()> {
    for part in ["bin", "dev", "etc", "proc", "sys"] {
        fs::create_dir_all(root.join(part)).with_context(|| format!("making {part} of a root"))?;
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).context("copying busybox: run `cargo xtask setup`")?;
    applets.iter().try_for_each(|name| symlink("busybox", root.join("bin").join(name))).context("linking busybox")
}

/// Packs an image; what it runs by itself sleeps.
///
/// # Errors
/// A program is missing, or a file cannot be written.
pub fn pack(directory: &Path, name: &str, applets: &[&str]) -> Result<PathBuf> {
    let (content, layout) = (directory.join("content"), directory.join("layout"));
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).context("making an image's folder")?;
    root(&content, applets)?;
    let archive = directory.join("layer.tar");
    tar(&content, &archive)?;
    let layer = blob(&blobs, LAYER, &fs::read(&archive).context("reading a layer")?)?;
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Entrypoint": ["/bin/sleep", "infinity"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = blob(&blobs, CONFIG, config.to_string().as_bytes())?;
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
    let mut manifest = blob(&blobs, MANIFEST, manifest.to_string().as_bytes())?;
    manifest["annotations"] = json!({ "io.containerd.image.name": name });
    let write = |name: &str, text: &Value| fs::write(layout.join(name), text.to_string()).context("writing a layout");
    write("index.json", &json!({ "schemaVersion": 2, "manifests": [manifest] }))?;
    write("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?;
    let image = directory.join("image.tar");
    tar(&layout, &image)?;
    Ok(image)
}

/// Writes a blob; its descriptor.
fn blob(blobs: &Path, kind: &str, bytes: &[u8]) -> Result<Value> {
    let beside = blobs.join("new");
    fs::write(&beside, bytes).context("writing a blob")?;
    let said = Command::new("sha256sum").arg(&beside).output().context("starting sha256sum")?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let sum = said.split_whitespace().next().context("sha256sum says nothing")?;
    fs::rename(&beside, blobs.join(sum)).context("naming a blob")?;
    Ok(json!({ "mediaType": kind, "digest": format!("sha256:{sum}"), "size": bytes.len() }))
}

fn tar(directory: &Path, archive: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command.arg("--create").arg("--file").arg(archive).arg("--directory").arg(directory).arg(".");
    let output = command.output().context("starting tar")?;
    ensure!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
