//! The image of a container with all of Tortie in it, made without a container engine.
//! In: the static programs. Out: one file, an OCI image layout as a tar archive, for `ctr image import`, `podman load`, `skopeo copy`.
//! Invariant: the same programs give the same bytes; there is nothing in it but the programs.
//! Never: a registry, a base image, a daemon.
//! (OCI image specification 1.1: image-layout.md, manifest.md, config.md)

mod tar;

use crate::{build, ebpf, paths::Paths, step::Console};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{fs, path::PathBuf};
use tar::Archive;

/// Under which name it is imported.
pub const NAME: &str = "localhost/tortie";
/// As small as it has to stay.
const LARGEST: usize = 40_000_000;
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Where the image is, or will be.
pub fn path(paths: &Paths) -> PathBuf {
    paths.target.join("image/tortie.tar")
}

/// Builds the programs, then the image of them. Says where it is.
pub fn build(paths: &Paths, console: &Console) -> Result<PathBuf> {
    ebpf::build(paths, console, false)?;
    let (agent, cni) = build::shipped(paths, console)?;
    let read = |path: &PathBuf| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let image = image(&[("tortie", read(&agent)?), ("tortie-cni", read(&cni)?)], env!("CARGO_PKG_VERSION"));
    ensure!(image.len() <= LARGEST, "the image has {} bytes, which is more than {LARGEST}", image.len());
    let path = path(paths);
    let (folder, beside) = (path.parent().context("a file lies in a folder")?, path.with_extension("new"));
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    fs::write(&beside, image).with_context(|| format!("writing {}", beside.display()))?;
    fs::rename(&beside, &path).with_context(|| format!("putting {} in its place", path.display()))?;
    Ok(path)
}

/// A content by its digest.
struct Blob {
    media_type: &'static str,
    bytes: Vec<u8>,
}

impl Blob {
    fn of(media_type: &'static str, value: &Value) -> Self {
        Self { media_type, bytes: value.to_string().into_bytes() }
    }

    fn digest(&self) -> String {
        let hex: String = Sha256::digest(&self.bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest(), "size": self.bytes.len() })
    }
}

/// The layout of an image with these programs in its root; the first is what it runs.
fn image(programs: &[(&str, Vec<u8>)], version: &str) -> Vec<u8> {
    let mut root = Archive::default();
    for (name, bytes) in programs {
        root.file(name, 0o755, bytes);
    }
    let layer = Blob { media_type: LAYER, bytes: root.finish() };
    let labels = json!({
        "org.opencontainers.image.title": "Tortie",
        "org.opencontainers.image.description": "Pod networking and network policy by eBPF",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
    });
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "1970-01-01T00:00:00Z",
        "config": { "Entrypoint": [format!("/{}", programs[0].0)], "Env": ["PATH=/"], "WorkingDir": "/", "Labels": labels },
        "rootfs": { "type": "layers", "diff_ids": [layer.digest()] },
    });
    let config = Blob::of(CONFIG, &config);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(), "layers": [layer.descriptor()],
    });
    let manifest = Blob::of(MANIFEST, &manifest);
    let mut entry = manifest.descriptor();
    // containerd and Docker read the whole name, others the tag.
    entry["annotations"] = json!({
        "io.containerd.image.name": format!("{NAME}:{version}"), "org.opencontainers.image.ref.name": version,
    });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    let mut layout = Archive::default();
    layout.file("oci-layout", 0o644, json!({ "imageLayoutVersion": "1.0.0" }).to_string().as_bytes());
    layout.file("index.json", 0o644, index.to_string().as_bytes());
    layout.folder("blobs");
    layout.folder("blobs/sha256");
    for blob in [config, manifest, layer] {
        layout.file(&format!("blobs/{}", blob.digest().replace(':', "/")), 0o644, &blob.bytes);
    }
    layout.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(content: &[u8]) -> Vec<u8> {
        image(&[("tortie", content.to_vec()), ("tortie-cni", vec![7; 1000])], "1.2.3")
    }

    #[test]
    fn the_same_programs_give_the_same_bytes_and_others_others() {
        assert_eq!(made(b"a"), made(b"a"));
        assert_ne!(made(b"a"), made(b"b"));
    }

    #[test]
    fn what_is_named_is_there_under_its_digest() {
        let text = String::from_utf8_lossy(&made(b"a")).into_owned();
        let named: Vec<_> = text.match_indices("\"sha256:").map(|(at, _)| &text[at + 8..at + 72]).collect();
        assert_eq!(named.len(), 4, "the manifest, the configuration, and the layer twice");
        for digest in named {
            assert!(text.contains(&format!("blobs/sha256/{digest}")), "{digest}");
        }
        assert!(text.contains("\"io.containerd.image.name\":\"localhost/tortie:1.2.3\""));
        assert!(text.contains("\"Entrypoint\":[\"/tortie\"]"));
    }
}
