//! Addresses that load balancers were given: what the Service's status would say, in an object beside it.
//! In: [`ServiceAddresses`]. Out: the shared object `ServiceAddresses NAMESPACE.SERVICE`, read back by every agent.
//! Invariant: written only where it says something else than before, over the version that was read.
//! Never: touches a manifest.

use crate::{Metadata, Object, ObjectError, Shared};
use model::{ServiceAddresses, ServiceId};

pub(crate) const KIND: &str = "ServiceAddresses";
pub(crate) const API_VERSION: &str = "tortie.net/v1";

pub(crate) fn object_name(service: &ServiceId) -> String {
    format!("{}.{}", service.namespace, service.name)
}

/// Says what a service has.
///
/// # Errors
/// The store refuses, or somebody else was first.
pub fn tell(store: &dyn Shared, given: &ServiceAddresses) -> Result<(), ObjectError> {
    let name = object_name(&given.service);
    let spec = serde_json::to_value(given).expect("strings and lists are always JSON");
    let found = store.get(KIND, &name)?;
    if found.as_ref().is_some_and(|found| found.spec == spec) {
        return Ok(());
    }
    let resource_version = found.as_ref().and_then(|found| found.metadata.resource_version.clone());
    let metadata = Metadata { name, resource_version };
    let object = Object { api_version: API_VERSION.to_owned(), kind: KIND.to_owned(), metadata, spec };
    if found.is_some() { store.update(&object) } else { store.create(&object) }.map(drop)
}

/// Takes back what was said.
///
/// # Errors
/// The store refuses.
pub fn take_back(store: &dyn Shared, service: &ServiceId) -> Result<(), ObjectError> {
    store.delete(KIND, &object_name(service), None).map(drop)
}

/// All services of which something is said.
///
/// # Errors
/// The store cannot be asked.
pub fn told(store: &dyn Shared) -> Result<Vec<ServiceId>, ObjectError> {
    let id = |object: Object| {
        let (namespace, name) = object.metadata.name.split_once('.')?;
        Some(ServiceId { namespace: namespace.into(), name: name.to_owned() })
    };
    Ok(store.list(KIND)?.into_iter().filter_map(id).collect())
}
