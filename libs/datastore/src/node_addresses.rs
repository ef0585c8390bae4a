//! Addresses by which nodes are reached: read where Calico has them, told where others look for them.
//! In: a Node's annotations, Calico's Node, or [`NodeAddresses`]. Out: [`ToldAddresses`]; the same as a shared object of a directory.
//! Invariant: what one agent tells in a directory is exactly what it has found last.
//! Never: an address in the place of what cannot be read; takes from Calico's Node what it did not find itself.

use crate::{Metadata, Object, ObjectError, Objects, convert::InvalidField};
use model::{Family, NodeAddresses, Prefixed, ToldAddresses};
use serde_json::{Map, Value, json};

pub(crate) const KIND: &str = "NodeAddresses";
pub(crate) const API_VERSION: &str = "tortie.net/v1";

/// As annotations of a Node, IPv4 first (libcalico-go/lib/backend/k8s/resources/node.go).
pub(crate) const ANNOTATIONS: [&str; 2] = ["projectcalico.org/IPv4Address", "projectcalico.org/IPv6Address"];
/// Within `spec.bgp` of Calico's Node (libcalico-go/lib/apis/v3/node.go).
pub(crate) const FIELDS: [&str; 2] = ["ipv4Address", "ipv6Address"];

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// What is said under these annotations.
pub(crate) fn read<'a>(said: impl Fn(&str) -> Option<&'a str>, unreadable: &mut Vec<InvalidField>) -> ToldAddresses {
    let mut told = ToldAddresses::default();
    for (family, name) in FAMILIES.into_iter().zip(ANNOTATIONS) {
        let Some(text) = said(name).filter(|text| !text.is_empty()) else { continue };
        let found = text.parse::<Prefixed>().map_err(|error| error.to_string());
        let is_it = |found: &Prefixed| Family::of(found.address()) == family;
        match found {
            Ok(found) if is_it(&found) => *told.of_mut(family) = Some(found),
            Ok(_) => unreadable.push(refused(name, format!("{text:?} is of the other family"))),
            Err(reason) => unreadable.push(refused(name, reason)),
        }
    }
    told
}

fn refused(name: &str, reason: String) -> InvalidField {
    let field = InvalidField::new(&format!("metadata.annotations.{name}"), reason);
    field.so("the addresses of the node's status alone count")
}

/// In a directory, whose Nodes are somebody else's to write. Nothing to tell leaves nothing there.
pub(crate) fn tell(objects: &Objects, own: &NodeAddresses) -> Result<(), ObjectError> {
    let name = own.node.to_string();
    let found = objects.get(KIND, &name)?;
    let spec = serde_json::to_value(own).unwrap_or(Value::Null);
    if own.told == ToldAddresses::default() {
        let version = found.and_then(|object| object.metadata.resource_version);
        return objects.delete(KIND, &name, version.as_deref()).map(drop);
    }
    if found.as_ref().is_some_and(|found| found.spec == spec) {
        return Ok(());
    }
    let resource_version = found.map(|object| object.metadata.resource_version.unwrap_or_else(|| "0".to_owned()));
    let metadata = Metadata { name, resource_version };
    objects.write(&Object { api_version: API_VERSION.to_owned(), kind: KIND.to_owned(), metadata, spec }).map(drop)
}

/// In the spec of Calico's Node: what was found; the rest may be somebody else's.
pub(crate) fn put(told: &ToldAddresses, spec: &mut Map<String, Value>) {
    for (family, field) in FAMILIES.into_iter().zip(FIELDS) {
        let Some(found) = told.of(family) else { continue };
        let bgp = spec.entry("bgp").or_insert_with(|| json!({}));
        if !bgp.is_object() {
            *bgp = json!({});
        }
        bgp[field] = found.to_string().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(v4: &str) -> ToldAddresses {
        ToldAddresses { v4: Some(v4.parse().expect("an address")), v6: None }
    }

    #[test]
    fn annotations_are_read_and_what_cannot_be_read_is_named() {
        let found = |said: &[(&str, &'static str)]| {
            let mut unreadable = Vec::new();
            let said: Vec<_> = said.to_vec();
            let told = read(|name| said.iter().find(|(key, _)| *key == name).map(|(_, value)| *value), &mut unreadable);
            (told, unreadable.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let (both, none) = found(&[(ANNOTATIONS[0], "192.0.2.1/24"), (ANNOTATIONS[1], "2001:db8::1/64")]);
        assert_eq!(both.all().map(|at| at.to_string()).collect::<Vec<_>>(), ["192.0.2.1/24", "2001:db8::1/64"]);
        assert!(none.is_empty());
        for text in ["here", "2001:db8::1/64", "192.0.2.1/77"] {
            let (nothing, named) = found(&[(ANNOTATIONS[0], text)]);
            assert_eq!(nothing, ToldAddresses::default(), "{text}");
            assert!(named[0].contains(ANNOTATIONS[0]) && named[0].contains("status"), "{named:?}");
        }
    }

    #[test]
    fn what_an_agent_tells_of_its_node_is_written_once_reads_back_and_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let objects = Objects::open(dir.path()).expect("a store");
        let own = NodeAddresses { node: "n1".into(), told: told("192.0.2.1/24") };
        let version = || objects.get(KIND, "n1").expect("readable").map(|found| found.metadata.resource_version);
        tell(&objects, &own).expect("told");
        let first = version();
        tell(&objects, &own).expect("told again");
        assert_eq!(version(), first);
        let (found, problems) = crate::snapshot::directory(dir.path()).expect("read");
        assert_eq!(found, [model::Resource::NodeAddresses(own.clone())]);
        assert!(problems.is_empty(), "{problems:?}");
        let nothing = NodeAddresses { told: ToldAddresses::default(), ..own };
        tell(&objects, &nothing).expect("taken back");
        tell(&objects, &nothing).expect("and again");
        assert_eq!(version(), None);
    }

    #[test]
    fn in_calicos_node_what_was_not_found_stays() {
        let Value::Object(mut spec) = json!({"bgp": {"asNumber": 64512, "ipv6Address": "2001:db8::9/64"}}) else {
            panic!("an object")
        };
        put(&told("192.0.2.1/24"), &mut spec);
        let expected = json!({"asNumber": 64512, "ipv4Address": "192.0.2.1/24", "ipv6Address": "2001:db8::9/64"});
        assert_eq!(spec["bgp"], expected);
    }
}
