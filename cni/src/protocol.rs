//! What passes between `tortie-cni`, the `tortie` command and the agent: a u32 big-endian length, then JSON.
//! In: one [`Request`] a connection. Out: one [`Reply`].
//! Invariant: a request carries the protocol's version and its deadline; the peer of the agent must be uid 0.
//! Never: more than [`MESSAGE_MAX`] bytes; a field that is not written down in docs/design/cni.md.

use crate::failure::one_line;
use model::{AttachmentId, Cidr, Family, HostPort, IfaceName, Labels, Mac, PodId};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

/// Newest version of this protocol. A request carries the lowest that has all it says ([`Operation::version`]), so that a
/// new binary and an old agent understand each other in everything else.
pub const PROTOCOL_VERSION: u32 = 4;
/// Largest message, bytes.
pub const MESSAGE_MAX: u32 = 16 << 20;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Version that the request is written in.
    pub version: u32,
    /// Milliseconds from receipt after which the sender no longer waits.
    pub deadline_ms: u64,
    /// What is asked.
    pub operation: Operation,
}

impl Request {
    /// Reads a request's body.
    ///
    /// # Errors
    /// It is none, or of another version.
    pub fn read(body: &[u8]) -> Result<Self, Fault> {
        #[derive(Deserialize)]
        struct VersionOnly {
            version: u32,
        }
        let fault = |code, message| Fault { code, message: one_line(message), details: String::new() };
        let unreadable = |error: serde_json::Error| fault(6, format!("the request cannot be read: {error}"));
        // Another version's request may not be readable at all: its number comes first.
        let version = serde_json::from_slice::<VersionOnly>(body).map_err(unreadable)?.version;
        if !(1..=PROTOCOL_VERSION).contains(&version) {
            let message = format!(
                "the request is of protocol {version}, the agent speaks 1 to {PROTOCOL_VERSION}: install one release"
            );
            return Err(fault(100, message));
        }
        serde_json::from_slice(body).map_err(unreadable)
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "op")]
pub enum Operation {
    /// Assign addresses and names; nothing is in force yet. Undone if no commit follows. Repeating it gives the same answer.
    Prepare(Prepare),
    /// The veth is wired, host end down: attach programs, put policy in force. Answered only when it is.
    Commit {
        /// Which attachment.
        id: AttachmentId,
        /// MAC of the pod's side as it really is.
        mac: Mac,
        /// Version 2: its addresses, where the prepare said that another IPAM plugin gives them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        addresses: Vec<IpAddr>,
    },
    /// Undo a prepare.
    Abort {
        /// Which attachment.
        id: AttachmentId,
    },
    /// Is everything of this attachment as it was committed? Fault code 100 names what is not.
    Check {
        /// Which attachment.
        id: AttachmentId,
        /// Version 3: ports of the node that should lead to it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        host_ports: Vec<HostPort>,
    },
    /// Take the attachment away and release its addresses. Succeeds for what is not there.
    Del {
        /// Which attachment.
        id: AttachmentId,
    },
    /// Take away every attachment of this network that is not listed.
    Gc {
        /// The network's name.
        network: String,
        /// (container, interface) of the attachments that are valid.
        keep: Vec<(String, String)>,
    },
    /// Could an ADD be served now? Fault 50 or 51 if not.
    Status {
        /// The network's name.
        network: String,
        /// Its addresses are another IPAM plugin's. A reader that passes it over asks for more than is needed.
        #[serde(default, skip_serializing_if = "is_false")]
        delegated: bool,
        /// The node must have networks of its own of these families. A reader that passes it over says so at the ADD.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pod_cidrs: Vec<Family>,
    },
    /// A read command's question; its answer is [`Answer::Report`].
    Query(Query),
}

impl Operation {
    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Prepare(_) => "prepare",
            Self::Commit { .. } => "commit",
            Self::Abort { .. } => "abort",
            Self::Check { .. } => "check",
            Self::Del { .. } => "del",
            Self::Gc { .. } => "gc",
            Self::Status { .. } => "status",
            Self::Query(_) => "query",
        }
    }
}

impl Operation {
    /// The lowest version of the protocol that has all this says.
    #[must_use]
    pub fn version(&self) -> u32 {
        match self {
            Self::Prepare(wish) if !(wish.pools.is_empty() && wish.families.is_empty()) => 4,
            Self::Prepare(wish) if !wish.host_ports.is_empty() => 3,
            Self::Check { host_ports, .. } if !host_ports.is_empty() => 3,
            Self::Prepare(wish) if wish.delegated || !wish.ips.is_empty() => 2,
            Self::Commit { addresses, .. } if !addresses.is_empty() => 2,
            _ => 1,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the serializer passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What the runtime wants attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// Which attachment.
    pub id: AttachmentId,
    /// The pod.
    pub pod: PodId,
    /// Labels for a pod that no manifest describes.
    pub labels: Labels,
    /// MTU from the network configuration.
    pub mtu: Option<u32>,
    /// MAC the pod should have, if one was asked for.
    pub mac: Option<Mac>,
    /// Version 2: exactly these addresses, at most one a family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// Version 2: another IPAM plugin gives the addresses; they come with the commit.
    #[serde(default, skip_serializing_if = "is_false")]
    pub delegated: bool,
    /// Version 3: ports of the node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
    /// It may ask for floating addresses. A reader that passes it over has none float.
    #[serde(default, skip_serializing_if = "is_false")]
    pub floating_ips: bool,
    /// It may name addresses that nobody gives. A reader that passes it over refuses those that do.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ip_addrs_no_ipam: bool,
    /// Version 4: addresses of these pools alone, unless the pod or its namespace names others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<Family, Vec<String>>,
    /// Version 4: one address of each of these families, unless the pod names others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub families: Vec<Family>,
    /// The other IPAM plugin is to give addresses out of the node's own networks of these families, which the answer names. Who
    /// passes it over names none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<Family>,
}

/// A read command's question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "query")]
pub enum Query {
    /// `tortie show KIND`: endpoints, policies, staged, classes, rulesets, conntrack, drops, capacity, status.
    Show {
        /// Which table.
        table: String,
    },
    /// `tortie show services` and `show backends`, a page: `rows`, and in `next` what to ask after, unless it is the last.
    Services {
        /// A namespace, or `namespace/name`; `None`: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<String>,
        /// The `next` of the page before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        /// A row for each backend, else for each frontend.
        backends: bool,
    },
    /// `tortie explain`.
    Explain {
        /// The sending pod.
        from: PodId,
        /// `namespace/pod` or an address.
        to: String,
        /// Destination port (for ICMP: type).
        port: u16,
        /// Protocol name or number.
        protocol: String,
        /// Source port, where it matters.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source_port: Option<u16>,
    },
    /// `tortie explain` of what passes this node's own interfaces.
    ExplainHost {
        /// An address outside; `None`: this node itself.
        from: Option<IpAddr>,
        /// `namespace/pod` or an address.
        to: String,
        /// Destination port (for ICMP: type).
        port: u16,
        /// Protocol name or number.
        protocol: String,
        /// Source port, where it matters.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source_port: Option<u16>,
    },
    /// `tortie policy test`: what would change, and nothing is.
    Test {
        /// Manifests.
        files: Vec<File>,
        /// Their objects would go, instead of come.
        delete: bool,
    },
}

/// A file that somebody asks about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its name, for people.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// What the agent answers.
pub type Reply = Result<Answer, Fault>;

/// A good answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "answer")]
pub enum Answer {
    /// To prepare.
    Prepared(Prepared),
    /// Done.
    Done,
    /// Machine-readable answer to a query; its shape is the command's `--output json`.
    Report {
        /// The report.
        report: serde_json::Value,
    },
}

/// How to wire the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Name of the host side.
    pub host_interface: IfaceName,
    /// MAC for the pod's side, if one was asked for; else the kernel's choice stands.
    pub mac: Option<Mac>,
    /// The pod's addresses: at most one a family. None yet where another IPAM plugin gives them.
    pub addresses: Vec<IpAddr>,
    /// MTU for both sides.
    pub mtu: u32,
    /// The node's own networks, where the prepare asks for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<Cidr>,
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// CNI error code: 11 try again later, 50/51 not available, 7 configuration, 100 and above our own.
    pub code: u32,
    /// One line: what, where, what to do.
    pub message: String,
    /// More, or empty.
    pub details: String,
}
