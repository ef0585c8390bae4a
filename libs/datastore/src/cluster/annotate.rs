//! What other nodes are told of pods, at the pods themselves: their addresses, by Calico's annotations.
//! In: pods, the node that speaks of them, their addresses. Out: the pods say so.
//! Invariant: some pods are told of at once, and waited for together; a pod that says so already is not written.
//! Never: speaks of a pod of another node, or of one that was made anew under the name.

use super::{
    connection::{Unanswered, Write},
    kinds::{self, is_absent},
    objects::{ClusterObjects, is_conflict},
    patching,
};
use crate::{
    ObjectError,
    convert::{POD_IP, POD_IPS},
};
use futures::future::join_all;
use kube::{Api, Error, api::Patch, core::DynamicObject};
use model::{NodeName, PodId};
use serde_json::{Value, json};
use std::net::IpAddr;

/// How many are under way at a time: a crowd's are not all asked within one patience.
const AT_ONCE: usize = 16;

/// A pod, the node that speaks of it, and its addresses; none: they are free again, whatever its status still says.
pub(super) type Said<'a> = (&'a PodId, &'a NodeName, &'a [IpAddr]);

impl ClusterObjects {
    /// Says it of the pods that are there.
    pub(super) fn annotate_all(&self, all: &[Said<'_>]) -> Result<(), ObjectError> {
        for some in all.chunks(AT_ONCE) {
            let asked =
                self.connection().ask(async { Ok(join_all(some.iter().map(|said| self.annotate(said))).await) });
            let refused = |(name, unanswered): (&str, _)| self.error(("Pod", name), unanswered);
            let answers = asked.map_err(|unanswered| refused((&some[0].0.name, unanswered)))?;
            for (answer, (pod, ..)) in answers.into_iter().zip(some) {
                answer.map_err(|error| refused((&pod.name, Unanswered::Refused(error))))?;
            }
        }
        Ok(())
    }

    /// One that is gone, or of another node by now, needs nothing.
    async fn annotate(&self, &(pod, node, addresses): &Said<'_>) -> Result<(), Error> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.connection().client.clone(), &pod.namespace.0, &kinds::pods());
        let Some(found) = api.get_opt(&pod.name).await? else { return Ok(()) };
        let annotations = annotations(addresses);
        let is_here = found.data.pointer("/spec/nodeName").and_then(Value::as_str) == Some(&*node.0);
        let says = |key: &str| found.metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
        let is_said = annotations.iter().all(|(key, value)| says(key).unwrap_or_default() == *value);
        if !is_here || is_said {
            return Ok(());
        }
        let annotations: serde_json::Map<_, _> =
            annotations.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect();
        // With the UID: a pod of the same name that was made meanwhile has other addresses.
        let change = json!({"metadata": {"uid": found.metadata.uid, "annotations": annotations}});
        self.connection().count(Write::Pod);
        match api.patch_status(&pod.name, &patching(), &Patch::Merge(&change)).await {
            Err(Error::Api(status)) if is_conflict(status.code) || is_absent(&status) => Ok(()),
            told => told.map(drop),
        }
    }
}

fn annotations(addresses: &[IpAddr]) -> [(&'static str, String); 2] {
    let hosts: Vec<_> = addresses.iter().map(|address| model::Cidr::host(*address).to_string()).collect();
    [(POD_IP, hosts.first().cloned().unwrap_or_default()), (POD_IPS, hosts.join(","))]
}
