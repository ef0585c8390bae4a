//! Protocols and ports of a ClusterNetworkPolicy's rule.
//! In: its `protocols`. Out: protocols with their ports.
//! Invariant: each entry says one thing (CNP-15), and says it whole: an empty one is no "any port" (CNP-16).
//! Never: a name tied to a protocol: it means the container's port of whichever one (CNP-19).

use super::{
    super::{
        combine::Service,
        field::{InvalidField, read_at},
        port,
    },
    at_least_one,
};
use model::{PortMatch, PortRange, Protocol};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    tcp: Option<WithPort>,
    udp: Option<WithPort>,
    sctp: Option<WithPort>,
    destination_named_port: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WithPort {
    destination_port: Option<Port>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    number: Option<Value>,
    range: Option<Range>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    start: Value,
    end: Value,
}

/// No protocols given: any, ICMP included. One [`Service`] for each protocol.
pub(super) fn services(path: &str, written: Option<&[Value]>) -> Result<Vec<Service>, InvalidField> {
    let Some(written) = written else { return Ok(vec![Service::ANY]) };
    let mut by_protocol: BTreeMap<Option<Protocol>, Vec<PortMatch>> = BTreeMap::new();
    for (index, value) in at_least_one(path, written)?.iter().enumerate() {
        let (protocol, port) = entry(&format!("{path}[{index}]"), value)?;
        by_protocol.entry(protocol).or_default().push(port);
    }
    Ok(by_protocol.into_iter().map(|(protocol, ports)| Service { protocol, ports: Some(ports.into()) }).collect())
}

fn entry(path: &str, value: &Value) -> Result<(Option<Protocol>, PortMatch), InvalidField> {
    let with_port = |name: &str, protocol, given: &WithPort| {
        Ok((Some(protocol), PortMatch::Range(range(&format!("{path}.{name}.destinationPort"), given)?)))
    };
    match read_at(path, value)? {
        Entry { tcp: Some(given), udp: None, sctp: None, destination_named_port: None } => {
            with_port("tcp", Protocol::TCP, &given)
        }
        Entry { tcp: None, udp: Some(given), sctp: None, destination_named_port: None } => {
            with_port("udp", Protocol::UDP, &given)
        }
        Entry { tcp: None, udp: None, sctp: Some(given), destination_named_port: None } => {
            with_port("sctp", Protocol::SCTP, &given)
        }
        Entry { tcp: None, udp: None, sctp: None, destination_named_port: Some(name) } => {
            let name = port::name(&format!("{path}.destinationNamedPort"), &name)?;
            Ok((None, PortMatch::Named(name)))
        }
        _ => Err(InvalidField::new(path, "must give exactly one of tcp, udp, sctp and destinationNamedPort")),
    }
}

/// CNP-17: a range ends above its start.
fn range(path: &str, given: &WithPort) -> Result<PortRange, InvalidField> {
    match &given.destination_port {
        Some(Port { number: Some(number), range: None }) => {
            Ok(PortRange::single(port::number(&format!("{path}.number"), number)?))
        }
        Some(Port { number: None, range: Some(range) }) => {
            let start = port::number(&format!("{path}.range.start"), &range.start)?;
            let end = port::number(&format!("{path}.range.end"), &range.end)?;
            if start >= end {
                let reason = format!("{start} to {end} does not go up; give a number for one port");
                return Err(InvalidField::new(&format!("{path}.range"), reason));
            }
            PortRange::new(start, end).map_err(|error| InvalidField::new(path, error))
        }
        _ => Err(InvalidField::new(path, "must give number or range; all ports are the range 1 to 65535")),
    }
}
