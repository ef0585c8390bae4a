//! Explain for the node's own traffic: from this node outwards, and from outside to it, through its host endpoints.
//! In: `host` or an address, a destination, a protocol and a port. Out: the verdict, and what each gate on the way says.
//! Invariant: the kernel's dry twins answer, at the interface by which this host would send; the evaluator speaks beside them.
//! Never: sends a packet: a connected UDP socket is only asked for its own address.

use crate::{
    explain::{ExplainError, by_gate, detail, source_port},
    gates,
    kernel::Kernel,
    led,
    owner::Agent,
};
use abi::Outcome as Fate;
use dataplane::{Origin, Question, TwinAnswer};
use model::{IfaceName, PodId, Protocol};
use policy::{Flow, HostLayer};
use serde_json::{Value, json};
use std::net::{IpAddr, UdpSocket};

/// What the command was asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Where it comes from; `None`: this node itself.
    pub from: Option<IpAddr>,
    /// `namespace/pod` or an address.
    pub to: &'a str,
    /// Destination port; for ICMP the type.
    pub port: u16,
    /// Name or number.
    pub protocol: &'a str,
    /// Source port; `None`: one that nobody uses.
    pub source_port: Option<u16>,
}

/// Asks the twins.
pub fn explain<K: Kernel>(agent: &mut Agent<K>, asked: &Asked<'_>) -> Result<Value, ExplainError> {
    let protocol: Protocol = asked.protocol.parse()?;
    let destinations = destinations(agent, asked.to)?;
    let alike = |address: &&IpAddr| asked.from.is_none_or(|from| from.is_ipv4() == address.is_ipv4());
    let destination =
        *destinations.iter().find(alike).ok_or_else(|| ExplainError::NoCommonFamily(asked.to.to_owned()))?;
    // By the way to the far end a packet goes out, and one from there is taken to come in.
    let near = own_address(asked.from.unwrap_or(destination));
    let interface = near.and_then(|own| interface_of(agent, own));
    let (from, source) = match asked.from {
        Some(address) => (Origin::Outside(interface), address),
        None => (Origin::Node(interface), near.ok_or(ExplainError::NoWay(destination))?),
    };
    let (detail, source_port) = (detail(protocol, asked.port), source_port(protocol, asked.source_port));
    let question = Question { from, source, destination, protocol, detail, source_port };
    let twin = agent.kernel.explain(&question)?;
    let balance = if twin.by_uplink { led::balance_of(agent, &question) } else { None };
    let is_own = matches!(question.from, Origin::Node(_)) || agent.world.host_addresses().contains(&destination);
    let view = agent.world.view();
    let flow = Flow { source, destination, protocol, detail, source_port };
    let last = match &balance {
        Some(_) => HostLayer::PreDnat,
        None if is_own => HostLayer::Local,
        None => HostLayer::Forward,
    };
    let gates::Beside { said, alarm, isolation } = gates::beside(&view, &flow, &twin, last);
    let mut report = report(asked, &question, &twin);
    let behind = balance.map(|balance| led::explain(agent, &view, (&question, &twin), &balance));
    let alarm = alarm.or(behind.and_then(|led::Behind { said, alarm }| {
        report.as_object_mut().expect("it is an object").extend(said);
        alarm
    }));
    report["evaluator"] = json!({ "gates": said });
    if let Some(isolation) = isolation {
        report["isolation"] = json!(isolation);
    }
    if let Some(port) = asked.source_port {
        report["sourcePort"] = port.into();
    }
    if let Some(alarm) = alarm {
        tracing::error!(to = asked.to, "kernel and evaluator disagree: {alarm}");
        report["ALARM"] = alarm.into();
    }
    Ok(report)
}

fn report(asked: &Asked<'_>, question: &Question, twin: &TwinAnswer) -> Value {
    let refusing = twin.refusing().map(by_gate);
    let dropped = match twin.answer.outcome {
        Fate::Drop(reason) => Some(format!("dropped: {}", reason.as_str())),
        _ => None,
    };
    let decider = twin.refusing().map_or(twin.ingress.as_ref().map(|hit| &hit.decider), |gate| gate.decider.as_ref());
    let policies = decider.map(|decider| decider.policies().iter().map(ToString::to_string).collect::<Vec<_>>());
    let refused = refusing.or(dropped);
    let gates: Vec<_> = twin.gates.iter().map(by_gate).collect();
    let through = if gates.is_empty() { "no host endpoint is asked".to_owned() } else { gates.join("; ") };
    json!({
        "from": asked.from.map_or_else(|| "host".to_owned(), |address| address.to_string()),
        "source": question.source,
        "to": asked.to,
        "destination": question.destination,
        "protocol": question.protocol.to_string(),
        "port": asked.port,
        "verdict": if refused.is_some() { "refused" } else { "allowed" },
        "policy": policies.filter(|names| !names.is_empty()).map(|names| names.join(", ")),
        "rule": decider.and_then(policy::Decider::place),
        "why": refused.unwrap_or(through),
        "kernel": { "gates": gates, "generation": twin.answer.generation },
    })
}

fn destinations<K: Kernel>(agent: &Agent<K>, to: &str) -> Result<Vec<IpAddr>, ExplainError> {
    if let Ok(address) = to.parse() {
        return Ok(vec![address]);
    }
    let (namespace, name) = to.split_once('/').ok_or_else(|| ExplainError::Destination(to.to_owned()))?;
    let known = agent.world.addresses_of(&PodId::new(namespace, name)).filter(|addresses| !addresses.is_empty());
    known.ok_or_else(|| ExplainError::UnknownPod(to.to_owned()))
}

/// The address this host would send from, to there. Nothing is sent.
fn own_address(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    socket.local_addr().ok().map(|own| own.ip())
}

fn interface_of<K: Kernel>(agent: &Agent<K>, own: IpAddr) -> Option<IfaceName> {
    let interfaces = agent.world.host_interfaces();
    interfaces.iter().find(|(_, addresses)| addresses.contains(&own)).map(|(name, _)| name.clone())
}
