//! Why a packet was dropped. The numbers are stable: they are map indexes, metrics and answers.
//! In: a stage's refusal. Out: a counter per endpoint, a name for people.
//! Invariant: every drop has exactly one reason; `0` means "not dropped".
//! Never: renumbered; a reason that is gone leaves a hole.

/// Reasons per endpoint in the `DROPS` map; reasons are below it.
pub const DROP_REASONS: u32 = 32;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])* $name = $number,)*
        }

        impl DropReason {
            /// All reasons, by number.
            pub const ALL: &[DropReason] = &[$(DropReason::$name),*];

            /// The name people and metrics see.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(DropReason::$name => $text,)* }
            }

            /// The reason with this number.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(DropReason::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// A header is cut short or contradicts itself.
    Malformed = 1, "malformed";
    /// Neither IPv4, IPv6 nor ARP.
    NotIp = 2, "not-ip";
    /// An 802.1Q or 802.1ad tag on a pod's interface.
    Vlan = 3, "vlan-tag";
    /// The interface belongs to no endpoint whose policy is in force.
    NoEndpoint = 4, "no-endpoint";
    /// Source address or MAC is not the endpoint's own.
    Spoofed = 5, "spoofed";
    /// The sender's egress policy refuses.
    EgressPolicy = 6, "egress-policy";
    /// The receiver's ingress policy refuses.
    IngressPolicy = 7, "ingress-policy";
    /// The flow was refused when it was judged again after a policy change.
    FlowRefused = 8, "flow-refused";
    /// A TCP segment that opens no flow and belongs to none.
    NoFlow = 9, "no-flow";
    /// The conntrack table is full.
    ConntrackFull = 10, "conntrack-full";
    /// A later fragment whose first was not seen.
    FragmentBeforeFirst = 11, "fragment-before-first";
    /// Multicast or broadcast from a pod.
    Multicast = 12, "multicast";
    /// ARP or neighbour discovery that is not answered (own address, address probe, announcement, router solicitation).
    NeighbourUnanswered = 13, "neighbour-unanswered";
    /// From outside with a source address of this node or of a local pod.
    SourceIsLocal = 14, "source-is-local";
    /// The routing table refuses the destination (blackhole, unreachable, prohibit).
    Unroutable = 15, "unroutable";
    /// An ICMP error about no tracked flow.
    IcmpUnrelated = 16, "icmp-unrelated";
    /// An IPv6 routing header of type 0 (RFC 5095), or an IPv4 source route (RFC 7126).
    RoutingHeader = 17, "routing-header";
    /// A table points outside itself: a bug, reported as an error.
    TableCorrupt = 18, "table-corrupt";
    /// The packet could not be rewritten or sent on.
    ForwardFailed = 19, "forward-failed";
    /// The destination MAC is not the gateway's.
    WrongMac = 20, "wrong-mac";
    /// Tunnelled traffic (VXLAN, IPIP) from a pod; or by a tunnel to this node, from who is no node, or not that behind which its source lies; or torn on its way here.
    Encapsulated = 21, "encapsulated";
    /// TTL or hop limit is spent; the sender was told, where it may be told.
    Expired = 22, "expired";
    /// Longer than the MTU ahead, and not to be cut here; the sender was told, where it may be told.
    TooBig = 23, "too-big";
    /// Its sender should be told by an ICMP error, and was told too often already.
    IcmpLimited = 24, "icmp-limited";
    /// A fragment that lies over its packet's first.
    FragmentOverlap = 25, "fragment-overlap";
    /// The endpoint that would own the flow owns as many as it may.
    FlowQuota = 26, "flow-quota";
    /// A host endpoint's rules refuse; the hit says which.
    HostEndpoint = 27, "host-endpoint";
    /// From a pod to this node, which takes nothing from pods (defaultEndpointToHostAction Drop).
    EndpointToHost = 28, "endpoint-to-host";
    /// To a service that has no backend; the sender was told, where it may be told. Or none for this sender
    /// (loadBalancerSourceRanges), who is told nothing.
    NoBackend = 29, "no-backend";
    /// TCP of a flow through a service whose backend is gone, or of which nothing is remembered; the sender was told, where
    /// it may be told.
    BackendGone = 30, "backend-gone";
    /// The flow would share addresses and ports with another that was translated otherwise, at every backend there is.
    NatCollision = 31, "nat-collision";
}
