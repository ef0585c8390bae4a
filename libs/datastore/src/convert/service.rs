//! Service.
//! In: a `v1` Service. Out: [`model::Service`].
//! Invariant: every address and port that packets could be sent to was read, or the object is refused with the first that was not;
//! what is not said is as the API server fills it in.
//! Never: gives an address that the object does not have yet; targetPort and selector, which whoever writes the slices reads.

use super::{
    field::{InvalidField, Meta, read, spec},
    port,
};
use model::{
    BalancerRequest, Cidr, Created, Distribution, Family, Protocol, Service, ServiceId, ServiceKind, ServicePort,
    TrafficPolicy,
};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeSet, net::IpAddr};

/// Another service proxy's, by its name.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const IPV4_POOLS: &str = "projectcalico.org/ipv4pools";
const IPV6_POOLS: &str = "projectcalico.org/ipv6pools";
const LOAD_BALANCER_IPS: &str = "projectcalico.org/loadBalancerIPs";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Three hours, as the API server fills it in, and its bound.
const AFFINITY_S: u32 = 10_800;
const AFFINITY_S_MAX: u32 = 86_400;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    load_balancer_source_ranges: Option<Vec<String>>,
    ports: Option<Vec<Port>>,
    session_affinity: Option<String>,
    session_affinity_config: Option<AffinityConfig>,
    internal_traffic_policy: Option<String>,
    external_traffic_policy: Option<String>,
    traffic_distribution: Option<String>,
    health_check_node_port: Option<Value>,
    load_balancer_class: Option<String>,
    #[serde(rename = "loadBalancerIP")]
    load_balancer_ip: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: Option<String>,
    protocol: Option<String>,
    port: Value,
    node_port: Option<Value>,
}

#[derive(Deserialize)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientIp {
    timeout_seconds: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    load_balancer: Option<LoadBalancer>,
}

#[derive(Deserialize)]
struct LoadBalancer {
    ingress: Option<Vec<Ingress>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ingress {
    ip: Option<String>,
    ip_mode: Option<String>,
}

/// Whether packets for it, or the endpoints in it, are somebody else's to send on (kube-proxy's own selection).
pub(super) fn is_unproxied(meta: &Meta) -> bool {
    [PROXY_NAME, HEADLESS].iter().any(|label| meta.label(label).is_some())
}

/// As services and their slices write it.
pub(super) fn protocol(path: &str, written: Option<&str>) -> Result<Protocol, InvalidField> {
    match written {
        None | Some("" | "TCP") => Ok(Protocol::TCP),
        Some("UDP") => Ok(Protocol::UDP),
        Some("SCTP") => Ok(Protocol::SCTP),
        Some(other) => Err(InvalidField::new(path, format!("{other:?} is not TCP, UDP or SCTP"))),
    }
}

pub(super) fn convert(
    id: ServiceId,
    meta: &Meta,
    object: &Value,
    unreadable: &mut Vec<InvalidField>,
) -> Result<Service, InvalidField> {
    spec(object)?;
    let spec: Spec = read("spec", object)?;
    let kind = kind(&spec)?;
    let has_addresses = !matches!(kind, ServiceKind::Headless | ServiceKind::ExternalName);
    let has_node_ports = matches!(kind, ServiceKind::NodePort | ServiceKind::LoadBalancer);
    let is_balanced = kind == ServiceKind::LoadBalancer;
    let external_ips =
        if has_addresses { addresses("spec.externalIPs", spec.external_ips.as_deref())? } else { vec![] };
    Ok(Service {
        created: created(object),
        cluster_ips: if has_addresses { cluster_ips(&spec)? } else { vec![] },
        request: (is_balanced && !has_ingress(object)).then(|| request(meta, object, &spec).into()),
        load_balancer: if is_balanced { load_balancer(object)? } else { vec![] },
        source_ranges: if is_balanced { source_ranges(spec.load_balancer_source_ranges.as_deref())? } else { vec![] },
        ports: ports(spec.ports.unwrap_or_default(), has_node_ports)?,
        affinity_s: affinity(spec.session_affinity.as_deref(), spec.session_affinity_config)?,
        internal: traffic_policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref())?,
        external: if has_node_ports || !external_ips.is_empty() {
            traffic_policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref())?
        } else {
            TrafficPolicy::Cluster
        },
        distribution: spec.traffic_distribution.and_then(|text| distribution(&text, unreadable)),
        health_check_port: optional_port("spec.healthCheckNodePort", spec.health_check_node_port.as_ref())?,
        unproxied: is_unproxied(meta),
        id,
        kind,
        external_ips,
    })
}

fn kind(spec: &Spec) -> Result<ServiceKind, InvalidField> {
    let own = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let kind = match spec.kind.as_deref() {
        None | Some("" | "ClusterIP") => ServiceKind::ClusterIp,
        Some("NodePort") => ServiceKind::NodePort,
        Some("LoadBalancer") => ServiceKind::LoadBalancer,
        Some("ExternalName") => return Ok(ServiceKind::ExternalName),
        Some(other) => {
            let reason = format!("{other:?} is not ClusterIP, NodePort, LoadBalancer or ExternalName");
            return Err(InvalidField::new("spec.type", reason));
        }
    };
    Ok(if own.into_iter().any(|address| address == "None") { ServiceKind::Headless } else { kind })
}

/// `clusterIP` counts where the list is not given.
fn cluster_ips(spec: &Spec) -> Result<Vec<IpAddr>, InvalidField> {
    let (path, list) = match spec.cluster_ips.as_deref() {
        Some(list) if !list.is_empty() => ("spec.clusterIPs", list),
        _ => return addresses("spec.clusterIP", spec.cluster_ip.as_slice().into()),
    };
    let own = addresses(path, Some(list))?;
    let families: BTreeSet<Family> = own.iter().copied().map(Family::of).collect();
    if families.len() < own.len() {
        return Err(InvalidField::new(path, "has more than one address of one family"));
    }
    Ok(own)
}

/// Those that are there: an address that is still to be given is empty text.
fn addresses(path: &str, written: Option<&[String]>) -> Result<Vec<IpAddr>, InvalidField> {
    let mut addresses = Vec::new();
    for (index, text) in written.unwrap_or_default().iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let address = host_address(text).ok_or_else(|| {
            InvalidField::new(&indexed(path, index), format!("{text:?} is not an address packets have"))
        })?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// A single field is no list.
fn indexed(path: &str, index: usize) -> String {
    if path.ends_with("IPs") { format!("{path}[{index}]") } else { path.to_owned() }
}

/// One that a packet from somewhere else could be sent to.
pub(super) fn host_address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    let is_of_no_host = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    // An IPv4 address in the clothes of an IPv6 one would be both.
    (!is_of_no_host && address.to_canonical() == address).then_some(address)
}

/// A balancer of the mode Proxy sends its packets on to node ports; where it is asked itself is its own affair.
fn load_balancer(object: &Value) -> Result<Vec<IpAddr>, InvalidField> {
    let status: Status = read("status", object)?;
    let mut found = Vec::new();
    for (index, ingress) in status.load_balancer.and_then(|it| it.ingress).into_iter().flatten().enumerate() {
        let path = |field: &str| format!("status.loadBalancer.ingress[{index}].{field}");
        let keeps_destination = match ingress.ip_mode.as_deref() {
            None | Some("VIP") => true,
            Some("Proxy") => false,
            Some(other) => return Err(InvalidField::new(&path("ipMode"), format!("{other:?} is not VIP or Proxy"))),
        };
        let Some(text) = ingress.ip.filter(|text| !text.is_empty() && keeps_destination) else { continue };
        let reason = || InvalidField::new(&path("ip"), format!("{text:?} is not an address packets have"));
        let address = host_address(&text).ok_or_else(reason)?;
        if !found.contains(&address) {
            found.push(address);
        }
    }
    Ok(found)
}

/// Whether somebody has said already where its load balancer is.
fn has_ingress(object: &Value) -> bool {
    object.pointer("/status/loadBalancer/ingress").and_then(Value::as_array).is_some_and(|ingress| !ingress.is_empty())
}

/// By Calico's annotations (kube-controllers/pkg/controllers/loadbalancer). What cannot be read there is no reason to refuse the
/// service: it is served where it has addresses, and gets none.
fn request(meta: &Meta, object: &Value, spec: &Spec) -> BalancerRequest {
    let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().to_owned();
    let asked = BalancerRequest { uid, class: spec.load_balancer_class.clone(), ..BalancerRequest::default() };
    match (asked_addresses(meta, spec), asked_pools(meta)) {
        (Ok(addresses), Ok(pools)) => BalancerRequest { addresses, pools, ..asked },
        (Err(unread), _) | (_, Err(unread)) => BalancerRequest { unread: Some(unread), ..asked },
    }
}

/// The annotation before the field, which has room for one.
fn asked_addresses(meta: &Meta, spec: &Spec) -> Result<Vec<IpAddr>, String> {
    let (path, texts) = match list(meta, LOAD_BALANCER_IPS)? {
        Some(texts) => (LOAD_BALANCER_IPS, texts),
        None => {
            ("spec.loadBalancerIP", spec.load_balancer_ip.iter().filter(|text| !text.is_empty()).cloned().collect())
        }
    };
    let read =
        |text: &String| host_address(text).ok_or_else(|| format!("{path}: {text:?} is not an address packets have"));
    let addresses: Vec<IpAddr> = texts.iter().map(read).collect::<Result<_, _>>()?;
    let families: BTreeSet<Family> = addresses.iter().copied().map(Family::of).collect();
    if families.len() < addresses.len() {
        return Err(format!("{path}: more than one address of one family"));
    }
    Ok(addresses)
}

fn asked_pools(meta: &Meta) -> Result<Vec<String>, String> {
    let lists = [list(meta, IPV4_POOLS)?, list(meta, IPV6_POOLS)?];
    Ok(lists.into_iter().flatten().flatten().collect())
}

/// A list of strings as JSON.
fn list(meta: &Meta, annotation: &str) -> Result<Option<Vec<String>>, String> {
    let Some(text) = meta.annotation(annotation).filter(|text| !text.is_empty()) else { return Ok(None) };
    let read = serde_json::from_str(text);
    read.map(Some).map_err(|_| format!("{annotation}: {text:?} is not a list of texts as JSON, such as [\"a\"]"))
}

/// Most networks of a service's; an object of the API server's holds hardly more.
const SOURCE_RANGES_MAX: usize = 65_536;

/// The API server lets spaces around them pass.
fn source_ranges(written: Option<&[String]>) -> Result<Vec<Cidr>, InvalidField> {
    let read = |(index, text): (usize, &String)| {
        let range = text.trim().parse::<Cidr>();
        range.map_err(|error| InvalidField::new(&format!("spec.loadBalancerSourceRanges[{index}]"), error))
    };
    let written = written.unwrap_or_default();
    if written.len() > SOURCE_RANGES_MAX {
        let text = format!("has {} networks, where at most {SOURCE_RANGES_MAX} are taken", written.len());
        return Err(InvalidField::new("spec.loadBalancerSourceRanges", text));
    }
    written.iter().enumerate().map(read).collect()
}

fn ports(written: Vec<Port>, has_node_ports: bool) -> Result<Box<[ServicePort]>, InvalidField> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for (index, port) in written.into_iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let node_port = optional_port(&format!("{path}.nodePort"), port.node_port.as_ref())?;
        let read = ServicePort {
            name: port.name.unwrap_or_default(),
            protocol: protocol(&format!("{path}.protocol"), port.protocol.as_deref())?,
            port: port::number(&format!("{path}.port"), &port.port)?,
            node_port: node_port.filter(|_| has_node_ports),
        };
        for (place, other) in ports.iter().enumerate() {
            if let Some(what) = shared(&read, other) {
                return Err(InvalidField::new(&path, format!("has the {what} of ports[{place}]")));
            }
        }
        ports.push(read);
    }
    Ok(ports.into())
}

/// What two ports of one service must not share.
fn shared(one: &ServicePort, other: &ServicePort) -> Option<&'static str> {
    if one.name == other.name {
        return Some("name");
    }
    if one.protocol != other.protocol {
        return None;
    }
    let same_node_port = one.node_port.is_some() && one.node_port == other.node_port;
    if one.port == other.port { Some("port and protocol") } else { same_node_port.then_some("nodePort") }
}

/// 0 is as good as none, as the API server sees it.
fn optional_port(path: &str, value: Option<&Value>) -> Result<Option<u16>, InvalidField> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) if value.as_u64() == Some(0) => Ok(None),
        Some(value) => port::number(path, value).map(Some),
    }
}

fn affinity(written: Option<&str>, config: Option<AffinityConfig>) -> Result<Option<u32>, InvalidField> {
    match written {
        None | Some("" | "None") => return Ok(None),
        Some("ClientIP") => {}
        Some(other) => {
            return Err(InvalidField::new("spec.sessionAffinity", format!("{other:?} is not None or ClientIP")));
        }
    }
    let seconds = config.and_then(|config| config.client_ip?.timeout_seconds).unwrap_or(AFFINITY_S);
    if (1..=AFFINITY_S_MAX).contains(&seconds) {
        return Ok(Some(seconds));
    }
    let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    Err(InvalidField::new(path, format!("{seconds} is not from 1 to {AFFINITY_S_MAX}")))
}

fn traffic_policy(path: &str, written: Option<&str>) -> Result<TrafficPolicy, InvalidField> {
    match written {
        None | Some("" | "Cluster") => Ok(TrafficPolicy::Cluster),
        Some("Local") => Ok(TrafficPolicy::Local),
        Some(other) => Err(InvalidField::new(path, format!("{other:?} is not Cluster or Local"))),
    }
}

/// It changes nothing here: who writes the slices hints at what it asks for.
fn distribution(text: &str, unreadable: &mut Vec<InvalidField>) -> Option<Distribution> {
    match text {
        "" => None,
        "PreferClose" => Some(Distribution::PreferClose),
        "PreferSameZone" => Some(Distribution::PreferSameZone),
        "PreferSameNode" => Some(Distribution::PreferSameNode),
        other => {
            let reason = format!("{other:?} is not PreferSameZone, PreferSameNode or PreferClose");
            let unread = InvalidField::new("spec.trafficDistribution", reason);
            unreadable.push(unread.so("what its slices hint at counts all the same"));
            None
        }
    }
}

pub(super) fn created(object: &Value) -> Created {
    let text = object.pointer("/metadata/creationTimestamp").and_then(Value::as_str);
    text.map_or(Created::UNKNOWN, Created::read)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{known, refusal};
    use model::{Created, Distribution, Resource, Service, ServiceKind, TrafficPolicy};
    use std::sync::Arc;

    fn text(rest: &str) -> String {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\n{rest}\n")
    }

    fn read(rest: &str) -> Service {
        match known(&text(rest)) {
            (Resource::Service(service), unread) if unread.is_empty() => Arc::unwrap_or_clone(service),
            other => panic!("{other:?}"),
        }
    }

    fn addresses(list: &[std::net::IpAddr]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_not_said_is_as_the_api_server_fills_it_in() {
        let service = read("spec: {clusterIP: 10.96.0.7, ports: [{port: 80}]}");
        assert_eq!((service.kind, addresses(&service.cluster_ips)), (ServiceKind::ClusterIp, vec!["10.96.0.7".into()]));
        assert_eq!((service.internal, service.external), (TrafficPolicy::Cluster, TrafficPolicy::Cluster));
        assert_eq!((service.affinity_s, service.distribution, service.unproxied), (None, None, false));
        assert_eq!(service.created, Created::UNKNOWN);
        let [port] = &service.ports[..] else { panic!("{:?}", service.ports) };
        assert_eq!((&*port.name, port.protocol, port.port, port.node_port), ("", model::Protocol::TCP, 80, None));
    }

    #[test]
    fn all_that_a_balanced_service_says_is_read() {
        let service = read(
            "spec:\n  type: LoadBalancer\n  clusterIP: 10.96.0.7\n  clusterIPs: [10.96.0.7, 'fd00::7']\n  \
             externalIPs: [203.0.113.9, 203.0.113.9]\n  loadBalancerSourceRanges: [' 10.0.0.0/8 ', 'fd00::/8']\n  \
             ports:\n  - {name: web, port: 80, nodePort: 30080, targetPort: http}\n  \
             - {name: dns, port: 53, protocol: UDP, nodePort: 0}\n  - {name: sig, port: 80, protocol: SCTP}\n  \
             sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}\n  \
             internalTrafficPolicy: Local\n  externalTrafficPolicy: Local\n  trafficDistribution: PreferSameNode\n  \
             healthCheckNodePort: 31000\nstatus:\n  loadBalancer:\n    ingress:\n    - {ip: 192.0.2.1}\n    \
             - {ip: 192.0.2.2, ipMode: VIP}\n    - {ip: 192.0.2.3, ipMode: Proxy}\n    - {hostname: lb.example.com}",
        );
        assert_eq!(addresses(&service.cluster_ips), ["10.96.0.7", "fd00::7"]);
        assert_eq!(addresses(&service.external_ips), ["203.0.113.9"]);
        assert_eq!(addresses(&service.load_balancer), ["192.0.2.1", "192.0.2.2"], "one that proxies has no part here");
        assert_eq!(
            service.source_ranges.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.0/8", "fd00::/8"]
        );
        let ports: Vec<_> = service.ports.iter().map(|port| (&*port.name, port.port, port.node_port)).collect();
        assert_eq!(ports, [("web", 80, Some(30080)), ("dns", 53, None), ("sig", 80, None)]);
        assert_eq!((service.affinity_s, service.health_check_port), (Some(60), Some(31000)));
        assert_eq!((service.internal, service.external), (TrafficPolicy::Local, TrafficPolicy::Local));
        assert_eq!(service.distribution, Some(Distribution::PreferSameNode));
        assert_eq!(read("spec: {sessionAffinity: ClientIP}").affinity_s, Some(10_800));
    }

    #[test]
    fn what_a_kind_does_not_have_is_not_kept_and_headless_and_external_names_have_no_addresses() {
        let further = "externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]";
        let status = "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}";
        let inner = read(&format!("spec: {{clusterIP: 10.96.0.7, {further}}}\n{status}"));
        assert_eq!((inner.external, inner.ports[0].node_port), (TrafficPolicy::Cluster, None));
        assert!(inner.load_balancer.is_empty());
        let brought = read(&format!("spec: {{clusterIP: 10.96.0.7, externalIPs: [192.0.2.9], {further}}}"));
        assert_eq!(brought.external, TrafficPolicy::Local);
        for (kind, spec) in [
            (ServiceKind::Headless, "clusterIP: None"),
            (ServiceKind::Headless, "clusterIPs: [None]"),
            (ServiceKind::ExternalName, "type: ExternalName, externalName: example.com"),
        ] {
            let service = read(&format!("spec: {{{spec}, externalIPs: [192.0.2.9], ports: [{{port: 80}}]}}"));
            assert_eq!(service.kind, kind);
            assert!(service.cluster_ips.is_empty() && service.external_ips.is_empty(), "{spec}");
        }
        assert!(read("spec: {clusterIP: ''}").cluster_ips.is_empty(), "it has none yet");
    }

    #[test]
    fn what_cannot_be_read_refuses_the_service_with_one_reason() {
        for (rest, said) in [
            ("", "spec: is required"),
            ("spec: {type: Ingress}", "spec.type: \"Ingress\" is not"),
            ("spec: {clusterIP: here}", "spec.clusterIP: \"here\""),
            ("spec: {clusterIPs: [10.96.0.7, '::']}", "spec.clusterIPs[1]"),
            ("spec: {clusterIPs: ['::ffff:10.96.0.7']}", "spec.clusterIPs[0]"),
            ("spec: {clusterIPs: [10.96.0.7, 10.96.0.8]}", "more than one address of one family"),
            ("spec: {clusterIP: 10.96.0.7, externalIPs: [127.0.0.1]}", "spec.externalIPs[0]"),
            ("spec: {type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0/40]}", "loadBalancerSourceRanges[0]"),
            ("spec: {ports: [{port: 0}]}", "spec.ports[0].port"),
            ("spec: {ports: [{}]}", "spec.ports[0]"),
            ("spec: {ports: [{port: 80, protocol: tcp}]}", "spec.ports[0].protocol: \"tcp\""),
            ("spec: {type: NodePort, ports: [{port: 80, nodePort: 70000}]}", "spec.ports[0].nodePort"),
            (
                "spec: {ports: [{name: a, port: 80}, {name: b, port: 80}]}",
                "spec.ports[1]: has the port and protocol of",
            ),
            ("spec: {ports: [{port: 80}, {port: 81}]}", "spec.ports[1]: has the name of ports[0]"),
            (
                "spec: {type: NodePort, ports: [{name: a, port: 80, nodePort: 1}, {name: b, port: 81, nodePort: 1}]}",
                "spec.ports[1]: has the nodePort of ports[0]",
            ),
            ("spec: {sessionAffinity: Cookie}", "spec.sessionAffinity: \"Cookie\""),
            (
                "spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}",
                "timeoutSeconds: 0 is not",
            ),
            ("spec: {internalTrafficPolicy: Node}", "spec.internalTrafficPolicy: \"Node\""),
            ("spec: {type: NodePort, externalTrafficPolicy: Node}", "spec.externalTrafficPolicy: \"Node\""),
            (
                "spec: {type: LoadBalancer}\nstatus: {loadBalancer: {ingress: [{ip: 192.0.2.1, ipMode: DSR}]}}",
                "status.loadBalancer.ingress[0].ipMode",
            ),
            ("spec: {type: LoadBalancer}\nstatus: {loadBalancer: {ingress: [{ip: x}]}}", "ingress[0].ip: \"x\""),
        ] {
            assert!(refusal(&text(rest)).contains(said), "{said} is missing in {}", refusal(&text(rest)));
        }
    }

    #[test]
    fn what_a_load_balancer_asks_is_read_and_what_cannot_be_read_is_kept_as_that() {
        let asked = |annotations: &str, more: &str| {
            let text = text(&format!("spec: {{type: LoadBalancer, clusterIP: 10.96.0.7{more}}}"));
            let text =
                text.replace("namespace: shop", &format!("namespace: shop, uid: u1, annotations: {{{annotations}}}"));
            match known(&text).0 {
                Resource::Service(service) => service.request.clone().expect("a load balancer"),
                other => panic!("{other:?} is no service"),
            }
        };
        let plain = asked("", "");
        assert_eq!((plain.uid.as_str(), plain.addresses.len(), plain.pools.len()), ("u1", 0, 0));
        let field = asked("", ", loadBalancerIP: 192.0.2.7, loadBalancerClass: calico");
        assert_eq!(
            (addresses(&field.addresses), field.class.as_deref()),
            (vec!["192.0.2.7".to_owned()], Some("calico"))
        );
        let both = r#"projectcalico.org/loadBalancerIPs: '["192.0.2.8","fd00::8"]'"#;
        assert_eq!(addresses(&asked(both, ", loadBalancerIP: 192.0.2.7").addresses), ["192.0.2.8", "fd00::8"]);
        let pools = r#"projectcalico.org/ipv4pools: '["a","192.0.2.0/28"]', projectcalico.org/ipv6pools: '["b"]'"#;
        assert_eq!(asked(pools, "").pools, ["a", "192.0.2.0/28", "b"]);
        for (annotations, said) in [
            ("projectcalico.org/loadBalancerIPs: 192.0.2.8", "is not a list of texts"),
            (r#"projectcalico.org/loadBalancerIPs: '["here"]'"#, "is not an address"),
            (r#"projectcalico.org/loadBalancerIPs: '["192.0.2.8","192.0.2.9"]'"#, "more than one address"),
            ("projectcalico.org/ipv4pools: a", "ipv4pools"),
        ] {
            let unread = asked(annotations, "").unread.clone().expect(annotations);
            assert!(unread.contains(said), "{unread}");
        }
        assert!(read("spec: {clusterIP: 10.96.0.7}").request.is_none());
    }

    #[test]
    fn a_distribution_that_is_not_known_is_named_and_refuses_nothing() {
        let (resource, unread) = known(&text("spec: {clusterIP: 10.96.0.7, trafficDistribution: Nearby}"));
        assert!(matches!(resource, Resource::Service(_)));
        assert!(unread[0].contains("spec.trafficDistribution: \"Nearby\""), "{unread:?}");
    }

    #[test]
    fn services_of_another_proxy_are_marked() {
        for label in ["service.kubernetes.io/service-proxy-name: other", "service.kubernetes.io/headless: ''"] {
            let text = text("spec: {clusterIP: 10.96.0.7}").replace("namespace: shop", &format!("labels: {{{label}}}"));
            assert!(matches!(known(&text).0, Resource::Service(service) if service.unproxied), "{label}");
        }
    }
}
