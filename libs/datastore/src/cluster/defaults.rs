//! What calicoctl asks every cluster for, where nobody has made it: which cluster it is, and how Calico's controllers are set up.
//! In: nothing. Out: a ClusterInformation with a new name (`clusterGUID`) that says that Calico's objects may be used, as calico-node
//! makes it where it starts first (libcalico-go/lib/clientv3/client.go, ensureClusterInformation), and a KubeControllersConfiguration
//! that says what is done without one.
//! Invariant: one that is there is never changed. No version is named: calicoctl then compares none.
//! Never: makes one where its kind is not defined.

use super::{
    connection::{Unanswered, Write},
    objects::ClusterObjects,
    posting,
};
use crate::{
    ObjectError,
    census::{CONTROLLERS, DEFAULT, INFORMATION},
    fresh::uuid,
};
use kube::{Error, core::DynamicObject};
use serde_json::{Value, json};

/// There already, or no such kind.
const NEEDLESS: [u16; 2] = [409, 404];

/// What a new one says.
type Spec = fn() -> Result<Value, String>;

impl ClusterObjects {
    pub(super) fn make_what_lacks(&self) -> Result<Vec<&'static str>, ObjectError> {
        let mut made = Vec::new();
        for (kind, spec) in [(INFORMATION, information as Spec), (CONTROLLERS, controllers)] {
            if self.one_of(kind)?.is_none() && self.make(kind, spec)? {
                made.push(kind);
            }
        }
        Ok(made)
    }

    fn make(&self, kind: &str, spec: Spec) -> Result<bool, ObjectError> {
        let (api, resource) = self.api(kind)?;
        let spec = spec().map_err(|reason| self.failed((kind, DEFAULT), reason))?;
        let object = DynamicObject::new(DEFAULT, &resource).data(json!({ "spec": spec }));
        let parameters = posting();
        self.begin(Write::Default, (kind, DEFAULT))?;
        match self.connection().ask(api.create(&parameters, &object)) {
            Ok(_) => Ok(true),
            Err(Unanswered::Refused(Error::Api(status))) if NEEDLESS.contains(&status.code) => Ok(false),
            Err(unanswered) => Err(self.failed((kind, DEFAULT), unanswered.to_string())),
        }
    }
}

fn information() -> Result<Value, String> {
    Ok(json!({ "clusterGUID": uuid()?.replace('-', ""), "clusterType": "k8s,kdd", "datastoreReady": true }))
}

/// What is done without one. Nothing of host endpoints: what is said of them is done.
fn controllers() -> Result<Value, String> {
    Ok(json!({ "controllers": { "node": { "leakGracePeriod": "15m0s" } } }))
}
