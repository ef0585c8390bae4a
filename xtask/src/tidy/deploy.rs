//! What is applied to a cluster: one file with everything is what the kustomization of it says, and runs the image that is built.
//! In: the files under `deploy`. Out: that file's text; a violation where the committed one, or an image, is another.
//! Invariant: resources come in the order in which kustomizations name them; nothing in them is changed on the way.
//! Never: patches: a kustomization that has some cannot be flattened here.

use super::{Source, Violation};
use crate::image;

/// Everything for a cluster without Calico.
pub const FLAT: &str = "deploy/tortie.yaml";
const KUSTOMIZATION: &str = "deploy/overlays/alone/kustomization.yaml";

/// Checks that the file is current, and the images.
pub fn check(sources: &[Source]) -> Vec<Violation> {
    sources.iter().flat_map(images).chain(current(sources)).collect()
}

/// Every image is the one that [`image::build`] makes of this version.
fn images(source: &Source) -> Vec<Violation> {
    let built = format!("{}:{}", image::NAME, env!("CARGO_PKG_VERSION"));
    let lines = source.text.lines().enumerate().filter(|_| source.path.starts_with("deploy/"));
    let named = lines.filter_map(|(at, line)| {
        let line = line.trim_start();
        Some((at, line.strip_prefix("- ").unwrap_or(line).strip_prefix("image: ")?))
    });
    let others = named.filter(|(_, name)| *name != built);
    others.map(|(at, _)| source.violation(at + 1, format!("is not the image that is built: {built}"))).collect()
}

fn current(sources: &[Source]) -> Vec<Violation> {
    let (Some(committed), Some(top)) = (find(sources, FLAT), find(sources, KUSTOMIZATION)) else { return Vec::new() };
    match flat(sources) {
        Ok(text) if text == committed.text => Vec::new(),
        Ok(_) => vec![committed.violation(1, "is not what the kustomization says: run `cargo xtask crds`")],
        Err(reason) => vec![top.violation(1, reason)],
    }
}

/// The file's text.
pub fn flat(sources: &[Source]) -> Result<String, String> {
    let mut text = "# Written by `cargo xtask crds` from deploy/overlays/alone.\n".to_owned();
    append(sources, KUSTOMIZATION, &mut text)?;
    Ok(text)
}

fn append(sources: &[Source], path: &str, text: &mut String) -> Result<(), String> {
    let source = find(sources, path).ok_or_else(|| format!("{path} is named, and is not there"))?;
    let Some(folder) = path.strip_suffix("/kustomization.yaml") else {
        let body = source.text.trim_start_matches("---\n");
        text.push_str("---\n");
        text.push_str(body);
        return Ok(());
    };
    let mut lines = source.text.lines().skip_while(|line| *line != "resources:");
    lines.next().ok_or_else(|| format!("{path} names no resources"))?;
    for line in lines.filter(|line| !line.trim_start().starts_with('#')) {
        let name = line.trim_start().strip_prefix("- ").ok_or_else(|| format!("{path}: {line:?} is no resource"))?;
        let named = joined(folder, name);
        let named = if named.ends_with(".yaml") { named } else { format!("{named}/kustomization.yaml") };
        append(sources, &named, text)?;
    }
    Ok(())
}

/// A path of the tree, without the steps upwards.
fn joined(folder: &str, name: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').collect();
    for part in name.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

fn find<'a>(sources: &'a [Source], path: &str) -> Option<&'a Source> {
    sources.iter().find(|source| source.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(flat: &str, base: &str) -> Vec<Source> {
        vec![
            Source::new(KUSTOMIZATION, "kind: Kustomization\nresources:\n  # First.\n  - ../../crds\n  - ../../base\n"),
            Source::new("deploy/crds/kustomization.yaml", "resources:\n  - a.yaml\n"),
            Source::new("deploy/crds/a.yaml", "kind: A\n"),
            Source::new("deploy/base/kustomization.yaml", base),
            Source::new("deploy/base/b.yaml", "---\nkind: B\n"),
            Source::new(FLAT, flat),
        ]
    }

    #[test]
    fn resources_stand_one_after_the_other_and_a_change_of_one_is_seen() {
        let base = "resources:\n  - b.yaml\n";
        let text = flat(&tree("", base)).expect("all are there");
        assert!(text.ends_with("alone.\n---\nkind: A\n---\nkind: B\n"), "{text}");
        assert_eq!(check(&tree(&text, base)), []);
        assert_eq!(check(&tree(&text.replace("B", "C"), base)).len(), 1);
    }

    #[test]
    fn an_image_of_another_name_or_version_is_told() {
        let said = |image: &str, path: &str| check(&[Source::new(path, &format!("containers:\n  - {image}\n"))]).len();
        let built = format!("image: {}:{}", image::NAME, env!("CARGO_PKG_VERSION"));
        for (line, path, expected) in [
            (built.as_str(), "deploy/base/agent.yaml", 0),
            ("image: localhost/tortie:9.9.9", "deploy/base/agent.yaml", 1),
            ("image: localhost/tortie", "deploy/tortie.yaml", 1),
            ("name: agent\n    image: example.org/tortie:0.0.0", "deploy/remove/cleanup.yaml", 1),
            ("image: localhost/box:1", "tests/pod.yaml", 0),
            ("imagePullPolicy: IfNotPresent", "deploy/base/agent.yaml", 0),
        ] {
            assert_eq!(said(line, path), expected, "{line} in {path}");
        }
    }

    #[test]
    fn what_is_named_and_missing_and_what_would_be_patched_is_told() {
        let said = |base: &str| check(&tree("", base))[0].reason.clone();
        assert_eq!(said("resources:\n  - c.yaml\n"), "deploy/base/c.yaml is named, and is not there");
        assert!(said("resources:\n  - b.yaml\npatches:\n").contains("is no resource"));
    }
}
