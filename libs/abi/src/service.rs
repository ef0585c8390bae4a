//! Services: an address and a port that stand for others, and who is behind them.
//! In: destination, port and protocol of a packet that opens a flow. Out: the backend that the flow goes to.
//! Invariant: what a frontend has is a balancer, whole and immutable; one word puts another in its place.
//! Never: a backend's slot that means another before every flow to the former can tell.

use crate::address::Address;
use crate::word::Word;

/// Where packets reach a service. A key is never updated in place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Destination address.
    pub address: Address,
    /// Destination port, network order.
    pub port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 5],
}

impl ServiceKey {
    /// That of a floating address: all its protocols and ports lead to one pod. Asked for where an address and a port are no
    /// frontend themselves.
    #[inline(always)]
    #[must_use]
    pub const fn floating(address: Address) -> Self {
        Self { address, port: [0; 2], protocol: 0, pad: [0; 5] }
    }
}

/// No frontend: its words say what this node has at all for either side, `FRONTENDS_*`.
pub const FRONTEND_NONE: u32 = 0;
/// Of slot 0: there are frontends with a protocol and a port.
pub const FRONTENDS_PORTS: u32 = 1 << 0;
/// There are floating addresses.
pub const FRONTENDS_FLOATING: u32 = 1 << 1;
/// No balancer: the frontend is not there, for packets of that generation and side.
pub const BALANCER_NONE: u32 = 0;

/// What a frontend has, for each side.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frontend {
    /// Balancer for what pods and this node send.
    pub inside: Word,
    /// Balancer for what comes from outside.
    pub outside: Word,
}

/// Of a [`Balancer`]: nobody is told where it has no member.
pub const BALANCER_SILENT: u32 = 1 << 0;
/// What opens a flow is left to a foreign service proxy in the host's stack; the list is for flows that were opened before.
pub const BALANCER_BY_HOST: u32 = 1 << 1;
/// A flow's hash says which member, so that every node chooses the same.
pub const BALANCER_HASHED: u32 = 1 << 2;
/// From this bit on: how many bounds of source ranges follow its members. 0: everybody is let in.
pub const BALANCER_BOUNDS_AT: u32 = 8;
/// Entries of `MEMBERS` that a bound takes: the words of an address, its first bits first.
pub const BOUND_WORDS: u32 = 4;
/// Halvings by which a client is found among the bounds, and so how many there can be.
pub const BOUND_STEPS: u32 = 18;
/// Most bounds of a balancer.
pub const BOUNDS_MAX: u32 = (1 << BOUND_STEPS) - 1;

/// A list of backends to choose from. Immutable while any word names it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Balancer {
    /// Number of the service port, the same for all its frontends and after a restart.
    pub of: u64,
    /// Index of the first of its `MEMBERS`.
    pub offset: u32,
    /// How many; 0: nobody is there.
    pub len: u32,
    /// Seconds for which a client that is silent keeps its backend; 0: it has none.
    pub affinity_s: u32,
    /// `BALANCER_*`.
    pub flags: u32,
}

impl Balancer {
    /// Bounds of source ranges after its members, in order: clients are let in from the first on, not from the second on, again
    /// from the third on, and so forth.
    #[inline(always)]
    #[must_use]
    pub const fn bounds(&self) -> u32 {
        self.flags >> BALANCER_BOUNDS_AT
    }

    /// Entries of `MEMBERS` that it takes.
    #[inline(always)]
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.len.saturating_add(self.bounds() * BOUND_WORDS)
    }
}

/// One entry of a balancer's list.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Slot of `BACKENDS`; after the members, a word of a bound.
    pub backend: u32,
    /// Zero.
    pub pad: u32,
}

/// In [`Backend::standing`]: its flows live on.
pub const BACKEND_LISTED: u32 = 1 << 0;
/// New flows may go to it.
pub const BACKEND_CHOSEN: u32 = 1 << 1;

/// A backend of one service port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// `BACKEND_*`; 0: it is gone.
    pub standing: Word,
    /// Where it is.
    pub address: Address,
    /// Number of the service port.
    pub of: u64,
    /// Generation (low 32 bits) from which this slot has meant this backend.
    pub born: u32,
    /// Its port, network order; 0: whichever the packet was sent to.
    pub port: [u8; 2],
    /// Zero.
    pub pad: [u8; 2],
}

impl Backend {
    /// Whether a flow that was sent here by a generation (its low 32 bits) was sent to this very backend.
    #[inline(always)]
    #[must_use]
    pub const fn was_there(&self, generation: u32) -> bool {
        // Serial arithmetic (RFC 1982), as for stamps.
        generation.wrapping_sub(self.born) as i32 >= 0
    }
}

/// A client of a service port that keeps to one backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityKey {
    /// The client.
    pub client: Address,
    /// Number of the service port.
    pub of: u64,
}

/// Which one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Slot of `BACKENDS`.
    pub backend: u32,
    /// Generation (low 32 bits) by which it was sent there last.
    pub stamp: u32,
    /// When: seconds as in conntrack.
    pub seen_s: u32,
}

/// What was counted at a frontend. Slot 0 has the sum of those that are gone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrontendCounts {
    /// Flows that were opened to it and let pass.
    pub opened: u64,
    /// Packets that would have opened one, and found no backend.
    pub refused: u64,
}

const _: () = assert!(size_of::<ServiceKey>() == 24);
const _: () = assert!(size_of::<Frontend>() == 16);
const _: () = assert!(size_of::<Balancer>() == 24);
const _: () = assert!(size_of::<Member>() == 8);
const _: () = assert!(size_of::<Backend>() == 40);
const _: () = assert!(size_of::<AffinityKey>() == 24);
const _: () = assert!(size_of::<Affinity>() == 12);
const _: () = assert!(size_of::<FrontendCounts>() == 16);
