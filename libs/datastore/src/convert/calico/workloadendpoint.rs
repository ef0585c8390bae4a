//! WorkloadEndpoint, as it lies in etcd: a pod as Calico's plugin writes it, with the labels that Calico's controllers keep there.
//! In: a WorkloadEndpoint (libcalico-go/lib/apis/v3/workload_endpoint.go). Out: [`model::Pod`].
//! Invariant: it is the pod that it names; labels that Calico gives by itself are not the pod's own.
//! Never: more profiles than are asked of one endpoint.

use super::{
    super::{
        InvalidField, asks,
        field::{Meta, is_object_name, read, spec},
        floating, port,
    },
    rule,
};
use model::{
    Cidr, FloatingIps, Labels, NamedPort, Pod, PodAsks, PodId, Profile,
    label::{NAMESPACE, ORCHESTRATOR, SERVICE_ACCOUNT},
};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node: Option<String>,
    service_account_name: Option<String>,
    ip_networks: Option<Vec<String>>,
    #[serde(rename = "ipNATs")]
    ip_nats: Option<Vec<Nat>>,
    profiles: Option<Vec<String>>,
    ports: Option<Vec<Port>>,
    #[serde(rename = "containerID")]
    container_id: Option<String>,
    allow_spoofed_source_prefixes: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Nat {
    #[serde(rename = "externalIP")]
    external_ip: String,
}

#[derive(Deserialize)]
struct Port {
    name: Option<String>,
    protocol: Value,
    port: Value,
}

/// The pod, or what else runs there; where nobody says, what it calls itself.
pub(in super::super) fn pod_id(meta: &Meta, object: &Value) -> PodId {
    let said = |field: &str| object.pointer(field).and_then(Value::as_str).filter(|name| is_object_name(name));
    let name = said("/spec/pod").or_else(|| said("/spec/workload")).unwrap_or(&meta.name);
    PodId { namespace: meta.namespace(), name: name.into() }
}

pub(in super::super) fn convert(
    meta: &Meta,
    object: &Value,
    unreadable: &mut Vec<InvalidField>,
) -> Result<Pod, InvalidField> {
    spec(object)?;
    let spec: Spec = read("spec", object)?;
    let id = pod_id(meta, object);
    let addresses = spec.ip_networks.unwrap_or_default().into_iter().enumerate();
    let addresses = addresses.map(|(index, text)| host(&format!("spec.ipNetworks[{index}]"), &text));
    let account = spec.service_account_name.filter(|name| !name.is_empty());
    let account = account.or_else(|| meta.label(SERVICE_ACCOUNT).map(str::to_owned));
    let profiles = named(&id, account.as_deref(), spec.profiles.unwrap_or_default(), unreadable);
    Ok(Pod {
        labels: own(&meta.labels()),
        service_account: account.map(Into::into),
        addresses: addresses.collect::<Result<_, _>>()?,
        ports: ports(spec.ports.unwrap_or_default())?,
        floating: floats(spec.ip_nats.unwrap_or_default(), object, unreadable),
        profiles,
        asks: sources(spec.allow_spoofed_source_prefixes.unwrap_or_default(), unreadable),
        container: spec.container_id.filter(|id| !id.is_empty()).map(Into::into),
        ..Pod::bare(id, spec.node.filter(|name| !name.is_empty()).map(Into::into))
    })
}

/// Without those that Calico gives by itself.
fn own(labels: &Labels) -> Labels {
    labels.iter().filter(|(key, _)| ![NAMESPACE, ORCHESTRATOR, SERVICE_ACCOUNT].contains(key)).collect()
}

fn host(path: &str, text: &str) -> Result<IpAddr, InvalidField> {
    let network: Option<Cidr> = text.parse().ok();
    network
        .filter(|network| Cidr::host(network.network()) == *network)
        .map(|network| network.network())
        .ok_or_else(|| InvalidField::new(path, format!("{text:?} is not an address such as 10.65.0.2/32")))
}

fn ports(written: Vec<Port>) -> Result<Box<[NamedPort]>, InvalidField> {
    let named = written.into_iter().enumerate().filter_map(|(index, port)| {
        let name = port.name.clone().filter(|name| !name.is_empty())?;
        Some((index, name, port))
    });
    let read = |(index, name, written): (usize, String, Port)| {
        let at = format!("spec.ports[{index}].protocol");
        let protocol = rule::protocol(&at, Some(&written.protocol))?
            .ok_or_else(|| InvalidField::new(&at, "is required where a port has a name"))?;
        let port = port::number(&format!("spec.ports[{index}].port"), &written.port)?;
        Ok(NamedPort { name: name.into(), protocol, port })
    };
    named.map(read).collect()
}

/// As Calico's plugin has read them from the pod.
fn floats(nats: Vec<Nat>, object: &Value, unreadable: &mut Vec<InvalidField>) -> Option<Box<FloatingIps>> {
    let list: Vec<_> = nats.into_iter().map(|nat| nat.external_ip).collect();
    (!list.is_empty()).then(|| floating::of("spec.ipNATs", Ok(list), object, unreadable))
}

/// As Calico's plugin has read them from the pod.
fn sources(list: Vec<String>, unreadable: &mut Vec<InvalidField>) -> Option<Box<PodAsks>> {
    if list.is_empty() {
        return None;
    }
    let refuse = |reason: String| {
        let problem = InvalidField::new("spec.allowSpoofedSourcePrefixes", reason);
        unreadable.push(problem.so("the pod sends by its own addresses alone"));
    };
    let sources = asks::prefixes(&list).map_err(refuse).ok()?;
    Some(Box::new(PodAsks { sources, ..PodAsks::default() }))
}

/// `None`: those that a pod has where nothing is said.
fn named(
    id: &PodId,
    account: Option<&str>,
    mut profiles: Vec<String>,
    unreadable: &mut Vec<InvalidField>,
) -> Option<Box<[Arc<str>]>> {
    let own = [
        Some(Profile::of_namespace(&id.namespace)),
        account.map(|account| Profile::of_account(&id.namespace, account)),
    ];
    if own.iter().flatten().eq(&profiles) {
        return None;
    }
    // To ask one again changes nothing.
    let mut known = BTreeSet::new();
    profiles.retain(|name| known.insert(name.clone()));
    if profiles.len() > Profile::NAMED_MAX {
        let (named, most) = (profiles.len(), Profile::NAMED_MAX);
        let reason =
            format!("{named} are more than the {most} that are asked; none is, and what no policy allows is denied");
        unreadable.push(InvalidField::new("spec.profiles", reason));
        profiles.clear();
    }
    Some(profiles.into_iter().map(Into::into).collect())
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::tests::{known, refusal},
        *,
    };
    use model::{Protocol, Resource};

    fn text(spec: &str) -> String {
        let labels = "{app: web, projectcalico.org/namespace: shop, projectcalico.org/orchestrator: k8s, \
                      projectcalico.org/serviceaccount: clerk}";
        let metadata = format!("{{namespace: shop, name: n1-k8s-web--0-eth0, labels: {labels}}}");
        format!("{{apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {metadata}, spec: {spec}}}")
    }

    fn pod(spec: &str) -> (Pod, Vec<String>) {
        match known(&text(spec)) {
            (Resource::Pod(pod), unreadable) => ((*pod).clone(), unreadable),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_endpoint_is_its_pod_with_the_labels_addresses_ports_and_floating_addresses_that_it_says() {
        let (pod, unreadable) = pod(
            "{orchestrator: k8s, node: n1, pod: web-0, endpoint: eth0, containerID: c1, interfaceName: cali1, mac: '0a:00:00:00:00:01',
              profiles: [kns.shop, ksa.shop.clerk], ipNetworks: [10.65.0.2/32, 'fd00:65::2/128'],
              ipNATs: [{internalIP: 10.65.0.2, externalIP: 192.0.2.7}],
              ports: [{name: http, protocol: TCP, port: 8080}, {name: '', protocol: UDP, port: 53}]}",
        );
        assert_eq!(unreadable, [""; 0]);
        assert_eq!(
            (pod.id.to_string(), pod.node.map(|node| node.to_string())),
            ("shop/web-0".into(), Some("n1".into()))
        );
        assert_eq!(pod.labels.iter().collect::<Vec<_>>(), [("app", "web")]);
        assert_eq!(pod.service_account.as_deref(), Some("clerk"));
        assert_eq!(pod.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.65.0.2", "fd00:65::2"]);
        let ports: Vec<_> = pod.ports.iter().map(|port| (&*port.name.0, port.protocol, port.port)).collect();
        assert_eq!(ports, [("http", Protocol::TCP, 8080)]);
        assert_eq!(
            pod.floating.map(|floating| floating.addresses),
            Some(vec!["192.0.2.7".parse().expect("an address")])
        );
    }

    #[test]
    fn what_is_no_pods_address_is_refused_and_an_address_that_cannot_float_is_named() {
        assert!(
            refusal(&text("{node: n1, pod: web-0, ipNetworks: [10.65.0.0/24]}")).starts_with("spec.ipNetworks[0]: ")
        );
        assert!(
            refusal(&text("{node: n1, pod: web-0, ports: [{name: a, protocol: TCP, port: 0}]}"))
                .starts_with("spec.ports[0].port")
        );
        let (_, said) = pod("{node: n1, pod: web-0, profiles: [kns.shop], ipNATs: [{externalIP: here}]}");
        assert!(said.iter().any(|said| said.starts_with("spec.ipNATs: \"here\"")), "{said:?}");
        let many: Vec<_> = (1..18).map(|last| format!("{{externalIP: 192.0.2.{last}}}")).collect();
        let (pod, said) = pod(&format!("{{node: n1, pod: web-0, ipNATs: [{}]}}", many.join(", ")));
        assert_eq!(pod.floating.map(|floating| floating.addresses.len()), Some(16), "as many as by an annotation");
        assert!(said.iter().any(|said| said.contains("it lists 17 addresses")), "{said:?}");
    }

    #[test]
    fn the_profiles_that_an_endpoint_names_are_the_pods_unless_they_are_those_of_its_namespace_and_account() {
        let named = |profiles: &str| {
            let (pod, said) = pod(&format!("{{node: n1, pod: web-0, profiles: {profiles}}}"));
            assert_eq!(said.len(), usize::from(profiles.contains('5')), "{said:?}");
            pod.profiles.map(|named| named.join(" "))
        };
        assert_eq!(named("[kns.shop, ksa.shop.clerk]"), None);
        assert_eq!(named("[kns.shop]").as_deref(), Some("kns.shop"), "its account's is not asked");
        assert_eq!(named("[special, kns.shop]").as_deref(), Some("special kns.shop"));
        assert_eq!(named("[special, kns.shop, special]").as_deref(), Some("special kns.shop"), "each once");
        assert_eq!(named("[]").as_deref(), Some(""), "no profile lets anything through");
        assert_eq!(named("[a1, a2, a3, a4, a5]").as_deref(), Some(""), "more than are asked");
    }
}
