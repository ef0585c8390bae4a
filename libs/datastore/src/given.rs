//! Addresses that load balancers were given: in a directory an object beside the Service, in a cluster the Service's own status.
//! In: [`ServiceAddresses`]. Out: the shared object `ServiceAddresses NAMESPACE.SERVICE`; or a status that is applied, and read
//! back by every agent as if it were that object.
//! Invariant: an object is written only where it says something else than before; a status is read as given only where our own
//! manager wrote it: one that somebody else speaks for is his.
//! Never: touches a manifest.

use crate::{Metadata, Object, ObjectError, Shared};
use model::{ServiceAddresses, ServiceId};
use serde_json::{Value, json};
use std::net::IpAddr;

pub(crate) const KIND: &str = "ServiceAddresses";
pub(crate) const API_VERSION: &str = "tortie.net/v1";

/// Says what a service asked for and cannot have, a line each.
const CONDITION: &str = "tortie.net/AddressesGiven";
const INGRESS: &str = "/status/loadBalancer/ingress";

pub(crate) fn object_name(service: &ServiceId) -> String {
    format!("{}.{}", service.namespace, service.name)
}

/// Says what a service has.
pub(crate) fn tell(store: &dyn Shared, given: &ServiceAddresses) -> Result<(), ObjectError> {
    let name = object_name(&given.service);
    let spec = spec(given);
    let found = store.get(KIND, &name)?;
    if found.as_ref().is_some_and(|found| found.spec == spec) {
        return Ok(());
    }
    let resource_version = found.as_ref().and_then(|found| found.metadata.resource_version.clone());
    let metadata = Metadata { name, resource_version };
    let object = Object { api_version: API_VERSION.to_owned(), kind: KIND.to_owned(), metadata, spec };
    if found.is_some() { store.update(&object) } else { store.create(&object) }.map(drop)
}

fn spec(given: &ServiceAddresses) -> Value {
    serde_json::to_value(given).expect("strings and lists are always JSON")
}

/// Takes back what was said.
pub(crate) fn take_back(store: &dyn Shared, service: &ServiceId) -> Result<(), ObjectError> {
    store.delete(KIND, &object_name(service), None).map(drop)
}

/// What is applied as a Service's status; `since`: when it became so.
pub(crate) fn applied(given: &ServiceAddresses, since: &str) -> Value {
    let ingress: Vec<_> = given.addresses.iter().map(|address| json!({ "ip": address })).collect();
    let condition = json!({
        "type": CONDITION, "status": "False", "reason": "NotAsAsked", "message": given.remarks.join("\n"),
        "lastTransitionTime": since,
    });
    let conditions: Vec<_> = (!given.remarks.is_empty()).then_some(condition).into_iter().collect();
    json!({ "loadBalancer": { "ingress": ingress }, "conditions": conditions })
}

/// What `manager` gave a Service as the API server has it: taken out of its status, as an object beside it.
pub(crate) fn taken_out(service: &mut Value, manager: &str) -> Option<Value> {
    let text = |field: &str| service.pointer(field).and_then(Value::as_str).map(str::to_owned);
    let (namespace, name) = (text("/metadata/namespace")?, text("/metadata/name")?);
    if !is_applied(service, manager) {
        return None;
    }
    let id = ServiceId { namespace: namespace.as_str().into(), name };
    let ingress = service.pointer_mut(INGRESS).map(Value::take).unwrap_or_default();
    let ips = ingress.as_array().into_iter().flatten().filter_map(|ingress| ingress["ip"].as_str());
    let addresses: Vec<IpAddr> = ips.filter_map(|text| text.parse().ok()).collect();
    let conditions = service.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let own = conditions.into_iter().find(|condition| condition["type"] == CONDITION);
    let message = own.and_then(|condition| condition["message"].as_str()).unwrap_or_default();
    let remarks = message.lines().map(str::to_owned).collect();
    let metadata = json!({ "name": object_name(&id) });
    let spec = spec(&ServiceAddresses { service: id, addresses, remarks });
    Some(json!({ "apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec }))
}

/// Whether the manager has applied a load balancer's ingress, or why there is none, and nobody else has.
fn is_applied(service: &Value, manager: &str) -> bool {
    let entries = service.pointer("/metadata/managedFields").and_then(Value::as_array).into_iter().flatten();
    let of_ingress = |entry: &&Value| {
        let status = &entry["fieldsV1"]["f:status"];
        let key = format!("k:{{\"type\":\"{CONDITION}\"}}");
        !status["f:loadBalancer"]["f:ingress"].is_null() || !status["f:conditions"][key].is_null()
    };
    let managers: Vec<&str> = entries.filter(of_ingress).filter_map(|entry| entry["manager"].as_str()).collect();
    !managers.is_empty() && managers.iter().all(|own| *own == manager)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(managers: &[&str], given: &ServiceAddresses) -> Value {
        let entry = |manager: &&str| {
            json!({ "manager": manager, "operation": "Apply", "subresource": "status",
                    "fieldsV1": { "f:status": { "f:loadBalancer": { "f:ingress": {} } } } })
        };
        let fields: Vec<_> = managers.iter().map(entry).collect();
        json!({
            "metadata": { "namespace": "shop", "name": "web", "managedFields": fields },
            "status": applied(given, "2026-01-01T00:00:00Z"),
        })
    }

    fn given(remarks: &[&str]) -> ServiceAddresses {
        ServiceAddresses {
            service: ServiceId { namespace: "shop".into(), name: "web".into() },
            addresses: vec![[192, 0, 2, 7].into(), "2001:db8::7".parse().expect("an address")],
            remarks: remarks.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    #[test]
    fn what_is_applied_as_a_status_is_read_back_as_what_was_given() {
        for remarks in [&[][..], &["a", "b; c"]] {
            let mut service = service(&["tortie"], &given(remarks));
            let beside = taken_out(&mut service, "tortie").expect("it is ours");
            assert_eq!(serde_json::from_value::<ServiceAddresses>(beside["spec"].clone()).ok(), Some(given(remarks)));
            assert_eq!(
                (&beside["metadata"]["name"], service.pointer(INGRESS)),
                (&json!("shop.web"), Some(&Value::Null))
            );
        }
    }

    #[test]
    fn what_somebody_else_wrote_or_writes_too_is_his() {
        for managers in [&[][..], &["kube-controllers"], &["tortie", "cloud"]] {
            let mut service = service(managers, &given(&[]));
            assert!(taken_out(&mut service, "tortie").is_none(), "{managers:?}");
            assert!(service.pointer(INGRESS).is_some_and(Value::is_array), "it stays");
        }
    }

    #[test]
    fn a_service_that_got_nothing_and_is_told_why_is_ours_too() {
        let nothing = ServiceAddresses { addresses: vec![], ..given(&["the pool is full"]) };
        let mut service = service(&[], &nothing);
        let key = format!("k:{{\"type\":\"{CONDITION}\"}}");
        service["metadata"]["managedFields"] =
            json!([{ "manager": "tortie", "fieldsV1": { "f:status": { "f:conditions": { key: {} } } } }]);
        let beside = taken_out(&mut service, "tortie").expect("it is ours");
        assert_eq!(beside["spec"]["remarks"], json!(["the pool is full"]));
    }
}
