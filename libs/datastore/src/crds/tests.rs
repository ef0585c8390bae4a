//! Definitions as every API server must find them.
//! In: the definitions, the files under `deploy/crds`. Out: what structural schemas may not have, and what has changed since.
//! Invariant: every object keeps what is not described of it.
//! Never: a server: the tests on a real one apply the definitions and give them objects.

use super::*;
use std::{fs, path::Path};

/// Goes through a schema and all that is in it.
fn each(path: &str, schema: &Value, see: &mut impl FnMut(&str, &Value)) {
    see(path, schema);
    for key in ["items", "additionalProperties"] {
        if let Some(part) = schema.get(key) {
            each(&format!("{path}[]"), part, see);
        }
    }
    for (name, part) in schema["properties"].as_object().into_iter().flatten() {
        each(&format!("{path}.{name}"), part, see);
    }
}

fn schema(definition: &Value) -> &Value {
    &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

#[test]
fn the_files_are_what_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let listed = read("kustomization.yaml");
    let all = definitions();
    for (plural, definition) in &all {
        let name = file_name(plural);
        assert_eq!(read(&name), file_text(definition), "{name} is not current: run `cargo xtask crds`");
        assert!(listed.contains(&name), "{name} is not in the kustomization: run `cargo xtask crds`");
    }
    let files = fs::read_dir(&folder).expect("the folder is there").count();
    assert_eq!(files, all.len() + 1, "there is a file of no kind: run `cargo xtask crds`");
}

#[test]
fn an_object_keeps_what_is_not_described_and_nothing_is_filled_in() {
    for (plural, definition) in definitions() {
        each(plural, schema(&definition), &mut |path, schema| {
            let Some(fields) = schema.as_object() else { panic!("{path}: {schema} says nothing") };
            let is_own = ["metadata", "apiVersion", "kind"].iter().any(|own| path == format!("{plural}.{own}"));
            let keeps = fields.contains_key("x-kubernetes-preserve-unknown-fields")
                || fields.contains_key("additionalProperties");
            assert!(schema["type"] != "object" || keeps || is_own, "{path}");
            for foreign in ["$ref", "default", "format", "anyOf", "oneOf", "allOf", "not", "const", "title"] {
                assert!(!fields.contains_key(foreign), "{path}: {foreign}");
            }
            let has_type = ["type", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"];
            assert!(has_type.iter().any(|key| fields.contains_key(*key)), "{path}");
        });
    }
}

#[test]
fn fields_are_those_that_are_read_and_each_is_explained() {
    let all: std::collections::BTreeMap<_, _> = definitions().into_iter().collect();
    let fields = |plural: &str, pointer: &str| {
        let found = schema(&all[plural])["properties"]["spec"].pointer(pointer).cloned().unwrap_or_default();
        let properties = found["properties"].as_object().cloned().unwrap_or_default();
        properties.keys().cloned().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(fields("tiers", ""), "defaultAction order");
    assert_eq!(
        fields("globalnetworkpolicies", "/properties/ingress/items"),
        "action destination http icmp ipVersion metadata notICMP notProtocol protocol source"
    );
    assert_eq!(
        fields("networkpolicies", "/properties/egress/items/properties/destination"),
        "namespaceSelector nets notNets notPorts notSelector ports selector serviceAccounts services"
    );
    assert!(fields("stagednetworkpolicies", "").contains("stagedAction"));
    for (plural, definition) in &all {
        each(plural, &schema(definition)["properties"]["spec"], &mut |path, schema| {
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                assert!(field["description"].is_string(), "{path}.{name}: kubectl explain has nothing to say");
            }
        });
    }
}

#[test]
fn gaps_stand_in_lists_alone() {
    for (plural, definition) in definitions() {
        each(plural, schema(&definition), &mut |path, schema| {
            assert_eq!(schema.get("nullable").is_some(), path == "ipamblocks.spec.allocations[]", "{path}");
        });
    }
}
