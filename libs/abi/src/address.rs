//! Addresses and the classes they belong to.
//! In: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`. Out: the slot of a [`ClassEntry`].
//! Invariant: a key of the exact table is never updated in place; what changes is the words in its slot.
//! Never: enumerates classes; a class exists because an address or a CIDR is in it.

use crate::word::Word;

/// An IPv6 address, or an IPv4 address mapped into `::ffff:0:0/96`: 16 bytes in network order, held as two words
/// so that a program compares it in two steps. The words' numeric value means nothing across byte orders.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u64; 2]);

impl Address {
    /// From 16 bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self([u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])])
    }

    /// From an IPv4 address in network order.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])])
    }

    /// The 16 bytes in network order.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.0[0].to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.0[1].to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// Whether this is an IPv4 address.
    #[must_use]
    pub const fn is_v4(self) -> bool {
        let b = self.to_bytes();
        self.0[0] == 0 && b[8] == 0 && b[9] == 0 && b[10] == 0xff && b[11] == 0xff
    }
}

/// Key of the longest-prefix table: `prefix_len` counts bits of the 16-byte form (IPv4: 96 + its own length).
/// Same layout as the kernel's `struct bpf_lpm_trie_key_u8` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetKey {
    /// Significant bits, 0 to 128.
    pub prefix_len: u32,
    /// The network's address in network order, host bits zero.
    pub address: [u8; 16],
}

/// What is known of one address or CIDR: both words change together with a generation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassEntry {
    /// The peer class ([`crate::rules::CLASS_NONE`]: matched by no selector and no CIDR of this node).
    pub class: Word,
    /// Slot of the local endpoint that owns the address, [`crate::endpoint::SLOT_HOST`] for this node's own addresses,
    /// else [`crate::endpoint::SLOT_NONE`]. Always `SLOT_NONE` for a CIDR.
    pub endpoint: Word,
}

const _: () = assert!(size_of::<Address>() == 16);
const _: () = assert!(size_of::<NetKey>() == 20);
const _: () = assert!(size_of::<ClassEntry>() == 16);
