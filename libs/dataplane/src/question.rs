//! What `explain` asks the kernel, and what the kernel answers.
//! In: the first packet of a flow. Out: the dry twin's answer, with the rules behind its hit ids.
//! Invariant: an answer names the generation by which it was judged.
//! Never: evaluates policy itself.

use abi::Answer;
use model::{AttachmentId, Protocol};
use policy::Hit;
use std::net::IpAddr;

/// The source port to ask with where it does not matter: outside the range hosts choose from, so that no live flow answers.
pub const SOURCE_PORT: u16 = 1;

/// The first packet of a flow, asked of the live tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The local endpoint that sends it; `None`: it comes in by the uplink.
    pub from: Option<AttachmentId>,
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
    /// What would happen to the packet.
    pub answer: Answer,
    /// What decided at the source's end, where that was judged and the rule is still known.
    pub egress: Option<Hit>,
    /// What decided at the destination's end.
    pub ingress: Option<Hit>,
}
