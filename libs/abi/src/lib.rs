//! The contract between the agent and the kernel programs: every map's name, key, value and meaning.
//! In: nothing. Out: plain-old-data types with fixed sizes, and the arithmetic both sides must agree on.
//! Invariant: no type here has padding, an enum field or a byte order that depends on the reader.
//! Never: reads or writes a map; decides about a packet.
#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

pub mod address;
pub mod announce;
pub mod answer;
pub mod conntrack;
pub mod endpoint;
pub mod fragment;
pub mod handover;
pub mod log;
pub mod maps;
pub mod masquerade;
#[cfg(feature = "user")]
mod pod;
pub mod rules;
pub mod service;
pub mod socket;
pub mod timeout;
pub mod tunnel;
pub mod verdict;
pub mod word;

pub use address::{Address, ClassEntry, NetKey};
pub use announce::Announcing;
pub use answer::{Answer, Outcome};
pub use conntrack::{ConntrackEntry, FlowKey, Ticket};
pub use endpoint::{Endpoint, Layers};
pub use fragment::{FragmentKey, FragmentPorts};
pub use masquerade::Masquerade;
pub use rules::{RowKey, RowRef, SetEntry, Span, SpanKind};
pub use service::{Affinity, AffinityKey, Backend, Balancer, Frontend, FrontendCounts, Member, ServiceKey};
pub use socket::{SocketKey, SocketPeer};
pub use timeout::{Timeout, Timeouts};
pub use tunnel::{TunnelEnd, TunnelLocal};
pub use verdict::DropReason;
pub use word::Word;
