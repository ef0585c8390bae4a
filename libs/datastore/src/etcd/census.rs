//! Who lives, by what stands in etcd at this moment, and by the cluster that knows the pods.
//! In: names of nodes and pods. Out: those that there are.
//! Invariant: a pod lives by its endpoint or by the cluster's word; a node by its object in either.
//! Never: takes an endpoint that cannot be read for none.

use super::{layout::RESOURCES, objects::EtcdObjects};
use crate::{
    ClusterObjects, Object, ObjectError, Shared,
    census::{DEFAULT, Survey, object, resource},
};
use ipam::audit::{Census, Living};
use model::{Cidr, NamespaceName, NodeName, PodId};
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::IpAddr};

impl EtcdObjects {
    pub(super) fn census_of(&self, nodes: &BTreeSet<NodeName>, pods: &BTreeSet<PodId>) -> Result<Census, ObjectError> {
        let mut census = match self.cluster() {
            Some(cluster) => ClusterObjects::of(cluster.clone()).census(nodes, pods)?,
            None => Census::default(),
        };
        for node in nodes {
            if self.one(("Node", &node.0), &format!("{RESOURCES}nodes/{node}"))?.is_some() {
                census.nodes.insert(node.clone());
            }
        }
        let namespaces: BTreeSet<&NamespaceName> = pods.iter().map(|pod| &pod.namespace).collect();
        for namespace in namespaces {
            let what = ("WorkloadEndpoint", &*namespace.0);
            for kv in self.all(what, &format!("{RESOURCES}workloadendpoints/{namespace}/"))? {
                let read = serde_json::from_slice::<Value>(&kv.value).ok().and_then(|value| endpoint(&value));
                let (name, living) = read
                    .ok_or_else(|| self.error(what, format!("{}: cannot be read", String::from_utf8_lossy(&kv.key))))?;
                let pod = PodId::new(&namespace.0, &name);
                if pods.contains(&pod) {
                    census.saw(pod, living);
                }
            }
        }
        Ok(census)
    }

    pub(super) fn one_of(&self, kind: &str) -> Result<Option<Object>, ObjectError> {
        let what = (kind, DEFAULT);
        let Some(kv) = self.one(what, &format!("{RESOURCES}{}s/{DEFAULT}", kind.to_lowercase()))? else {
            return Ok(None);
        };
        let mut value: Value =
            serde_json::from_slice(&kv.value).map_err(|error| self.error(what, error.to_string()))?;
        Ok(Some(object(kind, Some(kv.mod_revision.to_string()), value["spec"].take())))
    }

    pub(super) fn everybody(&self) -> Result<Survey, ObjectError> {
        let mut survey = match self.cluster() {
            Some(cluster) => ClusterObjects::of(cluster.clone()).survey()?,
            None => Survey::default(),
        };
        // Where Calico's objects are in etcd, the cluster has none that count.
        survey.pools.clear();
        let place = format!("{RESOURCES}nodes/");
        for kv in self.all(("Node", ""), &place)? {
            let key = String::from_utf8_lossy(&kv.key);
            survey.census.nodes.extend(key.strip_prefix(&place).map(NodeName::from));
        }
        let what = ("WorkloadEndpoint", "");
        let place = format!("{RESOURCES}workloadendpoints/");
        for kv in self.all(what, &place)? {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            let namespace = key.strip_prefix(&place).and_then(|rest| rest.split_once('/'));
            let read = serde_json::from_slice::<Value>(&kv.value).ok().and_then(|value| endpoint(&value));
            let (Some((namespace, _)), Some((pod, living))) = (namespace, read) else {
                return Err(self.error(what, format!("{key}: cannot be read")));
            };
            survey.census.saw(PodId::new(namespace, &pod), living);
        }
        let place = format!("{RESOURCES}ippools/");
        for kv in self.all(("IPPool", ""), &place)? {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            let failed = |reason: String| self.error(("IPPool", ""), format!("{key}: {reason}"));
            let mut value: Value = serde_json::from_slice(&kv.value).map_err(|error| failed(error.to_string()))?;
            value["apiVersion"] = "projectcalico.org/v3".into();
            value["kind"] = "IPPool".into();
            // An object is named by its key, whatever it says itself.
            value["metadata"] = json!({ "name": key.strip_prefix(&place) });
            survey.hear(&resource(&value).map_err(failed)?);
        }
        Ok(survey)
    }
}

/// Its pod, and where that is with which addresses.
fn endpoint(value: &Value) -> Option<(String, Living)> {
    let spec = &value["spec"];
    let networks = spec["ipNetworks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let read = |network: &Value| Some(network.as_str()?.parse::<Cidr>().ok()?.network());
    let addresses = networks.iter().map(read).collect::<Option<Vec<IpAddr>>>()?;
    let pod = spec["pod"].as_str()?.to_owned();
    Some((pod, Living { node: spec["node"].as_str().map(NodeName::from), addresses, is_apart: false }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_says_whose_it_is_or_is_not_understood() {
        let value = json!({"spec": {"pod": "web-1", "node": "n-1", "ipNetworks": ["10.65.0.1/32", "fd00::1/128"]}});
        let (pod, living) = endpoint(&value).expect("it can be read");
        assert_eq!((&*pod, living.node), ("web-1", Some("n-1".into())));
        assert_eq!(living.addresses.len(), 2);
        for value in [json!({}), json!({"spec": {"pod": "a", "ipNetworks": ["x"]}})] {
            assert!(endpoint(&value).is_none(), "{value}");
        }
    }
}
