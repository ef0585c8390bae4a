//! What `explain` asks the kernel, and what the kernel answers.
//! In: the first packet of a flow. Out: the dry twin's answer, with the rules behind its hit ids.
//! Invariant: an answer names the generation by which it was judged.
//! Never: evaluates policy itself.

use abi::{Answer, Outcome};
use model::{AttachmentId, Direction, IfaceName, Protocol};
use policy::{Decider, Hit};
use std::net::IpAddr;

/// The source port to ask with where it does not matter: outside the range hosts choose from, so that no live flow answers.
pub const SOURCE_PORT: u16 = 1;

/// Where a packet begins its way through this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// At a local endpoint.
    Pod(AttachmentId),
    /// Outside: it comes in by this interface, or by the uplink.
    Outside(Option<IfaceName>),
    /// In this node itself, which sends it out by this interface, or by the uplink.
    Node(Option<IfaceName>),
}

/// The first packet of a flow, asked of the live tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where it begins.
    pub from: Origin,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: Protocol,
    /// Destination port; for ICMP `type << 8 | code`; else 0.
    pub detail: u16,
    /// Source port; 0 for protocols without ports.
    pub source_port: u16,
}

/// The kernel's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinAnswer {
    /// What would happen to the packet, where no gate on its way refuses it.
    pub answer: Answer,
    /// What decided at the source's end, where that was judged and the rule is still known.
    pub egress: Option<Hit>,
    /// What decided at the destination's end.
    pub ingress: Option<Hit>,
    /// What host endpoints on its way say, in order; nothing after the first that refuses was asked.
    pub gates: Vec<GateAnswer>,
    /// It comes in by the uplink, whose program translates what services lead on.
    pub by_uplink: bool,
}

impl TwinAnswer {
    /// The gate that refuses it.
    #[must_use]
    pub fn refusing(&self) -> Option<&GateAnswer> {
        self.gates.iter().find(|gate| matches!(gate.answer.outcome, Outcome::Drop(_)))
    }
}

/// What a host endpoint says of a packet that passes its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateAnswer {
    /// The interface.
    pub interface: IfaceName,
    /// Name of the host endpoint.
    pub name: String,
    /// Which way the packet passes it.
    pub direction: Direction,
    /// The kernel's answer.
    pub answer: Answer,
    /// What decided, where a rule did.
    pub decider: Option<Decider>,
}
