//! EndpointSlice.
//! In: a `discovery.k8s.io/v1` EndpointSlice. Out: [`model::EndpointSlice`].
//! Invariant: every address, port and condition was read; what is not said is as the API server fills it in.
//! Never: a host name; a port without a number, which means whatever its reader likes.

use super::{
    field::{InvalidField, Meta, read_at},
    port, service,
};
use model::{EndpointSlice, EndpointSliceId, Hints, NodeName, ServiceId, SliceEndpoint, SlicePort};
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;

/// Names the service that a slice is of.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slice {
    address_type: String,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    addresses: Vec<String>,
    conditions: Option<Conditions>,
    node_name: Option<String>,
    hints: Option<WrittenHints>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenHints {
    for_zones: Option<Vec<Named>>,
    for_nodes: Option<Vec<Named>>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Port {
    name: Option<String>,
    port: Option<Value>,
    protocol: Option<String>,
}

pub(super) fn convert(id: EndpointSliceId, meta: &Meta, object: &Value) -> Result<EndpointSlice, InvalidField> {
    // Its fields stand beside its metadata.
    let slice: Slice = read_at("", object)
        .map_err(|error| InvalidField { path: error.path.trim_start_matches('.').to_owned(), ..error })?;
    let label = meta.label(SERVICE_NAME).filter(|name| !name.is_empty());
    let service = label.map(|name| ServiceId { namespace: id.namespace.clone(), name: name.to_owned() });
    let endpoints = match slice.address_type.as_str() {
        "IPv4" => endpoints(slice.endpoints, true)?,
        "IPv6" => endpoints(slice.endpoints, false)?,
        "FQDN" => [].into(),
        other => return Err(InvalidField::new("addressType", format!("{other:?} is not IPv4, IPv6 or FQDN"))),
    };
    let mut ports = Vec::new();
    for (index, written) in slice.ports.into_iter().flatten().enumerate() {
        ports.extend(numbered(&format!("ports[{index}]"), written)?);
    }
    Ok(EndpointSlice { id, service, endpoints, ports: ports.into(), unproxied: service::is_unproxied(meta) })
}

fn endpoints(written: Option<Vec<Endpoint>>, v4: bool) -> Result<Box<[SliceEndpoint]>, InvalidField> {
    let mut endpoints = Vec::new();
    for (index, endpoint) in written.into_iter().flatten().enumerate() {
        let mut addresses = Vec::new();
        for (place, text) in endpoint.addresses.iter().enumerate() {
            let fits = |address: &IpAddr| address.is_ipv4() == v4 && address.to_canonical() == *address;
            let address: Option<IpAddr> = text.parse().ok().filter(fits);
            addresses.push(address.ok_or_else(|| {
                let path = format!("endpoints[{index}].addresses[{place}]");
                let family = if v4 { "IPv4" } else { "IPv6" };
                InvalidField::new(&path, format!("{text:?} is not an {family} address"))
            })?);
        }
        // One without an address is nowhere.
        let Some((first, others)) = addresses.split_first() else { continue };
        let conditions = endpoint.conditions.unwrap_or_default();
        endpoints.push(SliceEndpoint {
            address: *first,
            others: others.into(),
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
            node: endpoint.node_name.filter(|name| !name.is_empty()).map(NodeName::from),
            hints: hints(endpoint.hints),
        });
    }
    Ok(endpoints.into())
}

fn hints(written: Option<WrittenHints>) -> Option<Box<Hints>> {
    let written = written?;
    let names = |list: Option<Vec<Named>>| list.into_iter().flatten().map(|named| named.name);
    let hints = Hints {
        zones: names(written.for_zones).collect(),
        nodes: names(written.for_nodes).map(NodeName::from).collect(),
    };
    (hints != Hints::default()).then(|| hints.into())
}

/// `None`: the slice does not say which.
fn numbered(path: &str, written: Port) -> Result<Option<SlicePort>, InvalidField> {
    let Some(number) = written.port.as_ref().filter(|number| !number.is_null()) else { return Ok(None) };
    let number = port::number(&format!("{path}.port"), number)?;
    let protocol = service::protocol(&format!("{path}.protocol"), written.protocol.as_deref())?;
    Ok(Some(SlicePort { name: written.name.unwrap_or_default().into(), protocol, port: number }))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{known, refusal};
    use model::{EndpointSlice, Hints, Resource};
    use std::collections::BTreeSet;

    fn slice(body: &str) -> String {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: s-1, namespace: shop, labels: {{kubernetes.io/service-name: s}}}}\n{body}"
        )
    }

    fn read(body: &str) -> EndpointSlice {
        match known(&slice(body)).0 {
            Resource::EndpointSlice(slice) => std::sync::Arc::unwrap_or_clone(slice),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn cal_36_every_endpoint_of_a_slice_counts_ready_or_going_at_every_port_with_a_number() {
        let read = read(
            "addressType: IPv4\nendpoints: [{addresses: [10.65.0.3], conditions: {ready: false, terminating: true}},\n  \
             {addresses: [10.65.0.2, 10.65.0.3]}]\nports: [{port: 80}, {port: 53, protocol: UDP}, {name: any}]\n",
        );
        assert_eq!(read.service.as_ref().map(|service| service.to_string()).as_deref(), Some("shop/s"));
        let addresses: BTreeSet<String> = read.addresses().map(|address| address.to_string()).collect();
        assert_eq!(addresses, BTreeSet::from(["10.65.0.2".into(), "10.65.0.3".into()]));
        assert_eq!(read.numbers().map(|(_, port)| port).collect::<Vec<_>>(), [80, 53]);
    }

    #[test]
    fn conditions_and_names_that_are_not_said_are_as_the_api_server_fills_them_in() {
        let read = read(
            "addressType: IPv4\nendpoints:\n- {addresses: [10.65.0.2, 10.65.0.9], conditions: {ready: null}, nodeName: ''}\n\
             - {addresses: []}\n\
             - {addresses: [10.65.0.3], conditions: {ready: false, serving: false, terminating: true}, nodeName: n1, \
             hints: {forZones: [{name: a}, {name: b}], forNodes: [{name: n1}]}}\n- {addresses: [10.65.0.4], hints: {}}\n\
             ports: [{port: 80}, {name: web, port: 81, protocol: SCTP, appProtocol: http}]\n",
        );
        let [first, second, third] = &read.endpoints[..] else { panic!("{:?}", read.endpoints) };
        assert_eq!((first.ready, first.serving, first.terminating), (true, true, false));
        assert_eq!((first.others.len(), &first.node, &first.hints), (1, &None, &None));
        assert_eq!((second.ready, second.serving, second.terminating), (false, false, true));
        assert_eq!(second.node, Some("n1".into()));
        let hints = Hints { zones: vec!["a".into(), "b".into()], nodes: vec!["n1".into()] };
        assert_eq!(second.hints.as_deref(), Some(&hints));
        assert_eq!(third.hints, None);
        assert_eq!(read.ports.iter().map(|port| &*port.name).collect::<Vec<_>>(), ["", "web"]);
    }

    #[test]
    fn a_slice_for_another_proxy_or_of_a_headless_service_is_read_and_marked() {
        assert!(!read("addressType: IPv4\n").unproxied);
        for label in ["service.kubernetes.io/service-proxy-name: x", "service.kubernetes.io/headless: ''"] {
            let text = slice("addressType: IPv4\n").replace("labels: {", &format!("labels: {{{label}, "));
            assert!(matches!(known(&text).0, Resource::EndpointSlice(slice) if slice.unproxied), "{label}");
        }
    }

    #[test]
    fn a_slice_of_names_has_no_addresses_and_one_that_cannot_be_read_whole_is_refused() {
        assert!(read("addressType: FQDN\nendpoints: [{addresses: [example.com]}]\n").endpoints.is_empty());
        for (body, field) in [
            ("endpoints: []\n", "addressType"),
            (
                "addressType: IPv4\nendpoints: [{addresses: [10.65.0.2]}, {addresses: ['fd00::1']}]\n",
                "endpoints[1].addresses[0]",
            ),
            ("addressType: IPv6\nendpoints: [{addresses: [here]}]\n", "endpoints[0].addresses[0]"),
            ("addressType: IPv4\nports: [{port: 0}]\n", "ports[0].port"),
            ("addressType: IPv4\nports: [{port: 80, protocol: QUIC}]\n", "ports[0].protocol"),
            (
                "addressType: IPv4\nendpoints: [{addresses: [10.65.0.2], conditions: {ready: 'no'}}]\n",
                "endpoints[0].conditions.ready",
            ),
        ] {
            assert!(refusal(&slice(body)).contains(field), "{body}: {}", refusal(&slice(body)));
        }
    }
}
