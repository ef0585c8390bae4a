//! Local endpoints, workloads and host interfaces: one 64-byte slot each, found by the slot number that conntrack and the address table carry.
//! In: a slot. Out: interface, MAC, MTU, the two rule sets in force, and the revision of the endpoint's policy.
//! Invariant: an all-zero slot is nobody: no interface, rule set 0, which denies everything.
//! Never: holds addresses; the address table names the slot.

use crate::word::Word;

/// No local endpoint: the address is elsewhere.
pub const SLOT_NONE: u32 = 0;
/// This node itself. Neither subject of workload policy nor an interface to redirect to.
pub const SLOT_HOST: u32 = 1;
/// First slot handed out to a workload endpoint.
pub const SLOT_FIRST: u32 = 2;

/// The MAC of every `cali*` interface, as in Calico (cni-plugin/pkg/dataplane/linux/dataplane_linux.go).
pub const GATEWAY_MAC: [u8; 6] = [0xee; 6];
/// The IPv4 gateway of every pod.
pub const GATEWAY_V4: [u8; 4] = [169, 254, 1, 1];
/// The IPv6 gateway of every pod: the link-local address that belongs to [`GATEWAY_MAC`].
pub const GATEWAY_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0xec, 0xee, 0xee, 0xff, 0xfe, 0xee, 0xee, 0xee];

/// The slot is a workload endpoint whose programs are attached and whose policy is in force.
pub const ENDPOINT_READY: u16 = 1 << 0;
/// A queueing discipline sits on the host interface: packets go through it (`bpf_redirect`), not past it.
pub const ENDPOINT_QUEUED: u16 = 1 << 1;
/// Allowed flows are not judged again when policy moves on (`establishedFlows: keep`, Calico's way).
pub const ENDPOINT_KEEP_ESTABLISHED: u16 = 1 << 2;

/// The slot is a host endpoint's `local` layer: its interface is one of the node's own.
pub const ENDPOINT_HOST: u16 = 1 << 3;
/// Its IPv4 address is in a pool whose pods are outside of all pools this node (`natOutgoing`).
pub const ENDPOINT_MASQUERADED_V4: u16 = 1 << 4;
/// Its IPv6 address.
pub const ENDPOINT_MASQUERADED_V6: u16 = 1 << 5;
/// In the ingress word of [`SLOT_HOST`], which has no rule set: what pods send to this node does not arrive, but for replies
/// (defaultEndpointToHostAction Drop).
pub const NODE_REFUSES_WORKLOADS: u32 = 1 << 0;
/// There, too: who is refused by rules is told so.
pub const NODE_REJECTS: u32 = 1 << 1;
/// There, too: a foreign service proxy translates in the host's stack. What comes to a pod through it is answered through it.
pub const NODE_TRANSLATES: u32 = 1 << 2;
/// There, too: the rules of a foreign service proxy are in the host's stack, whoever translates now. A segment from outside that
/// nobody knows may be of a connection that they carry.
pub const NODE_BESIDE: u32 = 1 << 3;

/// There, too: pods may be this node outside, and its layer `untracked` says what is not outside.
pub const NODE_MASQUERADES: u32 = 1 << 4;

/// The slots that hold a host endpoint's other rule sets; 0: it has none there. Those of [`SLOT_HOST`] are of the host endpoint
/// of all interfaces: `pre_dnat` is asked of what pods send, `forward` of what they send and receive.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Asked first, packet by packet, without connection tracking. Of [`SLOT_HOST`]: its egress rules allow what is not outside, by the
    /// class of the destination alone (`NODE_MASQUERADES`).
    pub untracked: u32,
    /// Asked of flows that come in, before a service's address is translated.
    pub pre_dnat: u32,
    /// Asked of flows that this node forwards.
    pub forward: u32,
    /// Of [`SLOT_HOST`] alone: the local slot of the uplink's own host endpoint, which is asked about the backends of who comes
    /// through a service from outside.
    pub uplink: u32,
}

/// One local endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Rule set that judges what the endpoint sends; of [`SLOT_HOST`], the UDP port that is VXLAN's on this node, zero: 4789.
    pub egress: Word,
    /// Rule set that judges what the endpoint receives; of [`SLOT_HOST`], `NODE_*`.
    pub ingress: Word,
    /// The host side of the endpoint's veth pair.
    pub ifindex: u32,
    /// Generation (low 32 bits) of the last change that can alter a verdict at this endpoint.
    pub rev: u32,
    /// Largest packet the endpoint takes, without the Ethernet header; bytes.
    pub mtu: u32,
    /// `ENDPOINT_*`.
    pub flags: u16,
    /// MAC of the endpoint's own side.
    pub mac: [u8; 6],
    /// A host endpoint's other slots.
    pub layers: Layers,
    /// Zero; room for what later hooks need.
    pub spare: [u8; 4],
    /// Of a pod: rule set that is asked of the class of a source address that is not its own; zero: by none it may send.
    pub sources: Word,
}

const _: () = assert!(size_of::<Endpoint>() == 64);

impl Endpoint {
    /// The rule sets that its words lead to.
    #[must_use]
    pub const fn sets(&self) -> [u32; 3] {
        [self.egress.new(), self.ingress.new(), self.sources.new()]
    }

    /// Whether every word says one thing at all generations.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.egress.is_settled() && self.ingress.is_settled() && self.sources.is_settled()
    }
}
