//! EndpointSlice.
//! In: a `discovery.k8s.io/v1` EndpointSlice. Out: [`model::EndpointSlice`].
//! Invariant: every address and port was read; what is not ready, or about to go, counts too (felix/serviceindex).
//! Never: a host name; a port without a number, which means whatever its reader likes.

use super::field::{InvalidField, Meta, read_at};
use model::{EndpointSlice, EndpointSliceId, Protocol, ServiceId};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeSet, net::IpAddr, num::NonZeroU16};

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
struct Endpoint {
    addresses: Vec<String>,
}

#[derive(Deserialize)]
struct Port {
    port: Option<Value>,
    protocol: Option<String>,
}

pub(super) fn convert(id: EndpointSliceId, meta: &Meta, object: &Value) -> Result<EndpointSlice, InvalidField> {
    // Its fields stand beside its metadata.
    let slice: Slice = read_at("", object)
        .map_err(|error| InvalidField { path: error.path.trim_start_matches('.').to_owned(), ..error })?;
    let label = meta.label(SERVICE_NAME).filter(|name| !name.is_empty());
    let service = label.map(|name| ServiceId { namespace: id.namespace.clone(), name: name.to_owned() });
    let addresses = match slice.address_type.as_str() {
        "IPv4" | "IPv6" => addresses(&slice)?,
        "FQDN" => BTreeSet::new(),
        other => return Err(InvalidField::new("addressType", format!("{other:?} is not IPv4, IPv6 or FQDN"))),
    };
    let mut ports = BTreeSet::new();
    for (index, written) in slice.ports.iter().flatten().enumerate() {
        ports.extend(port(&format!("ports[{index}]"), written)?);
    }
    Ok(EndpointSlice { id, service, addresses: addresses.into_iter().collect(), ports: ports.into_iter().collect() })
}

fn addresses(slice: &Slice) -> Result<BTreeSet<IpAddr>, InvalidField> {
    let v4 = slice.address_type == "IPv4";
    let mut addresses = BTreeSet::new();
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        for (place, text) in endpoint.addresses.iter().enumerate() {
            let address: Option<IpAddr> = text.parse().ok().filter(|address: &IpAddr| address.is_ipv4() == v4);
            addresses.insert(address.ok_or_else(|| {
                let path = format!("endpoints[{index}].addresses[{place}]");
                InvalidField::new(&path, format!("{text:?} is not an {} address", slice.address_type))
            })?);
        }
    }
    Ok(addresses)
}

/// `None`: the slice does not say which.
fn port(path: &str, written: &Port) -> Result<Option<(Protocol, u16)>, InvalidField> {
    let Some(number) = written.port.as_ref().filter(|number| !number.is_null()) else { return Ok(None) };
    let number = NonZeroU16::deserialize(number)
        .map_err(|_| InvalidField::new(&format!("{path}.port"), format!("{number} is not from 1 to 65535")))?;
    let protocol = match written.protocol.as_deref() {
        None | Some("" | "TCP") => Protocol::TCP,
        Some("UDP") => Protocol::UDP,
        Some("SCTP") => Protocol::SCTP,
        Some(other) => {
            return Err(InvalidField::new(&format!("{path}.protocol"), format!("{other:?} is not TCP, UDP or SCTP")));
        }
    };
    Ok(Some((protocol, number.get())))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{known, refusal};
    use model::{EndpointSlice, Resource};

    fn slice(body: &str) -> String {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: s-1, namespace: shop, labels: {{kubernetes.io/service-name: s}}}}\n{body}"
        )
    }

    fn read(body: &str) -> EndpointSlice {
        match known(&slice(body)).0 {
            Resource::EndpointSlice(slice) => slice,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn cal_36_every_endpoint_of_a_slice_counts_ready_or_going_at_every_port_with_a_number() {
        let read = read(
            "addressType: IPv4\nendpoints: [{addresses: [10.65.0.3], conditions: {ready: false, terminating: true}},\n  \
             {addresses: [10.65.0.2, 10.65.0.3]}]\nports: [{port: 80}, {port: 53, protocol: UDP}, {name: any}]\n",
        );
        assert_eq!(read.service.map(|service| service.to_string()).as_deref(), Some("shop/s"));
        assert_eq!(read.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.65.0.2", "10.65.0.3"]);
        assert_eq!(read.ports.iter().map(|(_, port)| *port).collect::<Vec<_>>(), [80, 53]);
    }

    #[test]
    fn a_slice_of_names_has_no_addresses_and_one_that_cannot_be_read_whole_is_refused() {
        assert!(read("addressType: FQDN\nendpoints: [{addresses: [example.com]}]\n").addresses.is_empty());
        for (body, field) in [
            ("endpoints: []\n", "addressType"),
            (
                "addressType: IPv4\nendpoints: [{addresses: [10.65.0.2]}, {addresses: ['fd00::1']}]\n",
                "endpoints[1].addresses[0]",
            ),
            ("addressType: IPv6\nendpoints: [{addresses: [here]}]\n", "endpoints[0].addresses[0]"),
            ("addressType: IPv4\nports: [{port: 0}]\n", "ports[0].port"),
            ("addressType: IPv4\nports: [{port: 80, protocol: QUIC}]\n", "ports[0].protocol"),
        ] {
            assert!(refusal(&slice(body)).contains(field), "{body}: {}", refusal(&slice(body)));
        }
    }
}
