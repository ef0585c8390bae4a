//! Where what agents share lies in etcd: addresses as Calico keeps them (libcalico-go/lib/backend/model: block.go,
//! block_affinity.go, ipam_handle.go), the rest under keys of our own.
//! In: shared objects. Out: keys and values; and back.
//! Invariant: a key and the object under it belong to each other: what a block, an affinity or a handle is of, its key says.
//! Never: a field that Calico's own reader would take ill.

use super::settings::spelled_out;
use crate::{Metadata, Object, catalog::Reading, convert::ipam_config, objects::checked};
use model::{Cidr, IpamConfig};
use serde_json::{Map, Value, json};

pub(super) const BLOCK: &str = "IPAMBlock";
pub(super) const AFFINITY: &str = "BlockAffinity";
pub(super) const HANDLE: &str = "IPAMHandle";

/// What Calico keeps beside its addresses of how they are given out (ipam_config.go).
pub(super) const CONFIG: &str = "/calico/ipam/v2/config";

const BLOCKS: &str = "/calico/ipam/v2/assignment/";
const IPAM: &str = "/calico/ipam/v2/";
/// Before the keys of nodes' claims.
pub(super) const HOSTS: &str = "/calico/ipam/v2/host/";
const HANDLES: &str = "/calico/ipam/v2/handle/";
/// Before the keys of what agents share and Calico does not know.
const OWN: &str = "/tortie/v1/";

/// Whether Calico knows the kind.
pub(super) fn is_calicos(kind: &str) -> bool {
    [BLOCK, AFFINITY, HANDLE].contains(&kind)
}

/// What the keys of all objects of a kind begin with.
pub(super) fn prefix(kind: &str) -> String {
    match kind {
        BLOCK => BLOCKS.to_owned(),
        AFFINITY => HOSTS.to_owned(),
        HANDLE => HANDLES.to_owned(),
        kind => format!("{OWN}{kind}/"),
    }
}

/// The key of the object of this name; `None`: its name does not say enough.
pub(super) fn key_of_name(kind: &str, name: &str) -> Option<String> {
    checked(name).ok()?;
    match kind {
        BLOCK => Some(block_key(cidr_named(name)?)),
        AFFINITY => None,
        kind => Some(prefix(kind) + name),
    }
}

/// Key and value of an object.
pub(super) fn written(object: &Object) -> Result<(String, Value), String> {
    let name = &object.metadata.name;
    match &*object.kind {
        BLOCK => Ok((block_key(cidr_in(&object.spec)?), object.spec.clone())),
        AFFINITY => {
            let text = |field: &str| object.spec[field].as_str().unwrap_or_default();
            let (node, kind, cidr) = (text("node"), text("type"), cidr_in(&object.spec)?);
            let key = format!("{IPAM}{}/{}/{}", named(kind)?, named(node)?, of_cidr(cidr));
            Ok((key, json!({ "state": object.spec["state"], "deleted": text("deleted") == "true" })))
        }
        HANDLE => {
            let mut value = object.spec.clone();
            value.as_object_mut().map(|fields| fields.remove("handleID"));
            Ok((HANDLES.to_owned() + named(name)?, value))
        }
        kind => Ok((format!("{OWN}{}/{}", named(kind)?, named(name)?), object.spec.clone())),
    }
}

/// The object under a key; `None`: none of this kind.
pub(super) fn read(kind: &str, key: &str, value: &[u8], revision: i64) -> Result<Option<Object>, String> {
    let Some(place) = key.strip_prefix(&prefix(kind)) else { return Ok(None) };
    let parts: Vec<&str> = place.split('/').collect();
    let spec = || {
        let read = serde_json::from_slice::<Value>(value).map(without_nulls).map_err(|error| error.to_string())?;
        if read.is_object() { Ok(read) } else { Err("it is no object".to_owned()) }
    };
    let (api_version, name, spec) = match (kind, &parts[..]) {
        (BLOCK, [_, "block", cidr]) => (CALICO, ipam::cidr_name(cidr_of(cidr)?), block(spec()?)),
        (AFFINITY, [node, _, "block", cidr]) => {
            let (said, cidr) = (spec()?, cidr_of(cidr)?);
            let deleted = if said["deleted"] == true { "true" } else { "false" };
            let spec =
                json!({ "state": said["state"], "node": node, "type": "host", "cidr": cidr, "deleted": deleted });
            (CALICO, format!("{node}-{}", ipam::cidr_name(cidr)), spec)
        }
        (HANDLE, [handle]) => {
            let mut spec = spec()?;
            spec["handleID"] = (*handle).into();
            (CALICO, (*handle).to_owned(), spec)
        }
        (kind, [name]) if !is_calicos(kind) => ("tortie.net/v1", (*name).to_owned(), spec()?),
        _ => return Ok(None),
    };
    let metadata = Metadata { name, resource_version: Some(revision.to_string()) };
    Ok(Some(Object { api_version: api_version.to_owned(), kind: kind.to_owned(), metadata, spec }))
}

/// A node's claim on a block, as those read it who ask where packets go; `None`: the key is of no claim.
pub(super) fn claim(key: &str, value: &[u8], revision: i64) -> Option<Reading> {
    match read(AFFINITY, key, value, revision) {
        Ok(object) => Some(Reading::of_object(&manifest(&object?))),
        Err(message) => Some(Reading::of(Err(message))),
    }
}

fn manifest(object: &Object) -> Value {
    let Object { api_version, kind, metadata, spec } = object;
    json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": metadata.name }, "spec": spec })
}

/// How nodes take blocks.
pub(super) fn config(value: &[u8]) -> Result<IpamConfig, String> {
    let stored: Value = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    ipam_config(&json!({ "spec": spelled_out(&stored) })).map_err(|error| error.to_string())
}

/// As those who decide over addresses name it.
const CALICO: &str = "crd.projectcalico.org/v1";

fn named(name: &str) -> Result<&str, String> {
    checked(name).map_err(|error| error.to_string())
}

fn block_key(cidr: Cidr) -> String {
    format!("{BLOCKS}{}", of_cidr(cidr))
}

fn of_cidr(cidr: Cidr) -> String {
    let family = if cidr.is_v4() { "ipv4" } else { "ipv6" };
    format!("{family}/block/{}", cidr.to_string().replace('/', "-"))
}

fn cidr_in(spec: &Value) -> Result<Cidr, String> {
    let text = spec["cidr"].as_str().ok_or("it has no cidr")?;
    text.parse().map_err(|error| format!("cidr: {error}"))
}

/// `10.65.0.0-26`
fn cidr_of(text: &str) -> Result<Cidr, String> {
    text.replacen('-', "/", 1).parse().map_err(|error| format!("{text:?} names no block: {error}"))
}

/// `10-65-0-0-26`, `fd00-65--40-122`
fn cidr_named(name: &str) -> Option<Cidr> {
    let (address, length) = name.rsplit_once('-')?;
    let read = |separator: &str| format!("{}/{length}", address.replace('-', separator)).parse().ok();
    read(".").or_else(|| read(":"))
}

/// Older blocks say whose they are in another field.
fn block(mut spec: Value) -> Value {
    if let (None, Some(host)) = (spec["affinity"].as_str(), spec["hostAffinity"].as_str()) {
        spec["affinity"] = format!("host:{host}").into();
    }
    spec
}

/// Go writes `null` for what is empty. In a list it has a meaning of its own.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(fields.map(|(key, value)| (key, without_nulls(value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipam::{AffinityState, Block, BlockAffinity, IpamHandle};

    fn object(kind: &str, name: String, spec: Value) -> Object {
        let metadata = Metadata { name, resource_version: Some("7".into()) };
        let api_version = if is_calicos(kind) { CALICO } else { "tortie.net/v1" };
        Object { api_version: api_version.into(), kind: kind.into(), metadata, spec }
    }

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a network")
    }

    /// It lies there, and is the same when it is read again.
    fn lies_at(object: &Object, at: &str) {
        let (key, value) = written(object).expect("it can be written");
        assert_eq!(key, at);
        let again = read(&object.kind, &key, value.to_string().as_bytes(), 7).expect("it can be read");
        let same = again.map(|again| (without_nulls(again.spec), again.metadata, again.api_version));
        assert_eq!(
            same,
            Some((without_nulls(object.spec.clone()), object.metadata.clone(), object.api_version.clone()))
        );
    }

    #[test]
    fn ipam_6_blocks_affinities_and_handles_lie_where_calico_looks_for_them() {
        for (text, family, name) in
            [("10.65.3.0/26", "ipv4", "10.65.3.0-26"), ("fd00:65::40/122", "ipv6", "fd00:65::40-122")]
        {
            let cidr = cidr(text);
            let block = serde_json::to_value(Block::new(cidr, &"n1".into(), 5)).expect("JSON");
            lies_at(
                &object(BLOCK, ipam::cidr_name(cidr), block),
                &format!("/calico/ipam/v2/assignment/{family}/block/{name}"),
            );
            assert_eq!(
                key_of_name(BLOCK, &ipam::cidr_name(cidr)),
                Some(format!("/calico/ipam/v2/assignment/{family}/block/{name}"))
            );
            let mut affinity = BlockAffinity::new(&"n-1".into(), cidr, AffinityState::Pending);
            affinity.deleted = (!cidr.is_v4()).to_string();
            let spec = serde_json::to_value(&affinity).expect("JSON");
            lies_at(
                &object(AFFINITY, affinity.name(), spec),
                &format!("/calico/ipam/v2/host/n-1/{family}/block/{name}"),
            );
        }
        let handle =
            IpamHandle { handle_id: "net.c1".into(), block: [(cidr("10.65.3.0/26"), 1)].into(), deleted: false };
        let spec = serde_json::to_value(handle).expect("JSON");
        let handle = object(HANDLE, "net.c1".into(), spec);
        lies_at(&handle, "/calico/ipam/v2/handle/net.c1");
        assert_eq!(
            written(&handle).map(|(_, value)| value),
            Ok(json!({ "block": { "10.65.3.0/26": 1 }, "deleted": false }))
        );
        lies_at(&object("Lease", "a".into(), json!({ "holderIdentity": "n1" })), "/tortie/v1/Lease/a");
    }

    #[test]
    fn what_calicos_own_ipam_has_written_is_read() {
        let key = "/calico/ipam/v2/assignment/ipv4/block/10.65.3.0-30";
        let value = r#"{"cidr":"10.65.3.0/30","affinity":"host:n2","allocations":[0,null,1,null],"unallocated":[1,3],
            "attributes":[{"handle_id":"k8s-pod-network.c1","secondary":{"namespace":"shop","pod":"web"}},{"handle_id":null,"secondary":null}],
            "sequenceNumber":3,"sequenceNumberForAllocation":null,"deleted":false}"#;
        let object = read(BLOCK, key, value.as_bytes(), 7).expect("JSON").expect("a block");
        let block: Block = serde_json::from_value(object.spec).expect("a block");
        assert_eq!((block.affinity.as_deref(), block.attributes.len()), (Some("host:n2"), 2));
        let older = r#"{"cidr":"10.65.3.0/30","affinity":null,"hostAffinity":"n2","allocations":[],"unallocated":[]}"#;
        let object = read(BLOCK, key, older.as_bytes(), 7).expect("JSON").expect("a block");
        assert_eq!(object.spec["affinity"], "host:n2");
        let key = "/calico/ipam/v2/host/n2/ipv4/block/10.65.3.0-30";
        let object = read(AFFINITY, key, br#"{"state":"pendingDeletion","deleted":false}"#, 7).expect("JSON");
        let object = object.expect("an affinity");
        let affinity: BlockAffinity = serde_json::from_value(object.spec).expect("an affinity");
        assert_eq!((affinity.state, affinity.name()), (AffinityState::PendingDeletion, object.metadata.name));
    }

    #[test]
    fn a_name_leads_to_no_other_key_and_what_is_of_another_kind_is_not_read() {
        for name in ["../x", "a/b", "", ".a"] {
            assert_eq!(key_of_name("Lease", name), None, "{name:?}");
            assert!(written(&object("Lease", name.into(), json!({}))).is_err(), "{name:?}");
        }
        assert_eq!(key_of_name(BLOCK, "none"), None);
        assert_eq!(read(BLOCK, "/calico/ipam/v2/assignment/ipv4/other/10.65.3.0-26", b"{}", 7), Ok(None));
        assert!(read(BLOCK, "/calico/ipam/v2/assignment/ipv4/block/here", b"{}", 7).is_err());
        assert!(read(HANDLE, "/calico/ipam/v2/handle/a", b"no JSON", 7).is_err());
    }
}
