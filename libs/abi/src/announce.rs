//! Addresses that this node announces at its uplink: no interface has them, and the programs answer for them.
//! In: nothing. Out: the values of `ANNOUNCING` and `ANNOUNCED`.
//! Invariant: what is held by a lease ends by itself: an agent that dies or is held up stops answering before another node begins.
//! Never: says what stands behind an address; services do.

/// In `ANNOUNCED`: answered for until [`Announcing::until_ns`]; another node may have it then.
pub const ANNOUNCED_LEASED: u32 = 1;
/// Answered for as long as a local endpoint has it, or it floats to one: nobody else can.
pub const ANNOUNCED_ENDPOINT: u32 = 2;

/// How long, where and as whom this node answers for the addresses in `ANNOUNCED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announcing {
    /// Nanoseconds of the monotonic clock, from which on it answers no more for what is leased; 0: it never does.
    pub until_ns: u64,
    /// The uplink; 0: nothing is answered for.
    pub ifindex: u32,
    /// The MAC that it answers with.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 6],
}

const _: () = assert!(size_of::<Announcing>() == 24);
