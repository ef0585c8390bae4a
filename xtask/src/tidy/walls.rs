//! Dependencies point one way, and each foreign world has one crate that talks to it.
//! In: `cargo metadata`. Out: each edge that goes through a wall, with the wall's reason.
//! Invariant: an edge between two of our crates is allowed only if it is in the table.
//! Never: judges dev-dependencies: a test may look at both sides of a wall.

use super::{Violation, purity::PURE};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What each of our crates may depend on among ours.
const EDGES: [(&str, &[&str]); 16] = [
    ("abi", &[]),
    ("model", &[]),
    ("policy", &["model", "abi"]),
    ("service", &["model"]),
    ("ipam", &["model"]),
    ("bgp", &["model"]),
    ("calc", &["model", "policy", "service", "abi"]),
    ("netlink", &["model"]),
    ("datastore", &["model", "ipam"]),
    ("dataplane", &["abi", "model", "policy", "service", "calc", "netlink"]),
    ("cni", &["model", "netlink"]),
    (
        "agent",
        &["abi", "model", "policy", "service", "ipam", "bgp", "calc", "datastore", "netlink", "dataplane", "cni"],
    ),
    ("ebpf", &["abi"]),
    ("xtask", &[]),
    (
        "tests",
        &[
            "abi",
            "model",
            "policy",
            "service",
            "ipam",
            "bgp",
            "calc",
            "datastore",
            "netlink",
            "dataplane",
            "cni",
            "ebpf",
        ],
    ),
    ("fuzz", &["abi", "model", "policy", "service", "ipam", "calc", "datastore", "netlink", "cni", "ebpf"]),
];

/// Foreign crates that only some of ours may name. A trailing `*` stands for any end.
const OWNERS: [(&str, &[&str], &str); 7] = [
    ("aya", &["abi", "dataplane", "tests"], "programs and maps are dataplane's; abi only marks its values as plain"),
    ("aya-ebpf", &["ebpf"], "it builds only for the kernel"),
    ("netlink-packet-*", &["netlink"], "its interface changes often: one crate wraps it"),
    ("netlink-sys", &["netlink"], "one crate speaks netlink"),
    ("rtnetlink", &[], "netlink is spoken synchronously: an async one needs threads that must not change namespaces"),
    ("tonic*", &["datastore", "tests"], "only datastore speaks with etcd; a bench watches one"),
    ("kube", &["datastore", "tests"], "only datastore hears the cluster; a bench fills one"),
];

/// Foreign crates that must not be reached from some of ours, not even through others.
const UNREACHABLE: [(&[&str], &[&str], &str); 2] = [
    (
        &PURE,
        &["tokio", "kube", "tonic", "aya", "rtnetlink", "netlink-*", "rustix", "libc"],
        "pure crates decide over values: no task, no client, no kernel",
    ),
    (
        &["netlink", "cni", "ipam", "model"],
        &["tokio", "kube", "tonic", "aya"],
        "the CNI binary starts once per pod: small, and with no async runtime",
    ),
];

/// What the rules need of a package.
struct Package<'a> {
    name: &'a str,
    manifest: &'a str,
    /// Declared dependencies that are built into it, and whether each is optional.
    declared: BTreeMap<&'a str, bool>,
}

/// Checks every wall.
pub fn check(metadata: &Value) -> Result<Vec<Violation>> {
    let packages = packages(metadata)?;
    let graph = graph(metadata)?;
    let members: BTreeSet<&str> = array(metadata, "workspace_members")?.iter().filter_map(Value::as_str).collect();
    let ours: BTreeMap<&str, &Package> =
        packages.iter().filter(|(id, _)| members.contains(*id)).map(|(id, package)| (*id, package)).collect();
    let names: BTreeSet<&str> = ours.values().map(|package| package.name).collect();
    let mut reasons = Vec::new();
    for (id, package) in &ours {
        let broken = edges(package, &names).into_iter().chain(owners(package));
        let reached = unreachable(id, package, &packages, &graph);
        reasons.extend(broken.chain(reached).map(|reason| (package.manifest, reason)));
    }
    let root = metadata["workspace_root"].as_str().unwrap_or_default();
    let relative = |path: &str| path.strip_prefix(root).unwrap_or(path).trim_start_matches('/').to_owned();
    Ok(reasons.into_iter().map(|(path, reason)| Violation { path: relative(path), line: 1, reason }).collect())
}

fn edges(package: &Package, ours: &BTreeSet<&str>) -> Vec<String> {
    let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == package.name) else {
        return vec![format!("crate {} has no line in the table of dependency walls", package.name)];
    };
    let inside = package.declared.keys().filter(|name| ours.contains(*name));
    inside
        .filter(|name| !allowed.contains(name))
        .map(|name| format!("{} depends on {name}: that way data does not go (ARCHITECTURE.md)", package.name))
        .collect()
}

fn owners(package: &Package) -> Vec<String> {
    let mut reasons = Vec::new();
    for (pattern, owners, reason) in OWNERS {
        let named = package.declared.keys().filter(|name| fits(name, pattern));
        for name in named.filter(|_| !owners.contains(&package.name)) {
            reasons.push(format!("{} depends on {name}: {reason}", package.name));
        }
    }
    reasons
}

fn unreachable(
    id: &str,
    package: &Package,
    packages: &BTreeMap<&str, Package>,
    graph: &BTreeMap<&str, Vec<&str>>,
) -> Vec<String> {
    let mut reasons = Vec::new();
    for (_, patterns, reason) in UNREACHABLE.iter().filter(|(from, _, _)| from.contains(&package.name)) {
        for (reached, path) in paths(id, packages, graph) {
            if patterns.iter().any(|pattern| fits(reached, pattern)) && !own_wrapper(package.name, reached) {
                reasons.push(format!("{} reaches {reached} ({path}): {reason}", package.name));
            }
        }
    }
    reasons
}

/// `netlink` is the wrapper of the crates that others must not reach.
fn own_wrapper(package: &str, reached: &str) -> bool {
    package == "netlink" && reached.starts_with("netlink-")
}

fn fits(name: &str, pattern: &str) -> bool {
    pattern.strip_suffix('*').map_or(name == pattern, |start| name.starts_with(start))
}

/// Every package that `id` reaches through what is built into it by default, with the way there.
fn paths<'a>(
    id: &str,
    packages: &BTreeMap<&'a str, Package<'a>>,
    graph: &BTreeMap<&'a str, Vec<&'a str>>,
) -> BTreeMap<&'a str, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![(id.to_owned(), String::new())];
    while let Some((at, way)) = open.pop() {
        let Some(package) = packages.get(at.as_str()) else { continue };
        let way = if way.is_empty() { package.name.to_owned() } else { format!("{way} > {}", package.name) };
        if found.insert(package.name, way.clone()).is_some() {
            continue;
        }
        for next in graph.get(at.as_str()).into_iter().flatten() {
            let optional = packages.get(next).and_then(|next| package.declared.get(next.name)) == Some(&true);
            // The metadata unites the features of the whole workspace; ours switch nothing on for each other here.
            if !optional {
                open.push(((*next).to_owned(), way.clone()));
            }
        }
    }
    found
}

fn packages(metadata: &Value) -> Result<BTreeMap<&str, Package<'_>>> {
    let mut packages = BTreeMap::new();
    for package in array(metadata, "packages")? {
        let built_in = array(package, "dependencies")?.iter().filter(|dependency| dependency["kind"] != "dev");
        let declared = built_in.map(|dependency| Ok((text(dependency, "name")?, dependency["optional"] == true)));
        let declared = declared.collect::<Result<BTreeMap<_, _>>>()?;
        let (name, manifest) = (text(package, "name")?, text(package, "manifest_path")?);
        packages.insert(text(package, "id")?, Package { name, manifest, declared });
    }
    Ok(packages)
}

/// From each package's id to the ids of those that are built into it.
fn graph(metadata: &Value) -> Result<BTreeMap<&str, Vec<&str>>> {
    let mut graph = BTreeMap::new();
    for node in array(&metadata["resolve"], "nodes")? {
        let mut next = Vec::new();
        for dependency in array(node, "deps")? {
            if array(dependency, "dep_kinds")?.iter().any(|kind| kind["kind"].is_null()) {
                next.push(text(dependency, "pkg")?);
            }
        }
        graph.insert(text(node, "id")?, next);
    }
    Ok(graph)
}

fn array<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    value[name].as_array().with_context(|| format!("cargo metadata: no list `{name}`"))
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    value[name].as_str().with_context(|| format!("cargo metadata: no text `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A workspace of `ours`, where each edge is (from, to, optional).
    fn metadata(ours: &[&str], edges: &[(&str, &str, bool)]) -> Value {
        let names: BTreeSet<&str> = ours.iter().copied().chain(edges.iter().flat_map(|(a, b, _)| [*a, *b])).collect();
        let package = |name: &&str| {
            let list: Vec<Value> = edges
                .iter()
                .filter(|(from, _, _)| from == name)
                .map(|(_, to, optional)| json!({"name": to, "kind": null, "optional": optional}))
                .collect();
            json!({"id": name, "name": name, "manifest_path": format!("/w/{name}/Cargo.toml"), "dependencies": list})
        };
        let node = |name: &&str| {
            let list: Vec<Value> = edges
                .iter()
                .filter(|(from, _, _)| from == name)
                .map(|(_, to, _)| json!({"pkg": to, "dep_kinds": [{"kind": null}]}))
                .collect();
            json!({"id": name, "deps": list})
        };
        json!({
            "workspace_root": "/w",
            "workspace_members": ours,
            "packages": names.iter().map(package).collect::<Vec<_>>(),
            "resolve": {"nodes": names.iter().map(node).collect::<Vec<_>>()},
        })
    }

    fn found(ours: &[&str], edges: &[(&str, &str, bool)]) -> Vec<String> {
        check(&metadata(ours, edges)).expect("the metadata is whole").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn edges_of_the_table_are_free() {
        let edges = [("policy", "model", false), ("calc", "policy", false), ("agent", "calc", false)];
        assert_eq!(found(&["model", "policy", "calc", "agent"], &edges), Vec::<String>::new());
    }

    #[test]
    fn an_edge_upwards_is_refused() {
        let found = found(&["calc", "agent"], &[("calc", "agent", false)]);
        assert!(found[0].starts_with("calc/Cargo.toml:1: calc depends on agent"), "{found:?}");
    }

    #[test]
    fn datastore_and_dataplane_do_not_know_each_other() {
        assert_eq!(found(&["datastore", "dataplane"], &[("datastore", "dataplane", false)]).len(), 1);
        assert_eq!(found(&["datastore", "dataplane"], &[("dataplane", "datastore", false)]).len(), 1);
    }

    #[test]
    fn a_pure_crate_reaches_no_runtime_through_others() {
        let found = found(&["model"], &[("model", "innocent", false), ("innocent", "tokio", false)]);
        assert!(found.iter().any(|line| line.contains("model reaches tokio (model > innocent > tokio)")), "{found:?}");
    }

    #[test]
    fn a_feature_that_others_switch_on_is_not_reached() {
        let edges = [("abi", "aya", true), ("policy", "abi", false), ("aya", "libc", false)];
        assert_eq!(found(&["abi", "policy"], &edges), Vec::<String>::new());
    }

    #[test]
    fn netlink_messages_are_wrapped_by_one_crate() {
        assert_eq!(found(&["netlink"], &[("netlink", "netlink-packet-route", false)]), Vec::<String>::new());
        assert_eq!(found(&["agent"], &[("agent", "netlink-packet-route", false)]).len(), 1);
    }

    #[test]
    fn a_crate_without_a_line_in_the_table_is_refused() {
        assert!(found(&["newcomer"], &[])[0].contains("no line in the table"));
    }
}
