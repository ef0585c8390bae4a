//! Records: an object of the API server with no more in it than agents read.
//! In: an object as a watch of its kind says it. Out: a key and a value; and back.
//! Invariant: the object of a record means to an agent what the object itself means, in what is wrong with it, too.
//! Never: what changes often and is read by nobody, such as versions and times: then nothing is written.

use super::super::{
    kinds::Watched,
    noted::{NETWORK_UNAVAILABLE, NODE_V4, NODE_V6},
    object::Parts,
};
use super::RECORDS;
use crate::convert::{
    ADDRESSES, ADDRESSES_OF_NO_POOL, AWS_POD_IPS, FAMILIES, FLOATING_IPS, MAC, POD_IP, POD_IPS, POOLS, SOURCES, STICKY,
};
use crate::vtep;
use serde::de::DeserializeSeed as _;
use serde_json::{Value, json};

/// What is read of the metadata of all objects, with these annotations.
macro_rules! metadata {
    ($annotations:expr $(, $more:expr)*) => {
        Parts::Fields(
            &[
                ("labels", Parts::All),
                ("annotations", $annotations),
                ("uid", Parts::All),
                ("generation", Parts::All),
                ("creationTimestamp", Parts::All),
                ("deletionTimestamp", Parts::All),
                $($more,)*
            ],
            &Parts::None,
        )
    };
}

const META: Parts = metadata!(Parts::All);
const OWNER: Parts = Parts::Fields(&[("kind", Parts::All)], &Parts::None);
const META_OF_POD: Parts = metadata!(
    Parts::Fields(
        &[
            (POD_IP, Parts::All),
            (POD_IPS, Parts::All),
            (AWS_POD_IPS, Parts::All),
            (FLOATING_IPS, Parts::All),
            (ADDRESSES, Parts::All),
            (ADDRESSES_OF_NO_POOL, Parts::All),
            (SOURCES, Parts::All),
            (FAMILIES, Parts::All),
            (MAC, Parts::All),
            (POOLS[0], Parts::All),
            (POOLS[1], Parts::All),
            (STICKY[0], Parts::All),
            (STICKY[1], Parts::All),
        ],
        &Parts::None,
    ),
    ("ownerReferences", OWNER)
);
const META_OF_NODE: Parts = metadata!(Parts::Fields(
    &[
        (NODE_V4, Parts::All),
        (NODE_V6, Parts::All),
        (vtep::ANNOTATIONS[0][0], Parts::All),
        (vtep::ANNOTATIONS[0][1], Parts::All),
        (vtep::ANNOTATIONS[1][0], Parts::All),
        (vtep::ANNOTATIONS[1][1], Parts::All),
        (vtep::IPIP_ANNOTATION, Parts::All),
    ],
    &Parts::None,
));
/// Its status may be somebody else's.
const META_OF_SERVICE: Parts = metadata!(
    Parts::All,
    ("managedFields", Parts::Fields(&[("manager", Parts::All), ("fieldsV1", STATUS_ALONE)], &Parts::None))
);
const STATUS_ALONE: Parts = Parts::Fields(&[("f:status", Parts::All)], &Parts::None);
/// Whoever writes annotations there writes them for others, and often.
const META_ALONE: Parts = metadata!(Parts::None);

const OTHER: Parts =
    Parts::Fields(&[("apiVersion", Parts::None), ("kind", Parts::None), ("metadata", META)], &Parts::All);
const POD: Parts =
    Parts::Fields(&[("apiVersion", Parts::None), ("kind", Parts::None), ("metadata", META_OF_POD)], &Parts::All);
const SERVICE: Parts =
    Parts::Fields(&[("apiVersion", Parts::None), ("kind", Parts::None), ("metadata", META_OF_SERVICE)], &Parts::All);
const META_OF_NAMESPACE: Parts = metadata!(Parts::Fields(
    &[(POOLS[0], Parts::All), (POOLS[1], Parts::All), (STICKY[0], Parts::All), (STICKY[1], Parts::All)],
    &Parts::None
));
const NAMESPACE: Parts = Parts::Fields(&[("metadata", META_OF_NAMESPACE)], &Parts::None);
/// An account.
const LABELLED: Parts = Parts::Fields(&[("metadata", META_ALONE)], &Parts::None);
const CONDITION: Parts = Parts::Fields(&[("type", Parts::All), ("status", Parts::All)], &Parts::None);
const NODE: Parts = Parts::Fields(
    &[
        ("metadata", META_OF_NODE),
        ("spec", Parts::Fields(&[("podCIDR", Parts::All), ("podCIDRs", Parts::All)], &Parts::None)),
        (
            "status",
            Parts::Fields(
                &[
                    ("addresses", Parts::All),
                    ("conditions", CONDITION),
                    ("nodeInfo", Parts::Fields(&[("bootID", Parts::All)], &Parts::None)),
                ],
                &Parts::None,
            ),
        ),
    ],
    &Parts::None,
);
const SLICE: Parts = Parts::Fields(
    &[
        ("apiVersion", Parts::None),
        ("kind", Parts::None),
        ("metadata", META_ALONE),
        (
            "endpoints",
            Parts::Fields(
                &[
                    ("addresses", Parts::All),
                    ("conditions", Parts::All),
                    ("nodeName", Parts::All),
                    ("hints", Parts::All),
                ],
                &Parts::None,
            ),
        ),
    ],
    &Parts::All,
);

fn parts(kind: &Watched) -> &'static Parts {
    match &*kind.name() {
        "pods" => &POD,
        "nodes" => &NODE,
        "namespaces" => &NAMESPACE,
        "serviceaccounts" => &LABELLED,
        "services" => &SERVICE,
        "endpointslices.discovery.k8s.io" => &SLICE,
        _ => &OTHER,
    }
}

/// The key of an object; `None`: it has no name.
pub(super) fn key(kind: &Watched, object: &Value) -> Option<String> {
    let part = |field| object.pointer(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let name = part("/metadata/name")?;
    Some(match part("/metadata/namespace") {
        Some(namespace) => format!("{}{namespace}/{name}", prefix(kind)),
        None => format!("{}{name}", prefix(kind)),
    })
}

/// Before the keys of a kind.
pub(super) fn prefix(kind: &Watched) -> String {
    format!("{RECORDS}{}/", kind.name())
}

/// What is kept of an object.
pub(super) fn value(kind: &Watched, object: &Value) -> Vec<u8> {
    // A value of JSON is one again, whatever is left out of it.
    let mut kept = parts(kind).deserialize(object).unwrap_or_default();
    if let Some(conditions) = kept.pointer_mut("/status/conditions").and_then(Value::as_array_mut)
        && kind.name() == "nodes"
    {
        conditions.retain(|condition| condition["type"] == NETWORK_UNAVAILABLE);
    }
    kept.to_string().into_bytes()
}

/// The number of a record's kind among `kinds`, and its object, without more than a name where `value` is `None`; `None`: it is
/// of no kind that is read here.
pub(super) fn object(
    kinds: &[Watched],
    key: &str,
    value: Option<&[u8]>,
) -> Option<Result<(usize, Value), serde_json::Error>> {
    let (kind, name) = key.strip_prefix(RECORDS)?.split_once('/')?;
    let number = kinds.iter().position(|known| known.name() == kind)?;
    let (namespace, name) = name.split_once('/').map_or((None, name), |(namespace, name)| (Some(namespace), name));
    let read = value.map_or(Ok(Value::Null), serde_json::from_slice);
    let mut object: Value = match read {
        Ok(object) => object,
        Err(error) => return Some(Err(error)),
    };
    if !object.is_object() {
        object = json!({});
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let resource = &kinds[number].resource;
    object["apiVersion"] = resource.api_version.clone().into();
    object["kind"] = resource.kind.clone().into();
    object["metadata"]["name"] = name.into();
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    Some(Ok((number, object)))
}

#[cfg(test)]
mod tests;
