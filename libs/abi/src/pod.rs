//! Says to aya that these types may be copied to and from a map as bytes.
//! In: the types of this crate. Out: `aya::Pod`.
//! Invariant: every type listed is `repr(C)` or `repr(transparent)`, has no padding and accepts every bit pattern.
//! Never: a type with an enum, `bool` or reference inside.

macro_rules! pod {
    ($($type:ty),*) => {
        // SAFETY: each type is made of integers and byte arrays only, without padding (sizes are asserted
        // beside each definition), so any bytes are a valid value.
        $(unsafe impl aya::Pod for $type {})*
    };
}

pod!(
    crate::Address,
    crate::NetKey,
    crate::ClassEntry,
    crate::Endpoint,
    crate::RowRef,
    crate::SetEntry,
    crate::RowKey,
    crate::Span,
    crate::FlowKey,
    crate::ConntrackEntry,
    crate::Ticket,
    crate::Timeouts,
    crate::FragmentKey,
    crate::FragmentPorts,
    crate::Word,
    crate::ServiceKey,
    crate::Frontend,
    crate::Balancer,
    crate::Member,
    crate::Backend,
    crate::AffinityKey,
    crate::Affinity,
    crate::FrontendCounts,
    crate::Announcing,
    crate::Masquerade,
    crate::SocketKey,
    crate::SocketPeer,
    crate::TunnelEnd,
    crate::TunnelLocal
);
