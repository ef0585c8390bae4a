//! A pod's endpoint as Calico's plugin writes it (cni-plugin/pkg/k8s/k8s.go, libcalico-go/lib/names/workloadendpoint.go).
//! In: what an agent tells of a pod, and what stands there. Out: what is to stand there.
//! Invariant: what others keep in it stays: labels, ports and what is not known here.
//! Never: a write that changes nothing.

use super::layout::RESOURCES;
use crate::{calendar::rfc3339, fresh::uuid};
use model::{
    Attachment, Cidr, NamedPort, NodeName, Pod, PodId, Profile, WorkloadAddress,
    label::{KUBERNETES, NAMESPACE, ORCHESTRATOR, SERVICE_ACCOUNT},
};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) const KIND: &str = "WorkloadEndpoint";

/// Where the endpoint of a pod's first interface lies.
pub(super) fn key(address: &WorkloadAddress, attachment: &Attachment) -> String {
    prefix(&address.pod, &address.node) + &doubled(&attachment.id.interface)
}

/// What the keys of a pod's endpoints on a node begin with.
pub(super) fn prefix(pod: &PodId, node: &NodeName) -> String {
    let (namespace, node, name) = (&pod.namespace, doubled(&node.0), doubled(&pod.name));
    format!("{RESOURCES}workloadendpoints/{namespace}/{node}-{KUBERNETES}-{name}-")
}

/// A dash joins the parts of a name.
fn doubled(part: &str) -> String {
    part.replace('-', "--")
}

/// Whether an endpoint is this pod's on this node.
pub(super) fn is_of(value: &[u8], pod: &PodId, node: &NodeName) -> bool {
    let object: Value = serde_json::from_slice(value).unwrap_or_default();
    object["spec"]["pod"] == *pod.name && object["spec"]["node"] == *node.0
}

/// Whether what stands there was written of this container: then the labels that others keep there are this pod's.
pub(super) fn is_of_container(before: Option<&[u8]>, attachment: &Attachment) -> bool {
    let object: Option<Value> = before.and_then(|value| serde_json::from_slice(value).ok());
    object.is_some_and(|object| object["spec"]["containerID"] == *attachment.id.container)
}

/// What is to stand there instead of what does; `None`: it says that already.
pub(super) fn endpoint(before: Option<&[u8]>, address: &WorkloadAddress, attachment: &Attachment) -> Option<Value> {
    let known: Option<Value> = before.and_then(|value| serde_json::from_slice(value).ok()).filter(Value::is_object);
    // Of an earlier container of this name nothing is this pod's.
    let ours = known.clone().filter(|_| is_of_container(before, attachment));
    let mut now = ours.unwrap_or_else(|| fresh(address, attachment));
    let networks: Vec<_> = address.addresses.iter().map(|address| Cidr::host(*address).to_string()).collect();
    for part in ["metadata", "spec"] {
        if !now[part].is_object() {
            now[part] = fresh(address, attachment)[part].take();
        }
    }
    let spec = &mut now["spec"];
    spec["orchestrator"] = KUBERNETES.into();
    spec["node"] = (*address.node.0).into();
    spec["pod"] = (*address.pod.name).into();
    spec["endpoint"] = attachment.id.interface.as_str().into();
    spec["containerID"] = attachment.id.container.as_str().into();
    spec["interfaceName"] = attachment.host_interface.0.as_str().into();
    spec["mac"] = attachment.mac.to_string().into();
    spec["ipNetworks"] = networks.into();
    if spec["profiles"].as_array().is_none_or(Vec::is_empty) {
        spec["profiles"] = json!([Profile::of_namespace(&address.pod.namespace)]);
    }
    (known.as_ref() != Some(&now)).then_some(now)
}

/// What the cluster says of the pod, in its endpoint, as Calico's plugin has it there. `stem`: what its name was generated of.
pub(super) fn describe(endpoint: &mut Value, pod: &Pod, stem: Option<&str>) {
    let namespace = &*pod.id.namespace.0;
    let account = pod.service_account.as_deref();
    let own =
        [Some((NAMESPACE, namespace)), Some((ORCHESTRATOR, KUBERNETES)), account.map(|name| (SERVICE_ACCOUNT, name))];
    endpoint["metadata"]["labels"] = json!(pod.labels.with(own.into_iter().flatten()));
    if let Some(stem) = stem {
        endpoint["metadata"]["generateName"] = stem.into();
    }
    let profiles = [
        Some(Profile::of_namespace(&pod.id.namespace)),
        account.map(|name| Profile::of_account(&pod.id.namespace, name)),
    ];
    let spec = &mut endpoint["spec"];
    spec["profiles"] = profiles.into_iter().flatten().collect();
    if let Some(account) = account {
        spec["serviceAccountName"] = account.into();
    }
    let sources = pod.asks.as_ref().map(|asks| &asks.sources).filter(|sources| !sources.is_empty());
    match sources {
        Some(sources) => spec["allowSpoofedSourcePrefixes"] = sources.iter().map(ToString::to_string).collect(),
        None => drop(spec.as_object_mut().map(|spec| spec.remove("allowSpoofedSourcePrefixes"))),
    }
    let port =
        |port: &NamedPort| json!({ "name": port.name, "protocol": port.protocol.to_string(), "port": port.port });
    if !pod.ports.is_empty() {
        spec["ports"] = pod.ports.iter().map(port).collect();
    }
}

fn fresh(address: &WorkloadAddress, attachment: &Attachment) -> Value {
    let own = [(NAMESPACE, &*address.pod.namespace.0), (ORCHESTRATOR, KUBERNETES)];
    let name = key(address, attachment);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "kind": KIND, "apiVersion": "projectcalico.org/v3",
        "metadata": {
            "name": name.rsplit('/').next(), "namespace": address.pod.namespace, "uid": uuid().ok(),
            "creationTimestamp": rfc3339(now), "labels": address.labels.with(own),
        },
        "spec": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{AttachmentId, IfaceName, Labels, Mac};

    fn told() -> (WorkloadAddress, Attachment) {
        let pod = PodId::new("shop", "web-0");
        let address = WorkloadAddress {
            pod: pod.clone(),
            node: "n-1".into(),
            addresses: vec!["10.65.0.2".parse().expect("an address"), "fd00:65::2".parse().expect("an address")],
            labels: Labels::from([("app", "web")]),
        };
        let attachment = Attachment {
            id: AttachmentId { network: "net".into(), container: "c1".into(), interface: "eth0".into() },
            pod,
            host_interface: IfaceName("cali1".into()),
            mac: Mac([10, 0, 0, 0, 0, 1]),
            addresses: address.addresses.clone(),
            mtu: 1500,
            labels: Labels::new(),
            delegated: false,
            host_ports: Vec::new(),
            floating_ips: false,
            named: false,
            committed: true,
        };
        (address, attachment)
    }

    #[test]
    fn calc_1_an_endpoint_is_what_calicos_plugin_would_write_under_a_name_whose_dashes_are_doubled() {
        let (address, attachment) = told();
        let name = "n--1-k8s-web--0-eth0";
        assert_eq!(key(&address, &attachment), format!("{RESOURCES}workloadendpoints/shop/{name}"));
        let written = endpoint(None, &address, &attachment).expect("there is none");
        assert_eq!((&written["metadata"]["name"], &written["metadata"]["namespace"]), (&json!(name), &json!("shop")));
        assert!(written["metadata"]["uid"].is_string() && written["metadata"]["creationTimestamp"].is_string());
        assert_eq!(
            written["metadata"]["labels"],
            json!({ "app": "web", "projectcalico.org/namespace": "shop", "projectcalico.org/orchestrator": "k8s" })
        );
        assert_eq!(
            written["spec"],
            json!({
                "orchestrator": "k8s", "node": "n-1", "pod": "web-0", "endpoint": "eth0", "containerID": "c1",
                "interfaceName": "cali1", "mac": "0a:00:00:00:00:01", "ipNetworks": ["10.65.0.2/32", "fd00:65::2/128"],
                "profiles": ["kns.shop"],
            })
        );
    }

    #[test]
    fn calc_6_calc_27_ports_account_stem_and_labels_of_a_pod_are_in_its_endpoint_and_come_back_as_the_pod() {
        let (address, attachment) = told();
        let port = NamedPort { name: "http".into(), protocol: model::Protocol::TCP, port: 80 };
        let pod = Pod {
            labels: Labels::from([("app", "web")]),
            service_account: Some("clerk".into()),
            addresses: address.addresses.clone().into(),
            ports: [port].into(),
            container: Some("c1".into()),
            asks: Some(Box::new(model::PodAsks {
                sources: vec!["198.51.100.0/24".parse().expect("a network")],
                ..model::PodAsks::default()
            })),
            ..Pod::bare(address.pod.clone(), Some(address.node.clone()))
        };
        let mut endpoint = endpoint(None, &address, &attachment).expect("there is none");
        describe(&mut endpoint, &pod, Some("web-"));
        assert_eq!(endpoint["metadata"]["generateName"], "web-");
        assert_eq!(endpoint["spec"]["serviceAccountName"], "clerk");
        assert_eq!(endpoint["spec"]["ports"], json!([{ "name": "http", "protocol": "TCP", "port": 80 }]));
        match crate::convert::convert(&endpoint) {
            crate::convert::Converted::Known { resource: model::Resource::Pod(read), unreadable } => {
                assert_eq!((&*read, &unreadable[..]), (&pod, &[][..]));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_others_keep_in_it_stays_and_what_it_says_already_is_not_written() {
        let (mut address, attachment) = told();
        let mut stands = endpoint(None, &address, &attachment).expect("there is none");
        stands["metadata"]["labels"]["app"] = "shop".into();
        stands["spec"]["ports"] = json!([{ "name": "http", "protocol": "TCP", "port": 80 }]);
        stands["spec"]["profiles"] = json!(["kns.shop", "ksa.shop.clerk"]);
        let text = stands.to_string();
        assert_eq!(endpoint(Some(text.as_bytes()), &address, &attachment), None);
        address.addresses.pop();
        let written = endpoint(Some(text.as_bytes()), &address, &attachment).expect("it has one address less");
        stands["spec"]["ipNetworks"] = json!(["10.65.0.2/32"]);
        assert_eq!(written, stands);
        assert!(is_of(text.as_bytes(), &address.pod, &address.node));
        assert!(!is_of(text.as_bytes(), &address.pod, &"n2".into()));
        assert!(is_of_container(Some(text.as_bytes()), &attachment) && !is_of_container(None, &attachment));
        assert!(endpoint(Some(b"no JSON"), &address, &attachment).is_some());
    }

    #[test]
    fn nothing_that_stands_there_ends_the_agent() {
        let (address, attachment) = told();
        let pod = Pod::bare(address.pod.clone(), Some(address.node.clone()));
        for stands in [r#"{"metadata": "x", "spec": {"containerID": "c1"}}"#, "[]", r#""x""#, r#"{"spec": 7}"#] {
            let mut written = endpoint(Some(stands.as_bytes()), &address, &attachment).expect("it says something else");
            describe(&mut written, &pod, None);
            assert!(written["metadata"]["name"].is_string(), "{stands}: {written}");
        }
    }

    #[test]
    fn of_an_earlier_container_nothing_stays() {
        let (address, mut attachment) = told();
        let mut stands = endpoint(None, &address, &attachment).expect("there is none");
        stands["metadata"]["labels"]["role"] = "client".into();
        attachment.id.container = "c2".into();
        let written =
            endpoint(Some(stands.to_string().as_bytes()), &address, &attachment).expect("another container's");
        assert_eq!(written["metadata"]["labels"]["role"], Value::Null);
    }
}
