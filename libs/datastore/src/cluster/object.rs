//! An object as the API server says it, read in one pass, without what nobody here asks for.
//! In: JSON. Out: the parts that are read, as a manifest has them.
//! Invariant: what is left out is skipped as it comes, and never held: a pod is a tenth of what its kubelet tells.
//! Never: changes what it keeps.

use kube::{
    Resource,
    core::{ApiResource, ObjectMeta},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use std::{borrow::Cow, fmt, marker::PhantomData};

/// Which parts of an object are read. A list's items are read alike.
#[derive(Debug)]
pub(super) enum Parts {
    /// Everything.
    All,
    /// Nothing.
    None,
    /// These fields so, and all others like the last.
    Fields(&'static [(&'static str, Parts)], &'static Parts),
}

/// Who wrote which field is asked by nobody, mostly, and kubectl's copy of what was applied is the object once more.
const META: Parts = Parts::Fields(&[("managedFields", Parts::None), ("annotations", ANNOTATIONS)], &Parts::All);
const ANNOTATIONS: Parts =
    Parts::Fields(&[("kubectl.kubernetes.io/last-applied-configuration", Parts::None)], &Parts::All);

/// A kind's parts.
pub(super) trait Kind: Clone + fmt::Debug + Send + Sync + 'static {
    const PARTS: Parts;
}

/// Of most kinds everything is read.
#[derive(Clone, Debug)]
pub(super) struct Whole;

impl Kind for Whole {
    const PARTS: Parts = Parts::Fields(&[("metadata", META)], &Parts::All);
}

/// Of Services it is asked, too, who wrote what: a status that our own manager wrote is told apart from what others say.
#[derive(Clone, Debug)]
pub(super) struct Signed;

impl Kind for Signed {
    const PARTS: Parts =
        Parts::Fields(&[("metadata", Parts::Fields(&[("annotations", ANNOTATIONS)], &Parts::All))], &Parts::All);
}

/// What a pod runs is no concern of ours: there are as many pods as anything else together, and each says a lot.
#[derive(Clone, Debug)]
pub(super) struct Pod;

const CONTAINER: Parts = Parts::Fields(&[("ports", Parts::All), ("restartPolicy", Parts::All)], &Parts::None);

impl Kind for Pod {
    const PARTS: Parts = Parts::Fields(
        &[
            ("metadata", META),
            (
                "spec",
                Parts::Fields(
                    &[
                        ("nodeName", Parts::All),
                        ("serviceAccountName", Parts::All),
                        ("hostNetwork", Parts::All),
                        ("containers", CONTAINER),
                        ("initContainers", CONTAINER),
                    ],
                    &Parts::None,
                ),
            ),
            (
                "status",
                Parts::Fields(&[("phase", Parts::All), ("podIP", Parts::All), ("podIPs", Parts::All)], &Parts::None),
            ),
        ],
        &Parts::None,
    );
}

/// An object of a kind.
#[derive(Clone, Debug)]
pub(super) struct Object<K> {
    /// As a manifest has it, but for what is left out.
    pub(super) manifest: Value,
    /// What a watch asks for.
    metadata: ObjectMeta,
    kind: PhantomData<K>,
}

impl<'de, K: Kind> Deserialize<'de> for Object<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let manifest = (&const { K::PARTS }).deserialize(deserializer)?;
        let part = |name: &str| manifest["metadata"][name].as_str().map(str::to_owned);
        let (name, namespace, resource_version) = (part("name"), part("namespace"), part("resourceVersion"));
        let metadata = ObjectMeta { name, namespace, resource_version, ..ObjectMeta::default() };
        Ok(Self { manifest, metadata, kind: PhantomData })
    }
}

impl<K: Kind> Resource for Object<K> {
    type DynamicType = ApiResource;
    type Scope = kube::core::DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn api_version(of: &ApiResource) -> Cow<'_, str> {
        of.api_version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Parts {
    fn of(&self, field: &str) -> &Self {
        match self {
            Self::Fields(fields, others) => fields.iter().find(|(name, _)| *name == field).map_or(others, |(_, of)| of),
            whole => whole,
        }
    }
}

impl<'de> DeserializeSeed<'de> for &Parts {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self {
            Parts::All => Value::deserialize(deserializer),
            Parts::None => IgnoredAny::deserialize(deserializer).map(|_| Value::Null),
            Parts::Fields(..) => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for &Parts {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value of JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(kept) = map.next_key_seed(Field(self))? {
            match kept {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some((field, parts)) => drop(object.insert(field, map.next_value_seed(parts)?)),
            }
        }
        Ok(Value::Object(object))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
}

/// A field's name, which is written down only where the field is kept.
struct Field<'a>(&'a Parts);

impl<'de, 'a> DeserializeSeed<'de> for Field<'a> {
    type Value = Option<(String, &'a Parts)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Field<'a> {
    type Value = Option<(String, &'a Parts)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, field: &str) -> Result<Self::Value, E> {
        let parts = self.0.of(field);
        Ok((!matches!(parts, Parts::None)).then(|| (field.to_owned(), parts)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::{Converted, convert};
    use serde_json::json;

    /// With everything that a pod's conversion reads, in some way that is not the default.
    fn pod() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "1-2", "resourceVersion": "77", "labels": { "app": "web" },
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {
                    "cni.projectcalico.org/podIPs": "10.65.0.2/32",
                    "cni.projectcalico.org/floatingIPs": "[\"192.0.2.7\"]",
                    "kubectl.kubernetes.io/last-applied-configuration": "{}",
                },
                "managedFields": [{ "manager": "kubelet" }], "deletionTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "nodeName": "node1", "serviceAccountName": "robot", "hostNetwork": true, "volumes": [{ "name": "x" }],
                "containers": [{
                    "name": "serve", "image": "serve", "env": [{ "name": "A", "value": "b" }],
                    "ports": [{ "name": "http", "containerPort": 8080, "protocol": "UDP" }],
                }],
                "initContainers": [{
                    "name": "side", "restartPolicy": "Always", "ports": [{ "name": "side", "containerPort": 81 }],
                }],
            },
            "status": {
                "phase": "Failed", "podIP": "10.65.0.2", "podIPs": [{ "ip": "10.65.0.2" }, { "ip": "fd00::2" }],
                "conditions": [{ "type": "Ready" }], "hostIP": "192.0.2.1",
            },
        })
    }

    fn read<K: Kind>(object: &Value) -> Object<K> {
        serde_json::from_str(&object.to_string()).expect("JSON")
    }

    #[test]
    fn of_a_pod_is_read_what_its_conversion_asks_for_and_no_more() {
        let object = read::<Pod>(&pod());
        let mut manifest = object.manifest.clone();
        (manifest["apiVersion"], manifest["kind"]) = ("v1".into(), "Pod".into());
        let known = |object: &Value| match convert(object) {
            Converted::Known { resource, .. } => resource,
            other => panic!("{other:?}"),
        };
        assert_eq!(known(&manifest), known(&pod()));
        for left_out in ["/spec/volumes", "/spec/containers/0/env", "/status/conditions", "/metadata/managedFields"] {
            assert_eq!(object.manifest.pointer(left_out), None, "{left_out}");
        }
    }

    #[test]
    fn a_watch_knows_of_which_object_and_version_it_hears() {
        let Object { metadata, .. } = read::<Pod>(&pod());
        let said = (metadata.namespace.as_deref(), metadata.name.as_deref(), metadata.resource_version.as_deref());
        assert_eq!(said, (Some("shop"), Some("web"), Some("77")));
    }

    #[test]
    fn of_other_kinds_all_is_read_but_who_wrote_it_and_kubectls_copy() {
        let odd = json!({
            "spec": { "a": [1, -1, 1.5, true, null, "x", { "b": [] }] },
            "metadata": { "name": "p", "annotations": { "note": "kept" } },
        });
        let mut whole = odd.clone();
        whole["metadata"]["managedFields"] = json!([{ "manager": "x" }]);
        whole["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = "{}".into();
        assert_eq!(read::<Whole>(&whole).manifest, odd);
        let mut signed = odd;
        signed["metadata"]["managedFields"] = whole["metadata"]["managedFields"].clone();
        assert_eq!(read::<Signed>(&whole).manifest, signed);
    }

    #[test]
    fn what_is_not_of_the_shape_that_is_expected_is_kept_for_the_conversion_to_refuse() {
        let odd = json!({ "spec": ["x", 1, { "nodeName": 5, "volumes": 1 }], "status": "odd", "metadata": null });
        let expected = json!({ "spec": ["x", 1, { "nodeName": 5 }], "status": "odd", "metadata": null });
        assert_eq!(read::<Pod>(&odd).manifest, expected);
    }
}
