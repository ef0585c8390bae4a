//! Pod.
//! In: a `v1` Pod. Out: [`model::Pod`] (anchored in libcalico-go/lib/backend/k8s/conversion/conversion.go).
//! Invariant: addresses come from the status, else from the annotations of the CNI (NP-61).
//! Never: a port without a name; a port of an init container that ends (NP-72).

use super::{
    InvalidField, asks,
    field::{Meta, read},
    floating,
};
use model::{Cidr, NamedPort, Pod, PodId, Protocol};
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;

/// Annotations of a pod by which Calico's agents know its addresses (libcalico-go/lib/backend/k8s/conversion/constants.go).
pub(crate) const POD_IPS: &str = "cni.projectcalico.org/podIPs";
pub(crate) const POD_IP: &str = "cni.projectcalico.org/podIP";
pub(crate) const AWS_POD_IPS: &str = "vpc.amazonaws.com/pod-ips";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    service_account_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    ports: Option<Vec<Port>>,
    restart_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: Option<String>,
    container_port: u16,
    protocol: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: Option<String>,
}

pub(super) fn convert(meta: &Meta, object: &Value, unreadable: &mut Vec<InvalidField>) -> Result<Pod, InvalidField> {
    let spec: Spec = read("spec", object)?;
    let status: Status = read("status", object)?;
    Ok(Pod {
        id: PodId { namespace: meta.namespace(), name: meta.name.as_str().into() },
        labels: meta.labels(),
        service_account: Some(account(&spec).into()),
        addresses: addresses(meta, &status)?,
        finished: finished(meta, &status),
        host_network: spec.host_network.unwrap_or(false),
        node: spec.node_name.as_ref().filter(|name| !name.is_empty()).map(|name| name.as_str().into()),
        ports: ports(spec)?,
        floating: floating::convert(meta, object, unreadable),
        profiles: None,
        container: None,
        asks: asks::of_pod(meta, unreadable),
    })
}

/// As the API server fills it in.
fn account(spec: &Spec) -> &str {
    let given = spec.service_account_name.as_deref().filter(|name| !name.is_empty());
    given.unwrap_or("default")
}

/// NP-60. A deletion timestamp alone is not the end: the pod is still running (NP-59).
fn finished(meta: &Meta, status: &Status) -> bool {
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let released = [POD_IP, AWS_POD_IPS].iter().any(|key| meta.annotation(key) == Some(""));
    ended || meta.deletion_timestamp.is_some() && released
}

fn addresses(meta: &Meta, status: &Status) -> Result<Box<[IpAddr]>, InvalidField> {
    let listed: Vec<&str> = status.pod_ips.iter().flatten().filter_map(|entry| entry.ip.as_deref()).collect();
    let single = || status.pod_ip.as_deref().filter(|ip| !ip.is_empty());
    let (path, texts) = if !listed.is_empty() {
        ("status.podIPs".to_owned(), listed)
    } else if let Some(ip) = single() {
        ("status.podIP".to_owned(), vec![ip])
    } else {
        let annotated = [POD_IPS, POD_IP, AWS_POD_IPS].iter().find_map(|key| Some((key, meta.annotation(key)?)));
        let Some((key, list)) = annotated else { return Ok([].into()) };
        (format!("metadata.annotations[{key}]"), list.split(',').filter(|text| !text.is_empty()).collect())
    };
    texts.into_iter().map(|text| address(text.trim()).ok_or_else(|| not_an_address(&path, text))).collect()
}

fn not_an_address(path: &str, text: &str) -> InvalidField {
    InvalidField::new(path, format!("{text:?} is not an address such as 10.65.0.2 or 10.65.0.2/32"))
}

/// With or without a prefix length; one that leaves host bits open is no pod's address.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    match text.parse::<Cidr>() {
        Ok(cidr) if Cidr::host(cidr.network()) == cidr => Some(cidr.network()),
        _ => None,
    }
}

fn ports(spec: Spec) -> Result<Box<[NamedPort]>, InvalidField> {
    let sidecar = |container: &Container| container.restart_policy.as_deref() == Some("Always");
    let inits = spec.init_containers.unwrap_or_default().into_iter().filter(sidecar);
    let mut named = Vec::new();
    for port in spec.containers.unwrap_or_default().into_iter().chain(inits).flat_map(|c| c.ports.unwrap_or_default()) {
        let Some(name) = port.name.filter(|name| !name.is_empty()) else { continue };
        let path = format!("spec.containers: port {name}");
        let protocol: Protocol = port
            .protocol
            .map_or(Ok(Protocol::TCP), |text| text.parse())
            .map_err(|error| InvalidField::new(&path, error))?;
        if port.container_port == 0 {
            return Err(InvalidField::new(&path, "containerPort must be 1 to 65535"));
        }
        named.push(NamedPort { name: name.into(), protocol, port: port.container_port });
    }
    Ok(named.into())
}
